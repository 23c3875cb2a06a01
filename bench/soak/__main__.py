"""Watches a node with hundreds of links, and its tracker, for what grows while titles come and go.

    python -m bench.soak [--links 500] [--titles 1000] [--minutes 30] [--out docs/reports/soak] [--json]

Prints what happened and a table of what is to stay flat. With --out it also writes JSON, a page and a plot. 500 links
need 2,756 descriptors (`ulimit -n`; the soft limit is raised to the hard one). Exit code 1 where something grows, a
title is not live in time, or anything is wrong; 2 where it cannot run.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from bench.soak.flatness import judge
from bench.soak.fleet import run_soak
from bench.soak.page import HEAD, draw, page, row, said
from bench.soak.records import Report, decode, encode
from bench.swarm import plots
from bench.swarm.processes import RunFailed
from p2pfill.cli.services import raise_descriptors
from p2pfill.errors import P2PFillError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=about)
    parser.add_argument("--links", type=int, default=500, help="caches that are linked with the node (default: 500)")
    parser.add_argument("--titles", type=int, default=1000, help="that come, one after the other (default: 1000)")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two samples")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write soak.json, a page and a plot there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where all keep their data (default: the system's)")
    parser.add_argument("--keep", action="store_true", help="leave data and logs there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    parser.add_argument("--redraw", action="store_true", help="run nothing: make page and plot from the JSON in --out")
    options = parser.parse_args(arguments)
    if options.redraw and not options.out:
        parser.error("--redraw needs --out DIR")
    if not (1 <= options.links <= 500 and options.titles >= 1 and options.minutes > 0 and options.every > 0):
        parser.error("--links must be 1 to 500, and all other numbers above 0")
    return options


def run(options: argparse.Namespace, console: Console) -> Report:
    """Do what the command line says."""
    if options.redraw:
        report = decode((options.out / "soak.json").read_bytes())
        report.judged = [*judge("node", report.node), *judge("tracker", report.tracker)]
        return report
    work = Path(tempfile.mkdtemp(prefix="p2pfill-soak-", dir=options.work))
    try:
        return trio.run(run_soak, work, options.links, options.titles, options.minutes, options.every, options.seed)
    finally:
        if options.keep:
            console.print(f"kept: {work}", soft_wrap=True)
        else:
            shutil.rmtree(work, ignore_errors=True)


def write(report: Report, directory: Path, console: Console) -> None:
    """Write JSON, page and plot."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "soak.json").write_bytes(encode(report))
    (directory / "README.md").write_text(page(report))
    if undrawn := plots.missing():
        console.print(f"no plot: {undrawn}", markup=False)
    else:
        draw(report, directory)


def show(report: Report, console: Console) -> None:
    """Print what happened, and the table."""
    for line in (*said(report), *report.happened.stuck):
        console.print(line, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name, justify in zip(HEAD, ("left", "left", "right", "right", "right", "left"), strict=True):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for one in report.judged:
        table.add_row(*row(one))
    console.print(table)
    if not all(one.is_flat for one in report.judged):
        for name, course in (("node", report.node), ("tracker", report.tracker)):
            console.print(f"{name}: grown most: {course.grown}", markup=False, soft_wrap=True)


def main() -> None:
    """Run the command; see the top of this file for its exit codes, and 130 after a signal."""
    options = parse_arguments()
    # As an exception, so that the processes go also when the soak is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=options.json, highlight=False)
    raise_descriptors()
    try:
        report = run(options, console)
    except* (RunFailed, P2PFillError, ValueError, OSError, msgspec.DecodeError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"bench.soak: {error}", file=sys.stderr)
        sys.exit(2)
    except* KeyboardInterrupt:
        sys.exit(130)
    show(report, console)
    if options.json:
        print(encode(report).decode(), end="", flush=True)
    if options.out:
        write(report, options.out, console)
    sys.exit(0 if report.is_good else 1)


if __name__ == "__main__":
    main()
