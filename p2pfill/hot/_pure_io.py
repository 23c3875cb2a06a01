"""Pure twin of the descriptor operations of `p2pfill._native`; contracts are in `io`.

Sockets come as bare descriptors, which Python can only use through a socket object: one is made for the call and
detached again, so the descriptor stays the caller's.
"""

import ctypes
import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import xxhash

_SLICE_BYTES = 256 * 1024
_LOW_WATER_BYTES = 256 * 1024
_SENDFILE_BYTES_MAX = 1 << 30  # sendfile moves less than 2 GiB a call
_SYNC_FILE_RANGE_WRITE = 2


@contextmanager
def borrowed_socket(fd: int) -> Iterator[socket.socket]:
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()


def xxh3_128(data: bytes | bytearray | memoryview) -> bytes:
    return xxhash.xxh3_128_digest(data)


def xxh3_128_range(fd: int, offset: int, length: int) -> bytes:
    state = xxhash.xxh3_128()
    end = offset + length
    while offset < end:
        data = os.pread(fd, min(_SLICE_BYTES, end - offset), offset)
        if not data:
            raise EOFError(f"file ends at {offset}, {end - offset} bytes early")
        state.update(data)
        offset += len(data)
    return state.digest()


def send_bytes(sock_fd: int, data: bytes | bytearray | memoryview, start: int, more: bool) -> int:
    flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT | (socket.MSG_MORE if more else 0)
    with borrowed_socket(sock_fd) as sock, memoryview(data).cast("B") as view, view[start:] as rest:
        try:
            return sock.send(rest, flags)
        except BlockingIOError:
            return 0


def send_file(sock_fd: int, file_fd: int, offset: int, length: int) -> int:
    sent = 0
    while sent < length:
        try:
            n = os.sendfile(sock_fd, file_fd, offset + sent, min(length - sent, _SENDFILE_BYTES_MAX))
        except BlockingIOError:
            _push(sock_fd)
            break
        if n == 0:
            raise EOFError(f"file ends at {offset + sent}, {length - sent} bytes early")
        sent += n
    return sent


def _push(sock_fd: int) -> None:
    """Send the part segment that a sendfile cut short has left corked: see the native twin for why."""
    with borrowed_socket(sock_fd) as sock, suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def recv_within(sock_fd: int, buffer: memoryview, wait_ms: int) -> int:
    taken, until_ns = 0, time.monotonic_ns() + wait_ms * 1_000_000
    low_water = 1
    with borrowed_socket(sock_fd) as sock:
        try:
            while taken < len(buffer):
                try:
                    n = sock.recv_into(buffer[taken:], 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    left_ns = until_ns - time.monotonic_ns()
                    if left_ns <= 0:
                        if not taken:
                            raise
                        break
                    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 4
                    wanted = max(1, min(len(buffer) - taken, _LOW_WATER_BYTES, room))
                    if wanted != low_water:
                        low_water = wanted
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)
                    poll = select.poll()
                    poll.register(sock_fd, select.POLLIN)
                    poll.poll(-(-left_ns // 1_000_000))
                    continue
                except OSError:
                    if taken:
                        break
                    raise
                if n == 0:
                    break
                taken += n
        finally:
            if low_water != 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    return taken


class ChunkReceiver:
    def __init__(self, buffer_bytes: int = _SLICE_BYTES) -> None:
        self._buffer = memoryview(bytearray(buffer_bytes))
        self._state = xxhash.xxh3_128()
        self._hash_ns = self._write_ns = 0

    def spent_ns(self) -> tuple[int, int]:
        return self._hash_ns, self._write_ns

    def reset(self) -> None:
        self._state.reset()

    def digest(self) -> bytes:
        return self._state.digest()

    def newest(self, count: int) -> memoryview:
        """Return what the last call of `recv_to_file` has taken, `count` bytes, if that is no more than the buffer has.
        """
        return self._buffer[:count]

    def recv_to_file(self, sock_fd: int, file_fd: int, offset: int, length: int) -> int:
        taken = 0
        with borrowed_socket(sock_fd) as sock:
            while taken < length:
                try:
                    # One piece after the other, so that what fits into the buffer is all there afterwards.
                    at = self._buffer[taken % len(self._buffer) :]
                    n = sock.recv_into(at, min(length - taken, len(at)), socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                except OSError:
                    if taken:
                        break  # the bytes are good; the next call meets the broken connection again
                    raise
                if n == 0:
                    if taken:
                        break
                    raise ConnectionResetError("the peer closed the connection")
                data = at[:n]
                began_ns = time.monotonic_ns()
                self._state.update(data)
                hashed_ns = time.monotonic_ns()
                while data:
                    written = os.pwrite(file_fd, data, offset + taken)
                    data = data[written:]
                    taken += written
                self._hash_ns += hashed_ns - began_ns
                self._write_ns += time.monotonic_ns() - hashed_ns
        return taken


def sync_fs(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.syncfs(fd))


def begin_write_out(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # ctypes passes a bare Python number as an int, which an offset does not fit into.
    _check(libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE))


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
