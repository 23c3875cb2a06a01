"""Whether a cache may fill now, by its fill windows and the budgets of the night. Pure.

The cache itself decides that, by its own clock, and tells others: a tracker puts it into rosters, and nobody works it
out from another one's timetable. A little before a window begins (`SOON_S`) it says so. From then on it counts in
elections, so that when it begins to ask, everybody knows which part is its own; it is not expected to bring anything
yet. A window ends at once: it asks for nothing more, and the others elect among those who are left.

The clock may jump either way: each look begins with what the timetable says of that moment. What was used of a budget
is kept by night, so a jump back finds what was used of that night, and none begins one anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from p2pfill.model.windows import FillWindows, Moment, Window, show_time

SOON_S: Final = 30.0
"""How long before a window begins its cache counts in elections: longer than rosters are told anew in a large fleet
(20 s), so that all know. Of a short window it is a tenth at most, since others wait so long for the part of a cache."""

SOON_PART: Final = 0.1

ANNOUNCED_S: Final = 1.5
"""A cache that has said for so long that it will be open is known to the others: a heartbeat and an answer to a long
poll, several times over."""

NIGHTS_KEPT: Final = 8
"""Nights whose use is remembered: what a clock may jump back by, and a week of evenings."""

Phase = Literal["open", "soon", "closed"]

NightUse = dict[str, dict[str, int]]
"""Night -> a window (`_key`), or `TOTAL`, -> bytes that came in."""

TOTAL: Final = "total"


class HoursNow(NamedTuple):
    """What holds now."""

    phase: Phase
    until: float
    """When the timetable says something else, in seconds since the epoch."""
    window: int | None
    """The one that is open by the timetable."""
    night: str
    budget_used: bool
    """It is closed since a budget of this night is used up."""
    left: float = float("inf")
    """How many bytes may come in before a budget is used up."""
    is_announced: bool = False
    """It is open, and was about to open for long enough that the others know."""


class Hours:
    """The windows of one cache, and what it has used of its budgets."""

    def __init__(
        self, windows: FillWindows, used: Mapping[str, Mapping[str, int]] | None = None, *, speed: float = 1.0
    ) -> None:
        """`used` is what `used` has been before, as kept on disk.

        `speed` is how many seconds go by on the clock of the windows in one of the engine's: a rehearsal has it run
        faster, and news takes as long as ever.
        """
        self.windows = windows
        self.soon_s, self.announced_s = SOON_S * speed, ANNOUNCED_S * speed
        self.used: NightUse = {night: dict(by_window) for night, by_window in (used or {}).items()}
        self._moment: Moment | None = None
        self._looked_at = 0.0
        self._soon_since: float | None = None
        self._next: Moment | None = None
        """What holds from the end of `_moment` on."""

    def set_windows(self, windows: FillWindows) -> None:
        """Go by another timetable. What was used of a window counts for one at the same times, whatever else is new."""
        if windows != self.windows:
            known = {TOTAL, *map(_key, self.windows.windows), *map(_key, windows.windows)}
            for night, by_window in self.used.items():
                self.used[night] = {name: count for name, count in by_window.items() if name in known}
            self.windows, self._moment, self._next = windows, None, None

    def look(self, epoch_s: float) -> HoursNow:
        """Return what holds at a moment; to be called again at `HoursNow.until` and each second, as clocks jump."""
        moment = self._at(epoch_s)
        left = max(self._left(moment), 0.0)
        budget_used = moment.is_open and not left
        phase: Phase = "closed"
        is_announced = False
        if moment.is_open and not budget_used:
            phase = "open"
            is_announced = self._soon_since is not None and epoch_s - self._soon_since >= self.announced_s
        elif not moment.is_open and self._is_soon(epoch_s, moment):
            phase = "soon"
            if self._soon_since is None or epoch_s < self._soon_since:
                self._soon_since = epoch_s
        else:
            self._soon_since = None
        return HoursNow(phase, moment.until, moment.window, moment.night, budget_used, left, is_announced)

    def count(self, epoch_s: float, count: int) -> None:
        """Count bytes that came in for what goes by the windows."""
        if not count or not (self.windows.windows or self.windows.budget):
            return
        moment = self._at(epoch_s)
        by_window = self.used.setdefault(moment.night, {})
        by_window[TOTAL] = by_window.get(TOTAL, 0) + count
        if moment.window is not None:
            name = _key(self.windows.windows[moment.window])
            by_window[name] = by_window.get(name, 0) + count
        # Whatever night it is: those of a clock that was ahead would push it out.
        for night in sorted(self.used.keys() - {moment.night})[: 1 - NIGHTS_KEPT]:
            del self.used[night]

    def next_at(self, epoch_s: float) -> float:
        """Return when to look again though nothing comes in and no clock jumps."""
        moment = self._at(epoch_s)
        if moment.is_open:
            return moment.until
        soon_at = self._soon_at(moment)
        return soon_at if epoch_s < soon_at else moment.until

    @property
    def has_budget(self) -> bool:
        """Whether what comes in may close a window."""
        return self.windows.budget > 0 or any(window.budget for window in self.windows.windows)

    def used_of(self, night: str) -> int:
        """Return how many bytes came in within a night."""
        return self.used.get(night, {}).get(TOTAL, 0)

    def _at(self, epoch_s: float) -> Moment:
        moment = self._moment
        is_known = moment is not None and self._looked_at <= epoch_s < moment.until
        if moment is None or not is_known or self.windows.night(epoch_s) != moment.night:
            moment = self._moment = self.windows.at(epoch_s)
            self._next = None
        self._looked_at = epoch_s
        return moment

    def _left(self, moment: Moment) -> float:
        """Return how much may come in now."""
        used = self.used.get(moment.night, {})
        left = self.windows.budget - used.get(TOTAL, 0) if self.windows.budget else float("inf")
        window = self.windows.windows[moment.window] if moment.window is not None else None
        return min(left, window.budget - used.get(_key(window), 0)) if window is not None and window.budget else left

    def _is_soon(self, epoch_s: float, moment: Moment) -> bool:
        return epoch_s >= moment.until - self.soon_s and epoch_s >= self._soon_at(moment)

    def _soon_at(self, moment: Moment) -> float:
        """Return when, within a moment in which it is closed, the cache is to say that it opens."""
        if self._next is None:
            self._next = self.windows.at(moment.until)
        if not self._next.is_open or self._left(self._next) <= 0:
            return moment.until
        return moment.until - min(self.soon_s, SOON_PART * (self._next.until - moment.until))


def _key(window: Window) -> str:
    """Return what a window is remembered by: its times, since its number is another one in another timetable."""
    days = "".join(map(str, window.days))
    return f"{days} {show_time(window.start_min)}-{show_time(window.end_min)}"
