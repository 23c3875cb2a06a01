"""A directory as origin.

A file is first opened as a mere place (`O_PATH`), which reads nothing, waits for nothing and wakes no device. What that
has led to is looked at: it must be a plain file, and where the node's settings name directories, lie in one of them,
whatever links were on the way. Then that very file is opened to be read. So nobody can put something else there between
the look and the opening, and a pipe in a file's place holds no thread.

Rejected: obstore, which was here before. It opens by path, once it has been looked at, and copies each byte once more.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from p2pfill.origin.bodies import Body, Part, check_size, one_line
from p2pfill.origin.errors import OriginObjectMissing, OriginRefused, TryAgain

if TYPE_CHECKING:
    from p2pfill.origin.watch import Watch

_PLACE_FLAGS: Final = os.O_PATH | os.O_CLOEXEC
_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class DirectoryBackend:
    """The directory `path`, of which nothing is read that lies outside of `root`; an empty one is no bound."""

    def __init__(self, path: Path, root: str = "") -> None:
        self.name = str(path)
        self._root = root

    def name_of(self, path: str) -> str:
        """Return a file's path."""
        return f"{self.name}/{path}"

    def open(self, watch: Watch, part: Part, *, ranged: bool) -> Body:
        """Read a part of a file."""
        watch.count(requests=1)
        name = self.name_of(part.entry.path)
        try:
            fd = self._open(name)
        except (FileNotFoundError, NotADirectoryError) as error:
            cause, advice = OriginObjectMissing.KIND, "check that the directory is the one that was published"
            raise OriginObjectMissing(f"{name}: {cause}; {advice}", cause=cause, advice=advice) from error
        except _Outside as error:
            # Told as if it were not there: whoever orders it could ask for what is outside else.
            cause, advice = OriginObjectMissing.KIND, "check that the directory is the one that was published"
            raise OriginObjectMissing(
                f"{name}: a link leads out of {self._root}, below which all must lie; put the file there, or name its "
                "directory with origin_dir too, and order from that",
                cause=cause,
                advice=advice,
            ) from error
        except (PermissionError, _NoFile) as error:
            cause, advice = f"the origin refuses it: {_reason(error)}", "check its access rules"
            raise OriginRefused(f"{name}: {cause}; {advice}", cause=cause, advice=advice) from error
        except OSError as error:
            raise TryAgain(_reason(error)) from error
        try:
            check_size(name, os.fstat(fd).st_size, part.entry.size)
        except BaseException:
            os.close(fd)
            raise
        position = part.start

        def read_into(buffer: memoryview, watch: Watch) -> int:
            nonlocal position
            try:
                count = os.preadv(fd, [buffer], position)
            except OSError as error:
                raise TryAgain(_reason(error)) from error
            position += count
            return count

        is_open = True

        def close() -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                os.close(fd)

        return Body(watch, part.start, part.stop, read_into, close)

    def close(self) -> None:
        """Nothing is open."""

    def _open(self, name: str) -> int:
        """Return a descriptor of a plain file that may be read. Raises `OSError`, `_NoFile`."""
        place_fd = os.open(name.encode(errors="surrogateescape"), _PLACE_FLAGS)
        try:
            if self._root and not self._is_inside(place_fd):
                raise _Outside
            if not stat.S_ISREG(os.fstat(place_fd).st_mode):
                raise _NoFile("it is no plain file")
            return self._reopen(place_fd)
        finally:
            os.close(place_fd)

    def _is_inside(self, place_fd: int) -> bool:
        """Tell whether what was opened lies below the directory that bounds it, by what the kernel calls both now."""
        root_fd = os.open(self._root, _PLACE_FLAGS | os.O_DIRECTORY)
        try:
            root = os.readlink(_by_descriptor(root_fd))
        finally:
            os.close(root_fd)
        return os.readlink(_by_descriptor(place_fd)).startswith(f"{root.rstrip('/')}/")

    def _reopen(self, place_fd: int) -> int:
        """Open a file to be read; without taking note that it was, which is for viewers, where that is possible."""
        with suppress(PermissionError):  # of a file of another user
            return os.open(_by_descriptor(place_fd), _READ_FLAGS | os.O_NOATIME)
        return os.open(_by_descriptor(place_fd), _READ_FLAGS)


class _NoFile(Exception):
    """What stands in a file's place is none."""


class _Outside(Exception):
    """A file lies outside of the directory that bounds all."""


def _by_descriptor(fd: int) -> str:
    """Return a path of what is open. Raises `OSError` where the system has none."""
    path = f"/proc/self/fd/{fd}"
    if not os.path.lexists(path):
        raise OSError(errno.ENOSYS, "it cannot be opened without /proc, which is not mounted")
    return path


def _reason(error: Exception) -> str:
    """Return one line for people from the text of an exception of the system."""
    return one_line(str(getattr(error, "strerror", None) or error), type(error).__name__)
