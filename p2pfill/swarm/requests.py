"""The life of one request for a chunk: asked of one source, answered once.

    ASKED       the source was asked; nothing of the answer has come
    RECEIVING   one stream has begun to answer, and no other may
    WRITTEN     the last byte is in the title's file; nobody may write for this request any more
    VERIFIED    every digest that the title asks for holds
    FAILED      the answer was refused, broke off, or is not the chunk
    ABANDONED   whoever asked does not want it any more

Invariant: a request is in exactly one of these states, and leaves RECEIVING once. So an answer is written by one
stream, a second answer finds nothing to begin, and what was VERIFIED is never ABANDONED, or the other way round.

The table is pure. Where bytes are written it is stepped under a lock (`transport.receives`), since the loop abandons
requests while threads of the data plane serve them; the loop learns what became of each when it reaps.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class RequestState(Enum):
    """Where one request stands; see the file's head."""

    ASKED = "ASKED"
    RECEIVING = "RECEIVING"
    WRITTEN = "WRITTEN"
    VERIFIED = "VERIFIED"
    FAILED = "FAILED"
    ABANDONED = "ABANDONED"

    __hash__ = object.__hash__


class RequestStep(Enum):
    """What moves a request on."""

    BEGIN = "a stream begins to answer"
    END = "the last byte is written"
    VERIFY = "the digests hold"
    FAIL = "refused, broken off, or wrong"
    ABANDON = "not wanted any more"

    __hash__ = object.__hash__


TRANSITIONS: Final[dict[tuple[RequestState, RequestStep], RequestState]] = {
    (RequestState.ASKED, RequestStep.BEGIN): RequestState.RECEIVING,
    (RequestState.ASKED, RequestStep.FAIL): RequestState.FAILED,
    (RequestState.ASKED, RequestStep.ABANDON): RequestState.ABANDONED,
    (RequestState.RECEIVING, RequestStep.END): RequestState.WRITTEN,
    (RequestState.RECEIVING, RequestStep.FAIL): RequestState.FAILED,
    (RequestState.RECEIVING, RequestStep.ABANDON): RequestState.ABANDONED,
    (RequestState.WRITTEN, RequestStep.VERIFY): RequestState.VERIFIED,
    (RequestState.WRITTEN, RequestStep.FAIL): RequestState.FAILED,
    (RequestState.WRITTEN, RequestStep.ABANDON): RequestState.ABANDONED,
}
"""All that may happen. What the table lacks does not happen: `step` leaves the state as it is and says so."""


def state_diagram() -> str:
    """Return the table as a Mermaid state diagram, for ARCHITECTURE.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {RequestState.ASKED.value}"]
    lines += [f"    {state.value} --> {to.value}: {step.value}" for (state, step), to in TRANSITIONS.items()]
    return "\n".join(lines)
