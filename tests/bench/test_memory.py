"""Memory that is touched before a benchmark runs."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from bench.swarm import memory
from bench.swarm.topology import load_topology

ROOT = Path(__file__).parents[2]


def test_all_of_it_is_touched_and_freed() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert memory.touch(8 * memory.MIB + 5) == 8 * memory.MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before >= 4, "no page of it was ever had"


@pytest.mark.parametrize(("available_kib", "touched_mib"), [(9 * 1024, 4), (1024, 0)])
def test_no_more_than_half_of_what_is_available(tmp_path: Path, available_kib: int, touched_mib: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available_kib} kB\n")
    assert memory.touch(1 << 40, meminfo) == touched_mib * memory.MIB


def test_as_much_as_a_fill_needs() -> None:
    one = memory.bytes_of(load_topology(ROOT / "bench/topologies/3x4.toml"))
    titles = load_topology(ROOT / "bench/topologies/3x4-titles.toml")
    assert one == 2 * 13 * 256 * memory.MIB
    assert len(titles.titles) > 1
    assert memory.bytes_of(titles) == 2 * 13 * sum(title.size_mib for title in titles.titles) * memory.MIB
