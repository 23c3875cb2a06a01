"""By how much one contender serves more than another, and between what bounds: a paired bootstrap over days.

Days that follow one another are alike, so whole stretches of them are drawn (the moving blocks of Künsch, The Annals of
Statistics 17, 1989), the same ones for both contenders.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from p2pfill.plan.tables import Floats

BLOCK_DAYS: Final = 7
DRAWS: Final = 2000
WITHIN: Final = 0.95


def paired(one: Floats, other: Floats, total: Floats, seed: int) -> tuple[float, float, float]:
    """Return the difference of two hit ratios and the bounds within which 95% of the draws lie.

    Arrays hold hits of each day, and what was asked for.
    """
    days = total.size
    block = min(BLOCK_DAYS, days)
    random = np.random.default_rng(seed)
    starts = random.integers(0, days - block + 1, (DRAWS, -(-days // block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(DRAWS, -1)[:, :days]
    more = (one - other)[drawn].sum(axis=1) / np.maximum(total[drawn].sum(axis=1), 1e-300)
    low, high = np.quantile(more, [(1 - WITHIN) / 2, (1 + WITHIN) / 2]).tolist()
    return float((one - other).sum() / total.sum()), low, high
