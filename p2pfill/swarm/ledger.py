"""The ledger of one title's chunks on one node.

Invariant: each chunk is in exactly one of these states.

    UNWANTED   it is of no file that is ordered here, and is not here
    MISSING    nobody was asked for it
    REQUESTED  one source was asked and has not delivered
    VERIFIED   its bytes are written and its digests hold: it may be announced and served
    DURABLE    the journal says so on disk: a restart will not fetch it again

    MISSING -> REQUESTED -> VERIFIED -> DURABLE, and back to MISSING from REQUESTED (the source gave up, or was too
    slow) and from VERIFIED or DURABLE (the scrubber found rot). What is not wanted goes back to UNWANTED instead.

Only VERIFIED and DURABLE chunks are ever in `have`. The states live in one byte per chunk and the two sets that picking
needs (`missing`, `have`) are kept beside them as bitmaps, so that a decision costs no scan in Python; `check` compares
both views. One object per chunk was rejected: 25,600 chunks a title would cost megabytes a node.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from p2pfill.errors import InternalError
from p2pfill.model.bitmap import Bitmap


class ChunkState(IntEnum):
    """Where one chunk stands; see the file's head."""

    UNWANTED = 0
    MISSING = 1
    REQUESTED = 2
    VERIFIED = 3
    DURABLE = 4


_STATES: Final = [
    bytes(ChunkState.DURABLE if byte >> bit & 1 else ChunkState.MISSING for bit in range(8)) for byte in range(256)
]
"""The states at the start that a byte of the bitmap stands for."""


_MISSING, _REQUESTED, _VERIFIED, _DURABLE = map(int, tuple(ChunkState)[1:])
"""As plain numbers, for what is asked with each message."""


_IS_MISSING: Final = bytes(state == _MISSING for state in range(256))
_IS_HERE: Final = bytes(state >= _VERIFIED for state in range(256))
"""Of a chunk's state: whether it belongs into the set. One pass in C looks at all chunks."""


class ChunkLedger:
    """States of `chunk_count` chunks, of which `durable` (a bitmap of that length) are on disk already.

    `wanted`, likewise, are those that are to be here: all where it is None.
    """

    def __init__(self, chunk_count: int, durable: Bitmap | None = None, wanted: Bitmap | None = None) -> None:
        self.chunk_count = chunk_count
        self.wanted = Bitmap.full(chunk_count) if wanted is None else wanted.copy()
        self.have = Bitmap(chunk_count) if durable is None else durable.copy()
        self.missing = self.wanted.and_not(self.have)
        self.counts = [0] * len(ChunkState)
        self.counts[ChunkState.DURABLE] = self.have.count()
        self.counts[ChunkState.MISSING] = self.missing.count()
        self.counts[ChunkState.UNWANTED] = chunk_count - sum(self.counts)
        # Eight chunks at a time: the event loop waits for this when a title is resumed.
        self._state = bytearray(b"".join(map(_STATES.__getitem__, self.have.buffer)))[:chunk_count]
        if self.counts[ChunkState.UNWANTED]:
            for chunk in Bitmap.full(chunk_count).and_not(self.wanted | self.have).indexes():
                self._state[chunk] = ChunkState.UNWANTED

    def state(self, chunk: int) -> ChunkState:
        """Return the state of `chunk`."""
        return ChunkState(self._state[chunk])

    def is_verified(self, chunk: int) -> bool:
        """Tell whether `chunk` may be announced and served."""
        return self._state[chunk] >= _VERIFIED

    @property
    def held(self) -> int:
        """How many chunks are verified, durable or not."""
        return self.counts[_VERIFIED] + self.counts[_DURABLE]

    @property
    def is_lacking(self) -> bool:
        """Whether chunks are to come yet."""
        return bool(self.counts[_MISSING] or self.counts[_REQUESTED])

    def is_to_commit(self, chunk: int) -> bool:
        """Tell whether `chunk` is verified, and the journal does not say so."""
        return self._state[chunk] == _VERIFIED

    def is_complete(self) -> bool:
        """Tell whether every chunk that is wanted is durable, that is, whether the title can go live."""
        counts = self.counts
        return not (counts[_MISSING] or counts[_REQUESTED] or counts[_VERIFIED])

    def request(self, chunk: int) -> None:
        """Note that a source is asked for `chunk`."""
        if self._state[chunk] != _MISSING:
            raise self._misstep(chunk, ChunkState.MISSING, ChunkState.REQUESTED)
        # With each chunk, and so without the calls of `_step`.
        self._state[chunk] = _REQUESTED
        self.counts[_MISSING] -= 1
        self.counts[_REQUESTED] += 1
        self.missing.discard(chunk)

    def release(self, chunk: int) -> None:
        """Note that the source that was asked for `chunk` will not deliver it."""
        self._step(chunk, ChunkState.REQUESTED, ChunkState.MISSING)

    def verify(self, chunk: int) -> None:
        """Note that `chunk` was delivered and its digests hold."""
        if self._state[chunk] != _REQUESTED:
            raise self._misstep(chunk, ChunkState.REQUESTED, ChunkState.VERIFIED)
        self._state[chunk] = _VERIFIED
        self.counts[_REQUESTED] -= 1
        self.counts[_VERIFIED] += 1
        self.have.add(chunk)

    def commit(self, chunk: int) -> None:
        """Note that the journal holds `chunk`."""
        if self._state[chunk] != _VERIFIED:
            raise self._misstep(chunk, ChunkState.VERIFIED, ChunkState.DURABLE)
        self._state[chunk] = _DURABLE
        self.counts[_VERIFIED] -= 1
        self.counts[_DURABLE] += 1

    def lose(self, chunk: int) -> None:
        """Note that `chunk`, once verified, has rotted on disk."""
        before = ChunkState.DURABLE if self._state[chunk] == ChunkState.DURABLE else ChunkState.VERIFIED
        self._step(chunk, before, ChunkState.MISSING if self.wanted[chunk] else ChunkState.UNWANTED)

    def check(self) -> None:
        """Raise `InternalError` unless the invariant holds and both views of it agree."""
        counts = [self._state.count(state) for state in ChunkState]
        if counts != self.counts:
            raise InternalError(f"chunk ledger: counted {counts}, kept {self.counts}")
        missing = Bitmap.from_flags(self._state.translate(_IS_MISSING))
        have = Bitmap.from_flags(self._state.translate(_IS_HERE))
        if missing == self.missing and have == self.have:
            return
        for chunk, state in enumerate(self._state):
            if self.missing[chunk] != missing[chunk] or self.have[chunk] != have[chunk]:
                raise InternalError(f"chunk ledger: chunk {chunk} is {ChunkState(state).name}, but its sets disagree")

    def _enter(self, chunk: int, target: ChunkState) -> None:
        before = self._state[chunk]
        self._state[chunk] = target
        self.counts[before] -= 1
        self.counts[target] += 1
        if (target == _MISSING) != (before == _MISSING):
            self.missing[chunk] = target == _MISSING
        if (target >= _VERIFIED) != (before >= _VERIFIED):
            self.have[chunk] = target >= _VERIFIED

    def _step(self, chunk: int, expected: ChunkState, target: ChunkState) -> None:
        if self._state[chunk] != expected:
            raise self._misstep(chunk, expected, target)
        self._enter(chunk, target)

    def _misstep(self, chunk: int, expected: ChunkState, target: ChunkState) -> InternalError:
        return InternalError(
            f"chunk ledger: chunk {chunk} cannot go from {self.state(chunk).name} to {target.name}, "
            f"only from {expected.name}"
        )
