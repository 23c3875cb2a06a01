"""The benchmark of a node's event loop, with one short run."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.loop import REACH, ROOT, Report, Run, main, parse_arguments, show
from p2pfill.bench.measure import describe_machine


@pytest.mark.process
def test_a_second_is_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "loop.json"
    assert main(["--runs", "1", "--seconds", "1", "--rate", "400", "--links", "2", "--out", str(out)]) in (0, 1)
    report = msgspec.json.decode(out.read_bytes(), type=Report)
    (run,) = report.runs
    # On a machine that does other work it may be late, and never early.
    assert 40 < run.chunks_s < 440
    assert run.user > 0
    assert 0 < run.share < 1
    assert run.ticks_s > 0
    # A request for each chunk, and one or two that are on their way more or less.
    assert run.messages_s == pytest.approx(run.chunks_s, rel=0.2)
    assert run.chunk_us == pytest.approx(run.share / run.chunks_s * 1e6)
    assert not report.moves_payload
    assert "no payload is moved" in capsys.readouterr().out


@pytest.mark.parametrize(("share", "reached"), [(REACH - 0.01, True), (REACH + 0.01, False)])
def test_the_reach_is_that_of_the_first_tree(tmp_path: Path, share: float, reached: bool) -> None:
    runs = [
        Run(root, 2500.0, user, 0.0, 1.0, 1.0, 0.0)
        for root, shares in (("new", (share, share, 9.0)), ("old", (9.0, 9.0, 0.0)))
        for user in shares
    ]
    assert Report(describe_machine(tmp_path), 2500.0, 8, runs).reached == reached


@pytest.mark.parametrize("wrong", [["--rate", "0"], ["--links", "0"], ["--seconds", "0"], ["--runs", "0"]])
def test_what_cannot_be_measured_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(wrong)
    assert "at least 1" in capsys.readouterr().err


def test_the_page_names_the_command() -> None:
    assert "`python -m bench.loop`" in (ROOT / "docs" / "benchmark.md").read_text()


def test_the_table_names_the_aim_long_paths_and_trees_without_the_native_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "/" + "/".join(f"directory-{number:02}" for number in range(12))
    runs = [Run(long, 2500.0, 0.2, 0.0, 1.0, 1.0, 0.111), Run("old", 2500.0, 0.05, 0.0, 1.0, 1.0, 0.222, native=False)]
    show(Report(describe_machine(tmp_path), 2500.0, 8, runs))
    said = capsys.readouterr().out
    assert "2,500 chunks of 4 MiB a second from 8 links" in said
    assert "11.1%" in said  # the last column
    assert "old (pure Python)" in said
    assert said.endswith(f"is missed by {long}\n")
