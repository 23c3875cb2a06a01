"""What a chunk costs in the simulator: processor time, and instructions where valgrind counts them.

    python -m bench.sim_cost [--caches 130] [--chunks 32] [--scenario fleet-20000] [--instructions] [--beside DIR]

The simulator drives the engine that ships, so most of this is what a node's decisions cost too. A run is a fill of a
smaller fleet of one of the large scenarios, with chunks of 4 MiB. Processor time is of the run alone, without the
start of the interpreter and the making of the fleet; on a machine that does other work it is a third larger, so the
least of several runs counts, and with `--beside`, the root of another version of the code, the two go by turns.
Instructions take fifty times as long, are counted once, and are the same on every machine with the same Python.

The digest of the trace tells whether both did the same: a change that is to make nothing but faster must leave it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from bench.fleet import LARGE, SEED, smaller
from bench.micro.instructions import MARK, lacking, read_total
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.world import World

ROOT: Final = Path(__file__).parents[1]
CHUNK_MIB: Final = 4
LIMIT_S: Final = 3600.0


class Cost(msgspec.Struct):
    """What one run took."""

    chunks: int
    """Delivered, to all caches together."""
    deeds: int
    seconds: float
    """Of the processor, in the program and in the system."""
    digest: str
    """Of the trace."""

    @property
    def each_us(self) -> float:
        """Processor time for a chunk, in microseconds."""
        return self.seconds / self.chunks * 1e6


def scenario_of(name: str, caches: int, chunks: int) -> Scenario:
    """Return a large scenario with fewer caches, and a title of so many chunks."""
    whole = Scenario.load(ROOT / "scenarios" / f"{name}.toml")
    return msgspec.structs.replace(
        smaller(whole, caches), chunk_kib=1024 * CHUNK_MIB, size_mib=CHUNK_MIB * chunks
    )  # fmt: skip


def run(scenario: Scenario) -> Cost:
    """Run a scenario in this process."""
    world = World(scenario, SEED)
    # Its turns depend on what else is in memory.
    gc.disable()
    try:
        os.getppid()
        began = resource.getrusage(resource.RUSAGE_SELF)
        report = world.run()
        ended = resource.getrusage(resource.RUSAGE_SELF)
        os.getppid()
    finally:
        gc.enable()
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return Cost(report.caches * report.chunk_count, report.events, seconds, report.trace_digest)


def measure(root: Path, options: argparse.Namespace) -> Cost:
    """Run a scenario with the code below `root`, in a process of its own."""
    return msgspec.json.decode(_output([sys.executable, *_child(options)], root), type=Cost)


def count(root: Path, options: argparse.Namespace) -> int:
    """Return how many instructions a run takes with the code below `root`."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-sim-cost-") as work:
        out = Path(work) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
        _output([*command, sys.executable, *_child(options)], root)
        return read_total(out.with_name("out.2"))


def _child(options: argparse.Namespace) -> list[str]:
    figures = ["--scenario", options.scenario, "--caches", str(options.caches), "--chunks", str(options.chunks)]
    return [str(Path(__file__)), "--child", *figures]


def _output(command: list[str], root: Path) -> bytes:
    environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, timeout=LIMIT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr.decode(errors='replace')[-3000:]}")
    return done.stdout


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.sim_cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenario", choices=LARGE, default="fleet-20000")
    parser.add_argument("--caches", type=int, default=130, help="more than 64 an ISP: each is then linked with a few")
    parser.add_argument("--chunks", type=int, default=32, help="of 4 MiB each")
    parser.add_argument("--runs", type=int, default=3, help="of which the least counts")
    parser.add_argument("--instructions", action="store_true", help="count instructions too; takes minutes")
    parser.add_argument("--beside", type=Path, metavar="DIR", help="root of another version of the code")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.caches < 2 or options.chunks < 1 or options.runs < 1:
        parser.error("a fleet is at least 2 caches, a title at least 1 chunk, and there is at least 1 run")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print what came of it; exit code 1 where two versions did not do the same."""
    options = parse_arguments(arguments)
    if options.child:
        cost = run(scenario_of(options.scenario, options.caches, options.chunks))
        print(json.dumps(msgspec.to_builtins(cost)))
        return 0
    if options.instructions and (why := lacking()):
        print(why, file=sys.stderr)
        return 2
    roots = [ROOT, *([options.beside.resolve()] if options.beside is not None else [])]
    # Here, since in the process of an older tree these modules would be looked for in that tree.
    from bench.trees import check_tree
    from p2pfill.bench.measure import BenchFailed

    try:
        for root in roots:
            check_tree(root)
    except BenchFailed as error:
        print(f"bench.sim_cost: {error}", file=sys.stderr)
        return 2
    costs: dict[Path, list[Cost]] = {root: [] for root in roots}
    for _ in range(options.runs):
        for root in roots:
            costs[root].append(measure(root, options))
    for root in roots:
        least = min(costs[root], key=lambda cost: cost.seconds)
        line = (
            f"{root}: {least.chunks:,} chunks, {least.deeds / least.chunks:.2f} deeds and {least.each_us:.0f} us each"
        )
        if options.instructions:
            line += f", {count(root, options) / least.chunks:,.0f} instructions each"
        print(f"{line}; trace {least.digest}")
    return int(len({cost.digest for some in costs.values() for cost in some}) > 1)


if __name__ == "__main__":
    sys.exit(main())
