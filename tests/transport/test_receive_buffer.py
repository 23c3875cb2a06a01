"""Receive buffers in background mode: room for what the rate needs, and never less than before."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.engine.requests import Outcome, Receive, RequestBook
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.protocol.data import DataHeader, encode_header
from p2pfill.transport import receive_buffer
from p2pfill.transport.data import Receiver
from p2pfill.transport.plane import DataPlane
from p2pfill.transport.receive_buffer import SO_BUF_LOCK, ReceiveBuffer
from p2pfill.transport.scavenger import WINDOW_MAX_BYTES, WINDOW_MIN_BYTES, window
from tests.transport.test_data import Files

SIZE = 4_000_000
RATE = 4_000_000


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.socket.SocketType, trio.socket.SocketType]]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = (await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])).socket
    far = (await listener.accept()).socket
    await listener.aclose()
    with near, far:
        yield near, far


def size_of(sock: trio.socket.SocketType) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def is_given(sock: trio.socket.SocketType) -> bool:
    """Tell whether the buffer was given a size, so that the kernel does not widen it."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) != 0


@given(st.floats(0, 1e12), st.floats(0, 1e4))
def test_a_window_holds_what_the_rate_needs_and_not_twice_as_much_again(rate: float, round_trip_s: float) -> None:
    found, needed = window(rate, round_trip_s), min(2 * rate * round_trip_s, WINDOW_MAX_BYTES)
    assert WINDOW_MIN_BYTES <= found <= WINDOW_MAX_BYTES
    assert found >= int(needed)
    assert found == WINDOW_MIN_BYTES or found < 2 * needed
    assert found & (found - 1) == 0


async def test_it_grows_with_the_rate_and_is_never_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReceiveBuffer, "_round_trip_s", lambda self: 0.001)
    async with connected() as (near, _):
        buffer = ReceiveBuffer(near)
        for rate, wanted in ((1e6, 1 << 16), (5e7, 1 << 17), (1e6, 1 << 17)):
            buffer.fit(rate)
            assert size_of(near) == 2 * wanted
            assert is_given(near)


async def test_where_the_system_does_not_allow_enough_the_kernel_sizes_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected() as (near, _):
        buffer = ReceiveBuffer(near)
        buffer.fit(1e6)
        assert is_given(near)
        monkeypatch.setattr(ReceiveBuffer, "_round_trip_s", lambda self: 3600.0)
        buffer.fit(1e9)
        assert not is_given(near)
        monkeypatch.undo()
        buffer.fit(1e6)
        assert not is_given(near), "it would have shrunk"


async def test_it_is_left_alone_where_it_could_not_be_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive_buffer, "SO_BUF_LOCK", 1 << 20)  # what an older kernel does not know
    async with connected() as (near, _):
        before = size_of(near)
        ReceiveBuffer(near).fit(1e9)
        assert size_of(near) == before
        assert not is_given(near)


async def test_the_kernel_tells_the_round_trip_of_a_connection() -> None:
    async with connected() as (near, _):
        assert 0 < ReceiveBuffer(near)._round_trip_s() < 1


async def test_other_and_closed_sockets_are_left_as_they_are() -> None:
    near, far = trio.socket.socketpair()
    with near, far:
        ReceiveBuffer(near).fit(1e6)
        assert not is_given(near)
    ReceiveBuffer(near).fit(1e6)


@pytest.mark.parametrize("yields", [False, True])
async def test_a_stream_in_background_mode_keeps_its_rate_in_a_small_buffer(tmp_path: Path, yields: bool) -> None:
    payload = bytes(range(250)) * (SIZE // 250)
    title, got, unread = Files(tmp_path, [SIZE]), list[Outcome](), [0]
    async with DataPlane(2, 1, yields=yields).running() as plane, connected() as (near, far):

        def reap() -> None:
            plane.tell(lambda: got.extend(one.outcome for one in book.reap()), lambda error: None)

        book = RequestBook(reap, threading.RLock())
        book.post(Receive(1, title, 3, SIZE, xxhash.xxh3_128_digest(payload), None, None, threading.RLock()))
        plane.throttle.put("test", RateLimits(Rates(total=RATE)))
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Receiver(far, plane, book).run)
                began = trio.current_time()
                nursery.start_soon(near.send, encode_header(DataHeader(1, 3, SIZE)))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(_send_all, near, payload)
                while not got:
                    unread.append(int.from_bytes(fcntl.ioctl(far.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder))
                    await trio.sleep(0.005)
                took_s = trio.current_time() - began
                nursery.cancel_scope.cancel()
        assert is_given(far) == yields
        assert got == [Outcome.VERIFIED]
        assert 0.8 * SIZE / RATE < took_s < 3 * SIZE / RATE
        if yields:
            assert max(unread) <= size_of(far) == 2 * WINDOW_MIN_BYTES


async def _send_all(sock: trio.socket.SocketType, payload: bytes) -> None:
    rest = memoryview(payload)
    while rest:
        rest = rest[await sock.send(rest) :]
