"""Whether links that end tell of the caches at their other ends, or of this one. Pure.

A cache whose links to most of its ISP, or to most caches at all, end within a moment is cut off itself, or is left by
the others. They go on without it and do their parts. If it took those over at once, it would fetch from farther out
what others are fetching, and if it held the loss against them, it would go on to do so once they are linked again. So
it waits a moment for new links with what it has not been master of before, and blames nobody. It does not wait for
ever: one whose links break again and again has nobody else to rely on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfill.model.timing import DISCOVERY_TIMEOUT_S
from p2pfill.swarm.election import Scope
from p2pfill.swarm.sources import Source

MOMENT_S: Final = 1.0
"""Links that end for one reason end within this: in one instant where it is a process, a little apart where it is a
network."""

LOST_MIN: Final = 2
"""Links that end together. Of one that ends nobody knows at which end the reason lies."""

EPISODE_S: Final = 8 * DISCOVERY_TIMEOUT_S
"""For so long after it was cut off first it waits for new links, and after so long without it may do so again: several
times the pause before a link is dialled again."""


class Losses:
    """The links of one fill that have ended lately."""

    def __init__(self) -> None:
        self.wait_until = float("-inf")
        """Until then others are waited for, since this cache was cut off."""
        self._lost: dict[str, tuple[float, Scope]] = {}
        self._blamed: set[str] = set()
        """Those of them whose loss counts against them as yet."""
        self._began = self._last = float("-inf")
        """Of the times in which it is cut off again and again, the first and the last one."""

    def note(self, now: float, lost: Source, linked: Iterable[Source]) -> set[str]:
        """Take in that a link has ended while others are still there; return whose loss is not to be held against them.

        That is nobody unless this cache is cut off.
        """
        self._lost[lost.id] = now, lost.scope
        self._lost = {name: loss for name, loss in self._lost.items() if now < loss[0] + MOMENT_S}
        self._blamed = {name for name in self._blamed if name in self._lost} | {lost.id}
        if not self._is_cut_off(linked):
            return set()
        if now >= self._last + EPISODE_S:
            self._began = now
        self._last = now
        self.wait_until = min(now + DISCOVERY_TIMEOUT_S, self._began + EPISODE_S)
        forgiven, self._blamed = self._blamed, set()
        return forgiven

    def _is_cut_off(self, linked: Iterable[Source]) -> bool:
        scopes = [scope for _, scope in self._lost.values()]
        left = [one.scope for one in linked if one.scope != Scope.ORIGIN and one.id not in self._lost]
        of_isp = sum(scope <= Scope.ISP for scope in scopes), sum(scope <= Scope.ISP for scope in left)
        return any(lost >= LOST_MIN and lost > rest for lost, rest in (of_isp, (len(scopes), len(left))))
