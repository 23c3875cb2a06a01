"""Comparing a tree on disk with a manifest, byte for byte, without trusting anything that the store remembers."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from p2pfill.errors import StoreError
from p2pfill.model.manifest import Manifest
from p2pfill.store.hashing import Digests, Progress, hash_chunks
from p2pfill.store.publish import scan, size_of


class BadChunk(NamedTuple):
    """A chunk whose bytes are not the title's; `files` are those that it touches."""

    chunk: int
    files: Sequence[str]
    reason: str


class WrongSize(NamedTuple):
    """A file of `actual` bytes where the title has `expected`."""

    path: str
    expected: int
    actual: int


@dataclass
class VerifyReport:
    """What is wrong with a tree. `extra` files are named but harm nothing: every byte of the title may be right."""

    bad: list[BadChunk] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_size: list[WrongSize] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Tell whether the tree holds the title, whole and right."""
        return not (self.bad or self.missing or self.wrong_size)


def verify_tree(
    root: Path, manifest: Manifest, progress: Progress | None = None, workers: int | None = None
) -> VerifyReport:
    """Compare the tree below `root` with a manifest, both digests of every chunk. Changes nothing.

    Raises `StoreError` where `root` is not a directory that can be read.
    """
    if not root.is_dir():
        raise StoreError(f"cannot verify {str(root)!r}: it is not a directory")
    report = VerifyReport()
    present, _ = scan(root)
    for entry in manifest.files:
        stamp = present.pop(entry.path, None)
        if stamp is None:
            report.missing.append(entry.path)
        elif size_of(stamp) != entry.size:
            report.wrong_size.append(WrongSize(entry.path, entry.size, size_of(stamp)))
    report.extra.extend(sorted(present))

    def open_file(index: int) -> int:
        fd = os.open(f"{root}/{manifest.files.path(index)}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise StoreError("not a regular file")
        return fd

    def found(chunk: int, result: Digests | StoreError) -> None:
        if isinstance(result, StoreError):
            reason = str(result)
        elif result != (manifest.chunk_xxh3(chunk), manifest.chunk_blake3(chunk)):
            reason = "its bytes have another digest than the title's"
        else:
            return
        files = tuple(manifest.files.path(segment.file_index) for segment in manifest.segments(chunk))
        report.bad.append(BadChunk(chunk, files, reason))

    hash_chunks(manifest, open_file, found, progress=progress, workers=workers)
    report.bad.sort()
    return report
