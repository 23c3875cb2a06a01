"""Data streams that keep to limits: they end as they would, and their ends and faults are seen."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import xxhash

from p2pfill.engine.requests import Outcome, Receive, RequestBook
from p2pfill.engine.uploads import NextUpload
from p2pfill.model.ids import TitleId
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.model.urgency import Urgency
from p2pfill.protocol.data import DataHeader, encode_header
from p2pfill.transport import data
from p2pfill.transport.plane import DataPlane, Poll, Stream
from tests.transport.lines import MakeLine, lines
from tests.transport.test_data import Files

SIZE = 1_000_000
RATE = 2_000_000


@pytest.fixture
async def plane() -> AsyncIterator[DataPlane]:
    async with DataPlane(workers=2, upload_slots=1).running() as running:
        yield running


@pytest.fixture(params=["plain", "tls"])
def line(request: pytest.FixtureRequest) -> Iterator[MakeLine]:
    with lines(request.param, tcp=True) as make:  # sockets of another kind cannot wait for more than a byte
        yield make


def target(tmp_path: Path, payload: bytes, plane: DataPlane) -> tuple[RequestBook, list[Outcome]]:
    """Return a book with request 1 for all of `payload`, and what becomes of it."""
    title, got = Files(tmp_path, [len(payload)]), list[Outcome]()

    def reap() -> None:
        plane.tell(lambda: got.extend(one.outcome for one in book.reap()), lambda error: None)

    book = RequestBook(reap, threading.RLock())
    digest = xxhash.xxh3_128_digest(payload)
    book.post(Receive(1, title, 3, len(payload), digest, None, None, threading.RLock()))
    return book, got


async def send_all(sock: trio.socket.SocketType, payload: bytes) -> None:
    rest = memoryview(payload)
    while rest:
        rest = rest[await sock.send(rest) :]


async def test_the_last_bytes_of_a_chunk_are_taken_though_none_follow(
    plane: DataPlane, line: MakeLine, tmp_path: Path
) -> None:
    """What a stream waits for before it is woken may be more than what is left of the chunk once its turn comes."""
    payload = bytes(range(250)) * (SIZE // 250)
    book, got = target(tmp_path, payload, plane)
    near, far = await line()
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(data.Receiver(far, plane, book, inlet=getattr(far, "inlet", None)).run)
            await near.send(encode_header(DataHeader(1, 3, len(payload))))
            while far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1:
                await trio.sleep(0.01)
            plane.throttle.put("test", RateLimits(Rates(total=RATE)))
            began = trio.current_time()
            await send_all(near, payload)
            while not got:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert got == [Outcome.VERIFIED]
    assert trio.current_time() - began > 0.8 * SIZE / RATE


@pytest.mark.parametrize("lifted", [False, True])
async def test_a_sender_keeps_to_its_limit_and_goes_on_when_it_is_lifted(
    plane: DataPlane, line: MakeLine, tmp_path: Path, lifted: bool
) -> None:
    (tmp_path / "a").mkdir()
    source = Files(tmp_path / "a", [SIZE])
    payload = bytes(range(250)) * (SIZE // 250)
    source.write(payload)
    uploads = [data.Upload(DataHeader(1, 3, SIZE), source, NextUpload(Urgency(), TitleId(bytes(32))))]
    near, far = await line()
    plane.throttle.put("test", RateLimits(outbound=Rates(peer=20_000 if lifted else RATE)))
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            sender = data.Sender(
                near, plane, lambda: uploads.pop() if uploads else None,
                lambda: uploads[0].wanted if uploads else None, lambda header: None,
                outlet=getattr(near, "outlet", None),
            )  # fmt: skip
            nursery.start_soon(sender.run)
            began, came = trio.current_time(), b""
            while len(came) < SIZE:
                came += await far.recv(65536)
                if lifted and len(came) > 5000:
                    plane.throttle.put("test", NO_LIMITS)
            took_s = trio.current_time() - began
            nursery.cancel_scope.cancel()
    assert took_s < 10 if lifted else took_s > 0.8 * SIZE / RATE


async def test_a_stream_that_waits_for_its_turn_can_be_ended(plane: DataPlane, tmp_path: Path) -> None:
    payload = bytes(SIZE)
    book, got = target(tmp_path, payload, plane)
    plane.throttle.put("test", RateLimits(Rates(peer=1)))
    near, far = trio.socket.socketpair()
    with near, far, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            receiver = data.Receiver(far, plane, book)
            nursery.start_soon(receiver.run)
            await near.send(encode_header(DataHeader(1, 3, len(payload))) + payload[:1000])
            while not receiver.claim.waits:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        while not got:
            await trio.sleep(0.01)
    assert got == [Outcome.BROKEN]
    assert not receiver.claim.waits


class LateStream(Stream):
    """One of which a thread is about to ask for bytes while it is removed."""

    def interest(self) -> int:
        """Wait for bytes."""
        return select.EPOLLIN

    def is_inside_chunk(self) -> bool:
        """Nothing is owed."""
        return False

    def work(self, ready: int) -> Poll:
        """Ask for bytes once the stream is over."""
        until = time.monotonic() + 10
        while not self.closed and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.05)  # until it is removed, too
        self.limits.take(self.claim, 5000)
        return Poll.PARK

    async def run(self) -> None:
        """Be served until cancelled."""
        await self._run()


async def test_nothing_waits_for_a_stream_that_has_ended_while_a_thread_was_at_it(plane: DataPlane) -> None:
    plane.throttle.put("test", RateLimits(outbound=Rates(peer=1)))
    near, far = trio.socket.socketpair()
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            stream = LateStream(far, plane)
            nursery.start_soon(stream.run)
            await near.send(b"x")
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    assert stream.closed
    assert not stream.claim.waits


async def test_a_tier_whose_limit_is_tight_leaves_upload_slots_to_others(tmp_path: Path) -> None:
    """Its uploads keep their slots while they wait for their turn; a chunk of theirs takes a minute here."""
    source = Files(tmp_path, [SIZE])
    source.write(bytes(SIZE))
    came = dict.fromkeys(("regional", "regional 2", "peer"), 0)

    async def serve(plane: DataPlane, name: str) -> None:
        uploads = [data.Upload(DataHeader(1, 3, SIZE), source, NextUpload(Urgency(), TitleId(bytes(32))))]
        near, far = trio.socket.socketpair()
        with near, far:
            sender = data.Sender(
                near, plane, lambda: uploads.pop() if uploads else None,
                lambda: uploads[0].wanted if uploads else None, lambda header: None, tier=name.split()[0],
            )  # fmt: skip
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.run)
                while True:
                    came[name] += len(await far.recv(65536))

    with trio.fail_after(30):
        async with DataPlane(workers=2, upload_slots=2).running() as plane, trio.open_nursery() as nursery:
            plane.throttle.put("test", RateLimits(outbound=Rates(regional=20_000)))
            nursery.start_soon(serve, plane, "regional")
            nursery.start_soon(serve, plane, "regional 2")
            await trio.sleep(0.3)
            nursery.start_soon(serve, plane, "peer")
            while came["peer"] < SIZE:
                await trio.sleep(0.01)
            assert not min(came.values()), "one of the two slots at most"
            plane.throttle.put("test", NO_LIMITS)
            while min(came.values()) < SIZE:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert plane.throttle.in_force == NO_LIMITS
