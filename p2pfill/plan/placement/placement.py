"""What is to lie where tonight: copies that follow demand, within what caches can hold, serve and rewrite in a night.

Value is the demand of a cluster that its own caches serve, in bytes a day, less a price for each byte that is written.
Clusters have nothing to do with one another, so that each is placed by itself: by density matching and exchanges from
what its caches hold (`swaps`), and where that stays off its bound (`p2pfill.plan.placement.valuation`) by
neighbourhoods (`neighbourhood`). Where viewers of one cluster are served by caches of another in the same
ISP, make one cluster of them.

Invariants of a result: no cache holds more than its planned space, no file twice, and nothing excluded; pinned files
lie in their clusters where `unpinned` does not name them; nothing is written beyond the bound but for pins, and the
caches where that happened are in `exceeded`. The result is the same for the same arguments, and from its own result a
cluster that is `settled` changes nothing.

Rejected: consistent hashing by value (hot files meet in caches without the bandwidth for them), and one integer program
of all (hours, and a limit of time makes plans that differ from run to run).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import xxhash

from p2pfill.plan.placement.cluster import ClusterTask, Found, search, state_with, with_pins
from p2pfill.plan.placement.demand import Demand
from p2pfill.plan.placement.exact import Instance
from p2pfill.plan.placement.matching import Keys
from p2pfill.plan.placement.neighbourhood import refine
from p2pfill.plan.placement.tables import LeftOut, PlacementResult, PlacementSettings, Reason, Rules
from p2pfill.plan.placement.valuation import Bound, served_of, upper_bound
from p2pfill.plan.tables import Caches, Floats, Ints, Load, Longs, Placement

__all__ = [
    "LeftOut", "PlacementResult", "PlacementSettings", "Reason", "Rules", "exact_instance", "peak_share", "place",
]  # fmt: skip

HOUR_S: Final = 3600.0
UNBOUND: Final = 1 << 62
"""Bytes that may be written where nothing bounds them: more than any disk, and sums stay below 2 ** 63."""

REFINED_COPIES_MAX: Final = 2000
"""In a cluster: what is free in a neighbourhood is too small a part of larger ones to change much, and exchanges leave
them nearer to their bounds."""

SPENT: Final = 1e-3
"""Of a cluster's bandwidth: with less than this left, it is what is missing."""


def peak_share(load: Load) -> float:
    """Return the part of a day's bytes that falls into its busiest hour: the median of all days and names known whole.

    ValueError: no day is known whole.
    """
    skip = -load.first_hour % 24
    days = (load.served.shape[1] - skip) // 24
    hours = load.served[:, skip : skip + days * 24].reshape(-1, 24)
    hours = hours[np.isfinite(hours).all(axis=1)]
    hours = hours[hours.sum(axis=1) > 0]
    if not len(hours):
        raise ValueError("the load has no day of which all hours are known")
    return float(np.median(hours.max(axis=1) / hours.sum(axis=1)))


def bandwidth_of(caches: Caches, settings: PlacementSettings) -> Floats:
    """Return what each cache carries in a day whose busiest hour it can just serve, in bytes."""
    return caches.serving * (HOUR_S / settings.peak_share)


def space_of(caches: Caches, settings: PlacementSettings) -> Longs:
    """Return the bytes of each cache that are planned."""
    return (caches.capacity * (1.0 - settings.reactive_share)).astype(np.int64)


def writable_of(
    caches: Caches, held: Placement | None, size: Longs, settings: PlacementSettings, written: Longs | None = None,
    other: Longs | None = None,
) -> Longs:  # fmt: skip
    """Return what a night may write in each cache, in bytes; `written` is what it has written already.

    `other` is what lies there besides `held`, in bytes, of which nothing is planned: a cache with it is not empty, and
    its room is not free. What is free may be written besides the share, or a cache whose first night broke off would
    take ten to fill.
    """
    first = caches.capacity * settings.first_share if settings.first_share < 1 else np.full(len(caches.names), UNBOUND)
    if held is None:
        return first.astype(np.int64)
    counts = np.diff(held.start)
    owner = np.repeat(np.arange(len(counts)), counts)
    lies = np.bincount(owner, size[held.files], minlength=len(counts)).astype(np.int64)
    lies += 0 if other is None else other
    free = np.minimum(space_of(caches, settings) - lies, first)
    share = caches.capacity * settings.rewritten_share - (0 if written is None else written)
    return np.where(lies > 0, np.maximum(share, np.maximum(free, 0)), first).astype(np.int64)


def place(
    demand: Demand, size: Longs, caches: Caches, held: Placement | None, settings: PlacementSettings,
    rules: Rules | None = None, written: Longs | None = None, other: Longs | None = None,
) -> PlacementResult:  # fmt: skip
    """Return what is to lie in each cache.

    `size` is of each file, in bytes. `held` is what lies there; None: nothing. `written` is what plans before this one
    have written of each cache in the same night, and `other` what lies there that is none of these files, in bytes;
    None: nothing. ValueError: the tables do not fit one another, or a file is pinned and excluded in the same cluster.
    """
    if demand.files != len(size) or demand.clusters != len(caches.clusters):
        raise ValueError(
            f"demand is of {demand.clusters} clusters and {demand.files} files, "
            f"the tables have {len(caches.clusters)} and {len(size)}"
        )
    rules = rules or Rules()
    work = _Work(demand, size, caches, held, settings, rules, written, other)
    found: dict[int, Longs] = {}
    for cluster in range(demand.clusters):
        task = work.task(cluster)
        bound = upper_bound(task.demand, task.size, task.space, task.bandwidth)
        start, unpinned = with_pins(task, bound)
        best = search(task, start, bound, settings.passes)
        work.take(cluster, task, bound, best, unpinned)
        if work.missing(cluster) > settings.accepted_gap * bound.value and len(best.held) <= REFINED_COPIES_MAX:
            found[cluster] = best.held
    left = settings.neighbourhoods
    for cluster in sorted(found, key=lambda number: (-work.missing(number), number)):
        if left <= 0:
            break
        task = work.task(cluster)
        bound = upper_bound(task.demand, task.size, task.space, task.bandwidth)
        refined = refine(task, found[cluster], bound, left)
        left -= refined.solved
        best = search(task, refined.held, bound, settings.passes)
        # Within a bound on writing, neighbourhoods do not tell what more leave would have let them do.
        free = bool((task.writable == UNBOUND).all()) or not np.setdiff1d(best.held, task.held).size
        settled = free and best.is_settled and refined.is_settled and np.array_equal(best.held, refined.held)
        work.take(cluster, task, bound, Found(best.held, best.state, best.is_refused, settled), None)
    return work.result()


def exact_instance(
    cluster: int, demand: Demand, size: Longs, caches: Caches, held: Placement | None, settings: PlacementSettings,
    rules: Rules | None = None,
) -> Instance:  # fmt: skip
    """Return what `place` has to place in one cluster in the form that the exact solver takes, with the same bounds."""
    task = _Work(demand, size, caches, held, settings, rules or Rules()).task(cluster)
    lies = np.zeros((len(task.space), task.files), np.bool_)
    lies[np.divmod(task.held, task.files)] = True
    writable = np.minimum(task.writable, task.space)
    return Instance(
        task.demand, size, task.space, task.bandwidth, lies, writable, task.pinned, task.allowed, task.write_price
    )


def unserved_of(
    cluster: int, demand: Demand, size: Longs, caches: Caches, placed: Placement, settings: PlacementSettings
) -> Floats:
    """Return what is not served of each file in one cluster, in bytes, by what is placed there: routed, not planned."""
    task = _Work(demand, size, caches, placed, settings, Rules()).task(cluster)
    bound = upper_bound(task.demand, task.size, task.space, task.bandwidth)
    return np.maximum(state_with(task, task.held, bound).unserved, 0.0)


def served_by(demand: Demand, size: Longs, caches: Caches, placed: Placement, settings: PlacementSettings) -> Floats:
    """Return what the caches of each cluster serve of a day by what is placed there, in bytes."""
    work = _Work(demand, size, caches, placed, settings, Rules())
    found = np.zeros(demand.clusters)
    for cluster in range(demand.clusters):
        task = work.task(cluster)
        number, file = np.divmod(task.held, len(size))
        found[cluster] = served_of(task.demand, task.bandwidth, number.astype(np.int32), file.astype(np.int32))
    return found


class _Work:
    """The clusters one after another, and what came of each."""

    def __init__(
        self, demand: Demand, size: Longs, caches: Caches, held: Placement | None, settings: PlacementSettings,
        rules: Rules, written: Longs | None = None, other: Longs | None = None,
    ) -> None:  # fmt: skip
        self.demand, self.size, self.settings, self.rules = demand, size, settings, rules
        self.held = held or Placement(np.zeros(len(caches.names) + 1, np.int64), np.zeros(0, np.int32))
        self.members = [np.flatnonzero(caches.cluster == cluster) for cluster in range(demand.clusters)]
        self.space, self.bandwidth = space_of(caches, settings), bandwidth_of(caches, settings)
        self.writable = writable_of(caches, held, size, settings, written, other)
        self.keys: Keys = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in caches.names], np.uint64)
        self.files: list[Ints] = [np.zeros(0, np.int32)] * len(caches.names)
        clusters = demand.clusters
        self.asked, self.served, self.bound, self.aggregate = (np.zeros(clusters) for _ in range(4))
        self.missed = np.zeros((clusters, len(Reason)))
        self.left_out: list[list[LeftOut]] = [[] for _ in range(clusters)]
        self.unpinned: list[tuple[int, int]] = []
        self.settled = [False] * clusters
        self.excluded = _by_cluster(rules.excluded_cluster, rules.excluded_file, clusters)
        self.pinned = _by_cluster(rules.pinned_cluster, rules.pinned_file, clusters)

    def task(self, cluster: int) -> ClusterTask:
        """Return what a cluster has to place."""
        demand, files = self.demand.of(cluster), len(self.size)
        allowed, pinned = np.ones(files, np.bool_), np.zeros(files, np.bool_)
        allowed[self.excluded[cluster]] = False
        pinned[self.pinned[cluster]] = True
        if (pinned & ~allowed).any():
            raise ValueError(f"file {int(np.argmax(pinned & ~allowed))} is pinned and excluded in cluster {cluster}")
        demand[~allowed] = 0.0
        caches = self.members[cluster]
        held = [number * files + self.held.of(cache).astype(np.int64) for number, cache in enumerate(caches.tolist())]
        return ClusterTask(
            demand, self.size, pinned, allowed, self.space[caches], self.bandwidth[caches], self.keys[caches],
            np.concatenate([*held, np.zeros(0, np.int64)]), self.writable[caches],
            self.settings.write_price, self.settings.hysteresis,
        )  # fmt: skip

    def missing(self, cluster: int) -> float:
        """Return by how many bytes a day less is served than the bound."""
        return float(self.bound[cluster] - self.served[cluster])

    def take(self, cluster: int, task: ClusterTask, bound: Bound, found: Found, unpinned: Ints | None) -> None:
        """Note what came of a cluster. `unpinned`: pinned files that found no place; None: as noted before."""
        number, file = np.divmod(found.held, len(self.size))
        for at, cache in enumerate(self.members[cluster].tolist()):
            self.files[cache] = file[slice(*np.searchsorted(number, (at, at + 1)))].astype(np.int32)
        self.asked[cluster] = self.demand.of(cluster).sum()
        self.served[cluster] = served_of(task.demand, task.bandwidth, number.astype(np.int32), file.astype(np.int32))
        self.bound[cluster], self.aggregate[cluster] = bound.value, bound.aggregate
        self.settled[cluster] = found.is_settled
        self.unpinned += [] if unpinned is None else [(cluster, file) for file in unpinned.tolist()]
        missed = np.where(task.allowed, found.state.unserved, self.demand.of(cluster))
        reasons = reasons_of(task, found)
        self.missed[cluster] = np.bincount(reasons, np.maximum(missed, 0), minlength=len(Reason))
        least = np.partition(missed, -told)[-told] if (told := min(self.settings.told, len(missed))) else np.inf
        top = np.flatnonzero(missed >= least)
        top = top[np.argsort(-missed[top], kind="stable")][:told]
        self.left_out[cluster] = [
            LeftOut(cluster, file, float(missed[file]), Reason(int(reasons[file])))
            for file in top.tolist()
            if missed[file] > 0
        ]

    def result(self) -> PlacementResult:
        """Return what came of all clusters."""
        start = np.concatenate(([0], np.cumsum([len(files) for files in self.files]))).astype(np.int64)
        placement = Placement(start, np.concatenate([*self.files, np.zeros(0, np.int32)]))
        written = bytes_beyond(placement, self.held, self.size)
        return PlacementResult(
            placement, self.asked, self.served, self.bound, self.aggregate, written,
            bytes_beyond(self.held, placement, self.size), np.flatnonzero(written > self.writable).astype(np.int32),
            tuple(self.unpinned), self.missed, tuple(left for lefts in self.left_out for left in lefts),
            tuple(self.settled),
        )  # fmt: skip


def bytes_beyond(placement: Placement, other: Placement, size: Longs) -> Longs:
    """Return the bytes of each cache that it holds in `placement` and not in `other`."""
    return np.array(
        [
            int(size[np.setdiff1d(placement.of(cache), other.of(cache), assume_unique=True)].sum())
            for cache in range(len(placement.start) - 1)
        ],
        np.int64,
    )


def reasons_of(task: ClusterTask, found: Found) -> Longs:
    """Return for each file of a cluster why what is not served of it is not."""
    density = found.state.unserved / task.size
    least = (1 + task.hysteresis) * least_worth(found) + task.write_price
    spent = found.state.headroom.sum() <= SPENT * task.bandwidth.sum()
    return np.select(
        [
            ~task.allowed,
            task.size > task.space.max(initial=0),
            np.full(task.files, bool(spent)),
            density <= task.write_price,
            (density > least) & found.is_refused,
            found.state.copies > 0,
        ],
        [Reason.EXCLUDED, Reason.TOO_LARGE, Reason.BANDWIDTH, Reason.PRICE, Reason.REWRITING, Reason.BANDWIDTH],
        default=Reason.SPACE,
    )


def least_worth(found: Found) -> float:
    """Return the least that a byte of a copy serves a day."""
    state = found.state
    alive = np.flatnonzero(state.cache[: state.used[0]] >= 0)
    return float((state.served[alive] / state.size[state.file[alive]]).min(initial=np.inf)) if len(alive) else 0.0


def _by_cluster(clusters: Ints, files: Ints, count: int) -> list[Ints]:
    """Return the files of each cluster."""
    return [files[clusters == cluster] for cluster in range(count)]
