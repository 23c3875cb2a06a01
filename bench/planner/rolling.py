"""Day by day: each contender forecasts a day from the days before it, and what it would have placed is held against it.

A contender is handed the rows of a day only after it has forecast that day, so none can look ahead. What it forecasts
fills a cache in each region, the file with most streams expected for each byte first, up to a share of the catalogue's
bytes. What such a placement serves is counted by bytes streamed, by requests, and, where the rates behind the views are
known, by the bytes that they let expect, which no chance of the day moves.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from p2pfill.plan.synthetic import World
from p2pfill.plan.tables import Catalogue, Floats, Forecast, Ints, Longs, Views


class Contender(Protocol):
    """What plans: it learns of days in their order."""

    name: str

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn from the rows of a day; `size` is bytes streamed."""

    def forecast(self, day: int) -> Forecast:
        """Say what will be watched on the day after the last one taken in."""


@dataclass(frozen=True)
class Requests:
    """What is asked of the cache of one region, in its order."""

    file: NDArray[np.int64]
    day: NDArray[np.int32]
    weight: NDArray[np.float64]
    """Bytes streamed."""


@dataclass(frozen=True)
class Dataset:
    """What contenders are run on."""

    key: str
    name: str
    catalogue: Catalogue
    views: Views
    tuned_from: int
    """Days from this one to the first scored choose what has to be chosen, such as half-lives."""
    scored_from: int
    shares: tuple[float, ...]
    """Of the catalogue's bytes: how large each region's cache is."""
    policies_from: int = 0
    """The first day whose requests reach caches that react: long enough before the scored ones that they are full."""
    requests: Requests | None = None
    """Of the first region, where their order within days is known."""
    world: World | None = None
    """The truth, where it is known."""

    @property
    def capacities(self) -> list[int]:
        """Of a cache, in bytes, for each share."""
        return [round(float(self.catalogue.size.sum()) * share) for share in self.shares]

    @property
    def scored_days(self) -> slice:
        """Of the days of a `Course`: those that count."""
        return slice(self.scored_from - self.tuned_from, None)

    @property
    def tuned_days(self) -> slice:
        """Of the days of a `Course`: those that choose."""
        return slice(0, self.scored_from - self.tuned_from)


@dataclass(frozen=True)
class Course:
    """What a contender's placements served. Arrays have a row for each day from `tuned_from` on, then share, region."""

    name: str
    hit_bytes: Floats
    hit_requests: Floats
    expected_bytes: Floats
    """By the rates behind the views; 0 where these are not known."""
    user_s: float = 0.0
    system_s: float = 0.0
    chosen: str = ""
    """What was chosen on the days before those that count."""


def place(order: NDArray[np.int64], size: Longs, capacity: int) -> NDArray[np.bool_]:
    """Return which files lie in a cache that is filled in an order, where what does not fit is passed over."""
    placed = np.zeros(size.size, bool)
    left, rest = capacity, order
    while rest.size:
        fits = int(np.searchsorted(np.cumsum(size[rest]), left, side="right"))
        placed[rest[:fits]] = True
        left -= int(size[rest[:fits]].sum())
        rest = rest[fits + 1 :]
        rest = rest[size[rest] <= left]
    return placed


def day_rows(views: Views, day: int) -> slice:
    """Return where the rows of a day are."""
    return slice(*np.searchsorted(views.day, [day, day + 1]).tolist())


def totals(data: Dataset) -> tuple[Floats, Floats]:
    """Return all bytes and all requests of each day from `tuned_from` on, and region."""
    views, regions = data.views, len(data.views.regions)
    rows = day_rows(views, data.tuned_from).start
    days = views.last_day - data.tuned_from + 1
    cells = (views.day[rows:].astype(np.int64) - data.tuned_from) * regions + views.region[rows:]
    all_bytes, all_requests = (
        np.bincount(cells, values[rows:], days * regions).reshape(days, regions).astype(np.float64)
        for values in (views.bytes, views.requests)
    )
    return all_bytes, all_requests


def roll(contender: Contender, data: Dataset) -> Course:
    """Take a contender through all days."""
    views, size = data.views, data.catalogue.size
    shape = (views.last_day - data.tuned_from + 1, len(data.shares), len(views.regions))
    hit_bytes, hit_requests, expected = (np.zeros(shape) for _ in range(3))
    before = resource.getrusage(resource.RUSAGE_SELF)
    for day in range(views.first_day, views.last_day + 1):
        rows = day_rows(views, day)
        region, file = views.region[rows], views.file[rows]
        if day >= data.tuned_from:
            # Bytes that are served for a byte of disk are streams, so this is the order of value. Ties go by place.
            order = np.argsort(-contender.forecast(day).streams, axis=1, kind="stable")
            true = data.world.truth(day).streams * size if data.world else None
            at = day - data.tuned_from
            for share, capacity in enumerate(data.capacities):
                placed = np.stack([place(row, size, capacity) for row in order])
                there = placed[region, file]
                hit_bytes[at, share] = np.bincount(region[there], views.bytes[rows][there], shape[2])
                hit_requests[at, share] = np.bincount(region[there], views.requests[rows][there], shape[2])
                if true is not None:
                    expected[at, share] = (true * placed).sum(axis=1)
        contender.take_in(day, region, file, views.bytes[rows], views.requests[rows])
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)
    return Course(contender.name, hit_bytes, hit_requests, expected, *used)


def best_of(name: str, courses: Sequence[tuple[str, Course]], data: Dataset) -> Course:
    """Return for each share the course that served most bytes before the days that count, as one."""
    served = np.stack([course.hit_bytes[data.tuned_days].sum(axis=(0, 2)) for _, course in courses])
    best = served.argmax(axis=0).tolist()

    def joined(values: list[Floats]) -> Floats:
        return np.stack([values[course][:, share] for share, course in enumerate(best)], axis=1)

    return Course(
        name,
        joined([course.hit_bytes for _, course in courses]),
        joined([course.hit_requests for _, course in courses]),
        joined([course.expected_bytes for _, course in courses]),
        sum(course.user_s for _, course in courses),
        sum(course.system_s for _, course in courses),
        ", ".join(dict.fromkeys(courses[course][0] for course in best)),
    )
