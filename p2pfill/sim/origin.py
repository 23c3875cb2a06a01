"""Reads from the origin, as `origin.reader` does them: a few at a time a cache, tried again a few times with pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from p2pfill.model.pace import FAILING_ATTEMPTS
from p2pfill.sim.flows import Flow
from p2pfill.swarm import events

if TYPE_CHECKING:
    from p2pfill.sim.filling import SimFilling

ATTEMPTS_MAX: Final = 5
"""Requests for one chunk before its read has failed."""

STALL_MAX_S: Final = 10.0
"""An attempt on which no byte moves for so long has failed."""

BACKOFF_BASE_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
"""The pause before attempt n is uniform in [0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**n)]."""


class OriginRead:
    """One chunk being read for a request of a fill."""

    __slots__ = ("_attempt", "_filling", "_flow", "_request", "_stopped", "chunk")

    def __init__(self, filling: SimFilling, request: int, chunk: int) -> None:
        self.chunk = chunk
        self._filling = filling
        self._request = request
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
        world = self._filling.cache.world
        asked_s = self._filling.cache.request_route.delay_s()
        world.schedule.after(asked_s + world.scenario.read_ms * 1e-3, self._answer, self._attempt)

    def _answer(self, attempt: int) -> None:
        world = self._filling.cache.world
        if self._stopped or attempt != self._attempt:
            return
        if not world.origin_up or self._filling.cache.is_refused:
            self._try_again("the origin is down" if not world.origin_up else "connection refused")
            return
        route = self._filling.cache.origin_route
        if self._flow is not None:
            world.internet.flows.resume(self._flow)
        else:
            length = world.manifest.chunk_length(self.chunk)
            weight = self._filling.cache.origin_weight
            self._flow = world.internet.flows.start(route.pipes, length, self._end, weight=weight)
        world.origin_reads[self] = None
        self.look_at_cut()

    def look_at_cut(self) -> None:
        """Take note that what is cut off, or whether the origin is up, has changed while bytes were moving."""
        world = self._filling.cache.world
        if self._flow is None or self._stopped:
            return
        if not world.origin_up or self._filling.cache.is_refused:
            self._break()
            self._try_again("the origin closed the connection")
        elif world.internet.is_cut(self._filling.cache.origin_route):
            world.internet.flows.pause(self._flow)
            world.schedule.after(STALL_MAX_S, self._look_at_stall, self._attempt)
        else:
            world.internet.flows.resume(self._flow)

    def _look_at_stall(self, attempt: int) -> None:
        if not self._stopped and attempt == self._attempt and self._flow is not None and self._flow.is_paused:
            self._break()
            self._try_again("the origin sent nothing")

    def _break(self) -> None:
        world = self._filling.cache.world
        world.origin_reads.pop(self, None)
        if self._flow is not None:
            world.internet.flows.pause(self._flow)

    def _try_again(self, reason: str) -> None:
        world = self._filling.cache.world
        self._attempt += 1
        if self._attempt >= ATTEMPTS_MAX:
            self._finish(events.RequestFailed(self._request, reason, self._discard()))
            return
        if self._attempt == FAILING_ATTEMPTS:
            self._filling.handle(events.OriginFailing(world.scenario.origin, reason))
            self._filling.pump()
            if self._stopped:
                return
        roof_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**self._attempt)
        world.schedule.after(world.random.uniform(0.0, roof_s), self._answer, self._attempt)

    def _end(self) -> None:
        cache = self._filling.cache
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
            why = "the origin's file has changed"
            self._finish(events.RequestFailed(self._request, why, length, corrupt=True))
        else:
            self._finish(None)

    def _finish(self, failed: events.RequestFailed | None) -> None:
        filling = self._filling
        self._stopped = True
        filling.reading.pop(self._request, None)
        filling.cache.end_read(self)
        if failed is None:
            filling.take_chunk(self._request, self.chunk)
        else:
            filling.handle(failed)
        filling.pump()

    def _discard(self) -> int:
        """End the transfer; return the bytes that have come for nothing."""
        world = self._filling.cache.world
        world.origin_reads.pop(self, None)
        if self._flow is None:
            return 0
        moved_bytes = world.internet.flows.stop(self._flow)
        world.internet.count(self._filling.cache.origin_route, moved_bytes)
        self._flow = None
        return int(moved_bytes)

    def cancel(self) -> None:
        """Stop reading: nobody wants it any more."""
        if not self._stopped:
            self._stopped = True
            self._filling.fill.duplicate_bytes += self._discard()
            self._filling.cache.end_read(self)
