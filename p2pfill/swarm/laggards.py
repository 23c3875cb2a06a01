"""Which caches of an ISP are far behind the others with what they fetch for it. Pure.

Shares follow weights, so equal parts of them should be done at any time, and in any time. A cache lags when the part
that it still has to fetch is `LAG` times that of the others, or when it has got on `PACE` times less than they have
over the last `SPAN_S`. The second is seen long before the first where a link has become narrow in the middle of a
fill; the first finds who has always been a little too slow.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

LAG: Final = 4.0
"""When the part of its share that is still to come is this many times that of the others, they have spread most of
theirs and would soon wait for it alone."""

LAG_PART: Final = 1 / 16
"""And this part of its share more: towards the end, when others have nothing left, a little is no lag."""

LAG_CHUNKS: Final = 8
"""Fewer chunks than this are had from it sooner than from anybody else."""

SPAN_S: Final = 2.0
"""Over which the pace is taken: hiccups last for less. Over 1.5 s some caches of healthy fills in the lab were taken
for slow, where sixteen shared two processors."""

PACE: Final = 2.0
"""A cache lags when the others have got on by so many times the part that it has. Where a link drops to a tenth its
pace drops by less, since what is left of it goes to what the ISP lacks first."""

PACE_CHUNKS: Final = 32
"""The least that the others must have fetched in that time. Half of so many is three standard deviations off where
chunks come by chance; with 12, healthy caches were taken for slow in the simulator."""

COMPARED_MIN: Final = 3
"""Of two caches nobody knows which one has an unusual pace."""


class Laggards:
    """The caches of one ISP with their shares, as one of them sees what comes in."""

    def __init__(self) -> None:
        self._course: deque[tuple[float, dict[str, float]]] = deque()
        """Moments, and the part of each cache's share that was still to come; the first is `SPAN_S` ago, or the only
        one."""
        self._since: dict[str, float] = {}

    def look(self, now: float, shares: Mapping[str, int], left: Mapping[str, int]) -> dict[str, float]:
        """Return the caches that lag, each with since when. To be called each tick.

        `shares` are the chunks that each is master of, `left` those of them that the ISP does not hold yet.
        """
        parts = {name: count / max(1, shares[name]) for name, count in left.items()}
        self._course.append((now, parts))
        while len(self._course) > 1 and self._course[1][0] <= now - SPAN_S:
            self._course.popleft()
        began, before = self._course[0]
        done = {name: before[name] - part for name, part in parts.items() if name in before}
        if now - began < SPAN_S or len(done) < COMPARED_MIN:
            done = {}
        left_in_order, done_in_order = sorted(parts.values()), sorted(done.values())
        lagging = {}
        for name, part in parts.items():
            if left[name] < LAG_CHUNKS or len(parts) < 2:
                continue
            lags = part > LAG * median_without(left_in_order, part) + LAG_PART
            if not lags and name in done:
                usual = median_without(done_in_order, done[name])
                lags = usual * shares[name] >= PACE_CHUNKS and done[name] * PACE < usual
            if lags:
                lagging[name] = self._since.get(name, now)
        self._since = lagging
        return dict(lagging)


def median_without(in_order: Sequence[float], one: float) -> float:
    """Return the median of sorted figures, at least two, but for one of those that equal `one`."""
    place = bisect_left(in_order, one)
    count = len(in_order) - 1
    low, high = (count - 1) // 2, count // 2
    return (in_order[low + (low >= place)] + in_order[high + (high >= place)]) / 2
