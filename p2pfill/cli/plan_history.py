"""What `p2pfill plan ingest` and `p2pfill plan history` do."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console, Group, RenderableType
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.exits import CommandFailed
from p2pfill.cli.text import plural, printable, show_bytes
from p2pfill.errors import ConfigError
from p2pfill.model.quantities import parse_bytes

LIBRARIES: Final = ("numpy", "ibis", "duckdb")
"""Of the extra, that a history and its tables need."""

DAYS_SHOWN: Final = 14
"""The newest ones; --json has all."""

GAPS_SHOWN: Final = 7
EXAMPLES_SHOWN: Final = 3


def need_planner(*more: str) -> None:
    """Raise `ConfigError` where the extra is not installed; `more` are libraries that this command needs besides."""
    missing = [name for name in (*LIBRARIES, *more) if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the planner needs {', '.join(missing)}: pip install 'p2pfill[planner]'")


def _print_json(record: Any) -> None:
    print(msgspec.json.encode(record).decode())


def ingest_logs(
    logs: Sequence[Path], history: Path, catalogue: Path, caches: Path, *, memory: str, threads: int, as_json: bool
) -> None:
    """Take logs into a history and print what came of it. Raises `CommandFailed` where some could not be used."""
    need_planner()
    from p2pfill.plan.history.history import History, Resources
    from p2pfill.plan.inputs import read_caches, read_catalogue

    resources = Resources(parse_bytes(memory), threads)
    files, file_faults = read_catalogue(catalogue)
    fleet, fleet_faults = read_caches(caches)
    with Console(stderr=True).status("reading", spinner="dots") as status:
        found = History(history, resources).ingest(
            logs, files, fleet, now_s=time.time(), on_log=lambda log: status.update(f"reading {printable(str(log))}")
        )
    tables = file_faults
    tables.merge(fleet_faults)
    if as_json:
        _print_json({**msgspec.to_builtins(found), "days": [_iso(day) for day in found.days], "tables": tables})
    else:
        Console(highlight=False).print(ingest_view(found, tables))
    if found.unusable:
        for why in found.unusable.values():
            print(printable(why), file=sys.stderr)
        raise CommandFailed(
            f"{plural(len(found.unusable), 'log')} of {len(logs)} could not be used; the others were taken in"
        )


def _iso(day: int) -> str:
    from p2pfill.plan.history.history import iso_of

    return iso_of(day)


def ingest_view(found: Any, tables: Any) -> RenderableType:
    """Return what came of an ingest, as text."""
    rows, used = (sum(getattr(log, name) for log in found.taken) for name in ("rows", "used"))
    head = f"{plural(len(found.taken), 'log')} taken in"
    if found.taken:
        head += f": {used:,} of {plural(rows, 'row')} count as views"
    if found.days:
        head += f", {_iso(found.days[0])} to {_iso(found.days[-1])}"
    parts: list[RenderableType] = [Text(head, style="bold")]
    if found.again:
        names = ", ".join(printable(name) for name in found.again[:5])
        more = ", …" if len(found.again) > 5 else ""
        parts.append(Text(f"{plural(len(found.again), 'log')} taken in before, not counted again: {names}{more}"))
    if found.too_old:
        parts.append(Text(f"{plural(found.too_old, 'day')} older than those that are kept: left out", style="yellow"))
    for title, faults in (("catalogue and caches", tables), ("logs", found.faults)):
        if faults:
            parts += [Text(), Text(f"Wrong in {title}", style="bold yellow"), faults_text(faults)]
    return Group(*parts)


def faults_text(faults: Any) -> Text:
    """Return what is wrong, most frequent first, with examples and what became of it."""
    from p2pfill.plan.history.faults import LINE_UNREADABLE, NEXT_STEPS

    text = Text()
    for kind, fault in sorted(faults.kinds.items(), key=lambda one: -one[1].count):
        bytes_ = f", {show_bytes(fault.bytes)}" if fault.bytes else ""
        text.append(f"{fault.count:,} x {printable(kind)}", style="bold").append(f"{bytes_}\n")
        unit = "line" if kind == LINE_UNREADABLE else "row"
        for example in fault.examples[:EXAMPLES_SHOWN]:
            text.append(f"  {printable(example.text(unit))}\n")
        if kind in NEXT_STEPS:
            text.append(f"  next: {NEXT_STEPS[kind]}\n", style="dim")
    text.rstrip()
    return text


def show_history(history: Path, *, as_json: bool) -> None:
    """Print what a history has."""
    need_planner()
    from p2pfill.plan.history.history import History

    found = History(history).summary()
    if as_json:
        _print_json(found)
        return
    console = Console(highlight=False)
    console.print(history_view(found, console.width))


def history_view(found: Any, width: int) -> RenderableType:
    """Return what a history has, as text."""
    days = list(found.days)
    if not days:
        return Text("The history is empty: `p2pfill plan ingest` takes logs in.")
    head = (
        f"{plural(len(days), 'day')}, {days[0]} to {days[-1]}, out of {plural(found.logs, 'log')} with "
        f"{plural(found.rows, 'row')}, of which {found.used:,} count as views"
    )
    parts: list[RenderableType] = [Text(head, style="bold")]
    if found.gaps:
        more = f" and {len(found.gaps) - GAPS_SHOWN} more" if len(found.gaps) > GAPS_SHOWN else ""
        said = f"nothing of {', '.join(found.gaps[:GAPS_SHOWN])}{more}: forecasts go without these days"
        parts.append(Text(said, style="yellow"))
    if found.forgotten_days:
        parts.append(Text(f"{plural(found.forgotten_days, 'older day')} forgotten", style="dim"))
    columns = (
        Column("day"), Column("hours", 3, is_right=True), Column("rows", 2, is_right=True),
        Column("requests", 1, is_right=True), Column("watched", is_right=True), Column("served", 1, is_right=True),
    )  # fmt: skip
    rows = [
        [
            Text(name), Text(str(day.hours)), Text(f"{day.rows:,}"), Text(f"{day.requests:,}"),
            Text(show_bytes(day.bytes)), Text(show_bytes(day.served_bytes)),
        ]
        for name, day in list(found.days.items())[-DAYS_SHOWN:]
    ]  # fmt: skip
    parts += [Text(), table_within(width, columns, rows)]
    if len(days) > DAYS_SHOWN:
        parts.append(Text(f"and {len(days) - DAYS_SHOWN} days before; --json has all", style="dim"))
    if found.faults:
        parts += [Text(), Text("Wrong in its logs", style="bold yellow"), faults_text(found.faults)]
    return Group(*parts)
