"""The threads that read from origins, for all fills of a node.

A read costs the event loop a place in a queue and a call in a tick, and no task. The loop chooses which read goes next,
the most urgent one and not the first that came, and hands it to a thread; the thread tells what came of it with the
tick that takes in all else. Rejected: a task for each read that hops to one of Trio's threads and back. With chunks of
256 KiB that was a fifth of all task steps of a fill.

A thread that reads cannot be stopped: it may be connecting, or waiting for a byte. So `close` waits for none. What is
told after it is dropped, and the thread ends.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from p2pfill.engine.requests import Arrival
from p2pfill.model.urgency import Urgency
from p2pfill.threads import name_thread

Ended = Callable[[Arrival | None, BaseException | None], object]


class OriginRead:
    """A read: `work` in a thread, then `ended` in the event loop, with what that has returned or raised."""

    __slots__ = ("ended", "urgency", "work")

    def __init__(self, work: Callable[[], Arrival], urgency: Callable[[], Urgency], ended: Ended) -> None:
        """`urgency` is asked whenever a thread is free; `ended` must raise nothing."""
        self.work = work
        self.urgency = urgency
        self.ended = ended


class OriginThreads:
    """At most `count` of them, begun as they are needed. Belongs to the event loop."""

    def __init__(
        self,
        count: int,
        tell: Callable[[Callable[[], object], Callable[[Exception], object]], object],
        log: logging.Logger,
    ) -> None:
        """`tell` is as `Ticks.tell`."""
        self._free = count
        """How many more may read."""
        self._idle = 0
        """Threads that have nothing to do."""
        self._count = 0
        self._tell = tell
        self._log = log
        self._waiting: dict[OriginRead, None] = {}
        """In order of arrival. Each is a chunk on request, so there are as many as the fills' windows allow."""
        self._handed: SimpleQueue[OriginRead | None] = SimpleQueue()
        self._lock = threading.Lock()
        """Held to tell, and to close."""
        self._is_closed = False

    def begin(self, read: OriginRead) -> None:
        """Have a read made, now or when its turn comes. Raises `RuntimeError` where the system has no thread for it."""
        if self._free:
            self._hand_over(read)
        else:
            self._waiting[read] = None

    def give_up(self, read: OriginRead) -> None:
        """Do not begin with a read, if no thread has yet; `ended` is not called then."""
        self._waiting.pop(read, None)

    def close(self) -> None:
        """Have all threads end, each with its read. From now on nothing is told."""
        with self._lock:
            self._is_closed = True
        self._waiting.clear()
        for _ in range(self._count):
            self._handed.put(None)

    def _hand_over(self, read: OriginRead) -> None:
        if self._idle:
            self._idle -= 1
        else:
            threading.Thread(target=self._serve, name=f"origin-{self._count}", daemon=True).start()
            self._count += 1
        self._free -= 1
        self._handed.put(read)

    def _serve(self) -> None:
        name_thread()
        while (read := self._handed.get()) is not None:
            arrival, error = None, None
            try:
                arrival = read.work()
            except BaseException as raised:  # noqa: BLE001 (it is raised in the event loop)
                error = raised
            with self._lock:
                if self._is_closed:
                    return
                self._tell(partial(self._end, read, arrival, error), self._failed)
            del read, arrival, error  # or they stay until the next one comes

    def _end(self, read: OriginRead, arrival: Arrival | None, error: BaseException | None) -> None:
        self._free += 1
        self._idle += 1
        try:
            read.ended(arrival, error)
        finally:  # what one fill raises does not keep another one waiting
            if self._waiting:
                first = min(self._waiting, key=lambda waiting: waiting.urgency())
                del self._waiting[first]
                self._hand_over(first)

    def _failed(self, error: Exception) -> None:
        self._log.error("cannot go on reading from origins: %s", error, exc_info=error)
