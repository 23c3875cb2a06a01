"""Plans as files, what differs between two, and what they ask of the tracker."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.selection import PATTERNS_MAX, WILDCARDS_MAX, check_patterns, select
from p2pfill.model.selector import Selector
from p2pfill.plan.document import Plan, PlanHead, PlannedFile, compare, read_plan, write_plan
from p2pfill.plan.holding import files_meant
from p2pfill.plan.orders import CALL, orders_of
from p2pfill.plan.report.night import ordered_of
from p2pfill.store.publish import publish
from p2pfill.tracker.records import FillRecord, FillRequest, TitleRecord

HEAD = PlanHead(
    1, "2026-12-01", 1.0, ("2026-11-01", "2026-11-30"), 3, 4, 10.0, 9.0, 9.5, 5, 4, 0.9,
    dict.fromkeys(("a1", "a2", "b1", "b2"), 100),
)  # fmt: skip
TITLES = [TitleRecord(f"{number:064x}", f"t{number}", 10, 1, 10, 2, float(number)) for number in range(4)]
ORIGINS = ["https://cloud.example/{title}/"]

caches = st.sampled_from(["a1", "a2", "b1", "b2"])


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    files = []
    for title in range(draw(st.integers(0, 5))):
        for path in draw(st.lists(st.sampled_from(["", "hd.mp4", "sd.mp4"]), unique=True, max_size=3)):
            names = sorted(draw(st.sets(caches)))
            parts = [draw(st.sampled_from("csg")) for _ in names]
            kinds = {part: tuple(name for name, its in zip(names, parts, strict=True) if its == part) for part in "csg"}
            name = f"t{title}/{path}".rstrip("/")
            files.append(
                PlannedFile(name, f"t{title}", 7, 1.5, kinds["c"], kinds["s"], kinds["g"], draw(st.integers(1, 10)))
            )
    return Plan(HEAD, tuple(sorted(files, key=lambda one: one.file)))


def as_fills(requests: list[FillRequest]) -> list[FillRecord]:
    """What the tracker makes of orders."""
    return [
        FillRecord(f"f{place}", msgspec.structs.replace(one, call_id=""), 0.0, place + 1, call_id=one.call_id)
        for place, one in enumerate(requests)
    ]


def held_by(fills: list[FillRecord] | list[FillRequest]) -> dict[str, set[tuple[str, tuple[str, ...]]]]:
    found: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for fill in fills:
        request = fill.request if isinstance(fill, FillRecord) else fill
        for (term,) in Selector.parse(request.selector).clauses:
            found.setdefault(term.pattern, set()).add((request.title, request.files))
    return found


@given(plans())
def test_a_plan_is_the_same_after_it_was_written(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> None:
    path = tmp_path_factory.mktemp("plan") / "tonight.plan"
    write_plan(path, plan)
    assert read_plan(path) == plan
    assert len(path.read_bytes().splitlines()) == 1 + len(plan.files)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [], "line 1"), (lambda lines: lines[1:], "line 1"), (lambda lines: [*lines, b"{"], "line 4"),
        (lambda lines: [lines[0], lines[2], lines[1]], "not in order"),
        (lambda lines: [*lines, lines[-1]], "twice"),
        (lambda lines: [lines[0].replace(b'"plan":1', b'"plan":2'), *lines[1:]], "version 2"),
        (lambda lines: [lines[0], lines[1].replace(b'"title":"t0"', b'"title":"t"')], "none of title"),
        (lambda lines: [lines[0], b'{"file":"' + b"x" * (5 << 20) + b'"}'], "more than any plan"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_with_its_line(tmp_path: Path, change: object, says: str) -> None:
    path = tmp_path / "plan"
    write_plan(path, Plan(HEAD, (PlannedFile("t0", "t0", 1, 1.0), PlannedFile("t1", "t1", 1, 1.0))))
    assert callable(change)
    path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())))
    with pytest.raises(ConfigError, match=says):
        read_plan(path)
    with pytest.raises(StoreError, match="cannot read"):
        read_plan(tmp_path / "none")
    with pytest.raises(StoreError, match="cannot write"):
        write_plan(tmp_path / "none" / "plan", Plan(HEAD, ()))


@given(plans(), plans())
def test_what_differs_makes_the_other_plan_of_one(one: Plan, other: Plan) -> None:
    held = {file.file: set(file.holders) for file in one.files if file.holders}
    for change in compare(one, other):
        assert change.added or change.removed
        mine = held.setdefault(change.file, set())
        assert not mine & set(change.added)
        assert mine >= set(change.removed)
        held[change.file] = (mine | set(change.added)) - set(change.removed)
    assert {name: names for name, names in held.items() if names} == {
        file.file: set(file.holders) for file in other.files if file.holders
    }
    assert list(compare(one, one)) == []


@given(plans())
def test_orders_have_each_cache_hold_what_the_plan_says_and_nothing_else(plan: Plan) -> None:
    orders = orders_of(plan, TITLES, [], ORIGINS, 99.0)
    wanted: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for title in TITLES:
        for cache in ("a1", "a2", "b1", "b2"):
            paths = {one.path for one in plan.files if one.title == title.name and cache in one.holders}
            if paths:
                wanted.setdefault(cache, set()).add((title.title, () if "" in paths else tuple(sorted(paths))))
    assert held_by(orders.post) == wanted
    assert all(one.call_id.startswith(CALL) for one in orders.post)
    assert all(origin == f"https://cloud.example/{name}/" for one in orders.post for origin in one.origins
               for name in [next(title.name for title in TITLES if title.title == one.title)])  # fmt: skip
    known = {title.name for title in TITLES}
    assert sum(orders.unknown.values()) == sum(one.title not in known for one in plan.files if one.holders)


@given(plans(), plans())
def test_a_plan_replaces_the_one_before_and_leaves_the_orders_of_others(before: Plan, after: Plan) -> None:
    other = FillRecord("x", FillRequest(TITLES[0].title, "id=a1", []), 0.0, 99, call_id="by-hand")
    stands = [*as_fills(orders_of(before, TITLES, [], ORIGINS, 50.0).post), other]
    orders = orders_of(after, TITLES, stands, ORIGINS, 99.0)
    gone = {fill.fill_id for fill in orders.delete}
    assert "x" not in gone
    left = [fill for fill in stands if fill.fill_id not in gone and fill is not other]
    assert orders.keep == len(left)
    assert held_by([*as_fills(orders.post), *left]) == held_by(orders_of(after, TITLES, [], ORIGINS, 99.0).post)
    again = orders_of(after, TITLES, [*left, *as_fills(orders.post)], ORIGINS, 99.0)
    assert not again.post
    assert not again.delete


def test_orders_mean_the_files_of_the_plan_whatever_signs_of_patterns_are_in_their_names(tmp_path: Path) -> None:
    planned = {f"e{number:02} [hd].mp4" for number in range(WILDCARDS_MAX + 9)} | {"what?.mp4", "*.mp4", "plain.mp4"}
    for name in planned | {"e01 h.mp4", "whats.mp4"}:
        (tmp_path / name).write_bytes(b"x")
    files = publish(tmp_path, name="t0").manifest.files
    plan = Plan(HEAD, tuple(PlannedFile(f"t0/{name}", "t0", 1, 1.0, comes=("a1",)) for name in sorted(planned)))
    orders = orders_of(plan, TITLES, [], ORIGINS, 99.0)
    chosen = [select(files, one.files) for one in orders.post]
    paths = [path for path, *_ in files.records()]
    meant = [paths[place] for one in chosen if one is not None for place in range(len(paths)) if place in one]
    assert sorted(meant) == sorted(planned), "each once, and no other"
    numbers = {path: number for number, path in enumerate(paths)}
    found = set().union(*(files_meant(numbers, one.files) for one in orders.post))
    assert {paths[number] for number in found} == planned
    names = {title.title: title.name for title in TITLES}
    assert ordered_of(as_fills(orders.post), names) == {"t0": {"a1": planned}}, "as the report sees it"
    again = orders_of(plan, TITLES, as_fills(orders.post), ORIGINS, 99.0)
    assert (again.keep, again.post, again.delete) == (len(orders.post), [], [])


def test_an_order_names_as_many_files_as_it_may() -> None:
    names = [f"{number:05}" for number in range(PATTERNS_MAX + 5)]
    plan = Plan(HEAD, tuple(PlannedFile(f"t0/{name}", "t0", 1, 1.0, comes=("a1",)) for name in names))
    orders = orders_of(plan, TITLES, [], ORIGINS, 99.0)
    assert sorted(path for one in orders.post for path in one.files) == names
    for one in orders.post:
        check_patterns(one.files)
    assert len({one.call_id for one in orders.post}) == len(orders.post)


def test_a_selector_names_as_many_caches_as_fit() -> None:
    names = tuple(f"cache-number-{number:05}" for number in range(3000))
    plan = Plan(HEAD, (PlannedFile("t0", "t0", 7, 1.0, comes=names),))
    orders = orders_of(plan, TITLES, [], [], None)
    assert len(orders.post) > 1
    assert sorted(held_by(orders.post)) == list(names)
