"""`p2pfill sim`: runs scenarios in virtual time and shows what came of it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import resource
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pfill.cli.exits import CommandFailed
from p2pfill.errors import ConfigError, InternalError, ProtocolError

if TYPE_CHECKING:
    from p2pfill.sim.report import Report
    from p2pfill.sim.scenario import Scenario

PROGRESS_WALL_S: Final = 0.5
"""How often progress is shown."""

SEEDS_A_TASK: Final = 8
"""Seeds that a process is given at a time; one takes about a tenth of a second."""

SHOWN_ISPS: Final = 8


def run_sim(
    scenario_file: Path,
    seed: int,
    seeds: str | None,
    *,
    jobs: int,
    trace_file: Path | None,
    as_json: bool,
) -> None:
    """Run one seed and show its report, or many and show which failed."""
    from p2pfill.sim.scenario import Scenario

    if scenario_file.is_dir() or not scenario_file.exists():
        raise ConfigError(f"cannot read scenario {str(scenario_file)!r}: there is no such file")
    scenario = Scenario.load(scenario_file)
    if seeds is None:
        run_one(scenario_file, scenario, seed, trace_file, as_json=as_json)
    else:
        run_many(scenario_file, parse_seeds(seeds), jobs, as_json=as_json)


def repeat_command(scenario_file: Path, seed: int) -> str:
    """Return the command that repeats a run."""
    return shlex.join(["p2pfill", "sim", str(scenario_file), "--seed", str(seed)])


def parse_seeds(text: str) -> range:
    """Return the seeds that `FIRST:END` means. Raises `ConfigError`."""
    first, colon, end = text.partition(":")
    if not colon or not first.isdigit() or not end.isdigit() or int(first) >= int(end):
        raise ConfigError(f"--seeds {text!r} is not a range of seeds: write FIRST:END, as in 0:10000")
    return range(int(first), int(end))


# ---- one seed


def run_one(
    scenario_file: Path, scenario: Scenario, seed: int, trace_file: Path | None, *, as_json: bool
) -> None:
    """Run a scenario with one seed and print what came of it."""
    from p2pfill.sim.trace import Trace
    from p2pfill.sim.world import World

    trace = Trace(keep=trace_file is not None)
    began = time.monotonic()
    # A large fleet is millions of objects, and hardly any garbage needs the collector to be found: with it a run of 600
    # caches takes a tenth longer, and no less memory.
    gc.disable()
    try:
        report = World(scenario, seed, trace=trace).run(None if as_json else Bar(began))
    except (InternalError, ProtocolError) as error:
        raise CommandFailed(f"{error}; repeat it with: {repeat_command(scenario_file, seed)}") from error
    finally:
        if trace_file is not None:
            trace.digest()
            trace_file.write_text("".join(f"{line}\n" for line in trace.lines))
    wall_s = time.monotonic() - began
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if as_json:
        print(json.dumps(report_record(report, wall_s, memory_bytes)))
    else:
        print_report(report, wall_s, memory_bytes)


def report_record(report: Report, wall_s: float, memory_bytes: int) -> dict[str, Any]:
    """Return a report, and what the run took of this machine, as JSON has it."""
    import msgspec

    record: dict[str, Any] = msgspec.to_builtins(report)
    return {**record, "wall_s": wall_s, "memory_bytes": memory_bytes}


class Bar:
    """Shows on a terminal's last line how far a run is."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._shown = began
        self._shows = sys.stderr.isatty()

    def __call__(self, now: float, live: int, caches: int) -> None:
        wall = time.monotonic()
        if self._shows and wall - self._shown >= PROGRESS_WALL_S:
            self._shown = wall
            line = f"{now:.1f} s simulated in {wall - self._began:.0f} s, {live} of {caches} caches complete"
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._shows:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def print_report(report: Report, wall_s: float, memory_bytes: int) -> None:
    """Print a report for people."""
    from rich.console import Console
    from rich.table import Table

    from p2pfill.cli.text import printable, show_bytes, show_seconds

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    spread = report.isp_copies
    rows = {
        "fleet": f"{report.caches:,} caches in {report.isps} ISPs of {report.regions} regions",
        "title": f"{show_bytes(report.title_bytes)} in {report.chunk_count:,} chunks",
        "complete": f"{report.complete:,} caches after {report.seconds:.2f} s",
        "time / bound": f"{report.time_over_bound:.2f} (the links allow {report.bound_s:.2f} s)",
        "completion": f"p50 {report.p50_s:.2f} s, p99 {report.p99_s:.2f} s, p99.9 {report.p999_s:.2f} s",
        "copies out of the origin": f"{report.origin_copies:.2f}",
        "copies into each ISP": f"{spread.min:.2f} to {spread.max:.2f}, median {spread.median:.2f}",
        "messages": f"{report.messages_per_chunk:.1f} for each chunk and cache",
        "escalations": ", ".join(f"{count} {why}" for why, count in report.escalations.items()) or "none",
        "duplicates": show_bytes(report.duplicate_bytes),
        "faults": str(report.faults),
        "trace": f"{report.trace_lines:,} lines, digest {report.trace_digest}",
        "simulated in": f"{show_seconds(wall_s)}, {report.events:,} events, {show_bytes(memory_bytes)} of memory",
    }
    for name, text in rows.items():
        table.add_row(name, printable(text))
    title = f"{report.scenario}, seed {report.seed}" if report.scenario else f"seed {report.seed}"
    console = Console(highlight=False)
    console.print(printable(title), markup=False)
    console.print(table)


# ---- many seeds


class Outcome:
    """How one seed ended: `error` is empty where nothing was broken."""

    def __init__(self, seed: int, error: str, time_over_bound: float, faults: int) -> None:
        self.seed = seed
        self.error = error
        self.time_over_bound = time_over_bound
        self.faults = faults


def try_seed(task: tuple[Scenario, int]) -> Outcome:
    """Run one seed; for a process of a pool."""
    from p2pfill.sim.world import World

    scenario, seed = task
    try:
        report = World(scenario, seed).run()
    except Exception as error:  # noqa: BLE001  (whatever a seed ends with is what we are here for)
        return Outcome(seed, f"{type(error).__name__}: {error}", 0.0, 0)
    return Outcome(seed, "", report.time_over_bound, report.faults)


def outcomes(scenario: Scenario, seeds: range, jobs: int) -> Iterator[Outcome]:
    """Yield how each seed ends, in order."""
    tasks = ((scenario, seed) for seed in seeds)
    if jobs == 1:
        yield from map(try_seed, tasks)
        return
    # Started anew instead of forked, so that no seed depends on what this process has done.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(try_seed, tasks, chunksize=SEEDS_A_TASK)


def run_many(scenario_file: Path, seeds: range, jobs: int, *, as_json: bool) -> None:
    """Run many seeds, until all are through or one has failed."""
    from p2pfill.sim.scenario import Scenario

    scenario = Scenario.load(scenario_file)
    began = shown = time.monotonic()
    shows = sys.stderr.isatty()
    passed = faults = 0
    for outcome in outcomes(scenario, seeds, jobs):
        if outcome.error:
            if as_json:
                print(json.dumps({"passed": passed, "failed_seed": outcome.seed, "error": outcome.error}))
            raise CommandFailed(
                f"seed {outcome.seed}: {outcome.error}; repeat it with: {repeat_command(scenario_file, outcome.seed)}"
            )
        passed += 1
        faults += outcome.faults
        if shows and time.monotonic() - shown >= PROGRESS_WALL_S:
            shown = time.monotonic()
            print(f"\r{passed} of {len(seeds)} seeds passed\x1b[K", end="", file=sys.stderr, flush=True)
    if shows:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    wall_s = time.monotonic() - began
    if as_json:
        print(json.dumps({"passed": passed, "faults": faults, "wall_s": wall_s}))
    else:
        print(f"{passed:,} seeds passed: {faults:,} faults, no invariant broken, {wall_s:.0f} s")


# ---- a recording


def replay_file(path: Path, *, as_json: bool) -> None:
    """Play a recording of a real fill and print whether it decides the same again."""
    from random import Random

    from p2pfill.swarm.recording import play, read_lines

    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read recording {str(path)!r}: {error.strerror}") from error
    try:
        fill, played, difference = play(read_lines(data), Random)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r} is not a recording: {error}") from error
    if as_json:
        line = difference.line if difference is not None else None
        print(json.dumps({"node": fill.me.id, "calls": played, "same": difference is None, "line": line}))
    if difference is not None:
        raise CommandFailed(
            f"line {difference.line}, at {difference.now!r} s: recorded was {difference.recorded}, now it is "
            f"{difference.played}"
        )
    if not as_json:
        chunks = f"{fill.ledger.have.count()} of {fill.manifest.chunk_count} chunks"
        print(f"{fill.me.id}: {played:,} calls, the same actions; {chunks} verified")
