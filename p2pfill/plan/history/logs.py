"""Viewing logs as files: what each is, whether it was taken in before, and how its rows are read.

A log is known again by the digest of its content, so a copy under another name counts once, and a new log under the
name of an old one counts. Name, size and time of change would take less to read, but a log that is copied again
has another time, and would count twice. A log that begins with all of one that was taken in has grown, and is refused.

Nothing is left for DuckDB to guess. Its guesses go by the first rows, so one odd value further on ends the whole read;
here all of a CSV file is text, and what text means is decided row by row. The separator is the one with which the
header has the columns.
"""

from __future__ import annotations

import csv
import gzip
import io
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, cast

import xxhash

from p2pfill.plan.history.engine import Engine, LogError, library_errors
from p2pfill.plan.history.faults import COLUMNS_MISSING, LINE_UNREADABLE, LOG_UNREADABLE, Example, Faults
from p2pfill.plan.history.tables import Table, load_ibis

NEEDED: Final = ("time", "region", "title", "file", "bytes")
PLACES: Final = ("cache", "cluster")
"""Columns of which one is needed; the former where there are both, since a cache says more."""

HEADER_BYTES_MAX: Final = 64 * 1024
COLUMNS_MAX: Final = 1000
LINE_BYTES_MAX: Final = 1024 * 1024
"""Of CSV: far above any row of a log; beyond it a quote was left open."""
REJECTS_MAX: Final = 10_000
"""Errors in lines that DuckDB remembers; where there are more, lines are counted by hand."""
READ_BYTES: Final = 4 * 1024 * 1024

SEPARATORS: Final = (",", ";", "\t", "|")
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PARQUET: Final = b"PAR1"


class UnusableLog(LogError):
    """Nothing of a log can be taken in; `kind` says in what way."""

    def __init__(self, message: str, kind: str = LOG_UNREADABLE) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class LogFile:
    """What a log is, found out from its beginning."""

    path: Path
    form: Literal["csv", "parquet"]
    columns: tuple[str, ...]
    """All that it has, in lower case and in order."""
    separator: str = ","
    compression: Literal["none", "gzip", "zstd"] = "none"

    @property
    def place(self) -> str:
        """What its rows say who has served: `cache` or `cluster`."""
        return next(name for name in PLACES if name in self.columns)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file has in it."""

    digest: str
    size: int
    grown_from: str
    """The name of a log that was taken in and is the beginning of this one."""


def read_content(path: Path, known: Mapping[tuple[int, str], str]) -> Content:
    """Return what a log has in it; `known` has the names of logs that were taken in, by size and digest."""
    stops = sorted({size for size, _ in known})
    digest, done, grown_from = xxhash.xxh3_128(), 0, ""
    with path.open("rb") as file:
        for stop in [*stops, None]:
            while stop is None or done < stop:
                data = file.read(READ_BYTES if stop is None else min(READ_BYTES, stop - done))
                if not data:
                    break
                digest.update(data)
                done += len(data)
            if stop is None or done < stop:
                break
            if name := known.get((stop, digest.hexdigest()), ""):
                grown_from = name
                # Of a file that ends here it is no beginning, but the same log.
                if not file.peek(1):
                    grown_from = ""
                    break
    return Content(digest.hexdigest(), done, grown_from)


def look_at(engine: Engine, path: Path, link: Path) -> LogFile:
    """Return what a log is. `link` is where a link to it may stand, free of characters that mean patterns to DuckDB.

    Raises `UnusableLog`.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UnusableLog(f"log {str(path)!r} is a directory: name the files in it")
        if not stat.S_ISREG(mode):
            raise UnusableLog(f"log {str(path)!r} is no file: write what it gives into one first")
        with path.open("rb") as file:
            head = file.read(4)
        if not head:
            raise UnusableLog(f"log {str(path)!r} is empty")
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
        log = _look_at_parquet(engine, path, link) if head == _PARQUET else _look_at_csv(path, head)
    except (OSError, EOFError) as error:
        raise UnusableLog(f"cannot read log {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    _check_columns(log)
    return log


def _check_columns(log: LogFile) -> None:
    missing = [name for name in NEEDED if name not in log.columns]
    if not any(name in log.columns for name in PLACES):
        missing.append("cache or cluster")
    if missing:
        has = ", ".join(repr(name[:40]) for name in log.columns[:20])
        raise UnusableLog(
            f"log {str(log.path)!r} lacks the columns {', '.join(missing)}: its first line must name time, region, "
            f"cluster or cache, title, file and bytes; it has {has}",
            COLUMNS_MISSING,
        )
    used = (*NEEDED, log.place)
    if twice := [name for name in used if log.columns.count(name) > 1]:
        raise UnusableLog(f"log {str(log.path)!r} has the column {twice[0]} twice", COLUMNS_MISSING)


def _look_at_parquet(engine: Engine, path: Path, link: Path) -> LogFile:
    with library_errors(f"cannot read log {str(path)!r} as Parquet", UnusableLog):
        schema = _parquet(engine, link).schema()
    columns = tuple(name.strip().lower() for name in schema)[:-1]
    for name, kind in zip(columns, schema.values(), strict=False):
        is_moment = kind.is_timestamp() or kind.is_date()
        is_plain = kind.is_string() or kind.is_integer() or kind.is_floating() or kind.is_decimal()
        if name in (*NEEDED, *PLACES) and not (is_plain or (is_moment and name == "time")):
            raise UnusableLog(f"log {str(path)!r}: the type of the column {name}, {str(kind)[:40]}, says no {name}")
    return LogFile(path, "parquet", columns)


def _parquet(engine: Engine, link: Path) -> Table:
    """Return the rows of a Parquet file, with their number from 0 as the last column."""
    rows = engine.parquet("log_file", [link], file_row_number=True)
    for name, kind in rows.schema().items():
        # Ibis has no word for DuckDB's times of nanoseconds with a zone, as pandas writes them.
        if name.strip().lower() == "time" and kind.is_unknown():
            column = '"' + name.replace('"', '""') + '"'
            replaced = f"REPLACE (TRY_CAST({column} AS TIMESTAMPTZ) AS {column})"
            engine.rows_of(f"CREATE OR REPLACE TEMP VIEW log_in_micros AS FROM log_file SELECT * {replaced}")
            return engine.ibis.table("log_in_micros", database="temp.main")
    return rows


def _look_at_csv(path: Path, head: bytes) -> LogFile:
    compression: Literal["none", "gzip", "zstd"] = "none"
    if head.startswith(_GZIP):
        compression = "gzip"
    elif head.startswith(_ZSTD):
        raise UnusableLog(f"log {str(path)!r} is compressed by zstd: decompress it, or compress it by gzip")
    with _open(path, compression) as file:
        line = file.readline(HEADER_BYTES_MAX + 1)
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnusableLog(f"log {str(path)!r} is UTF-16: convert it to UTF-8, as iconv -f utf-16 -t utf-8 does")
    try:
        text = line.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise UnusableLog(f"log {str(path)!r} is neither Parquet nor CSV in UTF-8") from error
    if len(line) > HEADER_BYTES_MAX or "\0" in text:
        raise UnusableLog(f"log {str(path)!r} is neither Parquet nor CSV: its first line names no columns")
    best: tuple[str, ...] = ()
    separator = ","
    for one in SEPARATORS:
        columns = _header(text, one)
        if _wanted(columns) > _wanted(best) or not best:
            best, separator = columns, one
    if len(best) > COLUMNS_MAX:
        raise UnusableLog(f"log {str(path)!r} has more than {COLUMNS_MAX} columns")
    return LogFile(path, "csv", best, separator, compression)


def _header(text: str, separator: str) -> tuple[str, ...]:
    try:
        return tuple(name.strip().lower() for name in next(csv.reader([text], delimiter=separator), []))
    except csv.Error:
        return ()


def _wanted(columns: Collection[str]) -> int:
    return sum(name in columns for name in (*NEEDED, *PLACES))


def _open(path: Path, compression: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if compression == "gzip" else path.open("rb")


def open_rows(engine: Engine, log: LogFile, link: Path) -> Table:
    """Return the rows of a log that `look_at` has looked at: `row` and the columns of `tables.TEXTS`."""
    at = {("place" if name == log.place else name): log.columns.index(name) for name in (*NEEDED, log.place)}
    if log.form == "parquet":
        rows = _parquet(engine, link)
        return rows.select(row=rows.file_row_number + 1, **{name: rows[place] for name, place in at.items()})
    rows = engine.ibis.read_csv(
        str(link), table_name="log", columns={f"c{place}": "VARCHAR" for place in range(len(log.columns))},
        header=True, delim=log.separator, quote='"', escape='"', nullstr="", compression=log.compression,
        max_line_size=LINE_BYTES_MAX, ignore_errors=True, store_rejects=True, rejects_limit=REJECTS_MAX,
    )  # fmt: skip
    return rows.select(row=load_ibis().row_number() + 1, **{name: rows[place] for name, place in at.items()})


def is_confused(log: LogFile, error: UnusableLog) -> bool:
    """Tell whether DuckDB lost its way in a CSV file, as it does where lines end in several ways."""
    return log.form == "csv" and "state machine" in str(error.__cause__)


def with_one_line_end(log: LogFile, link: Path) -> LogFile | None:
    """Copy a CSV file whose lines end in several ways to where its link is, with one way; None: they end in one.

    DuckDB reads such a file only where it may also leave out what a line has beyond its columns, as in `1,000`. Raises
    `UnusableLog`.
    """
    copy = link.with_suffix(".copy")
    try:
        # Bytes stay as they are: in Latin-1 each is a character.
        with io.TextIOWrapper(_open(log.path, log.compression), "latin-1") as text, copy.open("wb") as file:
            while data := text.read(READ_BYTES):
                file.write(data.encode("latin-1"))
            if not isinstance(text.newlines, tuple):
                return None
        copy.replace(link)
    except (OSError, EOFError) as error:
        raise UnusableLog(f"cannot read log {str(log.path)!r}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        copy.unlink(missing_ok=True)
    return replace(log, path=link, compression="none")


def rejected(engine: Engine, log: LogFile, name: str, rows: int) -> Faults:
    """Return the lines of a CSV file that could not be read, after all of its rows were; there are `rows` that could.

    An open quote swallows what follows, so where there was one, or more than are remembered, what is lost is what the
    file has beyond the rows that were read.
    """
    found = Faults()
    if log.form != "csv" or not engine.rows_of("SELECT 1 FROM duckdb_tables() WHERE table_name = 'reject_errors'"):
        return found
    # A line has an error for each column that it lacks.
    counted = "SELECT count(DISTINCT (line, line_byte_position)), count(*) FROM reject_errors"
    count, errors = engine.rows_of(counted)[0]
    if not count:
        return found
    first = engine.rows_of("SELECT line, min(error_message) FROM reject_errors GROUP BY line ORDER BY line LIMIT 5")
    quotes = engine.rows_of(
        "SELECT 1 FROM reject_errors WHERE error_type IN ('UNQUOTED VALUE', 'LINE SIZE OVER MAXIMUM') LIMIT 1"
    )
    if quotes or errors >= REJECTS_MAX:
        count = max(count, _lines(log) - 1 - rows)
    examples = [Example(name, int(line or 0), _reason(message)) for line, message in first]
    found.add(LINE_UNREADABLE, examples, count=count)
    return found


def forget_rejected(engine: Engine) -> None:
    """Make room for what the next log has."""
    for table in ("reject_errors", "reject_scans"):
        engine.rows_of(f"DROP TABLE IF EXISTS {table}")


def _reason(message: Any) -> str:
    return str(message).split("\n")[0]


def _lines(log: LogFile) -> int:
    count, last = 0, b"\n"
    with _open(log.path, log.compression) as file:
        while data := file.read(READ_BYTES):
            count, last = count + data.count(b"\n"), data[-1:]
    return count + (last != b"\n")
