"""How much a title is watched in all regions together: a gamma-Poisson filter whose memory each title chooses.

What a title draws a day, its level, has a gamma distribution with a shape and a rate. A day with exposure e (what the
same day would have brought at a level of 1) on which it was watched y times makes it shape + y and rate + e; from one
day to the next both are multiplied by a discount below 1, which keeps the mean and widens the spread, and the mean is
carried along the launch curve (the steady model of West and Harrison, Bayesian Forecasting and Dynamic Models, 1997,
10.8). One discount does not fit all: a title that jumped must forget at once, an old one hardly. So a filter runs for
each of a small grid of discounts and of speeds (exponents of the launch curve), and the forecast is their average,
weighted for each title by how likely they made what came (dynamic model averaging, Raftery and others 2010). Where
a title says nothing yet, weights count that make what came of all titles most likely (empirical Bayes, by steps of
expectation and maximisation). Choosing one discount by cross-validation was rejected: it is
wrong for either the jumps or the rest.

Views of one day vary by more than chance: a gain that trusts a hundred thousand views to three in a thousand follows
noise. `NOISE` bounds what one day can say.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfill.plan.tables import Floats

DISCOUNTS: Final = (0.5, 0.75, 0.88, 0.94, 0.97, 0.99)
"""What is left the next day: memories of 2 to 100 days."""
SPEEDS: Final = (0.6, 1.0, 1.5)
"""Exponents of the launch curve: some titles fade slower, some faster than their genre."""
NOISE: Final = 0.08
"""Relative standard deviation of a day that is not chance of counts, nor a change that stays."""
FORGET: Final = 0.96
"""Of a title's likelihoods, from day to day: what fitted a month ago says little of today."""
ROUNDS: Final = 3
"""Steps a day by which the weights before a title was seen go to where they make all titles most likely."""


def log_gamma(value: Floats) -> Floats:
    """Return the logarithm of the gamma function of positive numbers, to 1e-6 (Stirling's series after two steps)."""
    up = value + 2
    series = (up - 0.5) * np.log(up) - up + 0.9189385332046727 + 1 / (12 * up) - 1 / (360 * up**3)
    result: Floats = series - np.log(value * (value + 1))
    return result


class Levels:
    """The levels of all titles. Arrays have a row for each title and a column for each member of the grid."""

    def __init__(self, mean: Floats, shape: Floats) -> None:
        discount, speed = np.meshgrid(DISCOUNTS, SPEEDS, indexing="ij")
        self.discount: Floats = discount.ravel()
        self.speed: Floats = speed.ravel()
        members = len(self.discount)
        self.shape: Floats = np.repeat(shape[:, None], members, axis=1)
        self.rate: Floats = self.shape / np.maximum(mean, 1e-12)[:, None]
        self._gain: Floats = np.zeros_like(self.shape)
        """Logarithm of the likelihood of late."""
        self._common: Floats = np.full(members, 1 / members)
        self.weight: Floats = np.repeat(self._common[None], len(mean), axis=0)

    def start(self, titles: NDArray[np.bool_], mean: Floats, shape: Floats) -> None:
        """Give titles (a mask) a first distribution."""
        self.shape[titles] = shape[titles, None]
        self.rate[titles] = (shape[titles] / np.maximum(mean[titles], 1e-12))[:, None]

    def step(self, curve: Floats, mean: float, shape: float) -> None:
        """Go on a day, by the launch curve's step of each title.

        `mean` and `shape` are those of all titles, to which a title returns that is not heard of any more.
        """
        fresh = 1 - self.discount
        self.shape *= self.discount
        self.shape += fresh * shape
        self.rate *= self.discount
        self.rate += fresh * (shape / max(mean, 1e-12))
        young = curve != 1
        self.rate[young] /= curve[young, None] ** self.speed

    def scale(self, factor: float) -> None:
        """Multiply all levels."""
        self.rate /= factor

    def mean(self) -> Floats:
        """Return the expected level of each title."""
        result: Floats = np.einsum("tm,tm->t", self.weight, self.shape / self.rate)
        return result

    def variance(self) -> Floats:
        """Return the relative variance of each title's level."""
        mean = self.shape / self.rate
        squares = np.einsum("tm,tm->t", self.weight, mean * mean * (1 + 1 / self.shape))
        result: Floats = squares / np.maximum(self.mean() ** 2, 1e-300) - 1
        return np.maximum(result, 0)

    def learn(self, seen: Floats, exposure: Floats) -> None:
        """Take in a day: what was seen of each title, in views, and its exposure, which is 0 where nothing could be."""
        mean = self.shape / self.rate * exposure[:, None]
        sure = 1 / (1 / self.shape + NOISE**2)
        many = seen[:, None]
        total = sure + mean
        gain = sure * np.log(sure / total) + many * np.log(np.maximum(mean, 1e-12) / total)
        some = seen > 0
        gain[some] += log_gamma(sure[some] + many[some]) - log_gamma(sure[some])
        self._gain *= FORGET
        self._gain += np.where(exposure[:, None] > 0, gain, 0)
        self._gain -= self._gain.max(axis=1, keepdims=True)
        likely = np.exp(self._gain)
        voters = likely[some & (exposure > 0)]
        if len(voters):
            for _ in range(ROUNDS):
                weight = self._common * voters
                weight /= weight.sum(axis=1, keepdims=True)
                self._common = (self._common + weight.mean(axis=0)) / 2
        self.weight = self._common * likely
        self.weight /= self.weight.sum(axis=1, keepdims=True)
        trust = 1 / (1 + NOISE**2 * self.mean() * exposure)
        self.shape += (seen * trust)[:, None]
        self.rate += (exposure * trust)[:, None]
