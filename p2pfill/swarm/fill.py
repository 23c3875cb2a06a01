"""One title being filled on one cache: events in, actions out.

Contract: the driver calls `handle(now, event)` for all that happens, then performs all that `poll_actions(now)`
returns, and calls again no later than `next_wakeup()`. `now` never goes back. Nothing here reads a clock, and chance
comes from the `random.Random` that is passed in, so a recorded run replays to the same actions.

The rules, in the order in which they bind:

1. A chunk is asked of one source at a time (`ChunkLedger`), except for the last few (see `_steal`).
2. Tier order: a chunk that a trusted cache of the ISP holds is taken inside the ISP. One that nobody there holds may be
   taken from the region by the ISP's fill master for it, from another region by the region's, from the origin by the
   world's (`Duties`). Everyone else waits.
3. Masters that are lost, barred or stalled are left out of the election, so the next in rank takes over. A chunk taken
   on such grounds is an escalation and is counted with its reason.
4. Among the chunks that a source may deliver: rarest first; ties in an order that differs between caches.
5. Among sources: nearer before farther, then the least loaded.
"""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from p2pfill.errors import InternalError
from p2pfill.hot import bits
from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm import actions, events
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Duties, Scope
from p2pfill.swarm.ledger import ChunkLedger, ChunkState
from p2pfill.swarm.sources import Request, Source

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    from p2pfill.model.manifest import Manifest
    from p2pfill.model.node import NodeInfo
    from p2pfill.model.policy import FillPolicy

STALL_CHUNKS: Final = 8
"""A master counts as stalled after the time in which it used to deliver this many chunks (or the policy's wait)."""

COPIES_MAX: Final = 2
"""At most this many sources are asked for one chunk, and only for the last few chunks."""

ENDGAME_CHUNKS: Final = 4
"""Outstanding chunks at which a second source may be asked: bounds duplicates to this many chunks a fill."""

OVERDUE: Final = 4.0
"""A chunk is overdue after this many times what an idle peer would need for it."""

BACKOFF_S: Final = 0.5
"""A source that refuses is left alone this long; doubles with each fault in a row."""

DOUBLINGS_MAX: Final = 6
"""Stops the doubling at 64 times the first wait: half a minute after refusals, an hour after wrong digests."""

REFUSALS_MAX: Final = 3
"""After this many refusals in a row a source's holdings no longer count, so that its chunks are had elsewhere."""


class Fault(Enum):
    """What a source did wrong."""

    REFUSED = "refused"
    SILENT = "silent"
    CORRUPT = "corrupt"


_ESCALATION: Final = {
    Fault.REFUSED: "master-refusing",
    Fault.SILENT: "master-silent",
    Fault.CORRUPT: "master-quarantined",
}


class Fill:
    """The fill of `manifest` on the cache `me`, of which `durable` chunks are on disk already."""

    def __init__(
        self, manifest: Manifest, me: NodeInfo, policy: FillPolicy, random: Random, now: float, durable: Bitmap
    ) -> None:
        self.manifest = manifest
        self.me = me
        self.policy = policy
        self.ledger = ChunkLedger(manifest.chunk_count, durable)
        self.available = Availability(manifest.chunk_count)
        self.sources: dict[str, Source] = {}
        self.escalations: Counter[str] = Counter()
        self.bytes_by_scope: dict[Scope, int] = dict.fromkeys(Scope, 0)
        self.duplicate_bytes = 0
        self._random = random
        self._members: dict[str, NodeInfo] = {}
        self._nodes: dict[str, NodeInfo] = {}
        self._left_out: dict[str, str] = {}
        self._right = self._duties = Duties(manifest.title_id, manifest.chunk_count, me, ())
        self._duties_stale = False
        self._requests: dict[int, Request] = {}
        self._fresh: list[int] = []
        self._next_request = 0
        self._last_seen: dict[str, float] = {}
        self._out: deque[actions.Action] = deque()
        self._completed = False
        self._started = now

    # ---- input

    def handle(self, now: float, event: events.Event) -> None:
        """Take in one event. Events of unknown sources or withdrawn requests are ignored."""
        match event:
            case events.RosterChanged(members):
                self._members = {node.id: node for node in members}
                for node in members:
                    self._last_seen.setdefault(node.id, now)
                self._duties_stale = True
            case events.CacheConnected(node):
                self._connect(now, node)
            case events.OriginConfigured(url):
                full = Bitmap.full(self.manifest.chunk_count)
                self.sources.setdefault(url, Source(url, Scope.ORIGIN, full, now))
            case events.SourceLost(source, reason):
                self._lose_source(source, reason)
            case events.HoldingsArrived(source, holdings):
                self._gain(now, source, holdings.indexes())
            case events.ChunksGained(source, chunks) | events.ChunksClaimed(source, chunks):
                if isinstance(event, events.ChunksGained):
                    self._gain(now, source, chunks)
                self._saw_progress(now, source)
            case events.ChunkReceived(request):
                self._receive(now, request)
            case events.RequestFailed(request, reason, wasted_bytes, corrupt):
                self._fail(now, request, reason, wasted_bytes, corrupt)
            case events.ChunksCommitted(chunks):
                for chunk in chunks:
                    self.ledger.commit(chunk)
            case events.TimePassed():
                pass
            case _:
                raise InternalError(f"fill: unknown event {event!r}")

    # ---- output

    def poll_actions(self, now: float) -> list[actions.Action]:
        """Decide and return what to do now, in order."""
        if self._fresh:
            self._out.append(actions.AnnounceChunks(tuple(self._fresh)))
            self._fresh.clear()
        if not self._completed and self.ledger.is_complete():
            self._completed = True
            self._out.append(actions.CompleteTitle())
        elif not self._completed:
            self._expire(now)
            self._watch_masters(now)
            if self._duties_stale:
                self._elect()
            self._ask(now)
        done = list(self._out)
        self._out.clear()
        return done

    def next_wakeup(self) -> float | None:
        """Return when `poll_actions` must be called again though nothing happened; None where nothing is awaited."""
        if self._completed:
            return None
        times = [source.barred_until for source in self.sources.values() if source.barred_reason]
        times += [self._deadline(source) for source in self.sources.values() if source.requests]
        if self.policy.escalate:
            times += [self._last_seen[m] + self._patience() for m in self._members if self._may_stall(m)]
        return min(times, default=None)

    def waits(self) -> dict[str, int]:
        """Return how many chunks wait, by what they wait for. For people; counts every chunk that is not verified."""
        counts = self.ledger.counts
        missing = self.ledger.missing
        in_isp = missing & self.available.held[Scope.ISP]
        elsewhere = missing.and_not(self.available.held[Scope.ISP])
        mine = (elsewhere & self._duties.within[Scope.REGION]).count()
        waits = {
            "room at a peer": in_isp.count(),
            "the ISP's fill master": elsewhere.count() - mine,
            "a source beyond the ISP": mine,
            "bytes on their way": counts[ChunkState.REQUESTED],
        }
        return {reason: count for reason, count in waits.items() if count}

    # ---- sources come, go and misbehave

    def _connect(self, now: float, node: NodeInfo) -> None:
        if node.id in self.sources:
            self._lose_source(node.id, "linked anew")
        scope = Scope.WORLD
        if node.region == self.me.region:
            scope = Scope.ISP if node.isp == self.me.isp else Scope.REGION
        self.sources[node.id] = Source(node.id, scope, Bitmap(self.manifest.chunk_count), now, progress_at=now)
        self._last_seen[node.id] = now
        self._readmit(node.id)

    def _lose_source(self, source_id: str, reason: str) -> None:
        source = self.sources.pop(source_id, None)
        if source is None:
            return
        for request in list(source.requests.values()):
            self._drop(request)
        if source.counted and source.scope != Scope.ORIGIN:
            self.available.remove(source.scope, source.holdings.indexes())
        self._leave_out(source_id, f"master-lost: {reason}" if reason else "master-lost")

    def _bar(self, now: float, source_id: str, fault: Fault, reason: str) -> None:
        """Leave a source alone for a while, longer with each fault in a row, and give its requests to others."""
        source = self.sources.get(source_id)
        if source is None:
            return
        source.faults += 1
        first = {
            Fault.REFUSED: BACKOFF_S,
            Fault.SILENT: self.policy.request_timeout_s,
            Fault.CORRUPT: self.policy.quarantine_s,
        }[fault]
        source.barred_until = now + first * 2.0 ** min(source.faults - 1, DOUBLINGS_MAX)
        source.barred_reason = reason
        distrusted = fault is not Fault.REFUSED or source.faults >= REFUSALS_MAX
        if distrusted and source.counted and source.scope != Scope.ORIGIN:
            # What it alone holds must be had elsewhere, and so must what it is master of.
            source.counted = False
            self.available.remove(source.scope, source.holdings.indexes())
            self._leave_out(source_id, _ESCALATION[fault])
        for request in list(source.requests.values()):
            self._out.append(actions.CancelRequest(request.number, source_id))
            self._drop(request)

    def _unbar(self, source: Source) -> None:
        source.barred_reason = ""
        if not source.counted:
            source.counted = True
            self.available.add(source.scope, source.holdings.indexes())

    def _gain(self, now: float, source_id: str, chunks: Iterable[int]) -> None:
        source = self.sources.get(source_id)
        if source is None or source.scope == Scope.ORIGIN:
            return
        fresh = [chunk for chunk in chunks if not source.holdings[chunk]]
        for chunk in fresh:
            source.holdings.add(chunk)
        if source.counted:
            self.available.add(source.scope, fresh)
        self._saw_progress(now, source_id)

    def _saw_progress(self, now: float, source_id: str) -> None:
        self._last_seen[source_id] = now
        source = self.sources.get(source_id)
        if source is not None and source.counted:
            self._readmit(source_id)

    # ---- requests end

    def _receive(self, now: float, number: int) -> None:
        request = self._requests.get(number)
        if request is None:
            return
        source = self.sources[request.source]
        length = self.manifest.chunk_length(request.chunk)
        source.note_delivery(now, request, length)
        source.faults = 0
        self._last_seen[source.id] = now
        del self._requests[number], source.requests[number]
        if not self.ledger.verify(request.chunk):
            self.duplicate_bytes += length
            return
        self.bytes_by_scope[request.borders] += length
        self._cancel_copies(request.chunk)
        self._fresh.append(request.chunk)

    def _fail(self, now: float, number: int, reason: str, wasted_bytes: int, corrupt: bool) -> None:
        self.duplicate_bytes += wasted_bytes
        request = self._requests.get(number)
        if request is None:
            return
        self._drop(request)
        self._bar(now, request.source, Fault.CORRUPT if corrupt else Fault.REFUSED, reason)

    def _drop(self, request: Request) -> None:
        del self._requests[request.number]
        source = self.sources.get(request.source)
        if source is not None:
            source.requests.pop(request.number, None)
        self.ledger.release(request.chunk)

    def _cancel_copies(self, chunk: int) -> None:
        if not self.ledger.requests(chunk):
            return
        for copy in [r for r in self._requests.values() if r.chunk == chunk]:
            self._out.append(actions.CancelRequest(copy.number, copy.source))
            self._drop(copy)

    # ---- time

    def _patience(self) -> float:
        """Seconds without progress after which a master is passed over."""
        rates = [source.rate_bytes_s for source in self.sources.values() if source.rate_bytes_s]
        if not rates:
            return self.policy.stall_wait_s
        typical = sorted(rates)[len(rates) // 2]
        return max(self.policy.stall_wait_s, STALL_CHUNKS * self.manifest.chunk_size / typical)

    def _deadline(self, source: Source) -> float:
        oldest = min(request.asked_at for request in source.requests.values())
        wait = max(self.policy.request_timeout_s, self._patience())
        return max(oldest, source.delivered_at) + wait

    def _expire(self, now: float) -> None:
        for source in self.sources.values():
            if source.barred_reason and now >= source.barred_until:
                self._unbar(source)
            if source.requests and now >= self._deadline(source):
                self._bar(now, source.id, Fault.SILENT, "delivered nothing in time")

    def _may_stall(self, member: str) -> bool:
        if member == self.me.id or member in self._left_out:
            return False
        source = self.sources.get(member)
        return source is None or not source.holdings.all()

    def _watch_masters(self, now: float) -> None:
        if not self.policy.escalate:
            return
        for member in self._members:
            if self._may_stall(member) and now >= self._last_seen[member] + self._patience():
                self._leave_out(member, "master-stalled" if member in self.sources else "master-unreachable")

    # ---- election

    def _leave_out(self, node: str, reason: str) -> None:
        if node in self._members and node not in self._left_out:
            self._left_out[node] = reason
            self._duties_stale = True

    def _readmit(self, node: str) -> None:
        if self._left_out.pop(node, None) is not None:
            self._duties_stale = True

    def _elect(self) -> None:
        self._duties_stale = False
        title, count = self.manifest.title_id, self.manifest.chunk_count
        self._left_out = {node: why for node, why in self._left_out.items() if node in self._members}
        self._right = self._duties = Duties(title, count, self.me, self._members.values())
        if self._left_out:
            present = [node for node in self._members.values() if node.id not in self._left_out]
            self._duties = Duties(title, count, self.me, present)

    def _escalated(self, request: Request) -> None:
        if request.borders <= self._right.reach(request.chunk):
            return
        reasons = sorted(set(self._left_out.values()))
        self.escalations[reasons[0] if reasons else "roster-unknown"] += 1

    # ---- decisions

    def _wanted(self, scope: Scope) -> Bitmap:
        """Return the missing chunks that may be asked of a source in `scope`: rule 2."""
        if scope == Scope.ISP:
            return self.ledger.missing
        return (self.ledger.missing & self._duties.within[scope]).and_not(self.available.held_within(scope))

    def _ask(self, now: float) -> None:
        size = self.manifest.chunk_size
        open_sources = [s for s in self.sources.values() if not s.barred_reason and s.room(size) > 0]
        claimed: list[int] = []
        for scope in Scope:
            ready = [source for source in open_sources if source.scope == scope]
            if not ready:
                continue
            wanted = self._wanted(scope)
            while ready:
                source = min(ready, key=lambda s: (s.load(), len(s.requests)))
                chunk = self._pick(source, wanted)
                if chunk < 0:
                    ready.remove(source)
                    self._steal(now, source)
                    continue
                self._request(now, source, chunk)
                wanted.discard(chunk)
                if scope != Scope.ISP:
                    claimed.append(chunk)
                if source.room(size) <= 0:
                    ready.remove(source)
        if claimed:
            self._out.append(actions.ClaimChunks(tuple(claimed)))

    def _pick(self, source: Source, wanted: Bitmap) -> int:
        start = self._random.randrange(self.manifest.chunk_count)
        rarity = self.available.count[Scope.WORLD]
        return bits.pick_rarest(source.holdings.buffer, wanted.buffer, rarity, start)

    def _request(self, now: float, source: Source, chunk: int) -> None:
        self._next_request += 1
        request = Request(self._next_request, source.id, chunk, now, source.scope)
        self.ledger.request(chunk)
        self._requests[request.number] = source.requests[request.number] = request
        self._escalated(request)
        self._out.append(actions.RequestChunk(request.number, source.id, chunk))

    def _steal(self, now: float, idle: Source) -> None:
        """Ask an idle peer for one of the last few chunks, where a slower source owes it for too long.

        Only inside the ISP: a second copy must not cross a border.
        """
        few = not self.ledger.counts[ChunkState.MISSING] and len(self._requests) <= ENDGAME_CHUNKS
        if not few or idle.scope != Scope.ISP or idle.requests or not idle.rate_bytes_s:
            return
        needs_s = self.manifest.chunk_size / idle.rate_bytes_s
        for request in sorted(self._requests.values(), key=lambda r: r.asked_at):
            late = now - request.asked_at > OVERDUE * needs_s
            if late and idle.holdings[request.chunk] and self.ledger.requests(request.chunk) < COPIES_MAX:
                self._request(now, idle, request.chunk)
                return
