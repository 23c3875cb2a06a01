"""Those that plan: the planner, counts that decay, all counts so far (perfect LFU), and who knows the rates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from bench.planner.decay import Decay
from bench.planner.planned import Planner, Scope
from bench.planner.rolling import Contender, Course, Dataset, best_of, roll
from p2pfill.plan.synthetic import World
from p2pfill.plan.tables import Forecast, Ints, Longs

HALF_LIVES: Final = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 21.0, 28.0)
"""In days, from which decay chooses before the days that count."""


class Truth:
    """A planner that knows the rates of the day to come."""

    name = "knows the rates"

    def __init__(self, world: World) -> None:
        self._world = world

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn nothing: it knows."""

    def forecast(self, day: int) -> Forecast:
        """Say what it knows."""
        return self._world.truth(day)


def planner_courses(data: Dataset) -> Iterator[Course]:
    """Run all that plan; the planner comes first. Those that differ by region only are left out where there is one."""
    catalogue, regions = data.catalogue, data.views.regions
    several = len(regions) > 1
    yield roll(Planner(catalogue, regions), data)
    if several:
        yield roll(Planner(catalogue, regions, Scope.GLOBAL, "planner, regions alike"), data)
        yield roll(Planner(catalogue, regions, Scope.REGIONAL, "planner, each region alone"), data)

    def decay(half_life: float, pooled: bool) -> Contender:
        return Decay(catalogue, regions, half_life, pooled)

    for pooled, name in ((False, "decay"), (True, "decay, regions alike")) if several else ((False, "decay"),):
        courses = [(f"{half_life:g} days", roll(decay(half_life, pooled), data)) for half_life in HALF_LIVES]
        yield best_of(name, courses, data)
    perfect = decay(math.inf, False)
    perfect.name = "perfect LFU"
    yield roll(perfect, data)
    if data.world:
        yield roll(Truth(data.world), data)
