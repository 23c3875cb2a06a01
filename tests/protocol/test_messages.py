"""Codec of control messages: inverse to itself, strict, and never surprised by a hostile payload."""

from __future__ import annotations

import contextlib

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol.strategies import messages

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.model.limits import CHUNK_COUNT_MAX, FRAME_BYTES_MAX
from p2pfill.protocol import messages as m

TITLE = b"t" * 32


@settings(deadline=None)
@given(messages)
def test_roundtrip(message: m.Message) -> None:
    assert m.decode_payload(m.encode_payload(message)) == message


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_only_remote_errors(payload: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        m.decode_payload(payload)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(values, max_size=11), st.integers(0, 18))
def test_arbitrary_msgpack_raises_only_remote_errors(fields: list[object], tag: int) -> None:
    try:
        message = m.decode_payload(msgpack.packb([tag, *fields]))
    except RemoteProtocolError:
        return
    # Whatever is let in could also have been sent.
    m.encode_payload(message)


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        None,
        5,
        [0],
        [17, 1],
        ["1"],
        [6],
        [6, -1],
        [6, 1 << 32],
        [6, True],
        [6, "1"],
        [6, 1, 2],
        [2, 1, b"short"],
        [2, 1, "t" * 32],
        [4, 1, []],
        [4, 1, [CHUNK_COUNT_MAX]],
        [4, 1, list(range(m.CHUNKS_PER_MESSAGE_MAX + 1))],
        [9, 1, "Not A Code"],
        [9, 1, ""],
        [16, 0, "x" * 201],
        [16, 0, "line\nbreak"],
        [16, 0, "newline\n"],
        [16, 256, ""],
        [1, "node", "i", "r", "", "", 0, 0.0],
        [1, "node", "i", "r", "", "", 0, float("nan")],
        [1, "node", "i", "r", "", "", 0, float("inf")],
        [1, "node\n", "i", "r"],
        [1, "../etc", "i", "r"],
        [1, "n" * 65, "i", "r"],
        [1, "node", "i", "r", "", "a b"],
        [11, 1, "t" * 16],
        msgpack.ExtType(4, b"1234"),
        [14, msgpack.Timestamp(1, 1)],
    ],
)
def test_refused(raw: object) -> None:
    with pytest.raises(RemoteProtocolError, match="frame of"):
        m.decode_payload(msgpack.packb(raw))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x92\x0e" + b"\x91" * 2000,
        b"\x92\x0e\xdd\xff\xff\xff\xff",
        b"\x92\x0e" + b"\xdc\x10\x00" * 600,
        b"\x92\x0e\xc1",
        b"\x92\x06\x01\x00",
        b"\x92\x06",
        b"\x92\x0e\xdb\xff\xff\xff\xff",
        b"\x93\x10\x00\xa1\xff",
    ],
)
def test_broken_msgpack_is_refused(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"not a (known|valid msgpack) message"):
        m.decode_payload(payload)


@pytest.mark.parametrize(
    "payload", [b"", b"\x92", b"\xdc\x00\x02\x0e\x01", b"\x92\x00\x01", b"\x92\x13\x01", b"\x80\x01"]
)
def test_wrong_outside_is_refused_before_it_is_unpacked(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not a short array"):
        m.decode_payload(payload)


def test_too_long_for_its_tag() -> None:
    deep = msgpack.packb([14, [[] for _ in range(4096)]])
    with pytest.raises(RemoteProtocolError, match="too long for tag 14"):
        m.decode_payload(deep)


def test_widest_integers_and_longest_texts_are_let_in() -> None:
    wide = b"\x93\x04\x03\xdc\x10\x00" + (b"\xcf" + (7).to_bytes(8, "big")) * m.CHUNKS_PER_MESSAGE_MAX
    assert m.decode_payload(wide) == m.Have(3, (7,) * m.CHUNKS_PER_MESSAGE_MAX)
    label = "\U0001f642" * m.LABEL_CHARS_MAX
    hello = m.Hello("n" * 64, label, label, label, "h" * 253, 65535, 1e6, label, label)
    assert m.decode_payload(m.encode_payload(hello)) == hello


@pytest.mark.parametrize(
    "message",
    [
        m.Subscribe(1, b"short"),
        m.Have(1, ()),
        m.Have(1, (-1,)),
        m.Ping(1 << 32),
        m.Ping(1 << 70),
        m.Goodbye(0, "\ud800"),
        m.Hello("n", "i", "r", weight=float("nan")),
        m.StreamGrant(1, "0123456789abcdef" * 2),  # type: ignore[arg-type]
    ],
)
def test_unsendable(message: m.Message) -> None:
    with pytest.raises(LocalProtocolError, match="cannot send this"):
        m.encode_payload(message)


def test_largest_messages_fit_a_frame() -> None:
    for message in (
        m.Holdings(m.U32_MAX, True, CHUNK_COUNT_MAX, bytes(m.BITMAP_BYTES_MAX)),
        m.Have(m.U32_MAX, (CHUNK_COUNT_MAX - 1,) * m.CHUNKS_PER_MESSAGE_MAX),
        m.Goodbye(255, "\U0001f642" * m.REASON_CHARS_MAX),
    ):
        payload = m.encode_payload(message)
        assert len(payload) <= FRAME_BYTES_MAX
        assert m.decode_payload(payload) == message


def test_batches() -> None:
    parts = list(m.batches(list(range(10_000))))
    assert [len(part) for part in parts] == [4096, 4096, 1808]
    assert [k for part in parts for k in part] == list(range(10_000))
    assert not list(m.batches([]))


def test_golden_bytes() -> None:
    """Bytes that docs/protocol.md shows: a change here is a change of the wire."""
    assert m.encode_payload(m.Request(3, 17, 300)).hex() == "94070311cd012c"
    assert m.encode_payload(m.Have(3, (5, 6))).hex() == "930403920506"
    assert m.encode_payload(m.Subscribe(1, TITLE)).hex() == "930201c420" + TITLE.hex()
    assert m.encode_payload(m.Goodbye(0, "done")).hex() == "931000a4646f6e65"
