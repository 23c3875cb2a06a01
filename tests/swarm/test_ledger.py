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

LEGAL = {
    "request": ({ChunkState.MISSING}, ChunkState.REQUESTED),
    "release": ({ChunkState.REQUESTED}, ChunkState.MISSING),
    "verify": ({ChunkState.REQUESTED}, ChunkState.VERIFIED),
    "commit": ({ChunkState.VERIFIED}, ChunkState.DURABLE),
    "lose": ({ChunkState.VERIFIED, ChunkState.DURABLE}, ChunkState.MISSING),
}


class LedgerMachine(RuleBasedStateMachine):
    """Drives the ledger by any calls; the model says which are legal and what must come of them."""

    @initialize(durable=st.sets(chunks))
    def start(self, durable: set[int]) -> None:
        bitmap = Bitmap(CHUNKS)
        for chunk in durable:
            bitmap.add(chunk)
        self.ledger = ChunkLedger(CHUNKS, bitmap)
        self.state = {c: ChunkState.DURABLE if c in durable else ChunkState.MISSING for c in range(CHUNKS)}

    @rule(chunk=chunks, call=st.sampled_from(["request", "release", "verify", "commit", "lose"]))
    def change(self, chunk: int, call: str) -> None:
        legal, target = LEGAL[call]
        if self.state[chunk] not in legal:
            with pytest.raises(InternalError, match=f"chunk {chunk} cannot go"):
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
        assert self.ledger.is_complete() == all(s == ChunkState.DURABLE for s in self.state.values())


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_check_finds_a_broken_ledger() -> None:
    ledger = ChunkLedger(4)
    ledger.missing.discard(2)
    with pytest.raises(InternalError, match="chunk 2"):
        ledger.check()
