"""Which caches may be relied on to fetch what across borders, as one cache sees it.

A member of the roster is left out of the election while it is lost, barred, stalled (silent for longer than is usual
although it owes a chunk, or could be fetching one that it is master of; or alive, while nothing of its part comes, see
`swarm.stalls`) or passed over, because it lives but is far behind with its share. One that only waits for others is
silent nominally. One that says that its way to somewhere is dead counts, but not for what must come from there.
Whoever then is elected in its place goes further out than the full roster would let it, and that is an escalation.

Claims are the other half: a cache says what it is fetching across a border, again and again while bytes are moving, so
that a slow transfer is not taken for a stalled one and a change of the roster does not have a chunk fetched twice. Each
has its time (`swarm.claims`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import reduce
from operator import or_
from typing import Final, NamedTuple

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.timing import DISCOVERY_TIMEOUT_S
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.claims import Claims
from p2pfill.swarm.election import (
    ALL_WANTED,
    IN_ISP,
    IN_REGION,
    IN_WORLD,
    Assignment,
    Scope,
    Wants,
    hold_elections,
    reach,
    share_by_rank,
)  # fmt: skip
from p2pfill.swarm.shares import Shares
from p2pfill.swarm.slow_peers import LAG_CHUNKS, SlowPeerDetector, median_without
from p2pfill.swarm.sources import SLOW
from p2pfill.swarm.stalls import Stalls

STALLED: Final = "master-stalled"
LOST: Final = "master-lost"
UNREACHABLE: Final = "master-unreachable"
NO_ROUTE: Final = "master-no-route"
"""Reasons for escalations; the last one of somebody who says so itself."""

UNMET_S: Final = DISCOVERY_TIMEOUT_S
"""A member with whom this cache is to be linked, and never was, is waited for no longer than a cache that is down may
hold up a fill: it is not slow, for nothing was asked of it. Once it is linked it is relied on again. Each time that
some are found the next ones have half of the time, and while names come and go all of them have twice the time
together: so it costs a fill this four times at most."""

UNMET_AGAIN_MAX: Final = 5
"""How often it is halved."""

UNMET_MAX: Final = 4096
"""Names of which it is kept since when they were to be met."""

STUCK: Final = 4
"""A cache of the own ISP is passed over after this many times the usual wait though it may only be waiting for others:
the world's, the region's and the ISP's master have each had their turn by then."""

STANDSTILL: Final = 4
"""A member with whom this cache is not to be linked shows its life, and what it has fetched, through what others
announce. So it is passed over only when nobody at all has shown any life, or nothing of its part has come, for this
many times the usual wait: several hops."""

SENDS_SLOWLY: Final = 2.0
"""A master that is far behind with what it has sent on, and so many times slower at that, is left out. Towards the end
the last few chunks of each are on their way, so being behind alone says nothing. See docs/experiments.md, "Slow
caches"."""

STALLED_AGAIN_MAX: Final = 6
"""A member that stalls, or whose link is lost, again and again without having fetched anything in between is done
without for twice as long each time, up to 64 times the usual wait. Or a link that flaps would cost the others a wait
each time."""

SOON_MAX_S: Final = 90.0
"""A member that is ready soon is judged as any other after this: it says so half a minute before, and rosters of a
large fleet are told every 20 s. Its clock may stand still, or it may lie, and others would wait for ever."""

SOON_AGAIN_S: Final = 900.0
"""And so it is where it says so again before this much time has passed."""

REOPEN_S: Final = 1.0
"""A way that is said to be open again counts after this at the earliest: each change is an election."""


class _IspDuties(NamedTuple):
    """What the caches of this ISP that are relied on fetch across its border, as things are."""

    shares: Shares
    together: Mapping[Scope, Bitmap]
    """The chunks for which some cache of them may go as far as a scope."""
    from_origin: Mapping[str, int]
    """How many chunks of each share are taken from origins."""


class Masters:
    """Elections among the caches that want one title, and what they are seen to do about it."""

    def __init__(self, title_id: TitleId, chunk_count: int, me: NodeInfo) -> None:
        self._title_id = title_id
        self._chunk_count = chunk_count
        self._me = me
        self.members: dict[str, NodeInfo] = {me.id: me}
        self._wants: Wants = ALL_WANTED
        self.excluded: dict[str, str] = {}
        """Member -> why it does not count."""
        self._passed_over_until: dict[str, float] = {}
        """Members that no sign of life readmits before then: they live, and are slow."""
        self._fetching, self._sending = SlowPeerDetector(), SlowPeerDetector(SLOW, SENDS_SLOWLY)
        self._seen_at: dict[str, float] = {me.id: 0.0}
        self._unlinked: frozenset[str] = frozenset()
        self._met: set[str] = set()
        """Members that have been linked, or have shown life otherwise."""
        self._unmet_since: dict[str, float] = {}
        """Those that have not, also when the roster has left them out for a while."""
        self._absent_since: float | None = None
        """Since when there has been one of them, this or that one, that is waited for."""
        self._absences = 0
        """How often some were found that were not there."""
        self._soon: frozenset[str] = frozenset()
        """Members of which nothing is expected yet, since their fill windows are about to open."""
        self._soon_since: dict[str, float] = {}
        """Who was one of them in the last `SOON_AGAIN_S` -> since when, at first."""
        self.around: frozenset[Scope] = frozenset()
        """The scopes in which there are members with whom this cache is to be linked."""
        self._seen_since = float("-inf")
        """A moment since which every linked member that is relied on has been seen: nobody is silent for longer."""
        self._life_at = 0.0
        """When any other cache was last seen to do something."""
        self.claims = Claims(0.0)
        self.closed: dict[str, frozenset[Scope]] = {}
        """Member -> scopes from which it says that it cannot take chunks."""
        self._closed_at: dict[str, float] = {}
        """When a way of a member was closed last."""
        self._to_open: dict[str, frozenset[Scope]] = {}
        """What remains closed of those who have said since that a way is open again."""
        self._stalls, self._stuck = Stalls(chunk_count), Stalls(chunk_count)
        self._failures: dict[str, int] = {}
        """How often a member has stalled or was lost since it last fetched something."""
        self._stale = True
        self._changed = False
        """Somebody was left out or readmitted since `watch` looked."""
        self._elected_at = 0.0
        """When that was last so: stand-ins have been in office since then at most."""
        self._nominal = self._present = Assignment(title_id, chunk_count, [me])
        self._nominal_share = self._assignment = self._nominal.within(me)
        self._nominal_shares = Shares(chunk_count, {})
        self._nominal_counts: dict[str, int] = {}
        """What each cache of this ISP that is relied on is master of nominally, see `_share_out`."""
        self._isp: _IspDuties | None = None
        self._cluster_shares: dict[str, Bitmap] | None = None
        """Both are worked out when asked for."""
        self._cluster_share = self._nothing = Bitmap(chunk_count)
        self.waiting = Bitmap(chunk_count)
        """Chunks that wait by the fleet's policy: nobody is judged by them."""

    # ---- what is seen

    def set_members(
        self,
        now: float,
        members: Iterable[NodeInfo],
        unlinked: Iterable[str] = (),
        wants: Wants = ALL_WANTED,
        soon: frozenset[str] = frozenset(),
    ) -> None:
        """Take in the caches that want the title, or a part of it; this one is always among them.

        `unlinked` are those with whom this cache is not to be linked: it hears nothing of them, so their silence means
        little, and each new roster is a new chance for them. Those that are ready `soon` are judged once they are.
        """
        before, self.members = self.members, {node.id: node for node in members}
        self.members.setdefault(self._me.id, self._me)
        self._wants = wants
        self._unlinked = frozenset(unlinked)
        linkable = self.members.keys() - self._unlinked
        self.around = frozenset(self._scope_of(node_id) for node_id in linkable)
        self._life_at = self._life_at or now
        # Also those that were seen long ago: they may have been closed meanwhile.
        self._seen_at.update(dict.fromkeys(self.members.keys() - before, now))
        if begun := self._soon - soon:
            self._seen_at.update(dict.fromkeys(begun, now))
            self.start_clocks_anew()
        before_long = {node_id: since for node_id, since in self._soon_since.items() if now < since + SOON_AGAIN_S}
        self._soon, self._soon_since = soon, dict.fromkeys(soon, now) | before_long
        self._judge_the_late(now)
        known = self.members.keys() - self._unlinked
        self.excluded = {node_id: why for node_id, why in self.excluded.items() if node_id in known}
        self.closed = {node_id: closed for node_id, closed in self.closed.items() if node_id in self.members}
        self._failures = {node_id: count for node_id, count in self._failures.items() if node_id in self.members}
        self._met &= self.members.keys()
        for node_id in self.members.keys() - self._met:
            self._unmet_since.setdefault(node_id, now)
        while len(self._unmet_since) > UNMET_MAX:
            del self._unmet_since[next(iter(self._unmet_since))]
        self._seen_since = float("-inf")
        self._stale = True

    def _judge_the_late(self, now: float) -> None:
        """Expect something of those that were to be ready soon, and are not for too long."""
        if late := {node_id for node_id in self._soon if now >= self._soon_since[node_id] + SOON_MAX_S}:
            self._soon -= late
            self._stale = True

    def saw(self, now: float, node_id: str) -> None:
        """Note that a cache delivered, announced or claimed something."""
        self._seen_at[node_id] = self._life_at = now
        self._met.add(node_id)
        if self._unmet_since:
            self._unmet_since.pop(node_id, None)

    def exclude(self, node_id: str, reason: str) -> None:
        """Stop relying on a cache."""
        if node_id in self.members and node_id not in self.excluded:
            self.excluded[node_id] = reason
            self._stale = self._changed = True

    def suspend(self, node_id: str, reason: str, until: float) -> None:
        """Stop relying on a cache until a time, whatever life it shows."""
        self.exclude(node_id, reason)
        self._passed_over_until[node_id] = until

    def reinstate(self, now: float, node_id: str) -> None:
        """Rely on a cache again, unless it was passed over."""
        if node_id not in self.excluded or now < self._passed_over_until.get(node_id, now):
            return
        self._passed_over_until.pop(node_id, None)
        if self.excluded.pop(node_id, None) is not None:
            self._seen_since = min(self._seen_since, self._seen_at[node_id])
            self._stale = self._changed = True

    def fetched(self, now: float, node_id: str) -> None:
        """Note that a cache has got something across a border: though it had stalled or was lost, rely on it."""
        self._failures.pop(node_id, None)
        if self.excluded.get(node_id) in (STALLED, LOST):
            self._passed_over_until.pop(node_id, None)
            self.reinstate(now, node_id)

    def _note_failure(self, now: float, node_id: str, patience_s: float) -> None:
        """Note that a member has stalled or was lost; whoever does so again and again is done without for a while."""
        if node_id in self.members:
            times = self._failures[node_id] = self._failures.get(node_id, 0) + 1
            if times > 1 or self.excluded.get(node_id) == STALLED:
                until = now + patience_s * 2.0 ** min(times, STALLED_AGAIN_MAX)
                self._passed_over_until[node_id] = max(until, self._passed_over_until.get(node_id, until))

    def forgive(self, node_id: str) -> None:
        """Note that the loss of a link that ended last is not to be held against a cache."""
        times = self._failures.pop(node_id, 0)
        if times > 1:
            self._failures[node_id] = times - 1
        if self.excluded.get(node_id) == LOST:
            self._passed_over_until.pop(node_id, None)

    def set_ways(self, now: float, node_id: str, closed: frozenset[Scope]) -> None:
        """Take in from where a cache, which may be this one, cannot take chunks; replaces what it has said before."""
        if node_id not in self.members:
            return
        before = self.closed.get(node_id, frozenset())
        self._to_open.pop(node_id, None)
        if closed - before:
            self._set_closed(node_id, before | closed)
            self._closed_at[node_id] = now
        if closed != before | closed:
            self._to_open[node_id] = closed

    def _set_closed(self, node_id: str, closed: frozenset[Scope]) -> None:
        if closed:
            self.closed[node_id] = closed
        else:
            self.closed.pop(node_id, None)
        self._stale = self._changed = True

    def look_at_ways(self, now: float) -> None:
        """Let count what was said to be open again. To be called each tick."""
        for node_id, closed in list(self._to_open.items()):
            if now >= self._closed_at[node_id] + REOPEN_S:
                del self._to_open[node_id]
                self._set_closed(node_id, closed)

    def wait_anew(self, now: float) -> None:
        """Give everybody who is relied on the usual time again to show life, or to catch up."""
        self._seen_at.update(dict.fromkeys(self.members, now))
        self._unmet_since = dict.fromkeys(self._unmet_since, now)
        self._elected_at, self._absent_since = now, None
        self._fetching, self._sending = SlowPeerDetector(), SlowPeerDetector(SLOW, SENDS_SLOWLY)
        self.start_clocks_anew()

    def start_clocks_anew(self) -> None:
        """Give everybody the whole time again until something of its part must have come."""
        self._stalls.start_anew()
        self._stuck.start_anew()

    def lose(self, now: float, node_id: str, patience_s: float) -> None:
        """Note that the link to a cache has ended: it is not relied on, and what it was fetching is free for others."""
        self.exclude(node_id, LOST)
        self._note_failure(now, node_id, patience_s)
        self.claims.lose(node_id)
        # Over a new link it says so anew.
        self._to_open.pop(node_id, None)
        if node_id in self.closed:
            self._set_closed(node_id, frozenset())

    # ---- what follows

    def assignment(self) -> dict[Scope, Bitmap]:
        """Return how far this cache may go for which chunks, as things are."""
        if self._stale:
            self._stale = False
            members = self.members.values()
            self._nominal = self._present = hold_elections(
                self._title_id, self._chunk_count, members, wants=self._wants
            )
            self._nominal_share = self._assignment = self._nominal.within(self._me)
            if self.excluded or self.closed:
                without = self._without()
                self._present = hold_elections(
                    self._title_id, self._chunk_count, members, without, self.closed, self._wants
                )
                self._assignment = self._present.within(self._me)
            self._nominal_shares = Shares(self._chunk_count, self._share_out())
            self._nominal_counts = self._nominal_shares.count(Bitmap.full(self._chunk_count))
            self._isp = self._cluster_shares = None
        return self._assignment

    def cluster_shares(self) -> Mapping[str, Bitmap]:
        """Return what each other cache of this one's cluster is to fetch from other clusters of the ISP.

        Of those alone that this cache is linked with and relies on: what another brings it would not hear of. In a
        large fleet each cache knows others of them, and then quotas would have them wait for one another in a circle.
        """
        self.assignment()
        if self._cluster_shares is None:
            group = self._me.region, self._me.isp, self._me.cluster
            mates = [
                node
                for node in self.members.values()
                if (node.region, node.isp, node.cluster) == group and node.id not in self._unlinked
            ]
            if all(node_id not in self._unlinked for node_id in self.mates()):
                elected = hold_elections(self._title_id, self._chunk_count, mates, self.excluded, wants=self._wants)
                found, _, _ = elected.masters(self._me.region, self._me.isp)
            else:
                relied_on = [node for node in mates if node.weight and node.id not in self.excluded]
                known: dict[str, float] = {node.id: node.weight for node in relied_on}
                found = share_by_rank(self._title_id, self._chunk_count, known, self._wants)
            self._cluster_shares = {node_id: share for node_id, share in found.items() if node_id != self._me.id}
            # Also what nobody is elected for, as where all the others are lost, or want other files.
            self._cluster_share = Bitmap.full(self._chunk_count).and_not(
                reduce(or_, self._cluster_shares.values(), self._nothing)
            )
        return self._cluster_shares

    def cluster_share(self) -> Bitmap:
        """Return what this cache is to fetch from other clusters of its ISP for its own one. Not to be changed."""
        self.cluster_shares()
        return self._cluster_share

    def at_work(self) -> Container[str]:
        """Return the members that are not to be taken for idle: they claim chunks, or are ready soon."""
        return self._soon | {node_id for _, node_id in self.claims.standing()}

    def is_reader(self) -> bool:
        """Tell whether this cache is to read an origin for all that has no Range: the master of the first chunk is.

        Where some want a part of the title only, it is one reader for each set of chunks that the same caches want.
        """
        from_origin = self.assignment()[Scope.ORIGIN]
        return any(from_origin[first] for first in self._present.firsts())

    def _without(self) -> Container[str]:
        """Return who does not count: this cache does where it is the last one of its ISP, whatever others say of it."""
        mates = (node_id for node_id in self.members if self._scope_of(node_id) == Scope.ISP)
        if self._me.id in self.excluded and all(node_id in self.excluded for node_id in mates):
            return self.excluded.keys() - {self._me.id}
        return self.excluded

    def is_doubted(self, node_id: str) -> bool:
        """Tell whether a member has stalled or was lost since it last fetched something."""
        return node_id in self._failures

    def mates(self) -> list[str]:
        """Return the other caches of this one's ISP."""
        return self.isp_peers(self._me.id)

    def is_to_be_linked(self, node_id: str) -> bool:
        """Tell whether this cache is to be linked with a member."""
        return node_id != self._me.id and node_id not in self._unlinked

    def isp_peers(self, node_id: str) -> list[str]:
        """Return the other caches of a cache's ISP; none where it is not a member."""
        node = self.members.get(node_id)
        if node is None:
            return []
        return [n.id for n in self.members.values() if (n.isp, n.region) == (node.isp, node.region) and n is not node]

    def _share_out(self) -> dict[str, Bitmap]:
        """Return what each cache of this ISP that is relied on is master of nominally.

        Of the place of others, which it may not know that it has taken in the eyes of this cache, it is not judged. Nor
        is one that cannot reach what it would be master of.
        """
        masters, _, _ = self._nominal.masters(self._me.region, self._me.isp)
        return {
            node_id: masters.get(node_id, self._nothing)
            for node_id, node in self.members.items()
            if node_id not in self.excluded
            and node_id not in self.closed
            and node_id not in self._soon
            and node.weight
            and self._scope_of(node_id) == Scope.ISP
        }

    def _isp_duties(self) -> _IspDuties:
        self.assignment()
        if self._isp is None:
            masters, leads_region, leads_world = self._present.masters(self._me.region, self._me.isp)
            of_each = {
                node_id: masters.get(node_id, self._nothing)
                for node_id, node in self.members.items()
                if node_id not in self.excluded and node.weight and self._scope_of(node_id) == Scope.ISP
            }
            mine = reduce(or_, (of_each[node_id] for node_id in masters if node_id in of_each), self._nothing)
            together = {Scope.REGION: mine, Scope.WORLD: mine & leads_region, Scope.ORIGIN: mine & leads_world}
            shares = Shares(self._chunk_count, of_each)
            self._isp = _IspDuties(shares, together, shares.count(together[Scope.ORIGIN]))
        return self._isp

    def nominal_share(self) -> dict[Scope, Bitmap]:
        """Return how far this cache might go for which chunks if everybody could be relied on."""
        self.assignment()
        return self._nominal_share

    def behind_at_origin(self, have: Bitmap, available: Availability) -> float:
        """Return how many chunks this cache is behind where others of its ISP are with what each fetches from origins.

        Negative where it is ahead, 0 where nobody else of its ISP shares in that. This cache `have`, and the ISP holds,
        what is `available`. Shares follow weights, so equal parts of them should be done.
        """
        mine = self.assignment()[Scope.ORIGIN].count()
        if not mine:
            return 0.0
        isp = self._isp_duties()
        to_come = isp.shares.count(isp.together[Scope.ORIGIN].and_not(have | available.held[Scope.ISP]))
        left = {node_id: to_come[node_id] / count for node_id, count in isp.from_origin.items() if count}
        if self._me.id not in left or len(left) < 2:
            return 0.0
        return (left[self._me.id] - median_without(sorted(left.values()), left[self._me.id])) * mine

    def claimed(self, scope: Scope) -> list[int]:
        """Return the chunks that a cache nearer than `scope`, and relied on, is fetching now.

        For one that is slow nobody waits: what it is at comes twice at most, and else the whole ISP would wait for it.
        """
        if not self.claims:
            return []
        return [
            chunk
            for chunk, node_id in self.claims.standing()
            if node_id not in self.excluded and self._scope_of(node_id) < scope
        ]

    def escalation(self, chunk: int, scope: Scope) -> str:
        """Return the reason for which going to `scope` for `chunk` is an escalation; empty where it is a duty."""
        if scope <= reach(self._nominal_share, chunk):
            return ""
        for node_id, why in self.excluded.items():
            if reach(self._nominal.within(self.members[node_id]), chunk) >= scope:
                return why
        for node_id, closed in self.closed.items():
            if scope in closed and reach(self._nominal.within(self.members[node_id]), chunk) >= scope:
                return NO_ROUTE
        return next(iter(self.excluded.values()), NO_ROUTE if self.closed else "roster-changed")

    def watch(
        self,
        now: float,
        patience_s: float,
        linked: Iterable[str],
        available: Availability,
        owing: Container[str] = (),
    ) -> None:
        """Leave out the members that have been silent for `patience_s` though there is something for them to do.

        Be it that they owe this cache a chunk (`owing`), or have chunks to fetch, nominally or in the place of others
        that were left out before.
        """
        linked = set(linked)
        self._met |= linked
        self._judge_the_late(now)
        self.assignment()
        if self._changed:
            self._changed, self._elected_at = False, now
        if now < self._seen_since + patience_s:
            return
        # Of those who are not linked there may be hundreds, and none can be silent before one who is.
        self._seen_since = self._life_at
        unmet: list[NodeInfo] = []
        for node_id, node in self.members.items():
            if node_id == self._me.id or node_id in self.excluded or node_id in self._soon or not node.weight:
                continue
            if node_id in self._unlinked:
                seen_at = self._life_at + (STANDSTILL - 1) * patience_s
            elif node_id in self._met:
                seen_at = self._seen_at[node_id]
                self._seen_since = min(self._seen_since, seen_at)
            else:
                unmet.append(node)
                continue
            if now < seen_at + patience_s:
                continue
            stands_in = self._present is not self._nominal and now >= self._elected_at + patience_s
            if (
                node_id in owing
                or self._is_due(node, self._nominal.within(node), available)
                or (stands_in and self._is_due(node, self._present.within(node), available))
                or (now >= seen_at + STUCK * patience_s and self._is_stuck(node, available))
            ):
                self.exclude(node_id, STALLED if node_id in linked else UNREACHABLE)
                if node_id in linked and node_id not in owing:
                    # That it answers what it is asked now is no reason to rely on it again.
                    self._note_failure(now, node_id, patience_s)
        self._watch_unmet(now, patience_s, unmet, available)
        if self._changed:
            self._changed, self._elected_at = False, now

    def _watch_unmet(self, now: float, patience_s: float, unmet: list[NodeInfo], available: Availability) -> None:
        """Leave out the members that were never linked, once one of them is waited for in vain.

        All of them: else each in turn would be elected in the place of the one before, and waited for.
        """
        if unmet:
            self._seen_since = float("-inf")
        since = {node.id: self._unmet_since.setdefault(node.id, now) for node in unmet}
        due = [
            since[node.id]
            for node in unmet
            if self._is_due(node, self._nominal.within(node), available)
            or (self._present is not self._nominal and self._is_due(node, self._present.within(node), available))
            or (now >= since[node.id] + STUCK * patience_s and self._is_stuck(node, available))
        ]
        if not due:
            self._absent_since = None
            return
        if self._absent_since is None:
            self._absent_since = now
        wait_s = min(patience_s, UNMET_S * 0.5 ** min(self._absences, UNMET_AGAIN_MAX))
        are_all_late = now >= self._absent_since + 2 * wait_s
        if not (are_all_late or now >= min(due) + wait_s):
            return
        self._absences, self._absent_since = self._absences + 1, None
        for node_id, unmet_since in since.items():
            if are_all_late or now >= unmet_since + wait_s:
                self.exclude(node_id, UNREACHABLE)

    def watch_parts(self, now: float, patience_s: float, missing: Bitmap, available: Availability) -> None:
        """Leave out the members of whose part nothing has come for `patience_s`, whatever life they show.

        This cache lacks what is `missing`. Whoever makes claims has the time that they give it besides, and those with
        whom this cache is not to be linked that of several hops. To be called each tick.
        """
        here = Bitmap.full(self._chunk_count).and_not(missing.and_not(available.held[Scope.ISP]))
        allowed_s = self.claims.allowances()
        found = []
        if not here.all():
            isp = self._isp_duties()
            nearby, far = available.held[Scope.REGION], available.held[Scope.WORLD]
            left = isp.together[Scope.REGION].and_not(here | self.waiting)
            due = left & (isp.together[Scope.ORIGIN] | (isp.together[Scope.WORLD] & far) | nearby)
            for chunk, node_id in self.claims.broken():
                # Nobody here may know otherwise that such a chunk could be had.
                if left[chunk] and isp.shares.owner(chunk) == node_id:
                    due.add(chunk)
            found = [
                node_id
                for stalls, chunks, wait_s in ((self._stalls, due, patience_s), (self._stuck, left, STUCK * patience_s))
                for node_id, since in stalls.look(now, isp.shares, chunks, here).items()
                if now >= since + wait_s  # soon said of most
                if node_id != self._me.id and node_id not in self._soon
                if now >= since + wait_s * self._hops(node_id) + allowed_s.get(node_id, 0.0)
            ]
        else:
            self._stalls.start_isp_anew()
            self._stuck.start_isp_anew()
        found += self._stalled_beyond(now, patience_s, missing, available, allowed_s)
        for node_id in dict.fromkeys(found):
            self.exclude(node_id, STALLED)
            self._note_failure(now, node_id, patience_s)
            self._stalls.forget(node_id)
            self._stuck.forget(node_id)

    def _hops(self, node_id: str) -> int:
        return STANDSTILL if node_id in self._unlinked else 1

    def _stalled_beyond(
        self,
        now: float,
        patience_s: float,
        missing: Bitmap,
        available: Availability,
        allowed_s: Mapping[str, float],
    ) -> list[str]:
        """Return the caches beyond the ISP that are to bring nearer what this one waits for, where nothing comes."""
        duties = self.assignment()
        lacking = (missing & duties[Scope.REGION]).and_not(self.waiting)
        nearby, far = available.held[Scope.REGION], available.held[Scope.WORLD]
        have = Bitmap.full(self._chunk_count).and_not(missing)
        from_origin = lacking.and_not(duties[Scope.ORIGIN] | far)
        from_world = (lacking & far).and_not(duties[Scope.WORLD] | nearby)
        for chunk, _ in self.claims.standing():
            from_origin.discard(chunk)
        found = []
        for scope, awaited, gone in (
            (Scope.ORIGIN, from_origin, have | far),
            (Scope.WORLD, from_world, have | nearby),
        ):
            since = self._stalls.look_beyond(now, scope, awaited, gone)
            if now < since + patience_s:
                continue
            late = [
                node_id
                for node_id, node in self.members.items()
                if node_id not in self.excluded and node_id not in self._soon and node.weight
                if self._scope_of(node_id) != Scope.ISP
                if now >= since + patience_s * self._hops(node_id) + allowed_s.get(node_id, 0.0)
                if (self._present.within(node)[scope] & awaited).any()
            ]
            if not self._unlinked.isdisjoint(late):
                # The group that is elected in its place has only just found out, and has the whole time.
                self._stalls.forget_beyond(scope)
            found += late
        return found

    def lagging(self, now: float, have: Bitmap, available: Availability) -> tuple[list[str], list[str]]:
        """Return the caches of this ISP that are far behind the others with what they fetch for it, and show life.

        And those that are so with what they have sent on, though they do not lag with fetching: of a chunk that only
        one cache holds nobody else has anything yet. This cache `have`, and the ISP holds, what is `available`. Shares
        follow weights, so equal parts of them should be done. One that shows no life is not slow but silent, which
        `watch` finds.
        """
        self.assignment()
        if max(self._nominal_counts.values(), default=0) < LAG_CHUNKS:
            return [], []
        fetching = self._left_of_shares(self._fetching, now, have | available.held[Scope.ISP])
        sending = self._left_of_shares(self._sending, now, have | available.shared)
        return fetching, [node_id for node_id in sending if node_id not in fetching]

    def _left_of_shares(self, laggards: SlowPeerDetector, now: float, done: Bitmap) -> list[str]:
        left = self._nominal_shares.count(Bitmap.full(self._chunk_count).and_not(done))
        since = laggards.look(now, self._nominal_counts, left)
        since.pop(self._me.id, None)
        return [node_id for node_id, began in since.items() if self._seen_at[node_id] > began]

    def _is_due(self, node: NodeInfo, within: Mapping[Scope, Bitmap], available: Availability) -> bool:
        """Tell whether `node`, which may go as far as `within`, is master of a chunk that it lacks and could get."""
        if self._scope_of(node.id) == Scope.ISP:
            lacking = within[Scope.REGION].and_not(available.held[Scope.ISP] | self.waiting)
            return (lacking & (within[Scope.WORLD] | available.held[Scope.WORLD])).any()
        # Of other chunks it is not known whether anybody holds them.
        mine = self._assignment[Scope.REGION]
        return (within[Scope.WORLD] & mine).and_not(available.held[Scope.WORLD] | self.waiting).any()

    def _is_stuck(self, node: NodeInfo, available: Availability) -> bool:
        """Tell whether a cache of this ISP is master of a chunk that it lacks, whoever has it.

        What happens to such a chunk beyond the ISP is told to its master only. If that one cannot get it, and neither
        can those that it has passed over, nobody else would ever know.
        """
        if self._scope_of(node.id) != Scope.ISP:
            return False
        return self._present.within(node)[Scope.REGION].and_not(available.held[Scope.ISP] | self.waiting).any()

    def _scope_of(self, node_id: str) -> Scope:
        node = self.members.get(node_id)
        if node is None or node.region != self._me.region:
            return IN_WORLD
        return IN_ISP if node.isp == self._me.isp else IN_REGION
