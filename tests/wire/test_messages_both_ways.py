"""p2pfill and the independent implementation read each other's messages and refuse the same ones."""

from __future__ import annotations

import struct
from typing import Any

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protocol.strategies import messages
from wire import independent
from wire.independent import Invalid

from p2pfill.errors import RemoteProtocolError
from p2pfill.protocol import data as streams
from p2pfill.protocol import messages as m
from p2pfill.protocol.framing import OUR_VERSIONS, Deframer, VersionRange, encode_frame, encode_preamble

KINDS = {record.__name__: record for record in m.Message.__args__}


def as_plain(message: m.Message) -> independent.Message:
    fields = msgspec.structs.asdict(message)
    if "chunks" in fields:
        fields["chunks"] = list(fields["chunks"])
    return independent.Message(type(message).__name__, fields)


def verdicts(payload: bytes) -> tuple[object, object]:
    """What each makes of a payload; None for one that it refuses."""
    theirs: object
    ours: object
    try:
        theirs = independent.decode_message(payload)
    except Invalid:
        theirs = None
    try:
        ours = as_plain(m.decode_payload(payload))
    except RemoteProtocolError:
        ours = None
    return ours, theirs


def test_both_know_the_same_messages() -> None:
    known = {(kind.__struct_config__.tag, name, kind.__struct_fields__) for name, kind in KINDS.items()}
    assert known == {
        (tag, name, tuple(field for field, _, _ in fields)) for tag, (name, fields) in independent.MESSAGES.items()
    }


@settings(deadline=None)
@given(st.lists(messages, max_size=5))
def test_what_p2pfill_sends_is_read(sent: list[m.Message]) -> None:
    stream = encode_preamble(OUR_VERSIONS) + b"".join(encode_frame(m.encode_payload(message)) for message in sent)
    assert independent.decode_connection(stream) == ((2, 2), [as_plain(message) for message in sent])


def widest(value: Any) -> bytes:
    """The longest form that msgpack has for each value: arrays are given a short header only outside."""
    if isinstance(value, bool) or value is None:
        return bytes(msgpack.packb(value))
    if isinstance(value, int):
        return b"\xcf" + value.to_bytes(8, "big")
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"\xdb" + len(value.encode()).to_bytes(4, "big") + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + len(value).to_bytes(4, "big") + value
    return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(widest, value))


def widest_payload(values: list[Any]) -> bytes:
    return bytes([0x90 + len(values), values[0]]) + b"".join(map(widest, values[1:]))


@settings(deadline=None)
@given(st.lists(messages, min_size=1, max_size=5), st.booleans())
def test_what_the_other_sends_is_read(sent: list[m.Message], wide: bool) -> None:
    pack = widest_payload if wide else msgpack.packb
    stream = independent.encode_preamble(1, 3)
    for message in sent:
        stream += independent.encode_frame(independent.encode_message(as_plain(message), pack=pack))
    deframer = Deframer()
    deframer.feed(stream)
    assert deframer.poll_preamble() == VersionRange(1, 3)
    assert [m.decode_payload(frame) for frame in deframer.poll_frames()] == sent
    assert not deframer.pending_bytes


@settings(deadline=None)
@given(messages, st.integers(1, 9))
def test_fields_left_out(message: m.Message, exclude: int) -> None:
    plain = as_plain(message)
    exclude = min(exclude, len(plain.fields))
    ours, theirs = verdicts(independent.encode_message(plain, exclude))
    assert ours == theirs
    defaults = [default for _, _, default in independent.MESSAGES[independent.TAGS[plain.name]][1]]
    assert (ours is None) == (independent.REQUIRED in defaults[len(defaults) - exclude :])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.integers(0, 300)
    | st.floats()
    | st.floats(width=32)
    | st.text(max_size=80)
    | st.binary(max_size=40)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
    | st.builds(msgpack.Timestamp, st.integers(0, 1 << 40), st.integers(0, 999_999_999)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=400)
@given(messages, st.data())
def test_a_field_of_another_kind(message: m.Message, data: st.DataObject) -> None:
    """Text for bytes, a float for a number, a map, an extension, a timestamp: both take it, or neither."""
    plain = as_plain(message)
    field = data.draw(st.sampled_from(sorted(plain.fields)))
    plain.fields[field] = data.draw(values)
    ours, theirs = verdicts(independent.encode_message(plain))
    assert ours == theirs


@settings(deadline=None, max_examples=400)
@given(messages, st.data())
def test_a_byte_changed(message: m.Message, data: st.DataObject) -> None:
    payload = bytearray(m.encode_payload(message))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, min(40, len(payload)) - 1))] = data.draw(st.integers(0, 255))
    ours, theirs = verdicts(bytes(payload))
    assert ours == theirs


@settings(deadline=None)
@given(messages, st.binary(min_size=1, max_size=3), st.integers(1, 5))
def test_bytes_after_and_bytes_missing(message: m.Message, after: bytes, missing: int) -> None:
    payload = m.encode_payload(message)
    assert verdicts(payload + after) == (None, None)
    assert verdicts(payload[: max(0, len(payload) - missing)]) == (None, None)


HOSTILE = {
    "deep nesting": b"\x93\x04\x01" + b"\x91" * 3000,
    "deep nesting of wide arrays": b"\x93\x04\x01" + b"\xdd\x00\x00\x10\x00" * 700,
    "deep maps": b"\x93\x04\x01" + b"\x81\x01" * 1000,
    "array of 4 billion": b"\x93\x04\x01\xdd\xff\xff\xff\xff",
    "text of 4 billion": b"\x93\x09\x01\xdb\xff\xff\xff\xffmissing",
    "bytes of 4 billion": b"\x95\x03\x01\xc3\x08\xc6\xff\xff\xff\xff\x01",
    "map of 4 billion": b"\x93\x04\x01\xdf\xff\xff\xff\xff",
    "extension of 4 billion": b"\x92\x06\xc9\xff\xff\xff\xff\x05",
    "extension type": b"\x92\x06\xd4\x05\x01",
    "extension without data": b"\x92\x06\xc7\x00\x05",
    "extension without data for an array": b"\x93\x04\x01\xc7\x00\x05",
    "timestamp": b"\x92\x06\xd6\xff\x00\x00\x00\x01",
    "timestamp of no length": b"\x92\x06\xc7\x00\xff",
    "duplicate keys": b"\x92\x06\x82\x01\x01\x01\x02",
    "a map for the array": b"\x81\x06\x01",
    "a value that msgpack never uses": b"\x92\x06\xc1",
    "trailing byte": b"\x92\x06\x01\x00",
    "a second message": b"\x92\x06\x01\x92\x06\x01",
    "whole float for a number": b"\x92\x06\xcb" + struct.pack(">d", 1.0),
    "short float for a number": b"\x92\x06\xca" + struct.pack(">f", 1.0),
    "true for a number": b"\x92\x06\xc3",
    "number for a bool": b"\x93\x03\x01\x01",
    "nil for a default": b"\x93\x10\x00\xc0",
    "negative": b"\x92\x06\xff",
    "a number in a signed form": b"\x92\x06\xd3" + bytes(7) + b"\x01",
    "text for bytes": b"\x93\x0b\x01\xb00123456789abcdef",
    "base64 for bytes": b"\x93\x0b\x01\xb8" + b"AAAAAAAAAAAAAAAAAAAAAA==",
    "bytes for text": b"\x93\x10\x00\xc4\x04done",
    "text that is no UTF-8": b"\x93\x10\x00\xa1\xff",
    "an encoded surrogate": b"\x93\x10\x00\xa3\xed\xa0\x80",
    "an overlong slash": b"\x93\x10\x00\xa2\xc0\xaf",
    "a zero byte in a text": b"\x93\x10\x00\xa1\x00",
    "a weight that is no number": b"\x98\x01\xa1n\xa1i\xa1r\xa0\xa0\x00\xcb\x7f\xf8" + bytes(6),
    "an endless weight": b"\x98\x01\xa1n\xa1i\xa1r\xa0\xa0\x00\xcb\x7f\xf0" + bytes(6),
    "a whole number as weight": b"\x98\x01\xa1n\xa1i\xa1r\xa0\xa0\x00\x02",
    "tag as a wide integer": b"\x92\xcc\x06\x01",
    "header as a wide array": b"\xdc\x00\x02\x06\x01",
    "an empty array": b"\x90\x06",
}
ALLOWED = {"a number in a signed form", "a whole number as weight"}
"""Any width of integer is good, and an integer is a number."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_payloads(name: str) -> None:
    ours, theirs = verdicts(HOSTILE[name])
    assert ours == theirs
    assert (ours is None) == (name not in ALLOWED)


@settings(deadline=None)
@given(st.binary(max_size=60))
@example(b"\x91\x01")
def test_any_bytes(rest: bytes) -> None:
    for payload in (rest, *(bytes([0x90 + size, tag]) + rest for tag in range(1, 18) for size in range(2, 6))):
        ours, theirs = verdicts(payload)
        assert ours == theirs


@given(st.binary(min_size=32, max_size=32))
def test_prefaces(token: bytes) -> None:
    assert independent.decode_preface(streams.encode_preface(token)) == token
    assert streams.decode_preface(independent.encode_preface(token)) == streams.Preface(2, token, False)


@given(st.integers(0, m.U32_MAX), st.integers(0, (1 << 21) - 1), st.integers(1, 1 << 26), st.data())
def test_headers(request_id: int, chunk: int, length: int, data: st.DataObject) -> None:
    header = streams.DataHeader(request_id, chunk, length)
    raw = bytearray(streams.encode_header(header))
    assert independent.decode_header(bytes(raw)) == tuple(header)
    assert independent.encode_header(*header) == raw
    raw[data.draw(st.integers(0, 15))] = data.draw(st.integers(0, 255))
    try:
        theirs = independent.decode_header(bytes(raw))
    except Invalid:
        with pytest.raises(RemoteProtocolError):
            streams.decode_header(raw)
    else:
        assert streams.decode_header(raw) == theirs
