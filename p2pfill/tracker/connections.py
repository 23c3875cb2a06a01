"""A caller's connections to one tracker: one call at a time on each, kept for the next.

h11 reads and writes HTTP, and `TlsLayer` encrypts. A request goes out at once, in one piece where it is short, and a
call waits only for its answer: one step of the event loop, as a rule. Nothing is done that a tracker's calls do not
need: no redirects, no proxies, no encodings. Rejected: HTTP clients of general use; see docs/experiments.md,
"Heartbeats".

Who answers is looked at before he hears what is asked, on a connection that was kept once more where something of what
this side believes has changed.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import h11
import trio

from p2pfill.errors import PeerRefused, RemoteProtocolError
from p2pfill.model.identity import Role
from p2pfill.model.limits import KIB
from p2pfill.transport.connecting import open_stream
from p2pfill.transport.secure import TlsLayer

if TYPE_CHECKING:
    from p2pfill.tracker.urls import Place
    from p2pfill.trust.credentials import Bearer, Credentials

CONNECTIONS_MAX: Final = 100
"""Calls at a time; others wait. A node has three or four."""

IDLE_MAX: Final = 16
"""Connections that are kept for further calls."""

IDLE_S: Final = 15.0
"""So long they are kept: as the heartbeats of large fleets are apart, and half as long as a tracker keeps them."""

READ_BYTES: Final = 64 * KIB
SEND_BYTES: Final = 64 * KIB
"""Encrypted at a time."""

HEAD_BYTES_MAX: Final = 64 * KIB
"""Of an answer, or of a piece's size; a tracker's are of some hundred bytes."""

LEAST_BYTES: Final = KIB
"""Less than this of an answer within a call's patience counts as nothing. Else whoever sends a byte now and then, or
heads of answers that only inform, would hold a call for ever, and with it all reports of a cache."""


INFORMS_MAX: Final = 8
"""Answers that only inform, as Early Hints, before the one that counts. h11 sets them no end, and a flood of them would
take all of the event loop's time meanwhile."""


class AnswerTooLong(Exception):
    """More comes than may."""


class CallFailed(Exception):
    """No connection came to be. Says why, where that is known."""


class HandshakeFailed(CallFailed):
    """No connection came to be, since the two sides do not believe each other, or one of them does not speak TLS."""


class CallBroken(CallFailed):
    """The connection has ended before the answer, or what came is none."""


class Answer(NamedTuple):
    """What a tracker, or whoever is there, has said."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, named in small letters; None where it is not there."""
        return next((value.decode("ascii", "replace") for known, value in self.headers if known == name), None)


class _Patience:
    """How long one call waits for the other side, each time."""

    def __init__(self, scope: trio.CancelScope, each_s: float) -> None:
        self._scope = scope
        self._each_s = each_s

    def renew(self) -> None:
        """Begin to wait anew: something has moved."""
        self._scope.deadline = trio.current_time() + self._each_s


class _Connection:
    """One connection, for one call at a time."""

    def __init__(
        self, sock: socket.socket, layer: TlsLayer | None, context: ssl.SSLContext | None, bearer: Bearer | None
    ) -> None:
        """Take over a connection that does not block, with what encrypts it; `bearer` has shown who he is."""
        self._sock = sock
        self._layer = layer
        self.context = context
        self._bearer = bearer
        self._http = h11.Connection(h11.CLIENT, HEAD_BYTES_MAX)
        self.idle_since = 0.0
        self.is_answering = False
        """Whether anything has come since the last call was made."""

    def close(self) -> None:
        self._sock.close()

    @property
    def is_usable(self) -> bool:
        """Whether it is at rest, and the other side has not ended it, nor sent what nobody has asked for."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def check(self) -> None:
        """Raise `PeerRefused` where no tracker is at the other end, or one that is not believed any more."""
        if self._bearer is not None and (peer := self._bearer.identity()).role is not Role.TRACKER:
            raise PeerRefused(f"{peer.who} answers in the place of a tracker")

    async def call(self, request: h11.Request, body: bytes, patience: _Patience, size_max: int) -> Answer:
        """Make a call. Raises `CallBroken`, `AnswerTooLong`."""
        try:
            return await self._call(request, body, patience, size_max)
        # Also those of TLS.
        except (OSError, h11.RemoteProtocolError, RemoteProtocolError) as error:
            raise CallBroken(str(error)) from error

    async def _call(self, request: h11.Request, body: bytes, patience: _Patience, size_max: int) -> Answer:
        http = self._http
        self.is_answering = False
        parts = [http.send(request), http.send(h11.Data(body)) if body else b"", http.send(h11.EndOfMessage())]
        await self._send(b"".join(parts), patience)
        patience.renew()
        head: h11.Response | None = None
        answer = bytearray()
        renewed_bytes = informs = 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await self._receive()
                if not (data or self.is_answering):
                    raise CallBroken("it closed the connection without an answer")
                self.is_answering = True
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
                patience.renew()
            elif isinstance(event, h11.Data):
                answer += event.data
                if len(answer) > size_max:
                    raise AnswerTooLong
                if len(answer) >= renewed_bytes + LEAST_BYTES:
                    renewed_bytes = len(answer)
                    patience.renew()
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return Answer(head.status_code, head.headers, bytes(answer))
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("it closed the connection without an answer")
            elif (informs := informs + 1) > INFORMS_MAX:
                raise h11.RemoteProtocolError("its answer only informs, and never comes")

    def end_call(self) -> bool:
        """Tell whether it can be used for another call."""
        http = self._http
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE or http.trailing_data[0]:
            return False
        http.start_next_cycle()
        return True

    async def _send(self, data: bytes, patience: _Patience) -> None:
        """Send a request. Who will not hear all of it may have answered already, so that shows in reading."""
        layer = self._layer
        try:
            for at in range(0, len(data), SEND_BYTES):
                piece = data[at : at + SEND_BYTES]
                left = memoryview(piece if layer is None else layer.seal(piece))
                while left:
                    try:
                        left = left[self._sock.send(left) :]
                    except BlockingIOError:
                        patience.renew()
                        await trio.lowlevel.wait_writable(self._sock)
        except ssl.SSLError:
            raise
        except OSError:
            pass

    async def _receive(self) -> bytes:
        """Return what has come; nothing at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            data = self._sock.recv(READ_BYTES)
            if not data or self._layer is None:
                return data
            data, has_ended = self._layer.unseal(data)
            if data or has_ended:
                return data


class Connections:
    """Those to the tracker at `place`. With `credentials` both sides show who they are."""

    def __init__(self, place: Place, credentials: Credentials | None) -> None:
        self._place = place
        self._credentials = credentials
        self._public: ssl.SSLContext | None = None
        """Whom an encrypted tracker must please where this side has no authority of its own: made when it is needed."""
        self._idle: list[_Connection] = []
        self._free = trio.Semaphore(CONNECTIONS_MAX)

    def close(self) -> None:
        """Close those that are at rest."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def call(
        self, method: str, path: str, body: bytes | None, timeout_s: float, size_max: int, *, again: bool = False
    ) -> Answer:
        """Make a call; `timeout_s` is for each wait for the other side, and for the head of its answer in all.

        With `again` it is harmless to make it twice. Then it is, where a connection that was kept ends without a word.

        Raises `trio.TooSlowError`, `PeerRefused` where somebody else than the tracker is there, `AnswerTooLong`, and
        `CallFailed`.
        """
        request = h11.Request(method=method, target=self._place.target(path), headers=self._headers(method, body))
        with trio.CancelScope(deadline=trio.current_time() + timeout_s) as scope:
            try:
                self._free.acquire_nowait()
            except trio.WouldBlock:
                await self._free.acquire()
            try:
                return await self._call(request, body or b"", _Patience(scope, timeout_s), size_max, again)
            finally:
                self._free.release()
        raise trio.TooSlowError

    async def _call(
        self, request: h11.Request, body: bytes, patience: _Patience, size_max: int, again: bool
    ) -> Answer:
        kept = self._take_idle(self._context())
        if kept is not None:
            try:
                return await self._call_on(kept, request, body, patience, size_max)
            except CallBroken:
                # Servers, and what stands before them, end connections that are idle, and may do so while a call is on
                # its way (RFC 9112, section 9.3.1). That is nobody's failure.
                if not again or kept.is_answering:
                    raise
            patience.renew()
        connection = await self._connect(self._context(), patience)
        return await self._call_on(connection, request, body, patience, size_max)

    async def _call_on(
        self, connection: _Connection, request: h11.Request, body: bytes, patience: _Patience, size_max: int
    ) -> Answer:
        is_kept = False
        try:
            connection.check()
            answer = await connection.call(request, body, patience, size_max)
            connection.check()
            is_current = connection.context is self._context()
            is_kept = connection.end_call() and is_current and len(self._idle) < IDLE_MAX
            return answer
        finally:
            if is_kept:
                connection.idle_since = trio.current_time()
                self._idle.append(connection)
            else:
                connection.close()

    def _headers(self, method: str, body: bytes | None) -> list[tuple[str, str]]:
        headers = self._place.headers
        if body is None and method in ("GET", "DELETE"):
            return headers
        return [*headers, ("content-length", str(len(body or b"")))]

    def _context(self) -> ssl.SSLContext | None:
        if not self._place.is_encrypted:
            return None
        if self._credentials is not None:
            return self._credentials.calling  # another one once the certificate was renewed
        if self._public is None:
            self._public = ssl.create_default_context()
        return self._public

    def _take_idle(self, context: ssl.SSLContext | None) -> _Connection | None:
        """Return a connection that can be used, that which was used last, and close those that cannot."""
        idle, self._idle = self._idle, []
        since = trio.current_time() - IDLE_S
        for connection in idle:
            if connection.context is context and connection.idle_since >= since and connection.is_usable:
                self._idle.append(connection)
            else:
                connection.close()
        return self._idle.pop() if self._idle else None

    async def _connect(self, context: ssl.SSLContext | None, patience: _Patience) -> _Connection:
        place = self._place
        try:
            stream = await open_stream(place.host, place.port)
        except OSError as error:
            raise CallFailed(str(error)) from error
        try:
            patience.renew()
            layer, bearer = None, None
            if context is not None:
                layer, bearer = await self._secure(stream, context)
            return _Connection(socket.socket(fileno=stream.socket.detach()), layer, context, bearer)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def _secure(self, stream: trio.SocketStream, context: ssl.SSLContext) -> tuple[TlsLayer, Bearer | None]:
        try:
            layer = TlsLayer(context, accepting=False, host=self._place.host)
            certificate = await layer.shake_hands(stream)
        except (PeerRefused, ValueError) as error:  # the latter of a host that no certificate can name
            raise HandshakeFailed(str(error)) from error
        if self._credentials is None:
            return layer, None
        from p2pfill.trust.credentials import Bearer  # not above: it brings cryptography

        return layer, Bearer(self._credentials, certificate)
