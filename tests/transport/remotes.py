"""Caches at the far end of a schedule's links: honest ones, and ones that break each rule of a data stream.

A remote hears what the engine under test says (`Remote.hear`), when the schedule lets it, and writes on the data
streams towards that engine, as much at a time as the schedule says. What it does is drawn by the schedule.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio

from p2pfill.engine.link import Link
from p2pfill.engine.requests import Arrival, Receive, RequestBook
from p2pfill.errors import RemoteProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import HEADER_BYTES, DataHeader, encode_header
from p2pfill.sim.channel import PlainChannel
from p2pfill.transport.data import Receiver

NEVER_ASKED: Final = 1 << 20
"""Request ids from here on are nobody's."""

WRONG: Final = 0.6
"""How often a dishonest one does something wrong."""
RIGHT: Final = 0.99
"""The pick of an answer that is right."""

JUNK: Final = b"\x07" * HEADER_BYTES


class Answer(NamedTuple):
    """A header and payload that a remote sends. `kind` says what is wrong with it; empty for nothing."""

    kind: str
    header: DataHeader | None
    data: bytes


@dataclass(frozen=True)
class Title:
    """A manifest and its bytes."""

    manifest: Manifest
    stream: bytes

    def chunk(self, index: int) -> bytes:
        """Return the right bytes of a chunk."""
        return self.stream[slice(*self.manifest.cut.span(index))]


class Claim(NamedTuple):
    """A header that a receiver has shown to its book, and how that has refused it; empty where it has not."""

    header: DataHeader
    refusal: str


class WatchedBook:
    """The book of a link as one stream's receiver sees it, which notes what that claims."""

    def __init__(self, book: RequestBook) -> None:
        self._book = book
        self.claims: list[Claim] = []

    def claim(self, header: DataHeader) -> Receive:
        """Claim, and note it."""
        try:
            receive = self._book.claim(header)
        except RemoteProtocolError as error:
            self.claims.append(Claim(header, str(error)))
            raise
        self.claims.append(Claim(header, ""))
        return receive

    def arrive(self, arrival: Arrival) -> None:
        """Pass it on."""
        self._book.arrive(arrival)


class DataLine:
    """One data stream from a remote to the engine under test: the remote's end, and what came of the other."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.near, far = socket.socketpair()
        self.near.setblocking(False)
        far.setblocking(False)
        self.far = trio.socket.from_stdlib_socket(far)
        self.book = WatchedBook(remote.link.book)
        self.receiver: Receiver
        self.scope = trio.CancelScope()
        self.sent: list[Answer] = []
        """Of which the whole header has been written."""
        self.answer: Answer | None = None
        """What is being sent."""
        self.at = 0
        self.is_closed = False
        """The remote has closed it, or found it closed."""
        self.was_cut = False
        """It was ended from this side, with its link."""
        self.is_over = False
        self.reason = ""
        self.breach = False

    def write(self, count: int) -> None:
        """Send some more bytes of the answer under way."""
        if self.answer is None or self.is_closed:
            return
        try:
            sent = self.near.send(memoryview(self.answer.data)[self.at : self.at + count])
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self.at < HEADER_BYTES <= self.at + sent:
            self.sent.append(self.answer)
        self.at += sent
        if self.at == len(self.answer.data):
            self.remote.finished(self.answer)
            self.answer, self.at = None, 0

    def close(self) -> None:
        """End it from the remote's end, in the middle of a chunk where it is in one."""
        if not self.is_closed:
            self.is_closed = True
            self.near.close()
            self.remote.has_broken = True


@dataclass
class Remote:
    """A cache that is linked with the engine under test."""

    name: str
    honest: bool
    title: Title
    channel: PlainChannel
    link: Link = field(init=False)
    tell: Callable[[m.Message], None] = field(init=False)
    """Has the engine handle a message of this remote."""
    lines: list[DataLine] = field(default_factory=list)
    asked: dict[int, int] = field(default_factory=dict)
    """All requests that it has heard -> chunk."""
    queue: dict[int, int] = field(default_factory=dict)
    """Those that it has neither begun to answer nor dropped."""
    begun: list[int] = field(default_factory=list)
    """Request ids that it has answered, or has begun to."""
    whole: set[int] = field(default_factory=set)
    """Request ids that were answered with right bytes to the last one."""
    refused: set[int] = field(default_factory=set)
    """Of which the engine has taken a Reject before any answer."""
    has_broken: bool = False
    """It has ended a data stream."""
    is_gone: bool = False

    # ---- the control link

    def hear(self, count: int, drops: bool) -> None:
        """Take up to `count` messages; a Cancel of what is not begun makes it drop the request only if `drops`."""
        messages = self.channel.outbox[:count]
        del self.channel.outbox[:count]
        for message in messages:
            match message:
                case m.Subscribe(handle):
                    chunks = self.title.manifest.chunk_count
                    self.tell(m.Holdings(handle, True, chunks, Bitmap.full(chunks).to_bytes()))
                case m.Request(_, request_id, chunk):
                    self.asked[request_id] = self.queue[request_id] = chunk
                case m.Cancel(request_id) if drops:
                    self.queue.pop(request_id, None)
                case m.StreamOpen(stream_id):
                    self.tell(m.StreamGrant(stream_id, stream_id.to_bytes(32, "big")))
                case _:
                    pass

    def reject(self, pick: float) -> int | None:
        """Refuse a request that it has not begun to answer, and return it."""
        if not self.queue:
            return None
        request_id = list(self.queue)[int(pick * len(self.queue))]
        del self.queue[request_id]
        self.refused.add(request_id)
        self.tell(m.Reject(request_id, "missing"))
        return request_id

    # ---- data streams

    def open_lines(self) -> list[DataLine]:
        """Return the streams that it may write on."""
        return [line for line in self.lines if not line.is_closed]

    def coming(self) -> set[int]:
        """Return the request ids that it is answering."""
        return {line.answer.header.request_id for line in self.open_lines() if line.answer and line.answer.header}

    def begin(self, chunk: int, size: float, kind: float) -> None:
        """Begin to answer with a chunk next, if it was asked for that and has a stream to spare."""
        line = next((line for line in self.open_lines() if line.answer is None), None)
        request_id = next((number for number, asked in self.queue.items() if asked == chunk), None)
        if line is not None and request_id is not None:
            del self.queue[request_id]
            # To where it is taken from next.
            self.queue = {request_id: chunk, **self.queue}
            self.write_on(line, size * 0.8, kind)

    def write(self, pick: float, size: float, kind: float) -> None:
        """Go on with a stream, or begin a next answer on it."""
        lines = self.open_lines()
        if not lines:
            return
        self.write_on(lines[int(pick * len(lines))], size, kind)

    def write_on(self, line: DataLine, size: float, kind: float) -> None:
        """Go on with one stream; `size` is how much of it, `kind` what comes next where nothing is under way."""
        if line.answer is None:
            line.answer = self._next_answer(kind)
            if line.answer is None:
                return
        left = len(line.answer.data) - line.at
        if size < 0.1:
            line.write(1 + int(size * 10 * HEADER_BYTES))
        elif size < 0.65:
            line.write(1 + int((size - 0.1) / 0.55 * left))
        else:
            line.write(left)

    def finish(self) -> None:
        """Write what was begun to its end and, if it is honest, all that is owed."""
        for line in self.lines:
            while not line.is_closed and (line.answer is not None or (self.honest and self.queue)):
                before = line.at, len(self.queue), line.answer
                self.write_on(line, 1.0, RIGHT)
                if before == (line.at, len(self.queue), line.answer):
                    return  # the socket is full

    def finished(self, answer: Answer) -> None:
        """Take note that all of an answer has been written."""
        if not answer.kind and answer.header is not None:
            self.whole.add(answer.header.request_id)

    def _next_answer(self, kind: float) -> Answer | None:
        if not self.honest and kind < WRONG:
            wrong = _WRONGS[int(kind / WRONG * len(_WRONGS))]
            if (answer := wrong(self, kind * 1e4 % 1)) is not None:
                return answer
        request_id = self._take(kind * 1e4 % 1)
        return None if request_id is None else self._right(request_id)

    def _take(self, pick: float) -> int | None:
        if not self.queue:
            return None
        request_id = list(self.queue)[int(pick * pick * len(self.queue))]
        del self.queue[request_id]
        self.begun.append(request_id)
        return request_id

    def _right(self, request_id: int, kind: str = "") -> Answer:
        chunk = self.asked[request_id]
        return self._answer(kind, request_id, chunk, self.title.chunk(chunk))

    def _answer(self, kind: str, request_id: int, chunk: int, payload: bytes) -> Answer:
        header = DataHeader(request_id, chunk, len(payload))
        return Answer(kind, header, encode_header(header) + payload)

    # ---- what only a dishonest one does

    def _other_bytes(self, pick: float) -> Answer | None:
        request_id = self._take(pick)
        if request_id is None:
            return None
        chunk = self.asked[request_id]
        return self._answer("other bytes", request_id, chunk, _garbled(self.title.chunk(chunk), pick))

    def _crosswise(self, pick: float) -> Answer | None:
        """Answer with the bytes of another chunk."""
        request_id = self._take(pick)
        if request_id is None:
            return None
        chunk = self.asked[request_id]
        other = self.title.chunk((chunk + 1) % (self.title.manifest.chunk_count - 1))
        payload = (other * 2)[: self.title.manifest.chunk_length(chunk)]
        return self._answer("crosswise", request_id, chunk, payload)

    def _again(self, pick: float) -> Answer | None:
        """Answer a second time, be it what is being answered on another stream right now."""
        if not self.begun:
            return None
        coming = self.coming()
        known = [number for number in self.begun if number in coming] if pick * 10 % 1 < 0.5 else []
        known = known or self.begun
        request_id = known[int(pick * len(known))]
        kind = "interleaved" if request_id in coming else "second"
        if pick * 100 % 1 < 0.4:
            return self._right(request_id, kind)
        chunk = self.asked[request_id]
        return self._answer(kind, request_id, chunk, _garbled(self.title.chunk(chunk), pick))

    def _wrong_chunk(self, pick: float) -> Answer | None:
        request_id = self._take(pick)
        if request_id is None:
            return None
        chunk = (self.asked[request_id] + 1) % self.title.manifest.chunk_count
        return self._answer("wrong chunk", request_id, chunk, self.title.chunk(chunk))

    def _wrong_length(self, pick: float) -> Answer | None:
        request_id = self._take(pick)
        if request_id is None:
            return None
        chunk = self.asked[request_id]
        payload = self.title.chunk(chunk)
        return self._answer("wrong length", request_id, chunk, payload + b"!" if pick < 0.5 else payload[:-1])

    def _after_reject(self, pick: float) -> Answer | None:
        request_id = self.reject(pick)
        if request_id is None:
            return None
        self.begun.append(request_id)
        return self._right(request_id, "after reject")

    def _never_asked(self, pick: float) -> Answer | None:
        if pick > 0.5:
            return None
        chunk = int(pick * self.title.manifest.chunk_count)
        return self._answer("never asked", NEVER_ASKED + chunk, chunk, _garbled(self.title.chunk(chunk), pick))

    def _junk(self, pick: float) -> Answer | None:
        return Answer("junk", None, JUNK + self.title.chunk(0)) if pick < 0.3 else None


_WRONGS: Final = (
    *[Remote._other_bytes] * 6, *[Remote._crosswise] * 2, *[Remote._again] * 5,
    Remote._wrong_chunk, Remote._wrong_length, Remote._after_reject, Remote._never_asked, Remote._junk,
)  # fmt: skip


def _garbled(payload: bytes, pick: float) -> bytes:
    """Return other bytes of that length: all of them, or one."""
    if pick * 1000 % 1 < 0.7:
        return bytes(len(payload))
    at = int(pick * len(payload))
    return payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]


def check_streams(remote: Remote, breaches: Counter[str]) -> list[str]:
    """Return what is wrong with what became of a remote's streams, all of which have been read; count the breaches."""
    wrong: list[str] = []
    used: Counter[int] = Counter()
    claims = [claim for line in remote.lines for claim in line.book.claims]
    shown = Counter(claim.header.request_id for claim in claims)
    for header, refusal in claims:
        chunk = remote.asked.get(header.request_id)
        is_owed = chunk is not None and header.request_id not in remote.refused
        fits = chunk is not None and (chunk, remote.title.manifest.chunk_length(chunk)) == header[1:]
        used[header.request_id] += not refusal
        if not refusal and not (is_owed and fits):
            wrong.append(f"{remote.name}: {header} was accepted, which answers nothing that may come")
        if refusal and is_owed and fits and shown[header.request_id] < 2:
            wrong.append(f"{remote.name}: {header} was refused, which is a first answer: {refusal}")
    for request_id, count in used.items():
        if count > 1:
            wrong.append(f"{remote.name}: {count} answers to request {request_id} were accepted")
    for line in remote.lines:
        wrong += _check_line(line, breaches)
    return wrong


def _check_line(line: DataLine, breaches: Counter[str]) -> list[str]:
    name = line.remote.name
    if line.breach and line.remote.honest:
        return [f"{name}, which is honest, is said to break the rules: {line.reason}"]
    headers = [answer.header for answer in line.sent]
    claimed = [claim.header for claim in line.book.claims]
    wrong = []
    if claimed != [header for header in headers[: len(claimed)] if header is not None]:
        wrong.append(f"{name}: the headers {headers} were sent, and {claimed} taken")
    refused = bool(line.book.claims) and bool(line.book.claims[-1].refusal)
    junk = len(headers) > len(claimed) and headers[len(claimed)] is None
    if line.was_cut:
        return wrong
    if refused or junk:
        kind = line.sent[len(claimed) - refused].kind
        breaches[kind or "first of two"] += 1
        if not line.breach:
            wrong.append(f"{name}: a {kind} answer was no breach, but {line.reason!r}")
    elif len(claimed) < len(headers):
        wrong.append(f"{name}: of the headers {headers} only {claimed} were taken")
    return wrong

