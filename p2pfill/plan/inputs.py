"""The tables that an operator gives: catalogue, caches, uplinks, origins, as CSV, Parquet or TOML.

All come as rows, in TOML as one array of tables under any name, so that `[[file]]` is a row of the catalogue. What
text means is decided here, row by row, so a wrong row costs itself and is told of (`history.faults.Faults`), and a
table without one usable row is an error. These tables have up to some million rows and fit into memory; logs, which do
not, go another way (`history.logs`).
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import math
import stat
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import QUANTITY_MAX, parse_bytes, parse_rate
from p2pfill.plan.history.engine import library_errors
from p2pfill.plan.history.faults import Example, Faults
from p2pfill.plan.tables import Caches, Catalogue, Floats

ROWS_MAX: Final = 5_000_000
"""Of one table: ten times the files of the largest catalogues."""
BYTES_MAX: Final = 2 << 30
"""Of one table as a file."""
FIELD_CHARS_MAX: Final = 4096
"""Of one field, which is a name or a number."""
PRICE_MAX: Final = 1e9

_EPOCH: Final = date(1970, 1, 1)
_SEPARATORS: Final = (",", ";", "\t", "|")

Row = dict[Any, Any]
"""None, where it is a key, has what a row of CSV has beyond its columns."""
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Uplinks:
    """What may come into ISPs and regions from outside, in bytes a second; inf: nothing was said."""

    isp: Floats
    """Of each ISP of the table of caches."""
    region: Floats
    """Of each region of it."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Where titles come from."""

    names: tuple[str, ...]
    rate: Floats
    """What each can send, in bytes a second; inf: nothing was said."""
    per_gb: Floats
    """Money for a gigabyte of 10^9 bytes, in one currency; 0: nothing was said."""


class _Wrong(Exception):
    """A row cannot be used: `args` are kind and value."""


class _Table(NamedTuple):
    """What a kind of table is called, and needs."""

    what: str
    needed: tuple[str, ...]
    allowed: tuple[str, ...]


_CATALOGUE: Final = _Table("catalogue", ("title", "file", "size"), ("kind", "genre", "released", "hint"))
_CACHES: Final = _Table(
    "table of caches", ("name", "cluster", "isp", "region", "capacity", "serving"), ("filling",)
)  # fmt: skip
_UPLINKS: Final = _Table("table of uplinks", ("of", "name", "rate"), ())
_ORIGINS: Final = _Table("table of origins", ("name",), ("rate", "price"))


# ---- the tables


def read_catalogue(path: Path) -> tuple[Catalogue, Faults]:
    """Return the catalogue and what is wrong with it. A row is a file, with what is true of its title.

    Columns: title, file, size (bytes, or as `4.2 GB`); of the file kind; of the title genre, released (a date; empty:
    long ago), hint (views on its first day, as expected). What rows of a title leave empty is taken from its others. Of
    what they say in two ways the first counts, and so does the first of two rows of a file. Raises `ConfigError`.
    """
    faults = Faults()
    titles: dict[str, tuple[Any, ...]] = {}
    files: dict[str, tuple[str, str, int]] = {}

    def take(row: Row) -> None:
        title, file = _text(row, "title"), _text(row, "file")
        size = _size(row, "size")
        if size <= 0:
            raise _Wrong("size of zero or less", file)
        told = (_may(row, "genre", _name), _may(row, "released", _day), _may(row, "hint", _hint))
        if file in files:
            raise _Wrong("file twice", file)
        stands = titles.get(title, (None, None, None))
        titles[title] = tuple(new if old is None else old for old, new in zip(stands, told, strict=True))
        files[file] = (title, _may(row, "kind", _name) or "", size)
        if any(new is not None and old not in (None, new) for old, new in zip(stands, told, strict=True)):
            raise _Wrong("title told in two ways", title)

    _each(path, _CATALOGUE, take, faults)
    if not files:
        raise _useless(path, _CATALOGUE, faults)
    title_names = tuple(titles)
    genres = tuple(sorted({told[0] or "" for told in titles.values()}))
    kinds = tuple(sorted({kind for _, kind, _ in files.values()}))
    number, genre_at, kind_at = ({one: at for at, one in enumerate(names)} for names in (title_names, genres, kinds))
    return Catalogue(
        title_names, genres, kinds,
        np.array([genre_at[told[0] or ""] for told in titles.values()], dtype=np.int32),
        np.array([told[1] or 0 for told in titles.values()], dtype=np.int32),
        np.array([math.nan if told[2] is None else told[2] for told in titles.values()]),
        tuple(files),
        np.array([number[title] for title, _, _ in files.values()], dtype=np.int32),
        np.array([kind_at[kind] for _, kind, _ in files.values()], dtype=np.int32),
        np.array([size for _, _, size in files.values()], dtype=np.int64),
    ), faults  # fmt: skip


def read_caches(path: Path) -> tuple[Caches, Faults]:
    """Return the caches and what is wrong with their table. A row is a cache.

    Columns: name, cluster, isp, region; capacity (bytes, or as `60 TB`), serving (bytes a second, or as `40Gbit/s`) and
    filling (by default as serving). A cluster stands in one ISP and an ISP in one region: of rows that say otherwise
    the first counts. Raises `ConfigError`.
    """
    faults = Faults()
    caches: dict[str, tuple[str, int, float, float]] = {}
    clusters: dict[str, str] = {}
    isps: dict[str, str] = {}

    def take(row: Row) -> None:
        name, cluster, isp, region = (_text(row, column) for column in ("name", "cluster", "isp", "region"))
        capacity, serving = _size(row, "capacity"), _rate(_text(row, "serving"), "serving")
        filling = _may(row, "filling", lambda value: _rate(value, "filling"))
        if name in caches:
            raise _Wrong("cache twice", name)
        if clusters.get(cluster, isp) != isp:
            raise _Wrong("cluster in two ISPs", f"{cluster} in {isp} and {clusters[cluster]}")
        if isps.get(isp, region) != region:
            raise _Wrong("ISP in two regions", f"{isp} in {region} and {isps[isp]}")
        clusters[cluster], isps[isp] = isp, region
        caches[name] = (cluster, capacity, serving, serving if filling is None else filling)

    _each(path, _CACHES, take, faults)
    if not caches:
        raise _useless(path, _CACHES, faults)
    regions = tuple(dict.fromkeys(isps.values()))
    cluster_at, isp_at = ({name: place for place, name in enumerate(names)} for names in (clusters, isps))
    return Caches(
        tuple(caches), tuple(clusters), tuple(isps), regions,
        np.array([cluster_at[one[0]] for one in caches.values()], dtype=np.int32),
        np.array([isp_at[isp] for isp in clusters.values()], dtype=np.int32),
        np.array([regions.index(region) for region in isps.values()], dtype=np.int32),
        np.array([one[1] for one in caches.values()], dtype=np.int64),
        np.array([one[2] for one in caches.values()], dtype=np.float64),
        np.array([one[3] for one in caches.values()], dtype=np.float64),
    ), faults  # fmt: skip


def read_uplinks(path: Path, caches: Caches) -> tuple[Uplinks, Faults]:
    """Return the uplinks and what is wrong with their table: a row has of (`isp` or `region`), name, rate.

    Raises `ConfigError`.
    """
    faults = Faults()
    rates = {"isp": np.full(len(caches.isps), np.inf), "region": np.full(len(caches.regions), np.inf)}
    names = {"isp": caches.isps, "region": caches.regions}

    def take(row: Row) -> None:
        of, name, rate = _text(row, "of").lower(), _text(row, "name"), _rate(_text(row, "rate"), "rate")
        if of not in names:
            raise _Wrong("uplink of neither isp nor region", of)
        if name not in names[of]:
            raise _Wrong(f"{'ISP' if of == 'isp' else 'region'} unknown", name)
        place = names[of].index(name)
        if np.isfinite(rates[of][place]):
            raise _Wrong("uplink twice", f"{of} {name}")
        rates[of][place] = rate

    _each(path, _UPLINKS, take, faults)
    if not any(np.isfinite(one).any() for one in rates.values()) and faults:
        raise _useless(path, _UPLINKS, faults)
    return Uplinks(rates["isp"], rates["region"]), faults


def read_origins(path: Path) -> tuple[Origins, Faults]:
    """Return the origins and what is wrong with their table: a row has name, rate, price (of a gigabyte).

    Raises `ConfigError`.
    """
    faults = Faults()
    origins: dict[str, tuple[float, float]] = {}

    def take(row: Row) -> None:
        name = _text(row, "name")
        rate = _may(row, "rate", lambda value: _rate(value, "rate", most=math.inf))
        price = _may(row, "price", lambda value: _float(value, "price", PRICE_MAX))
        if name in origins:
            raise _Wrong("origin twice", name)
        origins[name] = (math.inf if rate is None else rate, price or 0.0)

    _each(path, _ORIGINS, take, faults)
    if not origins:
        raise _useless(path, _ORIGINS, faults)
    rates, prices = (np.array(column, dtype=np.float64) for column in zip(*origins.values(), strict=True))
    return Origins(tuple(origins), rates, prices), faults


def _useless(path: Path, table: _Table, faults: Faults) -> ConfigError:
    why = faults.in_words() or "it has no rows"
    return ConfigError(f"{table.what} {str(path)!r} has no usable row: {why}")


def _each(path: Path, table: _Table, take: Callable[[Row], None], faults: Faults) -> None:
    """Have each row taken in, and count those that are wrong."""
    for number, row in enumerate(_rows(path, table), 1):
        if number > ROWS_MAX:
            raise ConfigError(f"{table.what} {str(path)!r} has more than {ROWS_MAX:,} rows")
        try:
            if None in row:
                raise _Wrong("row too long", str(row[None]))
            take(row)
        except _Wrong as error:
            kind, value = error.args
            faults.add(kind, [Example(str(path), number, repr(value))])


# ---- fields


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    text = "" if value is None else str(value).strip()
    if not text:
        raise _Wrong(f"{column} missing", "")
    if len(text) > FIELD_CHARS_MAX:
        raise _Wrong(f"{column} too long", text)
    return text


def _may(row: Row, column: str, read: Callable[[Any], Value]) -> Value | None:
    """Return what an optional field says; None where it is empty."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return read(value.strip() if isinstance(value, str) else value)


def _name(value: Any) -> str:
    return str(value)[:FIELD_CHARS_MAX]


def _size(row: Row, column: str) -> int:
    text = _text(row, column)
    number = _number(text)
    try:
        size = parse_bytes(text) if number is None else int(number)
    except (ConfigError, ValueError, OverflowError) as error:
        raise _Wrong(f"{column} unreadable", text) from error
    if number is not None and (size != number or abs(size) > QUANTITY_MAX):
        raise _Wrong(f"{column} unreadable", text)
    if size < 0:
        raise _Wrong(f"{column} of zero or less" if column == "size" else f"{column} negative", text)
    return size


def _rate(value: Any, column: str, most: float = QUANTITY_MAX) -> float:
    """Return a rate in bytes a second; `max` is inf, where that is allowed."""
    text = str(value).strip()
    rate = _number(text)
    if rate is None:
        try:
            rate = float(parse_rate(text) or math.inf)
        except ConfigError as error:
            raise _Wrong(f"{column} unreadable", text) from error
    if not 0 < rate <= most:
        raise _Wrong(f"{column} out of range", text)
    return rate


def _number(text: str) -> float | None:
    """Return a number without a unit; None where it is none."""
    try:
        return int(text) if text.lstrip("-").isdigit() and len(text) < 20 else float(text)
    except ValueError:
        return None


def _float(value: Any, column: str, most: float) -> float:
    number = _number(str(value))
    if number is None or not 0 <= number <= most:
        raise _Wrong(f"{column} unreadable", str(value))
    return float(number)


def _hint(value: Any) -> float:
    return _float(value, "hint", QUANTITY_MAX)


def _day(value: Any) -> int:
    """Return a date, or a moment's date in UTC, as days since 1970."""
    try:
        if not isinstance(value, date):
            text = str(value)
            value = date.fromisoformat(text) if len(text) <= len("2026-11-29") else datetime.fromisoformat(text)
    except ValueError as error:
        raise _Wrong("released unreadable", str(value)) from error
    if isinstance(value, datetime):
        value = (value.astimezone(UTC) if value.tzinfo else value).date()
    return int((value - _EPOCH).days)


# ---- files


def _rows(path: Path, table: _Table) -> Iterator[Row]:
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
        text = data.decode("utf-8-sig")
    except (OSError, EOFError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {table.what} {str(path)!r}: {why}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{table.what} {str(path)!r} is neither Parquet nor text in UTF-8") from error
    yield from _toml_rows(path, table, text) if path.suffix == ".toml" else _csv_rows(path, table, text)


def _parquet_rows(path: Path, table: _Table) -> Iterator[Row]:
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


def _csv_rows(path: Path, table: _Table, text: str) -> Iterator[Row]:
    header = text.split("\n", 1)[0].strip("\r")
    best, separator = [""], ","
    for one in _SEPARATORS:
        try:
            columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=one), [])]
        except csv.Error:
            continue
        if sum(name in columns for name in table.needed) > sum(name in best for name in table.needed) or best == [""]:
            best, separator = columns, one
    _check_columns(path, table, best)
    reader = csv.DictReader(io.StringIO(text, newline=""), best, delimiter=separator)
    try:
        for number, row in enumerate(reader):
            if number:
                yield row
    except csv.Error as error:
        raise ConfigError(f"{table.what} {str(path)!r}, line {reader.line_num}: {error}") from error


def _toml_rows(path: Path, table: _Table, text: str) -> Iterator[Row]:
    try:
        read = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
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


def _check_columns(path: Path, table: _Table, columns: Sequence[str]) -> None:
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
