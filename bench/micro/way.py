"""A chunk's whole way from one cache to another, publishing excluded, with both caches in one thread.

Two real engines, a real control link between them (encoded, framed, judged by the rules), and a real data plane each,
with a stream between them: the one cache asks, the other sends from its file, the first receives, hashes, writes,
checks BLAKE3, seals, decides what is next, announces and commits. What is left out is what makes two runs differ: Trio,
whose batches go by the time, and all that happens at once. Everything is driven by hand, always in the same order, in
rounds as of an event loop: planes move what can be moved without waiting, each in its thread while all else stands
still; their news are taken in, frames are carried over, engines decide. Time is virtual and passes with the chunks that
come, at the rate of one of the lab's links.

Chunks are as small as they may be, so that what a chunk costs is most of it, and its bytes little.

`Hand`, `connect` and `close` are all that knows how a plane is driven.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from threading import RLock, Thread
from typing import Final

import trio

from p2pfill.engine.engine import Effect, Engine
from p2pfill.engine.link import Link, OpenStream, WakeUploads
from p2pfill.engine.task import BeginWriteOut, Commit, FillTask, GoLive, LimitSlots
from p2pfill.engine.uploads import NextUpload
from p2pfill.hot.lanes import Lane
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.timing import COMMIT_INTERVAL_S, UPLOAD_SLOTS
from p2pfill.protocol.data import DataHeader
from p2pfill.sim.channel import WireChannel, hello_of
from p2pfill.store.publish import publish
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle
from p2pfill.swarm.fill import Fill
from p2pfill.transport.data import Receiver, Sender, Upload
from p2pfill.transport.plane import DataPlane

CHUNK_BYTES: Final = 64 * 1024
CHUNKS_S: Final = 400.0
"""Chunks that come in a second: 26 MB/s, about what a link of 200 Mbit/s carries."""

CHUNKS_COUNTED: Final = round(COMMIT_INTERVAL_S * CHUNKS_S)
"""From one commit to the next, so that there is one in each count."""

CHUNK_COUNT: Final = 16 * CHUNKS_COUNTED
FEW_CHUNKS: Final = round(4.25 * CHUNKS_COUNTED)
"""Four times as many come where instructions are counted: all in one fill, and without its end."""

STUCK_ROUNDS: Final = 1000
"""Rounds without a chunk, and time goes on in each."""


# ---- how a plane is driven


async def _make_plane() -> DataPlane:
    return DataPlane(workers=1, upload_slots=UPLOAD_SLOTS)


class Hand:
    """A plane with its one thread, which works while `work` waits for it, and at no other time.

    The thread serves a lane of ours beside the streams, a bell. Its turn says that it has come to it, and waits for the
    next `work`. The kernel keeps what is ready in the order in which it has become so: the bell, which is rung last,
    comes after all that was ready before.
    """

    def __init__(self) -> None:
        # The Trio run that it would give its news to is over, so these wait for `work`.
        self.plane = trio.run(_make_plane)
        self._rung, self._bell = socket.socketpair()
        self._go, self._done = os.eventfd(0), os.eventfd(0)
        self._rung.send(b"!")
        self._lane = Lane(self._bell.fileno())
        self._lane.turn = self._rest
        self.plane._lanes.add(self._lane)
        self._thread = Thread(target=self.plane._serve, name="data-0")
        self._thread.start()
        self.plane._epoll.register(self._bell, _RUNG)
        os.eventfd_read(self._done)

    def _rest(self, ready: int) -> bool:
        os.eventfd_write(self._done, 1)
        os.eventfd_read(self._go)
        return False

    def work(self) -> bool:
        """Have the thread do what is ready, then do what the loop would with its news; whether there were any."""
        self.plane._epoll.modify(self._bell, _RUNG)
        os.eventfd_write(self._go, 1)
        os.eventfd_read(self._done)
        has_news = bool(self.plane._news)
        self.plane._take_news()
        return has_news

    def close(self) -> None:
        """End the thread."""
        self.plane._lanes.stop()
        os.eventfd_write(self.plane._stop_fd, 1)
        os.eventfd_write(self._go, 1)
        self._thread.join()
        self.plane._lanes.remove(self._lane)
        self._lane.turn = None
        self.plane._epoll.close()
        for fd in (self._go, self._done, self.plane._stop_fd):
            os.close(fd)
        self._rung.close()
        self._bell.close()


_RUNG: Final = select.EPOLLIN | select.EPOLLONESHOT


def connect(taker: Cache, giver: Cache, token: bytes) -> None:
    """Open a data stream for `taker`, which shows a token of `giver`'s."""
    near, far = socket.socketpair()
    for cache, sock in ((taker, near), (giver, far)):
        sock.setblocking(False)
        cache.sockets.append(sock)
    uploads = giver.engine.spend_token(giver.now, token).owner.uploads
    receiver = Receiver(trio.socket.from_stdlib_socket(near), taker.plane, taker.link.book)
    sender = Sender(trio.socket.from_stdlib_socket(far), giver.plane, giver.take_upload, uploads.wanted, giver.sent)
    for stream in (receiver, sender):
        stream.plane.add(stream)
    taker.receivers.append(receiver)
    giver.senders.append(sender)


def close(cache: Cache) -> None:
    """End the streams of a cache."""
    for stream in (*cache.receivers, *cache.senders):
        stream.closed = True
        cache.plane.remove(stream)
    cache.hand.close()
    for sock in cache.sockets:
        sock.close()


# ---- two caches


class Cache:
    """An engine, a plane, and one title on disk."""

    def __init__(self, name: str, stored: StoredTitle) -> None:
        self.now = 100.0
        self.stored = stored
        self.hand = Hand()
        self.plane = self.hand.plane
        self.info = NodeInfo(NodeId(name), "isp", "eu", host="127.0.0.1", port=7400)
        tokens = Random(name)
        self.engine = Engine(self.info, Random(1), tokens.randbytes, RLock, UPLOAD_SLOTS)
        self.channel = WireChannel(hello_of(self.info, "boot"), lambda: None)
        self.link: Link = self.engine.open_link(self.channel, self._reap_soon)
        self.link.streams = self
        self.receivers: list[Receiver] = []
        self.senders: list[Sender] = []
        self.sockets: list[socket.socket] = []

    # ---- `engine.link.DataStreams`

    def come_bytes(self) -> int:
        """Return what has come."""
        return sum(receiver.come_bytes() for receiver in self.receivers)

    def take_held_back(self) -> bool:
        """There are no limits."""
        return False

    def receiving(self) -> list[int]:
        """Return the requests whose chunks are coming."""
        return [number for receiver in self.receivers if (number := receiver.receiving) is not None]

    # ---- what threads of a plane ask for

    def _reap_soon(self, link: Link) -> None:
        self.plane.tell(lambda: self.engine.reap(self.now, link), partial(self.engine.link_faulted, link))

    def take_upload(self) -> Upload | None:
        """Return the next chunk that the other asked for."""
        asked = self.link.uploads.take()
        if asked is None:
            return None
        header = DataHeader(asked.request_id, asked.chunk, self.stored.manifest.chunk_length(asked.chunk))
        return Upload(header, self.stored, NextUpload(self.engine.urgency(asked.title), asked.title))

    def sent(self, header: DataHeader) -> None:
        """Note it."""
        self.engine.sent(self.now, self.link, header.request_id)

    # ---- rounds

    def take_in(self, other: Cache) -> bool:
        """Carry over what the other cache has said; whether it was anything."""
        parcels, other.channel.outbox = other.channel.outbox, []
        for message in self.channel.receive(parcels):
            self.engine.handle(self.now, self.link, message)
        return bool(parcels)

    def decide(self, other: Cache) -> bool:
        """Have the engine decide, and do what it wants; whether there was anything to do."""
        effects = self.engine.poll(self.now)
        for effect in effects:
            self._perform(effect, other)
        self.engine.next_wakeup()
        return bool(effects)

    def _perform(self, effect: Effect, other: Cache) -> None:
        match effect:
            case OpenStream(_, token):
                connect(self, other, token)
            case WakeUploads():
                if not any(sender.wake() for sender in self.senders):
                    for sender in self.senders:
                        sender.reprioritise()
            case LimitSlots(task, slots):
                self.plane.limit(task.title_id, slots)
            case Commit(task, chunks):
                self.stored.commit(chunks)
                self.engine.committed(self.now, task, chunks, 0.0)
            case BeginWriteOut(task, chunks):
                self.stored.begin_write_out(chunks)
                self.engine.write_out_begun(self.now, task)
            case GoLive():
                pass  # all has come, and the next fill begins
            case _:
                raise AssertionError(f"what is this for: {effect}")


class Way:
    """A fill of one title from a cache that has it."""

    def __init__(self, folder: Path, holder: StoredTitle) -> None:
        """`holder` is the title as the giver has it; the taker's goes into `folder`, of which nothing is kept."""
        manifest = holder.manifest
        shutil.rmtree(folder, ignore_errors=True)
        self._store = Store.open(folder)
        self.giver, self.taker = Cache("b", holder), Cache("a", self._store.begin_fill(manifest))
        self._wanted = 0
        now = self.taker.now
        self.giver.engine.serve(now, manifest.title_id, Bitmap.full(manifest.chunk_count))
        logic = Fill(manifest, self.taker.info, FillPolicy(), Random(1), now, Bitmap(manifest.chunk_count))
        members = (self.taker.info, self.giver.info)
        self.task: FillTask = self.taker.engine.begin_fill(now, logic, self.taker.stored, members=members)
        for cache in (self.taker, self.giver):
            cache.channel.start()

    def close(self) -> None:
        """Let go of all but what the giver has on disk."""
        for cache in (self.giver, self.taker):
            close(cache)
        self.taker.stored.close()
        self._store.close()

    def come(self) -> int:
        """Return how many chunks have come."""
        return self.taker.engine.received_bytes // CHUNK_BYTES

    def run(self, count: int) -> int:
        """Let so many chunks come, or as many as are left; return how many. What comes beyond counts for the next."""
        count = min(count, self.task.manifest.chunk_count - self._wanted)
        self._wanted += count
        idle_rounds = 0
        while self.come() < self._wanted:
            before = self.come()
            has_moved = self._round()
            came = self.come() - before
            idle_rounds = 0 if came else idle_rounds + 1
            assert idle_rounds < STUCK_ROUNDS, "no chunk comes any more"
            # Where nothing is to be done but to wait, time goes on as if one had come.
            for cache in (self.taker, self.giver):
                cache.now += (came if has_moved else 1) / CHUNKS_S
        return count

    def _round(self) -> bool:
        giver, taker = self.giver, self.taker
        moved = [giver.hand.work(), taker.hand.work(), giver.take_in(taker), taker.take_in(giver)]
        return any([*moved, giver.decide(taker), taker.decide(giver)])


def store_title(work: Path, chunk_count: int) -> tuple[Store, StoredTitle]:
    """Publish a title and have a cache hold all of it; return the cache's store, and the title in it."""
    source, store = work / "source", Store.open(work / "giver")
    source.mkdir()
    (source / "file").write_bytes(Random(1).randbytes(chunk_count * CHUNK_BYTES))
    stored = store.begin_fill(publish(source, name="title", chunk_size=CHUNK_BYTES).manifest)
    with (source / "file").open("rb") as file:
        for chunk in range(chunk_count):
            stored.write_chunk(chunk, file.read(CHUNK_BYTES))
            stored.seal(chunk)
    stored.commit(range(chunk_count))
    stored.go_live()
    return store, stored


@contextmanager
def whole_way(chunk_count: int = CHUNK_COUNT) -> Iterator[Callable[[int], object]]:
    """Yield what lets so many chunks come; where all of a title's `chunk_count` have, the next fill begins."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-way-") as folder:
        work = Path(folder)
        store, holder = store_title(work, chunk_count)
        running = Way(work / "taker", holder)

        def run(times: int) -> None:
            nonlocal running
            while times := times - running.run(times):
                running.close()
                running = Way(work / "taker", holder)

        try:
            yield run
        finally:
            running.close()
            holder.close()
            store.close()
