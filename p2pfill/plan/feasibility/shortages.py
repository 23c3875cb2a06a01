"""What does not fit into a night, and where: cuts of the flow, in words. Pure.

Looked for from within outwards: each cache by itself, then each ISP, each region, and the origins at last. What is
found short is then taken out of what is needed, as if given up, so that what lies further out is charged only with what
is short beyond that, and two shortages that have nothing to do with each other stay two. Rejected: one cut of the whole
network. It is one set of caches, in which a narrow uplink of one ISP and a short window in another cannot be told
apart.

A shortage is a proof: `need` bytes have to pass something which carries `carried` of them until the deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import numpy as np

from p2pfill.model.quantities import show_bytes
from p2pfill.plan.feasibility.bounds import at_once, in_turn, stages
from p2pfill.plan.feasibility.flow import Flow, Kind, Level, solve
from p2pfill.plan.feasibility.needs import Demand
from p2pfill.plan.feasibility.network import Bools, Network, Night, Timeline
from p2pfill.plan.tables import Floats, Longs

Where = Literal["disk", "budget", "hours", "isp", "region", "origin", "late"]

NEGLIGIBLE: Final = 1e-9
"""Part of a need below which nothing is called short: sums of floats differ by that."""

NAMES_MAX: Final = 4
"""Caches or ISPs that a text names; of more their number is said."""

SHARE_MIN: Final = 0.01
"""Of what is carried: who carries less is not named."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """Bytes that do not fit, and what they do not fit through."""

    where: Where
    """disk, budget, hours: of one cache. isp, region: over that border. origin: out of it. late: they reach one cache
    only after its hours."""
    owners: tuple[int, ...]
    """Numbers of caches, ISPs, regions or origins, by `where`."""
    caches: tuple[int, ...]
    """Which it concerns."""
    need: int
    carried: int
    begin: float
    """From when to when that is carried, in seconds since the epoch."""
    end: float
    text: str

    @property
    def short(self) -> int:
        """Bytes."""
        return self.need - self.carried


def negligible(need: int) -> int:
    """Return how many bytes of a need are as good as none."""
    return int(need * NEGLIGIBLE)


def find_shortages(
    network: Network, demand: Demand, line: Timeline, night: Night, *, is_over: bool = False,
    outermost: Level = Level.WORLD,
) -> tuple[Shortage, ...]:  # fmt: skip
    """Return all that does not fit until the deadline; nothing where nothing says that it does not fit.

    `is_over`: the bound on the finish is not after the deadline, so only what is of the whole night can be short.
    Further out than `outermost` nothing is looked for.
    """
    found, missing = _of_caches(network, demand, line, night)
    if is_over:
        return tuple(found)
    for level in (level for level in Level if level <= outermost):
        flow = solve(network, demand, line, night.deadline, level, missing)
        cuts = _of_cuts(network, missing, line, night, flow, level)
        found += (shortage for shortage in cuts if shortage.short > negligible(shortage.need))
        missing = flow.delivered
    known = {cache for shortage in found for cache in shortage.caches}
    found += (one for one in _late(network, demand, line, night) if one.caches[0] not in known)
    return tuple(found)


# ---- caches by themselves


def _of_caches(network: Network, demand: Demand, line: Timeline, night: Night) -> tuple[list[Shortage], Longs]:
    """Return what does not fit into single caches, and what is missing of each without that."""
    found: list[Shortage] = []
    missing = demand.missing.copy()
    _, volume = line.until(night.deadline)
    nothing = np.full(len(missing), np.inf)
    limits: tuple[tuple[Where, Floats, str], ...] = (
        ("disk", nothing if network.room is None else network.room.astype(np.float64), "its disk has room for"),
        ("budget", nothing if network.budget is None else network.budget, "its budget lets in"),
        ("hours", volume.sum(axis=1), "its hours let in"),
    )
    for where, limit, what in limits:
        for cache in np.flatnonzero(missing - limit > NEGLIGIBLE * missing):
            need, carried = int(missing[cache]), int(np.ceil(limit[cache]))
            begin, end = _open(network, [int(cache)], night)
            when = f" {_between(begin, end)}" if where == "hours" and carried else ""
            text = (
                f"cache {network.caches.names[cache]} needs {show_bytes(need)}, {what} {show_bytes(carried)}{when}; "
                f"short {show_bytes(need - carried)}"
            )
            found.append(Shortage(where, (int(cache),), (int(cache),), need, carried, begin, end, text))
            missing[cache] = carried
    return found, missing


def _late(network: Network, demand: Demand, line: Timeline, night: Night) -> Iterable[Shortage]:
    """Yield what reaches caches too late for their hours."""
    edge = int(np.searchsorted(line.edges, night.deadline))
    turn = in_turn(network, demand, line, stages(network, demand, line)).arrived[:, edge]
    once = at_once(network, demand, line)
    direct = once.sums[:, edge]
    names, isps = network.caches.names, network.caches.isps
    missing, alone = demand.missing.astype(np.float64), demand.alone.astype(np.float64)
    for cache in np.flatnonzero((missing - turn > NEGLIGIBLE * missing) | (alone - direct > NEGLIGIBLE * alone)):
        number = int(cache)
        begin, end = _open(network, [number], night)
        isp, when = isps[network.isp[number]], _between(begin, end)
        if alone[cache] - direct[cache] > missing[cache] - turn[cache]:
            need, carried = int(demand.alone[cache]), int(np.ceil(direct[cache]))
            text = (
                f"cache {names[cache]}: of what it needs {show_bytes(need)} go to no other cache of ISP {isp}, and the "
                f"uplink carries {show_bytes(carried)} of them while it is open {when}; "
                f"short {show_bytes(need - carried)}"
            )
        else:
            need, carried = int(demand.missing[cache]), int(np.ceil(turn[cache]))
            text = (
                f"cache {names[cache]} needs {show_bytes(need)}, and what reaches ISP {isp} in time for its hours "
                f"{when} is {show_bytes(carried)} of them; short {show_bytes(need - carried)}"
            )
        yield Shortage("late", (number,), (number,), need, carried, begin, end, text)


# ---- cuts


def _groups(network: Network, flow: Flow, level: Level) -> Longs:
    """Return of each node which shortage it would be of: that of an ISP, of a region, or of origins; -1: of none."""
    nodes, isps, regions = flow.nodes, np.arange(len(network.uplink)), np.arange(len(network.region_uplink))
    group = np.full(nodes.count, -1, np.int64)
    inner = isps if level is Level.ISP else network.caches.region.astype(np.int64)
    outer = regions
    if level is Level.WORLD:
        outer = _joined(network, all_=bool(flow.beyond[nodes.world_copies]))
        inner = outer[inner]
        group[nodes.world_copies] = 0
        for number, origin in enumerate(network.origins):
            served = regions if origin.regions is None else np.array(origin.regions, np.int64)
            if len(served):
                group[nodes.origin[number]] = group[nodes.sent[number]] = outer[served[0]]
                group[nodes.kind[(flow.demand.origins >> number & 1).astype(np.bool_)]] = outer[served[0]]
    group[nodes.cache] = inner[network.isp]
    for part in (nodes.copies, nodes.isp_share):
        group[part] = inner
    for part in (nodes.isp, nodes.border):
        group[part] = inner[:, None]
    if level is not Level.ISP:
        for part in (nodes.region_copies, nodes.region_share):
            group[part] = outer
        for part in (nodes.region, nodes.region_border):
            group[part] = outer[:, None]
    return group


def _joined(network: Network, *, all_: bool) -> Longs:
    """Return of each region the least one with which it shares origins, over any number of others."""
    label = np.arange(len(network.region_uplink))
    if all_:
        return np.zeros_like(label)
    for _ in network.origins:
        for origin in network.origins:
            served = label if origin.regions is None else label[list(origin.regions)]
            if len(served):
                label[np.isin(label, served)] = served.min()
    return label


def _of_cuts(
    network: Network, missing: Longs, line: Timeline, night: Night, flow: Flow, level: Level
) -> Iterable[Shortage]:
    """Yield the shortages of a cut, apart."""
    if not flow.caches.any():
        return
    groups = _groups(network, flow, level)
    of_cache, of_arc = groups[flow.nodes.cache], groups[flow.arcs.head]
    for group in np.unique(of_cache[flow.caches]):
        cut = flow.crossing & (of_arc == group) & (flow.arcs.kind != Kind.NEED)
        yield _of_cut(network, missing, line, night, flow, level, flow.caches & (of_cache == group), cut)


def _of_cut(
    network: Network, missing: Longs, line: Timeline, night: Night, flow: Flow, level: Level, inside: Bools, cut: Bools
) -> Shortage:
    """Return one shortage: `inside` are its caches, `cut` the arcs that go to them."""
    arcs, passes = flow.arcs, cut & (flow.arcs.kind != Kind.SUPPLY)
    supplied = float(arcs.capacity[cut & ~passes].sum())
    need, carried = int(missing[inside].sum() - supplied), int(np.ceil(arcs.capacity[passes].sum()))
    caches = tuple(int(cache) for cache in np.flatnonzero(inside))
    begin, end = _open(network, caches, night)
    if len(buckets := arcs.bucket[passes]):
        # The buckets of what comes when a window has just closed are none that a person would name.
        first, last = float(line.edges[buckets.min()]), float(line.edges[buckets.max() + 1])
        if max(begin, first) < min(end, last):
            begin, end = max(begin, first), min(end, last)
    where, owners, subject = _subject(network, flow, level, inside, passes)
    said = (
        f"{subject}: {_some('cache', [network.caches.names[cache] for cache in caches])} "
        f"need{'s' if len(caches) == 1 else ''} {show_bytes(need)}, {_carriers(network, flow, level, passes)} "
        f"{_between(begin, end)}; short {show_bytes(need - carried)}"
    )
    return Shortage(where, owners, caches, need, carried, begin, end, said)


def _subject(
    network: Network, flow: Flow, level: Level, inside: Bools, passes: Bools
) -> tuple[Where, tuple[int, ...], str]:
    caches = network.caches
    if level is Level.ISP:
        isp = int(network.isp[inside][0])
        return "isp", (isp,), f"ISP {caches.isps[isp]}"
    if level is Level.REGION:
        region = int(network.region[inside][0])
        return "region", (region,), f"region {caches.regions[region]}"
    origins = np.unique(flow.arcs.owner[passes & (flow.arcs.kind == Kind.ORIGIN)])
    if not len(origins):
        return "origin", (), "no origin that may be read has it"
    owners = tuple(int(origin) for origin in origins)
    return "origin", owners, _some("origin", [network.origins[origin].name for origin in owners])


def _carriers(network: Network, flow: Flow, level: Level, passes: Bools) -> str:
    """Return what carries how much through a cut, most first."""
    kinds, capacity, owner = flow.arcs.kind[passes], flow.arcs.capacity[passes], flow.arcs.owner[passes]
    total = float(capacity.sum())
    if not total:
        return "and nothing comes"
    said = []
    for kind in np.unique(kinds):
        rows = kinds == kind
        if (part := float(capacity[rows].sum())) >= SHARE_MIN * total:
            said.append(
                (part, f"{_carrier(network, Kind(int(kind)), np.unique(owner[rows]), level)} {show_bytes(int(part))}")
            )
    return " and ".join(text for _, text in sorted(said, reverse=True))


def _carrier(network: Network, kind: Kind, owners: Longs, level: Level) -> str:
    many = len(owners) > 1
    match kind:
        case Kind.UPLINK:
            if level is Level.ISP:
                return "the uplink carries"
            names = [network.caches.isps[owner] for owner in owners]
            return f"the uplink{'s' if many else ''} of {_some('ISP', names)} carr{'y' if many else 'ies'}"
        case Kind.REGION:
            names = [network.caches.regions[owner] for owner in owners]
            return f"the uplink{'s' if many else ''} of {_some('region', names)} carr{'y' if many else 'ies'}"
        case Kind.ORIGIN:
            return "all that they send is" if many else "all that it sends is"
        case Kind.SENDING:
            return "the caches there send each other"
        case _:
            return "their hours let in" if many else "its hours let in"


# ---- words


def _open(network: Network, caches: Iterable[int], night: Night) -> tuple[float, float]:
    """Return when the first of some caches opens, and the last one closes, of a night until its deadline."""
    spans = [span for cache in caches for span in network.spans[cache] if span.begin < night.deadline]
    begin = max(min((span.begin for span in spans), default=night.start), night.start)
    end = min(max((span.end for span in spans), default=night.deadline), night.deadline)
    return begin, max(begin, end)


def _between(begin: float, end: float) -> str:
    first, last = (datetime.fromtimestamp(round(at / 60) * 60, UTC) for at in (begin, end))
    return f"between {first:%H:%M} and {last:%H:%M} UTC"


def _some(what: str, names: Sequence[str]) -> str:
    """Return names as a text has them: "caches a7 and a9", "12 caches"."""
    if len(names) > NAMES_MAX:
        return f"{len(names)} {what}s"
    listed = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return f"{what}{'s' if len(names) > 1 else ''} {listed}"
