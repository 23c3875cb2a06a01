"""A cache over a disk that fails for real: its titles wait with their reason, and go on by themselves."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from process.bad_disk import BadDisk
from process.fleet import Fleet, HeldOrigin, Title, cli, wait_until

from p2pfill.store.publish import publish

pytestmark = pytest.mark.process


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[BadDisk]:
    """The disk of `a1`."""
    one = BadDisk(tmp_path, tmp_path / "data-a1")
    yield one
    one.close()


def waits(fleet: Fleet, title: Title) -> str:
    """Return why a title waits at `a1`, once it does."""
    report = fleet.report("a1", title)
    return str(report["error"]) if report.get("state") == "waiting" else ""


def test_a_disk_that_makes_nothing_durable_and_one_that_is_read_only(tmp_path: Path, disk: BadDisk) -> None:
    """A title stayed failed when the disk was well again, and a new order did not help."""
    fleet = Fleet(tmp_path)
    first, second = Title(tmp_path, "first", 6_000_000), Title(tmp_path, "second", 3_000_000)
    origin = HeldOrigin(first.root, allowed=2_000_000)
    try:
        assert fleet.data("a1") == disk.place
        fleet.start(("a1", "isp-a"), options=("--free-min", "0"))
        fleet.order(first, [origin.url])
        wait_until("the fill is half-way", origin.held)
        disk.fail()
        origin.allow(None)
        reason = wait_until("the title waits", lambda: waits(fleet, first))
        assert "durable" in reason or "full" in reason
        shown = cli("explain", "a1", "first", "--tracker", fleet.url)
        assert "waits for the node's disk, and goes on by itself" in " ".join(shown.out.split())
        assert "a1" in fleet.alive()
        disk.heal()
        fleet.live(["a1"], first)
        wait_until("nothing is open to be written", lambda: not subprocess.run(
            ["mount", "-o", "remount,ro", str(disk.place)], capture_output=True).returncode)  # fmt: skip
        fleet.order(second, [str(second.root)])
        assert "read-only" in wait_until("the title waits", lambda: waits(fleet, second))
        assert fleet.report("a1", first)["state"] == "live"
        disk.remount("rw")
        fleet.live(["a1"], second)
        assert fleet.stop("a1") == 0
        disk.forget()
        for title in (first, second):
            assert cli("verify", str(disk.place / "live" / title.name), str(title.fill)).code == 0
    finally:
        origin.kill()
        fleet.close()


NODE = """
import json, os, resource, sys
import trio
from p2pfill.model.manifest import Manifest
from p2pfill.node import NodeConfig, open_node

async def main():
    async with open_node(NodeConfig(id="a1", isp="isp", data=sys.argv[2])) as node:
        with trio.fail_after(60):
            report = await node.fill(manifest, [sys.argv[3]])
        with trio.move_on_after(0.5):
            await trio.sleep_forever()
        print(json.dumps([report.state, len(os.listdir("/proc/self/fd"))]))

with open(sys.argv[1], "rb") as file:
    manifest = Manifest.decode(file.read())
trio.run(main)
"""


@pytest.mark.parametrize("most", [48, 100])
def test_a_title_of_300_files_under_few_descriptors(tmp_path: Path, most: int) -> None:
    """It ended the node."""
    tree = tmp_path / "tree"
    for number in range(300):
        (tree / f"d{number % 40}").mkdir(parents=True, exist_ok=True)
        (tree / f"d{number % 40}" / f"f{number}").write_bytes(os.urandom(3000 if number % 10 else 200_000))
    fill = tmp_path / "t.fill"
    fill.write_bytes(publish(tree, name="t", chunk_size=64 * 1024).manifest.encode())
    done = subprocess.run(
        [sys.executable, "-c", NODE, str(fill), str(tmp_path / "data"), str(tree)], capture_output=True, text=True,
        timeout=90, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    state, count = json.loads(done.stdout)
    assert state == "live"
    assert count < most
    assert cli("verify", str(tmp_path / "data" / "live" / "t"), str(fill)).code == 0
    assert f"may have {most} open files" in done.stderr


LISTENS = """
import sys
import trio
from p2pfill.node import NodeConfig, open_node

async def main():
    async with open_node(NodeConfig(id="a1", isp="isp", data=sys.argv[1])) as node:
        print(node.info.port, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_more_connections_than_descriptors(tmp_path: Path) -> None:
    """Those that find none wait, without a word each, and the node is there for the next ones."""
    most = 64
    with (tmp_path / "log").open("w") as log:
        node = subprocess.Popen(
            [sys.executable, "-c", LISTENS, str(tmp_path / "data")], stdout=subprocess.PIPE, stderr=log, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (most, most)),
        )  # fmt: skip
    try:
        assert node.stdout is not None
        address = ("127.0.0.1", int(node.stdout.readline()))

        def held() -> int:
            return len(os.listdir(f"/proc/{node.pid}/fd"))

        at_rest = held()
        idle = [socket.create_connection(address) for _ in range(100)]
        wait_until("none is left", lambda: held() == most)
        wait_until("it says so", lambda: "has to wait" in (tmp_path / "log").read_text())
        for connection in idle:
            connection.close()
        wait_until("they are closed", lambda: held() <= at_rest + 1)
        assert node.poll() is None
        assert (tmp_path / "log").read_text().count("\n") == 2
    finally:
        node.kill()
        node.communicate()
