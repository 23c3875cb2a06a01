"""Data streams: preface, headers and tokens."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.model.limits import CHUNK_COUNT_MAX, CHUNK_SIZE_MAX
from p2pfill.protocol.data import (
    HEADER_BYTES,
    PREFACE_BYTES,
    DataHeader,
    check_header,
    decode_header,
    decode_preface,
    encode_header,
    encode_preface,
)
from p2pfill.protocol.tokens import TokenRegistry

TOKEN = bytes(range(32))
headers = st.builds(
    DataHeader, st.integers(0, (1 << 32) - 1), st.integers(0, CHUNK_COUNT_MAX - 1), st.integers(1, CHUNK_SIZE_MAX)
)


@settings(deadline=None)
@given(headers)
def test_header_roundtrip(header: DataHeader) -> None:
    data = encode_header(header)
    assert len(data) == HEADER_BYTES
    assert decode_header(data) == header


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_arbitrary_bytes(data: bytes) -> None:
    for decode in (decode_header, decode_preface):
        with contextlib.suppress(RemoteProtocolError):
            decode(data)


def test_golden_bytes() -> None:
    assert encode_preface(TOKEN).hex() == "50324644" "02" "000000" + TOKEN.hex()
    assert encode_header(DataHeader(17, 300, 1 << 20)).hex() == "01" "00" "0000" "00000011" "0000012c" "00100000"


def test_preface() -> None:
    good = encode_preface(TOKEN)
    assert len(good) == PREFACE_BYTES
    assert decode_preface(memoryview(good)) == (2, TOKEN, False)
    for index, value in ((0, 0), (4, 0), (4, 1), (4, 3), (5, 1), (7, 1)):
        bad = bytearray(good)
        bad[index] = value
        with pytest.raises(RemoteProtocolError):
            decode_preface(bad)
    encrypted = encode_preface(TOKEN, encrypted=True)
    assert encrypted.hex() == "50324645" "02" "000000" + TOKEN.hex()
    assert decode_preface(encrypted) == (2, TOKEN, True)
    with pytest.raises(LocalProtocolError):
        encode_preface(b"short")
    with pytest.raises(LocalProtocolError):
        encode_preface(TOKEN, version=9)


@pytest.mark.parametrize(
    "header",
    [DataHeader(-1, 0, 1), DataHeader(1 << 32, 0, 1), DataHeader(0, CHUNK_COUNT_MAX, 1), DataHeader(0, 0, 0),
     DataHeader(0, 0, CHUNK_SIZE_MAX + 1)],
)  # fmt: skip
def test_unsendable_header(header: DataHeader) -> None:
    with pytest.raises(LocalProtocolError):
        encode_header(header)


@pytest.mark.parametrize("index", [0, 1, 2, 3, 8, 12])
def test_bad_header(index: int) -> None:
    data = bytearray(encode_header(DataHeader(1, 2, 3)))
    data[index] = 0xFF
    with pytest.raises(RemoteProtocolError):
        decode_header(data)


def test_header_must_answer_the_request() -> None:
    header = DataHeader(17, 300, 1 << 20)
    check_header(header, 300, 1 << 20)
    for chunk, length in ((301, 1 << 20), (300, 1)):
        with pytest.raises(RemoteProtocolError, match="request 17 was for chunk"):
            check_header(header, chunk, length)


def test_token_is_spent_once() -> None:
    registry: TokenRegistry[str] = TokenRegistry(random.Random(1).randbytes, lifetime_s=10.0)
    token = registry.issue("link", now=0.0)
    assert registry.spend(token, now=9.9) == ("link", b"")
    with pytest.raises(RemoteProtocolError, match="never issued"):
        registry.spend(token, now=9.9)


def test_token_expires_and_is_revoked() -> None:
    registry: TokenRegistry[str] = TokenRegistry(random.Random(1).randbytes, lifetime_s=10.0, count_max=2)
    old = registry.issue("a", now=0.0)
    registry.issue("b", now=5.0)
    with pytest.raises(LocalProtocolError, match="refuse"):
        registry.issue("c", now=9.0)
    with pytest.raises(RemoteProtocolError) as caught:
        registry.spend(old, now=10.0)
    assert old.hex() not in str(caught.value)
    assert len(registry) == 1
    assert registry.revoke("b") == 1
    assert len(registry) == 0


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_token_on_a_stream_of_the_other_kind_is_spent_and_opens_none(encrypted: bool) -> None:
    registry: TokenRegistry[str] = TokenRegistry(random.Random(1).randbytes)
    certificate = b"c" * 32 if encrypted else b""
    token = registry.issue("link", 0.0, certificate)
    with pytest.raises(RemoteProtocolError, match="plain" if encrypted else "encrypted"):
        registry.spend(token, 1.0, encrypted=not encrypted)
    with pytest.raises(RemoteProtocolError, match="used before"):
        registry.spend(token, 1.0, encrypted=encrypted)
    assert registry.held_by("link", 1.0) == 0
    token = registry.issue("link", 0.0, certificate)
    assert registry.spend(token, 1.0, encrypted=encrypted) == ("link", certificate)


def test_broken_random_source() -> None:
    registry: TokenRegistry[str] = TokenRegistry(lambda n: bytes(n))
    registry.issue("a", now=0.0)
    with pytest.raises(LocalProtocolError, match="random source"):
        registry.issue("a", now=0.0)
