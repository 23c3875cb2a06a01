"""Hashing the chunks of a title on all cores: one thread a core, one chunk at a time each.

Reading and both hashes drop the GIL, so threads are enough; processes were rejected for their start-up time.
Memory is one buffer a thread. Progress is reported from the caller's own thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Lock
from typing import Final, NamedTuple

import xxhash
from blake3 import blake3

from p2pfill.errors import StoreError
from p2pfill.model.manifest import Manifest
from p2pfill.store.disk import FileCache, read_into
from p2pfill.threads import name_thread

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

KEEP_SHARE: Final = 0.5
"""A title that takes more than this share of the machine's memory is not left in the page cache: it would push out all
else there and itself too. See docs/experiments.md, "Disks and the page cache"."""
PROGRESS_INTERVAL_S: Final = 0.1
OPEN_FILES_MAX: Final = 64
"""Chunks are hashed in order, so few files are in use at once."""
WORKERS_MAX: Final = 64
"""Bounds memory to 64 chunks; disks and memory are the limit long before."""


class Digests(NamedTuple):
    """XXH3-128 (16 bytes) and BLAKE3 (32 bytes) of one chunk."""

    xxh3: bytes
    blake3: bytes


def default_workers() -> int:
    """Return how many threads this process can really run at once."""
    return min(len(os.sched_getaffinity(0)), WORKERS_MAX)


def memory_bytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class _Pass:
    """One pass over a title; worker threads share it."""

    def __init__(
        self,
        manifest: Manifest,
        open_file: Callable[[int], int],
        files: FileCache,
        found: Callable[[int, Digests | StoreError], None],
        chunks: Sequence[int],
    ) -> None:
        self._manifest = manifest
        self._chunks = chunks
        self._open_file = open_file
        self._files = files
        self._found = found
        self._lock = Lock()
        self._next = 0
        self._drops = manifest.size > KEEP_SHARE * memory_bytes()
        self.done_bytes = 0
        self.stopped = False

    def work(self) -> None:
        buffer = memoryview(bytearray(min(self._manifest.chunk_size, max(self._manifest.size, 1))))
        while True:
            with self._lock:
                if self.stopped or self._next >= len(self._chunks):
                    return
                chunk = self._chunks[self._next]
                self._next += 1
            length = self._manifest.chunk_length(chunk)
            result = self._hash(chunk, buffer[:length])
            with self._lock:
                self._found(chunk, result)
                self.done_bytes += length

    def _hash(self, chunk: int, view: memoryview) -> Digests | StoreError:
        files, filled = self._manifest.files, 0
        for index, offset, length in self._manifest.segments(chunk):
            part = view[filled : filled + length]
            try:
                if length == files.size(index):
                    # No other chunk has a part of this file, so its descriptor is not worth keeping.
                    fd = self._open_file(index)
                    try:
                        got = self._read(fd, part, offset)
                    finally:
                        os.close(fd)
                else:
                    with self._files.pinned(index) as fd:
                        got = self._read(fd, part, offset)
            except (OSError, StoreError) as error:
                return StoreError(f"cannot read {files.path(index)!r}: {error}")
            if got != length:
                return StoreError(f"{files.path(index)!r} is shorter than it was: it ends {length - got} bytes early")
            filled += length
        return Digests(xxhash.xxh3_128(view).digest(), blake3(view).digest())

    def _read(self, fd: int, part: memoryview, offset: int) -> int:
        got = read_into(fd, part, offset)
        if self._drops:
            os.posix_fadvise(fd, offset, got, os.POSIX_FADV_DONTNEED)
        return got


def hash_chunks(
    manifest: Manifest,
    open_file: Callable[[int], int],
    found: Callable[[int, Digests | StoreError], None],
    *,
    progress: Progress | None,
    workers: int | None,
    chunks: Sequence[int] | None = None,
) -> None:
    """Hash every chunk, or these `chunks`, of a title whose file i is opened by `open_file(i)`.

    `found` gets each chunk's digests, or why it could not be read, in any order but one call at a time; it may raise
    to end the pass, and `hash_chunks` raises the same.
    """
    files = FileCache(open_file, OPEN_FILES_MAX)
    if chunks is None:
        chunks = range(manifest.chunk_count)
    total = sum(map(manifest.chunk_length, chunks))
    run = _Pass(manifest, open_file, files, found, chunks)
    count = max(1, min(workers or default_workers(), len(chunks), WORKERS_MAX))
    try:
        with ThreadPoolExecutor(count, "p2pfill-hash", name_thread) as pool:
            pending = {pool.submit(run.work) for _ in range(count)}
            try:
                while pending:
                    done, pending = wait(pending, PROGRESS_INTERVAL_S, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    if progress is not None:
                        progress(run.done_bytes, total)
            finally:
                # Also reached when the caller is interrupted: threads then stop at their next chunk.
                run.stopped = True
    finally:
        files.close()
