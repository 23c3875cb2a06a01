"""What the planner works on: arrays, and the names that their numbers stand for. Pure data.

Names are numbers within the planner, places in a tuple of names: a plan for a thousand caches and a hundred thousand
files is then a few arrays. Days are counted since 1970-01-01 in UTC, hours since its midnight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The titles that there are or will be, and their files. A file is what is placed: a title in one encoding."""

    titles: tuple[str, ...]
    genres: tuple[str, ...]
    kinds: tuple[str, ...]
    """Of files: encodings, or the devices that they are for."""
    genre: Ints
    """Of each title."""
    released: Ints
    """Of each title, as a day; one that lies ahead is a launch to come."""
    hint: Floats
    """Of each title: views on its first day in all regions together, as the operator expects; NaN: nothing said."""
    files: tuple[str, ...]
    title: Ints
    """Of each file."""
    kind: Ints
    """Of each file."""
    size: Longs
    """Of each file, in bytes; above 0."""


@dataclass(frozen=True, slots=True)
class Views:
    """What was watched: a row for each day, region and file of which anything was, ordered by day, region, file."""

    regions: tuple[str, ...]
    first_day: int
    last_day: int
    """Both are in it. Days outside of these are not known; within, what has no row was not watched, unless the day is
    in `unknown`."""
    day: Ints
    region: Ints
    file: Ints
    bytes: Longs
    requests: Longs
    unknown: tuple[int, ...] = ()
    """Days within of which nothing is known, ascending: no log of them was taken in."""

    def until(self, day: int) -> Views:
        """Return what was known when `day` began: all of the days before it."""
        rows = slice(0, int(np.searchsorted(self.day, day)))
        return Views(
            self.regions, self.first_day, min(self.last_day, day - 1),
            self.day[rows], self.region[rows], self.file[rows], self.bytes[rows], self.requests[rows],
            tuple(one for one in self.unknown if one < day),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """What was served in each hour, in bytes."""

    names: tuple[str, ...]
    """Of caches or of clusters."""
    first_hour: int
    served: Floats
    """A row for each name and a column for each hour; NaN: not known."""


@dataclass(frozen=True, slots=True)
class Caches:
    """The caches of a fleet."""

    names: tuple[str, ...]
    clusters: tuple[str, ...]
    isps: tuple[str, ...]
    regions: tuple[str, ...]
    cluster: Ints
    """Of each cache. Those of a cluster serve the same viewers; a cluster stands in one ISP."""
    isp: Ints
    """Of each cluster."""
    region: Ints
    """Of each ISP."""
    capacity: Longs
    """Of each cache, in bytes."""
    serving: Floats
    """What each can serve, in bytes a second."""
    filling: Floats
    """What each can take in for fill, in bytes a second."""
    zones: tuple[str, ...] = ()
    """Of each, the IANA name of the time zone by which its viewers live; UTC where none is given."""

    def __post_init__(self) -> None:
        if not self.zones:
            object.__setattr__(self, "zones", ("UTC",) * len(self.names))
        if len(self.zones) != len(self.names):
            raise ValueError(f"{len(self.names)} caches and {len(self.zones)} time zones do not fit each other")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What will be watched in each region on one day. Arrays have a row for each region and a column for each file."""

    regions: tuple[str, ...]
    day: int
    streams: Floats
    """Expected bytes of a file divided by its size: how often it would be watched to its end."""
    requests: Floats
    spread: Floats
    """Standard deviation of `streams`."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Which files lie in which caches. Those of cache c are `files[start[c] : start[c + 1]]`, ascending."""

    start: Longs
    files: Ints

    def of(self, cache: int) -> Ints:
        """Return the files of a cache."""
        return self.files[int(self.start[cache]) : int(self.start[cache + 1])]
