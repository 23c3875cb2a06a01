"""Fills titles through bad networks between real processes, and from sources of which a third is wrong.

    python -m bench.networks [SCENARIO...] [--runs 3] [--out docs/reports/networks] [--json] [--seed 1]

Scenarios are kinds of bad weather in a proxy (calm, delay, throttle, resets, truncation, corruption, stalls,
black-holes, storm), partitions of a lab of network namespaces (uncut, isp, region, tracker, origin; they need root and
iproute2), each with TLS and without, and comparisons of sources (sources-9, sources-12, sources-minority), whose runs
are at least five. Without a name: all that can run here. Exit code 1 where anything is wrong or costs more than it may;
2 where a title is not live in time, or nothing can run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio
from rich.console import Console

from bench.networks import partition, sources
from bench.networks.fleet import CACHES, make_title, proxied_fleet
from bench.networks.page import page
from bench.networks.records import Report, Scenario
from bench.networks.weathers import KINDS
from bench.swarm.lab import LabError
from bench.swarm.processes import RunFailed
from p2pfill.bench.measure import describe_machine
from p2pfill.errors import P2PFillError
from p2pfill.model.policy import FillPolicy

SIZE: Final = 16 * 1024 * 1024
BAD_S: Final = 5.0
"""That the weather lasts."""
CUT_S: Final = 8.0
"""That a partition lasts: less than it takes for a connection to be given up, as most do."""
SOURCES_RUNS_MIN: Final = 5

POLICY: Final = FillPolicy(quarantine_s=10.0)
"""Shorter than by default (60 s), which is how long who was seen to send wrong bytes is left alone after healing."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    names = [*KINDS, *partition.KINDS, *sources.LAYOUTS]
    parser = argparse.ArgumentParser(prog="python -m bench.networks", description=about)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="of each scenario (default: 3)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write networks.json and a page there")
    parser.add_argument("--add", action="store_true", help="keep what the JSON in --out has of other scenarios")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where caches keep their data (default: the system's)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.scenarios if name not in names]:
        parser.error(f"there is no scenario {unknown[0]!r}: use {', '.join(names)}")
    if options.runs < 1 or (options.add and not options.out):
        parser.error("--runs must be at least 1, and --add needs --out")
    return options


def why_no_lab() -> str:
    """Return what is missing for partitions, or nothing."""
    return "root" if os.geteuid() else "" if shutil.which("ip") and shutil.which("tc") else "iproute2"


async def run_weathers(names: Sequence[str], options: argparse.Namespace, console: Console) -> list[Scenario]:
    """Run kinds of weather, with TLS and without, each on one fleet. Raises `RunFailed` and `P2PFillError`."""
    found = []
    for tls in (False, True):
        made = [Scenario(name, KINDS[name].what, tls, len(CACHES), SIZE) for name in names]
        async with proxied_fleet(options.work, seed=options.seed, tls=tls) as fleet:
            for number in range(options.runs):
                for one in made:
                    title = make_title(fleet.work, f"{one.name}-{number}", SIZE, random.Random(options.seed + number))
                    run = await fleet.fill(title, KINDS[one.name].weather, BAD_S, POLICY)
                    one.runs.append(run)
                    how = "TLS" if tls else "plain"
                    console.print(f"{one.name}, {how}: {run.recovery_s:.1f} s, wrong: {run.wrong}", markup=False)
        found += made
    return found


def run_partitions(names: Sequence[str], options: argparse.Namespace, console: Console) -> list[Scenario]:
    """Run partitions, with TLS and without, each in a lab of its own. Raises `LabError`, `RunFailed`."""
    found = []
    for name in names:
        for tls in (False, True):
            what, cut = partition.KINDS[name]
            what += f" for {CUT_S:g} s" if cut else ""
            one = Scenario(name, what, tls, len(partition.CACHES), partition.TOPOLOGY.size)
            for number in range(options.runs):
                run = partition.run_partition(options.work, name, tls=tls, bad_s=CUT_S, seed=options.seed + number)
                one.runs.append(run)
                how = "TLS" if tls else "plain"
                console.print(f"{name}, {how}: {run.recovery_s:.1f} s, wrong: {run.wrong}", markup=False)
            found.append(one)
    return found


def run(options: argparse.Namespace, console: Console) -> Report:
    """Do what the command line says."""
    asked = options.scenarios or [*KINDS, *partition.KINDS, *sources.LAYOUTS]
    report = Report(describe_machine(options.work or Path(tempfile.gettempdir())), options.seed)
    cuts = [name for name in partition.KINDS if name in asked]
    if cuts and not options.scenarios and (lacking := why_no_lab()):
        console.print(f"no partitions: they need {lacking}")
        cuts = []
    if weathers := [name for name in KINDS if name in asked]:
        report.scenarios += trio.run(run_weathers, weathers, options, console)
    report.scenarios += run_partitions(cuts, options, console)
    sizes = sources.Sizes(runs=max(SOURCES_RUNS_MIN, options.runs))
    for name in [name for name in sources.LAYOUTS if name in asked]:
        report.comparisons.append(trio.run(sources.compare, options.work, name, sizes, options.seed, console.print))
        console.print(f"{name}: {report.comparisons[-1].ratio:.2f} x")
    return report


def write(report: Report, directory: Path, *, adds: bool) -> Report:
    """Write JSON and page, and return what they say: with `adds` also what there was of other scenarios."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "networks.json"
    if adds and path.exists():
        before = msgspec.json.decode(path.read_bytes(), type=Report)
        new = {one.name for one in report.scenarios} | {one.name for one in report.comparisons}
        report.scenarios = [one for one in before.scenarios if one.name not in new] + report.scenarios
        report.comparisons = [one for one in before.comparisons if one.name not in new] + report.comparisons
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    (directory / "README.md").write_text(page(report))
    return report


def main() -> None:
    """Run the command; see the top of this file for its exit codes, and 130 after a signal."""
    options = parse_arguments()
    # As an exception, so that namespaces and processes go also when the benchmark is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=options.json, highlight=False)
    try:
        report = run(options, console)
    except* (RunFailed, P2PFillError, LabError, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"bench.networks: {error}", file=sys.stderr)
        sys.exit(2)
    except* KeyboardInterrupt:
        sys.exit(130)
    if options.out:
        report = write(report, options.out, adds=options.add)
    if options.json:
        print(msgspec.json.encode(report).decode(), flush=True)
    else:
        console.print(page(report), markup=False, soft_wrap=True)
    sys.exit(0 if report.is_good else 1)


if __name__ == "__main__":
    main()
