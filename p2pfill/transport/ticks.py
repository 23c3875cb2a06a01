"""What the event loop of a node is woken for: sockets that can be read, calls of threads, and one deadline.

All of them are served in ticks. A tick takes in whatever is ready now: each socket's messages, each call; then it has
the node decide, once; then each link's output is written, at once. Nothing is held back for a later tick, so a tick is
as long as what has come while the one before was under way: little where little happens, much under load, where it
saves the most.

One task waits, on an epoll of its own inside that of Trio's, with one cancel scope whose deadline is moved. Rejected: a
task and a wait for each socket, another one for each socket's output, and one that decides. Each of these passes on to
the next in a turn of Trio's loop of its own, with a look at the kernel, and on links that are not full these turns cost
as much as what is done in them. Rejected too: ticks of a fixed length. They gain nothing over this one under load, and
delay each request where there is none.

What serves a socket belongs to that link, and so does what goes wrong there: `Served` must raise nothing.
"""

from __future__ import annotations

import math
import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import trio

from p2pfill.transport.calls import Calls
from p2pfill.transport.plane import DataPlane

READY_MAX: Final = 1024
"""Sockets that one tick serves: all links of a node and more."""


LATER_S: Final = 0.1
"""For what nobody waits for, such as that a chunk was sent: to wake the loop costs more than to take note of it."""


class Served(Protocol):
    """A link, as ticks see it. Neither call may wait or raise."""

    def handle_readable(self) -> None:
        """Take in what has come, as far as its share of the loop goes."""

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it."""


class Ticks:
    """Serves one node. Belongs to the event loop, but for `tell`, which any thread may call."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self.now = trio.current_time()
        """When the tick that is under way has begun, or the last one."""
        self._has_rung = self._is_woken = False
        self._looks_later = False
        """A tick will come at `_look_at`, if no other does before."""
        self._look_at = math.inf
        self._will_decide = self._will_flush = False
        """Of the tick that is under way."""
        self._watched: dict[int, Served] = {}
        self._calls = Calls()
        self._to_flush: dict[Served, None] = {}

    def close(self) -> None:
        """Give back what it has of the system. No thread may call by then."""
        self._epoll.close()
        os.close(self._bell)

    @contextmanager
    def watching(self, fd: int, served: Served) -> Iterator[None]:
        """Have what comes on a socket served inside the block, or until `unwatch`."""
        self._watched[fd] = served
        self._epoll.register(fd, select.EPOLLIN)
        try:
            yield
        finally:
            self.unwatch(fd)

    def unwatch(self, fd: int) -> None:
        """Serve a socket no more, which is open yet if it is watched."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def flush_later(self, served: Served) -> None:
        """Have `flush` called at the end of this tick, or of one that begins at once."""
        self._to_flush[served] = None
        if not self._will_flush:
            self._ring()

    def wake(self) -> None:
        """Have the node decide: in the tick that is under way, or in one that begins at once."""
        self._is_woken = True
        if not self._will_decide:
            self._ring()

    def tell(self, call: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """Have `call` made in a tick, in order, as `Calls.put` does. Callable from any thread."""
        self._calls.put(call, failed)
        self._ring()

    def tell_later(self, call: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """As `tell`, within `LATER_S`: most often something else has a tick begin before."""
        self._calls.put(call, failed)
        if not self._looks_later:
            self._ring()

    def _ring(self) -> None:
        if not self._has_rung:
            self._has_rung = True
            os.eventfd_write(self._bell, 1)

    async def run(self, decide: Callable[[float], float]) -> None:
        """Serve until cancelled. `decide(now)` acts on what was taken in, and returns when it is to be called again."""
        decide_at = -math.inf
        while True:
            with trio.CancelScope() as scope:
                while True:
                    self.now = now = trio.current_time()
                    self._take_in(now)
                    if self._is_woken or now >= decide_at:
                        self._is_woken = False
                        decide_at = decide(now)
                    self._flush()
                    look_at = min(decide_at, self._look_at)
                    if look_at != scope.deadline:
                        scope.deadline = look_at
                    await trio.lowlevel.wait_readable(self._epoll)

    def _take_in(self, now: float) -> None:
        self._will_decide = self._will_flush = True
        rings = False
        for fd, _ in self._epoll.poll(0, READY_MAX):
            if fd == self._bell:
                rings = True
            elif (served := self._watched.get(fd)) is not None:
                served.handle_readable()
        if now >= self._look_at:
            self._look_at, self._looks_later = math.inf, False
        if rings or self._has_rung:
            # In this order: a call that comes before the second step is seen below, and one that comes after it rings.
            # The other way round a ring in between would be read here and yet count as one that is to be heard.
            try:  # noqa: SIM105 (each tick passes here, and `suppress` is four calls)
                os.eventfd_read(self._bell)
            except BlockingIOError:  # who rings has yet to pull
                pass
            self._has_rung = False
        if self._calls:
            self._calls.make()
            self._look_at, self._looks_later = now + LATER_S, True
        self._will_decide = False

    def _flush(self) -> None:
        self._will_flush = False
        to_flush, self._to_flush = self._to_flush, {}
        for served in to_flush:
            served.flush()


class TickedPlane(DataPlane):
    """A data plane whose news are taken in with a tick, with all else that has come by then."""

    def __init__(self, ticks: Ticks, workers: int, upload_slots: int, *, yields: bool = False) -> None:
        super().__init__(workers, upload_slots, yields=yields)
        self._ticks = ticks

    def tell(self, news: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """As of any plane."""
        self._ticks.tell(news, failed)

    def tell_later(self, news: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """As of any plane."""
        self._ticks.tell_later(news, failed)
