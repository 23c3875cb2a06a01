"""The chunk ledger against a model of plain sets."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from p2pfill.errors import InternalError
from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.ledger import ChunkLedger, ChunkState

CHUNKS = 9
chunks = st.integers(0, CHUNKS - 1)


class LedgerMachine(RuleBasedStateMachine):
    """Drives the ledger by any calls; the model says which are legal and what must come of them."""

    @initialize(durable=st.sets(chunks))
    def start(self, durable: set[int]) -> None:
        bitmap = Bitmap(CHUNKS)
        for chunk in durable:
            bitmap.add(chunk)
        self.ledger = ChunkLedger(CHUNKS, bitmap)
        self.state = {c: ChunkState.DURABLE if c in durable else ChunkState.MISSING for c in range(CHUNKS)}
        self.asked = dict.fromkeys(range(CHUNKS), 0)

    def fallback(self, chunk: int) -> ChunkState:
        return ChunkState.REQUESTED if self.asked[chunk] else ChunkState.MISSING

    @rule(chunk=chunks)
    def request(self, chunk: int) -> None:
        if self.state[chunk] > ChunkState.REQUESTED:
            with pytest.raises(InternalError, match="requested"):
                self.ledger.request(chunk)
            return
        self.ledger.request(chunk)
        self.asked[chunk] += 1
        self.state[chunk] = ChunkState.REQUESTED

    @rule(chunk=chunks)
    def release(self, chunk: int) -> None:
        if not self.asked[chunk]:
            with pytest.raises(InternalError, match="no source"):
                self.ledger.release(chunk)
            return
        self.ledger.release(chunk)
        self.asked[chunk] -= 1
        if self.state[chunk] == ChunkState.REQUESTED:
            self.state[chunk] = self.fallback(chunk)

    @rule(chunk=chunks)
    def verify(self, chunk: int) -> None:
        if not self.asked[chunk]:
            with pytest.raises(InternalError):
                self.ledger.verify(chunk)
            return
        first = self.state[chunk] == ChunkState.REQUESTED
        assert self.ledger.verify(chunk) == first
        self.asked[chunk] -= 1
        if first:
            self.state[chunk] = ChunkState.VERIFIED

    @rule(chunk=chunks, call=st.sampled_from(["commit", "lose"]))
    def change(self, chunk: int, call: str) -> None:
        legal, target = {
            "commit": ((ChunkState.VERIFIED,), ChunkState.DURABLE),
            "lose": ((ChunkState.VERIFIED, ChunkState.DURABLE), self.fallback(chunk)),
        }[call]
        if self.state[chunk] not in legal:
            with pytest.raises(InternalError):
                getattr(self.ledger, call)(chunk)
            return
        getattr(self.ledger, call)(chunk)
        self.state[chunk] = target

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        assert {c: self.ledger.state(c) for c in range(CHUNKS)} == self.state
        assert {c: self.ledger.requests(c) for c in range(CHUNKS)} == self.asked
        assert self.ledger.is_complete() == all(s == ChunkState.DURABLE for s in self.state.values())


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_check_finds_a_broken_ledger() -> None:
    ledger = ChunkLedger(4)
    ledger.missing.discard(2)
    with pytest.raises(InternalError, match="chunk 2"):
        ledger.check()
