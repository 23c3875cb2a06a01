"""How far a fill goes by the fleet's policy: what is never asked, what waits for how long, and changes in mid-fill."""

from __future__ import annotations

import random

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
from p2pfill.swarm.hops import COHORTS_MAX, Hops
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


