"""The ledger of one title's chunks on one node.

Invariant: each chunk is in exactly one of these states.

    MISSING    nobody was asked for it
    REQUESTED  one or more sources were asked and none has delivered
    VERIFIED   its bytes are written and its digests hold: it may be announced and served
    DURABLE    the journal says so on disk: a restart will not fetch it again

    MISSING -> REQUESTED -> VERIFIED -> DURABLE, and back to MISSING from REQUESTED (all sources gave up) and from
    VERIFIED or DURABLE (the scrubber found rot).

Only VERIFIED and DURABLE chunks are ever in `have`. The states live in one byte per chunk and the two sets that picking
needs (`missing`, `have`) are kept beside them as bitmaps, so that a decision costs no scan in Python; `check` compares
both views. One object per chunk was rejected: 25,600 chunks a title would cost megabytes a node.
"""

from __future__ import annotations

from enum import IntEnum

from p2pfill.errors import InternalError
from p2pfill.model.bitmap import Bitmap


class ChunkState(IntEnum):
    """Where one chunk stands; see the file's head."""

    MISSING = 0
    REQUESTED = 1
    VERIFIED = 2
    DURABLE = 3


class ChunkLedger:
    """States of `chunk_count` chunks, of which `durable` (a bitmap of that length) are on disk already."""

    def __init__(self, chunk_count: int, durable: Bitmap | None = None) -> None:
        self.chunk_count = chunk_count
        self.missing = Bitmap.full(chunk_count)
        self.have = Bitmap(chunk_count)
        self.counts = [0] * len(ChunkState)
        self.counts[ChunkState.MISSING] = chunk_count
        self._state = bytearray(chunk_count)
        self._askers: dict[int, int] = {}
        for chunk in durable.indexes() if durable is not None else ():
            self._enter(chunk, ChunkState.DURABLE)

    def state(self, chunk: int) -> ChunkState:
        """Return the state of `chunk`."""
        return ChunkState(self._state[chunk])

    def is_verified(self, chunk: int) -> bool:
        """Tell whether `chunk` may be announced and served."""
        return self._state[chunk] >= ChunkState.VERIFIED

    def is_complete(self) -> bool:
        """Tell whether every chunk is durable, that is, whether the title can go live."""
        return self.counts[ChunkState.DURABLE] == self.chunk_count

    def requests(self, chunk: int) -> int:
        """Return how many sources were asked for `chunk` and have not answered."""
        return self._askers.get(chunk, 0)

    def request(self, chunk: int) -> None:
        """Note that one more source is asked for `chunk`, which must be MISSING or REQUESTED."""
        if self._state[chunk] > ChunkState.REQUESTED:
            raise self._illegal(chunk, "requested")
        self._askers[chunk] = self._askers.get(chunk, 0) + 1
        self._enter(chunk, ChunkState.REQUESTED)

    def release(self, chunk: int) -> None:
        """Note that one source that was asked for `chunk` will not deliver it (any more)."""
        left = self._askers.get(chunk, 0) - 1
        if left < 0:
            raise self._illegal(chunk, "released, though no source was asked for it,")
        if left:
            self._askers[chunk] = left
            return
        del self._askers[chunk]
        if self._state[chunk] == ChunkState.REQUESTED:
            self._enter(chunk, ChunkState.MISSING)

    def verify(self, chunk: int) -> bool:
        """Note that one source delivered `chunk` and its digests hold; False means that it was here already."""
        first = self._state[chunk] == ChunkState.REQUESTED
        if first:
            self._enter(chunk, ChunkState.VERIFIED)
        self.release(chunk)
        return first

    def commit(self, chunk: int) -> None:
        """Note that the journal holds `chunk`."""
        if self._state[chunk] != ChunkState.VERIFIED:
            raise self._illegal(chunk, "committed")
        self._enter(chunk, ChunkState.DURABLE)

    def lose(self, chunk: int) -> None:
        """Note that `chunk`, once verified, has rotted on disk."""
        if not self.is_verified(chunk):
            raise self._illegal(chunk, "lost")
        self._enter(chunk, ChunkState.REQUESTED if chunk in self._askers else ChunkState.MISSING)

    def check(self) -> None:
        """Raise `InternalError` unless the invariant holds and both views of it agree."""
        counts = [self._state.count(state) for state in ChunkState]
        if counts != self.counts:
            raise InternalError(f"chunk ledger: counted {counts}, kept {self.counts}")
        for chunk, state in enumerate(self._state):
            asked = chunk in self._askers
            if (
                self.missing[chunk] != (state == ChunkState.MISSING)
                or self.have[chunk] != (state >= ChunkState.VERIFIED)
                or (state == ChunkState.REQUESTED and not asked)
                or (state == ChunkState.MISSING and asked)
            ):
                raise InternalError(f"chunk ledger: chunk {chunk} is {ChunkState(state).name}, but its sets disagree")

    def _enter(self, chunk: int, target: ChunkState) -> None:
        before = self._state[chunk]
        self._state[chunk] = target
        self.counts[before] -= 1
        self.counts[target] += 1
        self.missing[chunk] = target == ChunkState.MISSING
        self.have[chunk] = target >= ChunkState.VERIFIED

    def _illegal(self, chunk: int, done: str) -> InternalError:
        return InternalError(f"chunk ledger: chunk {chunk} was {done} while {self.state(chunk).name}")
