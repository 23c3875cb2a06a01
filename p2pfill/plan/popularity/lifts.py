"""How much more a region likes a title than all regions do: shrunk to how much it likes the genre.

The lift of a cell (region, title) is its share of the title's level, over the region's share of all. Its prior is a
gamma distribution around the lift of the genre in the region, with shape `strength`; what was watched of the title in
the region, over what the title's level made expected there, moves it (the conjugate of Levels, one floor down):

    lift = (strength x genre lift + seen) / (strength + expected)

where `seen` and `expected` are sums in which a day counts `discount` of the next. The lift of a genre is the same
fraction summed over its titles, each weighted by what it can say of its genre, 1 / (1 + expected / strength), so that
one big title does not stand for all; it is shrunk to 1 (`shrinkage`). Strengths and discounts are of a small grid; that
strength is used with each discount that has made what came most likely of late. Infinite strength is in the grid, so
where regions do not differ, or too little is seen, the model is the global one; and so is a small one, which is each
region on its own.

Discounts are averaged title by title, by how likely they made the way in which its views fell to regions; what was
best for all goes before. So a title that something makes known in one region alone forgets what was, and others do not.
One discount for all was rejected: where such jumps are common it is a bad one for all other titles.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfill.plan.popularity.shrinkage import Chance, views_to_believe
from p2pfill.plan.tables import Floats, Ints

DISCOUNTS: Final = (0.7, 0.9, 0.97, 0.995)
STRENGTHS: Final = (0.5, 1.5, 4.0, 10.0, 30.0, 100.0, 1e9)
"""Views after which a title counts as much as its genre."""
GENRE_PRIOR: Final = 30.0
"""Views after which a genre counts as much as no difference between regions, before anything was seen."""
GENRE_MEMORY: Final = 0.95
"""Of a day's deviations of genres, the next day."""
FORGET: Final = 0.9
"""Of the likelihoods of the grid, from day to day."""
FREE: Final = 0.2
"""Part of a title's belief, before it was seen, that does not go to the discount that is best for all."""
TITLE_FORGET: Final = 0.95
"""Of a title's likelihoods, from day to day."""
TITLE_NOISE: Final = 0.1
"""By how much a region's share of a title differs from day to day, beside chance: bounds what one day can say."""
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
        self._cell: Floats = np.ones(shape)
        """The lifts by each discount."""
        self._gain: Floats = np.zeros((len(DISCOUNTS), len(genre)))
        """Of each discount and title: logarithm of the likelihood of late."""
        self._chance = Chance(GENRE_MEMORY, float(genres * regions))
        self.best = (2, 3)
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
        places = np.flatnonzero(seen)
        views = seen.ravel()[places]
        self._score(seen, expected)
        self._score_titles(views, places, seen.sum(axis=0), expected)
        self._score_genres(seen, expected)
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
        weight = self._weights()
        self.value[:] = 0
        for place, column in enumerate(self._likelihood.argmax(axis=1).tolist()):
            cell = np.multiply(prior, STRENGTHS[column], out=self._cell[place])
            cell += self._seen[place]
            cell /= self._expected[place] + STRENGTHS[column]
            self.value += weight[place] * cell
        self.value /= np.einsum("r,rt->t", audience, self.value) / audience.sum()

    def _weights(self) -> Floats:
        """Return how much each title believes in each discount."""
        belief = np.full((len(DISCOUNTS), 1), FREE / len(DISCOUNTS))
        belief[self.best[0]] += 1 - FREE
        weight: Floats = belief * np.exp(self._gain - self._gain.max(axis=0))
        weight /= weight.sum(axis=0)
        return weight

    def _score_titles(self, views: Floats, places: NDArray[np.intp], total: Floats, expected: Floats) -> None:
        """Judge the discounts by how each title's views fell to regions, whatever they were together."""
        title = places % len(self._genre)
        whole = np.maximum(expected.sum(axis=0), 1e-12)
        tell = 1 / (1 + TITLE_NOISE**2 * total)
        for gain, cell in zip(self._gain, self._cell, strict=True):
            due = np.maximum(np.einsum("rt,rt->t", expected, cell), 1e-12)
            likely = np.bincount(title, views * np.log(cell.ravel()[places]), len(total)) - total * np.log(due / whole)
            gain *= TITLE_FORGET
            gain += likely * tell

    def _score_genres(self, seen: Floats, expected: Floats) -> None:
        """Find by how much more than chance the views of genres deviate; a big title counts for a few views."""
        says = 1 / (1 + expected)
        seen, expected = (self._by_genre(part * says) for part in (seen, expected))
        self._chance.learn(seen, expected * self.of_genre)

    def _by_genre(self, values: Floats) -> Floats:
        return np.stack([np.bincount(self._genre, row, self._genres) for row in values])

    def _genre_lifts(self, place: int, strength: float, audience: Floats) -> Floats:
        says = 1 / (1 + self._expected[place] / strength)
        seen, expected = (self._by_genre(part[place] * says) for part in (self._seen, self._expected))
        free = (len(seen) - 1) * (self._genres - 1)
        prior = views_to_believe(seen, expected, self._chance.value, free, GENRE_PRIOR)
        lift = (seen + prior) / (expected + prior)
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
                gain = np.einsum("i,i->", views, np.log(lift.ravel()[places])) - np.einsum("rt,rt->", expected, lift)
                self._likelihood[place, column] += float(gain)
