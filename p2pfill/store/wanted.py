"""Which files of a title are to be here, as it stands beside them on disk.

    titles/<id>/selection   a bit a file, where some of the title's files were ever wanted; see `rest` for the others
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import Final, NamedTuple

from p2pfill.errors import ManifestError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.model.selection import as_selection, chunks_of_selection, decode_selection, encode_selection
from p2pfill.store.disk import DIRECTORY_FLAGS, FILE_FLAGS, Tree, read_into, replace_file
from p2pfill.store.rest import REST

_UNREADABLE: Final = frozenset({errno.EIO, errno.ENODATA, errno.EUCLEAN})
"""What reading a bad place of a disk answers."""

SELECTION: Final = "selection"
"""The file that says which files of the title are to be here, a bit a file; absent, where `rest` is too: all."""


class Wanted(NamedTuple):
    """Which files of a title are to be here, and what follows from that."""

    selection: Bitmap | None
    """None: all."""
    chunks: Bitmap | None
    """Those of its files; None: all."""
    size: int
    """How long the chunks are together."""


def wanted_of(manifest: Manifest, selection: Bitmap | None, chunks: Bitmap | None = None) -> Wanted:
    """Return what follows from a selection, of which `chunks` may be known; a second for a million files."""
    if selection is None:
        return Wanted(None, None, manifest.size)
    chunks = chunks_of_selection(manifest, selection) if chunks is None else chunks
    return Wanted(selection, chunks, sum(map(manifest.chunk_length, chunks.indexes())))


def keep_selection(directory_fd: int, manifest: Manifest, selection: Bitmap | None) -> None:
    """Write which files of a title are to be here. Raises `OSError`."""
    # Also of all files it has bits: one that is empty, or missing beside a `rest`, somebody has damaged.
    with suppress(FileExistsError):
        os.mkdir(REST, 0o755, dir_fd=directory_fd)
    chosen = Bitmap.full(len(manifest.files)) if selection is None else selection
    replace_file(directory_fd, SELECTION, encode_selection(chosen))


def read_selection(directory_fd: int, manifest: Manifest) -> tuple[Bitmap | None, str]:
    """Return which files of a title on disk are wanted, None: all, and what is wrong with the file that says so.

    Then nothing is returned that may be relied on. Raises `OSError`.
    """
    try:
        fd = os.open(SELECTION, os.O_RDONLY | FILE_FLAGS, dir_fd=directory_fd)
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            os.stat(REST, dir_fd=directory_fd, follow_symlinks=False)
            return None, "is missing"
        return None, ""
    except OSError as error:
        if error.errno in _UNREADABLE:
            return None, "cannot be read"
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        return None, "is no plain file"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None, "is no plain file"
        data = bytearray((len(manifest.files) >> 3) + 2)
        count = read_into(fd, memoryview(data), 0)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return None, "cannot be read"
    finally:
        os.close(fd)
    with suppress(ManifestError):
        if count:
            return decode_selection(bytes(data[:count]), len(manifest.files)), ""
    return None, "is damaged"


def found_selection(directory_fd: int, manifest: Manifest, *, live: bool) -> Bitmap | None:
    """Return the files of a title that lie where viewers look, of a live one those of their whole size.

    Those and no others were wanted. What is wanted besides, an order says; to take all for wanted would have a cache
    promise, and fetch, what it never had. Raises `OSError`.
    """
    files, found = manifest.files, Bitmap(len(manifest.files))
    with suppress(FileNotFoundError), Tree(os.open("files", DIRECTORY_FLAGS, dir_fd=directory_fd)) as tree:
        for index in range(len(files)):
            with suppress(OSError):  # something else is in its place
                size = tree.size(files.path(index))
                if size == files.size(index) or (size >= 0 and not live):
                    found.add(index)
    return as_selection(found)
