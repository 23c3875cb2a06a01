"""What lies beside a live title while bad chunks of it are made good.

    titles/<id>/mend/journal    the chunks that are good, as in a fill; while it is there, the title is being repaired
    titles/<id>/mend/spare      bad chunks as they come, at their places in the stream; sparse
    titles/<id>/mend/<number>   the file of that number, lost or newly wanted, until it is whole

Viewers read the files meanwhile, so they never see a byte that was not verified first:

- A file that is there is mended in place, since its readers hold it open, and one byte of a large file must not cost a
  copy of it. A chunk of which any part lies in such a file comes into the spare, is verified there, and of its bytes
  only what differs is copied over, so files that were good are not touched at all. Times and modes stay.
- A file that is lost (absent, of another size, no plain file) is written aside, which nobody reads, and renamed in when
  all of its chunks are good. In place viewers would see it grow, with zeros where bytes are yet to come.

A chunk enters the journal after its bytes were synced, dropped from the page cache, and read again. A crash leaves the
journal, from which opening goes on; a file aside says that its name is not to be served yet.

Rejected: a copy of the whole title that replaces it at once, which needs its room twice for one bad byte.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from threading import Lock
from typing import Final

from p2pfill.errors import StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.store.disk import DIRECTORY_FLAGS, FILE_FLAGS, FileCache, clear_place, show_file
from p2pfill.store.journal import DAMAGED, JOURNAL, Journal
from p2pfill.store.rest import Rest

MEND: Final = "mend"
_SPARE: Final = "spare"
_ASIDE_FLAGS: Final = os.O_RDWR | FILE_FLAGS


class Mend:
    """The directory `mend` of one live title. Raises `OSError`.

    Not thread-safe, but for `spare_ranges` and `open_aside`.
    """

    def __init__(self, directory_fd: int, manifest: Manifest, fd: int, journal: Journal) -> None:
        """Use `begin` or `open`. Takes over `fd` and `journal`."""
        self.journal = journal
        self.lost = {int(name) for name in os.listdir(fd) if name.isdecimal() and int(name) < len(manifest.files)}
        """Numbers of the files that are aside."""
        self._direct = Bitmap(manifest.chunk_count)
        """Chunks that are written straight to the files, all of which are aside. Fixed when a chunk is lost, since half
        of it may have come when a file more is."""
        self._directory_fd = directory_fd
        self._manifest = manifest
        self._fd = fd
        self._fd_lock = Lock()
        # Others may be sending out of it when it is closed.
        self._spare = FileCache(lambda _: os.open(_SPARE, _ASIDE_FLAGS | os.O_CREAT, 0o600, dir_fd=fd), 1)

    @classmethod
    def begin(cls, directory_fd: int, manifest: Manifest, good: Bitmap) -> Mend:
        """Make the directory below a title's own; from now on the title counts as good but for what is not `good`."""
        clear(directory_fd)
        os.mkdir(MEND, 0o755, dir_fd=directory_fd)
        fd = os.open(MEND, DIRECTORY_FLAGS, dir_fd=directory_fd)
        try:
            journal = Journal.create(fd, manifest.title_id, list(good.indexes()))
            os.fsync(directory_fd)
            return cls(directory_fd, manifest, fd, journal)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, directory_fd: int, manifest: Manifest) -> tuple[Mend, Bitmap] | None:
        """Return what a repair has left, and which chunks are good; None where none was under way.

        Raises `StoreError` where its journal cannot be read: then it is not known what was good.
        """
        clear_place(directory_fd, MEND, stat.S_ISDIR)
        try:
            fd = os.open(MEND, DIRECTORY_FLAGS, dir_fd=directory_fd)
        except FileNotFoundError:
            return None
        try:
            journal, good = Journal.open(fd, manifest.title_id, manifest.chunk_count)
            try:
                mend = cls(directory_fd, manifest, fd, journal)
            except BaseException:
                journal.close()
                raise
        except FileNotFoundError:
            # It had not begun, or had ended.
            os.close(fd)
            clear(directory_fd)
            return None
        except OSError as error:
            os.close(fd)
            if error.errno in DAMAGED:
                raise StoreError("the journal of a repair cannot be read") from error
            raise
        except BaseException:
            os.close(fd)
            raise
        mend.direct(chunk for chunk in range(manifest.chunk_count) if not good[chunk])
        return mend, good

    def direct(self, chunks: Iterable[int]) -> None:
        """Decide where newly lost chunks are written to."""
        for chunk in chunks:
            self._direct[chunk] = all(part.file_index in self.lost for part in self._manifest.segments(chunk))

    def is_direct(self, chunk: int) -> bool:
        """Tell whether a bad chunk is written straight to files that are aside."""
        return self._direct[chunk]

    def forget(self, good: Bitmap) -> None:
        """Vouch for the chunks in `good` only."""
        before = self.journal
        self.journal = Journal.create(self._fd, self._manifest.title_id, list(good.indexes()))
        before.close()

    def spare_ranges(self, chunk: int, start: int) -> Iterator[tuple[int, int, int]]:
        """Yield where the bytes of a bad chunk lie from byte `start` on: all in the spare."""
        with self._spare.pinned(0) as fd:
            yield fd, chunk * self._manifest.chunk_size + start, self._manifest.chunk_length(chunk) - start

    def put_aside(self, index: int, rest: Rest | None = None) -> None:
        """Make a lost file anew, aside and with all of its room; or one that is new here, of what `rest` has of it."""
        if rest is not None:
            rest.give_aside(index, self._fd)
        fresh = os.O_TRUNC if rest is None else 0
        fd = os.open(str(index), _ASIDE_FLAGS | os.O_CREAT | fresh, 0o644, dir_fd=self._fd)
        try:
            if size := self._manifest.files.size(index):
                os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)
        self.lost.add(index)

    def sync(self) -> None:
        """Have a power loss leave what was put aside: syncs of the files cover their bytes and not their entries."""
        os.fsync(self._fd)

    def open_aside(self, index: int, flags: int) -> int:
        """Open a lost file. Callable from any thread."""
        # Under the lock: once the directory is closed, its number may be that of another title's.
        with self._fd_lock:
            if self._fd < 0:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return os.open(str(index), (flags & ~os.O_CREAT) | FILE_FLAGS, dir_fd=self._fd)

    def restore(self, index: int, place: Callable[[int, str, str], None]) -> None:
        """Give a lost file that is whole back to viewers: `place(directory_fd, name, path)` renames it in."""
        fd = self.open_aside(index, os.O_RDONLY)
        try:
            show_file(fd, self._manifest.files.mtime(index), self._manifest.files.executable(index))
            os.fsync(fd)
        finally:
            os.close(fd)
        place(self._fd, str(index), self._manifest.files.path(index))
        self.lost.discard(index)

    def end(self) -> None:
        """Remove it: all chunks are good and all files at their places."""
        # In this order: without a journal what is left is rubbish, which the next one clears away.
        os.unlink(JOURNAL, dir_fd=self._fd)
        os.fsync(self._fd)
        self.close()
        with suppress(OSError):
            clear(self._directory_fd)

    def close(self) -> None:
        """Close all descriptors. May be called twice."""
        with self._fd_lock:
            if self._fd >= 0:
                self.journal.close()
                self._spare.close()
                os.close(self._fd)
                self._fd = -1


def clear(directory_fd: int) -> None:
    """Remove what a repair has left below a title's directory, if anything."""
    with suppress(FileNotFoundError):
        shutil.rmtree(MEND, dir_fd=directory_fd)
