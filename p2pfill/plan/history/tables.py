"""From the rows of a log to what is kept of them: expressions, table in, table out, that do not know who computes them.

They are Ibis expressions. DuckDB computes them within this process and out of core, and a cluster with PySpark does
the same where logs outgrow a machine; `tests/plan/test_history.py` has both compile them.

A log is read once. `code_rows` gives each row the numbers of its file, region and place (a cache or a cluster), its
hour, and the faults that it has as bits; of what is wrong it keeps the text. All else works on these rows, which are
narrow, since to keep them is half of the work, and whose groups are of integers: grouping by names took twice the time.
Names come back when days are written, which have far fewer rows than logs.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from p2pfill.errors import ConfigError
from p2pfill.plan.history import faults as faults
from p2pfill.plan.history.faults import RowKind

Table = Any
"""A table of Ibis, which comes without types."""
Column = Any

TEXTS: Final = ("time", "region", "place", "title", "file", "bytes")
"""Columns of a log, which has `row` beside them: from 1, and only for people."""

ROW_BYTES_MAX: Final = 1 << 50
"""Of one row: far more than a viewer watches, or a cache serves of one file in a day; exact in a float, and hundreds of
them in one sum."""

EARLIEST_S: Final = 946_684_800
"""2000-01-01. Before it nobody streamed video; clocks that were never set and numbers that are no times lie there."""

NUMBER: Final = r"^ *[+-]?(?:[0-9]+[.]?[0-9]*|[.][0-9]+)(?:[eE][+-]?[0-9]+)? *\z"
_MINUTE: Final = "[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}[ T](?:[01]?[0-9]|2[0-3]):[0-5][0-9]"
_ZONE: Final = "(?:Z| UTC|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)"
MOMENT: Final = rf"^ *(?:[0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}|{_MINUTE}(?::[0-5][0-9](?:[.][0-9]+)?{_ZONE}?)? *)\z"
MOMENT_BRIEF: Final = rf"^ *({_MINUTE})({_ZONE}) *\z"
"""What text must look like before it is cast, since what else a cast takes is up to who computes: to DuckDB `1_000` is
a number, to Spark `5d` is, and `12:00` a moment of today. The brief moment lacks the seconds, which Spark wants before
a zone."""

CAUSE_ROWS_MAX: Final = 10_000
"""First rows of each kind of fault among which different values are looked for."""


def load_ibis() -> Any:
    """Return the library Ibis. Raises `ConfigError` where it is not installed."""
    try:
        return importlib.import_module("ibis")
    except ImportError as error:
        raise ConfigError("the planner needs libraries: pip install 'p2pfill[planner]'") from error


class Names(NamedTuple):
    """The tables with the numbers of names, each name once."""

    files: Table
    """`known_file`, `fid`, `known_title`."""
    regions: Table
    """`known_region`, `rid`."""
    places: Table
    """`known_place`, `pid`."""


def code_rows(log: Table, names: Names, latest_s: int) -> Table:
    """Return the rows of a log in numbers; `latest_s` is the last second, since 1970, that can have been.

    Columns: hour (since 1970), rid, fid, pid, bytes, mask (of `faults.ROW_KINDS`), and for rows with a fault `said`,
    what they say: the texts of `TEXTS`, and the row. In one column, since each costs its share also of rows without.
    """
    ibis = load_ibis()
    raw = log.select(
        "row", "time", "bytes", **{name: log[name].cast("string") for name in ("region", "place", "title", "file")}
    )
    raw = raw.mutate(seconds=_seconds(raw.time), amount=_number(raw.bytes))
    joined = (
        raw.left_join(names.files, raw.file == names.files.known_file)
        .left_join(names.regions, raw.region == names.regions.known_region)
        .left_join(names.places, raw.place == names.places.known_place)
    )
    mask = ibis.literal(0, "int32")
    for kind, is_so in _tests(joined, latest_s).items():
        mask = mask + ibis.ifelse(is_so.fill_null(False), ibis.literal(kind.bit, "int32"), ibis.literal(0, "int32"))
    # Most rows have no fault, and two thirds of the time would go into asking each of them for all.
    mask = ibis.ifelse(_is_good(joined, latest_s), ibis.literal(0, "int32"), mask)
    marked = joined.mutate(mask=mask)
    no_time = (marked.mask & faults.bits([faults.TIME_UNREADABLE, faults.TIME_FUTURE, faults.TIME_OLD])) != 0
    no_bytes = (marked.mask & (_BYTES_FAULTS)) != 0
    said = ibis.array([*(marked[name].cast("string") for name in TEXTS), marked.row.cast("string")])
    return marked.select(
        "rid", "fid", "pid", "mask",
        hour=ibis.ifelse(no_time, None, (marked.seconds // 3600).try_cast("int32")),
        bytes=ibis.ifelse(no_bytes, None, marked.amount.try_cast("int64")),
        said=ibis.ifelse(marked.mask != 0, said, None),
    )  # fmt: skip


def _said(coded: Table, column: str) -> Column:
    """Return the text of a column, in rows with a fault."""
    return coded.said[TEXTS.index(column)]


_BYTES_FAULTS: Final = faults.bits(
    [faults.BYTES_MISSING, faults.BYTES_UNREADABLE, faults.BYTES_NEGATIVE, faults.BYTES_LARGE]
)


def _is_good(rows: Table, latest_s: int) -> Column:
    """Return whether none of the tests holds; null: not. Names that are known are not empty."""
    return (
        rows.fid.notnull() & rows.rid.notnull() & rows.pid.notnull() & (rows.title == rows.known_title)
        & (rows.seconds >= EARLIEST_S) & (rows.seconds <= latest_s)
        & (rows.amount >= 0) & (rows.amount <= ROW_BYTES_MAX) & (rows.amount == rows.amount.floor())
    )  # fmt: skip


def _tests(rows: Table, latest_s: int) -> dict[RowKind, Column]:
    no_bytes = rows.bytes.isnull()
    if rows.bytes.type().is_string():
        no_bytes = no_bytes | (rows.bytes.strip() == "")
    return {
        faults.TIME_UNREADABLE: rows.seconds.isnull(),
        faults.TIME_FUTURE: rows.seconds > latest_s,
        faults.TIME_OLD: rows.seconds < EARLIEST_S,
        faults.BYTES_MISSING: no_bytes,
        faults.BYTES_UNREADABLE: ~no_bytes & (rows.amount.isnull() | (rows.amount != rows.amount.floor())),
        faults.BYTES_NEGATIVE: rows.amount < 0,
        faults.BYTES_LARGE: rows.amount > ROW_BYTES_MAX,
        faults.REGION_MISSING: _is_empty(rows.region),
        faults.REGION_UNKNOWN: ~_is_empty(rows.region) & rows.rid.isnull(),
        faults.FILE_MISSING: _is_empty(rows.file),
        faults.FILE_UNKNOWN: ~_is_empty(rows.file) & rows.fid.isnull(),
        faults.OTHER_TITLE: ~_is_empty(rows.title) & (rows.title != rows.known_title),
        faults.PLACE_MISSING: _is_empty(rows.place),
        faults.PLACE_UNKNOWN: ~_is_empty(rows.place) & rows.pid.isnull(),
    }


def _is_empty(column: Column) -> Column:
    return column.isnull() | (column == "")


def _number(column: Column) -> Column:
    """Return what a column says as a float; null where that is no number, or none that can be."""
    if column.type().is_string():
        number = load_ibis().ifelse(column.re_search(NUMBER), column.try_cast("float64"), None)
    else:
        number = column.cast("float64")
    # A comparison with NaN, which is above all numbers to both who compute, is false too.
    return load_ibis().ifelse((number > -1e18) & (number < 1e18), number, None)


def _seconds(column: Column) -> Column:
    """Return a time as seconds since 1970, rounded down; null where it cannot be read."""
    kind = column.type()
    if kind.is_timestamp() or kind.is_date():
        return _since_1970(column.cast("timestamp"))
    number = _number(column).floor().try_cast("int64")
    if not kind.is_string():
        return number
    # With a time zone: cast to a time without one, DuckDB overlooks the offset in 2026-11-29T22:00:00+02:00.
    brief = column.re_extract(MOMENT_BRIEF, 1) + ":00" + column.re_extract(MOMENT_BRIEF, 2)
    moment = load_ibis().cases(
        (column.re_search(MOMENT), column.try_cast(_MOMENT)),
        (column.re_search(MOMENT_BRIEF), brief.try_cast(_MOMENT)),
    )
    return number.coalesce(_since_1970(moment))


_MOMENT: Final = "timestamp('UTC')"


def _since_1970(moment: Column) -> Column:
    # Its floor first, since DuckDB has seconds with a fraction, and rounds where they are cast. The type that Ibis
    # takes them for has 32 bits, and it would leave out a cast to what it takes a column for already.
    return moment.epoch_seconds().cast("float64").floor().try_cast("int64")


# ---- aggregates


def views_of(coded: Table) -> Table:
    """Return day, rid, fid, region, file -> bytes, requests. Rows whose region or file nobody knows have texts alone.

    Of all others region and file are null, and `named_views` says what they are.
    """
    ibis = load_ibis()
    known = _by_day(coded.filter((coded.mask & (faults.VIEWS_LOST | faults.VIEWS_STRAY)) == 0))
    summed = known.group_by(["day", "rid", "fid"]).agg(bytes=_sum(known.bytes), requests=known.count())
    stray = (coded.mask & faults.VIEWS_LOST == 0) & (coded.mask & faults.VIEWS_STRAY != 0)
    others = _by_day(coded.filter(stray))
    others = others.mutate(region=_said(others, "region"), file=_said(others, "file"))
    strays = others.group_by(["day", "region", "file"]).agg(bytes=_sum(others.bytes), requests=others.count())
    text, number = ibis.null("string"), ibis.null("int32")
    return summed.select("day", "rid", "fid", "bytes", "requests", region=text, file=text).union(
        strays.select("day", "bytes", "requests", "region", "file", rid=number, fid=number).select(
            "day", "rid", "fid", "bytes", "requests", "region", "file"
        )
    )


def named_views(views: Table, names: Names) -> Table:
    """Return day, region, file -> bytes, requests, of what `views_of` gives."""
    joined = views.left_join(names.regions, "rid").left_join(names.files, "fid")
    return joined.select(
        "day", "bytes", "requests", region=joined.known_region.coalesce(joined.region),
        file=joined.known_file.coalesce(joined.file),
    )  # fmt: skip


def load_of(coded: Table, names: Names) -> Table:
    """Return hour, place -> bytes, requests. Rows whose place nobody knows count under its name."""
    known = coded.filter((coded.mask & (faults.LOAD_LOST | faults.LOAD_STRAY)) == 0)
    summed = known.group_by(["hour", "pid"]).agg(bytes=_sum(known.bytes), requests=known.count())
    named = summed.join(names.places, "pid")
    stray = (coded.mask & faults.LOAD_LOST == 0) & (coded.mask & faults.LOAD_STRAY != 0)
    others = coded.filter(stray)
    others = others.mutate(place=_said(others, "place"))
    strays = others.group_by(["hour", "place"]).agg(bytes=_sum(others.bytes), requests=others.count())
    return named.select("hour", "bytes", "requests", place="known_place").union(
        strays.select("hour", "bytes", "requests", "place")
    )


def masks_of(coded: Table) -> Table:
    """Return mask -> rows, bytes, and the first and last hour."""
    return coded.group_by("mask").agg(
        rows=coded.count(), bytes=_sum(coded.bytes, 38), first_hour=coded.hour.min(), last_hour=coded.hour.max()
    )


def causes_of(coded: Table, kind: RowKind) -> Table:
    """Return value, rows, row: what is wrong in the first rows with a fault, most frequent first."""
    wrong = coded.filter((coded.mask & kind.bit) != 0)
    wrong = wrong.select(row=wrong.said[len(TEXTS)].cast("int64"), value=_said(wrong, kind.column))
    wrong = wrong.order_by("row").limit(CAUSE_ROWS_MAX)
    found = wrong.group_by("value").agg(rows=wrong.count(), row=wrong.row.min())
    return found.order_by([found.rows.desc(), found.row]).limit(faults.EXAMPLES_MAX)


def merge(tables: Sequence[Table], keys: Sequence[str]) -> Table:
    """Return what several aggregates say together."""
    columns = [*keys, "bytes", "requests"]
    first, *others = (table.select(*columns) for table in tables)
    for other in others:
        first = first.union(other)
    return first.group_by(list(keys)).agg(bytes=_sum(first.bytes), requests=_sum(first.requests))


def _by_day(rows: Table) -> Table:
    return rows.mutate(day=(rows.hour // 24).cast("int32"))


def _sum(column: Column, digits: int = 18) -> Column:
    """Return a sum of 64 bits, which fails where it has more digits: an exabyte of one file, or from one cache.

    DuckDB sums in 128 bits, which Parquet has not, and Ibis leaves out a cast to what it takes the sum for already. The
    way back from more than 18 digits takes longer than the sum, so it is for sums of which there are few.
    """
    return column.sum().cast(f"decimal({digits}, 0)").cast("int64")
