"""A plan out of tables, what caches hold before it, and the night that it has to fit into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import parse_policy
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import TitleReport
from p2pfill.model.windows import at_utc
from p2pfill.plan.document import PRIORITIES, by_cache
from p2pfill.plan.feasibility.tonight import network_of
from p2pfill.plan.holding import as_planned, held_of, others_of
from p2pfill.plan.making import (
    GIVEN_UP,
    Inputs,
    Made,
    as_placements,
    document,
    make,
    nothing_held,
    placement_of,
    room_of,
    rules_of,
    weights_by_load,
    with_peak_of,
    without,
)  # fmt: skip
from p2pfill.plan.placement.tables import PlacementSettings
from p2pfill.plan.rewriting import check_rewriting, written_by
from p2pfill.plan.synthetic import World, WorldSettings, make_world
from p2pfill.plan.tables import Caches, Load, Placement
from p2pfill.plan.wishes import Wish
from p2pfill.tracker.records import FillRecord, FillRequest, NodeStatus, TitleRecord

DAYS = 6


@lru_cache(maxsize=4)
def world(seed: int) -> World:
    return make_world(WorldSettings(titles=12, regions=2, days=DAYS, views_a_day=300), seed)


def fleet(capacity: Sequence[int], zones: tuple[str, ...] = ()) -> Caches:
    """Two clusters in region 0, one in region 1, of two caches each."""
    return Caches(
        tuple("abcdef"), ("c0", "c1", "c2"), ("i0", "i1"), ("region-0", "region-1"),
        np.array([0, 0, 1, 1, 2, 2], np.int32), np.array([0, 0, 1], np.int32), np.array([0, 1], np.int32),
        np.array(capacity, np.int64), np.full(6, 5e7), np.full(6, 5e7), zones,
    )  # fmt: skip


def contents(placement: Placement) -> list[set[int]]:
    return [set(placement.of(cache).tolist()) for cache in range(len(placement.start) - 1)]


@st.composite
def inputs(draw: st.DrawFn) -> Inputs:
    made = world(draw(st.integers(0, 3)))
    size = made.catalogue.size
    shares = [draw(st.floats(0.02, 0.6)) for _ in range(6)]
    caches = fleet([int(size.sum() * share) for share in shares])
    held: Placement | None = None
    if draw(st.booleans()):
        lists = []
        for cache in range(6):
            wanted = draw(st.lists(st.integers(0, len(size) - 1), unique=True, max_size=8))
            fits, left = [], int(caches.capacity[cache])
            for file in wanted:
                if size[file] <= left:
                    fits.append(file)
                    left -= int(size[file])
            lists.append(fits)
        held = placement_of(lists)
    names = st.sampled_from(made.catalogue.titles)
    wishes = st.lists(st.builds(Wish, names, st.sampled_from([(), ("region-0",), ("region-1",)])), max_size=2)
    chosen = PlacementSettings(rewritten_share=draw(st.sampled_from([0.05, 0.3, 1.0])), neighbourhoods=0)
    return Inputs(
        made.catalogue, caches, made.views, made.views.last_day, None, held, chosen, draw(wishes), draw(wishes)
    )  # fmt: skip


def check_document(made: Made) -> None:
    """A plan is what the arrays say: nothing comes that lies there, nothing goes that is to stay, and it fits."""
    plan = document(made, 7.0)
    catalogue, caches = made.inputs.catalogue, made.inputs.caches
    target, held = as_placements(plan, catalogue, caches)
    assert contents(target) == contents(made.target)
    assert contents(held) == contents(made.held)
    for one in plan.files:
        sets = [set(names) for names in (one.comes, one.stays, one.goes)]
        assert sum(map(len, sets)) == len(set().union(*sets))
        assert set().union(*sets) or one.expected
        assert 1 <= one.priority <= PRIORITIES
    sums = by_cache(plan.files)
    assert plan.head.comes_bytes == sum(comes for comes, _, _ in sums.values())
    assert plan.head.goes_bytes == sum(goes for _, _, goes in sums.values())
    for number, name in enumerate(caches.names):
        comes, stays, _ = sums.get(name, (0, 0, 0))
        assert comes + stays <= caches.capacity[number]
        assert room_of(plan, caches)[number] == caches.capacity[number] - stays >= comes
    assert {name: one.demand_bytes for name, one in plan.head.clusters.items()} == pytest.approx(
        dict(zip(caches.clusters, made.result.demand.tolist(), strict=True))
    )
    assert contents(as_planned(plan, catalogue, caches)) == contents(target)


@given(inputs())
@settings(max_examples=40)
def test_a_plan_keeps_to_what_it_was_made_of(given_: Inputs) -> None:
    made = make(given_)
    check_document(made)
    assert contents(made.target) == contents(make(given_).target), "the same inputs give the same plan"
    lies, size = contents(made.held), given_.catalogue.size
    exceeded = set(made.result.exceeded.tolist())
    coming = made.coming()
    owners = np.repeat(np.arange(6), np.diff(made.target.start))
    for cache, is_to in enumerate(contents(made.target)):
        assert set(made.target.files[coming[owners[coming] == cache]].tolist()) == is_to - lies[cache]
        written = int(size[sorted(is_to - lies[cache])].sum())
        if lies[cache] and cache not in exceeded:
            free = given_.caches.capacity[cache] - size[sorted(lies[cache])].sum()
            assert written <= max(given_.caches.capacity[cache] * given_.settings.rewritten_share, free)
    rules = rules_of(given_.pins, given_.exclusions, given_.catalogue, given_.caches)
    held_in = [
        set().union(*(contents(made.target)[cache] for cache in range(6) if given_.caches.cluster[cache] == cluster))
        for cluster in range(3)
    ]
    for cluster, file in zip(rules.excluded_cluster, rules.excluded_file, strict=True):
        assert file not in held_in[cluster]
    for cluster, file in zip(rules.pinned_cluster, rules.pinned_file, strict=True):
        assert file in held_in[cluster] or (cluster, file) in made.result.unpinned


@given(inputs(), st.data())
@settings(max_examples=25)
def test_what_is_given_up_does_not_come_and_all_else_does(given_: Inputs, data: st.DataObject) -> None:
    made = make(given_)
    coming = made.coming()
    given_up = np.array(sorted(data.draw(st.sets(st.sampled_from(coming.tolist()))) if len(coming) else []), np.int64)
    left = without(made, given_up)
    owners = np.repeat(np.arange(6), np.diff(made.target.start))
    gone = {(int(owners[entry]), int(made.target.files[entry])) for entry in given_up}
    for cache, (before, after) in enumerate(zip(contents(made.target), contents(left.target), strict=True)):
        assert after == {file for file in before if (cache, file) not in gone}
    assert int(left.result.written.sum()) == int(
        made.result.written.sum() - given_.catalogue.size[made.target.files[given_up]].sum()
    )
    check_document(left)
    result = left.result
    assert (result.served <= made.result.served).all()
    assert (result.served <= result.bound * (1 + 1e-9)).all()
    assert result.served.sum() + left.given_up == pytest.approx(made.result.served.sum())
    if len(given_up) == len(coming) and not len(made.held.files):
        assert result.served.sum() == 0, "of nothing nothing is served"
    head = document(left, 0.0).head
    assert head.served_bytes == pytest.approx(result.served.sum())
    assert head.left_out.get(GIVEN_UP, 0.0) == left.given_up


@given(inputs())
@settings(max_examples=20)
def test_worth_is_what_the_clusters_are_asked_for(given_: Inputs) -> None:
    made = make(given_)
    per_cluster = np.zeros((3, made.demand.files))
    owners = np.repeat(np.arange(6), np.diff(made.target.start))
    np.add.at(per_cluster, (given_.caches.cluster[owners], made.target.files), made.worth())
    for cluster in range(3):
        held = per_cluster[cluster] > 0
        assert per_cluster[cluster][held] == pytest.approx(made.demand.of(cluster)[held])


@given(inputs(), st.lists(st.floats(0, 0.5), min_size=6, max_size=6))
@settings(max_examples=20)
def test_what_was_written_tonight_is_of_the_share(given_: Inputs, shares: list[float]) -> None:
    capacity, size = given_.caches.capacity, given_.catalogue.size
    written = (capacity * np.array(shares)).astype(np.int64)
    made = make(replace(given_, written=written))
    exceeded = set(made.result.exceeded.tolist())
    for cache, (is_to, lies) in enumerate(zip(contents(made.target), contents(made.held), strict=True)):
        if lies and cache not in exceeded:
            comes = int(size[sorted(is_to - lies)].sum())
            free = int(capacity[cache] - size[sorted(lies)].sum())
            left = capacity[cache] * given_.settings.rewritten_share - written[cache]
            assert comes <= max(left, free, 0)


def test_what_is_worth_most_is_most_urgent() -> None:
    chosen = world(0)
    caches = fleet([int(chosen.catalogue.size.sum() * 0.4)] * 6)
    made = make(Inputs(chosen.catalogue, caches, chosen.views, chosen.views.last_day))
    plan = document(made, 1.0)
    known = {one.file: one.priority for one in plan.files if one.comes}
    assert max(known.values()) == PRIORITIES
    density = np.zeros(made.demand.files)
    np.maximum.at(density, made.target.files, made.worth() / chosen.catalogue.size[made.target.files])
    ends = density.argmax(), np.where(density > 0, density, 9e9).argmin()
    best, worst = (chosen.catalogue.files[file] for file in ends)
    assert known[best] > known[worst]


def test_the_history_says_how_viewers_spread_over_clusters() -> None:
    caches = fleet([1] * 6)
    served = np.array([[30.0, np.nan], [10.0, 0.0], [5.0, 5.0]])
    assert weights_by_load(Load(caches.clusters, 0, served), caches) == pytest.approx([0.75, 0.25, 1.0])
    assert weights_by_load(None, caches) == pytest.approx([0.5, 0.5, 1.0])
    served[1] = np.nan
    assert weights_by_load(Load(caches.clusters, 0, served), caches) == pytest.approx([0.5, 0.5, 1.0]), "one is unknown"
    day = np.ones((1, 24))
    day[0, 20] = 9.0
    assert with_peak_of(Load(("c",), 0, day), PlacementSettings()).peak_share == pytest.approx(9 / 32)
    assert with_peak_of(Load(("c",), 0, day[:, :5]), PlacementSettings()) == PlacementSettings()


def test_slips_of_the_pen_are_no_wishes() -> None:
    chosen, caches = world(0), fleet([1] * 6)
    with pytest.raises(ConfigError, match="no title 'title-99'"):
        rules_of([Wish("title-99")], (), chosen.catalogue, caches)
    with pytest.raises(ConfigError, match="no cache stands in region 'mars'"):
        rules_of((), [Wish(chosen.catalogue.titles[0], ("mars",))], chosen.catalogue, caches)
    other = replace(chosen.catalogue, files=("film.mp4", *chosen.catalogue.files[1:]))
    with pytest.raises(ConfigError, match=r"write 'title-00000/film\.mp4'"):
        make(Inputs(other, caches, chosen.views, chosen.views.last_day))


# ---- what lies there


def status(name: str, *titles: TitleReport) -> NodeStatus:
    return NodeStatus(NodeInfo(NodeId(name), "i0", "region-0"), True, 0.0, 0.0, 1, list(titles), 0, 0, 0)


def test_caches_hold_whole_titles_and_what_was_ordered_of_others() -> None:
    chosen = world(0).catalogue
    names = [chosen.files[number][len("title-00000/"):] for number in np.flatnonzero(chosen.title == 0)]
    assert len(names) > 1
    record = TitleRecord("t0", "title-00000", 100, 10, 10, len(names), 0.0)
    some = FillRecord("f", FillRequest("t0", "id=b", [], files=(names[0],)), 0.0, 1, 10.0)
    pattern = FillRecord("g", FillRequest("t0", "id=c,id=f", [], files=("*d",)), 0.0, 2, 20.0)
    more = FillRecord("h", FillRequest("t0", "id=c", [], files=(names[0],)), 0.0, 3, 30.0)
    nodes = [
        status("a", TitleReport("t0", "failed", have_bytes=100, title_bytes=100)),
        status("b", TitleReport("t0", "live", have_bytes=40, title_bytes=40, files=1, number=1)),
        status("c", TitleReport("t0", "repairing", have_bytes=40, title_bytes=60, files=2, number=3, finished_at=25.0)),
        status("d", TitleReport("t0", "filling", have_bytes=90, title_bytes=100)),
        status("e", TitleReport("t9", "live", have_bytes=90, title_bytes=90)),
        status("stranger", TitleReport("t0", "live", have_bytes=100, title_bytes=100)),
    ]
    mended = TitleReport("t0", "repairing", have_bytes=30, title_bytes=40, files=2, number=2, finished_at=25.0)
    found = contents(held_of([*nodes, status("f", mended)], [record], [some, pattern, more], chosen, fleet([1] * 6)))
    low = {n for n, one in enumerate(names) if one.endswith("d")}
    of = {"a": set(range(len(names))), "b": {0}, "c": low, "f": low}
    assert found == [of.get(name, set()) for name in "abcdef"]


@st.composite
def fleets_with_anything_in_them(draw: st.DrawFn) -> tuple[Inputs, list[NodeStatus], list[TitleRecord]]:
    """What a plan is made of, beside caches that hold titles of the catalogue and others, whole or in part."""
    given_ = draw(inputs())
    catalogue, caches = given_.catalogue, given_.caches
    sizes = np.bincount(catalogue.title, catalogue.size).astype(int).tolist()
    records = [
        TitleRecord(name, name, size, 1, 1, 1, 0.0) for name, size in zip(catalogue.titles, sizes, strict=True)
    ]  # fmt: skip
    some = [*records[:3], TitleRecord("other", "other", max(sizes), 1, 1, 1, 0.0)]
    nodes = []
    for name in caches.names:
        titles = []
        for record in draw(st.lists(st.sampled_from(some), unique_by=lambda one: one.title, max_size=3)):
            state = draw(st.sampled_from(["live", "repairing", "filling", "failed"]))
            have = int(record.size * draw(st.sampled_from([0.0, 0.4, 1.0])))
            titles.append(TitleReport(record.title, state, have_bytes=have, title_bytes=record.size))
        nodes.append(status(name, *titles))
    return given_, nodes, records


@given(fleets_with_anything_in_them())
@settings(max_examples=40)
def test_what_is_planned_beside_whatever_lies_there_may_be_applied(
    fleet_: tuple[Inputs, list[NodeStatus], list[TitleRecord]],
) -> None:
    given_, nodes, records = fleet_
    catalogue, caches = given_.catalogue, given_.caches
    held = held_of(nodes, records, [], catalogue, caches)
    other = others_of(nodes, held, catalogue, caches)
    made = make(replace(given_, held=held, other=other, pins=()))
    check_rewriting(written_by(document(made, 0.0), caches, records, nodes), given_.settings.rewritten_share)


def test_what_lies_there_besides_is_what_viewers_see() -> None:
    chosen, caches = world(0).catalogue, fleet([1] * 6)
    whole = TitleReport("t9", "live", have_bytes=70, title_bytes=70)
    begun = TitleReport("t8", "filling", have_bytes=30, title_bytes=90)
    record = TitleRecord("t0", "title-00000", int(chosen.size[chosen.title == 0].sum()), 10, 10, 1, 0.0)
    mine = TitleReport("t0", "live", have_bytes=record.size, title_bytes=record.size)
    nodes = [status("a", whole), status("b", begun), status("c", whole, begun), status("d", mine, whole)]
    held = held_of(nodes, [record], [], chosen, caches)
    assert others_of([*nodes, status("stranger", whole)], held, chosen, caches).tolist() == [70, 0, 70, 70, 0, 0]


def test_what_was_ordered_a_moment_ago_does_not_lie_there_yet() -> None:
    chosen = world(0).catalogue
    names = [chosen.files[number][len("title-00000/"):] for number in np.flatnonzero(chosen.title == 0)]
    record = TitleRecord("t0", "title-00000", 100, 10, 10, len(names), 0.0)
    before = FillRecord("f", FillRequest("t0", "id=a,id=b", [], files=(names[0],)), 0.0, 1, 10.0)
    now = FillRecord("g", FillRequest("t0", "id=a,id=b", [], files=tuple(names[:2])), 0.0, 2, 20.0)
    nodes = [
        status("a", TitleReport("t0", "live", have_bytes=40, title_bytes=40, files=1, number=1, finished_at=15.0)),
        status("b", TitleReport("t0", "repairing", have_bytes=40, title_bytes=60, files=2, number=2, finished_at=15.0)),
    ]
    assert contents(held_of(nodes, [record], [before, now], chosen, fleet([1] * 6)))[:2] == [{0}, {0}]


def test_an_old_version_of_a_title_does_not_count() -> None:
    chosen = world(0).catalogue
    records = [TitleRecord(name, "title-00000", 100, 10, 10, 2, added) for name, added in (("new", 2.0), ("old", 1.0))]
    nodes = [
        status("a", TitleReport("old", "live", have_bytes=100, title_bytes=100)),
        status("b", TitleReport("new", "live", have_bytes=100, title_bytes=100)),
    ]
    found = contents(held_of(nodes, records, [], chosen, fleet([1] * 6)))
    assert [bool(one) for one in found] == [False, True, False, False, False, False]


# ---- the night


def test_windows_come_of_the_policy_or_of_the_caches_own_clocks() -> None:
    caches = fleet([1] * 6, ("Europe/Berlin",) * 4 + ("Asia/Tokyo",) * 2)
    policy = parse_policy(
        '[[caches]]\nname = "slow"\nselector = "isp=i1"\nrates = "1M"\n'
        '[[caches]]\nname = "late"\nselector = "cluster=c1"\nwindows = "UTC 05:00,2M 07:00,off"\n'
    )
    start = at_utc("2026-11-29T12:00")
    network, night = network_of(caches, start, policy=policy, windows="02:00,max 06:00,off")
    assert [(spans[0].begin - start) / 3600 for spans in network.spans] == [13, 13, 17, 17, 5, 5]
    assert (night.deadline - start) / 3600 == 19
    assert network.caches.filling.tolist() == [5e7] * 4 + [2**20] * 2
    assert network.spans[2][0].rate == 2 * 2**20
    assert network.budget is None
    always, open_night = network_of(caches, start)
    assert open_night.deadline == start + 86_400
    assert all(spans[0].begin == start and spans[-1].end == open_night.horizon for spans in always.spans)
    _, given_night = network_of(caches, start, deadline=start + 60)
    assert given_night.deadline == start + 60
    table = "{timezone}"
    with pytest.raises(ConfigError, match="windows"):
        network_of(caches, start, windows=table)


NIGHT = "Europe/Berlin 22:00,max 06:00,off"


@pytest.mark.parametrize(
    ("start", "table", "ends"),
    [
        ("2027-03-26T21:30+01:00", NIGHT, "2027-03-27T06:00+01:00"),
        # The clock is put forward: the window after opens 23.5 hours later, and is not of this night.
        ("2027-03-27T21:30+01:00", NIGHT, "2027-03-28T06:00+02:00"),
        ("2027-10-30T21:30+02:00", NIGHT, "2027-10-31T06:00+01:00"),
        # Late, or once more after a crash: the night that is under way.
        ("2026-11-30T22:00+01:00", NIGHT, "2026-12-01T06:00+01:00"),
        ("2026-11-30T22:30+01:00", NIGHT, "2026-12-01T06:00+01:00"),
        ("2026-12-01T01:00+01:00", NIGHT, "2026-12-01T06:00+01:00"),
        ("2026-12-01T01:00+01:00", "Europe/Berlin 22:00,1M 00:30,max 06:00,off", "2026-12-01T06:00+01:00"),
        # Of which so little is left that the next one is meant.
        ("2026-12-01T04:00+01:00", NIGHT, "2026-12-02T06:00+01:00"),
        ("2026-12-01T21:30+00:00", "UTC 21:15,max 21:20,off", "2026-12-02T21:20+00:00"),
    ],
)
def test_a_night_has_one_turn_of_each_window(start: str, table: str, ends: str) -> None:
    begin, end = (datetime.fromisoformat(text).timestamp() for text in (start, ends))
    _, night = network_of(fleet([1] * 6), begin, windows=table)
    assert (night.deadline - begin) / 3600 == (end - begin) / 3600


def test_a_night_around_the_world_lasts_till_the_last_of_its_windows() -> None:
    zones = ("UTC", "Asia/Tokyo", "America/Los_Angeles")
    start = at_utc("2026-11-30T20:30")
    network, night = network_of(fleet([1] * 6, zones * 2), start, windows="02:00,max 06:00,off")
    assert (night.deadline - start) / 3600 == 24.5, "half an hour of a window in Tokyo is no night"
    assert [len([one for one in spans if one.end <= night.deadline]) for spans in network.spans[:3]] == [1, 2, 1]


def test_nothing_held_is_empty() -> None:
    assert contents(nothing_held(3)) == [set(), set(), set()]
