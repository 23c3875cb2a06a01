"""The book of requests: what was asked for, what may come of it, and who may write it.

One request is in exactly one state (`TRANSITIONS`):

    ASKED       the source was asked; nothing of the answer has come
    RECEIVING   one stream has begun to answer, and no other may
    WRITTEN     the last byte is in the title's file; nobody may write for this request any more
    VERIFIED    every digest that the title asks for holds
    FAILED      the answer was refused, broke off, or is not the chunk
    ABANDONED   the fill does not want it any more

A `RequestBook` is the border between the engine, which owns it, and those who move bytes. The engine posts what it has
asked for and reaps what has come of it, in batches. A thread that reads a header claims what it announces; a receive
is used up by its first answer, whatever becomes of that: a second one, on the same stream or on another, finds nothing,
and is a breach of the protocol. Those who move bytes read nothing else of the engine's, so this is the seam for a data
plane of another kind. Reads of origins are receives too, each begun as it is made.

The right to write belongs to one (receive, stream) while the request is RECEIVING. A slice is written under the lock of
its chunk (`ChunkStore.write_lock`) after a look at that state, so giving a request up needs no wait: the slice under
way ends, the next writer of the chunk waits for it, and the one that was given up writes no more. A chunk whose digests
held is sealed in the store under the same lock, which then refuses every writer. So what is VERIFIED is never
ABANDONED, or the other way round, and nothing is written over what is verified.

Pure: the lock is an argument, since nodes move bytes in threads and the simulator does not.
Rejected: looking at the engine's tables from the threads. Whatever moves from one table to another is in neither for a
moment, in which honest remotes are accused; and what was heard of late is written over.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from enum import Enum
from typing import Final, NamedTuple, Protocol

from p2pfill.errors import RemoteProtocolError
from p2pfill.protocol.data import DataHeader, check_header

Lock = AbstractContextManager[object]
"""One that its holder may take again (`threading.RLock`), or none at all (`contextlib.nullcontext`)."""

ABANDONED_MAX: Final = 2048
"""Requests of a link that were given up and whose payload may yet come. More than a link can have outstanding."""


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


class ChunkStore(Protocol):
    """What the data path needs of a title on disk; `store.StoredTitle` is one."""

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Yield (descriptor, offset, length) for the bytes of `chunk` from byte `start` on.

        Raises `StoreError`, also for writing into a sealed chunk.
        """
        ...

    def write_lock(self, chunk: int) -> Lock:
        """Return the lock under which a chunk is written and sealed."""
        ...

    @property
    def seals(self) -> bytearray:
        """A byte a chunk: 1 where it was verified, so that nothing may be written to it. Not to be changed."""
        ...

    def is_sealed(self, chunk: int) -> bool:
        """Tell whether a chunk was verified, so that nothing may be written to it."""
        ...

    def seal(self, chunk: int) -> None:
        """Refuse all writes to a chunk from now on; its `write_lock` is held."""
        ...

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        """Tell whether the BLAKE3 of a chunk is the manifest's: `digest`, where it was hashed as it was written.

        Without that the chunk is read back. Raises `StoreError`.
        """
        ...


class Outcome(Enum):
    """What became of the payload of a receive."""

    VERIFIED = "verified"
    """Written, and every digest holds."""
    CORRUPT = "corrupt"
    """It is not the chunk."""
    BROKEN = "broken"
    """It broke off."""
    WITHDRAWN = "withdrawn"
    """It came for nothing: nobody wanted it any more, or the chunk was there already."""
    STORE = "store"
    """The disk refused it."""


class Arrival(NamedTuple):
    """What the engine is told of a receive that is used up."""

    receive: Receive
    outcome: Outcome
    length: int
    """Payload bytes that came."""
    fault: str = ""


class Receive:
    """One chunk that was asked for and may come once."""

    __slots__ = ("_lock", "check", "chunk", "length", "owner", "request_id", "state", "title", "writes", "xxh3")

    def __init__(
        self,
        request_id: int,
        title: ChunkStore,
        chunk: int,
        length: int,
        xxh3: bytes,
        check: Callable[[int, bytes | None], bool] | None,
        owner: object,
        lock: Lock,
    ) -> None:
        """`check` is the title's `check_blake3`, where that asks for more than XXH3; None for nothing more.

        `owner` is the engine's; those who move bytes do not look at it.
        """
        self.request_id = request_id
        self.title = title
        self.chunk = chunk
        self.length = length
        self.xxh3 = xxh3
        self.check = check
        self.owner = owner
        self.state = RequestState.ASKED
        self.writes = bytearray(1)
        """Not 0 while it is RECEIVING: what threads without the interpreter look at before each slice."""
        self._lock = lock

    def step(self, step: RequestStep) -> bool:
        """Move on as the table says; False, and nothing changes, where it says nothing. Callable from any thread."""
        with self._lock:
            target = TRANSITIONS.get((self.state, step))
            if target is None:
                return False
            self.state = target
            self.writes[0] = target is RequestState.RECEIVING
            return True

    @property
    def is_wanted(self) -> bool:
        """Whether the fill still waits for it."""
        return self.state is not RequestState.ABANDONED

    @property
    def may_write(self) -> bool:
        """Whether a slice may be written now; looked at with the chunk's `write_lock` held."""
        return bool(self.writes[0]) and not self.title.is_sealed(self.chunk)

    def verify(self, fault_of: Callable[[], str]) -> tuple[Outcome, str]:
        """Check what was written, and seal the chunk where it is right. Runs in a thread.

        `fault_of` returns what is wrong with it, or nothing. Raises what that raises.
        """
        if not self.step(RequestStep.END):
            return Outcome.WITHDRAWN, ""
        if fault := fault_of():
            # What was given up meanwhile may have been written over by the next one before it was looked at.
            return (Outcome.CORRUPT, fault) if self.is_wanted else (Outcome.WITHDRAWN, "")
        with self.title.write_lock(self.chunk):
            if not self.step(RequestStep.VERIFY):
                return Outcome.WITHDRAWN, ""
            self.title.seal(self.chunk)
        return Outcome.VERIFIED, ""


class RequestBook:
    """The receives of one link; `wake` is called, in whatever thread, when there is something to reap."""

    def __init__(self, wake: Callable[[], object], lock: Lock) -> None:
        self._wake = wake
        self.lock = lock
        self._posted: dict[int, Receive] = {}
        """Outstanding, and those that have come and were not reaped; the engine alone adds and removes."""
        self._abandoned: OrderedDict[int, Receive] = OrderedDict()
        """Of those only whose payload has not begun to come: what has is used up."""
        self._arrived: deque[Arrival] = deque()

    # ---- the engine

    def __len__(self) -> int:
        """Return how many are outstanding, or have come and were not reaped."""
        return len(self._posted)

    def outstanding(self) -> list[Receive]:
        """Return what is outstanding, or has come and was not reaped, in the order in which it was posted."""
        return list(self._posted.values())

    def get(self, request_id: int) -> Receive | None:
        """Return what is outstanding under a request id."""
        return self._posted.get(request_id)

    def post(self, receive: Receive) -> None:
        """Let the answer to a request come, once."""
        with self.lock:
            self._posted[receive.request_id] = receive

    def abandon(self, request_id: int) -> bool:
        """Give a request up: its payload is read past when it comes. False where all of it has come already."""
        with self.lock:
            receive = self._posted.get(request_id)
            if receive is None:
                return False
            is_unanswered = receive.state is RequestState.ASKED
            if not receive.step(RequestStep.ABANDON):
                return False
            del self._posted[request_id]
            if is_unanswered:
                self._abandoned[request_id] = receive
                while len(self._abandoned) > ABANDONED_MAX:
                    self._abandoned.popitem(last=False)
            return True

    def retract(self, request_id: int) -> Receive | None:
        """Take back and return what the remote refuses to answer; an answer is a breach from now on.

        None where it is being answered, or was given up.
        """
        with self.lock:
            self._abandoned.pop(request_id, None)
            receive = self._posted.get(request_id)
            if receive is None or receive.state is not RequestState.ASKED:
                return None
            receive.step(RequestStep.FAIL)
            return self._posted.pop(request_id)

    def reap(self) -> list[Arrival]:
        """Return what has come since the last call."""
        arrived = []
        while self._arrived:
            arrival = self._arrived.popleft()
            self._posted.pop(arrival.receive.request_id, None)
            arrived.append(arrival)
        return arrived

    # ---- those who move bytes

    def claim(self, header: DataHeader) -> Receive:
        """Use up the receive that a header answers, which is the caller's from now on; it may be abandoned already.

        Raises `RemoteProtocolError` where the header answers nothing: never asked for, refused, or answered before; and
        where it is not for the chunk, or not of the length, that was asked for.
        """
        number = header.request_id
        with self.lock:
            receive = self._posted.get(number)
            if receive is None:
                receive = self._abandoned.pop(number, None)
                if receive is None:
                    raise RemoteProtocolError(f"chunk for request {number}: a second answer, or it was never made")
            elif not receive.step(RequestStep.BEGIN):
                raise RemoteProtocolError(f"chunk for request {number}: a second answer")
        try:
            check_header(header, receive.chunk, receive.length)
        except RemoteProtocolError as error:
            receive.step(RequestStep.FAIL)
            self.arrive(Arrival(receive, Outcome.CORRUPT, 0, str(error)))
            raise
        return receive

    def arrive(self, arrival: Arrival) -> None:
        """Tell the engine what became of a receive, once."""
        # Woken for each that finds nothing before it; it takes all that is there by then.
        is_first = not self._arrived
        self._arrived.append(arrival)
        if is_first:
            self._wake()


def write_whole(receive: Receive, write: Callable[[], object]) -> bool:
    """Write a chunk at hand in memory whose digests were checked, and seal it; False where it is not wanted.

    Runs in a thread. `write` does the writing, and what it raises leaves here.
    """
    with receive.title.write_lock(receive.chunk):
        if not receive.may_write:
            return False
        try:
            write()
        except BaseException:
            receive.step(RequestStep.FAIL)
            raise
        if not (receive.step(RequestStep.END) and receive.step(RequestStep.VERIFY)):
            return False
        receive.title.seal(receive.chunk)
        return True
