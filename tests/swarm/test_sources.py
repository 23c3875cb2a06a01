"""How many requests a source is given, and which sources are slow."""

from __future__ import annotations

import pytest

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope
from p2pfill.swarm.sources import SLOW_S, WINDOW_MAX, Request, Source, find_slow

CHUNK = 1 << 18


def deliver(source: Source, asked_at: float, took_s: float) -> None:
    source.note_delivery(asked_at + took_s, Request(1, source.id, 0, asked_at, source.scope), CHUNK)


def test_an_origin_that_answers_late_is_asked_for_more_at_a_time_and_a_crowded_one_for_less() -> None:
    origin = Source("http://origin/", Scope.ORIGIN, Bitmap.full(9), 0.0)
    assert origin.window(CHUNK) == 1
    for turn in range(20):
        deliver(origin, float(turn), 0.1)
    assert origin.window(CHUNK) == WINDOW_MAX
    for turn in range(20, 40):
        deliver(origin, float(turn), 0.3)
    assert origin.window(CHUNK) == 1


def fleet(paces: dict[str, float], scope: Scope) -> dict[str, Source]:
    """Sources that have each delivered a chunk at some bytes per second, and owe another."""
    sources = {name: Source(name, scope, Bitmap.full(9), 0.0) for name in paces}
    for name, rate in paces.items():
        deliver(sources[name], 0.0, CHUNK / rate)
        sources[name].requests[2] = Request(2, name, 1, 100.0, scope)
        sources[name].progress_at = 101.0
    return sources


@pytest.mark.parametrize("scope", [Scope.ISP, Scope.REGION])
def test_only_what_stays_far_below_the_others_is_slow(scope: Scope) -> None:
    sources = fleet({"a": 1e6, "b": 1.2e6, "c": 0.4e6, "d": 0.1e6}, scope)
    for name in "abc":
        sources[name].requests.clear()
    assert find_slow(sources.values(), 100.0, CHUNK) == []
    assert find_slow(sources.values(), 99.9 + SLOW_S, CHUNK) == []
    sources["d"].progress_at = 99.0
    assert find_slow(sources.values(), 100.0 + SLOW_S, CHUNK) == []  # silent, not slow
    sources["d"].progress_at = 102.0
    assert find_slow(sources.values(), 102.0, CHUNK) == []
    assert [source.id for source in find_slow(sources.values(), 102.0 + SLOW_S - 0.01, CHUNK)] == []
    sources["d"].progress_at = 103.5
    assert [source.id for source in find_slow(sources.values(), 102.0 + SLOW_S, CHUNK)] == ["d"]
    deliver(sources["d"], 104.0, 0.3)
    assert find_slow(sources.values(), 104.3, CHUNK) == []


def test_where_all_are_held_up_together_nobody_is_slow() -> None:
    sources = fleet(dict.fromkeys("abcd", 1e6), Scope.ISP)
    for tick in range(40):
        assert find_slow(sources.values(), 100.0 + tick / 4, CHUNK) == []


def test_a_weight_says_what_can_be_expected() -> None:
    sources = fleet({"a": 1e6, "b": 1e6, "c": 1e6, "d": 0.1e6}, Scope.ISP)
    sources["d"].weight = 0.1
    for tick in range(12):
        assert find_slow(sources.values(), 100.0 + tick / 100, CHUNK) == []
