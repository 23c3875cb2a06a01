"""The titles of one node: where each of them stands, and who does what for it. Belongs to the event loop.

A title is in exactly one phase (`TRANSITIONS`):

    ABSENT     nothing of it is served: it was never here, or its fill has failed; what was verified may be on disk
    FILLING    it is being fetched; other caches are sent what is verified
    LIVE       it is whole on disk, viewers see it, and other caches are sent all of it
    REPAIRING  chunks of a live title are bad, or more of its files are ordered; they are fetched, and all others are
               served as before
    EVICTING   nobody is served any of it any more, and its files are being deleted

What is to be done in a phase is decided by the engine, and done by `fill.FillDriver` and the store; here stand the
objects that each title has at the time, and the reason where it can be neither filled nor served.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Final, NamedTuple

import msgspec
import trio

from p2pfill.engine.engine import Engine
from p2pfill.engine.task import FillTask
from p2pfill.errors import DiskFullError, InternalError, P2PFillError, StoreError, TitleInDoubtError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import Order, TitleReport, clipped
from p2pfill.model.selection import chunks_of_selection, chunks_of_selections, decode_selection
from p2pfill.model.urgency import Urgency
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.disk_watch import DiskWatch
from p2pfill.node.fill import FillDriver, make_fill
from p2pfill.node.heartbeats import Untold
from p2pfill.node.origin_counts import OriginCounts
from p2pfill.node.origin_threads import OriginThreads
from p2pfill.node.origins import Origins
from p2pfill.origin.access import OriginAccess
from p2pfill.store.descriptors import is_short
from p2pfill.store.reuse import Reuse
from p2pfill.store.salvage import Salvage
from p2pfill.store.scrub import examine
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle
from p2pfill.swarm.election import ALL_WANTED, Wants
from p2pfill.swarm.neighbourhood import electorate
from p2pfill.transport.throttle import Direction

EVICTING_S: Final = 0.1
"""How often a fill looks whether the files that its title had are deleted at last."""
ORDER_S: Final = 2.0
"""That a repair waits for the tracker to say who has the title; then it begins with those who are known."""
COPIES_MAX: Final = 2
"""Titles of a node that copy from older versions side by side: more would only make a disk seek."""

BLOCK_BYTES: Final = 4096
"""A file takes whole blocks of its disk; this is the size that nearly all have."""

FINISHED_MAX: Final = 64
"""Fills that are kept after they have ended, for whoever follows them; of others only the last report is."""

PIECE_WEIGHT_MAX: Final = 500
"""Titles, and sources that their reports name, of one heartbeat: two hundred kilobytes, made in some milliseconds."""


class TitlePhase(Enum):
    """Where one title stands; see the file's head."""

    ABSENT = "ABSENT"
    FILLING = "FILLING"
    LIVE = "LIVE"
    REPAIRING = "REPAIRING"
    EVICTING = "EVICTING"


class TitleStep(Enum):
    """What moves a title on."""

    ORDER = "a fill begins"
    FIND = "it is whole on disk"
    COMPLETE = "all of it is durable and shown"
    FAIL = "the fill fails, or is withdrawn"
    ROT = "chunks of it are bad, or more files are ordered"
    EVICT = "room is needed, and nobody has ordered it"
    REMOVE = "its files are gone"


TRANSITIONS: Final[dict[tuple[TitlePhase, TitleStep], TitlePhase]] = {
    (TitlePhase.ABSENT, TitleStep.ORDER): TitlePhase.FILLING,
    (TitlePhase.ABSENT, TitleStep.FIND): TitlePhase.LIVE,
    (TitlePhase.FILLING, TitleStep.COMPLETE): TitlePhase.LIVE,
    (TitlePhase.FILLING, TitleStep.FAIL): TitlePhase.ABSENT,
    (TitlePhase.LIVE, TitleStep.ROT): TitlePhase.REPAIRING,
    (TitlePhase.REPAIRING, TitleStep.COMPLETE): TitlePhase.LIVE,
    (TitlePhase.LIVE, TitleStep.EVICT): TitlePhase.EVICTING,
    (TitlePhase.REPAIRING, TitleStep.EVICT): TitlePhase.EVICTING,
    (TitlePhase.ABSENT, TitleStep.EVICT): TitlePhase.EVICTING,
    (TitlePhase.EVICTING, TitleStep.REMOVE): TitlePhase.ABSENT,
}
"""All that may happen. What the table lacks does not: `NodeTitle.step` raises, and the title stays where it is."""


def state_diagram() -> str:
    """Return the table as a Mermaid state diagram, for ARCHITECTURE.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {TitlePhase.ABSENT.value}"]
    lines += [f"    {phase.value} --> {to.value}: {step.value}" for (phase, step), to in TRANSITIONS.items()]
    return "\n".join(lines)


class NodeTitle:
    """What a node keeps of one title."""

    __slots__ = ("beginning", "fill", "phase", "refusal", "said", "stored", "surplus", "title_id", "tried")

    def __init__(self, title_id: TitleId) -> None:
        self.title_id = title_id
        self.phase = TitlePhase.ABSENT
        self.stored: StoredTitle | None = None
        """Its files, while they are open. Threads read this."""
        self.fill: FillDriver | None = None
        """Its fill, or the last one where that is over and not forgotten."""
        self.said = b""
        """The last report of a fill that is forgotten, encoded: a tenth of what it takes as objects."""
        self.refusal: P2PFillError | None = None
        """Why it can be neither filled nor served, if so."""
        self.tried = 0
        """The order that what is said of it is about, while it is not live."""
        self.surplus: tuple[bytes, Bitmap | None, Surplus] | None = None
        """What was found last, with the files of the order and the selection that it was of."""
        self.beginning = 0
        """Calls that are about to begin a fill of it."""

    def step(self, step: TitleStep) -> None:
        """Move on as the table says. Raises `InternalError` where it says nothing."""
        target = TRANSITIONS.get((self.phase, step))
        if target is None:
            raise InternalError(f"title {self.title_id.hex()} is {self.phase.value}, and {step.value}")
        self.phase = target


class TitleRegistry:
    """All titles of one node."""

    def __init__(
        self,
        me: NodeInfo,
        store: Store,
        engine: Engine,
        nursery: trio.Nursery,
        wake: Callable[[], object],
        log: logging.Logger,
        record: str,
        origin_threads: OriginThreads,
        inbound: Direction | None = None,
    ) -> None:
        """`wake` has the engine polled; fills are recorded in the directory `record`, if there is one.

        Reads of origins are made by `origin_threads`, and keep to the limits `inbound`.
        """
        self._inbound = inbound
        self._me = me
        self._store = store
        self._engine = engine
        self._nursery = nursery
        self.wake = wake
        """Has the engine polled."""
        self._log = log
        self._record = record
        self._origin_threads = origin_threads
        self._copies = trio.CapacityLimiter(COPIES_MAX)
        self._titles: dict[TitleId, NodeTitle] = {}
        self._running: dict[FillDriver, None] = {}
        """Fills that had not ended when they were looked at last."""
        self._finished: dict[TitleId, None] = {}
        """Live titles whose fills are kept, the oldest first."""
        self.orders: Mapping[TitleId, Order] | None = None
        """What the tracker wants to be held here; None before it has said all of that."""
        self.pinned: frozenset[TitleId] = frozenset()
        """What stays though no order wants it."""
        self.order_of: Callable[[TitleId], Awaitable[Order]] | None = None
        """Asks the tracker for an order as it is now, with those who have the title. Raises `P2PFillError`."""
        self.make_room: Callable[[int], Awaitable[bool]] | None = None
        """Lets titles that nobody has ordered go until so many bytes are free; tells whether one has gone."""
        self.unlimit: Callable[[TitleId], object] = lambda title_id: None
        """Forgets how many upload slots a title may take."""
        self.ended: Callable[[], object] = lambda: None
        """Called when a fill is over: the tracker is to hear of that at once."""
        self.retry: Callable[[], object] = lambda: None
        """Has the orders taken once more: what the disk has refused may go now."""
        self._repairs = trio.Lock()
        """Held from a look at a title until what is bad of it is known to its fill."""
        self.untold = Untold()
        """What the tracker has yet to be told. Whatever changes a report of a title that no fill runs for notes it."""
        self.origin_counts = OriginCounts()
        self.origin_access = OriginAccess()
        self._unshown: set[TitleId] = set()
        """Live titles that the disk would not show as they are ordered."""
        self.lacking: set[TitleId] = set()
        """Titles of which files were ordered while they were being dropped: whoever takes orders looks at them anew."""
        self.note_doubt: Callable[[TitleId], object] = lambda title_id: None
        """Has a live title checked of which it is not known what is here."""
        self.reopen: Callable[[TitleId], Awaitable[object]] = _open_nothing
        """Opens a live title that could not be opened. Raises `StoreError`."""
        self.disk = DiskWatch(store.probe, store.free_bytes, log, f"the disk of {str(store.root)!r}")
        self._suspects: dict[TitleId, set[int]] = {}
        """Chunks that could not be read, and are about to be looked at."""
        self._unread: dict[TitleId, set[int]] = {}
        """Those that could not be looked at either: they are, once the disk is well again."""

    # ---- what there is

    def stored(self, title_id: TitleId) -> StoredTitle | None:
        """Return a title's files, where this node has them open. Callable from any thread."""
        title = self._titles.get(title_id)
        return title.stored if title is not None else None

    def signatures(self, title_id: TitleId) -> bytes:
        """Return what is kept of a title's signatures, b'' where nothing is. Blocks. Raises `StoreError`."""
        return self._store.names.signatures(title_id)

    def phase_of(self, title_id: TitleId) -> TitlePhase:
        """Return where a title stands."""
        title = self._titles.get(title_id)
        return title.phase if title is not None else TitlePhase.ABSENT

    def is_at_rest(self, title_id: TitleId, files: bytes) -> bool:
        """Tell whether a title is live with the `files` of its order, and nothing is to be done for it.

        Raises `ManifestError` where the order is of another title.
        """
        title = self._titles.get(title_id)
        if title is None or title.phase is not TitlePhase.LIVE or title.refusal is not None or title.stored is None:
            return False
        stored = title.stored
        if not stored.live or stored.takes_writes or (title.fill is not None and not title.fill.done.is_set()):
            return False
        return not stored.would_select(decode_selection(files, len(stored.manifest.files)))

    def fill_of(self, title_id: TitleId) -> FillDriver | None:
        """Return a title's fill, or the last one while that is kept (`FINISHED_MAX`)."""
        title = self._titles.get(title_id)
        return title.fill if title is not None else None

    def live_ids(self) -> list[TitleId]:
        """Return the ids of the titles that viewers see, in order."""
        live = (TitlePhase.LIVE, TitlePhase.REPAIRING)
        return sorted(title.title_id for title in self._titles.values() if title.phase in live)

    def driver_of(self, task: FillTask) -> FillDriver | None:
        """Return the driver of a fill of the engine's, if that is still the fill of its title."""
        fill = self.fill_of(task.title_id)
        return fill if fill is not None and fill.task is task else None

    def running_fills(self) -> list[FillDriver]:
        """Return the fills that still run."""
        self._running = {fill: None for fill in self._running if not fill.done.is_set()}
        return list(self._running)

    def refusal(self, title_id: TitleId) -> P2PFillError | None:
        """Return why a title can be neither filled nor served, if so."""
        title = self._titles.get(title_id)
        return title.refusal if title is not None else None

    def reports(self) -> list[TitleReport]:
        """Return what the tracker is told of each title, each once, or the tracker would refuse the heartbeat."""
        return [report for title in self._titles.values() if (report := self._report_of(title)) is not None]

    def note_running(self) -> None:
        """Note that there is news of all titles that are filled or repaired."""
        self.untold.note(self._engine.tasks)

    def begin_again(self) -> None:
        """Have the tracker told of all titles."""
        self.untold.begin_again(self._titles)

    def next_piece(self) -> tuple[list[TitleReport], list[str]]:
        """Return what the tracker is told next: reports, and the titles of which nothing is here any more."""
        reports: list[TitleReport] = []
        gone: list[str] = []
        weight = 0
        for title_id in self.untold.take():
            title = self._titles.get(title_id)
            if title is not None and (report := self._report_of(title)) is not None:
                reports.append(report)
                weight += len(report.sources)
            else:
                gone.append(title_id.hex())
            weight += 1
            if weight >= PIECE_WEIGHT_MAX:
                break
        return reports, gone

    def _report_of(self, title: NodeTitle) -> TitleReport | None:
        name = title.title_id.hex()
        waits = self.disk.reason(title.title_id)
        if (why := title.refusal) is not None:
            # Also of one whose fill was tried again in vain. What has no room is tried again too, but somebody has to
            # make that room.
            is_waiting = waits and not (isinstance(why, DiskFullError) and why.needed_bytes)
            return TitleReport(
                name, "waiting" if is_waiting else "failed", error=clipped(str(why)) or type(why).__name__,
                number=title.tried,
            )  # fmt: skip
        numbers = self._store.names
        if (fill := title.fill) is not None:
            with fill.bounds:
                report = fill.report()
                is_shown = report.state in ("live", "repairing")
                report.number = numbers.taken(title.title_id) if is_shown else title.tried
                if waits and report.state == "failed":
                    report.state = "waiting"
                return report
            return TitleReport(name, "failed", error=fill.error or "its state cannot be told")
        if title.stored is not None:
            stored, selection = title.stored, title.stored.selection
            size, count = stored.wanted_bytes, stored.wanted.count()
            # What it lacks, if anything, is about to be fetched.
            report = TitleReport(
                name, "repairing" if stored.takes_writes else "live", count, count, have_bytes=size, title_bytes=size,
                files=0 if selection is None else selection.count(), **msgspec.structs.asdict(stored.tally),
            )  # fmt: skip
            if title.said and not stored.takes_writes:
                report = msgspec.msgpack.decode(title.said, type=TitleReport)
            report.number = numbers.taken(title.title_id)
            return report
        return None

    def _title(self, title_id: TitleId) -> NodeTitle:
        return self._titles.setdefault(title_id, NodeTitle(title_id))

    # ---- on disk already

    async def found(self, stored: StoredTitle) -> None:
        """Serve a title that is live on disk, and go on with its repair where a stop has cut that short."""
        title = self._title(stored.manifest.title_id)
        title.stored, title.refusal = stored, None
        title.step(TitleStep.FIND)
        self.untold.note([title.title_id])
        if stored.takes_writes:
            await self.repair(title.title_id)
        else:
            self._engine.serve(trio.current_time(), title.title_id, stored.have)
        self.wake()

    def refuse(self, title_id: TitleId, error: P2PFillError) -> None:
        """Note why a title can be neither filled nor served, until it can; the tracker is told."""
        self._title(title_id).refusal = error
        self.note_order(title_id)
        self._engine.yield_to_others(trio.current_time(), title_id)
        self.wake()

    def allow(self, title_id: TitleId) -> None:
        """Take back a refusal: it is of something that is gone."""
        self._title(title_id).refusal = None
        self.untold.note([title_id])

    # ---- what waits for the disk

    def wait_for_disk(self, title_id: TitleId, error: P2PFillError) -> None:
        """Have a title that the disk has refused wait until that is well, and then go on."""
        self.disk.put(title_id, error, partial(self._go_on, title_id))
        self.untold.note([title_id])

    async def _go_on(self, title_id: TitleId) -> None:
        """Take up what the disk had refused of a title. What it refuses again waits again."""
        title = self._title(title_id)
        is_ordered = self.orders is None or title_id in self.orders
        if title.phase in (TitlePhase.LIVE, TitlePhase.REPAIRING):
            await self._read_again(title)
        elif title.stored is None and title_id in await trio.to_thread.run_sync(self._store.live_ids):
            async with ErrorBoundary(self._log, f"serve title {title_id.hex()}", partial(self._refused, title_id)):
                await self.reopen(title_id)
        elif title.phase is TitlePhase.ABSENT and self.order_of is not None and is_ordered:
            self.retry()
        elif title.phase is TitlePhase.ABSENT and self.order_of is None and (fill := title.fill) is not None:
            await self.start_fill(fill.manifest, fill.origin_urls, fill.fill.policy, selection=fill.stored.selection)

    def _refused(self, title_id: TitleId, error: P2PFillError) -> None:
        self.refuse(title_id, error)
        self.wait_for_disk(title_id, error)

    async def _read_again(self, title: NodeTitle) -> None:
        """Look once more at what could not be read of a live title, and serve it where it can be."""
        title_id = title.title_id
        chunks = self._unread.pop(title_id, set())
        try:
            await self.repair(title_id, sorted(chunks))
        except StoreError as error:
            self._take_out(title, chunks, error)
            raise
        self.disk.forget(title_id)
        if title.refusal is not None and title.stored is not None and title.phase is TitlePhase.LIVE:
            title.refusal = None
            self._engine.regain(trio.current_time(), title_id, list(title.stored.have.indexes()))
        self.untold.note([title_id])
        self.wake()

    def _take_out(self, title: NodeTitle, chunks: set[int], error: P2PFillError) -> None:
        """Serve nothing of a live title that the disk does not let be read, until it does."""
        title_id = title.title_id
        self._unread.setdefault(title_id, set()).update(chunks)
        if title.stored is not None and not is_short(error):  # which says nothing of the disk
            self._engine.lose(trio.current_time(), title_id, list(title.stored.have.indexes()))
            self.refuse(title_id, error)
        self.wait_for_disk(title_id, error)

    # ---- orders

    async def set_orders(self, changed: Mapping[TitleId, int], gone: Iterable[TitleId], *, is_all: bool) -> None:
        """Show of each name the newest order that is live here, now that these have changed, or are gone.

        `is_all`: with these the tracker has said all that stands.
        """
        names = self._store.names
        if is_all and self.orders is not None:
            gone = {*gone, *names.others(self.orders)}
        if not names.expect(changed, gone, is_all=is_all):
            return  # nothing that is live is concerned, and a thread takes time that fills under way would miss
        refused = await trio.to_thread.run_sync(names.follow)
        self.untold.note(names.take_news())
        for title_id, error in refused.items():
            if str(self.refusal(title_id) or "") != str(error):  # it is tried with each answer
                self._log.warning("%s", error)
            self.refuse(title_id, error)
        for title_id in (changed.keys() | self._unshown) - refused.keys():
            title = self._titles.get(title_id)
            if title is not None and title.stored is not None and title.stored.live:
                if title.refusal is not None:
                    self.untold.note([title_id])
                title.refusal = None
        self._unshown = set(refused)

    def note_order(self, title_id: TitleId) -> None:
        """Note that what is reported of a title is about the order that stands now."""
        self._title(title_id).tried = self._store.names.ordered(title_id)
        self.untold.note([title_id])

    # ---- filling

    async def start_fill(
        self,
        manifest: Manifest,
        origins: Iterable[str] = (),
        policy: FillPolicy | None = None,
        members: Iterable[NodeInfo] = (),
        holders: Iterable[NodeInfo] = (),
        unlinked: Sequence[str] = (),
        urgency: Urgency | None = None,
        selection: Bitmap | None = None,
        wants: Wants = ALL_WANTED,
        soon: Iterable[str] = (),
        signatures: bytes = b"",
    ) -> FillDriver:
        """Begin to fill a title, or resume; as `Node.start_fill`, which has looked at `signatures`. They are kept."""
        # In a thread: where the manifest has just been read from a file, it is encoded and hashed now.
        title = self._title(await trio.to_thread.run_sync(lambda: manifest.title_id))
        if (running := _running(title, origins, selection)) is not None:
            return running
        roster = Roster(tuple(members), tuple(unlinked), tuple(holders), wants, frozenset(soon))
        title.beginning += 1
        try:
            return await self._start(title, manifest, origins, policy, roster, urgency, selection, signatures)
        finally:
            title.beginning -= 1

    async def _start(
        self,
        title: NodeTitle,
        manifest: Manifest,
        origins: Iterable[str],
        policy: FillPolicy | None,
        roster: Roster,
        urgency: Urgency | None,
        selection: Bitmap | None,
        signatures: bytes,
    ) -> FillDriver:
        title_id = title.title_id
        self.disk.begin(title_id)
        before = title.fill
        if title.fill is not None:
            if not title.fill.task.is_over:
                title.fill.stop()  # it fetches other files than are wanted now
            await title.fill.ended.wait()  # it may be writing yet, and what it commits need not be fetched
        held = None if title.stored is None else title.stored.have.copy()
        try:
            stored = await self._begin_stored(manifest, selection)
            if signatures:  # before it can go live
                await trio.to_thread.run_sync(self._store.names.keep_signatures, title_id, signatures)
            reuse = None if stored.live else await trio.to_thread.run_sync(self._store.reusable, stored)
        except StoreError as error:
            self.refuse(title_id, error)
            if isinstance(error, TitleInDoubtError):
                self.note_doubt(title_id)
            elif self.order_of is not None:  # else whoever has asked for it is told, and decides
                self.wait_for_disk(title_id, error)
            raise
        if title.fill is not before and (running := _running(title, origins, selection)) is not None:
            return running  # somebody else has ordered it meanwhile
        self._settle(title)
        if held is not None and (gone := list(held.and_not(stored.have).indexes())):
            self._log.warning("title %r: %d chunks were not where they should be", manifest.name, len(gone))
            self._engine.lose(trio.current_time(), title_id, gone)
        stored.begin_again()
        title.refusal = None
        self.note_order(title_id)
        title.stored = stored
        fill = title.fill = self._begin(title, stored, origins, policy, roster, urgency, reuse)
        if fill.done.is_set():
            self._forget_oldest(title_id)
        self.wake()
        return fill

    async def _begin_stored(self, manifest: Manifest, selection: Bitmap | None) -> StoredTitle:
        """Have room for a title on disk, where it is to be had. Raises `StoreError`."""
        title = self._title(manifest.title_id)
        while True:
            while title.phase is TitlePhase.EVICTING:  # noqa: ASYNC110 (rare, and over when its files are deleted)
                await trio.sleep(EVICTING_S)
            try:
                stored = await trio.to_thread.run_sync(self._store.begin_fill, manifest, selection)
                if title.fill is not None and isinstance(title.fill.task.fault, StoreError):
                    await self._have_room(stored)
                return stored
            except DiskFullError as error:
                if self.make_room is None or not await self.make_room(error.needed_bytes):
                    raise

    async def _have_room(self, stored: StoredTitle) -> bool:
        """Have as much free as the rest of a title needs, where that can be had; tell whether titles went for it.

        What the disk itself says of its room counts, and not why it has refused something: that comes from threads of
        many kinds, as text. Raises `StoreError`.
        """
        if self.make_room is None or not stored.takes_writes:
            return False
        needed_bytes = await trio.to_thread.run_sync(self._store.needed_bytes, stored)
        free_bytes = await trio.to_thread.run_sync(self._store.free_bytes)
        return free_bytes < needed_bytes and await self.make_room(needed_bytes)

    async def _retry_with_room(self, driver: FillDriver) -> None:
        await driver.ended.wait()
        if await self._have_room(driver.stored):
            self.disk.begin(driver.title_id)
            self.retry()  # as often as titles go, and no more

    def _begin(
        self,
        title: NodeTitle,
        stored: StoredTitle,
        origins: Iterable[str],
        policy: FillPolicy | None,
        roster: Roster,
        urgency: Urgency | None,
        reuse: Reuse | Salvage | None = None,
    ) -> FillDriver:
        """Have the engine fill a title into `stored`, or serve it where it is whole, and return what drives that."""
        apart = {*roster.unlinked, self._me.id}
        unheard = {node.id for node in (*roster.members, *roster.holders) if node.id not in apart}
        wants = roster.wants
        if stored.selection is not None:
            wants = {**wants, self._me.id: stored.wanted}
        now = trio.current_time()
        logic, record = make_fill(
            stored, self._me, policy or FillPolicy(), now, self._log, self._record, heard=not unheard
        )
        title_id = stored.manifest.title_id
        read_from = Origins(
            stored, self._log, self.origin_counts, self._inbound, lambda: self._engine.urgency(title_id),
            self.origin_access,
        )  # fmt: skip
        names = read_from.add(origins)
        repairs = stored.live and stored.takes_writes
        if stored.live and title.phase is TitlePhase.ABSENT:
            title.step(TitleStep.FIND)
        if stored.live and not repairs:
            task = FillTask(logic, stored, now)
            task.state = "live"
            driver = FillDriver(self._engine, stored, task, self.wake, self._origin_threads, self._log, read_from)
            driver.done.set()
            driver.ended.set()
            self._engine.serve(now, title.title_id, stored.have)
            self._engine.yield_to_others(now, title.title_id)
        else:
            task = self._engine.begin_fill(
                now, logic, stored, names, roster.members, roster.unlinked, unheard, urgency, wants, roster.soon,
                repairs=repairs,
            )  # fmt: skip
            if reuse is not None and reuse.chunks:
                self._engine.reuse(now, task, reuse.chunks)
            driver = FillDriver(
                self._engine, stored, task, self.wake, self._origin_threads, self._log, read_from, record, reuse,
                self._copies,
            )  # fmt: skip
            # Not before: what cannot be begun leaves the title where it is.
            if title.phase is not TitlePhase.REPAIRING:
                title.step(TitleStep.ROT if repairs else TitleStep.ORDER)
            self.running_fills()  # lets go of those that are over, where nobody else asks
            self._running[driver] = None
            self._nursery.start_soon(driver.bounds.run, driver.run)
        return driver

    def note_end(self, driver: FillDriver) -> None:
        """Take note that a fill is over. One that the disk has refused is tried again when it is well, or has room."""
        title_id, fault = driver.title_id, driver.task.fault
        self._settle(self._title(title_id))
        if driver.state == "live":
            self.disk.forget(title_id)
        elif isinstance(fault, StoreError) and self._title(title_id).phase is not TitlePhase.EVICTING:
            # What was verified and not durable the disk may have lost, whatever memory says.
            held = driver.fill.ledger.have.and_not(driver.stored.have)
            if driver.task.repairs and held.any():
                self._engine.lose(trio.current_time(), title_id, list(held.indexes()))
            self.wait_for_disk(title_id, fault)
            bounds = ErrorBoundary(self._log, f"make room for title {driver.manifest.name!r}")
            self._nursery.start_soon(bounds.run, self._retry_with_room, driver)
        self.untold.note([driver.title_id])
        self.ended()
        if driver.state == "live":
            self._forget_oldest(driver.title_id)

    def _forget_oldest(self, title_id: TitleId) -> None:
        """Note that a fill is over, and keep of the one that has been so for longest what is reported of it."""
        self._finished.pop(title_id, None)
        self._finished[title_id] = None
        for oldest in list(self._finished)[:-FINISHED_MAX]:
            title = self._titles.get(oldest)
            fill = title.fill if title is not None else None
            if fill is not None and not fill.ended.is_set():
                continue  # it is closing its files yet
            del self._finished[oldest]
            if title is not None and fill is not None and fill.state == "live":
                with fill.bounds:
                    title.said = msgspec.msgpack.encode(fill.report())
                title.fill = None

    def _settle(self, title: NodeTitle) -> None:
        """Let the phase follow the end of the fill."""
        if title.fill is None or not title.fill.task.is_over:
            return
        if title.phase is TitlePhase.FILLING:
            title.step(TitleStep.COMPLETE if title.fill.state == "live" else TitleStep.FAIL)
        elif title.phase is TitlePhase.REPAIRING and title.fill.state == "live":
            title.step(TitleStep.COMPLETE)
            self._log.info("title %r is whole again", title.fill.manifest.name)

    # ---- eviction

    def surplus(self, title_id: TitleId) -> Surplus:
        """Return how many files of a title are here that its order does not name, and what they take at most."""
        title, order = self._titles.get(title_id), (self.orders or {}).get(title_id)
        if title is None or title.stored is None or order is None or title.phase is not TitlePhase.LIVE:
            return Surplus()
        manifest, selection = title.stored.manifest, title.stored.selection
        if not order.files or title.stored.takes_writes or (title.fill is not None and not title.fill.done.is_set()):
            return Surplus()
        if (known := title.surplus) is not None and known[0] == order.files and known[1] is selection:
            return known[2]
        found = Surplus()
        with ErrorBoundary(self._log, f"look at title {title_id.hex()}"):
            ordered = decode_selection(order.files, len(manifest.files))
            if ordered is not None:
                held = Bitmap.full(len(ordered)) if selection is None else selection
                more = held.and_not(ordered)
                sizes = map(manifest.files.size, more.indexes())
                found = Surplus(more.count(), sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes))
            title.surplus = order.files, selection, found  # a second for a million files
        return found

    async def drop_surplus(self, title_id: TitleId) -> None:
        """Delete the files of a title that its order does not name. Raises `StoreError` where the disk refuses."""
        title, order = self._titles.get(title_id), (self.orders or {}).get(title_id)
        if title is None or (stored := title.stored) is None or order is None:
            return
        async with self._repairs:
            ordered = decode_selection(order.files, len(stored.manifest.files))
            if ordered is None or not self.surplus(title_id).files:
                return
            if stored.selection is not None:
                ordered = ordered & stored.selection
            gone = await trio.to_thread.run_sync(
                lambda: list(stored.have.and_not(chunks_of_selection(stored.manifest, ordered)).indexes())
            )
            # First nobody is promised any of it.
            self._engine.lose(trio.current_time(), title_id, gone)
            self.wake()
            try:
                await trio.to_thread.run_sync(stored.drop_files, ordered)
            finally:
                if title.stored is stored:  # what the disk has kept all the same is served again
                    self._engine.regain(trio.current_time(), title_id, [one for one in gone if stored.have[one]])
                    self.wake()
            if title.fill is None or title.fill.done.is_set():
                title.fill, title.said = None, b""
            self.untold.note([title_id])
            order = (self.orders or {}).get(title_id)
            if order is not None and stored.would_select(decode_selection(order.files, len(stored.manifest.files))):
                self.lacking.add(title_id)
                self.retry()

    async def stop_serving(self, title_id: TitleId) -> None:
        """Have neither this node nor others use a title any more: its files are about to go."""
        title = self._title(title_id)
        title.step(TitleStep.EVICT)
        self._engine.forget(trio.current_time(), title_id)
        self.wake()
        if title.fill is not None:
            await title.fill.ended.wait()  # of a repair: it may be writing yet
        title.stored = title.fill = title.refusal = None
        self.disk.forget(title_id)
        self._unread.pop(title_id, None)
        title.said = b""
        self.untold.note([title_id])

    def forget(self, title_id: TitleId) -> None:
        """Take note that a title's files are gone: nothing is kept of it, or years of titles would be."""
        title = self._title(title_id)
        title.step(TitleStep.REMOVE)
        self.unlimit(title_id)
        self._finished.pop(title_id, None)
        is_empty = title.stored is None and title.fill is None and title.refusal is None
        if is_empty and not title.beginning and title_id not in (self.orders or {}):
            del self._titles[title_id]

    # ---- repair

    def suspect(self, title_id: TitleId, chunk: int, reason: str) -> None:
        """Take note that a chunk could not be read to be sent: it is served no more, and looked at."""
        title = self._titles.get(title_id)
        if title is None or title.stored is None:
            return
        if title.phase is TitlePhase.LIVE:
            self._engine.lose(trio.current_time(), title_id, [chunk])
            self.wake()
        if title_id in self._suspects:
            self._suspects[title_id].add(chunk)
            return
        self._log.warning("title %r is looked at: %s", title.stored.manifest.name, reason)
        self._suspects[title_id] = {chunk}
        bounds = ErrorBoundary(self._log, f"look at title {title_id.hex()}")
        self._nursery.start_soon(bounds.run, self._look_at_suspects, title_id)

    async def _look_at_suspects(self, title_id: TitleId) -> None:
        async with self._repairs:
            chunks = self._suspects.pop(title_id, set())
            try:
                await self._repair(title_id, sorted(chunks))
            except StoreError as error:
                if self.phase_of(title_id) is TitlePhase.LIVE:
                    self._take_out(self._title(title_id), chunks, error)
                raise

    async def look_at_link(self, title_id: TitleId) -> None:
        """Show a live title again where its link was lost. Raises `StoreError` where something else has its place."""
        if await trio.to_thread.run_sync(self._store.names.look_at_link, title_id):
            self._log.warning("the link of title %s below live/ was lost, and is there again", title_id.hex())
            self.untold.note(self._store.names.take_news())

    async def repair(self, title_id: TitleId, chunks: Sequence[int] = ()) -> None:
        """Look whether some chunks of a title, and all of its files, are there, and fetch anew what is bad.

        Also takes up a repair that has failed. Raises `StoreError` where the disk refuses.
        """
        async with self._repairs:
            await self._repair(title_id, chunks)

    async def _repair(self, title_id: TitleId, chunks: Sequence[int]) -> None:
        title = self._titles.get(title_id)
        if title is None or (stored := title.stored) is None or title.phase is TitlePhase.EVICTING:
            return
        if title.phase is TitlePhase.REPAIRING and title.fill is not None and title.fill.task.is_over:
            await title.fill.ended.wait()  # it may be writing yet

        def is_over() -> bool:
            """Tell whether the title is being removed, or was, while something was waited for."""
            return title.phase is TitlePhase.EVICTING or title.stored is not stored

        if is_over():
            return
        there = [chunk for chunk in chunks if stored.have[chunk]]
        bad, lost = await trio.to_thread.run_sync(examine, stored, there)
        if is_over():
            return
        if bad or lost:
            gone = await trio.to_thread.run_sync(self._store.lose, stored, bad, lost)
            if is_over():
                return
            self._log.warning(
                "title %r: %d of %d chunks are bad, and %d files lost; they are fetched anew, and the rest is served",
                stored.manifest.name, len(gone), stored.manifest.chunk_count, len(lost),
            )  # fmt: skip
            self._engine.lose(trio.current_time(), title_id, gone)
        self._engine.regain(trio.current_time(), title_id, [chunk for chunk in there if stored.have[chunk]])
        if stored.live and stored.takes_writes and (title.fill is None or title.fill.task.is_over):
            order = await self._order_for_repair(title_id)
            if is_over() or not (stored.live and stored.takes_writes):
                return
            roster = Roster()
            if order is not None:  # in a thread: with files of many caches it takes seconds
                roster = await trio.to_thread.run_sync(roster_of, order, self._me, stored.manifest)
            await trio.to_thread.run_sync(stored.recover)
            if is_over() or not (stored.live and stored.takes_writes):
                return
            if title.fill is None or title.fill.task.is_over:
                self._begin_repair(title, stored, order, roster)
        self.wake()

    async def _order_for_repair(self, title_id: TitleId) -> Order | None:
        """Return a title's order with those who have it; where the tracker is away, as it was, which names nobody."""
        order = (self.orders or {}).get(title_id)
        if order is None or order.roster or self.order_of is None:
            return order
        async with ErrorBoundary(self._log, f"learn who has title {title_id.hex()}", level=logging.INFO):
            with trio.move_on_after(ORDER_S):
                order = await self.order_of(title_id)
        return order

    def _begin_repair(self, title: NodeTitle, stored: StoredTitle, order: Order | None, roster: Roster) -> None:
        stored.begin_again()
        title.refusal = None
        origins = title.fill.origin_urls if title.fill is not None else []
        policy = None
        if order is not None:
            origins += order.origins
            policy = order.policy
        title.fill = self._begin(title, stored, origins, policy, roster, None)


class Surplus(NamedTuple):
    """Files of a live title that its order does not name."""

    files: int = 0
    size: int = 0
    """Bytes on disk, at most."""


class Roster(NamedTuple):
    """The other caches that matter to a fill."""

    members: tuple[NodeInfo, ...] = ()
    """Over whom masters are elected."""
    unlinked: tuple[str, ...] = ()
    """The ids of those of them that are not to be linked with."""
    holders: tuple[NodeInfo, ...] = ()
    """Those that have the title, or a part of it."""
    wants: Wants = ALL_WANTED
    """The chunks of each of the members that wants some only."""
    soon: frozenset[str] = frozenset()
    """The ids of the members whose fill windows open in a moment."""
    route_costs: Mapping[str, float] = {}
    """What bytes of them cost by their routes, where that is known."""


def roster_of(order: Order, me: NodeInfo, manifest: Manifest, *, all_open: bool = False) -> Roster:
    """Return what an order for a title says of others. Takes long where it names many files: call it in a thread.

    With `all_open` those whose fill windows were closed when the tracker spoke last count as open.
    """
    closed = {
        entry.node.id: entry.node
        for entry in order.roster
        if all_open and not entry.filling and entry.have_chunks < manifest.chunk_count
    }
    holders = tuple(entry.node for entry in order.roster if entry.have_chunks)
    members: tuple[NodeInfo, ...] = (
        *(entry.node for entry in order.roster if entry.filling or entry.node.id in closed),
        me,
    )
    unlinked: tuple[str, ...] = ()
    soon: frozenset[str] = frozenset(entry.node.id for entry in order.roster if entry.soon)
    if order.election is not None:
        members, unlinked, soon = electorate(me, order.election, [entry.node for entry in order.roster])
        if all_open:
            closed[me.id] = me
            members = tuple(node if node.weight else closed.get(node.id, node) for node in members)
    named = [decode_selection(data, len(manifest.files)) for data in (*order.selections, order.files)]
    *chosen, mine = chunks_of_selections(manifest, named)
    wants: dict[str, Bitmap] = {
        entry.node.id: chosen[entry.selection - 1] for entry in order.roster if 0 < entry.selection <= len(chosen)
    }
    if order.files:
        wants[me.id] = mine
    route_costs: dict[str, float] = {entry.node.id: entry.cost for entry in order.roster if entry.cost}
    return Roster(members, unlinked, holders, wants, soon, route_costs)


async def _open_nothing(title_id: TitleId) -> None:
    """Open nothing: nobody looks for titles on this disk."""


def _running(title: NodeTitle, origins: Iterable[str], selection: Bitmap | None) -> FillDriver | None:
    """Return a title's fill where it has not failed and is for these files, with these origins besides its own."""
    if title.fill is None or title.fill.state == "failed" or title.fill.stored.would_select(selection):
        return None
    title.fill.set_origins(list(origins))
    return title.fill
