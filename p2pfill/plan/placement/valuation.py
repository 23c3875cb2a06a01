"""What a placement serves, and what none can serve more than. For one cluster.

A placement's value is a flow: from each file, as much as it is asked for, to the caches that hold it, and out of each
cache as much as its bandwidth. `served_of` finds the greatest one exactly; files with the same holders are one node.

The bound. Let K(C) be what space C serves at most where bandwidth is no object: the fractional knapsack, the densest
file first, in which a copy serves no more than min(demand, the widest cache). Choose any set S of caches. Those of S
serve at most K(their space), since serving y of a file takes at least y / min(demand, widest) copies; the others at
most their bandwidth. So a placement serves at most

    min over S of  K(space of S) + bandwidth of the rest.

We take the least over those S that hold the caches with most bandwidth for each byte, of any number: S empty gives the
bandwidth of all, S full gives K of all space, and the `aggregate` bound is the less of these two. Prices, pins and the
bound on what is rewritten only lower what can be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from ortools.graph.python.max_flow import SimpleMaxFlow  # type: ignore[import-untyped]

from p2pfill.plan.placement.ordering import ascending
from p2pfill.plan.tables import Floats, Ints, Longs

FLOW_UNITS: Final = 1 << 50
"""Into how many units the demand of a cluster is cut: the flow is one of integers. A unit is far below a byte's worth
of error in a forecast, and sums stay below 2 ** 63."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What no placement in a cluster can serve more than, in bytes a day."""

    value: float
    aggregate: float
    """The same from the sums over all caches alone: never less."""
    margin: float
    """Density (bytes served a day for each byte) of the coldest file that the caches of `tight` would hold."""
    tight: tuple[int, ...]
    """The caches that run out of space before they run out of bandwidth: the set S of the bound."""
    order: Longs
    """The files that are asked for and fit somewhere, densest first."""


def upper_bound(demand: Floats, size: Longs, space: Longs, bandwidth: Floats) -> Bound:
    """Return the bound of one cluster, of files with `demand` and `size` in caches with `space` and `bandwidth`.

    `demand` is in bytes a day, `size` in bytes, of each file; `space` in bytes, `bandwidth` in bytes a day, of each
    cache.
    """
    if not len(space) or not len(size):
        return Bound(0.0, 0.0, 0.0, (), np.zeros(0, np.int64))
    carried = np.minimum(demand, bandwidth.max())
    files = np.flatnonzero((carried > 0) & (size <= space.max()))
    density = carried[files] / size[files]
    order = files[ascending(-density)]
    copies = demand[order] / carried[order]
    used = np.concatenate(([0.0], np.cumsum(size[order] * copies)))
    gained = np.concatenate(([0.0], np.cumsum(demand[order])))
    ratio = np.divide(bandwidth, space, out=np.full(len(space), np.inf), where=space > 0)
    caches = np.argsort(-ratio, kind="stable")
    spaces = np.concatenate(([0.0], np.cumsum(space[caches], dtype=np.float64)))
    rest = np.concatenate((np.cumsum(bandwidth[caches][::-1])[::-1], [0.0]))
    bounds = rest + np.interp(spaces, used, gained)
    best = int(np.argmin(bounds))
    last = int(np.searchsorted(used, spaces[best])) - 1
    margin = carried[order[last]] / size[order[last]] if best and last < len(order) - 1 else 0.0
    return Bound(
        float(bounds[best]), float(min(bounds[0], bounds[-1])), float(margin),
        tuple(caches[:best].tolist()), order,
    )  # fmt: skip


def served_of(demand: Floats, bandwidth: Floats, cache: Ints, file: Ints) -> float:
    """Return what copies serve at most, in bytes a day. Copy k is of `file[k]` and lies in `cache[k]`.

    Exact but for the rounding of demand and bandwidth to a part of 2 ** 50 of the whole demand.
    """
    copies = np.bincount(file, minlength=len(demand))
    whole = float(demand[copies > 0].sum())
    if whole <= 0:
        return 0.0
    single = copies[file] == 1
    groups: dict[tuple[int, ...], float] = {
        (at,): amount for at, amount in enumerate(np.bincount(cache[single], demand[file[single]]).tolist()) if amount
    }
    order = np.lexsort((cache[~single], file[~single]))
    files, caches = file[~single][order], cache[~single][order].tolist()
    starts = np.flatnonzero(np.diff(files, prepend=-1))
    for start, stop in zip(starts.tolist(), [*starts.tolist()[1:], len(files)], strict=False):
        holders = tuple(caches[start:stop])
        groups[holders] = groups.get(holders, 0.0) + float(demand[files[start]])
    flow = SimpleMaxFlow()
    units = FLOW_UNITS / whole
    source, sink = len(bandwidth), len(bandwidth) + 1
    for at, amount in enumerate(bandwidth.tolist()):
        flow.add_arc_with_capacity(at, sink, int(min(amount, whole) * units))
    for node, (holders, amount) in enumerate(groups.items(), sink + 1):
        flow.add_arc_with_capacity(source, node, int(amount * units))
        for at in holders:
            flow.add_arc_with_capacity(node, at, int(amount * units))
    if flow.solve(source, sink) != flow.OPTIMAL:
        raise ArithmeticError("the flow through a cluster could not be solved")
    return float(flow.optimal_flow() / units)
