"""How far one fill may go by the fleet's policy: hops that are never used, and waits before the others. Pure.

A source in a hop that is never used, or outside of the regions that the title may not leave, is *outside*: the fill
keeps what it says of its holdings and does nothing else with it (`Outside`), so that no rule of the fill can choose it,
also not when it starves. The policy may change, and then a source comes in or goes out (`Fill._set_policy`).

A hop with a wait opens for each chunk by itself, that long after no nearer cache holds it. Rejected: one clock for the
whole fill, begun anew by whatever comes from nearer. Each master would then wait anew for each chunk that another one
brings into the ISP, and the shares of an ISP would come one after the other.

Nobody is judged by a chunk that waits (`waiting`): a master that keeps to the rule is not stalled. Caches of an ISP may
have different rules. A hop that one never uses is a way of it that is closed (`swarm.ways`), so others are elected for
what must come from there; one that waits longer than others is passed over by those whose wait is over.

Elections know all hops. So where a nearer hop is never used, the right to it goes over to the next one: without REGION
and WORLD the master of an ISP goes to the origin itself, and each ISP takes a copy.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import Reach
from p2pfill.swarm import events
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import NEARER, Scope, scope_between
from p2pfill.swarm.sources import Source

COHORTS_MAX: Final = 16
"""Groups of chunks that began to wait at about the same time, for each hop: chunks wait up to a sixteenth longer than
they must, and a fill whose neighbours come and go keeps no more bitmaps than this."""


STAND_IN_S: Final = 10.0
"""After which any cache of a cluster fetches what the one does not bring whose share it is: the time that a request may
take without a byte moving. It is counted from when that one was last seen to get on, since of a large title its share
takes minutes. A cache that is gone or known to be slow has no share by then."""

SPENT_S: Final = 6.0
"""For the tracker to hand out more of a budget, some heartbeats. Others of the ISP take over what a cache may not
fetch; that they begin and stop with each allowance would cost more than it brings."""

_REGIONAL: Final = frozenset({Scope.REGION, Scope.WORLD})


class _Cohort(NamedTuple):
    began: float
    since: float
    """When the last chunk joined; for that one the wait counts."""
    chunks: Bitmap


class _Wait:
    """The chunks that one hop may be used for, and those that wait for it."""

    def __init__(self, chunk_count: int, wait_s: float) -> None:
        self.ready = Bitmap(chunk_count)
        self.wait_s: Final = wait_s
        self._cohorts: list[_Cohort] = []

    def look(self, now: float, lacking: Bitmap) -> bool:
        """Take in which chunks are lacking and held by nobody nearer; tell whether the wait is over for more."""
        self.ready = self.ready & lacking
        kept = [_Cohort(began, since, chunks & lacking) for began, since, chunks in self._cohorts]
        known = self.ready
        for cohort in kept:
            known = known | cohort.chunks
        fresh = lacking.and_not(known)
        if fresh.any():
            if kept and now < kept[-1].began + self.wait_s / COHORTS_MAX:
                began, _, chunks = kept.pop()
                kept.append(_Cohort(began, now, chunks | fresh))
            else:
                kept.append(_Cohort(now, now, fresh))
        over = [cohort for cohort in kept if now >= cohort.since + self.wait_s]
        self._cohorts = [cohort for cohort in kept if now < cohort.since + self.wait_s and cohort.chunks.any()]
        for cohort in over:
            self.ready = self.ready | cohort.chunks
        return any(cohort.chunks.any() for cohort in over)

    def waiting(self, chunk_count: int) -> Bitmap:
        chunks = Bitmap(chunk_count)
        for cohort in self._cohorts:
            chunks = chunks | cohort.chunks
        return chunks

    def begin_anew(self, now: float) -> None:
        self._cohorts = [_Cohort(now, now, chunks) for _, _, chunks in self._cohorts]


class _StandIns:
    """What others of the cluster are to bring from other clusters, and do not."""

    def __init__(self, chunk_count: int, wait_s: float) -> None:
        self._nothing: Final = Bitmap(chunk_count)
        self.ready = self._nothing
        """What any cache of the cluster may fetch."""
        self._wait_s: Final = wait_s
        self._seen: dict[str, tuple[int, float]] = {}
        """Who is to bring something -> how many chunks of its share it has, and when it was last seen to get on."""

    def look(self, now: float, beyond: Bitmap, mates: Mates) -> bool:
        """Take in who is to bring which of the chunks `beyond`; tell whether somebody is found not to get on."""
        before, self.ready, seen = self.ready, self._nothing, self._seen
        self._seen = {}
        for name, share in mates.shares.items():
            due = beyond & share
            if not due.any():
                continue
            source = mates.sources.get(name)
            count = 0 if source is None else (source.holdings & share).count()
            count_before, since = seen.get(name, (-1, now))
            if count != count_before or name in mates.at_work:
                since = now
            self._seen[name] = count, since
            if now >= since + self._wait_s:
                self.ready = self.ready | due
        return self.ready.and_not(before).any()

    def begin_anew(self) -> None:
        self._seen.clear()


class Mates(NamedTuple):
    """The other caches of the cluster that this one relies on."""

    shares: Mapping[str, Bitmap]
    """Name -> what it is to fetch from other clusters."""
    sources: Mapping[str, Source]
    at_work: Container[str]
    """Those of them that are not to be taken for idle, though nothing has come."""


NO_MATES: Final = Mates({}, {}, ())


class Hops:
    """What the policy says to one fill on the cache `me`."""

    def __init__(self, reach: Reach, chunk_count: int, me: NodeInfo) -> None:
        self._me = me
        self._chunk_count = chunk_count
        self._regions = frozenset(reach.regions)
        waits = {Scope.REGION: reach.region_s, Scope.WORLD: reach.world_s, Scope.ORIGIN: reach.origin_s}
        self.nearest: Final = Scope.ISP if reach.isp_s is None else Scope.CLUSTER
        """The scope that is asked for whatever is missing."""
        self.rule: Final = reach.rule
        self.never: Final = frozenset(scope for scope, wait_s in waits.items() if wait_s is None)
        self._waits = {scope: _Wait(chunk_count, wait_s) for scope, wait_s in waits.items() if wait_s}
        if reach.isp_s is not None:
            self._waits[Scope.ISP] = _Wait(chunk_count, reach.isp_s)
            self._stand_ins = _StandIns(chunk_count, reach.isp_s + STAND_IN_S)
        self.waiting = Bitmap(chunk_count)
        """Chunks for which some hop that may be used is not open yet."""
        self.budget = ""
        """The budget that has nothing left for caches beyond the ISP; empty: none, or there is something."""
        self._spent_at = 0.0

    def scope_of(self, node: NodeInfo) -> Scope:
        """Return how far away a cache is for this fill."""
        scope = scope_between(self._me, node)
        if scope == Scope.ISP and self.nearest == Scope.CLUSTER and node.cluster == self._me.cluster:
            return Scope.CLUSTER
        return scope

    def allows(self, node: NodeInfo) -> bool:
        """Tell whether anything may be taken from a cache."""
        if self._regions and node.region not in self._regions:
            return False
        return scope_between(self._me, node) not in self.never

    def outside(self, members: Iterable[NodeInfo]) -> list[str]:
        """Return the ids of those of whom nothing may be taken."""
        if not self.never and not self._regions:
            return []
        return [node.id for node in members if node.id != self._me.id and not self.allows(node)]

    def look(self, now: float, lacking: Bitmap, available: Availability, mates: Mates = NO_MATES) -> bool:
        """Look which hops open for which of the `lacking` chunks; tell whether one has. To be called each tick.

        `mates` are the others of its cluster, where that is a hop.
        """
        opened = False
        for scope, wait in self._waits.items():
            beyond = lacking.and_not(available.held_within(scope))
            if scope == Scope.ISP:
                # For what nobody there holds either nobody waits: the ISP's masters bring it.
                beyond = beyond & available.held[scope]
                opened |= self._stand_ins.look(now, beyond, mates)
            opened |= wait.look(now, beyond)
        if self._waits or self.budget:
            self.waiting = self.unaffordable(lacking, available)
            for wait in self._waits.values():
                self.waiting = self.waiting | wait.waiting(self._chunk_count)
        return opened

    def spend(self, now: float, budget: str) -> None:
        """Ask no cache beyond the ISP until there is something left again (`renew`)."""
        if not self.budget:
            self._spent_at = now
        self.budget = budget

    def renew(self) -> None:
        """Let caches beyond the ISP be asked again."""
        self.budget = ""
        self.waiting = Bitmap(self._chunk_count)  # until the next look

    def is_spent(self, scope: Scope) -> bool:
        """Tell whether a budget has nothing left for sources in `scope`."""
        return bool(self.budget) and scope in _REGIONAL

    def unaffordable(self, lacking: Bitmap, available: Availability) -> Bitmap:
        """Return the chunks that wait for a budget: caches hold them, and none of the ISP does."""
        if not self.budget:
            return Bitmap(self._chunk_count)
        return (lacking & available.held[Scope.WORLD]).and_not(available.held[Scope.ISP])

    def closed(self, now: float) -> frozenset[Scope]:
        """Return the scopes from which others are to take what this cache should: it may not, for some time."""
        if self.budget and now >= self._spent_at + SPENT_S:
            return self.never | _REGIONAL
        return self.never

    def begin_anew(self, now: float) -> None:
        """Have what waits wait the whole time from now on: no time has passed for it."""
        for wait in self._waits.values():
            wait.begin_anew(now)
        if self.nearest == Scope.CLUSTER:
            self._stand_ins.begin_anew()

    def opened(self, scope: Scope, chunks: Bitmap) -> Bitmap:
        """Return those of `chunks` for which a hop is open."""
        if self.is_spent(scope):
            return Bitmap(self._chunk_count)
        wait = self._waits.get(scope)
        return chunks if wait is None else chunks & wait.ready

    def of_other_clusters(self, chunks: Bitmap, share: Bitmap) -> Bitmap:
        """Return those of `chunks`, none of which is held in the cluster, that may be asked of others of the ISP: its
        `share`, and what those did not bring whose share it is."""
        wait = self._waits[Scope.ISP]
        # Without a wait not even until the next tick.
        return chunks & ((share & wait.ready if wait.wait_s else share) | self._stand_ins.ready)

    def duty(self, duties: Mapping[Scope, Bitmap], scope: Scope) -> Bitmap:
        """Return the chunks for which this cache may go as far as `scope`, by what elections say. Not to be changed."""
        nearer = NEARER[scope]
        return self.duty(duties, nearer) if nearer in self.never else duties[scope]


class Outside:
    """The sources of which nothing may be taken, with what they have said."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def __contains__(self, source_id: object) -> bool:
        return source_id in self.sources

    def add(self, source: Source) -> None:
        """Keep a source out."""
        self.sources[source.id] = source

    def take_allowed(self, hops: Hops) -> list[Source]:
        """Return the sources that may be used by now, and keep them no more."""
        found = [source for source in self.sources.values() if is_allowed(source, hops)]
        for source in found:
            del self.sources[source.id]
        return found

    def takes(self, event: events.Event) -> bool:
        """Take in what has happened to one of them; tell whether it was one of them alone whom it concerns."""
        source = self.sources.get(getattr(event, "source", ""))
        match event:
            case events.CacheConnected(node):
                self.sources.pop(node.id, None)  # a new link; the fill looks whether it is to stay out
                return False
            case _ if source is None or isinstance(event, events.WaysReported | events.ChunkFound):
                return False  # elections go by the ways of all, and a chunk that is there is there
            case events.SourceLost():
                del self.sources[source.id]
            case events.HoldingsArrived(_, holdings):
                source.holdings = holdings.copy()
            case events.ChunksGained(_, chunks):
                source.holdings.add_all(chunks)
            case events.InterestShown(_, wanted):
                source.interest = wanted
            case events.OriginPriced(_, cost):
                source.cost = cost
        return True


def is_as_allowed(source: Source, hops: Hops) -> bool:
    """Tell whether a source may be used as what it is taken for."""
    return is_allowed(source, hops) and (source.node is None or hops.scope_of(source.node) == source.scope)


def is_allowed(source: Source, hops: Hops) -> bool:
    """Tell whether anything may be taken from a source."""
    return source.scope not in hops.never and (source.node is None or hops.allows(source.node))
