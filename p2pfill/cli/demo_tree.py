"""The demo's title: files of uneven sizes that try everything that is hard about a tree.

One file of many chunks, a thousand smaller than a chunk, an empty one, names with spaces and letters beyond ASCII.
The bytes are BLAKE3's output stream keyed by the path, so the title has the same id on every machine, and none of them
compress or repeat.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from blake3 import blake3

from p2pfill.errors import StoreError
from p2pfill.model import limits

SMALL_FILES_MAX: Final = 1200
SMALL_BYTES_MAX: Final = 40_000
SMALL_SHARE: Final = 0.05
"""Of the title's bytes at most: small files are many, not much."""
MADE_AT: Final = 1_767_225_600
"""The time of all files, 2026-01-01 in UTC: a title's id goes by times, too."""
PIECE_BYTES: Final = 4 * limits.MIB
TREE_BYTES_MIN: Final = 64 * limits.KIB


class DemoFile(NamedTuple):
    """One file to make."""

    path: str
    size: int


def demo_files(size: int) -> Iterator[DemoFile]:
    """Yield files of together exactly `size` bytes (at least `TREE_BYTES_MIN`)."""
    left = size
    count = min(SMALL_FILES_MAX, int(size * SMALL_SHARE) // (SMALL_BYTES_MAX // 2))
    for index in range(count):
        seed = int.from_bytes(blake3(index.to_bytes(4, "big")).digest()[:4], "big")
        small = DemoFile(f"thumbnails/{index // 100:02}/{index:04}.jpg", 1 + seed % SMALL_BYTES_MAX)
        left -= small.size
        yield small
    yield DemoFile("film/.complete", 0)
    for path, share in (
        ("film/Große Überfahrt, 1080p.mp4", 0.21),
        ("audio/日本語 5.1.mka", 0.07),
        ("audio/Français (commentaire du réalisateur).mka", 0.031),
        ("subtitles/español, latinoamérica.srt", 0.0003),
    ):
        part = DemoFile(path, int(size * share) | 1)  # odd, so that no file begins where a chunk does
        left -= part.size
        yield part
    yield DemoFile("film/Große Überfahrt, 2160p.mp4", left)


def write_demo_tree(root: Path, size: int, progress: Callable[[int, int], None]) -> int:
    """Write the files below `root` and return how many. Calls `progress` with (bytes done, `size`).

    Raises `StoreError` where the disk refuses.
    """
    done = count = 0
    for file in demo_files(size):
        path = root / file.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                for offset in range(0, file.size, PIECE_BYTES):
                    length = min(PIECE_BYTES, file.size - offset)
                    out.write(blake3(file.path.encode()).digest(length=length, seek=offset))
                    done += length
                    progress(done, size)
            os.utime(path, (MADE_AT, MADE_AT))
        except OSError as error:
            raise StoreError(f"cannot write {str(path)!r}: {error.strerror}") from error
        count += 1
    return count
