"""Fills caches on a small Internet of network namespaces with one contender after the other, and compares them.

    python -m bench.swarm bench/topologies/3x4.toml [--runs 5] [--only p2pfill] [--out DIR] [--json]

Prints a table for each topology: time over the bound, copies out of the origin and into each ISP, processor seconds.
With --out it also writes JSON, Markdown and plots. Needs root, to make network namespaces, and iproute2.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.pair import write_source
from bench.swarm import report
from bench.swarm.bounds import GOODPUT
from bench.swarm.contender import Contender
from bench.swarm.lab import Lab, LabError
from bench.swarm.libtorrent_fleet import LibTorrent
from bench.swarm.measure import run_contender
from bench.swarm.p2pfill_fleet import P2PFill
from bench.swarm.records import Report, Run
from bench.swarm.topology import Topology, TopologyError, load_topology

CONTENDERS: Final[dict[str, type[Contender]]] = {"p2pfill": P2PFill, "libtorrent": LibTorrent}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    about, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m bench.swarm", description=about, epilog=more.rpartition("\n\n")[2])
    parser.add_argument("topology", type=Path, nargs="*", help="TOML files, as in bench/topologies")
    parser.add_argument("--runs", type=int, default=5, help="of each contender, taken in turns (default: 5)")
    parser.add_argument("--only", choices=CONTENDERS, help="run this contender alone")
    parser.add_argument("--out", type=Path, help="where to write reports and plots")
    parser.add_argument("--work", type=Path, help="where the caches' data goes (default: the system's choice)")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON, one after the other")
    return parser.parse_args(arguments)


def measure_topology(
    topology: Topology, kinds: dict[str, type[Contender]], runs: int, work: Path, console: Console
) -> Report:
    """Run all contenders in turns and return the report. Raises `LabError`."""
    absent = {name: why for name, kind in kinds.items() if (why := kind.missing())}
    present = {name: kind for name, kind in kinds.items() if name not in absent}
    (work / "source").mkdir()
    write_source(work / "source" / "file", topology.size_mib)
    titles: dict[str, Any] = {name: kind.prepare(work / "source", work) for name, kind in present.items()}
    with Lab(topology) as lab:
        congestion_control = lab.congestion_control()
    found: list[Run] = []
    for number in range(1, runs + 1):
        for name, kind in present.items():
            run = run_contender(name, kind, topology, titles[name], work / "run")
            found.append(run)
            said = f"failed: {run.failed}" if run.failed else f"{run.time_over_bound:.2f} x bound, {run.seconds:.1f} s"
            console.print(f"{topology.name}: run {number} of {runs}, {name}: {said}", markup=False, soft_wrap=True)
    versions = {name: kind.version() for name, kind in present.items()}
    return report.make_report(topology, found, absent, report.surroundings(versions, congestion_control, GOODPUT, None))


def main() -> None:
    """Run the command; ends with code 2 where it cannot run and 1 where a run failed."""
    options = parse_arguments()
    # So that namespaces and processes go also when the benchmark is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(stderr=options.json, highlight=False)
    kinds = {options.only: CONTENDERS[options.only]} if options.only else CONTENDERS
    failed = False
    try:
        topologies = {path.stem: load_topology(path) for path in options.topology}
        for key, topology in topologies.items():
            work = Path(tempfile.mkdtemp(prefix="p2pfill-swarm-", dir=options.work))
            try:
                made = measure_topology(topology, kinds, options.runs, work, console)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            console.print(report.terminal_table(made))
            failed |= any(run.failed for run in made.runs)
            if options.json:
                print(report.encode_report(made), flush=True)
            if options.out:
                report.write_report(made, options.out, key)
    except (LabError, TopologyError) as error:
        print(f"bench.swarm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
