"""The origins of one fill: opened when first read, read in worker threads, and what people should know of them.

The engine, reports and logs know an origin by its name, which is its URL without the query: that may be secret, and a
signature that was renewed is no other origin. The URL itself stays in here.

Why an origin fails is told twice: this node's log has all of it, and everybody else the kind of fault
(`origin.errors`). What was read in vain is counted in whole `VAIN_BYTES`, since a count of bytes is told too.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from p2pfill.engine.requests import Arrival, Outcome, Receive, write_whole
from p2pfill.errors import P2PFillError
from p2pfill.model.urgency import Urgency
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.origin_counts import OriginCounts
from p2pfill.node.origin_log import OriginLog
from p2pfill.origin import (
    Listener,
    OriginCancelled,
    OriginError,
    OriginFault,
    OriginObjectChanged,
    OriginSettings,
    OriginUnavailable,
    open_origin,
    verify_chunk,
)
from p2pfill.origin.access import OriginAccess
from p2pfill.origin.urls import shown
from p2pfill.transport.throttle import Direction

if TYPE_CHECKING:
    from p2pfill.origin import Origin
    from p2pfill.store.title import StoredTitle

VAIN_BYTES: Final = 64 * 1024
"""As fine as it is told how much of an origin came in vain: to the byte it would be the size of any small file that
somebody has ordered."""

REPLACED_MAX: Final = 4
"""Origins that stay open after their URL was replaced, since they may be being read."""


class Origins:
    """The origins from which `stored` is filled."""

    def __init__(
        self,
        stored: StoredTitle,
        log: logging.Logger,
        counts: OriginCounts | None = None,
        limits: Direction | None = None,
        urgency: Callable[[], Urgency] = Urgency,
        access: OriginAccess | None = None,
    ) -> None:
        """`counts` takes what is read, and reads keep to `limits`; `urgency` is the title's, asked in threads.

        `access` says which origins may be read; without it they are those of a node on loopback.
        """
        self.stored = stored
        self.limits = limits
        self.urgency = urgency
        self._settings = OriginSettings(access=access or OriginAccess())
        self._numbers = itertools.count()
        self._counts = counts or OriginCounts()
        self.found: Callable[[str, int], object] = lambda name, chunk: None
        """Called, in any thread, with an origin's name and a chunk that came on the way to another one."""
        self.has_no_range: Callable[[str], object] = lambda name: None
        """Called, in any thread, with the name of an origin that has no Range."""
        self._log = log
        self._lock = threading.Lock()
        """Held for a few operations in memory only: an event loop takes it."""
        self._opening = threading.Lock()
        self._urls: dict[str, str] = {}
        self._open: dict[str, Origin] = {}
        """Opened when first read; a directory may be there on some caches only, or come to be."""
        self._replaced: list[Origin] = []
        self._arriving: set[str] = set()
        """Origins of which bytes have come since the engine asked."""
        self._held_back: set[str] = set()
        """Origins of which bytes have waited for our limits since then."""
        self._failing: dict[str, str] = {}
        """Origins that were asked in vain since then, and why."""
        self._troubles: dict[str, str] = {}
        """What is wrong with an origin right now."""
        self._remarks: dict[str, str] = {}
        self._said = OriginLog(log, stored.manifest.name)

    # ---- for the event loop

    def add(self, urls: Iterable[str]) -> list[str]:
        """Take in origins, return their names; of URLs that have the same name the last one counts."""
        new = {shown(url): url for url in urls}
        too_old: list[Origin] = []
        with self._lock:
            for name, url in new.items():
                if self._urls.get(name) != url:
                    self._urls[name] = url
                    if (origin := self._open.pop(name, None)) is not None:
                        self._replaced.append(origin)
            while len(self._replaced) > REPLACED_MAX:
                too_old.append(self._replaced.pop(0))
        for origin in too_old:
            origin.close()
        return list(new)

    def take_news(self) -> tuple[set[str], dict[str, str]]:
        """Return the origins of which bytes have come since the last call, and those that fail, with the reason."""
        with self._lock:
            arriving, self._arriving = self._arriving, set()
            failing, self._failing = self._failing, {}
        return arriving, failing

    def take_held_back(self) -> set[str]:
        """Return the origins of which bytes have waited for this node's own limits since the last call."""
        with self._lock:
            held_back, self._held_back = self._held_back, set()
        return held_back

    def trouble(self, name: str) -> str:
        """Return what is wrong with an origin right now; empty where nothing is known."""
        return self._troubles.get(name, "")

    def remark(self, name: str) -> str:
        """Return what people should know of an origin though it works."""
        return self._remarks.get(name, "")

    def urls(self) -> list[str]:
        """Return the URLs, what is secret in them included: for another fill of the same title."""
        with self._lock:
            return list(self._urls.values())

    def close(self) -> None:
        """End all reads."""
        with self._lock:
            opened, self._open, self._replaced = [*self._open.values(), *self._replaced], {}, []
        for origin in opened:
            with ErrorBoundary(self._log, f"close origin {origin.url}"):
                origin.close()

    # ---- for worker threads

    def read(self, name: str, receive: Receive) -> Arrival:
        """Read, check and write a chunk. Raises `OriginError` and `ConfigError`."""
        length = receive.length
        if budget := self._counts.begin_read(name, length):
            text = f"budget {budget!r} of the fleet's policy has nothing left for this cache now"
            raise OriginUnavailable(text, cause=text)
        try:
            return self._read_counted(name, receive)
        finally:
            self._counts.end_read(name, length)

    def _read_counted(self, name: str, receive: Receive) -> Arrival:
        reading = _Reading(self, name, receive)
        try:
            arrival = self._read(name, receive, reading)
        except OriginError as error:
            error.bytes_received = _in_vain(error.bytes_received)
            given_up = isinstance(error, OriginCancelled) and not receive.is_wanted
            self._counts.add(
                name, requests=reading.requests, failed=reading.failed, wasted=error.bytes_received, given_up=given_up
            )
            raise
        kept = receive.length if arrival.outcome is Outcome.VERIFIED else 0
        self._counts.add(
            name, requests=reading.requests, failed=reading.failed, kept=kept, wasted=max(0, arrival.length - kept),
            given_up=arrival.outcome is Outcome.WITHDRAWN,
        )  # fmt: skip
        return arrival

    def _read(self, name: str, receive: Receive, reading: _Reading) -> Arrival:
        chunk, manifest = receive.chunk, self.stored.manifest
        origin = self.opened(name)
        received = 0
        # What was put together of several answers may be of several servers that differ: once more, each part of one.
        for whole in (False, True):
            try:
                got = origin.read_chunk(manifest, chunk, reading, whole=whole)
            except OriginError as error:
                reading.count(error.requests, error.failed)
                error.bytes_received += received
                if isinstance(error, OriginCancelled) and self.stored.is_sealed(chunk):
                    return Arrival(receive, Outcome.WITHDRAWN, error.bytes_received, "it is there already")
                raise
            reading.count(got.requests, got.failed)
            received += got.bytes_received
            self._said.works(name)
            try:
                verify_chunk(name, manifest, chunk, got.data)
                break
            except OriginObjectChanged as error:
                got.give_back()
                if whole or not got.is_pieced:
                    self.say(name, error)
                    return Arrival(receive, Outcome.CORRUPT, _in_vain(received), error.told)
        refused: list[P2PFillError] = []
        # Not the origin's fault, so it does not end as that.
        with ErrorBoundary(self._log, f"write chunk {chunk} of {manifest.name!r}", refused.append):
            is_written = write_whole(receive, lambda: self.stored.write_chunk(chunk, got.data))
            got.give_back()
            if is_written:
                return Arrival(receive, Outcome.VERIFIED, received)
            return Arrival(receive, Outcome.WITHDRAWN, received, "given up")
        return Arrival(receive, Outcome.STORE, received, str(refused[0]))

    def opened(self, name: str) -> Origin:
        """Return an origin, opened now where it was not. Raises `ConfigError`."""
        if (known := self._open.get(name)) is not None:  # as a rule, and then no thread waits for another one
            return known
        with self._opening:
            with self._lock:
                url, origin = self._urls[name], self._open.get(name)
            if origin is None:
                origin = open_origin(url, settings=self._settings)
                with self._lock:
                    self._open[name] = origin
            return origin

    def say(self, name: str, error: P2PFillError) -> None:
        """Have people know why an origin failed."""
        if not isinstance(error, OriginCancelled | OriginFault):  # a fault is logged with its traceback
            cause = error.cause if isinstance(error, OriginError) else str(error)
            self._note(name, str(error), cause, told(error))

    def _note(self, name: str, text: str, cause: str, told: str) -> None:
        self._troubles[name] = told
        self._said.fails(name, text, cause)

    def note_arrived(self, name: str) -> None:
        """Take note that bytes have come of an origin."""
        # Called for each piece, so it looks before it locks.
        if name not in self._arriving:
            with self._lock:
                self._arriving.add(name)
        if name in self._troubles:
            self._troubles.pop(name, None)

    def note_held_back(self, name: str) -> None:
        """Take note that bytes of an origin wait for this node's own limits."""
        if name not in self._held_back:
            with self._lock:
                self._held_back.add(name)

    def next_number(self) -> int:
        """Return the number of a read that begins."""
        return next(self._numbers)

    def note_failing(self, name: str, reason: str) -> None:
        """Take note that an origin was asked again and again in vain."""
        with self._lock:
            self._failing[name] = reason

    def note_trouble(self, name: str, text: str, cause: str) -> None:
        """Take note of what is wrong right now; only the cause is told beyond this node."""
        self._note(name, text, cause, cause)

    def note_remark(self, name: str, text: str) -> None:
        """Take note of what people should know of an origin for good."""
        if self._remarks.get(name) != text:
            self._remarks[name] = text
            self._said.remark(name, text)

    def take_passed(self, name: str, chunk: int, data: memoryview) -> bool:
        """Check and write a chunk that came on the way to another one; tell whether it was of use."""
        if not self.stored.wants(chunk):
            return False
        try:
            verify_chunk(name, self.stored.manifest, chunk, data)
        except OriginObjectChanged:
            return False  # it is said where it is asked for
        with ErrorBoundary(self._log, f"write chunk {chunk} of {self.stored.manifest.name!r}", level=logging.DEBUG):
            with self.stored.write_lock(chunk):
                if self.stored.is_sealed(chunk):
                    return False
                self.stored.write_chunk(chunk, data)
                self.stored.seal(chunk)
            self._counts.add(name, kept=len(data))
            self.found(name, chunk)
            return True
        return False


def told(error: P2PFillError) -> str:
    """Return what everybody may know of why an origin could not be read."""
    return error.told if isinstance(error, OriginError) else str(error)


def _in_vain(count: int) -> int:
    return -(-count // VAIN_BYTES) * VAIN_BYTES


class _Reading(Listener):
    """One chunk that is being read."""

    def __init__(self, origins: Origins, name: str, receive: Receive) -> None:
        self._origins = origins
        self._name = name
        self._receive = receive
        self._number = origins.next_number()
        self.requests = 0
        self.failed = 0

    def count(self, requests: int, failed: int) -> None:
        """Count what was asked for it, and how much of that has failed."""
        self.requests += requests
        self.failed += failed

    def allow(self, count: int) -> int:
        if (limits := self._origins.limits) is None or not limits.is_limited:
            return count
        return limits.wait("origin", self._origins.urgency, self._number, count, self._is_held_back)

    def _is_held_back(self) -> bool:
        self._origins.note_held_back(self._name)
        return self.is_cancelled()

    def is_cancelled(self) -> bool:
        return not self._receive.is_wanted or self._origins.stored.is_sealed(self._receive.chunk)

    def is_there(self, chunk: int) -> bool:
        return self._origins.stored.is_sealed(chunk)

    def arrived(self) -> None:
        self._origins.note_arrived(self._name)

    def failing(self, reason: str) -> None:
        self._origins.note_failing(self._name, reason)

    def trouble(self, reason: str, cause: str) -> None:
        self._origins.note_trouble(self._name, reason, cause)

    def no_range(self, text: str) -> None:
        self._origins.note_remark(self._name, text)
        self._origins.has_no_range(self._name)

    def wants(self, chunk: int) -> bool:
        return self._origins.stored.wants(chunk) and not self.is_there(chunk)

    def passed(self, chunk: int, data: memoryview) -> bool:
        return self._origins.take_passed(self._name, chunk, data)
