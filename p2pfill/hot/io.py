"""Operations on descriptors: hashing, zero-copy sending, and receiving with the hash in the same pass.

The receiver reads into one small buffer, hashes it while it is in the cache of the processor, and writes it to the
file, without the GIL in the native twin. Rejected: splice from socket to file, which cannot be hashed on the way; a GIL
hand-over per slice, which waits for the interpreter; waiting for the socket for 1 ms inside a call, which saves its
caller arming it again and costs processor time. See docs/experiments.md, "The data path".

Sockets are non-blocking descriptors and stay the caller's. But for `recv_within` a call never waits for one: it moves
what can be moved and returns how much, so a worker thread is never lost to a stalled peer. All may raise OSError.
Call these from worker threads: a file may block on a cold page or on writeback.
"""

from typing import TYPE_CHECKING

from p2pfill.hot import NATIVE

if TYPE_CHECKING or not NATIVE:
    from p2pfill.hot import _pure_io as _twin
else:
    from p2pfill import _native as _twin

__all__ = [
    "BUFFER_BYTES",
    "BUFFER_BYTES_MAX",
    "ChunkReceiver",
    "begin_write_out",
    "recv_within",
    "send_bytes",
    "send_file",
    "sync_fs",
    "xxh3_128",
    "xxh3_128_range",
]

BUFFER_BYTES = 256 * 1024  # fits in L2 beside the socket's own pages
LOW_WATER_BYTES = 256 * 1024
"""Inside a chunk or a body a thread is not woken for less, since on a slow link each packet would cost a turn, or a
switch of threads. But it is woken for half of what the remote may send unread, a quarter of the kernel's buffer: a wait
for all of that keeps the remote waiting, and the kernel from widening the window. See docs/experiments.md, "The data
path"."""
BUFFER_BYTES_MAX = 64 * 1024 * 1024  # more is a mistake: it would only leave the cache
FILE_OFFSET_MAX = (1 << 63) - 1  # off_t


def _check_range(offset: int, length: int) -> None:
    if offset < 0 or length < 0 or offset + length > FILE_OFFSET_MAX:
        raise ValueError(f"{length} bytes at offset {offset} are no range of a file")


def xxh3_128(data: bytes | bytearray | memoryview) -> bytes:
    """XXH3-128 of a contiguous buffer: 16 bytes, big endian."""
    return _twin.xxh3_128(data)


def xxh3_128_range(fd: int, offset: int, length: int) -> bytes:
    """XXH3-128 of `length` bytes of a file from `offset`. Raises EOFError if the file is shorter."""
    _check_range(offset, length)
    return _twin.xxh3_128_range(fd, offset, length)


def send_bytes(sock_fd: int, data: bytes | bytearray | memoryview, start: int, more: bool) -> int:
    """Send `data` from byte `start` on; bytes sent, 0 if the socket is full.

    `more` (MSG_MORE) says that a file follows at once, so that a header shares its packet.
    Raises ValueError if `start` is outside `data`, OSError if the connection is broken.
    """
    size = memoryview(data).nbytes
    if not 0 <= start <= size:
        raise ValueError(f"start {start} is outside of {size} bytes")
    return _twin.send_bytes(sock_fd, data, start, more) if start < size else 0


def send_file(sock_fd: int, file_fd: int, offset: int, length: int) -> int:
    """Send `length` bytes of a file from `offset` with sendfile(2); bytes sent, 0..length.

    Fewer than `length` only when the socket is full. Raises EOFError if the file is shorter (bytes may have gone out
    by then: the stream is of no more use), OSError if the connection is broken.
    """
    _check_range(offset, length)
    return _twin.send_file(sock_fd, file_fd, offset, length)


def recv_within(sock_fd: int, buffer: memoryview, wait_ms: int) -> int:
    """Receive into a buffer until it is full, the other side has ended, or `wait_ms` have passed; bytes received.

    0 if the connection had ended. What came before it ended or broke counts, and the next call says so. For one thread
    at a time, which seldom wakes (`LOW_WATER_BYTES`): SO_RCVLOWAT is set, and 1 afterwards. The socket may be blocking.
    Raises BlockingIOError if nothing came, OSError if the connection is broken.
    """
    return _twin.recv_within(sock_fd, buffer, wait_ms)


class ChunkReceiver:
    """Moves chunks from a socket to a file and hashes them on the way; one per data stream, one thread at a time.

    `digest()` covers every byte since `reset()`, over any number of calls, sockets and files, as a chunk that is
    resumed from another source or that spans files needs. After an OSError of the file, `reset()` before reuse.
    Raises ValueError if `buffer_bytes` is not within 1..BUFFER_BYTES_MAX.
    """

    __slots__ = ("_receiver",)

    def __init__(self, buffer_bytes: int = BUFFER_BYTES) -> None:
        if not 0 < buffer_bytes <= BUFFER_BYTES_MAX:
            raise ValueError(f"a buffer of {buffer_bytes} bytes is not within 1..{BUFFER_BYTES_MAX}")
        self._receiver = _twin.ChunkReceiver(buffer_bytes)

    def reset(self) -> None:
        """Forget all bytes hashed so far."""
        self._receiver.reset()

    def digest(self) -> bytes:
        """XXH3-128 of all bytes since the last reset: 16 bytes, big endian."""
        return self._receiver.digest()

    def spent_ns(self) -> tuple[int, int]:
        """Return what hashing and what writing has taken since this was made, in nanoseconds."""
        return self._receiver.spent_ns()

    def recv_to_file(self, sock_fd: int, file_fd: int, offset: int, length: int) -> int:
        """Take at most `length` bytes from the socket and write them to the file at `offset`; bytes taken.

        Fewer than `length` when no more has come, 0 if nothing has, or when the connection ended after some bytes:
        those count, and the next call raises. Raises ConnectionResetError if the peer closed and nothing was left to
        take, OSError of the socket or the file. It never takes a byte beyond `length`.
        """
        _check_range(offset, length)
        return self._receiver.recv_to_file(sock_fd, file_fd, offset, length)


def sync_fs(fd: int) -> None:
    """Write back all dirty pages of the file system that `fd` lies on, with syncfs(2). Raises OSError."""
    _twin.sync_fs(fd)


def begin_write_out(fd: int, offset: int, length: int) -> None:
    """Have the disk begin to write these bytes of a file, with sync_file_range(2); does not wait until it has.

    It makes nothing durable, and waits only where the disk's queue is full. Raises OSError, which says nothing of what
    a later sync would say.
    """
    _check_range(offset, length)
    _twin.begin_write_out(fd, offset, length)
