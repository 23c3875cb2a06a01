"""Links that go both ways, are few, connect all and change little; and rosters that elect as the whole one does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.borders import FAR_MAX
from p2pfill.swarm.election import Assignment, Scope
from p2pfill.swarm.masters import STANDSTILL, Masters
from p2pfill.swarm.neighbourhood import (
    ELECTORS_MAX,
    EVERYBODY_MAX,
    NEIGHBOURS,
    Member,
    Neighbourhoods,
    electorate,
)

TITLE = TitleId(bytes(range(32)))
DEGREE_MAX = NEIGHBOURS + FAR_MAX
CHUNKS = 200

sizes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=16)
"""For each ISP its region, and how many caches it has."""


def make(sizes: Iterable[tuple[int, int]], weight: float = 1.0) -> list[NodeInfo]:
    return [
        NodeInfo(NodeId(f"n{isp}-{number}"), f"isp{isp}", f"region{region}", weight=weight)
        for isp, (region, count) in enumerate(sizes)
        for number in range(count)
    ]


def fleet(caches: int, isps: int, regions: int) -> list[NodeInfo]:
    return make((isp * regions // isps, caches // isps) for isp in range(isps))


def around(nodes: Iterable[NodeInfo], everybody_max: int = 0) -> Neighbourhoods:
    built = Neighbourhoods(TITLE, CHUNKS, everybody_max=everybody_max)
    built.put_all(Member(node, True) for node in nodes)
    return built


def graph(built: Neighbourhoods) -> dict[str, set[str]]:
    return {node_id: set(built.links(member.info)) for node_id, member in built.members.items()}


def pieces(links: dict[str, set[str]], among: Iterable[str] | None = None) -> int:
    """Return into how many pieces the graph falls that has only the links among some."""
    left = set(links if among is None else among)
    count = 0
    while left:
        count += 1
        todo = [left.pop()]
        while todo:
            reached = links[todo.pop()] & left
            left -= reached
            todo += reached
    return count


@settings(deadline=None, max_examples=60)
@given(sizes)
def test_links_go_both_ways_are_bounded_and_connect(sizes: list[tuple[int, int]]) -> None:
    nodes = make(sizes)
    links = graph(around(nodes))
    for node_id, others in links.items():
        assert node_id not in others
        assert len(others) <= DEGREE_MAX
        assert all(node_id in links[other] for other in others)
    assert pieces(links) == 1
    for isp in {node.isp for node in nodes}:
        assert pieces(links, [node.id for node in nodes if node.isp == isp]) == 1


@settings(deadline=None, max_examples=60)
@given(sizes)
def test_a_cache_alone_in_its_isp_has_ways_to_its_region_and_to_others(sizes: list[tuple[int, int]]) -> None:
    nodes = {node.id: node for node in make([(0, 1), (1, 1), *sizes])}
    links = graph(around(nodes.values()))
    region = {node.id for node in nodes.values() if node.region == "region0"}
    others = {nodes[other].region for other in links["n0-0"]}
    assert ("region0" in others) == (len(region) > 1)
    assert others - {"region0"}


@settings(deadline=None, max_examples=5)
@given(sizes, st.integers(0, 1 << 32), st.integers(0, 100))
def test_the_answer_follows_from_who_is_there_and_not_from_what_was_before(
    sizes: list[tuple[int, int]], seed: int, everybody_max: int
) -> None:
    nodes = make(sizes)
    whole = around(nodes, everybody_max)
    grown = Neighbourhoods(TITLE, CHUNKS, everybody_max=everybody_max)
    shuffled = Random(seed).sample(nodes, len(nodes))
    for node in shuffled:
        grown.put(node, counts=True)
    for node in shuffled[::3]:
        grown.drop(node.id)
    for node in shuffled[::3]:
        grown.put(node, counts=False)
        grown.put(node, counts=True)
    assert graph(grown) == graph(whole)
    assert [grown.election(node) for node in nodes] == [whole.election(node) for node in nodes]


@settings(deadline=None, max_examples=30)
@given(sizes, st.lists(st.tuples(st.integers(0, 1 << 16), st.sampled_from(["open", "soon", "closed"])), max_size=30))
def test_caches_whose_fill_windows_open_and_close_stay_where_they_are(
    sizes: list[tuple[int, int]], turns: list[tuple[int, str]]
) -> None:
    nodes = make(sizes)
    turned = around(nodes)
    members = {node.id: Member(node, True) for node in nodes}
    assert all(turned.election(node) for node in nodes)
    for chosen, phase in turns:
        node = nodes[chosen % len(nodes)]
        before = graph(turned)
        members[node.id] = Member(node, phase != "closed", phase == "soon")
        told = turned.put(node, counts=phase != "closed", soon=phase == "soon")
        after = graph(turned)
        assert {node.id} | after[node.id] <= told
        assert {name for name in before if (node.id in before[name]) != (node.id in after[name])} <= told
    whole = Neighbourhoods(TITLE, CHUNKS, everybody_max=0)
    whole.put_all(members.values())
    assert graph(turned) == graph(whole)
    assert [turned.election(node) for node in nodes] == [whole.election(node) for node in nodes]


@settings(deadline=None, max_examples=10)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.sampled_from(["open", "soon", "closed"])), max_size=12),
    st.integers(2, 4),
)
def test_caches_that_turn_together_stand_as_if_one_after_the_other(
    isps: int, turns: list[tuple[int, str]], together: int
) -> None:
    nodes = make([(isp % 2, 24) for isp in range(isps)])
    turned, one_by_one = around(nodes), around(nodes)
    assert graph(turned) == graph(one_by_one)
    for begin in range(0, len(turns), together):
        coming: dict[str, Member] = {}
        for chosen, phase in turns[begin : begin + together]:
            node = nodes[chosen % len(nodes)]
            coming[node.id] = Member(node, phase != "closed", phase == "soon")
        told = turned.put_all(coming.values())
        for member in coming.values():
            one_by_one.put(member.info, counts=member.counts, soon=member.soon)
        after = graph(turned)
        assert after == graph(one_by_one)
        assert coming.keys() <= told
        assert all(after[name] <= told for name in coming)
    assert [turned.election(node) for node in nodes] == [one_by_one.election(node) for node in nodes]


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(0, 3), st.integers(0, 15))
def test_whoever_is_linked_with_a_newcomer_or_was_is_told(
    sizes: list[tuple[int, int]], region: int, isp: int
) -> None:
    built = around(make(sizes))
    before = graph(built)
    newcomer = NodeInfo(NodeId("newcomer"), f"isp{isp}", f"region{region}")
    assert all(built.election(member.info) for member in built.members.values())
    told = built.put(newcomer, counts=True)
    during = graph(built)
    place = newcomer.region, newcomer.isp
    assert {name for name, one in built.members.items() if (one.info.region, one.info.isp) == place} <= told
    # That its ISP weighs more moves a few links of others, which can wait.
    assert {name for name in before if "newcomer" in during[name]} <= told
    told = built.drop("newcomer")
    after = graph(built)
    assert after == before
    assert {name for name in after if "newcomer" in during[name]} <= told


def test_one_cache_more_or_less_changes_few_links_and_wakes_few() -> None:
    nodes = fleet(3000, 30, 3)
    built = around(nodes)
    before = graph(built)
    told = Counter[str]()
    for number in range(8):
        newcomer = NodeInfo(NodeId(f"newcomer{number}"), "isp7", "region0")
        woken = built.put(newcomer, counts=True)
        told.update(woken)
        assert len(woken) <= 100 + 3 * DEGREE_MAX // 4
        after = graph(built)
        changed = sum(len(before[name] ^ after[name]) for name in before) + len(after[newcomer.id])
        assert changed <= len(before) // 5
        before = after
    # What an ISP weighs is not news for others.
    assert sum(told[node.id] for node in nodes if node.isp != "isp7") < 8 * 100


def test_in_a_huge_isp_all_whose_links_change_are_told_and_no_more_than_are_near() -> None:
    """There not everybody elects, so not everybody hears of each newcomer; and links are made up for at a distance."""
    built = around(make([(0, 3 * ELECTORS_MAX)]))
    before = graph(built)
    assert min(map(len, before.values())) >= NEIGHBOURS
    for number in range(40):
        newcomer = NodeInfo(NodeId(f"newcomer{number}"), "isp0", "region0")
        told = built.put(newcomer, counts=False)
        during = graph(built)
        assert {name for name in before if before[name] != during[name]} <= told
        assert len(told) <= 16 * NEIGHBOURS
        told = built.drop(newcomer.id)
        assert {name for name in before if before[name] != during[name]} <= told
        assert graph(built) == before


@settings(deadline=None, max_examples=30)
@given(st.integers(20, 60))
def test_hardly_anybody_has_fewer_neighbours_than_others(count: int) -> None:
    degrees = [len(others) for others in graph(around(make([(0, count)]))).values()]
    assert sum(degree < NEIGHBOURS for degree in degrees) <= 1
    assert max(degrees) <= 2 * NEIGHBOURS


def test_the_last_cache_of_an_isp_or_region_is_news_for_all_who_count_with_it() -> None:
    nodes = [*fleet(600, 6, 2), *make([(0, 0)] * 6 + [(0, 1), (5, 1)])]
    built = around(nodes)
    assert built.drop("n6-0") >= {node.id for node in nodes if node.region == "region0" and node.id != "n6-0"}
    assert built.drop("n7-0") >= {node.id for node in nodes if node.region in ("region0", "region1")} - {"n6-0"}
    assert {group.region for group in built.election(nodes[0]).groups} == {"region0", "region1"}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([(0, 100)] * 25, 96),
        ([(isp // 25, 100) for isp in range(200)], 128),
        ([(0, 400), (0, 400), (1, 1)], DEGREE_MAX),
        ([(0, 1)] * 1000, DEGREE_MAX),
        ([(region, 30) for region in range(8) for _ in range(10)], 128),
    ],
)
def test_the_degree_does_not_grow_with_the_fleet(sizes: list[tuple[int, int]], most: int) -> None:
    built = around(make(sizes))
    sample = list(built.members.values())[:: max(1, len(built.members) // 500)]
    assert max(len(built.links(member.info)) for member in sample) <= most


def test_everybody_knows_everybody_in_a_small_fleet() -> None:
    nodes = make([(0, EVERYBODY_MAX // 2), (1, EVERYBODY_MAX // 2)])
    built = Neighbourhoods(TITLE, CHUNKS)
    for node in nodes[:-1]:
        built.put(node, counts=True)
    assert built.put(nodes[-1], counts=True) == {node.id for node in nodes}
    assert built.is_small
    assert built.election(nodes[0]) is None
    assert set(built.links(nodes[0])) == {node.id for node in nodes[1:]}
    assert built.drop(nodes[0].id) == {node.id for node in nodes[1:]}
    built.put(nodes[0], counts=True)
    one_more = NodeInfo(NodeId("one-more"), "isp0", "region0")
    assert built.put(one_more, counts=True) == {node.id for node in nodes} | {"one-more"}
    assert not built.is_small
    assert built.drop("one-more") == {node.id for node in nodes}


# ---- elections


def duties_of(built: Neighbourhoods, node: NodeInfo, chunks: int) -> dict[Scope, list[int]]:
    """Return what a cache finds itself master of, as its fill works it out."""
    election = built.election(node)
    assert election is not None
    linked = [built.members[node_id].info for node_id in built.links(node)]
    masters = Masters(TITLE, chunks, node)
    members, unlinked, _ = electorate(node, election, linked)
    masters.set_members(0.0, members, unlinked)
    return {scope: list(found.indexes()) for scope, found in masters.assignment().items()}


@settings(deadline=None, max_examples=25)
@given(sizes=sizes, weights=st.lists(st.integers(1, 5000), min_size=1, max_size=7))
def test_bounded_rosters_elect_as_the_whole_roster_does(sizes: list[tuple[int, int]], weights: list[int]) -> None:
    nodes = [
        NodeInfo(node.id, node.isp, node.region, weight=weights[number % len(weights)] / 1024)
        for number, node in enumerate(make(sizes))
    ]
    built = around(nodes)
    whole = Assignment(TITLE, 200, nodes)
    for node in nodes[:: max(1, len(nodes) // 20)]:
        by_right = {scope: list(found.indexes()) for scope, found in whole.within(node).items()}
        assert duties_of(built, node, 200) == by_right


def test_in_a_huge_isp_some_elect_for_all_and_with_the_weight_of_all() -> None:
    nodes = make([(0, 3 * ELECTORS_MAX), (0, 10), (1, 5)], weight=0.5)
    built = around(nodes)
    chunks = 500
    reaches = Counter[tuple[int, str]]()
    electors = set()
    for node in nodes:
        duties = duties_of(built, node, chunks)
        for chunk in duties[Scope.REGION]:
            reaches[chunk, node.isp] += 1
        if duties[Scope.REGION]:
            electors.add(node.id)
    assert set(reaches.values()) == {1}
    assert len(reaches) == 3 * chunks
    whole = Assignment(TITLE, chunks, nodes)
    leads = [sum(len(duties_of(built, node, chunks)[Scope.WORLD]) for node in nodes if node.isp == "isp0")]
    assert leads == [sum(whole.within(node)[Scope.WORLD].count() for node in nodes if node.isp == "isp0")]
    assert len(electors) <= ELECTORS_MAX + 15


def test_sources_that_do_not_want_the_title_are_linked_and_elect_nothing() -> None:
    nodes = make([(0, 50), (0, 50)])
    built = Neighbourhoods(TITLE, CHUNKS)
    built.put_all(Member(node, number % 50 != 0) for number, node in enumerate(nodes))
    holder = nodes[0]
    assert built.links(holder)
    election = built.election(nodes[1])
    assert election is not None
    assert holder.id not in {elector.id for elector in election.electors}
    assert [group.weight for group in election.groups] == [49.0]


# ---- what masters make of it


def test_members_without_a_link_are_judged_by_a_standstill_only() -> None:
    nodes = fleet(300, 3, 1)
    built = around(nodes)
    me = nodes[0]
    election = built.election(me)
    assert election is not None
    linked = [built.members[node_id].info for node_id in built.links(me)]
    members, unlinked, _ = electorate(me, election, linked)
    masters = Masters(TITLE, 300, me)
    masters.set_members(0.0, members, unlinked)
    nothing = Availability(300)
    for step in range(1, 40):
        masters.saw(step, linked[0].id)
        masters.watch(step, 3.0, [node.id for node in linked], nothing)
    assert set(masters.excluded) <= {node.id for node in linked}
    assert masters.excluded  # those with a link are silent, each for itself
    stood_still = 39.0 + STANDSTILL * 3.0
    masters.watch(stood_still - 0.1, 3.0, [], nothing)
    assert not set(masters.excluded) & set(unlinked)
    masters.watch(stood_still, 3.0, [], nothing)
    assert set(masters.excluded) & set(unlinked)
    masters.set_members(stood_still, members, unlinked)
    assert not set(masters.excluded) & set(unlinked)


def test_one_who_stands_apart_is_no_cache_that_could_speak() -> None:
    built = around(fleet(300, 3, 3))
    node = next(iter(built.members.values())).info
    election = built.election(node)
    assert election is not None
    members, unlinked, _ = electorate(node, election, [])
    stand_ins = [member for member in members if member.region != node.region]
    assert len(stand_ins) == 2
    assert {member.id for member in stand_ins} <= set(unlinked)
    assert not {member.id for member in stand_ins} & built.members.keys()
