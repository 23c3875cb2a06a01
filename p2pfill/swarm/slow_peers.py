"""Which caches of an ISP are far behind the others with what they fetch for it, or send on in it. Pure.

Shares follow weights, so equal parts of them should be done at any time, and in any time. A cache lags when the part
that is still to come of it is `LAG` times that of the others and will take longer than `REST_S`, or when it has got on
`PACE` times less than they have over the last `SPAN_S`. The second is seen long before the first where a link has
become narrow in the middle of a fill; the first finds who has always been a little too slow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

LAG: Final = 4.0
"""When the part of its share that is still to come is this many times that of the others, they have spread most of
theirs and would soon wait for it alone."""

LAG_PART: Final = 1 / 16
"""And this part of its share more: towards the end, when others have nothing left, a little is no lag."""

LAG_CHUNKS: Final = 8
"""Fewer chunks than this are had from it sooner than from anybody else."""

REST_S: Final = 4.0
"""But not one that is through within this at its pace of the last `SPAN_S`. Of two caches that share a border one is
through some seconds before the other, and what that one then fetched too would cross the border twice. See
docs/experiments.md, "Slow caches"."""

SPAN_S: Final = 2.0
"""Over which the pace is taken: hiccups last for less. See docs/experiments.md, "Slow caches"."""

PACE: Final = 2.0
"""A cache lags when the others have got on by so many times the part that it has. Where a link drops to a tenth its
pace drops by less, since what is left of it goes to what the ISP lacks first."""

PACE_CHUNKS: Final = 32
"""The least that the others must have fetched in that time. Half of so many is three standard deviations off where
chunks come by chance. See docs/experiments.md, "Slow caches"."""

BEHIND_PART: Final = 3 / 32
"""But not one that has less than this part of its share more to come than they. A cache that gets more than others of
an origin that all share is through with what it takes there before them, and has only the slower rest left. See
docs/experiments.md, "Slow caches"."""

SPAN_MAX_S: Final = 8.0
"""On slow links it is taken over as long as it takes until the others have fetched `PACE_CHUNKS`, up to this."""

GRAIN_S: Final = 0.9
"""How far apart the moments are that are remembered, a little less than some ticks."""

COMPARED_MIN: Final = 3
"""Of two caches nobody knows which one has an unusual pace."""


class _Moment(NamedTuple):
    at: float
    parts: dict[str, float]
    """The part of each cache's share that was still to come."""
    usual: float
    """Their median."""


class SlowPeerDetector:
    """The caches of one ISP with their shares, as one of them sees what comes in."""

    def __init__(self, pace: float = PACE, behind_pace: float = 0.0) -> None:
        """`pace` is the factor of `PACE`; one that is far behind lags only if it is also `behind_pace` times slower."""
        self._pace = pace
        self._behind_pace = behind_pace
        self._course: deque[_Moment] = deque()
        """Of the last `SPAN_MAX_S`, and one before."""
        self._since: dict[str, float] = {}

    def look(self, now: float, shares: Mapping[str, int], left: Mapping[str, int]) -> dict[str, float]:
        """Return the caches that lag, each with since when. To be called each tick.

        `shares` are the chunks that each is master of, `left` those of them that are still to come.
        """
        parts = {name: count / max(1, shares[name]) for name, count in left.items()}
        left_in_order = sorted(parts.values())
        done = self._done(now, parts, left_in_order, shares)
        done_in_order = sorted(done.values())

        def is_slower(name: str, factor: float) -> bool:
            if name not in done:
                return False
            usual = median_without(done_in_order, done[name])
            return usual * shares[name] >= PACE_CHUNKS and done[name] * factor < usual

        lagging = {}
        for name, part in parts.items():
            if left[name] < LAG_CHUNKS or len(parts) < 2:
                continue
            others = median_without(left_in_order, part)
            lags = part > LAG * others + LAG_PART and not self._is_through_soon(now, name, part)
            lags = lags and (not self._behind_pace or is_slower(name, self._behind_pace))
            if lags or (part > others + BEHIND_PART and is_slower(name, self._pace)):
                lagging[name] = self._since.get(name, now)
        self._since = lagging
        return dict(lagging)

    def _is_through_soon(self, now: float, name: str, part: float) -> bool:
        before = next((moment for moment in reversed(self._course) if now - moment.at >= SPAN_S), None)
        if before is None:
            return False
        done = before.parts.get(name, part) - part
        return part * (now - before.at) <= REST_S * done

    def _done(
        self, now: float, parts: dict[str, float], in_order: Sequence[float], shares: Mapping[str, int]
    ) -> dict[str, float]:
        """Return the part that each has got on by since the last moment that tells a pace; empty where none does."""
        if not in_order:
            return {}
        usual, typical_share = median(in_order), median(shares.values())
        while len(self._course) > 1 and self._course[1].at <= now - SPAN_MAX_S:
            self._course.popleft()
        found: dict[str, float] = {}
        for moment in reversed(self._course):
            if now - moment.at >= SPAN_S and (moment.usual - usual) * typical_share >= PACE_CHUNKS:
                before = moment.parts
                found = {name: before[name] - part for name, part in parts.items() if name in before}
                break
        if not self._course or now - self._course[-1].at >= GRAIN_S:
            self._course.append(_Moment(now, parts, usual))
        return found if len(found) >= COMPARED_MIN else {}


def median_without(in_order: Sequence[float], one: float) -> float:
    """Return the median of sorted figures, at least two, but for one of those that equal `one`."""
    place = bisect_left(in_order, one)
    count = len(in_order) - 1
    low, high = (count - 1) // 2, count // 2
    return (in_order[low + (low >= place)] + in_order[high + (high >= place)]) / 2
