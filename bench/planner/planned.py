"""The planner as a contender: its own forecast (`p2pfill/plan/popularity/popularity.py`), and nothing else."""

from __future__ import annotations

from p2pfill.plan.popularity.popularity import Model, PopularitySettings, Scope
from p2pfill.plan.tables import Catalogue, Forecast, Ints, Longs


class Planner:
    """The planner's forecast from one day to the next."""

    def __init__(
        self, catalogue: Catalogue, regions: tuple[str, ...], scope: Scope = Scope.HIERARCHICAL, name: str = "planner"
    ) -> None:
        self.name = name
        self._model = Model(catalogue, regions, PopularitySettings(scope=scope))

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn from a day."""
        self._model.take_in(day, region, file, size, requests)

    def forecast(self, day: int) -> Forecast:
        """Forecast the next."""
        return self._model.forecast(day)
