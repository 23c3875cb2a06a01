"""One small fill with each contender in a real lab, and the end of a run that is interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from docs.pages import ROOT

from bench.swarm.counts import COUNTS
from bench.swarm.floor_fleet import FLOORS
from bench.swarm.lab import PREFIX, Lab, entered, remove_leftovers
from bench.swarm.libtorrent_fleet import LibTorrent
from bench.swarm.topology import load_topology

pytestmark = [pytest.mark.process, pytest.mark.netns, pytest.mark.alone]

TOPOLOGY = """
name = "test"
host_mbit = 100
size_mib = 4

[isps]
cloud = ["origin"]
isp-a = ["a1", "a2"]
isp-b = ["b1", "b2"]
"""

TITLES = """
[[titles]]
name = "bulk"
size_mib = 6

[[titles]]
name = "urgent"
size_mib = 2
priority = 1
at = 0.3
"""


@pytest.fixture(autouse=True)
def _can_make_namespaces() -> None:
    lacking = "root" if os.geteuid() else "iproute2" if not shutil.which("ip") or not shutil.which("tc") else ""
    if lacking:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"the lab needs {lacking}")
        pytest.skip(f"the lab needs {lacking}")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command line of one run of each contender on a small topology."""
    path = tmp_path / "test.toml"
    path.write_text(TOPOLOGY)
    return [sys.executable, "-m", "bench.swarm", str(path), "--runs", "1", "--work", str(tmp_path)]


def namespaces_of(pid: int) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.startswith(f"{PREFIX}{pid}-")]


def test_both_contenders_fill_the_lab(command: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(
        [*command, "--floor", "--json", "--out", str(tmp_path / "out")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        said, complaints = process.communicate(timeout=240)
    assert process.returncode == 0, complaints
    assert not namespaces_of(process.pid)
    record = json.loads(said)
    assert set(record["absent"]) == ({"libtorrent"} if LibTorrent.missing() else set())
    for run in [*record["runs"], *record["floors"]]:
        assert not run["failed"]
        assert run["moved_bytes"] == 4 * 4 << 20
        assert 0 < run["moved_bytes"] < run["wire_bytes"] < 1.5 * run["moved_bytes"]
        assert set(run["processes"]) >= {"origin", "a1", "a2", "b1", "b2"}
        assert 0 < run["machine"]["contender"] <= run["machine"]["busy"] + 0.05
        assert run["groups"]["caches: main"][0] == 4
    assert [run["contender"] for run in record["floors"]] == list(FLOORS)
    for run in record["runs"]:
        # Token buckets that are full at first let a small title be a little faster than its links.
        assert run["seconds"] > 0.9 * run["bound_s"]
        assert all(copies > 1.0 for copies in run["isp_copies"].values())
        assert run["origin_border_copies"] > 1.0
        assert len(run["cpu_s"]) >= 5
        assert all(cache["curve"][-1][1] == 1.0 for cache in run["caches"].values())
    fill = record["runs"][0]
    assert fill["contender"] == "p2pfill"
    assert sum(fill["payload_tiers"].values()) == 4 * 4 * 1024 * 1024
    assert {"tracker", "origin"} <= fill["processes"].keys()
    assert fill["groups"]["caches: data plane"][0] >= 4
    assert all(use["start"][0] > 0 for use in fill["processes"].values())
    assert fill["chunks"] >= 4 * 4
    assert set(fill["counts"]) == set(COUNTS)
    assert min(fill["counts"].values()) > 0
    assert (tmp_path / "out" / "test.md").is_file()


def test_several_titles_fill_the_lab_alone_and_together(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "test.toml").write_text(TOPOLOGY + TITLES)
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert [run["contender"] for run in record["runs"]] == ["bulk alone", "urgent alone", "all together"]
    for run, mib in zip(record["runs"], (6, 2, 8), strict=True):
        assert not run["failed"]
        assert sum(run["payload_tiers"].values()) == 4 * mib << 20
    together = record["runs"][-1]
    assert 0 < together["titles_s"]["urgent"] < together["seconds"]
    assert together["titles_s"]["bulk"] <= together["seconds"] + 0.01
    found = record["summary"]["titles"]["urgent"]
    assert found["alone_s"]["median"] == record["runs"][1]["seconds"]
    assert found["beside_s"]["median"] == together["titles_s"]["urgent"]


def test_nothing_is_left_of_a_run_that_is_interrupted(command: list[str], tmp_path: Path) -> None:
    with subprocess.Popen([*command, "--only", "p2pfill"], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("p2pfill-swarm-*/run/tracker.log")) and time.monotonic() < until:
            time.sleep(0.02)
        assert namespaces_of(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not namespaces_of(process.pid)
    assert not list(tmp_path.glob("p2pfill-swarm-*"))


def test_what_a_killed_lab_has_left_is_removed_and_nothing_else() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    names = [f"{PREFIX}{gone.pid}-core", f"{PREFIX}{os.getpid()}-core", f"test-{os.getpid()}"]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
        assert names[0] in remove_leftovers()
        assert not namespaces_of(gone.pid)
        assert namespaces_of(os.getpid())
        assert Path("/run/netns", names[2]).exists()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def move_for_ever(sock: socket.socket, *, sends: bool) -> None:
    payload = bytes(1 << 20)
    with suppress(OSError):
        while sock.send(payload) if sends else sock.recv(len(payload)):
            pass


def test_a_link_that_is_slowed_down_under_load_still_carries_something(tmp_path: Path) -> None:
    """What waits before the link was cut into segments for a faster one, and must fit through the slower one."""
    path = tmp_path / "test.toml"
    path.write_text(TOPOLOGY.replace("host_mbit = 100", "host_mbit = 200"))
    topology = load_topology(path)
    receiver = topology.host("a2")
    with Lab(topology) as lab, ExitStack() as sockets:
        with entered(lab.space("a2")):
            listener = sockets.enter_context(socket.create_server((receiver.address, 7000)))
        for host in ("a1", "b1", "b2") * 2:
            with entered(lab.space(host)):
                sender = sockets.enter_context(socket.create_connection(listener.getsockname()))
                # It does not pace, so that segments are as large as they can be.
                sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
            accepted = sockets.enter_context(listener.accept()[0])
            threading.Thread(target=move_for_ever, args=[sender], kwargs={"sends": True}, daemon=True).start()
            threading.Thread(target=move_for_ever, args=[accepted], kwargs={"sends": False}, daemon=True).start()
        for _ in range(4):
            time.sleep(1.0)
            lab.slow(receiver, 0.1, "down")
            time.sleep(1.0)
            before = lab.isp_bytes()["isp-a"].delivered
            time.sleep(1.0)
            assert lab.isp_bytes()["isp-a"].delivered > before + 1_000_000  # of 2.5 million
            lab.slow(receiver, 1.0, "down")
