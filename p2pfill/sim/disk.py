"""One title on the disk of a cache: what its journal holds, what is sealed, and which of its bytes are right.

The engine knows the first two; the third is the truth, with which the checkers compare what is said. A chunk is written
in two parts, so that two who write one side by side leave one that is neither's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Final

from p2pfill.engine.requests import Lock, Receive
from p2pfill.engine.task import FillTask
from p2pfill.errors import StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.sim.ground import Title

NO_LOCK: Final = nullcontext()


class StoredTitle:
    """An `engine.requests.ChunkStore`."""

    def __init__(self, title: Title, wanted: Bitmap | None = None) -> None:
        """Only the chunks that are `wanted` are to be here; None: all."""
        self.title = title
        self.manifest = title.manifest
        self.wanted = Bitmap.full(self.manifest.chunk_count) if wanted is None else wanted
        self.task: FillTask | None = None
        """The fill that runs, or the last one that did."""
        self.live_at: float | None = None
        """When it went live."""
        self.refuses = False
        """The disk refuses what is written."""
        self.durable = Bitmap(self.manifest.chunk_count)
        self.sealed = Bitmap(self.manifest.chunk_count)
        self.right = Bitmap(self.manifest.chunk_count)
        """Chunks of which all bytes are right."""
        self._heads = Bitmap(self.manifest.chunk_count)
        """Chunks of which the first part is."""
        self.syncing: list[list[int]] = []
        """Chunks of commits that are under way."""

    @property
    def seeks(self) -> bool:
        """Whether a fill of it runs, or is to begin: then a roster is of use."""
        return self.live_at is None or (self.task is not None and not self.task.is_over)

    def hold(self, count: int) -> None:
        """Have the first chunks from the start; all that are wanted: it is live."""
        chunks = [chunk for chunk in range(count) if self.wanted[chunk]]
        for held in (self.durable, self.sealed, self.right, self._heads):
            held.add_all(chunks)
        if not self.lacks_any():
            self.live_at = 0.0

    def lacks_any(self) -> bool:
        """Tell whether something that is wanted is not durable."""
        return self.wanted.and_not(self.durable).any()

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Nothing is read or written by descriptor here."""
        return iter(())

    def write_lock(self, chunk: int) -> Lock:
        """Nothing happens side by side."""
        return NO_LOCK

    @property
    def seals(self) -> bytearray:
        """Nobody looks at it where nothing is written by descriptor."""
        return bytearray()

    def is_sealed(self, chunk: int) -> bool:
        """Tell whether a chunk was verified."""
        return self.sealed[chunk]

    def seal(self, chunk: int) -> None:
        """Refuse all writes to a chunk from now on."""
        self.sealed.add(chunk)

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        """Tell whether what is on the disk is the chunk."""
        return self.right[chunk]

    def write_head(self, receive: Receive, *, right: bool) -> None:
        """Write the first part of a chunk. Raises `StoreError`."""
        self._look_at_room()
        if receive.may_write:
            self._heads[receive.chunk] = right
            if not right:
                self.right.discard(receive.chunk)

    def _look_at_room(self) -> None:
        if self.refuses:
            raise StoreError("cannot write chunk to disk: no space left on device")

    def write_tail(self, receive: Receive, *, right: bool) -> None:
        """Write the rest of a chunk. Raises `StoreError`."""
        self._look_at_room()
        if receive.may_write:
            self.right[receive.chunk] = right and self._heads[receive.chunk]

    def write_chunk(self, receive: Receive) -> None:
        """Write a chunk whose digests were checked before. Raises `StoreError`."""
        self.write_head(receive, right=True)
        self.write_tail(receive, right=True)

    def commit(self, chunks: list[int]) -> None:
        """Enter chunks into the journal. Raises `StoreError`."""
        if self.refuses:
            raise StoreError("cannot sync: input/output error")
        self.durable.add_all(chunks)

    def begin_again(self) -> None:
        """Let what is not durable be written once more, since a new fill fetches it."""
        self.sealed = self.durable.copy()

    def end(self) -> None:
        """Take note that the machine was down, and what its journal does not hold is gone."""
        self.right = self.right & self.durable
        self._heads = self.right.copy()
        self.syncing.clear()
        self.task = None
        self.begin_again()
