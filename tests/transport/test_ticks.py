"""Ticks: what has come is taken in, then it is decided once, then it is written; and no call of a thread is lost."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.lowlevel
import trio.testing

from p2pfill.errors import RemoteProtocolError
from p2pfill.protocol.framing import OUR_VERSIONS, encode_frame, encode_preamble
from p2pfill.protocol.messages import GoodbyeCode, Hello, Holdings, Message, Subscribe, encode_payload
from p2pfill.transport import control
from p2pfill.transport import ticks as ticks_module
from p2pfill.transport.control import OUTPUT_BYTES_MAX, ControlChannel
from p2pfill.transport.ticks import Ticks

NEVER = float("inf")


@pytest.fixture
async def ticks() -> AsyncIterator[Ticks]:
    one = Ticks()
    yield one
    one.close()


class Reader:
    """Reads what has come on a socket, and says what happened to it when."""

    def __init__(self, log: list[str], name: str, sock: socket.socket) -> None:
        self.log, self.name, self.sock = log, name, sock

    def handle_readable(self) -> None:
        self.sock.recv(100)
        self.log.append(f"read {self.name}")

    def flush(self) -> None:
        self.log.append(f"flush {self.name}")


@asynccontextmanager
async def running(ticks: Ticks, log: list[str], decide_at: float = NEVER) -> AsyncIterator[None]:
    """Run ticks that note when they decide."""

    def decide(now: float) -> float:
        log.append("decide")
        return decide_at

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticks.run, decide)
        await trio.testing.wait_all_tasks_blocked()
        log.clear()
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


async def test_all_that_is_ready_is_taken_in_before_one_decision_and_then_written(
    ticks: Ticks, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    log: list[str] = []
    readers = [Reader(log, str(number), near) for number, (near, _) in enumerate(pairs)]

    def call() -> None:
        log.append("call")
        ticks.wake()
        ticks.flush_later(readers[2])
        ticks.flush_later(readers[2])

    async with running(ticks, log):
        with ticks.watching(pairs[0][0].fileno(), readers[0]), ticks.watching(pairs[1][0].fileno(), readers[1]):
            for _, far in pairs:
                far.send(b"x")
            ticks.tell(call, log.append)  # type: ignore[arg-type]
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(log[:2]) == ["read 0", "read 1"]
        assert log[2:] == ["call", "decide", "flush 2"]
        log.clear()
        pairs[0][1].send(b"x")  # watched no more
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not log


async def test_it_is_decided_when_something_has_woken_it_or_its_time_has_come(ticks: Ticks) -> None:
    log: list[str] = []
    async with running(ticks, log):
        ticks.tell(partial(log.append, "call"), print)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log == ["call"]
        ticks.wake()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log == ["call", "decide"]
    async with running(ticks, log, trio.current_time() + 0.05):
        began = trio.current_time()
        with trio.fail_after(5):
            while not log:
                await trio.sleep(0.01)
        assert trio.current_time() - began >= 0.03


async def test_what_is_woken_while_it_decides_is_decided_next(ticks: Ticks) -> None:
    decided = 0

    def decide(now: float) -> float:
        nonlocal decided
        decided += 1
        if decided < 4:
            ticks.wake()
        return NEVER

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticks.run, decide)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert decided == 4
        nursery.cancel_scope.cancel()


async def test_a_call_that_fails_is_its_callers_affair(ticks: Ticks) -> None:
    failed: list[Exception] = []
    log: list[str] = []

    def fail() -> None:
        raise ValueError("broken")

    async with running(ticks, log):
        ticks.tell(fail, failed.append)
        ticks.tell(partial(log.append, "next"), failed.append)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert log == ["next"]
    assert [str(error) for error in failed] == ["broken"]


async def test_what_can_wait_comes_with_the_next_tick_and_not_much_later(ticks: Ticks) -> None:
    log: list[str] = []
    async with running(ticks, log):
        ticks.tell_later(partial(log.append, "first"), print)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log == ["first"]  # nothing would have come before
        ticks.tell_later(partial(log.append, "second"), print)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log == ["first"]
        ticks.tell(partial(log.append, "third"), print)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log == ["first", "second", "third"]
        ticks.tell_later(partial(log.append, "fourth"), print)
        began = trio.current_time()
        with trio.fail_after(5):
            while len(log) < 4:
                await trio.sleep(0.005)
        assert trio.current_time() - began < ticks_module.LATER_S + 1


async def test_a_bell_that_is_pulled_late_is_heard_once(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread may be stopped between its look and its pull; the loop must not turn for ever for that."""
    turns: list[float] = []
    real = Ticks._take_in

    def take_in(self: Ticks, now: float) -> None:
        turns.append(now)
        real(self, now)

    monkeypatch.setattr(Ticks, "_take_in", take_in)
    async with running(ticks, []):
        turns.clear()
        os.eventfd_write(ticks._bell, 1)
        await trio.sleep(0.1)
        assert len(turns) == 1


async def test_a_call_while_the_bell_is_read_silences_nobody_after_it(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that rings just then is heard in that tick, and the next one, when nothing else happens, as well."""
    heard: list[str] = []
    read, rings = os.eventfd_read, ["between"]

    def read_between(fd: int) -> int:
        # As a thread does it that has its turn between two steps of the loop.
        if rings and heard:
            ticks.tell(partial(heard.append, rings.pop()), pytest.fail)
        return read(fd)

    monkeypatch.setattr(ticks_module.os, "eventfd_read", read_between)
    monkeypatch.setattr(ticks_module, "LATER_S", 60.0)  # a look that is due anyway would hear it
    async with running(ticks, []):
        for call in ("first", "second", "third"):
            ticks.tell(partial(heard.append, call), pytest.fail)
            with trio.move_on_after(5):
                while call not in heard:
                    await trio.sleep(0.001)
    assert heard == ["first", "between", "second", "third"] or heard == ["first", "second", "between", "third"]


async def test_no_call_of_a_thread_is_lost(ticks: Ticks) -> None:
    count, threads = 400, 4
    made = [0] * threads
    interval = sys.getswitchinterval()

    def shout(number: int) -> None:
        def note() -> None:
            made[number] += 1

        for round_ in range(count):
            (ticks.tell, ticks.tell_later)[round_ % 2](note, print)
            if round_ % 7 == 0:
                time.sleep(0.0005)

    sys.setswitchinterval(1e-5)
    try:
        with trio.fail_after(20):
            async with running(ticks, []):
                for number in range(threads):
                    threading.Thread(target=shout, args=(number,)).start()
                while made != [count] * threads:
                    await trio.sleep(0.01)
    finally:
        sys.setswitchinterval(interval)


# ---- control links that are served so


def hello(name: str) -> Hello:
    return Hello(node_id=name, isp="i", region="r")


@asynccontextmanager
async def linked(ticks: Ticks) -> AsyncIterator[tuple[ControlChannel, trio.SocketStream, list[Message]]]:
    """Yield a channel that ticks serve, its remote's bare connection, and what the channel takes in."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    taken: list[Message] = []
    async with listener, running(ticks, []):
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with near, await listener.accept() as far:
            yield ControlChannel(near, hello("a"), ticks=ticks), far, taken


async def until_open(channel: ControlChannel) -> None:
    while channel.remote_hello is None:
        await trio.sleep(0.005)


async def test_two_channels_greet_talk_and_part_in_ticks(ticks: Ticks) -> None:
    async with linked(ticks) as (a, far, seen_a):
        seen_b: list[Message] = []
        b = ControlChannel(far, hello("b"), ticks=ticks)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.run, seen_a.append)
                nursery.start_soon(b.run, seen_b.append)
                await until_open(a)
                await until_open(b)
                for handle in range(50):
                    assert a.send(Subscribe(handle, bytes(32)))
                while len(seen_b) < 51:
                    await trio.sleep(0.005)
                a.close(GoodbyeCode.SHUTDOWN, "the night is over")
        assert seen_b == [hello("a"), *(Subscribe(handle, bytes(32)) for handle in range(50))]
        assert seen_a == [hello("b")]
        assert b.end_reason == "the night is over"
        assert not ticks._watched


async def test_what_goes_wrong_in_a_tick_is_its_links_own(ticks: Ticks) -> None:
    async with linked(ticks) as (bad, far, _):
        strangers = ControlChannel(far, hello("b"), ticks=ticks)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    with pytest.raises(RemoteProtocolError, match="wrong"):
                        await bad.run(refuse)

                def refuse(message: Message) -> None:
                    raise RemoteProtocolError("something is wrong with it")

                nursery.start_soon(run)
                await strangers.run(lambda message: None)
        assert "wrong" in bad.end_reason
        assert "wrong" in strangers.end_reason


async def test_what_a_socket_has_no_room_for_comes_later_and_in_order(ticks: Ticks) -> None:
    bitmap = bytes(100_000)
    async with linked(ticks) as (a, far, taken):
        a_socket = a._socket
        assert a_socket is not None
        a_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        b, heard = ControlChannel(far, hello("b")), list[Message]()
        slow = trio.Event()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                def take(message: Message) -> None:
                    taken.append(message)
                    if isinstance(message, Subscribe):
                        for _ in range(8):
                            a.send(Holdings(0, True, 8 * len(bitmap), bitmap))
                        slow.set()

                nursery.start_soon(a.run, take)
                nursery.start_soon(b.run, heard.append)
                await until_open(b)
                b.send(Subscribe(0, bytes(32)))
                await slow.wait()
                for handle in range(20):
                    a.send(Subscribe(handle, bytes(32)))
                    await trio.lowlevel.checkpoint()
                while len(heard) < 29:
                    await trio.sleep(0.005)
                a.close(GoodbyeCode.SHUTDOWN, "enough")
        assert [type(message) for message in heard] == [Hello] + 8 * [Holdings] + 20 * [Subscribe]


async def test_a_remote_that_does_not_read_loses_its_link(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "FAREWELL_TIMEOUT_S", 0.2)
    bitmap = bytes(250_000)
    async with linked(ticks) as (a, far, _):
        asked = trio.Event()

        def take(message: Message) -> None:
            if isinstance(message, Subscribe):
                asked.set()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.run, take)
                said = [encode_payload(message) for message in (hello("b"), Subscribe(0, bytes(32)))]
                await far.send_all(encode_preamble(OUR_VERSIONS) + b"".join(map(encode_frame, said)))
                await asked.wait()
                sent = 0
                while a.send(Holdings(0, True, 8 * len(bitmap), bitmap)):
                    sent += 1
                    await trio.sleep(0.001)
                assert sent * len(bitmap) > OUTPUT_BYTES_MAX - 2 * len(bitmap)
        assert a.end_reason == "the remote has stopped reading"
        assert not ticks._watched


async def test_one_that_sends_more_than_its_share_does_not_hold_up_others(
    ticks: Ticks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own task goes on with what it has sent, when it may; the ticks of others pass in between."""
    monkeypatch.setattr(control, "TURN_S", 0.0)
    async with linked(ticks) as (a, far, taken):
        b = ControlChannel(far, hello("b"))
        turns: list[int] = []
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                def take(message: Message) -> None:
                    taken.append(message)
                    ticks.tell(lambda: turns.append(len(taken)), print)

                nursery.start_soon(a.run, take)
                nursery.start_soon(b.run, lambda message: None)
                await until_open(b)
                await until_open(a)
                for handle in range(40):
                    b.send(Subscribe(handle, bytes(32)))
                while len(taken) < 41:
                    await trio.sleep(0.005)
                a.close(GoodbyeCode.SHUTDOWN, "enough")
        assert taken == [hello("b"), *(Subscribe(handle, bytes(32)) for handle in range(40))]
        assert len(set(turns)) > 20
