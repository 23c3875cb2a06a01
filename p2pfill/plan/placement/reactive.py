"""What part of each disk a reactive policy should have, chosen by replaying days.

A planned disk serves what was foreseen, a reactive one what has just been asked for. The part that is left to the
latter costs the coldest planned files, and serves what jumps; which is more is a matter of the operator's viewers.

For each share that is asked about, days are replayed: a placement is made from the forecast of a day, and that day's
requests are drawn from what was really asked for. What the placement serves is taken off; the rest of a cluster's
requests go, in the order in which they are drawn, to an LRU of files that keeps its content from day to day. The
reactive parts of a cluster are one pool, as they are where files are sharded over them by consistent hashing.

The LRU is given what the caches' bandwidth leaves, so that neither part is promised bandwidth that the other uses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.random import Generator, default_rng

from p2pfill.plan.placement.demand import Demand
from p2pfill.plan.placement.placement import PlacementSettings, Rules, bandwidth_of, place, unserved_of
from p2pfill.plan.tables import Caches, Floats, Longs, Placement

SHARES: Final = (0.0, 0.05, 0.1, 0.2, 0.3)
"""Those that are tried: each costs a replay."""

REQUESTS_MAX: Final = 200_000
"""Of a cluster and day: more are thinned out, each file's by the same part. What an LRU that is full serves depends on
the ratios of rates alone; it fills more slowly, so that a reactive part looks a little worse than it is."""

WARM_DAYS: Final = 1
"""Days that fill the LRU and count for nothing."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a share served over the days that count, in bytes."""

    share: float
    planned: float
    reactive: float
    asked: float

    @property
    def served(self) -> float:
        """By both parts, of what was asked for: from 0 to 1."""
        return (self.planned + self.reactive) / self.asked if self.asked else 0.0


class Lru:
    """Files that were asked for last, within a number of bytes."""

    def __init__(self, space: int) -> None:
        self.space = space
        self.used = 0
        self.files: OrderedDict[int, int] = OrderedDict()

    def ask(self, file: int, size: int) -> bool:
        """Ask for a file, and return whether it was there. It is afterwards, if it fits at all."""
        if file in self.files:
            self.files.move_to_end(file)
            return True
        if size > self.space:
            return False
        self.files[file] = size
        self.used += size
        while self.used > self.space:
            self.used -= self.files.popitem(last=False)[1]
        return False


def replay(
    share: float, days: Sequence[tuple[Demand, Demand]], size: Longs, caches: Caches, settings: PlacementSettings,
    rules: Rules | None = None, seed: int = 0,
) -> Replayed:  # fmt: skip
    """Return what a reactive share serves over `days`, each as forecast and as it was, in bytes a day.

    The first `WARM_DAYS` count for nothing. ValueError: there are no more days than that.
    """
    if len(days) <= WARM_DAYS:
        raise ValueError(f"a replay takes {WARM_DAYS + 1} days or more, and has {len(days)}")
    settings = replace(settings, reactive_share=share, neighbourhoods=0, told=0)
    bandwidth = np.bincount(caches.cluster, bandwidth_of(caches, settings), minlength=len(caches.clusters))
    pool = np.bincount(caches.cluster, caches.capacity * share, minlength=len(caches.clusters))
    pools = [Lru(int(space)) for space in pool.tolist()]
    held: Placement | None = None
    planned = reactive = asked = 0.0
    rng = default_rng(seed)
    for day, (forecast, actual) in enumerate(days):
        held = place(forecast, size, caches, held, settings, rules).placement
        for cluster, lru in enumerate(pools):
            demand = actual.of(cluster)
            left = unserved_of(cluster, actual, size, caches, held, settings)
            by_plan = float((demand - left).sum())
            hits = hits_of(lru, left, size, rng) if lru.space else 0.0
            if day >= WARM_DAYS:
                planned += by_plan
                reactive += min(hits, max(0.0, float(bandwidth[cluster]) - by_plan))
                asked += float(demand.sum())
    return Replayed(share, planned, reactive, asked)


def hits_of(lru: Lru, demand: Floats, size: Longs, rng: Generator) -> float:
    """Return what an LRU serves of a day's demand, in bytes: requests for whole files, Poisson, in any order."""
    expected = demand / size
    kept = min(1.0, REQUESTS_MAX / expected.sum()) if expected.sum() > 0 else 1.0
    counts = rng.poisson(expected * kept)
    requests = rng.permutation(np.repeat(np.arange(len(size)), counts))
    sizes = size[requests].tolist()
    hit = sum(length for file, length in zip(requests.tolist(), sizes, strict=True) if lru.ask(file, length))
    whole = sum(sizes)
    return float(hit / whole * demand.sum()) if whole else 0.0


def choose_reactive_share(
    days: Sequence[tuple[Demand, Demand]], size: Longs, caches: Caches, settings: PlacementSettings,
    rules: Rules | None = None, shares: Sequence[float] = SHARES, seed: int = 0,
) -> tuple[float, tuple[Replayed, ...]]:  # fmt: skip
    """Return the share that would have served most over `days`, the least of equals, and what each would have.

    `days` are forecasts made beforehand and what came. Some clusters are enough: all shares are replayed on all of
    them, from the same seed.
    """
    replayed = tuple(replay(share, days, size, caches, settings, rules, seed) for share in sorted(shares))
    return max(replayed, key=lambda one: (one.served, -one.share)).share, replayed
