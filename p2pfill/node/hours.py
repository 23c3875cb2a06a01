"""Keeps one node to its fill windows: looks at the clock, opens and closes the engine, and remembers what was used.

What holds is worked out by `engine.hours.Hours`; here is what has a clock and a disk. A budget may
be exceeded by what is in flight when it is used up. What was used is kept on disk
every `KEEP_S` and when the node stops, so a crash may forget as much as that.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import trio

from p2pfill.engine.engine import Engine
from p2pfill.engine.hours import ANNOUNCED_S, Hours, HoursNow, NightUse
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.model.reports import HoursReport
from p2pfill.model.windows import FillWindows
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.store.disk import DIRECTORY_FLAGS, replace_file
from p2pfill.transport.looks import next_look

USE_FILE: Final = "nights.json"
USE_BYTES_MAX: Final = 64 * 1024
"""Eight nights of 64 windows are a tenth of that."""

LOOK_S: Final = 0.25
"""Between two looks: a clock may jump, and a budget be used up."""

CALM_S: Final = 1.0
"""The same where there are neither windows nor budgets: nothing can change, and what comes is counted."""

KEEP_S: Final = 10.0
"""Between two times that the use of the night is written to disk."""


class FillHours:
    """The fill windows of one node. Belongs to the event loop."""

    def __init__(
        self,
        engine: Engine,
        windows: FillWindows,
        directory: Path,
        wake: Callable[[], None],
        log: logging.Logger,
        wall: Callable[[], float] = time.time,
        speed: float = 1.0,
        limit: Callable[[RateLimits], object] = lambda limits: None,
    ) -> None:
        """`wall` returns the seconds since the epoch by which the windows open and close, and runs `speed` times as
        fast as time does. `limit` is told, at each look, the limits of the window that is open, or outside of all.
        """
        self._limit = limit
        self._engine = engine
        self._speed = speed
        self._hours = Hours(windows, speed=speed)
        self._file = directory / USE_FILE
        self._wake = wake
        self._log = log
        self._wall = wall
        self._now: HoursNow | None = None
        self._soon_at = float("inf")
        """When it was seen last that a window was about to open, by the engine's clock: the wall's may jump since."""
        self._counted = 0
        """What of the engine's bytes was counted."""
        self._kept: NightUse = {}
        self._rest = trio.CancelScope()
        """Between two looks."""
        self.turned: Callable[[], object] = lambda: None
        """Called when the phase changes: the tracker is to hear of that at once."""

    @property
    def windows(self) -> FillWindows:
        """The timetable that holds."""
        return self._hours.windows

    def set_windows(self, windows: FillWindows) -> None:
        """Go by another timetable from now on."""
        if windows != self._hours.windows:
            self._hours.set_windows(windows)
            self.look()
            self._rest.cancel()

    async def open(self) -> None:
        """Learn from disk what was used before, and look for the first time."""
        async with ErrorBoundary(self._log, f"read {self._file}, and takes nothing of this night's budget for used"):
            self._kept = await trio.to_thread.run_sync(_read_use, self._file)
            self._hours = Hours(self._hours.windows, self._kept, speed=self._speed)
        self.look()

    def look(self) -> None:
        """Let the engine follow the clock."""
        wall = self._wall()
        came, self._counted = self._engine.received_bytes - self._counted, self._engine.received_bytes
        self._hours.count(wall, came)
        before, now = self._now, self._hours.look(wall)
        self._now = now
        if now.phase == "soon" and (before is None or before.phase != "soon"):
            self._soon_at = trio.current_time()
        windows = self._hours.windows
        self._limit(windows.rates_of(now.window) if windows.windows else NO_LIMITS)
        self._engine.set_open(
            trio.current_time(),
            is_open=now.phase == "open",
            left=now.left,
            is_announced=now.is_announced and trio.current_time() >= self._soon_at + ANNOUNCED_S,
            hand_back=self._hours.windows.at_end == "hand-back",
        )
        if before is None or before[:1] != now[:1] or before.budget_used != now.budget_used:
            if before is not None or now.phase != "open":
                self._log.info("%s", _in_words(now))
            self._wake()
            self.turned()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        keep_at = trio.current_time() + KEEP_S
        try:
            while True:
                with ErrorBoundary(self._log, "look at the fill windows"):
                    self.look()
                if trio.current_time() >= keep_at:
                    keep_at = trio.current_time() + KEEP_S
                    await self._keep()
                look_s = LOOK_S if self._hours.windows.windows or self._hours.windows.budget else CALM_S
                ends_in = (self._now.until - self._wall()) / self._speed if self._now is not None else LOOK_S
                with trio.move_on_after(max(ends_in, 0.001)) as self._rest:
                    await next_look(look_s)
        finally:
            with trio.CancelScope(shield=True):
                await self._keep()

    async def _keep(self) -> None:
        used = {night: dict(by_window) for night, by_window in self._hours.used.items()}
        if used != self._kept:
            async with ErrorBoundary(self._log, f"write {self._file}"):
                await trio.to_thread.run_sync(_write_use, self._file, msgspec.json.encode(used))
                self._kept = used

    def report(self) -> HoursReport:
        """Return what holds now, for the tracker."""
        windows, now = self._hours.windows, self._now
        if now is None or not (windows.windows or windows.budget):
            return HoursReport(exempt_bytes=self._engine.exempt_bytes)
        return HoursReport(
            phase=now.phase,
            until=now.until,
            night=now.night,
            used_bytes=self._hours.used_of(now.night),
            budget_bytes=windows.budget,
            budget_used=now.budget_used,
            exempt_bytes=self._engine.exempt_bytes,
        )


def _in_words(now: HoursNow) -> str:
    until = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now.until))
    if now.budget_used:
        return f"no more is filled: a budget of the night {now.night} is used up"
    if now.phase == "open":
        return f"a fill window has begun; it ends at {until}"
    if now.phase == "soon":
        return f"a fill window begins at {until}"
    return f"no fill window is open; the next change is at {until}"


def _read_use(file: Path) -> NightUse:
    """Return what was used by night and window; nothing where there is no file. Raises `OSError`, `MsgspecError`."""
    try:
        with file.open("rb") as opened:
            return msgspec.json.decode(opened.read(USE_BYTES_MAX), type=NightUse)
    except FileNotFoundError:
        return {}


def _write_use(file: Path, data: bytes) -> None:
    """Write it so that a power cut leaves what was there before, or this. Raises `OSError`."""
    fd = os.open(file.parent, DIRECTORY_FLAGS)
    try:
        replace_file(fd, file.name, data)
    finally:
        os.close(fd)
