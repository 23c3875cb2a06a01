"""What schedules of the data plane run on: threads, files, and an engine and a fill that are watched."""

from __future__ import annotations

import fcntl
import gc
import itertools
import math
import os
import queue
import random
import sys
import termios
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, get_args
from unittest.mock import patch

import trio
import xxhash
from blake3 import blake3

from p2pfill.engine.engine import Engine
from p2pfill.engine.link import Link, Owner
from p2pfill.engine.requests import Arrival
from p2pfill.engine.task import FillTask
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.cut import Cut
from p2pfill.model.manifest import Integrity, Manifest, layout
from p2pfill.store.disk import DIRECTORY_FLAGS
from p2pfill.store.journal import Journal
from p2pfill.store.title import StoredTitle
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import Fill
from p2pfill.transport.plane import DataPlane
from tests.transport.remotes import DataLine, Remote, Title

CHUNK: Final = 4096
FILES: Final = (("a", 1), ("b", 3000), ("ba", 3000), ("c", 12), ("d", 4000), ("da", 4000), ("db", 1000), ("e", 3000))
"""Chunks that span files, several of which lie within one, and a last one that is short: one piece."""

WORKERS: Final = 1
PLANES: Final = 3
"""Each serves every third stream. In one plane a thread that is not held up does all, and streams would not race."""

SWITCH_S: Final = 5e-5
"""How long a thread keeps the interpreter: a hundredth of the usual, so that threads meet in more places."""

GARBAGE_MAX: Final = 100_000
"""Objects after which the collector looks for cycles: with the usual 700 it does so several times a schedule."""

ORIGIN: Final = "http://origin.test/"
POISON: Final = b"\xa5"


class WrongError(AssertionError):
    """Something does not hold that must."""


class WildFill(Fill):
    """A fill that keeps its books as ever, and asks for what it is told to."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self.asked_of: dict[int, str] = {}
        self.accusations: list[tuple[str, str]] = []
        """Source and reason, of what counts against one."""

    def handle(self, now: float, event: events.Event) -> None:
        """Note what counts against a source."""
        if isinstance(event, events.RequestFailed) and event.request in self._requests:
            reason = "corrupt: " + event.reason if event.corrupt else event.reason
            self.accusations.append((self._requests[event.request].source, reason))
        elif isinstance(event, events.SourceMisbehaved):
            self.accusations.append((event.source, "misbehaved: " + event.reason))
        super().handle(now, event)

    def next_wakeup(self) -> float:
        """Nothing is awaited."""
        return math.inf

    def poll_actions(self, now: float) -> list[actions.Action]:
        """Tell what is verified, and what was asked for by others."""
        if self._fresh:
            self._out.append(actions.AnnounceChunks(tuple(self._fresh)))
            self._fresh.clear()
        if not self._completed and self.ledger.is_complete():
            self._completed = True
            self._out.append(actions.CompleteTitle())
        self._stale = self._untold = False
        self._changed.clear()
        done = list(self._out)
        self._out.clear()
        return done

    def outstanding(self) -> list[int]:
        """Return the requests that wait for their end."""
        return list(self._requests)

    def order(self, now: float, source_id: str, chunk: int) -> None:
        """Ask a source for a chunk that is missing."""
        if (source := self.sources.get(source_id)) is not None and self.ledger.missing[chunk]:
            self._request(now, source, chunk)
            self.asked_of[self._next_request] = source_id

    def give_up(self, number: int) -> int:
        """Cancel a request, and return its chunk."""
        request = self._requests[number]
        self._out.append(actions.CancelRequest(number, request.source))
        self._drop(request)
        return request.chunk


class WatchedEngine(Engine):
    """An engine whose faults end the schedule, and of which is noted what has come."""

    check: Callable[[Owner, Arrival], None]

    def arrived(self, owner: Owner, arrival: Arrival, source: str, scope: Scope) -> None:
        """Note it."""
        self.check(owner, arrival)
        super().arrived(owner, arrival, source, scope)

    def task_faulted(self, task: FillTask, error: BaseException) -> None:
        """It is ours."""
        raise error

    def link_faulted(self, link: Link, error: BaseException) -> None:
        """It is ours."""
        raise error


class Bench:
    """What schedules share: threads, files, a thread that reads from an origin. Made by `bench`."""

    def __init__(self, folder: Path, planes: Sequence[DataPlane], nursery: trio.Nursery) -> None:
        self.planes = planes
        self.plane = planes[0]
        self._next_plane = itertools.cycle(planes).__next__
        self.nursery = nursery
        self.breaches: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        chance = random.Random("title")
        stream = chance.randbytes(sum(size for _, size in FILES))
        files = layout(FILES)
        cut = Cut(files, CHUNK)
        chunks = [stream[slice(*cut.span(chunk))] for chunk in range(cut.count)]
        xxh3 = b"".join(xxhash.xxh3_128_digest(chunk) for chunk in chunks)
        digests = b"".join(blake3(chunk).digest() for chunk in chunks)
        self.titles: dict[Integrity, Title] = {}
        with patch.object(limits, "CHUNK_SIZE_MIN", CHUNK):
            for integrity in get_args(Integrity):
                manifest = Manifest("title", CHUNK, files, xxh3, digests, integrity)
                self.titles[integrity] = Title(manifest, stream)
        self._directory_fd = os.open(folder, DIRECTORY_FLAGS)
        os.mkdir("files", dir_fd=self._directory_fd)
        self._fds = [os.open(folder / "files" / path, os.O_RDWR | os.O_CREAT) for path, _ in FILES]
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def stored(self, title: Title) -> StoredTitle:
        """Return the title with nothing of it on disk."""
        for fd, (_, size) in zip(self._fds, FILES, strict=True):
            os.pwrite(fd, POISON * size, 0)
        manifest = title.manifest
        journal = Journal.create(self._directory_fd, manifest.title_id)
        directory_fd = os.dup(self._directory_fd)
        return StoredTitle(manifest, directory_fd, journal, Bitmap(manifest.chunk_count), lambda stored: None)

    def read(self) -> bytes:
        """Return what the files hold."""
        return b"".join(os.pread(fd, size, 0) for fd, (_, size) in zip(self._fds, FILES, strict=True))

    def in_thread(self, job: Callable[[], object]) -> None:
        """Have something done in the thread that reads origins."""
        self._jobs.put(job)

    def _read(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def next_plane(self) -> DataPlane:
        """Return the plane of the next stream."""
        return self._next_plane()

    def close(self) -> None:
        """Let go of all."""
        self._jobs.put(None)
        self._reader.join()
        for fd in (*self._fds, self._directory_fd):
            os.close(fd)


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """Run what schedules share, below `folder`."""
    before, collected = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(GARBAGE_MAX)
    try:
        async with AsyncExitStack() as stack:
            planes = [
                await stack.enter_async_context(DataPlane(WORKERS, upload_slots=1).running()) for _ in range(PLANES)
            ]
            async with trio.open_nursery() as nursery:
                made = Bench(folder, planes, nursery)
                try:
                    yield made
                finally:
                    made.close()
    finally:
        sys.setswitchinterval(before)
        gc.set_threshold(*collected)


class LineUp:
    """The data streams of a link, as the engine sees them."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def come_bytes(self) -> int:
        """Return how many payload bytes have come."""
        return sum(line.receiver.come_bytes() for line in self._remote.lines)

    def take_held_back(self) -> bool:
        """Tell that nothing was held back."""
        return False

    def receiving(self) -> list[int]:
        """Return the request ids of the chunks that are coming."""
        return [n for line in self._remote.lines if not line.is_over and (n := line.receiver.receiving) is not None]


def is_read(line: DataLine) -> bool:
    """Tell whether a thread has taken all that was written to a stream that is open."""
    if line.is_closed or line.receiver.closed or unread(line.far.fileno()):
        return False
    line.receiver.lane.wait_unserved()  # the thread that has taken the last of it is through with that
    return not line.receiver.closed


def unread(fd: int) -> int:
    """Return the bytes that wait in a socket."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)
