"""The benchmark of signatures, with one short run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.signatures import Report, main

REPORTED = Path(__file__).parents[2] / "docs/reports/publishers/signatures.json"


def test_a_short_run_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "signatures.json"
    assert main(["--titles", "20", "--runs", "2", "--out", str(out)]) == 0
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    assert [len(cost.micros) for cost in report.costs] == [2] * 5
    one, _, many = (cost.median for cost in report.costs[:3])
    assert 0 < one < many
    assert "signatures, threshold 16" in capsys.readouterr().out


def test_the_page_says_what_was_measured() -> None:
    report = msgspec.json.decode(REPORTED.read_bytes(), type=Report)
    assert [cost.what for cost in report.costs][:3] == [f"signatures, threshold {count}" for count in (1, 2, 16)]
    for cost, signatures in zip(report.costs, (1, 2, 16), strict=False):
        assert 100 < cost.median / signatures < 150  # an eighth of a millisecond
