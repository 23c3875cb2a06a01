"""`p2pfill title evict`: have caches make room, or show what would go and what keeps the rest."""

from __future__ import annotations

import time
from typing import Final

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.text import Text

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.catalogue import confirm
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.fill import of_running
from p2pfill.cli.naming import ID_CHARS
from p2pfill.cli.text import plural, printable, show_bytes, show_seconds
from p2pfill.errors import ConfigError
from p2pfill.model.reports import EvictReport, TitleFate
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import EvictRequest, EvictStatus

POLL_S: Final = 0.3

KEPT: Final = {
    "order": "kept: ordered",
    "pin": "kept: pinned",
    "fill": "kept: being filled",
    "use": "kept: in use",
    "unknown": "kept: the tracker has not said what is ordered",
}


def evict_titles(
    selector: str,
    tracker: str,
    *,
    free_bytes: int,
    dry_run: bool,
    yes: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Have caches make room until so much is free on each, or show what would go.

    Raises `CommandFailed` where that cannot be had on all of them.
    """
    if not dry_run and not free_bytes:
        raise ConfigError("say with --free how much is to be free on each cache, or look with --dry-run")
    trio.run(_evict, EvictRequest(selector, free_bytes, dry_run), tracker, yes, timeout_s, as_json)


async def _evict(request: EvictRequest, tracker: str, yes: bool, timeout_s: float | None, as_json: bool) -> None:
    async with call_tracker(tracker) as client:
        if not request.dry_run and not yes:
            # What it means is shown first, and costs nothing.
            looked = await _ask(client, msgspec.structs.replace(request, dry_run=True), timeout_s)
            if not as_json:
                _show(looked)
            gone, size = _sums(looked)
            if gone:
                await confirm(f"delete {plural(gone, 'title')} with {show_bytes(size)} on those caches", yes=yes)
        status = await _ask(client, request, timeout_s)
    if as_json:
        print(msgspec.json.encode(status).decode())
    else:
        _show(status)
    check_outcome(status, timeout_s)


async def _ask(client: TrackerClient, request: EvictRequest, timeout_s: float | None) -> EvictStatus:
    """Return what came of a request, or what is known when the time is over. Raises `CommandFailed` for nobody."""
    status = await of_running(client.post_eviction(request, nodes_min=1))
    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
        while not status.done:
            await trio.sleep(POLL_S)
            status = await client.eviction(status.number)
    return status


def _sums(status: EvictStatus) -> tuple[int, int]:
    reports = [node.report for node in status.nodes if node.report is not None]
    return sum(report.gone for report in reports), sum(report.gone_bytes for report in reports)


def check_outcome(status: EvictStatus, timeout_s: float | None) -> None:
    """Raise `CommandFailed` unless so much is free everywhere, or would be."""
    reports = [(node.node, node.report) for node in status.nodes]
    for node, report in reports:
        if report is not None and report.state == "failed":
            raise CommandFailed(f"{node} could not make room: {report.error}")
    waiting = [node for node, report in reports if report is None or report.state != "done"]
    if waiting:
        raise CommandFailed(
            f"{plural(len(waiting), 'cache')} not done after {show_seconds(timeout_s or 0.0)}, as {waiting[0]}; "
            "what has begun goes on",
            ExitCode.TIMEOUT,
        )
    wanted, dry_run = status.request.free_bytes, status.request.dry_run
    short = [(report.most_bytes, node, report) for node, report in reports if report is not None and report.most_bytes]
    if short:
        most, node, report = min(short, key=lambda one: one[:2])
        more = f", and less than was asked for on {plural(len(short) - 1, 'other cache')}" if len(short) > 1 else ""
        may_go = any(fate.kept_by == "" for fate in report.titles)
        hint = f": to have all go that may, ask for --free {most}" if may_go else ": all titles there are kept"
        shown, asked = show_bytes(most), show_bytes(wanted)
        if shown == asked:
            shown, asked = f"{most} bytes", f"{wanted} bytes"
        raise CommandFailed(
            f"{node}: {shown} can be free at most, {asked} were asked for{more}; "
            f"nothing {'would go' if dry_run else 'was deleted'} there{hint}"
        )
    for node, report in reports:
        if report is not None and (free := report.free_bytes + (report.gone_bytes if dry_run else 0)) < wanted:
            raise CommandFailed(
                f"{node}: {show_bytes(free)} {'would be' if dry_run else 'are'} free, {show_bytes(wanted)} were asked "
                "for, and nothing else may go"
            )


def _show(status: EvictStatus) -> None:
    console = Console()
    for node in status.nodes:
        console.print(Text(_head(node.node, node.report, dry_run=status.request.dry_run), style="bold"))
        if node.report is not None and node.report.titles:
            console.print(_table(node.report, status.request, console.width))


def _head(node: str, report: EvictReport | None, *, dry_run: bool) -> str:
    if report is None:
        return printable(f"{node}: has not answered")
    if report.state == "failed":
        return printable(f"{node}: {report.error}")
    line = f"{node}: {show_bytes(report.free_bytes)} free"
    if report.gone:
        what = "would go" if dry_run else "gone"
        line += f", {plural(report.gone, 'title')} with {show_bytes(report.gone_bytes)} {what}"
    return printable(line if report.state == "done" else f"{line}, at work")


def _table(report: EvictReport, request: EvictRequest, width: int) -> RenderableType:
    columns = [Column("title"), Column("id", 2), Column("size", 1, is_right=True), Column("last used", 3), Column("")]
    rows = [
        [
            *map(Text, (_what(fate), fate.title[:ID_CHARS], show_bytes(fate.size), _when(fate.used_at))),
            Text(_verdict(fate, dry_run=request.dry_run)),
        ]
        for fate in report.titles
    ]
    table = table_within(width, columns, rows)
    return Group(table, Text(f"and {report.more} more")) if report.more else table


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else ""


def _what(fate: TitleFate) -> str:
    return printable(f"{plural(fate.files, 'file')} of {fate.name}" if fate.files else fate.name)


def _verdict(fate: TitleFate, *, dry_run: bool) -> str:
    if fate.goes:
        return "would go" if dry_run else "gone"
    return KEPT.get(fate.kept_by, "may go")
