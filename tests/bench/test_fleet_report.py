"""The fleets' command: smaller fleets of one shape, a page and plots of what was measured, and the committed report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import fleet
from p2pfill.sim.scenario import Scenario

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs" / "reports" / "fleet"


def test_a_smaller_fleet_has_isps_of_the_same_size_and_the_same_regions() -> None:
    whole = Scenario.load(ROOT / "scenarios" / "fleet-20000.toml")
    shapes = {}
    for size in fleet.SIZES:
        made = fleet.smaller(whole, size).fleet
        assert made is not None
        assert made.caches == size
        shapes[size] = (made.isps, made.regions)
    assert shapes[20_000] == (200, 8)
    assert shapes[10_000] == (100, 4)
    assert shapes[1000] == (10, 1)
    assert shapes[10] == (2, 1)


def test_a_stopwatch_counts_calls_inside_calls_once() -> None:
    watch = fleet.Stopwatch()
    inner = watch.timed(lambda: sum(range(20_000)))
    outer = watch.timed(lambda: [inner() for _ in range(20)])
    outer()
    once = watch.total_ns
    inner()
    assert 0 < watch.total_ns - once < once


def test_the_command_measures_and_draws(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.fleet", "--only", "growth", "--sizes", "10,20", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    record = json.loads((tmp_path / "fleet.json").read_text())
    assert [one["caches"] for one in record["growth"]] == [10, 20]
    for one in record["growth"]:
        assert one["time_over_bound"] >= 1
        assert one["origin_copies"] == pytest.approx(1.0)
        assert one["scheduler_us"] > 0
    assert "| 20 |" in done.stdout
    if not fleet.missing():
        assert (tmp_path / "growth.png").stat().st_size > 5000
    redraw = [*command[:3], "--redraw", "--out", str(tmp_path)]
    redrawn = subprocess.run(redraw, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    assert redrawn.stdout == done.stdout


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(SystemExit):
        fleet.parse_arguments(["--sizes", "ten"])
    with pytest.raises(SystemExit):
        fleet.parse_arguments(["--sizes", "1"])


def test_the_committed_page_is_what_its_figures_give() -> None:
    results = msgspec.json.decode((REPORT / "fleet.json").read_bytes(), type=fleet.Results)
    assert (REPORT / "README.md").read_text() == fleet.page(results)
    assert set(results.large) == set(fleet.LARGE)
    assert [one.caches for one in results.growth] == list(fleet.SIZES)
