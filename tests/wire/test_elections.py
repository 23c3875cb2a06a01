"""p2pfill and an election written from the page alone make the same caches masters of the same chunks."""

from __future__ import annotations

import os
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from wire import masters
from wire.masters import Fleet, Member

from p2pfill.hot import _pure_bits, bits
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.election import Assignment, Scope, elect, stripe_count
from p2pfill.swarm.neighbourhood import Member as Neighbour
from p2pfill.swarm.neighbourhood import Neighbourhoods

ELECTIONS = int(os.environ.get("P2PFILL_ELECTIONS", "50"))
"""Random rosters; more of them may be asked for."""

NAMED = {masters.REGION: Scope.REGION, masters.WORLD: Scope.WORLD, masters.ORIGIN: Scope.ORIGIN}

weights = st.sampled_from([1.0, 1.0, 0.1, 0.2, 0.3, 2.5, 10.0, 1 / 1024, 0.0]) | st.floats(1e-3, 1e6) | st.just(1)
labels = st.sampled_from(["", "a", "b", "isp-ä", "\U0001f600", "\uffff"])
closed = st.frozensets(st.sampled_from([masters.REGION, masters.WORLD, masters.ORIGIN]))
titles = st.binary(min_size=32, max_size=32).map(TitleId)
counts = st.integers(1, 40) | st.sampled_from([1023, 1024, 1025, 1500, 2048, 2049, 3000]) | st.integers(1, 3000)


@st.composite
def rosters(draw: st.DrawFn) -> list[Member]:
    names = draw(st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,5}", fullmatch=True), min_size=1, max_size=12,
                          unique=True))  # fmt: skip
    ways = closed if draw(st.booleans()) else st.just(frozenset())
    return [Member(name, draw(labels), draw(labels), draw(weights), draw(ways)) for name in names]


def as_node(member: Member) -> NodeInfo:
    return NodeInfo(NodeId(member.name), member.isp, member.region, weight=member.weight)


def ours(title: TitleId, count: int, members: list[Member], excluded: frozenset[str]) -> dict[str, dict[int, set[int]]]:
    ways = {m.name: [NAMED[place] for place in m.closed] for m in members if m.closed}
    duties = Assignment(title, count, [as_node(m) for m in members], excluded, ways)
    within = {m.name: duties.within(as_node(m)) for m in members}
    return {
        name: {place: set(chunks[scope].indexes()) for place, scope in NAMED.items()} for name, chunks in within.items()
    }


@settings(deadline=None, max_examples=ELECTIONS)
@given(title=titles, count=counts, members=rosters(), data=st.data())
def test_both_elect_the_same_masters(title: TitleId, count: int, members: list[Member], data: st.DataObject) -> None:
    names = st.sampled_from([member.name for member in members])
    excluded = data.draw(st.frozensets(names, max_size=3) | st.just(frozenset()))
    theirs = Fleet(title, count, members, excluded)
    assert ours(title, count, members, excluded) == {m.name: theirs.may_go(m) for m in members}


@settings(deadline=None, max_examples=30)
@given(title=titles, count=counts, members=rosters(), random=st.randoms())
def test_the_order_of_the_roster_does_not_matter(
    title: TitleId, count: int, members: list[Member], random: Random
) -> None:
    order = list(members)
    random.shuffle(order)
    assert ours(title, count, order, frozenset()) == ours(title, count, members, frozenset())


def test_sums_of_weights_do_not_depend_on_the_order() -> None:
    """Each cache puts itself last: added up one by one, 0.1, 0.2 and 0.3 are more than 0.3, 0.2 and 0.1."""
    members = [Member(f"{isp}{n}", isp, "r", weight) for isp in "ab" for n, weight in enumerate((0.1, 0.2, 0.3))]
    order = [*reversed(members[:3]), *members[3:]]
    assert ours(TitleId(bytes(32)), 7, order, frozenset()) == ours(TitleId(bytes(32)), 7, members, frozenset())


@settings(deadline=None, max_examples=30)
@given(title=titles, members=rosters())
def test_the_groups_of_an_order_elect_as_the_whole_roster_does(title: TitleId, members: list[Member]) -> None:
    """What a cache of a large fleet is told, docs/tracker-api.md: its ISP's electors, and the weights of all else."""
    members = [m._replace(weight=max(1, round(m.weight % 64 * 1024)) / 1024, closed=frozenset()) for m in members]
    # An empty ISP stands for a whole region there.
    members = [m._replace(isp=m.isp or "none") for m in members]
    everybody = Neighbourhoods(title, 60, everybody_max=0)
    everybody.put_all([Neighbour(as_node(member), counts=True) for member in members])
    whole = Fleet(title, 60, members)
    for member in members:
        told = everybody.election(as_node(member))
        assert told is not None
        electors = [Member(elector.id, member.isp, member.region, elector.weight) for elector in told.electors]
        groups = [Member(f"{g.region}/{g.isp}", g.isp, g.region, g.weight) for g in told.groups]
        assert Fleet(title, 60, [*electors, *groups]).may_go(member) == whole.may_go(member)


@settings(deadline=None)
@given(st.integers(0, (1 << 64) - 1), st.floats(1e-12, 1e12))
def test_both_score_alike_to_the_bit(value: int, x: float) -> None:
    assert masters.mix(value) == _pure_bits._mix(value)
    assert masters.logarithm(x).hex() == _pure_bits._ln(x).hex()


@given(st.integers(0, 1 << 21))
def test_both_cut_the_same_lots(count: int) -> None:
    assert masters.stripe_count(count) == stripe_count(count)


@settings(deadline=None)
@given(st.integers(0, 5000), st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9))
def test_both_give_the_same_quotas(count: int, parts: list[float]) -> None:
    assert masters.quotas(count, parts) == list(bits.quotas(count, parts))


@settings(deadline=None)
@given(titles, st.integers(1, 200), st.dictionaries(st.text("abc", min_size=1), st.floats(0.1, 9), min_size=1))
def test_both_win_the_same_lots(title: TitleId, count: int, group: dict[str, float]) -> None:
    names, owners = elect(title, range(count), group)
    assert masters.elect(title, range(count), group) == {stripe: names[owner] for stripe, owner in enumerate(owners)}
