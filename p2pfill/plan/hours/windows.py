"""From tomorrow's load to fill windows: when each cache has least to do, and how fast it may fill then. Pure.

Of what a cache can serve a share stays free whatever happens (`WindowRules.headroom`). What is left of the rest in an
hour, above the upper edge of the load's band, is the room for fill. A window opens and closes on whole hours of the
load, and its rate is at most the least room of its hours: so viewers have their headroom in each of them, as often as
the band holds.

Of the windows into which the need fits, the one counts in which serving and fill together are furthest from what the
cache can do, where the fill is spread over the whole window. That is a longer window at a low rate rather than an hour
at full speed, and it stops where another hour would be a busier one. Its rate is what the need takes, with some to
spare, and not all the room: fill that is done an hour earlier helps nobody, and what is not used of the room is there
for the hour in twenty that is above the band. Where the need fits into none, two windows are tried, if rules allow it,
and then the one into which most fits; what is short is said. All windows of 24 hours are some hundred and all pairs
some thousand, so every one is looked at, and nothing is searched.

Windows are candidates on the wall, in the timetable's own terms (`model.windows`): of a night in which clocks are
changed exactly those hours count that would be open. Timetables are daily. One that is not renewed goes on with
yesterday's hours; a rate for each day of the week would hold no better, since it would come from the same forecast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import show_bytes, spell_rate
from p2pfill.model.windows import DAY_MIN, HOUR_S, FillWindows, read_windows, show_time, zone_of
from p2pfill.plan.hours.load import LoadForecast
from p2pfill.plan.tables import Caches, Floats, Longs

HOUR_MIN: Final = 60

QUARTER_S: Final = 900
"""Offsets of time zones are whole quarters of an hour, and change at such."""

RATE_MIN: Final = 1 << 20
"""Bytes a second: a window with less is none; a title of a few gigabytes would take its whole night."""

RATE_DIGITS: Final = 3
"""Of a rate, rounded down: finer than any forecast, and caches that are alike have the same."""


@dataclass(frozen=True, slots=True)
class WindowRules:
    """What windows must keep to."""

    headroom: float = 0.2
    """Share of what a cache can serve that fill leaves free beyond the band. A fifth: an hour is a mean, and within one
    viewers come in waves of some 10 %; as much again is for the cache beside it that fails."""
    band: float = 0.9
    """Whose upper edge counts as the load of an hour: 0.9, so one hour in twenty is above it, or 0.5."""
    earliest_min: int = 0
    latest_min: int = 0
    """Between which times of the day, on the cache's clock, in minutes since midnight; equal: at any time."""
    hours_min: int = 2
    """A window of an hour is half over before a fleet has met, elected its masters and is at full speed."""
    hours_max: int = 8
    """Of all windows of a night together: beyond a working day's length the idle hours are over in most places."""
    parts_max: int = 1
    """Windows a night: 1, or 2 where one is not enough."""
    spare: float = 1.25
    """How much more than the need should fit: a fleet needs some minutes to be at full speed, and a
    cache for which others have nothing yet waits."""
    burden: float = 1.0
    """Bytes of what a cache can serve that a byte of its fill takes: in a swarm each byte that comes in goes out about
    once."""

    def __post_init__(self) -> None:
        in_day = range(DAY_MIN)
        if not 0 <= self.headroom < 1:
            raise ConfigError(f"headroom {self.headroom} cannot be left: it is a share from 0 to below 1")
        if self.earliest_min not in in_day or self.latest_min not in in_day:
            raise ConfigError("windows lie within a day, from 00:00 to 23:59")
        if not 1 <= self.hours_min <= self.hours_max <= 24 or self.parts_max not in (1, 2):
            raise ConfigError("a night has 1 or 2 windows of 1 to 24 hours, and the least is not above the most")
        if self.spare < 1 or self.burden <= 0:
            raise ConfigError("what should fit is at least the need, and a byte of fill takes more than nothing")


@dataclass(frozen=True, slots=True)
class Proposal:
    """When and how fast a cache should fill in the next 24 hours, and what comes of it."""

    cache: str
    cluster: str
    isp: str
    line: str
    """The timetable as it is typed, such as `Europe/Berlin 02:00,150M 08:00,off`; empty: there is no window."""
    first_hour: int
    """Since 1970-01-01 in UTC."""
    rates: tuple[int, ...]
    """Bytes a second in each of the 24 hours; 0: closed."""
    need: int
    """Bytes to fill."""
    ceiling: float
    """Bytes a second that serving and fill may take together."""
    busiest: float
    """Bytes a second that it may serve in the busiest hour of its windows, at the upper edge of the band."""
    text: str
    """For people: a line."""
    burden: float = 1.0

    @property
    def windows(self) -> FillWindows | None:
        """The timetable; None: there is no window."""
        return read_windows(self.line) if self.line else None

    @property
    def fits(self) -> int:
        """Bytes that fit into its windows."""
        return sum(self.rates) * HOUR_S

    @property
    def short(self) -> int:
        """Bytes of the need that do not fit."""
        return max(0, self.need - self.fits)

    def fill(self) -> Floats:
        """Return the bytes that are filled in each hour where all goes at the windows' rates until the need is met."""
        most = np.array(self.rates, np.float64) * HOUR_S
        return np.diff(np.minimum(np.cumsum(most), self.need), prepend=0.0)

    def share_with_headroom(self, served: Floats) -> float:
        """Return which share of the fill lay in hours that left the headroom, as they turned out; NaN: in none at all.

        `served` has the bytes that were served in each of the 24 hours; hours that are not known count as neither.
        """
        filled = np.where(np.isnan(served), 0, self.fill())
        kept = np.nan_to_num(served) + self.burden * filled <= self.ceiling * HOUR_S
        return float(filled[kept].sum() / filled.sum()) if filled.sum() else float("nan")


def of_caches(forecast: LoadForecast, caches: Caches) -> LoadForecast:
    """Return the forecast of each cache, from that of caches or of clusters, in the order of the table.

    Of its cluster a cache has as much as its share of what the cluster can serve. Raises `ConfigError` where a cache
    is in neither.
    """
    places = {name: place for place, name in enumerate(forecast.names)}
    if set(caches.names) <= set(places):
        rows, share = [places[name] for name in caches.names], np.ones(len(caches.names))
    else:
        clusters = [caches.clusters[number] for number in caches.cluster]
        lacking = sorted(set(clusters) - set(places))
        if lacking:
            raise ConfigError(f"there is no load of {lacking[0][:80]!r}, and not of all caches: {len(lacking)} lack it")
        rows = [places[name] for name in clusters]
        whole = np.bincount(caches.cluster, caches.serving, len(caches.clusters))[caches.cluster]
        share = np.divide(caches.serving, whole, out=np.zeros(len(whole)), where=whole > 0)
    return LoadForecast(
        caches.names, forecast.first_hour, forecast.served[rows] * share[:, None, None], forecast.is_corrected[rows],
        forecast.known[rows],
    )  # fmt: skip


def propose(
    forecast: LoadForecast, caches: Caches, need: Longs, zones: Sequence[str] = (), rules: WindowRules = WindowRules()
) -> list[Proposal]:
    """Return a proposal for each cache, in their order.

    `need` has the bytes that each is to fill, `zones` the IANA name of its time zone, by default that of the table. The
    forecast may be of caches or of clusters (`of_caches`). Raises `ConfigError` where a zone or a load is not known,
    and `ValueError` where the arrays do not fit each other.
    """
    count = len(caches.names)
    zones = zones or caches.zones
    if len(zones) != count or len(need) != count:
        raise ValueError(f"{count} caches, {len(zones)} time zones and {len(need)} needs do not fit each other")
    forecast = of_caches(forecast, caches)
    _, upper = forecast.band(rules.band)
    spans = {zone: _spans(zone, forecast.first_hour, rules) for zone in set(zones)}
    return [
        _Search(caches, cache, forecast.first_hour, upper[cache] / HOUR_S, int(need[cache]), rules).best(
            zones[cache], spans[zones[cache]]
        )
        for cache in range(count)
    ]


class _Spans(NamedTuple):
    """All windows that the rules allow in the 24 hours, on the clock of one time zone."""

    start: NDArray[np.int64]
    """Minutes since midnight, on the wall."""
    end: NDArray[np.int64]
    open: NDArray[np.bool_]
    """By window and hour: open for all of it, or for a part where clocks are changed within an hour of UTC."""
    pairs: NDArray[np.int64]
    """Two windows a row, of which the second is not open before the first has closed."""


def _spans(zone: str, first_hour: int, rules: WindowRules) -> _Spans:
    clock, quarters = zone_of(zone), range(0, 25 * HOUR_S, QUARTER_S)
    moments = [datetime.fromtimestamp(first_hour * HOUR_S + second, clock) for second in quarters]
    shown = np.array([moment.hour * HOUR_MIN + moment.minute for moment in moments], np.int64).reshape(25, -1)
    walls, shown = shown[:, 0], shown[:24]
    allowed = (shown - rules.earliest_min) % DAY_MIN + QUARTER_S // 60 <= _length(rules.earliest_min, rules.latest_min)
    found = []
    for start, end in combinations(range(25), 2):
        inside = (shown - walls[start]) % DAY_MIN < _length(int(walls[start]), int(walls[end]))
        is_open = inside.any(1)
        if (
            inside[start:end].any(1).all() and allowed[inside].all()
            and rules.hours_min <= is_open.sum() <= rules.hours_max
        ):  # fmt: skip
            found.append((start, end, is_open))
    first, last = (np.array([one[place] for one in found], np.int64) for place in (0, 1))
    opened = np.array([one[2] for one in found], np.bool_).reshape(-1, 24)
    pairs = np.zeros((0, 2), np.int64)
    if rules.parts_max > 1:
        pairs = np.argwhere(last[:, None] <= first[None, :])
        hours = opened.sum(1)
        both = (opened[pairs[:, 0]] & opened[pairs[:, 1]]).any(1)
        pairs = pairs[(hours[pairs].sum(1) <= rules.hours_max) & ~both]
    return _Spans(walls[first], walls[last], opened, pairs)


def _length(start: int, end: int) -> int:
    return (end - start - 1) % DAY_MIN + 1


class _Search:
    """Looks for the windows of one cache."""

    def __init__(
        self, caches: Caches, cache: int, first_hour: int, upper: Floats, need: int, rules: WindowRules
    ) -> None:
        self._caches, self._cache, self._first_hour = caches, cache, first_hour
        self._upper, self._need, self._rules = upper, need, rules
        self._ceiling = float(caches.serving[cache]) * (1 - rules.headroom)
        room = np.minimum((self._ceiling - upper) / rules.burden, caches.filling[cache])
        self._room = np.where(np.isnan(upper), 0, room)

    def best(self, zone: str, spans: _Spans) -> Proposal:
        """Return the best windows, or why there are none."""
        if np.isnan(self._upper).all():
            return self._none(zone, "less than a day of its load is known")
        if not len(spans.start):
            return self._none(zone, "no window is as short and as early as it must be")
        rate = round_down(np.where(spans.open, self._room, np.inf).min(1))
        hours, busiest = spans.open.sum(1), np.where(spans.open, self._upper, -np.inf).max(1)
        wanted = self._need * self._rules.spare
        found = self._pick(rate * hours * HOUR_S, hours, busiest, wanted)
        chosen = [found] if found is not None else []
        fits = float(rate[found] * hours[found] * HOUR_S) if found is not None else 0.0
        if fits < wanted and len(spans.pairs):
            one, other = spans.pairs.T
            both = np.where((rate[one] > 0) & (rate[other] > 0), rate[one] * hours[one] + rate[other] * hours[other], 0)
            pair = self._pick(
                both * HOUR_S, hours[one] + hours[other], np.maximum(busiest[one], busiest[other]), wanted
            )  # fmt: skip
            if pair is not None and both[pair] * HOUR_S > fits:
                chosen = [int(place) for place in spans.pairs[pair]]
        if not chosen:
            known = busiest[~np.isnan(busiest)]
            if not len(known):
                return self._none(zone, "its load is not known in the hours in which a window may be")
            return self._none(
                zone,
                "no window leaves its headroom: in the idlest one it may serve "
                f"{show_bytes(float(known.min()))}/s, and with headroom no more than {show_bytes(self._ceiling)}/s",
            )
        return self._proposal(zone, spans, rate, chosen)

    def _pick(self, fits: Floats, hours: NDArray[np.int64], busiest: Floats, wanted: float) -> int | None:
        """Return the window that is best; of those that are as good as each other the shorter and earlier one."""
        if not (fits > 0).any():
            return None
        if not (fits >= wanted).any():
            return int(np.argmax(fits))
        peak = busiest + self._rules.burden * wanted / (hours * HOUR_S)
        return int(np.lexsort((hours, np.where((fits > 0) & (fits >= wanted), peak, np.inf)))[0])

    def _proposal(self, zone: str, spans: _Spans, rate: Floats, chosen: Sequence[int]) -> Proposal:
        rates = np.zeros(24, np.int64)
        rate = self._needed(rate, spans.open[chosen].sum(1), chosen)
        week: dict[int, str] = {}
        for place in chosen:
            rates[spans.open[place]] = int(rate[place])
            week.setdefault(int(spans.end[place]), "off")
        for place in chosen:
            week[int(spans.start[place])] = spell_mebibytes(int(rate[place]))
        line = " ".join(f"{show_time(minute)},{what}" for minute, what in sorted(week.items()))
        busiest = float(self._upper[rates > 0].max())
        hours = ", ".join(
            f"{show_time(int(spans.start[place]))}-{show_time(int(spans.end[place]))} at {spell_rate(int(rate[place]))}"
            for place in chosen
        )
        fits = int(rates.sum()) * HOUR_S
        need = f"{show_bytes(fits)} fit, {show_bytes(self._need)} needed"
        short = f"; short {show_bytes(self._need - fits)}" if fits < self._need else ""
        text = f"{hours} ({zone}): {need}{short}; viewers may take {busiest / self._served:.0%} of what it can serve"
        return self._say(line if zone == "UTC" else f"{zone} {line}", rates, busiest, text)

    def _needed(self, rate: Floats, hours: NDArray[np.int64], chosen: Sequence[int]) -> Floats:
        """Return the rates of the chosen windows as the need takes them; without a need, all that there is room for."""
        fits = float((rate[chosen] * hours).sum()) * HOUR_S
        part = min(1.0, self._need * self._rules.spare / fits) if self._need else 1.0
        step = 10.0 ** -(RATE_DIGITS - 1)
        return np.minimum(rate, np.maximum(round_down(rate * part * (1 + step) + RATE_MIN), RATE_MIN))

    @property
    def _served(self) -> float:
        return float(self._caches.serving[self._cache])

    def _none(self, zone: str, why: str) -> Proposal:
        need = f"; {show_bytes(self._need)} needed" if self._need else ""
        return self._say("", np.zeros(24, np.int64), 0.0, f"no window ({zone}): {why}{need}")

    def _say(self, line: str, rates: NDArray[np.int64], busiest: float, text: str) -> Proposal:
        caches, cluster = self._caches, int(self._caches.cluster[self._cache])
        name = caches.names[self._cache]
        return Proposal(
            name, caches.clusters[cluster], caches.isps[int(caches.isp[cluster])], line, self._first_hour,
            tuple(int(rate) for rate in rates), self._need, self._ceiling, busiest, f"{name}: {text}",
            self._rules.burden,
        )  # fmt: skip


def round_down(rate: Floats, digits: int = RATE_DIGITS) -> Floats:
    """Return rates of a few digits in MiB/s; 0 for those below `RATE_MIN`."""
    whole = np.floor(np.where(rate >= RATE_MIN, rate, 0) / RATE_MIN)
    step = 10.0 ** np.maximum(np.floor(np.log10(np.maximum(whole, 1))) - (digits - 1), 0)
    return np.asarray(np.floor(whole / step) * step * RATE_MIN)


def spell_mebibytes(rate: int) -> str:
    """Return a rate as a timetable has it: `150M`."""
    return f"{rate // RATE_MIN}M"
