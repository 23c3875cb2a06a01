"""Titles that lie on a node's disk: opened and served when it starts, and checked where that is called for.

One bad entry stops no other: it is refused, with the reason, and what the disk itself has refused is opened again when
that is well. A title whose manifest is damaged is refused until it is ordered; then the manifest comes from the
tracker, and what is here is read and checked before it is served (`store.Store.begin_fill`).

Once all are served, each is looked at once more for files that are missing or of another size: that costs a stat a
file, and what is lost is fetched anew as what the scrubber finds.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from p2pfill.engine.engine import Engine
from p2pfill.errors import P2PFillError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.limits import MIB
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.titles import TitlePhase, TitleRegistry
from p2pfill.store.scrub import bad_chunks, examine, missing_files
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle

CHECK_AGAIN_S: Final = 10.0
"""Between two looks at titles that could not be checked."""

CHECKED_BYTES: Final = 256 * MIB
"""Of a title that is read and checked at a time: the node can stop after each."""


class FoundTitles:
    """What is on the disk of one node. Belongs to the event loop."""

    def __init__(self, titles: TitleRegistry, store: Store, engine: Engine, log: logging.Logger) -> None:
        self._titles = titles
        self._store = store
        self._engine = engine
        self._log = log
        self._doubtful: dict[TitleId, None] = {}
        """Live titles of which it is not known what is here."""
        self._news = trio.Event()
        titles.note_doubt = self._note_doubt
        titles.reopen = self._open

    def _note_doubt(self, title_id: TitleId) -> None:
        self._doubtful[title_id] = None
        self._news.set()

    async def find(self) -> None:
        """Note which titles are live on disk, before a remote can ask: one that hears of none goes to the origin."""
        self._engine.opening = dict.fromkeys(await trio.to_thread.run_sync(self._store.live_ids))

    async def open_all(self) -> None:
        """Open the titles that were found, one after the other; each is served from then on.

        But for those of which it is not known what is here, see `check_doubtful`.
        """
        for title_id in list(self._engine.opening):
            failed = partial(self._refuse, title_id)
            async with ErrorBoundary(self._log, f"serve title {title_id.hex()}", failed):
                await self._open(title_id)
            if title_id in self._engine.opening:
                self._engine.opened(trio.current_time(), title_id)
            self._titles.wake()

    def _refuse(self, title_id: TitleId, error: P2PFillError) -> None:
        self._titles.refuse(title_id, error)
        if isinstance(error, StoreError) and isinstance(error.__cause__, OSError):
            self._titles.wait_for_disk(title_id, error)

    async def _open(self, title_id: TitleId) -> None:
        """Open a live title, and serve it where it is known what is here. Raises `StoreError`."""
        stored = await trio.to_thread.run_sync(self._store.open_title, title_id)
        if stored.doubt:
            self._note_doubt(title_id)
            self._titles.refuse(title_id, StoreError(f"{stored.doubt}; what is here is being checked"))
        elif stored.live:
            await self._titles.found(stored)

    async def check_files(self) -> None:
        """Have files that are missing, or of another size, fetched anew, and links made again, once for each title."""
        for title_id in self._titles.live_ids():
            stored = self._titles.stored(title_id)
            if stored is None or not stored.live:
                continue
            async with ErrorBoundary(self._log, f"look at the files of title {title_id.hex()}"):
                lost = await trio.to_thread.run_sync(missing_files, stored)
                if lost:
                    self._log.warning("title %r: %d files are not where they were", stored.manifest.name, len(lost))
                    await self._titles.repair(title_id)
                await self._titles.look_at_link(title_id)

    async def check_doubtful(self) -> None:
        """Read and check titles of which it is not known what is here, until each is served, or is gone.

        What the disk refuses is tried again. Runs until cancelled.
        """
        while True:
            self._news = trio.Event()
            if not self._doubtful:
                await self._news.wait()
            live = set(await trio.to_thread.run_sync(self._store.live_ids))
            for title_id in list(self._doubtful):
                failed = partial(self._titles.refuse, title_id)
                async with ErrorBoundary(self._log, f"check title {title_id.hex()}", failed):
                    await self._check(title_id, is_here=title_id in live)
            if self._doubtful:
                with trio.move_on_after(CHECK_AGAIN_S):
                    await self._news.wait()

    async def _check(self, title_id: TitleId, *, is_here: bool) -> None:
        titles = self._titles
        if is_here:
            stored = await trio.to_thread.run_sync(self._store.open_title, title_id)
            if stored.doubt:
                await self._check_all(stored)
            if titles.phase_of(title_id) is TitlePhase.ABSENT:  # else it is being evicted
                await titles.found(stored)
                titles.retry()  # what was ordered meanwhile was refused
        elif titles.phase_of(title_id) is TitlePhase.ABSENT:
            titles.allow(title_id)
        else:
            return  # it is being deleted
        self._doubtful.pop(title_id, None)

    async def _check_all(self, stored: StoredTitle) -> None:
        """Find out what is right of a live title in doubt; it takes writes then, where that is not all."""
        self._log.warning(
            "title %r: %s; what is there is read and checked, and served once it is found to be right",
            stored.manifest.name, stored.doubt,
        )  # fmt: skip
        chunks, bad = list(stored.have.indexes()), []
        count = max(1, CHECKED_BYTES // stored.manifest.chunk_size)
        lost = (await trio.to_thread.run_sync(examine, stored, []))[1]
        for start in range(0, len(chunks), count):
            bad += await trio.to_thread.run_sync(bad_chunks, stored, chunks[start : start + count])
        if bad or lost:
            await trio.to_thread.run_sync(self._store.lose, stored, bad, lost)
        await trio.to_thread.run_sync(stored.settle_doubt)
