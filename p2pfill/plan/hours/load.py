"""What each cache will serve in each of the next 24 hours, with bands that hold. Pure.

Two models. The plain one is a profile of the week times a level (`profile`). The better one corrects it: LightGBM
learns, of all caches together, by which factor the load is off what the plain model expects, as quantiles; since a
factor above 0 keeps quantiles what they are, those of the factor times the expectation are those of the load. A cache
goes by whichever lost less on its last weeks (`CHOICE_DAYS`), so a correction that does not hold there costs nothing.
The bands of both are calibrated by what happened (`bands`).

All of that is a replay: the days of the past are forecast one after the other, each from what was known when it began,
and tomorrow is the last of them. So what decides between models, and what bands are calibrated by, are honest
forecasts, and an evaluation is the same replay over more days.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from p2pfill.plan.hours.bands import QUANTILES, calibrate, pinball
from p2pfill.plan.hours.profile import DAY_HOURS, Days, Plain, cut_days, expect
from p2pfill.plan.tables import Floats, Load

REPLAY_DAYS: Final = 70
"""Of the past, that are forecast anew: six weeks of scores for the bands of each of the four weeks that decide between
the models."""

CHOICE_DAYS: Final = 28
"""By whose loss each cache chooses its model: four of each day of the week."""

CHOICE_DAYS_MIN: Final = 7
"""A cache for which fewer days can be compared goes by the plain model."""

TRAIN_DAYS: Final = 182
"""From which the correction is learned: a season, and not the one half a year ago."""

TRAIN_EVERY_DAYS: Final = 14
"""How old a correction is at most. It is learned anew on fixed days of the calendar, so that forecasts of a past day
are the same in each replay."""

TRAIN_HOURS_MIN: Final = 21 * DAY_HOURS
"""Known hours of all caches together, below which nothing is learned."""

TRAIN_CACHE_DAYS_MAX: Final = 4_000
"""Days of caches that are learned from, drawn by chance where there are more: 96,000 hours, about a second each."""

PREDICT_ROWS_MAX: Final = 200_000
"""That are predicted in one go: 30 MB of features."""

FACTOR_MAX: Final = 4.0
"""Of the load and what was expected: an hour beyond it counts as this."""

TREES: Final = {
    "num_leaves": 15, "min_data_in_leaf": 60, "learning_rate": 0.06, "feature_fraction": 0.8, "lambda_l2": 1.0,
}  # fmt: skip
"""Small and slow trees: a few months of hours of a few caches are little to learn from."""

ROUNDS: Final = 100


@dataclass(frozen=True, slots=True)
class LoadForecast:
    """What caches will serve in the 24 hours that follow on their load."""

    names: tuple[str, ...]
    first_hour: int
    """Since 1970-01-01 in UTC."""
    served: Floats
    """Bytes by cache, hour and quantile (`bands.QUANTILES`); NaN: less than a day is known of the cache."""
    is_corrected: NDArray[np.bool_]
    """Of each cache: it goes by the correction, and else by the plain model."""
    known: Floats
    """Of each cache: hours of the last `REPLAY_DAYS` days of which the load was known."""

    def band(self, share: float) -> tuple[Floats, Floats]:
        """Return lower and upper edge of the band that should hold a share of the hours: 0.5 or 0.9."""
        places = [place for place, quantile in enumerate(QUANTILES) if math.isclose(abs(1 - 2 * quantile), share)]
        if len(places) != 2:
            raise ValueError(f"there is no band of {share:.0%}: there are those of 50% and 90%")
        return self.served[..., places[0]], self.served[..., places[1]]


def until(load: Load, hour: int) -> Load:
    """Return the load of the hours before one, given since 1970; those of which it says nothing are not known."""
    hours = max(0, hour - load.first_hour)
    served = np.full((len(load.names), hours), np.nan)
    known = min(hours, load.served.shape[1])
    served[:, :known] = load.served[:, :known]
    return Load(load.names, load.first_hour, served)


@dataclass(frozen=True, slots=True)
class Replay:
    """The forecasts of past days, and of the one to come, which is the last. Planes are days, rows caches."""

    days: Days
    plain: Plain
    by_plain: Floats
    """Bytes by day, cache, hour and quantile."""
    by_correction: Floats
    """The same; NaN where there was too little to learn from."""
    is_corrected: NDArray[np.bool_]
    """By day and cache: which one counted."""

    @property
    def served(self) -> Floats:
        """The forecasts that counted, by day, cache, hour and quantile."""
        return np.where(self.is_corrected[..., None, None], self.by_correction, self.by_plain)


def forecast(load: Load, zones: Sequence[str] = (), holidays: Collection[int] = (), *, seed: int = 0) -> LoadForecast:
    """Return what the caches will serve in the 24 hours after those of `load`.

    `zones` has the IANA name of the time zone of each cache (by default UTC), and `holidays` the days on which viewers
    have time as on a Sunday, on their own calendars, counted since 1970-01-01. Raises `ConfigError` where a zone is
    not known, and `ValueError` where there are not as many zones as caches, or a load is below 0.
    """
    made = replay(load, zones, holidays, days=REPLAY_DAYS, seed=seed)
    first = made.days.first_hour + (len(made.days.served) - 1) * DAY_HOURS
    known = (~np.isnan(made.plain.taken)).sum((0, 2)).astype(np.float64)
    return LoadForecast(load.names, first, made.served[-1], made.is_corrected[-1], known)


def replay(
    load: Load, zones: Sequence[str] = (), holidays: Collection[int] = (), *, days: int, seed: int = 0
) -> Replay:
    """Return the forecasts of the last `days` days and of tomorrow, each made from what was known when it began."""
    cut = cut_days(load, zones or ("UTC",) * len(load.names), holidays)
    plain = expect(cut)
    first = max(0, len(cut.served) - 1 - days)
    factors = _Correction(cut, plain, seed).replay(first)
    late = slice(first, None)
    expected, taken = plain.expected[late], plain.taken[late]
    flat = np.repeat(expected[..., None], len(QUANTILES), axis=-1)
    by_plain = calibrate(flat, plain.deviation[late], taken)
    raw = expected[..., None] * factors
    by_correction = calibrate(raw, np.maximum(raw[..., -1] - raw[..., 0], plain.deviation[late] * 0.1), taken)
    return Replay(
        Days(cut.first_hour + first * DAY_HOURS, cut.served[late], cut.cell[late], cut.is_holiday[late]),
        Plain(expected, plain.deviation[late], taken),
        by_plain, by_correction, choose(by_plain, by_correction, taken),
    )  # fmt: skip


def choose(by_plain: Floats, by_correction: Floats, taken: Floats) -> NDArray[np.bool_]:
    """Return on which days each cache goes by the correction: where that lost less in the days before."""
    gain = pinball(by_plain, taken) - pinball(by_correction, taken)
    known = (~np.isnan(gain)).any(2)
    gains, counts = np.nansum(gain, axis=2).cumsum(0), known.cumsum(0)
    chosen = np.zeros(gains.shape, np.bool_)
    for day in range(1, len(gains)):
        before = day - 1 - CHOICE_DAYS
        gained = gains[day - 1] - (gains[before] if before >= 0 else 0)
        counted = counts[day - 1] - (counts[before] if before >= 0 else 0)
        chosen[day] = (gained > 0) & (counted >= CHOICE_DAYS_MIN)
    return chosen & ~np.isnan(by_correction[:, :, 0, 0])


class _Correction:
    """Learns by which factor the load is off what the plain model expects."""

    def __init__(self, days: Days, plain: Plain, seed: int) -> None:
        self._days, self._plain, self._seed = days, plain, seed
        with np.errstate(invalid="ignore", divide="ignore"):
            factor = plain.taken / np.where(plain.expected > 0, plain.expected, np.nan)
        self._factor = np.minimum(factor, FACTOR_MAX)
        self._mean = np.maximum(plain.expected.mean(2), 1.0)

    def replay(self, first: int) -> Floats:
        """Return the factors of each day from `first` on, by day, cache, hour and quantile."""
        days, caches, hours = self._plain.expected.shape
        factors = np.full((days - first, caches, hours, len(QUANTILES)), np.nan)
        start = first
        while start < days:
            since = (self._days.first_hour // DAY_HOURS + start) % TRAIN_EVERY_DAYS
            learned, end = start - since, min(days, start - since + TRAIN_EVERY_DAYS)
            models = self._learn(learned)
            step = max(1, PREDICT_ROWS_MAX // (caches * hours))
            for day in range(start, end, step) if models else ():
                block = np.arange(day, min(day + step, end))
                pairs = np.stack(np.meshgrid(block, np.arange(caches), indexing="ij"), -1).reshape(-1, 2)
                said = np.stack([model.predict(rows) for rows in [self._rows(pairs)] for model in models], -1)
                factors[block - first] = np.sort(said, -1).reshape(len(block), caches, hours, len(QUANTILES))
            start = end
        return np.maximum(factors, 0)

    def _learn(self, day: int) -> list[lightgbm.Booster]:
        """Return a model for each quantile, from the days before `day`; none where there are too few."""
        first = max(7, day - TRAIN_DAYS)
        known = ~np.isnan(self._factor[first : max(first, day)]).all(2)
        pairs = np.argwhere(known) + np.array([first, 0])
        chance = np.random.default_rng([self._seed, abs(self._days.first_hour // DAY_HOURS + day)])
        if len(pairs) > TRAIN_CACHE_DAYS_MAX:
            pairs = pairs[np.sort(chance.choice(len(pairs), TRAIN_CACHE_DAYS_MAX, replace=False))]
        target = self._factor[pairs[:, 0], pairs[:, 1]].reshape(-1)
        weight = (self._plain.expected / self._mean[..., None])[pairs[:, 0], pairs[:, 1]].reshape(-1)
        use = ~np.isnan(target) & (weight > 0)
        if use.sum() < TRAIN_HOURS_MIN:
            return []
        rows = self._rows(pairs)[use]
        # One thread and a fixed seed: the same load has the same forecast on every machine.
        settings = {
            **TREES, "verbosity": -1, "num_threads": 1, "seed": self._seed & 0x7FFFFFFF, "deterministic": True,
            "force_row_wise": True, "objective": "quantile",
        }  # fmt: skip
        data = lightgbm.Dataset(rows, target[use], weight=weight[use], params=settings)
        return [lightgbm.train({**settings, "alpha": quantile}, data, ROUNDS) for quantile in QUANTILES]

    def _rows(self, pairs: NDArray[np.int64]) -> Floats:
        """Return what is known at the beginning of days, of caches: a row for each hour of each pair of both."""
        day, cache = pairs[:, 0], pairs[:, 1]
        factor, taken, expected = self._factor, self._plain.taken, self._plain.expected

        def of(values: Floats, back: int) -> Floats:
            """Return the values of a day so many days back."""
            return np.where((day >= back)[:, None], values[np.maximum(day - back, 0), cache], np.nan)

        def ratio(hours: slice, *backs: int) -> Floats:
            """Return what was served in all of these hours, relative to what was expected."""
            served = np.stack([of(taken, back)[:, hours] for back in backs])
            due = np.where(np.isnan(served), 0, np.stack([of(expected, back)[:, hours] for back in backs]))
            with np.errstate(invalid="ignore", divide="ignore"):
                found = np.nansum(served, (0, 2)) / np.nansum(due, (0, 2))
            return np.broadcast_to(np.minimum(found, FACTOR_MAX)[:, None], (len(pairs), DAY_HOURS))

        now, cell, every = of(expected, 0), self._days.cell[day, cache], slice(None)
        with np.errstate(invalid="ignore", divide="ignore"):
            weeks = [np.minimum(of(taken, back) / now, FACTOR_MAX) for back in (1, 2, 7, 14)]
        columns = [
            np.broadcast_to(np.arange(DAY_HOURS), now.shape), cell % DAY_HOURS, cell // DAY_HOURS,
            now / self._mean[day, cache][:, None], of(self._plain.deviation, 0) / np.maximum(now, 1.0),
            of(factor, 1), of(factor, 7), *weeks,
            ratio(every, 1), ratio(every, 2), ratio(every, 1, 2, 3, 4, 5, 6, 7), ratio(every, 7),
            ratio(slice(21, None), 1), ratio(slice(16, None), 1),
            self._days.is_holiday[day, cache], of(self._days.is_holiday.astype(np.float64), 1),
        ]  # fmt: skip
        return np.stack(columns, -1).reshape(-1, len(columns)).astype(np.float64)
