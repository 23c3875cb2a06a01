"""A cache of whose part nothing comes has stalled, whatever other life it shows."""

from __future__ import annotations

from itertools import pairwise

import pytest

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Assignment, Scope
from p2pfill.swarm.masters import NO_ROUTE, REOPEN_S, SOON_MAX_S, STALLED, STANDSTILL, Masters
from p2pfill.swarm.shares import Shares
from p2pfill.swarm.stalls import Stalls

TITLE = TitleId(bytes(32))
PATIENCE_S = 3.0


def chunks(*chosen: int) -> Bitmap:
    bitmap = Bitmap(8)
    bitmap.add_all(chosen)
    return bitmap


def test_a_clock_starts_anew_with_what_arrives_and_not_with_what_moves_to_others() -> None:
    stalls, shares = Stalls(8), Shares(8, {"a1": chunks(0, 1, 2, 5), "a2": chunks(3, 4)})

    def look(now: float, due: Bitmap, gone: Bitmap) -> dict[str, float]:
        return dict(stalls.look(now, shares, due, gone))

    assert look(0.0, chunks(0, 1, 2), chunks()) == {"a1": 0.0}
    assert look(1.0, chunks(1, 2, 3), chunks(0)) == {"a1": 1.0, "a2": 1.0}
    assert look(2.0, chunks(2, 3), chunks(0)) == {"a1": 1.0, "a2": 1.0}
    assert look(3.0, chunks(3), chunks(0)) == {"a2": 1.0}
    assert look(9.0, chunks(5), chunks(0, 3)) == {"a1": 9.0}
    look(10.0, chunks(5), chunks(0, 3))
    stalls.forget("a1")
    assert look(11.0, chunks(5), chunks(0, 3)) == {"a1": 11.0}


def test_what_comes_of_a_share_before_it_is_shared_out_anew_is_progress_of_whose_it_was() -> None:
    stalls, after = Stalls(8), Shares(8, {"a1": chunks(3), "a2": chunks(0, 1, 2)})
    stalls.look(0.0, Shares(8, {"a1": chunks(0, 1), "a2": chunks(2, 3)}), chunks(0, 1, 2, 3), chunks())
    assert stalls.look(5.0, after, chunks(1, 2, 3), chunks(0)) == {"a1": 5.0, "a2": 0.0}
    assert stalls.look(6.0, after, chunks(1, 2), chunks(0, 3)) == {"a2": 0.0}


def isp(count: int, chunk_count: int) -> tuple[list[NodeInfo], Masters]:
    nodes = [NodeInfo(NodeId(f"a{n}"), "isp", "eu") for n in range(count)]
    masters = Masters(TITLE, chunk_count, nodes[0])
    masters.set_members(0.0, nodes)
    return nodes, masters


@pytest.mark.parametrize("chunk_count", [1, 2, 5, 40])
def test_a_master_that_shows_life_and_fetches_nothing_is_passed_over(chunk_count: int) -> None:
    nodes, masters = isp(3, chunk_count)
    here = Availability(chunk_count)
    missing = Bitmap.full(chunk_count)
    now = 0.0
    while now < 2 * PATIENCE_S + 1.0:
        for node in nodes[1:]:
            masters.saw(now, node.id)
            masters.reinstate(now, node.id)
        masters.watch_parts(now, PATIENCE_S, missing, here)
        now += 0.25
    assert masters.assignment()[Scope.ORIGIN] == missing
    assert set(masters.excluded.values()) <= {STALLED}


def test_of_who_is_not_linked_the_part_comes_over_several_hops_and_so_later() -> None:
    nodes = [NodeInfo(NodeId(f"a{n}"), "isp", "eu") for n in range(3)]
    masters = Masters(TITLE, 30, nodes[0])
    masters.set_members(0.0, nodes, unlinked={"a2"})
    left_out_at: dict[str, float] = {}
    for tick in range(8 * STANDSTILL * int(PATIENCE_S)):
        now = tick / 4
        for node in nodes[1:]:
            masters.saw(now, node.id)
        masters.watch_parts(now, PATIENCE_S, Bitmap.full(30), Availability(30))
        for node_id in masters.excluded:
            left_out_at.setdefault(node_id, now)
    assert left_out_at == {"a1": PATIENCE_S, "a2": STANDSTILL * PATIENCE_S}


def far_groups() -> tuple[list[NodeInfo], Masters]:
    """A cache of a large fleet: of the other regions it knows the weight and is linked with nobody who counts."""
    me = NodeInfo(NodeId("a0"), "isp", "r9")
    groups = [NodeInfo(NodeId(f"(r{number}/)"), "", f"r{number}") for number in range(1, 4)]
    masters = Masters(TITLE, 1, me)
    masters.set_members(0.0, [me, *groups], unlinked={group.id for group in groups})
    return groups, masters


def test_of_a_group_with_which_it_is_not_linked_the_part_comes_over_several_hops_and_so_later() -> None:
    """Found by the simulator: while the masters of a chunk were held back, every other region took a copy of it."""
    groups, masters = far_groups()
    now, left_out_at = 0.0, dict[str, float]()
    while not left_out_at:
        masters.watch_parts(now, PATIENCE_S, Bitmap.full(1), Availability(1))
        left_out_at = dict.fromkeys(masters.excluded, now)
        now += 0.25
    assert left_out_at == {groups[0].id: STANDSTILL * PATIENCE_S}


def test_who_takes_the_place_of_a_group_has_the_whole_time_too() -> None:
    groups, masters = far_groups()
    left_out_at: dict[str, float] = {}
    now = 0.0
    while not masters.assignment()[Scope.ORIGIN].any():
        masters.watch_parts(now, PATIENCE_S, Bitmap.full(1), Availability(1))
        for node_id in masters.excluded:
            left_out_at.setdefault(node_id, now)
        now += 0.25
    assert list(left_out_at) == [group.id for group in groups]
    times = [0.0, *left_out_at.values()]
    assert all(later - sooner >= STANDSTILL * PATIENCE_S for sooner, later in pairwise(times))


def test_what_is_lost_long_after_all_was_there_is_waited_for_from_then_on() -> None:
    _, masters = isp(2, 4)
    here, nothing = Availability(4), Availability(4)
    here.add(Scope.ISP, range(4))
    masters.watch_parts(0.0, PATIENCE_S, Bitmap.full(4), nothing)
    for now in (1.0, 30.0, 59.0):
        masters.watch_parts(now, PATIENCE_S, Bitmap.full(4), here)
    masters.watch_parts(60.0, PATIENCE_S, Bitmap.full(4), nothing)
    masters.watch_parts(60.0 + PATIENCE_S - 0.25, PATIENCE_S, Bitmap.full(4), nothing)
    assert masters.excluded == {}
    masters.watch_parts(60.0 + PATIENCE_S, PATIENCE_S, Bitmap.full(4), nothing)
    assert masters.excluded == {"a1": STALLED}


def test_it_is_relied_on_again_once_it_has_fetched_something() -> None:
    _, masters = isp(2, 4)
    for now in (0.0, PATIENCE_S):
        masters.watch_parts(now, PATIENCE_S, Bitmap.full(4), Availability(4))
    assert masters.excluded == {"a1": STALLED}
    masters.reinstate(PATIENCE_S + 1.0, "a1")
    assert masters.excluded == {"a1": STALLED}
    masters.fetched(PATIENCE_S + 1.0, "a1")
    assert masters.excluded == {}


def test_one_that_stalls_again_and_again_is_done_without_for_longer_each_time() -> None:
    _, masters = isp(2, 4)
    now, out = 0.0, []
    for _ in range(4000):
        masters.watch_parts(now, PATIENCE_S, Bitmap.full(4), Availability(4))
        out.append(bool(masters.excluded))
        masters.reinstate(now, "a1")
        now += 0.25
    assert sum(out) > 0.9 * len(out)


def test_who_cannot_reach_the_origin_keeps_the_rest_of_its_part() -> None:
    nodes = [NodeInfo(NodeId(name), f"isp-{name[0]}", "eu") for name in ("a1", "a2", "b1", "b2")]
    masters = Masters(TITLE, 80, nodes[1])
    masters.set_members(0.0, nodes)
    before = {scope: part.copy() for scope, part in masters.assignment().items()}
    theirs = Assignment(TITLE, 80, nodes).within(nodes[0])
    masters.set_ways(1.0, "a1", frozenset({Scope.ORIGIN}))
    after = masters.assignment()
    assert after[Scope.ORIGIN] == before[Scope.ORIGIN] | theirs[Scope.ORIGIN]
    assert after[Scope.REGION] == before[Scope.REGION] | theirs[Scope.ORIGIN]
    chunk = next(theirs[Scope.ORIGIN].indexes())
    assert masters.escalation(chunk, Scope.ORIGIN) == NO_ROUTE
    # A way that is open again counts after a while: each change is an election.
    masters.set_ways(1.5, "a1", frozenset())
    masters.look_at_ways(1.5)
    assert masters.closed
    masters.look_at_ways(1.0 + REOPEN_S)
    assert masters.assignment() == before


def test_an_isp_in_which_nobody_can_reach_the_origin_hands_its_part_to_another() -> None:
    nodes = [NodeInfo(NodeId(name), f"isp-{name[0]}", region) for name, region in
             (("a1", "x"), ("a2", "x"), ("b1", "x"), ("c1", "y"))]  # fmt: skip
    shut = frozenset({Scope.ORIGIN})
    duties = Assignment(TITLE, 90, nodes, (), {"a1": shut, "a2": shut})
    parts = {node.id: duties.within(node) for node in nodes}
    assert not parts["a1"][Scope.ORIGIN].any()
    assert not parts["a2"][Scope.ORIGIN].any()
    assert parts["b1"][Scope.ORIGIN] | parts["c1"][Scope.ORIGIN] == Bitmap.full(90)
    assert parts["a1"][Scope.REGION] | parts["a2"][Scope.REGION] == Bitmap.full(90)
    # A whole region, and then everybody: nobody hands on what nobody can do.
    all_of_x = dict.fromkeys(("a1", "a2", "b1"), shut)
    assert Assignment(TITLE, 90, nodes, (), all_of_x).within(nodes[3])[Scope.ORIGIN] == Bitmap.full(90)
    everybody = Assignment(TITLE, 90, nodes, (), dict.fromkeys((node.id for node in nodes), shut))
    for node in nodes:
        assert everybody.within(node) == Assignment(TITLE, 90, nodes).within(node)


def silent(masters: Masters, chunk_count: int, begin: float, end: float) -> dict[str, str]:
    """Return who is left out once nothing has happened between two moments."""
    missing, here = Bitmap.full(chunk_count), Availability(chunk_count)
    now = begin
    while now < end:
        masters.watch(now, PATIENCE_S, ["a1", "a2"], here)
        masters.watch_parts(now, PATIENCE_S, missing, here)
        now += 0.25
    return dict(masters.excluded)


def test_nothing_is_expected_of_a_master_before_its_fill_window_opens() -> None:
    nodes = [NodeInfo(NodeId(f"a{n}"), "isp", "eu") for n in range(2)]
    masters = Masters(TITLE, 40, nodes[0])
    masters.set_members(0.0, nodes, soon=frozenset({"a1"}))
    assert masters.assignment()[Scope.ORIGIN].count() < 40, "it has its part already"
    assert silent(masters, 40, 0.0, 60.0) == {}
    masters.set_members(60.0, nodes)
    assert silent(masters, 40, 60.0, 60.0 + PATIENCE_S) == {}
    assert silent(masters, 40, 60.0 + PATIENCE_S, 60.5 + PATIENCE_S) == {"a1": STALLED}


def test_who_was_closed_for_hours_has_the_usual_time_when_it_opens() -> None:
    nodes = [NodeInfo(NodeId(f"a{n}"), "isp", "eu") for n in range(2)]
    masters = Masters(TITLE, 40, nodes[0])
    masters.set_members(0.0, nodes)
    masters.set_members(1.0, nodes[:1])
    assert masters.assignment()[Scope.ORIGIN].count() == 40
    masters.set_members(9999.0, nodes)
    assert silent(masters, 40, 9999.0, 9999.0 + PATIENCE_S) == {}
    assert silent(masters, 40, 9999.0 + PATIENCE_S, 9999.5 + PATIENCE_S) == {"a1": STALLED}


@pytest.mark.parametrize("flaps", [False, True])
def test_one_that_is_ready_soon_for_ever_is_passed_over(flaps: bool) -> None:
    """Its clock stands still, or it lies: a cache that is for ever about to open must not hold up its ISP."""
    nodes = [NodeInfo(NodeId(f"a{n}"), "isp", "eu") for n in range(2)]
    masters = Masters(TITLE, 40, nodes[0])
    left_out = 0
    for turn in range(100):
        begin = 2.0 * turn
        soon = frozenset() if flaps and turn % 2 else frozenset({"a1"})
        masters.set_members(begin, nodes, soon=soon)
        found = silent(masters, 40, begin, begin + 2.0)
        assert not found or begin >= SOON_MAX_S - 2.0
        left_out += bool(found)
    assert left_out > 50


def test_shares_of_which_nothing_is_left_are_left_out_of_some() -> None:
    shares = Shares(8, {"a1": chunks(0, 1, 2, 5), "a2": chunks(3, 4), "a3": chunks()})
    assert shares.count(chunks(0, 5, 6)) == {"a1": 2, "a2": 0, "a3": 0}
    assert shares.count_some(chunks(0, 5, 6)) == {"a1": 2}
