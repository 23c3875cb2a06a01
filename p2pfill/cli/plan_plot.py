"""The plots of what came of a plan: placement, demand against capacity, use of the windows, forecasts. Need matplotlib.

Where there are more clusters or files than a picture has room for, clusters of least demand are left out, and files
that follow one another in rank share a column.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfill.cli.night_plot import UNITS, draw_night, save_plot
from p2pfill.cli.text import plural, show_bytes
from p2pfill.errors import ConfigError
from p2pfill.plan.report.copies import copies_of
from p2pfill.plan.report.day import BAND

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from p2pfill.plan.document import Plan
    from p2pfill.plan.report.day import Day, DayReport, FileDay
    from p2pfill.plan.report.night import NightFacts
    from p2pfill.plan.report.report import PlanReport
    from p2pfill.tracker.night_report import NightReport

THERE: Final = (0.16, 0.61, 0.36)
LACKING: Final = (0.78, 0.25, 0.18)
EXPECTED: Final = "#3572b0"
MISSED: Final = "#d9d9d9"
BAND_COLOUR: Final = "#9dbbdc"

ROWS_MAX: Final = 40
"""Clusters, or forecasts, of one picture."""
COLUMNS_MAX: Final = 240
"""Of the heat map: each is three pixels wide or more."""
MARKED: Final = 3
"""Times the largest demand, up to which what can be served is marked: else bars would be too short to be read."""
TAIL: Final = 1.2
"""Times as many files are shown as have a place, by rank: the others are a long white tail."""
NAME_CHARS: Final = 34
"""Of a label: longer names keep their end, which tells files of a title apart."""


def check_directory(path: Path) -> None:
    """Raise `ConfigError` where no plots can be drawn into this directory, which is made where there is none."""
    if find_spec("matplotlib") is None:
        raise ConfigError("a plot needs matplotlib: pip install 'p2pfill[bench]', or leave --plot out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot draw into {str(path)!r}: {error.strerror}; name a directory") from error


def draw_all(
    plan: Plan, facts: NightFacts, told: PlanReport, night: NightReport, day: Day | None, directory: Path
) -> Iterator[Path]:  # fmt: skip
    """Draw what can be drawn, and yield the files. Raises `ConfigError` where one cannot be written."""
    draw_night(night, directory / "windows.png")
    yield directory / "windows.png"
    if any(file.holders for file in plan.files):
        draw_placement(plan, facts, day, directory / "placement.png")
        yield directory / "placement.png"
    if told.viewing is not None:
        draw_demand(told.viewing, told.day, directory / "demand.png")
        yield directory / "demand.png"
        draw_forecast(told.viewing, told.day, directory / "forecast.png")
        yield directory / "forecast.png"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


# ---- placement


def draw_placement(plan: Plan, facts: NightFacts, day: Day | None, path: Path) -> None:
    """Draw which files lie in which clusters, the files by what a byte of them was expected to serve."""
    group, what = _groups(facts, day)
    files = sorted((file for file in plan.files if file.holders or file.streams), key=lambda file: -file.streams)
    last = max(rank for rank, file in enumerate(files) if file.holders)
    files, whole = files[: int((last + 1) * TAIL) + 1], len(files)
    columns = min(len(files), COLUMNS_MAX)
    column = {file.file: rank * columns // len(files) for rank, file in enumerate(files)}
    width = np.bincount(list(column.values()), minlength=columns)
    best: dict[tuple[str, str], bool] = {}
    for copy in copies_of(plan, facts):
        key = (group.get(copy.cache, "unknown"), copy.file.file)
        best[key] = best.get(key, False) or copy.why is None
    bytes_of: dict[str, float] = defaultdict(float)
    streams = {file.file: file.streams * file.size for file in files}
    for name, file in best:
        bytes_of[name] += streams[file]
    rows = sorted(bytes_of, key=lambda name: (-bytes_of[name], name))[:ROWS_MAX]
    place = {name: number for number, name in enumerate(rows)}
    there, lacking = np.zeros((len(rows), columns)), np.zeros((len(rows), columns))
    for (name, file), is_there in best.items():
        if name in place:
            (there if is_there else lacking)[place[name], column[file]] += 1
    figure = _figure(10, 3.2 + 0.22 * len(rows))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, max(0.22 * len(rows), 0.8)))
    edges = np.arange(columns + 1) - 0.5
    means = np.bincount(list(column.values()), [file.streams for file in files], minlength=columns) / width
    _draw_streams(upper, edges, means, _came(column, width, day))
    _draw_cells(lower, there / width, lacking / width, rows)
    shared = f"; each column has {len(files) / columns:.1f} of them" if len(files) > columns else ""
    of = (
        f"{plural(whole, 'file')} of the plan"
        if whole == len(files)
        else f"the first {len(files):,} of {whole:,} files"
    )
    lower.set_xlabel(f"{of}, by streams expected of the day{shared}", fontsize=9)
    ticks = np.unique(np.linspace(0, columns - 1, min(columns, 9)).round().astype(int))
    lower.set_xticks(ticks, [f"{at * len(files) // columns + 1:,}" for at in ticks.tolist()])
    left = f" (of {len(bytes_of)}, those of most demand)" if len(bytes_of) > len(rows) else ""
    figure.suptitle(f"Plan for {plan.head.day}: which files lie in which {what}{left}", fontsize=11, x=0.01, ha="left")
    save_plot(figure, path)


def _groups(facts: NightFacts, day: Day | None) -> tuple[Mapping[str, str], str]:
    """Return of each cache its cluster, or where those are not known its ISP, and what they are."""
    if day is not None:
        clusters = day.caches.cluster.tolist()
        return {name: day.caches.clusters[at] for name, at in zip(day.caches.names, clusters, strict=True)}, "clusters"
    return {name: cache.isp or "unknown" for name, cache in facts.caches.items()}, "ISPs"


def _came(column: Mapping[str, int], width: NDArray[Any], day: Day | None) -> NDArray[Any] | None:
    """Return the streams of the day of each column, a file's mean; None: not known."""
    from p2pfill.plan.report.day import plan_name

    if day is None or not len(day.views.day):
        return None
    catalogue, sums = day.catalogue, np.zeros(len(width))
    watched = np.bincount(day.views.file, day.views.bytes, minlength=len(catalogue.files)) / catalogue.size
    for file, title, streams in zip(catalogue.files, catalogue.title.tolist(), watched.tolist(), strict=True):
        at = column.get(plan_name(catalogue.titles[title], file))
        if at is not None:
            sums[at] += streams
    result: NDArray[Any] = sums / width
    return result


def _draw_streams(axes: Axes, edges: NDArray[Any], expected: NDArray[Any], came: NDArray[Any] | None) -> None:
    if came is not None:
        axes.stairs(came, edges, color=MISSED, fill=True, label="came")
    axes.stairs(expected, edges, baseline=None, color=EXPECTED, linewidth=1.4, label="expected")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_ylim(0, max(float(expected.max(initial=1)), 1.0 if came is None else float(came.max(initial=1))) * 1.6)
    axes.set_ylabel("streams a file,\nall regions", fontsize=9)
    axes.tick_params(labelbottom=False, labelsize=8)
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, fontsize=9)


def _draw_cells(axes: Axes, there: NDArray[Any], lacking: NDArray[Any], rows: list[str]) -> None:
    from matplotlib.patches import Patch

    green, red = np.array(THERE), np.array(LACKING)
    image = 1 - there[..., None] * (1 - green) - lacking[..., None] * (1 - red)
    axes.imshow(np.clip(image, 0, 1), aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows], fontsize=8)
    axes.tick_params(labelsize=8)
    patches = [Patch(color=THERE, label="planned and there")]
    if lacking.any():
        patches.append(Patch(color=LACKING, label="planned and not there"))
    axes.legend(
        handles=patches, frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, fontsize=9
    )


# ---- demand


def draw_demand(viewing: DayReport, day: str, path: Path) -> None:
    """Draw for each cluster what was watched and what of it was there, beside what was expected and can be served."""
    rows = sorted(viewing.clusters, key=lambda one: (-one.demand_bytes, one.cluster))[:ROWS_MAX]
    figure = _figure(10, 1.7 + 0.3 * len(rows))
    axes = figure.subplots()
    most = max(max(one.demand_bytes, one.expected_bytes) for one in rows)
    power, unit = _unit(most)
    hits = [one.hit_bytes / power for one in rows]
    misses = [(one.demand_bytes - one.hit_bytes) / power for one in rows]
    places = np.arange(len(rows))
    axes.barh(places, hits, 0.62, color=THERE, label="watched, and there")
    axes.barh(places, misses, 0.62, hits, color=MISSED, label="watched, and not there")
    expected = [one.expected_bytes / power for one in rows]
    axes.scatter(expected, places, marker="D", s=22, color=EXPECTED, zorder=3, label="expected to be watched")
    far = most / power * MARKED
    shown = [(at, one.carries_bytes / power) for at, one in enumerate(rows) if one.carries_bytes / power <= far]
    if shown:
        axes.scatter(
            [amount for _, amount in shown], [at for at, _ in shown], marker="|", s=170, linewidths=2.2, color="black",
            zorder=3, label="can be served in such a day",
        )  # fmt: skip
    axes.set_xlim(0, max([most / power, *(amount for amount, _ in shown)]) * 1.06 or 1)
    axes.set_yticks(places, [_short(one.cluster) for one in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    beyond = "" if len(shown) == len(rows) else "; what can be served is more than this shows where it is not marked"
    axes.set_xlabel(f"{unit} on {day}{beyond}", fontsize=9)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, fontsize=9)
    share = 100 * viewing.hit_bytes // max(viewing.demand_bytes, 1)
    figure.suptitle(
        f"Demand and capacity: {share} % of {show_bytes(viewing.demand_bytes)} lay in a cache of the viewers' cluster",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    save_plot(figure, path)


# ---- forecasts


def draw_forecast(viewing: DayReport, day: str, path: Path) -> None:
    """Draw what was expected of the files of most bytes, with its band, and what came; below it the regions."""
    files = viewing.files[:ROWS_MAX]
    regions = sorted(viewing.regions, key=lambda one: (-one.demand_bytes, one.region))[:ROWS_MAX]
    figure = _figure(10, 2.6 + 0.2 * len(files) + 0.34 * len(regions))
    upper, lower = figure.subplots(
        2, 1, height_ratios=(0.2 * max(len(files), 3) + 0.5, 0.34 * max(len(regions), 2) + 0.4)
    )
    _draw_bands(upper, files)
    power, unit = _unit(max([1.0, *(max(one.expected_bytes, one.demand_bytes) for one in regions)]))
    places = np.arange(len(regions))
    lower.barh(
        places - 0.19, [one.expected_bytes / power for one in regions], 0.36, color=BAND_COLOUR, label="expected"
    )
    lower.barh(places + 0.19, [one.demand_bytes / power for one in regions], 0.36, color="#404040", label="came")
    lower.set_yticks(places, [_short(one.region) for one in regions], fontsize=8)
    lower.set_ylim(len(regions) - 0.4, -0.6)
    lower.set_xlabel(f"{unit} on {day}", fontsize=9)
    lower.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, fontsize=9)
    share = f": {100 * viewing.in_band // viewing.banded} % of all came within" if viewing.banded else ""
    figure.suptitle(f"Forecast for {day}, with bands of 90 %{share}", fontsize=11, x=0.01, ha="left")
    save_plot(figure, path)


def _draw_bands(axes: Axes, files: list[FileDay]) -> None:
    places = np.arange(len(files))
    low = [max(0.0, one.expected - BAND * one.spread) for one in files]
    high = [one.expected + BAND * one.spread for one in files]
    axes.hlines(places, low, high, color=BAND_COLOUR, linewidth=5, label="band of 90 %")
    axes.scatter([one.expected for one in files], places, marker="|", s=70, color=EXPECTED, zorder=3, label="expected")
    for is_in, colour, label in ((True, "black", "came"), (False, LACKING, "came, out of its band")):
        its = [
            (one.came, at) for at, one in enumerate(files) if (low[at] <= one.came <= high[at]) == is_in
        ]  # fmt: skip
        if its:
            axes.scatter(
                [came for came, _ in its], [at for _, at in its], s=22, color=[colour], zorder=4, label=label
            )  # fmt: skip
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(0, max([1.0, *high, *(one.came for one in files)]) * 1.4)
    axes.set_yticks(places, [_short(f"{one.file}, {one.region}") for one in files], fontsize=8)
    axes.set_ylim(len(files) - 0.4, -0.6)
    axes.set_xlabel("streams of the day (bytes divided by the size of the file)", fontsize=9)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, fontsize=9)


def _unit(most: float) -> tuple[float, str]:
    """Return by what to divide bytes of which there are so many at most, and the unit of what comes."""
    power = 0
    while most >= 1000 and power < len(UNITS) - 1:
        most, power = most / 1024, power + 1
    return 1024.0**power, UNITS[power]


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"…{name[1 - NAME_CHARS :]}"
