"""A live title rots: what is bad of it is found, said, and fetched anew, and the rest is served meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from p2pfill.errors import StoreError
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import TitleReport
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.agent import TrackerAgent
from p2pfill.node.titles import TitlePhase
from p2pfill.store.mending import MEND
from p2pfill.store.publish import publish
from p2pfill.store.verify import verify_tree

CHUNK = 64 * 1024
LIMIT_S = 60.0


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    src = tmp_path / "src"
    (src / "sub" / "deep").mkdir(parents=True)
    (src / "a.bin").write_bytes(os.urandom(20 * CHUNK + 77))
    (src / "b.bin").write_bytes(os.urandom(12 * CHUNK + 5))
    (src / "c.bin").write_bytes(os.urandom(9 * CHUNK + 3))
    (src / "empty").touch()
    for number in range(30):
        (src / "sub" / f"{number:02}").write_bytes(os.urandom(700 * number + 1))
        (src / "sub" / "deep" / f"{number:02}").write_bytes(os.urandom(900 * number + 1))
    (src / "z.bin").write_bytes(os.urandom(11 * CHUNK + 9))
    return publish(src, name="film", chunk_size=CHUNK).manifest


@asynccontextmanager
async def node_at(tmp_path: Path, name: str = "a1") -> AsyncIterator[Node]:
    with trio.fail_after(LIMIT_S):
        async with open_node(NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name))) as node:
            yield node


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.02)


def phase(node: Node, manifest: Manifest) -> TitlePhase:
    return node.titles.phase_of(manifest.title_id)


def report(node: Node, manifest: Manifest) -> TitleReport:
    return next(one for one in node.report().titles if one.title == manifest.title_id.hex())


async def look(node: Node, manifest: Manifest) -> None:
    await node.titles.repair(manifest.title_id, range(manifest.chunk_count))


def flip(path: Path, offset: int) -> None:
    """Flip one bit, and let the file's times stand, as a disk would."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextmanager
def viewer(live: Path, src: Path, names: list[tuple[str, int, int]]) -> Iterator[list[str]]:
    """Read ranges (path, start, end) of live files again and again, in a thread; yield what was not as published."""
    wrong: list[str] = []
    rounds = [0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for name, start, end in names:
                try:
                    with (live / name).open("rb") as file:
                        file.seek(start)
                        seen = file.read(end - start)
                except OSError as error:
                    wrong.append(f"{name}: {error}")
                    continue
                if seen != (src / name).read_bytes()[start:end]:
                    wrong.append(f"{name} {start}..{end}")
            rounds[0] += 1

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()
        assert rounds[0] > 3


@contextmanager
def appears_whole(live: Path, src: Path, names: list[str]) -> Iterator[list[str]]:
    """Look in a thread how lost files come back: absent, or whole, and nothing in between."""
    wrong: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for name in names:
                try:
                    seen = (live / name).read_bytes()
                except (FileNotFoundError, NotADirectoryError):
                    continue
                if seen != (src / name).read_bytes():
                    wrong.append(f"{name} has {len(seen)} bytes")

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield wrong
    finally:
        stop.set()
        thread.join()


def ruin(live: Path) -> None:
    """Rot in one byte, a truncated file, one that is gone, one of another kind, a directory that is gone; at once."""
    flip(live / "a.bin", 10 * CHUNK)
    os.unlink(live / "b.bin")
    os.truncate(live / "c.bin", 4 * CHUNK)
    os.unlink(live / "empty")
    os.unlink(live / "sub" / "07")
    (live / "sub" / "07").symlink_to("/etc/passwd")
    shutil.rmtree(live / "sub" / "deep")


async def test_all_that_is_bad_is_made_whole_while_viewers_read(tmp_path: Path, manifest: Manifest) -> None:
    src, live = tmp_path / "src", tmp_path / "a1" / "live" / "film"
    async with node_at(tmp_path) as node:
        await (await node.start_fill(manifest, [str(src)])).wait()
        filled = report(node, manifest)
        good = ["z.bin", *(f"sub/{number:02}" for number in range(30) if number != 7)]
        before = {name: (live / name).stat() for name in [*good, "a.bin"]}
        watched = [(name, 0, manifest.size) for name in good]
        watched += [("a.bin", 0, 10 * CHUNK), ("a.bin", 10 * CHUNK + 1, manifest.size)]
        open_file = (live / "a.bin").open("rb")
        ruin(live)
        lost = ["b.bin", *(f"sub/deep/{number:02}" for number in range(30))]
        with viewer(live, src, watched) as wrong, appears_whole(live, src, lost) as halves:
            await look(node, manifest)
            assert phase(node, manifest) is TitlePhase.REPAIRING
            said = report(node, manifest)
            assert said.state == "repairing"
            assert 0 < said.have_chunks < said.chunk_count
            await until(lambda: phase(node, manifest) is TitlePhase.LIVE)
            await trio.sleep(0.2)
        assert not wrong
        assert not halves
        with open_file:
            assert open_file.read() == (src / "a.bin").read_bytes()  # mended under its reader
        assert verify_tree(live, manifest) == verify_tree(src, manifest)
        for name, status in before.items():
            now = (live / name).stat()
            assert (now.st_ino, now.st_mtime_ns, now.st_mode) == (status.st_ino, status.st_mtime_ns, status.st_mode)
        said = report(node, manifest)
        assert said.state == "live"
        assert filled.bytes_origin < said.bytes_origin < 2 * filled.bytes_origin
        shown = node.holdings(manifest.title_id)
        assert shown is not None
        assert shown.all()
        assert not (live.resolve().parent / MEND).exists()
        await look(node, manifest)
        assert phase(node, manifest) is TitlePhase.LIVE


@pytest.mark.parametrize("what", ["files", "title"])
async def test_a_title_of_which_everything_is_gone_comes_back(tmp_path: Path, manifest: Manifest, what: str) -> None:
    live = tmp_path / "a1" / "live" / "film"
    async with node_at(tmp_path) as node:
        await (await node.start_fill(manifest, [str(tmp_path / "src")])).wait()
        files = live.resolve()
        shutil.rmtree(files if what == "files" else files.parent)
        await look(node, manifest)
        await until(lambda: phase(node, manifest) is TitlePhase.LIVE)
        assert verify_tree(live, manifest).ok
    async with node_at(tmp_path) as node:
        assert phase(node, manifest) is TitlePhase.LIVE


async def test_another_cache_is_the_source(tmp_path: Path, manifest: Manifest) -> None:
    async with node_at(tmp_path) as node, node_at(tmp_path, "a2") as other:
        for one in (node, other):
            await (await one.start_fill(manifest, [str(tmp_path / "src")])).wait()
    (tmp_path / "src").rename(tmp_path / "away")
    async with node_at(tmp_path) as node, node_at(tmp_path, "a2") as other:
        node.want_links([other.info])
        other.want_links([node.info])
        await until(lambda: "a2" in node.engine.links)
        ruin(tmp_path / "a1" / "live" / "film")
        await look(node, manifest)
        await until(lambda: phase(node, manifest) is TitlePhase.LIVE)
        said = report(node, manifest)
        assert said.bytes_peer > 0
        assert said.bytes_origin == manifest.size  # as before it rotted
        assert phase(other, manifest) is TitlePhase.LIVE
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok


async def test_without_a_source_the_rest_is_served_also_after_a_restart(tmp_path: Path, manifest: Manifest) -> None:
    async with node_at(tmp_path) as node:
        await (await node.start_fill(manifest, [str(tmp_path / "src")])).wait()
    (tmp_path / "src").rename(tmp_path / "away")
    live = tmp_path / "a1" / "live" / "film"
    bad = {10, 20}
    async with node_at(tmp_path) as node:
        flip(live / "a.bin", 10 * CHUNK)
        flip(live / "a.bin", 20 * CHUNK + 5)
        await look(node, manifest)
        assert sum(report(node, manifest).waits.values()) == len(bad)
    for _ in range(2):
        async with node_at(tmp_path) as node, node_at(tmp_path, "a2") as other:
            assert phase(node, manifest) is TitlePhase.REPAIRING
            said = report(node, manifest)
            assert (said.state, said.chunk_count - said.have_chunks) == ("repairing", len(bad))
            node.want_links([other.info])
            other.want_links([node.info])
            fill = await other.start_fill(manifest)
            have = fill.fill.ledger.have
            await until(lambda have=have: have.count() == len(have) - len(bad))  # type: ignore[misc]
            assert not any(have[chunk] for chunk in bad)
    (tmp_path / "away").rename(tmp_path / "src")
    async with node_at(tmp_path) as node:
        repairs = await node.start_fill(manifest, [str(tmp_path / "src")])
        await repairs.wait()
        assert phase(node, manifest) is TitlePhase.LIVE
    assert verify_tree(live, manifest).ok


async def test_a_chunk_that_cannot_be_read_for_another_cache_starts_the_repair(
    tmp_path: Path, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_at(tmp_path) as node:
        await (await node.start_fill(manifest, [str(tmp_path / "src")])).wait()
    async with node_at(tmp_path) as node, node_at(tmp_path, "a2") as other:
        os.truncate(tmp_path / "a1" / "live" / "film" / "b.bin", 100)
        node.want_links([other.info])
        other.want_links([node.info])
        fill = await other.start_fill(manifest)
        await until(lambda: phase(node, manifest) is TitlePhase.REPAIRING)
        assert "is looked at" in caplog.text
        repairs = node.fill_of(manifest.title_id)
        assert repairs is not None
        repairs.set_origins([str(tmp_path / "src")])
        await repairs.wait()
        await fill.wait()
        assert fill.report().bytes_peer == manifest.size
    for name in ("a1", "a2"):
        assert verify_tree(tmp_path / name / "live" / "film", manifest).ok


async def test_what_rots_during_a_repair_is_repaired_too(tmp_path: Path, manifest: Manifest) -> None:
    live = tmp_path / "a1" / "live" / "film"
    async with node_at(tmp_path) as node:
        await (await node.start_fill(manifest, [str(tmp_path / "src")])).wait()
    async with node_at(tmp_path) as node:
        flip(live / "a.bin", 3 * CHUNK)
        await look(node, manifest)
        assert phase(node, manifest) is TitlePhase.REPAIRING
        os.unlink(live / "a.bin")
        flip(live / "z.bin", 5 * CHUNK)
        await look(node, manifest)
        repairs = await node.start_fill(manifest, [str(tmp_path / "src")])
        await repairs.wait()
        repairs.fill.ledger.check()
    assert verify_tree(live, manifest).ok


async def test_a_repair_without_a_source_keeps_no_title_from_being_removed(tmp_path: Path, manifest: Manifest) -> None:
    async with node_at(tmp_path) as node:
        await (await node.start_fill(manifest, [str(tmp_path / "src")])).wait()
        (tmp_path / "src").rename(tmp_path / "away")
        flip(tmp_path / "a1" / "live" / "film" / "a.bin", 10 * CHUNK)
        await look(node, manifest)
        assert phase(node, manifest) is TitlePhase.REPAIRING
        stored = node.titles.stored(manifest.title_id)
        assert stored is not None
        agent = TrackerAgent(node, "http://127.0.0.1:1")
        await agent._remove(manifest.title_id.hex())
        assert phase(node, manifest) is TitlePhase.ABSENT
        assert not (tmp_path / "a1" / "live" / "film").is_symlink()
        # What was looking at it meanwhile makes nothing of it anew.
        with pytest.raises(StoreError, match="closed"):
            node.store.lose(stored, [1], [])
        assert not list((tmp_path / "a1" / "titles").iterdir())
