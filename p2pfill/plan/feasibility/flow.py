"""How much of a night's fill can arrive by some moment, at most: a flow through ISPs and their caches. Pure.

*The network.* For each bucket of time there is a node for the inside of each ISP. Bytes come there over the uplink,
which has what the region got, which has what origins sent; and from there each cache takes what its hours let in. What
is a copy needs no way from outside: of the bytes that the caches of an ISP lack, all but its distinct ones may come
from a *copies* node, at any time. So a flow of all that is missing takes at least the distinct bytes over the uplink,
and the same holds of regions and of the fleet. Every real fill is such a flow: call the first arrival of each byte in a
group its way in, and all others copies. So where no flow carries all, no fill does (Ford and Fulkerson, 1956).

*The bound is not tight* where a copy would have to be made before its first byte has come, or where files differ in who
needs them: bytes are not told apart. What one cache needs in its own hours is looked at by itself, with storage over
time (`bounds`).

*Levels.* Of level ISP, whatever is outside of ISPs has no limit; of level REGION, whatever is outside of regions; WORLD
has all limits. A shortage is looked for from within: then it is one ISP's, and not of all that share an origin.

Solved by push-relabel (Goldberg and Tarjan, 1988; `ortools`), in integers: bytes, or where they would not fit into 64
bits, larger units. Capacities are rounded up and needs down, so rounding never makes a shortage.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from ortools.graph.python import max_flow  # type: ignore[import-untyped]

from p2pfill.errors import InternalError
from p2pfill.plan.feasibility.needs import Demand
from p2pfill.plan.feasibility.network import RATE_MAX, Bools, Network, Timeline
from p2pfill.plan.tables import Floats, Ints, Longs

FLOW_MAX: Final = float(1 << 61)
"""What all arcs out of the source may carry together: sums of two such stay within 64 bits."""


class Level(IntEnum):
    """Which limits count: those within this group."""

    ISP = 1
    REGION = 2
    WORLD = 3


class Kind(IntEnum):
    """What an arc stands for."""

    NEED = 0
    """A cache's missing bytes."""
    HOURS = 1
    """What a cache takes in."""
    SENDING = 2
    """What the caches of an ISP send to each other."""
    UPLINK = 3
    REGION = 4
    ORIGIN = 5
    SUPPLY = 6
    """How much of what is missing can be copies, or comes out of origins."""
    LINK = 7
    """Without limit."""


class Arcs(NamedTuple):
    """Arcs of a network, an entry each; only those that carry something."""

    tail: Ints
    head: Ints
    capacity: Floats
    """Bytes."""
    peak: Floats
    """Bytes a second by which it grows as time goes on; 0 where it is not of the last bucket."""
    kind: Ints
    owner: Ints
    """Number of the cache, ISP, region or origin that it belongs to, by kind."""
    bucket: Ints
    """-1: of none."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The largest flow, and the smallest cut nearest to what is needed."""

    demand: Demand
    arcs: Arcs
    nodes: Nodes
    delivered: Longs
    """To each cache, in bytes."""
    short: int
    """Bytes of all that is missing that do not arrive."""
    beyond: Bools
    """Of each node, whether it lies on the side of what is needed."""
    caches: Bools
    """The same of each cache."""

    @property
    def crossing(self) -> Bools:
        """Of each arc, whether it is cut."""
        return self.beyond[self.arcs.head] & ~self.beyond[self.arcs.tail]


class Nodes:
    """Numbers of nodes."""

    def __init__(self, network: Network, demand: Demand, buckets: int) -> None:
        caches, isps, regions = len(network.spans), len(network.uplink), len(network.region_uplink)
        self.count = 2
        self.source, self.sink = 0, 1
        self.cache = self._take(caches)
        self.copies = self._take(isps)
        self.isp_share = self._take(isps)
        self.region_copies = self._take(regions)
        self.region_share = self._take(regions)
        self.world_copies = int(self._take(1)[0])
        self.origin = self._take(len(network.origins))
        self.kind = self._take(len(demand.world))
        self.isp = self._take(isps * buckets).reshape(isps, buckets)
        self.border = self._take(isps * buckets).reshape(isps, buckets)
        self.region = self._take(regions * buckets).reshape(regions, buckets)
        self.region_border = self._take(regions * buckets).reshape(regions, buckets)
        self.sent = self._take(len(network.origins) * buckets).reshape(len(network.origins), buckets)

    def _take(self, count: int) -> Ints:
        first, self.count = self.count, self.count + count
        return np.arange(first, self.count, dtype=np.int32)


class _Builder:
    """Collects arcs."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray[tuple[int, ...], np.dtype[np.generic]], ...]] = []

    def add(
        self, tail: Ints | int, head: Ints | int, capacity: Floats | Longs | float, kind: Kind,
        owner: Longs | int = -1, peak: Floats | float = 0.0, bucket: Longs | int = -1,
    ) -> None:  # fmt: skip
        """Add arcs; arguments are of one shape, or alike for all."""
        wide = np.broadcast_arrays(tail, head, capacity, peak, int(kind), owner, bucket)
        keep = wide[2] > 0
        self._parts.append(tuple(part[keep] for part in wide))

    def arcs(self) -> Arcs:
        """Return all."""
        joined = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        tail, head, capacity, peak, kind, owner, bucket = joined
        return Arcs(
            tail.astype(np.int32), head.astype(np.int32), capacity.astype(np.float64), peak.astype(np.float64),
            kind.astype(np.int32), owner.astype(np.int32), bucket.astype(np.int32),
        )  # fmt: skip


def arcs_until(
    network: Network, demand: Demand, line: Timeline, at: float, level: Level, missing: Longs | None = None
) -> tuple[Arcs, Nodes]:
    """Return the network of what can arrive until a moment.

    `missing`, of each cache, stands for what is missing of the demand where some of it is given up: as if of what is
    given up nothing were a copy.
    """
    seconds, volume = line.until(at)
    buckets = np.flatnonzero(seconds > 0)
    span = _Buckets(buckets, seconds[buckets], np.where(line.edges[buckets + 1] >= at, 1.0, 0.0))
    nodes, made = Nodes(network, demand, len(buckets)), _Builder()
    missing = demand.missing if missing is None else missing
    isp, caches, isps = network.isp.astype(np.int64), np.arange(len(network.spans)), len(network.uplink)
    needy = missing > 0
    volume = volume[:, buckets] * needy[:, None]
    made.add(nodes.cache, nodes.sink, missing, Kind.NEED, caches)
    rows = caches[needy]
    made.add(
        nodes.isp[isp[rows]], nodes.cache[rows, None], volume[rows], Kind.HOURS, rows[:, None],
        line.peak[np.ix_(rows, buckets)] * span.grows, buckets,
    )  # fmt: skip
    takes = by_group(volume, isp, isps)
    copies = np.maximum(by_group(demand.missing[:, None], isp, isps)[:, 0] - demand.isp, 0.0)
    made.add(nodes.source, nodes.copies, copies, Kind.SUPPLY)
    inside = np.minimum(copies[:, None], takes)
    owner = np.arange(isps)[:, None]
    if network.sending is None:
        made.add(nodes.copies[:, None], nodes.isp, inside, Kind.LINK)
    else:
        sending = by_group(np.minimum(network.sending, RATE_MAX)[:, None], isp, isps)
        sent = np.minimum(sending * span.seconds, inside)
        made.add(nodes.copies[:, None], nodes.isp, sent, Kind.SENDING, owner, sending * span.grows, buckets)
    # An uplink need not be wider than what lies behind it: that keeps sums of capacities small, and no cut goes through
    # such a one, as the one nearest to what is needed is taken.
    rate = np.minimum(network.uplink, RATE_MAX)[:, None]
    entry = np.minimum(rate * span.seconds, takes)
    tail = nodes.source if level is Level.ISP else nodes.border
    made.add(tail, nodes.isp, entry, Kind.UPLINK, owner, rate * span.grows, buckets)
    if level is not Level.ISP:
        if network.sending is not None:
            made.add(nodes.copies[:, None], nodes.border, np.minimum(copies[:, None], entry), Kind.LINK)
        _add_regions(made, nodes, network, demand, entry, span, level)
    return made.arcs(), nodes


class _Buckets(NamedTuple):
    number: Longs
    seconds: Floats
    grows: Floats
    """1 where it goes on after the moment up to which is looked, or ends then; 0 elsewhere."""


def _add_regions(
    made: _Builder, nodes: Nodes, network: Network, demand: Demand, entry: Floats, span: _Buckets, level: Level
) -> None:
    """Add what lies between the uplinks of ISPs, through which `entry` fits, and the borders of regions."""
    region = network.caches.region.astype(np.int64)
    regions = len(network.region_uplink)
    copies = np.maximum(by_group(demand.isp[:, None], region, regions)[:, 0] - demand.region, 0.0)
    made.add(nodes.source, nodes.region_copies, copies, Kind.SUPPLY)
    shared = np.maximum(demand.isp - demand.isp_alone, 0)
    made.add(nodes.region_copies[region], nodes.isp_share, shared, Kind.SUPPLY)
    made.add(nodes.isp_share[:, None], nodes.border, np.minimum(shared[:, None], entry), Kind.LINK)
    made.add(nodes.region[region], nodes.border, entry, Kind.LINK)
    rate = np.minimum(network.region_uplink, RATE_MAX)[:, None]
    into = np.minimum(rate * span.seconds, by_group(entry, region, regions))
    tail = nodes.source if level is Level.REGION else nodes.region_border
    owner = np.arange(regions)[:, None]
    made.add(tail, nodes.region, into, Kind.REGION, owner, rate * span.grows, span.number)
    if level is Level.WORLD:
        _add_world(made, nodes, network, demand, into, span)


def _add_world(made: _Builder, nodes: Nodes, network: Network, demand: Demand, into: Floats, span: _Buckets) -> None:
    """Add what lies between the borders of regions, through which `into` fits, and the origins."""
    made.add(nodes.source, nodes.world_copies, max(float(demand.region.sum() - demand.world.sum()), 0.0), Kind.SUPPLY)
    shared = np.maximum(demand.region - demand.region_alone, 0)
    made.add(nodes.world_copies, nodes.region_share, shared, Kind.SUPPLY)
    made.add(nodes.region_share[:, None], nodes.region_border, np.minimum(shared[:, None], into), Kind.LINK)
    made.add(nodes.source, nodes.kind, demand.world, Kind.SUPPLY)
    for number, origin in enumerate(network.origins):
        has = (demand.origins >> number & 1).astype(np.bool_)
        made.add(nodes.kind[has], nodes.origin[number], demand.world[has], Kind.LINK)
        served = np.arange(len(into)) if origin.regions is None else np.array(origin.regions, np.int64)
        rate = min(origin.rate, RATE_MAX)
        sent = np.minimum(rate * span.seconds, into[served].sum(axis=0))
        made.add(nodes.origin[number], nodes.sent[number], sent, Kind.ORIGIN, number, rate * span.grows, span.number)
        made.add(nodes.sent[number][None, :], nodes.region_border[served], into[served], Kind.LINK)


def by_group(rows: Floats | Longs, group: Longs, groups: int) -> Floats:
    """Return rows summed by the group of each."""
    total = np.zeros((groups, rows.shape[1]))
    if len(group):
        order = np.argsort(group, kind="stable")
        present, starts = np.unique(group[order], return_index=True)
        total[present] = np.add.reduceat(rows[order], starts, axis=0)
    return total


def solve(
    network: Network, demand: Demand, line: Timeline, at: float, level: Level, missing: Longs | None = None
) -> Flow:
    """Return how much of what is missing can arrive until a moment. See `arcs_until`."""
    missing = demand.missing if missing is None else missing
    arcs, nodes = arcs_until(network, demand, line, at, level, missing)
    unit = max(1.0, np.ceil(float(arcs.capacity[arcs.tail == nodes.source].sum() + missing.sum()) / FLOW_MAX))
    is_need = arcs.kind == Kind.NEED
    units = np.minimum(arcs.capacity / unit, FLOW_MAX)
    whole = np.where(is_need, np.floor(units), np.ceil(units)).astype(np.int64)
    solver = max_flow.SimpleMaxFlow()
    numbers = solver.add_arcs_with_capacity(arcs.tail, arcs.head, whole)
    # Nodes without arcs at the ends would make source or sink unknown.
    if len(arcs.tail) and (arcs.tail == nodes.source).any() and is_need.any():
        status = solver.solve(nodes.source, nodes.sink)
        if status != solver.OPTIMAL:
            raise InternalError(f"the flow of a plan was not solved: {status}")
        flows, beyond = solver.flows(numbers), np.array(solver.get_sink_side_min_cut(), np.int64)
    else:
        flows, beyond = np.zeros(len(whole), np.int64), np.array([nodes.sink], np.int64)
    delivered = np.zeros(len(network.spans), np.int64)
    delivered[arcs.owner[is_need]] = flows[is_need]
    short = int(whole[is_need].sum() - flows[is_need].sum())
    side = np.zeros(nodes.count, np.bool_)
    side[beyond] = True
    # What of a need is lost by rounding down is no shortage.
    delivered = np.where(delivered >= missing // int(unit), missing, delivered * int(unit))
    return Flow(demand, arcs, nodes, delivered, short * int(unit), side, side[nodes.cache])
