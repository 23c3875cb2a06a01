"""Two real control links joined in memory, one against a hostile peer."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.strategies import messages

from p2pfill.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from p2pfill.protocol import messages as m
from p2pfill.protocol.framing import VersionRange, encode_frame
from p2pfill.protocol.link import TRANSITIONS, ControlLink, LinkEvent, LinkState
from p2pfill.protocol.rules import LinkLimits, Side

TITLE = b"t" * 32


def hello(name: str) -> m.Hello:
    return m.Hello(name, "isp-a", "eu", "site1", "10.0.0.1", 7000, 2.0, "test/1", "boot")


class Pair:
    """Two links whose outputs are carried to each other on demand, `piece` bytes at a time."""

    def __init__(self, piece: int = 1 << 20, limits: LinkLimits | None = None) -> None:
        limits = limits or LinkLimits()
        self.a = ControlLink(hello("a"), limits=limits)
        self.b = ControlLink(hello("b"), limits=limits)
        self.piece = piece

    def carry(self, source: ControlLink, target: ControlLink) -> list[m.Message]:
        data = source.poll_output()
        received: list[m.Message] = []
        for start in range(0, len(data), self.piece):
            received += target.handle_bytes(data[start : start + self.piece])
        return received

    def to_b(self) -> list[m.Message]:
        return self.carry(self.a, self.b)

    def to_a(self) -> list[m.Message]:
        return self.carry(self.b, self.a)

    def open(self) -> Pair:
        self.a.start()
        self.b.start()
        assert self.to_b() == [self.a.hello]
        assert self.to_a() == [self.b.hello]
        return self

    def wanted(self, chunk_count: int = 12) -> Pair:
        """`a` wants a title as handle 3, of which `b` has no chunk yet."""
        self.open()
        self.a.send(m.Subscribe(3, TITLE))
        self.to_b()
        self.b.send(m.Holdings(3, True, chunk_count, bytes((chunk_count + 7) // 8)))
        self.to_a()
        return self


def test_handshake() -> None:
    pair = Pair(piece=1)
    with pytest.raises(LocalProtocolError, match="start"):
        pair.a.handle_bytes(b"x")
    with pytest.raises(LocalProtocolError, match="state START"):
        pair.a.send(m.Ping(1))
    pair.a.start()
    with pytest.raises(LocalProtocolError, match="state HANDSHAKE"):
        pair.a.start()
    with pytest.raises(LocalProtocolError, match="state HANDSHAKE"):
        pair.a.send(m.Ping(1))
    pair.b.start()
    assert pair.to_b() == [hello("a")]
    assert pair.to_a() == [hello("b")]
    assert pair.a.state is pair.b.state is LinkState.OPEN
    assert pair.a.version == 2
    assert pair.b.remote_hello == hello("a")
    with pytest.raises(LocalProtocolError, match="once"):
        pair.a.send(hello("a"))


def test_a_fill() -> None:
    pair = Pair(piece=3).wanted()
    pair.b.send(m.Fetching(3, (1, 2)))
    pair.b.send(m.Have(3, (1, 11)))
    pair.b.send(m.ReportSlow(3, "b7"))
    assert pair.to_a() == [m.Fetching(3, (1, 2)), m.Have(3, (1, 11)), m.ReportSlow(3, "b7")]
    pair.a.send(m.StreamOpen(1))
    pair.a.send(m.StreamOpen(2))
    pair.to_b()
    pair.b.send(m.StreamGrant(1, b"k" * 32))
    pair.b.send(m.StreamRefuse(2, "full"))
    assert pair.to_a() == [m.StreamGrant(1, b"k" * 32), m.StreamRefuse(2, "full")]
    for request_id in range(4):
        pair.a.send(m.Request(3, request_id, request_id))
    pair.a.send(m.Cancel(3))
    assert len(pair.to_b()) == 5
    assert pair.b.finish_request(Side.REMOTE, 0)
    pair.b.send(m.Reject(1, "missing"))
    assert pair.to_a() == [m.Reject(1, "missing")]
    assert pair.a.finish_request(Side.LOCAL, 0)
    assert not pair.a.finish_request(Side.LOCAL, 0)
    assert pair.a.requests(Side.LOCAL) == pair.b.requests(Side.REMOTE) == {2: 3}
    assert pair.a.is_request_live(Side.LOCAL, 2)
    pair.a.send(m.Unsubscribe(3))
    pair.to_b()
    assert not pair.b.requests(Side.REMOTE)
    assert not pair.b.wants(Side.REMOTE)
    pair.a.send(m.Goodbye(m.GoodbyeCode.NORMAL, "done"))
    with pytest.raises(LocalProtocolError, match="CLOSING"):
        pair.a.send(m.Ping(1))
    assert pair.to_b() == [m.Goodbye(0, "done")]
    assert pair.b.state is LinkState.CLOSED
    assert pair.b.remote_goodbye == m.Goodbye(0, "done")
    pair.b.handle_eof()
    pair.a.handle_eof()
    assert pair.a.state is LinkState.CLOSED


def test_messages_that_crossed_are_dropped() -> None:
    pair = Pair().wanted()
    pair.a.send(m.Request(3, 1, 0))
    pair.a.send(m.Request(3, 2, 1))
    pair.to_b()
    pair.b.send(m.Have(3, (4,)))
    pair.b.send(m.Holdings(3, True, 12, bytes(2)))
    pair.b.send(m.Reject(1, "busy"))
    pair.b.finish_request(Side.REMOTE, 2)
    pair.a.send(m.Cancel(1))
    pair.a.send(m.Cancel(2))
    pair.a.send(m.Unsubscribe(3))
    assert pair.to_a() == []
    assert pair.to_b() == [m.Unsubscribe(3)]
    for late in (m.Have(3, (4,)), m.Reject(1, "busy")):
        assert not pair.b.send(late)
    assert (pair.b.dropped, pair.b.output_bytes) == (2, 0)


def test_what_is_said_of_something_that_is_over_is_dropped_and_counted() -> None:
    pair = Pair().wanted()
    pair.a.send(m.StreamOpen(0))
    pair.to_b()
    pair.b.send(m.StreamRefuse(0))
    pair.a.send(m.Unsubscribe(3))
    pair.a.send(m.Ping(1))
    over = [m.Unsubscribe(3), m.Interest(3, 12, bytes(2)), m.Request(3, 0, 1)]
    assert [pair.a.send(message) for message in over] == [False] * 3
    assert [pair.b.send(message) for message in (m.StreamGrant(0, b"k" * 32), m.StreamRefuse(0))] == [False] * 2
    assert (pair.a.dropped, pair.b.dropped) == (3, 2)
    assert pair.to_b() == [m.Unsubscribe(3), m.Ping(1)]


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_each_message_is_judged_after_the_one_before_was_answered(piece: int) -> None:
    """Interest and the end of its handle in one segment: what answers the first is about something that is open."""
    pair = Pair(piece).wanted()
    pair.a.send(m.Interest(3, 12, bytes(2)))
    pair.a.send(m.Request(3, 0, 1))
    pair.a.send(m.Unsubscribe(3))
    answered = []
    for message in pair.b.handle_bytes(pair.a.poll_output()):
        if isinstance(message, m.Interest):
            answered += [pair.b.send(m.Fetching(3, (1,))), pair.b.send(m.Holdings(3, True, 12, bytes(2)))]
        elif isinstance(message, m.Request):
            answered.append(pair.b.send(m.Reject(0, "missing")))
        else:
            answered.append(pair.b.send(m.Have(3, (1,))))
    assert answered == [True, True, True, False]
    assert pair.to_a() == []


def test_what_was_not_iterated_over_stays_for_the_next_call() -> None:
    pair = Pair().wanted()
    pair.a.send(m.Ping(1))
    pair.a.send(m.Unsubscribe(3))
    messages = pair.b.handle_bytes(pair.a.poll_output())
    assert next(messages) == m.Ping(1)
    assert list(pair.b.handle_bytes(b"")) == [m.Unsubscribe(3)]


def test_request_survives_holdings_going_away() -> None:
    pair = Pair().wanted()
    pair.b.send(m.Holdings(3, False))
    pair.a.send(m.Request(3, 1, 11))
    assert pair.to_b() == [m.Request(3, 1, 11)]
    assert pair.to_a() == [m.Holdings(3, False)]


ILLEGAL_FROM_B: list[m.Message] = [
    m.Have(4, (1,)),
    m.Have(3, (12,)),
    m.Fetching(3, (1, 12)),
    m.ReportSlow(4, "b7"),
    m.Holdings(4, False),
    m.Holdings(3, True, 13, bytes(2)),
    m.Holdings(3, True, 12, bytes(3)),
    m.Holdings(3, True, 12, b"\0\x10"),
    m.Holdings(3, False, 12, bytes(2)),
    m.Reject(9, "busy"),
    m.Cancel(9),
    m.Unsubscribe(3),
    m.Interest(3, 12, bytes(2)),
    m.Ways(4, 4),
    m.Request(3, 1, 0),
    m.StreamGrant(1, b"k" * 32),
    m.StreamRefuse(1),
    m.Pong(1),
]


@pytest.mark.parametrize("message", ILLEGAL_FROM_B, ids=repr)
def test_both_sides_obey_the_same_rules(message: m.Message) -> None:
    pair = Pair().wanted()
    with pytest.raises(LocalProtocolError, match=type(message).__name__):
        pair.b.send(message)
    assert pair.b.output_bytes == 0
    assert pair.b.state is LinkState.OPEN
    with pytest.raises(RemoteProtocolError, match=type(message).__name__):
        list(pair.a.handle_bytes(encode_frame(m.encode_payload(message))))
    assert pair.a.state is LinkState.CLOSING
    (goodbye,) = pair.to_b()
    assert isinstance(goodbye, m.Goodbye)
    assert goodbye.code == m.GoodbyeCode.PROTOCOL_ERROR
    assert type(message).__name__ in goodbye.reason
    # The failed link is deaf, and its end is no surprise.
    assert list(pair.a.handle_bytes(b"\xff" * 50)) == []
    pair.a.handle_eof()


def test_interest_must_fit_what_was_announced() -> None:
    pair = Pair().wanted()
    pair.a.send(m.Interest(3, 12, b"\xff\x0f"))
    assert pair.to_b() == [m.Interest(3, 12, b"\xff\x0f")]
    for wrong in (m.Interest(3, 13, bytes(2)), m.Interest(3, 12, b"\0\x10"), m.Interest(3, 12, b"\0")):
        with pytest.raises(LocalProtocolError, match="interest of handle 3"):
            pair.a.send(wrong)


def test_ids_must_grow() -> None:
    pair = Pair().wanted()
    pair.a.send(m.Request(3, 5, 0))
    pair.a.send(m.Ping(7))
    pair.a.send(m.StreamOpen(7))
    for again in (m.Subscribe(3, TITLE), m.Subscribe(2, TITLE), m.Request(3, 5, 1), m.Ping(7), m.StreamOpen(7)):
        with pytest.raises(LocalProtocolError):
            pair.a.send(again)
    pair.to_b()
    pair.b.send(m.Pong(7))
    pair.to_a()
    pair.a.send(m.Ping(7))


def test_next_ids() -> None:
    pair = Pair().wanted()
    assert (pair.a.next_handle(), pair.a.next_request_id(), pair.a.next_stream_id()) == (4, 0, 0)
    pair.a.send(m.Request(3, pair.a.next_request_id(), 0))
    pair.a.send(m.StreamOpen(8))
    assert (pair.a.next_handle(), pair.a.next_request_id(), pair.a.next_stream_id()) == (4, 1, 9)
    pair.a.send(m.Request(3, m.U32_MAX, 0))
    with pytest.raises(LocalProtocolError, match="cannot send this Request"):
        pair.a.send(m.Request(3, pair.a.next_request_id(), 0))
    assert pair.a.requests(Side.LOCAL) == {0: 3, m.U32_MAX: 3}


def test_the_table_only_ever_leads_towards_closed() -> None:
    order = list(LinkState)
    for (state, _), target in TRANSITIONS.items():
        assert order.index(target) >= order.index(state)
    for state in order:
        assert TRANSITIONS[state, LinkEvent.RECEIVE_EOF] is LinkState.CLOSED
    assert {target for (_, _), target in TRANSITIONS.items()} == set(order[1:])


def test_limits_hold_on_both_sides() -> None:
    pair = Pair(limits=LinkLimits(2, 2, 1, 2, 2)).wanted()
    pair.a.send(m.Subscribe(4, TITLE))
    pair.a.send(m.Request(3, 1, 0))
    pair.a.send(m.Request(3, 2, 0))
    for nonce in (1, 2):
        pair.a.send(m.Ping(nonce))
        pair.a.send(m.StreamOpen(nonce))
    for many in (m.Subscribe(5, TITLE), m.Request(3, 3, 0), m.Ping(3), m.StreamOpen(3)):
        with pytest.raises(LocalProtocolError):
            pair.a.send(many)
    pair.to_b()
    # The asked side tolerates what it may not have seen the end of, and no more.
    assert list(pair.b.handle_bytes(encode_frame(m.encode_payload(m.Request(3, 3, 0))))) == [m.Request(3, 3, 0)]
    with pytest.raises(RemoteProtocolError, match="one too many"):
        list(pair.b.handle_bytes(encode_frame(m.encode_payload(m.Request(3, 4, 0)))))


CERTIFICATE = b"c" * 32


def test_a_stream_that_must_be_encrypted_is_granted_as_such_or_not_at_all() -> None:
    pair = Pair().open()
    for number in range(3):
        pair.a.send(m.StreamOpen(number, True, CERTIFICATE))
    pair.a.send(m.StreamOpen(3, False, CERTIFICATE))
    pair.to_b()
    with pytest.raises(LocalProtocolError, match="must be encrypted, and is granted as one that is not"):
        pair.b.send(m.StreamGrant(0, b"k" * 32))
    said = [m.StreamGrant(0, b"k" * 32, CERTIFICATE), m.StreamRefuse(1), m.StreamGrant(3, b"k" * 32)]
    for message in said:
        pair.b.send(message)
    assert pair.to_a() == said
    with pytest.raises(RemoteProtocolError, match="must be encrypted, and is granted as one that is not"):
        list(pair.a.handle_bytes(encode_frame(m.encode_payload(m.StreamGrant(2, b"k" * 32)))))


def test_who_asks_for_encryption_names_a_certificate() -> None:
    pair = Pair().open()
    with pytest.raises(LocalProtocolError, match="has no certificate"):
        pair.a.send(m.StreamOpen(0, True))
    with pytest.raises(RemoteProtocolError, match="has no certificate"):
        list(pair.b.handle_bytes(encode_frame(m.encode_payload(m.StreamOpen(0, True)))))
    for length in (1, 16, 31, 33):
        with pytest.raises(ValueError, match="certificate has"):
            m.StreamOpen(0, True, bytes(length))
        with pytest.raises(RemoteProtocolError, match=r"certificate has|length <= 32"):
            m.decode_payload(msgspec.msgpack.encode([10, 0, True, bytes(length)]))


def test_no_common_version_is_told_to_both() -> None:
    old, new = ControlLink(hello("old"), versions=VersionRange(1, 1)), ControlLink(hello("new"))
    old.start()
    new.start()
    with pytest.raises(RemoteProtocolError, match="local speaks 1 to 1, remote 2 to 2; upgrade the local node"):
        list(old.handle_bytes(new.poll_output()))
    with pytest.raises(RemoteProtocolError, match="local speaks 2 to 2, remote 1 to 1; upgrade the remote node"):
        list(new.handle_bytes(old.poll_output()))
    assert old.state is new.state is LinkState.CLOSING


def test_message_before_hello_and_second_hello() -> None:
    ping = encode_frame(m.encode_payload(m.Ping(1)))
    greeting = encode_frame(m.encode_payload(hello("x")))
    for frames in (ping, greeting + greeting):
        link = ControlLink(hello("a"))
        link.start()
        with pytest.raises(RemoteProtocolError, match="in state"):
            list(link.handle_bytes(b"P2FC\x02\x02" + frames))


def test_eof() -> None:
    pair = Pair().open()
    pair.b.handle_bytes(b"\0\0")
    with pytest.raises(RemoteProtocolError, match="without a Goodbye in state OPEN, 2 bytes into a frame"):
        pair.b.handle_eof()
    assert pair.b.state is LinkState.CLOSED
    with pytest.raises(LocalProtocolError):
        pair.b.send(m.Goodbye(0))


def test_bytes_after_goodbye_are_ignored() -> None:
    pair = Pair().open()
    pair.a.send(m.Goodbye(3))
    assert list(pair.b.handle_bytes(pair.a.poll_output() + b"\xff" * 9)) == [m.Goodbye(3)]


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes(data: bytes, preambled: bool) -> None:
    link = ControlLink(hello("a"))
    link.start()
    link.poll_output()
    try:
        list(link.handle_bytes(b"P2FC\x01\x01" * preambled + data))
    except RemoteProtocolError:
        assert link.state is LinkState.CLOSING
        assert link.output_bytes > 0


@settings(deadline=None)
@given(st.lists(messages, max_size=20))
def test_arbitrary_messages_raise_only_protocol_errors(batch: list[m.Message]) -> None:
    pair = Pair().wanted()
    for message in batch:
        with contextlib.suppress(ProtocolError):
            list(pair.a.handle_bytes(encode_frame(m.encode_payload(message))))
        with contextlib.suppress(LocalProtocolError):
            pair.a.send(message)


small = st.integers(0, 5)
plausible = st.one_of(
    st.builds(m.Subscribe, small, st.just(TITLE)),
    st.builds(m.Unsubscribe, small),
    st.builds(m.Holdings, small, st.just(True), st.just(4), st.just(b"\x03")),
    st.builds(m.Holdings, small, st.just(False)),
    st.builds(m.Have, small, st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)),
    st.builds(m.Fetching, small, st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)),
    st.builds(m.Interest, small, st.just(4), st.just(b"\x05")),
    st.builds(m.Ways, small, st.integers(0, 7)),
    st.builds(m.Request, small, small, st.integers(0, 4)),
    st.builds(m.Cancel, small),
    st.builds(m.Reject, small, st.just("busy")),
    st.builds(m.StreamOpen, small),
    st.builds(m.StreamGrant, small, st.just(b"k" * 32)),
    st.builds(m.StreamRefuse, small),
    st.builds(m.Ping, small),
    st.builds(m.Pong, small),
    st.integers(0, 5),
    st.none(),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), plausible), max_size=60), st.integers(1, 9))
def test_what_one_link_may_send_the_other_accepts(
    steps: list[tuple[bool, m.Message | int | None]], piece: int
) -> None:
    """However the two directions interleave, two correct links never find fault with each other."""
    pair = Pair(piece=piece, limits=LinkLimits(3, 3, 3, 2, 2)).open()
    for from_a, step in steps:
        link, other = (pair.a, pair.b) if from_a else (pair.b, pair.a)
        if step is None:
            pair.carry(link, other)
        elif isinstance(step, int):
            # The payload went over: the asked side ends the request first, then the asker.
            if other.finish_request(Side.REMOTE, step):
                link.finish_request(Side.LOCAL, step)
        else:
            with contextlib.suppress(LocalProtocolError):
                link.send(step)
    pair.to_b()
    pair.to_a()
    assert pair.a.wants(Side.LOCAL).keys() == pair.b.wants(Side.REMOTE).keys()
    assert pair.b.wants(Side.LOCAL).keys() == pair.a.wants(Side.REMOTE).keys()
