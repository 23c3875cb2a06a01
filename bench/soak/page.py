"""The page and the plot of a soak, made from its report alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.soak.records import Course, Flatness, Report
from bench.swarm.plots import COLOURS, PNG_DPI

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES: Final = {
    "rss_bytes": "resident memory, MiB",
    "descriptors": "descriptors",
    "sockets": "of them sockets",
    "threads": "threads",
    "tasks": "Trio tasks",
    "objects": "objects that the collector knows",
    "entries": "entries of all ledgers, queues and caches",
    "disk_bytes": "bookkeeping on disk, KiB",
    "rows": "rows of the database, without histories",
}
UNITS: Final = {"rss_bytes": 1 << 20, "disk_bytes": 1 << 10}
PLOTTED: Final = ("rss_bytes", "descriptors", "tasks", "threads", "entries", "disk_bytes")


def spell(what: str, value: float) -> str:
    """Return a figure with its unit's digits."""
    value /= UNITS.get(what, 1)
    return f"{value:,.1f}" if what in UNITS else f"{value:,.0f}"


def row(one: Flatness) -> tuple[str, ...]:
    """Return a line of the table."""
    values = (spell(one.what, one.median), spell(one.what, one.growth), spell(one.what, one.bound))
    return (one.process, NAMES[one.what], *values, "flat" if one.is_flat else "GROWS")


HEAD: Final = ("process", "figure", "median of the second half", "growth in it", "bound", "")


def said(report: Report) -> list[str]:
    """Return what happened, in sentences."""
    happened, node, tracker = report.happened, report.node, report.tracker
    filled = f"{happened.fill_s[0]:.1f} s median, {happened.fill_s[-1]:.1f} s at most" if happened.fill_s else "none"
    return [
        f"{happened.links_at_once} links at a time (median; {report.links} caches, whose links end and come back): "
        f"{happened.links:,} in all, {happened.breaks:,} of them broken off without a word.",
        f"{happened.ordered:,} titles ordered, {happened.live:,} live ({filled}), {happened.superseded:,} superseded "
        f"before, {happened.replaced:,} under "
        f"the name of another; {happened.withdrawn:,} withdrawn, {happened.evicted:,} of those gone from the disk by "
        f"the end; {report.standing} orders standing at a time.",
        f"{happened.served_chunks:,} chunks to the node from caches, {happened.fetched_chunks:,} from it to caches.",
        f"All certificates signed anew {happened.renewals} times, {happened.revoked} revoked.",
        f"Wrong: {happened.wrong} titles live, {happened.wrong_chunks} chunks. "
        f"Not live in time: {len(happened.stuck)}.",
        "Of what is gone, and has a limit of its own, at the end: "
        f"{node.samples[-1].kept:,} entries in the node, {tracker.samples[-1].kept:,} in the tracker, "
        f"{tracker.samples[-1].histories:,} rows of histories in its database.",
        f"Processor: node {node.processor_s:.0f} s, tracker {tracker.processor_s:.0f} s, with the samples.",
    ]


def page(report: Report) -> str:
    """Return the page."""
    machine = report.machine
    lines = [
        "# Soak",
        "",
        f"{report.minutes:g} minutes with a sample every {report.every_s:g} s; {machine.processors} processors, which "
        f"other work shared, {machine.kernel}, Python {machine.python}, p2pfill {machine.p2pfill}, {machine.made_at}.",
        "",
        *(f"- {line}" for line in said(report)),
        "",
        "Growth is the Theil-Sen slope of the second half, times its length; the bound is 5 % of the median, or what "
        "is noise for a figure of that kind (`bench/soak/flatness.py`).",
        "",
        f"| {' | '.join(HEAD)} |",
        "| --- | --- | ---: | ---: | ---: | --- |",
        *(f"| {' | '.join(row(one))} |" for one in report.judged),
        "",
        "![Memory, descriptors, tasks and threads over time](soak.png)",
        "",
        "Made by `make soak`. As data: [soak.json](soak.json).",
        "",
    ]
    return "\n".join(lines)


def draw(report: Report, directory: Path) -> None:
    """Draw the plot into a directory, as SVG and PNG. Needs matplotlib."""
    import matplotlib

    # No window system, and the same ids in the SVG each time.
    with matplotlib.rc_context({"backend": "agg", "svg.hashsalt": "p2pfill", "font.size": 10}):
        figure = plot(report)
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            figure.savefig(directory / f"soak.{kind}", metadata=metadata, dpi=PNG_DPI, facecolor="white")


def plot(report: Report) -> Figure:
    """Draw each figure over time, of the node and of the tracker."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    places = figure.subplots(3, 2, sharex=True).flat
    courses: dict[str, Course] = {"node": report.node, "tracker": report.tracker}
    for axes, what in zip(places, PLOTTED, strict=True):
        for colour, (name, course) in zip(COLOURS, courses.items(), strict=False):
            times = [sample.at_s / 60 for sample in course.samples]
            values = [getattr(sample, what) / UNITS.get(what, 1) for sample in course.samples]
            axes.plot(times, values, color=colour, label=name, linewidth=1.2)
        axes.axvspan(report.minutes / 2, report.minutes, color="#f3f3f3", zorder=0)
        axes.set_title(NAMES[what], loc="left", fontsize=11)
        axes.set(ylim=(0, None), xlim=(0, report.minutes))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.axes[0].legend(frameon=False, fontsize=9, loc="lower right")
    for axes in figure.axes[-2:]:
        axes.set_xlabel("minutes; shaded: the half that is judged")
    return figure
