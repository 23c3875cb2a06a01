"""What is moved: one file that does not compress, and whether it came over as it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from p2pfill.bench.measure import BenchFailed

MIB: Final = 1 << 20
FILE: Final = "file"
"""The name of the file, in the source's directory and in whatever is made of it."""


class Source(NamedTuple):
    """A directory with one file."""

    directory: Path
    size: int
    xxh3: bytes

    @property
    def file(self) -> Path:
        """The file."""
        return self.directory / FILE

    def check(self, copy: Path, whose: str) -> None:
        """Compare a copy with the source, all of it. Raises `BenchFailed`."""
        try:
            size = copy.stat().st_size
        except OSError as error:
            raise BenchFailed(f"{whose} left no file {str(copy)!r}: {error.strerror}") from error
        if size != self.size:
            raise BenchFailed(f"{whose} fetched {size:,} bytes where the source has {self.size:,}")
        if _digest_of(copy) != self.xxh3:
            raise BenchFailed(f"{whose} fetched a file whose XXH3-128 is not that of the source: it is corrupt")


def make_source(directory: Path, mib: int) -> Source:
    """Write the file into a directory of its own; it stays in the page cache."""
    directory.mkdir()
    write_source(directory / FILE, mib)
    return Source(directory, mib * MIB, _digest_of(directory / FILE))


def write_source(path: Path, mib: int) -> None:
    """Write `mib` MiB that do not compress and in which no two MiB are alike."""
    noise = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(mib):
            file.write(number.to_bytes(8, "big") + noise[8:])


def _digest_of(path: Path) -> bytes:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.digest()
