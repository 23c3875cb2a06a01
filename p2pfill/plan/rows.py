"""Rows out of the tables that an operator gives, as CSV, Parquet or TOML.

All come as rows, in TOML as one array of tables under any name, so that `[[file]]` is a row of the catalogue. What a
row says is for the caller to decide; one that is wrong costs itself and is told of (`history.faults.Faults`), and a
table without one usable row is an error. These tables have up to some million rows and are read by Python; logs, which
have far more, go another way (`history.logs`).
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from p2pfill.errors import ConfigError
from p2pfill.model.toml import read_toml
from p2pfill.plan.history.engine import library_errors
from p2pfill.plan.history.faults import Example, Faults

ROWS_MAX: Final = 5_000_000
"""Of one table: ten times the files of the largest catalogues."""
BYTES_MAX: Final = 2 << 30
"""Of one table as a file."""
HEADER_BYTES_MAX: Final = 64 * 1024
FIELD_CHARS_MAX: Final = 4096
"""Of one field, which is a name or a number."""

_SEPARATORS: Final = (",", ";", "\t", "|")

Row = dict[Any, Any]
"""None, where it is a key, has what a row of CSV has beyond its columns."""
Value = TypeVar("Value")


class WrongRow(Exception):
    """A row cannot be used: `args` are kind and value."""


class TableKind(NamedTuple):
    """What a kind of table is called, and needs."""

    what: str
    needed: tuple[str, ...]
    allowed: tuple[str, ...]
    rows_max: int = ROWS_MAX


def take_rows(path: Path, table: TableKind, take: Callable[[Row], None]) -> Faults:
    """Have each row taken in, and return those that are wrong, which `take` says by raising `WrongRow`.

    Raises `ConfigError` where the file cannot be read as such a table.
    """
    faults = Faults()
    for number, row in enumerate(_rows(path, table), 1):
        if number > table.rows_max:
            raise ConfigError(f"{table.what} {str(path)!r} has more than {table.rows_max:,} rows")
        try:
            if None in row:
                raise WrongRow("row too long", str(row[None]))
            take(row)
        except WrongRow as error:
            kind, value = error.args
            faults.add(kind, [Example(str(path), number, repr(value))])
    return faults


def useless(path: Path, table: TableKind, faults: Faults) -> ConfigError:
    """Return the error that a table has no usable row."""
    why = faults.in_words() or "it has no rows"
    return ConfigError(f"{table.what} {str(path)!r} has no usable row: {why}")


def text_of(row: Row, column: str) -> str:
    """Return what a field that is needed says. Raises `WrongRow`."""
    value = row.get(column)
    text = "" if value is None else str(value).strip()
    if not text:
        raise WrongRow(f"{column} missing", "")
    if len(text) > FIELD_CHARS_MAX:
        raise WrongRow(f"{column} too long", text)
    return text


def may_say(row: Row, column: str, read: Callable[[Any], Value]) -> Value | None:
    """Return what an optional field says; None where it is empty."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return read(value.strip() if isinstance(value, str) else value)


# ---- files


def _rows(path: Path, table: TableKind) -> Iterator[Row]:
    """Yield the rows of a file, with column names in lower case. Raises `ConfigError`."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{table.what} {str(path)!r} is a directory: name a file")
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{table.what} {str(path)!r} is no file")
        if status.st_size > BYTES_MAX:
            raise ConfigError(f"{table.what} {str(path)!r} has more than {BYTES_MAX:,} bytes")
        with path.open("rb") as file:
            head = file.read(4)
        if not head:
            raise ConfigError(f"{table.what} {str(path)!r} is empty")
        if head == b"PAR1":
            yield from _parquet_rows(path, table)
            return
        with gzip.open(path) if head.startswith(b"\x1f\x8b") else path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        if len(data) > BYTES_MAX:
            raise ConfigError(f"{table.what} {str(path)!r} has more than {BYTES_MAX:,} bytes")
        # Decoded as it is read: as one text a large table would take five times its size.
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")
        yield from _toml_rows(path, table, text.read()) if path.suffix == ".toml" else _csv_rows(path, table, text)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {table.what} {str(path)!r}: {why}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{table.what} {str(path)!r} is neither Parquet nor text in UTF-8") from error


def _parquet_rows(path: Path, table: TableKind) -> Iterator[Row]:
    with (
        library_errors(f"cannot read {table.what} {str(path)!r} as Parquet", ConfigError),
        importlib.import_module("pyarrow.parquet").ParquetFile(path) as file,
    ):
        names = {name: name.strip().lower() for name in file.schema_arrow.names}
        _check_columns(path, table, list(names.values()))
        wanted = [name for name, low in names.items() if low in (*table.needed, *table.allowed)]
        for batch in file.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                yield {names[name]: value for name, value in row.items()}


def _csv_rows(path: Path, table: TableKind, text: io.TextIOWrapper) -> Iterator[Row]:
    header = text.readline(HEADER_BYTES_MAX).strip("\r\n")
    best, separator = [""], ","
    for one in _SEPARATORS:
        try:
            columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=one), [])]
        except csv.Error:
            continue
        if sum(name in columns for name in table.needed) > sum(name in best for name in table.needed) or best == [""]:
            best, separator = columns, one
    _check_columns(path, table, best)
    text.seek(0)
    reader = csv.DictReader(text, best, delimiter=separator)
    try:
        for number, row in enumerate(reader):
            if number:
                yield row
    except csv.Error as error:
        raise ConfigError(f"{table.what} {str(path)!r}, line {reader.line_num}: {error}") from error


def _toml_rows(path: Path, table: TableKind, text: str) -> Iterator[Row]:
    try:
        read = read_toml(text)
    except ConfigError as error:
        raise ConfigError(f"cannot read {table.what} {str(path)!r} as TOML: {error}") from error
    arrays = [one for one in read.values() if isinstance(one, list) and all(isinstance(row, dict) for row in one)]
    if len(arrays) != 1 or len(read) != 1:
        raise ConfigError(
            f"{table.what} {str(path)!r} must be one array of tables, as [[row]] with {table.needed[0]} = …"
        )
    for number, row in enumerate(arrays[0], 1):
        if unknown := row.keys() - {*table.needed, *table.allowed}:
            raise ConfigError(f"{table.what} {str(path)!r}, table {number}: {min(unknown)[:40]!r} is no setting of it")
        yield row


def _check_columns(path: Path, table: TableKind, columns: Sequence[str]) -> None:
    missing = [name for name in table.needed if name not in columns]
    if missing:
        may = f", and may have {', '.join(table.allowed)}" if table.allowed else ""
        raise ConfigError(
            f"{table.what} {str(path)!r} lacks the columns {', '.join(missing)}: its first line must name "
            f"{', '.join(table.needed)}{may}; it has {', '.join(repr(name[:40]) for name in columns[:20])}"
        )
    used = [*table.needed, *table.allowed]
    if twice := [name for name in used if columns.count(name) > 1]:
        raise ConfigError(f"{table.what} {str(path)!r} has the column {twice[0]} twice")
