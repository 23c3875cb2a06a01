"""A control link over a stream: the driver of `protocol.link.ControlLink`.

`run` owns three tasks: one reads, one writes, one keeps the link alive. `send` never waits; what it queues is bounded,
and a remote that does not read until the bound is reached loses its link, since holding messages back would leave it
with wrong holdings.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from p2pfill.errors import ProtocolError, RemoteProtocolError, is_fault
from p2pfill.model.pace import KEEPALIVE_S, SILENCE_TIMEOUT_S
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

READ_BYTES: Final = 64 * 1024

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""From connection to the remote's Hello."""

OUTPUT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Room for the largest bitmap many times over; a remote that lets this much pile up has stopped reading."""

FAREWELL_TIMEOUT_S: Final = 2.0
"""For the Goodbye to be written; the remote gets no more of our time than that."""


class ControlChannel:
    """One control link in operation. Construct, then `run` it; `send` from anywhere in the same trio loop."""

    def __init__(self, stream: trio.abc.Stream, hello: Hello, received: bytes = b"") -> None:
        """Take over `stream`, on which nothing has been written and nothing read but `received`."""
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self._received = received
        self._link = ControlLink(hello)
        self._output = trio.Event()
        self._heard_at = 0.0
        self._ended = False
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
        if self._ended or self._link.state is not LinkState.OPEN or not self._link.send(message):
            return False
        if self._link.output_bytes > OUTPUT_BYTES_MAX:
            self._end("the remote has stopped reading")
            return False
        self._output.set()
        return True

    def next_handle(self) -> int:
        """Return a handle for our next Want."""
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

    async def run(self, handle: Callable[[Message], Awaitable[None]]) -> None:
        """Drive the link until it ends, handing each message of the remote to `handle`, its Hello first.

        Returns when either side ended the link in good order. Raises `ProtocolError` for a broken rule and
        `ConnectionError` for a broken or silent connection; then only this link is of no more use.
        """
        self._link.start()
        self._heard_at = trio.current_time()
        fault: ProtocolError | ConnectionError | None = None
        try:
            # Written before anything is read, so that a stranger learns whom it talks to before it is told off.
            with trio.move_on_after(HANDSHAKE_TIMEOUT_S):
                await self._stream.send_all(self._link.poll_output())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                nursery.start_soon(self._keep_alive)
                await self._read(handle)
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
            finally:
                # Shielded too: a cancel that is raised here would take the place of what has ended the link.
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(self._stream)
        # Not from inside except*, which would wrap it in a group.
        if fault is not None:
            raise fault

    async def _read(self, handle: Callable[[Message], Awaitable[None]]) -> None:
        data, self._received = self._received, b""
        while not self._ended:
            if not data:
                data = await self._receive()
                self._heard_at = trio.current_time()
            if not data:
                self._link.handle_eof()
                return
            arrived, data = data, b""
            for message in self._link.handle_bytes(arrived):
                if isinstance(message, Goodbye):
                    self.end_reason = self.end_reason or message.reason or "the remote said goodbye"
                    return
                if isinstance(message, Ping):
                    self.send(Pong(message.nonce))
                elif not isinstance(message, Pong):
                    await handle(message)

    async def _write(self, reader: trio.CancelScope) -> None:
        while not self._ended:
            await self._output.wait()
            self._output = trio.Event()
            output = self._link.poll_output()
            if unsent := output[self._write_now(output) :]:
                await self._stream.send_all(unsent)
        reader.cancel()

    async def _receive(self) -> bytes:
        """Return what has come; empty at the end of the stream."""
        if self._socket is None:
            return bytes(await self._stream.receive_some(READ_BYTES))
        # Not through the stream: it would try to read before it waits, which is in vain nearly always and costs as much
        # as all the rest.
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return os.read(self._socket.fileno(), READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
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

    async def _keep_alive(self) -> None:
        await trio.sleep(HANDSHAKE_TIMEOUT_S)
        if self._link.state is LinkState.HANDSHAKE:
            self.close(GoodbyeCode.IDLE, f"no Hello within {HANDSHAKE_TIMEOUT_S:g} s")
        while not self._ended:
            self.send(Ping(next(self._pings)))
            await trio.sleep(KEEPALIVE_S)
            if trio.current_time() - self._heard_at > SILENCE_TIMEOUT_S:
                self.close(GoodbyeCode.IDLE, f"silent for {SILENCE_TIMEOUT_S:g} s")

    async def _flush_farewell(self) -> None:
        try:
            if output := self._link.poll_output():
                await self._stream.send_all(output)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # it is gone already, and knows

    def _end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        self._ended = True
        self._output.set()


def _first(group: BaseExceptionGroup[ProtocolError]) -> ProtocolError:
    error: ProtocolError | BaseExceptionGroup[ProtocolError] = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
