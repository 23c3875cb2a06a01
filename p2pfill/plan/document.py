"""A plan as a file: which files are to lie in which caches, and why, so that people can read it, compare it, keep it.

One record of JSON a line. The first is about the plan as a whole; then comes one for each file that lies in some cache
or is to, ordered by title and file, with the caches that hold it already (`stays`), are to get it (`comes`), and may
give its room to others (`goes`); and one without caches for each file that something was expected of and that was left
out. So two plans are compared by the tools that compare any text, and a plan for a thousand caches and a hundred
thousand files is read line by line.

A file of the planner is named `TITLE/PATH`: the name that the title has at the tracker, and a path within it; `TITLE`
alone means all of a title.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.quantities import QUANTITY_MAX
from p2pfill.store.disk import replace_file

VERSION: Final = 1

LINE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of one file of the plan: a hundred thousand caches by name."""

FILES_MAX: Final = 5_000_000
"""Of a plan: as many as a catalogue may have."""

MOMENT_MAX: Final = 250_000_000_000.0
"""Seconds since the epoch: in the year 9892. Times beyond 9999 cannot be written as dates."""

PRIORITIES: Final = 10
"""Steps of urgency, 1 to 10: which of a night's files come first where not all can."""


class PlannedCluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the plan went by in one cluster."""

    viewers: float
    """The part of its region's viewers that it has: what is watched in the region is taken to be so much here."""
    margin: float
    """Streams a day above which a file found a place: where its space ended, that of the copy there that serves least,
    with the hysteresis and the price of writing; where it did not, that price alone."""
    demand_bytes: float = 0.0
    """Expected of the day."""
    served_bytes: float = 0.0
    """Expected of that to be served by its own caches."""


class PlanHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What there is to say of a plan as a whole."""

    plan: int
    """`VERSION`."""
    day: str
    """The day whose viewing it is for, as 2026-12-01."""
    made_at: float
    """In seconds since the epoch."""
    history: tuple[str, str]
    """The first and the last day of the history that it was made of."""
    caches: int
    files: int
    demand_bytes: float
    """Expected of the day, of all clusters."""
    served_bytes: float
    """Expected of that to be served inside the clusters."""
    bound_bytes: float
    """No placement serves more."""
    comes_bytes: int
    goes_bytes: int
    kept_share: float
    """Of what lies in the caches, by bytes."""
    capacities: dict[str, int] = {}
    """Of each cache, in bytes."""
    settings: dict[str, float] = {}
    """Of the placement."""
    left_out: dict[str, float] = {}
    """Reason -> bytes a day that no cache of a cluster serves."""
    clusters: dict[str, PlannedCluster] = {}
    finish_at: float = 0.0
    """Before when no fill of it is over, by its proof, in seconds since the epoch; 0: it was not proved."""
    deadline: float = 0.0
    """By when all that comes should be there; 0: nothing was said."""
    brought: dict[str, int] = {}
    """Cache -> bytes that plans that were applied before for the same day had it fetch, and this one does not want."""


class PlannedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where one file is to lie. Lists of caches are in order of names."""

    file: str
    title: str
    size: int
    streams: float
    """Expected of the day in all regions together: bytes streamed, divided by the size."""
    comes: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    goes: tuple[str, ...] = ()
    priority: int = 1
    """1 to `PRIORITIES`: by what a byte of it serves, so that what is worth most comes first."""
    expected: dict[str, tuple[float, float]] = {}
    """Region -> streams expected of the day, and their standard deviation; nothing is expected of the others."""

    @property
    def path(self) -> str:
        """Within its title; empty: all of it."""
        return self.file[len(self.title) + 1 :]

    @property
    def holders(self) -> tuple[str, ...]:
        """The caches in which it is to lie."""
        return tuple(sorted((*self.comes, *self.stays)))


Record = TypeVar("Record", PlanHead, PlannedFile)


class Plan(msgspec.Struct, frozen=True):
    """A plan in memory."""

    head: PlanHead
    files: tuple[PlannedFile, ...]


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan, whole or not at all. Raises `StoreError`."""
    lines = [msgspec.json.encode(plan.head), *map(msgspec.json.encode, plan.files)]
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            replace_file(directory, path.name, b"\n".join(lines) + b"\n")
        finally:
            os.close(directory)
    except OSError as error:
        raise StoreError(f"cannot write the plan {path}: {error.strerror}") from error


def read_plan(path: Path) -> Plan:
    """Return the plan in a file. Raises `ConfigError`, with the line of the fault, and `StoreError`."""
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"cannot read the plan {path}: it is no file")
        with path.open("rb") as stream:
            head = _decoded(path, 1, stream.readline(LINE_BYTES_MAX + 1), PlanHead)
            _check_head(path, head)
            files: list[PlannedFile] = []
            while line := stream.readline(LINE_BYTES_MAX + 1):
                if len(files) == FILES_MAX:
                    raise ConfigError(f"{path} has more than {FILES_MAX:,} files, more than any plan")
                number = len(files) + 2
                files.append(_decoded(path, number, line, PlannedFile))
                _check_file(path, number, files[-1])
    except OSError as error:
        raise StoreError(f"cannot read the plan {path}: {error.strerror}") from error
    names = [one.file for one in files]
    if names != sorted(set(names)):
        raise ConfigError(f"{path}: its files are not in order, or one stands there twice: make it anew")
    return Plan(head, tuple(files))


def _decoded(path: Path, number: int, line: bytes, kind: type[Record]) -> Record:
    if len(line) > LINE_BYTES_MAX:
        raise ConfigError(f"{path}, line {number}: it has more than {LINE_BYTES_MAX} bytes, more than any plan")
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}, line {number}: no plan: {error}") from error


def _check_head(path: Path, head: PlanHead) -> None:
    """Look whether what people may have edited can be meant. Raises `ConfigError`."""
    if head.plan != VERSION:
        raise ConfigError(f"{path} is a plan of version {head.plan}: this is for version {VERSION}")
    try:
        is_day = date.fromisoformat(head.day).isoformat() == head.day
    except ValueError:
        is_day = False
    if not is_day:
        raise ConfigError(f"{path}, line 1: {head.day[:40]!r} is no day such as 2026-12-01")
    if not all(0 <= one <= MOMENT_MAX for one in (head.made_at, head.finish_at, head.deadline)):
        raise ConfigError(f"{path}, line 1: made_at, finish_at or deadline is no time since 1970")
    if not all(0 <= one <= QUANTITY_MAX for one in head.capacities.values()):
        raise ConfigError(f"{path}, line 1: a cache has a capacity out of range")


def _check_file(path: Path, number: int, one: PlannedFile) -> None:
    """Look whether what is said of a file can be meant. Raises `ConfigError`."""
    place = f"{path}, line {number}"
    if one.file != one.title and not one.file.startswith(f"{one.title}/"):
        raise ConfigError(f"{place}: file {one.file!r} is none of title {one.title!r}")
    if one.file.endswith("/"):
        raise ConfigError(f"{place}: {one.file!r} is no file: write {one.title!r} for all of a title")
    if not 0 < one.size <= QUANTITY_MAX or not 1 <= one.priority <= PRIORITIES or one.streams < 0:
        raise ConfigError(f"{place}: size, priority or streams of {one.file!r} is out of range")
    names = (*one.comes, *one.stays, *one.goes)
    if len(names) != len(set(names)):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"{place}: {one.file!r} has cache {twice!r} twice, among what comes, stays and goes")


class Change(msgspec.Struct, frozen=True):
    """What another plan does differently with one file."""

    file: str
    added: tuple[str, ...]
    """Caches in which it is to lie by the other plan alone."""
    removed: tuple[str, ...]


def compare(one: Plan, other: Plan) -> Iterator[Change]:
    """Yield what differs from one plan to another, in order of files."""
    was = {file.file: file.holders for file in one.files}
    now = {file.file: file.holders for file in other.files}
    for name in sorted(was.keys() | now.keys()):
        before, after = set(was.get(name, ())), set(now.get(name, ()))
        if before != after:
            yield Change(name, tuple(sorted(after - before)), tuple(sorted(before - after)))


def by_cache(files: Iterable[PlannedFile]) -> dict[str, tuple[int, int, int]]:
    """Return for each cache how many bytes come, stay and go."""
    sums: dict[str, list[int]] = {}
    for one in files:
        for place, names in enumerate((one.comes, one.stays, one.goes)):
            for name in names:
                sums.setdefault(name, [0, 0, 0])[place] += one.size
    return {name: (comes, stays, goes) for name, (comes, stays, goes) in sorted(sums.items())}
