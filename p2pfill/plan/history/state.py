"""What a history is on disk: a directory with Parquet files for each day, and one file that says which of them count.

    history.json          days and their files, logs that were taken in, what was wrong
    views/DAY.NUMBER.parquet    region, file -> bytes, requests
    load/DAY.NUMBER.parquet     hour, kind (cache or cluster), place -> bytes, requests
    lock, scratch/        of the ingest that is under way

Files are never changed. An ingest writes new ones beside those that it replaces and makes them durable, and then
replaces `history.json`: this is the moment from which they count. After a crash before it all is as it was. What no
longer counts is removed by the next ingest, so that one who is reading finds the files that he has read of.

One file of DuckDB would have transactions of its own. It would keep readers out while an ingest runs, never shrink,
and be closed to Spark, and to whoever wants to look in.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.packing import JSON_ERRORS
from p2pfill.plan.history.faults import Faults
from p2pfill.store.disk import replace_file, sync_directory

FORMAT: Final = 1
DAYS_MAX: Final = 1100
"""Three years, so that each day has the same one of two years before. Beyond them the oldest is forgotten."""
LOGS_MAX: Final = 50_000
"""That are known again: five years of one an hour. Beyond them the first that was taken in is forgotten."""

STATE: Final = "history.json"
_UNSAFE: Final = frozenset("*?[]{}")
"""Of a path, mean patterns to DuckDB."""


class DayRecord(msgspec.Struct):
    """One day of a history, with what counts under names that no table has yet."""

    views: str
    load: str
    """Its files."""
    rows: int
    """Regions and files of which something was watched."""
    requests: int
    bytes: int
    served_bytes: int
    """By caches, which may have served what counts as no view, and the other way round."""
    hours: int
    """In which something was served."""


NO_DAY: Final = DayRecord("", "", 0, 0, 0, 0, 0)


class LogRecord(msgspec.Struct):
    """One log that was taken in."""

    name: str
    digest: str
    size: int
    rows: int
    used: int
    """Rows that count as views."""
    first_day: int
    last_day: int
    faults: dict[str, int] = {}


class State(msgspec.Struct):
    """What `history.json` says."""

    format: int = FORMAT
    number: int = 0
    """Of the last ingest; its files have it in their names."""
    days: dict[int, DayRecord] = {}
    logs: list[LogRecord] = []
    faults: Faults = msgspec.field(default_factory=Faults)
    forgotten_days: int = 0

    def known(self) -> dict[tuple[int, str], str]:
        """Return the names of logs that were taken in, by size and digest."""
        return {(log.size, log.digest): log.name for log in self.logs}

    def trim(self) -> None:
        """Forget what is beyond the limits."""
        for day in sorted(self.days)[:-DAYS_MAX]:
            del self.days[day]
            self.forgotten_days += 1
        del self.logs[:-LOGS_MAX]


def read_state(directory: Path, *, may_lack: bool = False) -> State:
    """Return the state of a history. Raises `ConfigError` where there is none, and `StoreError` where it is damaged."""
    path = directory / STATE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError as error:
        if may_lack:
            return State()
        raise ConfigError(
            f"there is no history in {str(directory)!r}: `p2pfill plan ingest` makes one out of logs"
        ) from error
    except NotADirectoryError as error:
        raise ConfigError(f"{str(directory)!r} is no directory: name the one that has the history") from error
    except OSError as error:
        raise StoreError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except JSON_ERRORS as error:
        raise StoreError(f"{str(path)!r} is damaged: {error}; restore it, or make a new history of the logs") from error
    if state.format != FORMAT:
        raise ConfigError(f"the history in {str(directory)!r} has format {state.format}; this p2pfill reads {FORMAT}")
    return state


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """Be the only one who writes to a history, which is made where there is none; yields a scratch directory.

    Raises `ConfigError` where somebody else writes to it, or nobody can.
    """
    if _UNSAFE & set(str(directory.resolve())):
        raise ConfigError(f"{str(directory)!r} cannot hold a history: its path has one of {' '.join(sorted(_UNSAFE))}")
    try:
        is_new = not directory.exists()
        for part in ("views", "load"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        if is_new:
            sync_directory(directory.resolve().parent)
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{str(directory)!r} cannot hold a history: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another ingest into {str(directory)!r} is under way: wait for it to end") from error
        scratch = directory / "scratch"
        try:
            _sweep(directory, scratch)
            scratch.mkdir()
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(fd)


def _sweep(directory: Path, scratch: Path) -> None:
    """Remove what does not count: of an ingest that did not end, and what was replaced."""
    shutil.rmtree(scratch, ignore_errors=True)
    days = read_state(directory, may_lack=True).days.values()
    counts = {day.views for day in days} | {day.load for day in days}
    for part in ("views", "load"):
        for file in (directory / part).iterdir():
            if f"{part}/{file.name}" not in counts and file.suffix == ".parquet":
                file.unlink()


def commit(directory: Path, state: State) -> None:
    """Make durable what new files have, and let the state count. Raises `OSError`."""
    ending = f".{state.number}.parquet"
    for day in state.days.values():
        for name in (day.views, day.load):
            if name.endswith(ending):
                fd = os.open(directory / name, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
    for part in ("views", "load"):
        sync_directory(directory / part)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        replace_file(fd, STATE, msgspec.json.encode(state))
    finally:
        os.close(fd)
