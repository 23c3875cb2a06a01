"""The plot: contenders beside the planner that knows the rates, and what each serves of MovieLens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.planner.records import Report, Section
from bench.swarm.plots import COLOURS, PNG_DPI

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES: Final = {
    "planner": (COLOURS[0], "o-"), "planner, regions alike": (COLOURS[0], "^:"),
    "planner, each region alone": (COLOURS[0], "v:"), "decay": (COLOURS[1], "s-"),
    "decay, regions alike": (COLOURS[1], "^:"),
}  # fmt: skip
"""Of what plans; perfect LFU would need an axis of its own."""
BARS: Final = {"planner": COLOURS[0], "plan": COLOURS[1], "policy": "#b9b9b9", "future": "#e3d5b8"}


def draw(report: Report, directory: Path) -> None:
    """Draw into a directory. Needs matplotlib."""
    import matplotlib

    with matplotlib.rc_context({"backend": "agg", "font.size": 9}):
        drawn = planner_plot(report)
        drawn.savefig(directory / "planner.png", metadata={"Software": None}, dpi=PNG_DPI, facecolor="white")


def planner_plot(report: Report) -> Figure:
    """Draw a panel for each data set whose rates are known, and one for each other that reactive caches were run on."""
    from matplotlib.figure import Figure

    known = [one for one in report.sections if one.planner.figures[0].ratio is not None]
    others = [one for one in report.sections if one not in known and any(c.kind == "policy" for c in one.contestants)]
    rows = [row for row in (known, others) if row]
    figure = Figure(figsize=(10.5, 3.6 * max(len(rows), 1)), layout="constrained")
    for place, part in enumerate(figure.subfigures(max(len(rows), 1), 1, squeeze=False)[:, 0][: len(rows)]):
        axes = part.subplots(1, len(rows[place]), squeeze=False, sharey=rows[place] is known)[0]
        for one, section in zip(axes, rows[place], strict=True):
            _ratios(one, section) if section in known else _hits(one, section)
            one.spines[["top", "right"]].set_visible(False)
            one.set_title(section.name, loc="left", fontsize=10)
            one.set_axisbelow(True)
    return figure


def _ratios(axes: Axes, section: Section) -> None:
    for one in section.contestants:
        if one.name in LINES:
            colour, style = LINES[one.name]
            ratios = [figure.ratio or 0.0 for figure in one.figures]
            axes.plot(range(len(ratios)), ratios, style, color=colour, label=one.name, linewidth=1.4, markersize=4.5)
    _shares(axes, section)
    axes.axhline(1.0, color="#333333", linewidth=0.8)
    axes.set(ylabel="to the planner that knows the rates" if section.key == "base" else "")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _hits(axes: Axes, section: Section) -> None:
    run = [one for one in section.contestants if one.figures]
    width = 0.85 / len(run)
    for place, one in enumerate(run):
        at = [share + (place - (len(run) - 1) / 2) * width for share in range(len(one.figures))]
        axes.bar(at, [figure.hit for figure in one.figures], width * 0.9, color=BARS[one.kind])
        for x, figure in zip(at, one.figures, strict=True):
            axes.text(x, figure.hit + 0.01, one.name, rotation=90, ha="center", va="bottom", fontsize=7)
    _shares(axes, section)
    axes.set(ylabel="hits by requests", ylim=(0, 1.02))
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)


def _shares(axes: Axes, section: Section) -> None:
    shares = [figure.share for figure in section.planner.figures]
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.set_xlabel("cache, of the catalogue's bytes")
