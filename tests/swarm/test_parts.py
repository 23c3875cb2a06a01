"""Elections where some caches want a part of a title: of each chunk those are elected who want it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.election import Assignment, Scope, cut_by_wants

TITLE = TitleId(bytes(range(32)))
CHUNKS = 60
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
    parts = cut_by_wants(CHUNKS, NODES, wants)
    seen = [chunk for chunks, _ in parts for chunk in chunks]
    assert len(seen) == len(set(seen))
    for chunks, nodes in parts:
        assert nodes
        assert list(chunks) == sorted(chunks)
        names = {node.id for node in nodes}
        for chunk in chunks:
            assert names == {node.id for node in NODES if node.id not in wants or wants[node.id][chunk]}
    everything = Bitmap.full(CHUNKS)
    for chunk in set(range(CHUNKS)) - set(seen):
        assert not any(wants.get(node.id, everything)[chunk] for node in NODES)
    # Whoever wants the same two chunks has them in one part.
    assert len({frozenset(node.id for node in nodes) for _, nodes in parts}) == len(parts)


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
