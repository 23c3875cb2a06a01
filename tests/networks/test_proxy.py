"""The proxy of bad networks does what it says, and nothing else."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from bench.networks.proxy import CALM, Counts, Proxy, Weather

SENT = random.Random(1).randbytes(1 << 20)


async def echo(stream: trio.SocketStream) -> None:
    try:
        async for piece in stream:
            await stream.send_all(piece)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@asynccontextmanager
async def through(weather: Weather) -> AsyncIterator[tuple[Proxy, trio.SocketStream]]:
    """Connect to a server that sends back what it is sent, through a proxy."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, echo, listeners)
            proxy = Proxy(random.Random(1), ("127.0.0.1", listeners[0].socket.getsockname()[1]))
            proxy.weather = weather
            await nursery.start(proxy.run)
            async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as stream:
                yield proxy, stream
            nursery.cancel_scope.cancel()


async def receive(stream: trio.SocketStream, count: int) -> bytes:
    got = b""
    while len(got) < count and (piece := await stream.receive_some(count - len(got))):
        got += piece
    return got


async def send_and_receive(stream: trio.SocketStream, data: bytes) -> bytes:
    got = b""
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            try:
                await stream.send_all(data)
                await stream.send_eof()
            except trio.BrokenResourceError:
                pass

        nursery.start_soon(send)
        try:
            got = await receive(stream, len(data) + 1)
        finally:
            nursery.cancel_scope.cancel()
    return got


async def test_calm_weather_changes_nothing() -> None:
    async with through(CALM) as (proxy, stream):
        assert await send_and_receive(stream, SENT) == SENT
        assert proxy.counts == Counts(connections=1, bytes=2 * len(SENT))


async def test_delay_is_of_each_way_and_of_no_rate() -> None:
    async with through(Weather(delay_s=0.2)) as (_, stream):
        began = trio.current_time()
        assert await send_and_receive(stream, SENT) == SENT
        took_s = trio.current_time() - began
    assert 0.4 <= took_s < 0.4 + 64 * 0.4, "16 KiB after the other, it would be 64 times as long"


async def test_rates_hold() -> None:
    async with through(Weather(rate_bytes_s=200_000)) as (_, stream):
        began = trio.current_time()
        assert await send_and_receive(stream, SENT[:100_000]) == SENT[:100_000]
        assert trio.current_time() - began > 0.4
    async with through(Weather(total_bytes_s=200_000)) as (_, stream):
        began = trio.current_time()
        assert await send_and_receive(stream, SENT[:100_000]) == SENT[:100_000]
        assert trio.current_time() - began > 0.4


async def test_corruption_turns_single_bits() -> None:
    async with through(Weather(corrupt_every=100_000)) as (proxy, stream):
        got = await send_and_receive(stream, SENT)
        assert len(got) == len(SENT)
        turned = [(a ^ b).bit_count() for a, b in zip(got, SENT, strict=True) if a != b]
        assert 5 < proxy.counts.corrupted < 50
        assert sum(turned) == proxy.counts.corrupted


async def test_truncation_ends_in_good_order() -> None:
    async with through(Weather(truncate_every=100_000)) as (proxy, stream):
        got = await send_and_receive(stream, SENT)
        assert len(got) < len(SENT)
        assert SENT.startswith(got)
        assert proxy.counts.truncated


async def test_reset_is_an_error_at_the_ends() -> None:
    async with through(Weather(reset_every=100_000)) as (proxy, stream):
        # The end that sends may be told first; what comes then ends early, and the kernel says no more.
        with suppress(trio.BrokenResourceError, BaseExceptionGroup):
            assert len(await send_and_receive(stream, SENT)) < len(SENT)
        assert proxy.counts.resets == 1


@pytest.mark.parametrize("is_black_hole", [False, True])
async def test_what_stalls_goes_on_when_the_weather_is_well_and_out_of_a_black_hole_never(is_black_hole: bool) -> None:
    weather = Weather(stall_every=10_000, is_black_hole=is_black_hole)
    async with through(weather) as (proxy, stream):
        await stream.send_all(SENT[:60_000])
        with trio.move_on_after(0.3):
            await receive(stream, 60_000)
            raise AssertionError("it has not stalled")
        assert proxy.counts.stalled
        proxy.weather = CALM
        with trio.move_on_after(1.0) as waited:
            await receive(stream, 1)
        assert waited.cancelled_caught == is_black_hole
        async with await trio.open_tcp_stream("127.0.0.1", proxy.port) as other:
            assert await send_and_receive(other, SENT) == SENT


async def test_one_that_is_refused_is_reset() -> None:
    async with through(Weather(refuses=True)) as (_, stream):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
