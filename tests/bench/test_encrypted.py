"""The benchmark of encrypted data streams, with one short run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.encrypted import KINDS, Report, main


def test_a_short_run_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "encrypted.json"
    assert main(["--mib", "24", "--runs", "1", "--work", str(tmp_path), "--out", str(out)]) == 0
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    assert report.size_bytes == 24 << 20
    assert {kind: len(report.runs[kind]) for kind in KINDS} == {"plain": 1, "encrypted": 1}
    for kind in KINDS:
        (run,) = report.runs[kind]
        assert run.seconds > 0
        assert run.sender.total_s + run.receiver.total_s > 0
    said = capsys.readouterr().out
    assert all(kind in said for kind in KINDS)
