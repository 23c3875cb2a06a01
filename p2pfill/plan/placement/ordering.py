"""Orders that are the same on each machine."""

from __future__ import annotations

import numpy as np

from p2pfill.plan.tables import Floats, Longs


def ascending(values: Floats) -> Longs:
    """Return the places of `values`, the least first, and of equals the first one first.

    The fastest sort is some times as fast as the stable one, but its order of equals depends on the processor. Few
    values are equal, so that the stable one is left for those arrays that have some.
    """
    order = np.argsort(values)
    ranked = values[order]
    return np.argsort(values, kind="stable") if (ranked[1:] == ranked[:-1]).any() else order
