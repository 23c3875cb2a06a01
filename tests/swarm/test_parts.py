"""Elections where some caches want a part of a title: of each chunk those are elected who want it."""

from __future__ import annotations

import os
import tracemalloc
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from wire.masters import ORIGIN, REGION, WORLD, Fleet, Member

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.election import Assignment, Scope, cut_by_wants

TITLE = TitleId(bytes(range(32)))
CHUNKS = 60
ELECTIONS = int(os.environ.get("P2PFILL_ELECTIONS", "100"))
"""Random rosters; more of them may be asked for."""

NODES = [
    NodeInfo(NodeId(f"{isp}{number}"), f"isp-{isp}", region, weight=1.0)
    for isp, region in (("a", "east"), ("b", "east"), ("c", "west"))
    for number in range(3)
]


def as_bitmap(chunks: set[int]) -> Bitmap:
    found = Bitmap(CHUNKS)
    found.add_all(sorted(chunks))
    return found


wants_of_all = st.dictionaries(
    st.sampled_from([node.id for node in NODES]), st.sets(st.integers(0, CHUNKS - 1)).map(as_bitmap)
)


@settings(deadline=None)
@given(wants_of_all)
def test_parts_cut_the_title(wants: dict[str, Bitmap]) -> None:
    wanted = list(wants.values())
    parts = cut_by_wants(CHUNKS, wanted)
    assert sorted(chunk for chunks, _ in parts for chunk in chunks) == list(range(CHUNKS))
    for chunks, who in parts:
        assert list(chunks) == sorted(chunks)
        for chunk in chunks:
            assert who == sum(1 << place for place, chosen in enumerate(wanted) if chosen[chunk])
    # Whoever wants the same two chunks has them in one part.
    assert len({who for _, who in parts}) == len(parts)


@settings(deadline=None)
@given(wants_of_all, st.sets(st.sampled_from([node.id for node in NODES]), max_size=4))
def test_each_chunk_has_one_master_in_each_group_that_wants_it(wants: dict[str, Bitmap], without: set[str]) -> None:
    duties = Assignment(TITLE, CHUNKS, NODES, without, wants=wants)
    within = {node.id: duties.within(node) for node in NODES}
    for chunk in range(CHUNKS):
        wanting = [node for node in NODES if node.id not in wants or wants[node.id][chunk]]
        for node in NODES:
            if node not in wanting:
                assert not any(chunks[chunk] for chunks in within[node.id].values())
        counted = [node for node in wanting if node.id not in without]
        for isp in {node.isp for node in counted}:
            masters = [node for node in NODES if node.isp == isp and within[node.id][Scope.REGION][chunk]]
            assert len(masters) == 1
            assert masters[0] in counted
        for region in {node.region for node in counted}:
            leads = [node for node in NODES if node.region == region and within[node.id][Scope.WORLD][chunk]]
            assert len(leads) == 1
        origin = [node for node in NODES if within[node.id][Scope.ORIGIN][chunk]]
        assert len(origin) == (1 if counted else 0)


def test_whoever_wants_everything_is_as_if_nobody_wanted_a_part() -> None:
    full = {node.id: Bitmap.full(CHUNKS) for node in NODES}
    whole, parted = Assignment(TITLE, CHUNKS, NODES), Assignment(TITLE, CHUNKS, NODES, wants=full)
    assert all(whole.within(node) == parted.within(node) for node in NODES)


def test_the_first_chunks_of_all_parts_have_a_reader() -> None:
    wants = {node.id: as_bitmap(set(range(10 * place, 10 * place + 20))) for place, node in enumerate(NODES[:4])}
    duties = Assignment(TITLE, CHUNKS, NODES, wants=wants)
    for first in duties.firsts():
        assert sum(duties.within(node)[Scope.ORIGIN][first] for node in NODES) == 1


@st.composite
def rosters(draw: st.DrawFn) -> list[NodeInfo]:
    names = draw(st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), max_size=12, unique=True))
    labels = st.sampled_from(["", "a", "b", "isp-ä"])
    weights = st.just(1.0) if draw(st.booleans()) else st.sampled_from([0.0, 0.1, 0.2, 0.3, 1, 2.5, 1e6, 1 / 1024])
    return [NodeInfo(NodeId(name), draw(labels), draw(labels), weight=draw(weights)) for name in names]


@settings(deadline=None, max_examples=ELECTIONS)
@given(
    st.binary(min_size=32, max_size=32).map(TitleId),
    rosters(),
    st.sampled_from([1, 2, 5, 8, 40, 60, 100, 1023, 1025, 2049]),
    st.data(),
)
def test_each_part_is_elected_as_a_title_of_its_own(
    title: TitleId, nodes: list[NodeInfo], count: int, data: st.DataObject
) -> None:
    """As an election that was written from the page alone has it."""
    names = st.sampled_from([node.id for node in nodes] or ["nobody"])
    runs = st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, 40)), max_size=4)
    wants = {}
    for name, chosen in data.draw(st.dictionaries(names, runs)).items():
        wants[name] = Bitmap(count)
        for start, length in chosen:
            wants[name].add_all(range(start, min(count, start + length)))
    without = data.draw(st.sets(names, max_size=4))
    beyond = {Scope.REGION: REGION, Scope.WORLD: WORLD, Scope.ORIGIN: ORIGIN}
    closed = data.draw(st.just({}) | st.dictionaries(names, st.sets(st.sampled_from(list(beyond)), min_size=1)))
    duties = Assignment(title, count, nodes, without, closed, wants)
    right = {node.id: {scope: Bitmap(count) for scope in beyond} for node in nodes}
    wanted = [wants.get(node.id, Bitmap.full(count)) for node in nodes]
    for chunks, who in cut_by_wants(count, wanted):
        members = [node for place, node in enumerate(nodes) if who >> place & 1]
        theirs = [
            Member(m.id, m.isp, m.region, m.weight, frozenset(beyond[scope] for scope in closed.get(m.id, ())))
            for m in members
        ]
        fleet = Fleet(title, len(chunks), theirs, without)
        for member in theirs:
            may_go = fleet.may_go(member)
            for scope, place in beyond.items():
                right[member.name][scope].add_all([chunks[chunk] for chunk in sorted(may_go[place])])
    assert {node.id: duties.within(node) for node in nodes} == right


def test_a_part_for_each_chunk_takes_no_bitmap_for_each_part() -> None:
    """256 caches that each want other files: 256 bitmaps for each of 5,000 parts were 160 MB, and 20,000 a gigabyte."""
    count, random = 2000, Random(3)
    nodes = [NodeInfo(NodeId(f"n{k:03}"), f"isp{k % 16}", f"r{k % 4}", weight=1.0) for k in range(256)]
    wants = {node.id: Bitmap.from_flags(bytes(random.choices((0, 1), k=count))) for node in nodes}
    tracemalloc.start()
    try:
        duties = Assignment(TITLE, count, nodes, wants=wants)
        duties.within(nodes[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(duties.firsts()) == count
    assert peak < 8 << 20
