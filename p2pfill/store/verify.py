"""Comparing a tree on disk with a manifest, byte for byte, without trusting anything that the store remembers."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from p2pfill.errors import StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.model.selection import chunks_of_selection, is_selected
from p2pfill.store.disk import on_disk
from p2pfill.store.hashing import Digests, Progress, hash_chunks
from p2pfill.store.publish import record_of, scan


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
    """What is wrong with a tree. `extra` files, and `altered` ones, are named but harm no byte of the title."""

    bad: list[BadChunk] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_size: list[WrongSize] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    """Files whose time, or execute bit, is not the title's: a web server gives them another ETag."""
    unchecked: int = 0
    """Chunks of the files looked for that hold bytes of others too, and so cannot be checked without those."""

    @property
    def ok(self) -> bool:
        """Tell whether the tree holds the title, whole and right."""
        return not (self.bad or self.missing or self.wrong_size)


def verify_tree(
    root: Path,
    manifest: Manifest,
    progress: Progress | None = None,
    workers: int | None = None,
    selection: Bitmap | None = None,
) -> VerifyReport:
    """Compare the tree below `root` with a manifest, both digests of every chunk. Changes nothing.

    Only the files in `selection` are looked for, all where it is None; others of the title are `extra`. Raises
    `StoreError` where `root` is not a directory that can be read.
    """
    if not root.is_dir():
        raise StoreError(f"cannot verify {str(root)!r}: it is not a directory")
    report = VerifyReport()
    present = scan(root)
    for index, record in enumerate(manifest.files.records()):
        if not is_selected(selection, index):
            continue
        path, size = record[:2]
        stamp = present.files.pop(path, None)
        if stamp is None:
            report.missing.append(path)
            continue
        actual = record_of(path, stamp)
        if actual[1] != size:
            report.wrong_size.append(WrongSize(path, size, actual[1]))
        elif actual != record:
            report.altered.append(path)
    directories = manifest.files.directories if selection is None else ()
    report.missing.extend(f"{path}/" for path in directories if not (root / on_disk(path)).is_dir())
    report.extra.extend(sorted(present.files))

    def open_file(index: int) -> int:
        fd = os.open(f"{root}/{on_disk(manifest.files.path(index))}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
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

    chunks = None
    if selection is not None:
        wanted = list(chunks_of_selection(manifest, selection).indexes())
        chunks = [c for c in wanted if all(selection[part.file_index] for part in manifest.segments(c))]
        report.unchecked = len(wanted) - len(chunks)
    hash_chunks(manifest, open_file, found, progress=progress, workers=workers, chunks=chunks)
    report.bad.sort()
    return report
