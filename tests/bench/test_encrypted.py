"""The benchmark of encrypted data streams, with one short run."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import msgspec
import pytest

from bench.encrypted import KINDS, Report, main

SIDES: Final[tuple[Literal["sender", "receiver"], ...]] = ("sender", "receiver")
DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_says_what_was_measured() -> None:
    report = msgspec.json.decode((DOCS / "reports/bench/encrypted.json").read_bytes(), type=Report)
    page = (DOCS / "certificates.md").read_text()
    runs = {len(report.runs[kind]) for kind in KINDS}
    assert f"a title of {report.size_bytes >> 20} MiB" in page
    assert f"medians of {runs.pop()} runs" in page
    assert not runs
    for kind in KINDS:
        costs = (report.cost(kind, side).median for side in SIDES)
        assert f"| {kind} | {report.rate(kind).median:.2f} | {' | '.join(f'{cost:.2f}' for cost in costs)} |" in page
    times = {side: report.cost("encrypted", side).median / report.cost("plain", side).median for side in SIDES}
    assert f"the sender has {times['sender']:.1f} times the work and the receiver {times['receiver']:.1f} times" in page
    assert ("kept all processors of that machine busy" in page) == all(
        run.load.busy > 0.95 for kind in KINDS for run in report.runs[kind]
    )
    assert ("it showed no TLS" in page) == (not report.kernel_has_tls)


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
