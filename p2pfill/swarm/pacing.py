"""How long things may take, from how long they have been taking: the waits of one fill. Pure.

All are looked at each tick, over all sources of the fill.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from p2pfill.swarm.claims import CLAIM_S
from p2pfill.swarm.election import Scope
from p2pfill.swarm.sources import LEAST_RATE_BYTES_S, Source

STALL_CHUNKS: Final = 8
"""A master counts as stalled after the time in which it used to deliver this many chunks (or the policy's wait)."""

CLAIM_TIMES: Final = 2
"""A chunk that another cache claims may take so many times as long as this cache's own chunks take across borders."""


def patience_s(sources: Collection[Source], now: float, chunk_size: int, least_s: float) -> float:
    """Return the seconds without any sign of life after which a master is passed over, at least `least_s`.

    What this cache itself holds back tells nothing of how fast others are.
    """
    rates = [source.rate_bytes_s for source in sources if source.rate_bytes_s and not source.is_held_back(now)]
    if not rates:
        return least_s
    typical = sorted(rates)[len(rates) // 2]
    return max(least_s, STALL_CHUNKS * chunk_size / typical)


def crossing_s(sources: Collection[Source], now: float, chunk_size: int) -> float:
    """Return how long a chunk that another cache claims may take to come across a border.

    At the least rate, or as it goes for this cache itself where that is slower.
    """
    longest_s = chunk_size / LEAST_RATE_BYTES_S
    for source in sources:
        if source.scope > Scope.ISP and not source.barred_reason and (source.requests or source.rate_bytes_s):
            pace = source.pace(now, chunk_size) * source.weight
            is_moving = max(source.progress_at, source.delivered_at) + CLAIM_S > now
            if pace and (is_moving or not source.requests):
                longest_s = max(longest_s, CLAIM_TIMES * chunk_size / pace)
    return longest_s


def unanswered_s(sources: Collection[Source], now: float) -> float:
    """Return for how long an origin has not begun to answer this cache either: so long others may wait as well."""
    waits_s = [
        now - max(source.progress_at, source.delivered_at, source.asked_at)
        for source in sources
        if source.scope == Scope.ORIGIN and source.requests
    ]
    return max(waits_s, default=0.0)
