"""The tables that an operator gives: catalogue, caches, load, uplinks, origins, as CSV, Parquet or TOML.

What the fields of a row mean is decided here, and files and rows are read in `rows`. All commands read a table by the
same function, so what is a cache to one is a cache to all.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import QUANTITY_MAX, parse_bytes, parse_rate
from p2pfill.model.windows import HOUR_S, zone_of
from p2pfill.plan.history.faults import Faults
from p2pfill.plan.history.tables import EARLIEST_S
from p2pfill.plan.rows import FIELD_CHARS_MAX, Row, TableKind, WrongRow, may_say, take_rows, text_of, useless
from p2pfill.plan.tables import Caches, Catalogue, Floats, Load, Longs

PRICE_MAX: Final = 1e9
LOAD_ROWS_MAX: Final = 50_000_000
"""Of a table of load: five years of hours of a thousand caches."""
LOAD_HOURS_MAX: Final = 5 * 366 * 24
"""Between its first and its last hour: times that are mistyped would make arrays of terabytes."""

_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Uplinks:
    """What may come into ISPs and regions from outside, in bytes a second; inf: nothing was said."""

    isp: Floats
    """Of each ISP of the table of caches."""
    region: Floats
    """Of each region of it."""


@dataclass(frozen=True, slots=True)
class Origins:
    """Where titles come from."""

    names: tuple[str, ...]
    rate: Floats
    """What each can send, in bytes a second; inf: nothing was said."""
    per_gb: Floats
    """Money for a gigabyte of 10^9 bytes, in one currency; 0: nothing was said."""


_CATALOGUE: Final = TableKind("catalogue", ("title", "file", "size"), ("kind", "genre", "released", "hint"))
_CACHES: Final = TableKind(
    "table of caches", ("name", "cluster", "isp", "region", "capacity", "serving"), ("filling", "timezone", "need")
)  # fmt: skip
_FLEET: Final = TableKind(
    "table of caches", ("name", "cluster", "isp", "region", "serving"), ("capacity", "filling", "timezone", "need")
)  # fmt: skip
"""The same table where windows are looked for, to which what a disk holds says nothing."""
_LOAD: Final = TableKind("table of load", ("hour", "place", "bytes"), (), LOAD_ROWS_MAX)
_UPLINKS: Final = TableKind("table of uplinks", ("of", "name", "rate"), ())
_ORIGINS: Final = TableKind("table of origins", ("name",), ("rate", "price"))

_NO_UPLINK_LOST: Final = frozenset({"ISP unknown", "region unknown", "uplink twice"})
"""Faults of a row without which every uplink of the fleet is as limited as with it."""


# ---- the tables


def read_catalogue(path: Path) -> tuple[Catalogue, Faults]:
    """Return the catalogue and what is wrong with it. A row is a file, with what is true of its title.

    Columns: title, file, size (bytes, or as `4.2 GB`); of the file kind; of the title genre, released (a date; empty:
    long ago), hint (views on its first day, as expected). What rows of a title leave empty is taken from its others. Of
    what they say in two ways the first counts, and so does the first of two rows of a file. Raises `ConfigError`.
    """
    titles: dict[str, tuple[Any, ...]] = {}
    files: dict[str, tuple[str, str, int]] = {}

    def take(row: Row) -> None:
        title, file = text_of(row, "title"), text_of(row, "file")
        size = _size(row, "size")
        if size <= 0:
            raise WrongRow("size of zero or less", file)
        told = (may_say(row, "genre", _name), may_say(row, "released", _day), may_say(row, "hint", _hint))
        if file in files:
            raise WrongRow("file twice", file)
        stands = titles.get(title, (None, None, None))
        titles[title] = tuple(new if old is None else old for old, new in zip(stands, told, strict=True))
        files[file] = (title, may_say(row, "kind", _name) or "", size)
        if any(new is not None and old not in (None, new) for old, new in zip(stands, told, strict=True)):
            raise WrongRow("title told in two ways", title)

    faults = take_rows(path, _CATALOGUE, take)
    if not files:
        raise useless(path, _CATALOGUE, faults)
    title_names = tuple(titles)
    genres = tuple(sorted({told[0] or "" for told in titles.values()}))
    kinds = tuple(sorted({kind for _, kind, _ in files.values()}))
    number, genre_at, kind_at = ({one: at for at, one in enumerate(names)} for names in (title_names, genres, kinds))
    return Catalogue(
        title_names, genres, kinds,
        np.array([genre_at[told[0] or ""] for told in titles.values()], dtype=np.int32),
        np.array([told[1] or 0 for told in titles.values()], dtype=np.int32),
        np.array([math.nan if told[2] is None else told[2] for told in titles.values()]),
        tuple(files),
        np.array([number[title] for title, _, _ in files.values()], dtype=np.int32),
        np.array([kind_at[kind] for _, kind, _ in files.values()], dtype=np.int32),
        np.array([size for _, _, size in files.values()], dtype=np.int64),
    ), faults  # fmt: skip


def read_caches(path: Path) -> tuple[Caches, Faults]:
    """Return the caches and what is wrong with their table. A row is a cache.

    Columns: name, cluster, isp, region; capacity (bytes, or as `60 TB`), serving (bytes a second, or as `40Gbit/s`),
    filling (by default as serving) and timezone (an IANA name; UTC). A cluster stands in one ISP and an ISP in one
    region: of rows that say otherwise the first counts. Raises `ConfigError`.
    """
    caches, _, faults = _read_caches(path, _CACHES, 0)
    return caches, faults


def read_fleet(path: Path, need: int) -> tuple[Caches, Longs, Faults]:
    """Return the caches, the bytes that each is to fill, and what is wrong with their table.

    It is the table that `read_caches` reads, with need (bytes, or as `12 TB`; by default the one that is given), and
    may lack capacity, which then is 0. Raises `ConfigError`.
    """
    return _read_caches(path, _FLEET, need)


def _read_caches(path: Path, table: TableKind, need: int) -> tuple[Caches, Longs, Faults]:
    caches: dict[str, tuple[str, int, float, float, str, int]] = {}
    clusters: dict[str, str] = {}
    isps: dict[str, str] = {}

    def take(row: Row) -> None:
        name, cluster, isp, region = (text_of(row, column) for column in ("name", "cluster", "isp", "region"))
        is_needed = "capacity" in table.needed
        capacity = _size(row, "capacity") if is_needed else may_say(row, "capacity", lambda _: _size(row, "capacity"))
        serving = _rate(text_of(row, "serving"), "serving")
        filling = may_say(row, "filling", lambda value: _rate(value, "filling"))
        zone = may_say(row, "timezone", _zone)
        own = may_say(row, "need", lambda _: _size(row, "need")) if table is _FLEET else None
        if name in caches:
            raise WrongRow("cache twice", name)
        if clusters.get(cluster, isp) != isp:
            raise WrongRow("cluster in two ISPs", f"{cluster} in {isp} and {clusters[cluster]}")
        if isps.get(isp, region) != region:
            raise WrongRow("ISP in two regions", f"{isp} in {region} and {isps[isp]}")
        clusters[cluster], isps[isp] = isp, region
        caches[name] = (
            cluster, capacity or 0, serving, serving if filling is None else filling, zone or "UTC",
            need if own is None else own,
        )  # fmt: skip

    faults = take_rows(path, table, take)
    if not caches:
        raise useless(path, table, faults)
    regions = tuple(dict.fromkeys(isps.values()))
    cluster_at, isp_at = ({name: place for place, name in enumerate(names)} for names in (clusters, isps))
    of, capacity, serving, filling, zones, needs = zip(*caches.values(), strict=True)
    return Caches(
        tuple(caches), tuple(clusters), tuple(isps), regions,
        np.array([cluster_at[cluster] for cluster in of], dtype=np.int32),
        np.array([isp_at[isp] for isp in clusters.values()], dtype=np.int32),
        np.array([regions.index(region) for region in isps.values()], dtype=np.int32),
        np.array(capacity, dtype=np.int64), np.array(serving, dtype=np.float64), np.array(filling, dtype=np.float64),
        zones,
    ), np.array(needs, dtype=np.int64), faults  # fmt: skip


def read_load(path: Path, caches: Caches) -> tuple[Load, Faults]:
    """Return the hourly load of caches or clusters, and what is wrong with its table.

    Columns: hour (its begin, in UTC where it names no zone), place (a cache or cluster of the table of caches), bytes.
    Rows of one hour and place are added up; an hour of a place without a row is not known. Raises `ConfigError`.
    """
    known = {*caches.names, *caches.clusters}
    places: dict[str, int] = {}
    hours: dict[str, int] = {}
    columns, rows, served = array("q"), array("q"), array("d")

    def take(row: Row) -> None:
        said, place, amount = text_of(row, "hour"), text_of(row, "place"), text_of(row, "bytes")
        hour = hours.get(said)
        if hour is None:
            hour = hours[said] = _hour(said)
        count = _float(amount, "bytes", QUANTITY_MAX)
        if place not in known:
            raise WrongRow("place unknown", place)
        columns.append(hour)
        rows.append(places.setdefault(place, len(places)))
        served.append(count)

    faults = take_rows(path, _LOAD, take)
    if not columns:
        raise useless(path, _LOAD, faults)
    first, last = min(columns), max(columns)
    if last - first >= LOAD_HOURS_MAX:
        raise ConfigError(
            f"table of load {str(path)!r} goes from {_iso(first)} to {_iso(last)}: at most five years can be used"
        )
    table = np.full((len(places), last - first + 1), np.nan)
    at = (np.frombuffer(rows, np.int64), np.frombuffer(columns, np.int64) - first)
    table[at] = 0
    np.add.at(table, at, np.frombuffer(served, np.float64))
    return Load(tuple(places), first, table), faults


def read_uplinks(path: Path, caches: Caches) -> tuple[Uplinks, Faults]:
    """Return the uplinks and what is wrong with their table: a row has of (`isp` or `region`), name, rate.

    Raises `ConfigError`, also where a row cannot be used: left out, it would pass for an uplink without limit, and
    the night for one that fits.
    """
    said: set[tuple[str, str]] = set()
    rates = {"isp": np.full(len(caches.isps), np.inf), "region": np.full(len(caches.regions), np.inf)}
    names = {"isp": caches.isps, "region": caches.regions}

    def take(row: Row) -> None:
        of, name = text_of(row, "of").lower(), text_of(row, "name")
        rate = _rate(text_of(row, "rate"), "rate", most=math.inf)
        if of not in names:
            raise WrongRow("uplink of neither isp nor region", of)
        if name not in names[of]:
            raise WrongRow(f"{'ISP' if of == 'isp' else 'region'} unknown", name)
        if (of, name) in said:
            raise WrongRow("uplink twice", f"{of} {name}")
        said.add((of, name))
        rates[of][names[of].index(name)] = rate

    faults = take_rows(path, _UPLINKS, take)
    if lifted := Faults({kind: one for kind, one in faults.kinds.items() if kind not in _NO_UPLINK_LOST}):
        raise ConfigError(
            f"table of uplinks: {lifted.in_words()}; left out, it would count as no limit: write a rate above 0, or, "
            "where there is no limit, leave it out or write max"
        )
    if not said and faults:
        raise useless(path, _UPLINKS, faults)
    return Uplinks(rates["isp"], rates["region"]), faults


def read_origins(path: Path) -> tuple[Origins, Faults]:
    """Return the origins and what is wrong with their table: a row has name, rate, price (of a gigabyte).

    Raises `ConfigError`.
    """
    origins: dict[str, tuple[float, float]] = {}

    def take(row: Row) -> None:
        name = text_of(row, "name")
        rate = may_say(row, "rate", lambda value: _rate(value, "rate", most=math.inf))
        price = may_say(row, "price", lambda value: _float(value, "price", PRICE_MAX))
        if name in origins:
            raise WrongRow("origin twice", name)
        origins[name] = (math.inf if rate is None else rate, price or 0.0)

    faults = take_rows(path, _ORIGINS, take)
    if not origins:
        raise useless(path, _ORIGINS, faults)
    rates, prices = (np.array(column, dtype=np.float64) for column in zip(*origins.values(), strict=True))
    return Origins(tuple(origins), rates, prices), faults


# ---- fields


def _name(value: Any) -> str:
    return str(value)[:FIELD_CHARS_MAX]


def _size(row: Row, column: str) -> int:
    text = text_of(row, column)
    number = _number(text)
    try:
        size = parse_bytes(text) if number is None else int(number)
    except (ConfigError, ValueError, OverflowError) as error:
        raise WrongRow(f"{column} unreadable", text) from error
    if number is not None and (size != number or abs(size) > QUANTITY_MAX):
        raise WrongRow(f"{column} unreadable", text)
    if size < 0:
        raise WrongRow(f"{column} of zero or less" if column == "size" else f"{column} negative", text)
    return size


def _rate(value: Any, column: str, most: float = QUANTITY_MAX) -> float:
    """Return a rate in bytes a second; `max` is inf, where that is allowed."""
    text = str(value).strip()
    rate = _number(text)
    if rate is None:
        try:
            rate = float(parse_rate(text) or math.inf)
        except ConfigError as error:
            raise WrongRow(f"{column} unreadable", text) from error
    if not 0 < rate <= most:
        raise WrongRow(f"{column} out of range", text)
    return rate


def _number(text: str) -> float | None:
    """Return a number without a unit; None where it is none."""
    try:
        return int(text) if text.lstrip("-").isdigit() and len(text) < 20 else float(text)
    except ValueError:
        return None


def _float(value: Any, column: str, most: float) -> float:
    number = _number(str(value))
    if number is None or not 0 <= number <= most:
        raise WrongRow(f"{column} unreadable", str(value))
    return float(number)


def _hint(value: Any) -> float:
    return _float(value, "hint", QUANTITY_MAX)


def _day(value: Any) -> int:
    """Return a date, or a moment's date in UTC, as days since 1970."""
    try:
        if not isinstance(value, date):
            text = str(value)
            value = date.fromisoformat(text) if len(text) <= len("2026-11-29") else datetime.fromisoformat(text)
    except ValueError as error:
        raise WrongRow("released unreadable", str(value)) from error
    if isinstance(value, datetime):
        value = (value.astimezone(UTC) if value.tzinfo else value).date()
    return int((value - _EPOCH).days)


def _zone(value: Any) -> str:
    """Return the name of a time zone."""
    try:
        zone_of(str(value))
    except ConfigError as error:
        raise WrongRow("timezone unknown", str(value)) from error
    return str(value)


def _hour(text: str) -> int:
    """Return the hour of a moment, since 1970."""
    try:
        moment = datetime.fromisoformat(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise WrongRow("hour unreadable", text) from error
    if seconds < EARLIEST_S:
        raise WrongRow("hour before 2000", text)
    return int(seconds // HOUR_S)


def _iso(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * HOUR_S, UTC):%Y-%m-%d}"
