"""Reading a title anew, as a web server would find it now: by its paths, through no descriptor of before.

What lies in the page cache already is read there, since that is what viewers get, and stays; what has to come from the
disk is dropped again, so a look at everything pushes nothing out that is in use. Reading past the page cache (O_DIRECT)
was rejected: not every file system has it, and it makes the disk read what viewers have just read.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from types import TracebackType
from typing import Final

from blake3 import blake3

from p2pfill.model.selection import chunks_of_file, is_selected
from p2pfill.store.disk import FileCache, Tree, read_into, store_error, translated
from p2pfill.store.title import READ_BYTES, StoredTitle, preallocated

_OPEN_FILES_MAX: Final = 4
"""Files follow each other; a large one is kept for its next chunk."""

_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR})
"""What opening a file answers that is not there, or is something else."""

_BAD_DISK: Final = frozenset({errno.EIO, errno.ENODATA, errno.EUCLEAN})
"""What reading a bad place of a disk answers."""


class FreshLook:
    """One look at a title's files. Used by one thread at a time; raises `StoreError` where the disk refuses to say."""

    def __init__(self, stored: StoredTitle) -> None:
        self._stored = stored
        self._manifest = stored.manifest
        self._tree: Tree | None = None
        self._buffer = memoryview(bytearray(READ_BYTES))
        self.altered: list[str] = []
        """Files and directories that had lost their time or mode when `show_again` looked, and have them again."""
        try:
            self._tree = Tree(stored.open_files())
        except OSError as error:
            if error.errno not in _GONE:
                raise store_error(f"look at title {self._manifest.name!r}", error) from error
        self._files = FileCache(self._open, _OPEN_FILES_MAX)

    def __enter__(self) -> FreshLook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        self._files.close()
        if self._tree is not None:
            self._tree.close()

    def show_again(self) -> None:
        """Give files and directories of a live title the times and modes back that they have lost: no byte is needed.

        What belongs to another user is left as it is, and what is absent to `lost_files`.
        """
        stored, tree = self._stored, self._tree
        if tree is None or not stored.live:
            return
        with translated(f"give the files of title {self._manifest.name!r} their times and modes back"):
            for path in stored.directories():
                with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    if tree.show_directory_again(path):
                        self.altered.append(f"{path}/")
            known = stored.lost_files
            for index, (path, _, mtime, executable) in enumerate(self._manifest.files.records()):
                if index in known or not is_selected(stored.selection, index):
                    continue
                try:
                    if tree.show_again(path, mtime, executable):
                        self.altered.append(path)
                except PermissionError:
                    continue
                except OSError as error:
                    if error.errno not in _GONE:
                        raise

    def lost_files(self) -> list[int]:
        """Return the numbers of the files that are absent, of another size, or no plain files.

        Without those of which is known that they are lost, and, while a title fills, those that are yet to be written.
        """
        known, selection = self._stored.lost_files, self._stored.selection
        wanted = range(len(self._manifest.files)) if selection is None else selection.indexes()
        return [index for index in wanted if index not in known and self._is_lost(index)]

    def _is_lost(self, index: int) -> bool:
        files, have = self._manifest.files, self._stored.have
        size = files.size(index)
        if not self._stored.live:
            if not any(have[chunk] for chunk in chunks_of_file(self._manifest, index)):
                return False
            if not preallocated(size):
                return self._size(index) < 0  # it grows as it is written
        return self._size(index) != size

    def _size(self, index: int) -> int:
        """Return the size of a file, -1 where there is no plain one."""
        if self._tree is None:
            return -1
        try:
            fd = self._tree.open(self._manifest.files.path(index), os.O_RDONLY)
        except OSError as error:
            if error.errno in _GONE:
                return -1
            raise store_error(f"look at title {self._manifest.name!r}", error) from error
        try:
            status = os.fstat(fd)
            return status.st_size if stat.S_ISREG(status.st_mode) else -1
        finally:
            os.close(fd)

    def is_good(self, chunk: int) -> bool:
        """Tell whether a chunk's bytes are there and have its BLAKE3; so is one of files that are being made again."""
        known = self._stored.lost_files
        if known and any(part.file_index in known for part in self._manifest.segments(chunk)):
            return True  # it was read back from the disk when it came, and its file is not at its place yet
        hasher = blake3()
        try:
            for index, offset, length in self._manifest.segments(chunk):
                with self._files.pinned(index) as fd:
                    while length:
                        part = self._buffer[: min(length, READ_BYTES)]
                        if _read(fd, part, offset) != len(part):
                            return False
                        hasher.update(part)
                        offset += len(part)
                        length -= len(part)
        except OSError as error:
            if error.errno in _GONE or error.errno in _BAD_DISK:
                return False
            raise store_error(f"read chunk {chunk} of title {self._manifest.name!r}", error) from error
        return hasher.digest() == self._manifest.chunk_blake3(chunk)

    def _open(self, index: int) -> int:
        if self._tree is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not is_selected(self._stored.selection, index):
            return self._stored.open_rest(index)
        fd = self._tree.open(self._manifest.files.path(index), os.O_RDONLY)
        with suppress(OSError):
            # Reading ahead would leave pages of the next chunk, which then look as if somebody used them.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return fd


def _read(fd: int, view: memoryview, offset: int) -> int:
    """Fill `view` and return the bytes read; what had to come from the disk leaves the page cache again."""
    try:
        if os.preadv(fd, [view], offset, os.RWF_NOWAIT) == len(view):
            return len(view)
    except OSError:
        pass  # not in memory, or a file system that cannot tell
    got = read_into(fd, view, offset)
    with suppress(OSError):
        os.posix_fadvise(fd, offset, len(view), os.POSIX_FADV_DONTNEED)
    return got


def missing_files(stored: StoredTitle) -> list[int]:
    """Return the numbers of the files of a live title that are absent, or of another size, by a stat of each.

    Those are left out of which that is known. Opens no file, and so costs a few seconds for a million.
    """
    files, known, lost = stored.manifest.files, stored.lost_files, []
    doing = f"look at title {stored.manifest.name!r}"
    try:
        tree = Tree(stored.open_files())
    except OSError as error:
        if error.errno in _GONE:
            return [index for index in range(len(files)) if is_selected(stored.selection, index)]
        raise store_error(doing, error) from error
    with tree:
        for index, record in enumerate(files.records()):
            if index in known or not is_selected(stored.selection, index):
                continue
            try:
                if tree.size(record[0]) != record[1]:
                    lost.append(index)
            except OSError as error:
                if error.errno not in _GONE:
                    raise store_error(doing, error) from error
                lost.append(index)
    return lost


def examine(stored: StoredTitle, chunks: list[int]) -> tuple[list[int], list[int]]:
    """Return which of some chunks are bad, those of lost files left out, and the numbers of the lost files."""
    with FreshLook(stored) as look:
        try:
            lost = look.lost_files()
            gone = {chunk for index in lost for chunk in chunks_of_file(stored.manifest, index)}
            return [chunk for chunk in chunks if chunk not in gone and not look.is_good(chunk)], lost
        except OSError as error:  # of a descriptor that could not be had
            raise store_error(f"look at title {stored.manifest.name!r}", error) from error


def bad_chunks(stored: StoredTitle, chunks: list[int]) -> list[int]:
    """Return which of some chunks are not what they should be."""
    with FreshLook(stored) as look:
        try:
            return [chunk for chunk in chunks if not look.is_good(chunk)]
        except OSError as error:  # of a descriptor that could not be had
            raise store_error(f"look at title {stored.manifest.name!r}", error) from error
