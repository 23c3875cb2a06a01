"""What `p2pfill plan apply` and `p2pfill plan night` do: a plan becomes orders at the tracker."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.text import Text

from p2pfill.cli.columns import Column, table_within, unbroken
from p2pfill.cli.deadline import show_deadline
from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.fill import absolute_origin
from p2pfill.cli.plan_desk import Desk, base_of, day_of, deadline_of, start_of
from p2pfill.cli.plan_history import ingest_view
from p2pfill.cli.plan_make import files_view, keep, made_plan, made_record, made_view, next_commands, outlook
from p2pfill.cli.text import plural, printable, show_bytes
from p2pfill.errors import ConfigError, P2PFillError, TrackerError
from p2pfill.tracker.client import TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.records import TitleRecord

if TYPE_CHECKING:
    from p2pfill.plan.document import Plan
    from p2pfill.plan.orders import Orders

SHOWN: Final = 12
LATE: Final = "its orders are due in the past, and late from the start: --at says when the night begins"
SHOWN_CHARS: Final = 80
"""Of a name in a message."""
UNKNOWN_SHOWN: Final = 5
"""Titles by name; --json has all."""


class Applied(msgspec.Struct):
    """What has come of applying a plan, or would."""

    day: str
    deadline: float
    """Of what is to come, in seconds since the epoch."""
    dry_run: bool
    ordered: int
    kept: int
    ended: int
    unknown: dict[str, int]
    """Title that the tracker does not know -> files of the plan in it."""
    withdrawn: dict[str, int] = {}
    """Title that was withdrawn, and which the plan does not order again -> files of the plan in it."""
    refused: dict[str, str] = {}
    """Title -> why the tracker refused an order of it, or its end."""
    left_out: int = 0
    """Caches that may not hold what was ordered for them, by the fleet's policy, summed over orders."""
    notes: list[str] = []
    """What is odd about it."""


def apply_plan(
    planner: Path,
    name: str,
    *,
    origins: Sequence[str],
    deadline: str,
    at: str,
    rewrite_max: float | None,
    yes: bool,
    tracker: str,
    as_json: bool,
) -> None:
    """Show what a plan asks of the tracker, and with `yes` do it. Raises `CommandFailed` where an order is refused."""
    desk = Desk(planner, tracker)
    plan, path = desk.read_plan(name)
    if not desk.tracker:
        raise ConfigError(f"no tracker is named: give --tracker URL, or write tracker = \"URL\" into {planner}")
    start = start_of(at)
    if day_of(start) > plan.head.day:
        raise ConfigError(
            f"{path} is for {plan.head.day}, which is over, and would undo what was planned since: make a plan for "
            "tonight, or name with --at the night in which this one was to be applied"
        )
    # What the plan was proved by, so that the report of the night finds it by the same.
    proved = plan.head.deadline if plan.head.deadline > start else desk.night(start)[1].deadline
    due = deadline_of(deadline, start) or proved
    done = apply(desk, plan, origins=origins, due=due, rewrite_max=rewrite_max, yes=yes)
    if as_json:
        print(msgspec.json.encode(done).decode())
    else:
        console = Console(highlight=False)
        again = desk.command(
            "apply", path, origin=origins, deadline=deadline, rewrite_max=rewrite_max, at=at, tracker=tracker
        )  # fmt: skip
        console.print(applied_view(desk, plan, done, path, again, console.width), crop=False)
    check_applied(done)


def apply(
    desk: Desk, plan: Plan, *, origins: Sequence[str], due: float, rewrite_max: float | None, yes: bool
) -> Applied:
    """Order what a plan says, where `yes`, and say what that is. Raises `ConfigError` and `TrackerError`.

    What is new is ordered first, and only then ends what was ordered before: a cache never stands without an order for
    what it is to keep. Where the tracker is lost on the way, applying the plan again does the rest.
    """
    with desk.applying() if yes else nullcontext():
        return _apply(desk, plan, origins=origins, due=due, rewrite_max=rewrite_max, yes=yes)


def _apply(
    desk: Desk, plan: Plan, *, origins: Sequence[str], due: float, rewrite_max: float | None, yes: bool
) -> Applied:  # fmt: skip
    from p2pfill.plan.orders import orders_of
    from p2pfill.plan.rewriting import brought_before, check_rewriting, written_by

    share = desk.settings.rewritten_share if rewrite_max is None else rewrite_max
    before = desk.applied(plan.head.day)
    brought = {} if before is None else brought_before(plan, before)
    bases = _bases(desk, origins)
    _check_caches(desk, plan)
    notes = [LATE] if due < time.time() else []

    async def work(client: TrackerClient) -> Applied:
        known = await client.catalogue()
        notes.extend(_other_sizes(desk, plan, known.titles))
        asked = orders_of(plan, known.titles, await client.fills(), bases, due, known.withdrawn)
        nodes = await client.nodes()
        check_rewriting(written_by(plan, desk.caches, known.titles, nodes, known.withdrawn, brought), share)
        done = Applied(
            plan.head.day, due, not yes, len(asked.post), asked.keep, len(asked.delete), asked.unknown, asked.withdrawn,
            notes=notes,
        )  # fmt: skip
        if yes:
            # First, so that what an apply that breaks off has ordered counts for the next one.
            desk.keep_applied(plan)
            done.ordered = done.ended = 0
            try:
                await _carry_out(client, asked, done)
            except TrackerUnreachable as error:
                said = f"{done.ordered} of {plural(len(asked.post), 'order')} made, {done.ended} ended"
                raise TrackerUnreachable(f"{error}; {said} by then: apply the plan again") from error
        return done

    found: Applied = desk.call(work)
    return found


def _bases(desk: Desk, origins: Sequence[str]) -> list[str]:
    """Return where titles come from, by the command line or by the table of origins. Raises `ConfigError`."""
    from p2pfill.plan.orders import origin_of

    if origins:
        bases = [base_of(one, Path()) if "{title}" in one else absolute_origin(one) for one in origins]
    else:
        bases = [base_of(one, desk.home) for one in (() if desk.origins is None else desk.origins.names)]
    for one in bases:
        origin_of(one, "title")
    return bases


async def _carry_out(client: TrackerClient, asked: Orders, done: Applied) -> None:
    """Order and end what was asked for, and note what came of it. What is refused does not keep back the rest."""
    for request in asked.post:
        try:
            created = await client.post_fill(request)
            done.ordered += 1
            done.left_out += len(created.left_out)
        except TrackerRefused as error:
            done.refused[asked.names[request.title]] = str(error)
    not_replaced = set(done.refused)  # by name: what could not be ordered may be another version of what stands
    for fill in asked.delete:
        name = asked.names.get(fill.request.title, fill.request.title)
        if name in not_replaced:
            continue
        try:
            await client.delete_fill(fill.fill_id, fill)
            done.ended += 1
        except TrackerRefused as error:
            if error.status != 404:  # else somebody has ended it
                done.refused[name] = str(error)


def _check_caches(desk: Desk, plan: Plan) -> None:
    """Raise `ConfigError` where a plan, which may be edited, names a cache that the table does not have."""
    known = set(desk.caches.names)
    for one in plan.files:
        for name in one.holders:
            if name not in known:
                raise ConfigError(
                    f"the plan has {one.file!r} in cache {name!r}, which the table of caches does not have: mend the "
                    "plan, or make it anew"
                )


def _other_sizes(desk: Desk, plan: Plan, titles: Sequence[TitleRecord]) -> list[str]:
    """Say which titles of a plan are not as large at the tracker as in the catalogue, as after a new version."""
    from p2pfill.plan.holding import newest_of

    catalogue = desk.catalogue
    number = np.asarray(catalogue.title)
    count, size = (np.bincount(number, of, minlength=len(catalogue.titles)) for of in (None, catalogue.size))
    of_title = {name: (int(count[at]), int(size[at])) for at, name in enumerate(catalogue.titles)}
    wanted = {one.title for one in plan.files if one.holders}
    notes = []
    for name, record in sorted(newest_of(titles).items()):
        files, bytes_ = of_title.get(name, (0, 0))
        # A catalogue may have some files of a title only.
        if name in wanted and (bytes_ > record.size or (bytes_ < record.size and files >= record.file_count)):
            notes.append(
                f"{name} has {show_bytes(record.size)} at the tracker and {show_bytes(bytes_)} in the catalogue: renew "
                "the catalogue, and make the plan anew"
            )
    more = len(notes) - UNKNOWN_SHOWN
    return [*notes[:UNKNOWN_SHOWN], f"and {plural(more, 'title')} more of other sizes"] if more > 0 else notes


def check_applied(done: Applied) -> None:
    """Raise `CommandFailed` where the tracker refused something, or knows no title of the plan."""
    if done.refused:
        title, why = next(iter(done.refused.items()))
        raise CommandFailed(
            f"{plural(len(done.refused), 'title')} could not be ordered as planned; {title[:SHOWN_CHARS]!r}: {why}"
        )
    if done.unknown and not done.ordered and not done.kept:
        raise CommandFailed(
            f"the tracker knows no title of the plan, such as {next(iter(done.unknown))[:SHOWN_CHARS]!r}: publish them "
            "with p2pfill publish, under the names that the catalogue has, and p2pfill title add",
            ExitCode.USAGE,
        )


def applied_view(desk: Desk, plan: Plan, done: Applied, path: Path, again: str, width: int) -> RenderableType:
    """Return what has come of it as text: orders, and what comes and may go, with the reasons.

    `again` is the command without --yes.
    """
    from p2pfill.plan.document import by_cache

    verb = "would be " if done.dry_run else ""
    parts: list[RenderableType] = [
        Text(
            f"{plural(done.ordered, 'order')} {verb}made for {done.day}, due {show_deadline(done.deadline)}; "
            f"{done.kept} stand already, {done.ended} of the plan before {verb or 'are '}ended",
            style="bold",
        )
    ]
    parts += [Text(f"note: {printable(note)}", style="yellow") for note in done.notes]
    if done.unknown:
        names = ", ".join(printable(one) for one in list(done.unknown)[:UNKNOWN_SHOWN])
        names += f" and {len(done.unknown) - UNKNOWN_SHOWN} more" if len(done.unknown) > UNKNOWN_SHOWN else ""
        parts.append(
            Text(
                f"the tracker does not know {plural(len(done.unknown), 'title')}, with "
                f"{plural(sum(done.unknown.values()), 'file')} of the plan: {names}; publish them, "
                "`p2pfill title add` them, and apply again",
                style="yellow",
            )
        )
    if done.withdrawn:
        names = ", ".join(printable(one) for one in list(done.withdrawn)[:5])
        parts.append(
            Text(
                f"{plural(len(done.withdrawn), 'title')} of the plan {'was' if len(done.withdrawn) == 1 else 'were'} "
                f"withdrawn, and are not ordered again: {names}; exclude them in the planner's file",
                style="yellow",
            )
        )
    if done.left_out:
        parts.append(
            Text(f"rules of residency keep titles out of caches in {done.left_out} cases", style="yellow")
        )
    comes = [one for one in plan.files if one.comes]
    goes = [one for one in plan.files if one.goes]
    sums = by_cache(plan.files)
    lacking = sum(one.size * len(one.comes) for one in comes if one.title in done.unknown)
    but = f", but for {show_bytes(lacking)} of titles that it does not know" if lacking else ""
    parts.append(
        Text(
            f"{show_bytes(plan.head.comes_bytes)} come to {sum(1 for one in sums.values() if one[0])} caches{but}, "
            f"{show_bytes(plan.head.goes_bytes)} may go where room is needed"
        )
    )
    if comes:
        parts += [Text(), Text("Comes, since it is expected to be watched most for its size", style="bold")]
        parts.append(files_view(comes, "", SHOWN, width, desk.command("show", path, most=1000)))
    if goes:
        parts += [Text(), Text("May go, since other files are worth more there", style="bold"), _goes(goes, width)]
    if done.dry_run:
        parts += [Text(), Text("nothing was done; this does it:", style="bold"), unbroken(f"  {again} --yes")]
    return Group(*parts)


def _goes(files: Sequence[Any], width: int) -> RenderableType:
    columns = (
        Column("file"), Column("streams a day", 1, is_right=True), Column("size", 2, is_right=True), Column("from"),
    )  # fmt: skip
    ordered = sorted(files, key=lambda one: (-one.streams, one.file))
    rows = [
        [
            Text(printable(one.file)), Text(f"{one.streams:,.1f}"), Text(show_bytes(one.size)),
            Text(printable(", ".join(one.goes)) if len(one.goes) <= 2 else f"{len(one.goes)} caches"),
        ]
        for one in ordered[:SHOWN]
    ]  # fmt: skip
    table = table_within(width, columns, rows)
    return Group(table, Text(f"and {plural(len(files) - SHOWN, 'file')}", style="dim")) if len(files) > SHOWN else table


# ---- all of it


def run_night(
    planner: Path,
    *,
    day: str,
    origins: Sequence[str],
    fit: bool,
    simulate: bool,
    at: str,
    rewrite_max: float | None,
    yes: bool,
    tracker: str,
    as_json: bool,
) -> None:
    """Take logs in, plan, check, and with `yes` apply. Raises `CommandFailed` where something needs a look."""
    desk = Desk(planner, tracker)
    start = start_of(at)
    console = Console(highlight=False, stderr=as_json)
    record: dict[str, Any] = {}
    came: RenderableType | None = None
    with Console(stderr=True).status("reading", spinner="dots") as status:
        logs = desk.logs()
        if logs:
            status.update(f"taking in {plural(len(logs), 'log')}")
            record["ingest"], came = _ingest(desk, logs)
        status.update("looking what came of the plan before")
        before = _report_before(desk, day or day_of(desk.night(start)[1].deadline))
        made = made_plan(desk, day=day, held="", fit=fit, start=start, note=status.update)
        if simulate:
            status.update("simulating the night")
            made = made._replace(outlook=outlook(desk, made.plan, start=start, simulate=True))
    path = keep(desk, made.plan, None)
    record |= made_record(desk, made, path) | {"report": None if before is None else before[1]}
    if not as_json:
        if came is not None:
            console.print(came, Text(), sep="\n", crop=False)
        if before is not None:
            console.print(before[0], crop=False)
            console.print()
        console.print(made_view(made, path, console.width, next_commands(desk, made, path, at)), crop=False)
    fits = made.outlook.verdict.fits
    done, failed = None, None
    if desk.tracker and fits:
        try:
            done = apply(
                desk, made.plan, origins=origins, due=made.outlook.night.deadline, rewrite_max=rewrite_max, yes=yes
            )  # fmt: skip
            record["applied"] = msgspec.to_builtins(done)
        except (ConfigError, TrackerError) as error:
            failed, record["not_applied"] = error, str(error)  # what was planned is told of all the same
        if done is not None and not as_json:
            console.print()
            again = desk.command("apply", path, origin=origins, rewrite_max=rewrite_max, at=at, tracker=tracker)
            console.print(applied_view(desk, made.plan, done, path, again, console.width), crop=False)
    if as_json:
        print(json.dumps(record))
    if failed is not None:
        raise failed
    if not fits:
        raise CommandFailed(f"{path} does not fit into the night, and was not applied", ExitCode.FOUND)
    if done is not None:
        check_applied(done)


def _report_before(desk: Desk, day: str) -> tuple[RenderableType, Any] | None:
    """Return what came of the newest plan for a day before one, as text and as JSON has it; None: there is none.

    That its night is not known any more, or the tracker does not answer, keeps nobody from planning: it is said.
    """
    from p2pfill.cli.plan_report import Tables, what_came
    from p2pfill.cli.plan_report_view import report_view

    path = desk.last_plan(day) if desk.tracker else None
    if path is None:
        return None
    try:
        plan, _ = desk.read_applied(path.stem)
        came = what_came(plan, Tables().completed(desk), tracker=desk.tracker)
    except P2PFillError as error:
        return Text(f"what came of {printable(str(path))} is not known: {printable(str(error))}", style="yellow"), None
    width = Console().width
    return report_view(came.report, width, came.notes), msgspec.to_builtins(came.report)


def _ingest(desk: Desk, logs: Sequence[Path]) -> tuple[dict[str, Any], RenderableType | None]:
    """Return what came of taking logs in, as JSON has it and as text; None: there was nothing new.

    Logs that cannot be used are told of every evening until they are mended, and a plan is made of the others.
    """
    found = desk.history.ingest(logs, desk.catalogue, desk.caches, now_s=time.time())
    record = {
        "taken": len(found.taken), "again": len(found.again), "unusable": dict(found.unusable),
        "faults": found.faults.in_words(),
    }  # fmt: skip
    if not found.taken and not found.unusable:
        return record, None
    # Of those that were taken in on other evenings nothing is said: the patterns name them every time.
    shown = msgspec.structs.replace(found, again=[])
    unusable = [Text(printable(why), style="yellow") for why in found.unusable.values()]
    return record, Group(ingest_view(shown, {}), *unusable)
