"""Moving one chunk over a data stream, in slices that never hold a worker thread for long.

A slice runs in a worker thread: native code moves bytes until the chunk is done or it has waited `SLICE_WAIT_MS` for
the other side. Then the thread is given back, and trio waits until the socket is ready again. So a fast stream spends
its time in native loops, a slow one costs a thread only while it has bytes to move, and the event loop touches no disk.
Rejected: a thread per stream, which 64 slow receivers would make 64; and a wait of zero, which hands a chunk over
between threads for every socket buffer that fills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar

import trio

from p2pfill.errors import TransferError
from p2pfill.hot import io
from p2pfill.protocol.data import HEADER_BYTES, DataHeader, decode_header, encode_header

SLICE_WAIT_MS: Final = 5
"""Longer than the gaps between packets of a fast stream, shorter than anyone notices a thread missing."""

PROGRESS_TIMEOUT_S: Final = 30.0
"""A stream on which no byte moves for this long inside a chunk is dead."""


class ChunkStore(Protocol):
    """What the data path needs of a title on disk; `store.StoredTitle` is one."""

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Yield (descriptor, offset, length) for the bytes of `chunk` from byte `start` on."""
        ...


T = TypeVar("T")


async def _in_worker(limiter: trio.CapacityLimiter, call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call, limiter=limiter)


def _send_slice(sock_fd: int, title: ChunkStore, chunk: int, header: bytes, sent: int) -> int:
    """Send on from byte `sent` of header and payload; return how far it came."""
    if sent < len(header):
        sent += io.send_bytes(sock_fd, header, sent, more=True)
        if sent < len(header):
            return sent
    for file_fd, offset, length in title.ranges(chunk, sent - len(header)):
        moved = io.send_file(sock_fd, file_fd, offset, length, SLICE_WAIT_MS)
        sent += moved
        if moved < length:
            break
    return sent


async def send_chunk(
    sock: trio.socket.SocketType, title: ChunkStore, header: DataHeader, limiter: trio.CapacityLimiter
) -> None:
    """Send one chunk: its header, then `header.length` bytes straight from the title's files.

    `limiter` bounds the worker threads. Raises `TransferError` where the stream is of no more use: the other side is
    gone or stalled, or the file is shorter than the manifest says.
    """
    head = encode_header(header)
    total, sent = len(head) + header.length, 0
    try:
        while sent < total:
            before = sent
            at = sent
            sent = await _in_worker(limiter, lambda: _send_slice(sock.fileno(), title, header.chunk, head, at))  # noqa: B023
            if sent == before:
                with trio.fail_after(PROGRESS_TIMEOUT_S):
                    await trio.lowlevel.wait_writable(sock)
    except (OSError, EOFError, trio.TooSlowError, trio.ClosedResourceError) as error:
        raise TransferError(f"chunk {header.chunk} was sent to {sent} of {total} bytes: {_name(error)}") from error


async def receive_header(sock: trio.socket.SocketType) -> DataHeader | None:
    """Return the next chunk's header, or None where the stream ended between chunks.

    Waits for as long as it takes: an idle data stream is no fault. Raises `RemoteProtocolError`, or `TransferError`
    where the stream broke.
    """
    got = b""
    try:
        while len(got) < HEADER_BYTES:
            part = await sock.recv(HEADER_BYTES - len(got))
            if not part:
                break
            got += part
    except OSError as error:
        raise TransferError(f"data stream broke: {_name(error)}") from error
    if not got:
        return None
    return decode_header(got)


class Incoming:
    """The receiving end of one data stream: one buffer and one running hash, used for a chunk at a time."""

    def __init__(self, sock: trio.socket.SocketType, limiter: trio.CapacityLimiter) -> None:
        """`limiter` bounds the worker threads."""
        self._sock = sock
        self._limiter = limiter
        self._receiver = io.ChunkReceiver()

    async def receive_chunk(self, title: ChunkStore, header: DataHeader) -> bytes:
        """Write a chunk's payload to the title's files and return its XXH3-128 digest (16 bytes).

        Raises `TransferError` where the stream broke or stalled, and `StoreError` where a file cannot be opened.
        """
        self._receiver.reset()
        taken = 0
        try:
            while taken < header.length:
                before = taken
                at = taken
                taken = await _in_worker(self._limiter, lambda: self._receive_slice(title, header.chunk, at))  # noqa: B023
                if taken == before:
                    with trio.fail_after(PROGRESS_TIMEOUT_S):
                        await trio.lowlevel.wait_readable(self._sock)
        except (OSError, trio.TooSlowError, trio.ClosedResourceError) as error:
            raise TransferError(
                f"chunk {header.chunk} came to {taken} of {header.length} bytes: {_name(error)}"
            ) from error
        return self._receiver.digest()

    async def skip_chunk(self, header: DataHeader) -> None:
        """Read past a chunk that is not wanted any more. Raises `TransferError`."""
        left = header.length
        try:
            while left:
                with trio.fail_after(PROGRESS_TIMEOUT_S):
                    part = await self._sock.recv(min(left, io.BUFFER_BYTES))
                if not part:
                    raise TransferError(f"data stream ended {left} bytes before the end of chunk {header.chunk}")
                left -= len(part)
        except (OSError, trio.TooSlowError) as error:
            raise TransferError(f"data stream broke inside chunk {header.chunk}: {_name(error)}") from error

    def _receive_slice(self, title: ChunkStore, chunk: int, taken: int) -> int:
        for file_fd, offset, length in title.ranges(chunk, taken, write=True):
            moved = self._receiver.recv_to_file(self._sock.fileno(), file_fd, offset, length, SLICE_WAIT_MS)
            taken += moved
            if moved < length:
                break
        return taken


def _name(error: BaseException) -> str:
    return str(error) or type(error).__name__
