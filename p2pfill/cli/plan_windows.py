"""`p2pfill plan windows`: the hours in which caches have least to do, and how fast they may fill then.

It proposes and changes nothing. With `--out` it writes the windows as a policy, and `p2pfill policy apply` lets that
stand. Two tables go in, as CSV: hourly load, and the caches.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.options import AsJson
from p2pfill.cli.text import plural, printable, show_bytes
from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import POLICY_CHARS_MAX
from p2pfill.model.quantities import parse_bytes, parse_rate
from p2pfill.model.windows import DAY_MIN, HOUR_S, at_utc

if TYPE_CHECKING:
    from p2pfill.plan.hours.load import LoadForecast
    from p2pfill.plan.hours.windows import Proposal, WindowRules
    from p2pfill.plan.tables import Caches, Load

T = TypeVar("T")

ROWS_MAX: Final = 50_000_000
"""Of a table: five years of hours of a thousand caches."""
HOURS_MAX: Final = 5 * 366 * 24
"""Between the first and the last hour of a load: times that are mistyped would make arrays of terabytes."""
CACHES_MAX: Final = 100_000

LOAD_COLUMNS: Final = ("hour", "place", "bytes")
CACHE_COLUMNS: Final = ("name", "cluster", "isp", "region", "serving")


@dataclass(frozen=True, slots=True)
class Fleet:
    """The table of caches, and what windows need besides."""

    caches: Caches
    zones: tuple[str, ...]
    need: Any
    """Bytes to fill, of each cache: an array of 64 bit integers."""


def windows(
    load_file: Annotated[
        Path, typer.Option("--load", metavar="FILE", help="Hourly load, as CSV: hour (in UTC), place, bytes.")
    ],
    caches_file: Annotated[
        Path,
        typer.Option(
            "--caches",
            metavar="FILE",
            help="The caches, as CSV: name, cluster, isp, region, serving (a rate); filling, timezone and need may be "
            "there too.",
        ),
    ],
    need: Annotated[
        str, typer.Option("--need", metavar="SIZE", help="What each cache is to fill, where its row does not say.")
    ] = "",
    headroom: Annotated[
        float, typer.Option("--headroom", metavar="SHARE", help="Of what a cache can serve, to stay free.")
    ] = 0.2,
    earliest: Annotated[
        str, typer.Option("--earliest", metavar="HH:MM", help="No window opens before, on the cache's clock.")
    ] = "00:00",
    latest: Annotated[str, typer.Option("--latest", metavar="HH:MM", help="And none closes later.")] = "24:00",
    hours: Annotated[int, typer.Option("--hours", min=1, max=24, help="For how long a cache is open at most.")] = 8,
    split: Annotated[bool, typer.Option("--split", help="Two windows a night where one is not enough.")] = False,
    begin: Annotated[
        str,
        typer.Option(
            "--from", metavar="TIME", help="Plan the 24 hours from then on (UTC); by default from the end of the load."
        ),
    ] = "",
    holidays: Annotated[
        str, typer.Option("--holidays", metavar="DATES", help="Days that are as Sundays, as in 2026-12-25,2026-12-26.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the windows there, for `p2pfill policy apply`.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FILE", help="The policy that stands, to which --out adds the windows."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the forecast: with the same the same comes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Propose fill windows for the next 24 hours, from the load that is foreseen. Nothing is changed.

    With --out they are written as a policy, and `p2pfill policy apply` lets it stand.
    """
    _needs_planner()
    from p2pfill.plan.hours.load import forecast, until
    from p2pfill.plan.hours.windows import WindowRules

    rules = WindowRules(
        headroom, earliest_min=_minute(earliest), latest_min=_minute(latest), hours_min=min(2, hours), hours_max=hours,
        parts_max=2 if split else 1,
    )  # fmt: skip
    if base is not None and out is None:
        raise ConfigError("--base is the policy to which --out adds the windows: give both")
    if out is not None and base is None:
        _keep(out)
    fleet, load = read_fleet(caches_file, need), read_load(load_file)
    if begin:
        load = until(load, int(at_utc(begin)) // HOUR_S)
    zones = _zones_of(load, fleet)
    said = forecast(load, zones, [_day(text) for text in holidays.split(",") if text], seed=seed)
    show(said, fleet, rules, out, base, as_json=as_json)


def show(
    said: LoadForecast, fleet: Fleet, rules: WindowRules, out: Path | None, base: Path | None, *, as_json: bool
) -> None:  # fmt: skip
    """Print the windows that follow from a forecast, and write them where that is asked for."""
    from p2pfill.plan.hours.policy import as_policy
    from p2pfill.plan.hours.windows import propose

    proposals = propose(said, fleet.caches, fleet.need, fleet.zones, rules)
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
            console.print(Text(printable(proposal.text)), soft_wrap=True)
    lacking = sum(1 for proposal in proposals if proposal.short)
    first = datetime.fromtimestamp(said.first_hour * HOUR_S, UTC)
    console.print(
        f"{plural(len(proposals), 'cache')}, for the 24 hours from {first:%Y-%m-%d %H:%M} UTC; what is needed does not "
        f"fit at {lacking}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if out is not None:
        console.print(
            f"written: p2pfill policy apply {printable(str(out))} --tracker URL", highlight=False, soft_wrap=True
        )


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


def _needs_planner() -> None:
    try:
        import lightgbm  # noqa: F401
    except ImportError as error:
        raise ConfigError("the planner needs libraries: pip install 'p2pfill[planner]'") from error


# ---- tables


def read_load(path: Path) -> Load:
    """Return the hourly load in a table. An hour of a place that is not in it is not known. Raises `ConfigError`."""
    import numpy as np

    from p2pfill.plan.tables import Load

    places: dict[str, int] = {}
    hours: list[int] = []
    rows: list[int] = []
    served: list[float] = []
    seen = dict[str, int]()
    for place, row in _rows(path, LOAD_COLUMNS):
        hour = row["hour"]
        if hour not in seen:
            seen[hour] = int(_at(place, at_utc, hour if len(hour) > 13 else f"{hour}:00")) // HOUR_S
        hours.append(seen[hour])
        rows.append(places.setdefault(row["place"], len(places)))
        served.append(float(_at(place, _count, row["bytes"])))
    if not hours:
        raise ConfigError(f"{str(path)!r} has no row: there is no load to go by")
    first, last = min(hours), max(hours)
    if last - first >= HOURS_MAX or len(places) > CACHES_MAX:
        raise ConfigError(
            f"{str(path)!r} goes from {datetime.fromtimestamp(first * HOUR_S, UTC):%Y-%m-%d} to "
            f"{datetime.fromtimestamp(last * HOUR_S, UTC):%Y-%m-%d}, of {plural(len(places), 'place')}: at most five "
            f"years of {CACHES_MAX} can be used"
        )
    table = np.full((len(places), last - first + 1), np.nan)
    at = (np.array(rows), np.array(hours) - first)
    table[at] = 0
    np.add.at(table, at, np.array(served))
    return Load(tuple(places), first, table)


def read_fleet(path: Path, need: str) -> Fleet:
    """Return the caches in a table; `need` is what those are to fill whose row does not say. Raises `ConfigError`."""
    import numpy as np

    from p2pfill.plan.tables import Caches

    common = parse_bytes(need) if need else 0
    names: dict[str, None] = {}
    clusters, isps, regions = dict[str, int](), dict[str, int](), dict[str, int]()
    isp_of, region_of = dict[int, int](), dict[int, int]()
    cluster, serving, filling, zones, needs = [], [], [], [], []
    for place, row in _rows(path, CACHE_COLUMNS):
        if row["name"] in names:
            raise ConfigError(f"{place}: cache {row['name'][:80]!r} stands there twice")
        names[row["name"]] = None
        # A cluster belongs to its ISP: two of one name in two ISPs are two.
        group = clusters.setdefault(f"{row['isp']}\0{row['cluster']}", len(clusters))
        isp = isp_of.setdefault(group, isps.setdefault(row["isp"], len(isps)))
        region_of.setdefault(isp, regions.setdefault(row["region"], len(regions)))
        cluster.append(group)
        serving.append(_at(place, _rate, row["serving"]))
        filling.append(_at(place, _rate, row.get("filling") or row["serving"]))
        zones.append(row.get("timezone") or "UTC")
        needs.append(_at(place, parse_bytes, row["need"]) if row.get("need") else common)
    if not 0 < len(names) <= CACHES_MAX:
        raise ConfigError(f"{str(path)!r} has {plural(len(names), 'cache')}: 1 to {CACHES_MAX} can be planned for")
    return Fleet(
        Caches(
            tuple(names), tuple(key.partition("\0")[2] for key in clusters), tuple(isps), tuple(regions),
            np.array(cluster, np.int32), np.array([isp_of[group] for group in range(len(clusters))], np.int32),
            np.array([region_of[isp] for isp in range(len(isps))], np.int32), np.zeros(len(names), np.int64),
            np.array(serving, np.float64), np.array(filling, np.float64),
        ),
        tuple(zones), np.array(needs, np.int64),
    )  # fmt: skip


def _zones_of(load: Load, fleet: Fleet) -> tuple[str, ...]:
    """Return the time zone of each place of a load: of a cluster, that of its first cache."""
    zones = dict[str, str]()
    for name, cluster, zone in zip(fleet.caches.names, fleet.caches.cluster, fleet.zones, strict=True):
        zones[name] = zone
        zones.setdefault(fleet.caches.clusters[int(cluster)], zone)
    return tuple(zones.get(name, "UTC") for name in load.names)


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a table, each with its place for errors."""
    try:
        with path.open(encoding="utf-8", newline="") as opened:
            reader = csv.DictReader(opened)
            lacking = [name for name in needed if name not in (reader.fieldnames or ())]
            if lacking:
                raise ConfigError(f"{str(path)!r} has no column {lacking[0]!r}: it needs {', '.join(needed)}")
            for number, row in enumerate(reader, 2):
                place = f"{str(path)!r}, line {number}"
                if number > ROWS_MAX or None in row or any(not row[name] for name in needed):
                    raise ConfigError(f"{place}: has not as many fields as columns, or an empty one")
                yield place, row
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{str(path)!r} is no CSV in UTF-8: {error}") from error


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as opened:
            return opened.read(POLICY_CHARS_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read policy {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"policy {str(path)!r} is not UTF-8: {error}") from error


def _at(place: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _count(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 2.0**62:
        raise ConfigError(f"{text[:40]!r} is no number of bytes")
    return value


def _rate(text: str) -> int:
    rate = parse_rate(text)
    if not rate:
        raise ConfigError("a cache serves and fills with a rate, as in 40Gbit: max says nothing here")
    return rate


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
