"""The fan-out: a small one of real nodes, what is measured of it, and how titles are sized."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfill.bench import fanout, report
from p2pfill.bench.fanout import FanReport, FanRun, Point
from p2pfill.bench.measure import BenchFailed, Load, Machine

MACHINE = Machine("2030-01-01", "Linux 6", "a processor", 2, 8 << 30, "ext4", "3.11", "0.1", True)
MIB = 1 << 20


@pytest.mark.process
def test_two_receivers_and_two_sources(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "p2pfill.cli", "bench", "fanout", "--mib", "8", "--runs", "1", "--json"]
    command += ["--receivers", "2", "--sources", "2", "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    shape = [(point["direction"], point["count"]) for point in record["figures"]]
    assert shape == [("out", 1), ("out", 2), ("in", 1), ("in", 2)]
    for point in record["figures"]:
        assert point["rate_gb_s"]["median"] > 0
        assert min(side["median"] for side in point["cpu_s_per_gb"].values()) > 0
        assert 20 * MIB < point["one_peak_bytes"] < 200 * MIB
    assert set(record["ratios"]) == {"2 receivers/pair", "2 sources/pair"}
    assert re.search(r"run 1 of 1: one node serves 2", done.stderr)
    assert not list(tmp_path.iterdir()), "the work is left behind"


@pytest.mark.process
def test_each_size_of_a_title_has_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "TOTAL_MIB_MAX", 4)
    made = fanout.run_fanout(tmp_path, 4, 1, [1, 2], [])
    assert [(point.count, point.size_bytes // MIB) for point in made.points] == [(1, 4), (1, 2), (2, 2)]
    assert fanout.ratios(made)["2 receivers/pair"] == pytest.approx(
        fanout.rate(made.points[2]).median / fanout.rate(made.points[1]).median
    )


@pytest.mark.process
def test_a_receiver_that_is_wrong_makes_the_run_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live_file = fanout.live_file

    def spoilt(work: Path, name: str, title: str) -> Path:
        path = live_file(work, name, title)
        if name == "fetch-01":
            with path.open("r+b") as file:
                file.write(b"\0" * 16)
        return path

    monkeypatch.setattr(fanout, "live_file", spoilt)
    with pytest.raises(BenchFailed, match="fetch-01 fetched a file whose XXH3-128"):
        fanout.run_fanout(tmp_path, 1, 1, [2], [])


def test_titles_are_smaller_where_all_copies_would_be_too_much() -> None:
    assert fanout.sizes_mib("out", [1, 16, 64], 512) == {1: 512, 16: 256, 64: 64}
    assert fanout.sizes_mib("in", [1, 64], 512) == {1: 64, 64: 64}
    assert fanout.sizes_mib("out", [1, 64], 4) == {1: 4, 64: 4}


def test_rates_are_of_all_together_and_over_the_pair_beside_them() -> None:
    def runs(seconds: float, busy: float, disk: float | None) -> list[FanRun]:
        return [FanRun(seconds, 1.0, 2.0, 50 << 20, Load(busy, 0.0, 0.0, disk, None))] * 3

    made = FanReport(
        MACHINE,
        [
            Point("out", 1, 500_000_000, runs(0.1, 0.5, 0.5)),
            Point("out", 1, 250_000_000, runs(0.25, 0.5, 0.5)),
            Point("out", 16, 250_000_000, runs(5.0, 0.95, 0.92)),
            Point("in", 1, 500_000_000, runs(0.4, 0.5, None)),
            Point("in", 4, 500_000_000, runs(0.5, 0.5, 0.95)),
        ],
    )
    assert fanout.ratios(made) == {"16 receivers/pair": pytest.approx(0.8), "4 sources/pair": pytest.approx(0.8)}
    assert fanout.cost(made.points[2])["receiver"].median == pytest.approx(0.5)
    assert [fanout.limit_of(point) for point in made.points] == ["", "", "processors and disk", "", "disk"]
    text = report.page({"fanout": made})
    assert "| 16 receivers/pair | 0.80 | at least 1 | **no** |" in text
    assert "one node serves 16: processors and disk; one receiver fetches from 4: disk." in text
