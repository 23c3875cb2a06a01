"""Fills of whole fleets in the simulator: two large ones, and how each figure grows from 10 caches to 20,000.

    python -m bench.fleet [--jobs 2] [--sizes 10,100,1000] [--only growth] [--out docs/reports/fleet] [--redraw]

Each run is a process of its own, so that its memory is its own. What a run measures in virtual time is the same on
every machine; processor time and memory are this machine's. Writes one JSON file, one page and plots into --out.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bench.swarm.plots import PNG_DPI, missing
from p2pfill.sim.scenario import Fleet, Scenario
from p2pfill.sim.world import World
from p2pfill.swarm.fill import Fill

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT: Final = Path(__file__).parents[1]
LARGE: Final = ("fleet-2600", "fleet-20000")
GROWTH: Final = "fleet-20000"
"""The scenario of which smaller fleets are run, with as many caches an ISP and as many ISPs a region."""

SIZES: Final = (10, 30, 100, 300, 1000, 3000, 10_000, 20_000)
SEED: Final = 1
KRAKEN_S: Final = {"p50_s": 10.0, "p99_s": 18.0, "p999_s": 22.0}
"""What Uber has published of Kraken: 3 GB to 2,600 hosts, each held to 300 MB/s (README of uber/kraken)."""

HUGE_PAGES: Final = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Environment of the processes: a fleet is gigabytes of small objects, found sooner in large pages. Runs of 1,000 and
3,000 caches took 5 and some 20 % less time, for 5 % more memory. Without glibc it does nothing."""

CURVES: Final = {
    "time_over_bound": "time / bound",
    "messages_per_chunk": "control messages per chunk and cache",
    "scheduler_us": "scheduler, microseconds per chunk and cache",
    "memory_kib": "memory, KiB per cache",
}


class Outcome(msgspec.Struct):
    """What one run gave."""

    scenario: str
    caches: int
    isps: int
    regions: int
    chunk_count: int
    title_bytes: int
    seconds: float
    bound_s: float
    time_over_bound: float
    p50_s: float
    p99_s: float
    p999_s: float
    origin_copies: float
    isp_copies_max: float
    messages_per_chunk: float
    escalations: dict[str, int]
    duplicate_parts: float
    """Bytes that came for nothing, as a part of all that were wanted."""
    scheduler_us: float
    """Processor time inside the fill logic, in microseconds for each chunk of each cache; its clock included."""
    memory_kib: float
    """What the run took beyond what an empty process does, for each cache."""
    wall_s: float
    completions: list[float]
    """When each cache was live, in order; for large fleets every n-th."""


class Results(msgspec.Struct):
    """All that was measured, and where."""

    machine: str
    python: str
    large: dict[str, Outcome]
    growth: list[Outcome]


def smaller(scenario: Scenario, caches: int) -> Scenario:
    """Return a scenario with fewer caches: smaller ISPs where there would be less than two, then fewer of them."""
    whole = scenario.fleet or Fleet(caches)
    isps = max(2, caches * whole.isps // whole.caches)
    regions = max(1, isps * whole.regions // whole.isps)
    return msgspec.structs.replace(scenario, fleet=Fleet(caches, isps, regions))


class Stopwatch:
    """Adds up the time inside some functions of one thread. Calls among them count once."""

    def __init__(self) -> None:
        self.total_ns = 0
        self._inside = False

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, whose time counts from now on."""

        def call(*arguments: Any) -> Any:
            if self._inside:
                return function(*arguments)
            self._inside = True
            began_ns = time.perf_counter_ns()
            try:
                return function(*arguments)
            finally:
                self.total_ns += time.perf_counter_ns() - began_ns
                self._inside = False

        return call


def run(scenario: Scenario) -> Outcome:
    """Run a scenario in this process, which is to run nothing else. Raises `InvariantBroken`."""
    gc.disable()
    watch = Stopwatch()
    Fill.handle = watch.timed(Fill.handle)  # type: ignore[method-assign]
    Fill.poll_actions = watch.timed(Fill.poll_actions)  # type: ignore[method-assign]
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    report = World(scenario, SEED).run()
    chunks = report.caches * report.chunk_count
    times = sorted(report.completions.values())
    fleet = scenario.fleet or Fleet(report.caches)
    return Outcome(
        scenario=scenario.name,
        caches=report.caches,
        isps=fleet.isps,
        regions=fleet.regions,
        chunk_count=report.chunk_count,
        title_bytes=report.title_bytes,
        seconds=report.seconds,
        bound_s=report.bound_s,
        time_over_bound=report.time_over_bound,
        p50_s=report.p50_s,
        p99_s=report.p99_s,
        p999_s=report.p999_s,
        origin_copies=report.origin_copies,
        isp_copies_max=report.isp_copies.max,
        messages_per_chunk=report.messages_per_chunk,
        escalations=report.escalations,
        duplicate_parts=report.duplicate_bytes / (report.title_bytes * report.caches),
        scheduler_us=watch.total_ns / 1000 / chunks,
        memory_kib=(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / report.caches,
        wall_s=time.monotonic() - began,
        completions=times[:: max(1, len(times) // 500)],
    )


def measure(sizes: list[int], *, large: bool, jobs: int) -> Results:
    """Run everything, the longest first, `jobs` at a time; what is done is said on stderr."""
    load = {name: Scenario.load(ROOT / "scenarios" / f"{name}.toml") for name in LARGE}
    todo = [(name, load[name]) for name in LARGE] if large else []
    whole = load[GROWTH].fleet
    shared = large and whole is not None and whole.caches in sizes
    todo += [("", smaller(load[GROWTH], size)) for size in sizes if not (shared and size == _size(load[GROWTH]))]
    todo.sort(key=lambda item: -_size(item[1]))
    results = Results(platform.machine(), platform.python_version(), {}, [])
    os.environ.update(HUGE_PAGES)
    # A process for each: memory is measured as the most that a process has had.
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        waiting = [(name, pool.apply_async(run, (scenario,))) for name, scenario in todo]
        for name, one in waiting:
            outcome = one.get()
            print(f"{outcome.caches:,} caches: {outcome.time_over_bound:.2f} x bound", file=sys.stderr, flush=True)
            if name:
                results.large[name] = outcome
            if not name or (shared and name == GROWTH):
                results.growth.append(outcome)
    results.growth.sort(key=lambda outcome: outcome.caches)
    return results


def _size(scenario: Scenario) -> int:
    return scenario.fleet.caches if scenario.fleet is not None else 0


# ---- the page


def page(results: Results) -> str:
    """Return the results in words and tables."""
    lines = ["# Whole fleets, in the simulator", "", "Made by `python -m bench.fleet`; do not edit.", ""]
    if results.large:
        heads = "caches | ISPs, regions | chunks | time / bound | p50 | p99 | p99.9 | origin | into an ISP, most"
        lines += [f"| | {heads} |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for name, one in results.large.items():
        lines += [
            f"| {name} | {one.caches:,} | {one.isps}, {one.regions} | {one.chunk_count} | {one.time_over_bound:.2f} | "
            f"{one.p50_s:.2f} s | {one.p99_s:.2f} s | {one.p999_s:.2f} s | {one.origin_copies:.3f} | "
            f"{one.isp_copies_max:.3f} |"
        ]
    for name, one in results.large.items():
        escalations = ", ".join(f"{why} {count}" for why, count in one.escalations.items()) or "none"
        lines += [
            "",
            f"{name}: {one.title_bytes / 1e9:.2f} GB, bound {one.bound_s:.2f} s; escalations: {escalations}; sent for "
            f"nothing: {100 * one.duplicate_parts:.2f} %; the run took {one.wall_s / 60:.1f} minutes on this machine.",
        ]
    if results.large:
        lines += ["", "![caches that are ready over time](completions.svg)"]
    if results.growth:
        lines += ["", "## Growth", "", "| caches | " + " | ".join(CURVES.values()) + " | origin | into an ISP, most |"]
        lines += ["| --- |" + " --- |" * (len(CURVES) + 2)]
    for one in results.growth:
        figures = " | ".join(f"{getattr(one, name):.3g}" for name in CURVES)
        lines += [f"| {one.caches:,} | {figures} | {one.origin_copies:.3f} | {one.isp_copies_max:.3f} |"]
    if results.growth:
        lines += ["", "![growth](growth.svg)", "", "Times and messages are virtual and the same everywhere; scheduler"]
        lines[-1] += f" time and memory are those of {results.machine}, Python {results.python}."
    return "\n".join(lines) + "\n"


def draw(results: Results, directory: Path) -> None:
    """Draw the plots. Needs matplotlib."""
    import matplotlib

    with matplotlib.rc_context({"backend": "agg", "svg.hashsalt": "p2pfill", "font.size": 10}):
        drawn = {}
        if results.large:
            drawn["completions"] = completions(results)
        if results.growth:
            drawn["growth"] = growth(results)
        for name, figure in drawn.items():
            for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                figure.savefig(directory / f"{name}.{kind}", metadata=metadata, dpi=PNG_DPI, facecolor="white")


def completions(results: Results) -> Figure:
    """Draw which part of each fleet was ready when."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4 * len(results.large)), layout="constrained")
    plots = figure.subplots(len(results.large), squeeze=False)[:, 0]
    for axes, (name, one) in zip(plots, results.large.items(), strict=True):
        parts = [(place + 1) / len(one.completions) for place in range(len(one.completions))]
        axes.step(one.completions, parts, where="post", color="#1f6f8b", label="p2pfill")
        axes.axvline(one.bound_s, color="#444444", linestyle="--", linewidth=1, label="bound")
        if name == "fleet-2600":
            axes.plot(list(KRAKEN_S.values()), [0.5, 0.99, 0.999], "o", color="#d1495b", label="Kraken, as published")
        axes.set_title(f"{one.scenario}", fontsize=10)
        axes.set_xlabel("seconds from the order")
        axes.set_ylabel("part of the caches that are ready")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False)
    return figure


def growth(results: Results) -> Figure:
    """Draw each figure over the size of the fleet."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    sizes = [one.caches for one in results.growth]
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, CURVES.items(), strict=True):
        axes.plot(sizes, [getattr(one, name) for one in results.growth], "o-", color="#1f6f8b")
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("caches")
        axes.grid(alpha=0.3)
    return figure


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="fleets of the growth curves")
    parser.add_argument("--only", choices=["growth"], help="leave the two large fleets out")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reports" / "fleet", metavar="DIR")
    parser.add_argument("--redraw", action="store_true", help="run nothing: make page and plots from the JSON in --out")
    options = parser.parse_args(arguments)
    try:
        options.sizes = sorted({int(size) for size in options.sizes.split(",") if size})
    except ValueError:
        parser.error(f"--sizes {options.sizes!r} is not a list of numbers, as in 10,100,1000")
    if options.jobs < 1 or any(size < 2 for size in options.sizes):
        parser.error("--jobs must be at least 1, and each fleet at least 2 caches")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run, and write what came of it."""
    options = parse_arguments(arguments)
    file = options.out / "fleet.json"
    if options.redraw:
        results = msgspec.json.decode(file.read_bytes(), type=Results)
    else:
        results = measure(options.sizes, large=options.only is None, jobs=options.jobs)
        options.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(msgspec.to_builtins(results), indent=1) + "\n")
    (options.out / "README.md").write_text(page(results))
    if why := missing():
        print(f"no plots: {why}", file=sys.stderr)
    else:
        draw(results, options.out)
    print(page(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
