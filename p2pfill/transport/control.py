"""A control link over a stream: the driver of `protocol.link.ControlLink`.

`run` owns three tasks: one reads, one writes, one keeps the link alive. Where the link is one of a node's, ticks serve
its socket as long as nothing has to wait (`ticks.Ticks`), and the tasks step in where a remote sends more than its
share of the loop, where it does not read, and where the link ends. `send` never waits; what it queues is bounded, and a
remote that does not read until the bound is reached loses its link, since holding messages back would leave it with
wrong holdings.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

import trio

from p2pfill.errors import ProtocolError, RemoteProtocolError, is_fault
from p2pfill.model.timing import KEEPALIVE_S, SILENCE_TIMEOUT_S
from p2pfill.protocol.link import ControlLink, LinkState
from p2pfill.protocol.messages import (
    INTERNAL_FAULT,
    Cancel,
    Goodbye,
    GoodbyeCode,
    Hello,
    Message,
    Ping,
    Pong,
    Reject,
    plain_reason,
)
from p2pfill.protocol.rules import Side
from p2pfill.transport.secure import TlsLayer
from p2pfill.transport.ticks import Ticks

READ_BYTES: Final = 64 * 1024

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""From connection to the remote's Hello."""

OUTPUT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Room for the largest bitmap many times over; a remote that lets this much pile up has stopped reading."""

TURN_S: Final = 0.002
"""Of the event loop's time, for the messages of one remote, before others have theirs: a flood of any kind makes
everybody wait for so much of each link, and not for all that one remote has sent."""

MANY_BYTES: Final = 4096
"""Read at once: so much is counted as this remote's time. A few messages are not worth the looks at the clock of
the thread's processor time: a system call of 1 us, against 0.1 us for the time of day. Of fewer bytes only some are
counted, by chance, and as so much more: who keeps his messages in small pieces takes no more for that."""

LEAST_CHANCE: Final = 1 / 16
"""That what is read is counted, however few bytes it has."""

SMALL_S: Final = 0.0005
"""Of what is counted by chance, so much counts as so many times more. What takes longer is hardly of so few bytes:
garbage may have been collected meanwhile, and sixteen times that would be seconds in which an honest remote is not
heard."""

FEW_BYTES: Final = 256
"""Read at once: messages that are so short together take less than `TURN_S`, so nobody looks at any clock."""

OWN_SHARE: Final = 0.3
"""Of the event loop's time, for the messages of one remote. A pair that moves 1 GB/s in 256 KiB chunks needs less."""

ALL_SHARE: Final = 0.5
"""Of the event loop's time, for the messages of all remotes that send much, each an equal part."""

LEAST_SHARE: Final = 0.01
"""For each of them, however many there are: strangers must not take what an honest one needs by their number."""

BUSY_S: Final = 1.0
"""A remote counts as one that sends much for so long."""

FLOODS_SHARE: Final = 0.3
"""For the messages of all remotes together that take more than their own."""

SHARE_BURST_S: Final = 0.02
"""At once, as at the start of a fill, when holdings come from everywhere."""

FAREWELL_TIMEOUT_S: Final = 2.0
"""For the Goodbye to be written; the remote gets no more of our time than that."""

LINGER_S: Final = 0.5
"""For the remote to end its stream after our Goodbye, two round trips and more. What it has sent meanwhile is read
past: a kernel that closes with unread bytes resets the connection, and the remote may then never see the Goodbye."""

LINGER_BYTES_MAX: Final = 8 * 1024 * 1024
"""Read past while lingering: what kernels hold for a connection, and no flood."""


_OPEN: Final = LinkState.OPEN
"""To look a member up in its class is a call of the enum's own."""


class LoopShare:
    """A part of the event loop's time, with some at once."""

    def __init__(self) -> None:
        self._used_s = 0.0
        self.charged_at = float("-inf")

    def charge(self, now: float, took_s: float, part: float) -> float:
        """Note that `took_s` was taken; return for how long nothing may be taken now, where it has `part`."""
        self._used_s = max(0.0, self._used_s - (now - self.charged_at) * part) + took_s
        self.charged_at = now
        return max(0.0, self._used_s - SHARE_BURST_S) / part


class LoopShares:
    """What all remotes of a node may take of its event loop: each its own part, and those that flood one together."""

    def __init__(self) -> None:
        self._floods = LoopShare()
        self._busy: dict[LoopShare, None] = {}
        """Of the remotes that were charged in the last `BUSY_S`, in the order in which that was last so."""

    def charge(self, own: LoopShare, now: float, took_s: float) -> float:
        """Note that the messages of a remote took `took_s`; return for how long no more of them are to be looked at."""
        self._busy.pop(own, None)
        self._busy[own] = None
        while (oldest := next(iter(self._busy))).charged_at < now - BUSY_S and oldest is not own:
            del self._busy[oldest]
        # Where several send much, none has to take more than its own to take all of the loop together.
        pause_s = own.charge(now, took_s, max(LEAST_SHARE, min(OWN_SHARE, ALL_SHARE / len(self._busy))))
        return max(pause_s, self._floods.charge(now, took_s, FLOODS_SHARE)) if pause_s else 0.0


class ControlChannel:
    """One control link in operation. Construct, then `run` it; `send` from anywhere in the same trio loop."""

    def __init__(
        self, stream: trio.abc.Stream, hello: Hello, received: bytes = b"", shares: LoopShares | None = None,
        layer: TlsLayer | None = None, ticks: Ticks | None = None,
    ) -> None:
        """Take over `stream`, on which nothing has been written and nothing read but `received`.

        `shares` are those of the node, if it has other links, and `ticks`, which serve a stream that is a socket's.
        `layer` encrypts such a stream, after its handshake.
        """
        self._shares = shares if shares is not None else LoopShares()
        self._share = LoopShare()
        self._stream = stream
        self._layer = layer
        self._connection = stream if isinstance(stream, trio.SocketStream) else None
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._ticks = ticks if self._socket is not None else None
        self._received = received
        self._link = ControlLink(hello)
        self._handle: Callable[[Message], object] = lambda message: None
        self._messages: Iterator[Message] = iter(())
        """Those that have come and were not looked at yet."""
        self._is_few = False
        """Of what came last."""
        self._weight = 0.0
        """As how many times as much its time counts; 0: nobody looks at it."""
        self._pause_s: float | None = None
        """After which more is looked at of what has come; None: all of it was."""
        self._fault: BaseException | None = None
        """What was raised in a tick."""
        self._attention = trio.Event()
        """Set where the link's own task has to see to what has come."""
        self._output = trio.Event()
        """Set where the link's own task has to write."""
        self._unsent = b""
        """What the socket had no room for."""
        self._is_writing = False
        """The link's own task is at it: nobody else may write."""
        self._heard_at = 0.0
        self._ended = False
        self._has_parted = False
        """The remote has ended the link."""
        self._scope = trio.CancelScope()
        """Of all that is done for the link."""
        self._pings = itertools.count(1)
        self.end_reason = ""
        """Why the link ended, for people; empty while it runs."""

    @property
    def remote_hello(self) -> Hello | None:
        """Who the remote says it is; None before its Hello has come."""
        return self._link.remote_hello

    def send(self, message: Message) -> bool:
        """Queue `message`; False where the link is ending, or what it is about is over, and it will not be sent.

        Raises `LocalProtocolError` where the rules forbid the message.
        """
        if self._ended or self._link.state is not _OPEN or not self._link.send(message):
            return False
        if self._link.output_bytes > OUTPUT_BYTES_MAX:
            self._end("the remote has stopped reading")
            self._scope.cancel()  # the writer would wait for it
            return False
        if self._ticks is None:
            self._output.set()
        else:
            self._ticks.flush_later(self)
        return True

    def next_handle(self) -> int:
        """Return a handle for our next Subscribe."""
        return self._link.next_handle()

    def next_request_id(self) -> int:
        """Return an id for our next Request."""
        return self._link.next_request_id()

    def next_stream_id(self) -> int:
        """Return an id for our next StreamOpen."""
        return self._link.next_stream_id()

    def cancel_request(self, request_id: int) -> None:
        """Withdraw a request of ours, unless it is over."""
        if self._link.is_request_live(Side.LOCAL, request_id):
            self.send(Cancel(request_id))

    def reject_request(self, request_id: int, code: str) -> None:
        """Refuse a request of theirs, unless it is over."""
        if self._link.is_request_live(Side.REMOTE, request_id):
            self.send(Reject(request_id, code))

    def finish_request(self, side: Side, request_id: int) -> None:
        """Note that the payload of a request of `side` has gone over."""
        self._link.finish_request(side, request_id)

    def close(self, code: GoodbyeCode, reason: str) -> None:
        """Say Goodbye and end the link. May be called more than once. It ends whatever the saying raises."""
        if self._ended:
            return
        try:
            if self._link.state in (LinkState.HANDSHAKE, LinkState.OPEN):
                self._link.send(Goodbye(int(code), plain_reason(reason)))
        finally:
            self._end(reason)

    async def run(self, handle: Callable[[Message], object]) -> None:
        """Drive the link until it ends, handing each message of the remote but its Pings to `handle`, its Hello first.

        Returns when either side ended the link in good order. Raises `ProtocolError` for a broken rule and
        `ConnectionError` for a broken or silent connection; then only this link is of no more use.
        """
        self._handle = handle
        self._link.start()
        self._heard_at = trio.current_time()
        fault: ProtocolError | ConnectionError | None = None
        try:
            # Written before anything is read, so that a stranger learns whom it talks to before it is told off.
            with trio.move_on_after(HANDSHAKE_TIMEOUT_S):
                await self._stream.send_all(self._poll_output())
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_alive)
                    await self._read()
                    self._end("the remote said goodbye")
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            self._end("the connection broke")
            fault = ConnectionError(self.end_reason)
        except* ProtocolError as group:
            fault = _first(group)
            is_theirs = isinstance(fault, RemoteProtocolError)
            self.close(GoodbyeCode.PROTOCOL_ERROR if is_theirs else GoodbyeCode.INTERNAL, str(fault))
        except* BaseException as group:
            if group.split(is_fault)[0] is not None:
                self.close(GoodbyeCode.INTERNAL, INTERNAL_FAULT)
            raise
        finally:
            self._ended = True
            try:
                with trio.move_on_after(FAREWELL_TIMEOUT_S) as scope:
                    scope.shield = True
                    await self._flush_farewell()
                if self._link.state is LinkState.CLOSING and self._connection is not None:
                    with trio.move_on_after(LINGER_S) as scope:
                        scope.shield = True
                        await self._linger(self._connection)
            finally:
                # Shielded, though it does not wait: a cancel here would take the place of what has gone wrong.
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(self._stream)
        # Not from inside except*, which would wrap it in a group.
        if fault is not None:
            raise fault

    # ---- input

    async def _read(self) -> None:
        """Take in what comes until the link ends. Raises what that raises, in a tick too."""
        if self._received:
            self._take_in(self._received)
        while not (self._ended or self._has_parted):
            if self._fault is not None:
                raise self._fault
            if self._pause_s is not None:
                await trio.sleep(self._pause_s)
                self._take_turn()
            elif self._ticks is not None and self._socket is not None:
                self._attention = trio.Event()
                with self._ticks.watching(self._socket.fileno(), self):
                    await self._attention.wait()
            else:
                self._take_in(await self._receive())

    def handle_readable(self) -> None:
        """Take in what has come. For `Ticks`."""
        try:
            data = self._read_now()
            if data is not None:
                self._take_in(data)
        except BaseException as error:  # noqa: BLE001  (raised again by the link's own task)
            self._fault = error
        if self._fault is not None or self._pause_s is not None or self._ended or self._has_parted:
            self._call_task()

    def _call_task(self) -> None:
        """Have the link's own task see to what has come, and nobody else meanwhile."""
        if self._ticks is not None and self._socket is not None:
            self._ticks.unwatch(self._socket.fileno())
        self._attention.set()

    def _take_in(self, data: bytes) -> None:
        self._heard_at = trio.current_time() if self._ticks is None else self._ticks.now
        if not data:
            self._link.handle_eof()
            self._has_parted = True
            return
        self._is_few, self._weight = len(data) < FEW_BYTES, _weight_of(len(data))
        self._messages = self._link.handle_bytes(data)
        self._take_turn()

    def _take_turn(self) -> None:
        """Hand on the messages that have come, or as many as may take the loop's time before others have their turn."""
        self._pause_s = None
        used_s = time.thread_time() if self._weight else None
        ends_at = math.inf if self._is_few else time.monotonic() + TURN_S
        for message in self._messages:
            if self._ended:
                return
            if type(message) is Ping:
                self.send(Pong(message.nonce))
            elif type(message) is Goodbye:
                self.end_reason = self.end_reason or message.reason or "the remote said goodbye"
                self._has_parted = True
                return
            else:
                self._handle(message)
            if ends_at < math.inf and time.monotonic() > ends_at:
                self._pause_s = self._charge(used_s)
                return
        if used_s is not None:
            self._pause_s = self._charge(used_s) or None

    def _charge(self, used_s: float | None) -> float:
        """Charge the remote with the processor time since `used_s` (`time.thread_time`), None: with nothing.

        Return for how long others have their turn: longer where this remote takes much.
        """
        if used_s is None:
            return 0.0
        took_s = time.thread_time() - used_s
        took_s += (self._weight - 1.0) * min(took_s, SMALL_S)
        return self._shares.charge(self._share, trio.current_time(), took_s)

    async def _receive(self) -> bytes:
        """Return what has come; empty at the end of the stream."""
        if self._socket is None:
            return bytes(await self._stream.receive_some(READ_BYTES))
        # Not through the stream: it would try to read before it waits, which is in vain nearly always and costs as much
        # as all the rest.
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            if (data := self._read_now()) is not None:
                return data

    def _read_now(self) -> bytes | None:
        """Return what the socket has, in the clear; empty at the end of the stream, None where that is nothing yet."""
        if self._socket is None:
            return None
        try:
            data = os.read(self._socket.fileno(), READ_BYTES)
            if self._layer is None or not data:
                return data
            data, has_ended = self._layer.unseal(data)
        except BlockingIOError:
            return None
        except OSError as error:  # those of TLS among them
            raise trio.BrokenResourceError(str(error)) from error
        return data if data or has_ended else None

    # ---- output

    async def _write(self) -> None:
        while not self._ended:
            await self._output.wait()
            self._output = trio.Event()
            self._is_writing = True
            while output := self._take_output():
                if unsent := output[self._write_now(output) :]:
                    await self._stream.send_all(unsent)
            self._is_writing = False
        self._scope.cancel()

    def flush(self) -> None:
        """Write what is queued, if nothing of it has to wait. For `Ticks`."""
        if self._ended or self._is_writing or self._unsent:
            return
        try:
            output = self._poll_output()
            if (written := self._write_now(output)) < len(output):
                self._unsent = output[written:]
        except BaseException as error:  # noqa: BLE001  (raised again by the link's own task)
            self._fault = error
            self._call_task()
        if self._unsent:
            self._output.set()

    def _take_output(self) -> bytes:
        """Return what is to be written next, as it goes over the wire. Raises `trio.BrokenResourceError`."""
        unsent, self._unsent = self._unsent, b""
        return unsent or self._poll_output()

    def _poll_output(self) -> bytes:
        """Return what is queued, as it goes over the wire. Raises `trio.BrokenResourceError`."""
        output = self._link.poll_output()
        if self._layer is None:
            return output
        try:
            return self._layer.seal(output)
        except OSError as error:  # of TLS: after what is none, nothing can be encrypted any more
            raise trio.BrokenResourceError(str(error)) from error

    def _write_now(self, output: bytes) -> int:
        """Write what the socket takes at once, which is all of it as a rule; return how many bytes that were."""
        if self._socket is None or not output:
            return 0
        try:
            return os.write(self._socket.fileno(), output)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    # ---- life and end

    async def _keep_alive(self) -> None:
        await trio.sleep(HANDSHAKE_TIMEOUT_S)
        if self._link.state is LinkState.HANDSHAKE:
            self.close(GoodbyeCode.IDLE, f"no Hello within {HANDSHAKE_TIMEOUT_S:g} s")
        while not self._ended:
            self.send(Ping(next(self._pings)))
            woken_at = trio.current_time() + KEEPALIVE_S
            await trio.sleep_until(woken_at)
            if trio.current_time() > woken_at + KEEPALIVE_S:
                self._heard_at = trio.current_time()  # we were stopped: what the remote has said is not read yet
            if trio.current_time() - self._heard_at > SILENCE_TIMEOUT_S:
                self.close(GoodbyeCode.IDLE, f"silent for {SILENCE_TIMEOUT_S:g} s")

    async def _flush_farewell(self) -> None:
        try:
            while output := self._take_output():
                await self._stream.send_all(output)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it is gone already, and knows

    async def _linger(self, connection: trio.SocketStream) -> None:
        """End our half of the connection, and read past what still comes until the remote ends its own.

        What is encrypted is read past as it is.
        """
        left = LINGER_BYTES_MAX
        try:
            await connection.send_eof()
            while left > 0 and (data := await connection.receive_some(READ_BYTES)):
                left -= len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def _end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        self._ended = True
        # Whoever writes may wait for a remote that does not read.
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + FAREWELL_TIMEOUT_S)
        self._output.set()


def _weight_of(count: int) -> float:
    """Return as how many times as much the time for `count` bytes counts, or 0; on average as what it is."""
    chance = max(count / MANY_BYTES, LEAST_CHANCE)
    if chance >= 1.0:
        return 1.0
    return 1.0 / chance if random.random() < chance else 0.0  # noqa: S311 (what is counted is no secret for long)


def _first(group: BaseExceptionGroup[ProtocolError]) -> ProtocolError:
    error: ProtocolError | BaseExceptionGroup[ProtocolError] = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
