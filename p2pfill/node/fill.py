"""One title being filled: the Trio driver of an `engine.task.FillTask` against origins and the store.

The engine says what is to be read, written out, committed and shown; here it is done, in worker threads, and what came
of it goes back. All that this title raises ends here and becomes its state.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

import msgspec
import trio

from p2pfill.engine.engine import Engine
from p2pfill.engine.requests import Arrival, Outcome, Receive
from p2pfill.engine.task import BeginWriteOut, Commit, EndFill, FillTask, GoLive, ReadOrigin
from p2pfill.errors import P2PFillError, StoreError
from p2pfill.model import limits
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import SourceReport, TitleReport, TitleState, clipped
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.origin_threads import OriginRead, OriginThreads
from p2pfill.node.origins import Origins, told
from p2pfill.origin import OriginError
from p2pfill.store.tally import Tally
from p2pfill.swarm.election import ALL_WANTED, Scope, Wants
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.recording import RecordingFill

if TYPE_CHECKING:
    from p2pfill.store.reuse import Reuse
    from p2pfill.store.salvage import Salvage
    from p2pfill.store.title import StoredTitle
    from p2pfill.swarm.sources import Source

RECORD_BUFFER_BYTES: Final = 1024 * 1024
"""So seldom does a recording write to its file: the event loop waits for it, which is the price of a recording."""

REUSE_BYTES: Final = 16 * limits.MIB
"""Copied from another version of a title in one call of a thread: a few milliseconds, so that it is told of soon and
stops soon."""

DECIDE_S: Final = 1.0
"""For the event loop to decide: many times what it takes, unless it stands still."""

RATE_SPAN_S: Final = 2.0
RATE_SAMPLES_MAX: Final = 64

TIER_OF_SCOPE: Final[dict[Scope, Literal["peer", "regional", "origin"]]] = {
    Scope.CLUSTER: "peer",
    Scope.ISP: "peer",
    Scope.REGION: "regional",
    Scope.WORLD: "regional",
    Scope.ORIGIN: "origin",
}


class FillDriver:
    """The fill of `task` into `stored`. `progress` and `wait` follow it."""

    def __init__(
        self,
        engine: Engine,
        stored: StoredTitle,
        task: FillTask,
        wake: Callable[[], object],
        threads: OriginThreads,
        log: logging.Logger,
        origins: Origins,
        record: FillRecord | None = None,
        reuse: Reuse | Salvage | None = None,
        copies: trio.CapacityLimiter | None = None,
    ) -> None:
        """`wake` has the engine polled; `threads` read from `origins`. `reuse` is what
        need not be fetched, of which the engine knows already, and `copies` limits how many copy side by side.
        """
        self.task = task
        self.stored = stored
        self.manifest = stored.manifest
        self.title_id = task.title_id
        selection = stored.selection
        self._files = 0 if selection is None else selection.count()
        self._wanted_bytes = stored.wanted_bytes  # as they are now: once this fill is over, more may be ordered
        self.done = trio.Event()
        """Set when the title is live or the fill has failed."""
        self.ended = trio.Event()
        """Set when nothing is read, written or committed any more."""
        self._before = stored.tally
        self.started_at = self._before.started_at or time.time()
        # The times of the fill that a repair mends stand.
        self.finished_at = self._before.finished_at if stored.live else 0.0
        self.bounds = ErrorBoundary(log, f"fill title {self.manifest.name!r}", self.fail)
        self._engine = engine
        self._wake = wake
        self._threads = threads
        self._reads: dict[OriginRead, tuple[str, Receive]] = {}
        """Origin and chunk of each read whose end the engine has yet to be told."""
        self._log = log
        self._record = record
        self._reuse = reuse
        self._copies = copies
        self._nursery: trio.Nursery | None = None
        self._early: list[ReadOrigin | Commit | BeginWriteOut | GoLive] = []
        """What was to be done before `run` had begun."""
        self._samples: deque[tuple[float, int]] = deque(maxlen=RATE_SAMPLES_MAX)
        self._token: trio.lowlevel.TrioToken | None = None
        self._origins = origins
        origins.found = self._found
        origins.has_no_range = self._has_no_range
        task.origin_news = self._origins.take_news
        task.origins_held_back = self._origins.take_held_back

    # ---- for people and for programs that embed the node

    @property
    def fill(self) -> Fill:
        """The fill logic."""
        return self.task.fill

    @property
    def state(self) -> TitleState:
        """Where the fill stands."""
        return self.task.state

    @property
    def error(self) -> str:
        """Why it has failed, if so."""
        return self.task.error

    async def progress(self, interval_s: float = 0.5) -> AsyncIterator[TitleReport]:
        """Yield a report every `interval_s` seconds, and a last one when the title is live or the fill has failed."""
        while not self.done.is_set():
            yield self.report()
            with trio.move_on_after(interval_s):
                await self.done.wait()
        yield self.report()

    async def wait(self) -> None:
        """Wait until the title is live. Raises `StoreError`, `TransferError` or `InternalError` where it cannot be."""
        await self.done.wait()
        if self.task.fault is not None:
            raise self.task.fault

    @property
    def origin_urls(self) -> list[str]:
        """The URLs of its origins, what is secret in them included."""
        return self._origins.urls()

    def set_origins(self, urls: Iterable[str], costs: Mapping[str, float] | None = None) -> None:
        """Use these origins besides those already known. `costs` is for a gigabyte; those not named are free."""
        with self.bounds:
            self._engine.set_origins(trio.current_time(), self.task, self._origins.add(urls), costs)
        self._wake()

    def set_route_costs(self, costs: Mapping[str, float]) -> None:
        """Note what bytes of other caches cost by their routes; those not named cost nothing that is known."""
        with self.bounds:
            self._engine.set_route_costs(trio.current_time(), self.task, costs)
        self._wake()

    def set_members(
        self,
        members: Iterable[NodeInfo],
        unlinked: Iterable[str] = (),
        wants: Wants = ALL_WANTED,
        soon: Iterable[str] = (),
    ) -> None:
        """Take in the caches that want this title, and the ids of those that this one is not to be linked with.

        `wants` are the chunks of each that wants some only, `soon` those whose fill windows open in a moment.
        """
        with self.bounds:
            self._engine.set_members(trio.current_time(), self.task, members, tuple(unlinked), wants, soon)
        self._wake()

    def set_policy(self, policy: FillPolicy) -> None:
        """Go by another policy."""
        with self.bounds:
            self._engine.set_policy(trio.current_time(), self.task, policy)
        self._wake()

    def withdraw(self) -> None:
        """Stop filling; what is verified stays on disk for another time. A repair goes on: the title is served."""
        if not self.task.repairs:
            self.stop()

    def stop(self) -> None:
        """Stop filling, or repairing, for now."""
        self._engine.withdraw(trio.current_time(), self.task)
        self._wake()

    def fail(self, error: P2PFillError) -> None:
        """Give up: the disk will not take this title, or something in it went wrong."""
        self._engine.fail(trio.current_time(), self.task, error)
        self._wake()

    # ---- what the engine wants done

    async def run(self) -> None:
        """Do what the engine wants done, until the fill is over. What is verified is committed, also when cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._reuse is not None:
                    nursery.start_soon(self.bounds.run, partial(self._copy_all, self._reuse))
                early, self._early = self._early, []
                for effect in early:
                    self.perform(effect)
                await self.done.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            try:
                with self.bounds:
                    self._give_up_reads()
                with self.bounds:
                    await self._finish()
            finally:
                if self._record is not None:
                    self._record.close()
                self.ended.set()

    async def _finish(self) -> None:
        # Threads that read from origins look at this, so that a node that stops does not wait for a slow one.
        self.task.stop_reads()
        self._origins.close()
        chunks, self.task.to_commit = self.task.to_commit, []
        if chunks and self.stored.takes_writes and not isinstance(self.task.fault, StoreError):
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._store, chunks, self.tally())

    def perform(self, effect: ReadOrigin | Commit | BeginWriteOut | GoLive | EndFill) -> None:
        """Begin with what the engine wants done."""
        if isinstance(effect, EndFill):
            self._note_end()
            self.done.set()
        elif self._nursery is None:
            if not self.done.is_set():
                self._early.append(effect)
        elif isinstance(effect, ReadOrigin):
            self._begin_read(effect.url, effect.receive)
        else:
            try:
                self._nursery.start_soon(self.bounds.run, self._work_for(effect))
            except RuntimeError:
                # It has just been closed: the fill ends, and what is verified is committed by `_finish`.
                if isinstance(effect, Commit):
                    self.task.to_commit.extend(effect.chunks)

    def _note_end(self) -> None:
        # Not with the effect alone: whoever sees that it is over before that is performed would see no end.
        if self.task.is_over:
            self.finished_at = self.finished_at or time.time()

    def _work_for(self, effect: Commit | BeginWriteOut | GoLive) -> Callable[[], Awaitable[None]]:
        match effect:
            case Commit(_, chunks):
                return lambda: self._commit(chunks)
            case BeginWriteOut(_, chunks):
                return lambda: self._begin_write_out(chunks)
            case _:
                return self._go_live

    async def _copy_all(self, reuse: Reuse | Salvage) -> None:
        """Copy what another version of the title holds, a slice at a time; what is not right there is fetched."""
        step = max(1, REUSE_BYTES // self.manifest.chunk_size)
        for first in range(0, len(reuse.chunks), step):
            chunks = reuse.chunks[first : first + step]
            copied: list[int] = []
            try:
                await trio.to_thread.run_sync(lambda: copied.extend(filter(reuse.copy, chunks)), limiter=self._copies)  # noqa: B023
            finally:
                failed = [chunk for chunk in chunks if chunk not in copied]
                self._engine.reused(trio.current_time(), self.task, copied, failed)
                self._wake()

    async def _commit(self, chunks: list[int]) -> None:
        began = trio.current_time()
        # Shielded: chunks that are on the way to the thread must not be lost to a cancel.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._store, chunks, self.tally())
        now = trio.current_time()
        self._engine.committed(now, self.task, chunks, now - began)
        self._wake()

    def _store(self, chunks: list[int], tally: Tally) -> None:
        self.stored.commit(chunks)
        self.stored.keep_tally(tally)

    async def _begin_write_out(self, chunks: list[int]) -> None:
        # In a thread that waits where the disk's queue is full: what comes meanwhile goes with the next call.
        # The fill does not need it: what is wrong with the disk, the commit says.
        async with ErrorBoundary(self._log, f"begin to write out {self.manifest.name!r}"):
            await trio.to_thread.run_sync(self.stored.begin_write_out, chunks)
        self._engine.write_out_begun(trio.current_time(), self.task)
        self._wake()

    async def _go_live(self) -> None:
        tally = self.tally()

        def show() -> None:
            self.stored.go_live()
            self.stored.keep_tally(msgspec.structs.replace(tally, finished_at=tally.finished_at or time.time()))

        try:
            await trio.to_thread.run_sync(show)
        except StoreError:
            if self.stored.have.all():
                raise
            self._engine.not_whole(trio.current_time(), self.task)  # a chunk was found bad meanwhile
        else:
            self._engine.went_live(trio.current_time(), self.task)
        self._wake()

    def _begin_read(self, name: str, receive: Receive) -> None:
        """Have a chunk read from an origin."""
        read = OriginRead(
            lambda: self._read(name, receive),
            lambda: self._engine.urgency(self.title_id),
            lambda arrival, error: self._read_ended(read, arrival, error),
        )
        self._reads[read] = name, receive

        def failed(error: P2PFillError) -> None:
            self._read_ended(read, Arrival(receive, Outcome.BROKEN, 0, str(error)))

        with ErrorBoundary(self._log, f"begin to read chunk {receive.chunk} from {name}", failed):
            self._threads.begin(read)

    def _read(self, name: str, receive: Receive) -> Arrival:
        """Read a chunk from an origin, in a thread; whatever that raises is the origin's fault, or the disk's."""
        arrival = Arrival(receive, Outcome.WITHDRAWN, 0, "given up")

        def failed(error: P2PFillError) -> None:
            nonlocal arrival
            wasted_bytes = error.bytes_received if isinstance(error, OriginError) else 0
            arrival = Arrival(receive, Outcome.BROKEN, wasted_bytes, told(error))
            self._origins.say(name, error)

        with ErrorBoundary(self._log, f"read chunk {receive.chunk} from {name}", failed, logging.DEBUG):
            arrival = self._origins.read(name, receive)
        return arrival

    def _read_ended(self, read: OriginRead, arrival: Arrival | None, error: BaseException | None = None) -> None:
        """Tell the engine, once, what came of a read; None: it is not wanted any more."""
        if (known := self._reads.pop(read, None)) is None:
            return
        name, receive = known
        with self.bounds:
            try:
                given_up = Arrival(receive, Outcome.WITHDRAWN, 0, "given up")
                self._engine.read_ended(trio.current_time(), self.task, name, arrival or given_up)
                self._wake()
            finally:
                if error is not None:
                    raise error

    def _give_up_reads(self) -> None:
        """Leave the threads that read to themselves: they look at what they read for, and write nothing any more."""
        for read in list(self._reads):
            self._threads.give_up(read)
            self._read_ended(read, None)

    def _found(self, name: str, chunk: int) -> None:
        """Tell the engine of a chunk that came on the way to another one. Callable from any thread."""
        self._soon(lambda now: self._engine.chunk_found(now, self.task, chunk, name))

    def _has_no_range(self, name: str) -> None:
        """Tell the engine of an origin that answers with whole files, and wait for what it makes of that.

        Callable from any worker thread. The answer of a whole file has begun, and if another cache is to read it for
        all, each moment costs megabytes.
        """
        decided = threading.Event()
        self._soon(lambda now: self._engine.origin_without_range(now, self.task, name), decided.set)
        decided.wait(DECIDE_S)

    def _soon(self, tell: Callable[[float], None], then: Callable[[], object] | None = None) -> None:
        """Have the event loop call `tell`, and `then` when the engine has been polled after it."""

        def in_loop() -> None:
            with self.bounds:
                tell(trio.current_time())
            self._wake()
            if then is not None:
                trio.lowlevel.current_trio_token().run_sync_soon(in_next_turn, then)

        # A turn later: what has just been woken, and polls the engine, has run by then.
        def in_next_turn(then: Callable[[], object]) -> None:
            trio.lowlevel.current_trio_token().run_sync_soon(then)

        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(in_loop)

    # ---- what others are told

    def _rate(self, have_bytes: int) -> float:
        """Return bytes per second since a report at least `RATE_SPAN_S` ago."""
        now = trio.current_time()
        self._samples.append((now, have_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_SPAN_S:
            self._samples.popleft()
        began, before = self._samples[0]
        return (have_bytes - before) / max(now - began, 1e-3) if not self.done.is_set() else 0.0

    def tally(self) -> Tally:
        """Return what has come of the title from where, over this fill and those before it on this disk."""
        fill, before = self.fill, self._before
        return Tally(
            bytes_peer=before.bytes_peer + fill.bytes_by_scope[Scope.CLUSTER] + fill.bytes_by_scope[Scope.ISP],
            bytes_regional=before.bytes_regional + sum(fill.bytes_by_scope[s] for s in (Scope.REGION, Scope.WORLD)),
            bytes_origin=before.bytes_origin + fill.bytes_by_scope[Scope.ORIGIN],
            duplicate_bytes=before.duplicate_bytes + fill.duplicate_bytes,
            reused_bytes=before.reused_bytes + fill.reused_bytes,
            escalations=dict(Counter(before.escalations) + fill.escalations),
            started_at=self.started_at,
            finished_at=self.finished_at,
        )

    def report(self) -> TitleReport:
        """Return how far this fill is, for the tracker."""
        self._note_end()
        fill = self.task.fill
        wanted = fill.ledger.wanted
        have, count = (fill.ledger.have & wanted).count(), wanted.count()
        # All chunks but a few are of one length.
        have_bytes = self._wanted_bytes * have // max(count, 1)
        sources = [_source_report(source, "ok", self._origins) for source in fill.sources.values()]
        sources += [_source_report(source, "lost", self._origins) for source in fill.past.values()]
        # A tracker refuses the whole heartbeat where one title in it breaks a bound.
        del sources[limits.REPORT_SOURCES_MAX :]
        return TitleReport(
            title=self.title_id.hex(),
            # One that cannot be repaired now is served as far as it is good, and tried again.
            state="repairing" if self.task.repairs and self.state == "failed" else self.state,
            chunk_count=count,
            have_chunks=have,
            have_bytes=have_bytes,
            title_bytes=self._wanted_bytes,
            files=self._files,
            rate_bytes_s=self._rate(have_bytes),
            waits=fill.waits(),
            sources=sources,
            error=self.error,
            **msgspec.structs.asdict(self.tally()),
        )


class FillRecord:
    """A file to which a fill's life is written (`swarm.recording`); what the disk refuses ends it, not the fill."""

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._log = log
        self._file: IO[bytes] | None = None
        try:
            self._file = path.open("wb", buffering=RECORD_BUFFER_BYTES)
        except OSError as error:
            log.error("cannot record the fill to %s: %s; it goes on without", path, error.strerror)

    def write(self, line: bytes) -> None:
        """Write one line."""
        if self._file is None:
            return
        try:
            self._file.write(line)
        except OSError as error:
            self._log.error("the recording of a fill ends here: %s; the fill goes on", error.strerror)
            self.close()

    def close(self) -> None:
        """End the recording. May be called twice."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # said when it was written, or not worth a fill
                file.close()


def make_fill(
    stored: StoredTitle,
    me: NodeInfo,
    policy: FillPolicy,
    now: float,
    log: logging.Logger,
    directory: str,
    *,
    heard: bool,
) -> tuple[Fill, FillRecord | None]:
    """Return the fill logic for a title on disk; with a `directory` its life is recorded there."""
    manifest = stored.manifest
    seed = f"{me.id}{manifest.title_id.hex()}"
    chance = random.Random(seed)  # noqa: S311 (tie-breaking only)
    have, wanted = stored.have.copy(), None if stored.selection is None else stored.wanted
    if not directory or not stored.takes_writes:
        return Fill(manifest, me, policy, chance, now, have, heard=heard, wanted=wanted), None
    name = f"{me.id}-{manifest.title_id.hex()[:16]}-{time.time_ns()}.fill-record"
    record = FillRecord(Path(directory) / name, log)
    logic = RecordingFill(
        record.write, seed, manifest, me, policy, chance, now, have, heard=heard, wanted=wanted
    )
    return logic, record


def _source_report(source: Source, state: str, origins: Origins) -> SourceReport:
    reason = source.barred_reason
    if source.quarantined:
        state = "quarantined"
    elif state == "lost":
        reason = reason or "the link to it has ended"
    elif source.is_slow:
        state = "slow"
    elif source.fault_reason:
        state = "failing"
        reason = source.fault_reason
    elif trouble := origins.trouble(source.id):
        state, reason = "failing", reason or trouble
    else:
        reason = reason or origins.remark(source.id)
    return SourceReport(
        id=clipped(source.id),
        tier=TIER_OF_SCOPE[source.scope],
        bytes=source.bytes_kept,
        rate_bytes_s=source.rate_bytes_s,
        in_flight=len(source.requests),
        state=state,
        reason=clipped(reason),
    )
