"""Room for what is ordered: titles that no order wants any more go when it is needed, the longest unused first.

They stay until then, since what was withdrawn today may be ordered tomorrow. They go when a fill finds the disk full,
or when less is free than the floor. What keeps a title is one of `Keeper`: an order, a pin, its fill, or that it is in
use: a chunk of it was sent to another cache within `IDLE_S`, somebody has read a file of it within that time, another
process holds one open, or whoever serves viewers says so (`node.in_use`). The kernel says what is open where it is
asked for a write lease (fcntl(2), F_SETLEASE), also of processes of other users, whose /proc/*/fd cannot be read; where
a file system has no leases, nobody is known to. Nothing goes before the tracker has said what is ordered and pinned,
and so nothing at all in a node without one.

The last use of a title is the last read of its files by somebody else, as far as the file system keeps that
(`store.uses`), or the time of its directory if that is later, which is set when it is filled, and at most every `USE_S`
while it is in use otherwise: no database, and copied with the files.

A title is no longer served first, then its link goes, then its directory is renamed, so that no half of it is ever
seen, and then it is deleted, some files at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

import trio

from p2pfill.errors import StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.reports import DiskReport, Keeper
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.in_use import ANSWER_LINES_MAX, ANSWER_S, InUse
from p2pfill.node.titles import TitlePhase, TitleRegistry
from p2pfill.store.store import Store
from p2pfill.store.uses import TitleUse

IDLE_S: Final = 30.0
"""Without a chunk sent, begun or asked for: as long as a stream may stand still inside a chunk."""

LOOK_S: Final = 15.0
"""How often a node looks whether enough is free."""

USE_S: Final = 3600.0
"""How exactly the last use of a title is kept across restarts, against a write to the disk each time."""

DELETE_FILES: Final = 1000
"""That one call to a worker thread deletes: a fraction of a second."""


ANSWER_KEPT_S: Final = 10.0
"""How long an answer counts that says which titles are in use, while several go: less than `IDLE_S`."""

LOOK_TITLES: Final = 100
"""Titles whose files one call to a worker thread looks at: a fraction of a second where they are some dozens each."""

class Evictor:
    """Makes room in the store of one node. Belongs to the event loop, but for `note_used`."""

    def __init__(
        self,
        titles: TitleRegistry,
        store: Store,
        being_sent: Callable[[], set[TitleId]],
        free_bytes_min: int,
        in_use: InUse | None,
        log: logging.Logger,
    ) -> None:
        """`being_sent` returns the titles that are sent or waited for now; `in_use` asks what viewers use."""
        self._titles = titles
        self._store = store
        self._being_sent = being_sent
        self._free_bytes_min = free_bytes_min
        self._in_use = in_use
        self.disk = DiskReport()
        """The room there was when it was looked at last."""
        self._log = log
        self._used_at: dict[TitleId, float] = {}
        """Monotonic time of the last use."""
        self._fresh: dict[TitleId, None] = {}
        """Titles that were used since it was looked at last. Threads add to it."""
        self._kept_at: dict[TitleId, float] = {}
        """When it was last written down."""
        self._asked_at = 0.0
        """When it was last asked which titles are in use."""
        self._answered_at = -ANSWER_KEPT_S
        self._turn = trio.Lock()
        """Two that need room must not each make all of it."""

    def note_used(self, title_id: TitleId) -> None:
        """Note that a chunk of a title is about to be sent. Callable from any thread."""
        self._used_at[title_id] = time.monotonic()
        self._fresh[title_id] = None

    async def run(self) -> None:
        """Keep so much free as was asked for; runs until cancelled."""
        while True:
            async with ErrorBoundary(self._log, "look whether enough is free"):
                await self._look()
                if self.disk.is_low and await self.make_room(self._free_bytes_min):
                    await self._look()
            await trio.sleep(LOOK_S)
            async with ErrorBoundary(self._log, "note which titles are in use"):
                await self._keep_uses()

    async def _look(self) -> None:
        size_bytes, free_bytes = await trio.to_thread.run_sync(self._store.room)
        self.disk = DiskReport(size_bytes, free_bytes, self._free_bytes_min)

    async def _keep_uses(self) -> None:
        for title_id in self._being_sent():
            self.note_used(title_id)
        now = time.monotonic()
        if now >= self._asked_at + USE_S:
            async with ErrorBoundary(self._log, "ask which titles are in use"):
                await self._ask_in_use()
        for _ in range(len(self._fresh)):
            title_id, _ = self._fresh.popitem()
            if now >= self._kept_at.get(title_id, -USE_S) + USE_S:
                self._kept_at[title_id] = now
                await trio.to_thread.run_sync(self._store.note_use, title_id)

    async def _ask_in_use(self) -> None:
        """Note the use of what viewers use, as whoever serves them says. Raises `StoreError` where that fails."""
        self._asked_at = now = time.monotonic()
        if self._in_use is None or now < self._answered_at + ANSWER_KEPT_S:
            return
        with trio.move_on_after(ANSWER_S + 1.0) as scope:
            # Left alone then: a function of the embedder's may never return.
            found = await trio.to_thread.run_sync(self._titles_in_use, self._in_use, abandon_on_cancel=True)
        if scope.cancelled_caught:
            raise StoreError(f"nothing may go to make room: nobody has said within {ANSWER_S:g} s what is in use")
        self._answered_at = now
        for title_id in found:
            self.note_used(title_id)

    def _titles_in_use(self, in_use: InUse) -> set[TitleId]:
        try:
            texts = {text.strip() for text in islice(in_use(), ANSWER_LINES_MAX)}
        except Exception as error:
            # Whatever it is: the program that embeds the node has made it.
            raise StoreError(f"nothing may go to make room, since nobody says what is in use: {error}") from error
        return {found for text in texts if (found := self._store.title_meant(text)) is not None}

    async def make_room(self, free_bytes: int, note: Callable[[TitleUse], object] = lambda use: None) -> bool:
        """Let titles go until so much is free, if there are any; tell whether one has gone. `note` is told of each.

        Raises `StoreError` where the disk refuses, or nobody says what is in use.
        """
        went = False
        async with self._turn:
            for candidate in await self.candidates():
                if await trio.to_thread.run_sync(self._store.free_bytes) >= free_bytes:
                    break
                await self._ask_in_use()
                # Looked at anew for each: what is deleted takes a while, and the next may be in use, or wanted, by now.
                title_id = candidate.title_id
                if await self.keeper(candidate) == "":
                    what = f"{candidate.files} files of title" if candidate.files else "title"
                    self._log.warning(
                        "%s %s goes, since room is needed and nobody has ordered it; last used %s",
                        what, title_id.hex(), time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(candidate.used_at)),
                    )  # fmt: skip
                    if candidate.files:
                        await self._titles.drop_surplus(title_id)
                    else:
                        await self.evict(title_id)
                    note(candidate)
                    went = True
        return went

    async def most_free(self, free_bytes: int) -> int:
        """Return how much can be free if all goes that may; it is looked for no further than to `free_bytes`.

        Raises `StoreError`.
        """
        most = await trio.to_thread.run_sync(self._store.free_bytes)
        for candidate in await self.candidates() if most < free_bytes else ():
            if await self.keeper(candidate) == "":
                most += candidate.size
                if most >= free_bytes:
                    break
        return most

    async def survey(self, count_max: int) -> tuple[list[tuple[TitleUse, Keeper]], int]:
        """Return so many titles with what keeps them, what may go first and in order, and how many there are besides.

        Raises `StoreError`.
        """
        candidates = await self.candidates()
        if candidates:
            await self._ask_in_use()
        ids = await trio.to_thread.run_sync(self._store.ids)
        known = {use.title_id for use in candidates}
        kept = [title_id for title_id in ids if title_id not in known]
        uses = candidates[:count_max]
        uses += await self.uses(kept[: count_max - len(uses)])
        found = [(use, await self.keeper(use)) for use in uses]
        found.sort(key=lambda one: (one[1] != "", one[0].used_at))
        return found, max(0, len(ids) - len(found))

    async def candidates(self) -> list[TitleUse]:
        """Return what may go, in the order in which it would, but for what turns out to be in use then.

        Who has a file open is asked when the turn of a title comes, since who opens one in that moment has to wait.
        """
        ids = [title_id for title_id in await trio.to_thread.run_sync(self._store.ids) if not self._kept_by(title_id)]
        parts = [title_id for title_id in self._titles.orders or () if self._titles.surplus(title_id).files]
        found = await self.uses(ids)
        for use in await self.uses([title_id for title_id in parts if self._kept_by(title_id) == "order"]):
            files, size = self._titles.surplus(use.title_id)
            if files:
                found.append(use._replace(size=size, files=files))
        return sorted(found, key=lambda use: (use.used_at, use.title_id))

    async def uses(self, ids: Sequence[TitleId]) -> list[TitleUse]:
        """Return what the disk knows of the use of titles. Raises `StoreError`."""
        found: list[TitleUse] = []
        for first in range(0, len(ids), LOOK_TITLES):
            found += await trio.to_thread.run_sync(self._store.uses, ids[first : first + LOOK_TITLES])
        return found

    async def keeper(self, use: TitleUse) -> Keeper:
        """Tell what keeps a title now; its files are looked at, too."""
        title_id = use.title_id
        if kept_by := self._kept_by(title_id, of_files=use.files):
            return kept_by
        if time.time() < use.read_at + IDLE_S or await self._is_open(title_id):
            return "use"
        # Again: it may have been ordered while its files were looked at.
        return self._kept_by(title_id, of_files=use.files)

    def _kept_by(self, title_id: TitleId, *, of_files: int = 0) -> Keeper:
        """Tell what keeps a title, or files of it that its order does not name, as far as that is known without a look.

        A title in which somebody uses a file keeps all of them: which one it is cannot be told.
        """
        titles = self._titles
        if titles.orders is None:
            return "unknown"
        if title_id in titles.orders and (not of_files or titles.surplus(title_id).files != of_files):
            return "order"
        if title_id in titles.pinned:
            return "pin"
        if titles.phase_of(title_id) in (TitlePhase.FILLING, TitlePhase.EVICTING):
            return "fill"
        used_at = self._used_at.get(title_id)
        in_use = title_id in self._being_sent() or (used_at is not None and time.monotonic() < used_at + IDLE_S)
        return "use" if in_use else ""

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
