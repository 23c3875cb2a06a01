"""What a placement is made by, and what it says: settings, the operator's rules, and the result. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from p2pfill.plan.tables import Floats, Ints, Longs, Placement


@dataclass(frozen=True, slots=True)
class PlacementSettings:
    """How a placement is made."""

    rewritten_share: float = 0.10
    """Of a cache's capacity that a night may write, or what is free of it where that is more. A plan that is wrong then
    costs a tenth at most."""
    first_share: float = 1.0
    """Of the capacity of a cache that holds nothing that a night may write: there is nothing to lose."""
    peak_share: float = 1 / 12
    """Of a day's bytes that falls into the busiest hour; `peak_share` finds it. A cache that can serve its part of that
    hour can serve its part of all others, so that `serving * 3600 / peak_share` is what it carries in a day. By the
    day's mean it would fail just when it is needed. The default is twice the mean hour."""
    write_price: float = 0.02
    """Bytes served a day that writing a byte costs: a copy that serves its own size less often than each fiftieth day
    is not worth its fill."""
    hysteresis: float = 0.05
    """By what part a new copy must serve more than what makes room for it, lest files go to and fro with the noise
    of forecasts."""
    reactive_share: float = 0.0
    """Of each disk that is left to a reactive policy: it pays where jumps that nobody foresees are common, and costs
    where not. `p2pfill.plan.placement.reactive` chooses it from history."""
    passes: int = 12
    """Of the exchanges over all files at most: they end when one changes nothing."""
    accepted_gap: float = 0.003
    """Off its bound: neighbourhoods are solved in clusters that are further off."""
    neighbourhoods: int = 60
    """In all, of the clusters that miss most bytes first; 0: none. Their time grows with
    the files that are free in them, not with the fleet."""
    told: int = 20
    """Files of each cluster of which it is told why they are not served, those of most bytes."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning. ValueError names the setting."""
        for name in ("rewritten_share", "first_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share: from 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.reactive_share < 1:
            raise ValueError(f"reactive_share is from 0 to below 1, not {self.reactive_share}")
        if not 1 / 24 <= self.peak_share <= 1:
            raise ValueError(f"peak_share is from 1/24 (all hours alike) to 1, not {self.peak_share}")
        if self.write_price < 0 or self.hysteresis < 0:
            raise ValueError("write_price and hysteresis are 0 or more")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator says of files in clusters, as pairs of two arrays each."""

    pinned_cluster: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    pinned_file: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    """At least one cache of the cluster is to hold it."""
    excluded_cluster: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    excluded_file: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    """No cache of the cluster may hold it."""


class Reason(IntEnum):
    """Why demand is not served."""

    EXCLUDED = 0
    """By a rule."""
    TOO_LARGE = 1
    """The file is larger than what is planned of any cache of the cluster."""
    BANDWIDTH = 2
    """Its caches, or all of the cluster, have none left."""
    PRICE = 3
    """It is asked for less than writing it costs."""
    REWRITING = 4
    """It is worth more than what lies there, but no more may be rewritten tonight."""
    SPACE = 5
    """What lies there is worth more, or as much but for the hysteresis."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Demand that is not served: a file, and why."""

    cluster: int
    file: int
    missed: float
    """Bytes a day."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class PlacementResult:
    """A placement, and what it is worth. Bytes served are of a day."""

    placement: Placement
    demand: Floats
    """Of each cluster, in bytes."""
    served: Floats
    """Of each cluster, by its own caches, in bytes: exact for this placement."""
    bound: Floats
    """Of each cluster: what no placement of the planned space serves more than, in bytes."""
    aggregate: Floats
    """The same from the sums over the cluster's caches alone, in bytes: never less than `bound`."""
    written: Longs
    """Of each cache: bytes that it did not hold."""
    dropped: Longs
    """Of each cache: bytes that it held and is not to hold."""
    exceeded: Ints
    """Caches where pins made it write more than the bound."""
    unpinned: tuple[tuple[int, int], ...]
    """Pins that found no place, as cluster and file."""
    missed: Floats
    """A row for each cluster and a column for each `Reason`: bytes not served as the planner routes. Their sum may be a
    little more than `demand` less `served`, which is of the best routing."""
    left_out: tuple[LeftOut, ...]
    settled: tuple[bool, ...]
    """Of each cluster: whether nothing is left to change. If not, a further night with the same demand goes on."""

    @property
    def gap(self) -> float:
        """By what part less is served in all than the bound."""
        return float(1 - self.served.sum() / self.bound.sum()) if self.bound.sum() > 0 else 0.0
