"""Bands around forecasts of load that hold what they say: adaptive conformal inference. Pure.

A model's quantiles are hopes. Each is moved by as much as it was wrong lately: how far the load was beyond it, in units
of what is usual for such an hour, is a score, and the quantile of the scores of the last weeks at 1 - a is what the
band is moved by. With a fixed, that holds as long as the future is like these weeks. So `a` itself follows what
happens, for each cache and each edge of a band (Gibbs and Candes, "Adaptive Conformal Inference Under Distribution
Shift", NeurIPS 2021, equation 2): a <- a + STEP (target - err), where err is 1 for an hour beyond the edge and else 0.
Over time the share of hours beyond an edge is its target, whatever the load does.

What was beyond a day ago is known only when the day is over, so `a` moves once a day, by the sum over its hours. The
lower and the upper edge are calibrated apart: load has a long tail upwards, and the upper edge is what fill goes by.
Scores of a forecast quantile, and not of a mean, follow Romano, Patterson and Candes, "Conformalized Quantile
Regression", NeurIPS 2019.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

import numpy as np

from p2pfill.plan.hours.profile import DAY_HOURS
from p2pfill.plan.tables import Floats

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Lower edge of the 90 % band, of the 50 % band, median, and the upper edges."""

MEDIAN: Final = 2

STEP: Final = 0.005
"""How far an hour moves `a`: as in the experiments of the paper."""

SCORE_DAYS: Final = 42
"""Of which scores count: six weeks, a thousand hours, of which fifty are beyond the edge of a 90 % band."""

SCORES_MIN: Final = 168
"""A cache with fewer scores leans on those of all caches: the edge of a 90 % band has eight hours of a week beyond."""

MISS_MAX: Final = 0.5
"""`a` stays below: an edge never crosses the median by intent."""

BEYOND_MAX: Final = 4.0
"""Times the largest hour that a cache has had: no edge lies beyond. In its first days a cache is misjudged by far."""

NORMAL_SCORE: Final = 1.2533
"""Standard deviations in a mean deviation, of normal errors: for bands where no score is known at all."""


def calibrate(raw: Floats, scale: Floats, taken: Floats) -> Floats:
    """Return quantiles of load, moved to where they hold; what is said of a day uses the days before it only.

    `raw` has a model's quantiles, by day, cache, hour and quantile; `scale` how far off such hours usually are, and
    `taken` what was served (NaN: not known), by day, cache and hour. The result is as `raw`, ascending, at least 0.
    """
    moved = raw.copy()
    for place, quantile in enumerate(QUANTILES):
        if place != MEDIAN:
            moved[..., place] = _edge(raw[..., place], scale, taken, quantile)
    median = moved[..., MEDIAN, None]
    below, above = np.minimum(moved[..., :MEDIAN], median), np.maximum(moved[..., MEDIAN + 1 :], median)
    edges = np.concatenate([below, median, above], axis=-1)
    return np.sort(np.clip(edges, 0, BEYOND_MAX * _largest_before(taken)[..., None, None]), axis=-1)


def _largest_before(taken: Floats) -> Floats:
    """Return the largest hour that each cache had before each day; infinite where it had none."""
    largest = np.fmax.accumulate(np.fmax.reduce(taken, axis=2), axis=0)
    before = np.concatenate([np.full((1, taken.shape[1]), np.nan), largest[:-1]])
    return np.where(np.isnan(before), np.inf, before)


def _edge(raw: Floats, scale: Floats, taken: Floats, quantile: float) -> Floats:
    """Return one edge of a band."""
    sign, target = (1.0, 1 - quantile) if quantile > 0.5 else (-1.0, quantile)
    scores = sign * (taken - raw) / scale
    first = NormalDist().inv_cdf(1 - target) * NORMAL_SCORE
    miss = np.full(raw.shape[1], target)
    edge = np.full(raw.shape, np.nan)
    for day in range(len(raw)):
        move = _quantile(scores[max(0, day - SCORE_DAYS) : day], 1 - miss, first)
        edge[day] = raw[day] + sign * move[:, None] * scale[day]
        known = ~np.isnan(scores[day])
        beyond = known & (scores[day] > move[:, None])
        miss = np.clip(miss + STEP * (target * known.sum(1) - beyond.sum(1)), 0, MISS_MAX)
    return edge


def _quantile(scores: Floats, share: Floats, first: float) -> Floats:
    """Return a quantile of each cache's scores, which are by day, cache and hour; `share` has which one.

    Beyond the largest score there is nothing to go by: the paper's band is infinite there, and this one ends at it.
    """
    of_cache = np.sort(scores.swapaxes(0, 1).reshape(scores.shape[1], -1), axis=1)  # NaN at the end
    count = of_cache.shape[1] - np.isnan(of_cache).sum(1)
    if (count < SCORES_MIN).any():
        of_all = np.sort(scores[~np.isnan(scores)])
        common = _pick(of_all, len(of_all), share) if len(of_all) >= DAY_HOURS else np.full(len(share), first)
    else:
        common = np.zeros(len(share))
    if not of_cache.shape[1]:
        return common
    place = np.clip(np.ceil((count + 1) * share) - 1, 0, np.maximum(count - 1, 0)).astype(np.int64)
    own = of_cache[np.arange(len(share)), place]
    return np.where(count < SCORES_MIN, common, own)


def _pick(ordered: Floats, count: int, share: Floats) -> Floats:
    return np.asarray(ordered[np.clip(np.ceil((count + 1) * share) - 1, 0, count - 1).astype(np.int64)])


def pinball(quantiles: Floats, taken: Floats) -> Floats:
    """Return the pinball loss of quantiles, in bytes, as its mean over `QUANTILES`; NaN where the load is not known.

    The loss of a quantile q is q times what the load is above it, or 1 - q times what it is below.
    """
    off = taken[..., None] - quantiles
    levels = np.array(QUANTILES)
    return np.asarray(np.maximum(levels * off, (levels - 1) * off).mean(-1))
