"""What the disk knows of the use of a title's files: who has one open, when one was read last, what they take.

A file that goes live has its time of publishing as the time of its last read too (`disk.show_file`), and p2pfill reads
without touching that (O_NOATIME): another one so is a viewer's. With the mount option `relatime`, the kernel's default,
the first read after that is noted at once, and later ones when a day has gone by; with `noatime` none is, and what else
is known of a title's use counts alone. See docs/experiments.md, "When a title was read last".
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from p2pfill.model.ids import TitleId
from p2pfill.store.disk import FILE_FLAGS


class TitleUse(NamedTuple):
    """The use of one title; times in seconds since the epoch."""

    title_id: TitleId
    used_at: float
    """The last use that is known: `read_at`, or what was noted on its directory."""
    read_at: float
    """When somebody else has read a file of it, 0 where that is not known."""
    size: int
    """Bytes that it takes on disk."""
    files: int = 0
    """How many of its files are meant, of which the others stay; 0: the whole title."""


def use_of(title_id: TitleId, directory: Path, *, live: bool) -> TitleUse:
    """Look at all files of a title. Raises `OSError`."""
    noted_at, read_at, blocks, now = directory.stat().st_mtime, 0.0, 0, time.time()
    files = str(directory / "files")
    for parent, _, names in os.walk(directory):
        is_shown = live and (parent == files or parent.startswith(f"{files}/"))
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except FileNotFoundError:
                continue
            blocks += status.st_blocks
            was_read = is_shown and status.st_atime_ns != status.st_mtime_ns
            # Later than now: the clock was wrong once, or whoever published it has set it so.
            if was_read and read_at < status.st_atime <= now:
                read_at = status.st_atime
    return TitleUse(title_id, max(noted_at, read_at), read_at, 512 * blocks)


def is_open(path: str) -> bool:
    """Tell whether somebody has a file open: only then the kernel refuses a lease for want of being alone."""
    try:
        fd = os.open(path, os.O_RDONLY | FILE_FLAGS)
    except OSError:
        return False
    try:
        # Who opens the file in this moment waits, and we are told so by a signal; SIGIO, the usual one, would end us.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no leases here, or the file is another user's
    finally:
        os.close(fd)
    return False
