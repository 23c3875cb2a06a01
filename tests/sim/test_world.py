"""Whole runs: what a fleet without faults does, and that the same seed is the same run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from sim.worlds import CHAOS, ROOT, SMALL, run, world

from bench.swarm.bounds import bound_s
from bench.swarm.topology import load_topology
from p2pfill.errors import ConfigError
from p2pfill.sim.scenario import Fleet, LabEvent, Scenario
from p2pfill.sim.trace import Trace
from p2pfill.sim.world import World
from p2pfill.swarm import election, sources
from p2pfill.swarm.neighbourhood import EVERYBODY_MAX

FILES = sorted((ROOT / "bench" / "topologies").glob("*.toml"))


@pytest.mark.parametrize("wire", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_without_faults_one_copy_crosses_each_border(wire: bool, exact: bool) -> None:
    report = run(wire=wire, exact=exact)
    assert report.complete == 6
    assert report.origin_copies == pytest.approx(1.0)
    assert report.isp_copies.max == pytest.approx(1.0)
    assert report.isp_copies.min == pytest.approx(1.0)
    assert not report.escalations
    assert report.duplicate_bytes == 0
    assert sum(report.bytes_by_scope.values()) == 6 * report.title_bytes
    assert 1.0 <= report.time_over_bound < 3.0


def test_messages_as_bytes_or_as_objects_make_no_difference() -> None:
    plain, wired = run(wire=False), run(wire=True)
    assert plain.trace_digest == wired.trace_digest
    assert plain.messages == wired.messages


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_topologies_of_the_lab_are_scenarios_with_the_same_bound(path: Path) -> None:
    scenario, topology = Scenario.load(path), load_topology(path)
    joins = {event.host: event.at_seconds(bound_s(topology)) for event in topology.events if event.kind == "join"}
    assert scenario.bound_s() == pytest.approx(bound_s(topology, joins_s=joins))
    assert {info.id for info in scenario.counted()} == {host.name for host in topology.counted()}


@pytest.mark.parametrize("kind", ["kill", "slow", "join"])
def test_events_of_the_lab_happen(kind: Literal["kill", "slow", "join"]) -> None:
    built = world(events=(LabEvent(kind=kind, host="a1", at=0.5),))
    report = built.run()
    assert report.complete == (5 if kind == "kill" else 6)
    assert any(f"event {kind} a1" in line for line in world_trace(kind))


def world_trace(kind: Literal["kill", "slow", "join"]) -> list[str]:
    trace = Trace(keep=True)
    world(events=(LabEvent(kind=kind, host="a1", at=0.5),), trace=trace).run()
    return trace.lines


def test_the_same_seed_gives_the_same_trace_to_the_byte() -> None:
    scenario = Scenario.load(CHAOS)
    traces = [Trace(keep=True) for _ in range(2)]
    reports = [World(scenario, 5, trace=trace).run() for trace in traces]
    assert traces[0].lines == traces[1].lines
    assert reports[0] == reports[1]
    assert World(scenario, 6).run().trace_digest != reports[0].trace_digest


def test_the_order_of_hashes_makes_no_difference() -> None:
    program = (
        "from pathlib import Path; from p2pfill.sim.scenario import Scenario; from p2pfill.sim.world import World; "
        f"s = Scenario.load(Path({str(CHAOS)!r})); print([World(s, seed).run().trace_digest for seed in (3, 4, 5)])"
    )
    said = set()
    for hash_seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program]
        said.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    assert len(said) == 1


def test_a_trace_that_is_not_kept_has_the_same_digest() -> None:
    kept = Trace(keep=True)
    assert world(trace=kept).run().trace_digest == run().trace_digest
    assert kept.lines


def test_a_report_has_series_for_plots() -> None:
    report = run()
    assert set(report.completions) == {"a1", "a2", "a3", "b1", "b2", "b3"}
    assert max(report.completions.values()) == report.seconds
    assert len(report.samples) > 20
    last = report.samples[-1]
    assert [sample.at_s for sample in report.samples] == sorted(sample.at_s for sample in report.samples)
    assert last.isp_bytes + last.region_bytes + last.origin_bytes == 6 * report.title_bytes
    assert msgspec.json.decode(msgspec.json.encode(report), type=type(report)) == report


def test_a_fleet_with_bounded_neighbourhoods_fills() -> None:
    fleet = Fleet(caches=60, isps=6, regions=2)
    scenario = msgspec.structs.replace(
        SMALL, isps={"cloud": ["origin"]}, fleet=fleet, neighbours=6, exact=False, poll_s=0.0
    )
    built = World(scenario, 1)
    report = built.run()
    assert report.complete == 60
    assert report.origin_copies < 1.5
    assert max(len(cache.engine.links) for cache in built.caches.values()) < 40


@pytest.mark.parametrize(
    ("fleet", "size_mib"),
    [(Fleet(caches=12, isps=4, regions=2), 40), (Fleet(caches=70, isps=7, regions=2), 20)],
    ids=["everybody linked", "neighbourhoods"],
)
def test_of_titles_with_more_chunks_than_lots_one_copy_crosses_each_border(
    fleet: Fleet, size_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With at most 256 lots 640 chunks are 214, the last of them smaller than the others; 320 are 160 lots of two."""
    monkeypatch.setattr(election, "STRIPES_MAX", 256)
    scenario = msgspec.structs.replace(
        SMALL, isps={"cloud": ["origin"]}, fleet=fleet, size_mib=size_mib, chunk_kib=64, exact=False
    )
    built = World(scenario, 1)
    report = built.run()
    fewest = min(len(cache.engine.links) for cache in built.caches.values())
    assert (fewest < fleet.caches - 1) == (fleet.caches > EVERYBODY_MAX)
    assert election.stripe_count(report.chunk_count) < 256 < report.chunk_count
    assert report.complete == fleet.caches
    assert report.origin_copies == report.isp_copies.min == report.isp_copies.max == 1.0
    assert not report.escalations


@pytest.mark.parametrize("seed", [5, 6])
def test_unequal_shares_of_the_origin_do_not_make_a_fill_longer(seed: int) -> None:
    """Whoever is behind has a request more; without it these fills ended at 1.15 and 1.14 of the bound."""
    scenario = Scenario.load(ROOT / "bench" / "topologies" / "3x4.toml")
    report = World(msgspec.structs.replace(scenario, origin_spread=0.4), seed).run()
    assert report.time_over_bound < 1.1
    assert report.isp_copies.max == 1.0
    assert not report.escalations


def test_a_uplink_is_the_limit_where_it_is_narrow() -> None:
    report = run(uplink_mbit=10)
    assert report.bound_s == pytest.approx(4 * 1024 * 1024 / (10e6 / 8 * SMALL.goodput))
    assert report.seconds >= report.bound_s
    assert report.isp_copies.max == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "most"), [("regional", 1.3), ("3x4-faults", 1.3), ("full-uplink", 1.1)])
def test_uneven_fleets_cope(name: str, most: float) -> None:
    report = World(Scenario.load(ROOT / "bench" / "topologies" / f"{name}.toml"), 1).run()
    assert report.time_over_bound < most
    assert report.origin_copies < 1.1


def test_figures_of_the_pages_are_what_the_simulator_gives() -> None:
    report = World(Scenario.load(ROOT / "bench" / "topologies" / "3x4.toml"), 1).run()
    page = (ROOT / "docs" / "swarm-benchmark.md").read_text()
    assert f"puts the same fill at {report.time_over_bound:.2f} of its bound" in page
    fill_logic = " ".join((ROOT / "docs" / "fill-logic.md").read_text().split())
    assert f"a cache sends {report.messages_per_chunk:.1f} messages for each chunk" in fill_logic
    assert report.origin_copies == report.isp_copies.max == 1.0


@pytest.mark.parametrize(("topology", "most"), [("slow-source", 1.4), ("3x4-faults", 1.7)])
def test_a_cache_that_is_slow_does_not_hold_up_the_others(topology: str, most: float) -> None:
    """Without anybody passing it over, the others took 5 and 3.5 times the bound."""
    report = World(Scenario.load(ROOT / "bench" / "topologies" / f"{topology}.toml"), 1).run()
    assert report.time_over_bound <= most
    assert report.origin_copies <= 1.1
    assert report.isp_copies.max <= 1.1  # whoever is slow hears so, and does not fetch what others fetch in its place
    assert report.escalations["master-slow"] > 0


def test_an_origin_that_answers_late_is_read_from_in_parallel() -> None:
    """One chunk at a time, each waiting 0.1 s for its first byte, would take 0.1 s for each of 256."""
    scenario = Scenario(isps={"cloud": ["origin"], "a": ["a1"]}, host_mbit=400.0, size_mib=64, read_ms=100.0)
    assert World(scenario, 1).run().seconds < 0.5 * 256 * 0.1


def test_an_origin_that_is_shared_unequally_makes_a_fill_longer_and_costs_nothing_where_one_cache_fills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The network alone: nobody who is behind has a request more."""
    monkeypatch.setattr(sources, "CATCH_UP_CHUNKS", float("inf"))
    topology = ROOT / "bench" / "topologies" / "3x4.toml"
    fair = Scenario.load(topology)
    uneven = msgspec.structs.replace(fair, origin_spread=0.8)
    first, again = (World(uneven, 1).run() for _ in range(2))
    assert first.seconds == again.seconds
    assert first.seconds > 1.02 * World(fair, 1).run().seconds
    alone = Scenario(isps={"cloud": ["origin"], "a": ["a1"]}, host_mbit=400.0, size_mib=16)
    lucky = msgspec.structs.replace(alone, origin_spread=0.6)
    assert World(lucky, 1).run().seconds == pytest.approx(World(alone, 1).run().seconds)
    for wrong in (msgspec.structs.replace(uneven, exact=False), msgspec.structs.replace(fair, origin_spread=-0.1)):
        with pytest.raises(ConfigError, match="origin_spread"):
            wrong.check()
