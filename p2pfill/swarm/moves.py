"""Which outstanding requests are better asked of another source: work goes to whoever has none.

Never farther out than the first source is: a move must not cross a border that the request did not.

- What waits in line behind another chunk has not begun to come, since a source sends one chunk to a cache after the
  other. It moves to a source of which nothing else can be asked as soon as there is one (`find_waiting`), and nothing
  is lost by that. Without it a fleet's fill ends with most caches idle and all of them in line at a few.
- What is on its way moves only when it is long overdue (`find_overdue`): what has come of it is thrown away. So moves,
  too, what an origin owes and does not bring while a neighbour has got it elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from p2pfill.swarm.election import Scope
from p2pfill.swarm.sources import LEAST_RATE_BYTES_S, Request, Source

OVERDUE: Final = 8.0
"""A chunk is overdue after this many times what an idle source would need for it."""

OVERDUE_S: Final = 1.0
"""But not before this: what is under way is thrown away, which does not pay for a hiccup."""

WAIT: Final = 2.0
"""What waits in line must have this many times longer to wait than it would take elsewhere."""

AHEAD_S: Final = 0.05
"""What is ahead of it in line must take so much longer: before it begins to come, the source must have heard that it is
not wanted. As long as a round trip between caches of one ISP, and a queue at a full link, take at most. See
docs/experiments.md, "Requests"."""


def find_lines(sources: Iterable[Source], chunk_size: int) -> list[Source]:
    """Return the caches of the ISP of which more than one chunk is awaited, the longest wait first."""
    lines = [source for source in sources if len(source.requests) > 1 and source.scope <= Scope.ISP]
    return sorted(lines, key=lambda source: _wait_s(source, chunk_size), reverse=True)


def find_waiting(idle: Source, lines: Sequence[Source], now: float, chunk_size: int) -> Request | None:
    """Return what of `lines` (see `find_lines`) is best moved to `idle`, which owes nothing."""
    if idle.scope > Scope.ISP:
        return None
    least_s = WAIT * chunk_size / idle.rate_bytes_s if idle.rate_bytes_s else 0.0
    for owner in lines:
        if _wait_s(owner, chunk_size) < least_s:
            return None
        if owner.scope < idle.scope:
            continue
        line = list(owner.requests.values())
        each_s = chunk_size / owner.rate_bytes_s if owner.rate_bytes_s else float("inf")
        used_s = min(each_s, now - _owed_since(line[0], owner)) if line else 0.0
        for place in range(len(line) - 1, 0, -1):
            if place * each_s - used_s < AHEAD_S:
                break
            if idle.holdings[line[place].chunk]:
                return line[place]
    return None


def find_overdue(
    sources: Collection[Source], now: float, chunk_size: int, wait_s: float
) -> Iterator[tuple[Request, Source]]:
    """Yield overdue requests, each with the idle source that it is to be moved to.

    To one whose rate is not known goes what comes at less than the least rate, or from where nothing came for `wait_s`.
    """
    late = [
        (request, owner)
        for owner in sources
        # Whoever has just delivered owes nothing for long.
        if now - owner.delivered_at > OVERDUE_S and not owner.is_held_back(now)
        for request in owner.requests.values()
        if now - _owed_since(request, owner) > OVERDUE_S
    ]
    if not late:
        return
    late.sort(key=lambda pair: pair[0].asked_at)
    for idle in [s for s in sources if not s.requests and not s.barred_reason]:
        overdue_s = OVERDUE * chunk_size / idle.rate_bytes_s if idle.rate_bytes_s else wait_s
        for request, owner in late:
            waited_s = now - _owed_since(request, owner)
            crawls = waited_s * LEAST_RATE_BYTES_S > chunk_size or now - owner.progress_at > wait_s
            if not idle.rate_bytes_s and (idle.scope == Scope.ORIGIN or not crawls):
                continue
            # One that is as fast as a rule is late by its own measure, too.
            usual_s = chunk_size / owner.rate_bytes_s if owner.rate_bytes_s else 0.0
            slower = 2 * chunk_size < usual_s * idle.rate_bytes_s or waited_s > OVERDUE * usual_s
            if slower and waited_s > overdue_s and idle.holdings[request.chunk] and idle.scope <= owner.scope:
                late.remove((request, owner))
                yield request, idle
                break


def _wait_s(owner: Source, chunk_size: int) -> float:
    return len(owner.requests) * chunk_size / owner.rate_bytes_s if owner.rate_bytes_s else float("inf")


def _owed_since(request: Request, owner: Source) -> float:
    """Return since when a request could have been answered: its source sends one chunk after the other."""
    return max(request.asked_at, owner.delivered_at)
