"""Titles that wait for their disk, and who looks whether it is well again.

What the disk refuses ends a fill, a repair or an attempt at one. The title then waits here, with the reason, and is
served no more where what it holds cannot be read. One task looks at the disk: it has a block made durable
(`Store.probe`), after a pause that doubles while that fails, so that a disk that is gone is asked once a minute. Once
that goes, the titles that are due go on. A title has a pause of its own too, which doubles each time that it goes on in
vain: a bad place under one file must not keep the others from anything.

What lacks room is tried again when so much is free. Nothing here decides what a title does then: `go_on` does.
Rejected: trying each title as often as orders are heard of. With hundreds of titles that is a busy loop over a dead
disk, and without a tracker nobody would.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2pfill.errors import DiskFullError, P2PFillError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.node.boundary import ErrorBoundary

FIRST_PAUSE_S: Final = 1.0
"""Before the first look: what was in the way for a moment has gone."""
PAUSE_S_MAX: Final = 60.0
"""Between two looks at a disk that stays bad, and between two attempts at a title."""
ROOM_LOOK_S: Final = 5.0
"""Between two looks whether there is room, which cost one call each."""


class _Wait:
    """One title that waits."""

    def __init__(self, error: P2PFillError, go_on: Callable[[], Awaitable[object]], due_at: float) -> None:
        self.reason = str(error) or type(error).__name__
        self.needed_bytes = error.needed_bytes if isinstance(error, DiskFullError) else 0
        self.go_on = go_on
        self.due_at = due_at


class DiskWatch:
    """The titles of one node that wait for the disk. Belongs to the event loop."""

    def __init__(
        self, probe: Callable[[], None], free_bytes: Callable[[], int], log: logging.Logger, what: str
    ) -> None:
        """`probe` and `free_bytes` block and raise `StoreError`; `what` names the disk for people."""
        self._probe = probe
        self._free_bytes = free_bytes
        self._log = log
        self._what = what
        self._waits: dict[TitleId, _Wait] = {}
        self._pauses: dict[TitleId, float] = {}
        """The next pause of titles that have waited and were not well since."""
        self._news = trio.Event()
        self.trouble = ""
        """Why the disk takes nothing, empty while it does."""

    def reason(self, title_id: TitleId) -> str:
        """Return what a title waits for, empty where it does not."""
        wait = self._waits.get(title_id)
        return "" if wait is None else wait.reason

    def put(self, title_id: TitleId, error: P2PFillError, go_on: Callable[[], Awaitable[object]]) -> None:
        """Have a title wait, and go on by itself by awaiting `go_on`, inside a boundary."""
        pause_s = self._pauses.get(title_id, FIRST_PAUSE_S)
        self._pauses[title_id] = min(2 * pause_s, PAUSE_S_MAX)
        self._waits[title_id] = _Wait(error, go_on, trio.current_time() + pause_s)
        self._news.set()

    def begin(self, title_id: TitleId) -> None:
        """Take note that a title is tried now, whoever does that: it waits no more, unless it is put here again."""
        self._waits.pop(title_id, None)

    def forget(self, title_id: TitleId) -> None:
        """Take note that a title is well, or gone."""
        self._waits.pop(title_id, None)
        self._pauses.pop(title_id, None)

    async def run(self) -> None:
        """Look at the disk while titles wait for it; runs until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._news = trio.Event()
            due_at = min((wait.due_at for wait in self._waits.values()), default=float("inf"))
            if due_at > trio.current_time():
                with trio.move_on_at(due_at):
                    await self._news.wait()
                continue
            ready = await self._with_room()
            if not ready:
                continue
            if await self._is_well():
                pause_s = FIRST_PAUSE_S
                await self._go_on(ready)
            else:
                now = trio.current_time()
                for wait in self._waits.values():
                    wait.due_at = max(wait.due_at, now + pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _with_room(self) -> list[TitleId]:
        """Return the titles that are due, but for those for which there is no room yet: they are due a little later."""
        now = trio.current_time()
        due = {title_id: wait for title_id, wait in self._waits.items() if wait.due_at <= now}
        free_bytes = 0
        if any(wait.needed_bytes for wait in due.values()):
            async with ErrorBoundary(self._log, f"look how much is free on {self._what}", level=logging.DEBUG):
                free_bytes = await trio.to_thread.run_sync(self._free_bytes, abandon_on_cancel=True)
        for title_id, wait in list(due.items()):
            if wait.needed_bytes > free_bytes:
                wait.due_at = now + ROOM_LOOK_S
                del due[title_id]
        return list(due)

    async def _is_well(self) -> bool:
        before = self.trouble
        try:
            # Left alone where the node stops: a disk that hangs would keep it.
            await trio.to_thread.run_sync(self._probe, abandon_on_cancel=True)
        except StoreError as error:
            self.trouble = str(error)
            if self.trouble != before:
                self._log.warning("%s takes nothing, %d titles wait for it: %s", self._what, len(self._waits), error)
            return False
        self.trouble = ""
        if before:
            self._log.warning("%s takes writes again, %d titles go on", self._what, len(self._waits))
        return True

    async def _go_on(self, ready: list[TitleId]) -> None:
        now = trio.current_time()
        for title_id in ready:
            wait = self._waits.get(title_id)
            if wait is None or wait.due_at > now:
                continue  # somebody else has tried it meanwhile
            self.begin(title_id)
            await ErrorBoundary(self._log, f"go on with title {title_id.hex()}", level=logging.INFO).run(wait.go_on)
