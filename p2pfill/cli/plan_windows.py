"""`p2pfill plan windows`: the hours in which caches have least to do, and how fast they may fill then.

It proposes and changes nothing. With `--out` it writes the windows as a policy, and `p2pfill policy apply` lets that
stand. In go the table of caches, and hourly load out of the history or a table.
"""

from __future__ import annotations

import json
import shlex
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from p2pfill.cli.columns import Column, table_within, unbroken
from p2pfill.cli.plan_history import faults_text, need_planner
from p2pfill.cli.text import plural, printable, show_bytes
from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import POLICY_CHARS_MAX
from p2pfill.model.quantities import parse_bytes
from p2pfill.model.windows import DAY_MIN, HOUR_S, at_utc

if TYPE_CHECKING:
    from p2pfill.plan.history.faults import Faults
    from p2pfill.plan.hours.load import LoadForecast
    from p2pfill.plan.hours.windows import Proposal, WindowRules
    from p2pfill.plan.tables import Caches, Load, Longs

CACHES_MAX: Final = 100_000


def propose_windows(
    planner: Path, caches_file: Path | None, history: Path | None, load_file: Path | None, need: str, headroom: float,
    earliest: str, latest: str, hours: int, begin: str, holidays: str, out: Path | None, base: Path | None, seed: int,
    *, split: bool, as_json: bool,
) -> None:  # fmt: skip
    """Propose, and write what is asked for. Raises `ConfigError`."""
    need_planner("lightgbm")
    from p2pfill.cli.plan_desk import place_of
    from p2pfill.plan.hours.load import forecast, until
    from p2pfill.plan.hours.windows import WindowRules
    from p2pfill.plan.inputs import read_fleet

    rules = WindowRules(
        headroom, earliest_min=_minute(earliest), latest_min=_minute(latest), hours_min=min(2, hours), hours_max=hours,
        parts_max=2 if split else 1,
    )  # fmt: skip
    if base is not None and out is None:
        raise ConfigError("--base is the policy to which --out adds the windows: give both")
    if out is not None and base is None:
        _keep(out)
    caches_file = place_of(planner, "caches", caches_file)
    if load_file is None:
        history = place_of(planner, "history", history, "--history DIR or --load FILE")
    caches, needs, wrong = read_fleet(caches_file, parse_bytes(need) if need else 0)
    if len(caches.names) > CACHES_MAX:
        raise ConfigError(f"{str(caches_file)!r} has {len(caches.names):,} caches: {CACHES_MAX:,} can be planned for")
    load, more = _load_of(load_file, history, caches)
    wrong.merge(more)
    if begin:
        load = until(load, int(at_utc(begin)) // HOUR_S)
    days = [_day(text) for text in holidays.split(",") if text]
    said = forecast(load, _zones_of(load, caches), days, seed=seed)
    show(said, caches, needs, rules, out, base, as_json=as_json)
    if wrong:
        # What scripts read is the proposals and nothing else.
        console = Console(highlight=False, stderr=as_json)
        console.print(Text("\nWrong in caches and load", style="bold yellow"), faults_text(wrong), sep="\n")


def show(
    said: LoadForecast, caches: Caches, need: Longs, rules: WindowRules, out: Path | None, base: Path | None, *,
    as_json: bool,
) -> None:  # fmt: skip
    """Print the windows that follow from a forecast, and write them where that is asked for."""
    from p2pfill.plan.hours.policy import as_policy
    from p2pfill.plan.hours.windows import propose

    proposals = propose(said, caches, need, rules=rules)
    if out is not None:
        out.write_text(as_policy(proposals, "" if base is None else _text(base)))
    if as_json:
        print(json.dumps([_record(proposal) for proposal in proposals]))
        return
    console = Console()
    columns = [
        Column("cache"), Column("windows"), Column("fits", is_right=True), Column("needed", 1, is_right=True),
        Column("short", 2, is_right=True), Column("viewers take", 3, is_right=True),
    ]  # fmt: skip
    rows = []
    for proposal in proposals:
        ceiling = proposal.ceiling / (1 - rules.headroom)
        taken = f"{proposal.busiest / ceiling:.0%}" if proposal.line and ceiling else ""
        rows.append([
            Text(printable(proposal.cache)), Text(proposal.line or "none"), Text(show_bytes(proposal.fits)),
            Text(show_bytes(proposal.need)), Text(show_bytes(proposal.short) if proposal.short else ""), Text(taken),
        ])  # fmt: skip
    console.print(table_within(console.width, columns, rows))
    for proposal in proposals:
        if not proposal.line:
            console.print(Text(printable(proposal.text)))
    lacking = sum(1 for proposal in proposals if proposal.short)
    first = datetime.fromtimestamp(said.first_hour * HOUR_S, UTC)
    fits = f"what is needed does not fit into {plural(lacking, 'cache')}" if lacking else "what is needed fits"
    console.print(
        f"{plural(len(proposals), 'cache')}, for the 24 hours from {first:%Y-%m-%d %H:%M} UTC; {fits}", highlight=False
    )
    if out is not None:
        command = f"p2pfill policy apply {shlex.quote(printable(str(out)))} --tracker URL"
        console.print(unbroken(f"written: {command}"), highlight=False, crop=False)


def _keep(out: Path) -> None:
    """Raise `ConfigError` where a file that is written anew has more than planned rules, which would be lost."""
    from p2pfill.plan.hours.policy import without_plan

    if out.is_file() and without_plan(_text(out)).strip():
        raise ConfigError(
            f"{str(out)!r} says more than planned windows, and that would be lost: add --base {out} to keep it, or "
            f"write to another file"
        )


def _record(proposal: Proposal) -> dict[str, Any]:
    return {
        "cache": proposal.cache, "windows": proposal.line, "first_hour": proposal.first_hour, "rates": proposal.rates,
        "need": proposal.need, "fits": proposal.fits, "short": proposal.short, "text": proposal.text,
    }  # fmt: skip


# ---- tables


def _load_of(load_file: Path | None, history: Path | None, caches: Caches) -> tuple[Load, Faults]:
    """Return the hourly load in a table or in a history, and what is wrong with it. Raises `ConfigError`."""
    import numpy as np

    from p2pfill.plan.history.faults import Faults
    from p2pfill.plan.history.history import History
    from p2pfill.plan.hours.load import until
    from p2pfill.plan.inputs import read_load

    if load_file is not None and history is None:
        return read_load(load_file, caches)
    if history is None or load_file is not None:
        raise ConfigError("the load comes from --history or from --load: give one of them")
    load = History(history).load(caches)
    # A history has whole days, and the last one may be under way.
    known = np.flatnonzero((~np.isnan(load.served)).any(0))
    return until(load, load.first_hour + (int(known[-1]) + 1 if len(known) else 0)), Faults()


def _zones_of(load: Load, caches: Caches) -> tuple[str, ...]:
    """Return the time zone of each place of a load: of a cluster, that of its first cache."""
    zones = dict[str, str]()
    for name, cluster, zone in zip(caches.names, caches.cluster, caches.zones, strict=True):
        zones[name] = zone
        zones.setdefault(caches.clusters[int(cluster)], zone)
    return tuple(zones.get(name, "UTC") for name in load.names)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as opened:
            return opened.read(POLICY_CHARS_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read policy {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"policy {str(path)!r} is not UTF-8: {error}") from error


def _minute(text: str) -> int:
    hour, colon, minute = text.strip().partition(":")
    if not (colon and hour.isdecimal() and minute.isdecimal() and int(minute) < 60 and int(hour) * 60 <= DAY_MIN):
        raise ConfigError(f"{text[:40]!r} is no time of the day; write HH:MM, as in 22:00")
    return (int(hour) * 60 + int(minute)) % DAY_MIN


def _day(text: str) -> int:
    try:
        return (date.fromisoformat(text.strip()) - date(1970, 1, 1)).days
    except ValueError as error:
        raise ConfigError(f"{text[:40]!r} is no date; write it as in 2026-12-25") from error
