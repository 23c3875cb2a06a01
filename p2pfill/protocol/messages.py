"""Control messages: what each one says, and every limit that a field of it must keep.

A message is a frozen, array-like record with an integer tag; on the wire it is a msgpack array whose first
element is that tag. `encode_payload` and `decode_payload` are inverse to each other for every message that keeps
its limits, and both check the limits: a record built by hand is not checked until it is encoded.

The decoder knows the type of every field, so what does not fit is refused before anything is built of it. Rejected:
one map per message with named fields, which costs more bytes than a Have of one chunk carries, and leaves the order of
keys to each implementation; and unpacking into plain objects first, which is slower (docs/experiments.md, "Codecs")
and lets a hostile frame choose what is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.model.limits import CHUNK_COUNT_MAX, NODE_ID_CHARS_MAX, TITLE_ID_BYTES

U32_MAX: Final = (1 << 32) - 1

CHUNKS_PER_MESSAGE_MAX: Final = 4096
"""At most 20 KiB a message: a batch never holds a Request back for long, and see the top of this file."""

BITMAP_BYTES_MAX: Final = (CHUNK_COUNT_MAX + 7) // 8
"""One bit for each chunk of the largest title."""

LABEL_CHARS_MAX: Final = 64
"""Names of ISPs, regions, clusters and programs; they become labels of metrics."""

HOST_CHARS_MAX: Final = 253
"""The longest DNS name."""

INTERNAL_FAULT: Final = "an internal fault"
"""All that a remote is told of a fault of our own: its text is for our log, and may name paths."""

REASON_CHARS_MAX: Final = 200
"""A reason is one line in a log."""

CODE_CHARS_MAX: Final = 32
"""A reject code is one word, counted by metrics."""

TEXT_BYTES_MAX: Final = 4 * HOST_CHARS_MAX
"""The longest text of all in UTF-8, four bytes for each character at worst."""

TOKEN_BYTES: Final = 32
"""256 random bits: nobody guesses one, however many are live and however long he tries."""

FINGERPRINT_BYTES: Final = 32
"""SHA-256 of a certificate in DER."""

WEIGHT_MAX: Final = 1e6
"""Weights are relative; a larger one would let a single node claim all border work of a group."""

WAYS_ALL: Final = 7
"""One bit each for the region, for other regions, and for origins."""


class GoodbyeCode(IntEnum):
    """Why a link ends. Codes that a receiver does not know are to be treated as `INTERNAL`."""

    NORMAL = 0
    """Nothing is left to do on this link."""
    PROTOCOL_ERROR = 1
    """The receiver of this Goodbye broke a rule; the reason names it."""
    VERSION = 2
    """No version of the protocol in common."""
    SHUTDOWN = 3
    """The sender's process ends; its holdings are gone for now."""
    DUPLICATE = 4
    """The two nodes have another link that stays."""
    OVERLOADED = 5
    """The sender has too many links; try later."""
    IDLE = 6
    """The other side was silent for too long."""
    INTERNAL = 7
    """A fault of the sender's own."""


# \Z and not $: the latter would let one newline slip through at the end.
_NO_CONTROLS: Final = r"\A[^\x00-\x1f\x7f-\x9f]*\Z"
U32 = Annotated[int, Meta(ge=0, le=U32_MAX)]
ChunkIndex = Annotated[int, Meta(ge=0, lt=CHUNK_COUNT_MAX)]
Chunks = Annotated[tuple[ChunkIndex, ...], Meta(min_length=1, max_length=CHUNKS_PER_MESSAGE_MAX)]
Label = Annotated[str, Meta(max_length=LABEL_CHARS_MAX, pattern=_NO_CONTROLS)]
Reason = Annotated[str, Meta(max_length=REASON_CHARS_MAX, pattern=_NO_CONTROLS)]


def plain_reason(text: str) -> str:
    """Return `text` as a message can carry it: what a remote sent, or a path, may be quoted in it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:REASON_CHARS_MAX])


Host = Annotated[str, Meta(max_length=HOST_CHARS_MAX, pattern=r"\A[A-Za-z0-9._:%-]*\Z")]
Fingerprint = Annotated[bytes, Meta(max_length=FINGERPRINT_BYTES)]
"""Of that length or empty, see `_check_fingerprint`."""
RejectCode = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9-]*\Z", max_length=CODE_CHARS_MAX)]
NodeName = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=NODE_ID_CHARS_MAX)]


def _check_fingerprint(certificate: bytes) -> None:
    """Raise `ValueError`, of which decoding makes a `msgspec.ValidationError`, for one of another length."""
    if len(certificate) not in (0, FINGERPRINT_BYTES):
        raise ValueError(f"certificate has {len(certificate)} bytes, not {FINGERPRINT_BYTES}")


class _Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What all messages share; each is immutable, hashable and equal by value."""


class Hello(_Record, frozen=True, tag=1):
    """Occurs when a side introduces itself: the first message in each direction, and only the first."""

    node_id: NodeName
    isp: Label
    region: Label
    cluster: Label = ""
    host: Host = ""
    """Where other nodes reach the sender; empty where nobody can."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    weight: Annotated[float, Meta(gt=0, le=WEIGHT_MAX)] = 1.0
    """Upload capacity relative to other caches."""
    agent: Label = ""
    """Program and version, for people."""
    boot: Label = ""
    """Random per start of the process: tells a restarted node from a second link of the same one."""


class Subscribe(_Record, frozen=True, tag=2):
    """Occurs when the sender asks for the receiver's holdings of a title, now and as they grow."""

    handle: U32
    title_id: Annotated[bytes, Meta(min_length=TITLE_ID_BYTES, max_length=TITLE_ID_BYTES)]


class Holdings(_Record, frozen=True, tag=3):
    """Occurs when the sender answers a Subscribe, or when what it had said before no longer holds."""

    handle: U32
    known: bool
    """False: the sender neither has nor fills this title (yet); then the two others are 0 and empty."""
    chunk_count: Annotated[int, Meta(ge=0, le=CHUNK_COUNT_MAX)] = 0
    bitmap: Annotated[bytes, Meta(max_length=BITMAP_BYTES_MAX)] = b""
    """Chunk k is bit k & 7 (from the least significant) of byte k >> 3; spare bits are zero."""


class Have(_Record, frozen=True, tag=4):
    """Occurs when the sender has verified more chunks and can serve them."""

    handle: U32
    chunks: Chunks


class Fetching(_Record, frozen=True, tag=5):
    """Occurs while bytes of chunks reach the sender across a border: others of its group wait for it, for a time."""

    handle: U32
    chunks: Chunks


class Unsubscribe(_Record, frozen=True, tag=6):
    """Occurs when the sender is done with a title; ends the subscription and all requests under it."""

    handle: U32


class Request(_Record, frozen=True, tag=7):
    """Occurs when the sender wants one chunk sent on a data stream."""

    handle: U32
    request_id: U32
    chunk: ChunkIndex


class Cancel(_Record, frozen=True, tag=8):
    """Occurs when the sender no longer needs a chunk; it may come all the same if it was on its way."""

    request_id: U32


class Reject(_Record, frozen=True, tag=9):
    """Occurs when the sender will not serve a request."""

    request_id: U32
    code: RejectCode
    """One word: `missing`, `busy`, `stopping` …"""


class StreamOpen(_Record, frozen=True, tag=10):
    """Occurs when the sender asks for leave to open a data stream, on which it will receive."""

    stream_id: U32
    encrypt: bool = False
    """It must be encrypted; false: it may be."""
    certificate: Fingerprint = b""
    """Which one the sender will show on it, if it is; empty: it cannot be."""

    def __post_init__(self) -> None:
        _check_fingerprint(self.certificate)


class StreamGrant(_Record, frozen=True, tag=11):
    """Occurs when the sender lets the receiver open one data stream, once, with this token."""

    stream_id: U32
    token: Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
    certificate: Fingerprint = b""
    """The stream is encrypted, and this is which one the sender will show on it; empty: it is not."""

    def __post_init__(self) -> None:
        _check_fingerprint(self.certificate)


class StreamRefuse(_Record, frozen=True, tag=12):
    """Occurs when the sender cannot take another data stream now."""

    stream_id: U32
    reason: Reason = ""


class ReportSlow(_Record, frozen=True, tag=13):
    """Occurs when the sender does without a cache for a while, since it is slow: others may find the same later."""

    handle: U32
    node_id: NodeName


class Ping(_Record, frozen=True, tag=14):
    """Occurs when the sender wants to know whether the other side is alive."""

    nonce: U32


class Pong(_Record, frozen=True, tag=15):
    """Occurs when the sender answers the Ping of that nonce."""

    nonce: U32


class Goodbye(_Record, frozen=True, tag=16):
    """Occurs when the sender ends the link: the last message in its direction."""

    code: Annotated[int, Meta(ge=0, le=255)]
    reason: Reason = ""


class Interest(_Record, frozen=True, tag=17):
    """Occurs when news of some chunks is all that the sender needs under one of its handles.

    Replaces what it said before; before the first one it needs news of every chunk.
    """

    handle: U32
    chunk_count: Annotated[int, Meta(ge=0, le=CHUNK_COUNT_MAX)]
    bitmap: Annotated[bytes, Meta(max_length=BITMAP_BYTES_MAX)]
    """As in Holdings."""


class Ways(_Record, frozen=True, tag=18):
    """Occurs when the sender finds that it cannot take chunks from somewhere, or can again.

    Replaces what it said before under the handle; before the first one all ways are open.
    """

    handle: U32
    closed: Annotated[int, Meta(ge=0, le=WAYS_ALL)]
    """A sum: 1 from other ISPs of its region, 2 from other regions, 4 from origins."""


Message = (
    Hello
    | Subscribe
    | Holdings
    | Have
    | Fetching
    | Unsubscribe
    | Request
    | Cancel
    | Reject
    | StreamOpen
    | StreamGrant
    | StreamRefuse
    | ReportSlow
    | Ping
    | Pong
    | Goodbye
    | Interest
    | Ways
)


_LONG_BYTES_MAX: Final[dict[int, int]] = {
    3: BITMAP_BYTES_MAX + 64,
    4: CHUNKS_PER_MESSAGE_MAX * 9 + 64,
    5: CHUNKS_PER_MESSAGE_MAX * 9 + 64,
    17: BITMAP_BYTES_MAX + 64,
}
"""Tag -> bytes, for the messages that may be long: a bitmap, or indexes at msgpack's widest integer."""

PAYLOAD_BYTES_MAX: Final = 4096
"""All other messages; Hello with the longest texts has 2 KiB. A megabyte of nested arrays would cost the
unpacker half a second to build and refuse."""

_TAG_MAX: Final = 18

_ALLOWED_BYTES: Final = {tag: _LONG_BYTES_MAX.get(tag, PAYLOAD_BYTES_MAX) for tag in range(1, _TAG_MAX + 1)}
"""Tag -> bytes, of all messages."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Message)
_encode: Final = _ENCODER.encode
_decode_any: Final = _DECODER.decode


def encode_payload(message: Message) -> bytes:
    """Return the msgpack payload of one frame. Raises `LocalProtocolError` where a field breaks its limit."""
    try:
        payload = _encode(message)
        _decode(payload)
    except (ValueError, TypeError, OverflowError) as error:
        raise LocalProtocolError(f"cannot send this {type(message).__name__}: {error}") from error
    return payload


def decode_payload(payload: bytes | bytearray | memoryview) -> Message:
    """Return the message in the payload of one frame. Raises `RemoteProtocolError` for anything else."""
    # What the first two bytes must be, a short array and a tag, before anything is built.
    if len(payload) < 2 or payload[0] & 0xF0 != 0x90 or len(payload) > _ALLOWED_BYTES.get(payload[1], 0):
        raise _refused_outside(payload)
    try:
        return _decode(payload)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"frame of {len(payload)} bytes is not a known message: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"frame of {len(payload)} bytes is not a valid msgpack message: {error}") from error


def batches(chunks: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Split chunk indexes into tuples that one Have or Fetching can carry."""
    for start in range(0, len(chunks), CHUNKS_PER_MESSAGE_MAX):
        yield tuple(chunks[start : start + CHUNKS_PER_MESSAGE_MAX])


def _refused_outside(payload: bytes | bytearray | memoryview) -> RemoteProtocolError:
    """Say why nothing of a payload is looked at but its first two bytes."""
    said = f"frame of {len(payload)} bytes is"
    if len(payload) < 2 or payload[0] & 0xF0 != 0x90 or payload[1] not in _ALLOWED_BYTES:
        return RemoteProtocolError(f"{said} not a short array that begins with a known tag")
    return RemoteProtocolError(f"{said} too long for tag {payload[1]}: at most {_ALLOWED_BYTES[payload[1]]}")


def _decode(payload: bytes | bytearray | memoryview) -> Message:
    """Check every limit of a message. Raises `ValueError`, as msgspec's errors are."""
    message: Message = _decode_any(payload)
    if type(message) is Hello and not math.isfinite(message.weight):
        raise msgspec.ValidationError("weight is not a finite number")
    return message
