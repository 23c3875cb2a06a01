"""Which titles a node's own work has brought into the page cache, and giving them up where the operator wants that.

With `NodeConfig.drop_pages` a title's pages go once it is live and no other cache was sent anything of it for `IDLE_S`:
once for each time that it was in use, so that what viewers read afterwards stays. Titles that still fill are left
alone, and those of which nothing was fetched or sent since the node began: only viewers can have read them.

It is off by default. A fill from a node that has dropped the title waits for its disk, the kernel gives pages up by
itself where memory is short, and what was filled last may be what is watched next. An operator who knows better sets
it. See docs/experiments.md, "Disks and the page cache".

Rejected: dropping each chunk behind the writer, since neighbours ask for it within seconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from p2pfill.model import limits
from p2pfill.model.ids import TitleId
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.store.title import StoredTitle

IDLE_S: Final = 30.0
"""Without a chunk sent, begun or asked for. As long as a stream may stand still inside a chunk before it counts as
dead: a cache that is still at the title has shown life by then."""

LOOK_S: Final = 5.0
"""How often a node looks which titles are in use."""

SLICE_BYTES: Final = 64 * limits.MIB
"""What one call to a worker thread drops. Between two the node may stop, or somebody may ask for the title again."""


class CachedTitles:
    """The titles that were filled or sent, and when last. Belongs to the event loop, but for `note_used`."""

    def __init__(
        self,
        stored: Callable[[TitleId], StoredTitle | None],
        being_sent: Callable[[], set[TitleId]],
        log: logging.Logger,
        *,
        drops: bool,
    ) -> None:
        """`being_sent` returns the titles that are sent or waited for now; without `drops` nothing is noted."""
        self._stored = stored
        self._being_sent = being_sent
        self._log = log
        self._drops = drops
        self._used_at: dict[TitleId, float] = {}
        """Monotonic time; those first that were used longest ago. A title leaves when its pages are dropped."""

    def note_used(self, title_id: TitleId) -> None:
        """Note that a title has become live, or that a chunk of it is about to be sent. Callable from any thread."""
        if self._drops:
            self._used_at.pop(title_id, None)
            self._used_at[title_id] = time.monotonic()

    async def eviction_loop(self) -> None:
        """Drop the pages of live titles as they come to rest; runs until cancelled."""
        while True:
            await trio.sleep(LOOK_S)
            # Looked at anew after each: it takes a while, and the next may be in use again.
            async with ErrorBoundary(self._log, "look which titles are in use"):
                while (stored := self._next_at_rest()) is not None:
                    await self._drop(stored)

    def _next_at_rest(self) -> StoredTitle | None:
        for title_id in self._being_sent():
            self.note_used(title_id)
        before = time.monotonic() - IDLE_S
        found: StoredTitle | None = None
        gone = []
        with suppress(RuntimeError):  # a thread has added to it: it is looked at again soon
            for title_id, used_at in self._used_at.items():
                if used_at > before:
                    break
                stored = self._stored(title_id)
                if stored is None:
                    gone.append(title_id)
                elif stored.live:
                    found = stored
                    break
        for title_id in gone:
            self._used_at.pop(title_id, None)
        return found

    async def _drop(self, stored: StoredTitle) -> None:
        title_id, chunks = stored.manifest.title_id, range(stored.manifest.chunk_count)
        step = max(1, SLICE_BYTES // stored.manifest.chunk_size)
        del self._used_at[title_id]
        async with ErrorBoundary(self._log, f"drop cached pages of title {title_id.hex()}", level=logging.INFO):
            for first in chunks[::step]:
                if title_id in self._used_at:
                    return  # in use again; it will come to rest again
                await trio.to_thread.run_sync(stored.drop_pages, chunks[first : first + step])
