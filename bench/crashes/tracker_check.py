"""What must hold of a tracker's database after a crash, checked by the tracker's own storage on it.

The database opens; each title, order, limit and withdrawal that was answered with success is there, or its loss is told
(`tracker.commits`); numbers go on above those that were given; and without a loss that is told the database keeps its
name, since caches take another name for another database. A loss that is told though nothing is lost is a fault too.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import trio

from bench.crashes.disk import Op
from bench.crashes.states import Whole
from p2pfill.errors import P2PFillError
from p2pfill.tracker import catalogue
from p2pfill.tracker.catalogue import Snapshot
from p2pfill.tracker.commits import SUFFIX, CommitFile
from p2pfill.tracker.service import Service

FILE: Final = "tracker.db"

_WAL_HEADER_BYTES: Final = 32
_PAGE_BYTES: Final = 4096
_WAL_FRAME_BYTES: Final = 24 + _PAGE_BYTES
"""See https://www.sqlite.org/fileformat2.html#walformat; pages have SQLite's default size here."""


class Answered(NamedTuple):
    """What had been answered with success when the tracker crashed."""

    titles: frozenset[str] = frozenset()
    orders: frozenset[tuple[str, int]] = frozenset()
    """Fill and number. Those that are being withdrawn are in none of the two."""
    taken_back: frozenset[str] = frozenset()
    """Fills that must not come back."""
    withdrawn: frozenset[str] = frozenset()
    """Titles that no node may hold."""
    limits: frozenset[tuple[str, int]] = frozenset()
    """Selector and rate; none while one of the selector is being set."""
    number: int = 0
    """The highest of all orders."""


class Recovery(NamedTuple):
    """What became of one state."""

    faults: list[str]
    open_s: float
    told: bool = False
    """A loss is told."""


def answers(ops: Iterable[Op]) -> list[Answered]:
    """Return for each prefix what was answered by then; the first is that of nothing."""
    at = Answered()
    found = [at]
    for op in ops:
        if op.kind == "mark":
            at = _after(at, op.told)
        found.append(at)
    return found


def _after(at: Answered, told: dict[str, object]) -> Answered:
    match told:
        case {"event": "title", "title": str(title)}:
            return at._replace(titles=at.titles | {title})
        case {"event": "ordering", "title": str(title)}:
            return at._replace(withdrawn=at.withdrawn - {title})  # an order lets it be held again
        case {"event": "order", "fill": str(fill), "number": int(number)}:
            orders = frozenset(one for one in at.orders if one[0] != fill) | {(fill, number)}
            return at._replace(orders=orders, taken_back=at.taken_back - {fill}, number=max(at.number, number))
        case {"event": "taking back", "fills": list(fills)}:
            return at._replace(orders=frozenset(one for one in at.orders if one[0] not in fills))
        case {"event": "taken back", "fills": list(fills), "title": str(title)}:
            withdrawn = at.withdrawn | {title} if title else at.withdrawn
            return at._replace(taken_back=at.taken_back.union(fills), withdrawn=withdrawn)
        case {"event": "limiting", "selector": str(selector)}:
            return at._replace(limits=frozenset(one for one in at.limits if one[0] != selector))
        case {"event": "limit", "selector": str(selector), "rate": int(rate)}:
            return at._replace(limits=at.limits | {(selector, rate)})
    return at


def what_counts(name: str, data: bytes, whole: Whole) -> bytes:
    """Return what SQLite reads of a database and its write-ahead log (`states.Same`).

    Of the log that is whole transactions before what is not as written: each frame has a checksum over all before it,
    and the salt of the log's header. So from the first one that is not as it was written nothing is read, nor are
    frames before it whose transaction does not end before it. Unless the log's header is not as written: then all
    counts.

    Of the database that is what the log has no page of. While it is written, the log is synced and not written; else
    all of it counts here.
    """
    log = whole.files.get(f"{FILE}-wal", b"")
    if name == f"{FILE}-wal" and data[:_WAL_HEADER_BYTES] == log[:_WAL_HEADER_BYTES]:
        return data[: _end_of_commits(data, _equal(data, log))]
    if name == FILE and f"{FILE}-wal" not in whole.pending:
        found = bytearray(data)
        for at in range(_WAL_HEADER_BYTES, _end_of_commits(log, len(log)), _WAL_FRAME_BYTES):
            if log[at + 8 : at + 16] != log[16:24]:
                break  # of before the log was begun anew
            start = (int.from_bytes(log[at : at + 4], "big") - 1) * _PAGE_BYTES
            found[start : start + _PAGE_BYTES] = bytes(len(found[start : start + _PAGE_BYTES]))
        return bytes(found).rstrip(b"\0")
    return data


def _equal(one: bytes, other: bytes) -> int:
    """Return how many bytes at their beginning are equal."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def _end_of_commits(log: bytes, good: int) -> int:
    """Return where the last transaction ends of a log whose first `good` bytes are as they were written."""
    end = _WAL_HEADER_BYTES + max(0, good - _WAL_HEADER_BYTES) // _WAL_FRAME_BYTES * _WAL_FRAME_BYTES
    # Bytes 4 to 7 of a frame are not 0 where it is the last one of a transaction.
    while end > _WAL_HEADER_BYTES and not any(log[end - _WAL_FRAME_BYTES + 4 : end - _WAL_FRAME_BYTES + 8]):
        end -= _WAL_FRAME_BYTES
    return end


def spoil(root: Path, chance: random.Random) -> None:
    """Cut the write-ahead log of a database, change a byte of it, or take it away."""
    log = root / f"{FILE}-wal"
    if not log.exists() or not (data := bytearray(log.read_bytes())):
        return
    how = chance.choice(["cut", "flipped", "gone"])
    if how == "gone":
        log.unlink()
        return
    at = chance.randrange(len(data))
    if how == "cut":
        del data[at:]
    else:
        data[at] ^= 1 << chance.randrange(8)
    log.write_bytes(data)


def check(root: Path, answered: Answered, name: str, *, is_spoiled: bool = False) -> Recovery:
    """Open the database on the disk `root` as the tracker's thread does; `name` is that which it was given when made.

    `is_spoiled`: by more than a crash, so that more may be lost than is known here.
    """
    path = str(root / FILE)
    file = CommitFile(path)
    has_count = (root / f"{FILE}{SUFFIX}").exists()
    began = time.perf_counter()
    try:
        connection, _ = catalogue._connect(path, file)
        try:
            snapshot = catalogue._load(connection)
            open_s = time.perf_counter() - began
        finally:
            connection.close()
    except (sqlite3.Error, P2PFillError) as error:
        if is_spoiled and "malformed" in str(error):
            return Recovery([], 0.0, told=True)  # rot in the log while it was being moved into the database
        return Recovery([f"the database does not open: {error}"], 0.0)
    finally:
        file.close()
    faults = [] if has_count or not answered.titles else [f"{FILE}{SUFFIX} is gone, so no loss can be told"]
    return Recovery(faults + _judge(snapshot, answered, name, is_spoiled), open_s, bool(snapshot.losses))


async def check_service(root: Path, answered: Answered, name: str) -> Recovery:
    """Start the tracker's service on the disk `root`, with the thread that owns the database."""
    began = time.perf_counter()
    try:
        opened = catalogue.Catalogue.open(f"sqlite:///{root}/{FILE}")
    except P2PFillError as error:
        return Recovery([f"the tracker does not start: {error}"], 0.0)
    try:
        snapshot = await opened.load()
        service = Service(opened, snapshot, heartbeat_s=1.0)
        open_s = time.perf_counter() - began
        faults = _judge(snapshot, answered, name, is_spoiled=False)
        if service.losses != list(snapshot.losses):
            faults.append("the service tells of other losses than the database")
        return Recovery(faults, open_s, bool(service.losses))
    finally:
        await trio.to_thread.run_sync(opened.close)


def _judge(snapshot: Snapshot, answered: Answered, name: str, is_spoiled: bool) -> list[str]:
    """Return what is wrong with what the database says."""
    lost = list(_lost(snapshot, answered))
    faults: list[str] = []
    if snapshot.losses:
        faults += [] if lost or is_spoiled else ["a loss is told, and nothing is lost"]
    else:
        faults += lost
        if answered.titles and snapshot.database != name:
            faults.append("the database has another name, and no loss is told")
    if snapshot.number < answered.number:
        faults.append(f"the next order gets a number that was given: {snapshot.number} < {answered.number}")
    return faults


def _lost(snapshot: Snapshot, answered: Answered) -> Iterable[str]:
    """Yield what was answered with success and is not there any more, or is again."""
    titles = {record.title for record in snapshot.titles}
    fills = {fill.fill_id: fill.number for fill in snapshot.fills}
    limits = {record.selector: record.rates.inbound.total for record in snapshot.limits}
    yield from ("a title is lost" for _ in answered.titles - titles)
    yield from ("an order is lost" for fill, number in answered.orders if fills.get(fill, 0) < number)
    yield from ("an order was withdrawn, and stands" for _ in answered.taken_back & fills.keys())
    yield from ("a withdrawal is lost" for _ in answered.withdrawn.difference(snapshot.withdrawn))
    yield from (f"the limit of {one!r} is lost" for one, rate in answered.limits if limits.get(one) != rate)
