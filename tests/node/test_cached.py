"""The page cache: titles leave it when asked to, only when nobody is sent anything of them, and only when live.

Whether a page is there is asked of the kernel, with mincore(2), so these tests need a directory on a disk. The kernel
may give up a few pages of its own accord, and keep a few that sockets held, so bounds are wide where either can be.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from p2pfill.model.manifest import Manifest
from p2pfill.node import Node, NodeConfig, cached, open_node
from p2pfill.store.publish import publish
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle

CHUNK = 65536
LARGE_CHUNK = 8 << 20
"""More than sockets hold unread, so that a sender notices that its receiver stands still."""
IDLE_S = 1.0


def resident(tree: Path) -> tuple[int, int]:
    """Return how many pages of all files below a directory are in the page cache, and how many there are."""
    libc = ctypes.CDLL(None, use_errno=True)
    there = total = 0
    for path in tree.rglob("*"):
        if not path.is_file() or not path.stat().st_size or path.name in ("manifest", "journal", "order", "tally"):
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            pages = -(-len(mapped) // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * pages)()
            start = ctypes.c_char.from_buffer(mapped)
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), states)
            del start  # or the mapping could not be closed
            assert not failed, os.strerror(ctypes.get_errno())
            there += sum(state & 1 for state in states)
            total += pages
    assert total
    return there, total


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    kinds = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kinds[fields[2]] = fields[fields.index("-") + 1]
    device = tmp_path.stat().st_dev
    if kinds.get(f"{os.major(device)}:{os.minor(device)}") in ("tmpfs", "ramfs"):
        pytest.skip("the temporary directory lies in memory, where pages cannot be dropped")
    return tmp_path


@pytest.fixture
def manifest(disk: Path) -> Manifest:
    """A title whose chunks begin anywhere inside pages."""
    tree = disk / "src"
    (tree / "sub").mkdir(parents=True)
    (tree / "a little.bin").write_bytes(os.urandom(777))
    (tree / "big.bin").write_bytes(os.urandom(5_000_001))
    (tree / "empty").touch()
    for number in range(60):
        (tree / "sub" / f"{number}.bin").write_bytes(os.urandom(900 * number + 1))
    return publish(tree, name="demo", chunk_size=CHUNK).manifest


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "IDLE_S", IDLE_S)
    monkeypatch.setattr(cached, "LOOK_S", 0.05)
    monkeypatch.setattr(cached, "SLICE_BYTES", 3 * CHUNK)


def config(disk: Path, name: str, *, drop: bool = False) -> NodeConfig:
    return NodeConfig(id=name, isp="a", data=str(disk / name), drop_pages=drop)


async def until(said: Callable[[], bool]) -> None:
    with trio.fail_after(30):
        while not said():
            await trio.sleep(0.02)


def share(tree: Path) -> float:
    there, total = resident(tree)
    return there / total


async def fetch(disk: Path, manifest: Manifest, name: str, source: Node) -> None:
    """Have another node fill from `source`; its name must come first, since it dials."""
    async with open_node(config(disk, name)) as node:
        filling = await node.start_fill(manifest, members=[node.info], holders=[source.info])
        node.want_links([source.info])
        await filling.wait()


def test_all_pages_of_a_live_title_can_be_dropped(disk: Path, manifest: Manifest) -> None:
    with Store.open(disk / "store") as store:
        title = store.begin_fill(manifest)
        data = b"".join((disk / "src" / entry.path).read_bytes() for entry in manifest.files)
        for chunk in range(manifest.chunk_count):
            title.write_chunk(chunk, data[slice(*title.manifest.cut.span(chunk))])
        title.commit(range(manifest.chunk_count))
        filling = disk / "store" / "filling"
        assert share(filling) > 0.9
        title.drop_pages(range(manifest.chunk_count))
        assert share(filling) > 0.9, "a title that still fills is left alone"
        title.go_live()
        live = disk / "store" / "titles"
        before = len(os.listdir("/proc/self/fd"))
        title.drop_pages(range(manifest.chunk_count // 2))
        assert 0.3 < share(live) < 0.7
        title.drop_pages(range(manifest.chunk_count // 2, manifest.chunk_count))
        assert resident(live)[0] == 0
        assert len(os.listdir("/proc/self/fd")) - before < 5
        for chunk in range(manifest.chunk_count):
            assert title.check_blake3(chunk)


@pytest.mark.usefixtures("quick")
async def test_a_title_leaves_the_cache_once_each_time_it_was_in_use(disk: Path, manifest: Manifest) -> None:
    live = disk / "a1" / "titles"
    async with open_node(config(disk, "a1", drop=True)) as node:
        await node.fill(manifest, [str(disk / "src")])
        assert share(live) > 0.9
        await until(lambda: resident(live)[0] == 0)
        for path in live.rglob("*.bin"):
            path.read_bytes()  # as a viewer
        await trio.sleep(2 * IDLE_S)
        assert share(live) > 0.9, "what viewers read stays"
        await fetch(disk, manifest, "a0", node)
        # All but what the kernel has yet to free of what sockets held.
        await until(lambda: share(live) < 0.5)


@pytest.mark.usefixtures("quick")
async def test_a_title_stays_by_default(disk: Path, manifest: Manifest) -> None:
    async with open_node(config(disk, "a1")) as node:
        await node.fill(manifest, [str(disk / "src")])
        await trio.sleep(3 * IDLE_S)
        assert share(disk / "a1" / "titles") > 0.9


@pytest.mark.usefixtures("quick")
async def test_a_title_stays_while_it_is_sent(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver stands still, and with it what it is sent, for longer than a rest."""
    tree, live = disk / "src", disk / "a1" / "titles"
    tree.mkdir()
    (tree / "big.bin").write_bytes(bytes(6 * LARGE_CHUNK))
    manifest = publish(tree, name="demo", chunk_size=LARGE_CHUNK).manifest
    goes_on = threading.Event()
    check = StoredTitle.check_blake3

    def check_late(title: StoredTitle, chunk: int, digest: bytes | None = None) -> bool:
        assert goes_on.wait(60)
        return check(title, chunk, digest)

    async with open_node(config(disk, "a1", drop=True)) as node, trio.open_nursery() as nursery:
        await node.fill(manifest, [str(tree)])
        monkeypatch.setattr(StoredTitle, "check_blake3", check_late)
        nursery.start_soon(fetch, disk, manifest, "a0", node)
        try:
            await until(lambda: any(sender.is_busy for one in node.links.sockets() for sender in one.senders))
            await trio.sleep(3 * IDLE_S)
            assert any(one.upload_titles() for one in node.links.sockets())
            assert share(live) > 0.9
        finally:
            goes_on.set()
        # As above.
        await until(lambda: share(live) < 0.5)
