"""The plot of a night: what came in at the caches of each region, above their windows, with when titles were live."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.night import verdict
from bench.night.records import CacheNight, NightsReport
from bench.swarm.plots import COLOURS, PNG_DPI
from p2pfill.cli.night_plot import WINDOW_COLOUR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEP_S: Final = 0.5
"""Of the curves: two readings of the counters."""


def draw_night(report: NightsReport, directory: Path) -> None:
    """Draw the typical night into a directory. Needs matplotlib."""
    import matplotlib

    # No window system, and the same ids in the SVG each time.
    with matplotlib.rc_context({"backend": "agg", "svg.hashsalt": "p2pfill", "font.size": 10}):
        figure = night_plot(report)
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            figure.savefig(directory / f"night.{kind}", metadata=metadata, dpi=PNG_DPI, facecolor="white")


def night_plot(report: NightsReport) -> Figure:
    """Draw the rates of the regions, and below a line for each cache with its windows and titles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    night = verdict.typical(report.nights, report.topology)
    caches = night.caches if night is not None else {}
    regions = list(dict.fromkeys(cache.region for cache in caches.values()))
    colours = dict(zip(regions, COLOURS, strict=False))
    for region in regions:
        steps, rates = rates_of([cache for cache in caches.values() if cache.region == region])
        upper.step(steps, rates, where="post", color=colours.get(region), label=region, linewidth=1.3)
    upper.set(ylabel="MB/s into its caches, all traffic", ylim=(0, None))
    upper.set_title(report.topology.name, loc="left", fontsize=11)
    urgent = verdict.urgent(report.topology)
    for place, (_, cache) in enumerate(caches.items()):
        spans = [(span.opens_s, span.closes_s - span.opens_s) for span in cache.windows]
        lower.broken_barh(spans, (place - 0.35, 0.7), color=WINDOW_COLOUR, alpha=0.25, linewidth=0)
        others = [at_s for title, at_s in cache.live_s.items() if title != urgent]
        first = [at_s for title, at_s in cache.live_s.items() if title == urgent]
        labels = (f"{urgent} live (urgent)", "others live") if not place else (None, None)
        lower.plot(first, [place] * len(first), "D", color=COLOURS[1], markersize=4.5, label=labels[0], linestyle="")
        lower.plot(others, [place] * len(others), "|", color="#333333", markersize=8, label=labels[1], linestyle="")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        if caches:
            axes.legend(frameon=False, fontsize=9, loc="upper right")
    lower.set_yticks(range(len(caches)), list(caches), fontsize=9)
    lower.set_ylim(len(caches) - 0.4, -0.6)
    lower.set(xlabel="seconds after the beginning; bars: fill windows", xlim=(0, report.topology.lasts_s))
    return figure


def rates_of(caches: list[CacheNight]) -> tuple[list[float], list[float]]:
    """Return times, and MB/s that came into some caches together from each of them on."""
    ends = [cache.course[-1][0] for cache in caches if cache.course]
    times = [number * STEP_S for number in range(int(min(ends, default=0.0) / STEP_S) + 1)]
    sums = [sum(_value_at(cache.course, at_s) for cache in caches) for at_s in times]
    return times[:-1], [(after - before) / STEP_S / 1e6 for before, after in pairwise(sums)]


def _value_at(course: list[tuple[float, int]], at_s: float) -> float:
    """Return a value between two readings, as if it had grown evenly."""
    before = (0.0, 0)
    for point in course:
        if point[0] >= at_s:
            span = point[0] - before[0]
            part = (at_s - before[0]) / span if span else 1.0
            return before[1] + (point[1] - before[1]) * part
        before = point
    return before[1]
