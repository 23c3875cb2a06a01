"""Recorded nights as scenarios: what is rebuilt, what another policy changes, and records that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.ids import NodeId
from p2pfill.model.limits import MIB
from p2pfill.model.night import Busy, RecordedCache, RecordedFill, RecordedNight, RecordedTitle, Span
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy, Reach
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.sim import rebuild as rebuild_module
from p2pfill.sim.rebuild import CACHES_MAX, CELLS_MAX, Figures, NotRebuilt, rebuild, recorded, run, usable

NOON = 1795953600.0
"""2026-11-29T12:00:00 in UTC."""
HOUR = 3600.0
SIZE = 16 * MIB
OWN = '[[fills]]\nname = "own"\nhops = ["isp", "origin"]\n'


def cache(name: str, **more: Any) -> RecordedCache:
    more = {"fastest_in": 20_000_000} | more
    return RecordedCache(NodeInfo(NodeId(name), f"isp-{name[0]}", "eu"), **more)


def fill(node: str, title: str = "a" * 64, **more: Any) -> RecordedFill:
    return RecordedFill(title, node, **({"ordered_at": NOON + HOUR, "wanted": SIZE, "live_at": NOON + 2 * HOUR} | more))


def night(**more: Any) -> RecordedNight:
    names = ("a1", "a2", "b1", "b2")
    facts: dict[str, Any] = {
        "caches": [cache(name) for name in names],
        "titles": [RecordedTitle("a" * 64, "film", SIZE, 256 * 1024)],
        "fills": [fill(name) for name in names],
    }
    facts |= {"night": "2026-11-29", "began_at": NOON, "last_at": NOON + 20 * HOUR, "is_over": True}
    return RecordedNight(**(facts | more))


def forecast(made: RecordedNight, policy: str = "", stood: str = "", seed: int = 1) -> Figures:
    made, _ = usable(made)
    return run(made, rebuild(made, stood, policy), seed)


def test_one_copy_comes_into_each_isp_and_two_from_the_origin_where_the_other_is_not_to_be_asked() -> None:
    assert forecast(night()).tiers == (2 * SIZE, SIZE, SIZE)
    figures = forecast(night(), OWN)
    assert figures.tiers == (2 * SIZE, 0, 2 * SIZE)
    assert NOON + HOUR < figures.titles[0].live_at < NOON + HOUR + 60


@pytest.mark.parametrize(("is_over", "live_at", "live"), [(False, 1.0, 4), (False, 0.0, 0), (True, 1.0, 0)])
def test_a_night_that_goes_on_is_not_cut_off_where_all_is_live(is_over: bool, live_at: float, live: int) -> None:
    """The policy has it come later than the tracker was asked; what was lacking then is compared as of then."""
    fills = [fill(name, live_at=live_at) for name in ("a1", "a2", "b1", "b2")]
    made = night(fills=fills, last_at=NOON + HOUR + 5, is_over=is_over)
    late = '[[fills]]\nname = "late"\nwaits = {origin = "20s"}\n'
    assert forecast(made, late).titles[0].live == live


def test_what_a_policy_forbids_is_lacking_with_its_reason() -> None:
    figures = forecast(night(), '[[fills]]\nname = "never"\nselector = "isp=isp-b"\nhops = ["isp"]\n')
    (title,) = figures.titles
    assert (title.live, title.caches, title.live_at) == (2, 4, 0.0)
    (lacking,) = figures.lacking
    assert lacking.caches == ["b1", "b2"]
    assert "'never'" in lacking.reason


def test_what_residency_forbids_is_no_order() -> None:
    figures = forecast(night(), '[[residency]]\nname = "licence"\nregions = ["us"]\n')
    assert (figures.tiers, figures.barred, figures.titles[0].caches) == ((0, 0, 0), 4, 0)


def test_who_held_it_is_a_source_and_what_was_there_does_not_come_again() -> None:
    held = [RecordedTitle("a" * 64, "film", SIZE, 256 * 1024, {"c1": SIZE})]
    fills = [fill("a1"), fill("a2", had=SIZE // 2), fill("b1", wanted=SIZE // 4)]
    caches = [cache(name) for name in ("a1", "a2", "b1", "c1", "d1")]
    figures = forecast(night(titles=held, fills=fills, caches=caches))
    assert sum(figures.tiers) == SIZE + SIZE // 2 + SIZE // 4
    assert figures.tiers[2] == 0, "c1 has all of it"
    assert figures.titles[0].live == 3


def test_windows_are_those_of_the_night_unless_the_policies_differ_about_them() -> None:
    opened = [Span(NOON + 14 * HOUR, NOON + 18 * HOUR)]
    made = night(caches=[cache(name, has_windows=True, windows=opened) for name in ("a1", "a2", "b1", "b2")])
    late = '[[caches]]\nname = "late"\nselector = "isp=isp-b"\nwindows = "06:00,max 07:00,off"\n'
    assert NOON + 14 * HOUR < forecast(made).titles[0].live_at < NOON + 14 * HOUR + 60
    figures = forecast(made, late)
    assert NOON + 18 * HOUR < figures.titles[0].live_at < NOON + 18 * HOUR + 60
    assert figures.tiers == (2 * SIZE, SIZE, SIZE)
    same = forecast(made, late, late)
    assert same.titles[0].live_at < NOON + 14 * HOUR + 60, "the policy that stood is no news: they open as they did"
    assert any("windows of their own" in note for note in rebuild(made, late, "").notes)


def test_limits_of_the_policy_that_stood_go_with_it_and_others_stay() -> None:
    old, new = (f'[[caches]]\nname = "x"\nrates = "{rate}"\n' for rate in ("4MiB", "1MiB"))
    rates = RateLimits(Rates(total=4 * MIB, origin=2 * MIB))
    made = night(caches=[cache("a1", fastest_in=4 * MIB, rates=rates)], fills=[fill("a1")])
    at_s = NOON + HOUR
    assert forecast(made, old, old).titles[0].live_at - at_s == pytest.approx(SIZE / (2 * MIB), rel=0.2)
    assert forecast(made, new, old).titles[0].live_at - at_s == pytest.approx(SIZE / MIB, rel=0.1)
    free = rebuild(usable(made)[0], old, "")
    assert free.scenario.limits["a1"] == RateLimits(Rates(origin=2 * MIB))
    assert any("limits let them" in note for note in free.notes)


def test_caches_that_were_silent_are_so_again() -> None:
    away = {"a2": [Span(0.0, NOON + 3 * HOUR)], "b1": [Span(NOON + HOUR + 1)]}
    caches = [cache(name, fastest_in=MIB, away=away.get(name, [])) for name in ("a1", "a2", "b1")]
    figures = forecast(night(caches=caches, fills=[fill(one) for one in ("a1", "a2", "b1")]))
    (lacking,) = figures.lacking
    assert (lacking.caches, lacking.reason) == (["b1"], "the cache was silent")
    assert figures.titles[0].live == 2


def test_caches_that_were_busy_with_viewers_are_so_again() -> None:
    """a1 alone has it, and gives a2 a tenth of its link till its viewers have gone."""
    busy = [Busy(NOON, 0.9), Busy(NOON + HOUR + 100, 0.0)]
    caches = [cache("a1", fastest_in=MIB, busy=busy), cache("a2", fastest_in=MIB)]
    titles = [RecordedTitle("a" * 64, "film", SIZE, 256 * 1024, {"a1": SIZE})]
    never = '[[fills]]\nname = "near"\nhops = ["isp"]\n'
    figures = forecast(night(caches=caches, titles=titles, fills=[fill("a2")]), never)
    assert figures.tiers == (SIZE, 0, 0)
    assert NOON + HOUR + 100 < figures.titles[0].live_at < NOON + HOUR + 120


def test_large_titles_are_cut_more_coarsely_and_weigh_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuild_module, "PAIRS_MAX", 600)
    titles = [RecordedTitle(letter * 64, letter, SIZE + 77, 65536) for letter in "ab"]
    made, _ = usable(night(titles=titles, fills=[fill(name, "ab"[n] * 64) for n in (0, 1) for name in ("a1", "b1")]))
    rebuilt = rebuild(made, "", "")
    assert any("258 chunks instead of 514" in note for note in rebuilt.notes)
    assert run(made, rebuilt, 1).tiers == (0, 2 * SIZE + 154, 2 * SIZE + 154)


def test_what_is_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a{number}" for number in range(CACHES_MAX + 1)]
    with pytest.raises(NotRebuilt, match=f"{CACHES_MAX + 1} caches"):
        forecast(night(caches=[cache(name) for name in names], fills=[fill(name) for name in names]))
    monkeypatch.setattr(rebuild_module, "PAIRS_MAX", 100)
    with pytest.raises(NotRebuilt, match="256 chunks"):
        forecast(night())
    ids = [f"{number:064x}" for number in range(CELLS_MAX // 4 + 1)]
    many = night(titles=[RecordedTitle(one, one, 1) for one in ids], fills=[fill("a1", one) for one in ids])
    for node in ("a2", "b1", "b2"):
        many.fills.append(fill(node, ids[0]))
    with pytest.raises(NotRebuilt, match="titles times caches"):
        forecast(many)


def test_titles_that_nobody_knew_are_left_out_with_what_came_of_them() -> None:
    titles = [*night().titles, RecordedTitle("b" * 64, "", SIZE)]
    made, notes = usable(night(titles=titles, fills=[fill("a1"), fill("a2", "b" * 64, tiers=(5, 0, 7))]))
    assert made.left_out == (5, 0, 7)
    assert "1 titles are left out" in notes[0]
    with pytest.raises(NotRebuilt, match=r"nothing was to be had.*left out"):
        usable(night(titles=titles, fills=[fill("a2", "b" * 64)]))


def _with(kind: str, **changes: Any) -> Callable[[RecordedNight], RecordedNight]:
    def change(made: RecordedNight) -> RecordedNight:
        first, *others = getattr(made, kind)
        return msgspec.structs.replace(made, **{kind: [msgspec.structs.replace(first, **changes), *others]})

    return change


def _info(**changes: Any) -> Callable[[RecordedNight], RecordedNight]:
    return _with("caches", info=msgspec.structs.replace(cache("a1").info, **changes))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda made: msgspec.structs.replace(made, last_at=NOON - 1), "ends before it begins"),
        (lambda made: msgspec.structs.replace(made, last_at=NOON + 9 * 86400), "lasts longer"),
        (lambda made: msgspec.structs.replace(made, caches=[]), "a cache that is not in it"),
        (lambda made: msgspec.structs.replace(made, titles=[]), "a title that is not in it"),
        (lambda made: msgspec.structs.replace(made, fills=[]), "nothing was to be had"),
        (lambda made: msgspec.structs.replace(made, fills=made.fills * 2), "in a cache twice"),
        (lambda made: msgspec.structs.replace(made, titles=made.titles * 2), "title is in it twice"),
        (lambda made: msgspec.structs.replace(made, caches=made.caches * 2), "cache is in it twice"),
        (_info(weight=0.0), "weight"),
        (_info(weight=float("nan")), "weight"),
        (_info(isp=""), "no ISP"),
        (_with("caches", fastest_in=-1), "rate"),
        (_with("caches", away=[Span(-5.0, 1e30)]), "time of 'a1'"),
        (_with("caches", busy=[Busy(NOON, 1.5)]), "how busy"),
        (_with("titles", size=1 << 60), "size"),
        (_with("titles", chunk_size=-1), "size"),
        (_with("titles", held={"a1": -3}), "size"),
        (_with("titles", title="film"), "no id"),
        (_with("fills", tiers=(-1, 0, 0)), "what came"),
        (_with("fills", had=1 << 63), "what came"),
        (_with("fills", ordered_at=float("inf")), "a time"),
        (_with("fills", deadline=-1.0), "a time"),
        (_with("fills", priority=1 << 40), "priority"),
        (_with("fills", policy=FillPolicy(stall_wait_s=-1.0)), "policy"),
        (_with("fills", policy=FillPolicy(reach=Reach(None))), "policy"),
    ],
)
def test_records_that_cannot_be(change: Callable[[RecordedNight], RecordedNight], says: str) -> None:
    with pytest.raises(NotRebuilt, match=says):
        usable(change(night()))


NUMBERS = st.sampled_from([0, 1, 63, 4096, SIZE, 1 << 40, NOON, NOON + HOUR, NOON + 30 * HOUR])
SPANS = st.lists(st.builds(Span, NUMBERS, NUMBERS), max_size=3)


@given(data=st.data())
def test_whatever_can_be_used_can_be_made_a_scenario(data: st.DataObject) -> None:
    """Within the bounds of the check figures may be anything; a scenario comes of them, or a clear refusal."""
    draw = data.draw
    caches = [
        cache(
            name, has_windows=draw(st.booleans()), windows=draw(SPANS), away=draw(SPANS),
            fastest_in=int(draw(NUMBERS)), fastest_out=int(draw(NUMBERS)),
        )
        for name in ("a1", "b1")
    ]  # fmt: skip
    title = RecordedTitle(
        "a" * 64, draw(st.sampled_from(["", "film", "\n\x1b"])), int(draw(NUMBERS)), int(draw(NUMBERS)),
        {"b1": int(draw(NUMBERS)), "x9": 5},
    )  # fmt: skip
    fills = [
        fill(
            name, ordered_at=draw(NUMBERS), had=int(draw(NUMBERS)), wanted=int(draw(NUMBERS)), now=draw(st.booleans())
        )
        for name in ("a1", "b1")
    ]
    try:
        made, _ = usable(night(caches=caches, titles=[title], fills=fills))
        rebuilt = rebuild(made, "", draw(st.sampled_from(["", OWN])))
    except NotRebuilt:
        return
    assert made.began_at <= rebuilt.began_at <= made.last_at
    assert rebuilt.scenario.size == title.size
    assert recorded(made).titles[0].caches == 2


@pytest.mark.parametrize("seed", range(3))
def test_small_nights_of_any_shape_run_to_their_end(seed: int) -> None:
    """What is drawn here ends, and no more comes than is lacking."""
    spans = [[], [Span(NOON + HOUR + 2, NOON + HOUR + 4), Span(NOON + 5 * HOUR, NOON + 6 * HOUR)], [Span(NOON)]]
    caches = [
        cache(name, has_windows=seed > 0, windows=spans[(seed + place) % 3], fastest_in=4 * MIB)
        for place, name in enumerate(("a1", "a2", "b1"))
    ]
    figures = forecast(night(caches=caches, fills=[fill(one.info.id) for one in caches]), seed=seed)
    assert sum(figures.tiers) <= 3 * SIZE
    assert figures.titles[0].live == 3 - sum(len(one.caches) for one in figures.lacking)


def test_budgets_of_the_new_policy_are_used_and_hold() -> None:
    titles = [RecordedTitle("a" * 64, "film", SIZE, 256 * 1024, origins=["https://cloud.example/film"])]
    budget = '[[budgets]]\nname = "cloud"\norigins = "https://cloud.example/*"\nbytes = "{}"\n'
    enough = forecast(night(titles=titles), budget.format("1GB"))
    assert enough.tiers[2] == enough.budgets["cloud"] == SIZE
    little = forecast(night(titles=titles), budget.format("4MiB"))
    assert little.tiers[2] <= little.budgets["cloud"] <= 4 * MIB
    (lacking,) = little.lacking
    assert "budget 'cloud'" in lacking.reason
