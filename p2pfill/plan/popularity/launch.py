"""How big launches are, and how demand falls with age: learned from the launches that were seen.

The curve c(age) is kept as its daily steps, step(a) = c(a + 1) / c(a). The step of an age is the views of all that is
of age a + 1 today, over the views of the same cells yesterday, both divided by what their region watched: a chain of
ratios ("chain ladder", Mack 1993). Sums of both sides keep it free of the noise of small counts. A genre's step is
shrunk to that of all genres, and that to a power law. Titles of which nothing is known yet have c alone to go by; a
title that has been seen goes by its own level, and c only carries that from day to day (see `levels`). Fitting a curve
for each title was rejected: a title of three days says little of its tail.

With a hint, the logarithm of the first day's size is a line over the hint's, fitted to what launches were worth: the
line's height is the bias of hints, and its slope, shrunk to 1, is below 1 where hints err, as what is said to be the
biggest launch of the year is mostly smaller than said. Taking hints at their word, but for their bias, was rejected:
the titles on top are then those whose hints err most. Without a hint the mean is that of the genre's launches, shrunk
to that of all.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.tables import Floats, Ints

AGE_MAX: Final = 365
"""Days. What is older has no launch any more: its curve is flat, and its level alone moves."""
CELL_MAX: Final = 10.0
"""Views a day for which a cell counts at most: titles differ from their genre by a third or so from day to day, which
is what chance does to ten views."""
STEP_PRIOR: Final = 40.0
"""Views that an age needs before its own step counts as much as the power law's."""
GENRE_PRIOR: Final = 200.0
"""Views that a genre needs at one age to be believed as much as all genres together."""
STEEPEST: Final = 4.0
"""No curve falls faster than age^-4, nor grows faster than age^2: what looks steeper is some title's jump."""
DECAY: Final = 0.5
"""Exponent of the power law: half of what is seen at films and series, so that the first launches decide soon."""
MEMORY: Final = 0.99
"""Of a day's launches, the next day: a hundred days or so are remembered."""
SIZES_PRIOR: Final = 2.0
"""Launches that the first guess of a launch's size counts for."""
HINT_VARIANCE: Final = 0.4
"""Of the logarithm of actual over hinted views, before any hint was proved: a hint is good to a factor of two."""
LAUNCH_VARIANCE: Final = 1.6
"""Of logarithms of launch sizes, before any launch was seen: few are big."""
GENRE_LAUNCHES: Final = 20.0
"""Launches after which a genre's mean size counts as much as that of all: sizes differ far more within a genre."""
SLOPE_PRIOR: Final = 5.0
"""Squares of hints' logarithms around their mean after which what launches showed counts as much as a slope of 1."""
VARIANCE_MAX: Final = 3.0
"""Of logarithms: with more, a first view would be all that counts."""
LEAST: Final = 1e-9
"""Size below which a launch is none: it has a logarithm still."""


def age_bins() -> Ints:
    """Return the bin of each age from 0 to AGE_MAX: a bin a day at first, then as wide as a sixth of the age."""
    bins = np.zeros(AGE_MAX + 1, np.int32)
    place = 0
    edge = 1
    for age in range(AGE_MAX + 1):
        if age >= edge:
            place += 1
            edge = age + max(1, age // 6)
        bins[age] = place
    return bins


class LaunchCurve:
    """The steps of demand from day to day by genre and age."""

    def __init__(self, genres: int) -> None:
        self.bins = age_bins()
        self._bins = int(self.bins[-1]) + 1
        self._after = np.zeros((genres, self._bins))
        self._before = np.zeros((genres, self._bins))
        self.step: Floats = np.ones((genres, AGE_MAX + 1))
        self.log: Floats = np.zeros((genres, AGE_MAX + 1))
        """Of c, with 0 at age 0."""
        self._renew()

    def learn(self, genre: Ints, age: Ints, before: Floats, after: Floats) -> None:
        """Take in cells that were of `age` yesterday, with their views of yesterday and today, volume taken out."""
        place = genre * self._bins + self.bins[np.minimum(age, AGE_MAX)]
        shape = self._after.shape
        size = shape[0] * shape[1]
        self._after = self._after * MEMORY + np.bincount(place, after, size).reshape(shape)
        self._before = self._before * MEMORY + np.bincount(place, before, size).reshape(shape)
        self._renew()

    def _renew(self) -> None:
        ages = np.arange(AGE_MAX + 1)
        power = ((ages + 2) / (ages + 1)) ** -DECAY
        prior = np.bincount(self.bins, np.log(power)) / np.bincount(self.bins)
        after, before = self._after.sum(axis=0), self._before.sum(axis=0)
        of_all = (after + STEP_PRIOR * np.exp(prior)) / (before + STEP_PRIOR)
        step = (self._after + GENRE_PRIOR * of_all) / (self._before + GENRE_PRIOR)
        bound = STEEPEST / (1 + ages)
        self.step = np.clip(step[:, self.bins], np.exp(-bound), np.exp(bound / 2))
        self.step[:, AGE_MAX] = 1.0
        self.log[:, 1:] = np.cumsum(np.log(self.step[:, :-1]), axis=1)


class LaunchSizes:
    """The distribution of the level with which a title starts, by genre or by hint."""

    def __init__(self, genres: int) -> None:
        self._genres = genres
        self._genre: Ints = np.zeros(0, np.int32)
        self._hint: Floats = np.zeros(0)
        self._size: Floats = np.zeros(0)
        """Both as logarithms; hint NaN: nothing said."""

    def learn(self, genre: Ints, hint: Floats, size: Floats) -> None:
        """Take in launches: what their first day was worth, and what the operator had hinted (NaN: nothing)."""
        self._genre = np.append(self._genre, genre)
        self._hint = np.append(self._hint, np.log(np.where(hint > 0, hint, np.nan)))
        self._size = np.append(self._size, np.log(np.maximum(size, LEAST)))

    def prior(self, genre: Ints, hint: Floats, otherwise: float) -> tuple[Floats, Floats]:
        """Return mean and shape (1 / relative variance) of launches; `otherwise` is the mean where nothing is known."""
        of_genre, of_launches = self._by_genre(np.log(max(otherwise, LEAST)) - LAUNCH_VARIANCE / 2)
        centre, bias, slope, of_hints = self._by_hint()
        hinted = hint > 0
        said = np.log(np.where(hinted, hint, 1.0))
        middle = np.where(hinted, centre + bias + slope * (said - centre), of_genre[genre])
        mean = np.exp(middle) * np.where(hinted, of_hints[0], of_launches[0])
        return mean, 1 / np.expm1(np.where(hinted, of_hints[1], of_launches[1]))

    def _by_genre(self, first: float) -> tuple[Floats, tuple[float, float]]:
        """Return the mean logarithm of the size by genre, and what `_around` says of it."""
        size = self._size
        of_all = (size.sum() + SIZES_PRIOR * first) / (len(size) + SIZES_PRIOR)
        count = np.bincount(self._genre, minlength=self._genres)
        own = np.bincount(self._genre, size, self._genres)
        of_genre = (own + GENRE_LAUNCHES * of_all) / (count + GENRE_LAUNCHES)
        return of_genre, _around(size - of_genre[self._genre], LAUNCH_VARIANCE)

    def _by_hint(self) -> tuple[float, float, float, tuple[float, float]]:
        """Return the line of the size's logarithm over the hint's: centre, bias there, slope, and `_around`."""
        told = ~np.isnan(self._hint)
        hint, size = self._hint[told], self._size[told]
        centre = float(hint.sum() / max(len(hint), 1))
        bias = float((size - hint).sum() / (len(hint) + SIZES_PRIOR))
        beside = hint - centre
        slope = float((beside @ (size - centre - bias) + SLOPE_PRIOR) / (beside @ beside + SLOPE_PRIOR))
        return centre, bias, slope, _around(size - centre - bias - slope * beside, HINT_VARIANCE)


def _around(off: Floats, first: float) -> tuple[float, float]:
    """Return by what the mean is above the exponential of a mean logarithm, and the variance of logarithms.

    The former is the mean of what it was (smearing, Duan 1983), for a launch that nobody watched is far off in its
    logarithm and not in its views. `first` is the variance before anything is seen.
    """
    launches = len(off) + SIZES_PRIOR
    above = (np.exp(off).sum() + SIZES_PRIOR * np.exp(first / 2)) / launches
    return float(above), min(float((off @ off + SIZES_PRIOR * first) / launches), VARIANCE_MAX)
