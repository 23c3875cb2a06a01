"""How much of each cache a plan writes over: by what would be fetched, and not by what the plan says of itself."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import DiskReport, TitleReport
from p2pfill.plan.document import Plan, PlanHead, PlannedFile, by_cache
from p2pfill.plan.making import placement_of
from p2pfill.plan.orders import named_by, orders_of
from p2pfill.plan.rewriting import (
    SIZES_AGREE,
    brought_before,
    check_rewriting,
    together,
    written_by,
    written_tonight,
)  # fmt: skip
from p2pfill.plan.tables import Caches, Catalogue
from p2pfill.tracker.records import FillRecord, NodeStatus, TitleRecord

NAMES = ("a1", "a2", "b1")
CAPACITY = 100
HEAD = PlanHead(
    1, "2026-12-01", 1.0, ("2026-11-01", "2026-11-30"), 3, 4, 10.0, 9.0, 9.5, 5, 4, 0.9, dict.fromkeys(NAMES, CAPACITY)
)  # fmt: skip
TITLES = [TitleRecord(f"{number:064x}", f"t{number}", 5 + 7 * number, 1, 1, 1, float(number)) for number in range(5)]


def fleet(capacity: int = CAPACITY, names: tuple[str, ...] = NAMES) -> Caches:
    count = len(names)
    return Caches(
        names, ("c",), ("i",), ("r",), np.zeros(count, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32),
        np.full(count, capacity, np.int64), np.ones(count), np.ones(count),
    )  # fmt: skip


def node(name: str, have: dict[str, int], disk: int = 0) -> NodeStatus:
    reports = [TitleReport(title, "live", have_bytes=size, title_bytes=size) for title, size in have.items()]
    return NodeStatus(
        NodeInfo(NodeId(name), "i", "r"), True, 0.0, 0.0, 1, reports, 0, 0, 0, disk=DiskReport(size_bytes=disk)
    )


def begun(name: str, comes: dict[str, int], have: dict[str, int]) -> NodeStatus:
    """A cache that has some titles, and a part of others that are filled."""
    status = node(name, have)
    status.titles += [TitleReport(title, "filling", have_bytes=size, title_bytes=99) for title, size in comes.items()]
    return status


def plan_of(*files: PlannedFile, brought: dict[str, int] | None = None) -> Plan:
    return Plan(msgspec.structs.replace(HEAD, brought=brought or {}), tuple(sorted(files, key=lambda one: one.file)))


@st.composite
def nights(draw: st.DrawFn) -> tuple[Plan, list[NodeStatus]]:
    """A plan of whole titles whose sizes it may have wrong, and what lies there, whatever the plan says of that."""
    files = []
    for record in TITLES[:4]:
        kinds: dict[str, list[str]] = {"comes": [], "stays": [], "goes": [], "": []}
        for name in NAMES:
            kinds[draw(st.sampled_from(sorted(kinds)))].append(name)
        size = draw(st.sampled_from([record.size, 1]))
        comes, stays, goes = (tuple(kinds[one]) for one in ("comes", "stays", "goes"))
        files.append(PlannedFile(record.name, record.name, size, 1.0, comes, stays, goes))
    holds = [
        node(name, {TITLES[one].title: TITLES[one].size for one in draw(st.sets(st.integers(0, 4)))})
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    ]
    return plan_of(*files), holds


@given(nights(), st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0]))
def test_no_more_than_the_share_is_fetched_into_a_cache_that_has_something_to_lose(
    night: tuple[Plan, list[NodeStatus]], share: float
) -> None:
    plan, nodes = night
    try:
        check_rewriting(written_by(plan, fleet(), TITLES, nodes), share)
    except ConfigError:
        return
    size = {one.title: one.size for one in TITLES}
    for status in nodes:
        have = {one.title for one in status.titles}
        orders = [
            one for one in orders_of(plan, TITLES, [], [], 9.0).post
            if status.info.id in named_by(FillRecord("f", one, 0.0))
        ]  # fmt: skip
        fetched = sum(size[one.title] for one in orders if one.title not in have)
        if have - {one.title for one in orders}:
            lies = sum(one.have_bytes for one in status.titles)
            assert fetched * SIZES_AGREE <= max(share * CAPACITY, CAPACITY - lies), "what finds room is no loss"


def test_what_a_plan_brings_by_its_own_word() -> None:
    plan = plan_of(
        PlannedFile("t0", "t0", 5, 1.0, ("a1", "a2")), PlannedFile("t1/x", "t1", 8, 1.0, ("b1",), ("a1",)),
    )  # fmt: skip
    assert by_cache(plan.files) == {"a1": (5, 8, 0), "a2": (5, 0, 0), "b1": (8, 0, 0)}
    found = written_by(plan, fleet(10), TITLES, [node("a1", {TITLES[1].title: 8})])
    assert [(name, one.comes, one.share) for name, one in found.items()] == [
        ("a1", 5, 0.5), ("a2", 5, 0.0), ("b1", 8, 0.0),
    ]  # fmt: skip
    check_rewriting(found, 0.5)
    with pytest.raises(ConfigError, match=r"more than 0\.4 of 1 of 3 caches, up to 0\.5 of 'a1'"):
        check_rewriting(found, 0.4)
    found = written_by(plan, fleet(13), TITLES, [node("a1", {TITLES[1].title: 8})])
    assert found["a1"].share == 0, "there is room for it"


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([], ""),
        ([node("a1", {TITLES[0].title: 3})], ""),  # a part of what comes, after a crash
        ([node("a1", {TITLES[4].title: 33})], "writes over"),  # made as if nothing lay there
        ([node("a1", {"f" * 64: 31})], "writes over"),
        ([node("a1", {"f" * 64: 30})], ""),  # there is room for it
        ([begun("a1", {"f" * 64: 40}, {TITLES[0].title: 3})], ""),  # viewers see nothing of it yet
        ([begun("a1", {"f" * 64: 40}, {TITLES[4].title: 33})], "writes over"),  # but of something else
        ([begun("a1", {TITLES[0].title: 40}, {"f" * 64: 30})], ""),  # what comes is there in part, and has room
    ],
)
def test_a_cache_is_empty_only_where_the_tracker_says_so_too(nodes: list[NodeStatus], why: str) -> None:
    plan = plan_of(PlannedFile("t0", "t0", 70, 1.0, ("a1",)))
    found = written_by(plan, fleet(), TITLES, nodes)
    if why:
        with pytest.raises(ConfigError, match=why):
            check_rewriting(found, 0.1)
    else:
        check_rewriting(found, 0.1)


def test_what_is_to_stay_and_is_gone_comes() -> None:
    plan = plan_of(PlannedFile("t2/a", "t2", 9, 1.0, (), ("a1",)), PlannedFile("t2/b", "t2", 10, 1.0, (), ("a1",)))
    assert written_by(plan, fleet(), TITLES, [node("a1", {TITLES[2].title: 19})])["a1"].comes == 0
    assert written_by(plan, fleet(), TITLES, [node("a1", {TITLES[2].title: 9})])["a1"].comes == 10
    assert written_by(plan, fleet(), TITLES, [])["a1"].comes == 19
    newer = TitleRecord("e" * 64, "t2", 19, 1, 1, 2, 99.0)
    assert written_by(plan, fleet(), [*TITLES, newer], [node("a1", {TITLES[2].title: 19})])["a1"].comes == 19
    assert written_by(plan, fleet(), TITLES, [], [TITLES[2].title])["a1"].comes == 0, "it is not ordered"


def test_a_cache_is_as_large_as_its_table_and_its_disk_say_and_not_as_its_plan_does() -> None:
    head = msgspec.structs.replace(HEAD, capacities={"a1": 10**9})
    plan = Plan(head, (PlannedFile("t0", "t0", 5, 1.0, ("a1",), (), ()),))
    nodes = [node("a1", {TITLES[4].title: 97})]
    assert written_by(plan, fleet(), TITLES, nodes)["a1"].share == 0.05
    assert written_by(plan, fleet(), TITLES, [node("a1", {TITLES[4].title: 97}, disk=20)])["a1"].share == 0.25
    with pytest.raises(ConfigError, match="writes over"):
        check_rewriting(written_by(plan, fleet(0), TITLES, nodes), 1.0)
    with pytest.raises(ConfigError, match="cache 'a1', which the table does not have"):
        written_by(plan, fleet(names=("b1",)), TITLES, nodes)


def test_plans_of_one_night_have_one_share_together() -> None:
    first = plan_of(PlannedFile("t0", "t0", 8, 1.0, ("a1",)), PlannedFile("t1", "t1", 90, 1.0, (), (), ("a1",)))
    lies = [node("a1", {TITLES[0].title: 8, TITLES[4].title: 90})]
    assert written_by(first, fleet(), TITLES, [node("a1", {TITLES[4].title: 97})])["a1"].share == 0.08
    # What the first has brought stays by the second, which brings something else.
    second = plan_of(PlannedFile("t0", "t0", 8, 1.0, (), ("a1",)), PlannedFile("t2", "t2", 19, 1.0, ("a1",)))
    alone = written_by(second, fleet(), TITLES, lies)["a1"]
    both = written_by(second, fleet(), TITLES, lies, brought=brought_before(second, first))["a1"]
    assert (alone.comes, alone.share) == (19, 0.19)
    assert (both.comes, both.share) == (27, 0.27)
    applied = together(second, first)
    assert [(one.file, one.comes, one.stays) for one in applied.files] == [("t0", ("a1",), ()), ("t2", ("a1",), ())]
    assert applied.head.comes_bytes == 27
    # A third that gives up what the second brought does not make it unwritten.
    third = plan_of(PlannedFile("t0", "t0", 8, 1.0, (), ("a1",)), PlannedFile("t3", "t3", 26, 1.0, ("a1",)))
    assert brought_before(third, applied) == {"a1": 27}
    last = together(third, applied)
    assert last.head.brought == {"a1": 19}
    assert brought_before(third, last) == {"a1": 27}, "applying it again changes nothing"
    assert together(third, last) == last


def test_a_plan_that_brings_nothing_more_may_be_applied_once_more_where_a_little_too_much_lies() -> None:
    first = plan_of(PlannedFile("t0/a", "t0", 98, 1.0, ("a1",)))
    again = plan_of(PlannedFile("t0/a", "t0", 98, 1.0, (), ("a1",)), PlannedFile("t0/b", "t0", 4, 1.0, (), (), ("a1",)))
    lies = [node("a1", {TITLES[0].title: 102})]
    check_rewriting(written_by(again, fleet(), TITLES, lies, brought=brought_before(again, first)), 0.1)
    more = plan_of(*again.files, PlannedFile("t1", "t1", 12, 1.0, ("a1",)))
    with pytest.raises(ConfigError, match="writes over"):
        check_rewriting(written_by(more, fleet(), TITLES, lies, brought=brought_before(more, first)), 1.0)


def test_what_was_written_tonight_is_what_has_come() -> None:
    before = plan_of(
        PlannedFile("t0", "t0", 8, 1.0, ("a1", "a2")), PlannedFile("t9", "t9", 8, 1.0, ("a1",)), brought={"a2": 3}
    )
    catalogue = Catalogue(
        ("t0",), ("",), ("",), np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1), ("t0",),
        np.zeros(1, np.int32), np.zeros(1, np.int32), np.array([8]),
    )  # fmt: skip
    caches = fleet()
    held = placement_of([[0] if name == "a1" else [] for name in caches.names])
    found = dict(zip(caches.names, written_tonight(before, held, catalogue, caches).tolist(), strict=True))
    assert found["a1"] == 8
    assert found["a2"] == 3, "it has not come there, and what plans before that one brought counts"
