"""What was watched, from night to night: logs go in, the tables that forecasts are made of come out.

Two aggregates are kept, day, region, file -> bytes, requests, and hour, cache or cluster -> bytes. A log of a hundred
million rows is some million rows of these, and a night adds its own day and touches few others. They are kept by name:
numbers are given when they are read, by the tables of that day, so a file that was watched before the catalogue had it
counts as soon as the catalogue has it.

How it lies on disk is told in `state`, how logs are read in `logs`, what becomes of their rows in
`tables`, and what may be wrong with them in `faults`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np

from p2pfill.errors import ConfigError, StoreError
from p2pfill.plan.history.engine import DEFAULT, Engine, Resources, library_errors, open_engine
from p2pfill.plan.history.faults import Faults
from p2pfill.plan.history.ingest import Ingest, ingest, iso_of
from p2pfill.plan.history.state import DayRecord, LogRecord, State, read_state
from p2pfill.plan.history.tables import Table
from p2pfill.plan.tables import Caches, Catalogue, Load, Views

__all__ = ["Faults", "History", "Ingest", "LogRecord", "Resources", "Summary", "iso_of"]

Place = Literal["cache", "cluster"]

HOURS: Final = 24


class Summary(msgspec.Struct):
    """What a history has."""

    days: dict[str, DayRecord]
    gaps: list[str]
    """Days between the first and the last of which there is nothing: to forecasts they are not known."""
    logs: int
    rows: int
    """Of all logs."""
    used: int
    requests: int
    bytes: int
    served_bytes: int
    faults: Faults
    forgotten_days: int


class Stray(msgspec.Struct):
    """What a history has and the tables do not name, so that it is in no view or load that is returned."""

    what: str
    """`file`, `region`, `cache` or `cluster`."""
    name: str
    requests: int
    bytes: int


class History:
    """A history in a directory."""

    def __init__(self, directory: Path, resources: Resources = DEFAULT) -> None:
        self.directory = directory
        self.resources = resources

    def ingest(
        self, logs: Sequence[Path], catalogue: Catalogue, caches: Caches, *, now_s: float,
        on_log: Callable[[Path], None] = lambda log: None,
    ) -> Ingest:  # fmt: skip
        """Take in logs; see `ingest.ingest`."""
        return ingest(
            self.directory, logs, catalogue, caches, now_s=now_s, resources=self.resources, on_log=on_log
        )  # fmt: skip

    def summary(self) -> Summary:
        """Return what there is. Raises `ConfigError` where there is no history, `StoreError` where it is damaged."""
        state = read_state(self.directory)
        days = sorted(state.days)
        gaps = [iso_of(day) for day in range(days[0], days[-1]) if day not in state.days] if days else []
        records = [state.days[day] for day in days]
        return Summary(
            {iso_of(day): state.days[day] for day in days}, gaps, len(state.logs),
            sum(log.rows for log in state.logs), sum(log.used for log in state.logs),
            sum(day.requests for day in records), sum(day.bytes for day in records),
            sum(day.served_bytes for day in records), state.faults, state.forgotten_days,
        )  # fmt: skip

    def views(
        self, catalogue: Catalogue, regions: Sequence[str], *, first_day: int | None = None,
        last_day: int | None = None,
    ) -> Views:  # fmt: skip
        """Return what was watched in `regions` of the files of a catalogue, of some days or all.

        What they do not name is left out; `strays` tells of it. Raises `ConfigError` where there is no such day.
        """
        state = read_state(self.directory)
        days = _days(state, first_day, last_day)
        with self._reading([state.days[day].views for day in days]) as (engine, rows):
            files = engine.load("files", _numbers("file", "fid", catalogue.files))
            known = engine.load("regions", _numbers("region", "rid", regions))
            found = rows.join(files, "file").join(known, "region")
            found = found.select("day", "rid", "fid", "bytes", "requests").order_by(["day", "rid", "fid"])
            columns = _arrays(found)
        first, last = (days[0] if first_day is None else first_day), (days[-1] if last_day is None else last_day)
        return Views(
            tuple(regions), first, last,
            columns["day"].astype(np.int32), columns["rid"].astype(np.int32), columns["fid"].astype(np.int32),
            columns["bytes"].astype(np.int64), columns["requests"].astype(np.int64),
            tuple(day for day in range(first, last + 1) if day not in state.days),
        )  # fmt: skip

    def load(
        self, caches: Caches, by: Place | None = None, *, first_day: int | None = None, last_day: int | None = None
    ) -> Load:  # fmt: skip
        """Return what caches or clusters have served in each hour, in the order of the table of caches.

        What logs say of a cache counts for its cluster too. By default it is the load of caches, and that of clusters
        where logs have named a cluster, since of such a log no cache has anything. An hour in which nobody has served
        anything is not known, nor are the hours before a cache or cluster has first served: then it was not there, or
        its logs were not. Raises `ConfigError` where there is no such day, or caches are asked for and the logs named
        clusters only.
        """
        state = read_state(self.directory)
        days = _days(state, first_day, last_day)
        first = (days[0] if first_day is None else first_day) * HOURS
        end = ((days[-1] if last_day is None else last_day) + 1) * HOURS
        with self._reading([state.days[day].load for day in days]) as (engine, rows):
            if by is None:
                by = "cluster" if engine.fetch(rows.filter(rows.kind == "cluster").limit(1)) else "cache"
            known = engine.load("places", _places(caches, by))
            found = rows.join(known, ["kind", "place"])
            found = found.group_by(["hour", "pid"]).agg(bytes=found.bytes.sum().cast("float64"))
            columns = _arrays(found)
            is_other = not len(columns["hour"]) and bool(engine.fetch(rows.filter(rows.kind != by).limit(1)))
        if by == "cache" and is_other:
            raise ConfigError("the logs name clusters, and no caches: ask for the load of clusters")
        names = caches.names if by == "cache" else caches.clusters
        served = np.full((len(names), end - first), np.nan)
        hours = columns["hour"].astype(np.int64) - first
        seen = np.zeros(end - first, dtype=bool)
        seen[hours] = True
        start = np.full(len(names), end - first)
        np.minimum.at(start, columns["pid"], hours)
        served[(np.arange(end - first)[None, :] >= start[:, None]) & seen[None, :]] = 0.0
        served[columns["pid"], hours] = columns["bytes"]
        return Load(tuple(names), first, served)

    def strays(self, catalogue: Catalogue, caches: Caches, most: int = 20) -> list[Stray]:
        """Return what the tables do not name, most bytes first, at most so many of each kind."""
        state = read_state(self.directory)
        days = _days(state, None, None)
        found = []
        with self._reading([state.days[day].views for day in days]) as (engine, rows):
            for what, names in (("file", catalogue.files), ("region", caches.regions)):
                found += _strays(engine, rows, what, what, names, most)
        with self._reading([state.days[day].load for day in days]) as (engine, rows):
            for what, names in (("cache", caches.names), ("cluster", caches.clusters)):
                found += _strays(engine, rows.filter(rows.kind == what), "place", what, names, most)
        return found

    @contextmanager
    def _reading(self, names: Sequence[str]) -> Iterator[tuple[Engine, Table]]:
        files = [self.directory / name for name in names]
        with (
            tempfile.TemporaryDirectory(prefix="p2pfill-plan-") as scratch,
            open_engine(Path(scratch), self.resources) as engine,
            library_errors(f"cannot read the history in {str(self.directory)!r}", StoreError),
        ):
            yield engine, engine.parquet("history", files)


def _days(state: State, first_day: int | None, last_day: int | None) -> list[int]:
    days = [
        day for day in sorted(state.days)
        if (first_day is None or day >= first_day) and (last_day is None or day <= last_day)
    ]  # fmt: skip
    if not days:
        has = f"{iso_of(min(state.days))} to {iso_of(max(state.days))}" if state.days else "no day"
        raise ConfigError(f"the history has nothing of these days; it has {has}")
    return days


def _numbers(name: str, number: str, names: Sequence[str]) -> dict[str, Any]:
    """Return a table of names, each with its first place among them."""
    places = {one: place for place, one in reversed(list(enumerate(names)))}
    return {name: places.keys(), number: places.values()}


def _places(caches: Caches, by: Place) -> dict[str, Any]:
    """Return a table of who counts for whom: kind and place of a row -> the number of a cache or cluster."""
    numbers = list(range(len(caches.names))) if by == "cache" else caches.cluster.tolist()
    kinds, places = ["cache"] * len(numbers), list(caches.names)
    if by == "cluster":
        kinds += ["cluster"] * len(caches.clusters)
        places += caches.clusters
        numbers += list(range(len(caches.clusters)))
    return {"kind": kinds, "place": places, "pid": numbers}


def _arrays(table: Table) -> dict[str, Any]:
    arrow = table.to_pyarrow()
    return {name: arrow.column(name).to_numpy() for name in arrow.column_names}


def _strays(engine: Engine, rows: Table, column: str, what: str, names: Sequence[str], most: int) -> list[Stray]:
    known = engine.load("known", _numbers(column, "id", names))
    found = rows.anti_join(known, column)
    found = found.group_by(column).agg(bytes=found.bytes.sum(), requests=found.requests.sum())
    found = found.order_by(found.bytes.desc()).limit(most)
    return [Stray(what, one[column], int(one["requests"]), int(one["bytes"])) for one in engine.fetch(found)]
