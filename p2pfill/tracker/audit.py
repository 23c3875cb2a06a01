"""Who has changed what: a row for each change that was asked for and made, kept in the tracker's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import sqlite3

    from p2pfill.tracker.catalogue import Catalogue

ROWS_MAX: Final = 1_000_000
"""Some 200 MB. Beyond that the oldest go."""

PAGE_MAX: Final = 10_000
"""Rows of one answer."""

DETAIL_CHARS_MAX: Final = 1000


class AuditRecord(msgspec.Struct, frozen=True):
    """One change."""

    number: int
    at: float
    """Seconds since the epoch."""
    who: str
    """Whose certificate, as `user/anna`; `anonymous` where none is asked for."""
    address: str
    """From where."""
    what: str
    """The operation, as the API names it."""
    detail: str


class AuditPage(msgspec.Struct):
    """A part of the audit, the latest first."""

    records: list[AuditRecord]
    more: bool
    """Whether there are older ones."""


async def add(catalogue: Catalogue, at: float, who: str, address: str, what: str, detail: str) -> None:
    """Keep a change. Raises `StoreError`."""
    row = msgspec.json.encode(AuditRecord(0, at, who, address, what, detail[:DETAIL_CHARS_MAX]))

    def run(db: sqlite3.Connection) -> None:
        number = db.execute("INSERT INTO audit (record) VALUES (?)", (row,)).lastrowid
        db.execute("DELETE FROM audit WHERE number <= ?", ((number or 0) - ROWS_MAX,))

    await catalogue.call(run)


async def page(catalogue: Catalogue, before: int, count: int) -> AuditPage:
    """Return `count` changes, the latest of them the one before the number `before` (0: the very latest)."""
    count = max(1, min(count, PAGE_MAX))

    def run(db: sqlite3.Connection) -> AuditPage:
        sql = "SELECT number, record FROM audit WHERE number < ? ORDER BY number DESC LIMIT ?"
        rows = db.execute(sql, (before or 1 << 62, count + 1)).fetchall()
        records = [
            msgspec.structs.replace(msgspec.json.decode(record, type=AuditRecord), number=number)
            for number, record in rows[:count]
        ]
        return AuditPage(records, len(rows) > count)

    return await catalogue.call(run)
