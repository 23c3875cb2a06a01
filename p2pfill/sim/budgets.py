"""Budgets of origins in a fleet, by the code of tracker and nodes (`model.budgets`): heartbeats that bring allowances.

Twin of `tracker.service` and `node.origin_counts`. What is to be reserved is durable at once here.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from p2pfill.model.budgets import Budgets, refusing
from p2pfill.model.reports import Allowance
from p2pfill.model.selector import matches_glob
from p2pfill.model.windows import FillWindows
from p2pfill.sim.cache import Fleet, SimCache

HEARTBEATS_A_LEASE: Final = 3

NIGHT: Final = FillWindows()
"""Of budgets: from noon to noon in UTC."""


class SimBudgets:
    """The budgets of the policy of one run, and what each cache has had of origins since it booted."""

    def __init__(self, world: Fleet) -> None:
        self._world = world
        self._rules = world.rules.budgets
        self._origins = {rule.name: rule.origins for rule in self._rules}
        self._budgets = Budgets({})
        self._boots: dict[str, int] = {}
        self._came: dict[str, Counter[str]] = {}
        self._reading: dict[str, Counter[str]] = {}
        self._allowances: dict[str, dict[str, Allowance]] = {}
        self.refused: dict[tuple[str, str], str] = {}
        """Cache and origin -> the budget that has refused the last read."""
        self.used: Counter[str] = Counter()
        """Budget -> what came from its origins, to all caches."""

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
        self._look_at_boot(name, cache)
        held = self._allowances[name].values()
        needs = name in self._world.awaited
        given = self._budgets.renew(self._rules, night, name, str(cache.boots), self._came[name], held, needs=needs)
        self._allowances[name] = {one.budget: one for one in given}

    def _look_at_boot(self, name: str, cache: SimCache) -> None:
        if self._boots.get(name) != cache.boots:
            self._boots[name] = cache.boots
            self._came[name], self._reading[name], self._allowances[name] = Counter(), Counter(), {}

    def begin_read(self, cache: SimCache, origin: str, length: int) -> str:
        """Let a cache read a chunk (`end_read`), or return the budget that has nothing left for it."""
        if not self._rules:
            return ""
        name = cache.info.id
        self._look_at_boot(name, cache)

        def so_far(origins: str) -> int:
            both = (*self._came[name].items(), *self._reading[name].items())
            return sum(count for one, count in both if matches_glob(origins, one))

        budget = refusing(self._allowances[name], self._origins, origin, length, so_far)
        if budget:
            self.refused[name, origin] = budget
        else:
            self.refused.pop((name, origin), None)
            self._reading[name][origin] += length
        return budget

    def end_read(self, cache: SimCache, origin: str, length: int, came: int) -> None:
        """Take note that a read has ended, and how many bytes have come."""
        if not self._rules:
            return
        name = cache.info.id
        if self._boots.get(name) == cache.boots:
            self._reading[name][origin] -= length
            self._came[name][origin] += came
        for rule in self._rules:
            if rule.fits(origin):
                self.used[rule.name] += came
