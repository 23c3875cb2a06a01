"""Watches nights in the lab: caches with fill windows in several time zones, by the counters of their interfaces.

    python -m bench.night [bench/nights/zones.toml] [--nights 5] [--out docs/reports/night] [--json]

Prints a table of what nights are to show, and what they have shown. With --out it also writes JSON, a page and a plot.
Needs root, to make network namespaces, and iproute2. Exit code 1 where a night missed something.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from bench.night import plot, report, verdict
from bench.night.records import Night, NightsReport
from bench.night.topology import NightTopology, load_night
from bench.night.watch import run_night
from bench.swarm import plots
from bench.swarm.bounds import GOODPUT
from bench.swarm.lab import Lab, LabError
from bench.swarm.p2pfill_fleet import Offer, P2PFill, make_offer
from bench.swarm.report import surroundings
from bench.swarm.topology import TopologyError
from p2pfill.bench.source import write_source

ZONES = Path(__file__).parents[1] / "nights" / "zones.toml"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.night", description=about)
    parser.add_argument("night", type=Path, nargs="?", default=ZONES, help="a TOML file, as in bench/nights")
    parser.add_argument("--nights", type=int, default=5, help="how many, one after the other (default: 5)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write night.json, a page and a plot there")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where caches keep their data (default: the system's)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    parser.add_argument("--redraw", action="store_true", help="run nothing: make page and plot from the JSON in --out")
    options = parser.parse_args(arguments)
    if options.redraw and not options.out:
        parser.error("--redraw needs --out DIR")
    if options.nights < 1:
        parser.error("--nights must be at least 1")
    return options


def watch_nights(topology: NightTopology, count: int, work: Path, console: Console) -> NightsReport:
    """Run nights one after the other and return their report. Raises `LabError`."""
    with Lab(topology) as lab:
        congestion_control = lab.congestion_control()
    offers = []
    for title in topology.titles:
        source = work / f"source-{title.name}"
        source.mkdir()
        write_source(source / "file", title.size_mib)
        offer: Offer = make_offer(title.name, source, work)
        offers.append(offer._replace(priority=title.priority, at_s=title.at_seconds(0.0)))
    nights: list[Night] = []
    for number in range(1, count + 1):
        nights.append(run_night(topology, offers, work / "run"))
        said = "; ".join(verdict.misses(nights[-1], topology)) or "nothing missed"
        console.print(f"night {number} of {count}: {said}", markup=False, soft_wrap=True)
    here = surroundings({"p2pfill": P2PFill.version()}, congestion_control, GOODPUT, None)
    return NightsReport(topology, here, nights)


def write_all(made: NightsReport, directory: Path, console: Console) -> None:
    """Write JSON, page and plot."""
    report.write_report(made, directory)
    if undrawn := plots.missing():
        console.print(f"no plot: {undrawn}", markup=False)
    else:
        plot.draw_night(made, directory)


def run(options: argparse.Namespace, console: Console) -> bool:
    """Do what the command line says; return whether no night missed anything."""
    if options.redraw:
        write_all(report.decode_report((options.out / "night.json").read_bytes()), options.out, console)
        return True
    topology = load_night(options.night)
    work = Path(tempfile.mkdtemp(prefix="p2pfill-night-", dir=options.work))
    try:
        made = watch_nights(topology, options.nights, work, console)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    console.print(report.terminal_table(made))
    if options.json:
        print(report.encode_report(made), end="", flush=True)
    if options.out:
        write_all(made, options.out, console)
    return not any(verdict.misses(night, topology) for night in made.nights)


def main() -> None:
    """Run the command: exit code 0, or 1 where a night missed something, 2 where it cannot run, 130 after a signal."""
    options = parse_arguments()
    # As an exception, so that namespaces and processes go also when the benchmark is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=options.json, highlight=False)
    try:
        sys.exit(0 if run(options, console) else 1)
    except (LabError, TopologyError, msgspec.DecodeError, OSError) as error:
        print(f"bench.night: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
