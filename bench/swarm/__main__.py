"""Fills caches on a small Internet of network namespaces with one contender after the other, and compares them.

    python -m bench.swarm bench/topologies/3x4.toml [--runs 5] [--only p2pfill] [--out DIR] [--json]

Prints tables for each topology: time over the bound, copies out of the origin and into each ISP, processor seconds, and
where these went. With --floor a C program that only moves the bytes stands beside the contenders.
With --out it also writes JSON, Markdown and plots. Needs root, to make network namespaces, and iproute2.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from bench.swarm import costs, memory, plots, report
from bench.swarm.bounds import GOODPUT
from bench.swarm.contender import Contender
from bench.swarm.floor_fleet import FLOORS, FloorFleet
from bench.swarm.goodput import measure_goodput
from bench.swarm.lab import Lab, LabError
from bench.swarm.libtorrent_fleet import LibTorrent
from bench.swarm.measure import run_contender
from bench.swarm.p2pfill_fleet import P2PFill
from bench.swarm.records import Report, Run
from bench.swarm.titles import run_titles
from bench.swarm.topology import Topology, TopologyError, load_topology
from p2pfill.bench.source import write_source

CONTENDERS: Final[dict[str, type[Contender]]] = {"p2pfill": P2PFill, "libtorrent": LibTorrent}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.swarm", description=about)
    parser.add_argument("topology", type=Path, nargs="*", help="TOML files, as in bench/topologies")
    parser.add_argument("--runs", type=int, default=5, help="of each contender, taken in turns (default: 5)")
    parser.add_argument("--only", choices=CONTENDERS, help="run this contender alone")
    parser.add_argument("--floor", action="store_true", help="run a C program, too, that only moves the bytes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write JSON, Markdown and plots there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where caches keep their data (default: the system's)")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON and nothing else")
    parser.add_argument("--iperf", action="store_true", help="measure first what a TCP stream gets out of a link")
    parser.add_argument(
        "--redraw", action="store_true", help="run nothing: make pages and plots from the JSON in --out"
    )
    options = parser.parse_args(arguments)
    if options.redraw and not options.out:
        parser.error("--redraw needs --out DIR")
    if not options.redraw and not options.topology:
        parser.error("name at least one topology file, for instance bench/topologies/3x4.toml")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def measure_topology(topology: Topology, options: argparse.Namespace, work: Path, console: Console) -> Report:
    """Run all contenders in turns and return the report. Raises `LabError`."""
    kinds: dict[str, type[Contender]] = {options.only: CONTENDERS[options.only]} if options.only else CONTENDERS
    if topology.titles:
        kinds = {"p2pfill": P2PFill}  # the others have no urgency between titles
    floors: dict[str, type[Contender]] = {}
    if options.floor and not topology.titles and not topology.events:
        floors.update(FLOORS)
    absent = {name: why for name, kind in {**kinds, **floors}.items() if (why := kind.missing())}
    present = {name: kind for name, kind in {**kinds, **floors}.items() if name not in absent}
    with Lab(topology) as lab:
        congestion_control = lab.congestion_control()
        goodput_measured = measure_goodput(lab) if options.iperf else None
    def say(number: int, run: Run) -> None:
        said = f"failed: {run.failed}" if run.failed else f"{run.time_over_bound:.2f} x bound, {run.seconds:.1f} s"
        where = f"{topology.name}: run {number} of {options.runs}"
        console.print(f"{where}, {run.contender}: {said}", markup=False, soft_wrap=True)

    memory.touch(memory.bytes_of(topology))
    if topology.titles:
        found = run_titles(topology, options.runs, work, say)
    else:
        found = run_contenders(topology, options.runs, present, work, say)
    versions = {name: kind.version() for name, kind in present.items() if name not in floors}
    if floors.keys() & present.keys():
        versions["C floor"] = FloorFleet.version()
    here = report.surroundings(versions, congestion_control, GOODPUT, goodput_measured)
    made = report.make_report(topology, [run for run in found if run.contender not in floors], absent, here)
    made.floors = [run for run in found if run.contender in floors]
    return made


def run_contenders(
    topology: Topology,
    runs: int,
    kinds: dict[str, type[Contender]],
    work: Path,
    say: Callable[[int, Run], object],
) -> list[Run]:
    """Run all contenders in turns with one title. Raises `LabError`."""
    (work / "source").mkdir()
    write_source(work / "source" / "file", topology.size_mib)
    titles: dict[str, Any] = {name: kind.prepare(work / "source", work) for name, kind in kinds.items()}
    found: list[Run] = []
    for number in range(1, runs + 1):
        for name, kind in kinds.items():
            run = run_contender(name, kind, topology, titles[name], work / "run")
            found.append(run)
            say(number, run)
    return found


def write_all(reports: dict[str, Report], directory: Path, console: Console) -> None:
    """Write JSON, pages and plots, and one page over all reports of the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    undrawn = plots.missing()
    if undrawn:
        console.print(f"no plots: {undrawn}", markup=False)
    for key, made in reports.items():
        report.write_report(made, directory, key)
        if not undrawn:
            plots.draw_report(made, directory, key)
    (directory / "README.md").write_text(report.overview(report.read_reports(directory), report.guide_from(directory)))


def run(options: argparse.Namespace, console: Console) -> bool:
    """Do what the command line says; return whether every run came to its end."""
    if options.redraw:
        write_all(report.read_reports(options.out), options.out, console)
        return True
    good = True
    # Read first, so that a mistake in the last file is found before hours of runs.
    topologies = {path.stem: load_topology(path) for path in options.topology}
    for key, topology in topologies.items():
        work = Path(tempfile.mkdtemp(prefix="p2pfill-swarm-", dir=options.work))
        try:
            made = measure_topology(topology, options, work, console)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        console.print(report.terminal_table(made))
        if (side_by_side := report.titles_table(made)) is not None:
            console.print(side_by_side)
        for table in report.cost_tables(made):
            console.print(table)
        for line in [*report.ratio_lines(made), *costs.lines(made)]:
            console.print(line, markup=False, soft_wrap=True)
        good &= not any(run.failed for run in [*made.runs, *made.floors])
        if options.json:
            print(report.encode_report(made), end="", flush=True)
        if options.out:
            write_all({key: made}, options.out, console)
    return good


def main() -> None:
    """Run the command: exit code 0, or 1 where a run failed, 2 where it cannot run, 130 after a signal."""
    options = parse_arguments()
    # As an exception, so that namespaces and processes go also when the benchmark is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=options.json, highlight=False)
    try:
        sys.exit(0 if run(options, console) else 1)
    except (LabError, TopologyError, msgspec.DecodeError) as error:
        print(f"bench.swarm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
