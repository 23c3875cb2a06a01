"""How urgent a title is: one sort key, the same for the tracker's lists, a cache's own fills and what it sends first.

The larger priority goes first, then the earlier deadline. Titles that are alike in both are one class and share the
links. Rejected: the age of the order as a third key, by which they would take turns. The beginning and the end of a
fill leave links idle, which a title that is under way beside it uses (docs/experiments.md, "Several titles").
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Urgency(NamedTuple):
    """A sort key; the least is the most urgent. The defaults are those of a title that nobody orders."""

    rank: int = 0
    """Minus the priority."""
    deadline: float = math.inf
    """Seconds since the epoch; infinite where there is none."""

    @classmethod
    def of(cls, priority: int, deadline: float | None = None) -> Urgency:
        """Return the urgency of an order."""
        return cls(-priority, math.inf if deadline is None else deadline)
