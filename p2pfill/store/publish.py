"""Making a title out of a file or a directory tree, which stays as it is and where it is.

What is hashed must be what an origin will serve, so a file that changes meanwhile is an error and not a retry:
only a person can say when the tree is at rest.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from p2pfill.errors import StoreError
from p2pfill.model.files import Files
from p2pfill.model.manifest import BLAKE3_BYTES, XXH3_BYTES, Integrity, Manifest, default_chunk_size, layout
from p2pfill.store.disk import store_error
from p2pfill.store.hashing import Digests, Progress, hash_chunks


class PublishResult(NamedTuple):
    """`skipped` names what is no regular file, each with the reason."""

    manifest: Manifest
    skipped: list[str]


_STAMP: Final = struct.Struct("=QQqq")

Stamp = bytes
"""What tells whether a file is still the one that was seen: device, inode, size and time of the last change. Packed,
since one is kept for each file of the tree."""


def _stamp(status: os.stat_result) -> Stamp:
    return _STAMP.pack(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def size_of(stamp: Stamp) -> int:
    """Return the size in bytes of a file that has this stamp."""
    size: int = _STAMP.unpack(stamp)[2]
    return size


def scan(root: Path, manifest_path: str = "") -> tuple[dict[str, Stamp], list[str]]:
    """Return the regular files below `root` by their path there, and what was skipped. Raises `StoreError`.

    `manifest_path` is where the title's own manifest lies there, if it does; that is no file of the title.
    """
    found: dict[str, Stamp] = {}
    skipped: list[str] = []
    waiting = [("", str(root))]
    while waiting:
        prefix, directory = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if (path := prefix + entry.name) == manifest_path:
                        skipped.append(f"{path} (the title's own manifest)")
                    else:
                        _scan_entry(entry, path, found, skipped, waiting)
        except OSError as error:
            raise store_error(f"read {directory!r}", error) from error
    return found, sorted(skipped)


def _scan_entry(
    entry: os.DirEntry[str],
    path: str,
    found: dict[str, Stamp],
    skipped: list[str],
    waiting: list[tuple[str, str]],
) -> None:
    if entry.is_dir(follow_symlinks=False):
        waiting.append((path + "/", entry.path))
        return
    if entry.is_symlink():
        try:
            status = os.stat(entry.path)
        except OSError:
            skipped.append(f"{path} (broken link)")
            return
        if stat.S_ISDIR(status.st_mode):
            # Followed, it could lead out of the tree or in a circle.
            skipped.append(f"{path} (link to a directory)")
            return
    else:
        status = entry.stat()
    if stat.S_ISREG(status.st_mode):
        found[path] = _stamp(status)
    else:
        skipped.append(f"{path} (not a regular file)")


def _sources(path: Path, out: Path | None) -> tuple[Path, dict[str, Stamp], list[str]]:
    """Return the directory of the title, its files and what was skipped."""
    try:
        status = path.stat()
    except OSError as error:
        raise store_error(f"publish {str(path)!r}", error) from error
    if stat.S_ISDIR(status.st_mode):
        return path, *scan(path, _path_below(path, out) if out is not None else "")
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"cannot publish {str(path)!r}: it is neither a file nor a directory")
    if out is not None and out.exists() and path.samefile(out):
        raise StoreError(f"cannot publish {str(path)!r}: its manifest would be written over it; give it another name")
    return path.parent, {path.name: _stamp(status)}, []


def _path_below(root: Path, file: Path) -> str:
    """Return the path of a file below `root`, links on the way to it followed; empty where it is not there."""
    try:
        return (file.parent.resolve() / file.name).relative_to(root.resolve()).as_posix()
    except ValueError:
        return ""


def publish(
    path: Path,
    *,
    name: str,
    out: Path | None = None,
    chunk_size: int | None = None,
    integrity: Integrity = "blake3",
    progress: Progress | None = None,
    workers: int | None = None,
) -> PublishResult:
    """Hash a file or a directory tree and return its manifest. Links to regular files are followed.

    `out` is where the manifest is to be written: what lies there, as after an earlier publish, is no file of the title.
    `chunk_size` in bytes, by default from the size; `workers` threads, by default one a core. Raises `StoreError`
    where something cannot be read or changes meanwhile, and `ManifestError` where names or sizes are not allowed.
    """
    root, sources, skipped = _sources(path, out)
    if not sources:
        raise StoreError(f"cannot publish {str(path)!r}: there is no file in it")
    files = layout((title_path, size_of(stamp)) for title_path, stamp in sources.items())
    stamps = [sources.pop(entry.path) for entry in files]
    size = files.total_bytes
    chunk_size = default_chunk_size(size) if chunk_size is None else chunk_size
    # A chunk size of 0 is refused by the manifest; it must only not divide here.
    count = -(-size // max(chunk_size, 1))
    draft = Manifest(name, chunk_size, files, bytes(count * XXH3_BYTES), bytes(count * BLAKE3_BYTES), integrity)
    xxh3, blake3 = bytearray(draft.xxh3), bytearray(draft.blake3)

    def open_file(index: int) -> int:
        fd = os.open(f"{root}/{files.path(index)}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if _stamp(os.fstat(fd)) != stamps[index]:
            os.close(fd)
            raise StoreError("it changed while it was being published")
        return fd

    def found(chunk: int, result: Digests | StoreError) -> None:
        if isinstance(result, StoreError):
            raise result
        xxh3[chunk * XXH3_BYTES : (chunk + 1) * XXH3_BYTES] = result.xxh3
        blake3[chunk * BLAKE3_BYTES : (chunk + 1) * BLAKE3_BYTES] = result.blake3

    hash_chunks(draft, open_file, found, progress=progress, workers=workers)
    _check_unchanged(root, files, stamps)
    return PublishResult(replace(draft, xxh3=bytes(xxh3), blake3=bytes(blake3)), skipped)


def _check_unchanged(root: Path, files: Files, stamps: list[Stamp]) -> None:
    for index, stamp in enumerate(stamps):
        path = f"{root}/{files.path(index)}"
        try:
            unchanged = _stamp(os.stat(path)) == stamp
        except OSError:
            unchanged = False
        if not unchanged:
            raise StoreError(f"{path!r} changed while it was being published; publish again when it is at rest")
