"""Orders of plans that are edited by hand, of names as foreign people choose them, beside orders of others."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.files import Files
from p2pfill.model.manifest import layout
from p2pfill.model.selection import PATTERNS_MAX, WILDCARDS_MAX, check_patterns, select
from p2pfill.origin.urls import check_origin
from p2pfill.plan.document import Plan, PlanHead, PlannedFile
from p2pfill.plan.holding import files_meant
from p2pfill.plan.orders import named_by, orders_of, origin_of, path_of, pattern_of
from p2pfill.tracker.records import FillRecord, FillRequest, TitleRecord

HEAD = PlanHead(
    1, "2026-12-01", 1.0, ("2026-11-01", "2026-11-30"), 2, 4, 10.0, 9.0, 9.5, 5, 4, 0.9, {"a1": 100, "a2": 100}
)  # fmt: skip
TITLES = [TitleRecord(f"{number:064x}", f"t{number}", 10, 1, 10, 2, float(number)) for number in range(3)]

signs = st.text("ab*?[]!-.", min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))
paths = st.lists(signs, min_size=1, max_size=8, unique=True)


def record(name: str, request: FillRequest, call_id: str = "") -> FillRecord:
    return FillRecord(name, msgspec.structs.replace(request, call_id=""), 0.0, 1, call_id=call_id or request.call_id)


def plan_of(*files: PlannedFile) -> Plan:
    return Plan(HEAD, tuple(sorted(files, key=lambda one: one.file)))


def files_of(names: list[str]) -> Files:
    return layout([(name, 1) for name in sorted(names)])


@given(paths, st.data())
def test_a_file_is_ordered_alone_whatever_signs_its_path_has(names: list[str], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(names))
    found = select(files_of(names), [pattern_of(path, names)])
    meant = set(range(len(names))) if found is None else set(found.indexes())
    assert [files_of(names).path(one) for one in meant] == [path]
    assert path_of(pattern_of(path, names)) == path


@given(paths, st.lists(st.sampled_from(["a", "*", "a*", "[ab]*", "b/", "*/", "?"]), max_size=3))
def test_what_an_order_means_is_what_the_tracker_takes_it_for(names: list[str], patterns: list[str]) -> None:
    names = [*names, *(f"b/{name}" for name in names if "b" not in names)]
    files = files_of(names)
    numbers = {files.path(place): place for place in range(len(names))}
    meant = files_meant(numbers, patterns)
    if patterns and all(files_meant(numbers, [one]) for one in patterns):
        found = select(files, patterns)
        assert meant == (set(range(len(names))) if found is None else set(found.indexes()))
    elif not patterns:
        assert meant == set(numbers.values())


def test_many_files_are_ordered_in_as_many_orders_as_it_takes() -> None:
    names = [f"part [{number:05}].mkv" for number in range(WILDCARDS_MAX * 2 + 1)]
    plain = [f"part-{number:05}.mkv" for number in range(PATTERNS_MAX + 1)]
    plan = plan_of(*(PlannedFile(f"t0/{name}", "t0", 1, 1.0, ("a1",)) for name in [*names, *plain]))
    orders = orders_of(plan, TITLES, [], [], 9.0)
    for one in orders.post:
        check_patterns(one.files)
    assert sorted(path_of(pattern) for one in orders.post for pattern in one.files) == sorted([*names, *plain])
    again = orders_of(plan, TITLES, [record(f"f{n}", one) for n, one in enumerate(orders.post)], [], 9.0)
    assert (again.post, again.delete, again.keep) == ([], [], len(orders.post))


@pytest.mark.parametrize("name", ["a*", "*", "a1,all", "a1+isp=x", "a 1", "", "a1\n", "é", "x" * 65, "../a"])
@pytest.mark.parametrize("field", ["comes", "stays"])
def test_a_cache_that_is_a_pattern_for_others_is_not_ordered_for(name: str, field: str) -> None:
    plan = plan_of(msgspec.structs.replace(PlannedFile("t0", "t0", 1, 1.0), **{field: (name,)}))
    with pytest.raises(ConfigError, match="is not a node id"):
        orders_of(plan, TITLES, [], [], None)


@pytest.mark.parametrize(
    ("call_id", "selector"),
    [
        ("plan:", "id=a1"), ("plan:by-jim", "id=a1"), ("plan:2026-12-01", "id=a1"), ("plan:2026-12-01:x", "id=a1"),
        ("plan:2026-12-01:0", "all"), ("plan:2026-12-01:0", "id=a*"), ("plan:2026-12-01:0", "isp=x"),
        ("plan:2026-12-01:0", "id=a1+isp=x"), ("plan:2026-12-01:0", "id=b1"), ("plan:2026-12-01:0", "id=b1,id=b2"),
    ],
)  # fmt: skip
def test_orders_that_only_look_like_the_planners_or_are_another_planners_stand(call_id: str, selector: str) -> None:
    stands = record("x", FillRequest(TITLES[0].title, selector, []), call_id)
    orders = orders_of(plan_of(PlannedFile("t1", "t1", 1, 1.0, ("a1",))), TITLES, [stands], [], 9.0)
    assert orders.delete == []


def test_an_order_of_a_cache_that_the_plan_knows_ends_also_where_it_names_others() -> None:
    stands = record("x", FillRequest(TITLES[0].title, "id=a2,id=gone", []), "plan:2026-11-30:0")
    orders = orders_of(plan_of(PlannedFile("t0", "t0", 1, 1.0, stays=("a2",))), TITLES, [stands], [], 9.0)
    assert [one.fill_id for one in orders.delete] == ["x"]
    assert [named_by(record("y", one)) for one in orders.post] == [["a2"]]


def test_what_another_has_ordered_alike_stays_that_ones() -> None:
    plan = plan_of(PlannedFile("t0", "t0", 1, 1.0, ("a1",), priority=3))
    (asked,) = orders_of(plan, TITLES, [], [], 9.0).post
    theirs = record("x", asked, "by-hand")
    orders = orders_of(plan, TITLES, [theirs], [], 9.0)
    assert (orders.post, orders.delete, orders.keep) == ([], [], 1)
    differs = record("x", msgspec.structs.replace(asked, priority=0), "by-hand")
    orders = orders_of(plan, TITLES, [differs], [], 9.0)
    assert (orders.post, orders.delete, orders.keep) == ([asked], [], 0)


def test_what_was_withdrawn_is_not_ordered_again() -> None:
    plan = plan_of(
        PlannedFile("t0", "t0", 1, 1.0, ("a1",)), PlannedFile("t1", "t1", 1, 1.0, (), ("a1",)),
        PlannedFile("t9", "t9", 1, 1.0, ("a1",)),
    )  # fmt: skip
    orders = orders_of(plan, TITLES, [], [], 9.0, withdrawn=[TITLES[1].title])
    assert [one.title for one in orders.post] == [TITLES[0].title]
    assert (orders.withdrawn, orders.unknown) == ({"t1": 1}, {"t9": 1})


@given(st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text and text not in (".", "..")))
def test_a_titles_name_is_one_part_of_an_origins_path(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    found = origin_of("https://cloud.example/films/{title}/", name)
    assert check_origin(found).startswith("https://cloud.example/films/")
    assert found.count("/") == 5
    assert "?" not in found
    assert "{" not in found


def test_names_that_would_be_more_than_a_part_of_a_path_are_encoded_or_refused() -> None:
    assert origin_of("https://c.example/{title}/{path}?k=v", "{path}") == "https://c.example/%7Bpath%7D/{path}?k=v"
    assert origin_of("https://c.example/{title}", "a?b#c%20 d") == "https://c.example/a%3Fb%23c%2520%20d"
    assert origin_of("file:///srv/{title}", "a b#c") == "file:///srv/a%20b%23c"
    assert origin_of("/srv/{title}", "a b#c") == "/srv/a b#c"
    assert origin_of("s3://bucket/{title}", "a b") == "s3://bucket/a b"
    assert origin_of("s3://bucket/all?region=eu", "a?b") == "s3://bucket/all?region=eu"
    with pytest.raises(ConfigError, match="question mark"):
        origin_of("s3://bucket/{title}", "a?endpoint=http:")
