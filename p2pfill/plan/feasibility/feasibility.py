"""Whether a night's fill can be over in time: the proof that it cannot, with what is in its way, or none. Pure.

`check` gives a bound on the finish: no fill is over sooner, whatever the caches do. So "it does not fit" is proved, and
"nothing says that it does not" is not a promise: that bytes come at these rates, at once and without a pause, is what
the simulator knows better (`cli.planned_night`). What the bound counts, and what not, is in `flow` and `bounds`. What
either leaves out only takes longer: delays, requests, parts that come twice, hops that a policy forbids.

The finish is found by a search over buckets, and within one by Newton's method on the cut: where a flow until some
moment falls short, its cut says when it would not, and no sooner is enough. That ends at the very moment, in a few
flows, since what a bucket's arcs carry grows in proportion to time (Radzik, "Parametric flows, weighted means of cuts,
and fractional combinatorial optimization", 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from p2pfill.plan.feasibility.bounds import at_once, in_turn, reached, stages
from p2pfill.plan.feasibility.flow import Flow, Level, solve
from p2pfill.plan.feasibility.needs import Demand
from p2pfill.plan.feasibility.network import Network, Night, Timeline, timeline
from p2pfill.plan.feasibility.shortages import Shortage, find_shortages, negligible

STEPS_MAX: Final = 40
"""Flows within one bucket; Newton's method takes a handful."""

NEAR_S: Final = 0.5
"""Two moments that are so near to each other are one: nobody plans by less than a second."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of a night before it."""

    finish: float | None
    """No fill is over before, in seconds since the epoch; None: none is within the night's horizon."""
    kept_by: str
    """What the finish is due to, for people."""
    shortages: tuple[Shortage, ...]
    """What does not fit until the deadline, from single caches outwards. Empty: nothing says that it does not fit."""

    @property
    def fits(self) -> bool:
        """Whether nothing says that it does not."""
        return not self.shortages


def check(network: Network, demand: Demand, night: Night) -> Verdict:
    """Return when a fill can be over at the earliest, and what does not fit until the deadline."""
    line = timeline(network, night)
    finish, kept_by = finish_bound(network, demand, line)
    is_over = finish is not None and finish <= night.deadline
    return Verdict(finish, kept_by, find_shortages(network, demand, line, night, is_over=is_over))


def finish_bound(network: Network, demand: Demand, line: Timeline) -> tuple[float | None, str]:
    """Return before when no fill is over, in seconds since the epoch, and what that is due to.

    None: it is not over within `line`. Disks and budgets have no say in it: they are of the whole night.
    """
    at, kept_by = _alone(network, demand, line)
    if at == np.inf:
        return None, kept_by
    flow = solve(network, demand, line, at, Level.WORLD)
    if _is_whole(flow, demand):
        return at, kept_by
    together = "what several caches, ISPs or regions share"
    later = np.flatnonzero(line.edges > at)
    low, high = 0, len(later)  # of the edges after it, the first by which all can have come
    while low < high:
        middle = (low + high) // 2
        if _is_whole(solve(network, demand, line, float(line.edges[later[middle]]), Level.WORLD), demand):
            high = middle
        else:
            low = middle + 1
    if low == len(later):
        return None, together
    begin = at if low == 0 else float(line.edges[later[low - 1]])
    return _within_bucket(network, demand, line, begin, float(line.edges[later[low]])), together


def _within_bucket(network: Network, demand: Demand, line: Timeline, begin: float, end: float) -> float:
    """Return when all can have come, of a bucket at whose begin it cannot, and at whose end it can."""
    at = (begin + end) / 2
    for _ in range(STEPS_MAX):
        if end - begin < NEAR_S:
            break
        flow = solve(network, demand, line, at, Level.WORLD)
        if _is_whole(flow, demand):
            # By Newton's method: it is the begin that the last cut has proved.
            if at == begin:
                break
            end, at = at, (begin + at) / 2
            continue
        growth = float(flow.arcs.peak[flow.crossing].sum())
        begin = min(at + flow.short / growth, end) if growth > 0 else end
        at = begin
    return begin


def _alone(network: Network, demand: Demand, line: Timeline) -> tuple[float, str]:
    """Return when a fill can be over as far as each cache and each group by itself says."""
    by = stages(network, demand, line)
    caches = network.caches
    found = [(float(line.edges[0]), "nothing")]
    missing = demand.missing.astype(np.float64)
    for name, names, times in (
        ("the hours of cache", caches.names, reached(by.cache, missing, line)),
        ("what comes into ISP", caches.isps, reached(by.isp, demand.isp.astype(np.float64), line)),
        ("what comes into region", caches.regions, reached(by.region, demand.region.astype(np.float64), line)),
        ("what leaves the origins", ("",), reached(by.world, np.array([float(demand.world.sum())]), line)),
        ("what reaches cache", caches.names, in_turn(network, demand, line, by).at),
        (
            "what only it is to have, of cache", caches.names,
            reached(at_once(network, demand, line), demand.alone.astype(np.float64), line),
        ),
    ):  # fmt: skip
        if len(times):
            latest = int(np.argmax(times))
            found.append((float(times[latest]), f"{name} {names[latest]}".strip()))
    # Of equals the first: the simplest.
    return max(found, key=lambda one: one[0])


def _is_whole(flow: Flow, demand: Demand) -> bool:
    return flow.short <= negligible(int(demand.missing.sum()))
