"""The two ends of a data stream, as a plane serves them (see `plane`).

The receiver of payload opens the stream. A turn of its end goes from chunk to chunk: header, payload into the title's
file, XXH3 on the way, BLAKE3 on what was written. A turn of the sender's end takes the next chunk that was asked for
and sends it from the title's file, while it has an upload slot. Both stop where the socket would make them wait.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import trio
from blake3 import blake3

from p2pfill.engine.requests import Arrival, ChunkStore, Outcome, Receive, RequestBook, RequestStep
from p2pfill.engine.uploads import NextUpload
from p2pfill.errors import RemoteProtocolError, StoreError, TransferError
from p2pfill.hot import io
from p2pfill.hot.lanes import LOW_WATER_BYTES, RUN_CHUNKS, Lane, WriteLock
from p2pfill.model.faults import as_p2pfill_error
from p2pfill.model.ids import TitleId
from p2pfill.model.urgency import Urgency
from p2pfill.protocol.data import HEADER_BYTES, DataHeader, decode_header, encode_header
from p2pfill.transport.payload import Inlet, Outlet, PlainInlet, PlainOutlet
from p2pfill.transport.plane import DataPlane, Poll, Stream
from p2pfill.transport.receive_buffer import ReceiveBuffer

DISK_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE})
"""What a file answers and a socket never does: the native loop that serves both does not say which it was."""

SO_MAX_PACING_RATE: Final = 47
"""Of Linux; Python has no name for it. The kernel paces by itself since 4.13, without the fq discipline."""

PACE: Final = 1.5
"""The kernel counts headers too, and what a turn was late is to be made up for. See docs/experiments.md, "Rates"."""

_RATE: Final = struct.Struct("Q")
_NO_RATE: Final = (1 << 64) - 1


class StreamStats(NamedTuple):
    """What the receiving ends of a node have done with their time, in nanoseconds added up over all of them.

    Of each from the opening of its stream to the end of its last turn: what it waits for after its last chunk is not
    in it.
    """

    socket_ns: int = 0
    """Waiting for bytes, taking them out of the socket, and decrypting them where they are encrypted."""
    hash_ns: int = 0
    write_ns: int = 0
    """Writing into the page cache, and waiting where the kernel holds writers back."""

    def plus(self, other: StreamStats) -> StreamStats:
        """Return the sums."""
        return StreamStats(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Receiver(Stream):
    """The end that a node opens to be sent chunks. Run it once.

    Each header claims what it announces from `book`, and what became of it arrives there.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType,
        plane: DataPlane,
        book: RequestBook,
        tier: str = "peer",
        urgency: Callable[[Receive], Urgency] = lambda receive: Urgency(),
        inlet: Inlet | None = None,
    ) -> None:
        """`urgency` is called in threads; what comes from a `tier` keeps to the limits of that.

        Without an `inlet` payload comes as it is.
        """
        super().__init__(sock, plane, limits=plane.throttle.inbound, tier=tier)
        self._book = book
        self._urgency_of = urgency
        self._inlet = PlainInlet(self.lane) if inlet is None else inlet
        self._head = b""
        self._receive: Receive | None = None
        """What the payload that comes is for."""
        self._skips = False
        """It is of no use and read past."""
        self._refusal = ""
        """Why the disk does not take it, if so."""
        self._taken = 0
        self._blake3 = blake3()
        """Of the chunk that comes, as far as threads have taken it in while it was warm (`Lane.updated_bytes`)."""
        self._buffer = ReceiveBuffer(sock) if plane.yields else None
        self._rested_ns = time.monotonic_ns()
        self._turned_ns = 0
        """All turns and the waits before them."""
        self._checked_ns = 0

    async def run(self) -> None:
        """Receive until the remote ends the stream between chunks.

        Raises `TransferError` where the stream broke or stalled, or where the disk refused in the middle of a chunk,
        and `RemoteProtocolError` where what comes is not what was asked for. After any of them the stream must be
        closed; what it was receiving has arrived as broken, or as refused by the disk.
        """
        outcome, fault = Outcome.BROKEN, "data stream ended"
        try:
            await self._run()
        except OSError as error:
            within = self._receive
            where = f"inside chunk {within.chunk} after {self._taken} bytes" if within is not None else "between chunks"
            fault = f"data stream broke {where}: {_name(error)}"
            if error.errno in DISK_ERRNOS and self._receive is not None:
                outcome, fault = Outcome.STORE, f"cannot write chunk to disk: {_name(error)}"
            raise TransferError(fault) from error
        except Exception as error:
            fault = str(as_p2pfill_error("receive a chunk", error))
            raise
        finally:
            if self._receive is not None:
                self._arrive(self._receive, outcome, fault)

    @property
    def receiving(self) -> int | None:
        """Request id of the chunk that is coming."""
        receive = self._receive  # looked at once: while the stream runs, a thread of the plane may be done with it
        return receive.request_id if receive is not None else None

    def come_bytes(self) -> int:
        """Return payload that has come so far. What waits in the kernel counts, since a stream is not woken for little
        (`LOW_WATER_BYTES`): of a slow remote that may be all that comes in half a minute.
        """
        waiting = bytearray(4)
        if self._receive is not None:
            with suppress(OSError, ValueError):  # it was closed meanwhile
                fcntl.ioctl(self.sock.fileno(), termios.FIONREAD, waiting)
        return self.moved_bytes + self._inlet.kept_bytes + int.from_bytes(waiting, sys.byteorder)

    def is_inside_chunk(self) -> bool:
        """Tell whether the remote owes bytes of a chunk that it has begun."""
        return self._receive is not None or bool(self._head) or self.lane.head_bytes > 0

    def note_moved(self, count: int) -> None:
        """As of any stream."""
        self._taken += count

    def keep_pace(self) -> None:
        """In background mode, have the remote send no more ahead than the rate needs."""
        rate = self.limits.budget.tightest(self.claim.tier)
        if self._buffer is not None and rate:
            self._buffer.fit(rate)

    def urgency(self) -> Urgency:
        """Return how urgent the title is of which a chunk comes."""
        receive = self._receive
        return Urgency() if receive is None else self._urgency_of(receive)

    def interest(self) -> int:
        """Wait for bytes, or for the end; where bytes are here already for room, which the socket always has."""
        return select.EPOLLIN | (select.EPOLLOUT if self._inlet.has_unread else 0)

    @property
    def spent(self) -> StreamStats:
        """What it has done with its time until the end of its last turn."""
        hash_ns, write_ns = self._inlet.spent_ns()
        hash_ns += self._checked_ns
        return StreamStats(self._turned_ns - hash_ns - write_ns, hash_ns, write_ns)

    def work(self, ready: int) -> Poll:
        """Take what has come: headers, payload, digests."""
        try:
            return self._work()
        finally:
            now_ns = time.monotonic_ns()
            self._turned_ns += now_ns - self._rested_ns
            self._rested_ns = now_ns

    def _work(self) -> Poll:
        self._settle()
        for _ in range(RUN_CHUNKS):
            if self._receive is None:
                step = self._take_header()
                if step is not None:
                    return step
            receive = self._receive
            if receive is None:
                return Poll.WAIT
            if self._post(receive):
                return Poll.MOVE
            done = not self._skips and (self._taken == receive.length or self._take(receive))
            if self._skips:
                done = self._skip(receive)
            if not done and self.claim.waits:
                # When its turn comes there may be less left of the chunk than it has waited for before.
                self.lane.set_low_water(1)
                return Poll.PARK
            if not done:
                wanted = min(receive.length - self._taken, LOW_WATER_BYTES, self._buffer_bytes() // 4)
                self.lane.set_low_water(max(1, wanted - self._inlet.kept_bytes_max))
                return Poll.WAIT
            if self._inlet.lane is None:
                self.lane.set_low_water(1)  # else the lane does where it has to wait for the next header
            self._finish(receive)
        self.lane.set_low_water(1)
        return Poll.WAIT

    def _finish(self, receive: Receive) -> None:
        """Check a chunk, all of which has come."""
        outcome, fault = Outcome.WITHDRAWN, self._refusal
        try:
            if self._refusal:
                outcome = Outcome.STORE
            elif not self._skips:
                outcome, fault = receive.verify(partial(self._fault_of, receive))
        except StoreError as error:
            outcome, fault = Outcome.STORE, str(error)
        self._receive = None
        self._arrive(receive, outcome, fault)

    def _arrive(self, receive: Receive, outcome: Outcome, fault: str) -> None:
        if outcome is not Outcome.VERIFIED:
            receive.step(RequestStep.FAIL)  # if it has not ended otherwise
        self._book.arrive(Arrival(receive, outcome, self._taken, fault))

    def _buffer_bytes(self) -> int:
        """Return how large the kernel's buffer is by now; about half of it is the window that the remote may fill."""
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def _take_header(self) -> Poll | None:
        """Take a header; return None once it is there, or what to do meanwhile."""
        if len(self._head) < HEADER_BYTES and (lane := self._inlet.lane) is not None:
            if not lane.head_ended:
                lane.post_head(HEADER_BYTES - len(self._head))
                return Poll.MOVE
            return self._end_between()
        while len(self._head) < HEADER_BYTES:
            part = self._inlet.read(HEADER_BYTES - len(self._head))
            if part is None:
                return Poll.WAIT
            if not part:
                return self._end_between()
            self._head += part
        header = decode_header(self._head)
        receive = self._book.claim(header)
        self._head, self._taken, self._refusal = b"", 0, ""
        self._skips = not receive.is_wanted
        self._receive = receive
        self._inlet.reset()
        return None

    def _end_between(self) -> Poll:
        if self._head:
            # No broken rule: a source that dies may have sent a part of it.
            raise TransferError("data stream ended inside a header")
        return Poll.END

    def _settle(self) -> None:
        """Note what has come of what was posted. Raises what has broken it off."""
        self._head += self.lane.take_head()
        self._taken += self.lane.take()
        self.lane.check()

    def _post(self, receive: Receive) -> bool:
        """Have the threads take what comes for a chunk by themselves, up to the end of a file; False where not so.

        They look at the right to write before each slice.
        """
        title, lane = receive.title, self._inlet.lane
        if lane is None or self._skips or self._taken == receive.length or not self.moves_freely():
            return False
        if not isinstance(right := title.write_lock(receive.chunk), WriteLock) or not receive.may_write:
            return False
        try:
            for file_fd, offset, length in title.ranges(receive.chunk, self._taken, write=True):
                rest = receive.length - self._taken - length
                update = self._update_of(receive, lane)
                head = 0 if rest else HEADER_BYTES
                lane.post_receive(
                    right, receive.writes, title.seals, receive.chunk, file_fd, offset, length, rest, update, head
                )
                return True
        except StoreError as error:
            # Refused before a byte of it left the socket, so the stream can go on, and with it other titles.
            self._refusal, self._skips = str(error), True
        except OSError:
            pass  # no descriptor is left: it is moved in the turn, with that of the title
        return False

    def _update_of(self, receive: Receive, lane: Lane) -> Callable[[memoryview], object] | None:
        """Return what is to take in payload for BLAKE3 as it is written; None where the chunk is to be read back.

        What is hashed in passing is what the file holds, as long as nobody else has had the right to write meanwhile.
        """
        if receive.check is None or lane.updated_bytes != self._taken:
            return None
        if not self._taken:
            self._blake3 = blake3()
        return self._blake3.update

    def _take(self, receive: Receive) -> bool:
        """Write what has come; True with the last byte. Where nothing may be written, the rest is to be skipped."""
        try:
            with receive.title.write_lock(receive.chunk):
                if receive.may_write:
                    return self._write(receive)
        except StoreError as error:
            # Refused before a byte of it left the socket, so the stream can go on, and with it other titles.
            self._refusal = str(error)
        self._skips = True
        return False

    def _write(self, receive: Receive) -> bool:
        for file_fd, offset, length in receive.title.ranges(receive.chunk, self._taken, write=True):
            end = offset + length
            while offset < end:
                allowed = self.limits.take(self.claim, end - offset)
                if not allowed:
                    return False
                moved = self._inlet.recv_to_file(file_fd, offset, allowed)
                offset += moved
                self._taken += moved
                if self._inlet.lane is None:
                    self._moved_beside_bytes += moved
                if moved < allowed:
                    self.limits.give_back(self.claim, allowed - moved)
                    return False
        return True

    def _skip(self, receive: Receive) -> bool:
        while self._taken < receive.length:
            allowed = self.limits.take(self.claim, min(receive.length - self._taken, io.BUFFER_BYTES))
            if not allowed:
                return False
            part = self._inlet.read(allowed)
            self.limits.give_back(self.claim, allowed - len(part or b""))
            if part is None:
                return False
            if not part:
                raise ConnectionResetError("the remote closed it")
            self._taken += len(part)
            self._moved_beside_bytes += len(part)
        return True

    def _fault_of(self, receive: Receive) -> str:
        if self._inlet.digest() != receive.xxh3:
            return "wrong XXH3 digest"
        if receive.check is None:
            return ""
        began_ns = time.monotonic_ns()
        lane = self._inlet.lane
        is_hashed = (
            lane is not None
            and lane.updated_bytes == receive.length
            and isinstance(right := receive.title.write_lock(receive.chunk), WriteLock)
            and lane.had_alone(right)
        )
        is_right = receive.check(receive.chunk, self._blake3.digest() if is_hashed else None)
        self._checked_ns += time.monotonic_ns() - began_ns
        return "" if is_right else "wrong BLAKE3 digest"


class Upload(NamedTuple):
    """A chunk to be sent."""

    header: DataHeader
    title: ChunkStore
    wanted: NextUpload


_HEARD: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


LOWER_EFFORT: Final = 1 << 2
"""The code point of RFC 8622 in the byte of an IP header: of packets that wait for all others."""

PRIORITY_BULK: Final = 2
"""`TC_PRIO_BULK` of Linux: what the default queue of an interface sends when nothing else waits there."""


def let_pass(sock: trio.socket.SocketType | ssl.SSLSocket) -> None:
    """Have others on the link pass what a socket sends, as far as queues on the way look at it."""
    with suppress(OSError):
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, LOWER_EFFORT)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, LOWER_EFFORT)
    with suppress(OSError):
        # After the code point, which sets a priority of its own.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, PRIORITY_BULK)


class Sender(Stream):
    """The end that a node serves chunks on. Run it once; `wake` it when there is something to send.

    `take()` is called in a thread of the plane and returns the next chunk to send, or None where none waits.
    `wanted()` tells, in any thread, what that will be, or None: a chunk is taken only once there is a slot for it, so
    what is more urgent and comes meanwhile goes first.
    `sent(header)` is called in the event loop for each chunk whose last byte was handed to the kernel.
    Without an `outlet` payload goes out as it is.
    """

    def __init__(
        self,
        sock: trio.socket.SocketType | ssl.SSLSocket,
        plane: DataPlane,
        take: Callable[[], Upload | None],
        wanted: Callable[[], NextUpload | None],
        sent: Callable[[DataHeader], None],
        nearness: int = 0,
        tier: str = "peer",
        outlet: Outlet | None = None,
    ) -> None:
        super().__init__(sock, plane, nearness, plane.throttle.outbound, tier)
        self.outlet = PlainOutlet(self.lane) if outlet is None else outlet
        if plane.yields:
            let_pass(sock)
        self._take = take
        self._wanted = wanted
        self._sent = sent
        self._upload: Upload | None = None
        self._idle = False
        """Nothing is to be sent: it waits for `wake`, or for the remote to close."""
        self._head = b""
        self._moved = 0
        self._paced_bytes_s = 0
        """What the kernel was told to send at most; 0: nothing."""
        self.unreadable: tuple[TitleId, int] | None = None
        """The chunk whose file has ended the stream, if one has: it is shorter than it must be, or cannot be read."""

    async def run(self) -> None:
        """Send what is to be sent until the remote closes the stream.

        Raises `TransferError` where the stream is of no more use: the remote is gone or stalled, or a file is shorter
        than its manifest says; and `RemoteProtocolError` where the remote says something here.
        """
        try:
            await self._run()
        except (OSError, EOFError, StoreError) as error:
            chunk = self._upload.header.chunk if self._upload else -1
            if self._upload is not None and (not isinstance(error, OSError) or error.errno in DISK_ERRNOS):
                self.unreadable = self._upload.wanted.title, chunk
            raise TransferError(f"chunk {chunk} was sent to {self._moved} bytes: {_name(error)}") from error

    def wake(self) -> bool:
        """Have the stream look for something to send; False where it is at it already."""
        if not self._idle:
            return False
        self._idle = False
        self.plane.arm(self)
        return True

    def reprioritise(self) -> None:
        """Note that something more urgent may be there to be sent: it waits for its slot among its like."""
        if self.place is not None and (wanted := self._wanted()) is not None:
            self.plane.reprioritise(self, wanted)

    @property
    def is_busy(self) -> bool:
        """Whether a chunk is being sent."""
        return self._upload is not None

    @property
    def title(self) -> TitleId | None:
        """The title of the chunk that is being sent, if one is."""
        upload = self._upload  # looked at once: a thread of the plane may be done with it
        return upload.wanted.title if upload is not None else None

    def is_inside_chunk(self) -> bool:
        """Tell whether the remote owes room for a chunk that was begun."""
        return self._upload is not None and self._moved + self.lane.moving_bytes > 0

    def urgency(self) -> Urgency:
        """Return how urgent the title is of which a chunk is being sent."""
        upload = self._upload
        return Urgency() if upload is None else upload.wanted.urgency

    def note_moved(self, count: int) -> None:
        """As of any stream."""
        self._moved += count

    def keep_pace(self) -> None:
        """Have the kernel send no faster than all of the limit, so that what a budget grants goes out without bursts.

        Several sockets together may be faster for a moment; that they are not on the whole is the budget's business.
        """
        rate = int(self.limits.budget.tightest(self.claim.tier) * PACE)
        if rate != self._paced_bytes_s:
            self._paced_bytes_s = rate
            with suppress(OSError):  # it was closed meanwhile, or cannot be paced, as a socket of a test
                self.sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, _RATE.pack(rate or _NO_RATE))

    def interest(self) -> int:
        """Wait for room where there is something to send, and between chunks for the remote to close.

        A remote that has ended its half and reads no more must not wake a thread again and again inside of a chunk.
        """
        if self._upload is not None:
            return select.EPOLLOUT
        return select.EPOLLRDHUP | (select.EPOLLIN if self._idle else select.EPOLLOUT)

    def work(self, ready: int) -> Poll:
        """Send what is to be sent."""
        if self._settle() and self.plane.has_slot_queue:
            return self._rest()
        if self._upload is None and ready & _HEARD:
            return self._hear()
        if self._upload is None and self.outlet.is_used_up:
            return Poll.END
        wanted = self._next_wanted()
        if wanted is None:
            self.plane.release_slot(self)
            return Poll.WAIT
        if not self.has_slot and not self.plane.take_slot(self, wanted):
            return self._park()
        for _ in range(RUN_CHUNKS):
            if self._upload is None and not self._take_next():
                break
            if self._upload is None:
                break
            if self._post(self._upload):
                return Poll.MOVE
            if not self._send(self._upload):
                break
            self._finish(self._upload)
            if self.plane.has_slot_queue:
                break
        return self._rest()

    def _settle(self) -> bool:
        """Note what has come of what was posted; tell whether a chunk is sent. Raises what has broken it off."""
        self._moved += self.lane.take()
        self.lane.check()
        if self._upload is None or self._moved < HEADER_BYTES + self._upload.header.length:
            return False
        self._finish(self._upload)
        return True

    def _finish(self, upload: Upload) -> None:
        self.plane.tell_later(partial(self._sent, upload.header), self.end)
        self._upload = None

    def _post(self, upload: Upload) -> bool:
        """Have the threads send the rest of a chunk by themselves, up to the end of a file; False where not so."""
        if self.outlet.lane is None or not self.moves_freely():
            return False
        head = self._head[self._moved :]
        try:
            for file_fd, offset, length in upload.title.ranges(upload.header.chunk, max(0, self._moved - HEADER_BYTES)):
                self.outlet.lane.post_send(head, file_fd, offset, length)
                return True
        except OSError:
            pass  # no descriptor is left: it is moved in the turn, with that of the title
        return False

    def _rest(self) -> Poll:
        """Keep the slot inside a chunk; between chunks keep it only where nobody waits for something as urgent."""
        if self._upload is not None and self._moved:
            return Poll.PARK if self.claim.waits else Poll.WAIT
        wanted = self._next_wanted()
        if wanted is None:
            self.plane.release_slot(self)
            return Poll.WAIT
        return Poll.WAIT if self.plane.renew_slot(self, wanted) else self._park()

    def _park(self) -> Poll:
        # What came between the question how urgent it is and the queue has found nobody there to hurry.
        self.reprioritise()
        return Poll.PARK

    def _next_wanted(self) -> NextUpload | None:
        """Return what it sends next; None where nothing is to be sent, and then it is idle."""
        if self._upload is not None:
            return self._upload.wanted
        wanted = self._wanted()
        if wanted is None:
            # In this order: a request that comes in between finds either the flag or this second look.
            self._idle = True
            wanted = self._wanted()
        if wanted is not None:
            self._idle = False
        return wanted

    def _take_next(self) -> bool:
        self._upload = None if self.outlet.is_used_up else self._take()
        if self._upload is None:
            return False
        self._head, self._moved = encode_header(self._upload.header), 0
        return True

    def _hear(self) -> Poll:
        try:
            said = os.read(self.fd, 1)
        except BlockingIOError:
            return Poll.WAIT
        if said:
            raise RemoteProtocolError("the receiver of a data stream has nothing to say on it but its preface")
        return Poll.END

    def _send(self, upload: Upload) -> bool:
        if self._moved < HEADER_BYTES:
            self._moved += self.outlet.send_head(self._head, self._moved)
            if self._moved < HEADER_BYTES:
                return False
        for file_fd, offset, length in upload.title.ranges(upload.header.chunk, self._moved - HEADER_BYTES):
            end = offset + length
            while offset < end:
                # What is held has had its turn.
                allowed = self.outlet.held_bytes or self.limits.take(self.claim, end - offset)
                if not allowed:
                    return False
                moved = self.outlet.send_file(file_fd, offset, allowed)
                offset += moved
                self._moved += moved
                if self.outlet.lane is None:
                    self._moved_beside_bytes += moved
                if moved < allowed:
                    self.limits.give_back(self.claim, allowed - moved - self.outlet.held_bytes)
                    return False
        return True


def _name(error: BaseException) -> str:
    return str(error) or type(error).__name__
