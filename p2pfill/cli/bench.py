"""`p2pfill bench`: benchmarks for everybody, on their own machine. What is measured, and how, is in `p2pfill.bench`.

Each benchmark is a command; with `--out` it writes its JSON and makes page and plots of that directory anew.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from p2pfill.cli import bench_ends
from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.errors import ConfigError

if TYPE_CHECKING:
    from p2pfill.bench.fanout import FanReport
    from p2pfill.bench.pair import PairReport

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure p2pfill on this machine, beside other programs and by itself: real processes, default settings.",
    epilog=EXIT_CODES_HELP,
)

RUNS: Final = 5
TABLE_WIDTH: Final = 160
PAIR_MIB: Final = 1024
FAN_MIB: Final = 512

Runs = Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Counted runs of each; they take turns.")]
Mib = Annotated[int, typer.Option("--mib", metavar="MIB", min=1, help="How large the file is.")]
Work = Annotated[
    Path | None,
    typer.Option("--work", metavar="DIR", help="A directory on the file system to measure; by default the system's."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Write JSON there, and its page and plots anew.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@app.command(epilog=EXIT_CODES_HELP)
def pair(
    mib: Mib = PAIR_MIB,
    runs: Runs = RUNS,
    only: Annotated[
        str,
        typer.Option(
            "--only",
            metavar="NAMES",
            help="Of floor, floor-synced, xxh3, default, curl, aria2, libtorrent and rsync, with commas between.",
        ),
    ] = "",
    work: Work = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Move a file from one process to another over loopback, with p2pfill and with other programs by turns.

    Beside the floor: a C program that sends, hashes and writes, and does nothing else. Who is not installed is left
    out and named. Takes about two minutes, and six times the file's size on the disk.
    """
    from p2pfill.bench.pair import as_record, run_pair
    from p2pfill.bench.report import pair_name

    with _workplace(work) as place, _progress() as said:
        report = run_pair(place, mib, runs, [name.strip() for name in only.split(",") if name.strip()], said)
    _give(pair_name(report), as_record(report), lambda: _show_pair(report), out, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def fanout(
    mib: Mib = FAN_MIB,
    runs: Runs = RUNS,
    receivers: Annotated[
        str, typer.Option("--receivers", metavar="N,N", help="How many fetch from one node; nothing for none.")
    ] = "1,4,16,64",
    sources: Annotated[
        str, typer.Option("--sources", metavar="N,N", help="How many one receiver fetches from; nothing for none.")
    ] = "1,4,16",
    work: Work = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Serve many receivers from one node, and fetch from many nodes, beside one pair.

    Every node is a process of its own. Takes about five minutes on two processors, and 9 GiB on the disk; titles are
    smaller where all copies together would be more than 4 GiB.
    """
    from p2pfill.bench.fanout import as_record, run_fanout

    many, few = _counts(receivers, "--receivers"), _counts(sources, "--sources")
    if not many and not few:
        raise ConfigError("nothing to measure: give --receivers or --sources, as in 1,4")
    with _workplace(work) as place, _progress() as said:
        report = run_fanout(place, mib, runs, many, few, said)
    _give("fanout", as_record(report), lambda: _show_fanout(report), out, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def big(
    gib: Annotated[str, typer.Option("--gib", metavar="N,N", help="Sizes of sparse titles.")] = "1,10,100",
    files: Annotated[str, typer.Option("--files", metavar="N,N", help="How many small files.")] = "2000,20000,200000",
    peers: Annotated[int, typer.Option("--peers", metavar="N", min=1, help="Peers of the node with the largest.")] = 64,
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Starts of a node, for the median.")] = RUNS,
    work: Work = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Publish, verify and serve titles of many chunks and of many files, and see how times and memory grow.

    Takes about six minutes, 2 GiB on the disk, and reads up to 100 GiB of nothing: the large titles are sparse.
    """
    from p2pfill.bench.big import measure_big

    sizes, counts = _counts(gib, "--gib"), _counts(files, "--files", 10_000_000)
    with _workplace(work) as place, _progress() as said:
        record = measure_big(gib_sizes=sizes, file_counts=counts, peers=peers, runs=runs, work=place, say=said)
    _give("big", record, lambda: _show_big(record), out, as_json=as_json)


@app.command(epilog=EXIT_CODES_HELP)
def redraw(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where --out of another run has written.")],
) -> None:
    """Make page and plots anew from the JSON files in a directory; nothing is run."""
    from p2pfill.bench import report

    for line in report.redraw(directory):
        print(line, file=sys.stderr)
    print(f"made {directory / report.PAGE}")


for command in (bench_ends.serve, bench_ends.fetch):
    app.command(epilog=EXIT_CODES_HELP)(command)


# ---- shared by the commands


@contextmanager
def _workplace(parent: Path | None) -> Iterator[Path]:
    """Make an empty directory, and remove it with everything in it, also where the process is told to end."""
    if parent is not None and not parent.is_dir():
        raise ConfigError(f"--work {str(parent)!r} is not a directory: make it first")
    place = Path(tempfile.mkdtemp(prefix="p2pfill-bench-", dir=parent))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield place
    finally:
        signal.signal(signal.SIGTERM, before)
        shutil.rmtree(place, ignore_errors=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: over and over on the last line of a terminal, else a line each."""
    terminal = sys.stderr.isatty()
    began = time.monotonic()

    def said(text: str) -> None:
        line = f"{time.monotonic() - began:5.0f} s  {text}"
        print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield said
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _counts(text: str, option: str, most: int = 999) -> list[int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdigit() and 0 < int(word) <= most for word in words):
        raise ConfigError(f"{option} {text!r} is not a list of numbers from 1 to {most}, as in 1,4,16")
    return [int(word) for word in words]


def _give(
    name: str, record: dict[str, Any], show: Callable[[], None], out: Path | None, *, as_json: bool
) -> None:
    """Write the report where it was asked for, and print it for people, or as JSON in the last line."""
    if out is not None:
        from p2pfill.bench import report

        for line in report.write(out, name, record):
            print(line, file=sys.stderr)
    if as_json:
        print(json.dumps(record))
        return
    show()
    if out is not None:
        print(f"\nwritten to {out}")


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Cells that are broken up cannot be read; lines that are too long for a terminal can.
    Console(highlight=False, markup=False, width=TABLE_WIDTH).print(table)


def _show_pair(report: PairReport) -> None:
    from p2pfill.bench import pair
    from p2pfill.bench.report import PAIR_AIMS, aim_rows, machine_line, show
    from p2pfill.cli.text import show_bytes

    rates, costs, peaks = pair.rates(report), pair.costs(report), pair.peaks(report)
    rows = [
        [
            name,
            show(rates[name]),
            f"{costs[name]['sender'].median:.2f} + {costs[name]['receiver'].median:.2f}",
            f"{show_bytes(peaks[name]['sender'])}, {show_bytes(peaks[name]['receiver'])}",
            one.checks,
            "yes" if one.durable else "no",
        ]
        for name, one in report.contenders.items()
    ]
    _print_table(
        ["", "GB/s: median (range)", "cpu s/GB: sender + receiver", "peak memory of each", "checked", "on disk"], rows
    )
    print()
    _print_table(
        ["ratio of medians", "is", "aim", "reached"],
        [[cell.strip("*") for cell in row] for row in aim_rows(pair.ratios(report), PAIR_AIMS)],
    )
    for name, why in report.absent.items():
        print(f"left out: {name}, {why}")
    print(f"\n{show_bytes(report.size_bytes)}. {machine_line(report.machine)}")


def _show_fanout(report: FanReport) -> None:
    from p2pfill.bench.report import FAN_HEAD, fan_rows, limits_line, machine_line

    _print_table(FAN_HEAD, fan_rows(report, lambda spread: f"{spread.median:.2f}"))
    print(f"\n{limits_line(report)}")
    print(f"\n{machine_line(report.machine)}")


def _show_big(record: dict[str, Any]) -> None:
    from p2pfill.bench.report import BIG_HEAD, big_lines, big_rows

    _print_table(BIG_HEAD, big_rows(record))
    print(f"\n{big_lines(record)[-1]}")
