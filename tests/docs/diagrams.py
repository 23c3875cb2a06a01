"""Draws the diagrams that ARCHITECTURE.md shows, from the code. Run it to print them; a test compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from p2pfill.engine.requests import state_diagram as request_diagram
from p2pfill.errors import InternalError
from p2pfill.model.bitmap import Bitmap
from p2pfill.node.titles import state_diagram as title_diagram
from p2pfill.swarm.ledger import ChunkLedger, ChunkState

Call = Callable[[ChunkLedger], object]

CALLS: Final[dict[str, Call]] = {
    "request": lambda ledger: ledger.request(0),
    "release": lambda ledger: ledger.release(0),
    "verify": lambda ledger: ledger.verify(0),
    "commit": lambda ledger: ledger.commit(0),
    "lose": lambda ledger: ledger.lose(0),
}
"""Everything that can be done to one chunk."""

WAYS: Final[dict[ChunkState, tuple[str, ...]]] = {
    ChunkState.UNWANTED: (),
    ChunkState.MISSING: (),
    ChunkState.REQUESTED: ("request",),
    ChunkState.VERIFIED: ("request", "verify"),
    ChunkState.DURABLE: ("request", "verify", "commit"),
}
"""How a ledger of one chunk comes to each state."""


def ledger_transitions() -> Iterator[tuple[ChunkState, str, ChunkState]]:
    """Yield (state, call, next state) for every call that a real ledger allows in each state."""
    for state, way in WAYS.items():
        for name, call in CALLS.items():
            wanted = Bitmap(1) if state is ChunkState.UNWANTED else Bitmap.full(1)
            ledger = ChunkLedger(1, Bitmap(1), wanted)
            for step in way:
                CALLS[step](ledger)
            try:
                call(ledger)
            except InternalError:
                continue
            ledger.check()
            yield state, name, ledger.state(0)


def ledger_diagram() -> str:
    """Return the ledger's states as a Mermaid diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {ChunkState.MISSING.name}"]
    lines += [f"    {state.name} --> {target.name}: {name}" for state, name, target in ledger_transitions()]
    lines.append(f"    [*] --> {ChunkState.UNWANTED.name}: of no file that is ordered")
    lines.append(f"    [*] --> {ChunkState.DURABLE.name}: in the journal at start")
    return "\n".join(lines)


if __name__ == "__main__":
    print(request_diagram())
    print(ledger_diagram())
    print(title_diagram())
