"""`p2pfill sim` as people and scripts use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sim.worlds import CHAOS, ROOT

from p2pfill.cli import main
from p2pfill.cli.sim import parse_seeds
from p2pfill.errors import ConfigError
from p2pfill.sim.disk import StoredTitle

SCENARIO = """
host_mbit = 100
size_mib = 2
chunk_kib = 256
[isps]
isp-a = ["a1", "a2"]
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(SCENARIO)
    return path


def test_a_report_for_people(scenario: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", str(scenario), "--seed", "3"]) == 0
    said = capsys.readouterr().out
    for text in ("seed 3", "2 caches after", "time / bound", "copies into each ISP", "escalations", "none"):
        assert text in said


def test_a_report_for_scripts(scenario: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", str(scenario), "--json", "--trace", str(tmp_path / "trace")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["complete"] == 2
    assert record["wall_s"] > 0
    assert record["memory_bytes"] > 0
    lines = (tmp_path / "trace").read_text().splitlines()
    assert len(lines) == record["trace_lines"]
    assert any(line.endswith("live") for line in lines)


def test_many_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", str(CHAOS), "--seeds", "0:4"]) == 0
    assert "4 seeds passed" in capsys.readouterr().out
    assert main(["sim", str(CHAOS), "--seeds", "4:8", "--jobs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] == 4


def break_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredTitle, "write_tail", lambda *_, **__: None)


def test_a_failure_ends_with_the_command_that_repeats_it(
    scenario: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_the_world(monkeypatch)
    for arguments in (["--seed", "7"], ["--seeds", "7:9"]):
        assert main(["sim", str(scenario), *arguments]) == 1
        said = capsys.readouterr().err
        assert "which is not right on its disk" in said
        assert said.endswith(f"repeat it with: p2pfill sim {scenario} --seed 7\n")
        assert said.count("\n") == 1


def test_ranges_of_seeds() -> None:
    assert list(parse_seeds("3:5")) == [3, 4]
    for text in ("5", "5:5", "a:b", "-1:4", ""):
        with pytest.raises(ConfigError):
            parse_seeds(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "isps = 3",
        "[isps]\nisp-a = ['a1', 'a1']",
        "size_mib = 0\n[isps]\nisp-a = ['a1']",
        "colour = 'red'\n[isps]\nisp-a = ['a1']",
        "[fleet]\ncaches = 1000000",
        "[isps",
        "size_mib = 8\n[[faults]]\nkind = 'meteor'\n[isps]\nisp-a = ['a1']",
    ],
)
def test_what_is_no_scenario_is_refused_in_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert main(["sim", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("p2pfill: error: ")
    assert said.count("\n") == 1


def test_a_scenario_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", str(ROOT / "scenarios" / "absent.toml")]) != 0
    assert "absent.toml" in capsys.readouterr().err
