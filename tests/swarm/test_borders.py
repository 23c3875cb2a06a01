"""Far links follow the elections: symmetric, few, whole for each stripe, and little moved when somebody comes or
goes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.borders import CHILDREN, FAR_MAX, Border, Borders, IspKey
from p2pfill.swarm.election import STRIPES_MAX, Assignment, Scope, stripe_count

TITLE = TitleId(bytes(range(32)))
CHUNKS = 90

Fleet = dict[IspKey, Border]


def fleet(shape: dict[str, list[int]]) -> Fleet:
    """Return an ISP for each number of caches in the list of each region."""
    found: Fleet = {}
    for region, sizes in shape.items():
        for number, size in enumerate(sizes):
            names = [f"{region}-{number}-{k}" for k in range(size)]
            found[region, f"{region}-{number}"] = Border(dict.fromkeys(names, 1.0), float(size))
    return found


def all_links(borders: Borders, caches: Fleet) -> dict[str, set[str]]:
    return {name: borders.links(name) for border in caches.values() for name in border.caches}


def loaded(caches: Fleet, chunk_count: int = CHUNKS) -> Borders:
    borders = Borders(TITLE, chunk_count)
    borders.load(caches)
    return borders


def nodes(caches: Fleet) -> dict[str, NodeInfo]:
    return {
        name: NodeInfo(NodeId(name), isp, region) for (region, isp), border in caches.items() for name in border.caches
    }


shapes = st.dictionaries(
    st.sampled_from(["eu", "us", "asia"]), st.lists(st.integers(1, 6), min_size=1, max_size=7), min_size=1
).map(fleet)


@settings(deadline=None, max_examples=60)
@given(caches=shapes)
def test_links_go_both_ways_and_leave_the_isp(caches: Fleet) -> None:
    links = all_links(loaded(caches), caches)
    infos = nodes(caches)
    for name, others in links.items():
        for other in others:
            assert name in links[other]
            assert infos[other].isp != infos[name].isp


@settings(deadline=None, max_examples=40)
@given(caches=shapes)
def test_masters_are_linked_with_those_from_whom_their_chunks_come(caches: Fleet) -> None:
    """From the cache that may go to the origin each chunk reaches the master of every ISP over links of masters."""
    links = all_links(loaded(caches), caches)
    infos = nodes(caches)
    duties = Assignment(TITLE, CHUNKS, infos.values())
    within = {name: duties.within(info) for name, info in infos.items()}
    for chunk in range(CHUNKS):
        masters = {name for name in infos if within[name][Scope.REGION][chunk]}
        reached = {name for name in masters if within[name][Scope.ORIGIN][chunk]}
        assert len(reached) == 1
        edge = set(reached)
        while edge:
            edge = {other for name in edge for other in links[name] & masters} - reached
            reached |= edge
        assert reached == masters


def test_the_loss_of_a_master_cuts_nobody_off() -> None:
    caches = fleet({"eu": [3] * 30, "us": [3] * 5})
    links = all_links(loaded(caches), caches)
    duties = Assignment(TITLE, CHUNKS, nodes(caches).values())
    within = {name: duties.within(info) for name, info in nodes(caches).items()}
    for chunk in range(0, CHUNKS, 7):
        masters = {name for name in within if within[name][Scope.REGION][chunk]}
        root = next(name for name in masters if within[name][Scope.ORIGIN][chunk])
        for lost in masters - {root}:
            edge = reached = {root}
            while edge:
                edge = {other for name in edge for other in links[name] & masters} - reached - {lost}
                reached = reached | edge
            assert reached == masters - {lost}


def test_a_cache_has_few_links_however_large_the_fleet_is() -> None:
    most = 2 + CHILDREN + CHILDREN**2
    for isps in (5, 40, 160):
        caches = fleet({"eu": [10] * isps})
        degrees = [len(others) for others in all_links(loaded(caches), caches).values()]
        # Nine stripes a cache; of each it has a parent, a grandparent, children and grandchildren.
        assert max(degrees) <= most * (CHUNKS // 10 + 1)
        assert sum(degrees) / len(degrees) <= 4 * CHUNKS / 10 + 1


def test_many_chunks_make_lots() -> None:
    assert stripe_count(0) == 0
    assert stripe_count(STRIPES_MAX) == STRIPES_MAX
    assert stripe_count(1500) == 750
    assert stripe_count(25_600) == STRIPES_MAX
    caches = fleet({"eu": [4] * 3})
    infos = nodes(caches)
    duties = Assignment(TITLE, 1500, infos.values())
    for info in infos.values():
        mine = duties.within(info)[Scope.REGION]
        assert all(mine[chunk] == mine[chunk + 750] for chunk in range(750))
        assert abs(mine.count() - 1500 / 4) <= 6


def test_a_cache_that_is_its_whole_isp_keeps_a_bounded_part_of_its_links() -> None:
    caches = fleet({"eu": [1, 1, *[60] * 12]})
    borders = loaded(caches, 256)
    links = all_links(borders, caches)
    for lonely in ("eu-0-0", "eu-1-0"):
        assert FAR_MAX // 2 < len(links[lonely]) <= FAR_MAX
        assert all(lonely in links[other] for other in links[lonely])
    key = "eu", "eu-5"
    told = borders.put(key, Border({**caches[key].caches, "newcomer": 1.0}, 61.0))
    caches[key] = Border({**caches[key].caches, "newcomer": 1.0}, 61.0)
    after = all_links(borders, caches)
    assert after["newcomer"]
    assert {name for name in after if "newcomer" in after[name]} <= told


@settings(deadline=None, max_examples=60)
@given(caches=shapes, data=st.data())
def test_whoever_gets_other_links_is_told(caches: Fleet, data: st.DataObject) -> None:
    borders = loaded(caches)
    for _ in range(3):
        before = all_links(borders, caches)
        key = data.draw(st.sampled_from([*sorted(caches), ("eu", "new"), ("africa", "first")]))
        size = data.draw(st.integers(0, 6))
        names = data.draw(st.permutations([f"{key[1]}-{k}" for k in range(6)]))[:size]
        border = Border(dict.fromkeys(names, 1.0), data.draw(st.sampled_from([0.0, float(size)])))
        told = borders.put(key, border)
        caches = {**caches, key: border}
        after = all_links(borders, caches)
        # Whoever comes, and whoever is master of a stripe instead of another there, with all those that it is linked
        # with.
        for name in {name for name in after if name not in before}:
            assert after[name] | ({name} if after[name] else set()) <= told
        fresh = loaded(caches)
        assert all_links(fresh, caches) == after


def test_a_region_where_nobody_counts_any_more_stands_as_if_nobody_ever_had() -> None:
    caches = fleet({"eu": [2] * 6, "us": [2]})
    borders = loaded(caches)
    for key in [key for key in caches if key[0] == "eu"]:
        caches[key] = Border(caches[key].caches, 0.0)
        borders.put(key, caches[key])
    assert all_links(borders, caches) == all_links(loaded(caches), caches)


def test_a_newcomer_in_a_large_fleet_concerns_few() -> None:
    caches = fleet({"eu": [40] * 25, "us": [40] * 25})
    borders = loaded(caches)
    key = "eu", "eu-3"
    grown = Border({**caches[key].caches, "newcomer": 1.0}, 41.0)
    told = borders.put(key, grown)
    assert "newcomer" in told
    assert len(told) < 400
