"""The C program that moves a fleet's bytes: who fetches from whom, and what it moves, from itself over the loopback."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest
import xxhash
from ports import free_port

from bench.swarm.floor_fleet import FLOORS, FloorFleet, FloorOf4, FloorOf11, Prepared
from bench.swarm.processes import Processes, ThisMachine
from bench.swarm.topology import parse_topology

SIZE = 3_000_001
"""Not a multiple of anything."""

TOPOLOGY = parse_topology(
    'host_mbit = 100\nsize_mib = 1\n[isps]\ncloud = ["origin"]\nx = ["a", "b"]\ny = ["c", "d", "e"]\n', "five caches"
)


def fleet(kind: type[FloorFleet], path: Path) -> FloorFleet:
    return kind(TOPOLOGY, Processes(ThisMachine(), path), path, Prepared(path, path))


def test_each_cache_has_as_many_sources_and_each_is_one_as_often(tmp_path: Path) -> None:
    one, four = fleet(FloorFleet, tmp_path).sources(), fleet(FloorOf4, tmp_path).sources()
    assert one == {"a": ["e"], "b": ["a"], "c": ["b"], "d": ["c"], "e": ["d"]}
    assert all(sorted([cache, *names]) == ["a", "b", "c", "d", "e"] for cache, names in four.items())


def test_where_there_are_too_few_others_the_origin_is_a_source_too(tmp_path: Path) -> None:
    found = fleet(FloorOf11, tmp_path).sources()
    assert found["c"] == ["b", "a", "e", "d", "origin"]
    assert list(FLOORS) == ["C floor, 1 source", "C floor, 4 sources", "C floor, 11 sources"]


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if why := FloorFleet.missing():
        pytest.skip(why)
    return FloorFleet.prepare(Path(), tmp_path_factory.mktemp("floor")).binary


def fetch(binary: Path, source: Path, size: int, count: int) -> subprocess.CompletedProcess[str]:
    order = json.dumps({"sources": ["127.0.0.1"] * count}) + "\n"
    command = [str(binary), str(free_port()), str(source), str(size), str(source.with_name("copy"))]
    # Its input ends after the order, so it ends when it has fetched.
    return subprocess.run(command, input=order, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.process
@pytest.mark.parametrize("count", [1, 4, 11])
def test_all_parts_come_and_are_hashed(count: int, binary: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(data := os.urandom(SIZE))
    done = fetch(binary, source, SIZE, count)
    assert done.returncode == 0, done.stderr
    ready, end = map(json.loads, done.stdout.splitlines())
    assert ready["ready"] > 0
    ends = [SIZE * number // count for number in range(count + 1)]
    parts = [data[first:last] for first, last in itertools.pairwise(ends)]
    assert end["digests"] == [xxhash.xxh3_128_hexdigest(part) for part in parts]
    assert (tmp_path / "copy").read_bytes() == data


@pytest.mark.process
def test_a_source_that_is_shorter_is_no_result(binary: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(SIZE // 2))
    done = fetch(binary, source, SIZE, 4)
    assert done.returncode == 1
    assert "recv" in done.stderr
    assert "live_at" not in done.stdout
