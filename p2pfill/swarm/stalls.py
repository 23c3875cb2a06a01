"""Which masters do not get on with what they are to fetch, whatever other life they show. Pure.

One clock a cache of the own ISP: it starts anew whenever a chunk of its share arrives in the ISP, and while there is
nothing for it to do. And for all caches beyond the ISP together one clock for what they are to bring from the origin
and one for what they are to bring from other regions: this cache sees no more than whether what it waits for comes,
and there may be hundreds of them.

Rejected: any sign of life. A cache whose way to the origin is dead takes chunks from its neighbours and announces them,
and a share of fewer chunks than can be called a lag is then waited for without end.
"""

from __future__ import annotations

from collections.abc import Mapping

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope
from p2pfill.swarm.shares import Shares


class Stalls:
    """The clocks of one fill."""

    def __init__(self, chunk_count: int) -> None:
        self._shares, self._due = Shares(chunk_count, {}), Bitmap(chunk_count)
        """What was to come of whom at the last look."""
        self._since: dict[str, float] = {}
        """Of those only of whom something was to come."""
        self._beyond: dict[Scope, tuple[float, Bitmap]] = {}
        """Since when nothing has come, and what was to come at the last look."""

    def start_anew(self) -> None:
        """Give everybody the whole time again."""
        self._since.clear()
        self._beyond.clear()

    def start_isp_anew(self) -> None:
        """Give the caches of the ISP the whole time again: for now there is nothing for any of them to do."""
        self._since.clear()

    def forget(self, name: str) -> None:
        """Give a cache the whole time again when it is next looked at."""
        self._since.pop(name, None)

    def forget_beyond(self, scope: Scope) -> None:
        """Give the caches beyond the ISP that are to bring something nearer from `scope` the whole time again."""
        self._beyond.pop(scope, None)

    def look(self, now: float, shares: Shares, due: Bitmap, gone: Bitmap) -> Mapping[str, float]:
        """Return since when each cache of the ISP has not got on that has something to do. To be called each tick.

        `due` is what they are to fetch, as `shares` says, and the ISP has not, `gone` what it has.
        """
        # What has moved to others is no progress.
        came = self._shares.count_some(self._due & gone)
        before, self._since = self._since, {}
        for name in shares.count_some(due):
            self._since[name] = now if name in came else before.get(name, now)
        self._shares, self._due = shares, due
        return self._since

    def look_beyond(self, now: float, scope: Scope, awaited: Bitmap, gone: Bitmap) -> float:
        """Return since when nothing has come of what others are to bring nearer from `scope`; now if that is nothing.

        `gone` is what has come.
        """
        since, before = self._beyond.get(scope, (now, awaited))
        if not before.any() or (before & gone).any() or not awaited.any():
            since = now
        self._beyond[scope] = since, awaited
        return since
