"""A peer that says what a script tells it to, at the level of frames: legal ones from the codecs, others as raw bytes.

It keeps no rules, so nothing stops it from breaking them. By itself it only does what an honest cache would: it answers
Ping, says what it `holds` to who asks, and grants data streams. Each of these can be switched off. A script is a source
(`next_request`, `next_stream`) or a receiver (`want`, `request`, `open_stream`), or both.
"""

from __future__ import annotations

import itertools
import os
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from p2pfill.errors import RemoteProtocolError
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import PREFACE_BYTES, DataHeader, decode_preface, encode_header, encode_preface
from p2pfill.protocol.framing import OUR_VERSIONS, Deframer, encode_frame, encode_preamble

READ_BYTES = 256 * 1024
HANDSHAKE_S = 5.0
FAREWELL_S = 0.2
FIRST_NONCE = m.U32_MAX
SCRIPT_NONCES = 1 << 20
"""Nonces from here on are the scripts' own."""

HEARD_MAX = 2000
"""Messages that are kept for scripts to look at."""

GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class PeerGone(Exception):
    """The node has ended the link, or the stream: for an attack a success of the node's, and its own end."""


def frame(message: m.Message) -> bytes:
    """Return a legal message as it goes over the wire."""
    return encode_frame(m.encode_payload(message))


class DataStream:
    """A data stream on which the peer sends what it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, *parts: bytes | memoryview) -> None:
        """Send raw bytes. Raises `PeerGone`."""
        try:
            await self.stream.send_all(parts[0] if len(parts) == 1 else b"".join(parts))
        except GONE as error:
            raise PeerGone(f"data stream: {error}") from error

    async def wait_end(self) -> None:
        """Wait until the node has closed it."""
        with suppress(*GONE):
            while await self.stream.receive_some(1024):
                pass

    async def close(self) -> None:
        """Close it at once."""
        await trio.aclose_forcefully(self.stream)


def answer(request: m.Request, payload: bytes, *, chunk: int = -1, request_id: int = -1, length: int = -1) -> bytes:
    """Return header and payload for a request; what is given besides replaces the header's right value."""
    header = DataHeader(
        request.request_id if request_id < 0 else request_id,
        request.chunk if chunk < 0 else chunk,
        len(payload) if length < 0 else length,
    )
    return raw_header(header) + payload


def raw_header(header: DataHeader, kind: int = 1, flags: int = 0) -> bytes:
    """Return a header with whatever numbers, legal or not."""
    numbers = (header.request_id, header.chunk, header.length)
    return bytes((kind, flags, 0, 0)) + b"".join(number.to_bytes(4, "big") for number in numbers)


class Peer:
    """One peer. `linked` connects it; everything else is for use inside of that."""

    def __init__(self, name: str, *, isp: str = "isp-a", region: str = "default", port: int | None = None) -> None:
        """`port` is what its Hello says instead of where it listens."""
        self.tls: ssl.SSLContext | None = None
        """With which it links, where the node asks for a certificate."""
        self.name = name
        self.isp = isp
        self.region = region
        self.port = port
        self.holds: dict[bytes, tuple[int, bytes]] = {}
        """Title -> chunk count and bitmap, as it tells who asks."""
        self.reads = True
        """Once it is False, nothing more is read of the control link."""
        self.answers_pings = self.answers_wants = self.grants_streams = True
        self.hook: Callable[[m.Message], m.Message | None] = lambda message: None
        """Called with each message that comes; what it returns is sent at once."""
        self.heard: deque[m.Message] = deque(maxlen=HEARD_MAX)
        self.last_pong: m.Pong | None = None
        self.answered = -1
        """The last call of `send_and_wait` up to which the node has got."""
        self.told: dict[int, m.Holdings] = {}
        """Handle of ours -> the holdings that the node told last."""
        self.handles: dict[bytes, int] = {}
        """Title -> the handle under which the node wants it."""
        self.titles: dict[int, bytes] = {}
        self.met = trio.Event()
        self.ended = trio.Event()
        self.goodbye: m.Goodbye | None = None
        self.next_handle = itertools.count()
        self.next_request_id = itertools.count()
        self.next_stream_id = itertools.count()
        self._requests, self.requests = trio.open_memory_channel[m.Request](100_000)
        self._streams, self.streams = trio.open_memory_channel[DataStream](10_000)
        self._tokens, self.tokens = trio.open_memory_channel[bytes](100_000)
        self._nonces = itertools.count()
        self._news = trio.Event()
        self._turn = trio.Lock()
        self._address = ("", 0)
        self._opened: list[trio.SocketStream] = []
        self._stream: trio.abc.Stream

    @property
    def info(self) -> NodeInfo:
        """What a roster says of it."""
        return NodeInfo(NodeId(self.name), self.isp, self.region, "", "127.0.0.1", self.port or 0)

    @asynccontextmanager
    async def linked(self, address: tuple[str, int], hello: bytes | None = None) -> AsyncIterator[Peer]:
        """Be linked with the node at `address` for the length of the block. `hello` replaces preamble and Hello.

        At the end it says Goodbye, so that nobody is told off for leaving.
        """
        self._address = address
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        if self.port is None:
            self.port = listeners[0].socket.getsockname()[1]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._take_stream, listeners)
                connected = await trio.open_tcp_stream(*address)
                self._opened.append(connected)
                self._stream = connected if self.tls is None else trio.SSLStream(connected, self.tls)
                nursery.start_soon(self._read)
                await self._introduce(hello)
                try:
                    yield self
                finally:
                    with trio.move_on_after(FAREWELL_S) as farewell, suppress(PeerGone):
                        farewell.shield = True
                        await self.send(m.Goodbye(0))
                    nursery.cancel_scope.cancel()
        finally:
            # Without a checkpoint, at which a cancelled task would leave the rest of them open.
            for opened in (*self._opened, *listeners):
                opened.socket.close()

    async def _introduce(self, hello: bytes | None) -> None:
        await self.send_raw(self.opening() if hello is None else hello)
        with trio.move_on_after(HANDSHAKE_S):
            await self.met.wait()
            if hello is None:
                # Once this is answered, the node has taken in the Hello and knows who breaks its rules.
                await self.send(m.Ping(FIRST_NONCE))
                await self.wait_for(lambda: self.last_pong)

    async def send_and_wait(self, data: bytes, ahead: int = 0) -> None:
        """Send raw bytes, and wait until the node has got so far, but for the last `ahead` of such calls."""
        nonce = next(self._nonces)
        await self.send_raw(data + frame(m.Ping(nonce)))
        await self.wait_for(lambda: self.answered >= nonce - ahead)

    def opening(self) -> bytes:
        """Return preamble and Hello."""
        return encode_preamble(OUR_VERSIONS) + frame(self.hello())

    def hello(self) -> m.Hello:
        """Return how it introduces itself."""
        boot = os.urandom(4).hex()
        return m.Hello(self.name, self.isp, self.region, "", "127.0.0.1", self.port or 0, 1.0, "hostile/1", boot)

    # ---- output

    async def send(self, *messages: m.Message) -> None:
        """Send legal messages in one segment. Raises `PeerGone`."""
        await self.send_raw(b"".join(map(frame, messages)))

    async def send_raw(self, data: bytes) -> None:
        """Send any bytes over the control link. Raises `PeerGone`."""
        try:
            async with self._turn:
                await self._stream.send_all(data)
        except GONE as error:
            raise PeerGone(f"control link: {error}") from error

    # ---- input

    async def _read(self) -> None:
        deframer = Deframer()
        try:
            while data := await self._stream.receive_some(READ_BYTES):
                if not self.reads:
                    await trio.sleep_forever()
                deframer.feed(data)
                if deframer.poll_preamble() is not None:
                    for payload in deframer.poll_frames():
                        await self._take(m.decode_payload(payload))
        except (*GONE, PeerGone, RemoteProtocolError):
            pass
        finally:
            self._end()

    def _end(self) -> None:
        self.ended.set()
        self.met.set()
        self._note_news()
        for channel in (self._requests, self._streams, self._tokens):
            channel.close()

    def _note_news(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _take(self, message: m.Message) -> None:
        self.heard.append(message)
        match message:
            case m.Hello():
                self.met.set()
            case m.Goodbye():
                self.goodbye = message
            case m.Ping(nonce) if self.answers_pings:
                await self.send(m.Pong(nonce))
            case m.Pong(nonce):
                self.last_pong = message
                self.answered = max(self.answered, nonce if nonce < SCRIPT_NONCES else -1)
            case m.Subscribe(handle, title_id):
                self.handles[title_id], self.titles[handle] = handle, title_id
                if self.answers_wants:
                    await self.send(self.holdings(handle))
            case m.Holdings(handle):
                self.told[handle] = message
            case m.StreamOpen(stream_id) if self.grants_streams:
                await self.send(m.StreamGrant(stream_id, os.urandom(m.TOKEN_BYTES)))
            case m.StreamGrant(_, token):
                self._tokens.send_nowait(token)
            case m.Request():
                self._requests.send_nowait(message)
        if (reply := self.hook(message)) is not None:
            await self.send(reply)
        self._note_news()

    def holdings(self, handle: int) -> m.Holdings:
        """Return what it says it holds of the title under a handle of the node's."""
        held = self.holds.get(self.titles[handle])
        return m.Holdings(handle, False) if held is None else m.Holdings(handle, True, *held)

    async def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until something that has come makes `condition` true. Raises `PeerGone` where the link ends first."""
        while not condition():
            if self.ended.is_set():
                raise PeerGone(str(self.goodbye))
            await self._news.wait()

    # ---- as a source

    async def _take_stream(self, stream: trio.SocketStream) -> None:
        with suppress(*GONE, RemoteProtocolError):
            preface = b""
            while len(preface) < PREFACE_BYTES:
                part = await stream.receive_some(PREFACE_BYTES - len(preface))
                if not part:
                    return
                preface += part
            decode_preface(preface)
            self._streams.send_nowait(DataStream(stream))
            await trio.sleep_forever()

    async def next_request(self) -> m.Request:
        """Return the next chunk that the node asks for. Raises `PeerGone`."""
        try:
            return await self.requests.receive()
        except trio.EndOfChannel as error:
            raise PeerGone(str(self.goodbye)) from error

    async def next_stream(self) -> DataStream:
        """Return the next data stream that the node opens. Raises `PeerGone`."""
        try:
            return await self.streams.receive()
        except trio.EndOfChannel as error:
            raise PeerGone(str(self.goodbye)) from error

    # ---- as a receiver

    async def want(self, title_id: bytes) -> int:
        """Ask for a title; return the handle once the node has told its holdings. Raises `PeerGone`."""
        handle = next(self.next_handle)
        await self.send(m.Subscribe(handle, title_id))
        await self.wait_for(lambda: handle in self.told)
        return handle

    async def open_stream(self) -> trio.SocketStream:
        """Open a data stream to the node. Raises `PeerGone`, also where the node does not let it."""
        stream_id = next(self.next_stream_id)
        await self.send(m.StreamOpen(stream_id))
        refused = m.StreamRefuse
        await self.wait_for(
            lambda: (
                self.tokens.statistics().current_buffer_used
                or any(isinstance(said, refused) and said.stream_id == stream_id for said in self.heard)
            )
        )
        try:
            token = self.tokens.receive_nowait()
        except trio.WouldBlock as error:
            raise PeerGone("no data stream is granted") from error
        return await self.connect(encode_preface(token))

    async def connect(self, first: bytes) -> trio.SocketStream:
        """Open a TCP connection to the node that begins with `first`. Raises `PeerGone`."""
        try:
            stream = await trio.open_tcp_stream(*self._address)
            self._opened.append(stream)
            await stream.send_all(first)
        except GONE as error:
            raise PeerGone(f"connection: {error}") from error
        return stream

    async def request(self, handle: int, chunk: int) -> int:
        """Ask for a chunk; return the request's id. Raises `PeerGone`."""
        number = next(self.next_request_id)
        await self.send(m.Request(handle, number, chunk))
        return number


async def read_exactly(stream: trio.SocketStream, count: int) -> bytes:
    """Return `count` bytes of a stream. Raises `PeerGone` where it ends before."""
    got = bytearray()
    try:
        while len(got) < count:
            part = await stream.receive_some(count - len(got))
            if not part:
                raise PeerGone(f"data stream ended after {len(got)} of {count} bytes")
            got += part
    except GONE as error:
        raise PeerGone(f"data stream: {error}") from error
    return bytes(got)


__all__ = ["DataStream", "Peer", "PeerGone", "answer", "encode_header", "frame", "raw_header", "read_exactly"]
