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
from p2pfill.model import limits
from p2pfill.model.cut import Cut
from p2pfill.model.files import MTIME_MAX, FileRecord, Files
from p2pfill.model.manifest import BLAKE3_BYTES, XXH3_BYTES, Integrity, Manifest, check_chunk_size, default_chunk_size
from p2pfill.store.disk import from_disk, on_disk, store_error
from p2pfill.store.hashing import Digests, Progress, hash_chunks


class PublishResult(NamedTuple):
    """`skipped` names what is no regular file, each with the reason."""

    manifest: Manifest
    skipped: list[str]


_STAMP: Final = struct.Struct("=QQqqI")

Stamp = bytes
"""What tells whether a file is still the one that was seen: device, inode, size, time of the last change, mode. Packed,
since one is kept for each file of the tree."""


def _stamp(status: os.stat_result) -> Stamp:
    return _STAMP.pack(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)


def record_of(path: str, stamp: Stamp) -> FileRecord:
    """Return what a manifest says of the file at `path` that has this stamp. A time beyond its range is the nearest."""
    _, _, size, mtime_ns, mode = _STAMP.unpack(stamp)
    return path, size, min(max(mtime_ns // 1_000_000_000, 0), MTIME_MAX), bool(mode & stat.S_IXUSR)


class Scan(NamedTuple):
    """What was found below a directory. Paths are as a manifest has them, UTF-8 whatever the locale says."""

    files: dict[str, Stamp]
    """The regular files, and those to which a link leads."""
    empty: list[str]
    """The directories in which none of these lies, nor another directory."""
    skipped: list[str]
    """What is of another kind, with the reason."""


def scan(root: Path, manifest_path: str = "") -> Scan:
    """Return what is below `root`. Raises `StoreError`.

    `manifest_path` is where the title's own manifest lies there, if it does; that is no file of the title.
    """
    found = Scan({}, [], [])
    waiting = [("", str(root))]
    while waiting:
        prefix, directory = waiting.pop()
        before = len(found.files) + len(waiting)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    # What is no UTF-8 is kept as it is: the manifest refuses it and names it.
                    path = prefix + from_disk(entry.name)
                    if path == manifest_path:
                        found.skipped.append(f"{path} (the title's own manifest)")
                    else:
                        _scan_entry(entry, path, found, waiting)
        except OSError as error:
            raise store_error(f"read {directory!r}", error) from error
        if prefix and len(found.files) + len(waiting) == before:
            found.empty.append(prefix[:-1])
    found.empty.sort()
    found.skipped.sort()
    return found


def _scan_entry(entry: os.DirEntry[str], path: str, found: Scan, waiting: list[tuple[str, str]]) -> None:
    if entry.is_dir(follow_symlinks=False):
        waiting.append((path + "/", entry.path))
        return
    if entry.is_symlink():
        try:
            status = os.stat(entry.path)
        except OSError:
            found.skipped.append(f"{path} (broken link)")
            return
        if stat.S_ISDIR(status.st_mode):
            # Followed, it could lead out of the tree or in a circle.
            found.skipped.append(f"{path} (link to a directory)")
            return
    else:
        status = entry.stat()
    if stat.S_ISREG(status.st_mode):
        found.files[path] = _stamp(status)
    else:
        found.skipped.append(f"{path} (not a regular file)")


def _sources(path: Path, out: Path | None) -> tuple[Path, Scan]:
    """Return the directory of the title and what is in it."""
    try:
        status = path.stat()
    except OSError as error:
        raise store_error(f"publish {str(path)!r}", error) from error
    if stat.S_ISDIR(status.st_mode):
        return path, scan(path, _path_below(path, out) if out is not None else "")
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"cannot publish {str(path)!r}: it is neither a file nor a directory")
    if out is not None and out.exists() and path.samefile(out):
        raise StoreError(f"cannot publish {str(path)!r}: its manifest would be written over it; give it another name")
    return path.parent, Scan({from_disk(path.name): _stamp(status)}, [], [])


def _path_below(root: Path, file: Path) -> str:
    """Return the path of a file below `root`, links on the way to it followed; empty where it is not there."""
    try:
        below = (file.parent.resolve() / file.name).relative_to(root.resolve())
        return from_disk(str(below))
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
    root, found = _sources(path, out)
    if not found.files:
        raise StoreError(f"cannot publish {str(path)!r}: there is no file in it")
    paths = sorted(found.files)
    files = Files((record_of(path, found.files[path]) for path in paths), found.empty)
    stamps = [found.files.pop(path) for path in paths]
    del paths
    if chunk_size is None:
        chunk_size = default_chunk_size(files.total_bytes)
        while Cut(files, chunk_size).count > limits.CHUNK_COUNT_MAX and chunk_size < limits.CHUNK_SIZE_MAX:
            chunk_size *= 2
    check_chunk_size(chunk_size)
    count = Cut(files, chunk_size).count
    draft = Manifest(name, chunk_size, files, bytes(count * XXH3_BYTES), bytes(count * BLAKE3_BYTES), integrity)
    xxh3, blake3 = bytearray(draft.xxh3), bytearray(draft.blake3)

    def open_file(index: int) -> int:
        fd = os.open(f"{root}/{on_disk(files.path(index))}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if _stamp(os.fstat(fd)) != stamps[index]:
            os.close(fd)
            raise StoreError("it changed while it was being published")
        return fd

    def take(chunk: int, result: Digests | StoreError) -> None:
        if isinstance(result, StoreError):
            raise result
        xxh3[chunk * XXH3_BYTES : (chunk + 1) * XXH3_BYTES] = result.xxh3
        blake3[chunk * BLAKE3_BYTES : (chunk + 1) * BLAKE3_BYTES] = result.blake3

    hash_chunks(draft, open_file, take, progress=progress, workers=workers)
    _check_unchanged(root, files, stamps)
    return PublishResult(replace(draft, xxh3=bytes(xxh3), blake3=bytes(blake3)), found.skipped)


def _check_unchanged(root: Path, files: Files, stamps: list[Stamp]) -> None:
    for index, stamp in enumerate(stamps):
        path = f"{root}/{on_disk(files.path(index))}"
        try:
            unchanged = _stamp(os.stat(path)) == stamp
        except OSError:
            unchanged = False
        if not unchanged:
            raise StoreError(f"{path!r} changed while it was being published; publish again when it is at rest")
