"""One title on disk, filling or live.

Files of less than `PREALLOCATE_BYTES_MIN` are made by their first write and empty ones at go-live, since making a
hundred thousand files before the first byte takes longer than to fetch some titles. So a directory entry may be
as young as the bytes, and a commit that touches such a file syncs the file system, which covers both.

Invariants: a chunk that was sealed, because its digests hold, is never written to again while that fill lasts, whoever
asks; a chunk is in `have` only after its bytes were made durable and the journal said so durably; a file is below
`titles/` only when every chunk of its title was in `have`. A disk that once failed to sync is not asked
again, because the kernel may have dropped the very pages that it could not write and would report success.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from threading import Lock, RLock, local
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from p2pfill.errors import StoreError
from p2pfill.hot.io import begin_write_out, sync_fs
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest, Segment
from p2pfill.store.disk import DIRECTORY_FLAGS, FileCache, Tree, read_into, store_error, translated
from p2pfill.store.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_FILES_MAX: Final = 128
"""Per title. A process may open 1024 files by default and needs most of them for sockets."""
SYNC_FILES_MAX: Final = 16
"""A commit that touched more files than this asks for one sync of the whole file system instead."""
READ_BYTES: Final = 256 * limits.KIB
"""What is read back is hashed out of a buffer that each thread keeps: the kernel must clear the pages of a new one.
Hashing a mapped file would be faster, and make a disk that fails a signal instead of an error. See docs/experiments.md,
"The data path"."""
PREALLOCATE_BYTES_MIN: Final = 256 * limits.KIB
"""Files from this size on have all their space before the fill begins; allocating one costs a 1000th of filling it."""

WRITE_LOCKS: Final = 64
"""Chunks of a title share so many locks for writing: more than there are threads that write, and a lock for each chunk
would cost a large title megabytes."""

_BITS: Final = [bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256)]
"""The bits of a byte, lowest first, each as a byte."""

_kept = local()

_READ: Final = os.O_RDONLY
_WRITE: Final = os.O_RDWR | os.O_CREAT


class StoredTitle:
    """A title's files, made by `Store`. All calls block, are thread-safe and raise `StoreError` if the disk refuses."""

    def __init__(
        self,
        manifest: Manifest,
        directory_fd: int,
        journal: Journal | None,
        have: Bitmap,
        publish_live: Callable[[StoredTitle], None],
    ) -> None:
        """Take over `directory_fd` and `journal`; without a journal the title is live. `have` is kept up to date."""
        self.manifest = manifest
        self.have = have
        self._directory_fd = directory_fd
        self._journal = journal
        self._publish_live = publish_live
        self._tree = Tree(os.open("files", DIRECTORY_FLAGS, dir_fd=directory_fd))
        self._readers = FileCache(lambda index: self._open(index, _READ), OPEN_FILES_MAX)
        self._writers = FileCache(lambda index: self._open(index, _WRITE), OPEN_FILES_MAX)
        self._lock = RLock()
        self._failed = ""
        self.live = journal is None
        self.closed = False
        self._write_locks = [Lock() for _ in range(WRITE_LOCKS)] if not self.live else []
        # A byte a chunk: threads set them side by side, which they cannot with bits.
        self._sealed = bytearray() if self.live else _seals(have)

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Yield (descriptor, offset in the file, length) for the bytes of a chunk from byte `start` on.

        A descriptor is good only until the iterator moves on or is closed: use it inside the loop. Raises `StoreError`
        for writing into a live title or a sealed chunk, and `IndexError` for a chunk that is not there.
        """
        if write and self.live:
            raise StoreError(f"title {self.manifest.name!r} is live and cannot be written to")
        if write and self._sealed[chunk]:
            raise StoreError(f"chunk {chunk} of title {self.manifest.name!r} is verified and cannot be written to")
        return self._ranges(self.manifest.segments(chunk, start), write)

    def _ranges(self, segments: Iterable[Segment], write: bool) -> Iterator[tuple[int, int, int]]:
        cache, flags = (self._writers, _WRITE) if write else (self._readers, _READ)
        for index, offset, length in segments:
            if length == self.manifest.files.size(index):
                # No other chunk has a part of this file: keeping its descriptor would only push out a useful one.
                fd = self._open(index, flags)
                try:
                    yield fd, offset, length
                finally:
                    os.close(fd)
            else:
                with cache.pinned(index) as fd:
                    yield fd, offset, length

    def write_lock(self, chunk: int) -> Lock:
        """Return the lock that a writer of a chunk holds for each slice, and whoever seals it."""
        return self._write_locks[chunk % WRITE_LOCKS]

    def is_sealed(self, chunk: int) -> bool:
        """Tell whether a chunk takes no more writes."""
        return self.live or bool(self._sealed[chunk])

    def seal(self, chunk: int) -> None:
        """Refuse writes to a chunk from now on: its digests hold. Its `write_lock` is held."""
        self._sealed[chunk] = 1

    def begin_again(self) -> None:
        """Let what is not durable be written once more, since a new fill fetches it. The fill before has ended."""
        with self._lock:
            if not self.live:
                self._sealed = _seals(self.have)

    def write_chunk(self, chunk: int, data: bytes | bytearray | memoryview) -> None:
        """Write a whole chunk that is at hand in memory; nothing of it is durable before `commit`."""
        view, at = memoryview(data), 0
        for fd, offset, length in self.ranges(chunk, write=True):
            end = at + length
            with translated(f"write chunk {chunk} of title {self.manifest.name!r}"):
                while at < end:
                    written = os.pwrite(fd, view[at:end], offset)
                    at, offset = at + written, offset + written

    def check_blake3(self, chunk: int) -> bool:
        """Re-read a chunk, from the page cache as a rule, and tell whether its BLAKE3 is the manifest's."""
        hasher = blake3()
        if not hasattr(_kept, "buffer"):
            _kept.buffer = memoryview(bytearray(READ_BYTES))
        view = _kept.buffer
        try:
            for fd, offset, length in self.ranges(chunk):
                while length:
                    part = view[: min(length, len(view))]
                    got = read_into(fd, part, offset)
                    if got != len(part):
                        return False
                    hasher.update(part)
                    offset += got
                    length -= got
        except OSError as error:
            raise store_error(f"read chunk {chunk} of title {self.manifest.name!r}", error) from error
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return hasher.digest() == self.manifest.chunk_blake3(chunk)

    def begin_write_out(self, chunks: Iterable[int]) -> None:
        """Have the disk begin to write chunks, so that their commit finds little left to wait for. Never fails.

        Small files are left to the sync of the whole file system, for which each would have to be opened here. What the
        disk refuses it says to the commit as well.
        """
        sizes = self.manifest.files.size
        with suppress(OSError, StoreError):
            for chunk in chunks:
                segments = (part for part in self.manifest.segments(chunk) if preallocated(sizes(part.file_index)))
                for fd, offset, length in self._ranges(segments, write=False):
                    begin_write_out(fd, offset, length)

    def commit(self, chunks: Sequence[int]) -> None:
        """Make verified chunks durable: first their bytes, then the journal's record of them, then `have`."""
        with self._lock:
            if self._journal is None or self.closed:
                raise StoreError(f"title {self.manifest.name!r} is not being filled")
            if self._failed:
                raise StoreError(self._failed)
            fresh = [chunk for chunk in dict.fromkeys(chunks) if not self.have[chunk]]
            if not fresh:
                return
            try:
                self._sync(fresh)
                self._journal.append(fresh)
            except OSError as error:
                failure = store_error(f"make chunks of title {self.manifest.name!r} durable", error)
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    self._failed = str(failure)
                raise failure from error
            for chunk in fresh:
                self.have.add(chunk)

    def go_live(self) -> None:
        """Show the finished title under its name by one atomic rename. Does nothing where it is live already."""
        with self._lock:
            if self.live:
                return
            missing = len(self.have) - self.have.count()
            if missing:
                raise StoreError(f"title {self.manifest.name!r} cannot go live: {missing} chunks are missing")
            if self._journal is None or self.closed:
                raise StoreError(f"title {self.manifest.name!r} is closed")
            # Refuses new writers at once; descriptors in use stay good across the rename.
            self.live = True
            try:
                self._make_empty_files()
                self._publish_live(self)
            except StoreError:
                self.live = False
                raise
            self._writers.close()
            self._journal.close()
            self._journal = None

    def drop_pages(self, chunks: Iterable[int]) -> None:
        """Drop a live title's chunks from the page cache: a later reader waits for the disk.

        Does nothing to a title that is still being filled, nor where the file system lies in memory. Single pages that
        were sent last may stay: sockets hold them a little longer than it takes to send them.
        """
        if not self.live:
            return
        with translated(f"drop cached pages of title {self.manifest.name!r}"):
            for chunk in chunks:
                for index, offset, length in self.manifest.segments(chunk):
                    fd = self._open(index, _READ)
                    try:
                        # From the file's start: the kernel spares pages that lie in the range in part only, as the last
                        # one of the chunk before. Looking for pages that have gone already costs nothing.
                        os.posix_fadvise(fd, 0, offset + length, os.POSIX_FADV_DONTNEED)
                    finally:
                        os.close(fd)

    def close(self) -> None:
        """Close all descriptors; those in use are closed when their users are done. May be called twice."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            self._readers.close()
            self._writers.close()
            if self._journal is not None:
                self._journal.close()
                self._journal = None
            self._tree.close()
            os.close(self._directory_fd)

    def _open(self, index: int, flags: int) -> int:
        path = self.manifest.files.path(index)
        try:
            return self._tree.open(path, flags)
        except OSError as error:
            raise store_error(f"open {path!r} of title {self.manifest.name!r}", error) from error

    def _make_empty_files(self) -> None:
        empty = [entry.path for entry in self.manifest.files if not entry.size]
        if empty:
            with translated(f"make the empty files of title {self.manifest.name!r}"):
                for path in empty:
                    os.close(self._tree.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
                sync_fs(self._tree.fd)

    def _sync(self, chunks: Sequence[int]) -> None:
        indexes: set[int] = set()
        for chunk in chunks:
            for segment in self.manifest.segments(chunk):
                indexes.add(segment.file_index)
                if len(indexes) > SYNC_FILES_MAX or not preallocated(self.manifest.files.size(segment.file_index)):
                    sync_fs(self._tree.fd)
                    return
        for index in indexes:
            with self._writers.pinned(index) as fd:
                os.fdatasync(fd)


def _seals(have: Bitmap) -> bytearray:
    """Return a byte for each chunk, 1 where it is in `have`."""
    return bytearray(b"".join(map(_BITS.__getitem__, have.buffer)))


def preallocated(size: int) -> bool:
    """Tell whether a file of `size` bytes is made, with all of its space, before its title's fill begins."""
    return size >= PREALLOCATE_BYTES_MIN
