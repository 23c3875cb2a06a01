"""Who is passed over, and when."""

from __future__ import annotations

import pytest

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Assignment, Scope
from p2pfill.swarm.masters import STUCK, UNMET_AGAIN_MAX, UNMET_S, Masters

PATIENCE_S = 3.0
LAYOUTS = (
    {"a1": "isp-a", "a2": "isp-a", "a3": "isp-a", "a4": "isp-a"},
    {"a1": "isp-a", "b1": "isp-b", "b2": "isp-b", "c1": "isp-c", "c2": "isp-c"},
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stand_in_that_is_silent_too_is_passed_over(layout: dict[str, str]) -> None:
    """Found by the simulator: where several caches could not reach the origin, a chunk waited for as long as that."""
    nodes = [NodeInfo(NodeId(name), isp, "eu") for name, isp in layout.items()]
    for me in nodes:
        masters = Masters(TitleId(bytes(32)), 1, me)
        masters.set_members(0.0, nodes)
        for turn in range(1, (STUCK + 1) * len(nodes)):
            masters.watch(turn * PATIENCE_S, PATIENCE_S, list(layout), Availability(1))
        assert masters.assignment()[Scope.ORIGIN][0], f"{me.id} still waits, without {masters.excluded}"


def isp_of_four() -> tuple[list[NodeInfo], Masters]:
    nodes = [NodeInfo(NodeId(f"a{n}"), "isp-a", "eu") for n in range(4)]
    masters = Masters(TitleId(bytes(32)), 400, nodes[0])
    masters.set_members(0.0, nodes)
    return nodes, masters


def test_a_cache_that_lags_with_its_share_is_found_while_it_shows_life() -> None:
    nodes, masters = isp_of_four()
    shares = Assignment(TitleId(bytes(32)), 400, nodes)
    here = Bitmap.full(400)
    for chunk in list(shares.within(nodes[2])[Scope.REGION].indexes())[:40]:
        here.discard(chunk)
    assert masters.lagging(1.0, here, Availability(400)) == ([], [])
    assert masters.lagging(2.0, here, Availability(400)) == ([], [])
    masters.saw(2.5, "a2")
    assert masters.lagging(3.0, here, Availability(400)) == (["a2"], [])
    masters.suspend("a2", "master-slow", until=60.0)
    masters.reinstate(4.0, "a2")
    assert masters.excluded == {"a2": "master-slow"}
    masters.reinstate(60.0, "a2")
    assert masters.excluded == {}


def test_how_far_others_are_ahead_at_the_origin_is_counted_in_chunks_of_the_own_share() -> None:
    nodes, masters = isp_of_four()
    shares = [list(Assignment(TitleId(bytes(32)), 400, nodes).within(node)[Scope.ORIGIN].indexes()) for node in nodes]
    assert [len(share) for share in shares] == [100] * 4
    have, available = Bitmap(400), Availability(400)
    assert masters.behind_at_origin(have, available) == 0
    for number, fetched in ((1, 10), (2, 30), (3, 90)):
        available.add(Scope.ISP, shares[number][:fetched])
    have.add_all(shares[0][:20])
    assert masters.behind_at_origin(have, available) == pytest.approx(10)
    have.add_all(shares[0][:70])
    assert masters.behind_at_origin(have, available) == pytest.approx(-40)
    # What others hold of this one's share counts as fetched, and who is left out is not looked at.
    available.add(Scope.ISP, shares[0][70:75])
    masters.exclude("a3", "master-lost")
    assert masters.behind_at_origin(have, available) < -45


def test_who_shares_an_origin_with_nobody_of_its_isp_is_not_behind() -> None:
    nodes = [NodeInfo(NodeId(name), isp, "eu") for name, isp in LAYOUTS[1].items()]
    for me in (nodes[0], nodes[1]):
        masters = Masters(TitleId(bytes(32)), 400, me)
        masters.set_members(0.0, nodes if me is nodes[0] else [me])
        assert masters.assignment()[Scope.ORIGIN].any()
        assert masters.behind_at_origin(Bitmap(400), Availability(400)) == 0


def test_caches_in_step_do_not_lag() -> None:
    _, masters = isp_of_four()
    here = Bitmap(400)
    for chunk in range(400):
        here.add(chunk)
        for number in range(1, 4):
            masters.saw(chunk + 0.5, f"a{number}")
        assert masters.lagging(float(chunk), here, Availability(400)) == ([], [])


def test_one_that_fetches_its_share_and_hardly_sends_it_on_is_found() -> None:
    nodes, masters = isp_of_four()
    shares = [list(Assignment(TitleId(bytes(32)), 400, nodes).within(node)[Scope.REGION].indexes()) for node in nodes]
    available, have = Availability(400), Bitmap(400)
    found: list[str] = []
    for turn in range(80):
        now = turn / 4
        for number, share in enumerate(shares):
            chunk = share[turn]
            available.add(Scope.ISP, [chunk])
            if number != 2 or turn % 10 == 0:
                available.add(Scope.ISP, [chunk])
                have.add(chunk)
            masters.saw(now, f"a{number}")
        fetching, found = masters.lagging(now, have, available)
        assert fetching == []
        if found:
            break
    assert found == ["a2"]
    assert now < 10.0


def test_the_last_one_of_an_isp_works_for_it_whatever_others_say_of_it() -> None:
    nodes, masters = isp_of_four()
    masters.suspend("a0", "master-slow", until=60.0)
    assert not masters.assignment()[Scope.ORIGIN].any()
    for node in nodes[1:]:
        masters.lose(1.0, node.id, PATIENCE_S)
    assert masters.assignment()[Scope.ORIGIN] == Bitmap.full(400)


def test_doing_without_a_cache_changes_nothing_between_isps() -> None:
    """Others may not do without the same one: each side would then wait for the other (found by the simulator)."""
    nodes = [NodeInfo(NodeId(f"{isp}{n}"), isp, region) for isp, region in (("a", "x"), ("b", "x"), ("c", "y"))
             for n in range(3)]  # fmt: skip
    title = TitleId(bytes(32))

    def border_work(without: set[str], scope: Scope) -> dict[str, set[int]]:
        duties = Assignment(title, 90, nodes, without)
        work: dict[str, set[int]] = {}
        for node in nodes:
            if node.id not in without:
                work.setdefault(node.isp, set()).update(duties.within(node)[scope].indexes())
        return work

    for scope in (Scope.WORLD, Scope.ORIGIN):
        assert border_work({"a1"}, scope) == border_work(set(), scope) == border_work({"a0", "b2"}, scope)
    alone = border_work({"a0", "a1", "a2"}, Scope.ORIGIN)
    assert "a" not in alone
    assert set().union(*alone.values()) == set(range(90))


@pytest.mark.parametrize("chunk_count", [1, 2, 40, 400])
@pytest.mark.parametrize(("isp", "isps"), [("isp-a", 1), ("isp-b", 1), ("isp-%d", 20)])
def test_caches_that_were_never_linked_cost_one_short_wait_together(chunk_count: int, isp: str, isps: int) -> None:
    """However many there are, and whatever they weigh: each may be the one that is elected in another's place."""
    me = NodeInfo(NodeId("m1"), "isp-a", "eu")
    made_up = [
        NodeInfo(NodeId(f"x{number}"), isp % number if isps > 1 else isp, "eu", weight=1000.0) for number in range(20)
    ]
    masters = Masters(TitleId(bytes(32)), chunk_count, me)
    masters.set_members(0.0, [me, *made_up])
    masters.watch(UNMET_S - 0.1, PATIENCE_S, [], Availability(chunk_count))
    assert not masters.assignment()[Scope.ORIGIN].all()
    masters.watch(UNMET_S, PATIENCE_S, [], Availability(chunk_count))
    assert masters.assignment()[Scope.ORIGIN].all()
    assert set(masters.excluded.values()) == {"master-unreachable"}


@pytest.mark.parametrize("names", ["new", "the same"])
@pytest.mark.parametrize("stay_s", [0.1, 0.5, UNMET_S, 5.0])
def test_names_that_come_and_go_cost_four_times_that_at_most(stay_s: float, names: str) -> None:
    me = NodeInfo(NodeId("m1"), "isp-a", "eu")
    masters, now, waited = Masters(TitleId(bytes(32)), 3, me), 0.0, 0.0
    for number in range(60):
        begins = f"x{number}-" if names == "new" else "xy"[number % 2]
        made_up = [NodeInfo(NodeId(f"{begins}{name}"), "isp-a", "eu", weight=1000.0) for name in range(5)]
        masters.set_members(now, [me, *made_up])
        until = now + stay_s
        while now < until:
            now += 0.01
            masters.watch(now, PATIENCE_S, [], Availability(3))
            waited += 0.01 * (not masters.assignment()[Scope.ORIGIN].all())
    assert waited <= 4 * UNMET_S + 60 * (2 * UNMET_S / 2**UNMET_AGAIN_MAX + 0.02)


def test_who_was_linked_is_slow_at_most_and_has_the_usual_time() -> None:
    _, masters = isp_of_four()
    masters.watch(0.1, PATIENCE_S, ["a1"], Availability(400))
    masters.saw(0.1, "a2")  # over a link that has ended since
    masters.watch(UNMET_S, PATIENCE_S, ["a1"], Availability(400))
    assert masters.excluded == {"a3": "master-unreachable"}
    masters.reinstate(2.0, "a3")
    masters.saw(2.0, "a3")
    masters.watch(2.0 + UNMET_S, PATIENCE_S, [], Availability(400))
    assert "a3" not in masters.excluded, "it has shown life since"
