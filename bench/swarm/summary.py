"""Medians, ranges and ratios of a report's runs. Pure.

Medians, since a machine that is shared slows single runs down and never speeds one up; the range shows how much.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from bench.swarm.records import Report, Run

FIGURES: Final[dict[str, Callable[[Run, int], float]]] = {
    "time_over_bound": lambda run, size: run.time_over_bound,
    "seconds": lambda run, size: run.seconds,
    "worst_cache_over_bound": lambda run, size: run.worst_cache,
    "origin_copies": lambda run, size: run.payload_origin / size,
    "origin_border_copies": lambda run, size: run.origin_border_copies,
    "isp_copies_max": lambda run, size: max(run.isp_copies.values(), default=0.0),
    "isp_copies_min": lambda run, size: min(run.isp_copies.values(), default=0.0),
    "border_copies": lambda run, size: run.border_copies,
    "cpu_s": lambda run, size: run.cpu_total_s,
    "duplicate_copies": lambda run, size: run.duplicate / size,
}
"""Name -> what it is of one run, given the title's size in bytes."""

RATIOS: Final = ("seconds", "origin_border_copies", "border_copies", "cpu_s")


class Figure(NamedTuple):
    """One figure over the runs of a contender."""

    median: float
    least: float
    most: float


def contenders(report: Report) -> list[str]:
    """Return the contenders that ran, in the order of their first run."""
    return list(dict.fromkeys(run.contender for run in report.runs))


def good_runs(report: Report, contender: str) -> list[Run]:
    """Return the runs of a contender that came to their end."""
    return [run for run in report.runs if run.contender == contender and not run.failed]


def failures(report: Report, contender: str) -> list[str]:
    """Return why runs of a contender failed."""
    return [run.failed for run in report.runs if run.contender == contender and run.failed]


def size_of(report: Report, contender: str) -> int:
    """Return the bytes that a contender fills each cache with: those of one title, where it is one of several alone."""
    of_titles = {f"{title.name} alone": title.size_mib << 20 for title in report.topology.titles}
    return of_titles.get(contender, report.topology.size)


def figures(report: Report, contender: str) -> dict[str, Figure]:
    """Return all figures of a contender; empty where no run came to its end."""
    runs = good_runs(report, contender)
    found = {}
    for name, figure_of in FIGURES.items() if runs else ():
        values = [figure_of(run, size_of(report, contender)) for run in runs]
        found[name] = Figure(statistics.median(values), min(values), max(values))
    return found


def isp_copies(report: Report, contender: str) -> dict[str, float]:
    """Return, per ISP, the median of the copies that came in over its border."""
    runs = good_runs(report, contender)
    return {isp: statistics.median(run.isp_copies[isp] for run in runs) for isp in (runs[0].isp_copies if runs else ())}


def wire_tiers(report: Report, contender: str) -> dict[str, float]:
    """Return, per tier, the median of the copies that caches took from there."""
    runs = good_runs(report, contender)
    return {
        tier: statistics.median(run.wire_tiers[tier] for run in runs) for tier in (runs[0].wire_tiers if runs else ())
    }


def ratios(report: Report, contender: str, other: str) -> dict[str, float]:
    """Return how many times the other's median a contender's is; empty where one of them has none."""
    mine, its = figures(report, contender), figures(report, other)
    if not mine or not its:
        return {}
    return {name: mine[name].median / its[name].median for name in RATIOS if its[name].median}


def median_run(report: Report, contender: str) -> Run | None:
    """Return the run whose time is the median (of an even number the lower one), for plots."""
    runs = sorted(good_runs(report, contender), key=lambda run: run.time_over_bound)
    return runs[(len(runs) - 1) // 2] if runs else None


def as_record(report: Report) -> dict[str, Any]:
    """Return everything above as plain data, for the JSON report."""
    names = contenders(report)
    return {
        "contenders": {
            name: {
                "runs": len(good_runs(report, name)),
                "failed": len(failures(report, name)),
                "isp_copies": isp_copies(report, name),
                "wire_tiers": wire_tiers(report, name),
                **{key: figure._asdict() for key, figure in figures(report, name).items()},
            }
            for name in names
        },
        "ratios": {f"{name}/{other}": ratios(report, name, other) for name in names[:1] for other in names[1:]},
    }
