"""Chunks of a title that another version of it on the same disk holds already.

A chunk is taken from there where its digests are equal in both manifests, or where it lies in files that have the same
path, size and time in both, as chunks do that another chunk size or another neighbour has cut otherwise. Nothing of
that is believed: a copy counts when its BLAKE3 is the title's, so a rotten version costs a fetch and nothing else.

Copies are made by the kernel where it can (copy_file_range), which on some file systems shares the blocks, else through
memory. Linking whole files was rejected: both versions would be one file, and one that rots, or is written to by
hand, would take the other with it.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Iterator
from typing import Final

from p2pfill.errors import StoreError
from p2pfill.model import limits
from p2pfill.model.files import Files
from p2pfill.model.manifest import Segment
from p2pfill.store.disk import read_into, store_error, write_all
from p2pfill.store.title import StoredTitle

COPY_BYTES: Final = limits.MIB
"""What goes through memory at once where the kernel does not copy."""

_NO_KERNEL_COPY: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM})
_DISK_REFUSES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""What a write says, not a read: the fill would meet it too."""


class Reuse:
    """The chunks that `title` lacks and that `version` seems to hold. Blocks while it is made, and in `copy`."""

    def __init__(self, title: StoredTitle, version: StoredTitle) -> None:
        self._title = title
        self._version = version
        new, old = title.manifest, version.manifest
        known = {old.chunk_xxh3(chunk): chunk for chunk in version.have.indexes()}
        self._equal: dict[int, int] = {}
        """Chunk -> the chunk there that has the same digests."""
        rest = []
        for chunk in title.wanted.indexes():
            if not title.have[chunk]:
                other = known.get(new.chunk_xxh3(chunk))
                if other is not None and old.chunk_blake3(other) == new.chunk_blake3(chunk):
                    self._equal[chunk] = other
                else:
                    rest.append(chunk)
        # Which of its files each file is; most titles have next to nothing that this is needed for.
        self._indexes = _same_files(new.files, old.files) if rest else array("i")
        held = (chunk for chunk in rest if all(self._indexes[part.file_index] >= 0 for part in new.segments(chunk)))
        self.chunks: Final = sorted([*self._equal, *held])
        """What is worth a try, in order."""

    def copy(self, chunk: int) -> bool:
        """Copy a chunk, check it and seal it; False where it is not what the title has. Blocks.

        Raises `StoreError` where the disk takes no more.
        """
        title = self._title
        # Nobody else writes to it meanwhile: nothing is asked for a chunk that is being copied.
        with title.write_lock(chunk):
            if title.is_sealed(chunk):
                return False
            try:
                _copy(self._source(chunk), title.ranges(chunk, write=True))
                if not title.check_blake3(chunk):
                    return False
            except OSError as error:
                if error.errno in _DISK_REFUSES:
                    raise store_error(f"write chunk {chunk} of title {title.manifest.name!r}", error) from error
                return False
            except StoreError:
                return False  # the version is being removed, or cannot be read
            title.seal(chunk)
        return True

    def _source(self, chunk: int) -> Iterator[tuple[int, int, int]]:
        if (other := self._equal.get(chunk)) is not None:
            return self._version.ranges(other)
        parts = self._title.manifest.segments(chunk)
        return self._version.file_ranges(
            Segment(self._indexes[part.file_index], part.offset, part.length) for part in parts
        )


def _same_files(files: Files, others: Files) -> array[int]:
    """Return for each of `files` which of `others` has the same path, size and time; -1 where none has."""
    found = array("i", [-1]) * len(files)
    rest = enumerate(others.records())
    number, other = next(rest, (-1, None))
    for index, record in enumerate(files.records()):
        while other is not None and other[0] < record[0]:
            number, other = next(rest, (-1, None))
        if other is None:
            break
        if other[:3] == record[:3]:
            found[index] = number
    return found


def _copy(source: Iterator[tuple[int, int, int]], target: Iterator[tuple[int, int, int]]) -> None:
    """Copy all bytes of `source` to `target`, which has as many. Raises `OSError`, and `StoreError` where one ends."""
    into, target_at, room = -1, 0, 0
    for fd, at, length in source:
        while length:
            if not room:
                into, target_at, room = next(target)
            count = _copy_some(fd, at, into, target_at, min(length, room))
            if not count:
                raise StoreError("a file is shorter than it was")
            at, length = at + count, length - count
            target_at, room = target_at + count, room - count


def _copy_some(fd: int, at: int, into: int, target_at: int, length: int) -> int:
    """Copy up to `length` bytes and return how many; 0 at the end of the file. Raises `OSError`."""
    try:
        return os.copy_file_range(fd, into, length, at, target_at)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
    view = memoryview(bytearray(min(length, COPY_BYTES)))
    count = read_into(fd, view, at)
    write_all(into, view[:count], target_at)
    return count
