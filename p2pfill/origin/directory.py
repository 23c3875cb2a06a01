"""A directory as origin, read through obstore."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError
from obstore.store import LocalStore

from p2pfill.origin.bodies import Body, Part, check_size, one_line
from p2pfill.origin.errors import OriginObjectMissing, OriginRefused, TryAgain

if TYPE_CHECKING:
    from p2pfill.origin.watch import Watch

_REFUSED: Final = re.compile(r"#\d+\Z|[A-Za-z][:|]\Z")
"""Ends of file names that obstore does not read: such as it keeps for its own uploads, and such as it takes for a drive
of Windows and opens as a directory."""

_SYSTEM: Final = re.compile(r'message: "([^"\n]{1,200})"')
"""What obstore says, deep below, of what the system refused."""


class DirectoryBackend:
    """The directory `path`. Raises what obstore raises where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._store = LocalStore(path)

    def name_of(self, path: str) -> str:
        """Return a file's path."""
        return f"{self.name}/{path}"

    def open(self, watch: Watch, part: Part, *, ranged: bool) -> Body:
        """Read a part of a file."""
        watch.count(requests=1)
        name = self.name_of(part.entry.path)
        try:
            if not stat.S_ISREG(os.stat(name).st_mode):
                raise ValueError("it is no plain file")  # opening a pipe would wait for somebody to write
            # All at once, which is faster: see docs/experiments.md, "Disks and the page cache".
            data = self._read_plainly(name, part) if _REFUSED.search(name) else self._read(name, part)
        except FileNotFoundError as error:
            raise OriginObjectMissing(
                f"{name}: not found at the origin; check that the directory is the one that was published",
                cause="not found at the origin",
            ) from error
        except (PermissionDeniedError, PermissionError, ValueError) as error:
            said = _reason(error)
            raise OriginRefused(
                f"{name}: the origin refuses it: {said}; check its access rules", cause=said
            ) from error
        except (BaseError, OSError) as error:
            # obstore has a fault of its own for a file that ends before the part.
            check_size(name, os.stat(name).st_size, part.entry.size)
            raise TryAgain(_reason(error)) from error

        def read_into(buffer: memoryview, watch: Watch) -> int:
            nonlocal data
            count = min(len(buffer), len(data))
            buffer[:count], data = data[:count], data[count:]
            return count

        return Body(watch, part.start, part.stop, read_into)

    def _read(self, name: str, part: Part) -> memoryview:
        result = obstore.get(self._store, part.entry.path, options={"range": (part.start, part.stop)})
        check_size(name, result.meta["size"], part.entry.size)
        return memoryview(result.bytes())

    def _read_plainly(self, name: str, part: Part) -> memoryview:
        with open(name, "rb", buffering=0) as file:
            check_size(name, os.fstat(file.fileno()).st_size, part.entry.size)
            return memoryview(os.pread(file.fileno(), part.stop - part.start, part.start))

    def close(self) -> None:
        """Nothing is open."""


def _reason(error: Exception) -> str:
    """Return one line for people from the text of an exception of obstore or of the system."""
    said = _SYSTEM.search(str(error)[:8192])
    return one_line(said[1] if said else getattr(error, "strerror", None) or str(error), type(error).__name__)
