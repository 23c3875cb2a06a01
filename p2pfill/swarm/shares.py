"""Chunks shared out among caches, each to one of them at most, and how many of any chunks are whose. Pure.

An ISP of a hundred caches is looked at by each of them several times a second: what is left of all their shares is
counted in one pass over the chunks, where a bitmap for each cache would take a hundred.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import compress

from p2pfill.hot import bits
from p2pfill.model.bitmap import Bitmap


class Shares:
    """Who is to fetch which of `chunk_count` chunks. Of a chunk in several shares the last one counts."""

    __slots__ = ("_names", "_owners")

    def __init__(self, chunk_count: int, shares: Mapping[str, Bitmap]) -> None:
        self._names = tuple(shares)
        self._owners = array("H", [bits.NOBODY]) * chunk_count
        for index, share in enumerate(shares.values()):
            for chunk in share.indexes() if share.any() else ():
                self._owners[chunk] = index

    def owner(self, chunk: int) -> str | None:
        """Return in whose share a chunk is."""
        owner = self._owners[chunk]
        return None if owner == bits.NOBODY else self._names[owner]

    def count(self, chunks: Bitmap) -> dict[str, int]:
        """Return how many of `chunks` are in each cache's share. Raises `ValueError` for another title's chunks."""
        return dict(zip(self._names, bits.count_owned(chunks.buffer, self._owners, len(self._names)), strict=True))

    def count_some(self, chunks: Bitmap) -> dict[str, int]:
        """Return as `count` does, without those of whose share it is none: of hundreds of caches few have any."""
        counts = bits.count_owned(chunks.buffer, self._owners, len(self._names))
        return dict(zip(compress(self._names, counts), filter(None, counts), strict=True))
