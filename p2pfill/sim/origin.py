"""Reads from the origin, as `origin.reader` does them: a few at a time a cache, tried again a few times with pauses."""

from __future__ import annotations

from collections import deque
from typing import Final

from p2pfill.engine.requests import Arrival, Outcome, Receive, write_whole
from p2pfill.engine.task import FillTask
from p2pfill.errors import StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.timing import FAILING_ATTEMPTS, ORIGIN_READS_MAX
from p2pfill.sim.flows import Flow
from p2pfill.sim.ground import Ground
from p2pfill.sim.network import Place
from p2pfill.sim.process import Process
from p2pfill.swarm.election import Scope

ATTEMPTS_MAX: Final = 5
"""Requests for one chunk before its read has failed."""

STALL_MAX_S: Final = 10.0
"""An attempt on which no byte moves for so long has failed."""

BACKOFF_BASE_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
"""The pause before attempt n is uniform in [0, min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**n)]."""


class Reader(Process):
    """A cache as far as it reads from the origin; a few chunks at a time."""

    def __init__(self, world: Ground, info: NodeInfo, place: Place, origin_weight: float) -> None:
        super().__init__(world, info, place)
        self.origin_route = world.internet.route(world.internet.origin, place)
        self.request_route = world.internet.route(place, world.internet.origin)
        """The way of a request to the origin."""
        self.origin_weight = origin_weight
        """What its streams get of the origin's link beside those of others."""
        self.is_refused = False
        """What it asks the origin for is refused at once, as by a dead proxy."""

    def _start(self) -> None:
        super()._start()
        self.reads: dict[Receive, OriginRead] = {}
        self._begun: dict[OriginRead, None] = {}
        self._queue: deque[OriginRead] = deque()

    def read(self, task: FillTask, receive: Receive) -> None:
        """Read a chunk, when its turn has come."""
        read = self.reads[receive] = OriginRead(self, task, receive)
        self._queue.append(read)
        self._read_next()

    def may_read(self, title_id: TitleId, length: int) -> str:
        """Let a read begin, of which `read_is_over` is told, or return the budget that has nothing left for it."""
        return ""

    def read_is_over(self, title_id: TitleId, length: int, came: int) -> None:
        """Take note that a read has ended that was let begin, and how many bytes have come."""

    def _read_next(self) -> None:
        while self._queue and len(self._begun) < ORIGIN_READS_MAX:
            read = self._queue.popleft()
            if read.wanted:
                self._begun[read] = None
                read.begin()

    def stop_reads(self) -> None:
        """Give up all that is being read."""
        for read in list(self.reads.values()):
            read.cancel()
        self.reads.clear()

    def end_read(self, read: OriginRead, arrival: Arrival) -> None:
        """Make room for another read, and tell the engine what became of this one."""
        self._begun.pop(read, None)
        self._read_next()
        self._read_ended(read.task, arrival)

    def _read_ended(self, task: FillTask, arrival: Arrival) -> None:
        if self.running and not self.later(self._read_ended, task, arrival):
            self.reads.pop(arrival.receive, None)
            self.engine.read_ended(self.local_time(), task, self.world.scenario.origin, arrival)
            self.tick()

    def origin_failing(self, task: FillTask, reason: str) -> None:
        """Take note that the origin has failed again and again."""
        if self.running and not self.later(self.origin_failing, task, reason):
            self.engine.origin_failing(self.local_time(), task, self.world.scenario.origin, reason)
            self.tick()

    def origin_news(self) -> tuple[list[str], dict[str, str]]:
        """Return the origins of which bytes are arriving; what fails is told as it does."""
        return [self.world.scenario.origin] if any(read.is_moving for read in self.reads.values()) else [], {}

    def origins_held_back(self) -> list[str]:
        """Return the origins of which bytes wait for limits of this cache."""
        return self.origin_news()[0] if self.place.is_held_back(Scope.ORIGIN) else []


class OriginRead:
    """One chunk being read."""

    __slots__ = ("_attempt", "_cache", "_counts", "_flow", "_receive", "_stopped", "task")

    def __init__(self, cache: Reader, task: FillTask, receive: Receive) -> None:
        self.task = task
        self._cache = cache
        self._receive = receive
        self._attempt = 0
        self._flow: Flow | None = None
        self._stopped = False
        self._counts = False
        """It has begun, as far as budgets are concerned."""

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
        if budget := self._cache.may_read(self.task.title_id, self._receive.length):
            why = f"budget {budget!r} of the fleet's policy has nothing left for this cache now"
            world.schedule.after(world.scenario.read_ms * 1e-3, self._refuse, why)
            return
        self._counts = True
        asked_s = self._cache.request_route.delay_s()
        world.schedule.after(asked_s + world.scenario.read_ms * 1e-3, self._answer, self._attempt)

    def _refuse(self, why: str) -> None:
        if not self._stopped and not self._cache.later(self._refuse, why):
            self._finish(Arrival(self._receive, Outcome.BROKEN, 0, why))

    def _answer(self, attempt: int) -> None:
        world = self._cache.world
        if self._stopped or attempt != self._attempt or self._cache.later(self._answer, attempt):
            return
        if not world.origin_up or self._cache.is_refused:
            self._try_again("the origin is down" if not world.origin_up else "connection refused")
            return
        route = self._cache.origin_route
        if self._flow is not None:
            world.internet.flows.resume(self._flow)
        else:
            weight = self._cache.origin_weight
            self._flow = world.internet.flows.start(route.pipes, self._receive.length, self._end, weight=weight)
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
            self._cache.origin_failing(self.task, reason)
            if self._stopped:
                return
        roof_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2**self._attempt)
        world.schedule.after(world.random.uniform(0.0, roof_s), self._answer, self._attempt)

    def _end(self) -> None:
        cache = self._cache
        world = cache.world
        world.origin_reads.pop(self, None)
        world.internet.count(cache.origin_route, self._receive.length)
        self._flow = None
        is_corrupt = self.task.title_id in world.origin_corrupts
        world.schedule.after(cache.origin_route.delay_s(), self._arrive, is_corrupt)

    def _arrive(self, is_corrupt: bool) -> None:
        if self._stopped or self._cache.later(self._arrive, is_corrupt):
            return
        receive, stored = self._receive, self._cache.stored[self.task.title_id]
        outcome, why = Outcome.CORRUPT, "the origin's file has changed"
        if not is_corrupt:
            try:
                is_written = write_whole(receive, lambda: stored.write_chunk(receive))
                outcome, why = (Outcome.VERIFIED, "") if is_written else (Outcome.WITHDRAWN, "given up")
            except StoreError as error:
                outcome, why = Outcome.STORE, str(error)
        self._finish(Arrival(receive, outcome, receive.length, why))

    def _finish(self, arrival: Arrival) -> None:
        self._stopped = True
        if self._counts:
            self._cache.read_is_over(self.task.title_id, self._receive.length, arrival.length)
        self._cache.end_read(self, arrival)

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
