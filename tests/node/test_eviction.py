"""Room on the disk: what goes when it is needed, in which order, and what never does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from p2pfill.errors import ConfigError, DiskFullError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import ScrubReport
from p2pfill.node import Node, NodeConfig, eviction, in_use, open_node
from p2pfill.node.standing import StandingOrders
from p2pfill.node.titles import BLOCK_BYTES, TitlePhase
from p2pfill.store import store as store_module
from p2pfill.store.disk import store_error
from p2pfill.store.publish import publish
from p2pfill.store.store import Store
from p2pfill.store.title import PREALLOCATE_BYTES_MIN
from p2pfill.store.verify import verify_tree
from p2pfill.tracker.client import ReadableOrders, TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024
CHUNKS = 16
LIMIT_S = 60.0


def make_title(tmp_path: Path, name: str) -> Manifest:
    src = tmp_path / "src" / name
    src.mkdir(parents=True)
    (src / "m.bin").write_bytes(os.urandom(CHUNKS * CHUNK))
    return publish(src, name=name, chunk_size=CHUNK).manifest


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.02)


@asynccontextmanager
async def node_with_tracker(
    tmp_path: Path, free_bytes_min: int = 0, in_use: in_use.InUse | None = None, in_use_command: str = ""
) -> AsyncIterator[tuple[Node, TrackerClient]]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            config = NodeConfig(
                id="a1", isp="isp-a", data=str(tmp_path / "a1"), tracker=url, free_bytes_min=free_bytes_min,
                in_use_command=in_use_command,
            )  # fmt: skip
            async with open_node(config, in_use=in_use) as node, TrackerClient(url) as client:
                while not await client.nodes():
                    await trio.sleep(0.02)
                yield node, client
            nursery.cancel_scope.cancel()


async def fill(tmp_path: Path, node: Node, client: TrackerClient, manifest: Manifest) -> str:
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    origin = str(tmp_path / "src" / manifest.name)
    created = await client.post_fill(FillRequest(title=title, selector="all", origins=[origin]))
    await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE)
    return created.fill_id


def age(tmp_path: Path, manifest: Manifest, hours: int) -> None:
    """Let the last use of a title be so long ago."""
    at = time.time() - 3600 * hours
    os.utime(tmp_path / "a1" / "titles" / manifest.title_id.hex(), (at, at))


async def withdraw(node: Node, client: TrackerClient, fills: list[str], left: int) -> None:
    for fill_id in fills:
        await client.delete_fill(fill_id)
    await until(lambda: node.titles.orders is not None and len(node.titles.orders) == left)


def shown(tmp_path: Path) -> set[str]:
    return {entry.name for entry in (tmp_path / "a1" / "live").iterdir()}


async def test_below_the_floor_what_nobody_wants_goes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    titles = {name: make_title(tmp_path, name) for name in ("ordered", "old", "older", "watched", "sent")}
    async with node_with_tracker(tmp_path, free_bytes_min=1 << 60) as (node, client):
        fills = {name: await fill(tmp_path, node, client, manifest) for name, manifest in titles.items()}
        await withdraw(node, client, [fill_id for name, fill_id in fills.items() if name != "ordered"], 1)
        for hours, name in enumerate(("ordered", "sent", "watched", "older", "old")):
            age(tmp_path, titles[name], 10 - hours)
        node.evictor.note_used(titles["sent"].title_id)
        viewer = subprocess.Popen(  # noqa: ASYNC220 (over in a moment)
            [sys.executable, "-c", "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()",
             str(tmp_path / "a1" / "live" / "watched" / "m.bin")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert viewer.stdout is not None
            await trio.to_thread.run_sync(viewer.stdout.readline)
            names = {manifest.title_id: name for name, manifest in titles.items()}
            assert [names[one.title_id] for one in await node.evictor.candidates()] == ["watched", "older", "old"]
            monkeypatch.setattr(eviction, "LOOK_S", 0.05)
            nursery_scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery_scope = nursery.cancel_scope
                nursery.start_soon(node.evictor.run)
                await until(lambda: shown(tmp_path) == {"ordered", "sent", "watched"})
                await trio.sleep(0.3)
                assert shown(tmp_path) == {"ordered", "sent", "watched"}
                nursery_scope.cancel()
        finally:
            viewer.communicate()
        went = [record.getMessage() for record in caplog.records if "room is needed" in record.getMessage()]
        assert [name for line in went for name, one in titles.items() if one.title_id.hex() in line] == ["older", "old"]
        gone = titles["old"].title_id
        assert node.titles.phase_of(gone) is TitlePhase.ABSENT
        assert node.holdings(gone) is None
        assert gone.hex() not in {report.title for report in node.report().titles}
        assert not list((tmp_path / "a1" / "filling").iterdir())
        assert await node.evictor.make_room(1 << 60)  # the viewer has gone
        assert shown(tmp_path) == {"ordered", "sent"}
        disk = node.report().disk
        assert disk.is_low, "what is left stays, and that is said"
        assert 0 < disk.free_bytes <= disk.size_bytes
        await fill(tmp_path, node, client, titles["old"])  # and one that has gone may be ordered again
    for name in ("ordered", "old"):
        assert verify_tree(tmp_path / "a1" / "live" / name, titles[name]).ok


async def test_files_that_no_order_names_go_and_the_others_stay(tmp_path: Path) -> None:
    src = tmp_path / "src" / "film"
    src.mkdir(parents=True)
    for name in ("hd", "sd", "uhd"):
        (src / name).write_bytes(os.urandom(3 * CHUNK + 7))
    (src / "subtitles").write_bytes(os.urandom(100))
    manifest = publish(src, name="film", chunk_size=CHUNK).manifest
    title_id = manifest.title_id
    live = tmp_path / "a1" / "live" / "film"

    def here() -> set[str]:
        return {path.name for path in live.iterdir()}

    async with node_with_tracker(tmp_path) as (node, client):
        whole = await fill(tmp_path, node, client, manifest)
        assert await node.evictor.candidates() == []
        some = FillRequest(title_id.hex(), "all", [str(src)], files=("hd", "subtitles"))
        await client.post_fill(some)
        await client.delete_fill(whole)
        await until(lambda: node.titles.surplus(title_id).files == 2)
        assert here() == {"hd", "sd", "uhd", "subtitles"}, "they stay until room is needed"
        (candidate,) = await node.evictor.candidates()
        blocks = 2 * (3 * CHUNK + BLOCK_BYTES)
        assert (candidate.title_id, candidate.files, candidate.size) == (title_id, 2, blocks)
        with (live / "hd").open("rb"):
            found, more = await trio.to_thread.run_sync(lambda: trio.from_thread.run(node.evictor.survey, 10))
            assert [(use.files, more) for use, _ in found] == [(2, 0)]
        assert await node.evictor.make_room(1 << 60)
        assert here() == {"hd", "subtitles"}
        assert await node.evictor.candidates() == []
        stored = node.titles.stored(title_id)
        assert stored is not None
        assert node.holdings(title_id) == stored.wanted
        (report,) = node.report().titles
        assert (report.state, report.files, report.have_chunks) == ("live", 2, report.chunk_count)
        assert verify_tree(live, manifest, selection=stored.selection).ok
        # And back.
        await client.post_fill(FillRequest(title_id.hex(), "all", [str(src)]))
        await until(lambda: here() == {"hd", "sd", "uhd", "subtitles"})
    assert verify_tree(live, manifest).ok


def small_disk(monkeypatch: pytest.MonkeyPatch, data: Path, capacity: int) -> None:
    """Let the store believe that its disk has so many bytes; a real one of that size takes root."""

    real = os.statvfs

    def statvfs(path: str | Path) -> SimpleNamespace | os.statvfs_result:
        if data not in (Path(path), *Path(path).parents):
            return real(path)  # the tracker's database has a disk of its own
        used = sum(file.stat().st_size for file in data.rglob("*") if file.is_file() and not file.is_symlink())
        blocks, free = capacity // 4096, max(0, capacity - used) // 4096
        return SimpleNamespace(f_frsize=4096, f_blocks=blocks, f_bavail=free, f_files=0, f_favail=0)

    monkeypatch.setattr(store_module.os, "statvfs", statvfs)


async def test_a_fill_that_finds_no_room_has_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [make_title(tmp_path, f"t{number}") for number in range(4)]
    small_disk(monkeypatch, tmp_path / "a1", int(3.5 * CHUNKS * CHUNK) + store_module._SPARE_BYTES)
    async with node_with_tracker(tmp_path) as (node, client):
        fills = [await fill(tmp_path, node, client, manifest) for manifest in titles[:3]]
        await withdraw(node, client, fills[:2], 1)
        age(tmp_path, titles[0], 1)
        age(tmp_path, titles[1], 2)
        await fill(tmp_path, node, client, titles[3])
        assert shown(tmp_path) == {"t0", "t2", "t3"}
        # All that is left is ordered, but for one that is not enough.
        big = make_title(tmp_path, "big")
        monkeypatch.setattr(store_module, "_SPARE_BYTES", 40 * CHUNKS * CHUNK)
        title = big.title_id.hex()
        await client.put_title(title, big.encode())
        await client.post_fill(FillRequest(title=title, selector="all", origins=[]))
        await until(lambda: node.titles.refusal(big.title_id) is not None)
        assert isinstance(node.titles.refusal(big.title_id), DiskFullError)
        assert shown(tmp_path) == {"t2", "t3"}


async def test_before_the_tracker_has_said_what_it_wants_nothing_goes(tmp_path: Path) -> None:
    manifest = make_title(tmp_path, "film")
    with trio.fail_after(LIMIT_S):
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"))) as node:
            await (await node.start_fill(manifest, [str(tmp_path / "src" / "film")])).wait()
            assert await node.evictor.candidates() == []
            assert not await node.evictor.make_room(1 << 60)
            assert shown(tmp_path) == {"film"}


async def test_what_is_ordered_while_its_files_are_looked_at_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_title(tmp_path, "film")
    async with node_with_tracker(tmp_path) as (node, client):
        await withdraw(node, client, [await fill(tmp_path, node, client, manifest)], 0)
        assert [one.title_id for one in await node.evictor.candidates()] == [manifest.title_id]

        async def ordered_meanwhile(title_id: TitleId) -> bool:
            title = title_id.hex()
            await client.post_fill(FillRequest(title=title, selector="all", origins=[]))
            await until(lambda: title_id in (node.titles.orders or {}))
            return False

        monkeypatch.setattr(node.evictor, "_is_open", ordered_meanwhile)
        assert not await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == {"film"}


async def test_a_pin_keeps_a_title_until_it_is_taken_back(tmp_path: Path) -> None:
    titles = [make_title(tmp_path, name) for name in ("film", "kept")]
    ids = [manifest.title_id.hex() for manifest in titles]
    async with node_with_tracker(tmp_path) as (node, client):
        fills = [await fill(tmp_path, node, client, manifest) for manifest in titles]
        await client.pin(ids[1], "id=a1", nodes_min=1)
        await withdraw(node, client, fills, 0)
        await until(lambda: titles[1].title_id in node.titles.pinned)
        assert await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == {"kept"}
    # A node that is started anew holds it too, also where nobody has told it of orders or pins yet.
    config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), tracker="http://127.0.0.1:9")
    with trio.fail_after(LIMIT_S):
        async with open_node(config) as node:
            assert not await node.evictor.make_room(1 << 60)
    async with node_with_tracker(tmp_path) as (node, client):
        await until(lambda: node.titles.orders is not None)
        assert not await node.evictor.make_room(1 << 60)
        await client.unpin(ids[1])
        await until(lambda: not node.titles.pinned)
        assert await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == set()


@pytest.mark.parametrize("is_first", [True, False])
async def test_an_order_that_cannot_be_read_may_want_anything(tmp_path: Path, is_first: bool) -> None:
    manifest = make_title(tmp_path, "film")
    async with node_with_tracker(tmp_path) as (node, client):
        await fill(tmp_path, node, client, manifest)
        assert node.tracker is not None
        if is_first:
            node.titles.orders = None
            node.tracker._standing, node.tracker._unfinished = StandingOrders(), {}
        await node.tracker._take(ReadableOrders(7, [], unreadable=["order 0 of 1: no title"]))
        assert await node.evictor.candidates() == []
        assert not await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == {"film"}


def test_removal_goes_in_steps_and_a_stop_between_them_leaves_nothing_to_see(tmp_path: Path) -> None:
    src = tmp_path / "src" / "many"
    for number in range(7):
        (src / f"d{number % 3}").mkdir(parents=True, exist_ok=True)
        (src / f"d{number % 3}" / f"{number}").write_bytes(b"x" * number)
    manifest = publish(src, name="many", chunk_size=CHUNK).manifest
    with Store.open(tmp_path / "a1") as store:
        stored = store.begin_fill(manifest)
        stored.write_chunk(0, b"".join((src / entry.path).read_bytes() for entry in manifest.files))
        stored.commit([0])
        stored.go_live()
        delete = store.begin_removal(manifest.title_id)
        assert shown(tmp_path) == set()
        assert store.titles() == {}
        assert delete(2)
    with Store.open(tmp_path / "a1") as store:
        assert not list((tmp_path / "a1" / "filling").iterdir())
        delete = store.begin_removal(manifest.title_id)
        assert not delete(2)


async def test_the_use_of_a_title_is_kept_across_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = make_title(tmp_path, "film")
    async with node_with_tracker(tmp_path) as (node, client):
        await fill(tmp_path, node, client, manifest)
        age(tmp_path, manifest, 10)
        node.evictor.note_used(manifest.title_id)
        await node.evictor._keep_uses()
    with Store.open(tmp_path / "a1") as store:
        (use,) = store.uses(store.ids())
        assert use.used_at > time.time() - 600
        store.note_use(TitleId(bytes(32)))  # one that has just gone
    assert not [record for record in caplog.records if "use" in record.getMessage()]


def read(path: Path) -> None:
    """Read a file as a web server does."""
    with path.open("rb") as file:
        file.read(1)


async def test_what_viewers_have_read_last_goes_last(tmp_path: Path) -> None:
    titles = {name: make_title(tmp_path, name) for name in ("read", "unread", "sent")}
    async with node_with_tracker(tmp_path) as (node, client):
        fills = [await fill(tmp_path, node, client, manifest) for manifest in titles.values()]
        await withdraw(node, client, fills, 0)
        for manifest in titles.values():
            age(tmp_path, manifest, 48)
        # What this node reads itself is no use of a viewer's.
        report = ScrubReport(1, titles["unread"].title_id.hex(), "checking")
        await node.scrubber._obey(report)
        assert report.checked_chunks == CHUNKS
        path = tmp_path / "a1" / "live" / "read" / "m.bin"
        assert path.stat().st_atime == path.stat().st_mtime
        read(path)
        if path.stat().st_atime == path.stat().st_mtime:
            pytest.skip("the file system keeps no times of reading")
        names = {manifest.title_id: name for name, manifest in titles.items()}
        order = await node.evictor.candidates()
        assert names[order[-1].title_id] == "read"
        assert time.time() - 60 < order[-1].read_at <= time.time()
        assert {use.read_at for use in order[:-1]} == {0.0}
        assert all(use.size >= CHUNKS * CHUNK for use in order)
        assert await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == {"read"}, "somebody reads it now"
        an_hour_ago = time.time() - 3600
        os.utime(path, (an_hour_ago, path.stat().st_mtime))
        assert await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == set()


async def test_what_the_operators_command_names_stays(tmp_path: Path) -> None:
    titles = {name: make_title(tmp_path, name) for name in ("by-name", "by-id", "by-path", "by-url", "by url", "idle")}
    lines = tmp_path / "lines"
    async with node_with_tracker(tmp_path, in_use_command=f"cat '{lines}'") as (node, client):
        fills = [await fill(tmp_path, node, client, manifest) for manifest in titles.values()]
        await withdraw(node, client, fills, 0)
        with pytest.raises(StoreError, match="exit code 1"):
            await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == titles.keys()
        path = (tmp_path / "a1" / "live" / "by-path" / "m.bin").resolve()
        lines.write_text(
            f"by-name\n{titles['by-id'].title_id.hex()}\n{path}\n/by-url/m.bin\n/by%20url/x\n\0\n..\nnobody\n"
        )
        assert await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == titles.keys() - {"idle"}


async def test_a_program_that_embeds_a_node_says_what_is_in_use(tmp_path: Path) -> None:
    titles = {name: make_title(tmp_path, name) for name in ("film", "idle")}
    async with node_with_tracker(tmp_path, in_use=lambda: ["film"]) as (node, client):
        fills = [await fill(tmp_path, node, client, manifest) for manifest in titles.values()]
        await withdraw(node, client, fills, 0)
        assert await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == {"film"}


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("/no/such/program", "No such file"),
        ("sh -c 'sleep 60 & exec sleep 60'", "took longer"),
        ("sh -c 'exec >&-; sleep 60'", "took longer"),
        ("yes", "more than"),
        ("false", "exit code 1"),
    ],
)
def test_a_command_that_does_not_answer_is_bounded(
    command: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_use, "ANSWER_S", 0.5)
    began = time.monotonic()
    with pytest.raises(StoreError, match=fault):
        list(in_use.asking(command)())
    assert time.monotonic() - began < 10


def test_a_command_that_cannot_be_read_is_wrong_configuration() -> None:
    for command in ("echo 'film", "   "):
        with pytest.raises(ConfigError, match="in_use_command"):
            NodeConfig(id="a1", isp="isp-a", data="/srv/cache", in_use_command=command)


def test_what_a_title_still_needs_is_what_has_no_space_yet(tmp_path: Path) -> None:
    src = tmp_path / "src" / "mixed"
    src.mkdir(parents=True)
    (src / "big").write_bytes(os.urandom(2 * PREALLOCATE_BYTES_MIN))
    (src / "small").write_bytes(os.urandom(CHUNK))
    manifest = publish(src, name="mixed", chunk_size=CHUNK).manifest
    with Store.open(tmp_path / "a1") as store:
        stored = store.begin_fill(manifest)
        spare = store_module._SPARE_BYTES
        assert store.needed_bytes(stored) == spare + CHUNK
        stored.write_chunk(manifest.chunk_count - 1, (src / "small").read_bytes())
        stored.commit([manifest.chunk_count - 1])
        assert store.needed_bytes(stored) == spare


async def test_who_cannot_say_what_is_in_use_lets_nothing_go(tmp_path: Path) -> None:
    manifest = make_title(tmp_path, "film")

    def broken() -> list[str]:
        raise RuntimeError("no idea")

    async with node_with_tracker(tmp_path, in_use=broken) as (node, client):
        await withdraw(node, client, [await fill(tmp_path, node, client, manifest)], 0)
        with pytest.raises(StoreError, match="nobody says what is in use: no idea"):
            await node.evictor.make_room(1 << 60)
        assert shown(tmp_path) == {"film"}


def test_a_full_disk_is_an_error_of_its_own() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert isinstance(store_error("write", OSError(number, "")), DiskFullError)
    assert not isinstance(store_error("write", OSError(errno.EIO, "")), DiskFullError)
