"""One title being filled on one cache: the twin of `node.filling.Filling`, in virtual time.

It runs a real `swarm.Fill`: events go in as they happen, and `pump` asks it what to do and does it. What takes time
(origin reads, commits, go-live) comes back as deeds of the schedule. A crash of the cache sets `over`; whatever is then
still scheduled for this filling finds that out and does nothing.
"""

from __future__ import annotations

from math import ceil
from random import Random
from typing import TYPE_CHECKING

from p2pfill.model.pace import ANNOUNCE_S, COMMIT_INTERVAL_S, MEET_S, PROGRESS_S
from p2pfill.sim.checkers import Outstanding
from p2pfill.sim.origin import OriginRead
from p2pfill.swarm import actions, events
from p2pfill.swarm.fill import Fill

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pfill.model.node import NodeInfo
    from p2pfill.sim.cache import SimCache


class SimFilling:
    """The fill of the scenario's title on `cache`, which has committed `cache.durable` already."""

    def __init__(
        self,
        cache: SimCache,
        members: Iterable[NodeInfo],
        neighbours: Iterable[NodeInfo],
        unlinked: tuple[str, ...] = (),
    ) -> None:
        """`members` want the title; `neighbours` may hold a part of it already."""
        world = cache.world
        self.cache = cache
        self.over = False
        """The title is live, or the cache has crashed."""
        self.reading: dict[int, OriginRead] = {}
        """Request -> the read of the origin that serves it."""
        self.asked = Outstanding()
        self._clock_floor = 0.0
        self._unheard = {info.id for info in neighbours} - {cache.info.id}
        self._late: list[events.Event] = []
        self._to_announce: list[int] = []
        self._to_claim: list[int] = []
        self._is_telling = False
        self._told_at = float("-inf")
        self._to_commit: list[int] = []
        self._commit_at = -1.0
        self._committing = False
        self._commit_base = world.schedule.now
        self._commit_s = 0.0
        self._wake_at = -1.0
        seed = Random(f"{world.seed}{cache.info.id}{world.schedule.now!r}")  # noqa: S311 (a simulation)
        heard = not self._unheard
        policy = world.scenario.policy
        self.fill = Fill(world.manifest, cache.info, policy, seed, self._now(), cache.durable.copy(), heard=heard)
        self.handle(events.OriginConfigured(world.scenario.origin))
        self.set_members(members, unlinked)

    def start(self) -> None:
        """Begin: ask the linked caches for their holdings, and whoever is due for its chunks."""
        for link in self.cache.links.values():
            link.want()
            link.show()
        schedule = self.cache.world.schedule
        schedule.after(MEET_S, self._meet)
        schedule.after(PROGRESS_S, self._watch_progress)
        self.pump()

    # ---- input

    def _now(self) -> float:
        """Return the time by this cache's own clock; it never goes back."""
        self._clock_floor = max(self.cache.local_time(), self._clock_floor)
        return self._clock_floor

    def handle(self, event: events.Event) -> None:
        """Take in an event; call `pump` after the last one of a moment."""
        if self.over:
            return
        match event:
            case events.ChunkReceived(request):
                if (asked := self.asked.end(request)) is not None:
                    self.cache.world.samples.received(asked.scope, asked.chunk)
            case events.RequestFailed(request):
                self.asked.end(request)
            case events.SourceLost(source):
                self.asked.lose(source)
        self.fill.handle(self._now(), event)

    def set_members(self, members: Iterable[NodeInfo], unlinked: tuple[str, ...] = ()) -> None:
        """Take in the caches that want the title."""
        told = tuple(members)
        self.cache.world.checkers.told_members(self.cache, told)
        self.handle(events.RosterChanged(told, unlinked))

    def hear(self, neighbour: str) -> None:
        """Note that a cache has said what it holds, be it nothing."""
        if self._unheard:
            self._unheard.discard(neighbour)
            if not self._unheard:
                self.handle(events.NeighboursHeard())

    def _meet(self) -> None:
        if self._unheard and not self.over:
            self._unheard.clear()
            self.handle(events.NeighboursHeard())
            self.pump()

    def take_chunk(self, request: int, chunk: int) -> None:
        """Take in a chunk whose digests hold."""
        if not self.over:
            self.cache.verified.add(chunk)
            self.handle(events.ChunkReceived(request))
            self.cache.give_slots()

    # ---- output

    def pump(self) -> None:
        """Ask the fill what to do, and do it."""
        if self.over:
            return
        fill = self.fill
        if fill.wants_poll or self._late:
            self._poll()
        wake_at = fill.next_wakeup()
        if wake_at is not None and wake_at != self._wake_at:
            self._wake_at = wake_at
            self.cache.world.schedule.at(self.cache.global_time(wake_at), self._wake_up, wake_at)

    def _wake_up(self, wake_at: float) -> None:
        if not self.over and wake_at == self._wake_at:
            self._clock_floor = max(self._clock_floor, wake_at)
            self._poll()
            self.pump()

    def _poll(self) -> None:
        world = self.cache.world
        while not self.over:
            late, self._late = self._late, []
            for event in late:
                self.handle(event)
            before = self.fill.escalations.total()
            made = self.fill.poll_actions(self._now())
            world.checkers.decided(self, made, before)
            for action in made:
                self._perform(action)
            if not self._late:
                return

    def _perform(self, action: actions.Action) -> None:
        cache = self.cache
        world = cache.world
        match action:
            case actions.RequestChunk(request, source, chunk):
                world.note(cache, f"request {request} of {chunk} from {source}")
                world.decisions += 1
                if cache.lie == "claim":
                    return
                if source == world.scenario.origin:
                    self.reading[request] = OriginRead(self, request, chunk)
                    cache.queue_read(self.reading[request])
                elif (link := cache.links.get(source)) is None or not link.request(request, chunk):
                    self._late.append(events.RequestFailed(request, "not linked"))
            case actions.CancelRequest(request, source):
                world.note(cache, f"cancel {request} at {source}")
                if (read := self.reading.pop(request, None)) is not None:
                    read.cancel()
                elif (link := cache.links.get(source)) is not None:
                    link.cancel(request)
            case actions.AnnounceChunks(chunks):
                world.note(cache, f"verified {chunks}")
                world.checkers.announced(cache, chunks)
                self._to_commit.extend(chunks)
                self._to_announce.extend(chunks)
                self._tell_soon()
                counts = self.fill.ledger.counts
                self._plan_commit(at_once=not counts[0] and not counts[1])
            case actions.ClaimChunks(chunks):
                self._to_claim.extend(chunks)
                self._tell_soon()
            case actions.ShowInterest(source, wanted):
                if (link := cache.links.get(source)) is not None:
                    link.show_interest(wanted)
            case actions.ReportSlow(node):
                for link in cache.links.values():
                    link.report_slow(node)
            case actions.ReportWays(closed):
                world.note(cache, f"ways closed: {[scope.name for scope in closed]}")
                for link in cache.links.values():
                    link.report_ways(closed)
            case actions.CompleteTitle():
                world.note(cache, "complete")
                self._tell()
                world.schedule.after(world.scenario.sync_ms * 1e-3, self._go_live)

    def _tell_soon(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            schedule = self.cache.world.schedule
            schedule.at(max(schedule.now, self._told_at + ANNOUNCE_S), self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        self._told_at = self.cache.world.schedule.now
        gained, claimed = self._to_announce, self._to_claim
        self._to_announce, self._to_claim = [], []
        if (gained or claimed) and self.cache.filling is self:
            for link in self.cache.links.values():
                link.tell(self.fill, gained, claimed)

    def _watch_progress(self) -> None:
        if self.over:
            return
        for link in self.cache.links.values():
            link.report_progress()
        if any(read.is_moving for read in self.reading.values()):
            self.handle(events.SourceProgressed(self.cache.world.scenario.origin))
        self.cache.world.schedule.after(PROGRESS_S, self._watch_progress)
        self.pump()

    # ---- commits

    def _plan_commit(self, *, at_once: bool = False) -> None:
        """See to it that what is verified is committed: at the next turn of the node's commit loop, or now."""
        schedule = self.cache.world.schedule
        if at_once:
            schedule.after(0.0, self._commit, False)
        elif self._commit_at < schedule.now and not self._committing:
            every_s = max(COMMIT_INTERVAL_S, self._commit_s)
            turns = ceil((schedule.now - self._commit_base) / every_s) or 1
            self._commit_at = self._commit_base + turns * every_s
            schedule.at(self._commit_at, self._commit, True)

    def _commit(self, is_turn: bool) -> None:
        chunks, self._to_commit = self._to_commit, []
        if not chunks or self.over:
            self._to_commit = chunks
            return
        self._committing = self._committing or is_turn
        self._commit_s = self.cache.sync_s()
        self.cache.syncing.append(chunks)
        self.cache.world.schedule.after(self._commit_s, self._committed, chunks, is_turn)

    def _committed(self, chunks: list[int], is_turn: bool) -> None:
        if self.over:
            return
        self.cache.syncing.remove(chunks)
        for chunk in chunks:
            self.cache.durable.add(chunk)
        self.handle(events.ChunksCommitted(chunks))
        if is_turn:
            self._committing = False
            self._commit_base = self.cache.world.schedule.now
            if self._to_commit:
                self._plan_commit()
        self.pump()

    def _go_live(self) -> None:
        if self.over:
            return
        self.over = True
        self.cache.go_live()

    def stop(self) -> None:
        """Take note that the cache has crashed."""
        self.over = True
        for read in self.reading.values():
            read.cancel()
        self.reading.clear()
