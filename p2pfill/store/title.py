"""One title on disk, filling or live.

Files of less than `PREALLOCATE_BYTES_MIN` are made by their first write and empty ones at go-live, since making a
hundred thousand files before the first byte takes longer than to fetch some titles. So a directory entry may be
as young as the bytes, and a commit that touches such a file syncs the file system, which covers both.

Invariants: a chunk that was sealed, because its digests hold, is never written to again while that fill lasts, whoever
asks; a chunk is in `have` only after its bytes were made durable and the journal said so durably; a file is below
`titles/` only when every chunk of the files that are wanted was in `have`. Once the disk has failed to sync, nothing
more is committed before `recover`, which drops what was not durable by then: the kernel may have dropped the very pages
that it could not write, and would report success.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock, RLock, local
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from p2pfill.errors import StoreError
from p2pfill.hot.io import begin_write_out, sync_fs
from p2pfill.hot.lanes import WriteLock
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.files import FileRecord
from p2pfill.model.manifest import Manifest, Segment
from p2pfill.model.paths import directories_of
from p2pfill.model.selection import (
    chunks_of_file,
    chunks_of_selection,
    is_selected,
    union,
)
from p2pfill.store.descriptors import BUDGET
from p2pfill.store.disk import (
    DIRECTORY_FLAGS,
    FileCache,
    Tree,
    read_into,
    replace_file,
    store_error,
    translated,
    write_all,
)
from p2pfill.store.journal import Journal
from p2pfill.store.mending import Mend
from p2pfill.store.rest import Rest
from p2pfill.store.tally import Tally, read_tally, write_tally
from p2pfill.store.wanted import Wanted, keep_selection, read_selection, wanted_of

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFEST: Final = "manifest"
SALVAGE: Final = "salvage"
"""See `store.salvage`."""
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
        mend: Mend | None = None,
        wanted: Wanted | None = None,
        open_live: Callable[[], int] | None = None,
        note_open: Callable[[StoredTitle], None] = lambda title: None,
        doubt: str = "",
    ) -> None:
        """Take over `directory_fd`, `journal` and `mend`; without a journal the title is live.

        `have` is kept up to date. `wanted` is what is wanted, as it is on disk; None: all. With `open_live`, which
        opens the directory of the title once it is live, it may `rest` then; `note_open` is told when it holds
        descriptors again.
        """
        self.manifest = manifest
        self._wants = wanted or wanted_of(manifest, None)
        """Replaced as a whole."""
        self.have = have
        self._directory_fd = directory_fd
        self._directory_lock = Lock()
        """Held while its descriptor is closed or copied."""
        self._rest = Rest(self._own_directory)
        self._journal = journal
        self._publish_live = publish_live
        self._open_live = open_live
        self._note_open = note_open
        self._tree = Tree(os.open("files", DIRECTORY_FLAGS, dir_fd=directory_fd), self._open_live_files)
        self._lock = RLock()
        self._caches: tuple[FileCache, FileCache] | None = None
        """Of files opened for reading, and for writing. Most live titles are never read, so it is made when needed."""
        self._failed = ""
        self._reads_back = False
        """Whether what is committed is read from the disk before it counts, since that has failed to sync before."""
        self.salvages = False
        """Whether chunks may be here that the journal does not vouch for (`store.salvage`)."""
        self.live = journal is None
        self.tally = read_tally(directory_fd)
        """What has come of it from where, as it was kept last."""
        self.closed = False
        self.doubt = doubt
        """Why it is not known what of it is here, if so: `have` is what may be here, and is to be checked."""
        self._mend = mend
        self._write_locks: list[WriteLock] = []
        # A byte a chunk: threads set them side by side, which they cannot with bits.
        self._sealed = bytearray()
        if self.takes_writes:
            self._prepare_writes()
        else:
            self.rest()

    @property
    def selection(self) -> Bitmap | None:
        """The files that are to be here; None: all. Not to be changed."""
        return self._wants.selection

    @property
    def wanted(self) -> Bitmap:
        """The chunks that its files consist of, as far as they are to be here. Not to be changed."""
        chunks = self._wants.chunks
        return Bitmap.full(self.manifest.chunk_count) if chunks is None else chunks

    @property
    def wanted_bytes(self) -> int:
        """How long the wanted chunks are together."""
        return self._wants.size

    def wants(self, chunk: int) -> bool:
        """Tell whether a chunk is of a file that is to be here."""
        chunks = self._wants.chunks
        return chunks is None or chunks[chunk]

    @property
    def takes_writes(self) -> bool:
        """Whether there is something to be fetched: the title is not live, or is being repaired."""
        return not self.live or self._mend is not None

    def _prepare_writes(self) -> None:
        self._write_locks = self._write_locks or [WriteLock() for _ in range(WRITE_LOCKS)]
        self._sealed = _seals(self.have)

    def _file_caches(self) -> tuple[FileCache, FileCache]:
        if (caches := self._caches) is None:
            with self._lock:
                if self.closed:
                    raise StoreError(f"title {self.manifest.name!r} is closed")
                caches = self._caches = self._caches or self._new_caches()
        return caches

    def _new_caches(self) -> tuple[FileCache, FileCache]:
        return (
            FileCache(lambda index: self._open(index, _READ), OPEN_FILES_MAX),
            FileCache(lambda index: self._open(index, _WRITE), OPEN_FILES_MAX),
        )

    def rest(self) -> None:
        """Hold no descriptors while nobody reads: a node may have more live titles than a process may have open files.

        Does nothing to one that takes writes. What is in use now stays open until its users are done.
        """
        if self._open_live is None or not self._lock.acquire(blocking=False):
            return  # it is busy, and not at rest
        try:
            if not self.closed and not self.takes_writes:
                for cache in self._caches or ():
                    cache.rest(wait=False)  # whoever has another title rest may hold that one's lock
                self._tree.rest()
                self._take_directory(-1)
        finally:
            self._lock.release()

    def _take_directory(self, directory_fd: int) -> None:
        """Let go of the descriptor of its directory, and take over another one, -1 for none."""
        with self._directory_lock:
            if self._directory_fd >= 0:
                os.close(self._directory_fd)
            self._directory_fd = directory_fd

    def _own_directory(self) -> int:
        """Return a descriptor of its directory, the caller's. Raises `OSError`."""
        # Not under the title's lock: whoever opens a file may hold that of a cache, which is the inner one of the two.
        with self._directory_lock:
            if self._directory_fd >= 0:
                return os.dup(self._directory_fd)
        if self._open_live is None:
            raise StoreError(f"title {self.manifest.name!r} is closed")
        return self._open_live()

    def _hold_directory(self) -> None:
        if self._directory_fd < 0 and self._open_live is not None:
            self._take_directory(self._open_live())

    def _open_live_files(self) -> int:
        """Return a descriptor of the directory of a live title's files. Raises `OSError`."""
        if self._open_live is None:
            raise StoreError(f"title {self.manifest.name!r} is closed")
        directory_fd = self._open_live()
        try:
            return os.open("files", DIRECTORY_FLAGS, dir_fd=directory_fd)
        finally:
            os.close(directory_fd)

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Yield (descriptor, offset in the file, length) for the bytes of a chunk from byte `start` on.

        A descriptor is good only until the iterator moves on or is closed: use it inside the loop. Raises `StoreError`
        for writing into a live title or a sealed chunk, and `IndexError` for a chunk that is not there.
        """
        if write and not self.takes_writes:
            raise StoreError(f"title {self.manifest.name!r} is live and cannot be written to")
        if write and self._sealed[chunk]:
            raise StoreError(f"chunk {chunk} of title {self.manifest.name!r} is verified and cannot be written to")
        mend = self._mend
        if mend is not None and not self.have[chunk] and not mend.is_direct(chunk):
            return mend.spare_ranges(chunk, start)
        return self._ranges(self.manifest.segments(chunk, start), write)

    def existing_ranges(self, chunk: int) -> Iterator[tuple[int, int, int]]:
        """Yield what `ranges` does, for reading the files in which a chunk belongs, also while it lies elsewhere."""
        return self._ranges(self.manifest.segments(chunk), write=False)

    def file_ranges(self, segments: Iterable[Segment]) -> Iterator[tuple[int, int, int]]:
        """Yield what `ranges` does, for reading these runs of the title's files."""
        return self._ranges(segments, write=False)

    def _ranges(self, segments: Iterable[Segment], write: bool) -> Iterator[tuple[int, int, int]]:
        (readers, writers), flags = self._file_caches(), _WRITE if write else _READ
        cache = writers if write else readers
        for index, offset, length in segments:
            if length == self.manifest.files.size(index):
                # No other chunk has a part of this file: keeping its descriptor would only push out a useful one.
                try:
                    fd = self._open(index, flags)
                except StoreError as error:
                    fd = BUDGET.patiently(error, partial(self._open, index, flags))
                try:
                    yield fd, offset, length
                finally:
                    os.close(fd)
            else:
                with cache.pinned(index) as fd:
                    yield fd, offset, length

    def write_lock(self, chunk: int) -> WriteLock:
        """Return the lock that a writer of a chunk holds for each slice, and whoever seals it."""
        return self._write_locks[chunk % WRITE_LOCKS]

    @property
    def seals(self) -> bytearray:
        """A byte a chunk: 1 where it takes no more writes; empty where nothing is written at all. Not to be changed."""
        return self._sealed

    def is_sealed(self, chunk: int) -> bool:
        """Tell whether a chunk takes no more writes."""
        # As `takes_writes` says, which is a call more: this is asked several times for each chunk.
        return (self.live and self._mend is None) or bool(self._sealed[chunk])

    def seal(self, chunk: int) -> None:
        """Refuse writes to a chunk from now on: its digests hold. Its `write_lock` is held."""
        self._sealed[chunk] = 1

    def begin_again(self) -> None:
        """Let what is not durable be written once more, since a new fill fetches it. The fill before has ended."""
        with self._lock:
            if self.takes_writes:
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

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        """Tell whether the BLAKE3 of a chunk is the manifest's: `digest`, where it was hashed as it was written.

        Without that the chunk is read back, from the page cache as a rule.
        """
        if digest is not None:
            return digest == self.manifest.chunk_blake3(chunk)
        return self._is_right(chunk, self.ranges(chunk))

    def _is_right(self, chunk: int, ranges: Iterable[tuple[int, int, int]]) -> bool:
        hasher = blake3()
        if not hasattr(_kept, "buffer"):
            _kept.buffer = memoryview(bytearray(READ_BYTES))
        view = _kept.buffer
        try:
            for fd, offset, length in ranges:
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

    def recover(self) -> None:
        """Rely on the disk again after it has failed to make something durable, where it takes writes now.

        What counts is in `have`: it was durable before. All else is to be written once more, since the kernel may have
        dropped pages that it could not write and show them as clean. So the journal is written anew too, and the files
        are opened anew. Raises `StoreError`, and then nothing has changed.
        """
        with self._lock, translated(f"go on with title {self.manifest.name!r}"):
            if not self._failed or self.closed:
                return
            if self._mend is not None:
                self._mend.forget(self.have)
            elif self._journal is not None:
                before = self._journal
                self._journal = Journal.create(self._directory_fd, self.manifest.title_id, list(self.have.indexes()))
                before.close()
            self._tree.renew(self.open_files())
            self.let_go()
            self._drop_what_failed()
            sync_fs(self._tree.fd)
            self._sealed = _seals(self.have)
            self._failed, self._reads_back = "", True

    def _drop_what_failed(self) -> None:
        """Have nothing in memory any more that the disk may have refused to write.

        The kernel tells once of each file that a write has failed, which is old by now. And its pages go (see
        `Tree.forget_pages`).
        """
        with suppress(OSError):
            sync_fs(self._tree.fd)
        for path, *_ in self._selected_records():
            with suppress(OSError):
                self._tree.forget_pages(path, sync=True)

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
            mend = self._mend
            journal = mend.journal if mend is not None else self._journal
            if journal is None or self.closed:
                raise StoreError(f"title {self.manifest.name!r} is not being filled")
            if self._failed:
                raise StoreError(self._failed)
            fresh = [chunk for chunk in dict.fromkeys(chunks) if not self.have[chunk]]
            if not fresh:
                return
            try:
                if mend is not None:
                    self._move_in(mend, fresh)
                self._sync(fresh)
                if mend is not None or self._reads_back:
                    self._read_back(fresh)
                journal.append(fresh)
            except StoreError as error:
                if self._reads_back:
                    self._failed = str(error)  # memory and disk differ once more
                raise
            except OSError as error:
                failure = store_error(f"make chunks of title {self.manifest.name!r} durable", error)
                self._failed = str(failure)
                raise failure from error
            for chunk in fresh:
                self.have.add(chunk)
            if mend is not None:
                self._restore_files(mend, fresh)

    def go_live(self) -> None:
        """Show the finished title under its name by one atomic rename; of a live one, end the repair, if any."""
        with self._lock:
            if not self.takes_writes:
                return
            missing = self.wanted.and_not(self.have).count()
            if missing:
                raise StoreError(f"title {self.manifest.name!r} cannot go live: {missing} chunks are missing")
            if (mend := self._mend) is not None:
                with translated(f"end the repair of title {self.manifest.name!r}"):
                    self._restore(mend, sorted(mend.lost))  # those that a crash has kept from their places
                    self.show_files()  # a crash may have come between bytes and time
                    mend.end()
                self._mend = None
                self._note_open(self)
                return
            if self._journal is None or self.closed:
                raise StoreError(f"title {self.manifest.name!r} is closed")
            # Refuses new writers at once; descriptors in use stay good across the rename.
            self.live = True
            try:
                self.show_files()
                self._publish_live(self)
            except StoreError:
                self.live = False
                raise
            if self._wants.chunks is not None:
                self._drop_surplus(self._wants.chunks)
            with suppress(OSError):
                os.unlink(SALVAGE, dir_fd=self._directory_fd)
            self._file_caches()[1].close()
            self._journal.close()
            self._journal = None
            self._note_open(self)

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

    def keep_tally(self, tally: Tally) -> None:
        """Keep what has come of the title from where; that the disk refuses costs a figure, and no more."""
        with self._lock:
            self.tally = tally
            if not self.closed:
                with suppress(OSError):
                    directory_fd = self._own_directory()  # it may be at rest by now
                    try:
                        write_tally(directory_fd, tally)
                    finally:
                        os.close(directory_fd)

    def close(self) -> None:
        """Close all descriptors; those in use are closed when their users are done. May be called twice."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            for cache in self._caches or ():
                cache.close()
            if self._journal is not None:
                self._journal.close()
                self._journal = None
            if self._mend is not None:
                self._mend.close()
                self._mend = None
            self._tree.close()
            self._take_directory(-1)

    def _open(self, index: int, flags: int) -> int:
        path = self.manifest.files.path(index)
        if self.closed:
            raise StoreError(f"title {self.manifest.name!r} is closed")  # its descriptors may be others' by now
        try:
            if not is_selected(self.selection, index):
                return self._rest.open(index, flags)
            if (mend := self._mend) is not None:
                flags &= ~os.O_CREAT  # a file that has gone is lost, and not to be shown as an empty one
                if index in mend.lost:
                    with suppress(FileNotFoundError):  # it has just got its place again
                        return mend.open_aside(index, flags)
            fd = self._tree.open(path, flags)
        except OSError as error:
            raise store_error(f"open {path!r} of title {self.manifest.name!r}", error) from error
        if not self.takes_writes:
            self._note_open(self)
        return fd

    # ---- which files: `rest` says where the others are

    def select(self, selection: Bitmap | None, wanted: Wanted | None = None) -> list[int]:
        """Have these files be here; return the chunks that are to be fetched for it.

        A title that fills has them and no others from now on. One that is live keeps what is shown until `drop_files`:
        what it gains comes as lost files do, so the title takes writes again. Where that is cut short, opening it goes
        on, and what is then missing is found as if it were lost.
        """
        with self._lock, translated(f"have other files of title {self.manifest.name!r}"):
            if self.closed:
                raise StoreError(f"title {self.manifest.name!r} is closed")
            target = union(self.selection, selection) if self.live else selection
            if target == self.selection:
                return []
            self._hold_directory()
            gained = self._selected_only(target, self.selection)
            self._rest.clear(gained)
            if bad := self._vanished(gained):
                self.lose(bad)
            self._open_anew()
            if self.live:
                if self._mend is None:
                    self._mend = Mend.begin(self._directory_fd, self.manifest, self.have)
                    self._prepare_writes()
                else:
                    self._mend.forget(self.have)
            else:
                for index in self._selected_only(self.selection, target):
                    self._rest.take(index, self._tree, self.manifest.files.path(index))
            wanted = wanted or wanted_of(self.manifest, selection)
            if target != selection:
                both = None if wanted.chunks is None else self.wanted | wanted.chunks
                wanted = wanted_of(self.manifest, target, both)
            self._keep(wanted)
            if (mend := self._mend) is not None:
                for index in gained:
                    mend.put_aside(index, self._rest)
                mend.sync()
                missing = sorted({c for index in gained for c in chunks_of_file(self.manifest, index)})
                missing = [chunk for chunk in missing if not self.have[chunk]]
                for chunk in missing:
                    self._sealed[chunk] = 0
                mend.direct(missing)
                whole = (i for i in gained if all(map(self.have.__getitem__, chunks_of_file(self.manifest, i))))
                self._restore(mend, list(whole))
                return missing
            for index in gained:
                self._rest.give(index, self._tree, self.manifest.files.path(index))
            self._allocate(gained)
            return list(self.wanted.and_not(self.have).indexes())

    def _vanished(self, indexes: Iterable[int]) -> set[int]:
        """Return the chunks that are here, and parts of which `rest` should have for these files and has not.

        Somebody has removed them. The files would be shown with holes.
        """
        bad = set()
        for index in indexes:
            here = [chunk for chunk in chunks_of_file(self.manifest, index) if self.have[chunk]]
            if here:
                start, end = self.manifest.files.span(index)
                if not min(self.manifest.cut.span(here[-1])[1], end) - start <= self._rest.size(index) <= end - start:
                    bad.update(here)
        return bad

    def drop_files(self, selection: Bitmap) -> list[int]:
        """Keep of a live title these of its files only; return the chunks that are no longer here.

        Raises `StoreError` where it is being repaired.
        """
        with self._lock, translated(f"drop files of title {self.manifest.name!r}"):
            if self.closed or self.takes_writes:
                raise StoreError(f"title {self.manifest.name!r} cannot drop files now")
            self._hold_directory()
            wanted = wanted_of(self.manifest, selection)
            kept = chunks_of_selection(self.manifest, selection) if wanted.chunks is None else wanted.chunks
            for index in self._selected_only(self.selection, selection):
                path = self.manifest.files.path(index)
                if any(kept[chunk] for chunk in chunks_of_file(self.manifest, index)):
                    self._rest.take(index, self._tree, path)
                else:
                    self._tree.remove(path)
            self._keep(wanted)
            gone = list(self.have.and_not(kept).indexes())
            for chunk in gone:
                self.have.discard(chunk)
            self.let_go()
            self._note_open(self)
            return gone

    def _drop_surplus(self, wanted: Bitmap) -> None:
        """Let go of chunks that were fetched for files that are not wanted any more."""
        for chunk in self.have.and_not(wanted).indexes():
            self.have.discard(chunk)
        with suppress(OSError):  # they take room and no more
            for index in self._rest.kept():
                if index >= len(self.manifest.files):
                    continue  # somebody else's
                if not any(wanted[chunk] for chunk in chunks_of_file(self.manifest, index)):
                    self._rest.remove(index)

    def _selected_only(self, one: Bitmap | None, other: Bitmap | None) -> list[int]:
        """Return the numbers of the files that are in `one` and not in `other`."""
        if other is None:
            return []
        chosen = Bitmap.full(len(self.manifest.files)) if one is None else one
        return list(chosen.and_not(other).indexes())

    def _keep(self, wanted: Wanted) -> None:
        keep_selection(self._directory_fd, self.manifest, wanted.selection)
        self._wants = wanted

    def settle_doubt(self) -> None:
        """Keep what title this is and which files were found here: all that is in `have` was checked."""
        with self._lock, translated(f"keep what was found of title {self.manifest.name!r}, since {self.doubt}"):
            if self.closed:
                raise StoreError(f"title {self.manifest.name!r} is closed")
            self._hold_directory()
            replace_file(self._directory_fd, MANIFEST, self.manifest.encode())
            if read_selection(self._directory_fd, self.manifest)[1]:
                self._keep(self._wants)
            self.doubt = ""
            if not self.takes_writes:
                self._note_open(self)

    def would_select(self, selection: Bitmap | None) -> bool:
        """Tell whether `select` would change anything."""
        return self.selection != (union(self.selection, selection) if self.live else selection)

    def _allocate(self, indexes: Iterable[int]) -> None:
        for index in indexes:
            if preallocated(size := self.manifest.files.size(index)):
                fd = self._tree.open(self.manifest.files.path(index), _WRITE)
                try:
                    os.posix_fallocate(fd, 0, size)
                finally:
                    os.close(fd)

    # ---- repair: `mending` says how

    def lose(self, chunks: Iterable[int], files: Iterable[int] = ()) -> set[int]:
        """Take note that chunks, and all those of lost files, are bad, durably; return them. They take writes again.

        Numbers of `files` count only where the title is live: one that fills has its files made by writing.
        """
        with self._lock, translated(f"repair title {self.manifest.name!r}"):
            if self.closed:
                raise StoreError(f"title {self.manifest.name!r} is closed")
            self._hold_directory()
            known = self._mend.lost if self._mend is not None else set()
            lost = sorted(set(files) - known)
            bad = set(chunks).union(*(chunks_of_file(self.manifest, index) for index in lost))
            for chunk in bad:
                self.have.discard(chunk)
            self._open_anew()
            if not self.live:
                before = self._journal
                self._journal = Journal.create(self._directory_fd, self.manifest.title_id, list(self.have.indexes()))
                if before is not None:
                    before.close()
            elif self._mend is not None:
                self._mend.forget(self.have)
            else:
                self._mend = Mend.begin(self._directory_fd, self.manifest, self.have)
                self._prepare_writes()
            for chunk in bad:
                self._sealed[chunk] = 0
            if (mend := self._mend) is not None:
                for index in lost:
                    mend.put_aside(index)
                mend.sync()
                mend.direct(bad)
                self._restore(mend, (index for index in lost if not self.manifest.files.size(index)))
            return bad

    def let_go(self) -> None:
        """Close the files that are open and not in use now."""
        with self._lock:
            if not self.closed:
                before, self._caches = self._caches, None
                for cache in before or ():
                    cache.close()

    def open_files(self) -> int:
        """Return a descriptor of the directory of its files as it is now, the caller's. Raises `OSError`."""
        with self._lock:
            if self._directory_fd < 0:
                return self._open_live_files()
            return os.open("files", DIRECTORY_FLAGS, dir_fd=self._directory_fd)

    def open_rest(self, index: int) -> int:
        """Return a descriptor of what is kept of a file that is not wanted, the caller's. Raises `OSError`."""
        return self._rest.open(index, _READ)

    @property
    def lost_files(self) -> frozenset[int]:
        """Numbers of the files that are being made again."""
        return frozenset(self._mend.lost) if self._mend is not None else frozenset()

    def adopt(self, directory_fd: int) -> None:
        """Take over another directory for this title, in place of one that was removed. Nothing is in it yet."""
        with self._lock:
            if self._mend is not None:
                self._mend.close()
                self._mend = None
            self._take_directory(directory_fd)

    def _open_anew(self) -> None:
        """Rely on no descriptor of before: files may have been replaced, and directories too."""
        if self.takes_writes and self._sealed.count(1) > self.have.count():
            # A write that has failed is told once to each descriptor, and to none that was opened after that.
            try:
                sync_fs(self._tree.fd)
            except OSError as error:
                self._failed = str(store_error(f"make chunks of title {self.manifest.name!r} durable", error))
                raise
        with suppress(FileExistsError):
            os.mkdir("files", 0o755, dir_fd=self._directory_fd)
            os.fsync(self._directory_fd)
        self._tree.renew(self.open_files())
        self.let_go()

    def _move_in(self, mend: Mend, chunks: Iterable[int]) -> None:
        """Copy verified chunks out of the spare to where they belong, as far as they differ from what is there."""
        mine, theirs = memoryview(bytearray(READ_BYTES)), memoryview(bytearray(READ_BYTES))
        for chunk in chunks:
            if mend.is_direct(chunk):
                continue
            for spare_fd, at, _ in mend.spare_ranges(chunk, 0):
                for index, offset, length in self.manifest.segments(chunk):
                    with self._file_caches()[1].pinned(index) as fd:
                        for done in range(0, length, READ_BYTES):
                            count = min(READ_BYTES, length - done)
                            new, old = mine[:count], theirs[:count]
                            if read_into(spare_fd, new, at + done) != count:
                                raise StoreError(f"chunk {chunk} of title {self.manifest.name!r} has vanished")
                            if read_into(fd, old, offset + done) != count or new != old:
                                write_all(fd, new, offset + done)
                        mtime = self.manifest.files.mtime(index)
                        # For a web server the file is what it was: same validators. A crash may have come before this.
                        if index not in mend.lost and os.fstat(fd).st_mtime_ns != mtime * 1_000_000_000:
                            os.utime(fd, (mtime, mtime))
                    at += length

    def _read_back(self, chunks: Iterable[int]) -> None:
        """Read chunks from the disk, not from memory. Raises `StoreError` where they are not what was written."""
        for chunk in chunks:
            for fd, offset, length in self._ranges(self.manifest.segments(chunk), write=False):
                os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
            if not self._is_right(chunk, self._ranges(self.manifest.segments(chunk), write=False)):
                raise StoreError(
                    f"chunk {chunk} of title {self.manifest.name!r} was written and reads back wrong: check the disk"
                )

    def _restore_files(self, mend: Mend, chunks: Iterable[int]) -> None:
        """Give lost files back of which the last chunks are there now."""
        touched = {part.file_index for chunk in chunks for part in self.manifest.segments(chunk)} & mend.lost
        with translated(f"restore files of title {self.manifest.name!r}"):
            self._restore(
                mend,
                [index for index in touched if all(map(self.have.__getitem__, chunks_of_file(self.manifest, index)))],
            )

    def _restore(self, mend: Mend, indexes: Iterable[int]) -> None:
        for index in indexes:
            mend.restore(index, self._tree.place)

    def show_files(self) -> None:
        """Make what is empty, and give all files and directories the times and modes of the title, durably.

        While a title is filled they are those of the fill.
        """
        records = self._selected_records()
        ordered = self.directories()
        sync = len(self.manifest.files) + len(ordered) <= SYNC_FILES_MAX
        with translated(f"give the files of title {self.manifest.name!r} their times and modes"):
            for path in ordered:
                self._tree.show_directory(path, make=True, sync=False)
            failed: OSError | None = None
            for path, size, mtime, executable in records:
                try:
                    self._tree.show_file(path, mtime, executable, make=not size, sync=sync)
                except OSError as error:
                    # Of each file the kernel tells once that a write has failed, which may be long ago: all that there
                    # is to be told is told now, and not file by file, each with an attempt of its own.
                    failed = failed or error
            if failed is not None:
                raise failed
            if sync:
                # Last, since files were made in them.
                for path in ordered:
                    self._tree.show_directory(path, make=False, sync=True)
            else:
                sync_fs(self._tree.fd)

    def directories(self) -> list[str]:
        """Return all directories, those above first: one that nobody may enter hides what lies below."""
        above = directories_of(record[0] for record in self._selected_records())
        # Those in which nothing lies belong to nobody's files: to the whole title.
        empty = self.manifest.files.directories if self.selection is None else ()
        return ["", *sorted(above.union(empty, directories_of(empty)))]

    def _selected_records(self) -> Iterator[FileRecord]:
        for index, record in enumerate(self.manifest.files.records()):
            if is_selected(self.selection, index):
                yield record

    def _sync(self, chunks: Sequence[int]) -> None:
        indexes: set[int] = set()
        for chunk in chunks:
            for segment in self.manifest.segments(chunk):
                indexes.add(segment.file_index)
                if len(indexes) > SYNC_FILES_MAX or not preallocated(self.manifest.files.size(segment.file_index)):
                    sync_fs(self._tree.fd)
                    return
        for index in indexes:
            with self._file_caches()[1].pinned(index) as fd:
                os.fdatasync(fd)


def _seals(have: Bitmap) -> bytearray:
    """Return a byte for each chunk, 1 where it is in `have`."""
    return bytearray(b"".join(map(_BITS.__getitem__, have.buffer)))


def preallocated(size: int) -> bool:
    """Tell whether a file of `size` bytes is made, with all of its space, before its title's fill begins."""
    return size >= PREALLOCATE_BYTES_MIN
