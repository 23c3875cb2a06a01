"""How payload gets from a socket into a file and back: as it is, or through TLS.

As it is, the kernel sends it from the file (sendfile), and one native loop receives it. Through TLS it is read from the
file and written through OpenSSL on the socket itself, so that the kernel encrypts it where it can (kTLS). What comes is
taken out of the socket in large pieces and decrypted out of memory: OpenSSL itself would take each record with two
calls of the system, and would go on for as long as messages come that carry nothing.

All of it is for the threads of the plane, one of them at a time, and nothing waits for a socket.
"""

from __future__ import annotations

import os
import ssl
import time
from abc import ABC, abstractmethod
from typing import Final, cast

import xxhash

from p2pfill.errors import RemoteProtocolError
from p2pfill.hot import io
from p2pfill.hot.lanes import Lane
from p2pfill.transport.secure import RECORD_EXTRA_BYTES, VAIN, VAIN_BYTES_MAX

SEALED_BYTES: Final = 128 * 1024
"""Taken out of the socket at once: eight records. Twice as much was no faster."""

SEALED_RECORD_BYTES_MAX: Final = 5 + 16 * 1024 + 256
"""Of a record with its header (RFC 8446, section 5.2). OpenSSL keeps what has come of one, and tells nobody."""

WRITE_BYTES: Final = 64 * 1024
"""Given to OpenSSL at once: four records. What the socket does not take of it is kept until it does."""

KEY_BYTES_MAX: Final = 1 << 38
"""Sent with one key: 2^24 full records, where AES-GCM is good for 2^24.5 (RFC 8446, section 5.5). Then the stream ends
between two chunks, and its receiver opens another one."""

SOL_TLS: Final = 282
TLS_TX: Final = 1
_CRYPTO_INFO_BYTES: Final = 4
"""Of Linux, for which Python has no names: what the kernel encrypts with, if it does."""


class Inlet(ABC):
    """Where payload comes in. What `recv_to_file` and the digest promise is in `hot.io.ChunkReceiver`."""

    lane: Lane | None = None
    """On which threads move payload by themselves, where it comes as it is."""

    has_unread = False
    """More may be here that the socket does not tell of any more: then nobody must wait for the socket."""
    kept_bytes = 0
    """About how much was taken out of the socket and is of no use until more of it comes."""
    kept_bytes_max = 0
    """At most: so much less than the rest of a chunk may be still to come to the socket."""

    @abstractmethod
    def read(self, count: int) -> bytes | None:
        """Return up to `count` bytes, b"" at the end of the stream, None where nothing has come. Raises `OSError`."""

    @abstractmethod
    def recv_to_file(self, file_fd: int, offset: int, length: int) -> int:
        """Write at most `length` bytes that come to a file at `offset`; bytes written. Raises `OSError`."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all bytes hashed so far."""

    @abstractmethod
    def digest(self) -> bytes:
        """Return XXH3-128 of all that went to files since the last reset: 16 bytes, big endian."""

    @abstractmethod
    def spent_ns(self) -> tuple[int, int]:
        """Return what hashing and what writing has taken, in nanoseconds."""


class PlainInlet(Inlet):
    """Payload that comes as it is."""

    def __init__(self, lane: Lane) -> None:
        self._fd = lane.sock_fd
        self.lane: Lane = lane

    def read(self, count: int) -> bytes | None:
        """Return up to `count` bytes, b"" at the end of the stream, None where nothing has come."""
        try:
            return os.read(self._fd, count)
        except BlockingIOError:
            return None

    def recv_to_file(self, file_fd: int, offset: int, length: int) -> int:
        """Write at most `length` bytes that come to a file at `offset`."""
        return self.lane.recv_to_file(file_fd, offset, length)

    def reset(self) -> None:
        """Forget all bytes hashed so far."""
        self.lane.reset()

    def digest(self) -> bytes:
        """Return XXH3-128 of all that went to files since the last reset."""
        return self.lane.digest()

    def spent_ns(self) -> tuple[int, int]:
        """Return what hashing and what writing has taken, in nanoseconds."""
        return self.lane.spent_ns()


class TlsInlet(Inlet):
    """Payload that comes through TLS."""

    kept_bytes_max = SEALED_RECORD_BYTES_MAX

    def __init__(self, fd: int, tls: ssl.SSLObject, coming: ssl.MemoryBIO) -> None:
        """Take over a connection after its handshake: `tls` reads out of `coming`, which may hold something already."""
        self._fd = fd
        self._tls, self._coming = tls, coming
        self._sealed = memoryview(bytearray(SEALED_BYTES))
        self._clear = memoryview(bytearray(io.BUFFER_BYTES))
        self._state = xxhash.xxh3_128()
        self._vain_bytes = 0
        """What has come and has carried nothing, or is not whole yet."""
        self._has_ended = False
        self._hash_ns = self._write_ns = 0
        self.has_unread = True

    def read(self, count: int) -> bytes | None:
        """Return up to `count` bytes, b"" at the end of the stream, None where nothing has come."""
        filled = self._fill(self._clear[:count])
        if not filled:
            return b"" if self._has_ended else None
        return bytes(self._clear[:filled])

    def recv_to_file(self, file_fd: int, offset: int, length: int) -> int:
        """Write at most `length` bytes that come to a file at `offset`."""
        taken = 0
        while taken < length:
            filled = self._fill(self._clear[: length - taken])
            if not filled:
                if self._has_ended and not taken:
                    raise ConnectionResetError("the peer closed the connection")
                break
            began_ns = time.monotonic_ns()
            data = self._clear[:filled]
            self._state.update(data)
            hashed_ns = time.monotonic_ns()
            while data:
                written = os.pwrite(file_fd, data, offset + taken)
                data = data[written:]
                taken += written
            self._hash_ns += hashed_ns - began_ns
            self._write_ns += time.monotonic_ns() - hashed_ns
        return taken

    def reset(self) -> None:
        """Forget all bytes hashed so far."""
        self._state.reset()

    def digest(self) -> bytes:
        """Return XXH3-128 of all that went to files since the last reset."""
        return self._state.digest()

    def spent_ns(self) -> tuple[int, int]:
        """Return what hashing and what writing has taken, in nanoseconds."""
        return self._hash_ns, self._write_ns

    def _fill(self, room: memoryview) -> int:
        """Decrypt into `room` what is here; bytes that it holds then. Raises `OSError`, `RemoteProtocolError`."""
        filled = 0
        self.has_unread = True
        while filled < len(room):
            try:
                # A number where there is a buffer, which the types of Python do not know.
                count = cast(int, self._tls.read(len(room) - filled, room[filled:]))
            except ssl.SSLWantReadError:
                if self._feed():
                    continue
                self.has_unread = False
                break
            except ssl.SSLZeroReturnError:
                count = 0
            except ssl.SSLError as error:
                raise _broken(error) from error
            if not count:
                self._has_ended, self.has_unread = True, False
                break
            filled += count
            self._vain_bytes = max(0, self._vain_bytes - count - RECORD_EXTRA_BYTES)
        self.kept_bytes = self._vain_bytes
        return filled

    def _feed(self) -> bool:
        """Take more out of the socket; False where there is nothing, or nothing will come any more."""
        # All that is whole was read by now, so but for a part of one record it has carried nothing.
        if self._vain_bytes > VAIN_BYTES_MAX:
            raise RemoteProtocolError(VAIN)
        try:
            count = os.readv(self._fd, [self._sealed])
        except BlockingIOError:
            return False
        self._has_ended = not count
        self._coming.write(self._sealed[:count])
        self._vain_bytes += count
        return count > 0


class Outlet(ABC):
    """Where payload goes out."""

    lane: Lane | None = None
    """On which threads move payload by themselves, where it goes out as it is."""

    @property
    def held_bytes(self) -> int:
        """Of what was to be sent, what the socket has not taken yet and must be offered first, by `send_file`."""
        return 0

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more may be sent on this stream but the rest of a chunk."""
        return False

    @abstractmethod
    def send_head(self, head: bytes, start: int) -> int:
        """Send a header from its byte `start` on, with payload to follow; bytes sent. Raises `OSError`."""

    @abstractmethod
    def send_file(self, file_fd: int, offset: int, length: int) -> int:
        """Send `length` bytes of a file from `offset`; bytes that the socket has taken, 0..length.

        Fewer only where the socket is full. Where `held_bytes` are, `length` must be so many, and they go first.
        Raises `EOFError` where the file is shorter, `OSError` where it or the connection is broken.
        """


class PlainOutlet(Outlet):
    """Payload that goes out as it is, from the file."""

    def __init__(self, lane: Lane) -> None:
        self._fd = lane.sock_fd
        self.lane: Lane = lane

    def send_head(self, head: bytes, start: int) -> int:
        """Send a header from its byte `start` on, with payload to follow; bytes sent."""
        return io.send_bytes(self._fd, head, start, more=True)

    def send_file(self, file_fd: int, offset: int, length: int) -> int:
        """Send `length` bytes of a file from `offset`; bytes that the socket has taken."""
        return self.lane.send_file(file_fd, offset, length)


class TlsOutlet(Outlet):
    """Payload that goes out through TLS."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        """Take over a connection after its handshake."""
        self._tls = tls
        self.by_kernel = is_encrypted_by_kernel(tls)
        self._buffer = memoryview(bytearray(WRITE_BYTES))
        self._unsent = self._buffer[:0]
        self._sent_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What OpenSSL was given, and wants to be given again."""
        return len(self._unsent)

    @property
    def is_used_up(self) -> bool:
        """Whether its key has been used as much as it may be."""
        return self._sent_bytes >= KEY_BYTES_MAX

    def send_head(self, head: bytes, start: int) -> int:
        """Send a header from its byte `start` on; bytes sent."""
        return self._write(memoryview(head)[start:])

    def send_file(self, file_fd: int, offset: int, length: int) -> int:
        """Send `length` bytes of a file from `offset`; bytes that the socket has taken."""
        sent = 0
        while sent < length:
            if not self._unsent:
                room = self._buffer[: length - sent]
                count = os.preadv(file_fd, [room], offset + sent)
                if not count:
                    raise EOFError(f"file ends at {offset + sent}, {length - sent} bytes early")
                self._unsent = room[:count]
            count = self._write(self._unsent)
            if not count:
                break
            self._unsent = self._unsent[count:]
            sent += count
        return sent

    def _write(self, data: memoryview) -> int:
        try:
            count = self._tls.send(data)
        except ssl.SSLWantWriteError:
            return 0
        except ssl.SSLError as error:
            raise _broken(error) from error
        self._sent_bytes += count
        return count


def is_encrypted_by_kernel(sock: ssl.SSLSocket) -> bool:
    """Tell whether the kernel itself says that it encrypts what is sent on a socket."""
    try:
        sock.getsockopt(SOL_TLS, TLS_TX, _CRYPTO_INFO_BYTES)
    except OSError:
        return False
    return True


def kernel_has_tls() -> bool:
    """Tell whether the kernel can encrypt at all: its module is there, as it is once anybody has asked for it."""
    return os.path.exists("/proc/net/tls_stat")


def _broken(error: ssl.SSLError) -> ConnectionError:
    """Return an error of TLS as one of the connection: its number is none of the system, and may pass for a disk's."""
    return ConnectionResetError(f"TLS: {error.reason or error}")
