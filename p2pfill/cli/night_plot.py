"""The plot of a night: what came when, by tier, above the windows of the caches. Needs matplotlib."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from p2pfill.cli.text import plural, show_bytes
from p2pfill.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from p2pfill.tracker.night_report import CacheNight, NightReport

COLOURS: Final = {"peer": "#2a9d5c", "regional": "#e0a526", "origin": "#c8402f"}
WINDOW_COLOUR: Final = "#3572b0"

LANES_MAX: Final = 24
"""Lines of windows; of larger fleets those of all caches of a region are one line."""

MARGIN: Final = 0.02

UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")

TICKS_MAX: Final = 12
TICK_STEPS_S: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 10800, 21600, 43200)


def check_plot(path: Path) -> None:
    """Raise `ConfigError` where no plot can be drawn into this file."""
    if find_spec("matplotlib") is None:
        raise ConfigError("a plot needs matplotlib: pip install 'p2pfill[bench]', or leave --plot out")
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"cannot draw into {str(path)!r}: name a file that ends in .png, .svg or .pdf")


def draw_night(report: NightReport, path: Path) -> None:
    """Draw a night into a file. Raises `ConfigError` where that cannot be written."""
    from matplotlib.figure import Figure

    lanes = _lanes(report)
    figure = Figure(figsize=(10, 3.8 + 0.24 * len(lanes)), layout="constrained")
    upper, lower = figure.subplots(
        2, 1, sharex=True, height_ratios=(3.2, 0.3 + 0.24 * max(len(lanes), 1))
    )
    _draw_course(upper, report)
    _draw_windows(lower, report, lanes)
    start, end = _ends(report)
    lower.set_xlim(start, end)
    ticks = _ticks(start, end)
    lower.set_xticks(ticks, [_tick_label(tick, ticks[1] - ticks[0] if len(ticks) > 1 else 60) for tick in ticks])
    figure.suptitle(_title(report), fontsize=11, x=0.01, ha="left")
    save_plot(figure, path)


def save_plot(figure: Figure, path: Path) -> None:
    """Write a plot into a file. Raises `ConfigError` where that cannot be written."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120, facecolor="white")
    except OSError as error:
        raise ConfigError(f"cannot write the plot {str(path)!r}: {error.strerror}") from error


def _title(report: NightReport) -> str:
    totals = report.totals
    over = "" if report.is_over else ", which is not over"
    return (
        f"Night of {report.night}{over}: {totals.live} of {totals.wanted} live "
        f"({plural(totals.titles, 'title')}, {plural(totals.caches, 'cache')})"
    )


def _ends(report: NightReport) -> tuple[float, float]:
    """Return from when to when something is to be seen, with a margin."""
    times = [at for one in report.course for at in (one.at, one.at + report.step_s)]
    for cache in report.caches:
        times += [at for span in cache.windows for at in (span.opened_at, span.closed_at or cache.last_at)]
    times = times or [report.began_at, report.last_at]
    start, end = min(times), max(times)
    margin = max(1.0, MARGIN * (end - start))
    return start - margin, end + margin


def _ticks(start: float, end: float) -> list[float]:
    """Return full local times between two moments, at most `TICKS_MAX`."""
    step = next((step for step in TICK_STEPS_S if (end - start) / step <= TICKS_MAX), TICK_STEPS_S[-1])
    offset = time.localtime(start).tm_gmtoff
    first = math.ceil((start + offset) / step) * step - offset
    return [first + number * step for number in range(int(max(0.0, end - first) // step) + 1)]


def _tick_label(at: float, step_s: float) -> str:
    clock = time.strftime("%H:%M" if step_s >= 60 else "%H:%M:%S", time.localtime(at))
    return f"{clock}\n{time.strftime('%a %d %b', time.localtime(at))}" if clock.startswith("00:00") else clock


def _draw_course(axes: Axes, report: NightReport) -> None:
    starts = [one.at for one in report.course]
    floor = [0.0] * len(starts)
    most = max((one.bytes_peer + one.bytes_regional + one.bytes_origin for one in report.course), default=0)
    power = min(int(math.log(max(most / report.step_s, 1), 1024)), len(UNITS) - 1)
    for tier, colour in COLOURS.items():
        rates = [getattr(one, f"bytes_{tier}") / report.step_s / 1024**power for one in report.course]
        total = show_bytes(getattr(report.totals, f"bytes_{tier}"))
        axes.bar(starts, rates, report.step_s, floor, align="edge", color=colour, label=f"{tier}, {total}", linewidth=0)
        floor = [below + rate for below, rate in zip(floor, rates, strict=True)]
    axes.set_ylabel(f"{UNITS[power]}/s")
    axes.set_ylim(0, max(floor, default=0) * 1.08 or 1)
    axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, fontsize=9)
    axes.tick_params(labelbottom=False)


def _lanes(report: NightReport) -> list[tuple[str, list[CacheNight]]]:
    """Return the lines of windows, each with its caches: one a cache, or one a region where those are too many."""
    caches = sorted(
        (cache for cache in report.caches if cache.has_windows), key=lambda cache: (cache.region, cache.isp, cache.node)
    )
    if len(caches) <= LANES_MAX:
        return [(cache.node, [cache]) for cache in caches]
    regions: dict[str, list[CacheNight]] = defaultdict(list)
    for cache in caches:
        regions[cache.region].append(cache)
    return [(f"{region} ({len(found)})", found) for region, found in list(regions.items())[:LANES_MAX]]


def _draw_windows(axes: Axes, report: NightReport, lanes: list[tuple[str, list[CacheNight]]]) -> None:
    for place, (_, caches) in enumerate(lanes):
        # Where caches share a line it is the darker the more of them are open.
        alpha = 1.0 if len(caches) == 1 else max(0.05, 0.9 / len(caches))
        for cache in caches:
            spans = []
            for span in cache.windows:
                spans.append((span.opened_at, (span.closed_at or cache.last_at) - span.opened_at))
            axes.broken_barh(spans, (place - 0.3, 0.6), color=WINDOW_COLOUR, alpha=alpha, linewidth=0)
            if cache.budget_used_at:
                axes.plot([cache.budget_used_at], [place], marker="x", color="black", markersize=5)
    axes.set_yticks(range(len(lanes)), [name for name, _ in lanes], fontsize=8)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    note = "fill windows" if lanes else "no cache has fill windows"
    used = "; x: a budget was used up" if any(one.budget_used_at for _, found in lanes for one in found) else ""
    axes.set_xlabel(f"{note}{used}; times are {time.strftime('%Z', time.localtime(report.last_at))}", fontsize=9)
