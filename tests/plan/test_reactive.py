"""A reactive part of the disks pays where jumps are common, costs where not, and the choice says so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng

from p2pfill.plan.placement.demand import Demand, demand_of_clusters
from p2pfill.plan.placement.placement import PlacementSettings
from p2pfill.plan.placement.reactive import Lru, choose_reactive_share, hits_of, replay
from p2pfill.plan.tables import Caches

FILES = 400


def world(jumps: int) -> tuple[list[tuple[Demand, Demand]], np.ndarray, Caches]:
    """Days as forecast and as they were: each day `jumps` cold files are asked for as the hottest is."""
    rng = default_rng(5)
    size = rng.integers(5, 30, FILES)
    streams = (np.arange(FILES) + 5.0) ** -0.8 * 400
    days = []
    for _ in range(5):
        actual = streams.copy()
        actual[rng.choice(np.arange(200, FILES), jumps, replace=False)] = streams[0]
        days.append((demand_of_clusters((streams * size)[None]), demand_of_clusters((actual * size)[None])))
    one, both = np.zeros(1, np.int32), np.zeros(2, np.int32)
    capacity = np.full(2, int(size.sum()) // 6)
    caches = Caches(("a", "b"), ("k",), ("i",), ("r",), both, one, one, capacity, np.full(2, 100.0), np.ones(2))
    return days, size, caches


def test_it_pays_where_jumps_are_common_and_costs_where_there_are_none() -> None:
    share, calm = choose_reactive_share(*world(0), PlacementSettings())
    assert share == 0.0
    assert calm[0].served > calm[-1].served
    share, wild = choose_reactive_share(*world(20), PlacementSettings())
    assert share > 0.0
    assert max(one.served for one in wild) > wild[0].served + 0.02
    assert wild == choose_reactive_share(*world(20), PlacementSettings())[1]


def test_both_parts_together_serve_no_more_than_the_bandwidth() -> None:
    days, size, caches = world(20)
    narrow = Caches(
        caches.names, caches.clusters, caches.isps, caches.regions, caches.cluster, caches.isp, caches.region,
        caches.capacity, caches.serving / 2000, caches.filling,
    )  # fmt: skip
    replayed = replay(0.3, days, size, narrow, PlacementSettings())
    assert replayed.planned + replayed.reactive <= narrow.serving.sum() * 12 * 3600 * 4 * (1 + 1e-9)


def test_an_lru_drops_what_was_asked_for_longest_ago() -> None:
    lru = Lru(20)
    assert [lru.ask(file, 10) for file in (1, 2, 1, 3, 1, 2)] == [False, False, True, False, True, False]
    assert not lru.ask(9, 21)
    assert set(lru.files) == {1, 2}
    assert hits_of(Lru(20), np.array([1e6]), np.array([10]), default_rng(0)) == pytest.approx(1e6, rel=1e-4)


def test_a_replay_takes_days_that_count() -> None:
    days, size, caches = world(0)
    with pytest.raises(ValueError, match="2 days"):
        replay(0.0, days[:1], size, caches, PlacementSettings())
