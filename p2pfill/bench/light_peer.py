"""Another cache, as light as can be: the real control link and real data streams over no store and no fill logic.

A benchmark that needs 64 neighbours of one node would measure the neighbours if they were nodes. These speak the same
bytes (`transport.control`, `protocol.data`), check what they are sent, and keep nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import trio
import xxhash

from p2pfill.errors import RemoteProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
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
from p2pfill.transport.control import ControlChannel

WINDOW: Final = 4
"""Requests outstanding; a node asks a fast source for up to 8."""

REQUESTS_MAX: Final = 4096
"""Requests of the node that wait to be served. It has far fewer outstanding on one link."""

READ_BYTES: Final = 1 << 20


class LightPeer:
    """One neighbour of the node at `address`, which holds `holds` of `manifest` and wants news of all of it."""

    def __init__(
        self,
        name: str,
        isp: str,
        address: tuple[str, int],
        manifest: Manifest,
        holds: Bitmap,
        read_chunk: Callable[[int], bytes],
    ) -> None:
        """`read_chunk` returns the bytes of a chunk that the node asks for."""
        self._name = name
        self._isp = isp
        self._address = address
        self._manifest = manifest
        self._holds = holds
        self._read_chunk = read_chunk
        self._tokens, self._granted = trio.open_memory_channel[bytes](16)
        self._asked, self._requests = trio.open_memory_channel[m.Request](REQUESTS_MAX)
        self._channel: ControlChannel | None = None
        self._handle = 0
        self.linked = trio.Event()
        self.held = trio.Event()
        """Set when the node has said which chunks it holds."""
        self.holdings: Bitmap | None = None
        self.answers = 0
        """How often the node has said what it holds, be it nothing."""
        self.sent_chunks = 0

    async def run(self) -> None:
        """Be linked until the node ends the link, or cancelled. Raises `OSError` where nobody listens."""
        stream = await trio.open_tcp_stream(*self._address)
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            port = listeners[0].socket.getsockname()[1]
            hello = m.Hello(
                self._name, self._isp, "default", "", "127.0.0.1", port, 1.0, "p2pfill-bench", os.urandom(4).hex()
            )
            self._channel = ControlChannel(stream, hello)
            with suppress(ConnectionError):
                await self._channel.run(self._take)
            nursery.cancel_scope.cancel()

    async def fetch(self, chunks: Sequence[int]) -> None:
        """Have these chunks sent over a data stream of our own, and check each one's XXH3.

        Raises `RemoteProtocolError` for what was not asked for or is wrong, and `OSError`.
        """
        await self.held.wait()
        channel = self._channel
        if channel is None or not chunks:
            return
        channel.send(m.StreamOpen(channel.next_stream_id()))
        token = await self._granted.receive()
        async with await trio.open_tcp_stream(*self._address) as stream:
            await stream.send_all(encode_preface(token))
            expected: dict[int, int] = {}
            waiting = list(reversed(chunks))
            while waiting or expected:
                while waiting and len(expected) < WINDOW:
                    number = channel.next_request_id()
                    expected[number] = waiting.pop()
                    channel.send(m.Request(self._handle, number, expected[number]))
                header = decode_header(await _receive(stream, HEADER_BYTES))
                if expected.pop(header.request_id, None) != header.chunk:
                    raise RemoteProtocolError(f"chunk {header.chunk} came and was not asked for")
                await self._check_payload(stream, header)

    async def _check_payload(self, stream: trio.SocketStream, header: DataHeader) -> None:
        digest, left = xxhash.xxh3_128(), header.length
        while left:
            part = await stream.receive_some(min(left, READ_BYTES))
            if not part:
                raise RemoteProtocolError(f"the stream ended inside chunk {header.chunk}")
            digest.update(part)
            left -= len(part)
        if digest.digest() != self._manifest.chunk_xxh3(header.chunk):
            raise RemoteProtocolError(f"chunk {header.chunk} came with wrong bytes")

    def _take(self, message: m.Message) -> None:
        channel = self._channel
        if channel is None:
            return
        match message:
            case m.Hello():
                self.linked.set()
                self._handle = channel.next_handle()
                channel.send(m.Subscribe(self._handle, self._manifest.title_id))
            case m.Holdings(_, known, chunk_count, bitmap):
                self.answers += 1
                if known:
                    self.holdings = Bitmap.from_bytes(bitmap, chunk_count)
                    self.held.set()
            case m.Subscribe(handle, title_id):
                known = title_id == self._manifest.title_id
                holdings = (len(self._holds), self._holds.to_bytes()) if known else (0, b"")
                channel.send(m.Holdings(handle, known, *holdings))
            case m.StreamOpen(stream_id):
                channel.send(m.StreamGrant(stream_id, os.urandom(m.TOKEN_BYTES)))
            case m.StreamGrant(_, token):
                self._tokens.send_nowait(token)
            case m.Request():
                self._asked.send_nowait(message)
            case _:
                pass

    async def _serve(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            decode_preface(await _receive(stream, PREFACE_BYTES))
            async for request in self._requests:
                data = await trio.to_thread.run_sync(self._read_chunk, request.chunk)
                await stream.send_all(encode_header(DataHeader(request.request_id, request.chunk, len(data))))
                await stream.send_all(data)
                self.sent_chunks += 1


async def _receive(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        if not part:
            raise RemoteProtocolError("the stream ended too early")
        data += part
    return data
