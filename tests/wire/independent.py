"""The wire, the manifest and the journal once more, written from docs/protocol.md and ARCHITECTURE.md ("On disk").

It uses `msgpack`, `struct` and the two digests, and nothing of p2pfill, so that a rule which only p2pfill's own code
knows shows as a difference. It is strict and plain, not fast, and knows nothing of order between messages. Whatever is
wrong raises `Invalid`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import xxhash
from blake3 import blake3

MIB = 1 << 20
U32 = (1 << 32) - 1
CHUNK_COUNT_MAX = 1 << 21
CHUNK_BYTES = [1 << power for power in range(16, 27)]
FRAME_BYTES_MAX = MIB
BITMAP_BYTES_MAX = CHUNK_COUNT_MAX // 8
TITLE_BYTES_MAX = CHUNK_BYTES[-1] * CHUNK_COUNT_MAX
REQUIRED = object()

Check = Callable[[Any], bool]


class Invalid(Exception):
    """The bytes, or the fields, break a rule."""


def number(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def text(pattern: str, chars_max: int) -> Check:
    return lambda value: type(value) is str and len(value) <= chars_max and re.fullmatch(pattern, value) is not None


def blob(low: int, high: int) -> Check:
    return lambda value: type(value) is bytes and low <= len(value) <= high


def chunks(value: Any) -> bool:
    return type(value) is list and 1 <= len(value) <= 4096 and all(map(chunk, value))


def weight(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value <= 1e6


u32 = number(0, U32)
chunk = number(0, CHUNK_COUNT_MAX - 1)
count = number(0, CHUNK_COUNT_MAX)
boolean: Check = lambda value: type(value) is bool  # noqa: E731
PLAIN = r"[^\x00-\x1f\x7f-\x9f]*"
label = text(PLAIN, 64)
reason = text(PLAIN, 200)
host = text(r"[A-Za-z0-9._:%-]*", 253)
node_id = text(r"[A-Za-z0-9][A-Za-z0-9._-]*", 64)
code = text(r"[a-z][a-z0-9-]*", 32)
bitmap = blob(0, BITMAP_BYTES_MAX)
fingerprint: Check = lambda value: blob(0, 0)(value) or blob(32, 32)(value)  # noqa: E731

Field = tuple[str, Check, Any]

MESSAGES: dict[int, tuple[str, list[Field]]] = {
    1: ("Hello", [
        ("node_id", node_id, REQUIRED), ("isp", label, REQUIRED), ("region", label, REQUIRED), ("cluster", label, ""),
        ("host", host, ""), ("port", number(0, 65535), 0), ("weight", weight, 1.0), ("agent", label, ""),
        ("boot", label, ""),
    ]),
    2: ("Subscribe", [("handle", u32, REQUIRED), ("title_id", blob(32, 32), REQUIRED)]),
    3: ("Holdings", [
        ("handle", u32, REQUIRED), ("known", boolean, REQUIRED), ("chunk_count", count, 0), ("bitmap", bitmap, b""),
    ]),
    4: ("Have", [("handle", u32, REQUIRED), ("chunks", chunks, REQUIRED)]),
    5: ("Fetching", [("handle", u32, REQUIRED), ("chunks", chunks, REQUIRED)]),
    6: ("Unsubscribe", [("handle", u32, REQUIRED)]),
    7: ("Request", [("handle", u32, REQUIRED), ("request_id", u32, REQUIRED), ("chunk", chunk, REQUIRED)]),
    8: ("Cancel", [("request_id", u32, REQUIRED)]),
    9: ("Reject", [("request_id", u32, REQUIRED), ("code", code, REQUIRED)]),
    10: ("StreamOpen", [
        ("stream_id", u32, REQUIRED), ("encrypt", boolean, False), ("certificate", fingerprint, b""),
    ]),
    11: ("StreamGrant", [
        ("stream_id", u32, REQUIRED), ("token", blob(32, 32), REQUIRED), ("certificate", fingerprint, b""),
    ]),
    12: ("StreamRefuse", [("stream_id", u32, REQUIRED), ("reason", reason, "")]),
    13: ("ReportSlow", [("handle", u32, REQUIRED), ("node_id", node_id, REQUIRED)]),
    14: ("Ping", [("nonce", u32, REQUIRED)]),
    15: ("Pong", [("nonce", u32, REQUIRED)]),
    16: ("Goodbye", [("code", number(0, 255), REQUIRED), ("reason", reason, "")]),
    17: ("Interest", [("handle", u32, REQUIRED), ("chunk_count", count, REQUIRED), ("bitmap", bitmap, REQUIRED)]),
    18: ("Ways", [("handle", u32, REQUIRED), ("closed", number(0, 7), REQUIRED)]),
}  # fmt: skip
TAGS = {name: tag for tag, (name, _) in MESSAGES.items()}
PAYLOAD_BYTES_MAX = {3: 262_208, 17: 262_208, 4: 36_928, 5: 36_928}


class Message(NamedTuple):
    name: str
    fields: dict[str, Any]


def unpack(data: bytes) -> Any:
    """Return the one value that `data` is."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:
        raise Invalid(f"no msgpack: {error!r}") from error


# ---- the control connection


def encode_preamble(lowest: int = 2, highest: int = 2) -> bytes:
    return struct.pack(">4sBB", b"P2FC", lowest, highest)


def encode_frame(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def decode_connection(data: bytes) -> tuple[tuple[int, int], list[Message]]:
    """Return the versions and all messages of one direction that ends between two frames."""
    if len(data) < 6 or data[:4] != b"P2FC" or not 1 <= data[4] <= data[5]:
        raise Invalid("preamble")
    found, position = [], 6
    while position < len(data):
        if len(data) - position < 4:
            raise Invalid("cut within a length")
        (length,) = struct.unpack_from(">I", data, position)
        position += 4
        if not 1 <= length <= FRAME_BYTES_MAX or position + length > len(data):
            raise Invalid("length of a frame")
        found.append(decode_message(data[position : position + length]))
        position += length
    return (data[4], data[5]), found


def decode_message(payload: bytes) -> Message:
    """Return what one payload says, fields that were left out included."""
    if len(payload) < 2 or not 0x91 <= payload[0] <= 0x9F or payload[1] not in MESSAGES:
        raise Invalid("not a fixarray that begins with a tag")
    name, fields = MESSAGES[payload[1]]
    if len(payload) > PAYLOAD_BYTES_MAX.get(payload[1], 4096):
        raise Invalid("too long for its tag")
    values = unpack(payload)[1:]
    if len(values) > len(fields):
        raise Invalid("unknown fields")
    said = {}
    for place, (field, check, default) in enumerate(fields):
        value = values[place] if place < len(values) else default
        if value is REQUIRED or not check(value):
            raise Invalid(f"{name}.{field}")
        said[field] = value
    return Message(name, said)


def encode_message(message: Message, exclude: int = 0, pack: Callable[[Any], bytes] = msgpack.packb) -> bytes:
    """Return the payload of a message, without its last `exclude` fields."""
    values = [message.fields[field] for field, _, _ in MESSAGES[TAGS[message.name]][1]]
    return bytes(pack([TAGS[message.name], *values[: len(values) - exclude]]))


# ---- data streams


def encode_preface(token: bytes) -> bytes:
    return struct.pack(">4sB3x32s", b"P2FD", 2, token)


def decode_preface(data: bytes) -> bytes:
    """Return the token."""
    if len(data) != 40 or data[:8] != b"P2FD\x02\0\0\0":
        raise Invalid("preface")
    return data[8:]


def encode_header(request_id: int, chunk_index: int, length: int) -> bytes:
    return struct.pack(">BBHIII", 1, 0, 0, request_id, chunk_index, length)


def decode_header(data: bytes) -> tuple[int, int, int]:
    """Return request id, chunk and length."""
    if len(data) != 16 or data[:4] != b"\x01\0\0\0":
        raise Invalid("header")
    request_id, chunk_index, length = struct.unpack(">III", data[4:])
    if not chunk(chunk_index) or not 1 <= length <= CHUNK_BYTES[-1]:
        raise Invalid("chunk or length")
    return request_id, chunk_index, length


# ---- manifests


class File(NamedTuple):
    path: str
    size: int
    offset: int
    mtime: int
    executable: bool


class Title(NamedTuple):
    id: bytes
    name: str
    chunk_size: int
    integrity: str
    files: list[File]
    directories: list[str]
    lengths: list[int]
    """Of the chunks."""
    xxh3: list[bytes]
    blake3: list[bytes]


def encode_manifest(
    name: str,
    chunk_size: int,
    integrity: str,
    files: list[tuple[str, int, int, bool]],
    directories: list[str],
    xxh3: bytes,
    b3: bytes,
) -> bytes:
    listed = sorted(files, key=lambda item: item[0].encode())
    empty = sorted(directories, key=str.encode)
    return bytes(msgpack.packb(["p2pfill-manifest-2", name, chunk_size, integrity, listed, empty, xxh3, b3]))


def decode_manifest(data: bytes) -> Title:
    """Return the title. Whether paths are safe and do not exclude each other is not looked at."""
    value = unpack(data)
    if type(value) is not list or len(value) != 8 or value[0] != "p2pfill-manifest-2":
        raise Invalid("not a manifest")
    _, name, chunk_size, integrity, listed, directories, xxh3, b3 = value
    if type(name) is not str or type(chunk_size) is not int or chunk_size not in CHUNK_BYTES:
        raise Invalid("name or chunk size")
    if integrity not in ("blake3", "xxh3") or type(listed) is not list or not 1 <= len(listed) <= MIB:
        raise Invalid("integrity or files")
    files, offset, before = [], 0, b""
    for entry in listed:
        if type(entry) is not list or [type(part) for part in entry] != [str, int, int, bool]:
            raise Invalid("a file")
        path, size, mtime, executable = entry
        if size < 0 or not 0 <= mtime < 1 << 32:
            raise Invalid("size or time")
        if not before < path.encode():
            raise Invalid("order of files")
        before = path.encode()
        files.append(File(path, size, offset, mtime, executable))
        offset += size
    # Before anything is computed for each chunk: a size of 2^62 would be a list of as many entries.
    if offset > TITLE_BYTES_MAX:
        raise Invalid("too large")
    if type(directories) is not list or len(directories) > 65536 or any(type(path) is not str for path in directories):
        raise Invalid("directories")
    if directories != sorted(set(directories), key=str.encode):
        raise Invalid("order of directories")
    if type(xxh3) is not bytes or offset > len(xxh3) // 16 * chunk_size:
        raise Invalid("digests")
    lengths = chunk_lengths([file.size for file in files], chunk_size)
    chunk_count = len(lengths)
    if chunk_count > CHUNK_COUNT_MAX:
        raise Invalid("too large")
    if not blob(16 * chunk_count, 16 * chunk_count)(xxh3) or not blob(32 * chunk_count, 32 * chunk_count)(b3):
        raise Invalid("digests")
    # The packer uses the shortest form of everything, which is the only one that counts.
    if msgpack.packb(value) != data:
        raise Invalid("not canonical")
    digests = cut(xxh3, 16), cut(b3, 32)
    return Title(blake3(data).digest(), name, chunk_size, integrity, files, directories, lengths, *digests)


def chunk_lengths(sizes: list[int], chunk_size: int) -> list[int]:
    """Return the length of each chunk of files of these sizes, in order."""
    lengths, small = [], 0

    def close(piece: int) -> None:
        lengths.extend([chunk_size] * (piece // chunk_size))
        if piece % chunk_size:
            lengths.append(piece % chunk_size)

    for size in sizes:
        if size < chunk_size:
            small += size
            continue
        close(small)
        close(size)
        small = 0
    close(small)
    return lengths


def cut(data: bytes, length: int) -> list[bytes]:
    return [data[start : start + length] for start in range(0, len(data), length)]


# ---- the journal


def encode_journal(title_id: bytes, records: list[list[int]]) -> bytes:
    data = b"p2pfjrn2" + title_id
    for record in records:
        body = msgpack.packb(record)
        check = xxhash.xxh3_64(title_id + struct.pack("<Q", len(data)) + body).digest()
        data += b"\x92" + body + b"\xc4\x08" + check
    return data


def decode_journal(data: bytes, title_id: bytes, chunk_count: int) -> list[list[int]]:
    """Return the records that may be believed."""
    if data[:40] != b"p2pfjrn2" + title_id:
        raise Invalid("header")
    found: list[list[int]] = []
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[40:])
    while True:
        try:
            value = unpacker.unpack()
        except Exception:  # noqa: BLE001  a torn tail may be anything
            return found
        if type(value) is not list or len(value) != 2 or not value[0] or type(value[0]) is not list:
            return found
        if not all(map(number(0, chunk_count - 1), value[0])) or len(value[0]) > chunk_count:
            return found
        longer = encode_journal(title_id, [*found, value[0]])
        if data[: len(longer)] != longer:
            return found
        found.append(value[0])
