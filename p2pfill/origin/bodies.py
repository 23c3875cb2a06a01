"""What a backend answers with: the bytes of one file from a position on.

A backend is a kind of origin: `web.WebBackend` over HTTP, `directory.DirectoryBackend` for a directory. It makes one
request at a time and says what came of it; asking again is the business of `reader.OriginReader`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from p2pfill.origin.errors import OriginObjectChanged

if TYPE_CHECKING:
    from p2pfill.model.files import FileEntry
    from p2pfill.origin.watch import Watch

REASON_CHARS_MAX: Final = 200
"""What is shown of the words of a system, a library or a remote: a line."""


ANOTHER_SIZE: Final = "a file has another size at the origin than when it was published"
RESTORE: Final = "restore the file or publish the title anew"


class Part(NamedTuple):
    """A part of a file that is wanted: `start` to `stop` (bytes, of the file) of `entry`."""

    entry: FileEntry
    start: int
    stop: int

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole file, for which no range need be asked."""
        return (self.start, self.stop) == (0, self.entry.size)


class Body:
    """An answer's bytes. `position` (in the file) is what comes next, and `end` is where the answer ends."""

    def __init__(
        self,
        watch: Watch,
        position: int,
        end: int,
        read_into: Callable[[memoryview, Watch], int],
        close: Callable[[], object] = lambda: None,
        *,
        ignores_range: bool = False,
    ) -> None:
        """`read_into` puts what comes next into a buffer and returns how much it is; nothing at the end."""
        self.watch = watch
        """Of the read that takes from it now."""
        self.position = position
        self.end = end
        self.ignores_range = ignores_range
        """A range was asked for, and this is the whole file."""
        self.is_broken = False
        self._read_into = read_into
        self._close = close

    def read_into(self, buffer: memoryview) -> int:
        """Put what comes next into a buffer and return how much it is; nothing where the answer is over.

        Raises `TryAgain` where it breaks off, and `OriginCancelled`.
        """
        try:
            count = self._read_into(buffer, self.watch)
        except BaseException:
            self.is_broken = True
            raise
        self.position += count
        self.watch.count(received=count)
        return count

    def close(self) -> None:
        """Have done with it; its connection serves again where nothing of the answer is left. May be called twice."""
        self._close()


class Backend(Protocol):
    """A kind of origin. Blocking, and safe to use from several threads."""

    name: str
    """What people know the origin by: without what is secret."""

    def name_of(self, path: str) -> str:
        """Return what people know a file of the origin by."""

    def open(self, watch: Watch, part: Part, *, ranged: bool) -> Body:
        """Ask for a part of a file, or where not `ranged` for the whole file; its answer may begin before the part.

        Raises `TryAgain`, `OriginError`.
        """

    def close(self) -> None:
        """End what is open."""


def check_size(name: str, size: int, published: int) -> None:
    """Raise `OriginObjectChanged` where the file `name` has another size at the origin than when it was published.

    Everybody is told that it has, and not whether it is larger: a few dozen orders would find out any size by that.
    """
    if size != published:
        what = f"{'truncated' if size < published else 'changed'} at the origin"
        raise OriginObjectChanged(
            f"{name}: {what}: it has {size} bytes there, {published} when published; {RESTORE}",
            cause=ANOTHER_SIZE,
            advice=RESTORE,
        )


def one_line(said: str, otherwise: str) -> str:
    """Return the first line of what somebody else `said`, in characters that can be shown; `otherwise` for nothing."""
    line = said.strip().partition("\n")[0][:REASON_CHARS_MAX].strip().rstrip(":;")
    return line if line.isprintable() and line else ascii(line)[1:-1] or otherwise
