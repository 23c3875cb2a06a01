"""How far a group's own factor is to be believed: after how many views it counts as much as having none.

A group, such as a genre in a region, has been seen s times where e was expected. With a gamma prior of mean 1 and
variance d around its factor, and views whose variance is `chance` times their expectation, the factor is
(s + p) / (e + p) with p = chance / d. `chance` is 1 where views come one by one, and more where they come in flocks;
d is what groups deviate beyond it, by the method of moments (DerSimonian, Laird, Controlled Clinical Trials 7, 1986).
A fixed p was rejected: what is right where regions differ by half makes noise into taste where they do not.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.tables import Floats

FIRST_GROUPS: Final = 6.0
"""Groups that the first guess counts for."""


class Chance:
    """By how much more than chance views deviate from what is expected: a mean over days, which forgets."""

    def __init__(self, memory: float, first: float) -> None:
        self._memory = memory
        self._errors = self._cells = first

    @property
    def value(self) -> float:
        """Variance over expectation, at least 1."""
        return max(self._errors / self._cells, 1.0)

    def learn(self, seen: Floats, expected: Floats) -> None:
        """Take in the groups of a day; those of which less than a view was expected say too little."""
        some = expected > 1
        seen, expected = seen[some], expected[some]
        self._errors = self._memory * self._errors + float(((seen - expected) ** 2 / expected).sum())
        self._cells = self._memory * self._cells + len(seen)


def views_to_believe(seen: Floats, expected: Floats, chance: float, free: int, first: float) -> float:
    """Return after how many views a group's factor counts as much as 1.

    `free` are the degrees of freedom of the deviations, and `first` is what is returned before anything is seen.
    """
    expected = np.maximum(expected, 1e-9)
    beyond = float(((seen - expected) ** 2 / expected).sum()) / chance - free + FIRST_GROUPS
    whole = float(expected.sum()) + FIRST_GROUPS * chance * first
    return whole / max(beyond, 1e-9)
