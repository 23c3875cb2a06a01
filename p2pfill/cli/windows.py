"""`p2pfill windows`: what a timetable means, before a cache goes by it; and whether caches are open now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from rich.console import Console
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.text import plural, printable, show_bytes, show_rate, show_seconds
from p2pfill.errors import ConfigError
from p2pfill.model.windows import LOOK_AHEAD_S, FillWindows, Moment, read_windows, zone_of

if TYPE_CHECKING:
    from p2pfill.model.reports import HoursReport

DAYS_MAX: Final = 400
"""A year, and what is beside it."""

PHASES: Final = {"open": "open", "soon": "opens soon", "closed": "closed"}


def show_hours(hours: HoursReport) -> str:
    """Return whether a cache fills now, in a few words: `closed to Mon 02:00`; empty where it always does.

    Times are those of this machine's zone.
    """
    if hours.budget_used:
        return "budget used"
    if not hours.until:
        return ""
    to = "until" if hours.phase == "open" else "to"
    return f"{PHASES[hours.phase]} {to} {time.strftime('%a %H:%M', time.localtime(hours.until))}"


def show_windows(timetable: str, config: Path | None, days: int, *, as_json: bool) -> None:
    """Print the fill windows of the next days. Raises `ConfigError` where the timetable cannot be used."""
    if not 0 < days <= DAYS_MAX:
        raise ConfigError(f"--days {days} cannot be used: 1 to {DAYS_MAX} days can be shown")
    windows = _of_config(config) if config is not None else read_windows(timetable)
    now = time.time()
    found = list(spans(windows, now, now + days * 86400))
    if as_json:
        record = {"timezone": windows.timezone, "at_end": windows.at_end, "budget": windows.budget, "windows": found}
        print(json.dumps(record))
        return
    console = Console()
    if not windows.windows:
        console.print("no windows: the cache always fills", highlight=False)
        return
    columns = [Column("opens"), Column("closes"), Column("for"), Column("night of"), Column("rate"), Column("budget")]
    rows = []
    for span in found:
        rate = windows.windows[span["window"]].rates.inbound.total
        budget = windows.windows[span["window"]].budget
        rows.append(
            [
                Text("is open" if span["opens"] == now else _on_wall(span["opens"], windows, "%a %Y-%m-%d %H:%M")),
                *map(Text, _end(span, windows)),
                Text(span["night"]),
                Text(show_rate(rate) if rate else "no limit"),
                Text(show_bytes(budget) if budget else "no limit"),
            ]
        )
    console.print(table_within(console.width, columns, rows))
    ends = "is received" if windows.at_end == "finish" else "is handed back"
    night = f"; at most {show_bytes(windows.budget)} a night" if windows.budget else ""
    console.print(
        f"{plural(len(found), 'window')} in {plural(days, 'day')}, by the clock of {windows.timezone}; "
        f"what is in flight at the end {ends}{night}",
        highlight=False,
        soft_wrap=True,
    )


def spans(windows: FillWindows, start: float, end: float) -> Iterator[dict[str, Any]]:
    """Yield the windows that are open between two moments: `opens`, `closes` (seconds since the epoch), `window`."""
    at = start
    while windows.windows and at < end:
        moment: Moment = windows.at(at)
        if moment.window is not None:
            yield {"opens": at, "closes": moment.until, "window": moment.window, "night": moment.night}
        at = moment.until


def show_fleet_hours(tracker: str, *, as_json: bool) -> None:
    """Print for each cache whether its fill windows are open."""
    trio.run(_fleet_hours, tracker, as_json)


async def _fleet_hours(tracker: str, as_json: bool) -> None:
    import msgspec

    from p2pfill.cli.calling import call_tracker

    async with call_tracker(tracker) as client:
        nodes = await client.nodes()
    if as_json:
        # Said in any case: a script would have to know that what is left out means open.
        print(json.dumps({one.info.id: {"phase": one.hours.phase, **msgspec.to_builtins(one.hours)} for one in nodes}))
        return
    columns = [
        Column("cache"), Column("region", 4), Column("window"), Column("night of", 3),
        Column("this night", 1, is_right=True), Column("budget", 1, is_right=True),
        Column("out of cycle", 2, is_right=True),
    ]  # fmt: skip
    rows = []
    for node in nodes:
        hours = node.hours
        words = show_hours(hours) or "always open"
        figures = (
            show_bytes(hours.used_bytes) if hours.until else "",
            show_bytes(hours.budget_bytes) if hours.budget_bytes else "",
            show_bytes(hours.exempt_bytes) if hours.exempt_bytes else "",
        )
        labels = (node.info.id, node.info.region, words if node.alive else "dead", hours.night)
        rows.append([*(Text(printable(label)) for label in labels), *map(Text, figures)])
    console = Console()
    console.print(table_within(console.width, columns, rows))


def _end(span: dict[str, Any], windows: FillWindows) -> tuple[str, str]:
    """Return when a window closes, and how long it is open."""
    length_s = span["closes"] - span["opens"]
    if length_s >= LOOK_AHEAD_S:  # the same weekday, a week later, says nothing
        return "never", "always"
    return _on_wall(span["closes"], windows, "%a %H:%M"), show_seconds(length_s)


def _on_wall(epoch_s: float, windows: FillWindows, form: str) -> str:
    return datetime.fromtimestamp(epoch_s, zone_of(windows.timezone)).strftime(form)


def _of_config(config: Path) -> FillWindows:
    from p2pfill.node.config import NodeConfig

    return NodeConfig.load(config).fill_windows()
