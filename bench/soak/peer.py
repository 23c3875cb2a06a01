"""A light cache of the crowd: a real control link over TLS and real data streams, over no store and no fill logic.

It holds some of the titles that come, wholly, and serves them; now and then it fetches one that the node has, checks
each chunk, and keeps nothing. Its link lives for a while, ends in good order or without a word, and comes back.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio
import xxhash

from p2pfill.errors import P2PFillError, RemoteProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import NodeReport, TitleReport
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
from p2pfill.protocol.rules import Side
from p2pfill.tracker.client import TrackerClient
from p2pfill.transport.control import ControlChannel
from p2pfill.transport.secure import secure_link
from p2pfill.trust.credentials import Credentials

REQUESTS_MAX: Final = 1024
"""Of the node, that wait to be served: what the rules let it have outstanding."""

ANSWER_S: Final = 20.0
"""For a fetch: of some chunks, from a node on the same machine, beside others."""

RESET: Final = struct.pack("ii", 1, 0)
"""Of SO_LINGER: a connection that is closed is reset."""

BACK_S: Final = 1.0
"""Before a link that has ended is made again: half as long to twice as long."""

HOLDERS: Final = 6
"""Of the caches that report, one in so many holds a title that some hold."""


class Held(NamedTuple):
    """A title that the crowd knows."""

    manifest: Manifest
    file: Path
    some_hold: bool
    """Whether caches of the crowd hold it; otherwise it comes from its origin."""


class Habits(NamedTuple):
    """What the caches of a crowd do, on average."""

    link_s: float
    """How long a link lives."""
    fetch_s: float
    """Between two fetches of one cache."""


class Crowd:
    """The caches of one process: what they know, and what they have done."""

    def __init__(self, address: tuple[str, int], habits: Habits, seed: int) -> None:
        """`address` is the node's."""
        self.address = address
        self.habits = habits
        self.chance = random.Random(seed)
        self.titles: dict[bytes, Held] = {}
        self.live: list[bytes] = []
        """Those that the node has whole."""
        self.did: Counter[str] = Counter()
        self.port = 0
        self._tokens: dict[bytes, _Linked] = {}

    async def listen(self, nursery: trio.Nursery) -> None:
        """Take data streams of the node, for all caches on one port: a token tells whose it is."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self._serve, listeners)

    def grant(self, linked: _Linked) -> bytes:
        """Return a token for a stream of a link."""
        token = os.urandom(m.TOKEN_BYTES)
        self._tokens[token] = linked
        return token

    def forget(self, linked: _Linked) -> None:
        """Take back the tokens of a link."""
        for token in [token for token, one in self._tokens.items() if one is linked]:
            del self._tokens[token]

    async def _serve(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, P2PFillError):
            linked = self._tokens.pop(decode_preface(await _receive(stream, PREFACE_BYTES)).token, None)
            if linked is not None:
                await linked.serve(stream)


class Peer:
    """One cache of the crowd."""

    def __init__(self, crowd: Crowd, name: str, isp: str, region: str, identity: Path, *, is_reporting: bool) -> None:
        self.crowd = crowd
        self.name = name
        self.isp = isp
        self.region = region
        self.is_reporting = is_reporting
        """Whether the tracker knows of it."""
        self.credentials = Credentials(identity)

    async def run(self) -> None:
        """Be linked, again and again, until cancelled."""
        chance = self.crowd.chance
        while True:
            try:
                await self._link()
            except* (OSError, P2PFillError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                self.crowd.did["failed links"] += 1
            await trio.sleep(BACK_S * chance.uniform(0.5, 2.0))

    async def _link(self) -> None:
        crowd = self.crowd
        await trio.to_thread.run_sync(self.credentials.reload)
        stream = await trio.open_tcp_stream(*crowd.address)
        try:
            with trio.fail_after(60):
                secured = await secure_link(stream, self.credentials, accepting=False)
        except BaseException:
            stream.socket.close()
            raise
        hello = m.Hello(self.name, self.isp, self.region, "", "127.0.0.1", crowd.port, 1.0, "soak", os.urandom(4).hex())
        channel = ControlChannel(stream, hello, secured.received, None, secured.layer)
        linked = _Linked(self, channel)
        crowd.did["links"] += 1
        crowd.did["linked"] += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_channel, channel, linked, nursery)
                nursery.start_soon(linked.fetch_now_and_then)
                await trio.sleep(crowd.chance.expovariate(1 / crowd.habits.link_s))
                if crowd.chance.random() < 0.5:
                    crowd.did["breaks"] += 1
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    nursery.cancel_scope.cancel()
                else:
                    channel.close(m.GoodbyeCode.NORMAL, "the link has lived")
        finally:
            crowd.did["linked"] -= 1
            linked.end()

    async def _run_channel(self, channel: ControlChannel, linked: _Linked, nursery: trio.Nursery) -> None:
        with suppress(ConnectionError):
            await channel.run(linked.take)
        nursery.cancel_scope.cancel()

    def holds(self, title_id: bytes, held: Held) -> bool:
        """Tell whether this cache is one of those that hold a title. Only such as report do: others are not known."""
        lot = xxhash.xxh3_64_intdigest(title_id + self.name.encode())
        return self.is_reporting and held.some_hold and lot % HOLDERS == 0

    async def report(self, url: str) -> None:
        """Tell the tracker again and again what the cache holds, until cancelled."""
        info = NodeInfo(self.name, self.isp, self.region, "", "127.0.0.1", self.crowd.port)  # type: ignore[arg-type]
        boot, sequence, since = os.urandom(4).hex(), 0, 0
        told: set[bytes] = set()
        async with TrackerClient(url, credentials=self.credentials) as client:
            while True:
                held = {title_id: one for title_id, one in self.crowd.titles.items() if self.holds(title_id, one)}
                told = told if since else set()
                news = [_live(title_id, held[title_id].manifest) for title_id in held.keys() - told]
                gone = [title_id.hex() for title_id in told - held.keys()]
                sequence += 1
                pause_s = 1.0
                with suppress(P2PFillError):
                    reply = await client.heartbeat(
                        NodeReport(info, boot, sequence, titles=news, gone=gone, since=since)
                    )
                    since, pause_s = (0 if reply.again else sequence), reply.interval_s
                    told = set(held)
                    self.crowd.did["heartbeats"] += 1
                await trio.sleep(pause_s)


def _live(title_id: bytes, manifest: Manifest) -> TitleReport:
    count, size = manifest.chunk_count, manifest.size
    return TitleReport(title_id.hex(), "live", count, count, size, size)


class _Linked:
    """One link of a cache while it lasts."""

    def __init__(self, peer: Peer, channel: ControlChannel) -> None:
        self._peer = peer
        self._channel = channel
        self._asked, self._requests = trio.open_memory_channel[m.Request](REQUESTS_MAX)
        self._theirs: dict[int, Held] = {}
        """Handle of the node -> the title."""
        self._holdings: dict[int, Bitmap | None] = {}
        """Our handle -> what the node has told of it."""
        self._refused: set[int] = set()
        """Requests of ours that the node will not serve."""
        self._news = trio.Event()
        self._tokens, self._granted = trio.open_memory_channel[bytes](16)

    def end(self) -> None:
        """Let the streams go."""
        self._asked.close()
        self._peer.crowd.forget(self)

    # ---- what the node says

    def take(self, message: m.Message) -> None:
        """Take one message of the node."""
        match message:
            case m.Subscribe(handle, title_id):
                self._tell_holdings(handle, title_id)
            case m.Unsubscribe(handle):
                self._theirs.pop(handle, None)
            case m.StreamOpen(stream_id):
                self._channel.send(m.StreamGrant(stream_id, self._peer.crowd.grant(self)))
            case m.Request():
                self._asked.send_nowait(message)
            case m.Holdings(handle, known, count, bitmap) if handle in self._holdings:
                self._holdings[handle] = Bitmap.from_bytes(bitmap, count) if known else None
            case m.StreamGrant(_, token):
                with suppress(trio.WouldBlock):
                    self._tokens.send_nowait(token)
            case m.Reject(request_id):
                self._refused.add(request_id)
            case _:
                return
        self._news.set()
        self._news = trio.Event()

    def _tell_holdings(self, handle: int, title_id: bytes) -> None:
        held = self._peer.crowd.titles.get(title_id)
        if held is None:
            self._channel.send(m.Holdings(handle, False))
            return
        self._theirs[handle] = held
        count = held.manifest.chunk_count
        bits = Bitmap.full(count) if self._peer.holds(title_id, held) else Bitmap(count)
        self._channel.send(m.Holdings(handle, True, count, bits.to_bytes()))

    # ---- what the node fetches

    async def serve(self, stream: trio.SocketStream) -> None:
        """Send what the node requests, on a stream that it has opened, until one of them ends."""
        async for request in self._requests:
            held = self._theirs.get(request.handle)
            if held is None:
                self._channel.reject_request(request.request_id, "missing")
                continue
            data = await trio.to_thread.run_sync(_read_chunk, held, request.chunk)
            self._channel.finish_request(Side.REMOTE, request.request_id)
            await stream.send_all(encode_header(DataHeader(request.request_id, request.chunk, len(data))) + data)
            self._peer.crowd.did["served"] += 1

    # ---- what this cache fetches

    async def fetch_now_and_then(self) -> None:
        """Fetch a title that the node has, with pauses."""
        crowd = self._peer.crowd
        while True:
            await trio.sleep(crowd.chance.expovariate(1 / crowd.habits.fetch_s))
            known = [title_id for title_id in crowd.live if title_id in crowd.titles]
            if known:
                title_id = crowd.chance.choice(known)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError, RemoteProtocolError):
                    await self._fetch(title_id, crowd.titles[title_id])

    async def _fetch(self, title_id: bytes, held: Held) -> None:
        channel = self._channel
        handle = channel.next_handle()
        self._holdings[handle] = None
        if not channel.send(m.Subscribe(handle, title_id)):
            return
        try:
            with trio.move_on_after(ANSWER_S):
                while self._holdings[handle] is None:
                    await self._news.wait()
                channel.send(m.StreamOpen(channel.next_stream_id()))
                token = await self._granted.receive()
                async with await trio.open_tcp_stream(*self._peer.crowd.address) as stream:
                    await stream.send_all(encode_preface(token))
                    for chunk in range(held.manifest.chunk_count):
                        if not await self._fetch_chunk(stream, handle, chunk, held):
                            break
        finally:
            del self._holdings[handle]
            channel.send(m.Unsubscribe(handle))

    async def _fetch_chunk(self, stream: trio.SocketStream, handle: int, chunk: int, held: Held) -> bool:
        """Fetch a chunk; False where the node refuses."""
        number = self._channel.next_request_id()
        if not self._channel.send(m.Request(handle, number, chunk)):
            return False
        data = b""
        async with trio.open_nursery() as nursery:

            async def wait_refused() -> None:
                while number not in self._refused:
                    await self._news.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_refused)
            with suppress(RemoteProtocolError, trio.BrokenResourceError):
                header = decode_header(await _receive(stream, HEADER_BYTES))
                data = await _receive(stream, header.length)
            nursery.cancel_scope.cancel()
        self._channel.finish_request(Side.LOCAL, number)
        self._refused.discard(number)
        if not data:
            return False
        right = xxhash.xxh3_128_digest(data) == held.manifest.chunk_xxh3(chunk)
        self._peer.crowd.did["fetched" if right else "wrong"] += 1
        return right


def _read_chunk(held: Held, chunk: int) -> bytes:
    start, end = held.manifest.cut.span(chunk)
    try:
        with held.file.open("rb") as file:
            return os.pread(file.fileno(), end - start, start)
    except FileNotFoundError:
        return bytes(end - start)  # withdrawn meanwhile; nobody wants it any more


async def _receive(stream: trio.SocketStream, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = await stream.receive_some(count - len(parts))
        if not part:
            raise RemoteProtocolError("the stream ended too early")
        parts += part
    return bytes(parts)
