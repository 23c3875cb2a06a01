"""What `p2pfill plan make`, `check`, `show` and `why` do."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from rich.console import Console, Group, RenderableType
from rich.text import Text

from p2pfill.cli.columns import Column, table_within, unbroken
from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.plan_desk import (
    DAY_S,
    START_MIN,
    Desk,
    day_number,
    day_of,
    deadline_of,
    planned_day,
    say_faults,
    start_of,
)
from p2pfill.cli.text import plural, printable, show_bytes, show_seconds
from p2pfill.errors import ConfigError

if TYPE_CHECKING:
    from p2pfill.cli.planned_night import Prediction
    from p2pfill.plan.document import Change, Plan, PlannedFile
    from p2pfill.plan.feasibility.feasibility import Verdict
    from p2pfill.plan.feasibility.needs import Needs
    from p2pfill.plan.feasibility.network import Network, Night
    from p2pfill.plan.making import Made
    from p2pfill.plan.tables import Longs, Views

SHOWN: Final = 20
"""Rows of a table of files or caches; --json has all."""

SHORTAGES_SHOWN: Final = 10
REMEDIES_SHOWN: Final = 3

STALE_DAYS: Final = 3
"""Between the end of the history and the day that is planned for, from which on it is said."""

RECENT_DAYS: Final = 14
"""Before the end of the history, of which it is said where logs are missing: forecasts forget a fifth each day."""

PART_OF_DAY: Final = 0.75
"""Of the hours that a day has in the logs: a last day of fewer is one of which logs are still to come."""


class Outlook(NamedTuple):
    """What can be said of a plan's night before it."""

    verdict: Verdict
    night: Night
    remedies: dict[int, list[str]]
    """Place among the shortages -> changes each of which ends it."""
    prediction: Prediction | None
    why_not: str
    """Why there is no prediction."""


class GivenUp(NamedTuple):
    """Copies that do not come, since they do not fit into the night."""

    copies: int
    size: int
    worth: float
    """Bytes a day that they would have served."""
    fits: bool


def make_plan(
    planner: Path, *, day: str, out: Path | None, held: str, fit: bool, at: str, tracker: str, as_json: bool
) -> None:
    """Make a plan, write it, and print what it does. Raises `CommandFailed` where it does not fit."""
    desk = Desk(planner, tracker)
    with Console(stderr=True).status("reading", spinner="dots") as status:
        made = made_plan(desk, day=day, held=held, fit=fit, start=start_of(at), note=status.update)
    path = keep(desk, made.plan, out)
    if as_json:
        print(json.dumps(made_record(desk, made, path)))
    else:
        console = Console(highlight=False)
        console.print(made_view(made, path, console.width, next_commands(desk, made, path, at)), crop=False)
    if not made.outlook.verdict.fits:
        check = desk.command("check", path, tracker=desk.named_tracker)
        raise CommandFailed(f"the plan does not fit into the night: `{check}` says what would help", ExitCode.FOUND)


class MadePlan(NamedTuple):
    """A plan with all that is said of it."""

    plan: Plan
    held: str
    """In words: who says what lies in the caches."""
    outlook: Outlook
    given_up: GivenUp
    notes: list[str]


def made_plan(
    desk: Desk, *, day: str, held: str, fit: bool, start: float, note: Any = lambda text: None
) -> MadePlan:  # fmt: skip
    """Return the plan for a day, whose night begins at `start`; empty: that of the morning after.

    Raises `ConfigError`.
    """
    from p2pfill.plan.feasibility.needs import needs_of
    from p2pfill.plan.feasibility.remedies import drop
    from p2pfill.plan.making import Inputs, document, make, without
    from p2pfill.plan.rewriting import written_tonight

    network, night = desk.night(start)
    number = day_number(day or day_of(night.deadline))
    day = _iso(number)
    before = desk.applied(day)
    if before is not None:
        network, night = desk.night(start, open_until=before.head.deadline)
    note("reading what was watched")
    views = desk.history.views(desk.catalogue, desk.caches.regions)
    planned_day(day, views.last_day)
    notes = _known(desk, views, number)
    there = desk.held(held, day)
    lies = there.placement
    written = None if before is None or lies is None else written_tonight(before, lies, desk.catalogue, desk.caches)
    note("forecasting and placing")
    made = make(
        Inputs(
            desk.catalogue, desk.caches, views, number, desk.load, lies, desk.settings, desk.config.pin,
            desk.config.exclude, written, there.other,
        )
    )  # fmt: skip
    notes += _unplaced(made)
    notes += [] if there.other is None else _others(there.other)
    given_up = GivenUp(0, 0, 0.0, True)
    if fit:
        note("checking whether it fits")
        size = desk.catalogue.size
        needs = needs_of(network, size, made.target, made.held, made.worth())
        found = drop(network, needs, night)
        if len(found.rows):
            entries = made.coming()[found.rows]
            given_up = GivenUp(
                len(entries), int(size[made.target.files[entries]].sum()), float(found.lost), found.fits
            )  # fmt: skip
            made = without(made, entries)
    plan = document(made, start)
    plan = msgspec.structs.replace(plan, head=msgspec.structs.replace(plan.head, deadline=night.deadline))
    proof = outlook(desk, plan, start=start, simulate=False)
    head = msgspec.structs.replace(plan.head, finish_at=proof.verdict.finish or 0.0)
    return MadePlan(msgspec.structs.replace(plan, head=head), there.source, proof, given_up, notes)


def _known(desk: Desk, views: Views, day: int) -> list[str]:
    """Return what the history lacks for a day's plan. Raises `ConfigError` where it has nothing."""
    last = min(views.last_day, day - 1)
    while last in views.unknown:
        last -= 1
    if last < views.first_day:
        raise ConfigError(f"the history begins with {_iso(views.first_day)}: nothing is known before {_iso(day)}")
    notes = []
    if day - last > STALE_DAYS:
        notes.append(
            f"what was watched is known up to {_iso(last)}, {day - last} days before {_iso(day)}: take newer logs in"
        )
    if gaps := [_iso(one) for one in views.unknown if last - RECENT_DAYS <= one < last]:
        notes.append(f"nothing is known of {', '.join(gaps)}: take the logs in, if there are any")
    hours = {name: one.hours for name, one in desk.history.summary().days.items() if name <= _iso(last)}
    others = [hours[name] for name in sorted(hours)[-RECENT_DAYS:-1]]
    if others and hours[_iso(last)] < PART_OF_DAY * statistics.median(others):
        notes.append(
            f"of {_iso(last)} the logs have {plural(hours[_iso(last)], 'hour')}, of the days before it mostly "
            f"{statistics.median(others):.0f}: so it passes for a day on which little was watched"
        )
    return notes


def _others(other: Longs) -> list[str]:
    if not (count := int((other > 0).sum())):
        return []
    return [
        f"in {plural(count, 'cache')} lie {show_bytes(int(other.sum()))} that are no files of the catalogue, or that "
        "nothing orders any more: they may go where room is needed, and what takes their place counts as written over"
    ]


def _unplaced(made: Made) -> list[str]:
    caches, catalogue = made.inputs.caches, made.inputs.catalogue
    notes = [
        f"pin of {catalogue.files[file]} in {caches.clusters[cluster]}: no cache of it has room for it"
        for cluster, file in made.result.unpinned[:SHOWN]
    ]
    if len(made.result.exceeded):
        names = [caches.names[cache] for cache in made.result.exceeded[:SHOWN]]
        notes.append(f"pins have more than the allowed share rewritten in {', '.join(names)}")
    return notes


def keep(desk: Desk, plan: Plan, out: Path | None) -> Path:
    """Write a plan where it was asked for, or among those that are kept, and return where. Raises `StoreError`."""
    from p2pfill.plan.document import write_plan

    path = out or desk.plan_path(plan.head.day)
    if out is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_plan(path, plan)
    if out is None:
        desk.forget_old()
    return path


# ---- whether it fits


def check_plan(
    planner: Path, name: str, *, at: str, deadline: str, simulate: bool, tracker: str, as_json: bool
) -> None:
    """Print whether a plan fits into the night. Raises `CommandFailed` where it does not."""
    desk = Desk(planner, tracker)
    plan, path = desk.read_plan(name)
    start = start_of(at) if at else max(plan.head.made_at, START_MIN)
    with Console(stderr=True).status("checking", spinner="dots"):
        found = outlook(
            desk, plan, start=start, deadline=deadline_of(deadline, start), simulate=simulate
        )  # fmt: skip
    if as_json:
        print(json.dumps({"plan": str(path)} | outlook_record(found)))
    else:
        Console(highlight=False).print(outlook_view(found), crop=False)
    if not found.verdict.fits:
        raise CommandFailed(f"{path} does not fit into the night", ExitCode.FOUND)


def outlook(
    desk: Desk, plan: Plan, *, start: float, deadline: float | None = None, simulate: bool
) -> Outlook:  # fmt: skip
    """Return what can be said of a plan's night. Raises `ConfigError` where its tables are not those of the plan."""
    from p2pfill.plan.feasibility.feasibility import check
    from p2pfill.plan.feasibility.needs import demand_of, needs_of
    from p2pfill.plan.feasibility.remedies import remedies
    from p2pfill.plan.making import as_placements, room_of

    target, held = as_placements(plan, desk.catalogue, desk.caches)
    network, night = desk.night(start, room_of(plan, desk.caches), deadline, open_until=plan.head.deadline)
    needs = needs_of(network, desk.catalogue.size, target, held)
    demand = demand_of(network, needs)
    verdict = check(network, demand, night)
    helps = {
        place: [one.text for one in remedies(network, demand, night, shortage)][:REMEDIES_SHOWN]
        for place, shortage in enumerate(verdict.shortages[:SHORTAGES_SHOWN])
    }
    prediction, why_not = (None, "not asked for") if not simulate else _predicted(desk, network, needs, held, night)
    return Outlook(verdict, night, helps, prediction, why_not)


def _predicted(
    desk: Desk, network: Network, needs: Needs, held: Any, night: Night
) -> tuple[Prediction | None, str]:  # fmt: skip
    from p2pfill.cli.planned_night import predict

    try:
        return predict(network, needs, held, night), ""
    except ConfigError as error:
        return None, str(error)


def outlook_record(found: Outlook) -> dict[str, Any]:
    """Return it as JSON has it. Times are seconds since the epoch."""
    verdict, prediction = found.verdict, found.prediction
    return {
        "fits": verdict.fits, "start": found.night.start, "deadline": found.night.deadline,
        "finish_bound": verdict.finish, "kept_by": verdict.kept_by,
        "shortages": [
            {
                "where": one.where, "need": one.need, "carried": one.carried, "short": one.short, "text": one.text,
                "remedies": found.remedies.get(place, []),
            }
            for place, one in enumerate(verdict.shortages)
        ],
        "predicted": None if prediction is None else {
            "finish": prediction.finish, "caches": prediction.caches, "complete": prediction.complete,
            "from_origins": prediction.from_origins, "into_isps": prediction.over_uplinks,
            "notes": list(prediction.notes),
        },
        "not_predicted": found.why_not,
    }  # fmt: skip


def outlook_view(found: Outlook) -> RenderableType:
    """Return it as text."""
    verdict, night = found.verdict, found.night
    parts: list[RenderableType] = []
    begin, end = (_moment(at) for at in (night.start, night.deadline))
    if verdict.fits:
        parts.append(Text(f"Nothing says that it does not fit between {begin} and {end}", style="bold green"))
    else:
        parts.append(Text(f"It does not fit between {begin} and {end}", style="bold red"))
    if verdict.finish is not None and verdict.finish > night.start:
        after = show_seconds(verdict.finish - night.start)
        said = f"no fill is over before {_moment(verdict.finish)}, after {after}"
        parts.append(Text(f"{said}: due to {printable(verdict.kept_by)}"))
    elif verdict.finish is None:
        parts.append(Text(f"it is not over a day later either: due to {printable(verdict.kept_by)}"))
    else:
        parts.append(Text("nothing is to come"))
    for place, one in enumerate(verdict.shortages[:SHORTAGES_SHOWN]):
        parts.append(Text(printable(one.text), style="yellow"))
        parts += [Text(f"  or {printable(help_)}") for help_ in found.remedies.get(place, [])]
    if len(verdict.shortages) > SHORTAGES_SHOWN:
        parts.append(Text(f"and {len(verdict.shortages) - SHORTAGES_SHOWN} more shortages; --json has all"))
    if not verdict.fits:
        parts.append(Text("or give up what is worth least: `p2pfill plan make --fit`", style="dim"))
    if found.prediction is not None:
        parts += _prediction_lines(found.prediction, night)
    elif found.why_not != "not asked for":
        parts.append(Text(f"not simulated: {printable(found.why_not)}", style="dim"))
    return Group(*parts)


def _prediction_lines(prediction: Prediction, night: Night) -> list[RenderableType]:
    if not prediction.caches:
        return []
    if prediction.finish is None:
        said = f"{prediction.complete} of {plural(prediction.caches, 'cache')} have all a day after the deadline"
    else:
        after = show_seconds(prediction.finish - night.start)
        late = ", past the deadline" if prediction.finish > night.deadline else ""
        said = f"{plural(prediction.caches, 'cache')} have all by {_moment(prediction.finish)}, after {after}{late}"
    lines: list[RenderableType] = [Text(f"simulated: {said}; {show_bytes(prediction.from_origins)} out of the origins")]
    return lines + [Text(f"  note: {printable(note)}", style="dim") for note in prediction.notes]


# ---- what it says


def made_record(desk: Desk, made: MadePlan, path: Path) -> dict[str, Any]:
    """Return a plan that was just made as JSON has it."""
    head = msgspec.to_builtins(made.plan.head)
    return {
        "plan": str(path), "held_by": made.held, "head": head, "notes": made.notes, "tables": say_faults(desk),
        "given_up": made.given_up._asdict(), **outlook_record(made.outlook),
    }  # fmt: skip


def made_view(made: MadePlan, path: Path, width: int, commands: Sequence[str] = ()) -> RenderableType:
    """Return a plan that was just made as text, with the commands that come next."""
    parts: list[RenderableType] = [plan_view(made.plan, width), Text()]
    parts.append(Text(f"What lies there now: {printable(made.held)}", style="dim"))
    parts += [Text(f"note: {printable(note)}", style="yellow") for note in made.notes]
    given_up = made.given_up
    if given_up.copies:
        parts.append(
            Text(
                f"given up, so that it fits: {plural(given_up.copies, 'copy').replace('copys', 'copies')}, "
                f"{show_bytes(given_up.size)}, which would have served {show_bytes(given_up.worth)} a day",
                style="yellow",
            )
        )
    parts += [outlook_view(made.outlook), unbroken(f"written: {printable(str(path))}")]
    if commands:
        parts += [Text("next:", style="dim"), *(unbroken(f"  {one}", style="dim") for one in commands)]
    return Group(*parts)


def next_commands(desk: Desk, made: MadePlan, path: Path, at: str) -> list[str]:
    """Return the commands that go on from a plan that was just made for a night that begins `at`."""
    tracker = desk.named_tracker
    if made.outlook.verdict.fits:
        after = desk.command("apply", path, at=at, tracker=tracker)
    else:
        after = desk.command("check", path, tracker=tracker)
    return [desk.command("show", path), after]


def plan_view(plan: Plan, width: int) -> RenderableType:
    """Return what a plan does, cache by cache where these are few."""
    from p2pfill.plan.document import by_cache

    head, sums = plan.head, by_cache(plan.files)
    lies = any(stays + goes for _, stays, goes in sums.values())
    share = head.served_bytes / head.demand_bytes if head.demand_bytes else 0.0
    off = 1 - head.served_bytes / head.bound_bytes if head.bound_bytes else 0.0
    parts: list[RenderableType] = [
        Text(f"For {head.day}, out of what was watched from {head.history[0]} to {head.history[1]}", style="bold"),
        Text(
            f"{show_bytes(head.demand_bytes)} are expected to be asked for, {share:.1%} of it served by the clusters "
            f"({max(off, 0.0):.1%} off what any placement could)"
        ),
        Text(f"{show_bytes(head.comes_bytes)} come" + (
            f", {show_bytes(head.goes_bytes)} may go; {head.kept_share:.1%} of what lies there stays" if lies else ""
        )),
    ]
    if head.left_out:
        left_out = sorted(head.left_out.items(), key=lambda one: -one[1])
        said = ", ".join(f"{show_bytes(bytes_)} ({why})" for why, bytes_ in left_out if bytes_ >= 1)
        parts += [Text(f"not served: {said}")] if said else []
    rows = []
    for name, (comes, stays, goes) in sorted(sums.items(), key=lambda one: (-one[1][0], one[0]))[:SHOWN]:
        capacity = head.capacities.get(name, 0)
        full = f"{(comes + stays) / capacity:.0%}" if capacity else ""
        new = f"{comes / capacity:.1%}" if capacity else ""
        rows.append([
            Text(printable(name)), *(Text(show_bytes(one)) for one in (comes, stays, goes)), Text(full), Text(new),
        ])  # fmt: skip
    columns = (
        Column("cache"), Column("comes", is_right=True), Column("stays", 1, is_right=True),
        Column("may go", 2, is_right=True), Column("then full", 3, is_right=True), Column("new", 4, is_right=True),
    )  # fmt: skip
    parts += [Text(), table_within(width, columns, rows)]
    if len(sums) > SHOWN:
        parts.append(Text(f"and {len(sums) - SHOWN} caches to which less comes; --json has all", style="dim"))
    return Group(*parts)


def show_plan(
    planner: Path, name: str, *, cache: str, title: str, since: str, most: int, tracker: str, as_json: bool
) -> None:
    """Print what a plan does, or what differs from another."""
    from p2pfill.plan.document import compare

    desk = Desk(planner, tracker)
    plan, path = desk.read_plan(name)
    if since:
        other, _ = desk.read_plan(since)
        changes = list(compare(other, plan))
        if as_json:
            print(msgspec.json.encode(changes).decode())
        else:
            _print_changes(changes, path, most)
        return
    chosen = [one for one in plan.files if _is_shown(one, cache, title)]
    if (cache or title) and not chosen:
        what = f"cache {cache!r}" if cache else f"title {title!r}"
        raise ConfigError(f"{path} says nothing of {what}")
    if as_json:
        print(json.dumps({"head": msgspec.to_builtins(plan.head), "files": msgspec.to_builtins(chosen)}))
        return
    console = Console(highlight=False)
    if not cache and not title:
        console.print(plan_view(plan, console.width), crop=False)
        console.print()
    console.print(files_view(chosen, cache, most, console.width), crop=False)


def _is_shown(one: PlannedFile, cache: str, title: str) -> bool:
    caches = (*one.comes, *one.stays, *one.goes)
    # What lies nowhere is shown with its title, so that one sees what was expected of it.
    return one.title == title if title else cache in caches if cache else bool(caches)


def files_view(
    files: Sequence[PlannedFile], cache: str, most: int, width: int, more: str = ""
) -> RenderableType:  # fmt: skip
    """Return files as a table: those that come first, most urgent first. `more` is a command that shows more."""
    columns = (
        Column("file"), Column("streams a day", 2, is_right=True), Column("size", 3, is_right=True),
        Column("priority", 4, is_right=True), Column("comes", is_right=True), Column("stays", 1, is_right=True),
        Column("may go", 1, is_right=True),
    )  # fmt: skip
    ordered = sorted(files, key=lambda one: (not _has(one.comes, cache), -one.priority, -one.streams, one.file))
    rows = [
        [
            Text(printable(one.file)), Text(f"{one.streams:,.1f}"), Text(show_bytes(one.size)),
            Text(str(one.priority) if one.comes else ""),
            *(Text(_cell(names, cache)) for names in (one.comes, one.stays, one.goes)),
        ]
        for one in ordered[:most]
    ]  # fmt: skip
    parts: list[RenderableType] = [table_within(width, columns, rows)]
    if len(files) > most:
        rest = f"and {plural(len(files) - most, 'file')}"
        parts.append(Text(f"{rest}:" if more else f"{rest}; --most shows more, --json all", style="dim"))
        parts += [unbroken(f"  {more}", style="dim")] if more else []
    return Group(*parts)


def _has(names: Sequence[str], cache: str) -> bool:
    return cache in names if cache else bool(names)


def _cell(names: Sequence[str], cache: str) -> str:
    if cache:
        return "yes" if cache in names else ""
    return printable(", ".join(names)) if len(names) <= 2 else f"{len(names)} caches"


def _print_changes(changes: Sequence[Change], path: Path, most: int) -> None:
    console = Console(highlight=False)
    for one in changes[:most]:
        text = Text(printable(one.file))
        if one.added:
            text.append(f"  + {printable(', '.join(one.added))}", style="green")
        if one.removed:
            text.append(f"  - {printable(', '.join(one.removed))}", style="red")
        console.print(text, crop=False)
    left = len(changes) - most
    more = f", {left} of them not shown: --most shows more" if left > 0 else ""
    verb = "lies" if len(changes) == 1 else "lie"
    said = f"{plural(len(changes), 'file')} of {printable(str(path))} {verb} elsewhere{more}"
    console.print(Text(said), crop=False)


def why(planner: Path, title: str, region: str, *, day: str, as_json: bool) -> None:
    """Print what made a forecast, of the day of the newest plan where none is named, or without a plan of the next day.

    Raises `ConfigError` for a title or region that there is not.
    """
    from p2pfill.plan.popularity.popularity import explain

    desk = Desk(planner)
    views = desk.history.views(desk.catalogue, desk.caches.regions)
    kept = [] if day else desk.plans()
    by_default = day_number(kept[-1].stem) if kept else views.last_day + 1
    number = planned_day(day, views.last_day) if day else by_default
    try:
        reasons = explain(views, desk.catalogue, number, title, region)
    except KeyError as error:
        names = desk.caches.regions if title in desk.catalogue.titles else desk.catalogue.titles[:SHOWN]
        raise ConfigError(f"there is no {error.args[0]!r}: there are {', '.join(map(repr, names))}") from error
    if as_json:
        record = {name: getattr(reasons, name) for name in reasons.__dataclass_fields__} | {"day": _iso(number)}
        print(json.dumps({name: None if one != one else one for name, one in record.items()}))
        return
    Console(highlight=False).print(why_view(reasons), crop=False)


def why_view(reasons: Any) -> RenderableType:
    """Return what made a forecast, as text: the factors whose product it is."""
    low, high = (max(reasons.streams + sign * reasons.spread, 0.0) for sign in (-1, 1))
    age = (
        f"comes out in {plural(-reasons.age, 'day')}" if reasons.age < 0 else f"is {plural(reasons.age, 'day')} old"
        if reasons.age < 10_000 else "is old"
    )  # fmt: skip
    is_hinted = reasons.hint == reasons.hint
    hint = f", and the operator expects {reasons.hint:,.0f} views on its first day" if is_hinted else ""
    seen = "" if reasons.seen else ": nobody has watched it yet"
    return Group(
        Text(f"{printable(reasons.title)} in {printable(reasons.region)} on {_iso(reasons.day)}: "
             f"{reasons.streams:,.2f} streams expected ({low:,.2f} to {high:,.2f})", style="bold"),
        Text(f"It {age}{hint}{seen}."),
        Text(f"  {reasons.level:>12,.2f}  streams a day, were it open everywhere and every region as fond of it"),
        Text(f"x {reasons.audience:>12.4f}  part of that audience that {printable(reasons.region)} has that day"),
        Text(f"x {reasons.genre_lift:>12.3f}  how much fonder than all it is of the genre"),
        Text(f"x {reasons.own_lift:>12.3f}  how much fonder than of the genre"),
        Text(f"x {reasons.phase:>12.3f}  where it opened there later than elsewhere"),
        Text(f"x {reasons.open:>12.3f}  chance that it can be watched there by then"),
    )  # fmt: skip


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _iso(day: int) -> str:
    return day_of(day * DAY_S)


