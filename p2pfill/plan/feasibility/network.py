"""What a night's fill passes: the hours of the caches, the uplinks of ISPs and regions, the origins. Pure.

Hours come as spans of UTC, made of a cache's timetable by the code that opens and closes a cache (`model.windows`), so
a night in which clocks are changed has the hours that it will have. Spans become volumes: how many bytes a cache can
take in within each bucket of time. Buckets begin and end where a span does, which makes every rate constant within
one; only where that would be more than `BUCKETS_MAX` are they of equal length, and hold the bytes that their spans do.
Rejected: buckets of five minutes always. They are more in number, and make of a window to 04:02 one to 04:00 or 04:05.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2pfill.engine.engine import FINISH_S
from p2pfill.errors import ConfigError
from p2pfill.model.windows import FillWindows
from p2pfill.plan.tables import Caches, Floats, Ints, Longs

Bools = NDArray[np.bool_]

BUCKETS_MAX: Final = 576
"""Two days in steps of five minutes: what a plan is checked over at most, finer than anybody sets windows."""

RATE_MAX: Final = 1e15
"""Bytes a second of what has no limit: a thousand times what the largest exchange carries, and a finite number."""

BUDGET_LOOK_S: Final = 2.0
"""A cache looks each second whether its budget is used up, and what is then on its way still comes."""

ORIGINS_MAX: Final = 62
"""So that the set of origins that have a file is one integer."""


class Span(NamedTuple):
    """A time in which a cache fills, in seconds since the epoch."""

    begin: float
    end: float
    rate: float = inf
    """Bytes a second that may come in, beside what the cache takes in at most."""


class Night(NamedTuple):
    """The time that is looked at, in seconds since the epoch."""

    start: float
    deadline: float
    """By when all of it should be there."""
    horizon: float
    """Until then a finish is looked for; not before the deadline."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where titles come from."""

    name: str
    rate: float = inf
    """Bytes a second that it sends to all together."""
    regions: tuple[int, ...] | None = None
    """Whose caches may read it; None: of all regions."""
    files: Bools | None = None
    """Of each file of the catalogue, whether it has it; None: it has all."""


@dataclass(frozen=True, slots=True)
class Network:
    """A fleet and what lies between its caches. Arrays are of caches, ISPs or regions, in the order of `caches`."""

    caches: Caches
    spans: tuple[tuple[Span, ...], ...]
    """Of each cache, ascending and apart, up to the night's horizon."""
    uplink: Floats
    """What comes into each ISP, in bytes a second; inf: no limit."""
    region_uplink: Floats
    """What comes into each region from outside of it, in bytes a second; inf: no limit."""
    origins: tuple[Origin, ...]
    sending: Floats | None = None
    """What each cache sends to others at most, in bytes a second; None: no limit."""
    room: Longs | None = None
    """What each disk has for what comes tonight, in bytes; None: enough."""
    budget: Floats | None = None
    """What may come into each cache until the deadline, in bytes; None: no limit."""

    def __post_init__(self) -> None:
        caches = self.caches
        counts = (len(caches.names), len(caches.isps), len(caches.regions))
        if (len(self.spans), len(self.uplink), len(self.region_uplink)) != counts:
            raise ConfigError("a network has spans of each cache, and an uplink of each ISP and of each region")
        rates = [*self.uplink, *self.region_uplink, *(origin.rate for origin in self.origins)]
        rates += [span.rate for spans in self.spans for span in spans]
        if not all(rate >= 0 for rate in rates):
            raise ConfigError("a rate is below 0, or no number")
        if not 1 <= len(self.origins) <= ORIGINS_MAX:
            raise ConfigError(f"a network has 1 to {ORIGINS_MAX} origins")

    @property
    def isp(self) -> Ints:
        """Of each cache."""
        return self.caches.isp[self.caches.cluster]

    @property
    def region(self) -> Ints:
        """Of each cache."""
        return self.caches.region[self.isp]

    def with_spans(self, spans: tuple[tuple[Span, ...], ...]) -> Network:
        """Return it with other hours."""
        return replace(self, spans=spans)


def night_spans(windows: FillWindows, start: float, end: float) -> tuple[Span, ...]:
    """Return when a cache with this timetable fills from `start` to `end`, both in seconds since the epoch."""
    spans: list[Span] = []
    at = start
    while at < end:
        moment = windows.at(at)
        until = min(moment.until, end)
        if moment.is_open:
            limit = windows.rates_of(moment.window).inbound.total if windows.windows else 0
            rate = float(limit) or inf
            if spans and spans[-1].end == at and spans[-1].rate == rate:
                spans[-1] = Span(spans[-1].begin, until, rate)
            else:
                spans.append(Span(at, until, rate))
        at = until
    return tuple(spans)


def night_budget(windows: FillWindows, start: float, end: float, filling: float) -> float:
    """Return how many bytes the budgets of a timetable let in from `start` to `end`; inf: as many as will come.

    What was used of them before `start` is not known here. `filling` is what the cache takes in, in bytes a second.
    """
    total = 0.0
    by_night: dict[str, dict[int | None, float]] = {}
    at = start
    while at < end:
        moment = windows.at(at)
        until = min(moment.until, end)
        # A night may end within an open window, at any minute.
        while windows.night(until - 1.0) != moment.night and until - at > 60:
            until = max((at + until) // 120 * 60, (at // 60 + 1) * 60)
        if moment.is_open:
            used = by_night.setdefault(moment.night, {})
            used[moment.window] = used.get(moment.window, 0.0) + filling * (until - at)
        at = until
    for used in by_night.values():
        late = filling * BUDGET_LOOK_S
        of_night = 0.0
        for number, bytes_ in used.items():
            budget = 0 if number is None else windows.windows[number].budget
            of_night += min(bytes_, budget + late) if budget else inf
        total += min(of_night, windows.budget + late) if windows.budget else of_night
    return total


# ---- bytes in buckets


@dataclass(frozen=True, slots=True)
class Timeline:
    """Hours as bytes. Arrays have a row for each cache and a column for each bucket."""

    edges: Floats
    """Where buckets begin and end, in seconds since the epoch: one more than buckets."""
    volume: Floats
    """Bytes that can come into a cache within a bucket."""
    peak: Floats
    """Bytes a second at most within it: `volume` divided by the bucket's length where that begins and ends with spans.
    """

    @property
    def seconds(self) -> Floats:
        """Of each bucket."""
        return np.diff(self.edges)

    def until(self, at: float) -> tuple[Floats, Floats]:
        """Return seconds and volumes of what of each bucket lies before a moment."""
        seconds = np.clip(at - self.edges[:-1], 0.0, self.seconds)
        return seconds, np.minimum(self.peak * seconds, self.volume)


def timeline(network: Network, night: Night, finish_s: float = FINISH_S) -> Timeline:
    """Return the volumes of a night. What is in flight when a window ends may come for `finish_s` longer."""
    rows = [_with_tails(spans, finish_s, night) for spans in network.spans]
    parts = np.array([part for row in rows for part in row], np.float64).reshape(-1, 3)
    cache = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    begin, end = parts[:, 0], parts[:, 1]
    rate = np.minimum(parts[:, 2], np.minimum(network.caches.filling, RATE_MAX)[cache])
    marks = np.unique(np.concatenate([list(night), begin, end]))
    if len(marks) > BUCKETS_MAX + 1:
        marks = np.unique([*np.linspace(night.start, night.horizon, BUCKETS_MAX), night.deadline])
    # Each span in each bucket in which some of it lies.
    first, last = np.searchsorted(marks, begin, "right") - 1, np.searchsorted(marks, end, "left")
    counts = last - first
    span = np.repeat(np.arange(len(parts)), counts)
    bucket = np.arange(len(span)) - np.repeat(np.cumsum(counts) - counts - first, counts)
    within = np.minimum(marks[bucket + 1], end[span]) - np.maximum(marks[bucket], begin[span])
    volume = np.zeros((len(rows), len(marks) - 1))
    peak = np.zeros_like(volume)
    np.add.at(volume, (cache[span], bucket), rate[span] * within)
    np.maximum.at(peak, (cache[span], bucket), rate[span])
    return Timeline(marks, volume, peak)


def _with_tails(spans: tuple[Span, ...], finish_s: float, night: Night) -> list[Span]:
    """Return spans within a night, each followed by the time in which what is in flight still comes, at any rate."""
    found: list[Span] = []
    for number, span in enumerate(spans):
        following = spans[number + 1].begin if number + 1 < len(spans) else inf
        for begin, end, rate in (span, Span(span.end, min(span.end + finish_s, following))):
            begin, end = max(begin, night.start), min(end, night.horizon)
            if end > begin:
                found.append(Span(begin, end, rate))
    return found
