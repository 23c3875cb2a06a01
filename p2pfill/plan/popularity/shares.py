"""What part of a title's views goes to each of its files: the mix of kinds of the region, shrunk in two steps.

A region has a mix of kinds (devices, encodings); of a title's files each is expected to get its kind's part of the mix
of those kinds that the title has. A file has its own factor on that, from all regions together, shrunk to 1; and a
cell (region, file) its own share, shrunk to what both say, with a strength that is chosen of a grid by the likelihood
of what came (a Dirichlet-multinomial, shrunk as in `lifts`). A forecast of each file for itself was rejected: a title
in three encodings would be learned three times, from a third of the views.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.tables import Floats, Ints

MEMORY: Final = 0.97
"""Of a day's views, the next day."""
FILE_PRIOR: Final = 10.0
"""Views after which a file counts as much as its kind."""
MIX_PRIOR: Final = 50.0
"""Views after which a region's mix of kinds counts as much as that of all regions."""
STRENGTHS: Final = (3.0, 10.0, 30.0, 100.0, 300.0, 1e9)
"""Views of a title in a region after which its own shares count as much as the mix."""
FORGET: Final = 0.9


class Shares:
    """The shares of files in their titles. Arrays: regions x files, the files of a title side by side from `start`."""

    def __init__(self, regions: int, title: Ints, kind: Ints, kinds: int) -> None:
        self._title = title
        self._kind = kind
        self._start = np.flatnonzero(np.diff(title, prepend=-1))
        self._of = np.repeat(np.arange(len(self._start)), np.diff(np.append(self._start, len(title))))
        self._seen: Floats = np.zeros((regions, len(title)))
        self._seen_title: Floats = self.sums(self._seen)
        self._mix: Floats = np.zeros((regions, kinds))
        self._fair: Floats = np.zeros((regions, kinds))
        self._file: Floats = np.zeros(len(title))
        self._file_expected: Floats = np.zeros(len(title))
        self._likelihood: Floats = np.zeros(len(STRENGTHS))
        self.strength = STRENGTHS[2]
        self.kinds: Floats = np.ones((regions, kinds))
        """How much each region likes each kind, over all kinds being alike."""
        self.value: Floats = self._normal(np.ones((regions, len(title))))
        self._prior = self.value.copy()
        """By the mix of the region alone."""
        self._believed = self.value.copy()
        """By the mix and by the file's own factor."""

    def sums(self, values: Floats) -> Floats:
        result: Floats = np.add.reduceat(values, self._start, axis=-1) if len(self._start) else values
        return result

    def _normal(self, values: Floats) -> Floats:
        """Make the files of each title 1 together; `values` is changed and returned."""
        if not len(self._start):
            return values
        values *= np.take(1 / np.maximum(self.sums(values), 1e-12), self._of, axis=-1)
        return values

    def learn(self, seen: Floats, of_title: Floats, region: Ints, file: Ints) -> None:
        """Take in a day's views, by file and (see `sums`) by title; `region` and `file` say where there are any."""
        if not len(region):
            return
        self._score(seen, region, file)
        self._seen_title *= MEMORY
        self._seen_title += of_title
        self._file *= MEMORY
        self._file_expected *= MEMORY
        for row, views in enumerate(seen):
            self._seen[row] *= MEMORY
            self._seen[row] += views
            expected = np.take(of_title[row], self._of)
            expected *= self._prior[row]
            self._file += views
            self._file_expected += expected
            self._mix[row] = self._mix[row] * MEMORY + np.bincount(self._kind, views, len(self._mix[row]))
            fair = np.bincount(self._kind, expected, len(self._mix[row])) / np.maximum(self.kinds[row], 1e-12)
            self._fair[row] = self._fair[row] * MEMORY + fair
        self._renew()

    def _renew(self) -> None:
        of_all = (self._mix.sum(axis=0) + 1) / (self._fair.sum(axis=0) + 1)
        self.kinds = (self._mix + MIX_PRIOR * of_all) / (self._fair + MIX_PRIOR)
        factor = (self._file + FILE_PRIOR) / (self._file_expected + FILE_PRIOR)
        # Region by region, since what is worked on then stays in the processor's cache.
        for row, kinds in enumerate(self.kinds):
            prior = self._normal(np.take(kinds, self._kind))
            believed = self._normal(prior * factor)
            self._prior[row] = prior
            self._believed[row] = believed
            believed *= self.strength
            believed += self._seen[row]
            believed *= np.take(1 / (self._seen_title[row] + self.strength), self._of)
            self.value[row] = believed

    def _score(self, seen: Floats, region: Ints, file: Ints) -> None:
        views = seen[region, file]
        own, prior = self._seen[region, file], self._believed[region, file]
        of_title = self._seen_title[region, self._of[file]]
        self._likelihood *= FORGET
        for place, strength in enumerate(STRENGTHS):
            share = (own + strength * prior) / (of_title + strength)
            self._likelihood[place] += float(np.einsum("i,i->", views, np.log(np.maximum(share, 1e-12))))
        self.strength = STRENGTHS[int(np.argmax(self._likelihood))]
