"""The data plane: a few threads that move payload between sockets and disk, without the event loop.

There is one epoll (`hot.lanes`), on which one thread waits; others join in where it is held up or has too much to do.
A stream is armed for one event at a time (EPOLLONESHOT), so exactly one thread has it; that thread moves what can be
moved without waiting, arms the stream again, and takes whatever is ready next. Inside a chunk it does so without the
interpreter; between chunks it has the stream's turn. The event loop starts and ends streams and hears of finished
chunks through its own queue; between them it takes no part. So a thread blocked by a disk holds up one stream, a slow
peer holds up nobody, and a chunk costs no change of thread.

Rejected: a hand-over from the event loop to a worker thread for each slice, which on shaped links cost more processor
time than hashing and copying; a thread per stream, which 64 peers would make 64.
"""

from __future__ import annotations

import os
import select
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from enum import Enum
from functools import partial

import trio

from p2pfill.engine.slots import Uploader, UploadSlots
from p2pfill.engine.uploads import NextUpload
from p2pfill.errors import InternalError, TransferError, is_fault, leaves_of
from p2pfill.hot.lanes import Lane, Lanes
from p2pfill.model.ids import TitleId
from p2pfill.model.timing import FROZEN_S, PROGRESS_TIMEOUT_S, SLOT_LEAST_BYTES, SLOT_SLOW_LOOKS, SLOT_WATCH_S
from p2pfill.model.urgency import Urgency
from p2pfill.threads import name_thread
from p2pfill.transport.budget import Claim
from p2pfill.transport.calls import Calls
from p2pfill.transport.looks import next_look
from p2pfill.transport.throttle import Direction, Throttle


class Poll(Enum):
    """What a stream wants after a thread has served it."""

    WAIT = "arm it again"
    MOVE = "something is posted on its lane, to be moved"
    PARK = "it waits for an upload slot or for its turn in a budget, and whoever gives it that arms it"
    END = "nothing more will come"


class Stream(Uploader, ABC):
    """One data stream of a plane. `work` runs in the plane's threads, all else in the event loop."""

    def __init__(
        self,
        sock: trio.socket.SocketType | ssl.SSLSocket,
        plane: DataPlane,
        nearness: int = 0,
        limits: Direction | None = None,
        tier: str = "peer",
    ) -> None:
        """`limits` are those of its direction, by default outbound; `tier` is one of `model.rates.TIERS`."""
        super().__init__(nearness, tier)
        self.sock = sock
        self.fd = sock.fileno()
        self.plane = plane
        self.limits = limits or plane.throttle.outbound
        self.claim = Claim(tier, self.urgency, partial(plane.arm, self))
        self.lane = Lane(self.fd)
        self.lane.turn = partial(plane.turn, self)
        self._moved_beside_bytes = 0
        self.moved_at_look = 0
        self.had_slot = False
        """At the last look."""
        self.slow_looks = 0
        """For so many it is taken for slow yet."""
        self._ended = trio.Event()
        self._fault: Exception | None = None

    @abstractmethod
    def interest(self) -> int:
        """Return the epoll events that the stream waits for."""

    @abstractmethod
    def work(self, ready: int) -> Poll:
        """Move what can be moved now; `ready` are the events that came. Raises what ends the stream."""

    @property
    def moved_bytes(self) -> int:
        """Payload bytes moved so far; grows inside a chunk too."""
        return self.lane.moved_bytes + self._moved_beside_bytes

    def moves_freely(self) -> bool:
        """Tell whether what it moves need not be counted out by limits."""
        return not (self.limits.is_limited or self.claim.waits or self.claim.granted)

    def urgency(self) -> Urgency:
        """Return how urgent what it moves is."""
        return Urgency()

    def come_bytes(self) -> int:
        """Return what shows that the remote is alive: payload moved so far, and what is here and was not read yet."""
        return self.moved_bytes

    def note_moved(self, count: int) -> None:
        """Take note that so many bytes of what was posted were moved, when no thread has it any more."""

    def keep_pace(self) -> None:
        """Take note that other limits are in force. Callable from any thread."""

    @abstractmethod
    def is_inside_chunk(self) -> bool:
        """Tell whether the remote owes bytes, or room for them, so that standing still is a fault."""

    async def _run(self) -> None:
        """Have the stream served until it ends; raises what ended it, `TransferError` where it stands still."""
        try:
            # Before a thread serves it: what moves at once has moved within the first look, too.
            come_bytes = self.come_bytes()
            self.plane.add(self)
            while not self._ended.is_set():
                until = trio.current_time() + PROGRESS_TIMEOUT_S
                with trio.move_on_at(until):
                    await self._ended.wait()
                before, come_bytes = come_bytes, self.come_bytes()
                if trio.current_time() > until + FROZEN_S:
                    continue  # this program was stopped, and what has come meanwhile is unread yet
                if self.claim.waits:
                    continue  # it is this node's limits that hold it up
                if not self._ended.is_set() and self.is_inside_chunk() and come_bytes == before:
                    raise TransferError(f"no byte moved for {PROGRESS_TIMEOUT_S:g} s inside a chunk")
        finally:
            is_served_no_more, self.closed = self.closed, True
            self.plane.remove(self)
            if not is_served_no_more:
                # A thread may be inside `work`; the socket must stay until it is out.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self.lane.wait_unserved)
                # What was posted has a descriptor of a file, which would be open, and its room on the disk taken, until
                # the collector comes by.
                self.note_moved(self.lane.take())
            self.lane.turn = None  # which refers to this
        if self._fault is not None:
            raise self._fault

    def end(self, fault: Exception | None) -> None:
        """Note in the event loop that the stream is over, and the first reason why."""
        self._fault = self._fault or fault
        self._ended.set()


class DataPlane:
    """The threads of one node, its streams, and its upload slots."""

    def __init__(self, workers: int, upload_slots: int, *, yields: bool = False) -> None:
        """With `yields`, what is sent lets all else on the link pass."""
        self.yields = yields
        self._workers = workers
        self._epoll = select.epoll()
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._stop_fd, select.EPOLLIN)
        self._lanes = Lanes(self._epoll)
        self._streams: dict[int, Stream] = {}
        self._slot_lock = threading.Lock()
        self._slots = UploadSlots(upload_slots)
        self.throttle = Throttle()
        self.throttle.on_change = self._keep_pace
        self._token = trio.lowlevel.current_trio_token()
        self._news = Calls()
        self._has_told = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DataPlane]:
        """Run the threads; at the end of the block all streams must be over."""
        threads = [threading.Thread(target=self._serve, name=f"data-{n}", daemon=True) for n in range(self._workers)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._lanes.stop()
            os.eventfd_write(self._stop_fd, 1)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.throttle.close)
                for thread in threads:
                    await trio.to_thread.run_sync(thread.join)
            self._epoll.close()
            os.close(self._stop_fd)

    # ---- streams

    def add(self, stream: Stream) -> None:
        """Begin to serve a stream."""
        self._streams[stream.fd] = stream
        self._lanes.add(stream.lane)
        stream.keep_pace()
        self._epoll.register(stream.fd, stream.interest() | select.EPOLLONESHOT)

    def remove(self, stream: Stream) -> None:
        """Serve a stream no more; a thread that is at it finishes its turn."""
        if self._streams.get(stream.fd) is stream:
            del self._streams[stream.fd]
        self._lanes.remove(stream.lane)
        with suppress(OSError, ValueError):
            self._epoll.unregister(stream.fd)
        stream.limits.leave(stream.claim)
        self.release_slot(stream)

    def _keep_pace(self) -> None:
        for tier, bucket in self.throttle.outbound.budget.tiers.items():
            # Half is enough to make use of a rate, and the rest is for what is not held up.
            self.limit(tier, max(1, self._slots.count // 2) if bucket.rate else None)
        for stream in list(self._streams.values()):
            stream.keep_pace()
            stream.lane.interrupt()

    def arm(self, stream: Stream) -> None:
        """Have a thread take the stream once what it waits for has come. Callable from any thread."""
        try:
            armed = -1
            # What it waits for may change before the kernel is told, by another thread that may have been faster.
            while armed != (interest := stream.interest()):
                self._arm(stream, interest)
                armed = interest
        except BaseException as error:
            if not is_fault(error):
                raise
            # The caller may be another stream, which gives it its slot.
            self.tell(partial(stream.end, _as_exception(error)), stream.end)

    def _arm(self, stream: Stream, interest: int) -> None:
        if self._streams.get(stream.fd) is not stream:
            return  # it was removed, and by now another one may have its descriptor
        with suppress(OSError, ValueError):  # it is being removed
            self._epoll.modify(stream.fd, interest | select.EPOLLONESHOT)

    def tell(self, news: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """Have `news` called in the event loop, in order. Callable from any thread.

        What gathers before the loop looks is handed over at once: waking it costs more than most news do. What `news`
        raises is given to `failed` (`Calls.put`).
        """
        self._news.put(news, failed)
        if not self._has_told:
            self._has_told = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._take_news)

    def tell_later(self, news: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        """As `tell`, where nobody waits for it: a plane may spare the loop to be woken for it alone."""
        self.tell(news, failed)

    def _take_news(self) -> None:
        # In this order: news that comes in between finds either the flag down or this loop still looking.
        self._has_told = False
        self._news.make()

    # ---- upload slots, which threads take and give back

    @property
    def has_slot_queue(self) -> bool:
        """Whether a stream waits for an upload slot."""
        return self._slots.has_queue

    def limit(self, share: TitleId | str, slots: int | None) -> None:
        """Let a title, or a tier, take `slots` slots, at least one; None: as many as there are."""
        with self._slot_lock:
            served = self._slots.limit(share, slots)
        self._serve_next(served)

    def take_slot(self, stream: Stream, wanted: NextUpload) -> bool:
        """Give an upload slot to `stream`, which has none, or queue it for one."""
        with self._slot_lock:
            return self._slots.take(stream, wanted)

    def reprioritise(self, stream: Stream, wanted: NextUpload) -> None:
        """Let `stream` wait for something more urgent, if it waits: what it is to send has changed."""
        with self._slot_lock:
            has_slot = self._slots.reprioritise(stream, wanted)
        if has_slot:
            self.arm(stream)

    def renew_slot(self, stream: Stream, wanted: NextUpload) -> bool:
        """Leave `stream` its slot for a next chunk unless another waits that is as urgent and as far; then queue it."""
        with self._slot_lock:
            kept, served = self._slots.renew(stream, wanted)
        self._serve_next(served)
        return kept

    def release_slot(self, stream: Stream) -> None:
        """Take the slot from `stream`, if it has one, and give it to the one that waits and is to be first."""
        with self._slot_lock:
            served = self._slots.release(stream)
        stream.lane.interrupt()
        self._serve_next(served)

    def _serve_next(self, served: Iterable[Uploader]) -> None:
        for uploader in served:
            if isinstance(uploader, Stream):
                self.arm(uploader)

    async def watch_slots(self) -> None:
        """Take upload slots from streams that stand still, or nearly so while others wait; runs until cancelled."""
        while True:
            await next_look(SLOT_WATCH_S)
            for stream in list(self._streams.values()):
                self._watch_slot(stream)

    def _watch_slot(self, stream: Stream) -> None:
        moved, stream.moved_at_look = stream.moved_bytes - stream.moved_at_look, stream.moved_bytes
        had_slot, stream.had_slot = stream.had_slot, stream.has_slot
        stream.slow_looks = max(0, stream.slow_looks - 1)
        if stream.has_slot and not stream.claim.waits and moved < self._least_bytes(stream):
            if had_slot and self.has_slot_queue:
                stream.slow_looks = SLOT_SLOW_LOOKS
            if not moved or stream.slow_looks:
                self.release_slot(stream)
        stream.is_slow = stream.slow_looks > 0

    def _least_bytes(self, stream: Stream) -> float:
        """Return what a stream with a slot moves between two looks: a quarter of its part where a limit of ours holds.
        """
        rate = stream.limits.budget.tightest(stream.claim.tier)
        return min(SLOT_LEAST_BYTES, rate * SLOT_WATCH_S / (4 * self._slots.count)) if rate else SLOT_LEAST_BYTES

    # ---- the threads

    def _serve(self) -> None:
        name_thread()
        self._lanes.serve()

    def turn(self, stream: Stream, ready: int) -> bool:
        """Have a stream work, in a thread that has its lane; tell whether it has posted something to be moved."""
        if stream.closed:
            return False
        fault: Exception | None = None
        try:
            turn = stream.work(ready)
            if turn is Poll.WAIT:
                self.arm(stream)
        except BaseException as error:  # noqa: BLE001  (raised again by the task that owns the stream)
            turn, fault = Poll.END, _as_exception(error)
        if turn is Poll.END:
            stream.closed = True
            self.tell(partial(stream.end, fault), stream.end)
        return turn is Poll.MOVE


def _as_exception(error: BaseException) -> Exception:
    """Return what a task may raise for `error`, which a panic of a library is not (`errors.is_fault`)."""
    if isinstance(error, Exception):
        return error
    first = leaves_of(error)[0]
    stands = InternalError(f"a data stream ended with {type(first).__name__}: {first}")
    stands.__cause__ = error
    return stands
