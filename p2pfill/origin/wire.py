"""Connections below HTTP: they give up by silence, and when nobody wants to read any more.

The usual sockets of HTTP clients wait for a byte without looking up, and start the wait anew with each byte. So a read
that is not wanted any more would hold its thread, and a server that sends a byte now and then could do so for ever.
Here a thread that waits looks up each `_LOOK_S`, and asks the `Exchange` that its connection is in.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from p2pfill.hot.io import recv_within
from p2pfill.origin.access import ADVICE, CAUSE
from p2pfill.origin.bodies import one_line
from p2pfill.origin.errors import OriginCancelled, OriginRefused, TryAgain
from p2pfill.origin.nested_tls import NestedTls

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from p2pfill.errors import TransferError
    from p2pfill.origin.settings import OriginSettings
    from p2pfill.origin.watch import Watch

_LOOK_S: Final = 0.1
_LOOK_MS: Final = int(1000 * _LOOK_S)
"""So late a thread that waits for a byte notices that nobody wants it any more."""

_HEAD_BYTES: Final = 64 * 1024
"""What is read at a time of heads and of small files; larger ones are read into place."""

_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)

_SILENT_S: Final = 2.0
"""Silence of so long is told people; the request goes on."""

_DRIP_BYTES: Final = 1024
"""Less than this within `stall_max_s` counts as silence: at 100 bytes a second a chunk takes hours, and holds one of
the few threads that read."""


class Exchange:
    """One request and its answer, as far as the clock goes. Used by one thread at a time."""

    def __init__(self, watch: Watch, name: str, through: str, settings: OriginSettings) -> None:
        """`name` is the file's, for people, and `through` says which proxy is on the way, if one is."""
        self.watch = watch
        self._name = name
        self._through = through
        self._stall_s = settings.stall_max_s
        self._heard_at = self._span_at = time.monotonic()
        self._span_bytes = 0
        self._is_told = False
        self._head_until: float | None = None
        """When the head of the answer must be there, once its first byte is."""
        self._is_head = True
        self._is_tail = False

    @property
    def is_unanswered(self) -> bool:
        """Whether nothing of an answer has come."""
        return self._is_head and self._head_until is None

    def begin_body(self) -> None:
        """Take note that the head of the answer is there."""
        self._is_head = False
        self._span_at, self._span_bytes = time.monotonic(), 0

    def begin_tail(self) -> None:
        """Take note that all that is wanted is there, and only the end of the answer is looked for."""
        self._is_tail = True

    def resume(self, watch: Watch) -> None:
        """Go on for another read, after a pause that was ours."""
        if self.watch is not watch:
            self.watch = watch
            self._heard_at = self._span_at = time.monotonic()
            self._span_bytes = 0

    def heard(self, count: int) -> None:
        """Take note of bytes. Raises `TryAgain` where too few come."""
        if self.watch.is_stopped():
            raise OriginCancelled(f"{self._name}: reading was cancelled")
        now = time.monotonic()
        self._heard_at, self._is_told = now, False
        if self._is_head:
            self._head_until = self._head_until or now + self._stall_s
            if now > self._head_until:
                raise TryAgain(f"the head of its answer is not complete after {self._stall_s:g} s{self._through}")
            return
        self.watch.moved(now)
        self._span_bytes += count
        if now > self._span_at + self._stall_s:
            if self._span_bytes < _DRIP_BYTES:
                raise TryAgain(f"it sends less than {_DRIP_BYTES} bytes in {self._stall_s:g} s{self._through}")
            self._span_at, self._span_bytes = now, 0

    def heard_frame(self, count: int) -> None:
        """Take note that so much of what was heard is no part of a file, as the extensions of chunks."""
        self._span_bytes -= count

    def look(self) -> None:
        """Look up from waiting. Raises `OriginCancelled`, and `TryAgain` where nothing has come for too long."""
        if self.watch.is_stopped():
            raise OriginCancelled(f"{self._name}: reading was cancelled")
        silent_s = time.monotonic() - self._heard_at
        if self._is_tail or silent_s > self._stall_s:
            raise TryAgain(f"it has sent nothing for {self._stall_s:g} s{self._through}")
        if silent_s > _SILENT_S and not self._is_told:
            self._is_told = True
            cause = f"it has sent nothing for {_SILENT_S:g} s{self._through}"
            self.watch.listener.trouble(f"{self._name}: {cause}; check its load and the line to it", cause)


class Wire:
    """A connection to `host`, which is whom a certificate must name. Raises `TryAgain`; `whom` is for people.

    Only addresses that `permits` lets through are connected to; where the host has no other, that is `OriginRefused`.

    What goes wrong while something is received looks like the end of it to `http.client`, which so keeps what has come;
    `fault` says what it was.
    """

    def __init__(
        self,
        host: str,
        port: int,
        whom: str,
        connect_max_s: float,
        permits: Callable[[str], bool] = lambda address: True,
    ) -> None:
        self.exchange: Exchange | None = None
        self.fault: TransferError | None = None
        self.is_cut = False
        """The other side has ended it, or the network has."""
        self.idle_since = 0.0
        self._connect_max_s = connect_max_s
        try:
            sock = _connect(host, port, connect_max_s, permits)
        except TimeoutError as error:
            raise TryAgain(f"{whom} does not answer: no connection within {connect_max_s:g} s") from error
        except socket.gaierror as error:
            raise TryAgain(f"{whom} cannot be found: the name {host}: {_strerror(error)}") from error
        except OSError as error:
            raise TryAgain(f"{whom} does not answer: {_strerror(error)}") from error
        except _NotPermitted as error:
            raise OriginRefused(f"{whom}: {error}: {CAUSE}; {ADVICE}", cause=CAUSE, advice=ADVICE) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel ends the waits of a blocking socket. Python would wait by a system call of its own each time.
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_LOOK_S))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(connect_max_s))
        self._plain = sock
        """For as long as it is no TLS."""
        self._sock: socket.socket | NestedTls = sock
        self.is_plain = True
        """Whether what is received comes as it is, and not under TLS."""
        self._reader = _Reader(_Received(self), _HEAD_BYTES)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what is received; always the same, so that nothing is lost between two answers."""
        return self._reader

    def send(self, data: bytes) -> None:
        """Send a request. What is wrong shows when its answer is read, which may have come before."""
        try:
            if not self.is_plain:
                self._sock.settimeout(self._connect_max_s)
            self._sock.sendall(data)
        except BlockingIOError:
            self.fault = self.fault or TryAgain(f"it takes no request within {self._connect_max_s:g} s")
        except OSError as error:
            self.is_cut = True
            self.fault = self.fault or TryAgain(f"the connection broke off: {_strerror(error)}")

    def receive(self, buffer: WriteableBuffer) -> int:
        """Put what comes next into a buffer and return how much it is; nothing at the end, and where it fails."""
        if self.exchange is None:
            return 0  # it is only looked what has come already
        return self._guarded(self._take_next, memoryview(buffer))

    def receive_body(self, view: memoryview) -> int:
        """Do as `receive`, where all of the buffer will be filled, or the answer ends: the thread is seldom woken.

        May return less: what has come within `_LOOK_S`, since reads that are not wanted any more end then. Nothing may
        have been read ahead, and it is no TLS.
        """
        return self._guarded(self._take_much, view)

    def read_ahead(self) -> int:
        """Return how many bytes have come that nobody has read from `makefile` yet."""
        exchange, self.exchange = self.exchange, None  # so that nothing is waited for
        try:
            return len(self._reader.peek(1))
        finally:
            self.exchange = exchange

    def _guarded(self, take: Callable[[memoryview, Exchange], int], view: memoryview) -> int:
        exchange = self.exchange
        if exchange is None:
            return 0
        try:
            count = take(view, exchange)
            if count:
                exchange.heard(count)
            else:
                self.is_cut = True
            return count
        except OSError as error:
            self.is_cut = True
            self.fault = TryAgain(f"the connection broke off: {_strerror(error)}")
        except (TryAgain, OriginCancelled) as error:
            self.fault = error
        return 0

    def _take_next(self, view: memoryview, exchange: Exchange) -> int:
        if not self.is_plain:
            self._sock.settimeout(_LOOK_S)
        while True:
            try:
                return self._sock.recv_into(view)
            except (BlockingIOError, TimeoutError):
                exchange.look()

    def _take_much(self, view: memoryview, exchange: Exchange) -> int:
        while True:
            try:
                return recv_within(self._plain.fileno(), view, _LOOK_MS)
            except BlockingIOError:
                exchange.look()

    def start_tls(self, context: ssl.SSLContext, host: str, whom: str = "") -> None:
        """Go on with TLS, inside of TLS where that is there already. `whom` is for people where `host` is not.

        Raises `OriginRefused` where the certificate is not good, and `TryAgain`.
        """
        whom = whom or host
        try:
            self._sock.settimeout(self._connect_max_s)
            if isinstance(self._sock, socket.socket) and not isinstance(self._sock, ssl.SSLSocket):
                self._sock = context.wrap_socket(self._sock, server_hostname=host)
            elif isinstance(self._sock, ssl.SSLSocket):
                self._sock = NestedTls(self._sock, context, host)
            self.is_plain = False
            # What came before, of a proxy or of somebody on the way to it, is no part of what is said under TLS.
            self._reader = _Reader(_Received(self), _HEAD_BYTES)
        except ssl.SSLCertVerificationError as error:
            cause = f"the certificate of {whom} does not verify: {one_line(error.verify_message, 'no reason given')}"
            advice = _advice(error.verify_code)
            raise OriginRefused(f"{cause}; {advice}", cause=cause, advice=advice) from error
        except TimeoutError as error:
            raise TryAgain(f"{whom} does not answer the TLS handshake") from error
        except (OSError, ValueError) as error:
            raise TryAgain(f"TLS with {whom} fails: {_strerror(error)}") from error

    def is_fresh(self, idle_max_s: float) -> bool:
        """Tell whether an idle connection can be used: it is young, and has nothing to read, which would be its end."""
        if self._sock.fileno() < 0 or time.monotonic() > self.idle_since + idle_max_s:
            return False
        if self.exchange is None and self.read_ahead():
            return False  # more came with the last answer than belongs to it, and it is not that of the next request
        if not self.is_plain or isinstance(self._sock, NestedTls):
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            return not poll.poll(0)
        try:
            self._sock.recv(1, _PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close the connection. May be called twice, and from any thread."""
        self._sock.close()


class _NotPermitted(Exception):
    """A host has no address that may be connected to; says which it has."""


def _connect(host: str, port: int, connect_max_s: float, permits: Callable[[str], bool]) -> socket.socket:
    """Return a connection to the first address of a host that answers, of those that `permits` lets through.

    The name is looked up once: what is connected to is what was looked at. Raises `OSError`, `_NotPermitted`.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = [(family, address) for family, _, _, _, address in found if permits(str(address[0]))]
    if not places:
        raise _NotPermitted(f"{host} is at {', '.join(sorted({str(one[4][0]) for one in found})) or 'no address'}")
    failed = OSError(f"{host} has no address")
    for family, address in places:
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(connect_max_s)
            sock.connect(address)
        except OSError as error:
            failed = error
            if sock is not None:
                sock.close()
        else:
            return sock
    raise failed


class _Received(io.RawIOBase):
    """What a connection receives, as a file."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        return self._wire.receive(buffer)


class _Reader(io.BufferedReader):
    """Outlives the answers that are read from it, each of which closes it at its end."""

    def close(self) -> None:
        pass


def _timeval(wait_s: float) -> bytes:
    """Return a time as the kernel takes it with an option of a socket: seconds and microseconds."""
    return struct.pack("@ll", int(wait_s), int(wait_s % 1 * 1e6))


def _advice(verify_code: int) -> str:
    if verify_code == 10:  # X509_V_ERR_CERT_HAS_EXPIRED
        return "renew it, and check the clock of this machine"
    if verify_code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        return "order the origin by a name for which the certificate was made"
    return (
        "where a CA of your own has signed it, set SSL_CERT_FILE (or SSL_CERT_DIR) to that CA's certificate in the "
        "environment of the node"
    )


def _strerror(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return one_line(str(reason), type(error).__name__)
