"""What comes over control links and data streams: frames, the bytes of a link, prefaces and headers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

from bench.fuzz.target import Run, Target, check
from p2pfill.errors import RemoteProtocolError
from p2pfill.model.limits import CHUNK_COUNT_MAX, CHUNK_SIZE_MAX, KIB, NODE_ID_CHARS_MAX, TITLE_ID_BYTES
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import (
    HEADER_BYTES,
    PREFACE_BYTES,
    DataHeader,
    decode_header,
    decode_preface,
    encode_header,
    encode_preface,
)
from p2pfill.protocol.framing import CONTROL_MAGIC, OUR_VERSIONS, Deframer, encode_frame, encode_preamble
from p2pfill.protocol.link import ControlLink, LinkState
from p2pfill.protocol.tokens import TokenRegistry

HELLO: Final = m.Hello("b1", "isp-a", "eu", "c1", "127.0.0.1", 7400, 1.0, "p2pfill", "boot")

MESSAGES: Final[tuple[m.Message, ...]] = (
    HELLO,
    m.Hello("z" * 64, "é" * 64, "r", port=65535, weight=1e6),
    m.Subscribe(0, bytes(32)),
    m.Holdings(0, True, 20, b"\xff\xff\x0f"),
    m.Holdings(0, False),
    m.Have(0, (0, 19)),
    m.Have(1, tuple(range(0, 400, 8))),
    m.Fetching(0, (CHUNK_COUNT_MAX - 1,)),
    m.Unsubscribe(0),
    m.Request(0, 0, 3),
    m.Cancel(0),
    m.Reject(0, "busy"),
    m.StreamOpen(0),
    m.StreamOpen(1, True, bytes(m.FINGERPRINT_BYTES)),
    m.StreamGrant(0, bytes(m.TOKEN_BYTES)),
    m.StreamGrant(1, bytes(m.TOKEN_BYTES), bytes(m.FINGERPRINT_BYTES)),
    m.StreamRefuse(0, "too many"),
    m.ReportSlow(0, "c1"),
    m.Ping(m.U32_MAX),
    m.Pong(0),
    m.Goodbye(0),
    m.Goodbye(255, "é" * 200),
    m.Interest(0, 20, b"\x01\0\0"),
    m.Ways(0, 7),
)


def _frame_seeds() -> Iterable[bytes]:
    return map(m.encode_payload, MESSAGES)


def _check_limits(message: m.Message) -> None:
    """Look whether a message keeps the limits of its fields; each kind is a way of its own, to lead to it."""
    match message:
        case m.Hello(node_id=name, host=host, weight=weight):
            check(
                0 < len(name) <= NODE_ID_CHARS_MAX and len(host) <= m.HOST_CHARS_MAX and 0 < weight <= m.WEIGHT_MAX,
                "Hello",
            )
        case m.Subscribe(title_id=title_id):
            check(len(title_id) == TITLE_ID_BYTES, "Subscribe", title_id)
        case m.Holdings(bitmap=bitmap, known=known):
            check(len(bitmap) <= m.BITMAP_BYTES_MAX and known in (True, False), "Holdings")
        case m.Have(chunks=chunks):
            check(0 < len(chunks) <= m.CHUNKS_PER_MESSAGE_MAX and max(chunks) < CHUNK_COUNT_MAX, "Have", chunks)
        case m.Fetching(chunks=chunks):
            check(0 < len(chunks) <= m.CHUNKS_PER_MESSAGE_MAX and max(chunks) < CHUNK_COUNT_MAX, "Fetching", chunks)
        case m.Unsubscribe(handle=handle):
            check(0 <= handle <= m.U32_MAX, "Unsubscribe", handle)
        case m.Request(request_id=number, chunk=chunk):
            check(0 <= number <= m.U32_MAX and 0 <= chunk < CHUNK_COUNT_MAX, "Request", chunk)
        case m.Cancel(request_id=number):
            check(0 <= number <= m.U32_MAX, "Cancel", number)
        case m.Reject(code=code):
            check(0 < len(code) <= m.CODE_CHARS_MAX and code.isascii(), "Reject", code)
        case m.StreamOpen(stream_id=number, certificate=certificate):
            check(0 <= number <= m.U32_MAX, "StreamOpen", number)
            check(len(certificate) in (0, m.FINGERPRINT_BYTES), "StreamOpen", certificate)
        case m.StreamGrant(token=token, certificate=certificate):
            check(len(token) == m.TOKEN_BYTES, "StreamGrant")
            check(len(certificate) in (0, m.FINGERPRINT_BYTES), "StreamGrant", certificate)
        case m.StreamRefuse(reason=reason):
            check(len(reason) <= m.REASON_CHARS_MAX, "StreamRefuse", reason)
        case m.ReportSlow(node_id=name):
            check(0 < len(name) <= NODE_ID_CHARS_MAX, "ReportSlow", name)
        case m.Ping(nonce=nonce):
            check(0 <= nonce <= m.U32_MAX, "Ping", nonce)
        case m.Pong(nonce=nonce):
            check(0 <= nonce <= m.U32_MAX, "Pong", nonce)
        case m.Goodbye(code=number, reason=reason):
            check(0 <= number <= 255 and len(reason) <= m.REASON_CHARS_MAX, "Goodbye", number)
        case m.Interest(bitmap=bitmap):
            check(len(bitmap) <= m.BITMAP_BYTES_MAX, "Interest")
        case m.Ways(closed=closed):
            check(0 <= closed <= m.WAYS_ALL, "Ways", closed)


def open_frames(_: Path) -> Run:
    """A frame with any payload is cut out whole, wherever its bytes break; the payload is a message or is refused with
    `RemoteProtocolError`. A message keeps the limits of its fields, and is written as bytes that are read as the same
    message, and written the same again.
    """
    preamble = encode_preamble(OUR_VERSIONS)

    def run(data: bytes) -> bool:
        deframer = Deframer()
        stream = preamble + len(data).to_bytes(4, "big") + data
        cut = 6 + (data[-1] if data else 0) % (len(stream) - 5)
        deframer.feed(stream[:cut])
        check(deframer.poll_preamble() == OUR_VERSIONS, "another preamble")
        try:
            frames = deframer.poll_frames()
            deframer.feed(stream[cut:])
            frames += deframer.poll_frames()
        except RemoteProtocolError:
            check(not data, "a frame is refused for its length", len(data))
            return False
        check(frames == [data] and not deframer.pending_bytes, "other frames than were sent", frames)
        try:
            message = m.decode_payload(data)
        except RemoteProtocolError:
            return False
        _check_limits(message)
        payload = m.encode_payload(message)
        check(m.decode_payload(payload) == message, "read again it is another message", message)
        check(m.encode_payload(m.decode_payload(payload)) == payload, "written again it is another", payload)
        return True

    return run


def _link_seeds() -> Iterator[bytes]:
    frames = [encode_frame(m.encode_payload(message)) for message in MESSAGES]
    for message in (*MESSAGES[2:6], m.Request(0, 0, 3), m.StreamOpen(0), m.Goodbye(0)):
        yield encode_preamble(OUR_VERSIONS) + frames[0] + encode_frame(m.encode_payload(message))
    yield encode_preamble(OUR_VERSIONS) + b"".join(frames)
    yield CONTROL_MAGIC + b"\2\3"
    yield encode_preamble(OUR_VERSIONS) + frames[0] + b"\0\x20\0\0"


def _heard(data: bytes, cuts: Iterable[int]) -> tuple[list[m.Message], LinkState, bool]:
    """Return the messages that a link makes of bytes in pieces, where it is then, and whether it complains."""
    link = ControlLink(HELLO)
    link.start()
    link.poll_output()
    heard: list[m.Message] = []
    complaint, start = "", 0
    for cut in (*cuts, len(data)):
        try:
            for message in link.handle_bytes(data[start:cut]):
                heard.append(message)
        except RemoteProtocolError as error:
            check(not complaint, "it complains twice", complaint)
            complaint = str(error)
            check(link.state is LinkState.CLOSING and link.output_bytes, "no Goodbye after a fault", link.state)
        start = cut
    return heard, link.state, bool(complaint)


def open_links(_: Path) -> Run:
    """A link says the same of the same bytes, in whatever pieces they come: the same messages, then at most one
    complaint, a `RemoteProtocolError`, after which a Goodbye is queued that names it.
    """

    def run(data: bytes) -> bool:
        whole = _heard(data, ())
        lengths = [1 + (byte & 31) for byte in data[:64]]
        pieces = _heard(data, (cut for cut in accumulate(lengths) if cut < len(data)))
        check(whole == pieces, "in pieces it means something else", whole, pieces)
        return not whole[2]

    return run


TOKEN: Final = bytes(range(m.TOKEN_BYTES))
"""The first one that is issued, as the random bytes are what they are here."""


def _data_seeds() -> Iterator[bytes]:
    yield encode_preface(TOKEN)
    yield encode_preface(TOKEN, encrypted=True)
    yield encode_header(DataHeader(0, 0, 1))
    yield encode_header(DataHeader(m.U32_MAX, CHUNK_COUNT_MAX - 1, CHUNK_SIZE_MAX))
    yield encode_preface(TOKEN) + encode_header(DataHeader(7, 3, 65536))


def open_data(_: Path) -> Run:
    """40 bytes are a preface, whose token is spent at most once, or `RemoteProtocolError`; each 16 bytes behind it are
    a header within its limits, or the same error. What was read is written as the same bytes.
    """

    def run(data: bytes) -> bool:
        tokens: TokenRegistry[str] = TokenRegistry(lambda count: bytes(range(count)))
        tokens.issue("b1", 0.0)
        try:
            preface = decode_preface(data[:PREFACE_BYTES])
            token, version, encrypted = preface.token, preface.version, preface.encrypted
            again = encode_preface(token, version, encrypted=encrypted)
            check(again == data[:PREFACE_BYTES], "another preface", preface)
            check(tokens.spend(token, 1.0, encrypted=encrypted) == ("b1", b""), "a token of somebody else")
            check(not encrypted, "a token for a plain stream opens an encrypted one")
            check(not len(tokens), "a token was not spent")
        except RemoteProtocolError:
            pass
        rest = data[PREFACE_BYTES:] if len(data) >= PREFACE_BYTES + HEADER_BYTES else data
        for start in range(0, max(1, len(rest)), HEADER_BYTES):
            try:
                header = decode_header(rest[start : start + HEADER_BYTES])
            except RemoteProtocolError:
                return False
            check(header.chunk < CHUNK_COUNT_MAX and 1 <= header.length <= CHUNK_SIZE_MAX, "beyond limits", header)
            check(encode_header(header) == rest[start : start + HEADER_BYTES], "another header", header)
        return True

    return run


CODE: Final = ("p2pfill.protocol",)

TARGETS: Final = (
    Target("frames", open_frames, _frame_seeds, runs=10_000_000, size_max=5000, form="msgpack", code=CODE),
    Target("links", open_links, _link_seeds, size_max=8 * KIB, code=CODE),
    Target("data", open_data, _data_seeds, size_max=128, code=CODE),
)
