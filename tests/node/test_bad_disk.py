"""What the disk refuses: the title waits with its reason, the node stays, and it goes on by itself."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from p2pfill.errors import DiskFullError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import TitleReport
from p2pfill.node import Node, NodeConfig, disk_watch, open_node
from p2pfill.node import titles as titles_module
from p2pfill.node.disk_watch import PAUSE_S_MAX, DiskWatch
from p2pfill.node.listening import PatientListener
from p2pfill.node.titles import TitlePhase
from p2pfill.store import Store, verify_tree
from p2pfill.store import title as title_module
from p2pfill.store.disk import store_error
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from tests.node.test_eviction import LIMIT_S, make_title, node_with_tracker, small_disk, until

LOG = logging.getLogger("tests")
ONE = TitleId(bytes(32))


class Disk:
    """Has some calls of `os` fail while it `is_bad`."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int, *names: str) -> None:
        self.is_bad = False
        self.refused = 0
        for place, name in ((os, name) for name in names):
            patch.setattr(place, name, self._failing(getattr(place, name), number))
        patch.setattr(title_module, "sync_fs", self._failing(title_module.sync_fs, number))

    def _failing(self, real: Callable[..., Any], number: int) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.is_bad:
                self.refused += 1
                raise OSError(number, os.strerror(number))
            return real(*arguments, **named)

        return call


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the node look at its disk often."""
    monkeypatch.setattr(disk_watch, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(disk_watch, "PAUSE_S_MAX", 0.2)
    monkeypatch.setattr(disk_watch, "ROOM_LOOK_S", 0.05)


def report_of(node: Node, manifest: Manifest) -> TitleReport:
    return next(report for report in node.titles.reports() if report.title == manifest.title_id.hex())


async def order(tmp_path: Path, client: TrackerClient, manifest: Manifest) -> None:
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    await client.post_fill(FillRequest(title=title, selector="all", origins=[str(tmp_path / "src" / manifest.name)]))


@pytest.mark.parametrize(
    ("number", "calls", "word"),
    [
        (errno.EIO, ("fdatasync", "fsync"), "input/output error"),
        (errno.ENOSPC, ("fdatasync", "fsync"), "full"),
        (errno.EROFS, ("pwrite", "fdatasync", "fsync"), "read-only"),
        (errno.EIO, ("pwrite", "fsync"), "input/output error"),
    ],
)
async def test_a_title_goes_on_by_itself_when_the_disk_is_well_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, calls: tuple[str, ...], word: str
) -> None:
    """It stayed failed, and a new order did not help."""
    manifest, other = make_title(tmp_path, "film"), make_title(tmp_path, "other")
    async with node_with_tracker(tmp_path) as (node, client):
        await order(tmp_path, client, other)
        await until(lambda: node.titles.phase_of(other.title_id) is TitlePhase.LIVE)
        disk = Disk(monkeypatch, number, *calls)
        begun = node.titles.start_fill

        async def start_fill(*arguments: Any, **named: Any) -> Any:
            driver = await begun(*arguments, **named)
            disk.is_bad = disk.refused == 0
            return driver

        monkeypatch.setattr(node.titles, "start_fill", start_fill)
        await order(tmp_path, client, manifest)
        await until(lambda: bool(node.titles.disk.trouble))
        report = report_of(node, manifest)
        assert report.state == "waiting"
        assert word in report.error
        # Nothing of it is promised to others, and what is live is served on.
        assert node.holdings(manifest.title_id) is None
        served = node.holdings(other.title_id)
        assert served is not None
        assert served.all()
        disk.is_bad = False
        await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)
        assert not node.titles.disk.reason(manifest.title_id)
        await until(lambda: report_of(node, manifest).state == "live")
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok


async def test_without_a_tracker_it_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_title(tmp_path, "film")
    disk = Disk(monkeypatch, errno.EIO, "fdatasync", "fsync")
    with trio.fail_after(LIMIT_S):
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"))) as node:
            driver = await node.start_fill(manifest, [str(tmp_path / "src" / "film")])
            disk.is_bad = True
            with pytest.raises(StoreError, match="input/output"):
                await driver.wait()
            await until(lambda: bool(node.titles.disk.trouble))
            disk.is_bad = False
            await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok


async def test_an_order_without_room_is_filled_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed failed, and nobody tried again before the next order."""
    manifest = make_title(tmp_path, "film")
    with monkeypatch.context() as patch:
        async with node_with_tracker(tmp_path) as (node, client):
            small_disk(patch, tmp_path / "a1", 1000)
            await order(tmp_path, client, manifest)
            await until(lambda: node.titles.refusal(manifest.title_id) is not None)
            report = report_of(node, manifest)
            assert report.state == "failed"
            assert "free some space" in report.error
            taken = node.tracker is not None and node.tracker._taken
            await trio.sleep(0.3)
            assert report_of(node, manifest).state == "failed"
            assert node.tracker is not None
            assert node.tracker._taken is taken, "it tried again though there is no room"
            patch.undo()
            monkeypatch.setattr(disk_watch, "ROOM_LOOK_S", 0.05)
            await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)


async def test_what_cannot_be_read_is_promised_to_nobody_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, other = make_title(tmp_path, "film"), make_title(tmp_path, "other")
    is_bad = True
    real = titles_module.examine

    def examine(stored: Any, chunks: list[int]) -> Any:
        if is_bad and stored.manifest.title_id == manifest.title_id:
            error = OSError(errno.EIO, "input/output error")
            raise store_error("look at title 'film'", error) from error
        return real(stored, chunks)

    async with node_with_tracker(tmp_path) as (node, client):
        for one in (manifest, other):
            await order(tmp_path, client, one)
            await until(lambda one=one: node.titles.phase_of(one.title_id) is TitlePhase.LIVE)  # type: ignore[misc]
        monkeypatch.setattr(titles_module, "examine", examine)
        node.titles.suspect(manifest.title_id, 3, "the disk reports an input/output error")

        def held(one: Manifest) -> int:
            found = node.holdings(one.title_id)
            return found.count() if found is not None else 0

        await until(lambda: held(manifest) == 0)
        report = report_of(node, manifest)
        assert (report.state, held(other)) == ("waiting", other.chunk_count)
        assert "input/output" in report.error
        is_bad = False
        await until(lambda: held(manifest) == manifest.chunk_count)
        assert report_of(node, manifest).state == "live"


async def test_a_chunk_for_which_there_was_no_descriptor_is_served_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which says nothing of the disk, so the rest of the title stays."""
    manifest = make_title(tmp_path, "film")
    is_short = True
    real = titles_module.examine

    def examine(stored: Any, chunks: list[int]) -> Any:
        if is_short:
            error = OSError(errno.EMFILE, "too many open files")
            raise store_error("look at title 'film'", error) from error
        return real(stored, chunks)

    async with node_with_tracker(tmp_path) as (node, client):
        await order(tmp_path, client, manifest)
        await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)
        monkeypatch.setattr(titles_module, "examine", examine)
        node.titles.suspect(manifest.title_id, 3, "too many open files")
        held = node.holdings(manifest.title_id)
        assert held is not None
        await until(lambda: bool(node.titles.disk.reason(manifest.title_id)))
        assert held.count() == manifest.chunk_count - 1
        is_short = False
        await until(lambda: not node.titles.disk.reason(manifest.title_id) and held.all())
        assert report_of(node, manifest).state == "live"


async def test_a_title_whose_manifest_is_damaged_is_checked_and_served(tmp_path: Path) -> None:
    """A node told to remove the directory. What is right of it is kept, and what is not is fetched."""
    manifest = make_title(tmp_path, "film")
    place = tmp_path / "a1" / "titles" / manifest.title_id.hex()
    async with node_with_tracker(tmp_path) as (node, client):
        await order(tmp_path, client, manifest)
        await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)
    (place / "manifest").write_bytes(b"rubbish")
    (place / "journal").write_bytes(b"rubbish")
    with (place / "files" / "m.bin").open("r+b") as file:
        file.write(b"rot")
    inode = (place / "files" / "m.bin").stat().st_ino
    async with node_with_tracker(tmp_path) as (node, client):
        await until(lambda: report_of(node, manifest).state == "live" and not (place / "mend").exists())
    assert (place / "files" / "m.bin").stat().st_ino == inode, "it was fetched anew as a whole"
    assert (place / "manifest").read_bytes() == manifest.encode()
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok


async def test_a_live_file_that_is_missing_is_found_at_the_start(tmp_path: Path) -> None:
    """The title was reported live until the scrubber came by."""
    manifest = make_title(tmp_path, "film")
    async with node_with_tracker(tmp_path) as (node, client):
        await order(tmp_path, client, manifest)
        await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)
    path = tmp_path / "a1" / "live" / "film" / "m.bin"
    path.unlink()
    async with node_with_tracker(tmp_path) as (node, client):
        await until(path.exists)
        await until(lambda: report_of(node, manifest).state == "live")
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok


# ---- the watch itself


async def test_a_disk_that_is_gone_is_asked_seldom(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    asked = tried = 0
    is_well = False

    def probe() -> None:
        nonlocal asked
        asked += 1
        if not is_well:
            raise StoreError("no disk")

    async def run_sync(call: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        return call(*arguments)

    async def go_on() -> None:
        nonlocal tried
        tried += 1
        watch.put(ONE, StoreError("the file is bad"), go_on)

    monkeypatch.setattr(disk_watch.trio.to_thread, "run_sync", run_sync)
    watch = DiskWatch(probe, lambda: 0, LOG, "the disk")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.sleep(3600)
        assert asked == 0, "nobody waits for it"
        watch.put(ONE, StoreError("no disk"), go_on)
        await trio.sleep(3600)
        assert 3600 / PAUSE_S_MAX - 1 <= asked <= 3600 / PAUSE_S_MAX + 8
        assert (tried, watch.trouble) == (0, "no disk")
        is_well = True
        await trio.sleep(PAUSE_S_MAX + 1)
        assert 1 <= tried <= 7
        assert not watch.trouble
        await trio.sleep(3600)
        assert tried <= 3600 / PAUSE_S_MAX + 8, "one that is refused again waits longer each time"
        watch.forget(ONE)
        asked = 0
        await trio.sleep(3600)
        assert asked == 0
        nursery.cancel_scope.cancel()


async def test_what_lacks_room_waits_for_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    free, tried = 10, trio.Event()

    async def go_on() -> None:
        tried.set()

    watch = DiskWatch(lambda: None, lambda: free, LOG, "the disk")
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            watch.put(ONE, DiskFullError("full", 11), go_on)
            with trio.move_on_after(0.3):
                await tried.wait()
            assert not tried.is_set()
            assert watch.reason(ONE) == "full"
            free = 11
            await tried.wait()
            assert not watch.reason(ONE)
            nursery.cancel_scope.cancel()


async def test_a_connection_waits_for_a_descriptor(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each refusal filled the log with a traceback, ten times a second."""
    refusals = [errno.EMFILE, errno.ENFILE] * 50
    stream = object()

    async def accept() -> object:
        if refusals:
            raise OSError(refusals[0], os.strerror(refusals.pop()))
        return stream

    listener = PatientListener(SimpleNamespace(socket=None, accept=accept), LOG)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert await listener.accept() is stream
    assert 1 <= len(caplog.records) <= 5
    assert "ulimit -n" in caplog.text
    refusals[:] = [errno.EBADF]
    with pytest.raises(OSError, match="Bad file"):
        await listener.accept()


async def test_a_store_that_is_not_the_nodes_own_stops_its_start(tmp_path: Path) -> None:
    Store.open(tmp_path / "a1").close()
    (tmp_path / "a1").chmod(0o777)
    with pytest.raises(Exception, match="chmod -R o-w"):
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"))):
            pytest.fail("it started")
