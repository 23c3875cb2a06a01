"""What lies on disk of a fill beyond what its journal vouches for, after the journal was damaged.

    filling/<id>/salvage    the journal of this fill was cut or made anew: chunks that it lacks may be here all the same

Whether they are, their digests say: a chunk that holds is kept instead of fetched. It is read from the disk and not
from memory, since a page that the disk has refused to write may still look right there. What was never written is told
by holes, which cost no read; a file system that knows of none has all of it read once.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import Final

from p2pfill.errors import StoreError
from p2pfill.store.disk import FILE_FLAGS
from p2pfill.store.title import SALVAGE, StoredTitle


def note_salvage(directory_fd: int) -> None:
    """Keep that the journal of a fill says less than what may be here, before it does. Raises `OSError`."""
    os.close(os.open(SALVAGE, os.O_WRONLY | os.O_CREAT | FILE_FLAGS, 0o644, dir_fd=directory_fd))
    os.fsync(directory_fd)


def has_salvage(directory_fd: int) -> bool:
    """Tell whether that was kept. Raises `OSError`."""
    try:
        os.stat(SALVAGE, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


class Salvage:
    """Chunks of a fill that may be here. Stands in the place of `reuse.Reuse`; blocks while it is made, and in `copy`.

    Raises `StoreError`.
    """

    def __init__(self, title: StoredTitle) -> None:
        self._title = title
        self.chunks: Final = [
            chunk for chunk in title.wanted.indexes() if not title.have[chunk] and self._may_be_here(chunk)
        ]
        """What is worth a look, in order."""

    def _may_be_here(self, chunk: int) -> bool:
        """Tell whether something was written where a chunk begins and where it ends."""
        try:
            for fd, offset, length in self._title.existing_ranges(chunk):
                for at in {offset, offset + length - 1}:
                    if os.lseek(fd, at, os.SEEK_DATA) != at:
                        return False
        except OSError as error:
            return error.errno == errno.EINVAL  # a file system that knows of no holes
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return True

    def copy(self, chunk: int) -> bool:
        """Seal a chunk where its digests hold on the disk; False where they do not."""
        title = self._title
        with title.write_lock(chunk):
            if title.is_sealed(chunk):
                return False
            with suppress(OSError):
                for fd, offset, length in title.existing_ranges(chunk):
                    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
            try:
                if not title.check_blake3(chunk):
                    return False
            except StoreError:
                return False  # it cannot be read: what is fetched in its place may be written elsewhere
            title.seal(chunk)
        return True
