"""What lies beside the files of a title of which only some are wanted.

    titles/<id>/rest/<number>   what chunks of wanted files hold of the file of that number, which is not wanted

Small files share chunks, and only whole chunks can be verified, served and checked again. So the bytes of others in
them are kept, where no viewer sees them: half a file under its name would be served as if it were the file. These files
are sparse. When their turn comes they are renamed to where they belong.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from p2pfill.store.disk import DIRECTORY_FLAGS, FILE_FLAGS, Tree

REST: Final = "rest"


class Rest:
    """The directory `rest` of one title, made when something is put there. Thread-safe; raises `OSError`."""

    def __init__(self, open_title: Callable[[], int]) -> None:
        """`open_title` returns a descriptor of the title's directory, the caller's."""
        self._open_title = open_title

    def open(self, index: int, flags: int) -> int:
        """Open what is kept of a file; with `os.O_CREAT` it is made where missing."""
        with self._directory(make=bool(flags & os.O_CREAT)) as fd:
            return os.open(str(index), flags | FILE_FLAGS, 0o600, dir_fd=fd)

    def size(self, index: int) -> int:
        """Return the length of what is kept of a file, -1 where nothing is."""
        with suppress(FileNotFoundError), self._directory() as fd:
            return os.stat(str(index), dir_fd=fd, follow_symlinks=False).st_size
        return -1

    def kept(self) -> list[int]:
        """Return the numbers of the files of which something is kept."""
        with suppress(FileNotFoundError), self._directory() as fd:
            return [int(name) for name in os.listdir(fd) if name.isdecimal()]
        return []

    def remove(self, index: int) -> None:
        """Delete what is kept of a file."""
        with self._directory() as fd:
            os.unlink(str(index), dir_fd=fd)

    def take(self, index: int, tree: Tree, path: str) -> None:
        """Move a file of `tree`, if it is there, out of the sight of viewers."""
        with self._directory(make=True) as fd, suppress(FileNotFoundError):
            tree.take(path, fd, str(index))

    def give(self, index: int, tree: Tree, path: str) -> None:
        """Move what is kept of a file, if anything, to its place in `tree`."""
        with suppress(FileNotFoundError), self._directory() as fd:
            tree.place(fd, str(index), path)

    def give_aside(self, index: int, directory_fd: int) -> None:
        """Move what is kept of a file, if anything, to the same name in another directory."""
        with suppress(FileNotFoundError), self._directory() as fd:
            os.rename(str(index), str(index), src_dir_fd=fd, dst_dir_fd=directory_fd)

    @contextmanager
    def _directory(self, *, make: bool = False) -> Iterator[int]:
        title_fd = self._open_title()
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(REST, 0o755, dir_fd=title_fd)
            fd = os.open(REST, DIRECTORY_FLAGS, dir_fd=title_fd)
        finally:
            os.close(title_fd)
        try:
            yield fd
        finally:
            os.close(fd)
