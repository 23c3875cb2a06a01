"""The directories of a data directory, and what lies there that is nothing of the node's.

A file where a title's directory belongs, a directory or a fifo where a file of ours does: whoever has put it there, it
stops no start and no other title. What is in the way is moved to `aside`, and people are told; all else stays.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2pfill.errors import ConfigError
from p2pfill.model.ids import title_id_from_hex
from p2pfill.store.disk import (
    FILE_FLAGS,
    PROBES_OF_NAMES,
    clear_place,
    make_directory,
    move_away,
    translated,
    write_all,
)
from p2pfill.store.owner import KEEPS, PLACES

ASIDE: Final = "aside"
"""The directory of what was in the way."""
REVOKED_FILE: Final = "revoked.pem"
"""What the tracker has told of certificates that were taken back (`node.renewal`)."""
PROBE: Final = "probe"
"""A file in `filling` that comes and goes."""

_PROBE_BYTES: Final = 4096
"""One block: a disk that cannot take this is full."""
_PLACE_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Places:
    """`filling`, `titles` and `live` below `root`. Blocks; raises `OSError` unless it says otherwise."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.remarks: list[str] = []
        """What people should know; whoever tells them empties it."""

    def open_lock(self) -> int:
        """Return a descriptor of the file that is locked while a store is open, the caller's."""
        directory_fd = os.open(self._root, _PLACE_FLAGS)
        try:
            clear_place(directory_fd, "lock")
            # Not to be written: a file system on which nothing is can be made read-only for a while.
            return os.open("lock", os.O_RDONLY | os.O_CREAT | FILE_FLAGS, 0o644, dir_fd=directory_fd)
        finally:
            os.close(directory_fd)

    def make(self) -> None:
        """Make the directories, and clear what is in the way in them."""
        for name in (*PLACES, *KEEPS):
            # A link is an operator's: where it leads to nothing, a disk may not be mounted yet.
            self.clear(self._root / name, lambda mode: stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
            if name in PLACES:
                make_directory(self._root / name)
        self.clear(self._root / REVOKED_FILE, stat.S_ISREG)
        for place in ("titles", "filling"):
            for name in os.listdir(self._root / place):
                # What cannot be moved is in the way of one title, which says so when it is opened.
                with suppress(OSError):
                    self._clear_entry(self._root / place / name)

    def _clear_entry(self, path: Path) -> None:
        if path.name in (PROBE, *PROBES_OF_NAMES):
            self.clear(path, stat.S_ISREG)
        elif path.name.endswith(".link"):
            self.clear(path, stat.S_ISLNK)
        elif path.name.endswith(".gone"):
            # What cannot be deleted takes room and no more.
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        else:
            with suppress(ConfigError):
                title_id_from_hex(path.name)
                self.clear(path)

    def clear(self, path: Path, is_kind: Callable[[int], bool] = stat.S_ISDIR) -> None:
        """Move away what lies at a path and is not of the kind, as its mode tells, that belongs there."""
        with suppress(FileNotFoundError):
            if is_kind(path.lstat().st_mode):
                return
            aside = self._root / ASIDE
            make_directory(aside)
            directory_fd, aside_fd = os.open(path.parent, _PLACE_FLAGS), os.open(aside, _PLACE_FLAGS)
            try:
                name = move_away(directory_fd, path.name, aside_fd)
            finally:
                os.close(directory_fd)
                os.close(aside_fd)
            self.remarks.append(
                f"{str(path)!r} was in the way and is nothing of the node's; it is {str(aside / name)!r} now"
            )

    def probe(self) -> None:
        """Have the disk make a block durable, and forget it. Raises `StoreError` where it does not."""
        probe = self._root / "filling" / PROBE
        with translated(f"write to {str(self._root)!r}"):
            try:
                fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FILE_FLAGS, 0o644)
                try:
                    write_all(fd, b"\x01" * _PROBE_BYTES, 0)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            finally:
                with suppress(OSError):
                    probe.unlink()
