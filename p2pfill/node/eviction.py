"""Room for what is ordered: titles that no order wants any more go when it is needed, the longest unused first.

They stay until then, since what was withdrawn today may be ordered tomorrow. They go when a fill finds the disk full,
or when less is free than the floor. Never what an order wants, what fills, or what is in use: a chunk of it was sent
to another cache within `IDLE_S`, or another process holds a file of it open. The kernel says that where it is asked
for a write lease (fcntl(2), F_SETLEASE), also of processes of other users, whose /proc/*/fd cannot be read; where a
file system has no leases, nobody is known to. Nothing goes before the tracker has said what is ordered, and so
nothing at all in a node without one.

The last use of a title is the time of its directory, which is set when it is filled, and at most every `USE_S` while
it is sent: no database, and copied with the files.

A title is no longer served first, then its link goes, then its directory is renamed, so that no half of it is ever
seen, and then it is deleted, some files at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from p2pfill.model.ids import TitleId
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.titles import TitlePhase, TitleRegistry
from p2pfill.store.store import Store

IDLE_S: Final = 30.0
"""Without a chunk sent, begun or asked for: as long as a stream may stand still inside a chunk."""

LOOK_S: Final = 15.0
"""How often a node looks whether enough is free."""

USE_S: Final = 3600.0
"""How exactly the last use of a title is kept across restarts, against a write to the disk each time."""

DELETE_FILES: Final = 1000
"""That one call to a worker thread deletes: a fraction of a second."""


class Candidate(NamedTuple):
    """A title that may go. Sorted, the least valuable come first."""

    used_at: float
    """Seconds since the epoch."""
    title_id: TitleId
    size: int
    """Bytes that it takes on disk."""


class Evictor:
    """Makes room in the store of one node. Belongs to the event loop, but for `note_used`."""

    def __init__(
        self,
        titles: TitleRegistry,
        store: Store,
        being_sent: Callable[[], set[TitleId]],
        free_bytes_min: int,
        log: logging.Logger,
    ) -> None:
        """`being_sent` returns the titles that are sent or waited for now."""
        self._titles = titles
        self._store = store
        self._being_sent = being_sent
        self._free_bytes_min = free_bytes_min
        self._log = log
        self._used_at: dict[TitleId, float] = {}
        """Monotonic time of the last use."""
        self._fresh: dict[TitleId, None] = {}
        """Titles that were used since it was looked at last. Threads add to it."""
        self._kept_at: dict[TitleId, float] = {}
        """When it was last written down."""
        self._turn = trio.Lock()
        """Two that need room must not each make all of it."""

    def note_used(self, title_id: TitleId) -> None:
        """Note that a chunk of a title is about to be sent. Callable from any thread."""
        self._used_at[title_id] = time.monotonic()
        self._fresh[title_id] = None

    async def run(self) -> None:
        """Keep so much free as was asked for; runs until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            async with ErrorBoundary(self._log, "note which titles are in use"):
                await self._keep_uses()
            async with ErrorBoundary(self._log, "look whether enough is free"):
                free_bytes = await trio.to_thread.run_sync(self._store.free_bytes)
                if free_bytes < self._free_bytes_min:
                    await self.make_room(self._free_bytes_min)

    async def _keep_uses(self) -> None:
        for title_id in self._being_sent():
            self.note_used(title_id)
        now = time.monotonic()
        for _ in range(len(self._fresh)):
            title_id, _ = self._fresh.popitem()
            if now >= self._kept_at.get(title_id, -USE_S) + USE_S:
                self._kept_at[title_id] = now
                await trio.to_thread.run_sync(self._store.note_use, title_id)

    async def make_room(self, free_bytes: int) -> bool:
        """Let titles go until so much is free, if there are any; tell whether one has gone.

        Raises `StoreError` where the disk refuses.
        """
        went = False
        async with self._turn:
            for candidate in await self.candidates():
                if await trio.to_thread.run_sync(self._store.free_bytes) >= free_bytes:
                    break
                # Looked at anew for each: what is deleted takes a while, and the next may be in use, or wanted, by now.
                title_id = candidate.title_id
                # And once more after the look at its files, which waits: it may have been ordered meanwhile.
                if self.may_go(title_id) and not await self._is_open(title_id) and self.may_go(title_id):
                    self._log.warning(
                        "title %s goes, since room is needed and nobody has ordered it; last used %s",
                        candidate.title_id.hex(), time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(candidate.used_at)),
                    )  # fmt: skip
                    await self.evict(candidate.title_id)
                    went = True
        return went

    async def candidates(self) -> list[Candidate]:
        """Return what may go, in the order in which it would, but for what turns out to be open then.

        That is asked when the turn of a title comes, since who opens a file in that moment has to wait.
        """
        found = []
        for title_id, used_at, size in await trio.to_thread.run_sync(self._store.uses):
            if self.may_go(title_id):
                found.append(Candidate(used_at, title_id, size))
        return sorted(found)

    def may_go(self, title_id: TitleId) -> bool:
        """Tell whether no order wants a title, and no other cache is sent it."""
        if self._titles.orders is None or title_id in self._titles.orders or title_id in self._being_sent():
            return False
        if self._titles.phase_of(title_id) in (TitlePhase.FILLING, TitlePhase.EVICTING):
            return False
        used_at = self._used_at.get(title_id)
        return used_at is None or time.monotonic() >= used_at + IDLE_S

    async def _is_open(self, title_id: TitleId) -> bool:
        """Tell whether another process has a file of a title open."""
        return await trio.to_thread.run_sync(self._store.is_open_elsewhere, title_id)

    async def evict(self, title_id: TitleId) -> None:
        """Remove a title, whatever wants it. Raises `StoreError` where the disk refuses; it is served no more then."""
        await self._titles.stop_serving(title_id)
        try:
            remove = await trio.to_thread.run_sync(self._store.begin_removal, title_id)
            while await trio.to_thread.run_sync(remove, DELETE_FILES):
                pass
        finally:
            # Also where the disk refuses: an order may fill it again, or find it whole.
            self._used_at.pop(title_id, None)
            self._kept_at.pop(title_id, None)
            self._titles.forget(title_id)
