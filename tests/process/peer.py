"""Another cache written by hand over the real protocol classes: as honest, clumsy or hostile as a test wants it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import trio

from p2pfill.errors import RemoteProtocolError
from p2pfill.model.manifest import Manifest
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import PREFACE_BYTES, DataHeader, decode_preface, encode_header, encode_preface
from p2pfill.transport.control import ControlChannel


class Peer:
    """Links with the node at `address` and claims to hold all of `manifest`.

    `payload(chunk, length)` makes what it sends for a request. `tokens` are grants of the node for streams of ours.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        node_id: str = "zz-peer",
        isp: str = "isp-a",
        host: str = "127.0.0.1",
        payload: Callable[[int, int], bytes] = lambda chunk, length: os.urandom(length),
        holds_nothing: bool = False,
        answer: Callable[[m.Request], bytes] | None = None,
    ) -> None:
        """`answer` makes all that it sends for a request, header and all; it goes before `payload`."""
        self.answer = answer
        self.manifest = manifest
        self.node_id = node_id
        self.isp = isp
        self.host = host
        self.payload = payload
        self.requested: list[int] = []
        self.holds_nothing = holds_nothing
        self.holdings: m.Holdings | None = None
        self.heard: list[int] = []
        """Chunks that the node has told it of."""
        self.interests: list[m.Interest] = []
        self.slow: list[m.ReportSlow] = []
        self.linked = trio.Event()
        self.ended = trio.Event()
        self.end_reason = ""
        self.channel: ControlChannel | None = None
        self._titles: dict[int, bytes] = {}
        self._requests: trio.MemorySendChannel[m.Request]
        self._tokens: trio.MemorySendChannel[bytes]

    async def run(
        self, address: tuple[str, int], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Stay linked until the node ends the link or the task is cancelled."""
        self._requests, requests = trio.open_memory_channel[m.Request](1000)
        self._tokens, self.tokens = trio.open_memory_channel[bytes](100)
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]

            async def serve(stream: trio.SocketStream) -> None:
                await self._serve(stream, requests)

            nursery.start_soon(trio.serve_listeners, serve, listeners)
            stream = await trio.open_tcp_stream(*address)
            hello = m.Hello(self.node_id, self.isp, "default", "", self.host, port, 1.0, "test/1", os.urandom(4).hex())
            self.channel = ControlChannel(stream, hello)
            task_status.started()
            try:
                await self.channel.run(self._handle(self.channel))
            except (ConnectionError, RemoteProtocolError) as error:
                self.end_reason = str(error)
            self.end_reason = self.end_reason or self.channel.end_reason
            self.ended.set()
            nursery.cancel_scope.cancel()

    def _handle(self, channel: ControlChannel) -> Callable[[m.Message], None]:
        def handle(message: m.Message) -> None:
            match message:
                case m.Hello():
                    self.linked.set()
                case m.Subscribe(handle, title_id):
                    self._titles[handle] = title_id
                    if title_id == self.manifest.title_id:
                        channel.send(self.all_of_it(handle))
                    else:
                        channel.send(m.Holdings(handle, False))
                case m.Holdings():
                    self.holdings = message
                case m.Have(_, chunks):
                    self.heard.extend(chunks)
                case m.ReportSlow():
                    self.slow.append(message)
                case m.Interest():
                    self.interests.append(message)
                case m.StreamOpen(stream_id):
                    channel.send(m.StreamGrant(stream_id, os.urandom(m.TOKEN_BYTES)))
                case m.StreamGrant(_, token):
                    self._tokens.send_nowait(token)
                case m.Request(_, _, chunk):
                    self.requested.append(chunk)
                    self._requests.send_nowait(message)
                case _:
                    pass

        return handle

    @property
    def asked_by(self) -> list[int]:
        """The handles under which the node has asked for titles."""
        return list(self._titles)

    def all_of_it(self, handle: int) -> m.Holdings:
        count = self.manifest.chunk_count
        if self.holds_nothing:
            return m.Holdings(handle, True, count, bytes((count + 7) // 8))
        bitmap = bytearray(b"\xff" * ((count + 7) // 8))
        if count % 8:
            bitmap[-1] = (1 << count % 8) - 1
        return m.Holdings(handle, True, count, bytes(bitmap))

    async def _serve(self, stream: trio.SocketStream, requests: trio.MemoryReceiveChannel[m.Request]) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            preface = b""
            while len(preface) < PREFACE_BYTES:
                preface += await stream.receive_some(PREFACE_BYTES - len(preface))
            decode_preface(preface)
            async for request in requests:
                if self.answer is not None:
                    await stream.send_all(self.answer(request))
                    continue
                length = self.manifest.chunk_length(request.chunk)
                header = encode_header(DataHeader(request.request_id, request.chunk, length))
                await stream.send_all(header + self.payload(request.chunk, length))

    # ---- as the one that receives

    async def want(self) -> int:
        """Ask for the title; return the handle once the node has told its holdings."""
        assert self.channel is not None
        await self.linked.wait()
        handle = self.channel.next_handle()
        self.channel.send(m.Subscribe(handle, self.manifest.title_id))
        while self.holdings is None:
            await trio.sleep(0.005)
        return handle

    async def open_stream(self, address: tuple[str, int]) -> trio.SocketStream:
        """Open a data stream to the node, on which it sends what is requested."""
        assert self.channel is not None
        self.channel.send(m.StreamOpen(self.channel.next_stream_id()))
        token = await self.tokens.receive()
        stream = await trio.open_tcp_stream(*address)
        await stream.send_all(encode_preface(token))
        return stream

    def request(self, handle: int, chunk: int) -> None:
        """Ask for one chunk."""
        assert self.channel is not None
        self.channel.send(m.Request(handle, self.channel.next_request_id(), chunk))
