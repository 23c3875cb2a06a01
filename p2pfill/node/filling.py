"""One title being filled: the driver of `swarm.Fill` against links, origins and the store.

All events go through `handle`; one task (`_pump`) asks the fill what to do and does it, so decisions never nest. Work
that blocks (origin reads, digests, commits) runs in worker threads and comes back as events. Commits are batched: one
sync and one journal record cover all chunks verified since the last.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

import trio

from p2pfill.errors import ConfigError, P2PFillError, StoreError, TransferError
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.pace import ANNOUNCE_S, COMMIT_INTERVAL_S, MEET_S, PROGRESS_S, WRITE_OUT_BYTES, slots_for
from p2pfill.model.reports import SourceReport, TitleReport, TitleState
from p2pfill.origin import OriginError, OriginObjectChanged, open_origin, verify_chunk
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.ledger import ChunkState
from p2pfill.swarm.recording import RecordingFill
from p2pfill.transport.data import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from p2pfill.model.policy import FillPolicy
    from p2pfill.node.node import Node
    from p2pfill.origin import Origin
    from p2pfill.store.title import StoredTitle
    from p2pfill.swarm.sources import Source

RECORD_BUFFER_BYTES: Final = 1024 * 1024
"""So seldom does a recording write to its file: the event loop waits for it, which is the price of a recording."""

RATE_SPAN_S: Final = 2.0
RATE_SAMPLES_MAX: Final = 64

_TIER: Final[dict[Scope, Literal["peer", "regional", "origin"]]] = {
    Scope.ISP: "peer",
    Scope.REGION: "regional",
    Scope.WORLD: "regional",
    Scope.ORIGIN: "origin",
}


class Filling:
    """The fill of `stored` on `node`, from the caches that links bring and from `origins` (URLs)."""

    def __init__(
        self,
        node: Node,
        stored: StoredTitle,
        policy: FillPolicy,
        origins: list[str],
        neighbours: Iterable[NodeInfo] = (),
    ) -> None:
        """`neighbours` are the caches that may hold a part of the title already."""
        self.stored = stored
        self.manifest = stored.manifest
        self.title_id: TitleId = stored.manifest.title_id
        self.state: TitleState = "live" if stored.live else "filling"
        self.error = ""
        self._fault: P2PFillError | None = None
        self.done = trio.Event()
        """Set when the title is live or the fill has failed."""
        self.started_at = time.time()
        self.finished_at = 0.0
        self._node = node
        now = trio.current_time()
        self._unheard = {neighbour.id for neighbour in neighbours} - {node.info.id}
        self._met = trio.Event()
        self._record: IO[bytes] | None = None
        self.fill = self._make_fill(policy, now)
        self._wake = trio.Event()
        self._late: list[events.Event] = []
        self._to_commit: list[int] = []
        self._begun = 0
        """How many of those the disk was told to begin with."""
        self._may_begin = trio.Event()
        self._to_announce: list[int] = []
        self._to_claim: list[int] = []
        self._has_news = trio.Event()
        self._samples: deque[tuple[float, int]] = deque(maxlen=RATE_SAMPLES_MAX)
        self._turns: dict[int, Turn] = {}
        self._slots = 0
        """Upload slots that this title may take."""
        self._open_slots()
        self._reading: dict[int, str] = {}
        """Request -> URL of the origin reads that are wanted; one that is taken out is cancelled."""
        self._arriving: set[str] = set()
        """Origins of which bytes have come since `_watch_progress` looked; worker threads add to it."""
        self._failing: dict[str, str] = {}
        """Origins that were asked in vain since then, and why; likewise."""
        self._origins_lock = threading.Lock()
        self._origins: dict[str, Origin | None] = {}
        """None until it is first read; a directory may be there on some caches only, or come to be."""
        self.set_origins(origins)

    def _make_fill(self, policy: FillPolicy, now: float) -> Fill:
        """Return the fill logic; with `NodeConfig.record` it writes down what goes in and what comes out."""
        info, directory = self._node.info, self._node.config.record
        seed = f"{info.id}{self.title_id.hex()}"
        chance = random.Random(seed)  # noqa: S311 (tie-breaking only)
        have, heard = self.stored.have.copy(), not self._unheard
        if not directory or self.stored.live:
            return Fill(self.manifest, info, policy, chance, now, have, heard=heard)
        path = Path(directory) / f"{info.id}-{self.title_id.hex()[:16]}-{time.time_ns()}.fill-record"
        try:
            self._record = path.open("wb", buffering=RECORD_BUFFER_BYTES)
        except OSError as error:
            self._node.log.error("cannot record the fill to %s: %s; it goes on without", path, error.strerror)
        return RecordingFill(self._write_record, seed, self.manifest, info, policy, chance, now, have, heard=heard)

    def _write_record(self, line: bytes) -> None:
        if self._record is None:
            return
        try:
            self._record.write(line)
        except OSError as error:
            self._node.log.error("the recording of a fill ends here: %s; the fill goes on", error.strerror)
            self._close_record()

    def _close_record(self) -> None:
        record, self._record = self._record, None
        if record is not None:
            with suppress(OSError):  # said when it was written, or not worth a fill
                record.close()

    # ---- input

    def handle(self, event: events.Event) -> None:
        """Take in an event now."""
        if not self.done.is_set():
            self.fill.handle(trio.current_time(), event)
            if self.fill.wants_poll:
                self._wake.set()
            if isinstance(event, events.ChunkReceived):
                self.note_moved()
                self._open_slots()

    def _open_slots(self) -> None:
        """Serve more receivers side by side the more there is to serve."""
        most, have = self._node.config.upload_slots, self.fill.ledger.counts
        slots = slots_for(have[ChunkState.VERIFIED] + have[ChunkState.DURABLE], most)
        if slots != self._slots:
            self._slots = slots
            self._node.plane.limit(self.title_id, slots if slots < most else None)

    def note_moved(self) -> None:
        """Note that payload of this title is arriving: less urgent ones wait."""
        self._node.note_moved(self.title_id)

    def handle_soon(self, event: events.Event) -> None:
        """Take in an event at the next turn: for use while actions are being performed."""
        self._late.append(event)
        self._wake.set()

    def set_origins(self, urls: list[str]) -> None:
        """Use these origins besides those already known."""
        for url in urls:
            if url not in self._origins:
                self._origins[url] = None
                self.handle(events.OriginConfigured(url))

    def set_members(self, members: Iterable[NodeInfo], unlinked: Sequence[str] = ()) -> None:
        """Take in the caches that want this title, and the ids of those that this one is not to be linked with."""
        self.handle(events.RosterChanged(tuple(members), tuple(unlinked)))

    def hear(self, neighbour: str) -> None:
        """Note that a cache has said what it holds, be it nothing."""
        self._unheard.discard(neighbour)
        if not self._unheard:
            self._met.set()

    def rate_of(self, source: str) -> float:
        """Return the measured rate of a source in bytes per second, 0 where there is none yet."""
        known = self.fill.sources.get(source)
        return known.rate_bytes_s if known is not None else 0.0

    def turn(self, chunk: int) -> Turn:
        """Return whose turn it is to write `chunk`, which has been requested."""
        return self._turns[chunk]

    def count_waste(self, length: int) -> None:
        """Count payload that came and was of no use."""
        self.fill.duplicate_bytes += length

    def abort(self, error: P2PFillError) -> None:
        """Give up: the disk will not take this title, or it was withdrawn."""
        if not self.done.is_set():
            self.state, self.error, self._fault = "failed", str(error), error
            self._finish()

    def withdraw(self) -> None:
        """Stop filling; what is verified stays on disk for another time."""
        self.abort(TransferError("the fill was withdrawn"))

    async def progress(self, interval_s: float = 0.5) -> AsyncIterator[TitleReport]:
        """Yield a report every `interval_s` seconds, and a last one when the title is live or the fill has failed."""
        while not self.done.is_set():
            yield self.report()
            with trio.move_on_after(interval_s):
                await self.done.wait()
        yield self.report()

    async def wait(self) -> None:
        """Wait until the title is live. Raises `StoreError` or `TransferError` where it cannot be."""
        await self.done.wait()
        if self._fault is not None:
            raise self._fault

    # ---- the fill's tasks

    async def run(self) -> None:
        """Fill until the title is live or cannot be. Verified chunks are committed also when cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_out_early)
                nursery.start_soon(self._commit_often)
                nursery.start_soon(self._tell_often)
                nursery.start_soon(self._watch_progress)
                nursery.start_soon(self._meet)
                nursery.start_soon(self._pump, nursery)
                try:
                    await self.done.wait()
                finally:
                    # Threads that read from origins look here; whoever stops does not wait for a slow one.
                    self._reading.clear()
                nursery.cancel_scope.cancel()
        finally:
            for origin in self._origins.values():
                if origin is not None:
                    origin.close()
            for link in self._node.peers.links():
                link.unwant(self)
            with trio.CancelScope(shield=True):
                await self._commit()
            self._close_record()

    async def _meet(self) -> None:
        with trio.move_on_after(MEET_S):
            while self._unheard:
                await self._met.wait()
        self.handle(events.NeighboursHeard())

    async def _pump(self, nursery: trio.Nursery) -> None:
        while not self.done.is_set():
            self._wake = trio.Event()
            late, self._late = self._late, []
            for event in late:
                self.handle(event)
            for action in self.fill.poll_actions(trio.current_time()):
                await self._perform(action, nursery)
            if self._late:
                continue
            deadline = self.fill.next_wakeup()
            with trio.move_on_at(deadline if deadline is not None else float("inf")):
                await self._wake.wait()

    async def _perform(self, action: actions.Action, nursery: trio.Nursery) -> None:
        match action:
            case actions.RequestChunk(request, source, chunk):
                self._turns.setdefault(chunk, Turn()).holder = request
                if source in self._origins:
                    self._reading[request] = source
                    nursery.start_soon(self._fetch, request, source, chunk)
                elif (link := self._node.peers.link(source)) is not None:
                    link.request(self, request, chunk)
                else:
                    self.handle_soon(events.RequestFailed(request, "not linked"))
            case actions.CancelRequest(request, source):
                # Its Turn passes to the next request of the chunk; until then nobody else writes it.
                if self._reading.pop(request, None) is None and (link := self._node.peers.link(source)):
                    link.cancel(self, request)
            case actions.AnnounceChunks(chunks):
                self._to_commit.extend(chunks)
                self._to_announce.extend(chunks)
                self._has_news.set()
                if (len(self._to_commit) - self._begun) * self.manifest.chunk_size >= WRITE_OUT_BYTES:
                    self._may_begin.set()
                if not self.fill.ledger.counts[0] and not self.fill.ledger.counts[1]:
                    nursery.start_soon(self._commit)
            case actions.ClaimChunks(chunks):
                self._to_claim.extend(chunks)
                self._has_news.set()
            case actions.ShowInterest(source, wanted):
                if (link := self._node.peers.link(source)) is not None:
                    link.show_interest(self, wanted)
            case actions.ReportSlow(node):
                for link in self._node.peers.links():
                    link.report_slow(self.title_id, node)
            case actions.ReportWays(closed, reason):
                if reason:
                    self._node.log.warning(
                        "the origin cannot be reached from here, others of the ISP take its part: %s", reason
                    )
                for link in self._node.peers.links():
                    link.report_ways(self.title_id, closed)
            case actions.CompleteTitle():
                self._tell()
                await self._go_live()

    async def _fetch(self, request: int, url: str, chunk: int) -> None:
        def read_and_write() -> events.Event:
            origin = self._open_origin(url)
            got = origin.read_chunk(
                self.manifest,
                chunk,
                lambda: request not in self._reading,
                lambda: self._arriving.add(url),
                lambda reason: self._failing.update({url: reason}),
            )
            try:
                verify_chunk(url, self.manifest, chunk, got.data)
            except OriginObjectChanged as error:
                return events.RequestFailed(request, str(error), got.bytes_received, corrupt=True)
            with self.turn(chunk).lock:
                if self.turn(chunk).holder != request or request not in self._reading:
                    return events.RequestFailed(request, "given up", got.bytes_received)
                self.stored.write_chunk(chunk, got.data)
            return events.ChunkReceived(request)

        try:
            # Left alone on cancel: it may be waiting for a byte, and writes nothing once it is out of `_reading`.
            event = await trio.to_thread.run_sync(
                read_and_write,
                limiter=self._node.origin_turns.limiter(lambda: self._node.urgency(self.title_id)),
                abandon_on_cancel=True,
            )
        except OriginError as error:
            event = events.RequestFailed(request, str(error), error.bytes_received)
        except ConfigError as error:
            event = events.RequestFailed(request, str(error))
        except StoreError as error:
            self.abort(error)
            return
        finally:
            self._reading.pop(request, None)
        self.handle(event)

    def _open_origin(self, url: str) -> Origin:
        """Return an origin, opened now where it was not. For worker threads. Raises `ConfigError`."""
        with self._origins_lock:
            origin = self._origins[url]
            if origin is None:
                origin = self._origins[url] = open_origin(url)
            return origin

    async def _tell_often(self) -> None:
        while True:
            await self._has_news.wait()
            self._has_news = trio.Event()
            self._tell()
            await trio.sleep(ANNOUNCE_S)

    def _tell(self) -> None:
        """Tell all linked caches what has happened here since the last time, as far as it concerns them."""
        gained, claimed = self._to_announce, self._to_claim
        self._to_announce, self._to_claim = [], []
        if gained or claimed:
            for link in self._node.peers.links():
                link.tell(self, gained, claimed)

    async def _watch_progress(self) -> None:
        while True:
            await trio.sleep(PROGRESS_S)
            for link in self._node.peers.links():
                link.report_progress()
            arriving, self._arriving = self._arriving, set()
            for url in arriving.intersection(self._reading.values()):
                self.handle(events.SourceProgressed(url))
            failing, self._failing = self._failing, {}
            for url, reason in failing.items():
                if url not in arriving:
                    self.handle(events.OriginFailing(url, reason))

    async def _write_out_early(self) -> None:
        """Have the disk begin with what is verified: between two commits it would wait, and then they for it.

        A fill of 1 GiB to a disk takes 0.78 of the time, with XXH3 alone 0.68, for as much processor time (medians of
        five by turns); one of 4 GiB, which the disk's rate bounds, as long, with commits of a ninth of the length.
        """
        while True:
            await self._may_begin.wait()
            self._may_begin = trio.Event()
            chunks, self._begun = self._to_commit[self._begun :], len(self._to_commit)
            if chunks:  # or a commit came first
                # In a thread that waits where the disk's queue is full: what comes meanwhile goes with the next call.
                await trio.to_thread.run_sync(self.stored.begin_write_out, chunks)

    async def _commit_often(self) -> None:
        took_s = 0.0
        while True:
            # Where a sync is slow, others wait for the same disk: it gets at most half of the time.
            await trio.sleep(max(COMMIT_INTERVAL_S, took_s))
            began = trio.current_time()
            await self._commit()
            took_s = trio.current_time() - began

    async def _commit(self) -> None:
        chunks, self._to_commit, self._begun = self._to_commit, [], 0
        if not chunks or isinstance(self._fault, StoreError):
            return
        try:
            # Shielded: chunks that were taken from the list must not be lost to a cancel on the way to the thread.
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.stored.commit, chunks)
        except StoreError as error:
            self.abort(error)
            return
        self.handle(events.ChunksCommitted(chunks))

    async def _go_live(self) -> None:
        self.state = "verifying"
        try:
            await trio.to_thread.run_sync(self.stored.go_live)
        except StoreError as error:
            self.abort(error)
            return
        self.state = "live"
        self._node.cached.note_used(self.title_id)
        self._finish()

    def _finish(self) -> None:
        self.finished_at = time.time()
        self.done.set()
        self._wake.set()
        self._node.yield_turn(self.title_id)

    # ---- what others are told

    def _rate(self, have_bytes: int) -> float:
        """Return bytes per second since a report at least `RATE_SPAN_S` ago."""
        now = trio.current_time()
        self._samples.append((now, have_bytes))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_SPAN_S:
            self._samples.popleft()
        began, before = self._samples[0]
        return (have_bytes - before) / max(now - began, 1e-3) if not self.done.is_set() else 0.0

    def report(self) -> TitleReport:
        """Return how far this fill is, for the tracker."""
        fill, ledger = self.fill, self.fill.ledger
        have = ledger.have.count()
        sources = [_source_report(source, "ok") for source in fill.sources.values()]
        sources += [_source_report(source, "lost") for source in fill.past.values()]
        return TitleReport(
            title=self.title_id.hex(),
            state=self.state,
            chunk_count=self.manifest.chunk_count,
            have_chunks=have,
            have_bytes=min(have * self.manifest.chunk_size, self.manifest.size),
            title_bytes=self.manifest.size,
            bytes_peer=fill.bytes_by_scope[Scope.ISP],
            bytes_regional=fill.bytes_by_scope[Scope.REGION] + fill.bytes_by_scope[Scope.WORLD],
            bytes_origin=fill.bytes_by_scope[Scope.ORIGIN],
            duplicate_bytes=fill.duplicate_bytes,
            rate_bytes_s=self._rate(min(have * self.manifest.chunk_size, self.manifest.size)),
            escalations=dict(fill.escalations),
            waits=fill.waits(),
            sources=sources,
            started_at=self.started_at,
            finished_at=self.finished_at,
            error=self.error,
        )


def _source_report(source: Source, state: str) -> SourceReport:
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
    return SourceReport(
        id=source.id,
        tier=_TIER[source.scope],
        bytes=source.bytes_kept,
        rate_bytes_s=source.rate_bytes_s,
        in_flight=len(source.requests),
        state=state,
        reason=reason,
    )
