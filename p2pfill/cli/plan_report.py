"""`p2pfill plan report`: what came of a plan, in the night and on the day after.

The plan is a file, the night is the tracker's or a file with its report, and what was watched is in the history. Where
they are `planner.toml` says, or options do. All of it is only read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from p2pfill.cli.options import PLANNER
from p2pfill.cli.plan_desk import Desk
from p2pfill.cli.plan_history import need_planner
from p2pfill.errors import ConfigError

if TYPE_CHECKING:
    from p2pfill.plan.document import Plan, PlanHead
    from p2pfill.plan.report.day import Day
    from p2pfill.plan.report.night import CacheFacts, NightFacts, Ordered
    from p2pfill.plan.report.report import PlanReport
    from p2pfill.tracker.night_report import NightReport, NightSummary

NIGHT_BYTES_MAX: Final = 1 << 30
"""Of a report of a night as JSON: that of a hundred thousand titles in caches has a tenth."""


class Tables(NamedTuple):
    """Where what was watched is kept, and the tables of that day; None: not said."""

    history: Path | None = None
    catalogue: Path | None = None
    caches: Path | None = None

    def completed(self, desk: Desk) -> Tables:
        """Return it with those of a planner's file where nothing was said."""
        config = desk.config
        return Tables(
            self.history or desk.at(config.history),
            self.catalogue or desk.at(config.catalogue),
            self.caches or desk.at(config.caches),
        )


@dataclass
class FoundNight:
    """A night, and what the tracker says besides; a file says nothing."""

    report: NightReport
    rates: dict[str, float] = field(default_factory=dict)
    """Cache -> at which it may take in, in bytes a second."""
    ordered: Ordered | None = None
    titles: frozenset[str] | None = None
    """Names of those that the tracker has."""
    live: frozenset[tuple[str, str]] = frozenset()
    """Titles and caches where they are live now."""
    early: dict[str, CacheFacts] = field(default_factory=dict)
    """Caches that are still in a night before this one."""


def show_report(
    planner: Path,
    name: str,
    night_file: Path | None,
    night: str,
    tables: Tables,
    plot: Path | None,
    *,
    tracker: str,
    as_json: bool,
) -> None:
    """Print what came of a plan; `name` is its file or its day, empty: the newest.

    Raises `ConfigError` where something does not fit together.
    """
    need_planner()
    if plot is not None:
        from p2pfill.cli.plan_plot import check_directory

        check_directory(plot)
    # Whoever names all files needs no planner's file.
    desk = Desk(planner, tracker) if planner != PLANNER or planner.exists() or not Path(name).is_file() else None
    if desk is None:
        from p2pfill.plan.document import read_plan

        plan = read_plan(Path(name))
    else:
        plan, _ = desk.read_applied(name)
        tracker = desk.tracker
        tables = tables.completed(desk)
    if any(tables) and not all(tables):
        raise ConfigError(
            "what was watched takes --history, --catalogue and --caches: give all three, or a planner's file with "
            "--planner"
        )
    came = what_came(plan, tables, tracker=tracker, night_file=night_file, night=night)
    _print(plan, came, plot, as_json=as_json)


class Came(NamedTuple):
    """What came of a plan, and what that was made of."""

    report: PlanReport
    facts: NightFacts
    night: NightReport
    day: Day | None
    notes: list[str]


def what_came(
    plan: Plan, tables: Tables, *, tracker: str, night_file: Path | None = None, night: str = ""
) -> Came:  # fmt: skip
    """Return what came of a plan. Raises `ConfigError` where its night is not known, and `TrackerError`."""
    from p2pfill.cli.nights import why_lacking
    from p2pfill.plan.report.night import facts_of
    from p2pfill.plan.report.report import build_report

    found = _night_of(plan, tracker, night_file, night)
    notes: list[str] = []
    day = None
    if tables.history is not None and tables.catalogue is not None and tables.caches is not None:
        day = read_day(plan, tables.history, tables.catalogue, tables.caches, notes)
        for cache, rate in zip(day.caches.names, day.caches.filling.tolist(), strict=True):
            found.rates[cache] = min(rate, found.rates.get(cache, rate))
    facts = facts_of(
        found.report, why_lacking, rates=found.rates, ordered=found.ordered, at_tracker=found.titles, live=found.live,
        early=found.early,
    )  # fmt: skip
    told = build_report(plan, facts, day if day is not None and len(day.views.day) else None)
    return Came(told, facts, found.report, day, notes)


def _print(plan: Plan, came: Came, plot: Path | None, *, as_json: bool) -> None:
    import sys

    import msgspec
    from rich.console import Console

    from p2pfill.cli.plan_report_view import report_view

    if as_json:
        print(msgspec.json.encode(came.report).decode())
        for note in came.notes:
            print(note, file=sys.stderr)
    else:
        console = Console(highlight=False)
        console.print(report_view(came.report, console.width, came.notes))
    if plot is not None:
        from p2pfill.cli.plan_plot import draw_all

        for path in draw_all(plan, came.facts, came.report, came.night, came.day, plot):
            print(f"drawn: {path}", file=sys.stderr)


# ---- the night


def _night_of(plan: Plan, tracker: str, night_file: Path | None, night: str) -> FoundNight:
    names = (night,) if night else nights_before(plan.head.day)
    if night_file is not None:
        return FoundNight(read_night(night_file, plan.head.day, names))
    if not tracker:
        raise ConfigError("say whose night it is: --tracker URL, or --night FILE out of `p2pfill night report --json`")
    import trio

    return trio.run(_ask, tracker, plan.head, names)


def nights_before(day: str) -> tuple[str, ...]:
    """Return the nights that fill caches for a day, as they are named: by the date on which they begin.

    Mostly that is the day before. It is the day itself where nights begin at midnight (`night_from`), and far in the
    east: a night in Tokyo ends in UTC on the date on which it began.
    """
    try:
        return str(date.fromisoformat(day) - timedelta(days=1)), day
    except ValueError as error:
        raise ConfigError(f"the plan is for {day[:40]!r}, which is no day such as 2026-12-01") from error


def read_night(path: Path, day: str, names: tuple[str, ...]) -> NightReport:
    """Return the report of a night in a file. Raises `ConfigError` where it is none, or of another night."""
    import msgspec

    from p2pfill.model.packing import JSON_ERRORS
    from p2pfill.tracker.night_report import NightReport

    again = f"p2pfill night report {names[0]} --json > {path.name}"
    try:
        with path.open("rb") as stream:
            data = stream.read(NIGHT_BYTES_MAX + 1)
        found = msgspec.json.decode(data, type=NightReport)
    except OSError as error:
        raise ConfigError(f"cannot read the night {str(path)!r}: {error.strerror}; make it with: {again}") from error
    except JSON_ERRORS as error:
        raise ConfigError(f"{str(path)!r} is no report of a night: {error}; make it with: {again}") from error
    if found.night not in names:
        raise ConfigError(
            f"{str(path)!r} is of the night of {found.night}, and the plan for {day} was filled in that of {names[0]}: "
            f"{again}, or say with --date {found.night} that it is the right one"
        )
    return found


async def _ask(tracker: str, plan: PlanHead, names: tuple[str, ...]) -> FoundNight:
    from p2pfill.cli.calling import call_tracker
    from p2pfill.plan.report.night import CacheFacts, ordered_of

    async with call_tracker(tracker) as client:
        name = choose_night(await client.nights(), plan, names)
        found = await client.night(name)
        record = await client.night_record(name)
        titles = {one.title: one.name for one in await client.titles()}
        ordered = ordered_of(await client.fills(), titles)
        nodes = await client.nodes()
        live = frozenset(
            (titles[one.title], str(node.info.id))
            for node in nodes
            for one in node.titles
            if one.state == "live" and one.title in titles
        )
    early = {
        str(one.info.id): CacheFacts(one.info.isp, one.info.region)
        for one in nodes
        if one.alive and "" < one.hours.night < name
    }
    rates = {one.info.id: float(one.rates.inbound.total) for one in record.caches if one.rates.inbound.total}
    return FoundNight(
        found, {str(name): rate for name, rate in rates.items()}, ordered, frozenset(titles.values()), live, early
    )


def choose_night(nights: list[NightSummary], plan: PlanHead, names: tuple[str, ...]) -> str:
    """Return the night of a plan: the first of some that goes on until the plan's deadline, or that is not over.

    Raises `ConfigError` where the tracker has none of them.
    """
    by_name = {one.night: one for one in nights}
    kept = [by_name[name] for name in names if name in by_name]
    if kept:
        return next((one.night for one in kept if one.last_at >= plan.deadline or not one.is_over), kept[-1].night)
    if not nights:
        raise ConfigError("the tracker knows of no night yet: no cache has reported to it")
    first, last = min(by_name), max(by_name)
    if names[0] > last:
        raise ConfigError(
            f"the plan is for {plan.day}, and its night, that of {names[0]}, has not begun: the last is that of "
            f"{last}; name another plan, by its day"
        )
    raise ConfigError(
        f"the tracker has no night of {names[0]}, in which the plan for {plan.day} was filled: it has {len(nights)}, "
        f"of {first} to {last}. Where you have kept its report, name it: --night FILE; if another of them is meant: "
        "--date DATE"
    )


# ---- the day


def read_day(plan: Plan, history: Path, catalogue_file: Path, caches_file: Path, notes: list[str]) -> Day:
    """Return what was watched on a plan's day; adds to `notes` what people should know of it."""
    import numpy as np

    from p2pfill.plan.history.history import History
    from p2pfill.plan.inputs import read_caches, read_catalogue
    from p2pfill.plan.report.day import Day, day_number
    from p2pfill.plan.tables import Views

    catalogue, file_faults = read_catalogue(catalogue_file)
    caches, cache_faults = read_caches(caches_file)
    for path, faults in ((catalogue_file, file_faults), (caches_file, cache_faults)):
        if faults:
            notes.append(f"{path}: {faults.in_words()}")
    kept = History(history)
    day, summary = day_number(plan.head.day), kept.summary()
    if plan.head.day not in summary.days:
        has = f"has {min(summary.days)} to {max(summary.days)}" if summary.days else "is empty"
        notes.append(
            f"The history {has}, and nothing of {plan.head.day}, the day of the plan: `p2pfill plan ingest` takes its "
            "logs in. So this is of the night alone."
        )
        none = np.zeros(0, np.int32)
        return Day(Views(caches.regions, day, day, none, none, none, none.astype(np.int64), none.astype(np.int64)),
                   catalogue, caches)  # fmt: skip
    views = kept.views(catalogue, caches.regions, first_day=day, last_day=day)
    if not len(views.day):
        notes.append(
            f"Nothing that was watched on {plan.head.day} is of a file of {catalogue_file} in a region of "
            f"{caches_file}: are they those of `p2pfill plan ingest`?"
        )
    first, last = map(day_number, plan.head.history)
    seen = None
    if any(first <= day_number(name) <= last for name in summary.days):
        seen = np.zeros(len(catalogue.files), np.bool_)
        seen[np.unique(kept.views(catalogue, caches.regions, first_day=first, last_day=last).file)] = True
    else:
        notes.append(
            f"The history has nothing of {' to '.join(plan.head.history)}, of which the plan was made: only what was "
            "released later counts as new."
        )
    unknown = summary.days[plan.head.day].bytes - int(views.bytes.sum())
    return Day(views, catalogue, caches, seen, unknown)
