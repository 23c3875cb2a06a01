"""How far off a forecast is likely to be, and what one view is worth.

The variance of what is seen of a file in a region on a day is, for a forecast m,

    unit x m + relative x m^2

The first term is chance: views come one by one, and `unit` is what one brings in streams (0.6 if viewers watch 60 % on
average), found where so little is expected that what is seen is one view. The second is what the model does not know:
the level, the lift, the share, and whether the title is open there. Both are then multiplied by a factor for each size
of forecast, the mean of squared errors over variances of late, so that bands hold what they say whatever the model
leaves out.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.tables import Floats

EDGES: Final = np.array([0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000])
"""Forecasts, in views, from which another factor holds."""
MEMORY: Final = 0.93
"""Of a day's errors, the next day: two weeks."""
OUTLIER: Final = 25.0
"""Squared errors count for no more than so many variances: one jump must not widen all bands."""
FACTOR_PRIOR: Final = 30.0
"""Cells after which a factor counts as much as 1."""
UNIT_FIRST: Final = 0.7
RARE: Final = 0.1
"""Views expected below which what is seen is taken to be one."""


class Spread:
    """The factors of the variances, and the worth of a view."""

    def __init__(self) -> None:
        self.unit = UNIT_FIRST
        self._squares = 1.0 * UNIT_FIRST
        self._sum = 1.0
        self._errors: Floats = np.full(len(EDGES) + 1, FACTOR_PRIOR)
        self._cells: Floats = np.full(len(EDGES) + 1, FACTOR_PRIOR)

    def variance(self, mean: Floats, relative: Floats) -> Floats:
        """Return the variance of what will be seen where `mean` is expected."""
        factor = (self._errors / self._cells)[np.searchsorted(EDGES, mean / self.unit, side="right")]
        result: Floats = factor * (self.unit * mean + relative * mean * mean)
        return result

    def learn(self, seen: Floats, mean: Floats, relative: Floats) -> None:
        """Take in a day: what was seen of each cell and what was forecast."""
        some = mean > 0
        seen, mean, relative = seen[some], mean[some], relative[some]
        views = mean / self.unit
        plain = self.unit * mean + relative * mean * mean
        error = np.minimum((seen - mean) ** 2 / plain, OUTLIER)
        place = np.searchsorted(EDGES, views, side="right")
        size = len(self._errors)
        keep = MEMORY
        self._errors = keep * self._errors + np.bincount(place, error, size) + (1 - keep) * FACTOR_PRIOR
        self._cells = keep * self._cells + np.bincount(place, minlength=size) + (1 - keep) * FACTOR_PRIOR
        rare = np.minimum(seen[views < RARE], 3 * self.unit)
        self._squares = keep * self._squares + float(rare @ rare)
        self._sum = keep * self._sum + float(rare.sum())
        if self._sum > 0:
            self.unit = self._squares / self._sum
