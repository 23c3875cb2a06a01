"""Mutual TLS on a connection: who is at its other end is known, or it is of no use."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from p2pfill.errors import PeerRefused, RemoteProtocolError
from p2pfill.model.identity import Identity

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials

TLS_FIRST: Final = b"\x16"
"""The first byte of each TLS connection: a record of its handshake (RFC 8446, section 5.1)."""


ENDED: Final = "the connection broke in its handshake; does the other side run with TLS, and trust this one?"

READ_BYTES: Final = 64 * 1024
"""Several records, of at most 16 KiB each."""

RECORD_BYTES_MAX: Final = 16 * 1024
"""That one record carries (RFC 8446, section 5.1)."""

RECORD_EXTRA_BYTES: Final = 22
"""Of a record beside what it carries: header, type and tag (RFC 8446, section 5.2)."""

SLICE_BYTES: Final = 4096
"""Decrypted before it is looked at what came of them: where they are all KeyUpdates, 3 ms of the loop's time."""

VAIN_BYTES_MAX: Final = 16 * 1024 + 256 + SLICE_BYTES
"""That carry nothing: a record that is not whole yet, and what TLS has to say by itself, which is next to nothing."""

VAIN: Final = "TLS messages that carry nothing, such as new keys, and no end of them"

CALL_VAIN_BYTES_MAX: Final = 64 * 1024
"""The same of a connection whose bytes Trio moves: a record that is not whole yet, and what it reads at a time."""


TIME_CODES: Final = (9, 10)
"""Of OpenSSL's verification: not valid yet, and not any more."""


class Secured(NamedTuple):
    """A connection whose other end has shown who it is."""

    stream: BoundedTls
    peer: Identity
    certificate: bytes
    """Of the peer, in DER: looked at again when something is revoked."""


class SecuredLink(NamedTuple):
    """The same of a control link, whose bytes its channel moves by itself."""

    layer: TlsLayer
    peer: Identity
    certificate: bytes
    received: bytes
    """What has come with the end of the handshake, in the clear."""


class TlsLayer:
    """TLS for a connection whose bytes somebody else moves: bytes in, bytes out.

    A control link has many small messages: to encrypt and decrypt one adds 4 us of both ends' processors, and 30 us
    through a stream of Trio's (medians of 5,000 messages of 40 bytes over loopback).
    """

    def __init__(self, context: ssl.SSLContext, *, accepting: bool, host: str | None = None) -> None:
        """`host` is whom the other end's certificate must name, where the context asks for that."""
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._coming, self._going, server_side=accepting, server_hostname=host)
        self._vain_bytes = 0

    async def shake_hands(self, stream: trio.SocketStream) -> bytes:
        """Find out who is at the other end, and return his certificate in DER. Raises `PeerRefused`."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await stream.send_all(self._going.read())
                    self._coming.write(await self._receive(stream))
                else:
                    await stream.send_all(self._going.read())
                    return self._tls.getpeercert(binary_form=True) or b""
        except ssl.SSLError as error:
            await self._tell(stream)
            raise PeerRefused(reason_of(error)) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PeerRefused(reason_of(error)) from error

    def release(self) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
        """Hand over what decrypts, and where it reads from, to somebody who does so elsewhere."""
        return self._tls, self._coming

    async def _receive(self, stream: trio.SocketStream) -> bytes:
        if data := await stream.receive_some(READ_BYTES):
            return bytes(data)
        raise PeerRefused(ENDED)

    async def _tell(self, stream: trio.SocketStream) -> None:
        """Let the other end know why, which OpenSSL has put into words of its own."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.send_all(self._going.read())

    def seal(self, data: bytes) -> bytes:
        """Return what is to be sent for `data`, with all that TLS itself has to say."""
        if data:
            self._tls.write(data)
        return self._going.read()

    def unseal(self, data: bytes) -> tuple[bytes, bool]:
        """Return what has come in the clear, which may be nothing yet, and whether the other end has ended.

        Raises `ssl.SSLError` where it is not of the other end, and `RemoteProtocolError` where it carries nothing.
        """
        if len(data) > SLICE_BYTES:
            clear, has_ended = b"", False
            for at in range(0, len(data), SLICE_BYTES):
                part, has_ended = self.unseal(data[at : at + SLICE_BYTES])
                clear += part
            return clear, has_ended
        self._coming.write(data)
        clear, has_ended, records = self._read()
        # Never less than nothing: what was carried long ago does not excuse what carries nothing now.
        self._vain_bytes = vain = max(0, self._vain_bytes + len(data) - len(clear) - RECORD_EXTRA_BYTES * records)
        if vain > VAIN_BYTES_MAX:
            raise RemoteProtocolError(VAIN)
        return clear, has_ended

    def _read(self) -> tuple[bytes, bool, int]:
        """Return what the records carry that are whole, whether the other end has ended, and how many they were."""
        coming, tls, clear, records = self._coming, self._tls, b"", 0
        try:
            # Asked for no more than there may be: to be told that there is none costs as much as to decrypt a message.
            # Nothing of a record stays inside: one of them carries no more than is read at a time.
            while coming.pending:
                if not (part := tls.read(RECORD_BYTES_MAX)):
                    return clear, True, records
                clear += part
                records += 1
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return clear, True, records
        return clear, False, records


class Vain(trio.abc.HalfCloseableStream):
    """What lies below TLS of Trio's: counts what has come since something was carried."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        """As servers expect it."""
        self.bytes: int | None = None
        """None in the handshake."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what has come. Raises `trio.BrokenResourceError` where it carries nothing, and has no end."""
        if self.bytes is not None and self.bytes > CALL_VAIN_BYTES_MAX:
            raise trio.BrokenResourceError(VAIN)
        data = await self._stream.receive_some(max_bytes)
        if self.bytes is not None:
            self.bytes += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be sent."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send no more."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


class BoundedTls(trio.abc.Stream):
    """TLS of Trio's as servers expect it, which ends where messages come that carry nothing.

    One that asks for new keys costs its sender nothing and is never shown to who reads, so nothing above could end it.
    """

    def __init__(self, stream: trio.SSLStream[Vain]) -> None:
        """Take over `stream`, whose handshake is done."""
        self._stream = stream
        self.transport_stream = stream.transport_stream
        self.transport_stream.bytes = 0

    @property
    def ended_in_vain(self) -> bool:
        """Whether it was ended for that."""
        return (self.transport_stream.bytes or 0) > CALL_VAIN_BYTES_MAX

    async def do_handshake(self) -> None:
        """Do nothing: it is done."""

    def selected_alpn_protocol(self) -> str | None:
        """Return what the two have agreed on to speak."""
        protocol: str | None = self._stream.selected_alpn_protocol()
        return protocol

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what has come."""
        data = await self._stream.receive_some(max_bytes)
        below = self.transport_stream
        below.bytes = max(0, (below.bytes or 0) - len(data) - RECORD_EXTRA_BYTES)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be sent."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


async def secure_link(stream: trio.SocketStream, credentials: Credentials, *, accepting: bool) -> SecuredLink:
    """As `secure`, for a control link."""
    layer = TlsLayer(credentials.accepting if accepting else credentials.connecting, accepting=accepting)
    certificate = await layer.shake_hands(stream)
    peer = credentials.peer(certificate)
    try:
        received, _ = layer.unseal(b"")
    except ssl.SSLError as error:
        raise PeerRefused(reason_of(error)) from error
    return SecuredLink(layer, peer, certificate, received)


async def secure(stream: trio.SocketStream, credentials: Credentials, *, accepting: bool) -> Secured:
    """Encrypt a connection and return who is at its other end.

    Raises `PeerRefused`, after which the connection is of no use. The caller bounds the time and closes.
    """
    context = credentials.accepting if accepting else credentials.connecting
    secured = trio.SSLStream(Vain(stream), context, server_side=accepting)
    try:
        await secured.do_handshake()
        certificate = secured.getpeercert(binary_form=True)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise PeerRefused(reason_of(error)) from error
    return Secured(BoundedTls(secured), credentials.peer(certificate), certificate)


class DataPeer(NamedTuple):
    """Who must be at the other end of a data stream, as has been said over its authenticated link."""

    identity: Identity
    """Of the link's remote."""
    fingerprint: bytes
    """Of the certificate that it shows on the stream: SHA-256 of its DER."""

    def check(self, certificate: bytes, credentials: Credentials) -> None:
        """Raise `PeerRefused` where somebody else has shown a certificate, or one that is accepted no more."""
        shown = credentials.peer(certificate)
        if shown.uri != self.identity.uri:
            raise PeerRefused(f"{shown.who} is at the other end of a data stream of {self.identity.who}")
        if sha256(certificate).digest() != self.fingerprint:
            raise PeerRefused(f"a data stream of {self.identity.who} shows another certificate than its link has named")


async def secure_receiving(
    stream: trio.SocketStream, credentials: Credentials, expected: DataPeer
) -> tuple[TlsLayer, bytes]:
    """Encrypt a data stream that we have opened; return its layer, and the certificate that was shown on it.

    Raises `PeerRefused`. The caller bounds the time and closes.
    """
    layer = TlsLayer(credentials.connecting, accepting=False)
    certificate = await layer.shake_hands(stream)
    expected.check(certificate, credentials)
    return layer, certificate


async def secure_sending(
    sock: trio.socket.SocketType, credentials: Credentials, expected: DataPeer
) -> tuple[ssl.SSLSocket, bytes]:
    """Encrypt a data stream that the remote has opened; return it, and the certificate that was shown on it.

    TLS is done on the socket itself, which a kernel can then do in its place. `sock` is of no use afterwards. Raises
    `PeerRefused`; then it is closed. The caller bounds the time.
    """
    plain = socket.socket(fileno=sock.detach())
    try:
        plain.setblocking(False)
        tls = credentials.accepting.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
    except OSError as error:  # it has gone already
        plain.close()
        raise PeerRefused(ENDED) from error
    try:
        await _shake_hands(tls)
        certificate = tls.getpeercert(binary_form=True) or b""
        expected.check(certificate, credentials)
    except BaseException:
        trio.lowlevel.notify_closing(tls)
        tls.close()
        raise
    return tls, certificate


async def _shake_hands(tls: ssl.SSLSocket) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(tls)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(tls)
        except OSError as error:  # those of TLS among them
            raise PeerRefused(reason_of(error)) from error
        else:
            return


async def begins_with_tls(sock: trio.socket.SocketType) -> bool:
    """Tell whether a connection that came in is to be encrypted; nothing is read. Raises `OSError`."""
    return await sock.recv(1, socket.MSG_PEEK) == TLS_FIRST


def reason_of(error: BaseException) -> str:
    """Return why a handshake failed, with a next step where there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        clock = "; is this machine's clock right?" if cause.verify_code in TIME_CODES else ""
        return f"the certificate of the other side is not accepted here: {cause.verify_message}{clock}"
    if isinstance(cause, ssl.SSLError):
        return f"the handshake failed: {cause.reason or cause}; does the other side run with TLS, and trust this one?"
    return ENDED

