"""Where processor time went: tables over the runs of a report, of contenders and floors alike. Pure.

All is divided by the payload that caches had at the end, in GB of 10^9 bytes, whatever crossed the wires for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from bench.swarm import counts
from bench.swarm.records import MachineUse, Report, Run
from bench.swarm.summary import Figure

BUSY_PART: Final = 0.7
"""Processors that were taken for so much of the fill decide how long it takes, and not the links alone."""

GROUP_PART: Final = 0.01
"""A group of threads that took less than this part of the whole has no row of its own."""

GB: Final = 1e9

Show = Callable[[Figure, int], str]


class CostTable(NamedTuple):
    """One table, without a form."""

    name: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def _machine(run: Run) -> MachineUse:
    assert run.machine is not None, "a run that was looked at by `measured`"
    return run.machine


def _sum(run: Run, field: str, place: int) -> float:
    return float(sum(getattr(use, field)[place] for use in run.processes.values()))


FIGURES: Final[dict[str, Callable[[Run], float]]] = {
    "user_s_gb": lambda run: _sum(run, "fill", 0) / run.moved_bytes * GB,
    "system_s_gb": lambda run: _sum(run, "fill", 1) / run.moved_bytes * GB,
    "cpu_s_gb": lambda run: (_sum(run, "fill", 0) + _sum(run, "fill", 1)) / run.moved_bytes * GB,
    "start_s": lambda run: _sum(run, "start", 0) + _sum(run, "start", 1),
    "start_user_s": lambda run: _sum(run, "start", 0),
    "start_system_s": lambda run: _sum(run, "start", 1),
    "voluntary_gb": lambda run: _sum(run, "switches", 0) / run.moved_bytes * GB,
    "involuntary_gb": lambda run: _sum(run, "switches", 1) / run.moved_bytes * GB,
    "moved_gb": lambda run: run.moved_bytes / GB,
    "wire_gb": lambda run: run.wire_bytes / GB,
    "busy": lambda run: _machine(run).busy,
    "stolen": lambda run: _machine(run).stolen,
    "contender": lambda run: _machine(run).contender,
    "harness": lambda run: _machine(run).harness,
    "others": lambda run: _machine(run).others,
    "taken": lambda run: _machine(run).taken,
    "seconds": lambda run: run.seconds,
    "time_over_bound": lambda run: run.time_over_bound,
}
"""Name -> what it is of one run."""


def measured(report: Report) -> dict[str, list[Run]]:
    """Return contender or floor -> its runs that came to their end and say what they took."""
    found: dict[str, list[Run]] = {}
    for run in [*report.runs, *report.floors]:
        if not run.failed and run.moved_bytes and run.machine is not None:
            found.setdefault(run.contender, []).append(run)
    return found


def figure_of(runs: Iterable[Run], value: Callable[[Run], float]) -> Figure:
    """Return the median and the range of one figure over runs."""
    values = [value(run) for run in runs]
    return Figure(statistics.median(values), min(values), max(values))


def figures(runs: Iterable[Run]) -> dict[str, Figure]:
    """Return all figures of the runs of one contender."""
    found = list(runs)
    return {name: figure_of(found, value) for name, value in FIGURES.items()}


def process_rows(report: Report, show: Show) -> list[tuple[str, ...]]:
    """Return a row a contender, and one for each process that is no cache, or for the caches' mean."""
    rows = []
    for name, runs in measured(report).items():
        caches = [cache for cache in runs[0].caches if cache in runs[0].processes]
        for kind, members in [
            (f"{name}, a cache of {len(caches)}", caches),
            *((f"{name}, {other}", [other]) for other in runs[0].processes if other not in caches),
        ]:
            cells = [
                show(figure_of(runs, partial(_mean, members=members, field=key, place=at)), 2)
                for key in ("start", "fill")
                for at in (0, 1)
            ]
            rows.append((kind, *cells))
    return rows


def _mean(run: Run, members: list[str], field: str, place: int) -> float:
    return statistics.fmean(getattr(run.processes[name], field)[place] for name in members)


def group_rows(report: Report, show: Show) -> list[tuple[str, ...]]:
    """Return a row for each group of threads that took some, the largest of each contender first."""
    rows = []
    for name, runs in measured(report).items():
        whole = figures(runs)["cpu_s_gb"].median
        found = []
        for group in dict.fromkeys(group for run in runs for group in run.groups):
            cpu = figure_of(runs, partial(_of_group, group=group, places=(1, 2)))
            if cpu.median >= GROUP_PART * whole:
                found.append((cpu.median, group))
        for _, group in sorted(found, reverse=True):
            cells = [
                show(figure_of(runs, partial(_of_group, group=group, places=(at,))), digits)
                for at, digits in ((1, 2), (2, 2), (3, 0), (4, 0))
            ]
            rows.append((f"{name}, {group}", *cells))
    return rows


def _of_group(run: Run, group: str, places: tuple[int, ...]) -> float:
    return sum(run.groups[group][place] for place in places) / run.moved_bytes * GB if group in run.groups else 0.0


def count_rows(report: Report, show: Show) -> list[tuple[str, ...]]:
    """Return a row for each contender that counts: what it did for each chunk that came."""
    return [
        (name, *(show(figure_of(runs, partial(_by_chunk, count=key)), 2) for key in counts.COUNTS))
        for name, runs in measured(report).items()
        if all(run.chunks and run.counts for run in runs)
    ]


def _by_chunk(run: Run, count: str) -> float:
    return run.counts[count] / run.chunks


FILL: Final = "The fill alone, and starts apart"
MACHINE: Final = "Processors meanwhile, as parts of all there are"
GROUPS: Final = "By group of threads, in the fill"
CHUNK: Final = "For each chunk that came"
AT_ONCE: Final = (FILL, MACHINE, GROUPS, CHUNK)
"""Tables that the terminal shows; a page has all."""

FILL_HEAD: Final = ("", "time / bound", "seconds", "processor s/GB", "user", "system", "starts, s")
MACHINE_HEAD: Final = ("", "taken", "by it", "by others", "stolen", "voluntary switches/GB", "involuntary")
GROUP_HEAD: Final = ("threads", "user s/GB", "system s/GB", "voluntary switches/GB", "involuntary")
PROCESS_HEAD: Final = ("process", "start, user s", "start, system s", "fill, user s", "fill, system s")


def fill_rows(report: Report, show: Show) -> list[tuple[str, ...]]:
    """Return a row for each contender: what its fill took for a GB, and its starts, which are apart."""
    rows: list[tuple[str, ...]] = []
    for name, runs in measured(report).items():
        found = figures(runs)
        over, seconds = show(found["time_over_bound"], 2), show(found["seconds"], 1)
        rows.append((name, over, seconds, *(show(found[key], 2) for key in FILL_FIGURES)))
    return rows


FILL_FIGURES: Final = ("cpu_s_gb", "user_s_gb", "system_s_gb", "start_s")
MACHINE_FIGURES: Final = ("taken", "contender", "others", "stolen")


def machine_rows(report: Report, show: Show) -> list[tuple[str, ...]]:
    """Return a row for each contender: who had the processors during its fills, and how often they changed hands."""
    rows: list[tuple[str, ...]] = []
    for name, runs in measured(report).items():
        found = figures(runs)
        switches = (show(found[key], 0) for key in ("voluntary_gb", "involuntary_gb"))
        rows.append((name, *(show(found[key], 2) for key in MACHINE_FIGURES), *switches))
    return rows


def tables(report: Report, show: Show) -> list[CostTable]:
    """Return all tables; none where the report does not say what was taken."""
    made = [
        CostTable(FILL, FILL_HEAD, fill_rows(report, show)),
        CostTable(MACHINE, MACHINE_HEAD, machine_rows(report, show)),
        CostTable("By process", PROCESS_HEAD, process_rows(report, show)),
        CostTable(GROUPS, GROUP_HEAD, group_rows(report, show)),
        CostTable(CHUNK, ("", *counts.COUNTS), count_rows(report, show)),
    ]
    return [table for table in made if table.rows]


def lines(report: Report) -> list[str]:
    """Return in words what decides whether a time is the links' or the processors'."""
    made = []
    for name, runs in measured(report).items():
        taken, own, others = (figures(runs)[key].median for key in ("taken", "contender", "others"))
        if taken >= BUSY_PART:
            bound = "they bound its time, and not the links alone"
            who = f"{own:.0%} by it and {others:.0%} by others"
            made.append(f"In fills of {name} processors were taken to {taken:.0%}, {who}: {bound}.")
    return made


def as_record(report: Report) -> dict[str, Any]:
    """Return the figures as plain data, for the JSON report."""
    return {
        name: {key: figure._asdict() for key, figure in figures(runs).items()}
        for name, runs in measured(report).items()
    }
