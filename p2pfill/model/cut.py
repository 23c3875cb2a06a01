"""Where the chunks of a title lie in its stream.

A file of at least `chunk_size` bytes is a *piece* of the stream; the smaller files between two such files, in order,
are one piece together. Each piece is cut by itself, from its beginning: all of its chunks have `chunk_size` bytes, but
for the last, which has what is left. So a large file that did not change has the same chunks in every version of a
title, whatever has happened to the files before it, and small files share chunks.

One cut of the whole stream was rejected: a byte more in one file made new chunks of all that follows. Chunks of each
file, too: a hundred thousand small files would cost as many digests and requests.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

from p2pfill.model.files import Files


class Cut:
    """The chunks of `files`, at 16 bytes a piece. `count` is how many there are, 0 where all files are empty."""

    __slots__ = ("_chunk_size", "_firsts", "_starts", "count")

    def __init__(self, files: Files, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._starts = array("Q")
        """Where each piece begins in the stream, and where the stream ends."""
        end = 0
        for start, stop in files.large(chunk_size):
            if start > end:
                self._starts.append(end)
            self._starts.append(start)
            end = stop
        if files.total_bytes > end:
            self._starts.append(end)
        self._starts.append(files.total_bytes)
        self._firsts = array("Q", [0])
        """The first chunk of each piece, and how many chunks there are."""
        for length in self.pieces():
            self._firsts.append(self._firsts[-1] - -length // chunk_size)
        self.count = self._firsts[-1]

    def pieces(self) -> Iterator[int]:
        """Yield the length of each piece in bytes; none is empty."""
        return (stop - start for start, stop in pairwise(self._starts))

    def span(self, chunk: int) -> tuple[int, int]:
        """Return where a chunk begins and ends in the stream. Raises `IndexError` for one that is not there."""
        if not 0 <= chunk < self.count:
            raise IndexError(f"chunk {chunk} is outside of a title of {self.count} chunks")
        piece = bisect_right(self._firsts, chunk) - 1
        start = self._starts[piece] + (chunk - self._firsts[piece]) * self._chunk_size
        return start, min(start + self._chunk_size, self._starts[piece + 1])

    def length(self, chunk: int) -> int:
        """Return the length of a chunk in bytes. Raises `IndexError` for one that is not there."""
        if not 0 <= chunk < self.count:
            raise IndexError(f"chunk {chunk} is outside of a title of {self.count} chunks")
        piece = bisect_right(self._firsts, chunk)
        if chunk + 1 < self._firsts[piece]:
            return self._chunk_size
        return (self._starts[piece] - self._starts[piece - 1] - 1) % self._chunk_size + 1

    def chunks(self, start: int, stop: int) -> range:
        """Return the chunks that hold the bytes from `start` up to `stop` of the stream."""
        return range(self._at(start), self._at(stop - 1) + 1) if start < stop else range(0)

    def shared(self, files: Files) -> Iterator[tuple[int, int, int]]:
        """Yield in the order of chunks which of these files have bytes in them: from a file, up to another, how many
        chunks. For a large file it is all of its chunks, and for small ones one chunk. Empty files may be among them.
        """
        for place, start in enumerate(self._starts[:-1]):
            stop, count = self._starts[place + 1], self._firsts[place + 1] - self._firsts[place]
            index = files.find(start)
            if files.span(index)[1] == stop:
                yield index, index + 1, count
                continue
            for begin in range(start, stop, self._chunk_size):
                last = files.find(min(begin + self._chunk_size, stop) - 1)
                yield files.find(begin), last + 1, 1

    def _at(self, position: int) -> int:
        piece = bisect_right(self._starts, position) - 1
        return self._firsts[piece] + (position - self._starts[piece]) // self._chunk_size
