"""The files of a title: their paths, where they lie in its stream, and what a web server is to see of them.

A title may have a million of them, and a cache keeps its titles open for as long as it runs. So paths are one run of
UTF-8, and offsets, times and modes are arrays, which is 17 bytes a file beside the path itself, and entries are made
when they are asked for. A tuple of entries would take more, and the garbage collector would walk over all of it again
and again: see docs/experiments.md, "Memory".

A `Files` that exists is valid: it obeys `p2pfill.model.paths` and the limits, and its order is canonical.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import lt
from typing import Final, NamedTuple, overload

from p2pfill.errors import ManifestError
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.paths import check_path, check_tree, show

MTIME_MAX: Final = (1 << 32) - 1
"""In seconds since 1970, so the year 2106: four bytes a file. Every file system of today can hold it."""

FileRecord = tuple[str, int, int, bool]
"""Path, size in bytes, time of the last change in seconds since 1970, and whether it may be executed."""


class FileEntry(NamedTuple):
    """One file of a title; `size` and `offset` (of its first byte in the title stream) in bytes.

    `mtime` is when it was changed last, in whole seconds since 1970: what HTTP can say (Last-Modified), what nginx
    makes an ETag of, and what every way of copying a tree keeps. With nanoseconds a copy by tar would be another title.
    """

    path: str
    size: int
    offset: int
    mtime: int = 0
    executable: bool = False


class Files(Sequence[FileEntry]):
    """At least one file, given in the order of the paths' UTF-8 bytes, and the directories of the tree in which nothing
    lies, in the same order. Raises `ManifestError`."""

    __slots__ = ("_executable", "_mtimes", "_offsets", "_starts", "_text", "directories")

    def __init__(self, records: Iterable[FileRecord], directories: Iterable[str] = ()) -> None:
        paths: list[str] = []
        executable = bytearray()
        self._mtimes = array("I")
        self._offsets = array("Q", [0])
        self._starts = array("I", [0])
        previous, offset, start = "", 0, 0
        for path, size, mtime, may_run in records:
            check_path(path)
            # Code point order equals the order of UTF-8 bytes for every text that UTF-8 can encode.
            if path <= previous:
                raise _misplaced(path, previous)
            if not 0 <= size <= limits.TITLE_BYTES_MAX:
                raise ManifestError(f"file {show(path)} has the impossible size {size}")
            if not 0 <= mtime <= MTIME_MAX:
                raise ManifestError(f"file {show(path)} has the impossible time {mtime}")
            previous = path
            offset += size
            start += len(path) if path.isascii() else len(path.encode())
            if offset > limits.TITLE_BYTES_MAX:
                raise ManifestError(
                    f"a title of {offset} bytes is too large; at most {limits.TITLE_BYTES_MAX} are allowed"
                )
            if len(paths) == limits.FILE_COUNT_MAX:
                raise ManifestError(f"there are too many files; at most {limits.FILE_COUNT_MAX} are allowed")
            paths.append(path)
            executable.append(may_run)
            self._mtimes.append(mtime)
            self._offsets.append(offset)
            self._starts.append(start)
        if not paths:
            raise ManifestError("a title without files is not possible")
        self.directories: Final = _checked_directories(directories)
        """Those in which nothing lies. All others follow from the paths."""
        check_tree(paths, self.directories)
        self._text = "".join(paths).encode()
        self._executable = bytes(executable)

    @property
    def total_bytes(self) -> int:
        """The length of all files together."""
        return self._offsets[-1]

    def path(self, index: int) -> str:
        """Return the path of a file. `index` counts from 0."""
        return self._text[self._starts[index] : self._starts[index + 1]].decode()

    def span(self, index: int) -> tuple[int, int]:
        """Return where a file begins and ends in the title's stream."""
        return self._offsets[index], self._offsets[index + 1]

    def size(self, index: int) -> int:
        """Return the length of a file in bytes."""
        return self._offsets[index + 1] - self._offsets[index]

    def mtime(self, index: int) -> int:
        """Return when a file was changed last, in seconds since 1970."""
        return self._mtimes[index]

    def executable(self, index: int) -> bool:
        """Tell whether a file may be executed."""
        return bool(self._executable[index])

    def find(self, position: int) -> int:
        """Return the index of the file that holds byte `position` of the title's stream."""
        # Empty files before it share its offset but come earlier, and the end of the stream is no file's start.
        return bisect_right(self._offsets, position, hi=len(self)) - 1

    def records(self) -> Iterator[FileRecord]:
        """Yield what makes these files, in order."""
        spans = zip(pairwise(self._starts), pairwise(self._offsets), self._mtimes, self._executable, strict=True)
        for (start, end), (first, last), mtime, executable in spans:
            yield self._text[start:end].decode(), last - first, mtime, executable == 1

    def large(self, size_min: int) -> Iterator[tuple[int, int]]:
        """Yield where each file of at least `size_min` bytes begins and ends in the title's stream."""
        return ((first, last) for first, last in pairwise(self._offsets) if last - first >= size_min)

    def filled(self) -> Bitmap:
        """Return a bit for each file, set where it is not empty."""
        return Bitmap.from_flags(bytes(map(lt, self._offsets, self._offsets[1:])))

    def __len__(self) -> int:
        return len(self._mtimes)

    @overload
    def __getitem__(self, index: int) -> FileEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FileEntry, ...]: ...
    def __getitem__(self, index: int | slice) -> FileEntry | tuple[FileEntry, ...]:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        # Also wraps negative indexes and refuses those outside, as of a tuple.
        index = range(len(self))[index]
        return FileEntry(
            self.path(index), self.size(index), self._offsets[index], self.mtime(index), self.executable(index)
        )

    def __iter__(self) -> Iterator[FileEntry]:
        for offset, (path, size, mtime, executable) in zip(self._offsets, self.records(), strict=False):
            yield FileEntry(path, size, offset, mtime, executable)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Files):
            return NotImplemented
        return self._all() == other._all()

    def __hash__(self) -> int:
        return hash((self._text, len(self)))

    def __repr__(self) -> str:
        return f"<Files: {len(self)} of {self.total_bytes} bytes>"

    def _all(self) -> tuple[object, ...]:
        return self._text, self._starts, self._offsets, self._mtimes, self._executable, self.directories


def _checked_directories(directories: Iterable[str]) -> tuple[str, ...]:
    found: list[str] = []
    previous = ""
    for path in directories:
        check_path(path)
        if path <= previous:
            raise _misplaced(path, previous)
        if len(found) == limits.EMPTY_DIRECTORY_COUNT_MAX:
            raise ManifestError(
                f"there are too many empty directories; at most {limits.EMPTY_DIRECTORY_COUNT_MAX} are allowed"
            )
        previous = path
        found.append(path)
    return tuple(found)


def _misplaced(path: str, previous: str) -> ManifestError:
    what = "is listed twice" if path == previous else f"is out of order: it follows {show(previous)}"
    return ManifestError(f"path {show(path)} {what}")
