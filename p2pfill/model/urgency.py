"""How urgent a title is: one sort key, the same for the tracker's lists, a cache's own fills and what it sends first.

The larger priority goes first, then the earlier deadline, then the older order. So two titles that are ordered with the
same priority and without deadlines are filled one after the other, and every cache takes them in the same order: shared
between both, each link would finish both late.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Urgency(NamedTuple):
    """A sort key; the least is the most urgent. The defaults are those of a title that nobody has ordered."""

    rank: int = 0
    """Minus the priority."""
    deadline: float = math.inf
    """Seconds since the epoch; infinite where there is none."""
    ordered_at: float = math.inf
    """Seconds since the epoch."""

    @classmethod
    def of(cls, priority: int, deadline: float | None, ordered_at: float) -> Urgency:
        """Return the urgency of an order."""
        return cls(-priority, math.inf if deadline is None else deadline, ordered_at)
