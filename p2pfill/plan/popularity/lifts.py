"""How much more a region likes a title than all regions do: shrunk to how much it likes the genre.

The lift of a cell (region, title) is its share of the title's level, over the region's share of all. Its prior is a
gamma distribution around the lift of the genre in the region, with shape `strength`; what was watched of the title in
the region, over what the title's level made expected there, moves it (the conjugate of Levels, one floor down):

    lift = (strength x genre lift + seen) / (strength + expected)

where `seen` and `expected` are sums in which a day counts `discount` of the next. The lift of a genre is the same
fraction summed over its titles, each weighted by what it can say of its genre, 1 / (1 + expected / strength), so that
one big title does not stand for all; it is shrunk to 1. Strength and discount are of a small grid; the pair is used
that has made what came most likely of late. Infinite strength is in the grid, so where regions do not differ, or too
little is seen, the model is the global one; and so is a small one, which is each region on its own.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.tables import Floats, Ints

DISCOUNTS: Final = (0.9, 0.97, 0.995)
STRENGTHS: Final = (0.5, 1.5, 4.0, 10.0, 30.0, 100.0, 1e9)
"""Views after which a title counts as much as its genre."""
GENRE_PRIOR: Final = 30.0
"""Views after which a genre counts as much as no difference between regions."""
FORGET: Final = 0.9
"""Of the likelihoods of the grid, from day to day."""
CELLS_SCORED: Final = 60_000
"""Cells of a day by which the grid is judged: a part of the titles, another each day, where there are more."""


class Lifts:
    """The lifts of all cells. Arrays: regions x titles."""

    def __init__(self, regions: int, genre: Ints, genres: int) -> None:
        self._genre = genre
        self._genres = genres
        shape = (len(DISCOUNTS), regions, len(genre))
        self._seen: Floats = np.zeros(shape)
        self._expected: Floats = np.zeros(shape)
        self._likelihood: Floats = np.zeros((len(DISCOUNTS), len(STRENGTHS)))
        self._every = max(1, regions * len(genre) // CELLS_SCORED)
        self._days = 0
        self.best = (1, 3)
        """Places of discount and strength in the grid."""
        self.of_genre: Floats = np.ones((regions, genres))
        self.value: Floats = np.ones((regions, len(genre)))

    @property
    def strength(self) -> float:
        """The one used now."""
        return STRENGTHS[self.best[1]]

    def variance(self) -> Floats:
        """Return the relative variance of each lift."""
        result: Floats = 1 / (self.strength + self._seen[self.best[0]] + 1e-9)
        return result

    def learn(self, seen: Floats, expected: Floats, audience: Floats) -> None:
        """Take in a day: views of each cell, and what the title's level alone makes expected of it."""
        self._score(seen, expected)
        for place, discount in enumerate(DISCOUNTS):
            self._seen[place] *= discount
            self._seen[place] += seen
            self._expected[place] *= discount
            self._expected[place] += expected
        self._days += 1
        best = int(np.argmax(self._likelihood))
        self.best = (best // len(STRENGTHS), best % len(STRENGTHS))
        self.of_genre = self._genre_lifts(self.best[0], self.strength, audience)
        prior = self.of_genre[:, self._genre]
        sums = self._seen[self.best[0]], self._expected[self.best[0]]
        self.value = (self.strength * prior + sums[0]) / (self.strength + sums[1])
        self.value /= audience @ self.value / audience.sum()

    def _genre_lifts(self, place: int, strength: float, audience: Floats) -> Floats:
        says = 1 / (1 + self._expected[place] / strength)
        sums = []
        for part in (self._seen[place] * says, self._expected[place] * says):
            sums.append(np.stack([np.bincount(self._genre, row, self._genres) for row in part]))
        lift = (sums[0] + GENRE_PRIOR) / (sums[1] + GENRE_PRIOR)
        whole = self._expected[place].sum(axis=0)
        mass = np.bincount(self._genre, whole, self._genres)
        for _ in range(3):
            lift /= (lift @ mass / max(mass.sum(), 1e-12))[:, None]
            lift /= audience @ lift / audience.sum()
        return lift

    def _score(self, seen: Floats, expected: Floats) -> None:
        titles = slice(self._days % self._every, None, self._every)
        seen = seen[:, titles]
        places = np.flatnonzero(seen)
        if not len(places):
            return
        views, expected = seen.ravel()[places], np.ascontiguousarray(expected[:, titles])
        prior = self.of_genre[:, self._genre[titles]]
        self._likelihood *= FORGET
        for place in range(len(DISCOUNTS)):
            so_far = np.ascontiguousarray(self._seen[place, :, titles])
            in_all = np.ascontiguousarray(self._expected[place, :, titles])
            for column, strength in enumerate(STRENGTHS):
                lift = (strength * prior + so_far) / (strength + in_all)
                gain = float(views @ np.log(lift.ravel()[places])) - float(np.vdot(expected, lift))
                self._likelihood[place, column] += gain
