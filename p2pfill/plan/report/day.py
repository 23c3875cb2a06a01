"""The day after: each byte that was watched is a hit or one kind of miss. Pure.

What is watched in a region is split among its clusters by the part of the viewers that the plan takes each to have, in
whole bytes that add up. The bytes b of one file in one cluster are in exactly one class, the first that fits:

1. `planned`, a hit: a cache of the cluster was to have the file, and has it.
2. `besides`, a hit: none was to have it or none has it by the plan, and one has its whole title by another order.
3. Planned and not there: caches of the cluster were to have it, and none has. Of several that cache counts that had
   most of the title, of equals the first by name: `window`, `rate`, `route`, `health`, `order`, as in `night`.
4. Not planned: no cache of the cluster was to have it.
   - `new`: the plan does not name the file, and it was released after the last day of the plan's history, or never
     watched in it. Nothing could have told of it.
   - `too low`: it was known; what was watched would have earned it a place and what was expected did not. With the
     cluster's margin m, and e streams expected and b / size watched in the cluster: e <= m < b / size.
   - `no space`: it was known, and is neither. What was watched would not have earned it a place (b / size <= m), or it
     was expected to earn one and did not fit: for the bound on rewriting, for bandwidth, since it is too large.

Nothing is said of whether a cache had the bandwidth for its hits; `carries` is what it can serve in such a day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from p2pfill.errors import ConfigError
from p2pfill.plan.document import Plan
from p2pfill.plan.placement.demand import weights_by_serving
from p2pfill.plan.placement.tables import PlacementSettings
from p2pfill.plan.report.copies import Copy
from p2pfill.plan.report.night import WHYS, NightFacts
from p2pfill.plan.tables import Caches, Catalogue, Floats, Longs, Views

Class = Literal[
    "planned", "besides", "new", "too low", "no space", "window", "rate", "route", "health", "order"
]  # fmt: skip
CLASSES: Final[tuple[Class, ...]] = get_args(Class)
HITS: Final = 2
"""So many of the first classes are hits."""
NUMBER: Final = {name: number for number, name in enumerate(CLASSES)}

EXAMPLES_MAX: Final = 20
"""Of each class of misses, those of most bytes."""
FILES_MAX: Final = 40
"""Pairs of file and region of which forecast and outcome are given one by one, those of most bytes."""

Bools = NDArray[np.bool_]


class Example(msgspec.Struct, frozen=True):
    """A file that was missed in a cluster."""

    cluster: str
    file: str
    bytes: int
    streams: float
    """Watched: bytes divided by the size."""
    expected: float
    """Streams."""
    margin: float
    """Streams above which a file found a place in the cluster."""
    said: str = ""
    """Why it is not there; empty: it was not planned."""


class Part(msgspec.Struct):
    """A class of what was watched."""

    name: Class
    bytes: int = 0
    files: int = 0
    """Pairs of cluster and file."""
    examples: list[Example] = []
    """None of hits."""


class ClusterDay(msgspec.Struct):
    """One cluster. All in bytes of the day."""

    cluster: str
    region: str
    expected_bytes: float
    demand_bytes: int
    hit_bytes: int
    """Of files that a cache of it has."""
    expected_hit_bytes: float
    carries_bytes: float
    """What its caches can serve in a day like this: so much that the busiest hour just fits."""
    margin: float
    parts: dict[Class, int]
    """Class -> bytes, of those that have any."""


class FileDay(msgspec.Struct, frozen=True):
    """One file in one region: streams of the day."""

    file: str
    region: str
    size: int
    expected: float
    spread: float
    """Standard deviation of what is expected."""
    came: float


class RegionDay(msgspec.Struct):
    """One region, in bytes of the day."""

    region: str
    expected_bytes: float
    demand_bytes: int


class DayReport(msgspec.Struct):
    """What was watched, and what of it was there."""

    demand_bytes: int
    hit_bytes: int
    """What a cache of the viewers' cluster had."""
    expected_bytes: float
    expected_hit_bytes: float
    parts: list[Part]
    """One for each of `CLASSES`, in their order. Their bytes add up to `demand_bytes`."""
    clusters: list[ClusterDay]
    regions: list[RegionDay]
    files: list[FileDay]
    """Those of most bytes, by what was expected or came."""
    banded: int
    """Pairs of file and region of which at least one stream was expected,"""
    in_band: int
    """and of those such that came within their band of 90 %."""
    unknown_files: int
    """Of the plan, that the catalogue does not have: they are missed wherever they are watched under other names."""
    unknown_file: str
    """One of these."""


BAND: Final = 1.645
"""Standard deviations on either side of what is expected, within which 90 % should come (normal distribution)."""


@dataclass(frozen=True, slots=True)
class Day:
    """What was watched, and the tables of that day."""

    views: Views
    """Its regions are those of `caches`."""
    catalogue: Catalogue
    caches: Caches
    seen: Bools | None = None
    """Of each file of the catalogue: whether it was watched within the plan's history; None: not known."""
    unknown_bytes: int = 0
    """Watched besides, of files or in regions that the tables do not name."""


def plan_name(title: str, file: str) -> str:
    """Return how the planner names a file of a catalogue: `TITLE/PATH`, or `TITLE` for all of a title."""
    return file if file == title or file.startswith(f"{title}/") else f"{title}/{file}"


def day_number(day: str) -> int:
    """Return a date, as 2026-12-01, in days since 1970. Raises `ConfigError`."""
    try:
        return (date.fromisoformat(day) - date(1970, 1, 1)).days
    except ValueError as error:
        raise ConfigError(f"{day[:40]!r} is no date, as 2026-12-01 is: the plan is damaged") from error


def split_bytes(total: Longs, weights: Floats) -> Longs:
    """Return how many bytes fall to each of some clusters, in whole bytes that add up to `total`.

    `total` is of each file, in bytes, below 2 ** 53; `weights` of each cluster, all together 1. A row for each cluster.
    """
    edges = np.floor(np.outer(np.cumsum(weights), total.astype(np.float64))).astype(np.int64)
    edges = np.minimum(edges, total)
    edges[-1] = total
    return np.diff(edges, axis=0, prepend=0)


class _Ledger:
    """Sums up cluster by cluster."""

    def __init__(self, plan: Plan, night: NightFacts, copies: Iterable[Copy], day: Day) -> None:
        catalogue = day.catalogue
        self.plan, self.day, self.night = plan, day, night
        title_of = catalogue.title.tolist()
        self.names = [plan_name(catalogue.titles[title_of[at]], file) for at, file in enumerate(catalogue.files)]
        self.place = {name: at for at, name in enumerate(self.names)}
        self.planned = {file.file: file for file in plan.files}
        self.is_new = self._new()
        self.cluster_of = dict(zip(day.caches.names, day.caches.cluster.tolist(), strict=True))
        self.there: dict[int, list[int]] = defaultdict(list)
        self.lacking: dict[int, dict[int, Copy]] = defaultdict(dict)
        for copy in copies:
            cluster, at = self.cluster_of.get(copy.cache), self.place.get(copy.file.file)
            if cluster is None or at is None:
                continue
            if copy.why is None:
                self.there[cluster].append(at)
                continue
            best = self.lacking[cluster].get(at)
            if best is None or (-copy.have_bytes, copy.cache) < (-best.have_bytes, best.cache):
                self.lacking[cluster][at] = copy
        self.besides = self._besides()
        self.expected = self._expected()
        self.viewers = self._viewers()
        self.parts = [Part(name, examples=[]) for name in CLASSES]

    def _new(self) -> Bools:
        """Tell of each file of the catalogue whether nothing could have told of it."""
        day, catalogue = self.day, self.day.catalogue
        last = day_number(self.plan.head.history[1])
        is_named = np.fromiter((name in self.planned for name in self.names), np.bool_, len(self.names))
        is_new = catalogue.released[catalogue.title] > last
        if day.seen is not None:
            is_new = is_new | ~day.seen
        return ~is_named & is_new

    def _besides(self) -> dict[int, list[int]]:
        """Return of each cluster the files whose whole titles a cache has that the plan does not want there."""
        catalogue = self.day.catalogue
        of_title: dict[str, list[int]] = defaultdict(list)
        for at, title in enumerate(catalogue.title.tolist()):
            of_title[catalogue.titles[title]].append(at)
        wanted = {(file.title, cache) for file in self.plan.files for cache in file.holders}
        found: dict[int, list[int]] = defaultdict(list)
        for title, caches in self.night.titles.items():
            files = of_title.get(title, [])
            whole = int(catalogue.size[files].sum())
            for cache, facts in caches.items():
                cluster, here = self.cluster_of.get(cache), self.night.caches.get(cache)
                is_up = here is not None and not here.down
                if cluster is None or not is_up or not facts.is_whole or (title, cache) in wanted:
                    continue
                if facts.have_bytes >= whole:
                    found[cluster] += files
        return found

    def _expected(self) -> tuple[Floats, Floats]:
        """Return streams expected of each region and file, and their standard deviation."""
        regions = {name: at for at, name in enumerate(self.day.caches.regions)}
        mean = np.zeros((len(regions), len(self.names)))
        spread = np.zeros_like(mean)
        for file in self.plan.files:
            at = self.place.get(file.file)
            for region, (streams, deviation) in file.expected.items() if at is not None else ():
                if region in regions:
                    mean[regions[region], at], spread[regions[region], at] = streams, deviation
        return mean, spread

    def _viewers(self) -> Floats:
        """Return the part of its region's viewers that each cluster has; together 1 in each region."""
        caches = self.day.caches
        region = caches.region[caches.isp]
        told = self.plan.head.clusters
        weights = weights_by_serving(caches)
        if all(name in told for name in caches.clusters):
            weights = np.array([told[name].viewers for name in caches.clusters])
        sums = np.bincount(region, weights, minlength=len(caches.regions))[region]
        counts = np.bincount(region, minlength=len(caches.regions))[region]
        result: Floats = np.divide(weights, sums, out=1.0 / counts, where=sums > 0)
        return result

    def margin(self, cluster: int, expected: Floats) -> float:
        """Return the streams a day above which a file found a place in a cluster.

        Where the plan does not say: what is expected of the file there of which least is, for each of its copies.
        """
        name = self.day.caches.clusters[cluster]
        if name in self.plan.head.clusters:
            return self.plan.head.clusters[name].margin
        copies: dict[int, int] = defaultdict(int)
        for at in (*self.there[cluster], *self.lacking[cluster]):
            copies[at] += 1
        return min((float(expected[at]) / count for at, count in copies.items()), default=0.0)

    def take(self, cluster: int, demand: Longs, expected: Floats) -> ClusterDay:
        """Sort what was watched in one cluster. `demand` is of each file in bytes, `expected` in streams."""
        size, caches = self.day.catalogue.size, self.day.caches
        margin = self.margin(cluster, expected)
        watched = demand / size
        number = np.full(len(demand), NUMBER["no space"], np.int8)
        number[(expected <= margin) & (margin < watched)] = NUMBER["too low"]
        number[self.is_new] = NUMBER["new"]
        for at, copy in self.lacking[cluster].items():
            number[at] = NUMBER[copy.why or "order"]
        number[self.besides.get(cluster, [])] = NUMBER["besides"]
        number[self.there[cluster]] = NUMBER["planned"]
        parts: dict[Class, int] = {}
        for part, its in ((part, number == NUMBER[part.name]) for part in self.parts):
            if not (total := int(demand[its].sum())):
                continue
            parts[part.name] = total
            part.bytes += total
            part.files += int((demand[its] > 0).sum())
            if NUMBER[part.name] >= HITS:
                self._keep_examples(part, cluster, np.flatnonzero(its & (demand > 0)), demand, expected, margin)
        has = np.zeros(len(demand), np.bool_)
        has[self.there[cluster]] = True
        for at in self.lacking[cluster]:
            has[at] = True
        told = self.plan.head.clusters.get(caches.clusters[cluster])
        expected_hit = float((expected * size)[has].sum())
        carries = float(caches.serving[caches.cluster == cluster].sum()) * 3600 / self._peak_share()
        return ClusterDay(
            caches.clusters[cluster], caches.regions[int(caches.region[caches.isp[cluster]])],
            float((expected * size).sum()), int(demand.sum()), sum(parts.get(name, 0) for name in CLASSES[:HITS]),
            told.served_bytes if told is not None and told.served_bytes else expected_hit, carries, margin, parts,
        )  # fmt: skip

    def _keep_examples(
        self, part: Part, cluster: int, files: NDArray[np.int64], demand: Longs, expected: Floats, margin: float
    ) -> None:  # fmt: skip
        """Keep those of most bytes among `files` of a cluster that are in a class."""
        top = files[np.argsort(-demand[files], kind="stable")][:EXAMPLES_MAX]
        name, size = self.day.caches.clusters[cluster], self.day.catalogue.size
        for at in top.tolist():
            copy = self.lacking[cluster].get(at) if part.name in WHYS else None
            said = "" if copy is None else f"{copy.cache}: {copy.said}"
            amount = int(demand[at])
            part.examples.append(
                Example(name, self.names[at], amount, amount / int(size[at]), float(expected[at]), margin, said)
            )
        part.examples.sort(key=lambda one: (-one.bytes, one.cluster, one.file))
        del part.examples[EXAMPLES_MAX:]

    def _peak_share(self) -> float:
        return self.plan.head.settings.get("peak_share") or PlacementSettings().peak_share


def day_report(plan: Plan, night: NightFacts, copies: Iterable[Copy], day: Day) -> DayReport:
    """Return what was watched on the plan's day, each byte in its class. `copies` are all that the plan wants."""
    ledger = _Ledger(plan, night, copies, day)
    caches, views, size = day.caches, day.views, day.catalogue.size
    region_of = caches.region[caches.isp]
    mean, spread = ledger.expected
    clusters: list[ClusterDay] = []
    regions: list[RegionDay] = []
    came = np.zeros_like(mean)
    for region, name in enumerate(caches.regions):
        rows = (views.region == region) & (views.day == day_number(plan.head.day))
        total = np.zeros(len(size), np.int64)
        np.add.at(total, views.file[rows], views.bytes[rows])
        came[region] = total / size
        members = np.flatnonzero(region_of == region)
        weights = ledger.viewers[members]
        for cluster, demand in zip(members.tolist(), split_bytes(total, weights), strict=True):
            clusters.append(ledger.take(cluster, demand, mean[region] * ledger.viewers[cluster]))
        regions.append(RegionDay(name, float((mean[region] * size).sum()), int(total.sum())))
    banded = mean >= 1
    strange = [file.file for file in plan.files if file.file not in ledger.place]
    in_band = banded & (np.abs(came - mean) <= BAND * spread)
    return DayReport(
        sum(one.demand_bytes for one in regions), sum(one.hit_bytes for one in clusters),
        sum(one.expected_bytes for one in regions), sum(one.expected_hit_bytes for one in clusters),
        ledger.parts, clusters, regions, _largest(ledger.names, caches.regions, size, mean, spread, came),
        int(banded.sum()), int(in_band.sum()), len(strange), strange[0] if strange else "",
    )  # fmt: skip


def _largest(
    names: list[str], regions: tuple[str, ...], size: Longs, mean: Floats, spread: Floats, came: Floats
) -> list[FileDay]:  # fmt: skip
    worth = np.maximum(mean, came) * size
    top = np.argsort(-worth, axis=None, kind="stable")[:FILES_MAX]
    return [
        FileDay(
            names[at], regions[region], int(size[at]), float(mean[region, at]), float(spread[region, at]),
            float(came[region, at]),
        )
        for region, at in zip(*(place.tolist() for place in np.unravel_index(top, worth.shape)), strict=True)
        if worth[region, at] > 0
    ]  # fmt: skip
