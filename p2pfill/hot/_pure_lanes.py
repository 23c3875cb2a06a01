"""Pure twin of the lanes of `p2pfill._native`; how they are used is in `lanes`."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final

from p2pfill.hot import _pure_io

_LOW_WATER_BYTES: Final = 256 * 1024
_RUN_CHUNKS: Final = 16
_WARM_BYTES: Final = 64 * 1024
_SLICE_BYTES: Final = 256 * 1024


class _Way(Enum):
    NONE = 0
    RECEIVE = 1
    SEND = 2
    HEAD = 3


class WriteLock:
    """The lock of a chunk under which it is written and sealed: a context manager. Its holder must not take it again.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.takes = 0
        """How often it was taken."""

    def __enter__(self) -> WriteLock:
        self.lock.acquire()
        self.takes += 1
        return self

    def __exit__(self, *exc: object) -> None:
        self.lock.release()


class Lane:
    """One stream as the threads see it; the socket is the caller's, non-blocking, and outlives it."""

    def __init__(self, sock_fd: int) -> None:
        self.sock_fd = sock_fd
        self.turn: Callable[[int], bool] | None = None
        """Called, in a thread, with the events that came (0 where none had to), when nothing more can be moved of what
        was posted, or nothing was; tells whether it has posted something. What it returns False for it has armed."""
        self.lock = threading.Lock()
        self.interrupted = False
        self._low_water_bytes = 1
        self._receiver = _pure_io.ChunkReceiver(_SLICE_BYTES)
        self.way = _Way.NONE
        self._file_fd = -1
        self._offset = self._left = self._rest = self._moved = self._total = 0
        self._head = memoryview(b"")
        self._come_head = b""
        self._head_count = 0
        self.head_ended = False
        """Whether the remote has closed before all of a head had come."""
        self._fault: Exception | None = None
        self._right: WriteLock | None = None
        self._update: Callable[[memoryview], object] | None = None
        self._updated_bytes = self._seen = 0
        self._may_write = self._sealed = memoryview(b"")

    def __del__(self) -> None:
        self._close()

    # ---- for its turn

    def post_receive(
        self,
        right: WriteLock,
        flag: bytearray,
        sealed: bytearray,
        chunk: int,
        file_fd: int,
        offset: int,
        length: int,
        rest: int,
        update: Callable[[memoryview], object] | None = None,
        head: int = 0,
    ) -> None:
        """Have `length` bytes moved from the socket to a file at `offset`, and hashed; `rest` more of the chunk follow.

        They are moved only while `flag[0]` is set and `sealed[chunk]` is not, under `right`. The descriptor of the file
        is copied. Raises `OSError` where there is none left.

        `update` is called, in the thread, with what was written, piece by piece in order, as long as pieces are of
        `lanes.WARM_BYTES` or the last of the chunk. What it raises ends that, and so does somebody else who has had
        `right` in between; `updated_bytes` is then -1.

        After the last byte up to `head` more are taken, where they are there, for `take_head`.
        """
        if not flag or not 0 <= chunk < len(sealed):
            raise ValueError("chunk or flag is outside of its buffer")
        if not 0 <= head <= 64:
            raise ValueError("a head is too long")
        self._take_file(file_fd)
        self._right, self._may_write, self._sealed = right, memoryview(flag), memoryview(sealed)[chunk:]
        self._offset, self._left, self._rest, self._moved = offset, length, rest, 0
        self._update = update
        self._come_head, self._head_count = b"", head
        self.way = _Way.RECEIVE

    def post_head(self, count: int) -> None:
        """Have up to 64 bytes of a head taken out of the socket, all of them or all before its end (`head_ended`)."""
        if not 0 < count <= 64:
            raise ValueError("a head is too long")
        self._come_head, self._head_count, self.head_ended, self._moved = b"", count, False, 0
        self.way = _Way.HEAD

    def take_head(self) -> bytes:
        """Return, once, what has come of a head."""
        head, self._come_head = self._come_head, b""
        return head

    def post_send(self, head: bytes | memoryview, file_fd: int, offset: int, length: int) -> None:
        """Have a head of up to 64 bytes sent, and then `length` bytes of a file from `offset`."""
        if len(head) > 64:
            raise ValueError("a head is too long")
        self._take_file(file_fd)
        self._head = memoryview(head)
        self._offset, self._left, self._rest, self._moved = offset, length, 0, 0
        self.way = _Way.SEND

    def take(self) -> int:
        """Forget what was posted, and return the bytes of it that were moved; `check` tells what has broken it off."""
        moved = self._moved
        self.way, self._moved, self._update = _Way.NONE, 0, None
        self._close()
        self._right, self._may_write, self._sealed = None, memoryview(b""), memoryview(b"")
        return moved

    def check(self) -> None:
        """Raise, once, what has broken off what was posted, if anything.

        That is `ConnectionResetError` where the peer closed, `EOFError` for a file that is shorter, or an `OSError` of
        the socket or the file.
        """
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def recv_to_file(self, file_fd: int, offset: int, length: int) -> int:
        """Move now what there is, as `io.ChunkReceiver.recv_to_file` does, into the same digest."""
        taken = self._receiver.recv_to_file(self.sock_fd, file_fd, offset, length)
        self._total += taken
        return taken

    def send_file(self, file_fd: int, offset: int, length: int) -> int:
        """Move now what there is room for, as `io.send_file` does."""
        sent = _pure_io.send_file(self.sock_fd, file_fd, offset, length)
        self._total += sent
        return sent

    def reset(self) -> None:
        """Forget all bytes hashed so far."""
        self._receiver.reset()
        self._updated_bytes = 0

    @property
    def updated_bytes(self) -> int:
        """Bytes that `update` was given since the last reset; -1 where it was not given all that was written."""
        return self._updated_bytes

    def had_alone(self, right: WriteLock) -> bool:
        """Tell whether nobody else has had the right to write since this lane has first written under it.

        Then the file holds what `update` was given, where that is all of a chunk.
        """
        with right.lock:
            return right.takes == self._seen

    def digest(self) -> bytes:
        """XXH3-128 of all bytes that came to files since the last reset: 16 bytes, big endian."""
        return self._receiver.digest()

    def set_low_water(self, count: int) -> None:
        """Have the socket count as readable only once `count` bytes are there, or the remote is done or cannot send."""
        if count != self._low_water_bytes:
            self._low_water_bytes = count
            self._set(socket.SO_RCVLOWAT, count)

    # ---- for anybody

    @property
    def moving_bytes(self) -> int:
        """Bytes moved so far of what is posted now, the head among them."""
        return self._moved

    @property
    def head_bytes(self) -> int:
        """Bytes that have come of a head that is waited for."""
        return len(self._come_head) if self.way is _Way.HEAD else 0

    @property
    def moved_bytes(self) -> int:
        """Bytes of files moved so far in all."""
        return self._total

    def spent_ns(self) -> tuple[int, int]:
        """Return what hashing and what writing has taken, in nanoseconds."""
        return self._receiver.spent_ns()

    def interrupt(self) -> None:
        """Have its turn called at the next event, though what is posted be not all moved."""
        self.interrupted = True

    def wait_unserved(self) -> None:
        """Wait until no thread has it."""
        with self.lock:
            pass

    # ---- for the threads

    def move(self) -> bool:
        """Move what can be moved; False where the socket is to be waited for, True where its turn is to be called."""
        try:
            match self.way:
                case _Way.RECEIVE:
                    return self._receive()
                case _Way.SEND:
                    return self._send()
                case _Way.HEAD:
                    return self._receive_head()
        except (OSError, EOFError) as error:
            self._fault = error
        return True

    def interest(self) -> int:
        """Return the events for which what is posted waits."""
        # Not for the remote's end of its half, which would wake a thread again and again while there is no room.
        return (select.EPOLLOUT if self.way is _Way.SEND else select.EPOLLIN) | select.EPOLLONESHOT

    def _receive(self) -> bool:
        while self._left and not self.interrupted and self._right is not None:
            with self._right:
                if not self._may_write[0] or self._sealed[0]:
                    return True
                if self._updated_bytes > 0 and self._right.takes != self._seen + 1:
                    self._update, self._updated_bytes = None, -1
                self._seen = self._right.takes
                wanted = min(self._left, _SLICE_BYTES)
                moved = self._receiver.recv_to_file(self.sock_fd, self._file_fd, self._offset, wanted)
            self._advance(moved)
            if self._update is not None and moved:
                self._hash_warm(self._update, moved)
            if moved < wanted:
                room = self._get(socket.SO_RCVBUF) // 4
                self.set_low_water(max(1, min(self._left + self._rest, _LOW_WATER_BYTES, room)))
                return False
        if not self._left and self._head_count:
            with suppress(OSError):  # who waits for it next sees to that
                self._come_head = os.read(self.sock_fd, self._head_count)
        return True

    def _receive_head(self) -> bool:
        while len(self._come_head) < self._head_count:
            try:
                part = os.read(self.sock_fd, self._head_count - len(self._come_head))
            except BlockingIOError:
                self.set_low_water(1)
                return False
            if not part:
                self.head_ended = True
                break
            self._come_head += part
        return True

    def _hash_warm(self, update: Callable[[memoryview], object], count: int) -> None:
        if count < _WARM_BYTES and self._left + self._rest:
            self._update = None
            return
        try:
            update(self._receiver.newest(count))
            self._updated_bytes += count
        except BaseException:  # noqa: BLE001  (what is hashed is read back then)
            self._update, self._updated_bytes = None, -1

    def _send(self) -> bool:
        while self._head and not self.interrupted:
            sent = _pure_io.send_bytes(self.sock_fd, self._head, 0, more=True)
            if not sent:
                return False
            self._head = self._head[sent:]
            self._moved += sent
        while self._left and not self.interrupted:
            sent = _pure_io.send_file(self.sock_fd, self._file_fd, self._offset, self._left)
            self._advance(sent)
            if self._left:
                return False
        return True

    def _advance(self, count: int) -> None:
        self._offset += count
        self._left -= count
        self._moved += count
        self._total += count

    def _take_file(self, file_fd: int) -> None:
        mine = os.dup(file_fd)
        self._close()
        self._file_fd = mine

    def _close(self) -> None:
        if self._file_fd >= 0:
            os.close(self._file_fd)
            self._file_fd = -1

    def _set(self, option: int, value: int) -> None:
        with _pure_io.borrowed_socket(self.sock_fd) as sock, suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, value)

    def _get(self, option: int) -> int:
        try:
            with _pure_io.borrowed_socket(self.sock_fd) as sock:
                return sock.getsockopt(socket.SOL_SOCKET, option)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            return _SLICE_BYTES


class Lanes:
    """The lanes of one plane; `epoll` is the caller's, who registers sockets, arms idle ones, and wakes `serve` to
    stop it."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._lanes: dict[int, Lane] = {}
        self._is_stopping = False

    def add(self, lane: Lane) -> None:
        """Serve a lane from now on."""
        if lane.sock_fd < 0:
            raise ValueError("a socket that is closed")
        self._lanes[lane.sock_fd] = lane

    def remove(self, lane: Lane) -> None:
        """Serve a lane no more; a thread that has it finishes with it."""
        if self._lanes.get(lane.sock_fd) is lane:
            del self._lanes[lane.sock_fd]

    def stop(self) -> None:
        """Have `serve` return in each thread, as soon as the epoll wakes it."""
        self._is_stopping = True

    def serve(self) -> None:
        """Serve all lanes until stopped: what a thread does."""
        while True:
            found = self._epoll.poll(None, 1)
            if self._is_stopping:
                return
            for fd, ready in found:
                lane = self._lanes.get(fd)
                if lane is not None:
                    with lane.lock:
                        self._serve(lane, ready)

    def _serve(self, lane: Lane, ready: int) -> None:
        for _ in range(_RUN_CHUNKS):
            if not lane.interrupted and not lane.move():
                break
            lane.interrupted = False
            if self._lanes.get(lane.sock_fd) is not lane or not self._call(lane, ready):
                return
            ready = 0
        else:
            # Others have their turn. The kernel tells of it again at once, if it waits for no more than there is: what
            # it was last told of may be more than is left of the chunk.
            lane.set_low_water(1)
        # Where it was removed, another one may have its descriptor by now.
        if self._lanes.get(lane.sock_fd) is lane:
            with suppress(OSError, ValueError):
                self._epoll.modify(lane.sock_fd, lane.interest())

    def _call(self, lane: Lane, ready: int) -> bool:
        try:
            return lane.turn is not None and lane.turn(ready)
        except BaseException:  # noqa: BLE001  (a thread of a plane goes on, and its owner sees to its turns)
            sys.excepthook(*sys.exc_info())
            return False
