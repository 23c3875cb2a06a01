"""Putting a published tree into a bucket, so that it is an origin there.

What lies there already is left alone where its size is right and it is younger than the file here, as other tools for
such stores do: a run that was cut short is continued by the same command. Nothing there is deleted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import obstore
from obstore.exceptions import BaseError

from p2pfill.errors import StoreError, TransferError
from p2pfill.origin.buckets import describe, open_store
from p2pfill.origin.settings import OriginSettings
from p2pfill.origin.urls import bucket_base

if TYPE_CHECKING:
    from obstore.store import S3Store

    from p2pfill.model.files import FileEntry
    from p2pfill.model.manifest import Manifest

FILES_AT_ONCE: Final = 8
"""Files under way; each of the large ones is sent in parts besides."""

ATTEMPTS: Final = 5
"""Requests for one file, apart from those for its parts."""

PARTS_AT_ONCE: Final = 4
"""Of one file: each is a few MiB in memory."""


class Uploaded(NamedTuple):
    """What an upload has done."""

    sent_files: int
    sent_bytes: int
    kept_files: int
    """Files that were there already."""


def upload_title(
    manifest: Manifest, root: Path, url: str, progress: Callable[[int, int], object] = lambda done, of: None
) -> Uploaded:
    """Put the files of a title, which lie below `root`, into the bucket and prefix `url`.

    `progress` is told, from several threads, how many bytes are there of how many. Raises `ConfigError`,
    `TransferError` where the store does not take a file, and `StoreError` where one is not as it was published.
    """
    base = bucket_base(url)
    store = open_store(base, OriginSettings(), attempts_max=ATTEMPTS)
    entries, lock, done = iter(manifest.files), threading.Lock(), _Done()

    def work() -> None:
        while (entry := _next(entries, lock)) is not None:
            is_sent = _put(store, f"{base.partition('?')[0]}/{entry.path}", root / entry.path, entry)
            with lock:
                done.count(entry, is_sent=is_sent)
                progress(done.bytes, manifest.size)

    with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="upload") as pool:
        futures = [pool.submit(work) for _ in range(FILES_AT_ONCE)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            with lock:
                entries = iter(())  # the others end with what they are at
            raise
    return Uploaded(done.sent_files, done.sent_bytes, done.kept_files)


class _Done:
    def __init__(self) -> None:
        self.bytes = self.sent_files = self.sent_bytes = self.kept_files = 0

    def count(self, entry: FileEntry, *, is_sent: bool) -> None:
        self.bytes += entry.size
        self.sent_files += is_sent
        self.sent_bytes += entry.size if is_sent else 0
        self.kept_files += not is_sent


def _next(entries: Iterator[FileEntry], lock: threading.Lock) -> FileEntry | None:
    with lock:
        return next(entries, None)


def _put(store: S3Store, name: str, file: Path, entry: FileEntry) -> bool:
    """Put one file, and tell whether it was not there already."""
    try:
        status = file.stat()
    except OSError as error:
        raise StoreError(f"cannot upload {str(file)!r}: {error.strerror}; publish again when it is at rest") from error
    if status.st_size != entry.size:
        raise StoreError(f"{str(file)!r} changed since it was published; publish again when it is at rest")
    try:
        if _is_there(store, entry, status.st_mtime):
            return False
        obstore.put(store, entry.path, file if entry.size else b"", max_concurrency=PARTS_AT_ONCE)
    except (BaseError, OSError) as error:
        raise TransferError(f"cannot upload to {name}: {describe(error)}") from error
    return True


def _is_there(store: S3Store, entry: FileEntry, changed_at: float) -> bool:
    try:
        meta = obstore.head(store, entry.path)
    except FileNotFoundError:
        return False
    return meta["size"] == entry.size and meta["last_modified"].timestamp() > changed_at
