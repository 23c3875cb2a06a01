"""Where a title can be watched already: launches that go from region to region.

A catalogue says when a title is released, but regions follow late, and no table says when. So each cell (region, title)
has a probability of being open. From day to day it grows by a hazard, which is learned from past openings by the days
since the release and by the share of the regions that are open: a title that has entered many regions predicts the
others. A view proves a cell open; a day without views, where e were expected, makes it less likely, by the chance
(1 + e)^-1 of seeing none where the expectation itself has an exponential distribution. This is the forward pass of a
hidden Markov model of two states. Ages are local: a title starts anew where it opens late. Taking the release for
granted was rejected: a region that opens a week late would be taken for one that does not like the title.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.tables import Floats, Ints

SINCE: Final = np.array([1, 3, 7, 14, 30])
"""Days since the release at which another row of the hazards begins."""
OPEN: Final = np.array([1e-9, 0.25, 0.5, 0.75])
"""Shares of open regions above which another column of the hazards begins."""
PRIOR: Final = 3.0
"""Openings that a first guess of a hazard counts for."""
FIRST: Final = (0.9, 0.1, 0.1, 0.05, 0.03, 0.01)
"""First guess of the hazards, by days since the release."""

SETTLED: Final = 60
"""Days after which what was released is taken to be open everywhere, if no history says otherwise."""
RECENT: Final = 0.8
"""Chance that a region has opened what was released less long before the history begins."""


class Waves:
    """How likely each title is open in each region, and since when. Arrays: regions x titles."""

    def __init__(self, regions: int, released: Ints, day: int) -> None:
        self.released = released
        self.day = day
        """The day that the arrays speak of."""
        age = np.maximum(day - released, 0)
        known = np.where(released < day - SETTLED, 1.0, np.where(released < day, RECENT, 0.0))
        self.open: Floats = np.repeat(known[None], regions, axis=0)
        self.age: Floats = np.repeat(age.astype(np.float64)[None], regions, axis=0)
        """In days, expected, if open."""
        self.seen = np.zeros((regions, len(released)), bool)
        self._opened = np.full((len(SINCE) + 1, len(OPEN) + 1), PRIOR) * np.array(FIRST)[:, None]
        self._risk = np.full((len(SINCE) + 1, len(OPEN) + 1), PRIOR)
        self._fresh: Floats = np.zeros_like(self.open)
        self._bin: Ints = np.zeros(len(released), np.int32)
        self._hazards()

    def step(self) -> None:
        """Go on a day."""
        self.day += 1
        self.age += 1
        self._hazards()

    def _hazards(self) -> None:
        since = np.searchsorted(SINCE, self.day - self.released, side="right")
        among = np.searchsorted(OPEN, self.seen.mean(axis=0), side="right")
        self._bin = (since * (len(OPEN) + 1) + among).astype(np.int32)
        hazard = (self._opened / self._risk).ravel()[self._bin]
        hazard = np.where(self.released <= self.day, hazard, 0.0)
        self._fresh = (1 - self.open) * hazard
        # Evidence multiplies odds: what rounding lets pass 1 would grow without bound.
        self.open = np.minimum(self.open + self._fresh, 1.0)
        share = np.divide(self._fresh, self.open, out=np.zeros_like(self.open), where=self.open > 0)
        self.age *= 1 - share

    def learn(self, seen: Floats, expected: Floats) -> None:
        """Take in a day: views of each cell, and what were expected of it if it is open."""
        views = seen > 0
        new = views & ~self.seen
        before = self.open
        share = np.divide(self._fresh, before, out=np.zeros_like(before), where=before > 0)
        none = before / (1 + expected)
        after = none / np.maximum(none + 1 - before, 1e-12)
        after[views] = 1.0
        after[self.seen] = 1.0
        opened = np.where(self.seen, 0.0, after * share)
        # Who was closed this morning, after all that was seen since: who opened today, and who still has not.
        risk = opened + 1 - after
        size = self._risk.size
        live = (self.released <= self.day) & (self.released > self.day - 2 * SETTLED)
        self._opened += np.bincount(self._bin, np.where(live, opened.sum(axis=0), 0), size).reshape(self._risk.shape)
        self._risk += np.bincount(self._bin, np.where(live, risk.sum(axis=0), 0), size).reshape(self._risk.shape)
        early = new & (self.released[None] > self.day)
        self.age[early] = 0.0
        self.open = np.minimum(after, 1.0)
        self.seen |= views
