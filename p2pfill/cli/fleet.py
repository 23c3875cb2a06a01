"""`p2pfill status` and `p2pfill explain`: what the tracker knows, for people and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from p2pfill.cli.board import ROWS_SPARE, STATE_STYLES, fill_table
from p2pfill.cli.calling import call_tracker
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.deadline import show_deadline
from p2pfill.cli.naming import find_title
from p2pfill.cli.text import plural, printable, show_bytes, show_micros, show_percent, show_rate, show_seconds
from p2pfill.cli.windows import show_hours
from p2pfill.model.rates import Rates
from p2pfill.tracker.client import TrackerUnreachable
from p2pfill.tracker.records import BroughtBack, Explanation, FillRecord, NodeStatus, OriginsUsed, Status

if TYPE_CHECKING:
    from p2pfill.model.reports import DiskReport, TitleReport

OUTLOOK_STYLES: Final = {"kept": "green", "late": "yellow", "missed": "bold red"}

NAMED_MAX: Final = 5
"""Caches that are named in one line."""

LINES_MAX: Final = 5
"""Of caches of which one thing is said below the table; one wrong template makes all of a fleet so."""


# ---- status


def show_status(tracker: str, *, watch: bool, interval_s: float, as_json: bool) -> None:
    """Print the fleet at one glance; with `watch`, again and again until Ctrl-C."""
    trio.run(_status, tracker, watch, interval_s, as_json)


async def _status(tracker: str, watch: bool, interval_s: float, as_json: bool) -> None:
    console = Console()
    async with call_tracker(tracker) as client:
        if not watch:
            _print_status(console, await client.status(), as_json=as_json)
            return
        if as_json or not console.is_terminal:
            while True:
                _print_status(console, await client.status(), as_json=as_json)
                await trio.sleep(interval_s)
        shown = status_view(await client.status(), rows_max=_rows(console), width=console.width)
        with Live(shown, console=console, screen=True, auto_refresh=False) as live:
            while True:
                await trio.sleep(interval_s)
                try:
                    shown = status_view(await client.status(), rows_max=_rows(console), width=console.width)
                    live.update(shown, refresh=True)
                except TrackerUnreachable as error:
                    # Whoever watches wants to see it come back.
                    live.update(Group(Text(printable(str(error)), style="bold red"), shown), refresh=True)


def _rows(console: Console) -> int:
    return max(3, console.height - ROWS_SPARE)


def _print_status(console: Console, status: Status, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(status).decode(), flush=True)
    else:
        console.print(status_view(status, width=console.width))


def status_view(status: Status, *, rows_max: int = 1000, width: int = 96) -> RenderableType:
    """Return the fleet as text and tables: caches first, then each fill."""
    alive = sum(node.alive for node in status.nodes)
    parts: list[RenderableType] = [
        Text(
            f"{alive} of {plural(len(status.nodes), 'cache')} alive · {plural(len(status.titles), 'title')} · "
            f"{plural(len(status.fills), 'fill')} · tracker {printable(status.version)}, up "
            f"{show_seconds(status.uptime_s)}",
            style="bold",
        )
    ]
    parts += [Text(printable(lost), style="bold red") for lost in status.losses]
    parts += _brought_lines(status.brought_back)
    if status.trusts_all:
        parts.append(Text("callers and caches are believed: the tracker has no certificate", style="dim"))
    if status.takes_unsigned:
        parts.append(Text("titles that nobody has signed are taken: the tracker has no publishers", style="dim"))
    if status.refused:
        said = ", ".join(f"{printable(why)} {count}" for why, count in sorted(status.refused.items()))
        parts.append(Text(f"refused by the tracker: {said}", style="yellow"))
    if status.nodes:
        parts += [Text(""), nodes_table(status.nodes, rows_max, width)]
    if status.used.origins:
        parts += [Text(""), origins_table(status.used, rows_max, width)]
    for fill in status.fills:
        request = fill.fill.request
        head = Text(f"\nfill {fill.fill.fill_id}  ", style="bold")
        head.append(printable(fill.title_name or request.title[:16]))
        head.append(
            f"  {_some_files(fill.fill)}{show_bytes(fill.title_bytes)}  to {printable(request.selector)}"
            f"  priority {request.priority}"
            f"  {'done' if fill.done else 'running'}",
            style="dim",
        )
        if request.deadline is not None:
            head.append(f"  deadline {show_deadline(request.deadline)} ", style="dim")
            head.append(fill.outlook, style=OUTLOOK_STYLES.get(fill.outlook, "dim"))
        parts += [head, fill_table(fill, rows_max=rows_max, width=width)]
    return Group(*parts)


def _brought_lines(brought: list[BroughtBack]) -> list[Text]:
    """Return which orders caches have brought back to a tracker that had lost them."""
    lines = []
    if back := [one for one in brought if not one.reason]:
        lines.append(Text(f"caches have brought back orders of {plural(len(back), 'title')}", style="yellow"))
    for one in brought:
        if one.reason:
            name = printable(one.name or one.title[:16])
            lines.append(Text(f"the order of {name} has not come back: {printable(one.reason)}", style="bold red"))
            if one.again:
                lines.append(Text(f"  order it again: {printable(one.again)}"))
    return lines


def nodes_table(nodes: list[NodeStatus], rows_max: int, width: int) -> RenderableType:
    """Return caches as a table, one a line, of at most `width` characters."""
    columns = [
        Column("cache"), Column("isp", 1), Column("region", 4), Column("cluster", 8), Column("address", 5),
        Column("seen"), Column("live", 0, is_right=True), Column("filling", 0, is_right=True),
        Column("free", 1, is_right=True), Column("uploads", 3, is_right=True), Column("uploaded", 2, is_right=True),
        Column("receives", 9, is_right=True), Column("sends", 9, is_right=True),
        Column("scrubbed", 7, is_right=True), Column("lag", 6, is_right=True),
    ]  # fmt: skip
    has_windows = any(node.hours.until for node in nodes)
    if has_windows:
        columns.insert(6, Column("fills", 2))
    rows = []
    for node in nodes[:rows_max]:
        info = node.info
        host = f"[{info.host}]" if ":" in info.host else info.host
        live = sum(title.state == "live" for title in node.titles)
        figures = (
            f"{node.upload_active}+{node.upload_queued}",
            show_bytes(node.upload_bytes),
            _moves(node.moves.in_bytes_s, node.rates.inbound),
            _moves(node.moves.out_bytes_s, node.rates.outbound),
            show_bytes(node.scrubber.checked_bytes) if node.scrubber.began_at else "",
            show_micros(node.loop_lag.p99_us),
        )
        rows.append(
            [
                *(Text(printable(text)) for text in (info.id, info.isp, info.region, info.cluster)),
                Text(printable(f"{host}:{info.port}")),
                Text(f"{show_seconds(node.age_s)} ago") if node.alive else Text("dead", style="bold red"),
                *([Text(show_hours(node.hours))] if has_windows else []),
                Text(str(live)),
                Text(str(len(node.titles) - live)),
                _free(node.disk),
                *map(Text, figures),
            ]
        )
    lines = unreached_lines(nodes) + trouble_lines(nodes) + busy_lines(nodes) + encryption_lines(nodes)
    return Group(table_within(width, columns, rows), *lines) if lines else table_within(width, columns, rows)


def _moves(bytes_s: int, rates: Rates) -> str:
    """Return how fast payload moves, and the limit if there is one: of all tiers, or else that some tier has one."""
    limit = f" of {show_rate(rates.total)}" if rates.total else " limited" if rates != Rates() else ""
    return show_rate(bytes_s) + limit


def unreached_lines(nodes: list[NodeStatus]) -> list[Text]:
    """Return what is to be known of caches that others may not reach, at most `LINES_MAX` lines."""
    return _lines(
        [f"{node.info.id}: {node.unreached}: see its advertise" for node in nodes if node.alive and node.unreached],
        "yellow",
    )


def trouble_lines(nodes: list[NodeStatus]) -> list[Text]:
    """Return what is wrong with clocks and certificates of caches, at most `LINES_MAX` lines."""
    return _lines([f"{node.info.id}: {node.trouble}" for node in nodes if node.trouble], "yellow")


def busy_lines(nodes: list[NodeStatus]) -> list[Text]:
    """Return which caches do less for others since they are busy with their viewers, at most `LINES_MAX` lines."""
    return _lines(
        [
            f"{node.info.id}: busy with its viewers ({node.serving.why}): {node.serving.weight:g} of its weight is left"
            for node in nodes
            if node.alive and node.serving.weight < 1
        ],
        "",
    )


def encryption_lines(nodes: list[NodeStatus]) -> list[Text]:
    """Return which caches encrypt data streams, and who does it there: a line for those that are alike."""
    alike: dict[tuple[bool, str], list[NodeStatus]] = {}
    for node in nodes:
        told = node.encryption
        if node.alive and (told.required or told.streams):
            by = "kernel" if told.by_kernel else "process" if told.kernel else ""
            alike.setdefault((told.required, by), []).append(node)
    return _lines([_encryption_line(*kind, alike[kind]) for kind in sorted(alike)], "")


def _encryption_line(required: bool, by: str, nodes: list[NodeStatus]) -> str:
    names: list[str] = [node.info.id for node in nodes[:NAMED_MAX]]
    if len(nodes) > NAMED_MAX:
        names.append(f"{len(nodes) - NAMED_MAX} more")
    streams, by_kernel = (sum(getattr(node.encryption, what) for node in nodes) for what in ("streams", "by_kernel"))
    line = f"{' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)}: "
    line += "all data streams are encrypted" if required else "data streams with some caches are encrypted"
    line += f", {streams} now, "
    if by == "kernel":
        return line + f"what is sent on {by_kernel} of them by the kernel"
    return line + ("by the process itself" if by else "by the process itself, as the kernel shows no TLS")


def _lines(found: list[str], style: str) -> list[Text]:
    if len(found) > LINES_MAX:
        found[LINES_MAX - 1 :] = [f"and {plural(len(found) - LINES_MAX + 1, 'other cache')} likewise"]
    return [Text(printable(line), style=style) for line in found]


def _free(disk: DiskReport) -> Text:
    if not disk.size_bytes:
        return Text("")
    free = show_bytes(disk.free_bytes)
    return Text(f"{free} low", style="bold red") if disk.is_low else Text(free)


def origins_table(used: OriginsUsed, rows_max: int, width: int) -> RenderableType:
    """Return what the fleet has had of origins as a table, one a line, of at most `width` characters."""
    has_money = any(one.money is not None for one in used.origins)
    columns = [
        Column("origin"), Column("caches", 4, is_right=True), Column("requests", 1, is_right=True),
        Column("failed", 2, is_right=True), Column("given up", 5, is_right=True), Column("used", 0, is_right=True),
        Column("in vain", 3, is_right=True),
    ]  # fmt: skip
    if has_money:
        columns.append(Column(f"cost {printable(used.currency)}".strip(), 0, is_right=True))
    rows = []
    for one in used.origins[:rows_max]:
        counts = one.counts
        figures = [
            str(one.nodes), f"{counts.requests:,}", f"{counts.failed:,}", f"{counts.given_up:,}",
            show_bytes(counts.bytes_kept), show_bytes(counts.bytes_wasted),
        ]  # fmt: skip
        if has_money:
            figures.append("" if one.money is None else f"{one.money:,.2f}")
        rows.append([Text(printable(counts.id)), *map(Text, figures)])
    return table_within(width, columns, rows)


# ---- explain


def show_explanation(node: str, title: str, tracker: str, *, as_json: bool) -> None:
    """Print why a cache is where it is with a title, which is named by id, start of the id, or name."""
    trio.run(_explain, node, title, tracker, as_json)


async def _explain(node: str, title: str, tracker: str, as_json: bool) -> None:
    async with call_tracker(tracker) as client:
        found = await client.explain(node, await find_title(client, title))
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        Console().print(explanation_view(found))


def explanation_view(found: Explanation) -> RenderableType:
    """Return an explanation as text: state, where the bytes came from, sources in rank order, notes."""
    info = found.node.info
    head = Text(f"{printable(info.id)} ", style="bold")
    head.append(f"({printable(info.isp)}, {printable(info.region)})", style="dim")
    head.append(f" · {printable(found.title_name) or 'unknown title'} ", style="bold")
    head.append(found.title[:16], style="dim")
    parts: list[RenderableType] = [head]
    if found.report is not None:
        parts += _report_lines(found.report, is_alive=found.node.alive)
        if found.report.sources:
            table = _taken_table(found.report, is_alive=found.node.alive)
            parts += [Text("\nWhere its bytes came from", style="bold"), table]
    if found.sources:
        parts += [Text("\nSources now, best first", style="bold"), _sources_table(found)]
    if found.notes:
        parts.append(Text("\nWhy", style="bold"))
        parts += [Text(f"- {printable(note)}") for note in found.notes]
    return Group(*parts)


def _some_files(fill: FillRecord) -> str:
    return f"{plural(fill.file_count, 'file')} of it, " if fill.file_count else ""


def _report_lines(report: TitleReport, *, is_alive: bool) -> list[RenderableType]:
    line = Text("state " if is_alive else "dead; its last state ")
    line.append(report.state, style=STATE_STYLES.get(report.state, ""))
    if report.chunk_count or report.state == "live":  # else it was refused before its chunks were counted
        percent = show_percent(report.have_bytes, report.title_bytes)
        line.append(f": {percent}, {report.have_chunks} of {report.chunk_count} chunks")
    if report.files:
        line.append(f" of {plural(report.files, 'file')}")
    if is_alive and report.state != "live" and report.rate_bytes_s >= 1:
        left = max(0, report.title_bytes - report.have_bytes)
        line.append(f", {show_rate(report.rate_bytes_s)}, about {show_seconds(left / report.rate_bytes_s)} to go")
    if report.started_at and report.finished_at:
        line.append(f", filled in {show_seconds(report.finished_at - report.started_at)}")
    tiers = (
        f"peer {show_bytes(report.bytes_peer)} · regional {show_bytes(report.bytes_regional)} · "
        f"origin {show_bytes(report.bytes_origin)} · of no use {show_bytes(report.duplicate_bytes)} · "
        f"reused {show_bytes(report.reused_bytes)}"
    )
    return [line, Text(tiers)]


def _taken_table(report: TitleReport, *, is_alive: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("source", overflow="fold")
    table.add_column("tier")
    for name in ("bytes", "rate", "in flight"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for source in sorted(report.sources, key=lambda source: -source.bytes):
        table.add_row(
            Text(printable(source.id)),
            source.tier,
            show_bytes(source.bytes),
            show_rate(source.rate_bytes_s) if is_alive else "",
            str(source.in_flight) if is_alive else "",
            # The reason is among the notes.
            Text(printable(source.state), style="" if source.state == "ok" else "yellow"),
        )
    return table


def _sources_table(found: Explanation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    table.add_column("source", overflow="fold")
    table.add_column("tier")
    table.add_column("chunks", justify="right")
    table.add_column("reason")
    for source in found.sources:
        table.add_row(
            str(source.rank),
            Text(printable(source.id)),
            Text(printable(source.tier)),
            str(source.have_chunks),
            Text(printable(source.reason)),
        )
    return table
