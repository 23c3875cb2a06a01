"""Who looks on while a chunk is read, and what the threads that read it share.

A `Listener` is the caller: it says whether the chunk is still wanted, and is told what happens. A `Watch` is one read:
its counters and its first failure, for all threads that take part in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest
    from p2pfill.origin.errors import OriginError


class Listener:
    """The caller of a read. All methods are called from several threads, and all but `allow` must return at once."""

    def is_cancelled(self) -> bool:
        """Tell whether the chunk is not wanted any more. Asked between buffers and while waiting."""
        return False

    def arrived(self) -> None:
        """Take note that bytes have come."""

    def allow(self, count: int) -> int:
        """Return how many of `count` bytes may be taken now, after a wait where there are limits; 0: cancelled.

        The one that may take long. Each is taken up before it is asked again.
        """
        return count

    def failing(self, reason: str) -> None:
        """Take note that requests fail again and again: others should know that this cache does not get on."""

    def trouble(self, reason: str, cause: str) -> None:
        """Take note of what is wrong right now, for people: a request has failed, or nothing comes.

        It is over when bytes come. `cause` is the same for all files to which the same happens.
        """

    def no_range(self, text: str) -> None:
        """Take note that this origin has no Range, with what people should know of that."""

    def wants(self, chunk: int) -> bool:
        """Tell whether another chunk, which comes by on the way to this one, is of use."""
        return False

    def passed(self, chunk: int, data: memoryview) -> bool:
        """Take a chunk that came on the way to another one, unverified; tell whether it was of use."""
        return False


class Watch:
    """One read of one chunk."""

    def __init__(
        self, listener: Listener, manifest: Manifest, chunk: int, is_closed: Callable[[], bool], *, whole: bool
    ) -> None:
        """`whole`: each part must come of one answer, since one put together of several was wrong."""
        self.listener = listener
        self.manifest = manifest
        self.chunk = chunk
        self.whole = whole
        self.bytes_received = 0
        """Payload that has arrived."""
        self.bytes_passed = 0
        """Of that, what belongs to other chunks and was of use."""
        self.requests = 0
        self.failed = 0
        """Of those, such as brought no answer, or less than they promised."""
        self.moved_at = time.monotonic()
        """When the last byte came; before the first one, when the read began."""
        self.failure: OriginError | None = None
        self._is_closed = is_closed
        self._lock = threading.Lock()

    @property
    def bytes_in_vain(self) -> int:
        """What has arrived and is of no use where the chunk does not come to be."""
        return self.bytes_received - self.bytes_passed

    def count(self, *, received: int = 0, requests: int = 0, failed: int = 0, passed: int = 0) -> None:
        """Count payload and requests."""
        with self._lock:
            self.bytes_received += received
            self.bytes_passed += passed
            self.requests += requests
            # What was refused here, before anything was sent, is no request that has failed.
            self.failed = min(self.failed + failed, self.requests)
        if received:
            self.moved(time.monotonic())

    def moved(self, now: float) -> None:
        """Take note that bytes come."""
        self.moved_at = now
        self.listener.arrived()

    def allow(self, count: int) -> int:
        """Return how many of `count` bytes may be taken now; 0: cancelled. Nobody is to blame for that wait."""
        allowed = self.listener.allow(count)
        self.moved_at = time.monotonic()
        return allowed

    def sum_up(self, failure: OriginError) -> OriginError:
        """Return the failure that ends the read, with what the read has come to."""
        failure.bytes_received, failure.requests, failure.failed = self.bytes_in_vain, self.requests, self.failed
        return failure

    def fail(self, failure: OriginError) -> None:
        """Note why the chunk does not come; the first reason counts."""
        with self._lock:
            if self.failure is None:
                self.failure = failure

    def is_stopped(self) -> bool:
        """Tell whether all threads of this read are to end."""
        return self.failure is not None or self._is_closed() or self.listener.is_cancelled()
