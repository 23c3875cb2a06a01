"""The coming night of a fleet as a `Network`: hours, rates and budgets by its policy, uplinks, origins. Pure."""

from __future__ import annotations

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
) -> tuple[Network, Night]:
    """Return the night that begins at `start`, in seconds since the epoch.

    `windows` is the timetable of caches of which the policy says none (`model.windows`), on their own clocks where it
    names no time zone; empty: these are always open. The night's deadline is when the last window closes that opens
    within a day, unless it is given. Raises `ConfigError`.
    """
    tables: list[FillWindows] = []
    filling = caches.filling.copy()
    for number, zone in enumerate(caches.zones):
        rule = None if policy is None else policy.rule_for(cache_info(caches, number))
        tables.append(_timetable(windows, zone) if rule is None or rule.windows is None else rule.windows)
        if rule is not None and rule.rates.inbound.total:
            filling[number] = min(filling[number], rule.rates.inbound.total)
    spans = tuple(night_spans(one, start, start + DAY_S + AFTER_S) for one in tables)
    ends = deadline if deadline is not None else _last_end(spans, start)
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


def _last_end(spans: tuple[tuple[Span, ...], ...], start: float) -> float:
    """Return when the last window closes that opens within a day of `start`; a day after it for what never closes."""
    ends = [span.end for its in spans for span in its if span.begin < start + DAY_S]
    ends = [end for end in ends if end < start + DAY_S + AFTER_S]  # what is open till then is open always
    return max(ends, default=start + DAY_S)
