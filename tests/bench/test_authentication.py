"""The benchmark of what certificates cost a fill, with one short run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.authentication import KINDS, Cost, Report, main
from p2pfill.bench.measure import describe_machine


def test_a_short_run_of_both_kinds_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "authentication.json"
    assert main(["--chunks", "4,64", "--chunk-kib", "64", "--runs", "1", "--out", str(out)]) == 0
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    assert sorted(cost.kind for cost in report.costs) == sorted(KINDS)
    for cost in report.costs:
        assert cost.user_us + cost.system_us > 0
        assert cost.instructions == 0
    assert "ratio" in capsys.readouterr().out


def test_medians_are_of_one_kind_and_size() -> None:
    costs = [Cost("clear", 1, instructions=number) for number in (1, 5, 3)] + [Cost("clear", 2, instructions=9)]
    report = Report(describe_machine(Path.cwd()), (1, 2), costs)
    assert report.median("clear", 1, "instructions") == 3
