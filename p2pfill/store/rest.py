"""What lies beside the files of a title of which only some are wanted.

    titles/<id>/rest/<number>   what chunks of wanted files hold of the file of that number, which is not wanted

What lies in the place of one of these files and is no plain file, somebody else has put there: it counts as nothing,
and goes before something is put there, but for a directory, which may hold what somebody misses.

Small files share chunks, and only whole chunks can be verified, served and checked again. So the bytes of others in
them are kept, where no viewer sees them: half a file under its name would be served as if it were the file. These files
are sparse. When their turn comes they are renamed to where they belong.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from p2pfill.errors import StoreError
from p2pfill.store.disk import DIRECTORY_FLAGS, FILE_FLAGS, Tree

REST: Final = "rest"


class Rest:
    """The directory `rest` of one title, made when something is put there. Thread-safe; raises `OSError`."""

    def __init__(self, open_title: Callable[[], int]) -> None:
        """`open_title` returns a descriptor of the title's directory, the caller's."""
        self._open_title = open_title

    def open(self, index: int, flags: int) -> int:
        """Open what is kept of a file; with `os.O_CREAT` it is made where missing."""
        makes = bool(flags & os.O_CREAT)
        with self._directory(make=makes) as fd:
            if makes:
                _clear(fd, index)
            file_fd = os.open(str(index), flags | FILE_FLAGS, 0o600, dir_fd=fd)
        if not stat.S_ISREG(os.fstat(file_fd).st_mode):
            os.close(file_fd)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return file_fd

    def size(self, index: int) -> int:
        """Return the length of what is kept of a file, -1 where nothing is."""
        with suppress(FileNotFoundError), self._directory() as fd:
            status = os.stat(str(index), dir_fd=fd, follow_symlinks=False)
            return status.st_size if stat.S_ISREG(status.st_mode) else -1
        return -1

    def clear(self, indexes: Iterable[int]) -> None:
        """Remove what is in the place of one of these files and is none. Raises `StoreError` for a directory."""
        with suppress(FileNotFoundError), self._directory() as fd:
            for index in indexes:
                _clear(fd, index)

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
            _clear(fd, index)
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
            try:
                fd = os.open(REST, DIRECTORY_FLAGS, dir_fd=title_fd)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                if not make:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
                os.unlink(REST, dir_fd=title_fd)
                os.mkdir(REST, 0o755, dir_fd=title_fd)
                fd = os.open(REST, DIRECTORY_FLAGS, dir_fd=title_fd)
        finally:
            os.close(title_fd)
        try:
            yield fd
        finally:
            os.close(fd)


def _clear(directory_fd: int, index: int) -> None:
    """Remove what is in the place of a file and is none. Raises `OSError`, and `StoreError` for a directory."""
    with suppress(FileNotFoundError):
        mode = os.stat(str(index), dir_fd=directory_fd, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            path = f"{os.readlink(f'/proc/self/fd/{directory_fd}')}/{index}"
            raise StoreError(f"{path!r} is a directory, where a part of a file is to be kept; move it away")
        if not stat.S_ISREG(mode):
            os.unlink(str(index), dir_fd=directory_fd)
