"""The benchmark of handshakes, with one short run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.handshakes import Report, main


def test_a_short_run_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "handshakes.json"
    code = main(["--seconds", "0.2", "--runs", "2", "--revoked", "10", "--out", str(out)])
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    assert (len(report.runs), report.revoked) == (2, 10)
    for run in report.runs:
        assert run.handshakes > 0
        assert 0 < run.peer_s < run.accepting_s
        assert run.rate == pytest.approx(run.handshakes / run.accepting_s)
    assert code == (0 if report.rate >= 500 else 1)
    assert f"median {report.rate:.0f} handshakes" in capsys.readouterr().out
