"""What a target is, and how one is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

from p2pfill.model.limits import KIB

CORPUS: Final = Path(__file__).parent / "corpus"

NESTED: Final = b'{"x":' + b"[" * 3000
"""JSON that is nested more deeply than a decoder that calls itself can go."""

Run = Callable[[bytes], bool]
"""Has the parser read an input; tells whether it was taken. What it raises is a find."""


@runtime_checkable
class Ended(Protocol):
    """A `Run` that holds something that is to be given back."""

    def close(self) -> None:
        """Give it back."""


Form = Literal["bytes", "msgpack", "json", "call", "lines"]
"""What inputs are made of, for changes by their parts; `call` is a line and JSON behind it, `lines` settings."""


class Broken(Exception):
    """An invariant does not hold."""


def check(holds: object, said: str, *values: object) -> None:
    """Raise `Broken` unless something holds; `values` are shown with what is `said`."""
    if not holds:
        raise Broken(" ".join([said, *map(repr, values)]))


@dataclass(frozen=True)
class Target:
    """A parser. Its invariant is the documentation of `open`."""

    name: str
    open: Callable[[Path], Run]
    """Returns what runs one input; given is an empty directory that it may use, on a file system in memory."""
    seeds: Callable[[], Iterable[bytes]]
    """Inputs to begin with, as the project's own encoders write them, and some that are nearly so."""
    runs: int = 200_000
    """So many inputs are tried unless it is said otherwise."""
    size_max: int = 4 * KIB
    """Of an input, in bytes."""
    form: Form = "bytes"
    words: tuple[str, ...] = ()
    """What stands in such inputs, to be put into others."""
    code: tuple[str, ...] = ("p2pfill.model", "p2pfill.trust")
    """Packages, or modules, whose branches lead to further inputs; the fewer, the sooner it begins."""
    per_state: int = 0
    """For one that remembers: after so many inputs it begins anew, and a find is kept with those before it."""

    @contextmanager
    def opened(self, directory: Path) -> Iterator[Run]:
        """Give what runs one input, and have it ended."""
        run = self.open(directory)
        try:
            yield run
        finally:
            if isinstance(run, Ended):
                run.close()

    @property
    def invariant(self) -> str:
        """What must hold, in words."""
        return inspect.getdoc(self.open) or ""

    def corpus(self) -> Iterator[bytes]:
        """Yield what is committed."""
        directory = CORPUS / self.name
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            yield path.read_bytes()

    def inputs(self) -> list[bytes]:
        """Return all inputs to begin with, each once."""
        return list(dict.fromkeys([*self.seeds(), *self.corpus()]))
