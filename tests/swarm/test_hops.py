"""How far a fill goes by the fleet's policy: what is never asked, what waits for how long, and changes in mid-fill."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarm.test_fill import ORIGIN, title

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import ANYWHERE, FillPolicy, Reach
from p2pfill.swarm import actions, events
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.hops import COHORTS_MAX, STAND_IN_S, Hops
from p2pfill.swarm.masters import Masters
from p2pfill.swarm.recording import RecordingFill, play

ME = NodeInfo(NodeId("me"), "i", "eu")
MATE = NodeInfo(NodeId("mate"), "i", "eu")
NEAR = NodeInfo(NodeId("near"), "j", "eu")
FAR = NodeInfo(NodeId("far"), "k", "us")
COUNT = 8


def make_fill(reach: Reach, *others: NodeInfo, origin: bool = True) -> Fill:
    fill = Fill(title(COUNT), ME, FillPolicy(reach=reach), random.Random(1), 0.0, Bitmap(COUNT))
    fill.handle(0.0, events.RosterChanged((ME,)))
    for other in others:
        fill.handle(0.0, events.CacheConnected(other))
        fill.handle(0.0, events.HoldingsArrived(other.id, Bitmap.full(COUNT)))
    if origin:
        fill.handle(0.0, events.OriginConfigured(ORIGIN))
    return fill


def asked(fill: Fill, until: float, start: float = 0.0) -> dict[str, float]:
    """Return when each source was asked first, where none answers and none is given up."""
    first: dict[str, float] = {}
    now = start
    while now < until:
        for action in fill.poll_actions(now):
            if isinstance(action, actions.RequestChunk):
                first.setdefault(action.source, now)
        fill.ledger.check()
        now = min(max(fill.next_wakeup(), now + 0.01), now + 0.25)
        fill.handle(now, events.TimePassed())
    return first


def test_a_hop_that_is_never_used_is_not_asked_also_not_by_one_who_starves() -> None:
    for reach in (Reach(None, None, None, "home"), Reach(0.0, None, None, "home")):
        fill = make_fill(reach, FAR)
        assert asked(fill, 60.0) == {}
        (why,) = fill.waits()
        assert why == "a cache that holds them, since rule 'home' of the fleet's policy forbids the origin"
        assert set(fill.ways.closed) >= {Scope.WORLD, Scope.ORIGIN}, "others are elected in its place"
    assert asked(make_fill(Reach(None, 0.0, 0.0, "x"), NEAR, origin=False), 30.0) == {}
    assert asked(make_fill(ANYWHERE, FAR, origin=False), 1.0).keys() == {"far"}


def test_the_mates_of_the_isp_are_asked_whatever_the_rule() -> None:
    assert asked(make_fill(Reach(None, None, None, "home"), MATE), 1.0).keys() == {"mate"}


def test_a_hop_is_asked_once_its_wait_is_over_and_not_before() -> None:
    fill = make_fill(Reach(0.0, 0.0, 20.0, "late"))
    assert asked(fill, 19.9) == {}
    assert fill.waits() == {"the wait that rule 'late' of the fleet's policy sets before the next hop": 8}
    first = asked(fill, 60.0, 19.9)
    assert 20.0 <= first[ORIGIN] <= 20.0 * (1 + 1 / COHORTS_MAX) + 0.5
    assert not fill.escalations
    near_first = asked(make_fill(Reach(5.0, 10.0, 20.0, "late"), FAR), 60.0)
    assert near_first.keys() == {"far"}
    assert 10.0 <= near_first["far"] <= 11.5


def test_the_wait_begins_when_the_nearer_source_is_lost() -> None:
    fill = make_fill(Reach(0.0, 0.0, 10.0, "late"), NEAR)
    assert asked(fill, 8.0).keys() == {"near"}
    fill.handle(8.0, events.SourceLost("near"))
    assert 18.0 <= asked(fill, 60.0, 8.0)[ORIGIN] <= 19.5


def test_no_time_passes_for_what_is_held_back() -> None:
    fill = make_fill(Reach(0.0, 0.0, 10.0, "late"))
    assert asked(fill, 8.0) == {}
    fill.handle(8.0, events.Paused("urgency"))
    assert asked(fill, 30.0, 8.0) == {}
    fill.handle(30.0, events.Resumed())
    assert 40.0 <= asked(fill, 90.0, 30.0)[ORIGIN] <= 41.5


def test_no_source_in_other_regions_is_asked_where_the_title_may_not_leave() -> None:
    fill = make_fill(Reach(regions=("eu", "uk"), residency="licence"), FAR, origin=False)
    assert asked(fill, 60.0) == {}
    assert "far" not in fill.sources
    assert asked(make_fill(Reach(regions=("eu",), residency="licence"), FAR, NEAR), 1.0).keys() == {"near"}


def test_a_policy_that_changes_in_mid_fill_lets_sources_in_and_out() -> None:
    lines: list[bytes] = []
    fill = RecordingFill(lines.append, "1", title(COUNT), ME, FillPolicy(), random.Random("1"), 0.0, Bitmap(COUNT))
    fill.handle(0.0, events.RosterChanged((ME, FAR)))
    for other in (FAR, NEAR):
        fill.handle(0.0, events.CacheConnected(other))
    fill.handle(0.0, events.HoldingsArrived("near", Bitmap.full(COUNT)))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    assert asked(fill, 0.1).keys() == {"near"}
    fill.handle(1.0, events.PolicyChanged(FillPolicy(reach=Reach(None, None, None, "home"))))
    made = fill.poll_actions(1.0)
    assert {action.source for action in made if isinstance(action, actions.CancelRequest)} == {"near"}
    assert asked(fill, 20.0, 1.0) == {}
    assert not fill.sources
    fill.ledger.check()
    fill.handle(20.0, events.HoldingsArrived("far", Bitmap.full(COUNT)))
    fill.handle(20.0, events.SourceLost("near"))
    fill.handle(20.0, events.PolicyChanged(FillPolicy(reach=Reach(0.0, 0.0, None, "no cloud"))))
    assert asked(fill, 21.0, 20.0).keys() == {"far"}, "what it has said of its holdings meanwhile counts"
    fill.handle(21.0, events.SourceLost("far"))
    fill.handle(21.0, events.PolicyChanged(FillPolicy()))
    assert asked(fill, 30.0, 21.0).keys() == {ORIGIN}
    assert play(lines, random.Random)[2] is None, "a recording plays as it went"


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.sets(st.integers(0, COUNT - 1))), max_size=60), st.floats(0.5, 10.0))
def test_each_chunk_waits_as_long_as_it_must_and_not_much_longer(
    steps: list[tuple[float, set[int]]], wait_s: float
) -> None:
    """`steps` are times and which chunks a nearer cache holds from then on."""
    hops, now, since = Hops(Reach(0.0, 0.0, wait_s, "r"), COUNT, ME), 0.0, dict.fromkeys(range(COUNT), 0.0)
    everything = Bitmap.full(COUNT)
    held: set[int] = set()
    hops.look(now, everything, Availability(COUNT))
    for after_s, holds in steps:
        now += after_s
        since |= dict.fromkeys(held - holds, now)
        held = holds
        available = Availability(COUNT)
        available.add(Scope.WORLD, sorted(held))
        hops.look(now, everything, available)
        ready = set(hops.opened(Scope.ORIGIN, everything).indexes())
        for chunk in range(COUNT):
            if chunk in held or now < since[chunk] + wait_s - 1e-9:
                assert chunk not in ready
            elif now >= since[chunk] + wait_s * (1 + 1 / COHORTS_MAX) + 1e-9:
                assert chunk in ready
        assert set(hops.waiting.indexes()) == set(range(COUNT)) - held - ready
        assert len(hops._waits[Scope.ORIGIN]._cohorts) <= COHORTS_MAX + 1




# ---- a budget of caches beyond the ISP


def test_who_joins_in_for_a_slow_mate_keeps_to_a_spent_budget_from_the_first_moment() -> None:
    """Else each look would ask anew for what is refused, and count it as gone further out."""
    reach = Reach(minimum_bytes_s=10**9, rule="fast")
    assert NEAR.id in asked(make_fill(reach, MATE, NEAR, origin=False), 10.0), "without one it joins in"
    fill = make_fill(reach, MATE, NEAR, origin=False)
    assert asked(fill, 4.0).keys() == {MATE.id}
    fill.handle(4.0, events.BudgetSpent("transit"))
    assert NEAR.id not in asked(fill, 12.0, 4.0)
    assert not fill.escalations


# ---- clusters of an ISP

HERE = NodeInfo(NodeId("me"), "i", "eu", "rack-1")
BESIDE = NodeInfo(NodeId("beside"), "i", "eu", "rack-1")
ACROSS = NodeInfo(NodeId("across"), "i", "eu", "rack-2")
CLUSTERS = Reach(isp_s=0.0, rule="racks")


def clustered(reach: Reach, *linked: NodeInfo) -> Fill:
    """A fill of two caches of a cluster that lack everything, and one of another cluster that has it."""
    fill = Fill(title(COUNT), HERE, FillPolicy(reach=reach), random.Random(1), 0.0, Bitmap(COUNT))
    fill.handle(0.0, events.RosterChanged((HERE, BESIDE)))
    for other in linked:
        fill.handle(0.0, events.CacheConnected(other))
        held = Bitmap.full(COUNT) if other is ACROSS else Bitmap(COUNT)
        fill.handle(0.0, events.HoldingsArrived(other.id, held))
    return fill


def all_asked(fill: Fill, until: float) -> dict[int, float]:
    """Return when each chunk was asked for first, where all that is asked for comes at once."""
    found: dict[int, float] = {}
    now = 0.0
    while now < until:
        for action in fill.poll_actions(now):
            if isinstance(action, actions.RequestChunk):
                found.setdefault(action.chunk, now)
                fill.handle(now, events.ChunkReceived(action.request))
        fill.ledger.check()
        fill.handle(now, events.SourceProgressed(BESIDE.id))
        now += 0.05
        fill.handle(now, events.TimePassed())
    return found


def test_of_another_cluster_only_its_share_is_asked_and_the_rest_where_that_does_not_come() -> None:
    found = all_asked(clustered(CLUSTERS, BESIDE, ACROSS), 30.0)
    at_once = {chunk for chunk, at in found.items() if at < 1.0}
    assert 0 < len(at_once) < COUNT
    assert len(found) == COUNT
    assert all(STAND_IN_S <= at <= 1.2 * STAND_IN_S for chunk, at in found.items() if chunk not in at_once)
    plain = all_asked(clustered(ANYWHERE, BESIDE, ACROSS), 1.0)
    assert len(plain) == COUNT


def test_two_caches_of_a_cluster_share_it_out() -> None:
    mine, its = clustered(CLUSTERS, BESIDE, ACROSS), Fill(
        title(COUNT), BESIDE, FillPolicy(reach=CLUSTERS), random.Random(2), 0.0, Bitmap(COUNT)
    )
    its.handle(0.0, events.RosterChanged((HERE, BESIDE)))
    for other, held in ((HERE, Bitmap(COUNT)), (ACROSS, Bitmap.full(COUNT))):
        its.handle(0.0, events.CacheConnected(other))
        its.handle(0.0, events.HoldingsArrived(other.id, held))
    one = {chunk for chunk, at in all_asked(mine, 1.0).items()}
    other_ = {chunk for chunk, at in all_asked(its, 1.0).items()}
    assert one | other_ == set(range(COUNT))
    assert not one & other_


def test_a_cache_that_is_gone_leaves_its_share_of_other_clusters() -> None:
    fill = clustered(CLUSTERS, BESIDE, ACROSS)
    fill.handle(0.0, events.SourceLost(BESIDE.id, "gone"))
    assert len(all_asked(fill, 1.0)) == COUNT


def test_what_the_cluster_holds_is_not_asked_across() -> None:
    fill = clustered(CLUSTERS, BESIDE, ACROSS)
    fill.handle(0.0, events.ChunksGained(BESIDE.id, tuple(range(COUNT))))
    first = asked(fill, 3.0)
    assert first.keys() == {BESIDE.id}


def test_who_waits_for_another_of_its_cluster_says_so() -> None:
    fill = clustered(CLUSTERS, BESIDE, ACROSS)
    now = 0.0
    for _ in range(20):
        for action in fill.poll_actions(now):
            if isinstance(action, actions.RequestChunk):
                fill.handle(now, events.ChunkReceived(action.request))
        now += 0.05
    (why,) = fill.waits()
    assert why == "the cache of its cluster that fetches them from others of the ISP"


def test_a_policy_that_brings_the_hop_or_takes_it_away_holds_for_a_running_fill() -> None:
    fill = clustered(ANYWHERE, BESIDE, ACROSS)
    assert {source.scope for source in fill.sources.values()} == {Scope.ISP}
    fill.handle(0.0, events.PolicyChanged(FillPolicy(reach=CLUSTERS)))
    assert {name: source.scope for name, source in fill.sources.items()} == {
        BESIDE.id: Scope.CLUSTER, ACROSS.id: Scope.ISP
    }  # fmt: skip
    found = all_asked(fill, 1.0)
    assert 0 < len(found) < COUNT
    fill.handle(1.0, events.PolicyChanged(FillPolicy()))
    assert {source.scope for source in fill.sources.values()} == {Scope.ISP}
    assert fill.available.held[Scope.CLUSTER].count() == 0
    assert len(all_asked(fill, 1.0)) + len(found) == COUNT


def test_nobody_stands_in_for_one_that_says_that_it_is_at_it() -> None:
    """A chunk may take longer to cross than the time after which another one would fetch it too."""
    fill = clustered(CLUSTERS, BESIDE, ACROSS)
    now, found = 0.0, set[int]()
    while now < 1.2 * STAND_IN_S:
        for action in fill.poll_actions(now):
            if isinstance(action, actions.RequestChunk):
                found.add(action.chunk)
                fill.handle(now, events.ChunkReceived(action.request))
        if round(now, 2) % 1 == 0:
            fill.handle(now, events.ChunksClaimed(BESIDE.id, tuple(range(COUNT))))
        now += 0.25
    assert 0 < len(found) < COUNT


def test_who_fetches_from_another_cluster_claims_it() -> None:
    fill = clustered(CLUSTERS, BESIDE, ACROSS)
    first = [action for action in fill.poll_actions(0.0) if isinstance(action, actions.RequestChunk)]
    fill.handle(1.0, events.SourceProgressed(ACROSS.id))
    (claim,) = [action for action in fill.poll_actions(1.0) if isinstance(action, actions.ClaimChunks)]
    assert set(claim.chunks) == {request.chunk for request in first} == set(fill.border_chunks())
    plain = clustered(ANYWHERE, BESIDE, ACROSS)
    plain.poll_actions(0.0)
    plain.handle(1.0, events.SourceProgressed(ACROSS.id))
    assert not [action for action in plain.poll_actions(1.0) if isinstance(action, actions.ClaimChunks)]


@pytest.mark.parametrize("why", ["alone and slow", "of no weight", "others want other files"])
def test_who_has_nobody_to_rely_on_in_its_cluster_fetches_for_itself(why: str) -> None:
    me = msgspec.structs.replace(HERE, weight=0.0) if why == "of no weight" else HERE
    masters = Masters(title(COUNT).title_id, COUNT, me)
    mates = [BESIDE] if why == "others want other files" else []
    masters.set_members(0.0, [me, ACROSS, *mates], wants={BESIDE.id: Bitmap(COUNT)} if mates else {})
    if why == "alone and slow":
        masters.suspend(me.id, "master-slow", 100.0)
    assert masters.cluster_share().count() == COUNT
