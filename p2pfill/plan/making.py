"""A plan out of tables: what is forecast, what is therefore to lie where, and what of that comes, stays and goes. Pure.

One pass through the planner's questions: `popularity` says what each region will watch, the history of load how its
viewers spread over clusters, `placement` what is to lie where, beside what lies there now. What does not fit into the
night (`feasibility`) is given up by `without`, and the rest is the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from p2pfill.errors import ConfigError
from p2pfill.model.ids import node_id_from_text
from p2pfill.plan.document import PRIORITIES, VERSION, Plan, PlanHead, PlannedCluster, PlannedFile
from p2pfill.plan.history.history import iso_of
from p2pfill.plan.placement.demand import Demand, regions_of_clusters, spread_demand, weights_by_serving
from p2pfill.plan.placement.placement import peak_share, place, served_by
from p2pfill.plan.placement.tables import PlacementResult, PlacementSettings, Reason, Rules
from p2pfill.plan.popularity.popularity import forecast
from p2pfill.plan.tables import Caches, Catalogue, Floats, Forecast, Ints, Load, Longs, Placement, Views
from p2pfill.plan.wishes import Wish

WEIGHT_HOURS: Final = 28 * 24
"""Of load, of which clusters' parts of their regions are taken: four whole weeks, so that no weekday counts more."""

EXPECTED_MIN: Final = 0.02
"""Streams of a file in a region in a day, below which nothing is said of it: one in fifty days. A plan of a hundred
thousand files in fifty regions would else have millions of numbers that are as good as none."""

TITLE_REASON: Final = {
    Reason.EXCLUDED: "excluded",
    Reason.TOO_LARGE: "larger than any cache of the cluster",
    Reason.BANDWIDTH: "no serving bandwidth left",
    Reason.PRICE: "asked for too little to be written",
    Reason.REWRITING: "no more may be rewritten tonight",
    Reason.SPACE: "what lies there is worth more",
}
"""Why demand is not served, as people are told."""

GIVEN_UP: Final = "does not fit into the night"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a plan is made of."""

    catalogue: Catalogue
    caches: Caches
    views: Views
    """By the regions of `caches`."""
    day: int
    """Whose viewing is planned for. Views of it and of later days do not count."""
    load: Load | None = None
    """Of clusters, in the order of `caches`; None: clusters have parts of their regions by serving bandwidth."""
    held: Placement | None = None
    """What lies there now; None: nothing."""
    settings: PlacementSettings = field(default_factory=PlacementSettings)
    pins: Sequence[Wish] = ()
    exclusions: Sequence[Wish] = ()
    written: Longs | None = None
    """What each cache has had written in the same night by plans before this one, in bytes; None: nothing."""
    other: Longs | None = None
    """What lies in each cache besides `held`, in bytes; None: nothing."""


@dataclass(frozen=True, slots=True)
class Made:
    """A plan as arrays, with what it came of."""

    inputs: Inputs
    forecast: Forecast
    demand: Demand
    result: PlacementResult
    given_up: float = 0.0
    """Bytes a day that what was given up would have served."""

    @property
    def target(self) -> Placement:
        """What is to lie where."""
        return self.result.placement

    @property
    def held(self) -> Placement:
        """What lies there now."""
        held = self.inputs.held
        return nothing_held(len(self.inputs.caches.names)) if held is None else held

    def worth(self) -> Floats:
        """Return what each entry of `target.files` is worth: bytes a day, shared by the copies of a cluster."""
        clusters, files = _copies(self.inputs.caches, self.target)
        keys, of_key, copies = np.unique(
            clusters.astype(np.int64) * self.demand.files + files, return_inverse=True, return_counts=True
        )
        asked = self.demand.rows[self.demand.row[keys // self.demand.files], keys % self.demand.files]
        found: Floats = (asked * self.demand.weight[keys // self.demand.files] / copies)[of_key]
        return found


    def coming(self) -> Longs:
        """Return the entries of `target.files` that do not lie there now, ascending."""
        files = self.demand.files
        wanted, have = (_owners(one).astype(np.int64) * files + one.files for one in (self.target, self.held))
        return np.flatnonzero(~np.isin(wanted, have))


def nothing_held(caches: int) -> Placement:
    """Return the placement of so many empty caches."""
    return Placement(np.zeros(caches + 1, np.int64), np.zeros(0, np.int32))


def make(inputs: Inputs) -> Made:
    """Return what is to lie where on a day. Raises `ConfigError` where what the operator says contradicts itself.

    The same inputs give the same plan.
    """
    check_names(inputs.catalogue, inputs.caches)
    said = forecast(inputs.views, inputs.catalogue, inputs.day)
    weights = weights_by_load(inputs.load, inputs.caches)
    demand = spread_demand(said, inputs.catalogue.size, inputs.caches, weights)
    rules = rules_of(inputs.pins, inputs.exclusions, inputs.catalogue, inputs.caches)
    try:
        result = place(
            demand, inputs.catalogue.size, inputs.caches, inputs.held, inputs.settings, rules, inputs.written,
            inputs.other,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"no plan can be made: {error}") from error
    return Made(inputs, said, demand, result)


def check_names(catalogue: Catalogue, caches: Caches) -> None:
    """Raise `ConfigError` where something is not named as in plans.

    A file is `TITLE/PATH`, or `TITLE` alone for all of it; a cache is called as its node is, since it is ordered for by
    that name.
    """
    for name in caches.names:
        node_id_from_text(name)
    for file, number in zip(catalogue.files, catalogue.title.tolist(), strict=True):
        title = catalogue.titles[number]
        if file != title and not file.startswith(f"{title}/"):
            raise ConfigError(
                f"the catalogue has file {file!r} of title {title!r}: a plan is applied to titles as the tracker has "
                f"them, so write {title + '/' + file!r}, or {title!r} for all of it"
            )
        if file.endswith("/"):
            raise ConfigError(f"the catalogue has {file!r}, which is no file: write {title!r} for all of a title")


def with_peak_of(load: Load | None, settings: PlacementSettings) -> PlacementSettings:
    """Return settings with the share of the busiest hour that a load has; as they are, where no day of it is known."""
    if load is None:
        return settings
    try:
        return replace(settings, peak_share=peak_share(load))
    except ValueError:
        return settings


def weights_by_load(load: Load | None, caches: Caches) -> Floats:
    """Return the part of its region's viewers that each cluster has, as it served in the last four weeks.

    Where nothing is known of the load of a cluster, its region is split by serving bandwidth.
    """
    by_serving = weights_by_serving(caches)
    if load is None or not load.served.shape[1]:
        return by_serving
    region = regions_of_clusters(caches)
    served = np.nansum(load.served[:, -WEIGHT_HOURS:], axis=1)
    unknown = np.bincount(region, served <= 0, minlength=len(caches.regions)) > 0
    whole = np.bincount(region, served, minlength=len(caches.regions))[region]
    shares = np.divide(served, whole, out=np.zeros_like(served), where=whole > 0)
    return np.where(unknown[region], by_serving, shares)


def rules_of(pins: Sequence[Wish], exclusions: Sequence[Wish], catalogue: Catalogue, caches: Caches) -> Rules:
    """Return wishes as pairs of clusters and files. Of what is both, the exclusion holds.

    Raises `ConfigError` for a title or region that there is not: a slip of the pen must not pass for a wish.
    """
    out = _pairs(exclusions, "exclude", catalogue, caches)
    pinned = np.setdiff1d(_pairs(pins, "pin", catalogue, caches), out)
    count = max(len(catalogue.files), 1)
    (in_cluster, in_file), (out_cluster, out_file) = (np.divmod(keys, count) for keys in (pinned, out))
    return Rules(
        in_cluster.astype(np.int32), in_file.astype(np.int32), out_cluster.astype(np.int32), out_file.astype(np.int32)
    )  # fmt: skip


def _pairs(wishes: Sequence[Wish], what: str, catalogue: Catalogue, caches: Caches) -> Longs:
    """Return clusters and files as numbers, ascending, each once."""
    of_cluster = regions_of_clusters(caches)
    found = [np.zeros(0, np.int64)]
    for wish in wishes:
        if wish.title not in catalogue.titles:
            raise ConfigError(f"{what}: the catalogue has no title {wish.title!r}")
        unknown = [name for name in wish.regions if name not in caches.regions]
        if unknown:
            raise ConfigError(f"{what} of title {wish.title!r}: no cache stands in region {unknown[0]!r}")
        regions = [caches.regions.index(name) for name in wish.regions] or range(len(caches.regions))
        clusters = np.flatnonzero(np.isin(of_cluster, list(regions)))
        files = np.flatnonzero(catalogue.title == catalogue.titles.index(wish.title))
        found.append((clusters[:, None] * np.int64(len(catalogue.files)) + files[None, :]).ravel())
    return np.unique(np.concatenate(found))


def without(made: Made, given_up: Longs) -> Made:
    """Return what is left where some entries of `target.files` are given up, which were to come.

    What they would have replaced stays as it is: nothing goes before its room is needed.
    """
    target = made.target
    kept = np.ones(len(target.files), np.bool_)
    kept[given_up] = False
    counts = np.add.reduceat(np.append(kept, False).astype(np.int64), target.start[:-1])
    counts[np.diff(target.start) == 0] = 0
    start = np.concatenate([[0], np.cumsum(counts)])
    size = made.inputs.catalogue.size
    lost = np.bincount(_owners(target)[given_up], size[target.files[given_up]], minlength=len(counts))
    placement = Placement(start, target.files[kept])
    served = np.minimum(
        served_by(made.demand, size, made.inputs.caches, placement, made.inputs.settings), made.result.served
    )
    result = replace(
        made.result, placement=placement, written=made.result.written - lost.astype(np.int64), served=served
    )  # fmt: skip
    return replace(made, result=result, given_up=made.given_up + float((made.result.served - served).sum()))


# ---- as a document


def document(made: Made, made_at: float) -> Plan:
    """Return a plan as it is kept. `made_at` is in seconds since the epoch.

    Files that lie nowhere and are to lie nowhere are in it where something is expected of them.
    """
    catalogue, caches = made.inputs.catalogue, made.inputs.caches
    held, target = made.held, made.target
    priority = _priorities(made)
    streams, spread = made.forecast.streams, made.forecast.spread
    wanted, lies = (_holders(one, len(catalogue.files), caches.names) for one in (target, held))
    files = []
    expected = np.flatnonzero((streams >= EXPECTED_MIN).any(axis=0))
    for number in np.unique(np.concatenate([expected, target.files, held.files])):
        to, at = wanted.get(int(number), frozenset()), lies.get(int(number), frozenset())
        files.append(
            PlannedFile(
                catalogue.files[number],
                catalogue.titles[catalogue.title[number]],
                int(catalogue.size[number]),
                round(float(streams[:, number].sum()), 3),
                tuple(sorted(to - at)),
                tuple(sorted(to & at)),
                tuple(sorted(at - to)),
                int(priority[number]),
                {
                    made.forecast.regions[region]: (
                        round(float(streams[region, number]), 3),
                        round(float(spread[region, number]), 3),
                    )
                    for region in np.flatnonzero(streams[:, number] >= EXPECTED_MIN)
                },
            )
        )
    return Plan(_head(made, made_at, files), tuple(sorted(files, key=lambda one: one.file)))


def _head(made: Made, made_at: float, files: Sequence[PlannedFile]) -> PlanHead:
    views, result = made.inputs.views, made.result
    caches = made.inputs.caches
    comes = sum(one.size * len(one.comes) for one in files)
    goes = sum(one.size * len(one.goes) for one in files)
    lies = goes + sum(one.size * len(one.stays) for one in files)
    missed = result.missed.sum(axis=0)
    return PlanHead(
        VERSION, iso_of(made.inputs.day), made_at,
        (iso_of(views.first_day), iso_of(min(views.last_day, made.inputs.day - 1))),
        len(caches.names), len(made.inputs.catalogue.files),
        float(result.demand.sum()), float(result.served.sum()), float(result.bound.sum()),
        comes, goes, 1.0 - goes / lies if lies else 1.0,
        dict(zip(caches.names, map(int, caches.capacity), strict=True)),
        {name: float(value) for name, value in _settings(made.inputs.settings).items()},
        {TITLE_REASON[reason]: float(missed[reason]) for reason in Reason if missed[reason] > 0}
        | ({GIVEN_UP: made.given_up} if made.given_up > 0 else {}),
        _clusters(made),
    )  # fmt: skip


def _clusters(made: Made) -> dict[str, PlannedCluster]:
    """Return what the plan went by in each cluster."""
    caches, result, settings = made.inputs.caches, made.result, made.inputs.settings
    clusters, files = _copies(caches, made.target)
    streams = made.worth() / made.inputs.catalogue.size[files]
    least = np.full(len(caches.clusters), np.inf)
    np.minimum.at(least, clusters, streams)
    # Only where what is asked for found no space is the copy that serves least one that others would have to beat.
    is_full = (result.missed[:, [Reason.SPACE, Reason.REWRITING]] > 0).any(axis=1) & np.isfinite(least)
    beaten = np.where(is_full, np.where(np.isfinite(least), least, 0.0) * (1 + settings.hysteresis), 0.0)
    margin = beaten + settings.write_price
    return {
        name: PlannedCluster(
            float(made.demand.weight[number]), float(margin[number]), float(result.demand[number]),
            float(result.served[number]),
        )
        for number, name in enumerate(caches.clusters)
    }  # fmt: skip


def _settings(settings: PlacementSettings) -> dict[str, float]:
    names = (
        "rewritten_share", "first_share", "peak_share", "write_price", "hysteresis", "reactive_share"
    )  # fmt: skip
    return {name: getattr(settings, name) for name in names}


def _priorities(made: Made) -> Ints:
    """Return the urgency of each file, 1 to `PRIORITIES`: by what a byte of it serves, in steps of equal bytes."""
    size = made.inputs.catalogue.size
    entry = made.worth() / size[made.target.files]
    files = len(size)
    copies = np.bincount(made.target.files, minlength=files)
    density = np.divide(
        np.bincount(made.target.files, entry, minlength=files), copies, out=np.zeros(files), where=copies > 0
    )
    order = np.lexsort((np.arange(files), density))
    bytes_ = (size * copies.astype(np.float64))[order]
    before = np.cumsum(bytes_) - bytes_ / 2
    found = np.ones(files, np.int32)
    if bytes_.sum():
        found[order] = 1 + np.minimum((before * PRIORITIES) // bytes_.sum(), PRIORITIES - 1)
    return found


def _owners(placement: Placement) -> Ints:
    return np.repeat(np.arange(len(placement.start) - 1, dtype=np.int32), np.diff(placement.start))


def _copies(caches: Caches, placement: Placement) -> tuple[Ints, Ints]:
    """Return the cluster and the file of each copy."""
    return caches.cluster[_owners(placement)], placement.files


def _holders(placement: Placement, files: int, names: Sequence[str]) -> dict[int, frozenset[str]]:
    """Return file -> names of the caches that have it, for files that some have."""
    order = np.argsort(placement.files, kind="stable")
    owners, numbers = _owners(placement)[order], placement.files[order]
    ends = np.searchsorted(numbers, np.arange(files + 1))
    return {
        file: frozenset(names[owner] for owner in owners[ends[file] : ends[file + 1]])
        for file in np.unique(numbers).tolist()
    }


def as_placements(plan: Plan, catalogue: Catalogue, caches: Caches) -> tuple[Placement, Placement]:
    """Return what is to lie where by a plan, and what lay there when it was made.

    Raises `ConfigError` where it names a file or a cache that the tables do not have any more.
    """
    file_at = {name: number for number, name in enumerate(catalogue.files)}
    cache_at = {name: number for number, name in enumerate(caches.names)}
    target: list[list[int]] = [[] for _ in caches.names]
    held: list[list[int]] = [[] for _ in caches.names]
    for one in plan.files:
        if one.file not in file_at:
            raise ConfigError(f"the plan has file {one.file!r}, which the catalogue does not have: make the plan anew")
        for names, lists in (
            (one.comes, (target,)), (one.stays, (target, held)), (one.goes, (held,)),
        ):  # fmt: skip
            for name in names:
                if name not in cache_at:
                    raise ConfigError(f"the plan has cache {name!r}, which the table does not have: make it anew")
                for list_ in lists:
                    list_[cache_at[name]].append(file_at[one.file])
    return placement_of(target), placement_of(held)


def placement_of(files: Sequence[Sequence[int]]) -> Placement:
    """Return a placement out of the files of each cache, by number."""
    start = np.concatenate([[0], np.cumsum([len(one) for one in files])]).astype(np.int64)
    return Placement(start, np.array([file for one in files for file in sorted(one)], np.int32))


def room_of(plan: Plan, caches: Caches) -> Longs:
    """Return what each cache has for what comes, in bytes: what its capacity leaves beside what stays."""
    cache_at = {name: number for number, name in enumerate(caches.names)}
    room = caches.capacity.copy()
    for one in plan.files:
        for name in one.stays:
            if name in cache_at:
                room[cache_at[name]] -= one.size
    return np.maximum(room, 0)
