"""The two ends of a data stream, each a loop that runs in a worker thread for as long as there is work.

A run begins when the socket is ready (or a request waits to be served) and goes on from chunk to chunk: header,
payload, digests. It ends when the other side has been waited for `SLICE_WAIT_MS` (not at all where another stream waits
for the thread: two nodes would otherwise hold each other's threads), or after `RUN_CHUNKS` so that others get their
turn; then the thread is given back and trio waits for the socket. So a fast stream spends its time in native loops, a
slow one costs a thread only while it has bytes to move, and the event loop never touches a disk.
Rejected: a thread per stream, which 64 slow receivers would make 64; and one hand-over between threads for each header,
payload and digest, which cost more than the hashing did.

The callbacks named below run in the worker thread and must be short and thread-safe; what they learn is handed to the
event loop in order, through its own queue.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from typing import Final, NamedTuple, Protocol

import trio

from p2pfill.errors import RemoteProtocolError, StoreError, TransferError
from p2pfill.hot import io
from p2pfill.protocol.data import HEADER_BYTES, DataHeader, check_header, decode_header, encode_header

SLICE_WAIT_MS: Final = 5
"""Longer than the gaps between packets of a fast stream, shorter than anyone notices a thread missing."""

RUN_CHUNKS: Final = 16
"""Chunks after which a run gives its thread and its upload slot to others, if others wait."""

LOW_WATER_BYTES: Final = 256 * 1024
"""Inside a chunk a stream is not woken for less: on a slow link each packet would cost two changes of thread."""

PROGRESS_TIMEOUT_S: Final = 30.0
"""A stream on which no byte moves for this long inside a chunk is dead."""


DISK_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""What a file answers and a socket never does: the native loop that serves both does not say which it was."""


class ChunkStore(Protocol):
    """What the data path needs of a title on disk; `store.StoredTitle` is one."""

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Yield (descriptor, offset, length) for the bytes of `chunk` from byte `start` on."""
        ...


class Turn:
    """Whose turn it is to write one chunk of a title.

    Payload goes into the title's file before it is verified, and a request that was given up may still be receiving
    when the next one begins, or has finished. So a writer holds `lock` for each slice and looks first whether `holder`
    is still its own request; taking the turn away needs no lock, since the next writer waits for the slice under way.
    """

    __slots__ = ("holder", "lock")

    def __init__(self) -> None:
        self.holder = 0
        self.lock = threading.Lock()


class Delivery(NamedTuple):
    """What a receiving end needs to know of a chunk that it has asked for."""

    title: ChunkStore
    turn: Turn
    holder: int
    """What `turn.holder` is as long as this request may write."""
    chunk: int
    length: int
    xxh3: bytes
    check: Callable[[int], bool] | None
    """Checks what the title asks for beyond XXH3, on the bytes written; None where it asks for nothing more."""


def _patience_ms(limiter: trio.CapacityLimiter) -> int:
    """Return how long a run may wait for its socket: not at all where another stream waits for the thread."""
    return 0 if limiter.statistics().tasks_waiting else SLICE_WAIT_MS


class _Next(Enum):
    WAIT = "wait for the socket"
    AGAIN = "go on"
    END = "nothing more"


class Receiver:
    """The end that a node opens to be sent chunks. Run it once.

    `expect(header)` says what a header announces, or None for a chunk whose request was withdrawn; it may raise
    `RemoteProtocolError`. `deliver(header, fault)` is called in the event loop for each chunk that came in full:
    `fault` is empty, or says which digest is wrong. Withdrawn chunks are delivered with the fault `withdrawn`.
    """

    WITHDRAWN: Final = "withdrawn"

    def __init__(
        self,
        sock: trio.socket.SocketType,
        limiter: trio.CapacityLimiter,
        expect: Callable[[DataHeader], Delivery | None],
        deliver: Callable[[DataHeader, str], None],
    ) -> None:
        """`limiter` bounds the worker threads that all streams of a node share."""
        self._sock = sock
        self._fd = sock.fileno()
        self._limiter = limiter
        self._expect = expect
        self._deliver = deliver
        self._receiver = io.ChunkReceiver()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._head = b""
        self._header: DataHeader | None = None
        self._delivery: Delivery | None = None
        self._taken = 0
        self._low_water_bytes = 1
        self.moved_bytes = 0
        """Payload bytes taken so far; grows inside a chunk too."""

    async def run(self) -> None:
        """Receive until the remote ends the stream between chunks.

        Raises `TransferError` where the stream broke or stalled, `RemoteProtocolError` where what comes is not what was
        asked for, and `StoreError` where the disk refuses. After any of them the stream must be closed.
        """
        token = trio.lowlevel.current_trio_token()
        try:
            while True:
                turn = await trio.to_thread.run_sync(self._work, token, limiter=self._limiter)
                if turn is _Next.END:
                    return
                if turn is _Next.WAIT:
                    idle = self._header is None and not self._head
                    with trio.fail_after(float("inf") if idle else PROGRESS_TIMEOUT_S):
                        await trio.lowlevel.wait_readable(self._sock)
        except (OSError, trio.TooSlowError, trio.ClosedResourceError) as error:
            if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
                raise StoreError(f"cannot write chunk to disk: {_name(error)}") from error
            where = f"inside chunk {self._header.chunk} after {self._taken} bytes" if self._header else "between chunks"
            raise TransferError(f"data stream broke {where}: {_name(error)}") from error

    @property
    def begun(self) -> tuple[int, int] | None:
        """Request id and bytes of a chunk that has come in part, once the stream is over: payload without use."""
        return (self._header.request_id, self._taken) if self._header is not None and self._taken else None

    # ---- in the worker thread

    def _work(self, token: trio.lowlevel.TrioToken) -> _Next:
        for _ in range(RUN_CHUNKS):
            if self._header is None:
                turn = self._take_header()
                if turn is not _Next.AGAIN:
                    return turn
            header, delivery = self._header, self._delivery
            if header is None:
                return _Next.WAIT
            if delivery is not None:
                done = self._take(header, delivery)
                delivery = self._delivery
            if delivery is None:
                done = self._skip(header)
            if not done:
                self._set_low_water(min(header.length - self._taken, LOW_WATER_BYTES))
                return _Next.WAIT
            self._set_low_water(1)
            fault = self.WITHDRAWN if delivery is None else self._fault(delivery)
            self._header = self._delivery = None
            token.run_sync_soon(self._deliver, header, fault)
        return _Next.AGAIN

    def _set_low_water(self, count: int) -> None:
        """Have the socket count as readable only once `count` bytes are there, or the remote is done or cannot send."""
        if count != self._low_water_bytes:
            self._low_water_bytes = count
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def _take_header(self) -> _Next:
        while len(self._head) < HEADER_BYTES:
            part = self._read(HEADER_BYTES - len(self._head))
            if part is None:
                return _Next.WAIT
            if not part:
                if self._head:
                    raise RemoteProtocolError("data stream ended inside a header")
                return _Next.END
            self._head += part
        header = decode_header(self._head)
        delivery = self._expect(header)
        if delivery is not None:
            check_header(header, delivery.chunk, delivery.length)
        self._head, self._header, self._delivery, self._taken = b"", header, delivery, 0
        self._receiver.reset()
        return _Next.AGAIN

    def _take(self, header: DataHeader, delivery: Delivery) -> bool:
        with delivery.turn.lock:
            if delivery.turn.holder == delivery.holder:
                return self._write(header, delivery)
        self._delivery = None  # the request was given up meanwhile: read past the rest
        return False

    def _write(self, header: DataHeader, delivery: Delivery) -> bool:
        for file_fd, offset, length in delivery.title.ranges(header.chunk, self._taken, write=True):
            moved = self._receiver.recv_to_file(self._fd, file_fd, offset, length, _patience_ms(self._limiter))
            self._taken += moved
            self.moved_bytes += moved
            if moved < length:
                return False
        return True

    def _skip(self, header: DataHeader) -> bool:
        while self._taken < header.length:
            part = self._read(min(header.length - self._taken, io.BUFFER_BYTES))
            if part is None:
                return False
            if not part:
                raise ConnectionResetError("the remote closed it")
            self._taken += len(part)
        return True

    def _fault(self, delivery: Delivery) -> str:
        if self._receiver.digest() != delivery.xxh3:
            return "wrong XXH3 digest"
        if delivery.check is not None and not delivery.check(delivery.chunk):
            return "wrong BLAKE3 digest"
        return ""

    def _read(self, count: int) -> bytes | None:
        """Return up to `count` bytes, b"" at the end of the stream, None where nothing came in a slice's time."""
        try:
            return os.read(self._fd, count)
        except BlockingIOError:
            if not self._poll.poll(_patience_ms(self._limiter)):
                return None
            try:
                return os.read(self._fd, count)
            except BlockingIOError:
                return None


class Upload(NamedTuple):
    """A chunk to be sent."""

    header: DataHeader
    title: ChunkStore


class Sender:
    """The end that a node serves chunks on.

    `take()` returns the next chunk to send, or None where none waits. `sent(header)` is called in the event loop for
    each chunk whose last byte was handed to the kernel. `yield_early()` says that others wait for the upload slot.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        limiter: trio.CapacityLimiter,
        take: Callable[[], Upload | None],
        sent: Callable[[DataHeader], None],
        yield_early: Callable[[], bool],
    ) -> None:
        """`limiter` bounds the worker threads that all streams of a node share."""
        self._sock = sock
        self._fd = sock.fileno()
        self._limiter = limiter
        self._take = take
        self._sent = sent
        self._yield_early = yield_early
        self._upload: Upload | None = None
        self._head = b""
        self._moved = 0

    async def run(self) -> None:
        """Send what waits, then return; the same sender may be run again.

        Raises `TransferError` where the stream is of no more use: the remote is gone or stalled, or a file is shorter
        than its manifest says.
        """
        token = trio.lowlevel.current_trio_token()
        try:
            while True:
                turn = await trio.to_thread.run_sync(self._work, token, limiter=self._limiter)
                if turn is not _Next.WAIT:
                    return
                with trio.fail_after(PROGRESS_TIMEOUT_S):
                    await trio.lowlevel.wait_writable(self._sock)
        except (OSError, EOFError, StoreError, trio.TooSlowError, trio.ClosedResourceError) as error:
            chunk = self._upload.header.chunk if self._upload else -1
            raise TransferError(f"chunk {chunk} was sent to {self._moved} bytes: {_name(error)}") from error

    # ---- in the worker thread

    def _work(self, token: trio.lowlevel.TrioToken) -> _Next:
        for _ in range(RUN_CHUNKS):
            if self._upload is None:
                self._upload = self._take()
                if self._upload is None:
                    return _Next.END
                self._head, self._moved = encode_header(self._upload.header), 0
            if not self._send(self._upload):
                return _Next.WAIT
            token.run_sync_soon(partial(self._sent, self._upload.header))
            self._upload = None
            if self._yield_early():
                break
        return _Next.AGAIN

    def _send(self, upload: Upload) -> bool:
        if self._moved < HEADER_BYTES:
            self._moved += io.send_bytes(self._fd, self._head, self._moved, more=True)
            if self._moved < HEADER_BYTES:
                return False
        for file_fd, offset, length in upload.title.ranges(upload.header.chunk, self._moved - HEADER_BYTES):
            moved = io.send_file(self._fd, file_fd, offset, length, _patience_ms(self._limiter))
            self._moved += moved
            if moved < length:
                return False
        return True


def _name(error: BaseException) -> str:
    return str(error) or type(error).__name__

