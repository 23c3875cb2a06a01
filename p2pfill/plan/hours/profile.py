"""The plain model of hourly load: a profile of the week times a level. Pure.

What a cache serves in an hour is about `level * shape[hour of the week]`. The shape is what its hours were, relative
to a slow level, with less weight for each week that has passed since; the level is what the last days were, relative
to the shape. Both are brought forward a day at a time, so the expectation for each day of the past is what would have
been said when that day began, and a replay of the past costs no more than a forecast.

Hours of the week are read by the clock of the cache's own time zone, since viewers live by it: where summer time
begins, the evening moves by an hour of UTC and stays where it is in the profile. Of an hour that comes twice the
second counts. A holiday counts as a Sunday, in what is learned and in what is expected.

What is not known does not change anything. A cell of the week of which a cache knows little leans on its own hours of
the day and on the days of the week of all caches together: one that is a day old has the fleet's week already.

Rejected: a profile in bytes without levels, which takes weeks to follow a drift; MSTL and exponential smoothing, which
cost half a second for each cache and day and were no better on two of three series (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2pfill.model.windows import HOUR_S, zone_of
from p2pfill.plan.tables import Floats, Ints, Load

DAY_HOURS: Final = 24
WEEK_HOURS: Final = 168
SUNDAY: Final = 6


class Memory(NamedTuple):
    """How fast a plain model forgets."""

    week_kept: float
    """Weight of a week in the shape, relative to that of the week after it."""
    newest_day: float
    """Weight of the newest day in the level."""


MEMORIES: Final = (Memory(0.4, 0.1), Memory(0.6, 0.8), Memory(0.75, 0.3), Memory(0.9, 0.2))
"""From a week or two to ten weeks of shape, and from one day to ten of level: each cache goes by the one that was least
wrong. On four public series each of them was best once, and the best one 10 to 30 % better than the worst."""

CHOICE_KEPT: Final = 0.95
"""Weight of a day in what decides between them, relative to that of the day after it: three weeks count."""

PRIOR_WEEKS: Final = 0.5
"""How many weeks of a cell's own what is borrowed for it weighs as much as."""

SLOW_DAY: Final = 0.1
"""Weight of the newest day in the slow level, to which the shape is relative: a week and a half counts."""

RATIO_MAX: Final = 4.0
"""How far an hour may be off what was expected and still count in full: a match on one evening is no new week."""

OUTAGE_SHARE: Final = 0.2
"""Of the level: an hour without a byte, of which more was expected, is one in which the cache was away."""

OUTAGE_HOURS_MAX: Final = 72
"""A cache without a byte for longer is not away: it has nothing to serve."""

FALLS_MAX: Final = 0.03
"""Outages for each hour in which more was expected, from which on they are none: a cache with few viewers has hours
without any, and is not away each time."""

KNOWN_HOURS_MIN: Final = 3
"""Known hours of a day from which on its level counts: fewer may be those of one film."""

KNOWN_FIRST: Final = 24
"""Known hours from which on something is expected: those of one night say nothing of the evening, and a forecast that
is wrong by far would widen the bands of weeks."""

DAY_KEPT: Final = 0.95
"""Weight of a day in what hours of the day are and how far off they are, relative to that of the day after it."""

DEVIATION_FIRST: Final = 0.3
"""Expected deviation of an hour where none was seen yet, relative to what was expected of it."""


@dataclass(frozen=True, slots=True)
class Days:
    """Load cut into days that begin at the hour of the day at which the load ends: the last one is still to come.

    Arrays have a plane for each day, a row for each cache and a column for each hour of that day.
    """

    first_hour: int
    """Of the first day, since 1970-01-01 in UTC; before the load begins where that does not fill the first day."""
    served: Floats
    """Bytes; NaN: not known, which all of the last day is."""
    cell: Ints
    """Hour of the week on the cache's own clock; 0 is Monday, 00:00. Of holidays: that of a Sunday."""
    is_holiday: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Plain:
    """What the plain model said of each day when it began. Arrays as in `Days`."""

    expected: Floats
    """Bytes; NaN: too little was known of the cache (`KNOWN_FIRST`)."""
    deviation: Floats
    """How far off such hours usually were, as bytes; above 0 where `expected` is known."""
    taken: Floats
    """What was served, without the hours in which the cache was away."""


def cut_days(load: Load, zones: Sequence[str], holidays: Collection[int]) -> Days:
    """Return the load by days. `zones` has the IANA name of each cache's time zone, `holidays` local days since 1970.

    Raises `ConfigError` where a zone is not known, and `ValueError` where the arrays do not fit each other.
    """
    caches, hours = load.served.shape
    if caches != len(load.names) or caches != len(zones):
        raise ValueError(f"{len(load.names)} names, {len(zones)} time zones and {caches} rows do not fit each other")
    if np.isinf(load.served).any() or (load.served < 0).any():
        raise ValueError("a load is below 0 or infinite")
    days = max(1, -(-hours // DAY_HOURS))
    first = load.first_hour + hours - days * DAY_HOURS
    served = np.full((caches, (days + 1) * DAY_HOURS), np.nan)
    served[:, days * DAY_HOURS - hours : days * DAY_HOURS] = load.served
    cells, off = np.empty(served.shape, np.int32), np.empty(served.shape, np.bool_)
    rest = np.array(sorted(holidays), np.int64)
    for zone in set(zones):
        rows = np.array([name == zone for name in zones])
        local = _local_hours(zone, first, served.shape[1])
        off[rows] = np.isin(local // DAY_HOURS, rest)
        # 1970-01-01 was a Thursday.
        weekday = np.where(off[rows], SUNDAY, (local // DAY_HOURS + 3) % 7)
        cells[rows] = weekday * DAY_HOURS + local % DAY_HOURS
    by_day = (caches, days + 1, DAY_HOURS)
    return Days(
        first, served.reshape(by_day).swapaxes(0, 1), cells.reshape(by_day).swapaxes(0, 1),
        off.reshape(by_day).swapaxes(0, 1),
    )  # fmt: skip


def _local_hours(zone: str, first_hour: int, hours: int) -> NDArray[np.int64]:
    """Return what a clock on the wall shows at each hour, in whole hours since it showed 1970-01-01 00:00."""
    clock = zone_of(zone)
    walls = (datetime.fromtimestamp((first_hour + hour) * HOUR_S, clock) for hour in range(hours))
    return np.array([wall.toordinal() * DAY_HOURS + wall.hour for wall in walls], np.int64) - _EPOCH


_EPOCH: Final = datetime(1970, 1, 1).toordinal() * DAY_HOURS


def expect(days: Days) -> Plain:
    """Return what the plain model says of each day, from what was known when it began."""
    weeks = [_Week(days.served.shape[1], memory) for memory in MEMORIES]
    wrong = np.zeros((len(weeks), days.served.shape[1]))
    expected, deviation = np.full(days.served.shape, np.nan), np.full(days.served.shape, np.nan)
    taken = days.served.copy()
    away, known = _Outages(days.served.shape[1]), np.zeros(days.served.shape[1], np.int64)
    for day, cell in enumerate(days.cell):
        said = np.stack([week.expect(cell) for week in weeks])
        said[:, known < KNOWN_FIRST] = np.nan
        best, rows = wrong.argmin(0), np.arange(len(wrong[0]))
        expected[day] = said[best, rows]
        level = np.stack([week.level for week in weeks])[best, rows][:, None]
        deviation[day] = expected[day] * np.stack([week.deviation(cell) for week in weeks])[best, rows] + level * 1e-3
        taken[day] = away.without(days.served[day], expected[day] > OUTAGE_SHARE * level)
        wrong = CHOICE_KEPT * wrong + np.nansum(np.abs(said - taken[day]), axis=2)
        known += (~np.isnan(taken[day])).sum(1)
        for week in weeks:
            week.learn(cell, taken[day])
    return Plain(expected, np.maximum(deviation, DEVIATION_MIN), taken)


class _Outages:
    """Tells hours in which a cache was away from those in which it had nothing to serve."""

    def __init__(self, caches: int) -> None:
        self._silent = np.zeros(caches, np.int64)
        self._is_away = np.zeros(caches, np.bool_)
        self._falls, self._judged = np.zeros(caches), np.ones(caches)

    def without(self, served: Floats, is_due: NDArray[np.bool_]) -> Floats:
        """Return a day without the hours in which a cache was away. `is_due`: more than nothing was expected."""
        kept = served.copy()
        is_zero, is_known = served == 0, ~np.isnan(served)
        is_busy = self._falls <= FALLS_MAX * self._judged
        falls = np.zeros(len(served))
        for hour in range(DAY_HOURS):
            self._silent = np.where(is_known[:, hour], np.where(is_zero[:, hour], self._silent + 1, 0), self._silent)
            # Once it is away it is so in the hours too in which little was expected.
            begins = is_zero[:, hour] & is_due[:, hour] & ~self._is_away
            goes_on = self._is_away & (is_zero[:, hour] | ~is_known[:, hour])
            self._is_away = (begins | goes_on) & (self._silent <= OUTAGE_HOURS_MAX)
            kept[is_zero[:, hour] & self._is_away & is_busy, hour] = np.nan
            falls += begins & (self._silent <= OUTAGE_HOURS_MAX)
        self._falls = DAY_KEPT * self._falls + falls
        self._judged = DAY_KEPT * self._judged + (is_due & is_known).sum(1)
        return kept


class _Week:
    """What is known of all caches at the beginning of a day."""

    def __init__(self, caches: int, memory: Memory) -> None:
        self._memory = memory
        self.level = np.full(caches, np.nan)
        self._slow = np.full(caches, np.nan)
        self._rows = np.arange(caches)[:, None]
        self._sums, self._weights = np.zeros((caches, WEEK_HOURS)), np.zeros((caches, WEEK_HOURS))
        self._day_sums, self._day_weights = np.zeros((caches, DAY_HOURS)), np.zeros((caches, DAY_HOURS))
        self._off_sums, self._off_weights = np.zeros((caches, DAY_HOURS)), np.zeros((caches, DAY_HOURS))

    def expect(self, cell: Ints) -> Floats:
        """Return what is expected at some hours of each cache, in bytes; NaN where nothing was ever seen."""
        return self.level[:, None] * self._shape(cell)

    def _shape(self, cell: Ints) -> Floats:
        fleet_day = _mean(self._day_sums.sum(0), self._day_weights.sum(0), 1.0)
        fleet_week = _mean(self._sums.sum(0), self._weights.sum(0), np.nan).reshape(7, DAY_HOURS)
        # Relative to the same hour of other days; days that nobody has seen yet are as the others.
        weekday = np.where(np.isnan(fleet_week), 1.0, fleet_week / np.maximum(fleet_day, 1e-9)).clip(0, RATIO_MAX)
        day = (self._day_sums + PRIOR_WEEKS * fleet_day) / (self._day_weights + PRIOR_WEEKS)
        prior = day[self._rows, cell % DAY_HOURS] * weekday.reshape(WEEK_HOURS)[cell]
        return np.asarray(
            (self._sums[self._rows, cell] + PRIOR_WEEKS * prior) / (self._weights[self._rows, cell] + PRIOR_WEEKS)
        )

    def deviation(self, cell: Ints) -> Floats:
        """Return how far off hours usually are, relative to what was expected."""
        hour = cell % DAY_HOURS
        fleet = _mean(self._off_sums.sum(0), self._off_weights.sum(0), DEVIATION_FIRST)
        sums, weights = self._off_sums[self._rows, hour], self._off_weights[self._rows, hour]
        return np.asarray((sums + 2 * fleet[hour]) / (weights + 2))

    def learn(self, cell: Ints, served: Floats) -> None:
        """Bring what is known forward by a day."""
        shape = self._shape(cell)
        known = ~np.isnan(served)
        is_new = np.isnan(self.level) & known.any(1)
        sums, shapes = np.where(known, served, 0).sum(1), np.where(known, shape, 0).sum(1)
        ratio = sums / np.maximum(shapes, 1e-9)
        self.level[is_new] = self._slow[is_new] = ratio[is_new]
        share = np.where(known.sum(1) >= KNOWN_HOURS_MIN, shapes / np.maximum(shape.sum(1), 1e-9), 0)
        expected = self.level[:, None] * shape
        self._learn_deviation(cell, served, expected, known & ~is_new[:, None])
        for level, weight in ((self.level, self._memory.newest_day), (self._slow, SLOW_DAY)):
            moved = (1 - weight * share) * level + weight * share * ratio
            np.copyto(level, moved, where=share > 0)
        base = np.maximum(self._slow[:, None], 1.0)
        value = np.where(known, np.clip(np.nan_to_num(served) / base, 0, np.maximum(shape, 0.1) * RATIO_MAX), 0)
        self._add(self._sums, self._weights, cell, value, known, self._memory.week_kept)
        self._add(self._day_sums, self._day_weights, cell % DAY_HOURS, value, known, DAY_KEPT)

    def _learn_deviation(self, cell: Ints, served: Floats, expected: Floats, known: NDArray[np.bool_]) -> None:
        off = np.abs(np.nan_to_num(served) - expected) / np.maximum(expected, 1.0)
        off = np.where(known, np.clip(np.nan_to_num(off), 0, RATIO_MAX), 0)
        self._add(self._off_sums, self._off_weights, cell % DAY_HOURS, off, known, DAY_KEPT)

    def _add(
        self, sums: Floats, weights: Floats, place: Ints, value: Floats, known: NDArray[np.bool_], kept: float
    ) -> None:
        """Add the known values to their places, and let what stands there fade."""
        fade = np.where(known, kept, 1.0)
        sums[self._rows, place] = fade * sums[self._rows, place] + value
        weights[self._rows, place] = fade * weights[self._rows, place] + known


DEVIATION_MIN: Final = 1.0
"""A byte: what is divided by a deviation stays finite for a cache that serves nothing."""


def _mean(sums: Floats, weights: Floats, default: float) -> Floats:
    return np.where(weights > 0, sums / np.maximum(weights, 1e-12), default)
