"""Attacks of a source on the data streams: second answers, answers nobody asked for, wrong lengths, no end of waiting.

Rules assumed: each request has one answer, on one stream, in one piece; a second one is a fault that quarantines the
source and ends its link. What is late, after a Cancel, is read past.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import trio

from p2pfill.protocol import messages as m
from p2pfill.protocol.data import DataHeader
from tests.hostile.attack import Scene, attack
from tests.hostile.peer import DataStream, Peer, PeerGone, answer, raw_header

END_S = 2.0
"""For the node to end the link with who has attacked it."""

QUIET_S = 0.2
"""A node that asks for nothing for so long has what it wants, or wants nothing of this source any more."""

DRIP_S = 0.05

GRANT_S = 0.002

CHECKED_S = 0.1
"""For a chunk of 16 MiB to be written and checked."""

SECOND_STREAM_S = 5.0
SLOW_NOTICE = (("stall_wait_s", 0.5), ("request_timeout_s", 1.6))
"""A policy under which a chunk of which a byte comes now and then is not silent: progress is told each second."""


def garbage(length: int) -> bytes:
    """Return bytes that are not the title's."""
    return os.urandom(length)


async def wait_end(peer: Peer, limit_s: float = QUIET_S) -> None:
    """Give the node time to end the link. Raises `PeerGone` when it does."""
    with trio.move_on_after(limit_s):
        await peer.ended.wait()
        raise PeerGone(str(peer.goodbye))


async def for_each_request(
    scene: Scene, serve: Callable[[DataStream, m.Request, bytes], Awaitable[None]], peer: Peer | None = None
) -> None:
    """Be a source; call `serve` with a stream, each request and its right bytes, until the node asks no more."""
    async with scene.source(peer) as linked:
        stream = await linked.next_stream()
        while True:
            with trio.move_on_after(QUIET_S) as waited:
                request = await linked.next_request()
            if waited.cancelled_caught:
                break
            while linked.streams.statistics().current_buffer_used:
                stream = await linked.next_stream()
            scene.strike()
            with suppress(PeerGone):  # the stream alone may be over, and another one come
                await serve(stream, request, scene.title.chunk(request.chunk))
        await wait_end(linked)


def halves(data: bytes) -> tuple[bytes, bytes]:
    """Cut in two."""
    return data[: len(data) // 2], data[len(data) // 2 :]


# ---- one stream


@attack(needs="fill", both=True, named="{name} quarantined: ", quarantines=True, ends_link=True)
async def second_answer_good_then_garbage(scene: Scene) -> None:
    """Answers each request twice in one segment: the right bytes, then others."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(answer(request, right), answer(request, garbage(len(right))))

    await for_each_request(scene, serve)


@attack(needs="fill", named="{name} quarantined: ", quarantines=True)
async def second_answer_garbage_then_good(scene: Scene) -> None:
    """Answers each request twice in one segment: wrong bytes, then the right ones."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(answer(request, garbage(len(right))), answer(request, right))

    await for_each_request(scene, serve)


@attack(needs="fill", both=True, named="{name} quarantined: ", quarantines=True, ends_link=True)
async def second_answer_begun(scene: Scene) -> None:
    """Answers each request with the right bytes, then begins a second answer with garbage and lets it hang."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(answer(request, right), raw_header(header_of(request, right)), garbage(len(right) // 2))
        with trio.move_on_after(QUIET_S):
            await stream.wait_end()

    await for_each_request(scene, serve)


@attack(needs="fill", named="{name} quarantined: ", quarantines=True, ends_link=True)
async def second_answer_later(scene: Scene) -> None:
    """Answers all requests rightly and, when the title is nearly there, the first ones once more with garbage."""
    answered: list[m.Request] = []

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        answered.append(request)
        await stream.send(answer(request, right))
        if len(answered) == scene.title.manifest.chunk_count - 2:
            await stream.send(*(answer(old, garbage(len(right))) for old in answered[:8]))

    await for_each_request(scene, serve)


@attack(needs="fill", both=True, named="{name} quarantined: ", quarantines=True)
async def garbage_for_all(scene: Scene) -> None:
    """Answers each request with wrong bytes of the right length."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(answer(request, garbage(len(right))))

    await for_each_request(scene, serve)


@attack(needs="fill", named="{name} quarantined: ", quarantines=True)
async def last_byte_wrong(scene: Scene) -> None:
    """Answers each request with one byte changed, the last one."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(answer(request, right[:-1] + bytes((right[-1] ^ 1,))))

    await for_each_request(scene, serve)


# ---- headers


def header_of(request: m.Request, payload: bytes | memoryview) -> DataHeader:
    """Return the right header."""
    return DataHeader(request.request_id, request.chunk, len(payload))


@attack(needs="fill", named="{name} .*never made|never used|{name}.*not asked")
async def answer_never_asked(scene: Scene) -> None:
    """Answers a request that was never made, for a chunk that is missing, before each right answer."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(answer(request, garbage(len(right)), request_id=1_000_000), answer(request, right))

    await for_each_request(scene, serve)


@attack(needs="fill", named="{name} .*chunk")
async def header_of_another_chunk(scene: Scene) -> None:
    """Answers each request with the id it was asked under and the number of another chunk."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        other = (request.chunk + 1) % scene.title.manifest.chunk_count
        await stream.send(answer(request, scene.title.chunk(other), chunk=other))

    await for_each_request(scene, serve)


@attack(needs="fill", named="{name} ")
async def bytes_of_another_chunk(scene: Scene) -> None:
    """Answers each request with the right header and the right bytes of another chunk of the same length."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(answer(request, scene.title.chunk((request.chunk + 1) % 8)[: len(right)].ljust(len(right))))

    await for_each_request(scene, serve)


def wrong_length(change: Callable[[int], int]) -> Callable[[Scene], Awaitable[None]]:
    """Make a script that announces another length than was asked for, and sends so much of it as there is."""

    async def script(scene: Scene) -> None:
        async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
            length = change(len(right))
            await stream.send(answer(request, right[:length].ljust(min(length, 1 << 20), b"x"), length=length))

        await for_each_request(scene, serve)

    return script


for _name, _change in (
    ("length_shorter", lambda length: length - 1),
    ("length_longer", lambda length: length + 1),
    ("length_zero", lambda length: 0),
    ("length_huge", lambda length: 0xFFFFFFFF),
    ("length_largest", lambda length: 64 << 20),
):
    _script = wrong_length(_change)
    _script.__name__ = _name
    _script.__doc__ = f"Answers each request with a header of another length: {_name.removeprefix('length_')}."
    attack(needs="fill", named="{name} .*(bytes|length)")(_script)


@attack(needs="fill", named="{name} .*(kind|flags|header)")
async def header_of_unknown_kind(scene: Scene) -> None:
    """Answers with a kind of header that there is none of."""

    async def serve(stream: DataStream, request: m.Request, right: bytes) -> None:
        await stream.send(raw_header(header_of(request, right), kind=7), right)

    await for_each_request(scene, serve)


# ---- two streams


class TwoStreams:
    """A source that is fast, until the node opens a second stream; then it has requests that it has not answered."""

    def __init__(self, scene: Scene, peer: Peer) -> None:
        self.scene = scene
        self.peer = peer
        self.streams: list[DataStream] = []
        self.waiting: list[m.Request] = []

    async def make(self) -> bool:
        """Return whether the node has opened a second stream and waits for two chunks at least."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._give_up, nursery.cancel_scope)
            await self._make()
            nursery.cancel_scope.cancel()
        return len(self.streams) == 2 and len(self.waiting) >= 2

    async def _give_up(self, scope: trio.CancelScope) -> None:
        with trio.move_on_after(SECOND_STREAM_S):
            await self.scene.title_done.wait()
        scope.cancel()

    async def _make(self) -> None:
        self.streams.append(await self.peer.next_stream())
        while len(self.streams) < 2:
            while len(self.waiting) < 3 and self.peer.requests.statistics().current_buffer_used:
                self.waiting.append(await self.peer.next_request())
            if not self.peer.streams.statistics().current_buffer_used:
                if not self.waiting:
                    self.waiting.append(await self.peer.next_request())
                request = self.waiting.pop(0)
                right = self.scene.title.view(request.chunk)
                await self.streams[0].send(raw_header(header_of(request, right)))
                await self.streams[0].send(right)
                # The node may open the stream once it has this one; a source that waits for that is slow.
                with trio.move_on_after(GRANT_S):
                    self.streams.append(await self.peer.next_stream())
            else:
                self.streams.append(await self.peer.next_stream())
        while len(self.waiting) < 2:
            self.waiting.append(await self.peer.next_request())

    def right(self, request: m.Request) -> bytes:
        return self.scene.title.chunk(request.chunk)


Pieces = Iterator[tuple[int, bytes]]
"""What is sent in which order: number of the stream, bytes; none for a pause in which a chunk may be checked."""


def on_two_streams(order: Callable[[TwoStreams], Pieces]) -> Callable[[Scene], Awaitable[None]]:
    """Make a script that sends what `order` says over two streams of one link."""

    async def script(scene: Scene) -> None:
        async with scene.source() as peer:
            two = TwoStreams(scene, peer)
            if not await two.make():
                scene.missed = "the node took the source for slow and opened no second stream"
                return
            try:
                for number, data in order(two):
                    await two.streams[number].send(data)
                    if not data:
                        await trio.sleep(CHECKED_S)
            finally:
                scene.strike()
            await wait_end(peer)

    script.__name__, script.__doc__ = order.__name__, order.__doc__
    return script


TWO = {"needs": "big", "integrity": "xxh3", "named": "{name} quarantined: ", "quarantines": True, "ends_link": True}
TWO_MIB = {"growth_max_bytes": 256 << 20, "completes_s": 8.0, "policy": (("stall_wait_s", 0.5),)}


@attack(**TWO, **TWO_MIB)
@on_two_streams
def second_answer_on_another_stream(two: TwoStreams) -> Pieces:
    """Answers a request rightly on one stream, and with garbage on the other right after."""
    first = two.waiting[0]
    right = two.right(first)
    yield 0, answer(first, right)
    yield 1, answer(first, garbage(len(right)))


@attack(**TWO, **TWO_MIB)
@on_two_streams
def second_answer_crosswise(two: TwoStreams) -> Pieces:
    """Answers two requests rightly, each on a stream, and then each with garbage on the other's stream."""
    first, second = two.waiting[:2]
    yield 0, answer(first, two.right(first))
    yield 1, answer(second, two.right(second))
    yield 0, answer(second, garbage(len(two.right(second))))
    yield 1, answer(first, garbage(len(two.right(first))))


@attack(both=True, **TWO, **TWO_MIB)
@on_two_streams
def second_answer_interleaved(two: TwoStreams) -> Pieces:
    """Answers one request on two streams at once, slice by slice: the right bytes and garbage."""
    first = two.waiting[0]
    right = two.right(first)
    wrong = garbage(len(right))
    yield 0, answer(first, b"", length=len(right))
    yield 1, answer(first, b"", length=len(right))
    step = 1 << 20
    for start in range(0, len(right), step):
        yield 0, right[start : start + step]
        yield 1, wrong[start : start + step]


@attack(both=True, **TWO, **TWO_MIB)
@on_two_streams
def second_answer_announced_first(two: TwoStreams) -> Pieces:
    """Sends the header of a second answer on one stream, the right answer on the other, and then the garbage."""
    first = two.waiting[0]
    right = two.right(first)
    yield 1, answer(first, b"", length=len(right))
    yield 0, answer(first, right)
    yield 1, b""
    yield 1, garbage(len(right))


# ---- what comes late, or not at all


async def let_cancel(scene: Scene, peer: Peer, first: bytes = b"") -> tuple[DataStream, list[m.Request]]:
    """Answer nothing, but for a first part of the first request, until the node has cancelled what it asked for."""
    stream = await peer.next_stream()
    requests = [await peer.next_request()]
    if first:
        right = scene.title.chunk(requests[0].chunk)
        await stream.send(answer(requests[0], right[: len(first)], length=len(right)))
    await peer.wait_for(lambda: any(isinstance(said, m.Cancel) for said in peer.heard))
    while peer.requests.statistics().current_buffer_used:
        requests.append(await peer.next_request())
    return stream, requests


@attack(needs="fill", named="{name} .*in time")
async def answer_after_cancel(scene: Scene) -> None:
    """Answers with garbage what was cancelled, when others have delivered it: late, but not forbidden."""
    async with scene.source() as peer:
        stream, requests = await let_cancel(scene, peer)
        await trio.sleep(0.1)
        for request in requests:
            await stream.send(answer(request, garbage(len(scene.title.chunk(request.chunk)))))
        scene.strike()
        await trio.sleep(0.2)


@attack(needs="fill", named="{name} quarantined: ", quarantines=True, ends_link=True)
async def answer_twice_after_cancel(scene: Scene) -> None:
    """Answers with garbage what was cancelled, and once more."""
    async with scene.source() as peer:
        stream, requests = await let_cancel(scene, peer)
        scene.strike()
        for request in requests:
            part = answer(request, garbage(len(scene.title.chunk(request.chunk))))
            await stream.send(part, part)
        await wait_end(peer)


@attack(needs="fill", both=True, named="{name} .*in time")
async def half_before_cancel_half_after(scene: Scene) -> None:
    """Sends half of a chunk, is cancelled, and sends the rest as garbage when others have delivered the chunk."""
    async with scene.source() as peer:
        length = len(scene.title.chunk(0))
        stream, _ = await let_cancel(scene, peer, bytes(length // 2))
        await trio.sleep(0.1)
        await stream.send(garbage(length - length // 2))
        scene.strike()
        await trio.sleep(0.2)


@attack(needs="fill", named="{name} ")
async def silence_in_mid_chunk(scene: Scene) -> None:
    """Sends half of the first chunk and then nothing, for ever."""
    async with scene.source() as peer:
        stream = await peer.next_stream()
        request = await peer.next_request()
        right = scene.title.chunk(request.chunk)
        await stream.send(answer(request, halves(right)[0], length=len(right)))
        scene.strike()
        await scene.over.wait()
        await scene.title_done.wait()


@attack(needs="fill", named="{name} ", policy=SLOW_NOTICE, completes_s=6.0)
async def drip(scene: Scene) -> None:
    """Sends each chunk some bytes at a time, twenty times a second, and never ends one."""
    async with scene.source() as peer:
        stream = await peer.next_stream()
        request = await peer.next_request()
        right = scene.title.chunk(request.chunk)
        await stream.send(answer(request, b"", length=len(right)))
        scene.strike()
        for start in range(0, 2000, 20):
            if not scene.title_done.is_set():
                await stream.send(right[start : start + 20])
                await trio.sleep(DRIP_S)


@attack(needs="fill", policy=SLOW_NOTICE, completes_s=6.0)
async def crawl(scene: Scene) -> None:
    """Sends the right bytes of each chunk, one chunk a second: a fill from it alone would take half a minute."""
    async with scene.source() as peer:
        stream = await peer.next_stream()
        for _ in range(3):
            request = await peer.next_request()
            right = scene.title.chunk(request.chunk)
            for start in range(0, len(right), len(right) // 10):
                await stream.send(b"" if start else answer(request, b"", length=len(right)))
                await stream.send(right[start : start + len(right) // 10])
                await trio.sleep(0.1)
                scene.strike()
                if scene.title_done.is_set():
                    return


@attack(needs="fill", named="{name} ")
async def closes_in_mid_chunk(scene: Scene) -> None:
    """Closes the data stream half-way through a chunk, again and again."""
    async with scene.source() as peer:
        scene.strike()
        while True:
            with trio.move_on_after(1.0) as waited:
                stream = await peer.next_stream()
                while True:
                    request = await peer.next_request()
                    if not peer.requests.statistics().current_buffer_used:
                        break
                right = scene.title.chunk(request.chunk)
                await stream.send(answer(request, halves(right)[0], length=len(right)))
                await stream.close()
            if waited.cancelled_caught:
                return


@attack(needs="fill", named="{name} .*no data stream")
async def refuses_streams(scene: Scene) -> None:
    """Claims to hold everything and refuses each data stream."""
    peer = Peer(scene.name)
    peer.grants_streams = False
    peer.hook = lambda said: m.StreamRefuse(said.stream_id, "no") if isinstance(said, m.StreamOpen) else None
    async with scene.source(peer):
        scene.strike()
        await scene.over.wait()


@attack(needs="fill", named="{name} ")
async def grants_nowhere(scene: Scene) -> None:
    """Grants each data stream, and says that it listens where nobody does."""
    async with scene.source(Peer(scene.name, port=1)):
        scene.strike()
        await scene.over.wait()


@attack(needs="fill", named="{name} .*refused")
async def rejects_everything(scene: Scene) -> None:
    """Claims to hold everything and rejects each request."""
    peer = Peer(scene.name)
    peer.hook = lambda said: m.Reject(said.request_id, "busy") if isinstance(said, m.Request) else None
    async with scene.source(peer):
        scene.strike()
        await scene.over.wait()
