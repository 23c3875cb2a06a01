"""Which masters do not get on with what they are to fetch, whatever other life they show. Pure.

One clock a cache of the own ISP: it starts anew whenever a chunk of its part arrives in the ISP, and while there is
nothing for it to do. And for all caches beyond the ISP together one clock for what they are to bring from the origin
and one for what they are to bring from other regions: this cache sees no more than whether what it waits for comes,
and there may be hundreds of them.

Rejected: any sign of life. A cache whose way to the origin is dead takes chunks from its neighbours and announces them,
and a part of fewer chunks than can be called a lag is then waited for without end.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope


@dataclass(slots=True)
class _Clock:
    since: float
    due: Bitmap | None = None
    """What was to come at the last look."""

    def look(self, now: float, due: Bitmap, gone: Bitmap) -> bool:
        """Take in what is still to come, given what is `gone`, for it is here; tell whether anything is to come."""
        before, self.due = self.due, due
        # What has moved to others is no progress.
        if before is None or not before.any() or (before & gone).any():
            self.since = now
        if not due.any():
            self.since = now
            return False
        return True


class Stalls:
    """The clocks of one fill."""

    def __init__(self) -> None:
        self._clocks: dict[str, _Clock] = {}
        self._beyond: dict[Scope, _Clock] = {}

    def start_anew(self) -> None:
        """Give everybody the whole time again."""
        self._clocks.clear()
        self._beyond.clear()

    def keep(self, names: Container[str]) -> None:
        """Forget caches that are not among `names`."""
        self._clocks = {name: clock for name, clock in self._clocks.items() if name in names}

    def forget(self, name: str) -> None:
        """Give a cache the whole time again when it is next looked at."""
        self._clocks.pop(name, None)

    def look(self, now: float, due: Mapping[str, Bitmap], gone: Bitmap) -> dict[str, float]:
        """Return since when each cache of the ISP has not got on that has something to do. To be called each tick.

        `due` is what each is to fetch and the ISP has not, `gone` what it has.
        """
        idle_since = {}
        for name, chunks in due.items():
            clock = self._clocks.get(name)
            if clock is None:
                clock = self._clocks[name] = _Clock(now)
            if clock.look(now, chunks, gone):
                idle_since[name] = clock.since
        return idle_since

    def look_beyond(self, now: float, scope: Scope, awaited: Bitmap, gone: Bitmap) -> float:
        """Return since when nothing has come of what others are to bring nearer from `scope`; now if that is nothing.

        `gone` is what has come.
        """
        clock = self._beyond.setdefault(scope, _Clock(now))
        clock.look(now, awaited, gone)
        return clock.since
