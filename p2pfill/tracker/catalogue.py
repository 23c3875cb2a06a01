"""What the tracker must remember: titles, fills, assignments and the last report of each node, in SQLite.

One thread owns the connection. Calls are queued to it; it takes all that wait, runs them in one transaction and
answers after the commit (group commit): a call that returned is durable, and a thousand calls cost one fsync. Each
runs in a savepoint of its own, so that one that fails leaves the others whole. A pool of connections was turned down:
SQLite has one writer anyway, and 7,000 single statements a second fall far short of what batches reach.

The file is locked as long as it is open, so two trackers never share it.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import trio

from p2pfill.errors import ConfigError, InternalError, StoreError
from p2pfill.model.limits import MIB
from p2pfill.model.night import RecordedTitle
from p2pfill.model.reports import NodeReport, TitleReport
from p2pfill.model.signed_order import Statement, WithdrawalStatement
from p2pfill.threads import name_thread
from p2pfill.tracker.commits import SUFFIX, CommitFile, Count, Loss, count_commit, identify, losses, made_at
from p2pfill.tracker.night_rows import NightCache, NightHead, NightPage, NightRow
from p2pfill.tracker.nights import Nights, Unsaved, still_open
from p2pfill.tracker.policies import VERSIONS_MAX, StoredPolicy
from p2pfill.tracker.records import FillRecord, LimitRecord, TitleRecord
from p2pfill.trust.order_signing import SignedOrder, SignedWithdrawal

T = TypeVar("T")

SCHEMA_VERSION: Final = 7
"""2: fills have numbers. 3: titles may have pins. 4: versions of the fleet's policy. 5: nights are kept. 6: losses are,
and since when a node is known. 7: what users have signed of orders and withdrawals is.
A database of an older layout is taken over when it is opened."""
BATCH_MAX: Final = 512
"""Calls of one transaction: enough to make the fsync cheap, few enough that the first one is not kept waiting."""

DISK_RESERVE_BYTES: Final = 64 * MIB
"""Of its disk, which manifests leave free: who publishes cannot keep orders and withdrawals from being durable."""

DISK_RESERVE_PART: Final = 20
"""Of a small disk it is this part, if that is less."""

WITHDRAWALS_MAX: Final = 100_000
"""Signed ones that are kept: as many as there may be orders. Then the oldest is forgotten."""

LOCK_WAIT_S: Final = 1.0
"""How long to wait for a tracker that is just stopping to let go of the file."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS titles (id TEXT PRIMARY KEY, record BLOB NOT NULL, manifest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS fills (id TEXT PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS assignments (fill TEXT, node TEXT, PRIMARY KEY (fill, node)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (id TEXT PRIMARY KEY, report BLOB NOT NULL, seen_at REAL NOT NULL,
    first_at REAL NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS holdings (node TEXT, title TEXT, report BLOB NOT NULL, PRIMARY KEY (node, title))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limits (selector TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS withdrawn (title TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS budgets (name TEXT PRIMARY KEY, night TEXT NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policies (number INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS nights (night TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS night_caches (night TEXT, node TEXT, record BLOB NOT NULL, PRIMARY KEY (night, node))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS night_rows (night TEXT, node TEXT, title TEXT, record BLOB NOT NULL,
    PRIMARY KEY (night, node, title)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS losses (at REAL NOT NULL, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS night_titles (night TEXT, title TEXT, record BLOB NOT NULL, PRIMARY KEY (night, title))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signatures (title TEXT PRIMARY KEY, encoded BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signed_orders (fill TEXT PRIMARY KEY, title TEXT NOT NULL, document BLOB NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signed_withdrawals (title TEXT, name TEXT, terms BLOB, number INTEGER NOT NULL,
    who TEXT NOT NULL, document BLOB NOT NULL, PRIMARY KEY (title, name, terms)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS order_numbers (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY AUTOINCREMENT, record BLOB NOT NULL);
"""


class StoredReport(NamedTuple):
    """The last heartbeat of a node."""

    report: NodeReport
    seen_at: float
    first_at: float = 0.0
    """Of the first one; 0 where it is not known."""


class Snapshot(NamedTuple):
    """All that was remembered, without the manifests."""

    epoch: int
    """How often this database has been opened; never seen before."""
    number: int
    """The highest that a fill has had."""
    titles: list[TitleRecord]
    fills: list[FillRecord]
    assignments: list[tuple[str, str]]
    """(fill id, node id)"""
    nodes: list[StoredReport]
    withdrawn: list[str]
    """Titles that no node may hold."""
    holdings: dict[str, list[TitleReport]]
    """Node -> what it has said of titles."""
    nights: Nights
    """With those that are still added to."""
    limits: Sequence[LimitRecord] = ()
    policies: Sequence[StoredPolicy] = ()
    """The versions of the fleet's policy that are kept."""
    budgets: Mapping[str, tuple[str, int]] = MappingProxyType({})
    """Budget -> night, and what was reserved of it then."""
    database: str = ""
    """The name of this database (`commits`)."""
    losses: Sequence[Loss] = ()
    made_at: float = 0.0
    """When this database was made; 0 where that is not known."""
    order_numbers: Mapping[str, int] = MappingProxyType({})
    """Name -> the highest number of what was signed of it."""
    signed_withdrawals: Sequence[tuple[bytes, str]] = ()
    """Documents, and who has signed each, the oldest first."""


class _Call(NamedTuple):
    run: Callable[[sqlite3.Connection], Any]
    done: Callable[[Any, Exception | None], None]


def path_of_url(db_url: str) -> str:
    """Return the file that `sqlite:///FILE` names (`:memory:` for none). Raises `ConfigError`."""
    scheme, found, path = db_url.partition(":///")
    if not found or scheme != "sqlite" or not path or "\0" in path:
        raise ConfigError(
            f"database URL {db_url[:200]!r} cannot be used: "
            "write sqlite:///FILE, where an absolute FILE makes four slashes"
        )
    return path


def _mended(path: str) -> str:
    """Return what helps where a database is damaged. The file that counts commits stays, so that the loss is told."""
    return (
        f"check the disk below it; put a copy of it and of {path}{SUFFIX} back, or move {path} away, and {path}-wal: "
        "the tracker then makes a new one, and caches bring back what they hold and fill"
    )


def _connect(path: str, file: CommitFile) -> tuple[sqlite3.Connection, Count]:
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if not 0 <= found <= SCHEMA_VERSION:
            raise ConfigError(
                f"database {path} has layout {found}, this tracker writes {SCHEMA_VERSION}: name another file"
            )
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        if "first_at" not in [row[1] for row in connection.execute("PRAGMA table_info(nodes)")]:
            connection.execute("ALTER TABLE nodes ADD COLUMN first_at REAL NOT NULL DEFAULT 0")
        if found == 1:
            _number_fills(connection)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("INSERT INTO meta VALUES ('epoch', 1) ON CONFLICT DO UPDATE SET value = value + 1")
        count = identify(connection, path, file.read())
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    file.write(count)
    return connection, count


def _number_fills(connection: sqlite3.Connection) -> None:
    """Number the fills of layout 1 in the order in which they were made."""
    rows = connection.execute("SELECT record FROM fills").fetchall()
    fills = [msgspec.json.decode(row[0], type=FillRecord) for row in rows]
    for number, fill in enumerate(sorted(fills, key=lambda fill: (fill.created_at, fill.fill_id)), 1):
        _put_fill(connection, msgspec.structs.replace(fill, number=number))


def _put_fill(db: sqlite3.Connection, record: FillRecord) -> None:
    db.execute("INSERT OR REPLACE INTO fills VALUES (?, ?)", (record.fill_id, msgspec.json.encode(record)))
    if record.is_brought_back:
        return  # this database has not given that number: of lower ones it may not know
    sql = "INSERT INTO meta VALUES ('number', ?1) ON CONFLICT DO UPDATE SET value = max(value, ?1)"
    db.execute(sql, (record.number,))


def _note_number(db: sqlite3.Connection, said: Statement) -> None:
    sql = "INSERT INTO order_numbers VALUES (?, ?2) ON CONFLICT DO UPDATE SET number = max(number, ?2)"
    db.execute(sql, (said.name, said.number))


def _put_withdrawal(db: sqlite3.Connection, signed: SignedWithdrawal) -> None:
    said = signed.said
    row = (said.title_id.hex(), said.name, said.terms, said.number, signed.identity.who, signed.document)
    db.execute("INSERT OR REPLACE INTO signed_withdrawals VALUES (?, ?, ?, ?, ?, ?)", row)
    if db.execute("SELECT 1 FROM titles WHERE id = ?", row[:1]).fetchone() is not None:
        _note_number(db, signed.said)


def _place(path: str) -> tuple[int, int] | None:
    """Return which file a path names now; None where it names none, or none is meant."""
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


class Catalogue:
    """The durable side of a tracker. `open` and `close` block; the coroutines need a Trio run."""

    def __init__(self, connection: sqlite3.Connection, path: str, file: CommitFile, count: Count) -> None:
        self.path = path
        self._place = _place(path)
        self._file = file
        self._count = count
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._connection = connection
        self._closed = False
        self._thread = threading.Thread(target=self._own, name="p2pfill-catalogue", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, db_url: str) -> Catalogue:
        """Open or create the database. Raises `ConfigError` that says in one line what is wrong with it."""
        path = path_of_url(db_url)
        file = CommitFile(path)
        try:
            connection, count = _connect(path, file)
            return cls(connection, path, file, count)
        except sqlite3.Error as error:
            where = path if path == ":memory:" else str(Path(path).absolute())
            advice = "check that its directory exists and that both may be written to"
            if "locked" in str(error):
                advice = "another tracker seems to use it; stop that one or name another file"
            elif "not a database" in str(error):
                advice = f"name another file, or, if it was the tracker's, {_mended(path)}"
            elif "malformed" in str(error):
                advice = _mended(path)
            elif "readonly" in str(error):
                advice = "make it writable or name another file"
            raise ConfigError(f"cannot use database {where}: {error}; {advice}") from error

    def close(self) -> None:
        """Finish what is queued, then close the file. May be called again."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    # ---- the owner thread

    def _own(self) -> None:
        name_thread()
        running = True
        while running:
            batch: list[_Call] = []
            call = self._queue.get()
            while call is not None:
                batch.append(call)
                if len(batch) == BATCH_MAX or self._queue.empty():
                    break
                call = self._queue.get()
            running = call is not None
            if batch:
                self._run_batch(batch)
        self._connection.close()
        self._file.close()

    def _run_batch(self, batch: list[_Call]) -> None:
        results: list[tuple[Any, Exception | None]] = []
        try:
            self._connection.execute("BEGIN")
            before, count = self._connection.total_changes, self._count
            results.extend(self._run_call(call) for call in batch)
            if self._connection.total_changes != before:  # else it costs no sync
                # SQLite would go on writing to where the file is now, and the next start would know nothing of it.
                if _place(self.path) != self._place:
                    raise StoreError(
                        f"database {self.path} was moved away or replaced, and nothing that this tracker is told is "
                        "kept; put it back, or stop the tracker and start it with the one that is there"
                    )
                count = count_commit(self._connection, count)
            self._connection.execute("COMMIT")
            if count != self._count:
                self._count = count
                self._file.write(count)
        except (sqlite3.Error, StoreError) as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            results = [(None, error)] * len(batch)
        for call, (value, failure) in zip(batch, results, strict=True):
            call.done(value, failure)

    def _run_call(self, call: _Call) -> tuple[Any, Exception | None]:
        self._connection.execute("SAVEPOINT one")
        try:
            value = call.run(self._connection)
        except Exception as error:
            if not self._connection.in_transaction:  # a full disk may have rolled back everything
                raise sqlite3.OperationalError(str(error)) from error
            self._connection.execute("ROLLBACK TO one")
            return None, error
        self._connection.execute("RELEASE one")
        return value, None

    async def call(self, run: Callable[[sqlite3.Connection], T]) -> T:
        """Run `run` in the owner thread; return its result once it is durable. Raises `StoreError`.

        Cancelling stops the waiting, not the write.
        """
        if self._closed:
            raise InternalError("the catalogue is closed")
        ready = trio.Event()
        token = trio.lowlevel.current_trio_token()
        outcome: list[tuple[Any, Exception | None]] = []

        def done(value: Any, failure: Exception | None) -> None:
            outcome.append((value, failure))
            try:
                token.run_sync_soon(ready.set)
            except trio.RunFinishedError:
                return  # nobody waits any more

        self._queue.put(_Call(run, done))
        await ready.wait()
        value, failure = outcome[0]
        if isinstance(failure, sqlite3.Error):
            advice = _mended(self.path) if "malformed" in str(failure) else "free space or check the disk below it"
            raise StoreError(f"database {self.path}: {failure}; {advice}") from failure
        if failure is not None:
            raise failure
        result: T = value
        return result

    def require_room(self, size: int) -> None:
        """Raise `StoreError` where so many bytes more would leave too little of the disk for orders."""
        if self.path == ":memory:":
            return
        try:
            disk = os.statvfs(self.path)
        except OSError:
            return  # whatever is wrong, the write says
        free = disk.f_bavail * disk.f_frsize
        reserve = min(DISK_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // DISK_RESERVE_PART)
        # Twice: in the log of writes, and then in the database.
        if free < 2 * size + reserve:
            raise StoreError(
                f"database {self.path}: {free} bytes are free on its disk, of which {reserve} stay for "
                f"orders and reports; a manifest of {size} bytes does not fit: free space, or remove old titles"
            )

    # ---- what is asked of it

    async def load(self) -> Snapshot:
        """Return everything but the manifests."""
        return await self.call(_load)

    async def add_title(self, record: TitleRecord, manifest: bytes, signatures: bytes = b"") -> None:
        """Remember a title, and who has signed it; a second time changes nothing."""
        row = (record.title, msgspec.json.encode(record), manifest)

        def run(db: sqlite3.Connection) -> None:
            if db.execute("INSERT OR IGNORE INTO titles VALUES (?, ?, ?)", row).rowcount and signatures:
                db.execute("INSERT OR REPLACE INTO signatures VALUES (?, ?)", (record.title, signatures))

        await self.call(run)

    async def signatures(self, title: str) -> bytes:
        """Return who has signed a title, encoded, b'' where nobody has."""
        sql = "SELECT encoded FROM signatures WHERE title = ?"
        row = await self.call(lambda db: db.execute(sql, (title,)).fetchone())
        return b"" if row is None else bytes(row[0])

    async def change_signatures(self, title: str, change: Callable[[bytes], bytes]) -> None:
        """Let `change` make the signatures of a title from those before, in one step; what it raises is raised."""

        def run(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT encoded FROM signatures WHERE title = ?", (title,)).fetchone()
            db.execute("INSERT OR REPLACE INTO signatures VALUES (?, ?)", (title, change(row[0] if row else b"")))

        await self.call(run)

    async def set_title(self, record: TitleRecord) -> None:
        """Remember what the record of a title is now, if there is one."""
        row = (msgspec.json.encode(record), record.title)
        await self.call(lambda db: db.execute("UPDATE titles SET record = ? WHERE id = ?", row))

    async def manifest(self, title: str) -> bytes | None:
        """Return the encoded manifest of a title, None where there is none."""
        sql = "SELECT manifest FROM titles WHERE id = ?"
        row = await self.call(lambda db: db.execute(sql, (title,)).fetchone())
        return None if row is None else bytes(row[0])

    async def add_fill(self, record: FillRecord, nodes: Iterable[str], signed: SignedOrder | None = None) -> None:
        """Remember a fill, or what it is now, and nodes that it is assigned to. Its title may be held again."""
        pairs = [(record.fill_id, node) for node in nodes]
        title = record.request.title

        def run(db: sqlite3.Connection) -> None:
            _put_fill(db, record)
            db.execute("DELETE FROM signed_orders WHERE fill = ?", (record.fill_id,))
            if signed is not None:
                db.execute("INSERT INTO signed_orders VALUES (?, ?, ?)", (record.fill_id, title, signed.document))
                _note_number(db, signed.said)
            db.execute("DELETE FROM withdrawn WHERE title = ?", (record.request.title,))
            db.executemany("INSERT OR IGNORE INTO assignments VALUES (?, ?)", pairs)

        await self.call(run)

    async def delete_fills(
        self, fill_ids: Iterable[str], withdrawn: str = "", signed: SignedWithdrawal | None = None,
        forgotten: Iterable[WithdrawalStatement] = (),
    ) -> None:
        """Forget fills and their assignments; from now on no node may hold the title `withdrawn`, if one is given.

        `signed` is a signed withdrawal, which is kept, and `forgotten` are those that make room for it.
        """
        rows = [(fill_id,) for fill_id in fill_ids]
        old = [(said.title_id.hex(), said.name, said.terms) for said in forgotten]

        def run(db: sqlite3.Connection) -> None:
            if signed is not None:
                _put_withdrawal(db, signed)
            db.executemany("DELETE FROM signed_withdrawals WHERE title = ? AND name = ? AND terms = ?", old)
            db.executemany("DELETE FROM fills WHERE id = ?", rows)
            db.executemany("DELETE FROM signed_orders WHERE fill = ?", rows)
            db.executemany("DELETE FROM assignments WHERE fill = ?", rows)
            if withdrawn:
                db.execute("INSERT OR IGNORE INTO withdrawn VALUES (?)", (withdrawn,))

        await self.call(run)

    async def signed(self, titles: Mapping[str, tuple[str, Collection[str]]], bytes_max: int) -> dict[str, list[bytes]]:
        """Return what is signed of titles, each with its name and the fills of which the orders are wanted.

        Withdrawals by that name are returned with them. Titles for which `bytes_max` have no room are left out, but
        for the first: nothing of them is read, for callers ask for much at once.
        """

        def run(db: sqlite3.Connection) -> dict[str, list[bytes]]:
            found: dict[str, list[bytes]] = {}
            size = 0
            for title, (name, fills) in titles.items():
                lengths = "SELECT TOTAL(LENGTH(document)) FROM"
                sql = f"{lengths} signed_withdrawals WHERE title = ? AND name = ?"
                size += db.execute(sql, (title, name)).fetchone()[0]
                for fill_id in fills:
                    size += db.execute(f"{lengths} signed_orders WHERE fill = ?", (fill_id,)).fetchone()[0]
                if size > bytes_max and found:
                    break
                sql = "SELECT document FROM signed_withdrawals WHERE title = ? AND name = ?"
                documents = [bytes(row[0]) for row in db.execute(sql, (title, name))]
                for fill_id in fills:
                    sql = "SELECT document FROM signed_orders WHERE fill = ?"
                    documents += [bytes(row[0]) for row in db.execute(sql, (fill_id,))]
                found[title] = documents
            return found

        return await self.call(run)

    async def set_limit(self, selector: str, record: LimitRecord | None) -> None:
        """Remember the limit of a selector, or forget it."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM limits WHERE selector = ?", (selector,))
            if record is not None:
                db.execute("INSERT INTO limits VALUES (?, ?)", (selector, msgspec.json.encode(record)))

        await self.call(run)

    async def add_policy(self, stored: StoredPolicy) -> None:
        """Remember a version of the fleet's policy, and forget those that are too old."""
        number, record = stored.version.number, msgspec.json.encode(stored)

        def run(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO policies VALUES (?, ?)", (number, record))
            db.execute("DELETE FROM policies WHERE number <= ?", (number - VERSIONS_MAX,))

        await self.call(run)

    async def reserve(self, budgets: Mapping[str, tuple[str, int]]) -> None:
        """Remember how much is reserved of budgets: night and bytes."""
        rows = [(name, night, count) for name, (night, count) in budgets.items()]
        await self.call(lambda db: db.executemany("INSERT OR REPLACE INTO budgets VALUES (?, ?, ?)", rows))

    async def delete_title(self, title: str) -> None:
        """Forget a title, its manifest and its signatures."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM titles WHERE id = ?", (title,))
            db.execute("DELETE FROM signatures WHERE title = ?", (title,))

        await self.call(run)

    async def delete_nodes(self, node_ids: Iterable[str]) -> None:
        """Forget nodes and what they are assigned to."""
        rows = [(node_id,) for node_id in node_ids]

        def run(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM nodes WHERE id = ?", rows)
            db.executemany("DELETE FROM holdings WHERE node = ?", rows)
            db.executemany("DELETE FROM assignments WHERE node = ?", rows)

        await self.call(run)

    async def save(
        self,
        reports: Iterable[StoredReport],
        holdings: Sequence[tuple[str, str, TitleReport | None]],
        assignments: Iterable[tuple[str, str]],
    ) -> None:
        """Remember the last reports, without titles, and new assignments of many nodes at once.

        `holdings` are node, title, and what it has said of that, None where it holds nothing of it any more.
        """
        said = [(node, title, msgspec.json.encode(one)) for node, title, one in holdings if one is not None]
        gone = [(node, title) for node, title, one in holdings if one is None]
        rows = [(one.report.info.id, msgspec.json.encode(one.report), one.seen_at, one.first_at) for one in reports]
        pairs = list(assignments)

        def run(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?)", rows)
            db.executemany("INSERT OR REPLACE INTO holdings VALUES (?, ?, ?)", said)
            db.executemany("DELETE FROM holdings WHERE node = ? AND title = ?", gone)
            # A fill that was deleted meanwhile must not come back to life by its assignments.
            sql = "INSERT OR IGNORE INTO assignments SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM fills WHERE id = ?1)"
            db.executemany(sql, pairs)

        await self.call(run)

    async def save_nights(self, unsaved: Unsaved) -> None:
        """Remember what is new of nights, and forget those that were dropped."""
        encode = msgspec.json.encode
        heads = [(head.night, encode(head)) for head in unsaved.heads]
        caches = [(night, cache.node, encode(cache)) for night, cache in unsaved.caches]
        rows = [(night, row.node, row.title, encode(row)) for night, row in unsaved.rows]
        titles = [(night, one.title, encode(one)) for night, one in unsaved.titles]
        dropped = [(night,) for night in unsaved.dropped]

        def run(db: sqlite3.Connection) -> None:
            for table in ("nights", "night_caches", "night_rows", "night_titles"):
                db.executemany(f"DELETE FROM {table} WHERE night = ?", dropped)  # noqa: S608 (names of ours)
            db.executemany("INSERT OR REPLACE INTO nights VALUES (?, ?)", heads)
            db.executemany("INSERT OR REPLACE INTO night_caches VALUES (?, ?, ?)", caches)
            db.executemany("INSERT OR REPLACE INTO night_rows VALUES (?, ?, ?, ?)", rows)
            db.executemany("INSERT OR REPLACE INTO night_titles VALUES (?, ?, ?)", titles)

        await self.call(run)

    async def night(self, night: str) -> NightPage | None:
        """Return all that is remembered of a night, None where there is none."""

        def run(db: sqlite3.Connection) -> NightPage | None:
            row = db.execute("SELECT record FROM nights WHERE night = ?", (night,)).fetchone()
            return None if row is None else _load_page(db, msgspec.json.decode(row[0], type=NightHead))

        return await self.call(run)


def _load_page(db: sqlite3.Connection, head: NightHead) -> NightPage:
    caches = db.execute("SELECT record FROM night_caches WHERE night = ? ORDER BY node", (head.night,))
    rows = db.execute("SELECT record FROM night_rows WHERE night = ? ORDER BY title, node", (head.night,))
    titles = db.execute("SELECT record FROM night_titles WHERE night = ? ORDER BY title", (head.night,))
    return NightPage(
        head,
        [msgspec.json.decode(record, type=NightCache) for (record,) in caches],
        [msgspec.json.decode(record, type=NightRow) for (record,) in rows],
        [msgspec.json.decode(record, type=RecordedTitle) for (record,) in titles],
    )


def _load_nights(db: sqlite3.Connection) -> Nights:
    heads = [msgspec.json.decode(record, type=NightHead) for (record,) in db.execute("SELECT record FROM nights")]
    added_to = set(still_open(heads))
    return Nights(heads, [_load_page(db, head) for head in heads if head.night in added_to])


def _load(db: sqlite3.Connection) -> Snapshot:
    titles = [
        msgspec.json.decode(row[0], type=TitleRecord) for row in db.execute("SELECT record FROM titles ORDER BY id")
    ]
    fills = [msgspec.json.decode(row[0], type=FillRecord) for row in db.execute("SELECT record FROM fills ORDER BY id")]
    nodes = [
        StoredReport(msgspec.json.decode(row[0], type=NodeReport), float(row[1]), float(row[2]))
        for row in db.execute("SELECT report, seen_at, first_at FROM nodes ORDER BY id")
    ]
    assignments = [(str(fill), str(node)) for fill, node in db.execute("SELECT fill, node FROM assignments")]
    holdings: dict[str, list[TitleReport]] = defaultdict(list)
    for node, report in db.execute("SELECT node, report FROM holdings"):
        holdings[node].append(msgspec.json.decode(report, type=TitleReport))
    withdrawn = [str(title) for (title,) in db.execute("SELECT title FROM withdrawn ORDER BY title")]
    (epoch,) = db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    row = db.execute("SELECT value FROM meta WHERE key = 'number'").fetchone()
    number = 0 if row is None else int(row[0])
    limits = [msgspec.json.decode(row[0], type=LimitRecord) for row in db.execute("SELECT record FROM limits")]
    budgets = {str(name): (str(night), int(count)) for name, night, count in db.execute("SELECT * FROM budgets")}
    policies = [_policy(*row) for row in db.execute("SELECT number, record FROM policies ORDER BY number")]
    (name,) = db.execute("SELECT value FROM meta WHERE key = 'database'").fetchone()
    numbers = {str(name): int(number) for name, number in db.execute("SELECT name, number FROM order_numbers")}
    withdrawals = db.execute("SELECT document, who FROM signed_withdrawals ORDER BY number").fetchall()
    return Snapshot(
        int(epoch), number, titles, fills, assignments, nodes, withdrawn, holdings, _load_nights(db), limits, policies,
        budgets, f"{name:016x}", losses(db), made_at(db), numbers,
        [(bytes(document), str(who)) for document, who in withdrawals],
    )  # fmt: skip


def _policy(number: int, record: bytes) -> StoredPolicy:
    """Return a version of the policy. Raises `ConfigError`: without it titles might go where they must not."""
    try:
        return msgspec.json.decode(record, type=StoredPolicy)
    except (msgspec.MsgspecError, ConfigError) as error:
        raise ConfigError(f"version {number} of the fleet's policy in the database cannot be read: {error}") from error
