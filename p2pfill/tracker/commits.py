"""Which database this is, and whether all that was committed to it is still there.

A database gets a random name when it is made, and each answer to a node tells it: so a node can tell an order that was
withdrawn from one that a new database does not know.

SQLite reads its write-ahead log up to the first frame that is damaged, leaves the rest away and says nothing. So each
transaction counts in the database, and after its commit the count is written into a small file beside it, too. Where
that file knows of more commits than the database, some are lost: this is told, and the database gets another name, for
it does not know all orders any more. The file also has the highest number that an order has had, so that numbers go on
growing where the whole database is lost.

The file is written without waiting for the disk: a power loss may leave it behind the database, and then a loss of the
last second is not noticed. It is never ahead of what SQLite has made durable, so nothing is told that did not happen.
Rejected: checking the frames of the log ourselves, which tells damage, but no log that is cut or gone.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Final, NamedTuple

from p2pfill.store.disk import sync_directory

SUFFIX: Final = "-commits"
"""Of the file beside a database."""

SYNC_S: Final = 1.0
"""How often that file is made durable, at most."""

LOSS_SHOWN_S: Final = 7 * 86400.0
"""How long a loss is told: until somebody has been at work who reads it."""

LINE_BYTES: Final = 80
"""Of the whole file, in one write."""

_MAGIC: Final = "p2pfill-commits"

_log = logging.getLogger("p2pfill.tracker")


class Loss(NamedTuple):
    """Something that was committed and is not there any more."""

    at: float
    """When it was found, seconds since the epoch."""
    text: str
    """For people: what, and what to do."""


class Count(NamedTuple):
    """What the file beside a database says."""

    database: str
    commits: int
    number: int
    """The highest that an order has had."""


class CommitFile:
    """The file beside the database at `path`; none beside one in memory. Used by one thread."""

    def __init__(self, path: str) -> None:
        self.path = "" if path == ":memory:" else path + SUFFIX
        self._fd = -1
        self._synced_at = 0.0

    def read(self) -> Count | None:
        """Return what it says; None where it is missing or cannot be read."""
        try:
            with open(self.path, "rb") as file:
                magic, database, commits, number = file.read(LINE_BYTES).decode("ascii").split()
            return Count(database, int(commits), int(number)) if magic == _MAGIC else None
        except (OSError, ValueError):
            return None

    def write(self, count: Count) -> None:
        """Say something else. What the disk refuses is logged, and the file is behind then."""
        if not self.path:
            return
        line = f"{_MAGIC} {count.database} {count.commits} {count.number}".ljust(LINE_BYTES - 1) + "\n"
        try:
            is_new = self._fd < 0
            if is_new:
                self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            os.pwrite(self._fd, line.encode("ascii"), 0)
            if is_new:
                # Else a power loss may take the whole file, however often its bytes were synced.
                sync_directory(Path(self.path).absolute().parent)
            if time.monotonic() - self._synced_at >= SYNC_S:
                os.fdatasync(self._fd)
                self._synced_at = time.monotonic()
        except OSError as error:
            _log.warning("%s cannot be written: %s; a loss of commits would not be noticed", self.path, error.strerror)

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def identify(db: sqlite3.Connection, path: str, found: Count | None) -> Count:
    """Give a database its name, in the transaction that is open, and compare it with the file beside it.

    Returns what that file is to say. A loss is kept in the table `losses`, and logged.
    """
    name = _meta(db, "database")
    commits, number = _meta(db, "commits") or 0, _meta(db, "number") or 0
    where = "memory" if path == ":memory:" else path
    lost = ""
    if name is None and found is not None and found.commits > 0:
        lost = (
            f"the database that was at {where} is gone, with {found.commits} commits; this one is new. Caches go on "
            "with what they fill, and bring back its orders: see `p2pfill status`. What they do not know of, such as "
            "orders of no cache, pins, limits and the policy, give again; or stop the tracker and put a copy back"
        )
    elif name is not None and found is not None and found.database == _spell(name) and found.commits > commits:
        lost = (
            f"the last {found.commits - commits} commits to database {where} are lost: its write-ahead log was damaged "
            "or cut off. Caches go on with what they fill, and bring back its orders. Look at the disk; compare "
            "`p2pfill fills list` and `p2pfill title list` with what you have ordered, and order again what is missing"
        )
    elif name is not None and commits and found is None and path != ":memory:":
        _log.warning("%s is missing: whether commits to the database are lost cannot be told", path + SUFFIX)
    if lost:
        _log.error("%s", lost)
        db.execute("INSERT INTO losses VALUES (?, ?)", (time.time(), lost))
    if name is None and not commits:
        _put(db, "made_at", int(time.time()))
    if name is None or lost:
        name = secrets.randbits(62)
        _put(db, "database", name)
    if found is not None and lost:
        commits, number = max(commits, found.commits), max(number, found.number)
        _put(db, "number", number)
    _put(db, "commits", commits + 1)
    return Count(_spell(name), commits + 1, number)


def count_commit(db: sqlite3.Connection, before: Count) -> Count:
    """Count the transaction that is open; return what the file is to say once it is committed."""
    _put(db, "commits", before.commits + 1)
    return Count(before.database, before.commits + 1, _meta(db, "number") or 0)


def losses(db: sqlite3.Connection) -> list[Loss]:
    """Return what is known to be lost, the last first, while it is to be told."""
    rows = db.execute("SELECT at, text FROM losses WHERE at > ? ORDER BY at DESC", (time.time() - LOSS_SHOWN_S,))
    return [Loss(float(at), str(text)) for at, text in rows]


def made_at(db: sqlite3.Connection) -> float:
    """Return when a database was made, in seconds since the epoch; 0 where that is not known."""
    return float(_meta(db, "made_at") or 0)


def _meta(db: sqlite3.Connection, key: str) -> int | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else int(row[0])


def _put(db: sqlite3.Connection, key: str, value: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _spell(name: int) -> str:
    return f"{name:016x}"
