"""Reads from the origin, as `origin.reader` does them: a few at a time a cache, tried again a few times with pauses."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final, Protocol

from p2pfill.engine.requests import Arrival, Outcome, Receive, write_whole
from p2pfill.model.pace import FAILING_ATTEMPTS
from p2pfill.sim.flows import Flow
from p2pfill.sim.host import Surroundings
from p2pfill.sim.network import Route

ATTEMPTS_MAX: Final = 5
"""Requests for one chunk before its read has failed."""

STALL_MAX_S: Final = 10.0
"""An attempt on which no byte moves for so long has failed."""

BACKOFF_BASE_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
"""The pause before attempt n is uniform in [0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**n)]."""


class OriginWorld(Surroundings, Protocol):
    """What a read needs of the world."""

    random: Random
    origin_up: bool
    origin_corrupts: bool
    origin_reads: dict[OriginRead, None]
    """Reads of which bytes are moving."""


class Reader(Protocol):
    """The cache that reads."""

    @property
    def world(self) -> OriginWorld:
        """Where it is."""

    origin_route: Route
    request_route: Route
    origin_weight: float
    is_refused: bool

    def origin_failing(self, reason: str) -> None:
        """Take note that the origin has failed again and again."""

    def end_read(self, read: OriginRead) -> None:
        """Make room for another read."""


class OriginRead:
    """One chunk being read; what came of it is told to `ended`."""

    __slots__ = ("_attempt", "_cache", "_ended", "_flow", "_receive", "_stopped", "chunk")

    def __init__(self, cache: Reader, chunk: int, ended: Callable[[Arrival], None], receive: Receive) -> None:
        self.chunk = chunk
        self._cache = cache
        self._ended = ended
        self._receive = receive
        self._attempt = 0
        self._flow: Flow | None = None
        self._stopped = False

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return not self._stopped

    @property
    def is_moving(self) -> bool:
        """Whether bytes of it are arriving."""
        return self._flow is not None and not self._flow.is_paused

    def begin(self) -> None:
        """Send the request; the cache has room for another read."""
        world = self._cache.world
        asked_s = self._cache.request_route.delay_s()
        world.schedule.after(asked_s + world.scenario.read_ms * 1e-3, self._answer, self._attempt)

    def _answer(self, attempt: int) -> None:
        world = self._cache.world
        if self._stopped or attempt != self._attempt:
            return
        if not world.origin_up or self._cache.is_refused:
            self._try_again("the origin is down" if not world.origin_up else "connection refused")
            return
        route = self._cache.origin_route
        if self._flow is not None:
            world.internet.flows.resume(self._flow)
        else:
            length = world.manifest.chunk_length(self.chunk)
            weight = self._cache.origin_weight
            self._flow = world.internet.flows.start(route.pipes, length, self._end, weight=weight)
        world.origin_reads[self] = None
        self.look_at_cut()

    def look_at_cut(self) -> None:
        """Take note that what is cut off, or whether the origin is up, has changed while bytes were moving."""
        world = self._cache.world
        if self._flow is None or self._stopped:
            return
        if not world.origin_up or self._cache.is_refused:
            self._break()
            self._try_again("the origin closed the connection")
        elif world.internet.is_cut(self._cache.origin_route):
            world.internet.flows.pause(self._flow)
            world.schedule.after(STALL_MAX_S, self._look_at_stall, self._attempt)
        else:
            world.internet.flows.resume(self._flow)

    def _look_at_stall(self, attempt: int) -> None:
        if not self._stopped and attempt == self._attempt and self._flow is not None and self._flow.is_paused:
            self._break()
            self._try_again("the origin sent nothing")

    def _break(self) -> None:
        world = self._cache.world
        world.origin_reads.pop(self, None)
        if self._flow is not None:
            world.internet.flows.pause(self._flow)

    def _try_again(self, reason: str) -> None:
        world = self._cache.world
        self._attempt += 1
        if self._attempt >= ATTEMPTS_MAX:
            self._finish(Arrival(self._receive, Outcome.BROKEN, self._discard(), reason))
            return
        if self._attempt == FAILING_ATTEMPTS:
            self._cache.origin_failing(reason)
            if self._stopped:
                return
        roof_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**self._attempt)
        world.schedule.after(world.random.uniform(0.0, roof_s), self._answer, self._attempt)

    def _end(self) -> None:
        cache = self._cache
        world = cache.world
        world.origin_reads.pop(self, None)
        length = world.manifest.chunk_length(self.chunk)
        world.internet.count(cache.origin_route, length)
        self._flow = None
        world.schedule.after(cache.origin_route.delay_s(), self._arrive, length, world.origin_corrupts)

    def _arrive(self, length: int, corrupt: bool) -> None:
        if self._stopped:
            return
        if corrupt:
            self._finish(Arrival(self._receive, Outcome.CORRUPT, length, "the origin's file has changed"))
        elif write_whole(self._receive, lambda: None):
            self._finish(Arrival(self._receive, Outcome.VERIFIED, length))
        else:
            self._finish(Arrival(self._receive, Outcome.WITHDRAWN, length, "given up"))

    def _finish(self, arrival: Arrival) -> None:
        self._stopped = True
        self._cache.end_read(self)
        self._ended(arrival)

    def _discard(self) -> int:
        """End the transfer; return the bytes that have come for nothing."""
        world = self._cache.world
        world.origin_reads.pop(self, None)
        if self._flow is None:
            return 0
        moved_bytes = world.internet.flows.stop(self._flow)
        world.internet.count(self._cache.origin_route, moved_bytes)
        self._flow = None
        return int(moved_bytes)

    def cancel(self) -> None:
        """Stop reading: nobody wants it any more."""
        if not self._stopped:
            self._finish(Arrival(self._receive, Outcome.WITHDRAWN, self._discard(), "given up"))
