"""Taking logs into a history. All logs of one call count from the same moment, or none does.

Each log is read by itself: one that cannot be used is named, and keeps the others from nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from p2pfill.errors import ConfigError, StoreError
from p2pfill.plan.history import faults as kinds
from p2pfill.plan.history import state as history_state
from p2pfill.plan.history import tables
from p2pfill.plan.history.engine import DEFAULT, Engine, Resources, library_errors, open_engine
from p2pfill.plan.history.faults import ROW_KINDS, Example, Faults
from p2pfill.plan.history.logs import (
    LogFile,
    UnusableLog,
    forget_rejected,
    is_confused,
    look_at,
    open_rows,
    read_content,
    rejected,
    with_one_line_end,
)
from p2pfill.plan.history.state import NO_DAY, DayRecord, LogRecord, State, commit, read_state, writing
from p2pfill.plan.history.tables import Names, Table, load_ibis
from p2pfill.plan.tables import Caches, Catalogue

AHEAD_S: Final = 86_400
"""A time may lie so far after now: clocks and time zones that are wrong by less do no harm to days."""


class Ingest(msgspec.Struct):
    """What came of it."""

    taken: list[LogRecord] = []
    again: list[str] = []
    """Logs that were taken in before, and did not count again."""
    unusable: dict[str, str] = {}
    """Logs of which nothing was taken in -> why."""
    faults: Faults = msgspec.field(default_factory=Faults)
    days: list[int] = []
    """That have changed."""
    too_old: int = 0
    """Days of which something was in logs, and which are beyond those that are kept."""


class _Masks(NamedTuple):
    rows: int
    used: int
    days: range
    faults: Faults


def ingest(
    directory: Path, logs: Sequence[Path], catalogue: Catalogue, caches: Caches, *, now_s: float,
    resources: Resources = DEFAULT, on_log: Callable[[Path], None] = lambda log: None,
) -> Ingest:  # fmt: skip
    """Take logs into the history in `directory`, and say what came of it. `now_s` is in seconds since 1970.

    Raises `ConfigError` where no log could be used, `StoreError` where memory or disk do not do: then all is as it was.
    """
    if not logs:
        raise ConfigError("no log was named")
    load_ibis()
    with writing(directory) as scratch:
        state = read_state(directory, may_lack=True)
        found = Ingest()
        try:
            with open_engine(scratch, resources) as engine:
                work = _Work(engine, directory, scratch, state, int(now_s) + AHEAD_S)
                work.load_names(catalogue, caches)
                for log in logs:
                    on_log(log)
                    work.take(log, found)
                _check_some(found)
                if found.taken:
                    work.write_days(found)
                    state.faults.merge(found.faults)
                    state.logs += found.taken
                    state.forgotten_days += found.too_old
                    state.trim()
                    commit(directory, state)
        except OSError as error:
            raise StoreError(f"cannot write the history in {str(directory)!r}: {error.strerror or error}") from error
    return found


def _check_some(found: Ingest) -> None:
    if found.taken or found.again:
        return  # logs are named again by patterns: one that cannot be used must not stop every evening from then on
    why = list(found.unusable.values())
    more = f"; and {len(why) - 1} more that cannot be used" if len(why) > 1 else ""
    raise ConfigError(f"{why[0]}{more}; the history is as it was")


class _Work:
    """One ingest. Aggregates of its logs gather in the tables `views` and `load`."""

    def __init__(self, engine: Engine, directory: Path, scratch: Path, state: State, latest_s: int) -> None:
        self.engine = engine
        self.directory = directory
        self.scratch = scratch
        self.state = state
        self.latest_s = latest_s
        self.known = state.known()
        self.named: dict[str, Names] = {}
        self.gathered: dict[str, Table] = {}

    def load_names(self, catalogue: Catalogue, caches: Caches) -> None:
        """Give the database the names that there are. Of one that is there twice the first counts."""
        titles = [catalogue.titles[number] for number in catalogue.title.tolist()]
        owners = dict(zip(reversed(catalogue.files), reversed(titles), strict=True))
        owners.pop("", None)
        files = list(owners)
        columns = {"known_file": files, "fid": range(len(files)), "known_title": [owners[file] for file in files]}
        file_table = self.engine.load("files", columns)
        regions = self.engine.load("regions", _numbered("known_region", "rid", caches.regions))
        for kind, names in (("cache", caches.names), ("cluster", caches.clusters)):
            places = self.engine.load(f"{kind}s", _numbered("known_place", "pid", names))
            self.named[kind] = Names(file_table, regions, places)

    def take(self, path: Path, found: Ingest) -> None:
        """Take in one log, or say why not."""
        try:
            self._take(path, found)
        except UnusableLog as error:
            found.unusable[str(path)] = str(error)
            found.faults.add(error.kind, [Example(str(path), 0, str(error))])

    def _take(self, path: Path, found: Ingest) -> None:
        link = self.scratch / "log"
        log = look_at(self.engine, path, link)
        try:
            before = path.stat()
            content = read_content(path, self.known)
        except OSError as error:
            raise UnusableLog(f"cannot read log {str(path)!r}: {error.strerror}") from error
        if (content.size, content.digest) in self.known:
            found.again.append(str(path))
            return
        if content.grown_from:
            raise UnusableLog(
                f"log {str(path)!r} begins with all of {content.grown_from!r}, which was taken in, and would count "
                "twice: give what has come since as a log of its own, with a header"
            )
        names = self.named[log.place]
        coded, log = self._coded(path, log, link)
        if _is_changed(path, before):
            raise UnusableLog(f"log {str(path)!r} was written to meanwhile: give it when it is whole")
        with library_errors(f"cannot add up log {str(path)!r}", StoreError):
            masks = self._masks(coded, str(path))
            masks.faults.merge(rejected(self.engine, log, str(path), masks.rows))
        if not masks.used:
            why = masks.faults.in_words() or "it has a header and nothing else"
            found.faults.merge(masks.faults)
            raise UnusableLog(f"log {str(path)!r} has no usable row: {why}", kinds.NO_USABLE_ROW)
        with library_errors(f"cannot add up log {str(path)!r}", StoreError):
            self._gather("views", tables.views_of(coded))
            kind = load_ibis().literal(log.place)
            self._gather("load", tables.load_of(coded, names).mutate(kind=kind))
        counts = {kind: fault.count for kind, fault in masks.faults.kinds.items()}
        found.taken.append(LogRecord(
            str(path), content.digest, content.size, masks.rows, masks.used, masks.days[0], masks.days[-1], counts
        ))  # fmt: skip
        self.known[content.size, content.digest] = str(path)
        found.faults.merge(masks.faults)

    def _coded(self, path: Path, log: LogFile, link: Path) -> tuple[Table, LogFile]:
        """Return the rows of a log as numbers, and the log as it was read: where its lines end in several ways, a copy.

        Raises `UnusableLog`.
        """
        try:
            with library_errors(f"cannot read log {str(path)!r}", UnusableLog):
                forget_rejected(self.engine)
                rows = tables.code_rows(open_rows(self.engine, log, link), self.named[log.place], self.latest_s)
                return self.engine.keep("coded", rows, is_for_now=True), log
        except UnusableLog as error:
            copy = with_one_line_end(log, link) if is_confused(log, error) else None
            if copy is None:
                raise
        return self._coded(path, copy, link)

    def _masks(self, coded: Table, name: str) -> _Masks:
        """Return what the rows of a log are."""
        found, rows, used, hours = Faults(), 0, 0, list[int]()
        counted = self.engine.fetch(tables.masks_of(coded))
        for one in counted:
            rows += one["rows"]
            if not one["mask"] & (kinds.VIEWS_LOST | kinds.VIEWS_STRAY):
                used += one["rows"]
                hours += [one["first_hour"], one["last_hour"]]
        for kind in ROW_KINDS:
            having = [one for one in counted if one["mask"] & kind.bit]
            if not having:
                continue
            causes = self.engine.fetch(tables.causes_of(coded, kind))
            examples = [Example(name, one["row"], _shown(one["value"])) for one in causes]
            found.add(
                kind.name, examples, count=sum(one["rows"] for one in having),
                bytes_=sum(one["bytes"] or 0 for one in having),
            )  # fmt: skip
        days = range(min(hours) // 24, max(hours) // 24 + 1) if hours else range(0)
        return _Masks(rows, used, days, found)

    def _gather(self, name: str, table: Table) -> None:
        if name in self.gathered:
            self.engine.ibis.insert(name, table)
        else:
            self.gathered[name] = self.engine.keep(name, table)

    def write_days(self, found: Ingest) -> None:
        """Write the files of all days of which something is new, beside those that there are."""
        self.state.number += 1
        self.engine.drop("coded")
        with library_errors(f"cannot write the history in {str(self.directory)!r}", StoreError):
            views, load = self.gathered["views"], self.gathered["load"]
            load = self.engine.keep("load_by_day", load.mutate(day=(load.hour // 24).cast("int32")))
            days = views.select("day").union(load.select("day"), distinct=True).order_by("day")
            seen = [int(one["day"]) for one in self.engine.fetch(days)]
            oldest = sorted({*self.state.days, *seen})[-history_state.DAYS_MAX :][0]
            found.days = [day for day in seen if day >= oldest]
            found.too_old = len(seen) - len(found.days)
            is_alone = len(found.taken) == 1
            for day in found.days:
                old = self.state.days.get(day, NO_DAY)
                rows = views.filter(views.day == day)
                if not is_alone:
                    # Of numbers first: there are as many names, and they take longer.
                    rows = tables.merge([rows], ("day", "rid", "fid", "region", "file"))
                rows = tables.named_views(rows, self.named["cache"])
                watched = self._write("views", day, rows, ("day", "region", "file"), old.views)
                rows = load.filter(load.day == day)
                if not is_alone and not old.load:
                    rows = tables.merge([rows], ("hour", "kind", "place"))
                served = self._write("load", day, rows, ("hour", "kind", "place"), old.load)
                self.state.days[day] = DayRecord(watched, served, **self._count(watched, served))

    def _write(self, part: str, day: int, rows: Table, keys: Sequence[str], old: str) -> str:
        if old:
            rows = tables.merge([self.engine.parquet("old", [self.directory / old]), rows], keys)
        name = f"{part}/{iso_of(day)}.{self.state.number}.parquet"
        rows = rows.select(*keys, "bytes", "requests").order_by(list(keys))
        self.engine.ibis.to_parquet(rows, self.directory / name, compression="zstd")
        return name

    def _count(self, views: str, load: str) -> dict[str, int]:
        """Return the figures of a day."""
        seen = self.engine.parquet("seen", [self.directory / views])
        served = self.engine.parquet("served", [self.directory / load])
        figures = {
            **self.engine.fetch(seen.agg(rows=seen.count(), requests=seen.requests.sum(), bytes=seen.bytes.sum()))[0],
            **self.engine.fetch(served.agg(served_bytes=served.bytes.sum(), hours=served.hour.nunique()))[0],
        }
        return {key: int(value or 0) for key, value in figures.items()}


def _is_changed(path: Path, before: os.stat_result) -> bool:
    try:
        after = path.stat()
    except OSError:
        return True
    return (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def _numbered(name: str, number: str, names: Sequence[str]) -> dict[str, Any]:
    distinct = [one for one in dict.fromkeys(names) if one]
    return {name: distinct, number: range(len(distinct))}


def _shown(value: str | None) -> str:
    return "nothing" if value is None else repr(value)


def iso_of(day: int) -> str:
    """Return a day since 1970-01-01 as text."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()
