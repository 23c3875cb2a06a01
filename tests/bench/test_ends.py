"""The benchmark between two machines: what it says, and that it finds the part that was made slow."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from process.slow_disk import SlowDisk

from bench.swarm.lab import Lab
from bench.swarm.topology import Topology
from p2pfill.bench import ends
from p2pfill.errors import ConfigError, TrackerError, TransferError
from p2pfill.node import links
from p2pfill.store.title import StoredTitle
from p2pfill.tracker.server import serve_tracker

pytestmark = pytest.mark.alone

MIB = 32
SO_MAX_PACING_RATE = 47
"""Python gives it no name."""


@asynccontextmanager
async def serving(tmp_path: Path, file: Path | None = None, mib: int = MIB) -> AsyncIterator[str]:
    """Serve in this loop; gives the address to fetch from."""
    send, receive = trio.open_memory_channel[str](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            ends.serve, "127.0.0.1:0", tmp_path / "serve", file, mib, lambda address, _: send.send_nowait(address)
        )
        with trio.fail_after(60):
            address = await receive.receive()
        yield address
        nursery.cancel_scope.cancel()
    assert list((tmp_path / "serve").iterdir()) == []


async def fetch(address: str, tmp_path: Path, runs: int = 3) -> ends.EndsReport:
    with trio.fail_after(120):
        report = await ends.fetch(address, tmp_path / "fetch", runs, lambda size: None, lambda size, run: None)
    assert list((tmp_path / "fetch").iterdir()) == []
    for run in report.runs:
        assert sum(run.parts_s.values()) == pytest.approx(run.seconds)
        assert min(run.parts_s.values()) >= 0
    assert len(report.runs) == runs
    return report


async def test_figures_are_those_of_a_fill(tmp_path: Path) -> None:
    async with serving(tmp_path) as address:
        report = await fetch(address, tmp_path)
    assert report.title_bytes == MIB << 20
    assert report.rate_gb_s.min <= report.rate_gb_s.median <= report.rate_gb_s.max
    fastest = min(run.seconds for run in report.runs)
    assert report.rate_gb_s.max == pytest.approx((MIB << 20) / 1e9 / fastest)
    assert set(report.processor_s_per_gb) == set(report.memory_peak_bytes) == set(report.loop_lag) == {"fetch", "serve"}
    assert min(report.processor_s_per_gb.values()) > 0
    assert min(report.memory_peak_bytes.values()) > 10 << 20
    assert min(lag.max_us for lag in report.loop_lag.values()) > 0
    assert report.shares[report.bottleneck] == max(report.shares.values())


async def test_a_file_or_a_directory_is_served_and_left_alone(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "film").write_bytes(os.urandom(3_000_000))
    (tree / "more").write_bytes(os.urandom(10_000))
    for path, size in ((tree, 3_010_000), (tree / "film", 3_000_000)):
        async with serving(tmp_path, path) as address:
            assert (await fetch(address, tmp_path, runs=1)).title_bytes == size
    assert sorted(path.name for path in tree.iterdir()) == ["film", "more"]


async def test_what_is_no_serving_end_is_refused(tmp_path: Path, nursery: trio.Nursery) -> None:
    url = await nursery.start(serve_tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
    with pytest.raises(ConfigError, match="bench serve"):
        await ends.fetch(url.removeprefix("http://"), tmp_path, 1, lambda size: None, lambda size, run: None)
    with pytest.raises(TrackerError, match="firewall"):
        await ends.fetch("127.0.0.1:1", tmp_path, 1, lambda size: None, lambda size, run: None)


@pytest.mark.parametrize("address", ["192.0.2.10", "http://192.0.2.10:7900", "192.0.2.10:7900/x"])
async def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        await fetch(address, tmp_path)


async def test_others_are_served_only_when_that_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="say --insecure"), trio.fail_after(10):
        await ends.serve("192.0.2.10:7900", tmp_path / "serve", None, MIB, lambda address, manifest: None)


@pytest.mark.parametrize("listen", ["0.0.0.0:7900", "[::]:7900", "127.0.0.1:65535"])
async def test_what_nobody_could_fetch_from_is_refused_before_any_work(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match=r"write the one|port after"), trio.fail_after(10):
        await ends.serve(listen, tmp_path / "serve", None, MIB, lambda address, manifest: None)
    assert not (tmp_path / "serve").exists()


async def test_a_node_that_cannot_be_reached_ends_a_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(host: str, port: int) -> trio.socket.SocketType:
        raise ConnectionRefusedError

    monkeypatch.setattr(links, "connect", refused)
    monkeypatch.setattr(ends, "UNLINKED_S", 0.5)
    async with serving(tmp_path) as address:
        with pytest.raises(TransferError, match="firewall"):
            await fetch(address, tmp_path)


# ---- the bottleneck


async def test_a_slow_socket_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def paced(sock: trio.socket.SocketType) -> None:
        sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 50_000_000)

    monkeypatch.setattr(links, "tune", paced)
    async with serving(tmp_path) as address:
        report = await fetch(address, tmp_path)
    assert report.bottleneck == "socket"
    assert report.rate_gb_s.median < 0.11  # two streams of 50 MB/s at most


async def test_slow_digests_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = StoredTitle.check_blake3

    def slow(self: StoredTitle, chunk: int, digest: bytes | None = None) -> bool:
        return all(check(self, chunk) for _ in range(50))

    monkeypatch.setattr(StoredTitle, "check_blake3", slow)
    async with serving(tmp_path) as address:
        report = await fetch(address, tmp_path)
    assert report.bottleneck == "hash"


# ---- as commands


@contextmanager
def commands(tmp_path: Path, listen: str = "127.0.0.1:0", prefix: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Run `p2pfill bench serve`, below another command if there is a `prefix`; gives what it announces."""
    options = ["--listen", listen, "--mib", str(MIB), "--insecure"]
    command = [sys.executable, "-m", "p2pfill.cli", "bench", "serve", *options]
    with subprocess.Popen(
        [*prefix, *command, "--data", str(tmp_path / "serve"), "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            patience = threading.Timer(60, process.kill)  # it may say nothing for ever
            patience.start()
            said = process.stdout.readline()
            patience.cancel()
            yield json.loads(said)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert list((tmp_path / "serve").iterdir()) == []


def run_fetch(
    address: str, data: Path, *options: str, environment: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> str:
    command = [*prefix, sys.executable, "-m", "p2pfill.cli", "bench", "fetch", address, "--data", str(data), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **(environment or {})}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_commands_and_a_slow_disk(tmp_path: Path) -> None:
    with commands(tmp_path) as announced:
        address = announced["address"]
        said = run_fetch(address, tmp_path / "fetch", "--runs", "2")
        assert len(re.findall(r"^[0-9.]+ [MG]B/s \([0-9.]+ [MG]bit/s\) in ", said, re.MULTILINE)) == 2
        assert "bottleneck: " in said
        disk = SlowDisk(tmp_path / "slow", tmp_path, call_us=5_000)
        said = run_fetch(address, tmp_path / "slow", "--runs", "2", "--json", environment=disk.environment)
        report: dict[str, Any] = json.loads(said.splitlines()[-1])
        assert report["bottleneck"] == "disk", report
        assert report["shares"]["disk"] > 0.5


@pytest.mark.process
async def test_a_loop_that_is_held_up_is_found(tmp_path: Path) -> None:
    async def hold_up() -> None:
        while True:
            time.sleep(0.02)  # noqa: ASYNC251 (lets go of the interpreter, but not of the loop)
            await trio.lowlevel.checkpoint()

    with commands(tmp_path) as announced:
        address = announced["address"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold_up)
            report = await fetch(address, tmp_path, runs=1)
            nursery.cancel_scope.cancel()
    assert report.bottleneck == "loop", report
    assert report.loop_lag["fetch"].max_us >= 10_000


# ---- on two machines

LINK_MBIT = 200

NETWORK = Topology(isps={"there": ["origin"], "here": ["fetching"]}, host_mbit=LINK_MBIT)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two machines, each with a link of its own."""
    lacking = "root" if os.geteuid() else "iproute2" if not shutil.which("ip") or not shutil.which("tc") else ""
    if lacking:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"the lab needs {lacking}")
        pytest.skip(f"the lab needs {lacking}")
    with Lab(NETWORK) as built:
        yield built


@pytest.mark.process
@pytest.mark.netns
def test_a_narrow_link_between_two_machines_is_found_and_used(tmp_path: Path, lab: Lab) -> None:
    host = next(host.address for host in NETWORK.hosts() if host.name == "origin")
    before = lab.isp_bytes()["here"].delivered
    with commands(tmp_path, f"{host}:7900", lab.command("origin", [])) as announced:
        assert announced["address"] == f"{host}:7900"
        prefix = lab.command("fetching", [])
        said = run_fetch(announced["address"], tmp_path / "fetch", "--runs", "2", "--json", prefix=prefix)
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    assert report["bottleneck"] == "socket", report
    assert report["title_bytes"] == announced["title_bytes"] == MIB << 20
    delivered = lab.isp_bytes()["here"].delivered - before
    assert 1 < delivered / (2 * report["title_bytes"]) < 1.2, "twice the title, with headers"
    assert 0.7 < report["rate_gb_s"]["median"] * 8000 / LINK_MBIT < 1.05, report
