"""Room over real caches: what is pinned stays, what an operator lets go goes, and what is served does not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process.fleet import Fleet, HeldOrigin, Title, cli, wait_until

from p2pfill.store.publish import publish

pytestmark = pytest.mark.process

SIZE = 3_000_000
SMALL_FILES = 60
SMALL_BYTES = 100_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB, which takes root to be made."""
    place = tmp_path / "data-a1"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def hold(fleet: Fleet, title: Title, *more: str) -> None:
    done = cli("fill", str(title.fill), "--tracker", fleet.url, "--origin", str(title.root), "--to", "all", *more)
    assert done.code == 0, done


def shown(fleet: Fleet, name: str) -> set[str]:
    return set(os.listdir(fleet.data(name) / "live"))


def evict(fleet: Fleet, *arguments: str, code: int = 0) -> Any:
    done = cli("title", "evict", "--tracker", fleet.url, "--timeout", "60", "--json", *arguments)
    assert done.code == code, done
    return json.loads(done.out) if done.out else done.err


def fates(status: Any, node: int = 0) -> dict[str, tuple[str, bool]]:
    titles = status["nodes"][node]["report"]["titles"]
    return {one["name"]: (one.get("kept_by", ""), one.get("goes", False)) for one in titles}


def test_an_operator_makes_room(tmp_path: Path, small_disk: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        titles = {name: Title(tmp_path, name, SIZE) for name in ("ordered", "pinned", "open", "idle")}
        fleet.start(("a1", "isp-a"), options=("--free-min", "0"))
        for title in titles.values():
            hold(fleet, title, "--wait", "--timeout", "60")
        assert cli("title", "pin", "pinned", "--tracker", fleet.url, "--nodes", "a1").code == 0
        for name in ("pinned", "open", "idle"):
            assert cli("title", "withdraw", name, "--tracker", fleet.url).code == 0
        reading = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
        viewer = subprocess.Popen(
            [sys.executable, "-c", reading, str(next((fleet.data("a1") / "live" / "open").glob("**/*.*")))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert viewer.stdout is not None
            viewer.stdout.readline()
            kept = {"ordered": ("order", False), "pinned": ("pin", False), "open": ("use", False)}
            looked = evict(fleet, "--dry-run")
            assert fates(looked) == {"idle": ("", False), **kept}
            assert next(iter(fates(looked))) == "idle", "what may go comes first"
            looked = evict(fleet, "--free", "6MiB", "--dry-run", "--nodes", "isp=isp-a")
            assert fates(looked) == {"idle": ("", True), **kept}
            assert shown(fleet, "a1") == titles.keys()
            assert "add --yes" in evict(fleet, "--free", "6MiB", code=2)
            assert "how much" in evict(fleet, code=2)
            # More than can be had: nothing goes in vain, and the number that can be had is said.
            for more in (("--dry-run",), ("--yes",)):
                looked = evict(fleet, "--free", "14MiB", *more, code=1)
                assert fates(looked) == {"idle": ("", False), **kept}
                assert shown(fleet, "a1") == titles.keys()
                said = cli("title", "evict", "--tracker", fleet.url, "--free", "14MiB", *more)
                assert "14 MiB were asked for" in said.err
                most = re.search(r"nothing (?:would go|was deleted) there: .* ask for --free (\d+)\n", said.err)
                assert most is not None, said.err
                assert int(most[1]) == looked["nodes"][0]["report"]["most_bytes"]
            looked = evict(fleet, "--free", most[1], "--dry-run")
            assert fates(looked) == {"idle": ("", True), **kept}
            done = evict(fleet, "--free", "6MiB", "--yes")
            assert fates(done) == {"idle": ("", True), **kept}
            assert done["nodes"][0]["report"]["free_bytes"] >= 6 * 1024 * 1024
            assert shown(fleet, "a1") == titles.keys() - {"idle"}
            assert not fates(evict(fleet, "--free", "15MiB", "--yes", code=1))["open"][1]
        finally:
            viewer.communicate()
        # The pin stands over restarts, of the tracker too, and the title goes once it is taken back.
        fleet.nodes["a1"].end(signal.SIGKILL)
        fleet.tracker.end(signal.SIGKILL)
        fleet.restart_tracker()
        fleet.restart("a1")
        wait_until("a1 is back", lambda: "a1" in fleet.alive())
        assert fates(evict(fleet, "--free", "15MiB", "--yes", code=1))["pinned"] == ("pin", False)
        assert "pinned" in shown(fleet, "a1")
        assert cli("title", "unpin", "pinned", "--tracker", fleet.url).code == 0
        most = evict(fleet, "--free", "15MiB", "--yes", code=1)["nodes"][0]["report"]["most_bytes"]
        assert "pinned" in shown(fleet, "a1")
        evict(fleet, "--free", str(most), "--yes")
        assert shown(fleet, "a1") <= {"ordered"}
    finally:
        fleet.close()


class SmallFiles(Title):
    """A title whose files are too small to have their space from the beginning."""

    def __init__(self, directory: Path, name: str) -> None:
        root = directory / f"{name}-files"
        root.mkdir()
        for number in range(SMALL_FILES):
            (root / f"{number:03}").write_bytes(os.urandom(SMALL_BYTES))
        self.name, self.root = name, root
        self.manifest = publish(root, name=name, chunk_size=128 * 1024).manifest
        self.fill = directory / f"{name}.fill"
        self.fill.write_bytes(self.manifest.encode())
        self.id, self.size = self.manifest.title_id.hex(), self.manifest.size


@pytest.mark.parametrize("has_old", [True, False])
def test_a_disk_that_fills_up_under_a_fill(tmp_path: Path, small_disk: Path, has_old: bool) -> None:
    fleet = Fleet(tmp_path)
    old, new = Title(tmp_path, "old", 2 * SIZE), SmallFiles(tmp_path, "new")
    origin = HeldOrigin(new.root, allowed=1_000_000)
    try:
        fleet.start(("a1", "isp-a"), options=("--free-min", "0"))
        if has_old:
            hold(fleet, old, "--wait", "--timeout", "60")
            assert cli("title", "withdraw", "old", "--tracker", fleet.url).code == 0
        done = cli("fill", str(new.fill), "--tracker", fleet.url, "--origin", origin.url, "--to", "all")
        assert done.code == 0, done
        wait_until("the fill is half-way", origin.held)
        ballast = small_disk / "ballast"
        status = os.statvfs(small_disk)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - 1_000_000)
        origin.allow(None)
        if not has_old:
            wait_until("it waits", lambda: fleet.report("a1", new).get("state") == "waiting")
            assert "full" in fleet.report("a1", new)["error"]
            ballast.unlink()
        wait_until("it is live", lambda: "new" in shown(fleet, "a1"))
        assert shown(fleet, "a1") == {"new"}
        assert cli("verify", str(fleet.data("a1") / "live" / "new"), str(new.fill)).code == 0
    finally:
        origin.kill()
        fleet.close()
