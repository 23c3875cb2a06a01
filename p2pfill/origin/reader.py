"""Reads chunks of a title from a tree of plain files behind obstore: HTTP(S), a directory, later S3.

Shape of one `read_chunk`: the chunk becomes one buffer; every file segment in it is a job that fills its own slice,
and up to `concurrency` jobs run at once, so that a chunk of a thousand small files is not a thousand round trips in a
row. A job asks for its range, streams the body into place and, where the response breaks off, continues from the byte
it has. Retrying is ours, not obstore's: obstore forgets what had arrived, cannot be cancelled while it waits, and
does not know `Retry-After`.

Invariants: never more bytes are kept than the manifest says; every wait has an end (attempts, total time, stall
time); after a 429 or 503 all jobs of the origin hold back together.

A server that ignores Range answers with the whole file. Then the body is read up to the needed bytes, and its rest is
kept open for a while, since chunks of one file are mostly wanted in order. All that was read is counted in
`bytes_received`, because it crossed the network. What obstore had already taken of the refused ranged answer before
it gave up is not visible and not counted; it happens once per file.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import obstore
from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError
from obstore.store import HTTPStore, LocalStore

from p2pfill._version import __version__
from p2pfill.errors import ConfigError, is_fault
from p2pfill.model.timing import FAILING_ATTEMPTS
from p2pfill.origin import urls
from p2pfill.origin.errors import (
    OriginCancelled,
    OriginError,
    OriginFault,
    OriginObjectChanged,
    OriginObjectMissing,
    OriginRefused,
    OriginUnavailable,
)
from p2pfill.origin.retry_after import probe_retry_after
from p2pfill.origin.settings import OriginSettings

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions

    from p2pfill.model.files import FileEntry
    from p2pfill.model.manifest import Manifest

_STREAM_BYTES_MIN: Final = 1
"""Hand buffers over as they arrive (some 300 KiB each on a fast line, as fast as larger ones): what obstore gathers
is lost when a response breaks off, and a slow line would notice a cancel late."""

_SLEEP_SLICE_S: Final = 0.05
"""How late a cancel may be noticed while waiting."""

_PLAIN_PATHS_MAX: Final = 4096
"""Files remembered as served without Range; beyond that the memory starts anew and costs one request a file."""

_KEPT_MAX: Final = 4
"""Bodies of servers without Range that wait, half read, for the next chunk; each holds one connection."""

_NUMBERED = re.compile(r"#\d+\Z")
"""Ends of file names that obstore keeps for its own uploads in a directory, and therefore refuses to read."""

_PREAMBLE = re.compile(r"^.*?Error performing [A-Z]+ \S+ in \S+ - ")
_SYSTEM = re.compile(r'message: "([^"\n]{1,200})"|error: "([^"\n]{1,200})"|Error\(\s*"([^"\n]{1,200})"')
"""What obstore says around, and deep below, the line that tells a person what is wrong."""

_STATUS = re.compile(r"non-2xx status code: (\d{3})")


def _reason(text: str) -> str:
    """Return one line for people from the text of an obstore exception."""
    line = _PREAMBLE.sub("", text.partition("\n")[0]).strip().rstrip(":")[:300]
    deeper = _SYSTEM.findall(text[:8192])
    said = next((part for part in deeper[-1] if part), "") if deeper else ""
    return f"{line} ({said})" if said and said not in line else line


class OriginChunk(NamedTuple):
    """One chunk as an origin delivered it. Not yet checked against its digests: see `verify_chunk`."""

    data: memoryview
    """Exactly `manifest.chunk_length(k)` bytes, of memory that goes back to the system with the last view of it."""
    bytes_received: int
    """Payload bytes that arrived for it, waste included."""
    requests: int
    """Requests made for it, failed ones and probes included."""


class _Job(NamedTuple):
    entry: FileEntry
    offset: int
    """First byte, inside the file."""
    target: memoryview
    """Where the bytes go; its length is what is wanted."""


class _Body:
    """A response's body, read up to `position` (inside the file) of `end`; `left` has arrived and was not used."""

    def __init__(
        self, tag: str | None, position: int, end: int, buffers: Iterator[Bytes | bytes], opened_at: float
    ) -> None:
        self.tag = tag
        self.position = position
        self.end = end
        self.buffers = buffers
        self.opened_at = opened_at
        self.left = memoryview(b"")


class _Fetch:
    """The state that the jobs of one `read_chunk` share: counters, deadline, first failure."""

    def __init__(
        self,
        deadline: float,
        cancelled: Callable[[], bool],
        arrived: Callable[[], object],
        failing: Callable[[str], object],
    ) -> None:
        self.failing = failing
        self.deadline = deadline
        self.bytes_received = 0
        self.requests = 0
        self.failure: OriginError | None = None
        self._cancelled = cancelled
        self._arrived = arrived
        self._lock = threading.Lock()

    def count(self, *, received: int = 0, requests: int = 0) -> None:
        with self._lock:
            self.bytes_received += received
            self.requests += requests
        if received:
            self._arrived()

    def fail(self, failure: OriginError) -> None:
        with self._lock:
            if self.failure is None:
                self.failure = failure

    def stopped(self) -> bool:
        return self.failure is not None or self._cancelled()


class StoreOrigin:
    """An origin behind an obstore store. Blocking; any number of threads may read from it at once."""

    def __init__(
        self, url: str, store: HTTPStore | LocalStore, settings: OriginSettings, rng: random.Random, *, http: bool
    ) -> None:
        self.url: Final = url
        self._store = store
        self._settings = settings
        self._rng = rng
        self._http = http
        self._lock = threading.Lock()
        """Held for a few operations in memory only: an event loop closes the origin."""
        self._probe_lock = threading.Lock()
        self._closed = False
        self._hold_until = 0.0
        """Monotonic time before which the origin asked not to be called."""
        self._probed_at = 0.0
        """Monotonic time of the last look at `Retry-After`."""
        self._plain_paths: set[str] = set()
        self._kept: list[tuple[str, _Body]] = []
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="origin")

    def read_chunk(
        self,
        manifest: Manifest,
        k: int,
        cancelled: Callable[[], bool] = lambda: False,
        arrived: Callable[[], object] = lambda: None,
        failing: Callable[[str], object] = lambda reason: None,
    ) -> OriginChunk:
        """Return chunk `k` of the title, unverified.

        `cancelled` is asked from several threads, between buffers and while waiting, and `arrived` is called from them
        when bytes have come, `failing` with the reason when requests fail again and again. Whatever goes wrong, also
        what obstore raises or the system refuses, is a subclass of `OriginError`, which carries the bytes that had
        arrived.
        """
        deadline = time.monotonic() + self._settings.total_max_s
        fetch = _Fetch(deadline, lambda: self._closed or cancelled(), arrived, failing)
        try:
            return self._read_chunk(fetch, manifest, k)
        except OriginError as err:
            err.bytes_received, err.requests = fetch.bytes_received, fetch.requests
            raise
        except BaseException as err:
            if not is_fault(err):
                raise
            failure = self._unforeseen(f"{self.url}: chunk {k}", err)
            failure.bytes_received, failure.requests = fetch.bytes_received, fetch.requests
            raise failure from err

    def _read_chunk(self, fetch: _Fetch, manifest: Manifest, k: int) -> OriginChunk:
        # Mapped: each thread that reads has a heap of its own, which would keep what the largest chunks have taken. See
        # docs/experiments.md, "Memory".
        data = memoryview(mmap.mmap(-1, manifest.chunk_length(k)))
        jobs = list(self._jobs(manifest, k, data))
        shared = _Shared(jobs)
        # The caller's thread works too, so a chunk of one file needs no other thread.
        futures = [self._submit(fetch, shared) for _ in range(min(len(jobs), self._settings.concurrency) - 1)]
        self._work(fetch, shared)
        for future in futures:
            if future is not None:
                future.result()
        if fetch.failure is not None:
            raise fetch.failure
        return OriginChunk(data, fetch.bytes_received, fetch.requests)

    def close(self) -> None:
        """Stop: reads under way end with `OriginCancelled` soon, later ones at once. May be called twice."""
        with self._lock:
            self._closed = True
            self._kept = []
        self._pool.shutdown(wait=False)

    def _submit(self, fetch: _Fetch, jobs: Iterator[_Job]) -> Future[None] | None:
        try:
            return self._pool.submit(self._work, fetch, jobs)
        except RuntimeError:  # closed meanwhile; the caller's own thread finds that out by itself
            return None

    def _jobs(self, manifest: Manifest, k: int, target: memoryview) -> Iterator[_Job]:
        at = 0
        for segment in manifest.segments(k):
            if segment.length:
                yield _Job(manifest.files[segment.file_index], segment.offset, target[at : at + segment.length])
                at += segment.length

    def _work(self, fetch: _Fetch, jobs: Iterator[_Job]) -> None:
        """Run jobs until there are none or one failed. Raises nothing: a failure is for the whole chunk."""
        for job in jobs:
            try:
                self._run(fetch, job)
            except OriginError as err:
                fetch.fail(err)
                return
            except BaseException as err:
                if not is_fault(err):
                    raise
                failure = self._unforeseen(self._name(job), err)
                failure.__cause__ = err
                fetch.fail(failure)
                return

    def _unforeseen(self, what: str, err: BaseException) -> OriginError:
        """Return what stands for an exception that no rule of `_judge` names; the caller sets its cause."""
        said = _reason(str(err)) or type(err).__name__
        if isinstance(err, MemoryError | OSError):
            return OriginUnavailable(f"{what}: cannot be read now: {said}; check this machine's memory and limits")
        return OriginFault(f"{what}: cannot be read: unexpected {type(err).__name__}: {said}; please report it")

    def _run(self, fetch: _Fetch, job: _Job) -> None:
        """Fill `job.target`, over as many requests as the settings allow."""
        done = 0
        e_tag: str | None = None
        for attempt in range(1, self._settings.attempts_max + 1):
            hold_s = self._hold_until - time.monotonic()
            if hold_s > 0:
                # Jitter here too: a whole fleet was told the same second.
                hold_s += self._rng.uniform(0.0, self._settings.backoff_base_s)
            self._wait(fetch, max(0.0, hold_s), job, "the origin asked us to wait")
            begun = time.monotonic()
            try:
                for piece in self._request(fetch, job, done, e_tag):
                    if isinstance(piece, str):
                        e_tag = piece
                        continue
                    job.target[done : done + len(piece)] = piece
                    done += len(piece)
                if done == len(job.target):
                    return
                reason = "the response broke off"
            except (BaseError, OSError, ValueError) as err:
                if done == len(job.target):  # all is here; only the end of the body was missing
                    return
                reason = self._judge(fetch, job, err, begun)
            if attempt == FAILING_ATTEMPTS and not done:
                fetch.failing(f"{self._name(job)}: {reason}")
            if attempt < self._settings.attempts_max:
                roof = min(self._settings.backoff_max_s, self._settings.backoff_base_s * 2**attempt)
                self._wait(fetch, self._rng.uniform(0.0, roof), job, reason)
        raise OriginUnavailable(
            f"{self._name(job)}: gave up after {self._settings.attempts_max} requests "
            f"with {done} of {len(job.target)} bytes: {reason}; check that the origin is up and reachable from here"
        )

    def _request(self, fetch: _Fetch, job: _Job, done: int, e_tag: str | None) -> Iterator[str | memoryview]:
        """Yield the entity tag, if any, then the wanted bytes from `done` on, as far as one response goes."""
        size, path = job.entry.size, job.entry.path
        if not self._http and _NUMBERED.search(path):
            yield self._read_numbered(fetch, job)[done:]
            return
        start, stop = job.offset + done, job.offset + len(job.target)
        body = self._resume(path, start)
        if body is None:
            ranged = (start, stop) != (0, size) and path not in self._plain_paths
            body = self._open(fetch, job, (start, stop) if ranged else None)
        if e_tag is not None and body.tag is not None and body.tag != e_tag:
            raise OriginObjectChanged(
                f"{self._name(job)}: changed at the origin while it was read "
                f"(entity tag {e_tag[:64]} became {body.tag[:64]}); restore the file or publish the title anew"
            )
        if body.tag is not None:
            yield body.tag
        # A body that ends where we stop is read to its end, so that its connection can be used again.
        while body.position < stop or body.end == stop:
            view = body.left
            if not view:
                try:
                    view = memoryview(next(body.buffers))
                except StopIteration:
                    return
                fetch.count(received=len(view))
            if fetch.stopped():
                raise OriginCancelled(f"{self._name(job)}: reading was cancelled")
            if time.monotonic() > fetch.deadline:
                raise self._late(job, "the origin is slow")
            skip, take = max(0, start - body.position), max(0, min(len(view), stop - body.position))
            body.position += take
            body.left = view[take:]
            if skip < take:
                yield view[skip:take]
            if body.left:
                break
        self._keep(path, body)

    def _open(self, fetch: _Fetch, job: _Job, wanted: tuple[int, int] | None) -> _Body:
        """Ask for the `wanted` range or the whole file; where ranges are not served, for the whole file after all."""
        path = job.entry.path
        fetch.count(requests=1)
        try:
            options: GetOptions = {} if wanted is None else {"range": wanted}
            result = obstore.get(self._store, path, options=options)
        except NotSupportedError:
            if wanted is None:
                raise
            with self._lock:
                if len(self._plain_paths) >= _PLAIN_PATHS_MAX:
                    self._plain_paths.clear()
                self._plain_paths.add(path)
            fetch.count(requests=1)
            wanted = None
            result = obstore.get(self._store, path)
        self._check_size(result.meta["size"], job)
        position, end = result.range
        if position != (0 if wanted is None else wanted[0]):
            raise OriginRefused(f"{self._name(job)}: the origin answers with another range; check the server's set-up")
        # From a directory at once, which is faster there: see docs/experiments.md, "Disks and the page cache".
        pieces: Iterable[Bytes | bytes] = (
            result.stream(min_chunk_size=_STREAM_BYTES_MIN) if self._http else (result.bytes(),)
        )
        buffers = iter(pieces)
        return _Body(result.meta["e_tag"], position, end, buffers, time.monotonic())

    def _keep(self, path: str, body: _Body) -> None:
        """Keep the rest of a whole file's body: the next chunk is often the next part of it."""
        if path in self._plain_paths and body.position < body.end:
            with self._lock:
                if not self._closed:
                    self._kept = [*self._kept, (path, body)][-_KEPT_MAX:]

    def _resume(self, path: str, start: int) -> _Body | None:
        """Return the kept body of `path` that is nearest before byte `start`, if there is one still young."""
        # Half of the request's own time limit, so that the rest of it can still be read.
        oldest = time.monotonic() - self._settings.total_max_s / 2
        with self._lock:
            self._kept = [kept for kept in self._kept if kept[1].opened_at >= oldest]
            fits = [kept for kept in self._kept if kept[0] == path and kept[1].position <= start]
            if not fits:
                return None
            best = max(fits, key=lambda kept: kept[1].position)
            self._kept.remove(best)
            return best[1]

    def _read_numbered(self, fetch: _Fetch, job: _Job) -> memoryview:
        """Return the bytes of a file in a directory whose name obstore refuses."""
        with open(f"{self.url}/{job.entry.path}", "rb", buffering=0) as file:
            self._check_size(os.fstat(file.fileno()).st_size, job)
            data = os.pread(file.fileno(), len(job.target), job.offset)
        fetch.count(received=len(data), requests=1)
        return memoryview(data)

    def _check_size(self, size: int, job: _Job) -> None:
        if size != job.entry.size:
            what = "truncated" if size < job.entry.size else "changed"
            raise OriginObjectChanged(
                f"{self._name(job)}: {what} at the origin: it has {size} bytes there, {job.entry.size} when published; "
                "restore the file or publish the title anew"
            )

    def _judge(self, fetch: _Fetch, job: _Job, err: Exception, begun: float) -> str:
        """Return why to try again, or raise what trying again cannot mend."""
        text = _reason(str(err))
        found = _STATUS.search(text)
        status = int(found[1]) if found else 0
        if isinstance(err, FileNotFoundError) or status == 410:
            raise OriginObjectMissing(
                f"{self._name(job)}: not found at the origin; check that the URL is the directory that was published"
            ) from err
        if status == 416 or "StartTooLarge" in str(err):
            raise OriginObjectChanged(
                f"{self._name(job)}: truncated at the origin: it ends before byte {job.offset + 1}, "
                f"published were {job.entry.size} bytes; restore the file or publish the title anew"
            ) from err
        if isinstance(err, PermissionDeniedError | PermissionError | ValueError) or (
            400 <= status < 500 and status not in (408, 425, 429)
        ):
            raise OriginRefused(f"{self._name(job)}: the origin refuses it: {text}; check its access rules") from err
        if status in (429, 503) and self._http:
            self._back_off(fetch, job, status, begun)
        return text

    def _back_off(self, fetch: _Fetch, job: _Job, status: int, begun: float) -> None:
        """Learn how long the origin wants to be left alone and hold every job back; raise if that is too long."""
        with self._probe_lock:
            # Requests that were under way when another job looked learn nothing new by looking again.
            if self._probed_at < begun:
                fetch.count(requests=1)
                wait_s = probe_retry_after(urls.file_url(self.url, job.entry.path), self._settings.connect_max_s)
                self._probed_at = time.monotonic()
                self._hold_until = self._probed_at + (wait_s or 0.0)
            known_s = max(0.0, self._hold_until - time.monotonic())
        if time.monotonic() + known_s > fetch.deadline:
            raise OriginUnavailable(
                f"{self._name(job)}: status {status}, and the origin asks to come back in {known_s:.0f} s; "
                "other origins or caches are used until then",
                retry_after_s=known_s,
            )

    def _wait(self, fetch: _Fetch, wait_s: float, job: _Job, reason: str) -> None:
        """Sleep in slices; raise where cancelled or where the wait would end after the deadline."""
        now = time.monotonic()
        until = now + wait_s
        if until > fetch.deadline:
            raise self._late(job, reason, retry_after_s=max(0.0, self._hold_until - now) or None)
        while True:
            if fetch.stopped():
                raise OriginCancelled(f"{self._name(job)}: reading was cancelled")
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, _SLEEP_SLICE_S))

    def _late(self, job: _Job, reason: str, retry_after_s: float | None = None) -> OriginUnavailable:
        return OriginUnavailable(
            f"{self._name(job)}: no whole chunk within {self._settings.total_max_s:g} s: {reason}; "
            "check the origin's load and the line to it",
            retry_after_s=retry_after_s,
        )

    def _name(self, job: _Job) -> str:
        return urls.file_url(self.url, job.entry.path) if self._http else f"{self.url}/{job.entry.path}"


class _Shared(Iterator[_Job]):
    """Jobs that several threads take turns to draw."""

    def __init__(self, jobs: list[_Job]) -> None:
        self._jobs = iter(jobs)
        self._lock = threading.Lock()

    def __next__(self) -> _Job:
        with self._lock:
            return next(self._jobs)


def open_store_origin(url: str, settings: OriginSettings, rng: random.Random) -> StoreOrigin:
    """Open the origin that `url` names; no request is made yet. Raises `ConfigError`, whatever the reason."""
    try:
        if urls.is_http(url):
            base = urls.http_base(url)
            return StoreOrigin(base, _http_store(base, settings), settings, rng, http=True)
        path = urls.directory(url)
        return StoreOrigin(str(path), LocalStore(path), settings, rng, http=False)
    except ConfigError:
        raise
    except BaseException as err:
        if not is_fault(err):
            raise
        raise ConfigError(
            f"origin {url[:200]!r} cannot be opened: {_reason(str(err)) or type(err).__name__}; check that it is "
            "written as http://HOST[:PORT]/PATH, or names a directory that can be read here"
        ) from err


def _http_store(base: str, settings: OriginSettings) -> HTTPStore:
    return HTTPStore.from_url(
        base,
        client_options={
            "allow_http": base.startswith("http://"),
            "connect_timeout": timedelta(seconds=settings.connect_max_s),
            "read_timeout": timedelta(seconds=settings.stall_max_s),
            "timeout": timedelta(seconds=settings.total_max_s),
            "pool_max_idle_per_host": str(settings.concurrency),
            "user_agent": f"p2pfill/{__version__}",
        },
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=settings.total_max_s)},
    )
