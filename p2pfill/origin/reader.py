"""Reads chunks of a title from a tree of plain files at an origin, whatever kind of origin that is.

Shape of one `read_chunk`: the chunk becomes one buffer; every file segment in it is a job that fills its own slice,
and up to `concurrency` jobs run at once, so that a chunk of a thousand small files is not a thousand round trips in a
row. A job asks for its range, takes the body into place and, where the answer breaks off, continues from the byte it
has, which may be at another server of the same name: the digests decide whether that fits together.

Invariants: never more bytes are kept than the manifest says; every wait has an end, and so have attempts that bring
nothing; after a Retry-After all jobs of the origin hold back together. Time alone ends nothing of which bytes come.

A server that ignores Range answers with the whole file. That is said once, and from then on one thread at a time goes
through such a file (`_Pass`). It leaves the answer open where it stops, and what it passes by on the way to its chunk
it hands over too, so that in whatever order chunks are asked for, the file is read about once.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from p2pfill.errors import ConfigError, is_fault
from p2pfill.model.timing import FAILING_ATTEMPTS
from p2pfill.origin import urls
from p2pfill.origin.bodies import RESTORE, Backend, Body, Part, one_line
from p2pfill.origin.buffers import BUFFERS
from p2pfill.origin.chunk import OriginChunk
from p2pfill.origin.directory import DirectoryBackend
from p2pfill.origin.errors import (
    OriginCancelled,
    OriginError,
    OriginFault,
    OriginObjectChanged,
    OriginUnavailable,
    TryAgain,
)
from p2pfill.origin.watch import Listener, Watch
from p2pfill.origin.web import WebBackend
from p2pfill.threads import name_thread

if TYPE_CHECKING:
    from p2pfill.model.files import FileEntry
    from p2pfill.model.manifest import Manifest
    from p2pfill.origin.settings import OriginSettings

_SLEEP_SLICE_S: Final = 0.05
"""How late a cancel may be noticed while waiting."""

_WORTH_BYTES: Final = 16 * 1024
"""An answer that brings so much of a range has not been asked for in vain, though it broke off: so a chunk takes a
bounded number of requests, and a connection that is cut time and again still gets it across."""

_SKIP_BYTES: Final = 256 * 1024
"""What is passed by at a time."""

_PASSES_MAX: Final = 4
"""Files of an origin without Range that are open, half read; each holds one connection."""

_PROBE_S: Final = 1.0
"""So long the answer to the first range is waited for before others are asked for. One round trip, as a rule."""

NO_RANGE: Final = (
    "has no Range: each file is read from its start, for all of its chunks; with a web server that supports Range "
    "requests caches share the work"
)
"""Said of an origin that answers a range with the whole file."""


ENDED: Final = "the answer ended early"


class _Job:
    """A segment to be filled."""

    __slots__ = ("allowed", "answers", "done", "entry", "offset", "target")

    def __init__(self, entry: FileEntry, offset: int, target: memoryview) -> None:
        self.entry = entry
        self.offset = offset
        """First byte, inside the file."""
        self.target = target
        """Where the bytes go; its length is what is wanted."""
        self.done = 0
        self.answers = 0
        """From how many answers bytes were taken."""
        self.allowed = 0
        """Bytes that may be taken before it is asked again whether more may be."""

    @property
    def part(self) -> Part:
        """What is still wanted."""
        return Part(self.entry, self.offset + self.done, self.offset + len(self.target))

    @property
    def is_done(self) -> bool:
        return self.done == len(self.target)


class _Pass:
    """The way through one file of an origin without Range. Whoever holds `lock` goes on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.body: Body | None = None
        self.moved_at = time.monotonic()

    def close(self) -> None:
        body, self.body = self.body, None
        if body is not None:
            body.close()


class OriginReader:
    """An origin behind a backend. Blocking; any number of threads may read from it at once."""

    def __init__(self, backend: Backend, settings: OriginSettings, rng: random.Random) -> None:
        self.url: Final = backend.name
        """What people know it by."""
        self._backend = backend
        self._settings = settings
        self._rng = rng
        self._lock = threading.Lock()
        """Held for a few operations in memory only: an event loop closes the origin."""
        self._closed = False
        self._hold_until = 0.0
        """Monotonic time before which the origin asked not to be called."""
        self._has_range: bool | None = None
        """None while nothing but whole files was asked for."""
        self._probe = threading.Lock()
        """Held for the first range that is asked for."""
        self._passes: OrderedDict[str, _Pass] = OrderedDict()
        self._pool = ThreadPoolExecutor(settings.concurrency, "origin", name_thread)

    def read_chunk(
        self, manifest: Manifest, k: int, listener: Listener | None = None, *, whole: bool = False
    ) -> OriginChunk:
        """Return chunk `k` of the title, unverified; with `whole` no part of it is put together of several answers.

        Whatever goes wrong, also what a library raises or the system refuses, is a subclass of `OriginError`, which
        carries the bytes that had arrived.
        """
        watch = Watch(listener or Listener(), manifest, k, lambda: self._closed, whole=whole)
        try:
            return self._read_chunk(watch, manifest, k)
        except OriginError as err:
            watch.sum_up(err)
            raise
        except BaseException as err:
            if not is_fault(err):
                raise
            failure = self._unforeseen(f"{self.url}: chunk {k}", err)
            raise watch.sum_up(failure) from err

    def _read_chunk(self, watch: Watch, manifest: Manifest, k: int) -> OriginChunk:
        data = BUFFERS.take(manifest.chunk_length(k))
        jobs = list(self._jobs(manifest, k, data))
        if len(jobs) == 1:
            self._work(watch, iter(jobs))
        else:
            self._work_together(watch, jobs)
        if watch.failure is not None:
            BUFFERS.give_back(data)
            raise watch.failure
        is_pieced = any(job.answers > 1 for job in jobs)
        return OriginChunk(data, watch.bytes_in_vain, watch.requests, watch.failed, is_pieced)

    def _work_together(self, watch: Watch, jobs: list[_Job]) -> None:
        shared = _Shared(jobs)
        # The caller's thread works too.
        futures = [self._submit(watch, shared) for _ in range(min(len(jobs), self._settings.concurrency) - 1)]
        self._work(watch, shared)
        for future in futures:
            if future is not None:
                future.result()

    def close(self) -> None:
        """Stop: reads under way end with `OriginCancelled` soon, later ones at once. May be called twice."""
        self._closed = True
        self._backend.close()
        with self._lock:
            ways = list(self._passes.values())
        for way in ways:
            # Who goes through it closes it.
            if way.lock.acquire(blocking=False):
                way.close()
                way.lock.release()
        with suppress(RuntimeError):  # closed before
            self._pool.submit(BUFFERS.clear)
        self._pool.shutdown(wait=False)

    def _submit(self, watch: Watch, jobs: Iterator[_Job]) -> Future[None] | None:
        try:
            return self._pool.submit(self._work, watch, jobs)
        except RuntimeError:  # closed meanwhile; the caller's own thread finds that out by itself
            return None

    def _jobs(self, manifest: Manifest, k: int, target: memoryview) -> Iterator[_Job]:
        at = 0
        for segment in manifest.segments(k):
            if segment.length:
                yield _Job(manifest.files[segment.file_index], segment.offset, target[at : at + segment.length])
                at += segment.length

    def _work(self, watch: Watch, jobs: Iterator[_Job]) -> None:
        """Run jobs until there are none or one failed. Raises nothing: a failure is for the whole chunk."""
        for job in jobs:
            try:
                self._run(watch, job)
            except OriginError as err:
                watch.fail(err)
                return
            except BaseException as err:
                if not is_fault(err):
                    raise
                failure = self._unforeseen(self._name(job), err)
                failure.__cause__ = err
                watch.fail(failure)
                return

    def _unforeseen(self, what: str, err: BaseException) -> OriginError:
        """Return what stands for an exception that nobody names; the caller sets its cause."""
        said = one_line(str(getattr(err, "strerror", None) or err), type(err).__name__)
        if isinstance(err, MemoryError | OSError):
            return OriginUnavailable(
                f"{what}: cannot be read now: {said}; check this machine's memory and limits",
                advice="check this machine's memory and limits",
            )
        if isinstance(err, ConfigError):
            return OriginUnavailable(f"{what}: {said}", cause=said)
        return OriginFault(f"{what}: cannot be read: unexpected {type(err).__name__}: {said}; please report it")

    # ---- one job

    def _run(self, watch: Watch, job: _Job) -> None:
        """Fill `job.target`, over as many requests as it takes, but not many in vain."""
        attempts = in_vain = 0
        while True:
            self._wait_held(watch, job)
            before, cause, said = job.done, OriginObjectChanged.KIND, ENDED
            try:
                self._wait_allowed(watch, job)  # before an answer is begun that nobody would read
                self._ask(watch, job)
            except OriginCancelled:
                raise
            except OriginError:
                watch.count(failed=1)
                raise
            except TryAgain as err:
                cause, said = err.cause, str(err)
                watch.count(failed=1)
                self._hold_back(watch, job, err)
            else:
                if job.is_done:
                    return
                watch.count(failed=1)
            if job.is_done:
                return
            attempts += 1
            in_vain = 0 if job.done - before >= _WORTH_BYTES and not watch.whole else in_vain + 1
            if watch.whole:
                job.done = job.answers = 0
            if not job.done:
                if attempts == 1:
                    watch.listener.trouble(f"{self._name(job)}: {said}; it is asked again", cause)
                elif attempts == FAILING_ATTEMPTS:
                    watch.listener.failing(cause)
            if in_vain >= self._settings.attempts_max:
                raise OriginUnavailable(
                    f"{self._name(job)}: gave up after {attempts} requests with {job.done} of {len(job.target)} bytes: "
                    f"{said}; check that the origin is up and reachable from here",
                    cause=cause,
                    # Whether it is short or wrong is told alike, as with sizes (`bodies.check_size`).
                    advice=RESTORE if said is ENDED else "check that the origin is up and reachable from here",
                )
            roof = min(self._settings.backoff_max_s, self._settings.backoff_base_s * 2.0 ** max(1, in_vain))
            self._wait(watch, self._rng.uniform(0.0, roof), job, cause, said)

    def _ask(self, watch: Watch, job: _Job) -> None:
        """Take what one answer brings. Raises `TryAgain` where that breaks off, and `OriginError`."""
        body = self._open(watch, job.part)
        if body is None or body.ignores_range:
            self._go_through(watch, job, body)
            return
        try:
            self._take(watch, job, body)
        finally:
            body.close()

    def _open(self, watch: Watch, part: Part) -> Body | None:
        """Return an answer with a part of a file; None where that can only be had by going through the file."""
        if part.is_whole or self._has_range:
            return self._backend.open(watch, part, ranged=not part.is_whole)
        # Until it is known one asks for all: each answer with a whole file would be dropped.
        is_first = self._has_range is None and self._probe.acquire(timeout=_PROBE_S)
        try:
            if self._has_range is False:
                return None
            body = self._backend.open(watch, part, ranged=True)
            if body.ignores_range:
                watch.listener.no_range(NO_RANGE)
            self._has_range = not body.ignores_range
            return body
        finally:
            if is_first:
                self._probe.release()

    def _take(self, watch: Watch, job: _Job, body: Body) -> None:
        """Take a job's bytes from an answer that stands at or before them, as far as it goes."""
        start, is_first = job.part.start, True
        if not self._skip(watch, job, body, start):
            return
        while not job.is_done:
            count = self._read(watch, job, body, job.target[job.done :])
            if not count:
                return
            job.answers += is_first
            is_first = False
            job.done += count
            if not job.is_done:
                self._check_going(watch, job)

    def _skip(self, watch: Watch, job: _Job, body: Body, stop: int) -> bool:
        """Pass by what lies before `stop`; False where the answer is over before."""
        if body.position < stop:
            unused = memoryview(bytearray(min(_SKIP_BYTES, stop - body.position)))
            while body.position < stop:
                if not self._read(watch, job, body, unused[: stop - body.position]):
                    return False
                self._check_going(watch, job)
        return True

    def _read(self, watch: Watch, job: _Job, body: Body, buffer: memoryview) -> int:
        """Put what comes next into a buffer, as much as may be taken; nothing where the answer is over."""
        self._wait_allowed(watch, job)
        count = body.read_into(buffer[: job.allowed])
        job.allowed -= count
        return count

    def _wait_allowed(self, watch: Watch, job: _Job) -> None:
        while not job.allowed:
            job.allowed = watch.allow(len(job.target) - job.done)
            self._check_going(watch, job)

    # ---- files of an origin without Range

    def _go_through(self, watch: Watch, job: _Job, opened: Body | None) -> None:
        """Go through a file to a job's bytes, and take them. `opened` is an answer at its start."""
        way = self._way_through(job.entry.path)
        try:
            while not way.lock.acquire(timeout=_SLEEP_SLICE_S):
                # Whoever goes through it may be let take a little at a time.
                body = way.body
                watch.moved_at = max(watch.moved_at, way.moved_at, body.watch.moved_at if body is not None else 0.0)
                self._wait(watch, 0.0, job, "others go through the file first")
        except BaseException:
            if opened is not None:
                opened.close()
            raise
        try:
            if opened is not None and way.body is None:
                way.body, opened = opened, None
            self._go_on(watch, job, way)
        finally:
            if opened is not None:
                opened.close()
            if way.body is not None and (self._closed or way.body.is_broken or way.body.position >= way.body.end):
                way.close()
            way.moved_at = time.monotonic()
            way.lock.release()

    def _way_through(self, path: str) -> _Pass:
        """Return the way through a file, and give up the oldest of those that nobody goes where there are too many."""
        with self._lock:
            way = self._passes.setdefault(path, _Pass())
            self._passes.move_to_end(path)
            for other in list(self._passes)[: len(self._passes) - _PASSES_MAX]:
                if self._passes[other].lock.acquire(blocking=False):
                    self._passes[other].close()
                    self._passes.pop(other).lock.release()
            return way

    def _go_on(self, watch: Watch, job: _Job, way: _Pass) -> None:
        part = job.part
        self._check_going(watch, job)
        if way.body is None or way.body.position > part.start:
            way.close()
            way.body = self._backend.open(watch, part, ranged=False)
        way.body.watch = watch
        while way.body.position < part.start:
            if not self._pass_by(watch, job, way.body):
                way.close()
                return
            way.moved_at = time.monotonic()
        self._take(watch, job, way.body)
        if not job.is_done:
            way.close()

    def _pass_by(self, watch: Watch, job: _Job, body: Body) -> bool:
        """Go on to the next border of chunks, or to the job; False where the answer is over.

        A chunk that has come whole, and is of use, is handed over.
        """
        manifest, begin = watch.manifest, body.position
        at = job.entry.offset + begin
        chunk = manifest.cut.chunks(at, at + 1)[0]
        first, end = manifest.cut.span(chunk)
        length, stop = end - first, min(begin + end - at, job.part.start)
        if stop - begin < length or not watch.listener.wants(chunk):
            return self._skip(watch, job, body, stop)
        data = BUFFERS.take(length)
        try:
            while body.position < stop:
                if not self._read(watch, job, body, data[body.position - begin :]):
                    return False
                self._check_going(watch, job)
            if watch.listener.passed(chunk, data):
                watch.count(passed=length)
            return True
        finally:
            BUFFERS.give_back(data)

    # ---- waiting

    def _wait_held(self, watch: Watch, job: _Job) -> None:
        hold_s = self._hold_until - time.monotonic() if self._hold_until else 0.0
        if hold_s > 0:
            # Jitter here too: a whole fleet was told the same second.
            hold_s += self._rng.uniform(0.0, self._settings.backoff_base_s)
            self._wait(watch, hold_s, job, "the origin asked us to wait")
        else:
            self._check_going(watch, job)

    def _hold_back(self, watch: Watch, job: _Job, failed: TryAgain) -> None:
        """Hold every job back for as long as the origin has asked for; raise where that is too long for this one."""
        if failed.retry_after_s is None:
            return
        self._hold_until = time.monotonic() + failed.retry_after_s
        if self._hold_until > watch.moved_at + self._settings.idle_max_s:
            raise OriginUnavailable(
                f"{self._name(job)}: {failed}, and the origin asks to come back in {failed.retry_after_s:.0f} s; "
                "other origins or caches are used until then",
                retry_after_s=failed.retry_after_s,
                cause=failed.cause,
                advice="it asks to come back later, and other origins or caches are used until then",
            )

    def _wait(self, watch: Watch, wait_s: float, job: _Job, cause: str, said: str = "") -> None:
        """Sleep in slices; raise where cancelled, or where the chunk would have been without a byte for too long.

        `said` is for the log alone, in the place of the cause.
        """
        now = time.monotonic()
        until = now + wait_s
        if until > watch.moved_at + self._settings.idle_max_s:
            raise OriginUnavailable(
                f"{self._name(job)}: no byte within {self._settings.idle_max_s:g} s: {said or cause}; "
                "check the origin's load and the line to it",
                retry_after_s=max(0.0, self._hold_until - now) or None,
                cause=cause,
                advice="check the origin's load and the line to it",
            )
        while True:
            self._check_going(watch, job)
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, _SLEEP_SLICE_S))

    def _check_going(self, watch: Watch, job: _Job) -> None:
        if watch.is_stopped():
            raise OriginCancelled(f"{self._name(job)}: reading was cancelled")

    def _name(self, job: _Job) -> str:
        return self._backend.name_of(job.entry.path)


class _Shared(Iterator[_Job]):
    """Jobs that several threads take turns to draw."""

    def __init__(self, jobs: list[_Job]) -> None:
        self._jobs = iter(jobs)
        self._lock = threading.Lock()

    def __next__(self) -> _Job:
        with self._lock:
            return next(self._jobs)


def open_reader(url: str, settings: OriginSettings, rng: random.Random) -> OriginReader:
    """Open the origin that `url` names; no request is made yet.

    Raises `ConfigError`, whatever the reason, and `OriginRefused` where it may not be read by `settings.access`.
    """
    try:
        backend: Backend
        if urls.is_http(url):
            backend = WebBackend(urls.http_base(url), settings)
        elif urls.is_bucket(url):
            from p2pfill.origin.buckets import BucketBackend  # not above: it brings a library

            backend = BucketBackend(urls.bucket_base(url), settings)
        else:
            # Before anything is looked at, so that nobody can ask for what there is.
            root = settings.access.root_of(str(urls.directory_path(url)))
            backend = DirectoryBackend(urls.directory(url), root)
        return OriginReader(backend, settings, rng)
    except (ConfigError, OriginError):
        raise
    except BaseException as err:
        if not is_fault(err):
            raise
        said = one_line(str(err), type(err).__name__)
        raise ConfigError(
            f"origin {urls.shown(url)[:200]!r} cannot be opened: {said}; check that it is written as "
            "http://HOST[:PORT]/PATH, or names a directory that can be read here"
        ) from err
