"""What caches say to a cache once they are linked: whole conversations with its engine.

An input is a row of msgpack values. A list is a message, as it stands on the wire, from the cache whose turn it is.
An integer is something that happens (`Dialogue._happen`): time goes by, another cache speaks, a chunk comes, a link
ends. So what is changed by its parts stays a conversation, and gets as far as its subscriptions and requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any, Final

import msgpack

from bench.fuzz.target import Run, Target, check
from bench.fuzz.wire import MESSAGES
from p2pfill.engine.engine import Engine, Faulted
from p2pfill.engine.link import DATA_STREAMS_MAX, Link, OpenStream
from p2pfill.engine.requests import Arrival, Outcome
from p2pfill.engine.task import Commit, GoLive
from p2pfill.errors import RemoteProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.limits import KIB
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import DataHeader
from p2pfill.protocol.framing import OUR_VERSIONS, encode_frame, encode_preamble
from p2pfill.protocol.rules import REQUESTS_MAX, SUBSCRIPTIONS_MAX
from p2pfill.sim.channel import WireChannel, hello_of
from p2pfill.swarm.fill import Fill

CHUNKS: Final = 20
CHUNK: Final = 65536
FILLING: Final = Manifest("t", CHUNK, layout([("f", CHUNKS * CHUNK)]), bytes(16 * CHUNKS), bytes(32 * CHUNKS))
LIVE: Final = Manifest("u", CHUNK, layout([("g", CHUNKS * CHUNK)]), bytes(16 * CHUNKS), bytes(32 * CHUNKS))
ME: Final = NodeInfo(NodeId("a1"), "isp-a", "eu", host="127.0.0.1", port=7400)
OTHERS: Final = (
    NodeInfo(NodeId("b1"), "isp-a", "eu", host="127.0.0.2", port=7400),
    NodeInfo(NodeId("c1"), "isp-b", "eu", host="127.0.0.3", port=7400),
    NodeInfo(NodeId("d1"), "isp-c", "us", host="127.0.0.4", port=7400),
)

STEPS_MAX: Final = 200
"""Values of an input that are looked at."""

POLL, SOON, LATER, NEXT, COMES, WRONG, SENT, ENDS, STREAM_ENDS, BREAKS, HELLO = range(11)
"""What an integer in an input means, in its remainder."""


class _Disk:
    """A title on a disk that takes everything."""

    def __init__(self) -> None:
        self.sealed: set[int] = set()

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[Any]:
        """Return where a chunk lies: nowhere."""
        return iter(())

    def write_lock(self, chunk: int) -> Any:
        """Return what nobody waits for."""
        return nullcontext()

    def is_sealed(self, chunk: int) -> bool:
        """Tell whether a chunk is here."""
        return chunk in self.sealed

    def seal(self, chunk: int) -> None:
        """Note that a chunk is here."""
        self.sealed.add(chunk)

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        """Find every chunk right."""
        return True


class Dialogue:
    """One cache, and those that speak to it."""

    def __init__(self) -> None:
        numbers = iter(range(1 << 62))
        self.now = 100.0
        self.engine = Engine(ME, Random(1), lambda count: next(numbers).to_bytes(count, "big"), nullcontext, 16)
        logic = Fill(FILLING, ME, FillPolicy(), Random(1), self.now, Bitmap(CHUNKS))
        self.engine.begin_fill(self.now, logic, _Disk(), (), OTHERS)
        self.engine.serve(self.now, LIVE.title_id, Bitmap.full(CHUNKS))
        self.turn = 0
        self.links: list[tuple[WireChannel, Link] | None] = [None] * len(OTHERS)
        self.refused = False

    def take(self, value: object, raw: bytes) -> None:
        """Take one value of an input."""
        if isinstance(value, int) and not isinstance(value, bool):
            self._happen(value)
        else:
            self._say(raw)

    def _happen(self, number: int) -> None:
        kind, rest = number % 11, number // 11
        if kind == POLL:
            self.poll()
        elif kind in (SOON, LATER):
            self.now += rest % 1000 * (0.01 if kind == SOON else 10.0)
            self.poll()
        elif kind == NEXT:
            self.turn = rest % len(OTHERS)
        elif kind == HELLO:
            self._say(m.encode_payload(hello_of(OTHERS[self.turn], "boot")))
        elif (opened := self.links[self.turn]) is not None:
            self._befall(kind, rest, *opened)

    def _befall(self, kind: int, rest: int, channel: WireChannel, link: Link) -> None:
        """Have something happen to the link whose turn it is."""
        if kind in (COMES, WRONG):
            self._come(link, rest, Outcome.VERIFIED if kind == COMES else Outcome.CORRUPT)
        elif kind == SENT:
            if (taken := link.uploads.take()) is not None:
                self.engine.sent(self.now, link, taken.request_id)
        elif kind == ENDS:
            self._end(link)
        else:
            self.engine.stream_ended(self.now, link, "it broke off", breach=kind == BREAKS)

    def _say(self, payload: bytes) -> None:
        """Have the cache whose turn it is say something, over a new link where it has none."""
        opened = self.links[self.turn]
        raw = encode_frame(payload)
        if opened is None:
            channel = WireChannel(hello_of(ME, "boot"), lambda: None)
            channel.start()
            opened = self.links[self.turn] = channel, self.engine.open_link(channel, lambda _: None)
            raw = encode_preamble(OUR_VERSIONS) + raw
        channel, link = opened
        try:
            for message in channel.receive([raw]):
                self.engine.handle(self.now, link, message)
        except RemoteProtocolError as error:
            self.refused = True
            self.engine.fail_link(link, error)
            self._end(link)
        channel.outbox.clear()

    def _come(self, link: Link, which: int, outcome: Outcome) -> None:
        waiting = link.book.outstanding()
        if not waiting:
            return
        receive = waiting[which % len(waiting)]
        try:
            claimed = link.book.claim(DataHeader(receive.request_id, receive.chunk, receive.length))
        except RemoteProtocolError:
            return  # it was withdrawn meanwhile
        if claimed is None:
            return
        came, why = claimed.verify(lambda: "" if outcome is Outcome.VERIFIED else "wrong")
        link.book.arrive(Arrival(claimed, came, claimed.length, why))
        self.engine.reap(self.now, link)

    def _end(self, link: Link) -> None:
        self.engine.link_ended(self.now, link)
        self.links[self.turn] = None

    def poll(self) -> None:
        """Let the engine decide, and do at once what it asks for."""
        for effect in self.engine.poll(self.now):
            if isinstance(effect, Faulted):
                raise effect.error
            if isinstance(effect, Commit):
                self.engine.committed(self.now, effect.task, effect.chunks, 0.01)
            elif isinstance(effect, GoLive):
                self.engine.went_live(self.now, effect.task)
            elif isinstance(effect, OpenStream):
                check(len(effect.token) == m.TOKEN_BYTES, "a token of another length", effect.token)
        for opened in self.links:
            if opened is not None:
                self._check(*opened)

    def _check(self, channel: WireChannel, link: Link) -> None:
        check(len(link.book) <= REQUESTS_MAX, "more is asked for than may be", len(link.book))
        check(len(link.uploads) <= 2 * REQUESTS_MAX, "more is to be sent than may be", len(link.uploads))
        check(self.engine.tokens_of(link) <= DATA_STREAMS_MAX, "more tokens than streams may be")
        check(len(link._subscriptions) <= SUBSCRIPTIONS_MAX, "more subscriptions than may be")
        check(len(channel.outbox) < 10_000, "what is to be sent piles up", len(channel.outbox))


def _seeds() -> Iterator[bytes]:
    pack = msgpack.packb
    greeting = pack(HELLO) + pack(POLL)
    holdings = m.encode_payload(m.Holdings(0, True, CHUNKS, b"\xff\xff\x0f"))
    yield (
        greeting
        + holdings
        + pack(SOON + 11 * 500)
        + m.encode_payload(m.StreamGrant(0, bytes(m.TOKEN_BYTES)))
        + pack(POLL)
        + ((pack(COMES) + pack(POLL)) * 10 + pack(WRONG) + (pack(COMES) + pack(POLL)) * 20)
    )
    wants = m.encode_payload(m.Subscribe(0, LIVE.title_id)) + m.encode_payload(m.Interest(0, CHUNKS, b"\xff\0\0"))
    yield (
        greeting
        + wants
        + m.encode_payload(m.StreamOpen(0))
        + b"".join(m.encode_payload(m.Request(0, number, number)) for number in range(CHUNKS))
        + pack(POLL)
        + pack(SENT) * 5
        + m.encode_payload(m.Cancel(7))
        + m.encode_payload(m.Unsubscribe(0))
        + pack(ENDS)
    )
    both = b"".join(
        pack(NEXT + 11 * number)
        + greeting
        + m.encode_payload(m.Subscribe(0, FILLING.title_id))
        + holdings
        + m.encode_payload(m.Fetching(0, (number,)))
        + m.encode_payload(m.Ways(0, number))
        for number in range(3)
    )
    yield (
        both
        + pack(LATER + 11)
        + m.encode_payload(m.ReportSlow(0, "c1"))
        + pack(STREAM_ENDS)
        + pack(BREAKS)
        + pack(LATER)
    )
    yield greeting + b"".join(m.encode_payload(message) + pack(POLL) for message in MESSAGES[2:])
    yield pack(HELLO) * 2
    for reject in (m.Reject(0, "busy"), m.StreamRefuse(0, "no"), m.Have(0, (3,)), m.Pong(1 << 31), m.Ping(1)):
        yield greeting + holdings + pack(SOON + 11 * 500) + m.encode_payload(reject) + pack(LATER + 11)


def open_dialogues(_: Path) -> Run:
    """Whatever linked caches say, in whatever order, ends their own links at most, with `RemoteProtocolError`. The
    engine has no fault of its own, its ledgers are in order at the end, and what it keeps for a link stays within
    the rules of the link.
    """

    def run(data: bytes) -> bool:
        dialogue = Dialogue()
        unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=0)
        unpacker.feed(data)
        start = 0
        for _ in range(STEPS_MAX):
            try:
                value = unpacker.unpack()
            except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
                break
            end = unpacker.tell()
            dialogue.take(value, data[start:end])
            start = end
        dialogue.poll()
        for task in dialogue.engine.tasks.values():
            task.fill.ledger.check()
        return not dialogue.refused

    return run


TARGETS: Final = (
    Target(
        "dialogues",
        open_dialogues,
        _seeds,
        size_max=2 * KIB,
        form="msgpack",
        code=("p2pfill.engine", "p2pfill.protocol"),
    ),
)
