"""The benchmark of starting, with one short run."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from bench import starting
from bench.starting import CALLED, NAMES, NODES, ROOT, Kind, Report, Start, main
from p2pfill.bench.measure import BenchFailed, describe_machine

pytestmark = pytest.mark.process


def test_a_short_run_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "starting.json"
    assert main(["--runs", "1", "--out", str(out)]) in (0, 1)
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    spent = {kind.name: kind.cpu_s.median for kind in report.kinds}
    assert all(len(kind.starts) == 1 for kind in report.kinds)
    assert 0 < spent["python"] < min(spent[name] for name in NODES)
    for name in NODES:
        assert spent[f"{name}{CALLED}"] > spent["python"]
    assert "first heartbeat" in capsys.readouterr().out


@pytest.mark.parametrize(("spent_s", "reached"), [(0.29, True), (0.31, False)])
def test_the_reach_is_that_of_the_first_tree(tmp_path: Path, spent_s: float, reached: bool) -> None:
    first = [Kind(name, "new", [Start(spent_s - 0.1, 0.1, 1.0)]) for name in NODES]
    others = [Kind("p2pfill --version", "new", [Start(9.0, 9.0, 9.0)]), Kind(NODES[0], "old", [Start(9.0, 9.0, 9.0)])]
    assert Report(describe_machine(tmp_path), [*first, *others]).reached == reached


def test_what_never_is_ready_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(starting.KINDS, "broken", ["-c", "raise SystemExit('it broke')"])
    with socket.create_server(("127.0.0.1", 0)) as tracker, pytest.raises(BenchFailed, match="it broke"):
        starting.start("broken", ROOT, tmp_path / "data", tmp_path, tracker)


def test_the_page_says_what_was_measured() -> None:
    report = msgspec.json.decode((ROOT / "docs/reports/starting/starting.json").read_bytes(), type=Report)
    page = (ROOT / "docs/experiments.md").read_text()
    spent = {(kind.name, kind.root): kind.cpu_s.median for kind in report.kinds}
    for name in NAMES:
        assert f"| {name} | {spent[name, 'before']:.2f} | {spent[name, 'after']:.2f} |\n" in page
    assert report.reached
