"""How long logs take to go into the history, and how much memory: many at once, one of all rows, and the next night's.

    python -m bench.planner.history [--rows 100000000] [--days 30] [--csv 10000000] [--seed 1] [--work DIR]
                                    [--out DIR] [--json]

Logs are made (`bench.planner.logs`), and `p2pfill plan ingest` is run on them as a process, whose processor seconds and
memory the kernel tells. What has then gone in is compared with what was made: rows that count, and their bytes. The
work directory needs 20 bytes a row; what is made there is removed. `--csv` also takes in so many rows as CSV, of whose
processor time most goes into reading.

Processors that others use meanwhile make the clock's seconds longer, and processor seconds a little; the report says
how busy the machine was. Exit code 1 where something is not counted as it was made, or a limit is missed.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from bench.planner.logs import Made, catalogue, fleet, write_day
from bench.swarm.report import table_in_markdown
from p2pfill.bench.measure import Load, LoadMeter, Machine, describe_machine
from p2pfill.bench.report import machine_line

ROWS: Final = 100_000_000
DAYS: Final = 30

ALL_S_MAX: Final = 150.0
ALL_BYTES_MAX: Final = 6 * 10**9
NIGHT_S_MAX: Final = 10.0
"""Set for `ROWS`, and held to others too."""


class Point(msgspec.Struct, frozen=True):
    """One ingest."""

    name: str
    logs: int
    rows: int
    log_bytes: int
    seconds: float
    """On the clock."""
    user_s: float
    system_s: float
    peak_bytes: int
    history_bytes: int
    """Of all that is in the history then."""
    load: Load
    """Of the whole machine meanwhile."""
    is_right: bool
    """The history has what was made."""

    @property
    def is_good(self) -> bool:
        """Whether it is right, and in time where a time is set."""
        limit_s = {"days": ALL_S_MAX, "one log": ALL_S_MAX, "a night more": NIGHT_S_MAX}.get(self.name)
        return self.is_right and self.peak_bytes <= ALL_BYTES_MAX and (limit_s is None or self.seconds <= limit_s)


class Report(msgspec.Struct):
    """What is kept in JSON."""

    machine: Machine
    points: list[Point]


def write_tables(work: Path) -> None:
    """Write the catalogue and the table of caches."""
    known, caches = catalogue(), fleet()
    with (work / "catalogue.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["title", "file", "size"])
        rows.writerows(zip((known.titles[title] for title in known.title), known.files, known.size, strict=True))
    with (work / "caches.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "cluster", "isp", "region", "capacity", "serving"])
        for name, cluster, capacity, serving in zip(
            caches.names, caches.cluster, caches.capacity, caches.serving, strict=True
        ):
            isp = caches.isp[cluster]
            rows.writerow([
                name, caches.clusters[cluster], caches.isps[isp], caches.regions[caches.region[isp]], capacity, serving
            ])  # fmt: skip


def join(path: Path, logs: Sequence[Path]) -> Path:
    """Write all rows of some logs into one."""
    with pq.ParquetWriter(path, pq.read_schema(logs[0]), compression="zstd", compression_level=1) as writer:
        for log in logs:
            with pq.ParquetFile(log) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))
    return path


def as_csv(path: Path, log: Path) -> Path:
    """Write a log as CSV."""
    table = pq.read_table(log)
    moments = pa.compute.strftime(table["time"].cast(pa.timestamp("s"), safe=False), "%Y-%m-%dT%H:%M:%SZ")
    pyarrow.csv.write_csv(table.set_column(0, "time", moments), path, pyarrow.csv.WriteOptions(quoting_style="none"))
    return path


def run(name: str, work: Path, history: Path, logs: Sequence[Path], made: Made) -> Point:
    """Take logs into a history, which may have some already, of which `made` has all."""
    command = [
        sys.executable, "-m", "p2pfill.cli", "plan", "ingest", *map(str, logs), "--history", str(history),
        "--catalogue", str(work / "catalogue.csv"), "--caches", str(work / "caches.csv"), "--json",
    ]  # fmt: skip
    meter, began = LoadMeter(work), time.monotonic()
    with (work / "said.json").open("wb") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    seconds, load = time.monotonic() - began, meter.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: p2pfill plan ingest ended with code {process.returncode}")
    shown = subprocess.run(
        [*command[:4], "history", "--history", str(history), "--json"], check=True, capture_output=True
    )
    has: dict[str, Any] = msgspec.json.decode(shown.stdout)
    point = Point(
        name, len(logs), sum(one["rows"] for one in msgspec.json.decode((work / "said.json").read_bytes())["taken"]),
        sum(log.stat().st_size for log in logs), seconds, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024,
        sum(path.stat().st_size for path in history.rglob("*.parquet")), load,
        Made(has["rows"], has["requests"], has["bytes"], has["served_bytes"]) == made,
    )  # fmt: skip
    print(*row(point), sep="  ", file=sys.stderr)
    return point


def measure(work: Path, rows: int, days: int, csv_rows: int, seed: int) -> list[Point]:
    """Make the logs and take them in, in all ways."""
    write_tables(work)
    logs = [work / f"day{day:02}.parquet" for day in range(days + 1)]
    made = [write_day(log, day, rows // days, seed) for day, log in enumerate(logs)]
    before = Made(*map(sum, zip(*made[:-1], strict=True)))
    after = Made(*map(sum, zip(before, made[-1], strict=True)))
    points = [run("days", work, work / "history", logs[:-1], before)]
    points.append(run("a night more", work, work / "history", logs[-1:], after))
    shutil.rmtree(work / "history")
    joined = join(work / "all.parquet", logs[:-1])
    for log in logs:
        log.unlink()
    points.append(run("one log", work, work / "history", [joined], before))
    shutil.rmtree(work / "history")
    joined.unlink()
    if csv_rows:
        few = write_day(work / "few.parquet", 0, csv_rows, seed)
        points.append(run("CSV", work, work / "history", [as_csv(work / "few.csv", work / "few.parquet")], few))
    return points


# ---- report

HEAD: Final = (
    "", "logs", "rows", "of logs", "seconds", "user s", "system s", "memory", "history", "machine busy", "as made"
)  # fmt: skip


def row(point: Point) -> tuple[str, ...]:
    """Return a point as cells of a table."""
    return (
        point.name, str(point.logs), f"{point.rows:,}", f"{point.log_bytes / 1e9:.2f} GB", f"{point.seconds:.1f}",
        f"{point.user_s:.1f}", f"{point.system_s:.1f}", f"{point.peak_bytes / 1e9:.2f} GB",
        f"{point.history_bytes / 1e6:.0f} MB", f"{point.load.busy:.0%}", "yes" if point.is_right else "NO",
    )  # fmt: skip


def page(report: Report) -> str:
    """Return the report in Markdown."""
    guide = (
        "`days`: a log for each day, in one command; `a night more`: the log of the day after them; `one log`: the "
        "rows of all days in one file; `CSV`: fewer of them, as text. `seconds` are on the clock, from the start of "
        "the command to its end, `memory` is the most that was resident. `machine busy`: processors that worked, for "
        "whomever it was. `as made`: rows, requests and bytes are those that were made."
    )
    table = table_in_markdown(HEAD, [row(point) for point in report.points])
    made = "Made by `python -m bench.planner.history`. As data: [history.json](history.json)."
    return "\n".join(["# Logs into the history", "", machine_line(report.machine), "", guide, "", table, made, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Make logs, take them in, print what came, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.planner.history", description="Logs into the history.")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of the logs of all days (default: {ROWS:,})")
    parser.add_argument("--days", type=int, default=DAYS, help=f"of these logs (default: {DAYS})")
    parser.add_argument("--csv", type=int, default=0, metavar="ROWS", help="of a log that is CSV (default: none)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, metavar="DIR", help="for the logs (default: the system's)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write history.json and history.md there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.rows < options.days or options.days < 1:
        parser.error("a day has at least one row")
    with tempfile.TemporaryDirectory(prefix="p2pfill-history-", dir=options.work) as work:
        points = measure(Path(work), options.rows, options.days, options.csv, options.seed)
        report = Report(describe_machine(Path(work)), points)
    print(msgspec.json.encode(report).decode() if options.json else table_in_markdown(HEAD, [row(p) for p in points]))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "history.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        (options.out / "history.md").write_text(page(report))
    return int(not all(point.is_good for point in points))


if __name__ == "__main__":
    sys.exit(main())
