"""Caches that serve their own ISP alone, in large fleets: who is elected, and who is linked with whom."""

from __future__ import annotations

from collections import Counter
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from swarm.test_neighbourhood import TITLE, around, duties_of, graph, make, pieces

from p2pfill.model.node import SERVES_ISP, NodeInfo
from p2pfill.swarm.election import Assignment, Scope
from p2pfill.swarm.neighbourhood import Member, Neighbourhoods

CHUNKS = 200

parts = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.sampled_from(["all", "none", "some"])), min_size=2,
                 max_size=12)  # fmt: skip
"""For each ISP its region, how many caches it has, and which of them serve others."""


def fleet(drawn: list[tuple[int, int, str]]) -> list[NodeInfo]:
    nodes = make((region, count) for region, count, _ in drawn)
    kinds = {f"isp{isp}": kind for isp, (_, _, kind) in enumerate(drawn)}
    return [
        msgspec.structs.replace(node, serves=SERVES_ISP)
        if kinds[node.isp] == "none" or (kinds[node.isp] == "some" and number % 2)
        else node
        for number, node in enumerate(nodes)
    ]


@settings(deadline=None, max_examples=25)
@given(parts)
def test_all_elect_as_with_the_whole_roster(drawn: list[tuple[int, int, str]]) -> None:
    nodes = fleet(drawn)
    built, whole = around(nodes), Assignment(TITLE, CHUNKS, nodes)
    for node in nodes[:: max(1, len(nodes) // 20)]:
        nominal = {scope: list(found.indexes()) for scope, found in whole.within(node).items()}
        assert duties_of(built, node, CHUNKS) == nominal


@settings(deadline=None, max_examples=40)
@given(parts)
def test_every_isp_has_masters_and_others_wait_only_for_who_serves_them(drawn: list[tuple[int, int, str]]) -> None:
    nodes = fleet(drawn)
    whole = Assignment(TITLE, CHUNKS, nodes)
    held = {node.id: whole.within(node) for node in nodes}
    serving = {(node.region, node.isp) for node in nodes if not node.is_inward}
    for scope, places in ((Scope.WORLD, {region for region, _ in serving}), (Scope.ORIGIN, {""} if serving else set())):
        masters = Counter(
            ("" if scope is Scope.ORIGIN else node.region, chunk)
            for node in nodes
            if not node.is_inward
            for chunk in held[node.id][scope].indexes()
        )
        assert masters == Counter({(place, chunk): 1 for place in places for chunk in range(CHUNKS)})
    of_isp = Counter((node.isp, chunk) for node in nodes for chunk in held[node.id][Scope.REGION].indexes())
    assert of_isp == Counter({(isp, chunk): 1 for isp in {node.isp for node in nodes} for chunk in range(CHUNKS)})
    for node in nodes:
        if node.is_inward and (node.region, node.isp) in serving:
            assert not held[node.id][Scope.REGION].any(), "its ISP has others"
        if node.is_inward and any(region == node.region for region, _ in serving):
            assert not held[node.id][Scope.WORLD].any(), "others lead its region"
        if node.is_inward and serving:
            assert not held[node.id][Scope.ORIGIN].any(), "others lead the world"


@settings(deadline=None, max_examples=40)
@given(parts)
def test_whoever_fetches_for_its_isp_is_linked_with_somebody_who_serves_it(drawn: list[tuple[int, int, str]]) -> None:
    nodes = fleet(drawn)
    built, whole = around(nodes), Assignment(TITLE, CHUNKS, nodes)
    links = graph(built)
    assert all(node_id in links[other] for node_id, others in links.items() for other in others)
    assert pieces(links) == 1
    by_id = {node.id: node for node in nodes}
    for node in nodes:
        held = whole.within(node)
        others = [by_id[other] for other in links[node.id] if not by_id[other].is_inward]
        outside = [one for one in nodes if not one.is_inward and one.isp != node.isp]
        if held[Scope.REGION].any() and not held[Scope.ORIGIN].any() and node.is_inward:
            near = {one.isp for one in outside if one.region == node.region}
            assert {one.isp for one in others} & (near or {one.isp for one in outside})


@settings(deadline=None, max_examples=6)
@given(parts.map(lambda drawn: drawn[:5]), st.integers(0, 1 << 32))
def test_the_answer_follows_from_who_is_there(drawn: list[tuple[int, int, str]], seed: int) -> None:
    nodes = fleet(drawn)
    grown = Neighbourhoods(TITLE, CHUNKS, everybody_max=0)
    shuffled = Random(seed).sample(nodes, len(nodes))
    for number, node in enumerate(shuffled):
        # First as one that serves all, and then as it is; and some turn, go, and come again.
        grown.put(msgspec.structs.replace(node, serves=""), counts=True)
        if number % 8 == 0:
            grown.links(node)  # from now on borders follow
        grown.put(node, counts=True)
    for node in shuffled[::3]:
        grown.put(node, counts=False)
        grown.drop(node.id)
    whole = Neighbourhoods(TITLE, CHUNKS, everybody_max=0)
    gone = {node.id for node in shuffled[::3]}
    for node in shuffled[::3]:
        grown.put(node, counts=node.id[-1] in "02468")
    whole.put_all(Member(node, node.id not in gone or node.id[-1] in "02468") for node in nodes)
    assert graph(grown) == graph(whole)
    assert [grown.election(node) for node in nodes] == [whole.election(node) for node in nodes]
