"""One link of the second cache (`second`), written from docs/protocol.md alone. Sections in comments are the page's."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import xxhash
from blake3 import blake3

from . import independent as wire
from . import masters

HANDSHAKE_S, KEEPALIVE_S, SILENCE_S, LINGER_S = 10.0, 10.0, 35.0, 0.5
CONNECT_S, STREAM_SILENCE_S = 10.0, 30.0


class Fault(Exception):
    """The remote breaks a rule."""


class Stored:
    """A title, or a part of one."""

    def __init__(self, title: wire.Title) -> None:
        self.title = title
        self.count = len(title.xxh3)
        self.size = sum(file.size for file in title.files)
        self.chunks: dict[int, bytes] = {}

    def length(self, chunk: int) -> int:
        return self.title.lengths[chunk]

    def take(self, chunk: int, data: bytes) -> bool:
        """Keep a chunk; False where it is not the title's."""
        right = xxhash.xxh3_128(data).digest() == self.title.xxh3[chunk]
        if self.title.integrity == "blake3":
            right = right and blake3(data).digest() == self.title.blake3[chunk]
        if right:
            self.chunks.setdefault(chunk, data)
        return right

    def content(self) -> bytes:
        return b"".join(self.chunks[chunk] for chunk in range(self.count))


def to_bitmap(chunks: Iterable[int], count: int) -> bytes:
    bits = bytearray(-(-count // 8))
    for chunk in chunks:
        bits[chunk >> 3] |= 1 << (chunk & 7)
    return bytes(bits)


def from_bitmap(bits: bytes, count: int) -> set[int]:
    if len(bits) != -(-count // 8) or int.from_bytes(bits, "little") >> count:
        raise Fault("bitmap")
    return {chunk for chunk in range(count) if bits[chunk >> 3] >> (chunk & 7) & 1}


class Subscription:
    """One title that one side wants of the other, under a handle of the asker."""

    def __init__(self, title_id: bytes) -> None:
        self.title_id = title_id
        self.count: int | None = None
        self.known = False
        self.holds: set[int] = set()
        self.interest: set[int] | None = None
        self.answered = asyncio.Event()
        self.claims: dict[int, float] = {}


class Asked(NamedTuple):
    """A request of ours."""

    handle: int
    chunk: int
    done: asyncio.Future[bool]


class Link:
    """One control connection and its data streams."""

    def __init__(self, cache: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.cache, self.reader, self.writer = cache, reader, writer
        self.hello: dict[str, Any] = {}
        self.heard: list[wire.Message] = []
        self.goodbye: dict[str, Any] | None = None
        self.opened, self.ended, self.news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.mine: dict[int, Subscription] = {}
        self.theirs: dict[int, Subscription] = {}
        self.asked: dict[int, Asked] = {}
        self.past: set[int] = set()
        """Requests that were given up and may be answered once."""
        self.queue: dict[int, tuple[int, int]] = {}
        """Of the remote: request -> handle and chunk."""
        self.queued = asyncio.Event()
        self.last = dict.fromkeys(("handle", "request_id", "stream_id"), -1)
        """The highest ids that the remote has used."""
        self.ids = {name: itertools.count() for name in (*self.last, "nonce")}
        self.pings: set[int] = set()
        self.waiting_streams: set[int] = set()
        self.streams_here = 0
        self.has_stream = False
        self.heard_at = time.monotonic()
        self.is_closed = False

    # ---- sections 1 and 2

    def send(self, name: str, **fields: Any) -> None:
        if not self.ended.is_set():
            self.writer.write(wire.encode_frame(wire.encode_message(wire.Message(name, fields))))

    def say_hello(self) -> None:
        self.writer.write(wire.encode_preamble())
        self.send("Hello", **self.cache.hello)

    async def read_frame(self) -> wire.Message:
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        if not 1 <= length <= wire.FRAME_BYTES_MAX:
            raise Fault("length of a frame")
        payload = await self.reader.readexactly(length)
        self.heard_at = time.monotonic()
        try:
            return wire.decode_message(payload)
        except wire.Invalid as error:
            raise Fault(str(error)) from error

    async def run(self, magic: bytes = b"") -> None:
        try:
            self.say_hello()
            async with asyncio.timeout(HANDSHAKE_S):
                preamble = magic + await self.reader.readexactly(6 - len(magic))
                if preamble[:4] != b"P2FC" or not 1 <= preamble[4] <= preamble[5]:
                    raise Fault("preamble")
                if not preamble[4] <= 2 <= preamble[5]:
                    self.part(2, "no version in common")
                    return
                first = await self.read_frame()
            if first.name == "Goodbye":
                self.goodbye = first.fields
                return
            if first.name != "Hello":
                raise Fault("Hello must be first")
            self.hello = first.fields
            self.cache.spawn(self.keep_alive())
            self.cache.admit(self)
            while self.goodbye is None:
                message = await self.read_frame()
                if self.ended.is_set():
                    continue
                self.heard.append(message)
                take = getattr(self, f"take_{message.name.lower()}", None)
                if take is None:
                    raise Fault(f"a {message.name} here")
                take(**message.fields)
                self.news.set()
        except Fault as fault:
            self.part(1, str(fault))
            await self.read_past()
        except TimeoutError:
            self.part(6, "no Hello")
            await self.read_past()
        except (OSError, EOFError):
            pass
        finally:
            self.end()

    async def read_past(self) -> None:
        with suppress(OSError):
            while await self.reader.read(65536):
                pass

    def part(self, code: int, reason: str) -> None:
        """Say Goodbye, end our half, and close a little later; what still comes is dropped."""
        if not self.ended.is_set():
            self.send("Goodbye", code=code, reason=reason[:200])
            self.ended.set()
            with suppress(OSError):
                self.writer.write_eof()
            asyncio.get_running_loop().call_later(LINGER_S, self.writer.close)

    def end(self) -> None:
        self.is_closed = True
        self.ended.set()
        self.news.set()
        self.opened.set()
        self.writer.close()
        self.queued.set()
        self.cache.forget(self)
        for number in list(self.asked):
            self.give_up(number, cancel=False)

    async def keep_alive(self) -> None:
        while not self.ended.is_set():
            if time.monotonic() - self.heard_at > SILENCE_S:
                self.part(6, "silence")
                return
            self.ping()
            await asyncio.sleep(KEEPALIVE_S)

    def ping(self) -> None:
        nonce = next(self.ids["nonce"])
        self.pings.add(nonce)
        self.send("Ping", nonce=nonce)

    def take_ping(self, nonce: int) -> None:
        if self.cache.answers_pings:
            self.send("Pong", nonce=nonce)

    def take_pong(self, nonce: int) -> None:
        if nonce not in self.pings:
            raise Fault("a Pong to no Ping")
        self.pings.discard(nonce)
        self.cache.lives(self)

    def take_goodbye(self, code: int, reason: str) -> None:
        self.goodbye = {"code": code, "reason": reason}

    # ---- section 4, as the one who is asked

    def use_id(self, kind: str, number: int) -> None:
        if number <= self.last[kind]:
            raise Fault(f"{kind} {number} was used before")
        self.last[kind] = number

    def their(self, handle: int) -> Subscription:
        if handle not in self.theirs:
            raise Fault(f"handle {handle} is not open")
        return self.theirs[handle]

    def tell_holdings(self, handle: int) -> None:
        wanted = self.theirs[handle]
        stored = self.cache.titles.get(wanted.title_id)
        if stored is None:
            self.send("Holdings", handle=handle, known=False, chunk_count=0, bitmap=b"")
        else:
            wanted.count = stored.count
            bits = to_bitmap(stored.chunks, stored.count)
            self.send("Holdings", handle=handle, known=True, chunk_count=stored.count, bitmap=bits)

    def take_subscribe(self, handle: int, title_id: bytes) -> None:
        self.use_id("handle", handle)
        self.theirs[handle] = Subscription(title_id)
        self.tell_holdings(handle)

    def take_unsubscribe(self, handle: int) -> None:
        self.their(handle)
        del self.theirs[handle]
        self.queue = {number: ask for number, ask in self.queue.items() if ask[0] != handle}

    def take_interest(self, handle: int, chunk_count: int, bitmap: bytes) -> None:
        wanted = self.their(handle)
        if chunk_count != wanted.count:
            raise Fault("chunk count of an Interest")
        wanted.interest = from_bitmap(bitmap, chunk_count)
        if fetching := sorted(self.cache.at_border.get(wanted.title_id, ())):
            self.send("Fetching", handle=handle, chunks=fetching)
        self.tell_holdings(handle)

    def take_request(self, handle: int, request_id: int, chunk: int) -> None:
        wanted = self.their(handle)
        if wanted.count is None or chunk >= wanted.count:
            raise Fault("a Request without Holdings, or beyond them")
        self.use_id("request_id", request_id)
        stored = self.cache.titles.get(wanted.title_id)
        if stored is None or chunk not in stored.chunks:
            self.send("Reject", request_id=request_id, code="missing")
        else:
            self.queue[request_id] = handle, chunk
            self.queued.set()

    def take_cancel(self, request_id: int) -> None:
        if request_id > self.last["request_id"]:
            raise Fault("Cancel of what was never asked")
        self.queue.pop(request_id, None)

    def take_streamopen(self, stream_id: int, encrypt: bool, certificate: bytes) -> None:
        self.use_id("stream_id", stream_id)
        if encrypt and not certificate:
            raise Fault("an encrypted stream without a certificate")
        if encrypt:
            self.send("StreamRefuse", stream_id=stream_id, reason="no certificate")
            return
        token = self.cache.grant(self)
        if token is None:
            self.send("StreamRefuse", stream_id=stream_id, reason="too many")
        else:
            self.send("StreamGrant", stream_id=stream_id, token=token, certificate=b"")

    # ---- section 4, as the one who asks

    def subscribe(self, title_id: bytes) -> int:
        handle = next(self.ids["handle"])
        self.mine[handle] = Subscription(title_id)
        self.send("Subscribe", handle=handle, title_id=title_id)
        return handle

    def unsubscribe(self, handle: int) -> None:
        del self.mine[handle]
        for number, asked in list(self.asked.items()):
            if asked.handle == handle:
                self.give_up(number, cancel=False)
        self.send("Unsubscribe", handle=handle)

    def told(self, handle: int) -> Subscription | None:
        """What news under a handle of ours is about; None where that is over."""
        if handle not in self.mine and handle >= self.first_unused("handle"):
            raise Fault(f"handle {handle} was never used")
        return self.mine.get(handle)

    def first_unused(self, kind: str) -> int:
        number = next(self.ids[kind])
        self.ids[kind] = itertools.count(number)
        return number

    def take_holdings(self, handle: int, known: bool, chunk_count: int, bitmap: bytes) -> None:
        if (wanted := self.told(handle)) is None:
            return
        holds = from_bitmap(bitmap, chunk_count)
        if (not known and chunk_count) or (known and wanted.count not in (None, chunk_count)):
            raise Fault("chunk count of Holdings")
        if not known:
            for number, asked in list(self.asked.items()):
                if asked.handle == handle:
                    self.give_up(number)
        else:
            wanted.count = chunk_count
        wanted.known, wanted.holds = known, holds
        wanted.answered.set()

    def indexes(self, handle: int, chunks: list[int]) -> Subscription | None:
        wanted = self.told(handle)
        if wanted is not None and (wanted.count is None or max(chunks) >= wanted.count):
            raise Fault("news without Holdings, or beyond them")
        return wanted

    def take_have(self, handle: int, chunks: list[int]) -> None:
        if (wanted := self.indexes(handle, chunks)) is not None:
            wanted.holds.update(chunks)

    def take_fetching(self, handle: int, chunks: list[int]) -> None:
        if (wanted := self.indexes(handle, chunks)) is not None:
            wanted.claims.update(dict.fromkeys(chunks, time.monotonic()))

    def take_reportslow(self, handle: int, node_id: str) -> None:
        self.told(handle)

    def take_ways(self, handle: int, closed: int) -> None:
        if self.told(handle) is not None:
            places = (masters.REGION, masters.WORLD, masters.ORIGIN)
            self.cache.closed[self.hello["node_id"]] = frozenset(p for p in places if closed >> (p - 1) & 1)

    def request(self, handle: int, chunk: int) -> asyncio.Future[bool]:
        number = next(self.ids["request_id"])
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked[number] = Asked(handle, chunk, done)
        self.send("Request", handle=handle, request_id=number, chunk=chunk)
        if not self.has_stream:
            self.has_stream = True
            stream_id = next(self.ids["stream_id"])
            self.waiting_streams.add(stream_id)
            self.send("StreamOpen", stream_id=stream_id, encrypt=False, certificate=b"")
        return done

    def give_up(self, number: int, *, cancel: bool = True) -> None:
        asked = self.asked.pop(number)
        self.past.add(number)
        if cancel:
            self.send("Cancel", request_id=number)
        if not asked.done.done():
            asked.done.set_result(False)

    def take_reject(self, request_id: int, code: str) -> None:
        if request_id >= self.first_unused("request_id"):
            raise Fault("Reject of what was never asked")
        if (asked := self.asked.pop(request_id, None)) is not None:
            asked.done.set_result(False)

    def answered_stream(self, stream_id: int) -> None:
        if stream_id not in self.waiting_streams:
            raise Fault("an answer to no StreamOpen")
        self.waiting_streams.discard(stream_id)

    def take_streamrefuse(self, stream_id: int, reason: str) -> None:
        self.answered_stream(stream_id)
        self.stream_over()

    def take_streamgrant(self, stream_id: int, token: bytes, certificate: bytes) -> None:
        self.answered_stream(stream_id)
        if certificate:
            raise Fault("an encrypted stream on a link without certificates")
        self.cache.spawn(self.receive(token))

    def stream_over(self) -> None:
        self.has_stream = False
        for number in list(self.asked):
            self.give_up(number)

    # ---- section 5

    async def receive(self, token: bytes) -> None:
        writer = None
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(self.hello["host"], self.hello["port"])
            writer.write(wire.encode_preface(token))
            while not self.ended.is_set():
                await self.receive_chunk(reader)
        except Fault as fault:
            self.part(1, str(fault))
        except (OSError, EOFError, TimeoutError):
            pass
        finally:
            if writer is not None:
                writer.close()
            self.stream_over()

    async def receive_chunk(self, reader: asyncio.StreamReader) -> None:
        try:
            number, chunk, length = wire.decode_header(await reader.readexactly(16))
        except wire.Invalid as error:
            raise Fault(str(error)) from error
        asked = self.asked.pop(number, None)
        if asked is None:
            if number not in self.past:
                raise Fault(f"a second answer to request {number}, or one to none")
            self.past.discard(number)
        stored = self.cache.titles[self.mine[asked.handle].title_id] if asked is not None else None
        if asked is not None and stored is not None and (chunk, length) != (asked.chunk, stored.length(asked.chunk)):
            raise Fault("another chunk, or another length, than was asked for")
        async with asyncio.timeout(STREAM_SILENCE_S):
            payload = await reader.readexactly(length)
        if asked is not None and stored is not None and not asked.done.done():
            asked.done.set_result(stored.take(chunk, payload))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send what is asked for on a stream that the remote has opened."""
        self.streams_here += 1
        self.cache.streams.append(writer)
        ended = asyncio.ensure_future(self.wait_end(reader))
        try:
            while not self.ended.is_set():
                if not self.queue:
                    self.queued.clear()
                    queued = asyncio.ensure_future(self.queued.wait())
                    await asyncio.wait((queued, ended), return_when=asyncio.FIRST_COMPLETED)
                    queued.cancel()
                    if ended.done():
                        return
                    continue
                number = next(iter(self.queue))
                handle, chunk = self.queue.pop(number)
                data = self.cache.titles[self.theirs[handle].title_id].chunks[chunk]
                for part in self.cache.answer(number, chunk, data):
                    writer.write(part)
                await writer.drain()
        except OSError:
            pass
        finally:
            ended.cancel()
            self.streams_here -= 1
            self.cache.streams.remove(writer)
            writer.close()

    async def wait_end(self, reader: asyncio.StreamReader) -> None:
        """Wait for the end of a stream that the remote has opened, or for a byte, which must not come."""
        with suppress(OSError):
            await reader.read(1)
