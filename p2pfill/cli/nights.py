"""What `p2pfill night` does: the morning's report as text, as JSON and as a plot. Times are those of this machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.text import plural, printable, show_bytes, show_percent
from p2pfill.errors import ConfigError

if TYPE_CHECKING:
    from p2pfill.tracker.night_report import CacheNight, CacheTitle, Cause, NightReport, NightSummary, TitleNight

ROWS_MAX: Final = 40
"""Lines of one table, but for that of titles; --json has all."""

TITLES_MAX: Final = 200

TABLES_MAX: Final = 10
"""Titles of which all caches are shown, those first that lack somewhere."""

FAR_SHOWN: Final = 4
"""Sources from far away that are named for each title."""

WAITS_SHOWN: Final = 2
"""Reasons to wait that are named for what is lacking."""


def list_nights(tracker: str, *, as_json: bool) -> None:
    """Print the nights that a tracker keeps."""
    trio.run(_list, tracker, as_json)


async def _list(tracker: str, as_json: bool) -> None:
    async with call_tracker(tracker) as client:
        nights = await client.nights()
    if as_json:
        print(msgspec.json.encode(nights).decode())
        return
    columns = [
        Column("night"), Column("from", 4), Column("to", 3), Column(""), Column("titles", 2, is_right=True),
        Column("caches", 2, is_right=True), Column("peer", 1, is_right=True), Column("regional", 1, is_right=True),
        Column("origin", 0, is_right=True),
    ]  # fmt: skip
    rows = [
        [
            Text(printable(one.night)), Text(_at(one.began_at, "%a %H:%M")), Text(_at(one.last_at, "%a %H:%M")),
            Text("" if one.is_over else "going on", style="yellow"), Text(str(one.titles)), Text(str(one.caches)),
            *map(Text, map(show_bytes, (one.bytes_peer, one.bytes_regional, one.bytes_origin))),
        ]
        for one in nights
    ]  # fmt: skip
    console = Console()
    console.print(table_within(console.width, columns, rows) if rows else "no night is known yet")


def show_report(night: str, tracker: str, plot: Path | None, *, as_json: bool) -> None:
    """Print the report of a night. Raises `ConfigError` where there is none, or no plot can be drawn."""
    if plot is not None:
        from p2pfill.cli.night_plot import check_plot

        check_plot(plot)
    found = trio.run(_report, night, tracker)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        console = Console()
        console.print(report_view(found, console.width), highlight=False)
    if plot is not None:
        from p2pfill.cli.night_plot import draw_night

        draw_night(found, plot)


async def _report(night: str, tracker: str) -> NightReport:
    async with call_tracker(tracker) as client:
        return await client.night(night or default_night(await client.nights()))


def default_night(nights: list[NightSummary]) -> str:
    """Return the last night that is over, or the one that is going on. Raises `ConfigError` where there is none.

    Those in which nothing was to be had come last.
    """
    if not nights:
        raise ConfigError("the tracker knows of no night yet: no cache has reported to it")
    busy = [one for one in nights if one.titles] or nights
    return next((one.night for one in busy if one.is_over), busy[0].night)


# ---- text


def report_view(report: NightReport, width: int) -> RenderableType:
    """Return a report as text and tables of at most `width` characters."""
    parts: list[RenderableType] = [Text(_summary(report))]
    titles = [title for title in report.titles if title.caches]
    if titles:
        parts += [_head("Titles"), _titles_table(titles[:TITLES_MAX], width)]
        parts += _more(len(titles) - TITLES_MAX, "title")
    for title in titles[:TABLES_MAX]:
        if rows := _shown_rows(title):
            parts += [_head(_name(title)), _rows_table(title, rows[:ROWS_MAX], width)]
            parts += _more(len(rows) - ROWS_MAX, "cache")
    for head, lines in (
        ("What did not fit, and why", list(_lacking(report))),
        ("Further out than planned", list(_escalations(report))),
        ("What came from far", list(_far(titles))),
        ("Out of cycle, and repairs", list(_exempt(report))),
    ):
        if lines:
            parts.append(_head(head))
            parts += [Padding(Text(printable(line)), (0, 0, 0, 2)) for line in lines[:ROWS_MAX]]
            parts += _more(len(lines) - ROWS_MAX, "line")
    if report.caches:
        parts += [_head("Caches"), _caches_table(report.caches[:ROWS_MAX], width)]
        parts += _more(len(report.caches) - ROWS_MAX, "cache")
    return Group(*parts)


def _head(text: str) -> Text:
    return Text(f"\n{printable(text)}", style="bold")


def _more(count: int, noun: str) -> list[RenderableType]:
    return [Text(f"and {plural(count, f'other {noun}')}; --json has all", style="dim")] if count > 0 else []


def _summary(report: NightReport) -> str:
    totals = report.totals
    span = f"from {_at(report.began_at, '%a %Y-%m-%d %H:%M')} to {_at(report.last_at, '%a %H:%M')}"
    over = "" if report.is_over else " It is not over."
    if not totals.wanted:
        return f"Night of {report.night} ({span}): nothing was to be had.{over}"
    is_whole = totals.live == totals.wanted
    text = (
        f"Night of {report.night} ({span}): {plural(totals.titles, 'title')} for {plural(totals.caches, 'cache')}, "
        f"{totals.live} of {totals.wanted} live.{over} {show_bytes(totals.bytes_peer)} came from peers, "
        f"{show_bytes(totals.bytes_regional)} from regional caches and {show_bytes(totals.bytes_origin)} from origins. "
        f"Out of origins came {_times(totals.bytes_origin, totals.least_origin_bytes, is_whole)}, "
        f"and into ISPs {_times(totals.isp_bytes, totals.least_isp_bytes, is_whole)}."
    )
    if totals.reused_bytes or totals.duplicate_bytes:
        reused, duplicate = show_bytes(totals.reused_bytes), show_bytes(totals.duplicate_bytes)
        text += f" {reused} were reused of other versions, and {duplicate} came in vain."
    if totals.summed_bytes:
        text += f" {show_bytes(totals.summed_bytes)} went to caches beyond those that are listed one by one."
    return text


def _times(count: int, least: int, is_whole: bool) -> str:
    """Return what came beside the least possible, in words; how many times that is where nothing is lacking."""
    if least and not is_whole:
        return f"{show_bytes(count)}, where all of it takes {show_bytes(least)} at least"
    if least:
        return f"{count / least:.2f} times the least possible ({show_bytes(least)})"
    return f"{show_bytes(count)}, where nothing had to" if count else "nothing, as nothing had to"


def _copies(count: int, size: int) -> str:
    return f"{count / size:.2f}" if size else ""


def _titles_table(titles: list[TitleNight], width: int) -> RenderableType:
    columns = [
        Column("title"), Column("size", 4, is_right=True), Column("ordered", 5), Column("live", 0, is_right=True),
        Column("all live", 3), Column("peer", 2, is_right=True), Column("regional", 2, is_right=True),
        Column("origin", 2, is_right=True), Column("origin copies", 0, is_right=True),
        Column("least", 1, is_right=True),
        Column("most into an ISP", 0, is_right=True), Column("least", 1, is_right=True),
    ]  # fmt: skip
    rows = []
    for title in titles:
        size, most = title.title_bytes, max(title.isps, key=lambda isp: isp.bytes, default=None)
        rows.append(
            [
                Text(printable(_name(title))),
                Text(show_bytes(size) if size else ""),
                Text(_at(title.ordered_at, "%a %H:%M")),
                Text(f"{title.live}/{title.caches}", style="green" if title.live == title.caches else "yellow"),
                Text(_at(title.live_at, "%a %H:%M")),
                *map(Text, map(show_bytes, (title.bytes_peer, title.bytes_regional, title.bytes_origin))),
                Text(_copies(title.bytes_origin, size)),
                Text(_copies(title.least_origin_bytes, size)),
                Text("" if most is None else _copies(most.bytes, size)),
                Text("" if most is None else _copies(most.least_bytes, size)),
            ]
        )
    return _table(width, columns, rows)


def _shown_rows(title: TitleNight) -> list[CacheTitle]:
    """Return the caches of a title, those that lack it first."""
    return sorted((row for row in title.rows if row.is_wanted), key=lambda row: (not row.cause, row.isp, row.node))


def _rows_table(title: TitleNight, rows: list[CacheTitle], width: int) -> RenderableType:
    columns = [
        Column("cache"), Column("isp", 2), Column("ordered", 5), Column("live", 0), Column("here", 1, is_right=True),
        Column("before", 4, is_right=True), Column("peer", 0, is_right=True), Column("regional", 0, is_right=True),
        Column("origin", 0, is_right=True), Column("reused", 6, is_right=True), Column("in vain", 3, is_right=True),
        Column("further out", 3, is_right=True),
    ]  # fmt: skip
    cells = []
    for row in rows:
        is_live = row.state in ("live", "repairing")
        live = _at(row.live_at, "%a %H:%M:%S") or "live" if is_live else row.ended or "no"
        figures = (row.bytes_peer, row.bytes_regional, row.bytes_origin, row.reused_bytes, row.duplicate_bytes)
        cells.append(
            [
                Text(printable(row.node)),
                Text(printable(row.isp)),
                Text(f"{_at(row.ordered_at, '%a %H:%M')}{' now' if row.now else ''}"),
                Text(printable(live), style="" if is_live else "yellow"),
                Text(show_percent(row.have_bytes, title.title_bytes) if title.title_bytes else ""),
                Text(show_bytes(row.had_bytes) if row.had_bytes else ""),
                *(Text(show_bytes(count) if count else "") for count in figures),
                Text(str(sum(one.count for one in row.escalations) or "")),
            ]
        )
    return _table(width, columns, cells)


def _caches_table(caches: list[CacheNight], width: int) -> RenderableType:
    columns = [
        Column("cache"), Column("isp", 2), Column("region", 3), Column("windows"),
        Column("in windows", 0, is_right=True), Column("budget", 1, is_right=True),
        Column("out of cycle", 1, is_right=True), Column("lacks", 0, is_right=True),
    ]  # fmt: skip
    rows = [
        [
            *(Text(printable(label)) for label in (one.node, one.isp, one.region)),
            Text(_windows(one)),
            Text(show_bytes(one.used_bytes) if one.has_windows else ""),
            Text(show_bytes(one.budget_bytes) if one.budget_bytes else "", style="red" if one.budget_used_at else ""),
            Text(show_bytes(one.exempt_bytes) if one.exempt_bytes else ""),
            Text(str(one.lacking or ""), style="yellow"),
        ]
        for one in caches
    ]
    return _table(width, columns, rows)


def _table(width: int, columns: list[Column], rows: list[list[Text]]) -> RenderableType:
    """Return a table without the columns in which there is nothing."""
    used = [place for place in range(len(columns)) if any(row[place].plain for row in rows)]
    return table_within(width, [columns[place] for place in used], [[row[place] for place in used] for row in rows])


def _windows(cache: CacheNight) -> str:
    if not cache.heard_at:
        return "not heard"
    if not cache.has_windows:
        return "always open"
    last = f"{_at(cache.last_at, '%H:%M')}, when it was last heard"
    spans = [f"{_at(one.opened_at, '%H:%M')} to {_at(one.closed_at, '%H:%M') or last}" for one in cache.windows]
    return ", ".join(spans) or "none opened"


def _lacking(report: NightReport) -> Iterator[str]:
    """Yield what is lacking and why, one line for the caches of a title that lack it for one reason."""
    caches = {cache.node: cache for cache in report.caches}
    for title in report.titles:
        alike: dict[str, list[CacheTitle]] = defaultdict(list)
        for row in title.rows:
            if row.cause:
                alike[why_lacking(row, caches.get(row.node))].append(row)
        for why, rows in alike.items():
            named = ", ".join(row.node for row in rows[:FAR_SHOWN])
            more = f" and {plural(len(rows) - FAR_SHOWN, 'other')}" if len(rows) > FAR_SHOWN else ""
            shares = [row.have_bytes * 100 // (title.title_bytes or 1) for row in rows]
            have = f"{min(shares)} %" if min(shares) == max(shares) else f"{min(shares)} to {max(shares)} %"
            yield f"{_name(title)} in {named}{more} ({have} is there): {why}"


def why_lacking(row: CacheTitle, cache: CacheNight | None) -> str:
    """Return why a cache lacks a title, for people; empty: it does not."""
    closed_at = cache.windows[-1].closed_at if cache is not None and cache.windows else 0.0
    last_at = 0.0 if cache is None else cache.last_at
    used_at = 0.0 if cache is None else cache.budget_used_at
    texts: dict[Cause, str] = {
        "failed": f"it failed: {row.error or 'no reason was given'}",
        "unheard": "the cache was not heard in this night",
        "filling": "it is being filled",
        "waiting": "the cache waits for its window",
        "budget": f"the budget of the night was used up at {_at(used_at, '%H:%M')}",
        "silent": f"the cache has been silent since {_at(last_at, '%H:%M')}",
        "no window": "no window of the cache opened in this night",
        "too late": f"it was ordered at {_at(row.ordered_at, '%H:%M')}, and the window had ended at "
        f"{_at(closed_at, '%H:%M')}",
        "window ended": f"the window ended at {_at(closed_at, '%H:%M')}",
        "night ended": "the night ended before it was whole",
    }
    waits = sorted(row.waits.items(), key=lambda item: -item[1])[:WAITS_SHOWN]
    waited = "; ".join(f"{plural(count, 'chunk')} waited for {reason}" for reason, count in waits)
    return f"{texts[row.cause]}{'; ' if waited else ''}{waited}" if row.cause else ""


def _escalations(report: NightReport) -> Iterator[str]:
    for one in report.escalations:
        rule = f", under rule {one.rule} of the fleet's policy" if one.rule else ""
        yield f"{plural(one.count, 'chunk')}: {one.reason}{rule}"


def _far(titles: Iterable[TitleNight]) -> Iterator[str]:
    """Yield for each title what came from sources outside of the ISPs, and why more than the least did."""
    for title in titles:
        if not title.far:
            continue
        shown = ", ".join(f"{show_bytes(one.bytes)} from {one.id}" for one in title.far[:FAR_SHOWN])
        more = f", and from {plural(len(title.far) - FAR_SHOWN, 'other')}" if len(title.far) > FAR_SHOWN else ""
        beyond = sum(max(0, isp.bytes - isp.least_bytes) for isp in title.isps)
        reasons = ", ".join(f"{one.reason} {one.count}" for one in title.escalations)
        why = "the one copy that each ISP needs"
        if beyond:
            why += f", and {show_bytes(beyond)} more" + (f" ({reasons})" if reasons else "")
        yield f"{_name(title)}: {shown}{more}: {why}"


def _exempt(report: NightReport) -> Iterator[str]:
    totals = report.totals
    if totals.exempt_bytes:
        nodes = [cache.node for cache in report.caches if cache.exempt_bytes]
        yield f"{show_bytes(totals.exempt_bytes)} came by no window, to {plural(len(nodes), 'cache')}"
    for title in report.titles:
        if title.repair_bytes:
            yield f"{_name(title)}: {show_bytes(title.repair_bytes)} in place of what was bad, or for more files"


def _name(title: TitleNight) -> str:
    return f"{title.name or 'title'} {title.title[:8]}"


def _at(epoch_s: float, form: str) -> str:
    return time.strftime(form, time.localtime(epoch_s)) if epoch_s else ""
