"""A node that starts with titles on disk: it serves each as soon as it is open, and says nothing of it before."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import trio
from ports import free_port

from p2pfill import NodeConfig, open_node
from p2pfill.bench.big import Stock, write_small_files
from p2pfill.bench.light_peer import LightPeer
from p2pfill.errors import StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.limits import CHUNK_SIZE_MIN
from p2pfill.store import Store, StoredTitle, publish

LIMIT_S = 30.0


def lay_out(place: Path, files: int, data: Path) -> Stock:
    """Publish a tree and put it among the live titles of `data`."""
    place.mkdir()
    write_small_files(place / "tree", files)
    manifest = publish(place / "tree", name=place.name, chunk_size=CHUNK_SIZE_MIN).manifest
    stock = Stock(place / "tree", place, manifest)
    shutil.copytree(stock.complete(), data, symlinks=True, dirs_exist_ok=True)
    return stock


def peer_of(stock: Stock, address: tuple[str, int], name: str) -> LightPeer:
    return LightPeer(name, "isp", address, stock.manifest, Bitmap(stock.manifest.chunk_count), stock.read_chunk)


async def test_a_title_is_served_while_others_are_still_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    large, small, damaged = (lay_out(tmp_path / name, n, data) for name, n in (("l", 300), ("s", 30), ("d", 200)))
    manifest_file = data / "titles" / damaged.manifest.title_id.hex() / "manifest"
    manifest_file.write_bytes(b"\0" * manifest_file.stat().st_size)
    gate, waiting = threading.Event(), threading.Event()
    really_open = Store.open_title

    def open_title(store: Store, title_id: TitleId) -> StoredTitle:
        if title_id == large.manifest.title_id:
            waiting.set()
            assert gate.wait(LIMIT_S)
        return really_open(store, title_id)

    monkeypatch.setattr(Store, "open_title", open_title)
    address = ("127.0.0.1", free_port())
    config = NodeConfig(id="node", isp="isp", data=str(data), listen=f"127.0.0.1:{address[1]}")
    opened, over = trio.Event(), trio.Event()

    async def run() -> None:
        async with open_node(config) as node:
            assert node.holdings(large.manifest.title_id) is not None
            assert node.holdings(damaged.manifest.title_id) is None
            opened.set()
            await over.wait()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.to_thread.run_sync(waiting.wait)
            first, second = peer_of(small, address, "peer-1"), peer_of(large, address, "peer-2")
            nursery.start_soon(first.run)
            nursery.start_soon(second.run)
            await first.fetch([0, 1])
            await second.linked.wait()
            assert not opened.is_set()
            assert second.answers == 0
            gate.set()
            await second.fetch([1])
            assert second.answers == 1
            await opened.wait()
            over.set()


async def test_a_damaged_title_is_said_to_be_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data"
    stock = lay_out(tmp_path / "title", 20, data)
    (data / "titles" / stock.manifest.title_id.hex() / "manifest").unlink()
    with Store.open(data) as store, pytest.raises(StoreError):
        store.open_title(stock.manifest.title_id)
    with trio.fail_after(LIMIT_S):
        async with open_node(NodeConfig(id="node", isp="isp", data=str(data))) as node, trio.open_nursery() as nursery:
            peer = peer_of(stock, (node.info.host, node.info.port), "peer")
            nursery.start_soon(peer.run)
            await peer.linked.wait()
            while not peer.answers:
                await trio.sleep(0.01)
            assert peer.holdings is None
            nursery.cancel_scope.cancel()


async def test_nobody_is_answered_before_it_is_known_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    stock = lay_out(tmp_path / "title", 20, data)
    gate, waiting = threading.Event(), threading.Event()
    really_find = Store.live_ids

    def live_ids(store: Store) -> list[TitleId]:
        waiting.set()
        assert gate.wait(LIMIT_S)
        return really_find(store)

    monkeypatch.setattr(Store, "live_ids", live_ids)
    address = ("127.0.0.1", free_port())
    config = NodeConfig(id="node", isp="isp", data=str(data), listen=f"127.0.0.1:{address[1]}")

    async def run() -> None:
        async with open_node(config):
            await trio.sleep_forever()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.to_thread.run_sync(waiting.wait)
            peer = peer_of(stock, address, "peer")
            nursery.start_soon(peer.run)
            await trio.sleep(0.3)
            assert not peer.answers
            gate.set()
            await peer.fetch([0])
            assert peer.answers == 1
            nursery.cancel_scope.cancel()
