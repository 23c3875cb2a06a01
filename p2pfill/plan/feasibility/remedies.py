"""What makes a night fit: what to give up, which windows to widen by how long, which rates to raise to how much. Pure.

*Dropping.* Each shortage says how many bytes are too much where, and so which files give relief: of an ISP's uplink a
file that no cache in it is to have any more, of one cache's hours that cache's copy. To give up as little value as
possible for so many bytes is the min-knapsack problem; it is solved by the greedy method of Csirik, Frenk, Labbe and
Zhang ("Heuristics for the 0-1 min-knapsack problem", Acta Cybernetica 10, 1991), which is off by a factor of two at
most, shortage by shortage. What then fits is checked as a whole, and what turns out to have been given up for nothing
is taken back. Over several shortages this is a heuristic, and no bound is known.

*Widening and raising* are found by a search over the flow: the least step with which the shortage is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, Literal

import numpy as np

from p2pfill.model.quantities import show_bytes
from p2pfill.plan.feasibility.flow import Level
from p2pfill.plan.feasibility.needs import Demand, Needs, demand_of
from p2pfill.plan.feasibility.network import RATE_MAX, Bools, Network, Night, Origin, Span, timeline
from p2pfill.plan.feasibility.shortages import Shortage, find_shortages
from p2pfill.plan.tables import Floats, Longs

ROUNDS_MAX: Final = 30
"""Of dropping: each round covers all that was found short, so a few are usual."""

RESTORED_MAX: Final = 24
"""Files that are tried to be taken back, most valuable first: each try is a check of the whole night."""

WIDEN_STEP_S: Final = 300.0
"""Windows are widened by whole steps: nobody sets them more finely."""

RAISE_PART: Final = 0.01
"""A rate is found to this part of it."""

TINY: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Drop:
    """What to give up."""

    needs: Needs
    """What is left."""
    rows: Longs
    """Of the needs before: those that are given up."""
    lost: float
    """Their worth."""
    fits: bool
    """Whether nothing says any more that it does not fit."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change that ends one shortage by itself."""

    what: Literal["begin earlier", "end later", "rate", "uplink", "region uplink", "origin", "budget"]
    owners: tuple[int, ...]
    """Numbers of caches, ISPs, regions or origins."""
    amount: float
    """Seconds by which the windows are widened, or what the rate is to be: bytes a second; of a budget bytes."""
    text: str


# ---- dropping


def drop(network: Network, needs: Needs, night: Night) -> Drop:
    """Return what to give up, worth as little as can be found, so that a night fits."""
    kept = np.ones(len(needs.cache), np.bool_)
    given: list[Longs] = []
    fits = False
    for _ in range(ROUNDS_MAX):
        left = needs.only(kept)
        found = _short(network, demand_of(network, left), night)
        if fits := not found:
            break
        place = np.flatnonzero(kept)
        # Those of the innermost kind, which are of different caches or groups: to relieve them relieves what is beyond.
        for shortage in (one for one in found if one.where == found[0].where):
            for rows in _cover(network, left, shortage):
                given.append(place[rows])
                kept[place[rows]] = False
    if fits:
        _take_back(network, needs, night, kept, given)
    rows = np.flatnonzero(~kept)
    return Drop(needs.only(kept), rows, float(needs.worth[rows].sum()), fits)


def _take_back(network: Network, needs: Needs, night: Night, kept: Bools, given: Sequence[Longs]) -> None:
    """Take back what fits all the same, most valuable first."""
    for rows in sorted(given, key=lambda rows: -float(needs.worth[rows].sum()))[:RESTORED_MAX]:
        kept[rows] = True
        if _short(network, demand_of(network, needs.only(kept)), night):
            kept[rows] = False


def _short(network: Network, demand: Demand, night: Night) -> tuple[Shortage, ...]:
    return find_shortages(network, demand, timeline(network, night), night)


def _cover(network: Network, needs: Needs, shortage: Shortage) -> list[Longs]:
    """Return rows to give up for one shortage, those of one file together."""
    caches = np.zeros(len(network.spans), np.bool_)
    size: Floats
    worth: Floats
    rows: Longs
    number: Longs
    if shortage.where in ("isp", "region", "origin"):
        concerned = network.isp if shortage.where == "isp" else network.region
        caches[np.isin(concerned, concerned[list(shortage.caches)])] = True
        inside = {"isp": needs.in_isp, "region": needs.in_region, "origin": needs.in_world}[shortage.where]
        rows = np.flatnonzero(caches[needs.cache] & ~inside)
        # A file crosses the border for all of those caches: it is given up for all, or for nothing.
        files, number = np.unique(needs.file[rows], return_inverse=True)
        size = needs.size[files].astype(np.float64)
        worth = np.bincount(number, needs.worth[rows], len(files)).astype(np.float64)
    else:
        rows = np.flatnonzero(needs.cache == shortage.owners[0])
        if shortage.where == "late" and (~needs.in_isp[rows]).any():
            rows = rows[~needs.in_isp[rows]]
        number = np.arange(len(rows))
        size, worth = needs.bytes[rows].astype(np.float64), needs.worth[rows]
    if not len(rows):
        # Only copies are left: give up those of the caches that it concerns.
        rows = np.flatnonzero(np.isin(needs.cache, shortage.caches))
        number, size, worth = np.arange(len(rows)), needs.bytes[rows].astype(np.float64), needs.worth[rows]
    return [rows[number == one] for one in min_knapsack(size, worth, float(shortage.short))]


def min_knapsack(size: Floats, worth: Floats, amount: float) -> Longs:
    """Return which items cover an amount, worth at most twice as little as can be; all where they do not cover it.

    Items are taken by worth for their size. Each one that would complete the cover is a candidate together with what
    was taken before it, and is then passed over, so that a cheaper completion may be found (Csirik et al., 1991).
    """
    order = np.argsort(worth / size, kind="stable")
    taken: list[int] = []
    best: tuple[float, list[int]] = (inf, order.tolist())
    covered = spent = 0.0
    for item in order.tolist():
        if covered + size[item] < amount:
            taken.append(item)
            covered, spent = covered + float(size[item]), spent + float(worth[item])
        elif spent + worth[item] < best[0]:
            best = spent + float(worth[item]), [*taken, item]
    return np.array(best[1], np.int64)


# ---- widening and raising


def remedies(network: Network, demand: Demand, night: Night, shortage: Shortage) -> tuple[Remedy, ...]:
    """Return changes each of which ends a shortage by itself; none where nothing but giving up helps.

    It is ended where what is short there is none with the other limits as they are. What lies further out, and what is
    wrong elsewhere, is left aside.
    """
    if shortage.where == "disk":
        return ()
    if shortage.where == "budget":
        name = network.caches.names[shortage.owners[0]]
        text = f"let cache {name} have a budget of {show_bytes(shortage.need)} for the night"
        return (Remedy("budget", shortage.owners, float(shortage.need), text),)
    part, needed = _part(network, demand, shortage)
    found = [_widen(part, needed, night, shortage, is_later=is_later) for is_later in (True, False)]
    found.append(_raise(part, needed, night, shortage))
    return tuple(one for one in found if one is not None)


def _part(network: Network, demand: Demand, shortage: Shortage) -> tuple[Network, Demand]:
    """Return the part of a fleet that a shortage has to do with, as a fleet in which nothing else is needed."""
    if shortage.where == "origin":
        return network, demand
    isps = np.zeros(len(network.uplink), np.bool_)
    isps[network.isp[list(shortage.caches)]] = True
    if shortage.where == "region":
        isps = network.caches.region == shortage.owners[0]
    inside = isps[network.isp]
    spans = tuple(spans if inside[cache] else () for cache, spans in enumerate(network.spans))
    return network.with_spans(spans), demand.within(network, isps)


def _is_ended(network: Network, demand: Demand, night: Night, shortage: Shortage) -> bool:
    outermost = {"isp": Level.ISP, "region": Level.REGION}.get(shortage.where, Level.WORLD)
    found = find_shortages(network, demand, timeline(network, night), night, outermost=outermost)
    if shortage.where in ("late", "hours"):
        return not any(shortage.owners[0] in one.caches for one in found if one.where == shortage.where)
    return not any(one.where == shortage.where and set(one.owners) & set(shortage.owners) for one in found)


def _widen(network: Network, demand: Demand, night: Night, shortage: Shortage, *, is_later: bool) -> Remedy | None:
    """Return by how long the first or last windows of the caches must be wider, if that is enough."""
    step_max = int(np.ceil((night.deadline - night.start) / WIDEN_STEP_S))

    def is_enough(steps: int) -> bool:
        return _is_ended(_widened(network, shortage, night, steps * WIDEN_STEP_S, is_later), demand, night, shortage)

    if not is_enough(step_max):
        return None
    low, high = 0, step_max
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    seconds = high * WIDEN_STEP_S
    names = [network.caches.names[cache] for cache in shortage.caches]
    whose = names[0] if len(names) == 1 else f"its {len(names)} caches"
    how = (
        "last window of {} end {:.0f} minutes later" if is_later else "first window of {} begin {:.0f} minutes earlier"
    )
    text = f"let the {how.format(whose, seconds / 60)}"
    return Remedy("end later" if is_later else "begin earlier", shortage.caches, seconds, text)


def _widened(network: Network, shortage: Shortage, night: Night, seconds: float, is_later: bool) -> Network:
    """Return a fleet with wider windows of the caches that a shortage concerns, within the night until its deadline."""
    spans = list(network.spans)
    for cache in shortage.caches:
        row = list(spans[cache])
        inside = [place for place, span in enumerate(row) if span.begin < night.deadline and span.end > night.start]
        if not inside:
            continue
        place = inside[-1] if is_later else inside[0]
        begin, end, rate = row[place]
        if is_later:
            row[place] = Span(begin, max(end, min(end + seconds, night.deadline)), rate)
        else:
            row[place] = Span(min(begin, max(begin - seconds, night.start)), end, rate)
        spans[cache] = tuple(row)
    return network.with_spans(tuple(spans))


def _raise(network: Network, demand: Demand, night: Night, shortage: Shortage) -> Remedy | None:
    """Return what a rate must be, if that is enough."""
    change, now, what, name = _knob(network, shortage)

    def is_enough(rate: float) -> bool:
        return _is_ended(change(rate), demand, night, shortage)

    if now >= RATE_MAX or not is_enough(RATE_MAX):
        return None
    low = max(now, 1.0)
    high = max(low, shortage.short / (night.deadline - night.start))
    while not is_enough(high):
        low, high = high, high * 2
    while high > low * (1 + RAISE_PART):
        middle = float(np.sqrt(low * high))
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    owners = (int(network.isp[shortage.caches[0]]),) if shortage.where == "late" else shortage.owners
    text = f"let {name} have {show_bytes(int(np.ceil(high)))}/s instead of {show_bytes(int(now))}/s"
    return Remedy(what, owners, high, text)


_Knob = tuple[Callable[[float], Network], float, Literal["rate", "uplink", "region uplink", "origin"], str]
"""What makes a fleet of a rate, what the rate is now, which one it is, and its name."""


def _knob(network: Network, shortage: Shortage) -> _Knob:
    caches = network.caches
    owner = shortage.owners[0] if shortage.owners else -1
    if shortage.where == "hours":
        rates = [min(span.rate, float(caches.filling[owner])) for span in network.spans[owner]]
        now = max(rates, default=float(caches.filling[owner]))
        return lambda rate: _faster(network, owner, rate / max(now, TINY)), now, "rate", f"cache {caches.names[owner]}"
    if shortage.where in ("isp", "late"):
        isp = owner if shortage.where == "isp" else int(network.isp[owner])
        return (
            lambda rate: replace(network, uplink=_with(network.uplink, isp, rate)),
            float(network.uplink[isp]), "uplink", f"the uplink of ISP {caches.isps[isp]}",
        )  # fmt: skip
    if shortage.where == "region":
        return (
            lambda rate: replace(network, region_uplink=_with(network.region_uplink, owner, rate)),
            float(network.region_uplink[owner]), "region uplink", f"the uplink of region {caches.regions[owner]}",
        )  # fmt: skip
    if owner < 0:
        return lambda _: network, RATE_MAX, "origin", ""
    first = network.origins[owner]
    return (
        lambda rate: replace(network, origins=_raised(network, shortage.owners, rate / max(first.rate, TINY))),
        first.rate, "origin", f"origin {first.name}" + (" (and the others in proportion)" * (len(shortage.owners) > 1)),
    )  # fmt: skip


def _faster(network: Network, cache: int, factor: float) -> Network:
    """Return a fleet in which one cache takes in so many times as much, in all its windows."""
    filling = _with(network.caches.filling, cache, min(float(network.caches.filling[cache]) * factor, RATE_MAX))
    spans = tuple(
        tuple(Span(begin, end, rate * factor) for begin, end, rate in row) if number == cache else row
        for number, row in enumerate(network.spans)
    )
    return replace(network, caches=replace(network.caches, filling=filling), spans=spans)


def _raised(network: Network, owners: tuple[int, ...], factor: float) -> tuple[Origin, ...]:
    return tuple(
        replace(origin, rate=min(max(origin.rate, TINY) * factor, RATE_MAX)) if number in owners else origin
        for number, origin in enumerate(network.origins)
    )


def _with(rates: Floats, place: int, rate: float) -> Floats:
    changed = rates.copy()
    changed[place] = rate
    return changed
