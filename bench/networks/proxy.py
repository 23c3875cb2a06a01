"""A proxy for TCP that does what bad networks do: delays, throttles, resets, stalls, corrupts and truncates.

It knows nothing of what goes through it, so it treats control links, data streams, origins and the tracker alike, with
TLS and without. Faults come by chance, after so many bytes of a direction of a connection on average. The weather can
change at any time: connections that are open follow.
"""

from __future__ import annotations

import math
import random
import socket
import struct
from contextlib import suppress
from typing import Final

import msgspec
import trio

READ_BYTES: Final = 16 * 1024
"""At a time; so fine are rates and faults."""

UNDERWAY_MAX: Final = 256
"""Pieces of a direction that are on their way where there is a delay: 4 MiB, more than a window has as a rule."""

BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to connections; nothing by default. All means are bytes of one direction of one connection."""

    delay_s: float = 0.0
    """Each way."""
    rate_bytes_s: float = math.inf
    """Of each direction of each connection."""
    total_bytes_s: float = math.inf
    """Of all connections together, towards those who connect."""
    reset_every: float = math.inf
    truncate_every: float = math.inf
    """The connection is ended in good order, in the middle of what it carries."""
    corrupt_every: float = math.inf
    """One bit is turned."""
    stall_every: float = math.inf
    """Nothing of the connection moves any more, until the weather changes."""
    is_black_hole: bool = False
    """Those that have stalled never move again, whatever the weather, and nobody is told."""
    refuses: bool = False
    """New connections are reset."""


CALM: Final = Weather()


class Counts(msgspec.Struct):
    """What a proxy has done."""

    connections: int = 0
    resets: int = 0
    truncated: int = 0
    corrupted: int = 0
    stalled: int = 0
    bytes: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Counts(*(mine + theirs for mine, theirs in pairs))


class Proxy:
    """Listens in the place of `target`, and passes on what comes as the weather is."""

    def __init__(self, chance: random.Random, target: tuple[str, int] = ("", 0)) -> None:
        """`target` may be set later, before the first connection."""
        self.target = target
        self.counts = Counts()
        self.port = 0
        self._chance = chance
        self._weather = CALM
        self._changed = trio.Event()
        self._free_at = 0.0
        """When the rate of all together lets more through."""

    @property
    def weather(self) -> Weather:
        """What happens to connections now."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        self._changed.set()
        self._changed = trio.Event()

    async def run(self, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on a free port of the loopback, which is reported, until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started(self.port)
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, near: trio.SocketStream) -> None:
        self.counts.connections += 1
        if self._weather.refuses:
            _reset(near)
            return
        with suppress(*BROKEN), near.socket:
            far = await trio.open_tcp_stream(*self.target)
            with far.socket:
                async with trio.open_nursery() as nursery:
                    connection = _Connection(self, nursery.cancel_scope, (near, far))
                    nursery.start_soon(connection.pump, near, far, False)
                    nursery.start_soon(connection.pump, far, near, True)

    async def wait_change(self) -> None:
        """Wait until the weather changes."""
        await self._changed.wait()

    def draw(self, mean: float) -> float:
        """Return after how many bytes a fault comes that comes every `mean` of them."""
        return math.inf if math.isinf(mean) else self._chance.expovariate(1 / mean)

    def turn_bit(self, piece: bytes) -> bytes:
        """Return a piece in which one bit is another."""
        place = self._chance.randrange(len(piece))
        return piece[:place] + bytes([piece[place] ^ 1 << self._chance.randrange(8)]) + piece[place + 1 :]

    def share(self, count: int) -> float:
        """Return how long so many bytes wait for the rate of all together."""
        if math.isinf(self._weather.total_bytes_s):
            return 0.0
        now = trio.current_time()
        self._free_at = max(now, self._free_at) + count / self._weather.total_bytes_s
        return self._free_at - now


class _Connection:
    """One connection through the proxy."""

    def __init__(
        self, proxy: Proxy, scope: trio.CancelScope, ends: tuple[trio.SocketStream, trio.SocketStream]
    ) -> None:
        self._proxy = proxy
        self._scope = scope
        self._ends = ends
        self._has_stalled = False

    async def pump(self, source: trio.SocketStream, sink: trio.SocketStream, back: bool) -> None:
        """Move bytes of one direction until it ends; `back`: towards who has connected."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](UNDERWAY_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, receive, sink)
            with suppress(*BROKEN):
                await self._take(source, send, back)
            send.close()

    async def _take(
        self, source: trio.SocketStream, send: trio.MemorySendChannel[tuple[float, bytes]], back: bool
    ) -> None:
        proxy = self._proxy
        weather, left = proxy.weather, self._draw()
        while piece := bytes(await source.receive_some(READ_BYTES)):
            if proxy.weather is not weather:
                weather, left = proxy.weather, self._draw()
            left = {fault: bytes_left - len(piece) for fault, bytes_left in left.items()}
            due = [fault for fault, bytes_left in left.items() if bytes_left <= 0]
            for fault in due:
                left[fault] = proxy.draw(getattr(weather, fault))
            if "reset_every" in due:
                proxy.counts.resets += 1
                for end in self._ends:
                    _reset(end)
                self._scope.cancel()
            if "corrupt_every" in due:
                proxy.counts.corrupted += 1
                piece = proxy.turn_bit(piece)
            if "truncate_every" in due:
                proxy.counts.truncated += 1
                await send.send((0.0, piece[: len(piece) // 2]))
                return  # what comes from now on is not read; the other direction ends as its sender likes
            if "stall_every" in due or self._has_stalled:
                await self._stall()
            proxy.counts.bytes += len(piece)
            await send.send((trio.current_time() + weather.delay_s, piece))
            pause_s = max(len(piece) / weather.rate_bytes_s, proxy.share(len(piece)) if back else 0.0)
            await trio.sleep(pause_s)

    def _draw(self) -> dict[str, float]:
        weather = self._proxy.weather
        faults = ("reset_every", "truncate_every", "corrupt_every", "stall_every")
        return {fault: self._proxy.draw(getattr(weather, fault)) for fault in faults}

    async def _stall(self) -> None:
        """Let nothing through until the weather changes, or ever."""
        if not self._has_stalled:
            self._proxy.counts.stalled += 1
            self._has_stalled = True
        if self._proxy.weather.is_black_hole:
            await trio.sleep_forever()
        await self._proxy.wait_change()
        self._has_stalled = False

    async def _deliver(self, receive: trio.MemoryReceiveChannel[tuple[float, bytes]], sink: trio.SocketStream) -> None:
        with suppress(*BROKEN):
            async with receive:
                async for due, piece in receive:
                    await trio.sleep_until(due)
                    await sink.send_all(piece)
            await sink.send_eof()
            return
        # Nobody listens any more: whoever sends is to learn it.
        self._scope.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Close a connection so that its other end is reset."""
    with suppress(OSError):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
