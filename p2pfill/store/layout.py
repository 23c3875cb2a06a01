"""The files of a title that is filled: made before the first byte, and looked at when the fill is taken up again."""

from __future__ import annotations

import os
from collections.abc import Iterable

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.files import FileEntry
from p2pfill.model.manifest import Manifest
from p2pfill.model.selection import is_selected
from p2pfill.store.disk import Tree
from p2pfill.store.rest import Rest
from p2pfill.store.title import preallocated


def lost_files(tree: Tree, rest: Rest, manifest: Manifest, have: Bitmap, selection: Bitmap | None) -> list[int]:
    """Return the files that cannot hold what the durable chunks in `have` put there. Raises `OSError`."""
    files, lost = manifest.files, []
    for index in range(len(files)):
        start, end = files.span(index)
        is_wanted = is_selected(selection, index)
        # A file that is made by its first write may be absent, or of any length, until then.
        is_made = is_wanted and preallocated(end - start)
        least = end - start if is_made else _least_bytes(start, end, manifest, have)
        if least:
            size = tree.size(files.path(index)) if is_wanted else rest.size(index)
            if not least <= size <= end - start:
                lost.append(index)
    return lost


def _least_bytes(start: int, end: int, manifest: Manifest, have: Bitmap) -> int:
    """Return how long the file at `start` to `end` of the stream is at least, if the chunks in `have` were written."""
    for chunk in reversed(manifest.cut.chunks(start, end)):
        if have[chunk]:
            return min(manifest.cut.span(chunk)[1], end) - start
    return 0


def allocate_files(tree: Tree, entries: Iterable[FileEntry]) -> None:
    """Make these files anew, the larger ones with all of their space. Raises `OSError`."""
    for entry in entries:
        fd = tree.open(entry.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            if preallocated(entry.size):
                os.posix_fallocate(fd, 0, entry.size)
        finally:
            os.close(fd)
