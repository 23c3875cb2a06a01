"""One run: a scenario and a seed, from the order to fill until every cache holds the title.

All chance comes from one `Random` per concern, seeded from the seed, so the same seed gives the same run to the byte;
and nothing here depends on the order of hashes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from random import Random

from p2pfill.engine.task import FillTask
from p2pfill.sim.cache import SimCache
from p2pfill.sim.checkers import Checkers
from p2pfill.sim.faults import Faults, draw
from p2pfill.sim.network import Internet
from p2pfill.sim.origin import OriginRead
from p2pfill.sim.report import Report, Samples
from p2pfill.sim.scenario import Chaos, LabEvent, Scenario
from p2pfill.sim.schedule import Schedule
from p2pfill.sim.trace import Trace
from p2pfill.sim.tracker import SimTracker
from p2pfill.swarm.election import Scope

Progress = Callable[[float, int, int], None]
"""Is told the virtual seconds, the caches that are complete, and how many there are."""


class World:
    """A fleet in virtual time."""

    def __init__(self, scenario: Scenario, seed: int, *, trace: Trace | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.trace = trace if trace is not None else Trace()
        self.schedule = Schedule()
        self.random = Random(f"world {seed}")  # noqa: S311 (a simulation)
        self.manifest = scenario.manifest()
        infos = scenario.infos()
        self.internet = Internet(scenario, infos, self.schedule)
        self.checkers = Checkers(
            self.manifest, ledger_every=8 if scenario.chaos is not None else 64, tiers=scenario.check_tiers
        )
        self.caches: dict[str, SimCache] = {}
        self.decisions = 0
        """Requests made."""
        shares = Random(f"shares {seed}")  # noqa: S311
        for info in infos:
            weight = exp(shares.gauss(0.0, scenario.origin_spread))
            self.caches[info.id] = SimCache(self, info, self.internet.places[info.id], weight)
        for event in scenario.events:
            if event.kind == "join":
                self.caches[event.host].running = False
        self.tracker = SimTracker(self)
        self.faults = Faults(self)
        self.origin_up = True
        self.origin_corrupts = False
        self.origin_reads: dict[OriginRead, None] = {}
        """Reads of which bytes are moving."""
        self._origin_outages = 0
        self._awaited = dict.fromkeys(self.caches)
        """Caches that shall complete and have not."""
        self._jitter_s = 0.0
        self._jitter = Random(f"jitter {seed}")  # noqa: S311
        self.samples = Samples(self)
        if scenario.chaos is not None:
            self._vary(scenario.chaos, Random(f"hosts {seed}"))  # noqa: S311
            self._jitter_s = self._jitter.uniform(0.0, scenario.chaos.jitter_ms * 1e-3)
        self.faults.plan(draw(scenario, Random(f"faults {seed}")))  # noqa: S311

    def _vary(self, chaos: Chaos, random: Random) -> None:
        """Give each cache a clock and a link of its own."""
        for cache in self.caches.values():
            cache.clock_offset_s = random.uniform(0.0, chaos.clock_offset_s)
            cache.clock_rate = 1 + random.uniform(-chaos.clock_drift, chaos.clock_drift)
            part = random.uniform(chaos.rate_min, 1.0)
            cache.place.up_rate *= part
            cache.place.down_rate *= part
            self.internet.set_pace(cache.place, 1.0)

    def run(self, progress: Progress | None = None, step_s: float = 1.0) -> Report:
        """Run to the end; `progress` is called every `step_s` virtual seconds. Raises `InvariantBroken`."""
        self.tracker.begin()
        self._begin_events()
        self.samples.begin()
        step_at = 0.0
        while not self._is_over() and step_at < (end_at := self.faults.healed_at + self.scenario.limit_s):
            step_at = min(step_at + step_s, end_at)
            self.schedule.run(step_at, self._is_over)
            if progress is not None:
                progress(self.schedule.now, self.live_count, len(self.caches))
        late = [cache for cache in self.caches.values() if not cache.lost and cache.live_at is None]
        self.checkers.completed([_stuck(cache) for cache in late], self.scenario.limit_s)
        for cache in self.caches.values():
            if cache.task is not None:
                self.checkers.check_ledger(cache.task.fill)
        return self.samples.report()

    def _is_over(self) -> bool:
        return not self._awaited and self.schedule.now >= self.faults.healed_at

    # ---- what happens

    def _begin_events(self) -> None:
        for event in self.scenario.events:
            self.schedule.at(self.scenario.at_s(event), self._happen, event)

    def _happen(self, event: LabEvent) -> None:
        self.note("-", f"event {event.kind} {event.host}")
        if event.kind == "slow":
            place = self.internet.origin if event.host == self.scenario.origin else self.caches[event.host].place
            self.internet.set_pace(place, event.factor, up=event.way != "down", down=event.way != "up")
            return
        cache = self.caches[event.host]
        if event.kind == "join":
            cache.boot()
            self.tracker.cache_booted(cache)
        elif cache.running:
            self.cache_is_lost(cache)
            cache.crash(seen=True)
            self.tracker.cache_ended(cache)

    def note(self, who: str, what: str) -> None:
        """Write a line into the trace: what a cache does, or what happens to the world (`-`)."""
        self.trace.add(self.schedule.now, who, what)

    def received(self, scope: Scope, chunk: int) -> None:
        """Count a chunk that a cache has received and verified."""
        self.samples.received(scope, chunk)

    def fill_is_over(self, task: FillTask) -> None:
        """Count what a fill has done that a crash has ended."""
        self.samples.fill_ended(task.fill.escalations, task.fill.duplicate_bytes)

    @property
    def live_count(self) -> int:
        """How many caches are complete, or lost for good."""
        return len(self.caches) - len(self._awaited)

    def jitter_s(self) -> float:
        """Return by how much the next message is late."""
        return self._jitter.random() * self._jitter_s if self._jitter_s else 0.0

    def cache_is_live(self, cache: SimCache) -> None:
        """Take note that a cache has completed."""
        self._awaited.pop(cache.info.id, None)

    def cache_is_lost(self, cache: SimCache) -> None:
        """Take note that a cache will never complete."""
        cache.lost = True
        self._awaited.pop(cache.info.id, None)

    def isps(self) -> set[str]:
        """Return the names of all ISPs, that of the origin among them."""
        return {cache.info.isp for cache in self.caches.values()} | {self.scenario.origin_isp}

    def cut(self, name: str) -> None:
        """Cut a cache or an ISP off."""
        self.internet.cut(name)
        self._look_at_cuts()

    def mend(self, name: str) -> None:
        """Undo one cut."""
        self.internet.mend(name)
        self._look_at_cuts()

    def lose_way(self, sender: str, receiver: str) -> None:
        """Lose what goes one way between two hosts."""
        self.internet.lose_way(sender, receiver)
        self._look_at_cuts()

    def mend_way(self, sender: str, receiver: str) -> None:
        """Undo one loss."""
        self.internet.mend_way(sender, receiver)
        self._look_at_cuts()

    def refuse(self, cache: SimCache, *, refused: bool) -> None:
        """Have the origin refuse what a cache asks it for, or no longer."""
        cache.is_refused = refused
        for read in list(self.origin_reads):
            read.look_at_cut()

    def set_origin(self, *, up: bool) -> None:
        """Begin or end an outage of the origin; several add up."""
        self._origin_outages += -1 if up else 1
        self.origin_up = not self._origin_outages
        for read in list(self.origin_reads):
            read.look_at_cut()

    def _look_at_cuts(self) -> None:
        for cache in self.caches.values():
            for connection in list(cache.connections.values()):
                connection.look_at_cut()
        for read in list(self.origin_reads):
            read.look_at_cut()


def _stuck(cache: SimCache) -> str:
    if cache.task is None:
        return f"{cache.info.id} (no order)"
    return f"{cache.info.id} ({cache.task.fill.ledger.counts} of {cache.task.fill.waits()})"
