"""The planner as a contender. For as long as it has no forecast of its own, counts that decay stand in for it."""

from __future__ import annotations

from enum import Enum

from bench.planner.decay import Decay
from p2pfill.plan.tables import Catalogue, Forecast, Ints, Longs

HALF_LIFE_DAYS = 5.0


class Scope(Enum):
    """Of whom a region learns."""

    HIERARCHICAL = "hierarchical"
    GLOBAL = "global"
    REGIONAL = "regional"


class Planner:
    """Decay in each region, in all regions together, or both."""

    def __init__(
        self, catalogue: Catalogue, regions: tuple[str, ...], scope: Scope = Scope.HIERARCHICAL, name: str = "planner"
    ) -> None:
        self.name = name
        pooled = {Scope.GLOBAL: [True], Scope.REGIONAL: [False], Scope.HIERARCHICAL: [False, True]}[scope]
        self._counts = [Decay(catalogue, regions, HALF_LIFE_DAYS, one) for one in pooled]

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn from a day."""
        for counts in self._counts:
            counts.take_in(day, region, file, size, requests)

    def forecast(self, day: int) -> Forecast:
        """Forecast the next."""
        own, *others = [counts.forecast(day) for counts in self._counts]
        streams = own.streams + 0.1 * sum(other.streams for other in others)
        return Forecast(own.regions, day, streams, own.requests, own.spread)
