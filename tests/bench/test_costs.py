"""Where processor time went: sums, medians and tables over runs, from made-up runs and from the recorded ones."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from docs.pages import ROOT
from rich.console import Console

from bench.swarm import costs, counts, report
from bench.swarm.clocks import Cpu, GroupUse
from bench.swarm.records import CacheRun, MachineUse, ProcessUse, Report, Run
from bench.swarm.topology import parse_topology

RECORDED = Path(__file__).with_name("recorded.json")
TOPOLOGY = parse_topology(
    'host_mbit = 100\nsize_mib = 1\n[isps]\ncloud = ["origin"]\nisp-a = ["a1", "a2"]\n', "two caches"
)


def run_of(name: str, user_s: float, busy: float = 0.5, *, counted: bool = True) -> Run:
    """Return a run that moved 2 GB to two caches, which took `user_s` each and half of that in the kernel."""
    use = ProcessUse(Cpu(0.5, 0.1), Cpu(user_s, user_s / 2), (1000, 10))
    return Run(
        contender=name, seconds=10.0, bound_s=8.0,
        caches={cache: CacheRun("isp-a", True, 10.0, 8.0, [(0.0, 0.0), (10.0, 1.0)]) for cache in ("a1", "a2")},
        isp_copies={"isp-a": 1.0},
        cpu_s={"a1": 1.5 * user_s, "a2": 1.5 * user_s, "origin": 0.3},
        processes={"a1": use, "a2": use, "origin": ProcessUse(Cpu(0.2, 0.0), Cpu(0.2, 0.1), (0, 0))},
        groups={
            "caches: main": GroupUse(2, 2 * user_s, user_s, 1500, 20),
            "origin: main": GroupUse(1, 0.2, 0.1, 0, 0),
            "caches: stdin": GroupUse(2, 0.001, 0.0, 500, 0),
        },
        moved_bytes=2_000_000_000, wire_bytes=2_100_000_000,
        machine=MachineUse(10.0, busy, 0.05, 0.3, 0.02),
        chunks=1000.0 if counted else 0.0, counts=dict.fromkeys(counts.COUNTS, 2500) if counted else {},
    )  # fmt: skip


def made(runs: list[Run], floors: list[Run] | None = None) -> Report:
    here = report.surroundings({"p2pfill": "p2pfill 0"}, "cubic", 0.957, None)
    found = report.make_report(TOPOLOGY, runs, {}, here)
    found.floors = floors or []
    return found


def table(found: Report, name: str) -> dict[str, tuple[str, ...]]:
    rows = next(table.rows for table in costs.tables(found, report._show) if table.name == name)
    return {row[0]: row[1:] for row in rows}


def test_seconds_are_divided_by_the_payload_and_starts_are_apart() -> None:
    found = made([run_of("p2pfill", user_s) for user_s in (2.0, 4.0, 3.0)])
    figures = costs.figures(costs.measured(found)["p2pfill"])
    # 2 x 3.0 of caches and 0.2 of the origin, of 2 GB.
    assert figures["user_s_gb"] == pytest.approx((3.1, 2.1, 4.1))
    assert figures["system_s_gb"] == pytest.approx((1.55, 1.05, 2.05))
    assert figures["cpu_s_gb"] == pytest.approx((4.65, 3.15, 6.15))
    assert figures["start_s"] == pytest.approx((1.4, 1.4, 1.4))
    assert figures["voluntary_gb"].median == pytest.approx(1000)
    assert table(found, costs.FILL)["p2pfill"][2] == "4.65 (3.15 to 6.15)"
    assert table(found, "By process")["p2pfill, a cache of 2"] == (
        "0.50", "0.10", "3.00 (2.00 to 4.00)", "1.50 (1.00 to 2.00)",
    )  # fmt: skip


def test_groups_that_took_nothing_to_speak_of_have_no_row() -> None:
    rows = table(made([run_of("p2pfill", 2.0)]), "By group of threads, in the fill")
    assert list(rows) == ["p2pfill, caches: main", "p2pfill, origin: main"]
    assert rows["p2pfill, caches: main"] == ("2.00", "1.00", "750", "10")


def test_chunks_are_counted_only_where_a_contender_counts() -> None:
    found = made([run_of("p2pfill", 2.0), run_of("libtorrent", 2.0, counted=False)])
    assert list(table(found, costs.CHUNK)) == ["p2pfill"]
    assert set(table(found, costs.CHUNK)["p2pfill"]) == {"2.50"}


def test_busy_processors_are_said_from_the_limit_on() -> None:
    said = costs.lines(made([run_of("p2pfill", 2.0, 0.66), run_of("libtorrent", 2.0, 0.64)]))
    # What the host of a virtual machine took was not there to be had either: 0.66 + 0.05.
    assert len(said) == 1
    assert said[0].startswith("In fills of p2pfill processors were taken to 71%, 30% by it and 34% by others: ")


def test_others_are_what_is_left() -> None:
    use = MachineUse(10.0, 0.5, 0.05, 0.3, 0.02)
    assert (use.others, use.taken) == pytest.approx((0.18, 0.55))
    assert MachineUse(10.0, 0.3, 0.0, 0.31, 0.01).others == 0.0


def test_floors_stand_beside_contenders_but_are_none() -> None:
    found = made([run_of("p2pfill", 2.0)], [run_of("C floor, 1 source", 0.5, counted=False)])
    assert list(table(found, costs.FILL)) == ["p2pfill", "C floor, 1 source"]
    assert [row[0] for row in report.rows(found)] == ["p2pfill"]
    page = report.markdown_page(found, "two", "guide.md")
    assert "| C floor, 1 source | 1.25 | 10.0 | 0.90 | 0.60 | 0.30 | 1.40 |" in page
    assert "guide.md#processor-time" in page
    again = report.decode_report(report.encode_report(found))
    assert report.encode_report(again) == report.encode_report(found)
    assert len(again.floors) == 1


def test_a_run_that_failed_or_says_nothing_is_left_out() -> None:
    silent = msgspec.structs.replace(run_of("p2pfill", 2.0), machine=None)
    found = made([run_of("p2pfill", 4.0), silent, Run(contender="p2pfill", failed="it ended")])
    assert costs.figures(costs.measured(found)["p2pfill"])["cpu_s_gb"].most == pytest.approx(6.15)


def test_the_recorded_runs_have_all_tables() -> None:
    found = report.decode_report(RECORDED.read_bytes())
    assert [len(table.rows) > 0 for table in costs.tables(found, report._show)] == [True] * 5
    for name, runs in costs.measured(found).items():
        for run in runs:
            by_group = sum(use.user_s + use.system_s for use in run.groups.values())
            by_process = sum(sum(use.fill) for use in run.processes.values())
            assert by_group == pytest.approx(by_process, abs=0.001 * len(run.groups)), name
            assert run.moved_bytes == 4 * 8 << 20
            assert run.wire_bytes > run.moved_bytes
    assert {row[0] for row in costs.fill_rows(found, report._show)} >= {"p2pfill", "C floor, 4 sources"}


def test_reports_made_before_have_none_of_this() -> None:
    before = report.decode_report((ROOT / "docs" / "reports" / "swarm" / "3x4-titles.json").read_bytes())
    stripped = [
        msgspec.structs.replace(run, moved_bytes=0, machine=None, processes={}, groups={}) for run in before.runs
    ]
    before.runs = stripped
    assert costs.tables(before, report._show) == []
    assert costs.lines(before) == []
    assert "costs" not in report.encode_report(before)


def test_a_terminal_of_80_columns_shows_where_time_went_and_cuts_nothing() -> None:
    found = made([run_of("p2pfill", 2.0), run_of("libtorrent", 2.0)], [run_of("C floor, 11 sources", 0.5)])
    console = Console(width=80, file=io.StringIO(), highlight=False)
    for one in [report.terminal_table(found), *report.cost_tables(found)]:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert costs.GROUPS in said
    assert "processor" in said
    assert "\u2026" not in said
