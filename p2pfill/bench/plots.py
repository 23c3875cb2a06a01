"""The plots of the reports, as SVG and PNG, drawn from the reports alone. They need matplotlib.

The SVG carries no dates and no random ids, so drawing again changes nothing.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from p2pfill.bench import fanout, pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, THEIRS, FLOOR = "#1f6f8b", "#b9a27c", "#8a8f94"
SIDE_COLOURS: Final = {"sender": "#f2b750", "receiver": "#c8553d"}
DIRECTION_COLOURS: Final[dict[fanout.Direction, str]] = {"out": "#1f6f8b", "in": "#d1495b"}
PNG_DPI: Final = 110


def missing() -> str:
    """Return why nothing can be drawn here, or nothing."""
    return "" if find_spec("matplotlib") else "matplotlib is not installed; pip install 'p2pfill[bench]'"


def save(figure: Figure, directory: Path, name: str) -> None:
    """Write a plot in both formats."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "p2pfill"}):
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            figure.savefig(directory / f"{name}.{kind}", metadata=metadata, dpi=PNG_DPI, facecolor="white")


def draw_pair(report: pair.PairReport) -> Figure:
    """Draw the rate of each contender with its range, and beside it what it costs in processor time."""
    names = list(report.contenders)
    figure, (left, right) = _frame(10.0, 1.4 + 0.42 * len(names), 2)
    found = pair.rates(report)
    medians = [found[name].median for name in names]
    reach = [
        [found[name].median - found[name].min for name in names],
        [found[name].max - found[name].median for name in names],
    ]
    colours = [FLOOR if name.startswith("floor") else OURS if name in ("default", "xxh3") else THEIRS for name in names]
    left.barh(names, medians, xerr=reach, color=colours, height=0.62, error_kw={"linewidth": 1.1, "capsize": 3})
    left.set(xlabel="GB/s: median, least and most", xlim=(0, max(found[name].max for name in names) * 1.08))
    left.set_title("rate", loc="left", fontsize=11)
    left.invert_yaxis()
    starts = [0.0] * len(names)
    costs = pair.costs(report)
    for side, colour in SIDE_COLOURS.items():
        spent = [costs[name][side].median for name in names]
        bars = right.barh(names, spent, left=starts, color=colour, height=0.62, label=side)
        starts = [start + value for start, value in zip(starts, spent, strict=True)]
    right.bar_label(bars, [f"{total:.2f}" for total in starts], padding=3, fontsize=9)
    right.set(xlabel="processor seconds per GB, medians", xlim=(0, max(starts) * 1.12))
    right.set_title("cost", loc="left", fontsize=11)
    right.invert_yaxis()
    right.tick_params(labelleft=False)
    right.legend(loc="lower right", frameon=False)
    return figure


def draw_fanout(report: fanout.FanReport) -> Figure:
    """Draw the rate of all together over that of one pair, and what it costs, over the number of nodes."""
    figure, (left, right) = _frame(10.0, 4.0, 2)
    counts = sorted({point.count for point in report.points})
    for direction, colour in DIRECTION_COLOURS.items():
        # Of the pairs, whose ratio is 1, the first: it has the largest title.
        points = {point.count: point for point in reversed(report.points) if point.direction == direction}
        if not points:
            continue
        points = dict(sorted(points.items()))
        medians = [fanout.over_pair(report, point) for point in points.values()]
        rates = [fanout.rate(point) for point in points.values()]
        label = "receivers of one node" if direction == "out" else "sources of one receiver"
        reach = [
            [ratio * (1 - one.min / one.median) for ratio, one in zip(medians, rates, strict=True)],
            [ratio * (one.max / one.median - 1) for ratio, one in zip(medians, rates, strict=True)],
        ]
        shown = list(points)
        left.errorbar(shown, medians, reach, fmt="o-", color=colour, label=label, capsize=3)
        for side, style in (("sender", "--"), ("receiver", "-")):
            spent = [fanout.cost(point)[side].median for point in points.values()]
            right.plot(shown, spent, f"o{style}", color=colour, label=f"{label}: {side} side", linewidth=1.3)
    left.axhline(1.0, color="#333333", linestyle=":", linewidth=1.2, label="one pair")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("nodes on the other side")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.legend(loc="lower left" if axes is left else "upper left", frameon=False, fontsize=8)
    left.set_title("rate of all / rate of a pair with the same title", loc="left", fontsize=11)
    right.set_title("processor seconds per GB, medians", loc="left", fontsize=11)
    return figure


def draw_big(report: dict[str, Any]) -> Figure:
    """Draw how long everything takes over the size of sparse titles, and over the number of small files."""
    figure, axes_of = _frame(10.0, 4.0, 2)
    for axes, kind, size, label in (
        (axes_of[0], "sparse", "chunks", "chunks of a sparse title"),
        (axes_of[1], "small_files", "files", "small files"),
    ):
        titles = report[kind]
        sizes = [one[size] for one in titles]
        for name, colour, values in (
            ("publish", OURS, [one["publish_s"] for one in titles]),
            ("verify", THEIRS, [one["verify_s"] for one in titles]),
            ("first chunk, complete", "#d1495b", [one["complete"]["chunk_s"] for one in titles]),
            ("first chunk, half there", "#f2b750", [one["half"]["chunk_s"] for one in titles]),
        ):
            axes.plot(sizes, values, "o-", color=colour, label=name)
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_title("seconds", loc="left", fontsize=11)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def _frame(width: float, height: float, columns: int) -> tuple[Figure, Sequence[Axes]]:
    """Return empty plots side by side; without pyplot, which would keep every figure alive."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    plots = list(figure.subplots(1, columns))
    for axes in plots:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, plots
