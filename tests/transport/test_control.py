"""Control links over real trio streams: two channels joined, and one against a stranger."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
import trio.testing

from p2pfill.errors import RemoteProtocolError
from p2pfill.model.limits import MIB
from p2pfill.protocol.framing import OUR_VERSIONS, encode_frame, encode_preamble
from p2pfill.protocol.messages import GoodbyeCode, Hello, Holdings, Message, Ping, Subscribe, encode_payload
from p2pfill.transport import control
from p2pfill.transport.control import SHARE_BURST_S, ControlChannel, LoopShare, LoopShares


def hello(name: str) -> Hello:
    return Hello(node_id=name, isp="i", region="r")


class Log:
    """Keeps what a channel received."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.arrived = trio.Event()

    def handle(self, message: Message) -> None:
        self.messages.append(message)
        if not isinstance(message, Hello):
            self.arrived.set()


async def wait_open(channel: ControlChannel) -> None:
    with trio.fail_after(20):
        while channel.remote_hello is None:
            await trio.testing.wait_all_tasks_blocked()


async def test_two_channels_greet_talk_and_part() -> None:
    near, far = trio.testing.memory_stream_pair()
    a, b = ControlChannel(near, hello("a")), ControlChannel(far, hello("b"))
    seen_a, seen_b = Log(), Log()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.run, seen_a.handle)
            nursery.start_soon(b.run, seen_b.handle)
            await wait_open(a)
            await wait_open(b)
            assert a.send(Subscribe(1, bytes(32)))
            await seen_b.arrived.wait()
            a.close(GoodbyeCode.SHUTDOWN, "the night is over")
    assert seen_b.messages == [hello("a"), Subscribe(1, bytes(32))]
    assert seen_a.messages == [hello("b")]
    assert b.end_reason == "the night is over"
    assert not a.send(Subscribe(2, bytes(32)))


async def test_a_stranger_is_told_why_and_only_its_link_ends() -> None:
    near, far = trio.testing.memory_stream_pair()
    channel = ControlChannel(near, hello("a"))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(RemoteProtocolError):
                    await channel.run(Log().handle)

            nursery.start_soon(run)
            await far.send_all(b"GET / HTTP/1.1\r\n\r\n")
            received = b""
            while part := await far.receive_some(4096):
                received += part
    assert received.startswith(b"P2FC")
    assert b"not a p2pfill" in received


async def test_a_connection_that_breaks_is_a_connection_error() -> None:
    near, far = trio.testing.memory_stream_pair()
    a, b = ControlChannel(near, hello("a")), ControlChannel(far, hello("b"))
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises((ConnectionError, RemoteProtocolError)):
                    await a.run(Log().handle)

            nursery.start_soon(run)
            with trio.move_on_after(0.1):
                await b.run(Log().handle)


async def test_silence_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "HANDSHAKE_TIMEOUT_S", 0.05)
    near, _far = trio.testing.memory_stream_pair()
    channel = ControlChannel(near, hello("a"))
    with trio.fail_after(9):
        await channel.run(Log().handle)
    assert "no Hello" in channel.end_reason


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with near, await listener.accept() as far:
            yield near, far


async def test_a_goodbye_reaches_a_remote_that_is_still_sending() -> None:
    """Closed with bytes unread, the connection would be reset under it."""
    async with tcp_pair() as (near, far):
        channel = ControlChannel(near, hello("a"))
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    with pytest.raises(RemoteProtocolError):
                        await channel.run(Log().handle)

                nursery.start_soon(run)
                await far.send_all(b"GET / HTTP/1.1\r\n\r\n" + bytes(6_000_000))
                await far.send_eof()
                received = b""
                while part := await far.receive_some(4096):
                    received += part
    assert b"not a p2pfill" in received


async def test_a_remote_that_neither_reads_nor_ends_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FAREWELL_TIMEOUT_S", 0.2)
    bitmap = bytes(MIB // 4)
    async with tcp_pair() as (near, far):
        near.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        channel, log = ControlChannel(near, hello("a")), Log()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.run, log.handle)
                said = [encode_payload(message) for message in (hello("b"), Subscribe(0, bytes(32)))]
                await far.send_all(encode_preamble(OUR_VERSIONS) + b"".join(map(encode_frame, said)))
                await log.arrived.wait()
                for _ in range(8):
                    assert channel.send(Holdings(0, True, 8 * len(bitmap), bitmap))
                await trio.sleep(0.1)  # whoever writes now waits for the remote
                channel.close(GoodbyeCode.IDLE, "silent")


@pytest.mark.parametrize("size", [100, 1000, 4000, 60_000])
async def test_messages_in_small_pieces_are_counted_too(size: int) -> None:
    """Or whoever floods a link in pieces below `MANY_BYTES` has as much of the loop as he likes."""
    charged = 0.0

    class Shares(LoopShares):
        def charge(self, own: LoopShare, now: float, took_s: float) -> float:
            nonlocal charged
            charged += took_s
            return 0.0

    near, far = trio.testing.memory_stream_pair()
    channel, log = ControlChannel(near, hello("a"), shares=Shares()), Log()
    said = [encode_payload(message) for message in (hello("b"), Subscribe(0, bytes(32)))]
    ping = encode_frame(encode_payload(Ping(1)))
    count = 400_000 // size

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run, log.handle)
            await far.send_all(encode_preamble(OUR_VERSIONS) + b"".join(map(encode_frame, said)))
            await log.arrived.wait()
            charged, before_s = 0.0, time.thread_time()
            for _ in range(count):
                await far.send_all(size // len(ping) * ping)
                await trio.testing.wait_all_tasks_blocked()
            took_s = time.thread_time() - before_s
            nursery.cancel_scope.cancel()
    assert 0 < charged < 2 * took_s


@pytest.mark.parametrize("count", [1, 100, 256, 1000, 4000, 4096, 65536])
def test_what_is_counted_by_chance_counts_as_what_it_is_on_average(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "random", Random(1))
    weights = [control._weight_of(count) for _ in range(20_000)]
    assert sum(weights) / len(weights) == pytest.approx(1.0, abs=0.1)


def turns(shares: LoopShares, own: LoopShare, now: float, turn_s: float = 0.002) -> float:
    """Have a remote take a turn of the loop; return when its next one may begin."""
    return now + turn_s + shares.charge(own, now + turn_s, turn_s)


@pytest.mark.parametrize("flooding", [1, 2, 5, 20])
def test_those_that_send_much_leave_half_of_the_loop_and_do_not_hold_up_others(flooding: int) -> None:
    shares, span_s = LoopShares(), 20.0
    floods = {LoopShare(): 0.0 for _ in range(flooding)}
    honest, used_s, now, honest_at = LoopShare(), 0.0, 0.0, 0.0
    while now < span_s:
        if now >= honest_at:
            # A hundredth of the loop, as of a link that is told of a title now and then.
            assert turns(shares, honest, now, 0.001) == now + 0.001
            honest_at = now + 0.1
        ready = [own for own, at in floods.items() if at <= now]
        if not ready:
            now = min(honest_at, *floods.values())
            continue
        floods[ready[0]] = turns(shares, ready[0], now)
        now, used_s = now + 0.002, used_s + 0.002
    # What each may have at once comes on top, once.
    assert used_s <= 0.55 * span_s + flooding * SHARE_BURST_S
