"""Data streams: a preface with a one-time token, then for each chunk a fixed header and the raw payload.

    stream  = "P2FD" version:u8 zero:3 token:32                           from the receiver of payload, once
            | "P2FE" version:u8 zero:3 token:32                           the same, and then TLS, with all else inside
    chunk   = kind:u8 flags:u8 reserved:u16 request_id:u32 chunk:u32 length:u32   then `length` bytes, from the sender

All numbers are big endian. Nothing else is ever parsed on a data stream, so the payload can go by sendfile and
be received by one native loop. Chunks come in the sender's order, each whole; a sender that cannot finish one closes
the stream. The token of an encrypted stream goes before TLS, where others may read it: it is good for one stream, and
only with the certificate that it was granted to. So nobody has a handshake done who was not granted one. A request that
was cancelled may still arrive: its receiver reads past `length` bytes.
Rejected: a frame per slice of a chunk, which would let chunks interleave but cost a header per slice in the hot loop.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.model.limits import CHUNK_COUNT_MAX, CHUNK_SIZE_MAX
from p2pfill.protocol.framing import VERSION_MAX, VERSION_MIN
from p2pfill.protocol.messages import TOKEN_BYTES, U32_MAX

DATA_MAGIC: Final = b"P2FD"
ENCRYPTED_MAGIC: Final = b"P2FE"
PREFACE_HEAD_BYTES: Final = 8
"""What comes before the token, and tells by itself whether there is one: other versions have others."""

PREFACE_BYTES: Final = PREFACE_HEAD_BYTES + TOKEN_BYTES
HEADER_BYTES: Final = 16
KIND_CHUNK: Final = 1
"""The only kind of version 2."""

_PREFACE_HEAD: Final = struct.Struct(">4sB3s")
_HEADER: Final = struct.Struct(">BBHIII")
_ZERO: Final = b"\0\0\0"


class Preface(NamedTuple):
    """How a data stream begins."""

    version: int
    token: bytes
    encrypted: bool = False


class DataHeader(NamedTuple):
    """What stands before a chunk's payload. `length` is in bytes, 1 to `CHUNK_SIZE_MAX`."""

    request_id: int
    chunk: int
    length: int


def encode_preface(token: bytes, version: int = VERSION_MAX, *, encrypted: bool = False) -> bytes:
    """Return the 40 bytes that open a data stream. Raises `LocalProtocolError`."""
    if len(token) != TOKEN_BYTES:
        raise LocalProtocolError(f"a token has {TOKEN_BYTES} bytes, not {len(token)}")
    if not VERSION_MIN <= version <= VERSION_MAX:
        raise LocalProtocolError(f"data streams of version {version} are unknown here")
    return _PREFACE_HEAD.pack(ENCRYPTED_MAGIC if encrypted else DATA_MAGIC, version, _ZERO) + token


def decode_preface(data: bytes | bytearray | memoryview) -> Preface:
    """Return what exactly 40 bytes say. Raises `RemoteProtocolError`; whether the token is good is for the registry."""
    if len(data) != PREFACE_BYTES:
        raise RemoteProtocolError(f"preface of a data stream has {len(data)} bytes, not {PREFACE_BYTES}")
    version = check_preface_head(data[:PREFACE_HEAD_BYTES])
    is_encrypted = bytes(data[: len(ENCRYPTED_MAGIC)]) == ENCRYPTED_MAGIC
    return Preface(version, bytes(data[PREFACE_HEAD_BYTES:]), is_encrypted)


def check_preface_head(head: bytes | bytearray | memoryview) -> int:
    """Return the version that the first 8 bytes of a preface say. Raises `RemoteProtocolError`."""
    magic, version, zero = _PREFACE_HEAD.unpack(head)
    if magic not in (DATA_MAGIC, ENCRYPTED_MAGIC):
        raise RemoteProtocolError(f"not a p2pfill data stream: it begins with {magic!r}")
    if not VERSION_MIN <= version <= VERSION_MAX:
        older = "remote" if version < VERSION_MIN else "local"
        raise RemoteProtocolError(
            f"data stream of version {version}, and {VERSION_MIN} to {VERSION_MAX} are spoken here; "
            f"upgrade the {older} node"
        )
    if zero != _ZERO:
        raise RemoteProtocolError("bytes 5 to 7 of a data stream's preface are not zero")
    return int(version)


def encode_header(header: DataHeader) -> bytes:
    """Return the 16 bytes that go before a chunk. Raises `LocalProtocolError` where a number is out of range."""
    fault = _fault_of(header)
    if fault:
        raise LocalProtocolError(fault)
    return _HEADER.pack(KIND_CHUNK, 0, 0, header.request_id, header.chunk, header.length)


def decode_header(data: bytes | bytearray | memoryview) -> DataHeader:
    """Return what exactly 16 bytes say. Raises `RemoteProtocolError`.

    The caller still has to check that the request is its own, and that chunk and length are what it asked for.
    """
    if len(data) != HEADER_BYTES:
        raise RemoteProtocolError(f"data header has {len(data)} bytes, not {HEADER_BYTES}")
    kind, flags, reserved, request_id, chunk, length = _HEADER.unpack(data)
    if kind != KIND_CHUNK or flags or reserved:
        raise RemoteProtocolError(f"data header: kind {kind}, flags {flags}, reserved {reserved}; not 1, 0, 0")
    header = DataHeader(request_id, chunk, length)
    fault = _fault_of(header)
    if fault:
        raise RemoteProtocolError(fault)
    return header


def check_header(header: DataHeader, chunk: int, length: int) -> None:
    """Check that a header answers our request for `chunk` of `length` bytes. Raises `RemoteProtocolError`."""
    if (header.chunk, header.length) != (chunk, length):
        raise RemoteProtocolError(
            f"request {header.request_id} was for chunk {chunk} of {length} bytes, "
            f"but chunk {header.chunk} of {header.length} bytes comes"
        )


def _fault_of(header: DataHeader) -> str:
    if not 0 <= header.request_id <= U32_MAX:
        return f"data header: request id {header.request_id} is not a u32"
    if not 0 <= header.chunk < CHUNK_COUNT_MAX:
        return f"data header: chunk {header.chunk} is not below {CHUNK_COUNT_MAX}"
    if not 1 <= header.length <= CHUNK_SIZE_MAX:
        return f"data header: length {header.length} is not within 1 to {CHUNK_SIZE_MAX} bytes"
    return ""
