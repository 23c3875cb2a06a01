"""How much each region watches: a level of late, times the day of the week.

A region's audience is what its titles bring over what they would bring if it were all there is. It is measured on what
has been out for a week, so that a big launch does not pass for a day on which everybody watched. The level forgets a
fifth each day. The days of the week have factors, measured for all regions together and shrunk to 1, and for each
region shrunk to those. A genre has its own on top of that, as children's films have their Saturdays: what its titles
brought over what was expected of them, beside all genres on the same days.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.popularity.shrinkage import Chance, views_to_believe
from p2pfill.plan.tables import Floats, Ints

LEVEL_MEMORY: Final = 0.8
WEEK_MEMORY: Final = 0.98
"""Seven weeks or so."""
RATIO_MAX: Final = 3.0
"""What a weekday may be beside the level."""
WEEK_PRIOR: Final = 1.0
"""Weeks after which a weekday counts as much as all days, and a region's as much as all regions'."""

GENRE_PRIOR: Final = 100.0
"""Views on a weekday after which a genre's own factor counts as much as 1, before anything was seen: genres differ by a
tenth or so, as much as chance makes of a hundred views."""
TITLE_MAX: Final = 30.0
"""Views a day for which a title counts at most, so that no jump of one stands for its genre."""


class Volume:
    """The audiences of the regions."""

    def __init__(self, regions: int) -> None:
        self._level: Floats = np.zeros(regions)
        self._weight = 0.0
        self._of_day: Floats = np.zeros((7, regions))
        self._days = np.zeros(7)
        self._week: Floats = np.ones((7, regions))

    def level(self) -> Floats:
        """Return each region's audience on a mean day."""
        if self._weight == 0:
            return np.full(len(self._level), 1 / len(self._level))
        result: Floats = self._level / self._weight
        return result

    def expected(self, day: int) -> Floats:
        """Return each region's audience on `day`."""
        result: Floats = self.level() * self._week[day % 7]
        return result

    def learn(self, day: int, audience: Floats) -> float:
        """Take in what the audiences were, and return by what they had to be divided to be 1 together.

        Levels of titles have to be multiplied by it: what all titles have in common is a trend of theirs, or it could
        be the audience's as well, and both would run away from each other.
        """
        weekday = day % 7
        if self._weight:
            ratio = np.clip(audience / np.maximum(self.level(), 1e-12), 1 / RATIO_MAX, RATIO_MAX)
            self._of_day *= WEEK_MEMORY
            self._days *= WEEK_MEMORY
            self._of_day[weekday] += ratio
            self._days[weekday] += 1
            of_all = (self._of_day.mean(axis=1) + WEEK_PRIOR) / (self._days + WEEK_PRIOR)
            self._week = (self._of_day + WEEK_PRIOR * of_all[:, None]) / (self._days + WEEK_PRIOR)[:, None]
            self._week /= self._week.mean(axis=0)
        self._level = LEVEL_MEMORY * self._level + audience / np.maximum(self._week[weekday], 0.05)
        self._weight = LEVEL_MEMORY * self._weight + 1
        whole = float(self.level().sum())
        self._level /= whole
        return whole


class GenreWeek:
    """How much more a genre is watched on a weekday than all genres are."""

    def __init__(self, genres: int) -> None:
        self._seen: Floats = np.zeros((7, genres))
        self._expected: Floats = np.zeros((7, genres))
        self._factor: Floats = np.ones((7, genres))
        self._chance = Chance(WEEK_MEMORY, float(genres))

    def expected(self, day: int) -> Floats:
        """Return each genre's factor on `day`."""
        result: Floats = self._factor[day % 7]
        return result

    def learn(self, day: int, genre: Ints, seen: Floats, expected: Floats) -> None:
        """Take in titles: their genres, their views, and what was expected of them if genres had no weekdays."""
        genres = self._seen.shape[1]
        says = 1 / (1 + expected / TITLE_MAX)
        came, due = (np.bincount(genre, part * says, genres).astype(np.float64) for part in (seen, expected))
        if not came.sum() > 0 or not due.sum() > 0:
            return
        due *= came.sum() / due.sum()
        self._chance.learn(came, due * self._factor[day % 7])
        for sums, part in ((self._seen, came), (self._expected, due)):
            sums *= WEEK_MEMORY
            sums[day % 7] += part
        prior = views_to_believe(self._seen, self._expected, self._chance.value, 6 * (genres - 1), GENRE_PRIOR)
        self._factor = (self._seen + prior) / (self._expected + prior)
        self._factor /= self._factor.mean(axis=0)
