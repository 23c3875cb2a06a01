"""One master per chunk and group, even shares, and little movement when a cache comes or goes."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.election import Assignment, Scope, elect, hold_elections, rank, reach, share_by_rank

titles = st.binary(min_size=32, max_size=32).map(TitleId)
names = st.sets(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=12)
weighted = st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.floats(0.1, 10), min_size=1)


@settings(deadline=None)
@given(title=titles, group=weighted)
def test_shares_follow_weights_to_within_a_chunk(title: TitleId, group: dict[str, float]) -> None:
    chunk_count = 300
    ordered, owners = elect(title, range(chunk_count), group)
    shares = Counter(ordered[owner] for owner in owners)
    total = sum(group.values())
    assert len(owners) == chunk_count
    for name, weight in group.items():
        assert abs(shares[name] - chunk_count * weight / total) <= 1


@settings(deadline=None, max_examples=50)
@given(title=titles, group=names)
def test_a_newcomer_moves_little_more_than_its_share(title: TitleId, group: set[str]) -> None:
    chunk_count = 1000
    before_names, before = elect(title, range(chunk_count), dict.fromkeys(group, 1.0))
    after_names, after = elect(title, range(chunk_count), dict.fromkeys({*group, "newcomer"}, 1.0))
    moved = sum(before_names[b] != after_names[a] for b, a in zip(before, after, strict=True))
    assert moved <= chunk_count / (len(group) + 1) + 0.15 * chunk_count


@settings(deadline=None, max_examples=50)
@given(title=titles, group=st.sets(st.from_regex(r"[a-z]{1,6}", fullmatch=True), min_size=3, max_size=9))
def test_doing_without_a_cache_moves_its_chunks_alone(title: TitleId, group: set[str]) -> None:
    """Others may not do without the same one: what else moved, nobody would fetch (found in the lab)."""
    nodes = {name: NodeInfo(NodeId(name), "isp", "r") for name in sorted(group)}
    first, second, *_ = nodes

    def masters(without: set[str]) -> dict[int, str]:
        duties = Assignment(title, 150, nodes.values(), without)
        shares = {name: duties.within(node)[Scope.REGION] for name, node in nodes.items()}
        owners = {chunk: name for name, share in shares.items() for chunk in share.indexes()}
        assert sum(share.count() for share in shares.values()) == len(owners) == 150
        return owners

    whole, less, least = masters(set()), masters({first}), masters({first, second})
    assert {c: n for c, n in whole.items() if n != first} == {c: n for c, n in less.items() if whole[c] != first}
    assert {c: n for c, n in less.items() if n != second} == {c: n for c, n in least.items() if less[c] != second}
    assert max(Counter(less.values()).values()) - min(Counter(less.values()).values()) <= 6


@settings(deadline=None, max_examples=50)
@given(title=titles, group=names, chunk=st.integers(0, 10_000))
def test_losing_a_member_leaves_the_order_of_the_others(title: TitleId, group: set[str], chunk: int) -> None:
    order = rank(title, chunk, dict.fromkeys(group, 1.0))
    assert sorted(order) == sorted(group)
    rest = rank(title, chunk, dict.fromkeys(group - {order[0]}, 1.0))
    assert rest == order[1:]


@settings(deadline=None, max_examples=30)
@given(
    title=titles,
    places=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), min_size=1, max_size=12),
)
def test_each_chunk_crosses_each_border_once(title: TitleId, places: list[tuple[str, str]]) -> None:
    """Region names are part of ISP names here: an ISP does not span regions in this fleet."""
    chunk_count = 97
    nodes = [
        NodeInfo(id=NodeId(f"n{i}"), isp=region + isp, region=region) for i, (region, isp) in enumerate(places)
    ]
    duties = Assignment(title, chunk_count, nodes)
    within = {node.id: duties.within(node) for node in nodes}
    for chunk in range(chunk_count):
        reaches = {node: reach(within[node.id], chunk) for node in nodes}
        assert sum(reach == Scope.ORIGIN for reach in reaches.values()) == 1
        into_regions = Counter(node.region for node, reach in reaches.items() if reach >= Scope.WORLD)
        assert into_regions == Counter({node.region for node in nodes})
        into_isps = Counter(node.isp for node, reach in reaches.items() if reach >= Scope.REGION)
        assert into_isps == Counter({node.isp for node in nodes})


def test_doing_without_a_whole_isp_changes_no_shares_in_others() -> None:
    """Others of the ISP may rely on it, and each would wait for another who does not know that it is master."""
    title = TitleId(bytes(range(32)))
    nodes = [NodeInfo(NodeId("hub"), "hub", "r", weight=10.0)]
    nodes += [NodeInfo(NodeId(f"{isp}{number}"), isp, "r") for isp in ("a", "b") for number in range(4)]
    whole, less = Assignment(title, 400, nodes), Assignment(title, 400, nodes, {"hub"})
    for node in nodes[1:]:
        assert less.within(node)[Scope.REGION] == whole.within(node)[Scope.REGION]
    # Who goes further out for it does change.
    led = sum(less.within(node)[Scope.ORIGIN].count() for node in nodes[1:])
    assert led == 400 > sum(whole.within(node)[Scope.ORIGIN].count() for node in nodes[1:])


voters = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from([0.0, 0.5, 1.0, 3.0])),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(titles, voters, st.randoms(use_true_random=False))
def test_elections_that_are_held_for_several_are_those_of_each(
    title: TitleId, places: list[tuple[str, str, float]], random: Random
) -> None:
    """Whatever the order of their rosters, and whoever is in them that does not count."""
    nodes = [NodeInfo(NodeId(f"n{k}"), isp, region, weight=weight) for k, (region, isp, weight) in enumerate(places)]
    without = {node.id for node in nodes if random.random() < 0.3}
    closed = {node.id: frozenset({Scope.ORIGIN}) for node in nodes if random.random() < 0.3}
    other = NodeInfo(NodeId("source"), "x", "a", weight=0.0)
    first = hold_elections(title, 24, nodes, without, closed)
    again = hold_elections(title, 24, [other, *random.sample(nodes, len(nodes))], {*without, "other"}, closed)
    assert again is first
    own = Assignment(title, 24, nodes, frozenset(without), dict(closed))
    # What they were made of may change before an ISP is asked for.
    without.update(node.id for node in nodes)
    closed.clear()
    for node in nodes:
        assert again.within(node) == own.within(node)
        masters, leads_region, leads_world = again.masters(node.region, node.isp)
        mine = masters.get(node.id, Bitmap(24))
        expected = {Scope.REGION: mine, Scope.WORLD: mine & leads_region, Scope.ORIGIN: mine & leads_world}
        assert own.within(node) == expected


def test_elections_differ_with_whatever_they_depend_on() -> None:
    title, nodes = TitleId(bytes(32)), [NodeInfo(NodeId(name), "x", "a") for name in ("n1", "n2")]
    heavy = NodeInfo(NodeId("n2"), "x", "a", weight=2.0)
    held = [
        hold_elections(title, 24, nodes),
        hold_elections(TitleId(bytes(31) + b"1"), 24, nodes),
        hold_elections(title, 25, nodes),
        hold_elections(title, 24, [nodes[0], heavy]),
        hold_elections(title, 24, nodes, {"n1"}),
        hold_elections(title, 24, nodes, (), {"n1": {Scope.ORIGIN}}),
        hold_elections(title, 24, nodes, (), {"n1": {Scope.WORLD}}),
        hold_elections(title, 24, nodes, wants={"n1": Bitmap(24)}),
    ]
    assert len(set(map(id, held))) == len(held)


@settings(deadline=None, max_examples=50)
@given(title=titles, group=weighted, data=st.data())
def test_caches_that_know_different_others_never_wait_in_a_circle(
    title: TitleId, group: dict[str, float], data: st.DataObject
) -> None:
    count = 40
    some = st.binary(min_size=5, max_size=5).map(lambda bits: Bitmap.from_bytes(bits, count))
    wants = {name: data.draw(some) for name in sorted(group)[::3]}
    waits_for: list[dict[str, str]] = [{} for _ in range(count)]
    for me in sorted(group):
        known = data.draw(st.sets(st.sampled_from(sorted(group)))) | {me}
        shares = share_by_rank(title, count, {name: group[name] for name in known}, wants)
        wanted = [chunk for name in known for chunk in wants.get(name, Bitmap.full(count)).indexes()]
        assert sorted(chunk for share in shares.values() for chunk in share.indexes()) == sorted(set(wanted))
        for name, share in shares.items():
            assert not share.and_not(wants.get(name, Bitmap.full(count))).any()
            for chunk in share.indexes():
                if me not in wants or wants[me][chunk]:
                    waits_for[chunk][me] = name
    for waits in waits_for:
        for me in waits:
            last = me
            for _ in range(len(waits)):
                last = waits[last]
            assert waits[last] == last, "somebody at the end waits for nobody"
