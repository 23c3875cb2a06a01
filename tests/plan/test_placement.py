"""Placements keep what they promise, and come near to the best there is."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from p2pfill.plan.placement import compiled
from p2pfill.plan.placement.demand import Demand, demand_of_clusters, spread_demand, weights_by_serving
from p2pfill.plan.placement.exact import exact
from p2pfill.plan.placement.matching import mixed
from p2pfill.plan.placement.placement import (
    PlacementResult,
    PlacementSettings,
    Reason,
    Rules,
    exact_instance,
    peak_share,
    place,
)
from p2pfill.plan.placement.valuation import served_of, upper_bound
from p2pfill.plan.tables import Caches, Floats, Forecast, Load, Longs, Placement

DAY_S = 86_400.0
EVEN = PlacementSettings(peak_share=1 / 24)
"""By the day's mean: bandwidth is `serving * 86400`."""
PLAIN = replace(EVEN, write_price=0.0, hysteresis=0.0, rewritten_share=1.0)


def caches_of(capacity: list[int], bandwidth: list[float], cluster: list[int] | None = None) -> Caches:
    """Return caches with bandwidth in bytes a day; each cluster stands in an ISP and a region of its own."""
    clusters = np.array(cluster or [0] * len(capacity), np.int32)
    count = int(clusters.max(initial=0)) + 1
    own = np.arange(count, dtype=np.int32)
    names = tuple(f"cache{number}" for number in range(len(capacity)))
    places = tuple(f"place{number}" for number in range(count))
    serving = np.array(bandwidth) / DAY_S
    return Caches(
        names, places, places, places, clusters, own, own, np.array(capacity, np.int64), serving, np.ones(len(capacity))
    )


def placement_of(files: list[list[int]]) -> Placement:
    """Return the placement in which each cache holds its list."""
    start = np.concatenate(([0], np.cumsum([len(own) for own in files]))).astype(np.int64)
    return Placement(start, np.array([file for own in files for file in sorted(own)], np.int32))


def files_of(placement: Placement) -> list[list[int]]:
    """Return the files of each cache."""
    return [placement.of(cache).tolist() for cache in range(len(placement.start) - 1)]


def place_one(
    demand: list[float], size: list[int], caches: Caches, held: Placement | None, terms: PlacementSettings,
    rules: Rules | None = None,
) -> PlacementResult:  # fmt: skip
    """Place one cluster."""
    return place(demand_of_clusters(np.array([demand])), np.array(size, np.int64), caches, held, terms, rules)


class World:
    """A made fleet: of some clusters, with what its caches hold, rules and settings."""

    def __init__(self, seed: int) -> None:
        rng = default_rng(seed)
        clusters, files = int(rng.integers(1, 4)), int(rng.integers(1, 30))
        count = clusters + int(rng.integers(0, 7))
        self.size = rng.integers(1, 30, files)
        cluster = np.sort(np.concatenate([np.arange(clusters), rng.integers(0, clusters, count - clusters)]))
        capacity = rng.integers(0, 120, count)
        self.caches = caches_of(capacity.tolist(), rng.uniform(0, 200, count).tolist(), cluster.tolist())
        rows = rng.pareto(1.0, (clusters, files)) * self.size * (rng.random((clusters, files)) < 0.8)
        self.demand = Demand(rows, np.arange(clusters, dtype=np.int32), rng.uniform(0.5, 2, clusters))
        self.held = self.some_held(rng, capacity, files) if rng.random() < 0.7 else None
        self.settings = PlacementSettings(
            rewritten_share=float(rng.choice([0.1, 0.3, 1.0])), first_share=float(rng.choice([0.5, 1.0])),
            write_price=float(rng.choice([0.0, 0.1])), hysteresis=float(rng.choice([0.0, 0.1])), peak_share=1 / 24,
            reactive_share=float(rng.choice([0.0, 0.3])), neighbourhoods=int(rng.choice([0, 0, 0, 6])),
        )  # fmt: skip
        said = rng.random((clusters, files))
        pinned, excluded = np.nonzero(said < 0.05), np.nonzero(said > 0.9)
        self.rules = Rules(*(part.astype(np.int32) for part in (*pinned, *excluded)))

    def some_held(self, rng: np.random.Generator, capacity: Longs, files: int) -> Placement:
        """Return files that fit into the caches."""
        held = []
        for space in capacity.tolist():
            own = rng.permutation(files)
            held.append(own[np.cumsum(self.size[own]) <= space * rng.random()].tolist())
        return placement_of(held)

    def place(self, held: Placement | None = None) -> PlacementResult:
        """Place it from what is held, or from `held`."""
        return place(self.demand, self.size, self.caches, held or self.held, self.settings, self.rules)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_a_placement_keeps_all_of_its_bounds(seed: int) -> None:
    world = World(seed)
    result = world.place()
    held = files_of(world.held) if world.held else [[] for _ in world.caches.names]
    failed = set(result.unpinned)
    for cache, files in enumerate(files_of(result.placement)):
        cluster = int(world.caches.cluster[cache])
        assert files == sorted(set(files))
        space = int(world.caches.capacity[cache] * (1 - world.settings.reactive_share))
        assert world.size[files].sum() <= space
        assert not set(files) & set(world.rules.excluded_file[world.rules.excluded_cluster == cluster].tolist())
        written = int(world.size[list(set(files) - set(held[cache]))].sum())
        assert written == result.written[cache]
        share = world.settings.rewritten_share if held[cache] else world.settings.first_share
        free = space - int(world.size[held[cache]].sum()) if held[cache] else 0
        if world.settings.first_share < 1:
            free = min(free, int(world.caches.capacity[cache] * world.settings.first_share))
        assert (written > max(int(world.caches.capacity[cache] * share), free)) == (cache in result.exceeded)
        if cache in result.exceeded:
            assert (world.rules.pinned_cluster == cluster).any(), "only pins exceed the bound"
    for cluster, file in zip(world.rules.pinned_cluster.tolist(), world.rules.pinned_file.tolist(), strict=True):
        lies = any(
            file in result.placement.of(cache) for cache in np.flatnonzero(world.caches.cluster == cluster).tolist()
        )
        assert lies != ((cluster, file) in failed)
    assert (result.served <= result.bound * (1 + 1e-9) + 1e-6).all()
    assert (result.bound <= result.aggregate * (1 + 1e-9)).all()
    missed = result.missed.sum(axis=1)
    assert (missed >= (result.demand - result.served) * (1 - 1e-9) - 1e-6).all()
    assert (missed <= result.demand - result.served + 0.1 * result.served + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9))
def test_placing_is_deterministic_and_from_its_own_result_changes_nothing(seed: int) -> None:
    world = World(seed)
    first = world.place()
    again = world.place()
    np.testing.assert_array_equal(first.placement.files, again.placement.files)
    np.testing.assert_array_equal(first.placement.start, again.placement.start)
    second = world.place(first.placement)
    for cache, cluster in enumerate(world.caches.cluster.tolist()):
        if first.settled[cluster]:
            assert second.placement.of(cache).tolist() == first.placement.of(cache).tolist()


def test_most_placements_are_settled() -> None:
    """Or the test before proves little."""
    settled = [all(World(seed).place().settled) for seed in range(60)]
    assert sum(settled) >= 20


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9))
def test_no_placement_beats_the_bound(seed: int) -> None:
    """Any copies that fit, of which the best flow is taken; many of them are dense and so near the bound."""
    rng = default_rng(seed)
    caches, files = int(rng.integers(1, 6)), int(rng.integers(1, 12))
    size, space = rng.integers(1, 20, files), rng.integers(0, 60, caches)
    demand = rng.pareto(1.0, files) * 10 * (rng.random(files) < 0.9)
    bandwidth = rng.uniform(0, 60, caches)
    bound = upper_bound(demand, size, space, bandwidth)
    wished = np.argsort(-demand / size + rng.normal(0, rng.choice([0.0, 1.0]), files))
    copies = []
    for cache in rng.permutation(caches).tolist():
        room = int(space[cache])
        for file in (wished if rng.random() < 0.7 else rng.permutation(files)).tolist():
            if size[file] <= room and rng.random() < 0.9:
                room -= int(size[file])
                copies.append((cache, file))
    cache, file = (
        (np.array(part, np.int32) for part in zip(*copies, strict=True)) if copies else (np.zeros(0, int),) * 2
    )
    served = served_of(demand, bandwidth, cache, file)
    assert served <= bound.value * (1 + 1e-9) + 1e-9
    assert bound.value <= bound.aggregate


def test_the_bound_is_met_where_files_divide_evenly() -> None:
    """Two dense files where bandwidth is, two cold ones where space is: nothing is lost to whole files."""
    demand, size = np.array([50.0, 50.0, 5.0, 5.0]), np.array([10, 10, 10, 10])
    space, bandwidth = np.array([20, 20]), np.array([100.0, 6.0])
    bound = upper_bound(demand, size, space, bandwidth)
    assert bound.value == pytest.approx(106.0)
    assert bound.aggregate == pytest.approx(106.0)
    uneven = upper_bound(demand, size, np.array([20, 0]), np.array([30.0, 100.0]))
    assert uneven.aggregate == pytest.approx(100.0)
    assert uneven.value == pytest.approx(30.0), "a cache without space serves nothing, which sums do not see"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_routing_serves_what_the_exact_flow_serves_and_never_more(seed: int) -> None:
    world = World(seed)
    world.rules = Rules()
    result = world.place()
    for cluster in range(world.demand.clusters):
        members = np.flatnonzero(world.caches.cluster == cluster)
        instance = exact_instance(
            cluster, world.demand, world.size, world.caches, result.placement, world.settings, world.rules
        )
        copies = np.nonzero(instance.held)
        flow = served_of(instance.demand, instance.bandwidth, *(part.astype(np.int32) for part in copies))
        assert flow == pytest.approx(float(result.served[cluster]))
        assert len(members) == len(instance.space)
        routed = float(world.demand.of(cluster).sum() - result.missed[cluster].sum())
        assert routed <= flow * (1 + 1e-9) + 1e-6
        assert routed >= flow * 0.9 - 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_small_instances_come_near_the_exact_solver(seed: int) -> None:
    rng = default_rng(seed)
    size = rng.integers(5, 60, 16)
    demand = (np.arange(16) + 2.0) ** -0.9 * size
    demand *= 1000 / demand.sum()
    caches = caches_of((rng.uniform(0.1, 0.25, 3) * size.sum()).astype(int).tolist(), rng.uniform(150, 500, 3).tolist())
    terms = replace(EVEN, rewritten_share=0.3)
    table = demand_of_clusters(demand[None])
    held = place(table, size, caches, None, terms).placement if seed % 2 else None
    table = demand_of_clusters((demand * np.exp(rng.normal(0, 0.7, 16)))[None])
    result = place(table, size, caches, held, terms)
    best = exact(exact_instance(0, table, size, caches, held, terms), 5.0)
    assert best is not None
    assert best.value <= best.bound * (1 + 1e-6)
    worth = float(result.served.sum()) - terms.write_price * int(result.written.sum())
    assert worth <= best.bound * (1 + 1e-6)
    assert worth >= 0.97 * best.value


def test_a_large_cluster_comes_near_its_bound_and_stays_there_within_what_may_be_rewritten() -> None:
    rng = default_rng(3)
    size = np.clip(rng.lognormal(21.4, 0.8, 5000), 1e8, 4e10).astype(np.int64)
    popularity = rng.permutation((np.arange(5000) + 30.0) ** -0.9)
    capacity = (rng.choice([1.0, 2.0, 4.0], 8) * size.sum() / 60).astype(int).tolist()
    demand = popularity * size * (1e15 / (popularity * size).sum())
    caches = caches_of(capacity, (rng.choice([0.5, 1.0, 1.5], 8) * 1e15 / 8).tolist())
    first = place(demand_of_clusters(demand[None]), size, caches, None, EVEN)
    assert first.gap <= 0.002
    moved = demand * np.exp(rng.normal(0, 0.2, 5000))
    second = place(demand_of_clusters(moved[None]), size, caches, first.placement, EVEN)
    assert 0 < second.gap <= 0.015
    assert (second.written <= 0.1 * np.array(capacity)).all()
    kept = place(demand_of_clusters(moved[None]), size, caches, first.placement, replace(EVEN, rewritten_share=0.0))
    assert not kept.written.any()
    assert kept.served.sum() < second.served.sum()


def test_copies_of_a_hot_file_follow_its_demand() -> None:
    caches = caches_of([10, 10, 10, 10], [100.0] * 4)
    for demand, copies in ((90.0, 1), (250.0, 3), (1000.0, 4)):
        result = place_one([demand, 1.0], [4, 4], caches, None, PLAIN)
        assert sum(0 in own for own in files_of(result.placement)) == copies
        assert result.served.sum() == pytest.approx(min(demand + 1.0, 400.0))


def test_hot_files_go_where_bandwidth_is_and_cold_ones_where_space_is() -> None:
    caches = caches_of([20, 100], [1000.0, 60.0])
    result = place_one([400.0, 400.0, 5.0, 5.0, 5.0], [10] * 5, caches, None, PLAIN)
    assert files_of(result.placement) == [[0, 1], [2, 3, 4]]
    assert result.gap == pytest.approx(0.0, abs=1e-9)


def test_what_is_free_may_be_written_besides_what_is_written_over() -> None:
    """A first night that broke off after one file: the next fills what is left, and drops nothing."""
    size, asked = [100] * 20, [float(2000 - 90 * place) for place in range(20)]
    caches = caches_of([1000], [1e6])
    assert files_of(place_one(asked, size, caches, None, EVEN).placement) == [list(range(10))]
    begun = place_one(asked, size, caches, placement_of([[3]]), EVEN)
    assert files_of(begun.placement) == [list(range(10))]
    assert begun.written.tolist() == [900]
    turned = place_one(asked[::-1], size, caches, placement_of([list(range(10))]), EVEN)
    assert (turned.written.tolist(), turned.dropped.tolist()) == ([100], [100]), "a tenth of what is full"


def test_writing_has_its_price_and_change_its_hysteresis() -> None:
    caches, held = caches_of([10], [1000.0]), placement_of([[0]])
    dear = replace(PLAIN, write_price=3.0)
    assert files_of(place_one([0.0, 25.0], [10, 10], caches, None, dear).placement) == [[]]
    assert files_of(place_one([0.0, 35.0], [10, 10], caches, None, dear).placement) == [[1]]
    stiff = replace(PLAIN, hysteresis=0.2)
    assert files_of(place_one([50.0, 59.0], [10, 10], caches, held, stiff).placement) == [[0]]
    assert files_of(place_one([50.0, 61.0], [10, 10], caches, held, stiff).placement) == [[1]]


def test_what_is_not_served_is_told_with_its_reason() -> None:
    size = [10, 50, 10, 10, 10, 10]
    rules = Rules(excluded_cluster=np.zeros(1, np.int32), excluded_file=np.zeros(1, np.int32))
    terms = replace(PLAIN, write_price=0.2)
    result = place_one([90.0, 90.0, 80.0, 1.0, 70.0, 60.0], size, caches_of([20], [1000.0]), None, terms, rules)
    assert files_of(result.placement) == [[2, 4]]
    told = {left.file: left.reason for left in result.left_out}
    assert told == {0: Reason.EXCLUDED, 1: Reason.TOO_LARGE, 3: Reason.PRICE, 5: Reason.SPACE}
    assert result.missed[0].tolist() == [90.0, 90.0, 0.0, 1.0, 0.0, 60.0]
    narrow = place_one([90.0], [10], caches_of([20], [40.0]), None, terms)
    assert narrow.left_out[0].reason is Reason.BANDWIDTH
    still = replace(terms, rewritten_share=0.2)
    late = place_one([5.0, 90.0], [10, 10], caches_of([10], [1000.0]), placement_of([[0]]), still)
    assert late.left_out[0].reason is Reason.REWRITING
    assert not late.settled[0]


def test_pins_come_before_the_bound_and_what_they_exceed_is_told() -> None:
    pin = Rules(np.zeros(1, np.int32), np.ones(1, np.int32))
    caches, held, size = caches_of([10, 10], [100.0, 100.0]), placement_of([[0], [0]]), [10, 10]
    result = place_one([50.0, 0.0], size, caches, held, replace(EVEN, rewritten_share=0.1), pin)
    assert sorted(files_of(result.placement)) == [[0], [1]]
    assert len(result.exceeded) == 1
    assert not result.unpinned
    nowhere = place_one([50.0, 0.0], [10, 11], caches, held, EVEN, pin)
    assert nowhere.unpinned == ((0, 1),)
    assert files_of(nowhere.placement) == [[0], [0]]
    both = Rules(pin.pinned_cluster, pin.pinned_file, pin.pinned_cluster, pin.pinned_file)
    with pytest.raises(ValueError, match="pinned and excluded"):
        place_one([50.0, 0.0], size, caches, held, EVEN, both)


def test_a_cache_with_less_space_than_before_keeps_the_densest() -> None:
    held = placement_of([[0, 1, 2]])
    result = place_one([30.0, 10.0, 20.0], [10, 10, 10], caches_of([20], [1000.0]), held, EVEN)
    assert files_of(result.placement) == [[0, 2]]
    assert result.dropped.tolist() == [10]


def test_caches_that_are_equal_are_told_apart_by_their_names_and_not_by_their_order() -> None:
    size, demand = [10] * 8, [100.0] * 8
    caches = caches_of([20] * 4, [1000.0] * 4)
    straight = files_of(place_one(demand, size, caches, None, PLAIN).placement)
    turned = replace(caches, names=caches.names[::-1])
    back = files_of(place_one(demand, size, turned, None, PLAIN).placement)
    assert back[::-1] == straight
    assert len({int(mixed(np.uint64(1), file)) for file in range(1000)}) == 1000


def test_demand_of_regions_is_spread_by_weights() -> None:
    caches = replace(
        caches_of([1, 1, 1, 1], [1.0, 2.0, 3.0, 4.0], [0, 0, 1, 2]),
        regions=("north", "south"), isp=np.array([0, 1, 2], np.int32), region=np.array([0, 0, 1], np.int32),
    )  # fmt: skip
    np.testing.assert_allclose(weights_by_serving(caches), [0.5, 0.5, 1.0])
    streams: Floats = np.array([[7.0, 0.0], [2.0, 4.0]])
    forecast = Forecast(("south", "north"), 0, streams, streams, streams)
    demand = spread_demand(forecast, np.array([10, 100], np.int64), caches)
    np.testing.assert_allclose([demand.of(cluster) for cluster in range(3)], [[10, 200], [10, 200], [70, 0]])
    with pytest.raises(ValueError, match="'south'"):
        spread_demand(replace(forecast, regions=("west", "north")), np.array([10, 100], np.int64), caches)


def test_the_busiest_hour_is_found_in_days_that_are_known_whole() -> None:
    day = np.ones(24)
    day[20] = 7.0
    hours = np.concatenate(([np.nan] * 5, day, day * 3, [np.nan], day[1:], [50.0]))
    assert peak_share(Load(("k",), 19, hours[None])) == pytest.approx(7 / 30)
    with pytest.raises(ValueError, match="no day"):
        peak_share(Load(("k",), 19, hours[None, :20]))


def test_tables_that_do_not_fit_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="2 files"):
        place_one([1.0, 2.0], [1], caches_of([1], [1.0]), None, EVEN)
    for wrong in ({"rewritten_share": 1.5}, {"peak_share": 0.01}, {"reactive_share": 1.0}, {"write_price": -1.0}):
        with pytest.raises(ValueError):
            PlacementSettings(**wrong)  # type: ignore[arg-type]


def runs_compiled(home: Path, before_call: str = "") -> list[str]:
    """Run a compiled function in a process of its own; return its answer, and where its machine code is kept."""
    program = (
        "from pathlib import Path\n"
        "import resource\n"
        "from p2pfill.plan.placement.compiled import _cache_directory, compiled\n"
        "import sys\n"
        "sys.path.insert(0, str(Path.home()))\n"
        "import twice\n"
        "made = compiled(twice.twice)\n"
        f"{before_call}\n"
        "print(made(21))\n"
        "print(_cache_directory())\n"
    )
    (home / "twice.py").write_text("def twice(value):\n    return value * 2\n")
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_machine_code_that_was_cut_short_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    def run() -> list[str]:
        return runs_compiled(tmp_path)

    answer, directory = run()
    assert answer == "42"
    files = sorted(Path(directory).rglob("*.nb?"))
    assert len(files) == 2, "what came of it is kept"
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run()[0] == "42"
    assert {path: path.stat().st_mtime_ns for path in files} == before, "it was used, and not made again"
    for path in files:
        path.write_bytes(path.read_bytes()[:40] if damage is None else damage)
    assert run() == ["42", directory]
    assert sorted(Path(directory).rglob("*.nb?")) == files
    assert compiled.is_whole(Path(directory))


@pytest.mark.parametrize(
    "refusal",
    [
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))",
        "where = Path(_cache_directory()); __import__('shutil').rmtree(where); where.touch()",
    ],
    ids=["full", "gone"],
)
def test_a_disk_that_refuses_machine_code_costs_only_the_time(tmp_path: Path, refusal: str) -> None:
    answer, directory = runs_compiled(tmp_path, refusal)
    assert answer == "42"
    assert not list(Path(directory).rglob("*.nb?")), "nothing was kept"


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_cache_directory", lambda: "")
    assert compiled.compiled(_thrice)(7) == 21
    monkeypatch.setattr(compiled, "_cache_directory", lambda: "/proc/no-such-place")
    assert compiled.compiled(_thrice)(7) == 21


def _thrice(value: int) -> int:
    return value * 3
