"""Who is far behind with its share: by what is left, and by the pace; and nobody else."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.swarm.slow_peers import LAG_CHUNKS, SPAN_MAX_S, SPAN_S, SlowPeerDetector, median_without

NAMES = ["a", "b", "c", "d"]
SHARES = dict.fromkeys(NAMES, 100)


def test_one_that_becomes_slow_half_way_is_found_while_others_have_much_left() -> None:
    laggards = SlowPeerDetector()
    for tick in range(100):
        now = tick / 4
        left = dict.fromkeys(NAMES, max(0, 500 - 10 * tick))
        if tick > 20:
            left["b"] = 300 - 4 * (tick - 20)
        lagging = laggards.look(now, dict.fromkeys(NAMES, 500), left)
        assert set(lagging) <= {"b"}
        if lagging:
            break
    assert lagging
    assert now <= 5 + 2 * SPAN_S
    assert left["a"] > 150


def test_one_that_was_always_a_little_slow_is_found_by_what_is_left() -> None:
    laggards = SlowPeerDetector()
    found = []
    for tick in range(101):
        left = dict.fromkeys(NAMES, 100 - tick)
        left["c"] = 100 - tick // 2
        found += laggards.look(tick / 4, SHARES, left)
    assert set(found) == {"c"}


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 4))
def test_whoever_keeps_step_within_a_factor_of_three_does_not_lag(seed: int, count: int, weight: int) -> None:
    random = Random(seed)
    names = [f"n{number}" for number in range(count)]
    shares = {name: 200 * (weight if number == 0 else 1) for number, name in enumerate(names)}
    done = dict.fromkeys(names, 0.0)
    laggards = SlowPeerDetector()
    for tick in range(60):
        for name in names:
            done[name] += random.uniform(0.006, 0.018)
        left = {name: max(0, round(shares[name] * (1 - done[name]))) for name in names}
        if min(left.values()) < 60:
            break
        assert laggards.look(tick / 4, shares, left) == {}


def test_on_slow_links_the_pace_is_taken_over_longer() -> None:
    laggards = SlowPeerDetector()
    lagging: dict[str, float] = {}
    for tick in range(40):
        left = dict.fromkeys(NAMES, 200 - 2 * tick)
        left["b"] = 200 - tick // 2
        lagging = laggards.look(tick / 4, dict.fromkeys(NAMES, 200), left)
        if lagging:
            break
    assert set(lagging) == {"b"}
    assert tick / 4 <= SPAN_MAX_S


def test_one_that_is_behind_but_keeps_pace_does_not_lag_where_both_are_asked_for() -> None:
    both, either = SlowPeerDetector(5.0, behind_pace=2.0), SlowPeerDetector()
    by_both, by_either = [], []
    shares = dict.fromkeys(NAMES, 300)
    for tick in range(30):
        left = dict.fromkeys(NAMES, max(0, 120 - 6 * tick))
        left["c"] = 240 - 6 * tick
        by_both += both.look(tick / 4, shares, left)
        by_either += either.look(tick / 4, shares, left)
    assert by_both == []
    assert set(by_either) == {"c"}


@pytest.mark.parametrize(("pace", "lags"), [(3, False), (1, True)])
def test_one_that_is_behind_and_nearly_done_at_its_pace_does_not_lag(pace: int, lags: bool) -> None:
    """Of two caches that share a border one is through first, as TCP would have it."""
    laggards = SlowPeerDetector()
    shares = {"a": 96, "b": 96}
    for tick in range(20):  # b is 24 chunks behind, and needs two seconds for them, or six
        left = {"a": max(0, 57 - 3 * tick), "b": 24 + pace * (19 - tick)}
        lagging = laggards.look(tick / 4, shares, left)
    assert left == {"a": 0, "b": 24}
    assert set(lagging) == ({"b"} if lags else set())


def test_two_caches_are_not_compared_by_their_pace_and_a_few_chunks_are_no_lag() -> None:
    laggards = SlowPeerDetector()
    for tick in range(20):
        assert laggards.look(tick / 4, {"a": 100, "b": 100}, {"a": 100 - tick, "b": 100}) == {}
    few = LAG_CHUNKS - 1
    for tick in range(20):
        left = {**dict.fromkeys(NAMES, max(0, few - tick)), "d": few}
        assert SlowPeerDetector().look(tick / 4, dict.fromkeys(NAMES, few), left) == {}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.data())
def test_the_median_of_the_others(figures: list[float], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(figures) - 1))
    others = sorted(figures[:place] + figures[place + 1 :])
    middle = len(others) // 2
    expected = others[middle] if len(others) % 2 else (others[middle - 1] + others[middle]) / 2
    assert median_without(sorted(figures), figures[place]) == expected
