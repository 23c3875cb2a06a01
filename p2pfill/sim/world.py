"""One run: a scenario and a seed, from the order to fill until every cache holds the title.

All chance comes from one `Random` per concern, seeded from the seed, so the same seed gives the same run to the byte;
and nothing here depends on the order of hashes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from random import Random

import msgspec

from p2pfill.sim.budgets import SimBudgets
from p2pfill.sim.cache import Fleet, SimCache
from p2pfill.sim.disk import StoredTitle
from p2pfill.sim.faults import Faults, draw
from p2pfill.sim.report import Report, Samples
from p2pfill.sim.scenario import Chaos, LabEvent, Scenario
from p2pfill.sim.trace import Trace
from p2pfill.sim.tracker import SimTracker

Progress = Callable[[float, int, int], None]
"""Is told the virtual seconds, the caches that are complete, and how many there are."""


class World(Fleet):
    """A fleet in virtual time."""

    def __init__(self, scenario: Scenario, seed: int, *, trace: Trace | None = None) -> None:
        if scenario.chaos is not None and not scenario.titles:
            titles = scenario.chaos.draw_titles(scenario.all_titles()[0], Random(f"titles {seed}"))  # noqa: S311
            scenario = msgspec.structs.replace(scenario, titles=titles)
        super().__init__(scenario, seed, trace if trace is not None else Trace())
        shares = Random(f"shares {seed}")  # noqa: S311 (a simulation)
        for info in scenario.infos():
            weight = exp(shares.gauss(0.0, scenario.origin_spread))
            self.caches[info.id] = SimCache(self, info, self.internet.places[info.id], weight)
            lacking = {
                title_id for title_id, stored in self.caches[info.id].stored.items()
                if info.id in stored.title.caches and stored.live_at is None
            }  # fmt: skip
            if lacking:
                self.awaited[info.id] = lacking
        for event in scenario.events:
            if event.kind == "join":
                self.caches[event.host].running = False
        if scenario.chaos is not None:
            self._vary(scenario.chaos, Random(f"hosts {seed}"))  # noqa: S311
        self.budgets = SimBudgets(self)
        self.tracker = SimTracker(self)
        self.faults = Faults(self, self.tracker)
        self.samples = Samples(self, self.faults)
        faults = draw(scenario, Random(f"faults {seed}"))  # noqa: S311
        self.faults.plan(faults)
        self._moved, self._moved_at = 0, 0.0
        self._news = [title.at_s for title in self.titles.values()]
        """When orders come, and caches and links come and go."""
        self._news += [scenario.at_s(event) for event in scenario.events]
        self._news += [at for spec in faults for at in (spec.at_s, spec.at_s + spec.for_s) if at < scenario.end_s]

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
        for cache in self.caches.values():
            cache.begin()
        self.budgets.begin()
        self.tracker.begin()
        self._begin_events()
        self.samples.begin()
        step_at, end_s = 0.0, self.scenario.end_s
        while not self._is_over() and step_at < (end_at := end_s or self.faults.healed_at + self.scenario.limit_s):
            step_at = min(step_at + step_s, end_at)
            self.schedule.run(step_at, self._is_over)
            if progress is not None:
                progress(self.schedule.now, self.live_count, len(self.caches))
            if end_s and self.scenario.quiet_s and self._is_stuck():
                break
        late = [
            _stuck(name, self.caches[name].stored[title_id])
            for name, titles in self.awaited.items()
            for title_id in self.titles
            if title_id in titles
        ]
        if not end_s:
            self.checkers.completed(late, self.scenario.limit_s)
        for cache in self.caches.values():
            for stored in cache.stored.values():
                if stored.task is not None:
                    self.checkers.check_ledger(stored.task.fill)
        return self.samples.report()

    def _is_over(self) -> bool:
        return not self.awaited and (self.scenario.end_s > 0 or self.schedule.now >= self.faults.healed_at)

    def _is_stuck(self) -> bool:
        """Tell whether nothing comes any more, and nothing is to happen that could change that."""
        now, moved = self.schedule.now, sum(self.checkers.bytes_by_scope.values())
        if moved != self._moved:
            self._moved, self._moved_at = moved, now
        if any(at > now for at in self._news):
            return False
        quiet_since = max([self._moved_at, *self._news, *(cache.turned_at for cache in self.caches.values())])
        closed = [self.caches[name] for name in self.awaited if self.caches[name].phase != "open"]
        return now >= quiet_since + self.scenario.quiet_s and all(
            cache.turns_at >= self.scenario.end_s for cache in closed
        )

    def turned(self, cache: SimCache) -> None:
        """Have the tracker told that a fill window of a cache has opened or closed."""
        self.tracker.turned(cache)

    def process_began(self, cache: SimCache) -> None:
        """Have the budgets hold for a cache from its first request on."""
        self.budgets.process_began(cache)

    def may_read(self, cache: SimCache, origin: str, length: int) -> str:
        """Return the budget that does not let a cache read from an origin now."""
        return self.budgets.begin_read(cache, origin, length)

    def read_is_over(self, cache: SimCache, origin: str, length: int, came: int) -> None:
        """Have what came of a read count."""
        self.budgets.end_read(cache, origin, length, came)

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


def _stuck(name: str, stored: StoredTitle) -> str:
    how = "no order" if stored.task is None else f"{stored.task.fill.ledger.counts} of {stored.task.fill.waits()}"
    return f"{name} ({stored.title.name}: {how})"
