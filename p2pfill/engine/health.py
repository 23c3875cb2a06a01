"""How much a cache spares for other caches while it serves its viewers. Pure.

Somebody says how busy the cache is with them, from 0 to 1 (`node.health`). Of that a few steps are made, so that what
others are told does not change with each look: the part of its weight that it is given in rosters, by which it ranks
lower as a source and is master of fewer chunks, and the part of its upload slots for which it takes requests, so that
the others are refused at once and go elsewhere. At the last step it takes none.

It gives way at once, and comes back when it was less busy for `CALM_S`.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Step(NamedTuple):
    """What is left for other caches."""

    busy: float
    """From so busy on."""
    weight: float
    """The part of its weight that counts."""
    admits: float
    """The part of its upload slots for which requests may wait."""


STEPS: Final = (
    Step(0.0, 1.0, 1.0), Step(0.25, 0.5, 0.5), Step(0.5, 0.25, 0.25), Step(0.75, 0.125, 0.125), Step(0.95, 0.125, 0.0),
)  # fmt: skip
"""Halves, since a difference of less is lost among other differences of caches. The weight never gets to nothing: where
all caches of an ISP are busy, somebody fetches for it all the same."""

CALM_S: Final = 10.0
"""Each change of weight is an election in each fill of its neighbours."""


class Health:
    """The step on which one cache stands."""

    def __init__(self) -> None:
        self.step = STEPS[0]
        self._calm_since: float | None = None
        """Since when less was said than what the step is for."""
        self._busiest = STEPS[0]
        """The highest step that was said since then."""

    def look(self, now: float, busy: float) -> bool:
        """Take in how busy the cache is; tell whether that changes the step."""
        said = [step for step in STEPS if busy >= step.busy or step is STEPS[0]][-1]
        if said.busy >= self.step.busy:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since, self._busiest = now, said
        else:
            self._busiest = max(self._busiest, said)
        if said.busy > self.step.busy:
            self.step = said
            return True
        if self._calm_since is not None and now >= self._calm_since + CALM_S:
            self.step, self._calm_since = self._busiest, None
            return True
        return False
