"""How a fill is shown: one line a cache and the bytes by tier, as a live table, or as a plain line a second.

Everything here turns records of the tracker into text; names in them are foreign and never read as markup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.reasons import Remarks, Stall, reasons
from p2pfill.cli.text import plural, printable, show_bytes, show_percent, show_rate, show_seconds

if TYPE_CHECKING:
    from p2pfill.tracker.records import FillStatus, FillTotals, NodeProgress

PLAIN_INTERVAL_S: Final = 1.0
"""Between plain lines: a log that can be read afterwards."""
REFRESHES_S: Final = 8.0
ROWS_SPARE: Final = 8
"""Lines of a terminal that the table leaves for its own frame and for what stands around it."""
PLAIN_NODES_MAX: Final = 12
"""Caches named in one plain line."""

CLOCKS_S: Final = 5.0
"""By how much the clocks of a cache and of the tracker may differ without it being taken for an earlier order."""
SINCE_NAMED: Final = 3
"""Caches that are named of those whose bytes are older than the order."""

BAR_WIDTH_MIN: Final = 4
BAR_WIDTH_MAX: Final = 24
FIGURES_WIDTH: Final = 72
"""What the other columns take: on a terminal of 80 the bar is short, but no figure is cut."""

COLUMNS: Final = (
    Column("cache"), Column("isp", 4), Column("state"), Column("", 5), Column("", 0, is_right=True),
    Column("rate", 1, is_right=True), Column("peer", 3, is_right=True), Column("regional", 2, is_right=True),
    Column("origin", 2, is_right=True),
)  # fmt: skip

STATE_STYLES: Final = {"live": "green", "failed": "bold red", "lost": "red", "filling": "cyan", "repairing": "yellow"}


def state_of(progress: NodeProgress) -> str:
    """Return a cache's state in one word; `lost` where its heartbeats have stopped."""
    report = progress.report
    if progress.superseded:
        return "superseded"
    if not progress.alive:
        return "lost"
    return "ordered" if report is None else report.state


def fill_table(status: FillStatus, *, rows_max: int = 1000, width: int = 96) -> RenderableType:
    """Return a fill as a table of its caches with the sums below; the least advanced first where not all fit.

    `width` is the terminal's, in characters.
    """
    bar_width = min(BAR_WIDTH_MAX, max(BAR_WIDTH_MIN, width - FIGURES_WIDTH))
    nodes = status.nodes
    hidden = len(nodes) - rows_max
    if hidden > 0:
        nodes = sorted(nodes, key=lambda node: node.report.have_bytes if node.report else 0)[:rows_max]
    rows = [_row(node, status.title_bytes, bar_width) for node in nodes]
    parts: list[RenderableType] = [table_within(width, COLUMNS, rows, gap=1)]
    if hidden > 0:
        parts.append(Text(f"and {plural(hidden, 'cache')} that are further", style="dim"))
    parts.append(Text(totals_line(status.totals)))
    if since := since_line(status):
        parts.append(Text(since, style="dim"))
    return Group(*parts)


def since_line(status: FillStatus) -> str:
    """Return that some of the bytes came before the order, for they count since a title came to a cache; else empty."""
    at = status.fill.ordered_at
    names = [
        node.node.id
        for node in status.nodes
        if (report := node.report) is not None
        and report.bytes_peer + report.bytes_regional + report.bytes_origin
        and (0 < report.finished_at < at - CLOCKS_S or 0 < report.started_at < at - CLOCKS_S)
    ]
    if not names:
        return ""
    more = f" and {plural(len(names) - SINCE_NAMED, 'other cache')}" if len(names) > SINCE_NAMED else ""
    return printable(
        f"bytes count since a title came to a cache: those of {', '.join(names[:SINCE_NAMED])}{more} from before this "
        "order, too"
    )


def _row(node: NodeProgress, title_bytes: int, bar_width: int) -> tuple[Text | ProgressBar, ...]:
    state = state_of(node)
    report = node.report
    have = report.have_bytes if report else 0
    if report is not None and report.title_bytes:
        title_bytes = report.title_bytes  # it may be to hold other files of the title, too
    tiers = (report.bytes_peer, report.bytes_regional, report.bytes_origin) if report else (0, 0, 0)
    done = state == "live"
    return (
        Text(printable(node.node.id)),
        Text(printable(node.node.isp)),
        Text(state, style=STATE_STYLES.get(state, "")),
        ProgressBar(total=max(title_bytes, 1), completed=max(title_bytes, 1) if done else have, width=bar_width),
        Text(show_percent(have, title_bytes) if not done else "100 %"),
        # What a cache said last before its heartbeats stopped is no rate any more.
        Text(show_rate(report.rate_bytes_s) if report and node.alive and not done else ""),
        *(Text(show_bytes(count) if count else "", style="" if count else "dim") for count in tiers),
    )


def totals_line(totals: FillTotals) -> str:
    """Return the bytes by tier in one line."""
    line = (
        f"{totals.live} of {totals.nodes} live · peer {show_bytes(totals.bytes_peer)} · "
        f"regional {show_bytes(totals.bytes_regional)} · origin {show_bytes(totals.bytes_origin)}"
    )
    if totals.rate_bytes_s >= 1 and totals.live < totals.nodes:
        line += f" · {show_rate(totals.rate_bytes_s)}"
    if totals.superseded:
        line += f" · {totals.superseded} superseded"
    if totals.failed or totals.lost:
        line += f" · {totals.failed} failed, {totals.lost} lost"
    return line


def plain_line(status: FillStatus, elapsed_s: float) -> str:
    """Return a fill's progress in one line of plain text."""
    nodes = status.nodes[:PLAIN_NODES_MAX]
    words = []
    for node in nodes:
        state = state_of(node)
        have = node.report.have_bytes if node.report else 0
        whole = (node.report.title_bytes if node.report else 0) or status.title_bytes
        words.append(f"{node.node.id} {state if state != 'filling' else show_percent(have, whole)}")
    more = f" (+{len(status.nodes) - len(nodes)})" if len(status.nodes) > len(nodes) else ""
    return printable(f"{show_seconds(elapsed_s):>6}  {', '.join(words)}{more}  {totals_line(status.totals)}")


@contextmanager
def fill_board(console: Console, title: str) -> Iterator[Callable[[FillStatus], None]]:
    """Show a fill until the block ends; call what is yielded with each new status."""
    begun = time.monotonic()
    stall, remarks = Stall(), Remarks()
    if not console.is_terminal:
        last_s, since = -PLAIN_INTERVAL_S, ""

        def show_plain(status: FillStatus) -> None:
            nonlocal last_s, since
            elapsed_s = time.monotonic() - begun
            if elapsed_s - last_s >= PLAIN_INTERVAL_S or status.done:
                last_s = elapsed_s
                console.print(plain_line(status, elapsed_s), markup=False, highlight=False, soft_wrap=True)
            lines = remarks.new(status)
            if not since and (since := since_line(status)):
                lines.append(since)
            if stall.seen(status, elapsed_s):
                lines += reasons(status)
            for line in lines:
                console.print(f"        {line}", markup=False, highlight=False, soft_wrap=True)

        yield show_plain
        return
    why: list[str] = []
    with Live(console=console, refresh_per_second=REFRESHES_S) as live:

        def show_live(status: FillStatus) -> None:
            nonlocal why
            if stall.seen(status, time.monotonic() - begun):
                why = reasons(status)
            elif stall.moves:
                why = []
            head = Text(f"{printable(title)}  {show_bytes(status.title_bytes)}", style="bold")
            head.append(f"  {show_seconds(time.monotonic() - begun)}", style="dim")
            remarks.new(status)
            waits = [Text(line, style="yellow") for line in (*remarks.said, *why)]
            rows_max = max(3, console.height - ROWS_SPARE - len(waits))
            live.update(Group(head, fill_table(status, rows_max=rows_max, width=console.width), *waits))

        yield show_live
