"""One title being filled on one cache: events in, actions out.

Contract: the driver calls `handle(now, event)` for all that happens, then performs all that `poll_actions(now)`
returns, and calls again no later than `next_wakeup()`. `now` never goes back. Nothing here reads a clock, and chance
comes from the `random.Random` that is passed in, so a recorded run replays to the same actions.

The rules, in the order in which they bind:

1. A chunk is asked of one source at a time (`ChunkLedger`): nothing is sent twice on purpose, also not at the end.
2. Tier order: a chunk that a trusted cache of the ISP holds is taken inside the ISP. One that nobody there holds may be
   taken from the region by the ISP's fill master for it, from another region by the region's, from the origin by the
   world's (`Assignment`). Everyone else waits.
3. Masters that are lost, barred, stalled, far behind, or cannot reach what is to be had, are left out of the election,
   so the next in rank takes over. A chunk taken on such grounds is an escalation and is counted with its reason.
4. Among the chunks that a source may deliver: rarest first; ties in an order that differs between caches.
5. Among sources: nearer before farther, then the least loaded, then the one whose route costs least.

The fleet's policy narrows rule 2 and nothing widens it again: what it forbids is no source, and what waits is not asked
for (`swarm.hops`).

Above all of them stand more urgent titles of the same cache and its fill windows (`swarm.scheduler`): between `Paused`
and `Resumed` nothing is asked for, and no time passes for what waits. What is in flight goes on, unless it is
`HandedBack`, and others are told of it as ever.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from p2pfill.errors import InternalError
from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm import actions, events
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import IN_ISP, IN_ORIGIN, IN_WORLD, Scope
from p2pfill.swarm.faults import BACKOFF_S, ESCALATION, REFUSALS_MAX, Fault, rest_s
from p2pfill.swarm.hops import NO_MATES, Hops, Mates, Outside, is_allowed, is_as_allowed
from p2pfill.swarm.interest import Interest
from p2pfill.swarm.ledger import ChunkLedger
from p2pfill.swarm.losses import Losses
from p2pfill.swarm.masters import Masters
from p2pfill.swarm.minimum import MinimumService
from p2pfill.swarm.moves import find_lines, find_overdue, find_waiting
from p2pfill.swarm.pacing import crossing_s, patience_s, unanswered_s
from p2pfill.swarm.scheduler import Hold
from p2pfill.swarm.slow_votes import SlowVotes
from p2pfill.swarm.sources import (
    LEAST_RATE_BYTES_S,
    NEVER,
    SLOW,
    Request,
    Source,
    cheapest,
    find_crawling,
    find_slow,
    origin_window,
)  # fmt: skip
from p2pfill.swarm.waits import count_waits
from p2pfill.swarm.ways import Ways

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from random import Random

    from p2pfill.model.manifest import Manifest
    from p2pfill.model.node import NodeInfo
    from p2pfill.model.policy import FillPolicy

TICK_S: Final = 0.25
"""How often deadlines and silent masters are looked at; all the waits concerned are seconds."""

LATE_S: Final = 0.5
"""A cache that is itself so late with a look was held up and has not heard of others meanwhile: it judges nobody."""

BELOW_MINIMUM: Final = "below-minimum"
"""Why a chunk is fetched though a nearer cache holds it (`swarm.minimum`)."""

BUSY: Final = "refused: it is busy with its viewers"
"""What is said of a cache that has no room for a request, or for none at all."""

FULL: Final = "its link has as many requests as it may"
"""What is said of a cache that was left alone for that."""

PAST_SOURCES_MAX: Final = 256
"""Lost sources that are remembered, the latest; a fleet that churns must not fill memory."""


class Fill:
    """The fill of `manifest` on the cache `me`, of which `durable` chunks are on disk already."""

    def __init__(
        self,
        manifest: Manifest,
        me: NodeInfo,
        policy: FillPolicy,
        random: Random,
        now: float,
        durable: Bitmap,
        *,
        heard: bool = True,
        wanted: Bitmap | None = None,
    ) -> None:
        """Only the chunks that are `wanted` are fetched, all where it is None.

        Without `heard` nothing is asked for across a border before `NeighboursHeard`: a cache that comes late would
        otherwise fetch what its neighbours hold, before it knows them.
        """
        self.manifest = manifest
        self.me = me
        self.policy = policy
        self.ledger = ChunkLedger(manifest.chunk_count, durable, wanted)
        self.available = Availability(manifest.chunk_count)
        self.sources: dict[str, Source] = {}
        self.past: dict[str, Source] = {}
        """Sources that were lost, with all that was learnt of them."""
        self.escalations: Counter[str] = Counter()
        self.bytes_by_scope: dict[Scope, int] = dict.fromkeys(Scope, 0)
        self.duplicate_bytes = 0
        self.reused_bytes = 0
        self._random = random
        self._chunk_count, self._chunk_size = manifest.chunk_count, manifest.chunk_size
        self._start_bits = manifest.chunk_count.bit_length()
        self._heard = heard
        self.hold: Hold = None
        """Why nothing is asked for, if so."""
        self._rests = False
        """Others know that it needs no news."""
        self._masters = Masters(manifest.title_id, manifest.chunk_count, me)
        self.hops = Hops(policy.reach, manifest.chunk_count, me)
        self._minimum = MinimumService(policy.reach)
        self._joined: set[int] = set()
        """Requests for chunks that nearer caches hold, and give too slowly."""
        self._outside = Outside()
        self._roster = events.RosterChanged((me,))
        """The last one."""
        self._slow_votes = SlowVotes()
        self._losses = Losses()
        self.ways = Ways()
        self._interest = Interest(manifest.chunk_count)
        self._starved_at: float | None = None
        """Since when nothing has been outstanding though chunks are missing."""
        self._freed = Bitmap(manifest.chunk_count)
        """Chunks that this cache may fetch from anywhere, since those who should have did not."""
        self._requests: dict[int, Request] = {}
        self._copied: set[int] = set()
        """Chunks that are being copied from another version of the title: REQUESTED, though of no source."""
        self._of_unknown: set[int] = set()
        """Chunks that were found, and of whom they came is not known yet."""
        self._fresh: list[int] = []
        self._stale = True
        """Something has happened that may concern all sources since requests were last thought about."""
        self._untold = False
        """Somebody has come who was not told what this cache needs news of."""
        self._changed: dict[str, None] = {}
        """Sources that have gained chunks or room since then: a source of which nothing could be asked is not looked at
        again before something changes about it, or the next tick, which looks at all."""
        self._next_request = 0
        self._tick_at = now
        self._patience_s = policy.stall_wait_s
        self._masters.claims.time_s = policy.stall_wait_s + manifest.chunk_size / LEAST_RATE_BYTES_S
        self._has_prices = False
        """Whether it is known what any origin costs."""
        self._route_costs: dict[str, float] = {}
        self._out: list[actions.Action] = []
        self._completed = False

    # ---- input

    def handle(self, now: float, event: events.Event) -> None:
        """Take in one event. Events of unknown sources or withdrawn requests are ignored."""
        if self._outside.sources and self._outside.takes(event):
            return
        kind = type(event)
        take = _TAKES.get(kind)
        if take is None:
            raise InternalError(f"fill: unknown event {event!r}")
        if kind not in _QUIET:
            self._stale = True
        take(self, now, event)

    # What each event is taken for, where it is more than a call; `_TAKES` names all.

    def _take_holdings(self, now: float, event: events.HoldingsArrived) -> None:
        self._changed[event.source] = None
        # An answer may be the last that a doubt has waited for.
        self._stale = self._stale or self._interest.doubtful.any()
        self._hold(now, event.source, event.holdings)

    def _take_connection(self, now: float, event: events.CacheConnected) -> None:
        if event.node.id in self.sources:
            self._stale = True
        else:
            self._untold = True
        self._connect(now, event.node)

    def _take_roster(self, now: float, event: events.RosterChanged) -> None:
        self._roster = event
        self._set_members(now)

    def _take_origin(self, now: float, event: events.OriginConfigured) -> None:
        self._add_origin(Source(event.url, Scope.ORIGIN, Bitmap.full(self.manifest.chunk_count), now))
        if Scope.ORIGIN in self.ways.closed:
            self._tick_at = now  # before it is asked: with it the way is open again

    def _take_price(self, _: float, event: events.OriginPriced) -> None:
        if (origin := self.sources.get(event.source)) is not None:
            origin.cost, self._has_prices = event.cost, True

    def _take_routes(self, _: float, event: events.RoutesPriced) -> None:
        self._route_costs = event.costs
        for one in self.sources.values():
            one.route_cost = event.costs.get(one.id, 0.0)

    def _take_loss(self, now: float, event: events.SourceLost) -> None:
        if (lost := self.sources.get(event.source)) is not None:
            self._lose_source(now, event.source, event.reason)
            self._judge_loss(now, lost)

    def _take_heard(self, _: float, event: events.NeighboursHeard | events.OthersUnaware) -> None:
        self._heard = isinstance(event, events.NeighboursHeard)

    def _take_interest(self, _: float, event: events.InterestShown) -> None:
        if event.source in self.sources:
            self.sources[event.source].interest = event.chunks

    def _take_ways(self, now: float, event: events.WaysReported) -> None:
        if event.source in self.sources or event.source in self._outside:
            self._masters.set_ways(now, event.source, frozenset(event.closed))

    def _take_held_back(self, now: float, event: events.SourceHeldBack) -> None:
        if (known := self.sources.get(event.source)) is not None:
            known.held_back_at = now
        self._progress(now, event.source)

    def _take_failing(self, now: float, event: events.OriginFailing) -> None:
        if (origin := self.sources.get(event.source)) is not None:
            origin.is_failing, origin.fault_reason = True, event.reason
            self._tick_at = now

    def _take_without_range(self, now: float, event: events.OriginWithoutRange) -> None:
        if (origin := self.sources.get(event.source)) is not None:
            origin.has_range = False
            self._tick_at = now

    def _take_reuse(self, _: float, event: events.ReuseBegun) -> None:
        for chunk in event.chunks:
            self.ledger.request(chunk)
        self._copied.update(event.chunks)

    def _take_commit(self, _: float, event: events.ChunksCommitted) -> None:
        for chunk in event.chunks:
            if self.ledger.is_to_commit(chunk):  # else it was lost since
                self.ledger.commit(chunk)

    def _take_pause(self, _: float, event: events.Paused) -> None:
        self.hold = event.hold

    # ---- output

    @property
    def is_held(self) -> bool:
        """Whether nothing is to be asked for now."""
        return self.hold is not None

    @property
    def is_at_rest(self) -> bool:
        """Whether its fill window is closed and nothing is in flight: no time passes for it."""
        return self.hold == "window" and not self._requests

    @property
    def wants_poll(self) -> bool:
        """Whether `poll_actions` would do something now, apart from what only time brings."""
        # Asked with each message: what is so most often comes first.
        if self._out or self._fresh or self._untold:
            return True
        if self.hold == "window" and not self._requests:  # at rest
            return not self._rests or self.ledger.is_complete() != self._completed
        return self._stale or bool(self._changed) or self.ledger.is_complete() != self._completed

    def poll_actions(self, now: float) -> list[actions.Action]:
        """Decide and return what to do now, in order."""
        if self._fresh:
            self._out.append(actions.AnnounceChunks(tuple(self._fresh)))
            self._fresh.clear()
        if self._completed:
            pass
        elif self.ledger.is_complete():
            self._completed = True
            self._out.append(actions.CompleteTitle())
        elif self.hold == "window" and not self._requests:  # at rest
            # Nothing is looked at: while a fleet opens zone by zone, rosters change all the time.
            self._out.extend(self._interest.rest(self.sources.values()))
            self._rests, self._untold = True, False
        else:
            self._rests = False
            if now >= self._tick_at:
                self._tick(now)
                self._stale = True
            if self._stale or self._untold:
                self._out.extend(self._look_at_interest(now))
            if self._stale:
                self._ask(now, self.sources)
            elif self._changed:
                self._ask(now, self._changed)
            self._stale = self._untold = False
            self._changed.clear()
        done, self._out = self._out, []
        return done

    def _look_at_interest(self, now: float) -> list[actions.ShowInterest]:
        duties = self._masters.assignment()
        return self._interest.look(now, duties, self.sources.values(), self._losses.wait_until)

    def next_wakeup(self) -> float:
        """Return when `poll_actions` must be called again though nothing happened; infinite if nothing is awaited."""
        if self._completed or (self.hold == "window" and not self._requests):
            return NEVER
        return self._tick_at

    def news(self, source_id: str, chunks: Collection[int]) -> list[int]:
        """Return those of `chunks` that a cache needs to be told of: it lacks them, and they concern it."""
        source = self.sources.get(source_id)
        if source is None:
            return list(chunks)
        # Asked for each chunk of each link, so it looks at the bits themselves.
        held = source.holdings.buffer
        if source.interest is None:
            return [chunk for chunk in chunks if not held[chunk >> 3] >> (chunk & 7) & 1]
        wanted = source.interest.buffer
        return [chunk for chunk in chunks if (wanted[chunk >> 3] & ~held[chunk >> 3]) >> (chunk & 7) & 1]

    def is_outstanding(self, request: int) -> bool:
        """Tell whether a request still waits for its end."""
        return request in self._requests

    def border_chunks(self) -> list[int]:
        """Return the chunks that are on their way across a border, which that of a cluster may be, or for others."""
        return [request.chunk for request in self._requests.values() if self._is_awaited(request)]

    def _is_awaited(self, request: Request) -> bool:
        """Tell whether others wait for a request: what crosses a border, and in a large fleet what this cache is
        nominally to fetch though another one of its ISP has done it, with which nobody beyond may be linked."""
        if request.borders > self.hops.nearest or not self._roster.unlinked:
            return request.borders > self.hops.nearest
        return self._masters.nominal_share()[Scope.REGION][request.chunk]

    def waits(self) -> dict[str, int]:
        """Return how many chunks wait, by what they wait for. For people; counts every chunk that is not verified."""
        return count_waits(self.ledger, self.available, self._masters, self.ways, self.hops, self.hold)

    # ---- sources come, go and misbehave

    def _connect(self, now: float, node: NodeInfo) -> None:
        if node.id in self.sources:
            self._lose_source(now, node.id)
        scope = self.hops.scope_of(node)
        source = Source(node.id, scope, Bitmap(self.manifest.chunk_count), now, node.weight, progress_at=now, node=node)
        source.route_cost = self._route_costs.get(node.id, 0.0)
        self._weigh(source)
        if not is_allowed(source, self.hops):
            self._outside.add(source)
            return
        self.sources[node.id] = source
        if (before := self.past.pop(node.id, None)) is not None:
            source.learn(before, now)
        self._saw_progress(now, node.id)

    def _add_origin(self, origin: Source) -> None:
        if is_allowed(origin, self.hops):
            self.sources.setdefault(origin.id, origin)
        else:
            self._outside.add(origin)

    def _set_members(self, now: float) -> None:
        members, unlinked, wants, soon = (
            self._roster.members, self._roster.unlinked, self._roster.wants, self._roster.soon
        )  # fmt: skip
        self._masters.set_members(now, members, (*unlinked, *self.hops.outside(members)), wants, soon)
        self._slow_votes.keep(self._masters.members)
        for source in self.sources.values():
            self._weigh(source)

    def _weigh(self, source: Source) -> None:
        """Compare a cache with others by what the roster says that it can send now; not while its window is closed."""
        member = self._masters.members.get(source.id)
        if member is not None and member.weight:
            source.weight = member.weight

    def _set_policy(self, now: float, policy: FillPolicy) -> None:
        """Go by another policy: sources that it forbids go out, others come in, and waits begin anew."""
        before, self.policy = self.policy, policy
        if policy.reach == before.reach:
            return
        self.hops = Hops(policy.reach, self.manifest.chunk_count, self.me)
        self._minimum = MinimumService(policy.reach)
        self._masters.waiting = self.hops.waiting
        self._freed, self._starved_at = Bitmap(self.manifest.chunk_count), None
        for source in [source for source in self.sources.values() if not is_as_allowed(source, self.hops)]:
            self._give_up(list(source.requests.values()))
            self._lose_source(now, source.id)
            del self.past[source.id]
            self._outside.add(source)
        self._set_members(now)
        for source in self._outside.take_allowed(self.hops):
            if source.node is None:
                self._add_origin(Source(source.id, Scope.ORIGIN, source.holdings, now, cost=source.cost))
            else:
                self._connect(now, source.node)
                self._hold(now, source.id, source.holdings)
                self.sources[source.id].interest = source.interest
        self._masters.wait_anew(now)
        self._tick_at = now

    def _lose_source(self, now: float, source_id: str, reason: str = "") -> None:
        source = self.sources.pop(source_id, None)
        if source is None:
            return
        for request in list(source.requests.values()):
            self._drop(request)
        source.requests.clear()
        if source.counted and source.scope != Scope.ORIGIN:
            self.available.remove(source.scope, source.holdings.indexes())
        self._masters.lose(now, source_id, self._patience_s)
        source.barred_reason = source.barred_reason or reason
        self.past[source_id] = source
        if len(self.past) > PAST_SOURCES_MAX:
            del self.past[next(iter(self.past))]

    def _judge_loss(self, now: float, lost: Source) -> None:
        """Hold it against nobody that links have ended where it is this cache that is cut off."""
        if lost.scope != Scope.ORIGIN:
            for name in self._losses.note(now, lost, self.sources.values()):
                self._masters.forgive(name)

    def _bar(self, now: float, source_id: str, fault: Fault, reason: str) -> None:
        """Leave a source alone for a while, longer with each fault in a row, and give its requests to others."""
        source = self.sources.get(source_id)
        if source is None:
            return
        source.faults += 1
        source.barred_until = now + rest_s(fault, source.faults, self.policy)
        source.fault_reason = reason
        source.barred_reason = reason
        source.quarantined = source.quarantined or fault is Fault.CORRUPT
        source.is_slow = fault is Fault.SLOW
        source.was_slow = source.was_slow or source.is_slow
        distrusted = fault not in (Fault.REFUSED, Fault.BUSY) or source.faults >= REFUSALS_MAX
        if distrusted and source.counted and source.scope != Scope.ORIGIN:
            # What it alone holds must be had elsewhere, and so must what it is master of.
            source.counted = False
            self.available.remove(source.scope, source.holdings.indexes())
            self._masters.exclude(source_id, ESCALATION[fault])
        self._give_up(list(source.requests.values()))

    def _unbar(self, source: Source) -> None:
        source.barred_reason = ""
        source.quarantined = source.is_slow = False
        if not source.counted:
            source.counted = True
            self.available.add_holdings(source.scope, source.holdings)

    def _hold(self, now: float, source_id: str, holdings: Bitmap) -> None:
        source = self.sources.get(source_id)
        if source is None or source.scope == Scope.ORIGIN:
            return
        if holdings == source.holdings:
            # As most answers to what it was shown that we need news of.
            source.answers_at = 0.0
            self._saw_progress(now, source_id)
            return
        self._note_fetched(now, source, holdings.and_not(source.holdings))
        given_up, fresh = source.holdings.and_not(holdings), holdings.and_not(source.holdings)
        self._stale = self._stale or given_up.any()
        source.holdings = holdings.copy()
        source.answers_at = 0.0
        self._masters.claims.settle_all(fresh)
        if source.counted:
            self.available.remove(source.scope, given_up.indexes())
            self.available.add_holdings(source.scope, fresh)
        self._saw_progress(now, source_id)

    def _gain(self, now: float, event: events.ChunksGained) -> None:
        name = event.source
        source = self.sources.get(name)
        if source is None:
            return
        if name not in self._changed and source.room(self._chunk_size) > 0:
            self._changed[name] = None
        if source.scope == IN_ORIGIN:
            return
        masters = self._masters
        fresh = source.holdings.add_all(event.chunks)
        masters.claims.settle(fresh)
        if masters.is_doubted(name):
            gained = Bitmap(self._chunk_count)
            gained.add_all(fresh)
            self._note_fetched(now, source, gained)
        masters.saw(now, name)
        if source.counted:
            self.available.add(source.scope, fresh)
            if name in masters.excluded:
                masters.reinstate(now, name)

    def _note_fetched(self, now: float, source: Source, gained: Bitmap) -> None:
        """Rely on a master again that has got what nobody on this side of its border had."""
        if self._masters.is_doubted(source.id):
            here = self.available.held[Scope.ISP if source.scope <= Scope.ISP else Scope.WORLD]
            if gained.and_not(here | self.ledger.have).any():
                self._masters.fetched(now, source.id)

    def _take_claim(self, now: float, event: events.ChunksClaimed) -> None:
        """Take in what a cache says that it is fetching, if it is linked and on the roster."""
        source_id, chunks = event.source, event.chunks
        count, have = self.manifest.chunk_count, self.ledger.have
        if source_id in self.sources and source_id in self._masters.members:
            self._masters.claims.note(now, source_id, [c for c in chunks if 0 <= c < count and not have[c]])
        self._saw_progress(now, source_id)

    def _saw_progress(self, now: float, source_id: str) -> None:
        self._masters.saw(now, source_id)
        source = self.sources.get(source_id)
        if source is not None and source.counted:
            self._masters.reinstate(now, source_id)

    def _progress(self, now: float, source_id: str) -> None:
        source = self.sources.get(source_id)
        if source is None:
            return
        source.progress_at = now
        source.is_failing = False
        self._masters.saw(now, source_id)
        if chunks := tuple(request.chunk for request in source.requests.values() if self._is_awaited(request)):
            self._out.append(actions.ClaimChunks(chunks))

    # ---- holding back

    def _release(self, now: float) -> None:
        """Ask again. Whoever has let this cache wait meanwhile was not asked, or has served more urgent titles first.

        So all waits begin anew: a source, or a master, that is dead is found out later, but none is taken for dead.
        """
        if self.is_held:
            self.hold = None
            self._starved_at = None
            self._masters.wait_anew(now)
            self.hops.begin_anew(now)
            self._minimum.start_anew()
            for source in self.sources.values():
                source.wait_anew(now)

    # ---- requests end

    def _receive(self, now: float, event: events.ChunkReceived) -> None:
        number = event.request
        request = self._requests.pop(number, None)
        if request is None:
            return
        source, chunk = self.sources[request.source], request.chunk
        self._changed[source.id] = None
        length = self.manifest.cut.length(chunk)
        if self.is_held:
            source.count(now, length)
        else:
            source.note_delivery(now, request, length)
        if not source.was_slow:
            if source.fault_reason and source.scope == IN_ORIGIN:
                self._tick_at = now  # others are told at once that it can be reached again
            source.faults, source.fault_reason, source.is_failing = 0, "", False
        self._masters.saw(now, source.id)
        self._masters.claims.settle((chunk,))
        del source.requests[number]
        self._joined.discard(number)
        self.ledger.verify(chunk)
        self.bytes_by_scope[request.borders] += length
        self._fresh.append(chunk)

    def _find(self, now: float, chunk: int, source_id: str) -> None:
        """Take in a chunk that is there, and do without whoever was asked for it since."""
        if self.ledger.is_verified(chunk) or not self.ledger.wanted[chunk]:
            if chunk in self._of_unknown and source_id:
                self._of_unknown.discard(chunk)
                self._count_found(now, chunk, source_id)
            return
        for request in self._requests.values():
            if request.chunk == chunk:
                self._out.append(actions.CancelRequest(request.number, request.source))
                self._drop(request)
                break
        if chunk in self._copied:
            self._copied.discard(chunk)
            self.ledger.release(chunk)
        self.ledger.request(chunk)
        self.ledger.verify(chunk)
        self._fresh.append(chunk)
        if source_id:
            self._count_found(now, chunk, source_id)
        else:
            self._of_unknown.add(chunk)

    def _count_found(self, now: float, chunk: int, source_id: str) -> None:
        if (source := self.sources.get(source_id) or self.past.get(source_id)) is not None:
            length = self.manifest.chunk_length(chunk)
            source.count(now, length)
            self.bytes_by_scope[source.scope] += length

    def _lose(self, chunks: Iterable[int]) -> None:
        """Fetch chunks anew that are bad on disk. Those that are not verified are being fetched anyway."""
        lost = {chunk for chunk in chunks if self.ledger.is_verified(chunk)}
        for chunk in lost:
            self.ledger.lose(chunk)
        self._fresh = [chunk for chunk in self._fresh if chunk not in lost]
        self._completed = self._completed and not lost

    def _end_reuse(self, chunks: Sequence[int], failed: Sequence[int]) -> None:
        for chunk in self._copied.intersection(failed):
            self.ledger.release(chunk)
        for chunk in chunks:
            if chunk in self._copied:
                self.ledger.verify(chunk)
                self.reused_bytes += self.manifest.chunk_length(chunk)
                self._fresh.append(chunk)
        self._copied.difference_update(chunks, failed)

    def _fail(self, now: float, number: int, reason: str, wasted_bytes: int, corrupt: bool) -> None:
        self.duplicate_bytes += wasted_bytes
        request = self._requests.get(number)
        if request is None:
            return
        self._drop(request)
        self._bar(now, request.source, Fault.CORRUPT if corrupt else Fault.REFUSED, reason)
        if request.borders == Scope.ORIGIN:
            self._tick_at = now  # others are told at once that it cannot be reached from here

    def _put_off(self, now: float, number: int, reason: str) -> Source | None:
        """Leave a source alone for a moment that can take no more, through no fault of its own; return it."""
        request = self._requests.get(number)
        if request is None:
            return None
        self._drop(request)
        if (source := self.sources.get(request.source)) is not None and not source.barred_reason:
            source.barred_until, source.barred_reason = now + BACKOFF_S, reason
        return source

    def _leave_busy(self, now: float, number: int) -> None:
        """Ask a cache that serves its viewers for less, and do without it where it gives nothing at all."""
        source = self._put_off(now, number, BUSY)
        if source is not None and not source.requests and source.barred_reason == BUSY:
            self._bar(now, source.id, Fault.BUSY, BUSY)

    def _spend(self, now: float, budget: str, number: int) -> None:
        """Ask no cache beyond the ISP any more: a budget of the fleet's policy has nothing left."""
        self.hops.spend(now, budget)
        if (request := self._requests.get(number)) is not None:
            self._drop(request)

    def _drop(self, request: Request) -> None:
        del self._requests[request.number]
        self._joined.discard(request.number)
        source = self.sources.get(request.source)
        if source is not None:
            source.requests.pop(request.number, None)
        self.ledger.release(request.chunk)

    # ---- time

    def _tick(self, now: float) -> None:
        """Look at everything that only time changes. Coarse on purpose: none of it is urgent, all of it costs."""
        if now > self._tick_at + LATE_S:
            self._masters.start_clocks_anew()
            self._minimum.start_anew()
        self._tick_at = now + TICK_S
        sources, size = self.sources.values(), self.manifest.chunk_size
        self._patience_s = patience_s(sources, now, size, self.policy.stall_wait_s)
        share = self.hops.duty(self._masters.assignment(), Scope.ORIGIN).count() / self.manifest.chunk_count
        for source in self.sources.values():
            if source.scope == Scope.ORIGIN:
                behind = self._masters.behind_at_origin(self.ledger.have, self.available)
                source.origin_window = origin_window(share, behind)
            if source.barred_reason and now >= source.barred_until:
                self._unbar(source)
            if source.requests and not self.is_held and self._is_silent(now, source):
                self._bar(now, source.id, Fault.SILENT, "delivered nothing in time")
        self._masters.reinstate(now, self.me.id)
        self._masters.claims.time_s = self._patience_s + crossing_s(sources, now, size)
        self._masters.claims.look(now)
        self._note_broken_claims()
        self._masters.look_at_ways(now)
        if self.is_held:
            return
        self._pass_on_claims(now)
        self._look_at_hops(now)
        self._look_at_minimum(now)
        self._look_at_own_ways(now)
        if self.policy.escalate:
            self._suspend_slow(now)
            self._end_starvation(now)
            # Not stretched: whoever fetches slowly says that it is at it, and has the time that a claim gives it.
            wait_s = self.policy.stall_wait_s + unanswered_s(sources, now)
            self._masters.watch_parts(now, wait_s, self._lacking(), self.available)
            owing = {source.id for source in self.sources.values() if source.requests}
            self._masters.watch(now, self._patience_s, self.sources, self.available, owing)
        for late, source in find_overdue(sources, now, size, self._patience_s):
            self._move(now, late, source)

    def _pass_on_claims(self, now: float) -> None:
        """Say that chunks of which this cache is master are on their way, to those who wait for it and are not linked
        with who fetches them: else each group that hears nothing would in the end fetch them itself."""
        if not self._roster.unlinked:
            return
        due = self.ledger.missing & self._masters.assignment()[Scope.REGION]
        for scope in (Scope.REGION, Scope.WORLD):
            heard = [
                chunk
                for chunk, name in self._masters.claims.standing()
                if due[chunk] and name not in self._masters.excluded
                if (claimant := self.sources.get(name)) is not None and claimant.scope == scope
            ]
            if chunks := self._masters.claims.pass_on(now, dict.fromkeys(heard)):
                self._out.append(actions.PassOnClaims(chunks, scope))

    def _note_broken_claims(self) -> None:
        """Note who has claimed chunks in vain, for people; where the origin fails here or there, that is why."""
        if Scope.ORIGIN in self.ways.closed:
            return
        for _, node_id in self._masters.claims.broken():
            is_at_fault = Scope.ORIGIN not in self._masters.closed.get(node_id, ())
            if is_at_fault and (claimant := self.sources.get(node_id)) is not None and not claimant.fault_reason:
                claimant.fault_reason = "says that it fetches chunks that do not come"

    def _lacking(self) -> Bitmap:
        """Return the chunks that are wanted and not verified here."""
        return self.ledger.wanted.and_not(self.ledger.have)

    def _look_at_hops(self, now: float) -> None:
        """Go further out for what has waited for long enough; all have waited for it, and begin at the same time."""
        mates = NO_MATES
        if self.hops.nearest == Scope.CLUSTER:
            mates = Mates(self._masters.cluster_shares(), self.sources, self._masters.at_work())
        if self._heard and self.hops.look(now, self._lacking(), self.available, mates):
            self._masters.wait_anew(now)
        self._masters.waiting = self.hops.waiting

    def _look_at_minimum(self, now: float) -> None:
        """Measure what nearer caches give, unless this cache's own limits decide how much that is."""
        if not self._minimum.least:
            return
        if any(source.is_held_back(now) for source in self.sources.values()):
            self._minimum.start_anew()
            return
        coming = dict.fromkeys(Scope, 0)
        for request in self._requests.values():
            coming[request.borders] += self.manifest.chunk_size
        self._minimum.look(now, self.ledger.missing, self.available, self.bytes_by_scope, coming)

    def _look_at_own_ways(self, now: float) -> None:
        """Tell others from where this cache cannot take chunks, where that has changed."""
        before = self.ways.closed
        around, is_reader = self._masters.around, self._masters.is_reader()
        if self.ways.look(now, self.sources.values(), around, is_reader=is_reader, never=self.hops.closed(now)):
            if self.ways.is_left_to_reader:
                self._leave_origins()
            if Scope.ORIGIN in before - self.ways.closed:
                # Nobody could fetch anything, perhaps; where it is open for others too, they do their parts again.
                self._freed, self._starved_at = Bitmap(self.manifest.chunk_count), None
            self._masters.set_ways(now, self.me.id, self.ways.closed)
            self._out.append(actions.ReportWays(tuple(sorted(self.ways.closed)), self.ways.reason))

    def _leave_origins(self) -> None:
        """Give up what was asked of origins: another cache gets it for all."""
        self._give_up([request for request in self._requests.values() if request.borders == Scope.ORIGIN])

    def _give_up(self, requests: Iterable[Request]) -> None:
        """Have requests cancelled; what they were for is missing again."""
        for request in requests:
            self._out.append(actions.CancelRequest(request.number, request.source))
            self._drop(request)

    def _suspend_slow(self, now: float) -> None:
        """Do without caches that are much slower than they should be, where what they owe can be had elsewhere.

        Their share of the work at borders goes to others, and so does what they alone hold here. One that lags with its
        share only is still a good source of what it has.
        """
        for source in find_slow(self.sources.values(), now, self.manifest.chunk_size):
            self._do_without(now, source, f"{SLOW:g} times slower than others")
        for source in find_crawling(self.sources.values(), now, self.manifest.chunk_size, self._patience_s):
            self._bar(now, source.id, Fault.SLOW, f"gives less than {LEAST_RATE_BYTES_S // 1024} KiB/s")
        fetching, sending = self._masters.lagging(now, self.ledger.have, self.available)
        for node_id in fetching:
            self._masters.suspend(node_id, ESCALATION[Fault.SLOW], now + self.policy.quarantine_s)
        for node_id in sending:
            if (mate := self.sources.get(node_id)) is not None and not mate.barred_reason:
                self._do_without(now, mate, f"sends on {SLOW:g} times slower than others of its ISP")

    def _do_without(self, now: float, source: Source, reason: str) -> None:
        """Leave a slow cache alone, if others have what it owes, and say so to those who may wait for it alone."""
        others = [s for s in self.sources.values() if s is not source and not s.barred_reason]
        if all(any(other.holdings[r.chunk] for other in others) for r in source.requests.values()):
            self._bar(now, source.id, Fault.SLOW, reason)
            if source.scope <= Scope.ISP:
                self._out.append(actions.ReportSlow(source.id))

    def _hear_slow(self, now: float, source_id: str, node_id: str) -> None:
        """Do without a cache, or without this one, where half of the others of its ISP do."""
        mates = self._masters.isp_peers(node_id)
        if not self.policy.escalate or source_id not in mates or source_id not in self.sources:
            return
        self._slow_votes.note(source_id, node_id, now + self.policy.quarantine_s)
        # Those too that have not said anything yet: else the first one to speak would be half of all.
        judges = [mate for mate in mates if mate in self.sources or self._masters.is_to_be_linked(mate)]
        if node_id in self._masters.excluded or not self._slow_votes.is_agreed(now, node_id, judges):
            return
        if (source := self.sources.get(node_id)) is not None:
            self._do_without(now, source, "others of its ISP do without it")
        else:
            self._masters.suspend(node_id, ESCALATION[Fault.SLOW], now + self.policy.quarantine_s)

    def _end_starvation(self, now: float) -> None:
        """Let this cache fetch its share from anywhere, where it has had nothing to ask for too long.

        Caches may differ in whom they rely on, so that each waits for another, and all of them show life. Whoever is
        master for its ISP, as things are for it or nominally, ends that: who is so nominally all of them agree on. It
        costs one more copy for each ISP of what is left at most.
        """
        due = self.ledger.missing.and_not(self.hops.waiting)
        # In a large fleet it is not known who brings the rest: what is claimed shows that others are at it.
        is_coming = self._roster.unlinked and any(due[chunk] for chunk, _ in self._masters.claims.standing())
        if self._requests or is_coming or not self._heard or not due.any():
            self._starved_at = None
        elif self._starved_at is None:
            self._starved_at = now
        elif now >= self._starved_at + self._patience_s:
            self._starved_at = None
            share = self._masters.assignment()[Scope.REGION] | self._masters.nominal_share()[Scope.REGION]
            self._freed = self._freed | (due & share).and_not(self.available.held[Scope.ISP])
            if all(source.scope != Scope.ORIGIN or source.fault_reason for source in self.sources.values()):
                for source in self.sources.values():
                    if source.is_slow:
                        source.barred_until = now  # better than none

    def _is_silent(self, now: float, source: Source) -> bool:
        """Tell whether a source that owes something has not shown for too long that it is at it."""
        before = now - max(self.policy.request_timeout_s, self._patience_s)
        if source.delivered_at > before or source.progress_at > before:
            return False
        return source.asked_at <= before

    # ---- decisions

    def _wanted(self, now: float, scope: Scope) -> Bitmap:
        """Return the missing chunks that may be asked of a source in `scope`, which is not the nearest: rule 2."""
        if scope == IN_ISP:
            return self.hops.of_other_clusters(
                self.ledger.missing.and_not(self.available.held_within(scope)), self._masters.cluster_share()
            )
        assigned = self.hops.duty(self._masters.assignment(), scope)
        mine = assigned | self._freed
        if scope == IN_ORIGIN and self.ways.is_left_to_reader:
            mine = self._freed
        elif scope in self.ways.closed:
            # Others do this in its place; it goes on to try, to learn whether the way is open again. With its own part
            # until it has that: others may find their ways open at the same time, and would be at the same chunks.
            own = self._lacking() & self.hops.duty(self._masters.nominal_share(), scope)
            mine = own if own.any() else assigned
        elif self.ways.is_settling(now, scope):
            mine = mine & self.hops.duty(self._masters.nominal_share(), scope)
        wanted = self.ledger.missing & mine
        if not wanted.any():  # as soon as it has done its part
            return wanted
        wanted = self.hops.opened(scope, wanted.and_not(self.available.held_within(scope)))
        for chunk in self._masters.claimed(scope):
            wanted.discard(chunk)
        return wanted.and_not(self._interest.doubtful)

    def _ask(self, now: float, names: Iterable[str]) -> None:
        """Ask the sources `names` for what they may deliver."""
        if self.is_held:
            return
        size, sources = self._chunk_size, self.sources
        open_sources: list[Source] = []
        by_scope: dict[Scope, list[Source]] = {}
        for name in names:
            found = sources.get(name)
            if found is not None and not found.barred_reason and found.room(size) > 0:
                open_sources.append(found)
                if (ready := by_scope.get(found.scope)) is None:
                    by_scope[found.scope] = [found]
                else:
                    ready.append(found)
        if not open_sources and not self._minimum.least:
            return
        idle: list[Source] = []
        nearest = self.hops.nearest
        for scope in sorted(by_scope) if len(by_scope) > 1 else by_scope:
            if (scope > nearest and not self._heard) or (scope < IN_ISP <= nearest):
                continue
            ready = by_scope[scope]
            if scope == IN_ORIGIN and self._has_prices:
                ready = cheapest(ready, sources.values())
            # Of the nearest all that is missing: what is asked for leaves it by that.
            wanted = self.ledger.missing if scope <= nearest else self._wanted(now, scope)
            if not wanted.any():
                idle.extend(ready)
                continue
            while ready:
                source = min(ready, key=_least_loaded) if len(ready) > 1 else ready[0]
                chunk = self._pick(source, wanted)
                if chunk < 0:
                    ready.remove(source)
                    idle.append(source)
                    continue
                self._request(now, source, chunk)
                wanted.discard(chunk)
                if source.room(size) <= 0:
                    ready.remove(source)

        if self._minimum.least and self._heard:
            self._join_in(now, open_sources)
        # Whom nothing moves to, see `find_waiting`, is not worth a look at all others.
        idle = [source for source in idle if not source.requests and source.scope <= IN_ISP]
        if not idle or not (lines := find_lines(sources.values(), size)):
            return
        for source in idle:
            if (waiting := find_waiting(source, lines, now, size)) is not None:
                self._move(now, waiting, source)

    def _join_in(self, now: float, open_sources: Sequence[Source]) -> None:
        """Ask farther sources for what nearer caches hold and give too slowly, a second's worth of what is lacking."""
        size = self.manifest.chunk_size
        for scope, lacking_s in self._minimum.joining(now).items():
            if (scope == Scope.ORIGIN and self.ways.is_left_to_reader) or self.hops.is_spent(scope):
                continue
            ready = [source for source in open_sources if source.scope == scope and source.room(size) > 0]
            if scope == Scope.ORIGIN and self._has_prices:
                ready = cheapest(ready, self.sources.values())
            wanted = self.ledger.missing & self.available.held_within(scope)
            most = max(1, lacking_s // size) - sum(self._requests[one].borders == scope for one in self._joined)
            for source in ready:
                while most > 0 and self._minimum.may_ask(scope) and source.room(size) > 0:
                    if (chunk := self._pick(source, wanted)) < 0:
                        break
                    wanted.discard(chunk)
                    self._request(now, source, chunk, joins=True)
                    self._minimum.note_asked(scope, size)
                    most -= 1

    def _move(self, now: float, request: Request, source: Source) -> None:
        """Ask `source` for what another one was asked for."""
        self._out.append(actions.CancelRequest(request.number, request.source))
        self._drop(request)
        self._request(now, source, request.chunk)

    def _pick(self, source: Source, wanted: Bitmap) -> int:
        # As `Random.randrange` draws, so that what was recorded plays again, without its five calls.
        count, draw = self._chunk_count, self._random.getrandbits
        start = draw(self._start_bits)
        while start >= count:
            start = draw(self._start_bits)
        # Of what lies beyond the ISP only the chunks that this cache is master of are known.
        rarity = self.available.count[IN_ISP if source.scope <= IN_ISP else IN_WORLD]
        return source.holdings.rarest(wanted, rarity, start)

    def _request(self, now: float, source: Source, chunk: int, *, joins: bool = False) -> None:
        self._next_request += 1
        request = Request(self._next_request, source.id, chunk, now, source.scope)
        self.ledger.request(chunk)
        self._requests[request.number] = source.requests[request.number] = request
        if joins:
            self._joined.add(request.number)
            self.escalations[BELOW_MINIMUM] += 1
        # To read for all an origin that has no Range is a duty.
        # So is what the policy leaves no nearer hop for.
        elif source.scope > IN_ISP and source.has_range and (
            not self.hops.duty(self._masters.nominal_share(), source.scope)[chunk]
        ) and (why := self._masters.escalation(chunk, source.scope)):  # fmt: skip
            self.escalations["starved" if self._freed[chunk] else why] += 1
        self._out.append(actions.RequestChunk(request.number, source.id, chunk))


def _least_loaded(source: Source) -> tuple[float, int, float]:
    return source.load(), len(source.requests), source.route_cost


# By type: each message passes here, and a chain of cases costs a part of the event loop's time.
_TAKES: Final[dict[type, Callable[[Fill, float, Any], object]]] = {
    events.RosterChanged: Fill._take_roster,
    events.PolicyChanged: lambda fill, now, event: fill._set_policy(now, event.policy),
    events.CacheConnected: Fill._take_connection,
    events.OriginConfigured: Fill._take_origin,
    events.OriginPriced: Fill._take_price,
    events.RoutesPriced: Fill._take_routes,
    events.SourceLost: Fill._take_loss,
    events.HoldingsArrived: Fill._take_holdings,
    events.NeighboursHeard: Fill._take_heard,
    events.OthersUnaware: Fill._take_heard,
    events.ChunksGained: Fill._gain,
    events.InterestShown: Fill._take_interest,
    events.ChunksClaimed: Fill._take_claim,
    events.WaysReported: Fill._take_ways,
    events.SlowReported: lambda fill, now, event: fill._hear_slow(now, event.source, event.node),
    events.SourceProgressed: lambda fill, now, event: fill._progress(now, event.source),
    events.SourceHeldBack: Fill._take_held_back,
    events.OriginFailing: Fill._take_failing,
    events.OriginWithoutRange: Fill._take_without_range,
    events.ChunkReceived: Fill._receive,
    events.ChunkFound: lambda fill, now, event: fill._find(now, event.chunk, event.source),
    events.ChunksLost: lambda fill, _, event: fill._lose(event.chunks),
    events.ReuseBegun: Fill._take_reuse,
    events.ReuseEnded: lambda fill, _, event: fill._end_reuse(event.chunks, event.failed),
    events.SourceMisbehaved: lambda fill, now, event: fill._bar(now, event.source, Fault.CORRUPT, event.reason),
    events.RequestFailed: lambda fill, now, event: fill._fail(
        now, event.request, event.reason, event.wasted_bytes, event.corrupt
    ),
    events.SourceFull: lambda fill, now, event: fill._put_off(now, event.request, FULL),
    events.SourceBusy: lambda fill, now, event: fill._leave_busy(now, event.request),
    events.BudgetSpent: lambda fill, now, event: fill._spend(now, event.budget, event.request),
    events.BudgetRenewed: lambda fill, _, event: fill.hops.renew(),
    events.ChunksCommitted: Fill._take_commit,
    events.Paused: Fill._take_pause,
    events.HandedBack: lambda fill, _, event: fill._give_up(list(fill._requests.values())),
    events.Resumed: lambda fill, now, event: fill._release(now),
    events.TimePassed: lambda fill, now, event: None,
}

_QUIET: Final[frozenset[type]] = frozenset({
    events.ChunksClaimed, events.InterestShown, events.SourceProgressed, events.SourceHeldBack,
    events.ChunksCommitted, events.Paused, events.HandedBack, events.TimePassed,
    events.ChunksGained, events.ChunkReceived, events.HoldingsArrived, events.CacheConnected,
})  # fmt: skip
"""After these no source is looked at again, or those alone that what takes the event names (`Fill._changed`). After all
others all are."""
