"""What came of a plan: each byte that was watched is in one class, each byte that came in one tier, and why."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from p2pfill.errors import ConfigError
from p2pfill.model.night import Span
from p2pfill.plan.document import Plan, PlanHead, PlannedCluster, PlannedFile
from p2pfill.plan.report import night as night_module
from p2pfill.plan.report.copies import copies_of, least_of
from p2pfill.plan.report.day import BAND, CLASSES, HITS, Day, day_number, day_report, plan_name, split_bytes
from p2pfill.plan.report.night import (
    WHYS,
    ByTier,
    CacheFacts,
    NightFacts,
    TitleFacts,
    facts_of,
    ordered_of,
)
from p2pfill.plan.report.report import build_report, places_of
from p2pfill.plan.tables import Caches, Catalogue, Views
from p2pfill.swarm import waits
from p2pfill.tracker.night_report import NightReport
from p2pfill.tracker.night_report import build_report as night_report
from p2pfill.tracker.night_rows import NightCache, NightHead, NightPage, NightRow
from p2pfill.tracker.records import FillRecord, FillRequest

DAY = "2026-12-01"
HEAD = PlanHead(1, DAY, 1.0, ("2026-11-01", "2026-11-30"), 6, 6, 10.0, 9.0, 9.5, 5, 4, 0.9)
NAMES = ("a1", "a2", "b1", "c1", "c2", "d1")
CACHES = Caches(
    NAMES, ("ka", "kb", "kc", "kd"), ("isp-a", "isp-b", "isp-c"), ("eu", "us"),
    np.array([0, 0, 1, 2, 2, 3], np.int32), np.array([0, 0, 1, 2], np.int32), np.array([0, 0, 1], np.int32),
    np.full(6, 100, np.int64), np.array([2.0, 1.0, 3.0, 1.0, 1.0, 5.0]), np.ones(6),
)  # fmt: skip
TITLES = ("t0", "t1", "t2")
FILES = ("t0/hd", "t0/sd", "t1/hd", "t1/sd", "t2")
SIZES = (700, 300, 900, 100, 5)


def made_catalogue(released: list[int]) -> Catalogue:
    return Catalogue(
        TITLES, ("",), ("",), np.zeros(3, np.int32), np.array(released, np.int32), np.full(3, np.nan),
        # One of them is named within its title, as catalogues may do.
        ("t0/hd", "sd", "t1/hd", "t1/sd", "t2"), np.array([0, 0, 1, 1, 2], np.int32), np.zeros(5, np.int32),
        np.array(SIZES, np.int64),
    )  # fmt: skip


def made_views(rows: dict[tuple[int, int, int], int]) -> Views:
    keys = sorted(rows)
    day, region, file = (np.array([key[at] for key in keys], np.int32) for at in range(3))
    bytes_ = np.array([rows[key] for key in keys], np.int64)
    return Views(CACHES.regions, 0, 99999, day, region, file, bytes_, np.ones(len(keys), np.int64))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    files = []
    for name, size in zip(FILES, SIZES, strict=True):
        if not draw(st.integers(0, 3)):
            continue
        parts = {cache: draw(st.sampled_from("csg---")) for cache in NAMES}
        kinds = {kind: tuple(cache for cache, its in parts.items() if its == kind) for kind in "csg"}
        streams = st.sampled_from([0.5, 1.0, 2.0, 8.0])
        expected = {
            region: (draw(streams), draw(streams)) for region in CACHES.regions if draw(st.booleans())
        }  # fmt: skip
        files.append(
            PlannedFile(name, name.partition("/")[0], size, 1.0, kinds["c"], kinds["s"], kinds["g"], expected=expected)
        )
    clusters = {
        name: PlannedCluster(draw(st.sampled_from([0.0, 0.3, 1.0])), draw(st.sampled_from([0.0, 0.5, 2.0])))
        for name in CACHES.clusters
    }
    head = replace(HEAD, clusters=clusters if draw(st.booleans()) else {})
    return Plan(head, tuple(files))


@st.composite
def nights(draw: st.DrawFn) -> NightFacts:
    caches = {
        name: CacheFacts(isp.isp, isp.region, draw(st.sampled_from(["", "", "", "it is down"])))
        for name, isp in places_of(CACHES).items()
        if draw(st.integers(0, 6))
    }
    titles: dict[str, dict[str, TitleFacts]] = {}
    for title in TITLES:
        for cache in caches:
            if draw(st.booleans()):
                titles.setdefault(title, {})[cache] = TitleFacts(
                    draw(st.booleans()), draw(st.booleans()), draw(st.floats(0, 9)),
                    draw(st.integers(0, 1200)), ByTier(*(draw(st.integers(0, 99)) for _ in range(4))),
                    draw(st.sampled_from(WHYS)), "so it was",
                )  # fmt: skip
    came = ByTier(5, 6, 7, 8)
    for facts in (one for its in titles.values() for one in its.values()):
        came.add(facts.came)
    ordered = draw(st.sampled_from([None, {"t0": {"a1": frozenset[str]()}, "t1": {"c1": frozenset({"hd"})}}]))
    live = frozenset({("t0", "a1"), ("t1", "b1")})
    return NightFacts("2026-11-30", 3.0, True, caches, titles, came, ordered, None, live)


@st.composite
def days(draw: st.DrawFn) -> Day:
    day = day_number(DAY)
    keys = st.tuples(st.sampled_from([day - 1, day]), st.integers(0, 1), st.integers(0, 4))
    rows = draw(st.dictionaries(keys, st.integers(1, 5000), max_size=12))
    released = [draw(st.sampled_from([day - 100, day - 1, day])) for _ in TITLES]
    seen = draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=5, max_size=5)))
    return Day(
        made_views(rows), made_catalogue(released), CACHES, None if seen is None else np.array(seen), 17
    )  # fmt: skip


def class_of(cluster: str, file: int, watched: float, expected: float, margin: float, plan: Plan, night: NightFacts,
             day: Day) -> str:  # fmt: skip
    """The rules of `p2pfill.plan.report.day`, for one file in one cluster, one after the other."""
    name, title = FILES[file], FILES[file].partition("/")[0]
    mine = [cache for cache, at in zip(NAMES, CACHES.cluster, strict=True) if CACHES.clusters[at] == cluster]
    copies = [one for one in copies_of(plan, night) if one.file.file == name and one.cache in mine]
    if any(one.why is None for one in copies):
        return "planned"
    whole = sum(size for other, size in zip(FILES, SIZES, strict=True) if other.partition("/")[0] == title)
    for cache in mine:
        facts, here = night.titles.get(title, {}).get(cache), night.caches.get(cache)
        of_plan = any(one.title == title and cache in one.holders for one in plan.files)
        if facts and here and not here.down and facts.is_whole and facts.have_bytes >= whole and not of_plan:
            return "besides"
    if copies:
        return str(min(copies, key=lambda one: (-one.have_bytes, one.cache)).why)
    at = TITLES.index(title)
    is_late = day.catalogue.released[at] > day_number(plan.head.history[1])
    if all(one.file != name for one in plan.files) and (is_late or (day.seen is not None and not day.seen[file])):
        return "new"
    return "too low" if expected <= margin < watched else "no space"


@given(plans(), nights(), days())
def test_each_byte_that_was_watched_is_in_the_class_that_the_rules_say(plan: Plan, night: NightFacts, day: Day) -> None:
    told = build_report(plan, night, day)
    viewing = told.viewing
    assert viewing is not None
    today = day.views.day == day_number(DAY)
    assert sum(part.bytes for part in viewing.parts) == viewing.demand_bytes == day.views.bytes[today].sum()
    assert [part.name for part in viewing.parts] == list(CLASSES)
    assert viewing.hit_bytes == sum(part.bytes for part in viewing.parts[:HITS])
    for part in viewing.parts:
        assert part.bytes == sum(one.parts.get(part.name, 0) for one in viewing.clusters)
        assert sum(one.bytes for one in part.examples) == (0 if part in viewing.parts[:HITS] else part.bytes)
    for its in viewing.regions:
        assert its.demand_bytes == sum(one.demand_bytes for one in viewing.clusters if one.region == its.region)
    sums = dict.fromkeys(CLASSES, 0)
    for at, region in enumerate(CACHES.regions):
        clusters = [one for one in viewing.clusters if one.region == region]
        total = np.zeros(5, np.int64)
        np.add.at(total, day.views.file[today & (day.views.region == at)],
                  day.views.bytes[today & (day.views.region == at)])  # fmt: skip
        weights = np.array([viewers_of(plan, one.cluster) for one in clusters])
        weights = weights / weights.sum() if weights.sum() else np.full(len(clusters), 1 / len(clusters))
        for one, weight, demand in zip(clusters, weights, split_bytes(total, weights), strict=True):
            assert sum(one.parts.values()) == one.demand_bytes == demand.sum()
            for file in range(5):
                expected = dict(zip(FILES, [0.0] * 5, strict=True))
                expected |= {one.file: one.expected.get(region, (0.0, 0.0))[0] for one in plan.files}
                name = class_of(one.cluster, file, demand[file] / SIZES[file], expected[FILES[file]] * weight,
                                one.margin, plan, night, day)  # fmt: skip
                sums[name] += int(demand[file])  # type: ignore[index]
    assert sums == {part.name: part.bytes for part in viewing.parts}


def viewers_of(plan: Plan, cluster: str) -> float:
    """What the plan says; without it, what the caches serve of what those of the region do."""
    if plan.head.clusters:
        return plan.head.clusters[cluster].viewers
    at = CACHES.clusters.index(cluster)
    return float(CACHES.serving[CACHES.cluster == at].sum())


@given(plans(), nights())
def test_each_byte_that_came_is_of_the_plan_or_besides_it(plan: Plan, night: NightFacts) -> None:
    told = build_report(plan, night).night
    for tier in ByTier.__struct_fields__:
        assert getattr(told.came, tier) + getattr(told.besides, tier) == getattr(night.came, tier)
        assert getattr(told.besides, tier) >= 0
    copies = list(copies_of(plan, night))
    assert told.planned == sum(len(file.comes) for file in plan.files)
    assert told.planned - told.there + told.stays - told.stays_there == sum(one.copies for one in told.not_there)
    assert sum(one.bytes for one in told.not_there) == sum(one.file.size for one in copies if one.why)
    assert told.least.total == told.planned_bytes == sum(len(file.comes) * file.size for file in plan.files)
    assert (told.finish_at > 0) <= (told.there == told.planned)


@given(plans())
def test_the_least_is_each_file_once_into_each_isp_and_once_out_of_the_origin(plan: Plan) -> None:
    places = places_of(CACHES)
    isps = regions = origin = 0
    for file in plan.files:
        held = {*file.stays, *file.goes}
        for kind in ("isp", "region"):
            lack = {getattr(places[name], kind) for name in file.comes} - {getattr(places[name], kind) for name in held}
            isps += file.size * len(lack) * (kind == "isp")
            regions += file.size * len(lack) * (kind == "region")
        origin += file.size * (bool(file.comes) and not held)
    least = least_of(plan, places)
    assert (least.into_isps, least.other + least.origin, least.origin) == (isps, regions, origin)
    alone = least_of(plan, {})
    assert (alone.peer, alone.total) == (0, least.total), "caches that nobody knows share nothing"


@given(st.lists(st.integers(0, 1 << 50), min_size=1, max_size=6), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_bytes_are_split_into_whole_ones_that_add_up(total: list[int], parts: list[int]) -> None:
    weights = np.array(parts, np.float64) / sum(parts) if sum(parts) else np.full(len(parts), 1 / len(parts))
    found = split_bytes(np.array(total, np.int64), weights)
    assert found.sum(axis=0).tolist() == total
    assert (found >= 0).all()
    assert (np.abs(found - np.outer(weights, total)) <= 2 + 1e-12 * np.array(total)).all()


# ---- from the tracker's report


def cache(node: str, *spans: Span, **more: Any) -> NightCache:
    fields: dict[str, Any] = {"heard_at": 1.0, "last_at": 90.0, "has_windows": True, "phase": "closed"} | more
    at = places_of(CACHES)[node]
    return NightCache(node, at.isp, at.region, spans=list(spans) or [Span(10.0, 20.0)], **fields)


def row(title: str, node: str, **more: Any) -> NightRow:
    fields: dict[str, Any] = {
        "is_wanted": True,
        "ordered_at": 5.0,
        "state": "filling",
        "have_bytes": 10,
        "title_bytes": 1000,
    } | more
    return NightRow(title, node, **fields)


def report_of(*rows: NightRow, caches: list[NightCache] | None = None, silent: tuple[str, ...] = ()) -> NightReport:
    head = NightHead("2026-11-30", 1.0, 90.0)
    page = NightPage(head, caches or [cache(name) for name in NAMES], list(rows))
    return night_report(page, {name: name for name in TITLES}, set(), set(silent), is_over=True)


def said(row: Any, cache: Any) -> str:
    return str(row.cause)


tiers = st.tuples(*[st.integers(0, 1000)] * 3)
rows = st.builds(
    lambda title, node, came, far, wanted: row(title, node, tiers=came, far=far, is_wanted=wanted),
    st.sampled_from(TITLES), st.sampled_from(["", *NAMES]), tiers,
    st.dictionaries(st.sampled_from([*NAMES, "https://cloud.example", "others"]), st.integers(0, 600), max_size=3),
    st.booleans(),
)  # fmt: skip


@given(st.lists(rows, max_size=12, unique_by=lambda one: (one.title, one.node)), plans())
def test_what_came_is_what_the_night_counted(found: list[NightRow], plan: Plan) -> None:
    report = report_of(*found)
    facts = facts_of(report, said)
    totals = report.totals
    assert facts.came.peer == totals.bytes_peer
    assert facts.came.region + facts.came.other == totals.bytes_regional
    assert facts.came.origin == totals.bytes_origin
    told = build_report(plan, facts).night
    assert told.came.total + told.besides.total == sum(sum(one.tiers) for one in found)


def test_what_a_cache_of_another_region_sent_came_from_there() -> None:
    far = {"b1": 30, "d1": 50, "others": 5, "https://cloud.example": 7}
    facts = facts_of(report_of(row("t0", "a1", tiers=(2, 85, 7), far=far)), said)
    assert facts.titles["t0"]["a1"].came == ByTier(2, 35, 50, 7)


@pytest.mark.parametrize(
    ("more", "of_cache", "why"),
    [
        ({}, {}, "window"),
        ({"ordered_at": 30.0}, {}, "window"),
        ({"waits": {"bytes on their way": 9, "the origin, which cannot be reached from here": 2}}, {}, "window"),
        ({"waits": {"bytes on their way": 1, "the origin, which cannot be reached from here": 2}}, {}, "route"),
        ({"waits": {"the ISP's fill master (cache a2 cannot reach the origin)": 2}}, {}, "route"),
        ({"waits": {"the wait that rule 'x' of the fleet's policy sets before the next hop": 2}}, {}, "route"),
        ({"waits": {"a cache that holds them, since rule 'x' of the fleet's policy forbids the origin": 2}}, {},
         "route"),
        ({"waits": {"budget 'x' of the fleet's policy, which has nothing left for this cache now": 2}}, {}, "rate"),
        ({}, {"budget_used_at": 15.0}, "rate"),
        ({}, {"used_bytes": 90}, "rate"),
        ({}, {"used_bytes": 89}, "window"),
        ({"state": "failed", "error": "its disk is full"}, {"budget_used_at": 15.0}, "health"),
        ({"ended": "its order was withdrawn"}, {}, "order"),
    ],
)  # fmt: skip
def test_why_it_is_not_there(more: dict[str, Any], of_cache: dict[str, Any], why: str) -> None:
    others = [cache(name) for name in NAMES[1:]]
    report = report_of(row("t0", "a1", **more), caches=[cache("a1", **of_cache), *others])
    facts = facts_of(report, said, rates={"a1": 10.0})
    plan = Plan(HEAD, (PlannedFile("t0/hd", "t0", 700, 1.0, ("a1",)),))
    told = build_report(plan, facts).night
    assert [one.why for one in told.not_there] == [why]
    assert (told.planned, told.there, told.finish_at) == (1, 0, 0.0)


def test_reasons_to_wait_are_those_that_fills_give() -> None:
    source = inspect.getsource(waits)
    for begin in (*night_module.ROUTE_WAITS, night_module.FAR_MASTER, night_module.BUDGET_WAIT):
        assert begin in source, begin


HD, SD = PlannedFile("t0/hd", "t0", 700, 1.0, ("a1",)), PlannedFile("t0/sd", "t0", 300, 1.0, (), ("a1",))


@pytest.mark.parametrize(
    ("found", "hd", "sd"),
    [
        # Live before the night, nothing came: the night has no row, and what was to come was not ordered.
        ([], "order", None),
        ([row("t0", "a1", state="live", live_at=12.0, have_bytes=1000, tiers=(700, 0, 0))], None, None),
        # More files are added to what viewers are served.
        ([row("t0", "a1", state="repairing", live_at=2.0, have_bytes=400, tiers=(100, 0, 0))], "window", None),
        # What went live in this night, and is mended.
        ([row("t0", "a1", state="repairing", live_at=12.0, have_bytes=990, tiers=(700, 0, 0))], None, None),
        # The cache has not begun with the order.
        ([row("t0", "a1", state="live", live_at=2.0, have_bytes=300)], "window", None),
        ([row("t0", "a1", state="live", live_at=12.0, have_bytes=300, tiers=(300, 0, 0))], "window", None),
        ([row("t0", "a1", state="live", live_at=12.0, have_bytes=649)], "window", None),
        ([row("t0", "a1", state="live", live_at=12.0, have_bytes=650)], None, None),
        # It had all that was ordered before, though the plan did not know.
        ([row("t0", "a1", state="live", live_at=2.0, have_bytes=999)], None, None),
        ([row("t0", "a1", have_bytes=300)], "window", "window"),
        ([row("t0", "a1", state="failed", error="x", have_bytes=0)], "health", "health"),
    ],
)
def test_which_files_of_a_title_are_there(found: list[NightRow], hd: str | None, sd: str | None) -> None:
    facts = facts_of(report_of(*found), said)
    assert [one.why for one in copies_of(Plan(HEAD, (HD, SD)), facts)] == [hd, sd]


@pytest.mark.parametrize(
    ("files", "why"), [(frozenset({"sd"}), "order"), (frozenset({"hd"}), "window"), (frozenset[str](), "window")]
)
def test_a_title_that_is_whole_without_a_file_lacks_its_order_or_time(files: frozenset[str], why: str) -> None:
    whole = row("t0", "a1", state="live", live_at=12.0, have_bytes=300, tiers=(300, 0, 0))
    facts = facts_of(report_of(whole), said, ordered={"t0": {"a1": files}})
    assert [one.why for one in copies_of(Plan(HEAD, (HD, SD)), facts)] == [why, None]


def test_when_files_were_added_to_a_live_title_is_not_known() -> None:
    added = row("t0", "a1", state="live", live_at=2.0, have_bytes=1000, tiers=(700, 0, 0))
    filled = row("t1", "a1", state="live", live_at=12.0, have_bytes=1000, tiers=(900, 0, 0))
    plan = Plan(HEAD, (HD, PlannedFile("t1/hd", "t1", 900, 1.0, ("a1",))))
    told = build_report(plan, facts_of(report_of(added, filled), said)).night
    assert (told.there, told.finish_at, told.untimed) == (2, 12.0, 1)
    told = build_report(Plan(HEAD, (HD,)), facts_of(report_of(added), said)).night
    assert (told.there, told.finish_at, told.untimed) == (1, 0.0, 1)


def test_a_cache_that_is_down_has_nothing() -> None:
    for caches, silent in (
        ([cache("a1", Span(10.0), phase="open")], ("a1",)),
        ([cache("a1", heard_at=0.0)], ()),
        ([cache("a2")], ()),
    ):
        found = [] if caches[0].node == "a2" else [row("t1", "a1")]
        facts = facts_of(report_of(*found, caches=caches, silent=silent), said)
        copies = list(copies_of(Plan(HEAD, (HD, SD)), facts))
        assert [one.why for one in copies] == ["health", "health"]
        assert all(one.said for one in copies)


def test_of_several_titles_of_a_name_the_one_counts_that_was_ordered_last() -> None:
    old = row("x" * 64, "a1", ended="a newer version was ordered", tiers=(0, 0, 40))
    new = row("t0", "a1", state="live", live_at=12.0, have_bytes=1000, tiers=(700, 0, 0))
    page = NightPage(NightHead("2026-11-30", 1.0, 90.0), [cache("a1")], [new, old])
    facts = facts_of(night_report(page, {"t0": "t0", "x" * 64: "t0"}, set(), set(), is_over=True), said)
    assert [one.why for one in copies_of(Plan(HEAD, (HD,)), facts)] == [None]
    assert facts.titles["t0"]["a1"].came == ByTier(700, 0, 0, 40)


def test_what_is_ordered_and_not_in_the_night_was_live_before() -> None:
    fills = [
        FillRecord("1", FillRequest("id0", "id=a1,id=a2", [], files=("sd",)), 0.0, 1, call_id="plan:2026-11-29:0"),
        FillRecord("2", FillRequest("id0", "id=a1", [], files=("hd",)), 0.0, 2, call_id="plan:2026-12-01:0"),
        FillRecord("3", FillRequest("id1", "id=a1", []), 0.0, 3, call_id="plan:2026-12-01:0"),
        FillRecord("4", FillRequest("id2", "id=a1", []), 0.0, 4, call_id="by-hand"),
    ]
    ordered = ordered_of(fills, {"id0": "t0", "id1": "t1", "id2": "t2"})
    assert ordered == {"t0": {"a1": {"hd", "sd"}, "a2": {"sd"}}, "t1": {"a1": frozenset()}}
    files = tuple(PlannedFile(name, name.partition("/")[0], 1, 1.0, ("a1", "a2")) for name in FILES)
    live = frozenset({("t0", "a1"), ("t0", "a2"), ("t2", "a1")})
    facts = facts_of(report_of(), said, ordered=ordered, live=live, at_tracker=frozenset({"t0", "t1"}))
    copies = {(one.file.file, one.cache): one for one in copies_of(Plan(HEAD, files), facts)}
    assert {key for key, one in copies.items() if one.why is None} == {
        ("t0/hd", "a1"), ("t0/sd", "a1"), ("t0/sd", "a2"),
    }  # fmt: skip
    assert {key for key, one in copies.items() if one.why == "health"} == {("t1/hd", "a1"), ("t1/sd", "a1")}
    assert "not have its title" in copies["t2", "a1"].said
    assert "no order" in copies["t0/hd", "a2"].said


def test_the_finish_is_when_the_last_copy_was_there() -> None:
    both = replace(HD, comes=("a1", "b1"))
    live = {"state": "live", "have_bytes": 1000, "tiers": (700, 0, 0)}
    rows = [row("t0", "a1", live_at=12.0, **live), row("t0", "b1", live_at=17.5, **live)]
    plan = Plan(replace(HEAD, finish_at=11.0, deadline=20.0), (both, SD))
    told = build_report(plan, facts_of(report_of(*rows), said)).night
    assert (told.finish_at, told.bound_at, told.deadline) == (17.5, 11.0, 20.0)
    assert build_report(plan, facts_of(report_of(rows[0]), said)).night.finish_at == 0.0


# ---- the day


def test_forecasts_beside_what_came() -> None:
    expected = {"eu": (4.0, 1.0), "us": (2.0, 0.1)}
    plan = Plan(HEAD, (replace(HD, expected=expected), PlannedFile("t9/x", "t9", 1, 1.0, ("a1",))))
    day = day_number(DAY)
    views = made_views({(day, 0, 0): 700 * 5, (day, 1, 0): 700 * 3, (day - 1, 0, 0): 7})
    told = build_report(plan, facts_of(report_of(), said), Day(views, made_catalogue([0, 0, 0]), CACHES)).viewing
    assert told is not None
    assert [(one.file, one.region, one.expected, one.spread, one.came) for one in told.files] == [
        ("t0/hd", "eu", 4.0, 1.0, 5.0), ("t0/hd", "us", 2.0, 0.1, 3.0),
    ]  # fmt: skip
    assert (told.banded, told.in_band) == (2, 1), f"within {BAND} standard deviations"
    assert [(one.region, one.expected_bytes, one.demand_bytes) for one in told.regions] == [
        ("eu", 2800.0, 3500), ("us", 1400.0, 2100),
    ]  # fmt: skip
    assert (told.unknown_files, told.unknown_file) == (1, "t9/x")


def test_a_cluster_without_a_margin_has_the_least_that_a_copy_there_was_expected_to_serve() -> None:
    expected = {"eu": (6.0, 1.0)}
    files = (replace(HD, comes=("a1", "a2"), expected=expected), replace(SD, expected={"eu": (4.0, 1.0)}))
    facts = facts_of(report_of(), said)
    views = made_views({(day_number(DAY), 0, 0): 1})
    plan = Plan(HEAD, files)
    told = day_report(plan, facts, copies_of(plan, facts), Day(views, made_catalogue([0, 0, 0]), CACHES))
    # Half of the viewers of the region, whose other cluster serves as much; and two copies of the first file.
    assert told.clusters[0].margin == pytest.approx(1.5)
    assert told.clusters[0].carries_bytes == pytest.approx(3.0 * 3600 * 12)


def test_what_cannot_be_a_day_is_refused() -> None:
    assert day_number("1970-01-02") == 1
    with pytest.raises(ConfigError, match="no date"):
        day_number("tomorrow")
    assert (plan_name("t", "t"), plan_name("t", "t/hd"), plan_name("t", "hd")) == ("t", "t/hd", "t/hd")


def classes(plan: Plan, night: NightFacts, file: int, count: int) -> dict[str, int]:
    """Return what became of some bytes of one file in a region with one cluster."""
    views = made_views({(day_number(DAY), 1, file): count})
    told = build_report(plan, night, Day(views, made_catalogue([0, 0, 0]), CACHES)).viewing
    assert told is not None
    return {str(name): amount for name, amount in told.clusters[3].parts.items()}


@pytest.mark.parametrize(
    ("expected", "watched", "name"),
    [(2.0, 1401, "too low"), (2.0, 1400, "no space"), (2.1, 1401, "no space"), (0.0, 1401, "too low")],
)
def test_between_what_was_expected_and_what_came_lies_the_margin(expected: float, watched: int, name: str) -> None:
    clusters = {name: PlannedCluster(1.0, 2.0) for name in CACHES.clusters}
    plan = Plan(replace(HEAD, clusters=clusters), (replace(HD, comes=(), expected={"us": (expected, 1.0)}),))
    assert classes(plan, facts_of(report_of(), said), 0, watched) == {name: watched}


def test_of_caches_that_lack_a_file_the_one_counts_that_had_most_of_it() -> None:
    found = [
        row("t0", "c1", have_bytes=10, waits={"the wait that rule 'x'": 3}),
        row("t0", "c2", have_bytes=400, state="failed"),
    ]
    plan = Plan(HEAD, (replace(HD, comes=("c1", "c2")),))
    views = made_views({(day_number(DAY), 0, 0): 4000})
    for rows, name in ((found, "health"), ([replace(found[0], have_bytes=401), found[1]], "route")):
        told = build_report(plan, facts_of(report_of(*rows), said), Day(views, made_catalogue([0] * 3), CACHES)).viewing
        assert told is not None
        assert told.clusters[2].parts.keys() == {name}


@pytest.mark.parametrize(("have", "name"), [(1000, "besides"), (999, "no space")])
def test_a_whole_title_of_another_order_is_a_hit_besides(have: int, name: str) -> None:
    plan = Plan(replace(HEAD, clusters={one: PlannedCluster(1.0, 9.0) for one in CACHES.clusters}), ())
    night = facts_of(report_of(row("t0", "d1", state="live", live_at=12.0, have_bytes=have, tiers=(9, 0, 0))), said)
    assert classes(plan, night, 0, 700) == {name: 700}
