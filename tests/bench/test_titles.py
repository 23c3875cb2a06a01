"""What a report of several titles says, from rounds whose times are known."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bench.swarm import report, summary, titles
from bench.swarm.records import CacheRun, Report, Run
from bench.swarm.topology import parse_topology

TOPOLOGY = parse_topology(
    'host_mbit = 100\n[isps]\ncloud = ["origin"]\nisp-a = ["a1", "a2"]\n'
    "[[titles]]\nname = 'bulk'\nsize_mib = 40\n"
    "[[titles]]\nname = 'urgent'\nsize_mib = 10\npriority = 5\nat_s = 2.0\n",
    "two titles",
)
ROUNDS = ((8.0, 2.0, 9.9, 2.4), (10.0, 2.0, 11.4, 2.1), (10.0, 4.0, 14.0, 4.0))
"""Seconds of the bulk alone, of the urgent title alone, of both together, and of the urgent one in that."""


def run_of(name: str, seconds: float, size: int, titles_s: dict[str, float] | None = None) -> Run:
    caches = {"a1": CacheRun("isp-a", True, seconds, 1.0, [(0.0, 0.0), (seconds, 1.0)])}
    return Run(
        contender=name, seconds=seconds, bound_s=1.0, caches=caches, cpu_s={"a1": 1.0}, payload_origin=size,
        isp_copies={"isp-a": 1.0}, origin_border_copies=1.0, titles_s=titles_s or {},
    )  # fmt: skip


@pytest.fixture
def made() -> Report:
    runs = []
    for bulk_s, urgent_s, total_s, beside_s in ROUNDS:
        runs.append(run_of("bulk alone", bulk_s, 40 << 20))
        runs.append(run_of("urgent alone", urgent_s, 10 << 20))
        runs.append(run_of("all together", total_s, 50 << 20, {"bulk": total_s, "urgent": beside_s}))
    here = report.surroundings({"p2pfill": "p2pfill 0"}, "cubic", 0.957, None)
    return report.make_report(TOPOLOGY, runs, {}, here)


def test_ratios_are_taken_inside_each_round(made: Report) -> None:
    found = titles.figures(made)
    assert found["urgent"]["ratio"] == pytest.approx((1.05, 1.0, 1.2))
    assert found["urgent"]["beside_s"] == (2.4, 2.1, 4.0)
    assert found["bulk"]["alone_s"] == (10.0, 8.0, 10.0)
    assert found["all together"]["alone_s"] == (12.0, 10.0, 14.0)
    assert found["all together"]["ratio"] == pytest.approx((0.99, 0.95, 1.0))


def test_a_round_with_a_run_that_failed_counts_for_nothing(made: Report) -> None:
    made.runs[4] = Run(contender="urgent alone", failed="a1 ended")
    assert titles.figures(made)["urgent"]["ratio"] == pytest.approx((1.1, 1.0, 1.2))
    made.runs = made.runs[3:6]
    assert titles.figures(made) == {}
    assert report.titles_table(made) is None
    assert report.titles_markdown(made) == ""


def test_copies_are_of_what_a_run_fills(made: Report) -> None:
    for name in summary.contenders(made):
        assert summary.figures(made, name)["origin_copies"].median == 1.0


def test_the_report_has_the_second_table_in_all_its_forms(made: Report) -> None:
    again = report.decode_report(report.encode_report(made))
    assert report.encode_report(again) == report.encode_report(made)
    record = json.loads(report.encode_report(made))
    assert record["summary"]["titles"]["urgent"]["ratio"] == {"median": 1.05, "least": 1.0, "most": 1.2}
    assert "ratios" not in record["summary"]
    page = report.markdown_page(again, "two", "guide.md")
    assert "50 MiB in all" in page
    assert "| urgent | priority 5, at 2.0 s | 2.0 (2.0 to 4.0) | 2.4 (2.1 to 4.0) | 1.050 (1.000 to 1.200) |" in page
    assert "| all together / the sum |  | 12.0 (10.0 to 14.0) | 11.4 (9.9 to 14.0) | 0.990 (0.950 to 1.000) |" in page
    assert report.titles_markdown(made) in report.overview({"two": again}, "guide.md")
    table = report.titles_table(again)
    assert table is not None
    console = Console(file=io.StringIO(), width=200, record=True)
    console.print(table)
    assert "1.050 (1.000 to 1.200)" in console.export_text()
