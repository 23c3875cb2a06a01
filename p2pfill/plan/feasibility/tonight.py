"""The coming night of a fleet as a `Network`: hours, rates and budgets by its policy, uplinks, origins. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from math import inf
from typing import Final

import numpy as np

from p2pfill.model.fleet_policy import FleetPolicy
from p2pfill.model.ids import node_id_from_text
from p2pfill.model.node import NodeInfo
from p2pfill.model.windows import ALWAYS_OPEN, FillWindows, read_windows
from p2pfill.plan.feasibility.network import Network, Night, Origin, Span, night_budget, night_spans
from p2pfill.plan.inputs import Origins, Uplinks
from p2pfill.plan.tables import Caches, Longs

DAY_S: Final = 86_400.0

NIGHT_S: Final = DAY_S - 3600.0
"""A window that opens so long after a night began is the next night's: it is one of this night once more, where the
clock is put forward in between, or the night was begun within an hour after its window."""

AFTER_S: Final = DAY_S
"""For how long after the deadline a finish is looked for: one that comes the night after is none."""


def cache_info(caches: Caches, cache: int) -> NodeInfo:
    """Return a cache as policies see it. Raises `ConfigError` where its name is not one that nodes can have."""
    cluster = int(caches.cluster[cache])
    isp = int(caches.isp[cluster])
    return NodeInfo(
        node_id_from_text(caches.names[cache]), caches.isps[isp], caches.regions[int(caches.region[isp])],
        caches.clusters[cluster],
    )  # fmt: skip


def network_of(
    caches: Caches,
    start: float,
    *,
    policy: FleetPolicy | None = None,
    windows: str = "",
    uplinks: Uplinks | None = None,
    origins: Origins | None = None,
    room: Longs | None = None,
    deadline: float | None = None,
    open_until: float = 0.0,
) -> tuple[Network, Night]:
    """Return the night that begins at `start`, in seconds since the epoch.

    `windows` is the timetable of caches of which the policy says none (`model.windows`), on their own clocks where it
    names no time zone; empty: these are always open. The night's deadline is when the last window closes that is one of
    this night (`_night_ends`), unless it is given. Where no window closes it is a day after `start`, or `open_until`,
    where that lies between: when the same night was to end that is planned once more. Raises `ConfigError`.
    """
    tables: list[FillWindows] = []
    filling = caches.filling.copy()
    for number, zone in enumerate(caches.zones):
        rule = None if policy is None else policy.rule_for(cache_info(caches, number))
        tables.append(_timetable(windows, zone) if rule is None or rule.windows is None else rule.windows)
        if rule is not None and rule.rates.inbound.total:
            filling[number] = min(filling[number], rule.rates.inbound.total)
    ends = deadline if deadline is not None else _last_end(tables, start, open_until)
    night = Night(start, ends, ends + AFTER_S)
    spans = tuple(night_spans(one, start, night.horizon) for one in tables)
    budget = np.array(
        [night_budget(one, start, ends, float(rate)) for one, rate in zip(tables, filling, strict=True)], np.float64
    )
    froms = (
        (Origin("the origins"),)
        if origins is None
        else tuple(Origin(name, float(rate)) for name, rate in zip(origins.names, origins.rate, strict=True))
    )
    network = Network(
        replace(caches, filling=filling),
        spans,
        np.full(len(caches.isps), inf) if uplinks is None else uplinks.isp,
        np.full(len(caches.regions), inf) if uplinks is None else uplinks.region,
        froms,
        sending=caches.serving,
        room=room,
        budget=budget if np.isfinite(budget).any() else None,
    )
    return network, night


@lru_cache(maxsize=1024)
def _timetable(text: str, zone: str) -> FillWindows:
    if not text:
        return ALWAYS_OPEN
    has_zone = ":" not in text.split(" ", 1)[0]
    return read_windows(text if has_zone else f"{zone} {text}")


def _last_end(tables: Iterable[FillWindows], start: float, open_until: float) -> float:
    """Return when the last window of the night closes."""
    distinct = {id(table): table for table in tables}.values()
    by_default = open_until if start < open_until < start + DAY_S else start + DAY_S
    return max((end for table in distinct for end in _night_ends(table, start)), default=by_default)


def _night_ends(windows: FillWindows, start: float) -> list[float]:
    """Return when the windows of one night close.

    These are they that open within `NIGHT_S`, of `start` or of when the one opened that is under way, if at least half
    of it is left; where there is none, they that open within a day.
    """
    turns: list[Span] = []
    for span in night_spans(windows, start - DAY_S, start + DAY_S + AFTER_S):
        if turns and turns[-1].end == span.begin:  # at another rate
            turns[-1] = Span(turns[-1].begin, span.end, span.rate)
        else:
            turns.append(span)
    turns = [turn for turn in turns if turn.end > start]
    opened = turns[0].begin if turns and turns[0].end - start >= start - turns[0].begin >= 0 else start
    near = [turn for turn in turns if turn.begin < opened + NIGHT_S]
    near = near or [turn for turn in turns if turn.begin < start + DAY_S]
    return [turn.end for turn in near if turn.end < start + DAY_S + AFTER_S]  # what is open till then is open always
