"""Summaries, tables, pages and plots from a recorded report of two small runs of each contender."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from docs.pages import ROOT
from rich.console import Console

from bench.swarm import plots, report, summary
from bench.swarm.__main__ import write_all
from bench.swarm.records import Report, Run

RECORDED = Path(__file__).with_name("recorded.json")
COMMITTED = ROOT / "docs" / "reports" / "swarm"


@pytest.fixture
def recorded() -> Report:
    return report.decode_report(RECORDED.read_bytes())


def one_failed(made: Report) -> Report:
    """Return the report as if libtorrent's last run had failed, and with a contender that is absent."""
    runs = [*made.runs[:-1], Run(contender="libtorrent", failed="a1 ended | with code 1")]
    return msgspec.structs.replace(made, runs=runs, absent={"other": "not installed"})


def test_a_report_survives_its_file(recorded: Report) -> None:
    again = report.decode_report(report.encode_report(recorded))
    assert report.encode_report(again) == RECORDED.read_text()


def test_figures_are_medians_and_ranges(recorded: Report) -> None:
    runs = summary.good_runs(recorded, "p2pfill")
    figure = summary.figures(recorded, "p2pfill")["time_over_bound"]
    ratios = sorted(run.seconds / recorded.bound_s for run in runs)
    assert len(runs) == 2
    assert (figure.least, figure.most) == pytest.approx((ratios[0], ratios[1]), rel=1e-3)
    assert figure.median == pytest.approx(sum(ratios) / 2, rel=1e-3)


def test_origin_copies_are_payload_over_size(recorded: Report) -> None:
    first, second = (run.payload_origin for run in summary.good_runs(recorded, "p2pfill"))
    assert min(first, second) >= recorded.topology.size == 8 << 20
    assert summary.figures(recorded, "p2pfill")["origin_copies"].median == pytest.approx((first + second) / (16 << 20))


def test_tiers_sum_up_to_what_caches_took(recorded: Report) -> None:
    """Four caches took a copy each, with headers and control traffic."""
    tiers = summary.wire_tiers(recorded, "p2pfill")
    assert 4.0 < sum(tiers.values()) < 4.4
    assert tiers["origin"] == pytest.approx(summary.figures(recorded, "p2pfill")["origin_border_copies"].median)


def test_ratios_are_those_of_medians(recorded: Report) -> None:
    found = summary.ratios(recorded, "p2pfill", "libtorrent")
    mine, other = (summary.figures(recorded, name)["seconds"].median for name in ("p2pfill", "libtorrent"))
    assert found["seconds"] == pytest.approx(mine / other)
    assert set(found) == set(summary.RATIOS)


def test_failed_runs_and_absent_contenders_are_said(recorded: Report) -> None:
    table = report.markdown_table(one_failed(recorded))
    assert "libtorrent (1 of 2 runs failed)" in table
    assert "left out: not installed" in table
    failed = msgspec.structs.replace(recorded, runs=one_failed(recorded).runs[-1:])
    assert "failed: a1 ended / with code 1" in report.markdown_table(failed)
    assert len({line.count("|") for line in report.markdown_table(failed).splitlines()}) == 1


def test_the_terminal_shows_what_the_page_shows(recorded: Report) -> None:
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(report.terminal_table(recorded))
    said = console.export_text()
    for row in report.rows(recorded):
        for cell in row:
            assert cell in said


def test_curves_of_median_runs_only_are_kept(recorded: Report) -> None:
    drawn = [run for run in recorded.runs if any(cache.curve for cache in run.caches.values())]
    assert sorted(run.contender for run in drawn) == ["libtorrent", "p2pfill"]
    for run in drawn:
        assert run.seconds == summary.median_run(recorded, run.contender).seconds  # type: ignore[union-attr]
        for cache in run.caches.values():
            assert cache.curve[0] == (0.0, 0.0)
            assert cache.curve[-1] == (pytest.approx(cache.live_s, abs=1e-3), 1.0)


def test_pages_and_plots_are_written(recorded: Report, tmp_path: Path) -> None:
    write_all({"small": recorded}, tmp_path, Console(file=io.StringIO()))
    drawn = {f"small-{what}.{kind}" for what in ("curves", "bytes") for kind in ("svg", "png")}
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "small.json", "small.md", *drawn}
    page = (tmp_path / "small.md").read_text()
    assert report.markdown_table(recorded) in page
    assert report.markdown_table(recorded) in (tmp_path / "README.md").read_text()
    assert (tmp_path / report.guide_from(tmp_path)).resolve() == report.GUIDE
    for name in ("small-curves", "small-bytes"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}.svg" in page


def test_drawing_again_changes_nothing(recorded: Report, tmp_path: Path) -> None:
    first, second = ([path.read_bytes() for path in plots.draw_report(recorded, tmp_path, "x")] for _ in range(2))
    assert first == second


def test_a_failed_contender_is_left_out_of_plots(recorded: Report, tmp_path: Path) -> None:
    runs = summary.good_runs(recorded, "p2pfill")
    failed = msgspec.structs.replace(recorded, runs=[*runs, Run(contender="libtorrent", failed="it ended")])
    assert len(plots.draw_report(failed, tmp_path, "x")) == 4


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.json")), ids=lambda path: path.stem)
def test_committed_pages_are_those_of_their_data(path: Path) -> None:
    made = report.decode_report(path.read_bytes())
    assert path.with_suffix(".md").read_text() == report.markdown_page(made, path.stem, report.guide_from(COMMITTED))
    assert report.markdown_table(made) in (COMMITTED / "README.md").read_text()
