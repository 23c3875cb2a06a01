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
from numpy.typing import NDArray

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


def _place(views: Floats) -> NDArray[np.int8]:
    """Return the place of each forecast among `EDGES`: `np.searchsorted` takes five times as long for so few."""
    place = np.zeros(views.shape, np.int8)
    for edge in EDGES.tolist():
        place += views >= edge
    return place


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
        factor = (self._errors / self._cells)[_place(mean / self.unit)]
        result: Floats = factor * (self.unit * mean + relative * mean * mean)
        return result

    def learn(self, seen: Floats, mean: Floats, relative: Floats) -> None:
        """Take in a day: what was seen of each cell and what was forecast."""
        size = len(self._errors)
        errors, cells = np.full((2, size), (1 - MEMORY) * FACTOR_PRIOR)
        squares = total = 0.0
        # Region by region, since what is worked on then stays in the processor's cache.
        for one, expected, unsure in zip(seen, mean, relative, strict=True):
            some = expected > 0
            if not some.all():
                one, expected, unsure = one[some], expected[some], unsure[some]
            views = expected / self.unit
            error = np.minimum((one - expected) ** 2 / (self.unit * expected + unsure * expected**2), OUTLIER)
            place = _place(views)
            errors += np.bincount(place, error, size)
            cells += np.bincount(place, minlength=size)
            rare = np.minimum(one[views < RARE], 3 * self.unit)
            squares += float(np.einsum("i,i->", rare, rare))
            total += float(rare.sum())
        self._errors = MEMORY * self._errors + errors
        self._cells = MEMORY * self._cells + cells
        self._squares = MEMORY * self._squares + squares
        self._sum = MEMORY * self._sum + total
        if self._sum > 0:
            self.unit = self._squares / self._sum
