"""The plots of a report, as SVG and PNG: how each cache got on over time, and where the bytes came from.

Drawn from the report alone. Each contender has one colour in all plots; a cache is a line, and the bound is where the
last line would end at best. The SVG carries no dates and no random ids, so drawing again changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.swarm import summary
from bench.swarm.records import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#1f6f8b", "#d1495b", "#8f6fb0", "#5b8c5a")
"""Of the contenders, in the order in which they ran."""

TIER_COLOURS: Final = {"same ISP": "#9bc995", "other ISPs": "#f2b750", "origin": "#c8553d"}

PNG_DPI: Final = 110


def missing() -> str:
    """Return why nothing can be drawn here, or nothing."""
    from importlib.util import find_spec

    return "" if find_spec("matplotlib") else "matplotlib is not installed; pip install 'p2pfill[bench]'"


def draw_report(report: Report, directory: Path, key: str) -> list[Path]:
    """Draw both plots into a directory; return the files. Needs matplotlib."""
    import matplotlib

    # No window system, and the same ids in the SVG each time.
    with matplotlib.rc_context({"backend": "agg", "svg.hashsalt": "p2pfill", "font.size": 10}):
        drawn = {"curves": completion_curves(report), "bytes": bytes_by_tier(report)}
        files = []
        for what, figure in drawn.items():
            for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                path = directory / f"{key}-{what}.{kind}"
                figure.savefig(path, metadata=metadata, dpi=PNG_DPI, facecolor="white")
                files.append(path)
    return files


def completion_curves(report: Report) -> Figure:
    """Draw the part of the title that each cache had over time, in the median run of each contender."""
    figure, axes = _frame(8.0, 4.4)
    for colour, name in zip(COLOURS, summary.contenders(report), strict=False):
        run = summary.median_run(report, name)
        if run is None:
            continue
        for number, cache in enumerate(run.caches.values()):
            times, parts = zip(*cache.curve, strict=True)
            label = f"{name}, {len(run.caches)} caches" if not number else None
            style = "-" if cache.counted else ":"
            axes.plot(
                times, [100 * part for part in parts], style, color=colour, linewidth=1.1, alpha=0.75, label=label
            )
        ends = [cache.live_s for cache in run.caches.values() if cache.live_s is not None]
        axes.plot(ends, [100.0] * len(ends), "o", color=colour, markersize=3.5, clip_on=False)
    axes.axvline(report.bound_s, color="#333333", linestyle="--", linewidth=1.2, label=f"bound, {report.bound_s:.1f} s")
    axes.set(xlabel="seconds after the order", ylabel="% of the title", ylim=(0, 103), xlim=(0, None))
    axes.set_title(report.topology.name, loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    return figure


def bytes_by_tier(report: Report) -> Figure:
    """Draw the copies of the title that caches took from their own ISP, from others and from the origin (medians)."""
    names = [name for name in summary.contenders(report) if summary.good_runs(report, name)]
    figure, axes = _frame(8.0, 1.5 + 0.55 * len(names))
    starts = [0.0] * len(names)
    for tier, colour in TIER_COLOURS.items():
        copies = [summary.wire_tiers(report, name).get(tier, 0.0) for name in names]
        bars = axes.barh(names, copies, left=starts, color=colour, label=tier, height=0.6)
        axes.bar_label(bars, [f"{value:.1f}" for value in copies], label_type="center", fontsize=9)
        starts = [start + value for start, value in zip(starts, copies, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel=f"copies of the title, taken by {len(report.topology.caches())} caches, from interface counters")
    axes.set_title(report.topology.name, loc="left", fontsize=11, pad=26)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=3, frameon=False, borderaxespad=0.2)
    return figure


def _frame(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty plot; without pyplot, which would keep every figure alive."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes
