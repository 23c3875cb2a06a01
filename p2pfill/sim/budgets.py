"""Budgets in a fleet, by the code of tracker and nodes (`model.budgets`): heartbeats that bring allowances.

Twin of `tracker.service` and `node.origin_counts`. What is to be reserved is durable at once here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from p2pfill.engine.dialler import NEVER
from p2pfill.model.budgets import Budgets, refusing
from p2pfill.model.origins import OriginReport
from p2pfill.model.prices import NO_PRICES
from p2pfill.model.reports import Allowance
from p2pfill.model.terms import REGIONAL
from p2pfill.model.windows import FillWindows
from p2pfill.sim.cache import Fleet, SimCache

HEARTBEATS_A_LEASE: Final = 3

NIGHT: Final = FillWindows()
"""Of budgets: from noon to noon in UTC."""


class _Process:
    """What one process of a cache has had since it began, and may have."""

    def __init__(self, boot: int) -> None:
        self.boot = boot
        self.came: dict[str, OriginReport] = {}
        self.reading: dict[str, OriginReport] = {}
        self.allowances: dict[str, Allowance] = {}

    def counts(self, name: str) -> OriginReport:
        return self.came.setdefault(name, OriginReport(name))


class SimBudgets:
    """The budgets of the policy of one run, and what each cache has had since it booted. Prices are not known."""

    def __init__(self, world: Fleet) -> None:
        self._world = world
        self._rules = [(rule, rule.terms(NO_PRICES)) for rule in world.rules.budgets if not rule.money]
        self._terms = {rule.name: terms for rule, terms in self._rules}
        self._budgets = Budgets({})
        self._processes: dict[str, _Process] = {}
        self.refused: dict[tuple[str, str], str] = {}
        """Cache and origin -> the budget that has refused the last read."""
        self._used: Counter[str] = Counter()

    def used(self) -> dict[str, int]:
        """Return what came to all caches of what each budget is for, by its name."""
        found = Counter(self._used)
        for name, cache in self._world.caches.items():
            self._note_regional(name, cache)
        for process in self._processes.values():
            self._add(found, process)
        return dict(found)

    def begin(self) -> None:
        """Have caches report, again and again, if there are budgets at all."""
        if self._rules:
            self._beat()

    def _beat(self) -> None:
        world = self._world
        night = NIGHT.night(world.scenario.wall_start_s + world.schedule.now * world.scenario.wall_speed)
        for _ in range(2):  # what is to be reserved for the first is there for the second
            for name, cache in world.caches.items():
                if cache.is_up():
                    self._report(name, cache, night)
            self._budgets.note_reserved(self._budgets.to_reserve())
        if world.awaited:
            world.schedule.after(world.scenario.lease_s / HEARTBEATS_A_LEASE, self._beat)

    def _report(self, name: str, cache: SimCache, night: str) -> None:
        process = self._process(name, cache)
        self._note_regional(name, cache)
        held, used, needs = process.allowances.values(), process.came.values(), name in self._world.awaited
        given = self._budgets.renew(self._rules, night, name, str(process.boot), used, held, needs=needs)
        process.allowances = {one.budget: one for one in given}
        self._limit(cache, process)
        cache.tick()

    def process_began(self, cache: SimCache) -> None:
        """Have a cache whose process begins take nothing of what there is a budget of, before it has an allowance."""
        if self._rules:
            self._limit(cache, self._process(cache.info.id, cache))

    def _limit(self, cache: SimCache, process: _Process) -> None:
        limits = [
            (process.allowances[budget].amount if budget in process.allowances else 0, budget)
            for budget, terms in self._terms.items()
            if terms.origins == REGIONAL
        ]
        most, budget = min(limits, default=(NEVER, ""))
        cache.engine.set_regional_max(cache.local_time(), most, budget)

    def _note_regional(self, name: str, cache: SimCache) -> None:
        process = self._processes.get(name)
        if process is not None and process.boot == cache.boots:
            process.counts(REGIONAL).bytes_kept = cache.engine.regional_bytes

    def _process(self, name: str, cache: SimCache) -> _Process:
        process = self._processes.get(name)
        if process is None or process.boot != cache.boots:
            if process is not None:
                self._add(self._used, process)
            process = self._processes[name] = _Process(cache.boots)
        return process

    def _add(self, found: Counter[str], process: _Process) -> None:
        for counts in process.came.values():
            for rule, terms in self._rules:
                if terms.fits(counts.id):
                    found[rule.name] += terms.amount(counts)

    def begin_read(self, cache: SimCache, origin: str, length: int) -> str:
        """Let a cache read a chunk (`end_read`), or return the budget that has nothing left for it."""
        if not self._rules:
            return ""
        name = cache.info.id
        process = self._process(name, cache)
        so_far = (*process.came.values(), *process.reading.values())
        budget = refusing(process.allowances, self._terms, so_far, OriginReport(origin, requests=1, bytes_kept=length))
        if budget:
            self.refused[name, origin] = budget
        else:
            self.refused.pop((name, origin), None)
            process.reading.setdefault(origin, OriginReport(origin)).bytes_kept += length
        return budget

    def end_read(self, cache: SimCache, origin: str, length: int, came: int) -> None:
        """Take note that a read has ended, and how many bytes have come."""
        if not self._rules:
            return
        process = self._process(cache.info.id, cache)
        if origin in process.reading:
            process.reading[origin].bytes_kept -= length
            process.counts(origin).bytes_kept += came
