"""The simulator beside the lab: the committed report is what both say, and none is far off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import model
from bench.swarm import report as lab_report
from bench.swarm import summary
from bench.swarm.topology import load_topology

ROOT = Path(__file__).parents[2]
LAB = ROOT / "docs" / "reports" / "swarm"
REPORT = ROOT / "docs" / "reports" / "model"


@pytest.fixture(scope="module")
def committed() -> list[model.Prediction]:
    return msgspec.json.decode((REPORT / "model.json").read_bytes(), type=list[model.Prediction])


def test_no_topology_of_the_lab_is_off_by_more_than_a_tenth(committed: list[model.Prediction]) -> None:
    of_one_title = {path.stem for path in model.TOPOLOGIES.glob("*.toml") if not load_topology(path).titles}
    assert {one.topology for one in committed} == of_one_title
    for one in committed:
        assert abs(one.off) <= model.OFF_MAX, one
        assert one.seeds >= 5


def test_the_report_compares_with_what_the_lab_has_measured(committed: list[model.Prediction]) -> None:
    reports = lab_report.read_reports(LAB)
    for one in committed:
        measured = summary.figures(reports[one.topology], "p2pfill")["time_over_bound"].median
        assert one.lab == pytest.approx(measured, abs=1e-4)
        assert one.title == reports[one.topology].topology.name
    assert (REPORT / "README.md").read_text() == model.page(committed, "../swarm")


def test_the_report_is_what_the_simulator_says(committed: list[model.Prediction]) -> None:
    """Of a topology where an uneven origin matters, and of a quick one."""
    for one in committed:
        if one.topology in ("2x8", "full-uplink"):
            path = model.TOPOLOGIES / f"{one.topology}.toml"
            assert model.simulate(path, one.seeds, model.ORIGIN_SPREAD) == pytest.approx(one.simulated, abs=1e-4)
            if one.topology == "full-uplink":
                assert model.simulate(path, one.seeds, 0.0) == pytest.approx(one.fair, abs=1e-4)


def run(lab: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.model", "--lab", str(lab), "--seeds", "1", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_command_says_where_it_is_off(tmp_path: Path) -> None:
    report = json.loads((LAB / "full-uplink.json").read_text())
    for one in report["runs"]:
        one["bound_s"] /= 1.3
    (tmp_path / "full-uplink.json").write_text(json.dumps(report))
    done = run(tmp_path, "--json", "--out", str(tmp_path / "out"))
    assert done.returncode == 1, done.stderr
    (one,) = json.loads(done.stdout)
    assert one["lab"] > 1.2 * one["simulated"]
    assert "-2" in (tmp_path / "out" / "README.md").read_text()
    assert "full-uplink: lab" in done.stderr


def test_without_reports_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "make bench-swarm" in done.stderr
    (tmp_path / "strange.json").write_text((LAB / "full-uplink.json").read_text())
    done = run(tmp_path)
    assert done.returncode == 2
    assert "strange" in done.stderr
