"""What lies beside the files of a title of which only some are wanted.

    titles/<id>/rest/<number>   what chunks of wanted files hold of the file of that number, which is not wanted

Small files share chunks, and only whole chunks can be verified, served and checked again. So the bytes of others in
them are kept, where no viewer sees them: half a file under its name would be served as if it were the file. These files
are sparse. When their turn comes they are renamed to where they belong.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from p2pfill.store.disk import DIRECTORY_FLAGS, FILE_FLAGS, Tree

REST: Final = "rest"


class Rest:
    """The directory `rest` of one title, made when something is put there. Thread-safe; raises `OSError`."""

    def __init__(self, directory_fd: int) -> None:
        """Lies below the title's directory, which stays the caller's."""
        self._directory_fd = directory_fd

    def open(self, index: int, flags: int) -> int:
        """Open what is kept of a file; with `os.O_CREAT` it is made where missing."""
        if flags & os.O_CREAT:
            self._make()
        return os.open(f"{REST}/{index}", flags | FILE_FLAGS, 0o600, dir_fd=self._directory_fd)

    def size(self, index: int) -> int:
        """Return the length of what is kept of a file, -1 where nothing is."""
        try:
            return os.stat(f"{REST}/{index}", dir_fd=self._directory_fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return -1

    def kept(self) -> list[int]:
        """Return the numbers of the files of which something is kept."""
        try:
            fd = os.open(REST, DIRECTORY_FLAGS, dir_fd=self._directory_fd)
        except FileNotFoundError:
            return []
        try:
            return [int(name) for name in os.listdir(fd) if name.isdecimal()]
        finally:
            os.close(fd)

    def remove(self, index: int) -> None:
        """Delete what is kept of a file."""
        os.unlink(f"{REST}/{index}", dir_fd=self._directory_fd)

    def take(self, index: int, tree: Tree, path: str) -> None:
        """Move a file of `tree`, if it is there, out of the sight of viewers."""
        self._make()
        fd = os.open(REST, DIRECTORY_FLAGS, dir_fd=self._directory_fd)
        try:
            with suppress(FileNotFoundError):
                tree.take(path, fd, str(index))
        finally:
            os.close(fd)

    def give(self, index: int, tree: Tree, path: str) -> None:
        """Move what is kept of a file, if anything, to its place in `tree`."""
        with suppress(FileNotFoundError):
            fd = os.open(REST, DIRECTORY_FLAGS, dir_fd=self._directory_fd)
            try:
                tree.place(fd, str(index), path)
            finally:
                os.close(fd)

    def give_aside(self, index: int, directory_fd: int) -> None:
        """Move what is kept of a file, if anything, to the same name in another directory."""
        with suppress(FileNotFoundError):
            os.rename(f"{REST}/{index}", str(index), src_dir_fd=self._directory_fd, dst_dir_fd=directory_fd)

    def _make(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(REST, 0o755, dir_fd=self._directory_fd)
