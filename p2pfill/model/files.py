"""The files of a title: their paths, and where they lie in its stream.

A title may have a million of them, and a cache keeps its titles open for as long as it runs. So paths are one run of
UTF-8 and offsets one array, which is 12 bytes a file beside the path itself, and entries are made when they are asked
for. A tuple of entries would take more, and the garbage collector would walk over all of it again and again: see
docs/experiments.md, "Memory".

A `Files` that exists is valid: it obeys `p2pfill.model.paths` and the limits, and its order is canonical.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

from p2pfill.errors import ManifestError
from p2pfill.model import limits
from p2pfill.model.paths import check_path, check_tree, show


class FileEntry(NamedTuple):
    """One file of a title; `size` and `offset` (of its first byte in the title stream) in bytes."""

    path: str
    size: int
    offset: int


class Files(Sequence[FileEntry]):
    """At least one (path, size), given in the order of the paths' UTF-8 bytes. Raises `ManifestError`."""

    __slots__ = ("_offsets", "_starts", "_text")

    def __init__(self, pairs: Iterable[tuple[str, int]]) -> None:
        paths: list[str] = []
        self._offsets = array("Q", [0])
        self._starts = array("I", [0])
        previous, offset, start = "", 0, 0
        for path, size in pairs:
            check_path(path)
            # Code point order equals the order of UTF-8 bytes for every text that UTF-8 can encode.
            if path <= previous:
                what = "is listed twice" if path == previous else f"is out of order: it follows {show(previous)}"
                raise ManifestError(f"path {show(path)} {what}")
            if not 0 <= size <= limits.TITLE_BYTES_MAX:
                raise ManifestError(f"file {show(path)} has the impossible size {size}")
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
            self._offsets.append(offset)
            self._starts.append(start)
        if not paths:
            raise ManifestError("a title without files is not possible")
        check_tree(paths, ())
        self._text = "".join(paths).encode()

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

    def find(self, position: int) -> int:
        """Return the index of the file that holds byte `position` of the title's stream."""
        # Empty files before it share its offset but come earlier, and the end of the stream is no file's start.
        return bisect_right(self._offsets, position, hi=len(self)) - 1

    def pairs(self) -> Iterator[tuple[str, int]]:
        """Yield all (path, size) in order."""
        for index in range(len(self)):
            yield self.path(index), self.size(index)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> FileEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FileEntry, ...]: ...
    def __getitem__(self, index: int | slice) -> FileEntry | tuple[FileEntry, ...]:
        if isinstance(index, slice):
            return tuple(self[k] for k in range(*index.indices(len(self))))
        # Also wraps negative indexes and refuses those outside, as of a tuple.
        index = range(len(self))[index]
        return FileEntry(self.path(index), self.size(index), self._offsets[index])

    def __iter__(self) -> Iterator[FileEntry]:
        for index in range(len(self)):
            yield FileEntry(self.path(index), self.size(index), self._offsets[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Files):
            return NotImplemented
        mine, theirs = (self._text, self._starts, self._offsets), (other._text, other._starts, other._offsets)
        return mine == theirs

    def __hash__(self) -> int:
        return hash((self._text, len(self)))

    def __repr__(self) -> str:
        return f"<Files: {len(self)} of {self.total_bytes} bytes>"
