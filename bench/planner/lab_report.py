"""What was found in the lab: as JSON, in the terminal, and as a page. All figures of these are out of the JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from rich.table import Table

from bench.swarm.report import table_in_markdown
from p2pfill.bench.measure import Machine

ORIGIN: Final = "the origin"
MB: Final = 1e6

GUIDE: Final = "planner-evaluation.md"

FACTOR_HEAD: Final = ("bytes over the border, LRU / plan", "at peak", "in the day", "in 24 h, with the fill")
BYTES_HEAD: Final = ("MB over the border", "LRU, peak", "plan, peak", "LRU, day", "plan, day", "fill", "plan, 24 h")
FILL_HEAD: Final = ("MB of fill", "origin", "other ISPs", "within", "new to it", "copies over the border")
HIT_HEAD: Final = (
    "hits by bytes", "plan, peak", "LRU, peak", "plan, day", "LRU, day", "exact LRU, day", "plan, by requests",
    "LRU, by requests",
)  # fmt: skip
CPU_HEAD: Final = ("processor seconds", "user", "system")


class Border(msgspec.Struct, frozen=True):
    """One ISP on the next day. Lists have an entry for each hour of the day in UTC; what is not said is bytes."""

    isp: str
    peak_hours: list[int]
    """By what was streamed in the week before."""
    asked: list[int]
    planned: list[int]
    """What came over the border, from the origin, on the planned side."""
    lru: list[int]
    """And on the other."""
    asked_requests: int
    planned_requests: int
    """Of those, how many crossed the border."""
    lru_requests: int
    exact_lru: int
    """What would have come with an LRU that counts files by their sizes and evicts at once: nginx beside its rule."""
    exact_plan: int
    """And what would have come if just what the plan says lay in the caches: the nodes beside the plan."""
    fill_origin: int
    """What the nodes of the ISP had of the origin in the night, as they count."""
    fill_regional: int
    """And of nodes of other ISPs."""
    fill_peer: int
    """And of each other, which crosses no border."""
    fill_distinct: int
    """What came new to the ISP by the plan, each file once."""

    @property
    def fill(self) -> int:
        """What the fill brought over the border."""
        return self.fill_origin + self.fill_regional

    def at_peak(self, by_hour: Sequence[int]) -> int:
        """Return what falls into the hours of the peak."""
        return sum(by_hour[hour] for hour in self.peak_hours)


class Run(msgspec.Struct, frozen=True):
    """One service on both sides."""

    grade: str
    seed: int
    files: int
    catalogue_bytes: int
    room: int
    """Of the caches of an ISP together, in bytes."""
    origin_peak_hours: list[int]
    """By what was streamed in the week before in all regions."""
    borders: list[Border]
    fill_logged: int
    """What the nodes had of the origin in the night, as the origin counts, in bytes."""
    fill_distinct: int
    """What came new to any cache by the plan, each file once, in bytes."""
    fill_s: float
    planned_cpu_s: tuple[float, float]
    """User and system, of the workers of all ISPs together on the next day."""
    lru_cpu_s: tuple[float, float]
    nodes_cpu_s: tuple[float, float]
    """Of all nodes together, from before the plan until the fill was over."""
    plan_cpu_s: tuple[float, float]
    """Of `p2pfill plan night`."""

    @property
    def origin(self) -> Border:
        """The origin as a border: what leaves it."""

        def summed(name: str) -> list[int]:
            return [sum(hour) for hour in zip(*(getattr(one, name) for one in self.borders), strict=True)]

        def total(name: str) -> int:
            return sum(getattr(one, name) for one in self.borders)

        return Border(
            ORIGIN, self.origin_peak_hours, summed("asked"), summed("planned"), summed("lru"),
            total("asked_requests"), total("planned_requests"), total("lru_requests"), total("exact_lru"),
            total("exact_plan"), total("fill_origin"), 0, total("fill_peer") + total("fill_regional"),
            self.fill_distinct,
        )  # fmt: skip

    @property
    def all_borders(self) -> list[Border]:
        """Those of ISPs, and that of the origin."""
        return [*self.borders, self.origin]


class Report(msgspec.Struct, frozen=True):
    """All that was found."""

    machine: Machine
    commit: str
    nginx: str
    titles: int
    days: int
    """Of history."""
    views: float
    """A day, in all regions together."""
    held_share: float
    """Of the catalogue that each of the two caches of an ISP has room for."""
    runs: list[Run]

    def of(self, grade: str) -> list[Run]:
        """Return the runs of a grade."""
        return [one for one in self.runs if one.grade == grade]

    @property
    def grades(self) -> list[str]:
        """Those that were run."""
        return list(dict.fromkeys(one.grade for one in self.runs))


Figure = Callable[[Border], float]


def peak_factor(border: Border) -> float:
    """Return the bytes at peak with LRUs over those with the plan."""
    return _over(border.at_peak(border.lru), border.at_peak(border.planned))


def day_factor(border: Border) -> float:
    """Return the same of the whole day, without the fill."""
    return _over(sum(border.lru), sum(border.planned))


def total_factor(border: Border) -> float:
    """Return the same of the whole day, with the fill of the night before."""
    return _over(sum(border.lru), sum(border.planned) + border.fill)


def _over(lru: int, planned: int) -> float:
    return lru / planned if planned else float("inf")


def _hit(crossed: int, asked: int) -> float:
    return 1.0 - crossed / asked if asked else 0.0


def not_fewer(report: Report) -> list[str]:
    """Return the borders over which no fewer bytes come at peak by the plan, by the median of the seeds."""
    return [
        f"{name}, grade {grade}"
        for grade in report.grades
        for name, borders in _by_border(report.of(grade))
        if median(map(peak_factor, borders)) <= 1.0
    ]


def in_short(run: Run) -> str:
    """Return the factors of one run."""
    factors = ", ".join(f"{one.isp} {peak_factor(one):.2f}" for one in run.all_borders)
    return f"bytes at peak, LRU / plan: {factors}"


def _by_border(runs: Sequence[Run]) -> list[tuple[str, list[Border]]]:
    rows = zip(*(one.all_borders for one in runs), strict=True)
    return [(borders[0].isp, list(borders)) for borders in rows]


def _ranged(figure: Figure, borders: Sequence[Border]) -> str:
    values = sorted(map(figure, borders))
    return f"{median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def _megabytes(figure: Figure, borders: Sequence[Border]) -> str:
    return f"{median(map(figure, borders)) / MB:.1f}"


def factor_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for each border: factors, with their range over the seeds."""
    figures = (peak_factor, day_factor, total_factor)
    return [(name, *(_ranged(figure, of) for figure in figures)) for name, of in _by_border(runs)]


def bytes_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for each border: how many megabytes came over it."""
    figures: list[Figure] = [
        lambda one: one.at_peak(one.lru),
        lambda one: one.at_peak(one.planned),
        lambda one: sum(one.lru),
        lambda one: sum(one.planned),
        lambda one: one.fill,
        lambda one: sum(one.planned) + one.fill,
    ]
    return [(name, *(_megabytes(figure, of) for figure in figures)) for name, of in _by_border(runs)]


def fill_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for each border: what the night brought over it, and moved within."""
    figures: list[Figure] = [
        lambda one: one.fill_origin,
        lambda one: one.fill_regional,
        lambda one: one.fill_peer,
        lambda one: one.fill_distinct,
    ]
    return [
        (
            name, *(_megabytes(figure, of) for figure in figures),
            _ranged(lambda one: one.fill / max(one.fill_distinct, 1), of),
        )
        for name, of in _by_border(runs)
    ]  # fmt: skip


def hit_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for each border: what was served within it."""
    figures: list[Figure] = [
        lambda one: _hit(one.at_peak(one.planned), one.at_peak(one.asked)),
        lambda one: _hit(one.at_peak(one.lru), one.at_peak(one.asked)),
        lambda one: _hit(sum(one.planned), sum(one.asked)),
        lambda one: _hit(sum(one.lru), sum(one.asked)),
        lambda one: _hit(one.exact_lru, sum(one.asked)),
        lambda one: _hit(one.planned_requests, one.asked_requests),
        lambda one: _hit(one.lru_requests, one.asked_requests),
    ]
    return [
        (name, *(f"{median(map(figure, of)):.3f}" for figure in figures)) for name, of in _by_border(runs)
    ]  # fmt: skip


def cpu_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for whatever used a processor."""
    names = {
        "three nginx over live directories, the next day": "planned_cpu_s",
        "three nginx as pull-through caches, the next day": "lru_cpu_s",
        "six nodes, the night's fill": "nodes_cpu_s",
        "`p2pfill plan night`": "plan_cpu_s",
    }
    return [
        (name, *(f"{median(getattr(one, what)[place] for one in runs):.2f}" for place in (0, 1)))
        for name, what in names.items()
    ]


# ---- as text

TABLES: Final = (
    (FACTOR_HEAD, factor_rows), (BYTES_HEAD, bytes_rows), (FILL_HEAD, fill_rows), (HIT_HEAD, hit_rows),
    (CPU_HEAD, cpu_rows),
)  # fmt: skip


def terminal_tables(report: Report) -> list[Table]:
    """Return the tables that a person reads after the run."""
    return [_table(f"grade {grade}", head, rows(report.of(grade))) for grade in report.grades for head, rows in TABLES]


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(head):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def encode_report(report: Report) -> str:
    """Return a report as JSON, with a line for each border."""
    record: dict[str, Any] = msgspec.to_builtins(report)
    runs = []
    for one in record.pop("runs"):
        borders = ",\n    ".join(msgspec.json.encode(border).decode() for border in one.pop("borders"))
        runs.append(f'{msgspec.json.encode(one).decode().removesuffix("}")},"borders":[\n    {borders}\n  ]}}')
    head = msgspec.json.encode(record).decode()
    return f'{head.removesuffix("}")},"runs":[\n  ' + ",\n  ".join(runs) + "\n]}\n"


def decode_report(text: str | bytes) -> Report:
    """Read what `encode_report` wrote. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(text, type=Report)


def page(report: Report) -> str:
    """Return the page of a report."""
    machine, first = report.machine, report.runs[0]
    parts = [
        "# A planned night beside LRU pull-through caches",
        f"[What is measured, and how to repeat it](../../{GUIDE}#a-planned-night-in-the-lab). {report.titles} titles,"
        f" {report.views:,.0f} views a day in three regions, {report.days} days of logs, then one more. In each region"
        f" an ISP with two caches, each with room for {report.held_share:.0%} of the catalogue ({first.room / MB:.1f}"
        f" MB together, of {first.catalogue_bytes / MB:.1f} MB, for seed {first.seed}), beside one LRU of both caches'"
        " room. Medians over seeds, each figure's its own; in brackets the least and the most.",
    ]
    for grade in report.grades:
        runs = report.of(grade)
        parts += [f"## Grade {grade}, {len(runs)} seeds" if len(runs) > 1 else f"## Grade {grade}, one seed"]
        parts += [table_in_markdown(head, rows(runs)).rstrip() for head, rows in TABLES]
        parts += [at_peak(runs), in_all(runs), counted_twice(runs)]
    parts += [
        "## What is simpler than life, and whom that favours",
        FAVOURS,
        f"Made by `python -m bench.planner.lab`, {machine.made_at}, commit {report.commit or 'not known'}, on"
        f" {machine.kernel}, {machine.processor}, {machine.processors} processors, Python {machine.python}, nginx"
        f" {report.nginx}. As data: [lab.json](lab.json).",
    ]
    return "\n\n".join(parts) + "\n"


FAVOURS: Final = """\
The LRU:

- The room of both caches is one pool, and what it stores is served to all viewers of the ISP.
- Its room has a block more for each file, so that nginx's blocks and heads cost it nothing. (`exact LRU` is what an
  LRU of the caches' room, in bytes, makes of the same requests.)
- Viewers of an ISP come one after the other, so no two of them have it fetch one file twice.
- The planned side stores nothing of what it lacks: no part of its disks is left to what nobody foresaw.

The plan:

- Its fill is over before the day begins. In life windows keep it out of the peak; here nothing else runs in the night.
- Its caches were empty, so it might write all of them. A later night may write over a tenth.
- A made service, whose maker is the planner's, too, with hints for seven of ten titles and a calendar of launches.
- No cache fails. A planned cache that is lost takes its files with it until the next night.

Neither: viewers fetch whole files, as many as the bytes of the logs make, and the clock is not waited for, so that
bytes and their hours are measured, not rates. The factors hang on how much is watched for each byte of disk: with more
views the fill weighs less, and with fewer more."""


def at_peak(runs: Sequence[Run]) -> str:
    """Say where no fewer bytes came at peak by the plan."""
    pairs = [(one.isp, run.seed, peak_factor(one)) for run in runs for one in run.all_borders]
    worse = [f"{name} with seed {seed} ({factor:.2f})" for name, seed, factor in pairs if factor <= 1.0]
    if not worse:
        return "At peak fewer bytes came by the plan over every border with every seed."
    return f"**At peak no fewer bytes came by the plan over {_listed(worse)}**, of {len(pairs)} borders and seeds."


def in_all(runs: Sequence[Run]) -> str:
    """Say over which borders the plan moves more bytes in all than an LRU."""
    more = [name for name, of in _by_border(runs) if median(map(total_factor, of)) < 1.0]
    each = [total_factor(one) for run in runs for one in run.all_borders]
    counted = f"over {sum(factor < 1.0 for factor in each)} of {len(each)} borders and seeds it moves more"
    if not more:
        return f"With its fill, the plan moves fewer bytes in 24 h over every border by the medians; {counted}."
    return (
        f"**With its fill, the plan moves more bytes in 24 h than the LRU over {_listed(more)}** by the medians;"
        f" {counted}. There it moves bytes out of the peak and does not save them."
    )


def counted_twice(runs: Sequence[Run]) -> str:
    """Say how far the counts of nodes and of the origin lie apart."""
    off = max(abs(run.origin.fill_origin / run.fill_logged - 1.0) for run in runs)
    lacking = max(abs(sum(one.planned) - one.exact_plan) for run in runs for one in run.borders)
    return (
        f"Of the fill out of the origin, its log and the counters of the nodes differ by {off:.2%} at most. Beside what"
        f" the plan says lies where, {lacking:,} bytes more or fewer came over any border in the day."
    )


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def write_report(report: Report, directory: Path) -> None:
    """Write JSON and page. Runs of other grades stay there where they are of the same code, machine and settings."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "lab.json"
    runs = report.runs
    with suppress(FileNotFoundError):
        before = decode_report(path.read_bytes())
        if msgspec.structs.replace(before, runs=runs) == report:
            runs = [one for one in before.runs if one.grade not in report.grades] + runs
    made = msgspec.structs.replace(report, runs=sorted(runs, key=lambda one: (one.grade, one.seed)))
    path.write_text(encode_report(made))
    (directory / "lab.md").write_text(page(made))
