"""Whether PySpark computes of a log what DuckDB does: the expressions of `plan.history.tables`, on both, to the byte.

    python -m bench.planner.spark [--rows 2000000] [--forms typed,text] [--threads 2] [--json]

It needs Java 17 or newer and `pip install 'p2pfill[spark]'`. The log is a made one, once
with moments and numbers, as Parquet has them, and once all of it as text, as CSV has it, with `ODD` at its end. What is
compared: each row as it is coded, what is watched and served, by number and by name, the faults, and their causes.

This is no test of the suite, which would have to install Spark and Java wherever it runs, more than all that it needs
else. Exit code 1 where something differs, and 2 where Spark is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from bench.planner.logs import DAY_S, FIRST_DAY, catalogue, fleet, write_day
from p2pfill.plan.history import tables
from p2pfill.plan.history.engine import DEFAULT, open_engine
from p2pfill.plan.history.faults import ROW_KINDS
from p2pfill.plan.history.tables import Names, Table, load_ibis

ROWS: Final = 2_000_000
FORMS: Final = ("typed", "text")
LATEST_S: Final = (FIRST_DAY + 2) * DAY_S

GOOD: Final = ("2026-10-30T20:15:00Z", "region-0", "cache-0000", "Title 00000", "title-00000/0.mp4", "5")
ODD: Final = {
    "time": (
        "noon", "", None, "2026-10-30", "2026-10-30 20:15", "2026-10-30T20:15:59.999999Z", "2026-10-30T23:30:00-05:00",
        "2026-10-30T00:30:00+05:30", "1793000000", "1793000000.999", "-1", "1e9", "nan", "inf", "-inf", "1e300",
        "9223372036854775807", "1999-12-31T23:59:59.999Z", "2000-01-01T00:00:00Z", "2026-13-01", "2026-02-29",
        "2026-10-31T24:00:00", " 2026-10-30T20:15:00Z ", "20261030", "2026-10-30T20", "12:00", "now",
        "epoch", "2026-10-30T20:15:00 Europe/Berlin", "2026-10-30 20:15:00 UTC", "2026-10-30 20:15:00UTC",
        "2026-10-30T20:15:00EST", "2026-10-30T23:59:60Z", "2026-10-30T20:59:59.9999999999Z", "2026-10-30T20:15:00.Z",
        "2026-10-30T20:15:00+2", "2026-10-30T20:15:00+0230", "2026-10-30T20:15:00-23", "2026-10-30T20:15:00+19:00",
        "2026-10-30T20:15:00+02:60", "2026-10-30T20:15:00 +02:00", "2026-10-30Z", "2026-10-30+02:00",
        "2026-1-5T2:15:00Z", "2026-10-30T20:15Z", "2026-10-30t20:15z", "2026-10-30T20:15:00+02:00:30",
        "2026-10-30T20:75Z", "2026-10-30T20:15:00Z\n", "\t2026-10-30", "0000-10-30", "+2026-10-30", "1793000000\n",
        "12026-10-30", "2026-10-30  20:15", "2026-10-30 ", "1793000000Z", "1793000000,5", "",
    ),
    "region": ("", None, "mars", " region-0", "REGION-0"),
    "place": ("", None, "z9", "cluster-000"),
    "title": ("", None, "Title 00001", "title 00000"),
    "file": ("", None, "other", "title-00001/0.mp4"),
    "bytes": (
        "", None, " ", "5.0", "5.5", " 5 ", "+5", "-5", "-0", "1e3", "1e-3", "nan", "inf", "1125899906842624",
        "1125899906842625", "99999999999999999999", "5 GB", "5L", "5d", "5f", "0x10", "1_000", "1,000", "٥",
        "5.", ".5", ".", "1e400", "1e-400", "5e", "--5", "5 5", "5\n", "0x1p3", "Infinity", "5\x01", "1E3", "4.9e-324",
    ),
}  # fmt: skip
"""What a column may say in a log that is text; all others then say what `GOOD` does."""


class Compared(msgspec.Struct):
    """What came of one form of the log."""

    form: str
    rows: int
    duckdb_s: float
    spark_s: float
    """On the clock."""
    differ: dict[str, list[str]]
    """Result -> some rows that one has and the other has not."""


def write_log(work: Path, form: str, rows: int) -> Path:
    """Write a log as `open_rows` gives it to `code_rows`."""
    made, path = work / "made.parquet", work / f"{form}.parquet"
    if not made.exists():
        write_day(made, 0, rows, 1)
    table = pq.read_table(made).rename_columns(["time", "region", "place", "title", "file", "bytes"])
    if form == "text":
        odd = [list(GOOD)]
        for column, values in ODD.items():
            place = tables.TEXTS.index(column) if column != "bytes" else 5
            odd += [[*GOOD[:place], value, *GOOD[place + 1 :]] for value in values]
        columns = dict(zip(table.column_names, zip(*odd, strict=True), strict=True))
        text = pa.table({name: table[name].cast(pa.string()) for name in table.column_names})
        odd_table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        table = pa.concat_tables([text, odd_table])
    pq.write_table(table.append_column("row", pa.array(range(1, len(table) + 1))), path)
    return path


def write_names(work: Path) -> dict[str, Path]:
    """Write the tables of names."""
    known, caches = catalogue(), fleet()
    numbered = {
        "files": {
            "known_file": known.files, "fid": range(len(known.files)),
            "known_title": [known.titles[title] for title in known.title],
        },
        "regions": {"known_region": caches.regions, "rid": range(len(caches.regions))},
        "places": {"known_place": caches.names, "pid": range(len(caches.names))},
    }  # fmt: skip
    for name, columns in numbered.items():
        arrays = {
            key: pa.array(list(values), pa.int32() if key.endswith("id") else pa.string())
            for key, values in columns.items()
        }
        pq.write_table(pa.table(arrays), work / f"{name}.parquet")
    return {name: work / f"{name}.parquet" for name in numbered}


def results(
    read: Callable[[str], Table], keep: Callable[[Table], Table], latest_s: int
) -> dict[str, Table]:  # fmt: skip
    """Return the expressions of all that is compared, of rows that are coded and kept now, as an ingest does."""
    names = Names(read("files"), read("regions"), read("places"))
    coded = keep(tables.code_rows(read("log"), names, latest_s))
    views = tables.views_of(coded)
    found = {
        "rows": coded.mutate(said=coded.said.join("\x1f")), "views": views,
        "named views": tables.named_views(views, names), "load": tables.load_of(coded, names),
        "masks": tables.masks_of(coded),
    }  # fmt: skip
    return found | {f"causes: {kind.name}": tables.causes_of(coded, kind) for kind in ROW_KINDS}


def rows_of(table: Table) -> Any:
    """Return a result as an Arrow table, its columns and rows in an order that is always the same."""
    arrow = table.to_pyarrow()
    arrow = arrow.select(sorted(arrow.column_names))
    return arrow.sort_by([(name, "ascending") for name in arrow.column_names])


def differences(one: Any, other: Any) -> list[str]:
    """Return some rows that one table has and the other has not."""
    if one.equals(other.cast(one.schema)):
        return []
    ours, theirs = ({str(row) for row in table.to_pylist()} for table in (one, other))
    found = [f"DuckDB alone: {row}" for row in sorted(ours - theirs)[:20]]
    found += [f"Spark alone: {row}" for row in sorted(theirs - ours)[:20]]
    return found or ["the same rows, but not as often"]


def compare(work: Path, form: str, rows: int, session: Any) -> Compared:
    """Compute all of one form of the log with both."""
    paths = write_names(work) | {"log": write_log(work, form, rows)}
    spark = load_ibis().pyspark.connect(session)
    began = time.monotonic()
    other = results(lambda name: spark.read_parquet(str(paths[name])), lambda rows: rows.cache(), LATEST_S)
    found = Compared(form, pq.read_metadata(paths["log"]).num_rows, 0.0, time.monotonic() - began, {})
    with open_engine(work, DEFAULT) as engine:
        began = time.monotonic()
        own = results(
            lambda name: engine.parquet(f"read_{name}", [paths[name]]),
            lambda rows: engine.keep("coded", rows, is_for_now=True), LATEST_S,
        )  # fmt: skip
        found.duckdb_s = time.monotonic() - began
        for name, table in own.items():
            before = time.monotonic()
            ours = rows_of(table)
            between = time.monotonic()
            theirs = rows_of(other[name])
            found.duckdb_s += between - before
            found.spark_s += time.monotonic() - between
            if differ := differences(ours, theirs):
                found.differ[name] = differ
            print(f"{form}: {name}: {len(ours):,} rows {'differ' if differ else 'are the same'}", file=sys.stderr)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print what came, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.planner.spark", description="The history on PySpark.")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of the log (default: {ROWS:,})")
    parser.add_argument("--forms", default=",".join(FORMS), help="of the log (default: both)")
    parser.add_argument("--threads", type=int, default=2, help="of Spark (default: 2)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if unknown := set(options.forms.split(",")) - {*FORMS}:
        parser.error(f"there is no form {min(unknown)!r}: there are {', '.join(FORMS)}")
    if importlib.util.find_spec("pyspark") is None:
        print("PySpark is not installed: pip install 'p2pfill[spark]'", file=sys.stderr)
        return 2
    from pyspark.sql import SparkSession

    with tempfile.TemporaryDirectory(prefix="p2pfill-spark-") as work:
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        settings = {
            "spark.sql.session.timeZone": "UTC", "spark.ui.enabled": "false", "spark.driver.memory": "4g",
            "spark.local.dir": work, "spark.sql.warehouse.dir": f"{work}/warehouse", "spark.log.level": "ERROR",
        }  # fmt: skip
        builder = SparkSession.builder.master(f"local[{options.threads}]")
        for name, value in settings.items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        try:
            found = [compare(Path(work), form, options.rows, session) for form in options.forms.split(",")]
        finally:
            session.stop()
    if options.json:
        print(msgspec.json.encode(found).decode())
    for one in found if not options.json else ():
        said = "differ in " + ", ".join(one.differ) if one.differ else "are the same"
        took = f"DuckDB {one.duckdb_s:.1f} s, Spark {one.spark_s:.1f} s"
        print(f"{one.form}: all results of {one.rows:,} rows {said}; {took}")
        for name, rows in one.differ.items():
            print(f"  {name}:", *rows, sep="\n    ")
    return int(any(one.differ for one in found))


if __name__ == "__main__":
    sys.exit(main())
