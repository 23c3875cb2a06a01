"""Below which number a version of a name is an old one: what was signed of titles, and the highest that was shown.

    titles/<id>/signatures                  what was signed of a title (`model.statement`), if anything; in filling/ too
    numbers/<digest of the name>            the highest number that was shown under a name, and the name

Numbers stay when their titles go: an old version must not come back because the new one was evicted. So there is a
file for each name that was ever shown and signed, which nobody but publishers who are trusted can make many of.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from blake3 import blake3

from p2pfill.errors import SignatureError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.limits import KIB
from p2pfill.model.statement import NUMBER_MAX, SIGNATURES_BYTES_MAX, Signatures
from p2pfill.store.disk import DIRECTORY_FLAGS, FILE_FLAGS, make_directory, replace_file, sync_directory, translated

SIGNATURES: Final = "signatures"
NUMBERS: Final = "numbers"

HIGHEST_KEPT_MAX: Final = 10_000
"""Names whose highest number is kept in memory; of others the file is read again, or is not there."""

_NUMBER_BYTES_MAX: Final = 4 * KIB
"""Of a file with a number and a name: both have at most a fourth of that."""


class Floors:
    """The numbers of one store. Its callers hold a lock; raises `StoreError`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._highest: dict[str, int] = {}
        self._numbers: dict[TitleId, int] = {}
        """Of titles, what is signed of them; 0: nothing."""

    def signatures(self, title_id: TitleId) -> bytes:
        """Return what is kept of the signatures of a title, b'' where nothing is."""
        for place in ("titles", "filling"):
            path = self._root / place / title_id.hex() / SIGNATURES
            with translated(f"read {str(path)!r}"), suppress(FileNotFoundError, NotADirectoryError):
                return _read(path, SIGNATURES_BYTES_MAX)
        return b""

    def keep_signatures(self, title_id: TitleId, signatures: bytes) -> None:
        """Keep what is signed of a title that is here, durably."""
        if self.signatures(title_id) == signatures:
            return
        for place in ("titles", "filling"):
            path = self._root / place / title_id.hex()
            with translated(f"keep the signatures of title {title_id.hex()}"), suppress(FileNotFoundError):
                fd = os.open(path, DIRECTORY_FLAGS)
                try:
                    replace_file(fd, SIGNATURES, signatures)
                finally:
                    os.close(fd)
                self._numbers.pop(title_id, None)
                return
        raise StoreError(f"title {title_id.hex()} is not here, so its signatures cannot be kept")

    def number(self, title_id: TitleId) -> int:
        """Return the number in what is signed of a title, 0 where nothing is that can be read."""
        if (known := self._numbers.get(title_id)) is None:
            known = 0
            with suppress(SignatureError):
                if signatures := self.signatures(title_id):
                    known = Signatures.decode(signatures).statement.number
            self._numbers[title_id] = known
        return known

    def forget(self, title_id: TitleId) -> None:
        """Note that a title goes. What was shown under its name is remembered."""
        self._numbers.pop(title_id, None)

    def highest(self, name: str) -> int:
        """Return the highest number that was shown under a name, 0 where none was."""
        if (known := self._highest.get(name)) is None:
            path, known = self._path(name), 0
            with translated(f"read {str(path)!r}"), suppress(FileNotFoundError):
                text = _read(path, _NUMBER_BYTES_MAX).partition(b" ")[0]
                if not text.isdigit() or int(text) > NUMBER_MAX:
                    # Not taken for 0: then anything old could be shown.
                    raise StoreError(f"{str(path)!r} is damaged; remove it to have any version of {name!r} shown")
                known = int(text)
                self._keep(name, known)  # not of names that nobody signs, for which there is no end either
        return known

    def _keep(self, name: str, number: int) -> None:
        self._highest[name] = number
        if len(self._highest) > HIGHEST_KEPT_MAX:
            del self._highest[next(iter(self._highest))]

    def note_shown(self, title_id: TitleId, name: str) -> None:
        """Remember the number of a title that is about to be shown, durably, where it is the highest of its name."""
        number = self.number(title_id)
        if number <= self.highest(name):
            return
        with translated(f"note that title {title_id.hex()} is shown"):
            if not (self._root / NUMBERS).is_dir():
                make_directory(self._root / NUMBERS)
                sync_directory(self._root)  # a power loss would take it with all that is in it
            fd = os.open(self._root / NUMBERS, DIRECTORY_FLAGS)
            try:
                replace_file(fd, self._path(name).name, b"%d %s\n" % (number, name.encode()))
            finally:
                os.close(fd)
        self._keep(name, number)

    def _path(self, name: str) -> Path:
        # By its digest: a name may be as long as a file's may be, and end as a file does that is being replaced.
        return self._root / NUMBERS / blake3(name.encode()).hexdigest()


def _read(path: Path, size_max: int) -> bytes:
    """Return the contents of a plain file, the first `size_max` bytes and one. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | FILE_FLAGS)
    with open(fd, "rb") as file:
        return file.read(size_max + 1)
