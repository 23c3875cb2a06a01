"""What callers have signed of orders and withdrawals, as a node keeps it to bring it back to a tracker.

    orders/<id>                             documents of one title (`model.signed_order`), a msgpack array
    orders/names/<digest of the name>       the highest number that an order of a name has had here, and the name

Beside the titles and not in them: an order is kept before the first byte of its title has come, and a withdrawal when
the title has gone. Nothing here says what holds: whoever reads it looks at the signatures.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
from blake3 import blake3

from p2pfill.errors import ConfigError, SignatureError
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.limits import MIB
from p2pfill.model.packing import UNPACK_ERRORS, open_unpacker
from p2pfill.model.signed_order import DOCUMENT_BYTES_MAX, Document, OrderStatement, Statement, decode_statement
from p2pfill.store.disk import DIRECTORY_FLAGS, FILE_FLAGS, make_directory, replace_file, translated

ORDERS: Final = "orders"
NAMES: Final = "names"

DOCUMENTS_MAX: Final = 16
"""Of one title: so many fills of it mean one node, or were withdrawn one by one."""

BYTES_MAX: Final = 4 * MIB
"""Of one title: three orders of the longest, or all of usual length."""

NUMBERS_KEPT_MAX: Final = 10_000
"""Names whose highest number is kept in memory, too."""

_NAME_BYTES_MAX: Final = 4096
_FORGOTTEN_AT_ONCE: Final = 1000
"""Titles without an order, of which the oldest go: looking for them takes a look at all."""


class KeptOrders:
    """The documents below one data directory. Thread-safe; all calls block, and raise `StoreError`."""

    def __init__(self, root: Path) -> None:
        self._root = root / ORDERS
        self._lock = RLock()
        self._titles: set[TitleId] | None = None
        self._numbers: dict[str, int] = {}

    def titles(self) -> set[TitleId]:
        """Return the titles of which something is kept."""
        with self._lock:
            return set(self._known())

    def has(self, title_id: TitleId) -> bool:
        """Tell whether something is kept of a title."""
        with self._lock:
            return title_id in self._known()

    def _known(self) -> set[TitleId]:
        if self._titles is None:
            found = set()
            with translated(f"read {str(self._root)!r}"), suppress(FileNotFoundError):
                for name in os.listdir(self._root):
                    with suppress(ConfigError):
                        found.add(title_id_from_hex(name))
            self._titles = found
        return self._titles

    def documents(self, title_id: TitleId) -> list[tuple[Statement, bytes]]:
        """Return what is kept of a title, each with what it says. What cannot be read is as if it were not there."""
        with self._lock:
            found: list[tuple[Statement, bytes]] = []
            path = self._root / title_id.hex()
            with translated(f"read {str(path)!r}"), suppress(FileNotFoundError, *UNPACK_ERRORS):
                data = _read(path, BYTES_MAX)
                unpacker = open_unpacker(
                    data, str_bytes_max=0, bin_bytes_max=DOCUMENT_BYTES_MAX, array_len_max=DOCUMENTS_MAX
                )
                documents: Any = unpacker.unpack()
                for document in documents if isinstance(documents, tuple) else ():
                    with suppress(SignatureError):
                        if isinstance(document, bytes):
                            found.append((decode_statement(Document.decode(document).statement), document))
            return found

    def keep(self, title_id: TitleId, documents: Sequence[bytes]) -> None:
        """Keep these documents of a title durably, the first ones as far as there is room; none: nothing any more."""
        kept: list[bytes] = []
        for document in documents[:DOCUMENTS_MAX]:
            if sum(map(len, kept)) + len(document) <= BYTES_MAX - 16 * DOCUMENTS_MAX:
                kept.append(document)
        with self._lock:
            known = self._known()
            if not kept and title_id not in known:
                return
            path = self._root / title_id.hex()
            with translated(f"keep what is signed of title {title_id.hex()}"):
                if not kept:
                    path.unlink(missing_ok=True)
                else:
                    self._write(self._root, path.name, msgpack.packb(kept))
            (known.add if kept else known.discard)(title_id)

    def forget_old(self, ordered: Collection[TitleId], kept_max: int) -> None:
        """Forget the oldest withdrawals where more than `kept_max` titles have nothing but those."""
        with self._lock:
            rest = [title_id for title_id in self.titles() if title_id not in ordered]
            if len(rest) <= kept_max:
                return

            def age(title_id: TitleId) -> float:
                with suppress(OSError):
                    return (self._root / title_id.hex()).stat().st_mtime
                return 0.0

            for title_id in sorted(rest, key=age)[: len(rest) - kept_max + min(_FORGOTTEN_AT_ONCE, kept_max // 10)]:
                self.keep(title_id, ())

    def number(self, name: str) -> int:
        """Return the highest number that an order of a name has had here, 0 where none is known."""
        with self._lock:
            if (known := self._numbers.get(name)) is None:
                path, known = self._root / NAMES / _digest(name), 0
                with translated(f"read {str(path)!r}"), suppress(FileNotFoundError):
                    text = _read(path, _NAME_BYTES_MAX).partition(b" ")[0]
                    known = int(text) if text.isdigit() else 0
                self._note(name, known)
            return known

    def note_numbers(self, statements: Iterable[Statement]) -> None:
        """Remember the numbers of orders, durably, where they are the highest of their names."""
        with self._lock:
            for said in statements:
                if isinstance(said, OrderStatement) and said.number > self.number(said.name):
                    text = b"%d %s\n" % (said.number, said.name.encode())
                    with translated(f"note the order of {said.name!r}"):
                        self._write(self._root / NAMES, _digest(said.name), text)
                    self._note(said.name, said.number)

    def _note(self, name: str, number: int) -> None:
        self._numbers[name] = number
        if len(self._numbers) > NUMBERS_KEPT_MAX:
            del self._numbers[next(iter(self._numbers))]

    def _write(self, directory: Path, name: str, data: bytes) -> None:
        make_directory(directory)
        fd = os.open(directory, DIRECTORY_FLAGS)
        try:
            replace_file(fd, name, data)
        finally:
            os.close(fd)


def _digest(name: str) -> str:
    return blake3(name.encode()).hexdigest()


def _read(path: Path, size_max: int) -> bytes:
    """Return the contents of a plain file, the first `size_max` bytes, b'' of anything else. Raises `OSError`."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return b""  # what is written there moves it away
    fd = os.open(path, os.O_RDONLY | FILE_FLAGS)
    with open(fd, "rb") as file:
        return file.read(size_max)
