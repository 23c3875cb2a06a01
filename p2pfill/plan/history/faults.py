"""What is wrong with logs and tables: its kinds, how much of each there is, and some examples.

Nothing that is given to the planner vanishes without a word: each row either counts or is told of here, under each of
its kinds. Faults of rows of a log are bits of one number, so that a single pass over the log finds them all, and
say which of the two aggregates a row is lost to: `views` lacks a row whose file nobody knows, but the cache has served
its bytes, so `load` has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

EXAMPLES_MAX: Final = 5
"""Of each kind: enough to see what its cause is."""

VALUE_CHARS_MAX: Final = 80
"""Of a wrong value that is shown."""


class RowKind(NamedTuple):
    """A kind of fault of one row of a log."""

    name: str
    column: str
    """Where it is: the column whose value is shown."""
    views: bool
    """The row does not count as a view."""
    load: bool
    """It does not count as load."""
    heals: bool = False
    """It is kept under its name, and counts as soon as the table that lacks the name has it."""

    @property
    def bit(self) -> int:
        """The number that stands for it among the faults of a row."""
        return 1 << _ORDER[self.name]


TIME_UNREADABLE: Final = RowKind("time unreadable", "time", views=True, load=True)
TIME_FUTURE: Final = RowKind("time in the future", "time", views=True, load=True)
TIME_OLD: Final = RowKind("time before 2000", "time", views=True, load=True)
BYTES_MISSING: Final = RowKind("bytes missing", "bytes", views=True, load=True)
BYTES_UNREADABLE: Final = RowKind("bytes unreadable", "bytes", views=True, load=True)
BYTES_NEGATIVE: Final = RowKind("bytes negative", "bytes", views=True, load=True)
BYTES_LARGE: Final = RowKind("bytes beyond reason", "bytes", views=True, load=True)
REGION_MISSING: Final = RowKind("region missing", "region", views=True, load=False)
REGION_UNKNOWN: Final = RowKind("region unknown", "region", views=True, load=False, heals=True)
FILE_MISSING: Final = RowKind("file missing", "file", views=True, load=False)
FILE_UNKNOWN: Final = RowKind("file unknown", "file", views=True, load=False, heals=True)
OTHER_TITLE: Final = RowKind("file of another title", "title", views=False, load=False)
PLACE_MISSING: Final = RowKind("cache missing", "place", views=False, load=True)
PLACE_UNKNOWN: Final = RowKind("cache unknown", "place", views=False, load=True, heals=True)

ROW_KINDS: Final = (
    TIME_UNREADABLE, TIME_FUTURE, TIME_OLD, BYTES_MISSING, BYTES_UNREADABLE, BYTES_NEGATIVE, BYTES_LARGE,
    REGION_MISSING, REGION_UNKNOWN, FILE_MISSING, FILE_UNKNOWN, OTHER_TITLE, PLACE_MISSING, PLACE_UNKNOWN,
)  # fmt: skip
_ORDER: Final = {kind.name: place for place, kind in enumerate(ROW_KINDS)}

LINE_UNREADABLE: Final = "line unreadable"
LOG_UNREADABLE: Final = "log unreadable"
COLUMNS_MISSING: Final = "columns missing"
NO_USABLE_ROW: Final = "no usable row"

NEXT_STEPS: Final = {
    "time unreadable": "write times as 2026-11-29T20:15:00Z or as seconds since 1970; what else is tried is lost",
    "time in the future": "are they milliseconds, or is a clock wrong? They are left out",
    "time before 2000": "is a clock wrong, or the time no time at all? They are left out",
    "bytes missing": "a row without bytes says nothing; they are left out",
    "bytes unreadable": "write whole numbers of bytes, without units; they are left out",
    "bytes negative": "they are left out",
    "bytes beyond reason": "a row is one request or a sum of some; they are left out",
    "region missing": "they count for the load of caches only",
    "region unknown": "add the region to the caches' table: what is known of it counts from then on",
    "file missing": "they count for the load of caches only",
    "file unknown": "add the file to the catalogue: what is known of it counts from then on",
    "file of another title": "they count for the file; is the log or the catalogue right about its title?",
    "cache missing": "they count as views only",
    "cache unknown": "add it to the caches' table: what is known of it counts from then on",
    LINE_UNREADABLE: "lines with too many or too few columns, an open quote, or no UTF-8; they are left out",
    LOG_UNREADABLE: "nothing of it was taken in: mend it and give it again",
    COLUMNS_MISSING: "nothing of it was taken in: give it the columns and give it again",
    NO_USABLE_ROW: "nothing of it was taken in: mend what is wrong with its rows and give it again",
}
"""Kind -> what became of it, and what to do."""


def bits(kinds: Iterable[RowKind]) -> int:
    """Return the number that stands for several kinds."""
    return sum(kind.bit for kind in kinds)


VIEWS_LOST: Final = bits(kind for kind in ROW_KINDS if kind.views and not kind.heals)
VIEWS_STRAY: Final = bits(kind for kind in ROW_KINDS if kind.views and kind.heals)
LOAD_LOST: Final = bits(kind for kind in ROW_KINDS if kind.load and not kind.heals)
LOAD_STRAY: Final = bits(kind for kind in ROW_KINDS if kind.load and kind.heals)


class Example(msgspec.Struct, frozen=True):
    """One place where something is wrong."""

    file: str
    row: int
    """From 1, the header not counted; of a line that cannot be read the line, from 1 too; 0: the file as a whole."""
    value: str

    def __str__(self) -> str:
        return self.text()

    def text(self, unit: str = "row") -> str:
        """Return it as people read it, its number being that of a row or of a line."""
        where = f"{self.file}, {unit} {self.row}" if self.row else self.file
        return f"{where}: {self.value}"


class Fault(msgspec.Struct):
    """All that is wrong in one way."""

    count: int = 0
    """Rows, lines or files."""
    bytes: int = 0
    """That these rows name, where they can be read."""
    examples: list[Example] = []


class Faults(msgspec.Struct):
    """What is wrong, by kind."""

    kinds: dict[str, Fault] = {}

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def count(self, kind: str) -> int:
        """Return how often there is a kind."""
        return self.kinds[kind].count if kind in self.kinds else 0

    def add(self, kind: str, examples: Iterable[Example], *, count: int = 1, bytes_: int = 0) -> None:
        """Count what is wrong in one way; examples are kept until there are enough."""
        fault = self.kinds.setdefault(kind, Fault(examples=[]))
        fault.count += count
        fault.bytes += bytes_
        for example in examples:
            if len(fault.examples) >= EXAMPLES_MAX:
                break
            fault.examples.append(Example(example.file, example.row, example.value[:VALUE_CHARS_MAX]))

    def merge(self, other: Faults) -> None:
        """Count what others have counted; the newest examples stay."""
        for kind, fault in other.kinds.items():
            kept = self.kinds.pop(kind, Fault(examples=[]))
            self.add(kind, [*fault.examples, *kept.examples], count=fault.count + kept.count,
                     bytes_=fault.bytes + kept.bytes)  # fmt: skip

    def in_words(self, most: int = 3) -> str:
        """Return the most frequent kinds with an example each, in one line."""
        said = []
        for kind, fault in sorted(self.kinds.items(), key=lambda one: -one[1].count)[:most]:
            example = f" ({fault.examples[0]})" if fault.examples else ""
            said.append(f"{fault.count:,} x {kind}{example}")
        return "; ".join(said)
