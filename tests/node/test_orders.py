"""Orders that come again: a title that could not be shown, or mended, the first time is so the next time."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfill.errors import StoreError
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import TitleReport
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node import titles as titles_module
from p2pfill.node.titles import TitlePhase
from p2pfill.store.publish import publish
from p2pfill.store.title import StoredTitle
from p2pfill.store.verify import verify_tree
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024
LIMIT_S = 60.0


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.bin").write_bytes(os.urandom(20 * CHUNK))
    return publish(tmp_path / "src", name="film", chunk_size=CHUNK).manifest


@asynccontextmanager
async def node_with_tracker(tmp_path: Path) -> AsyncIterator[tuple[Node, TrackerClient]]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), tracker=url)
            async with open_node(config) as node, TrackerClient(url) as client:
                while not await client.nodes():
                    await trio.sleep(0.02)
                yield node, client
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.02)


async def order(tmp_path: Path, client: TrackerClient, manifest: Manifest) -> str:
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    origins = [str(tmp_path / "src")]
    return (await client.post_fill(FillRequest(title=title, selector="all", origins=origins))).fill_id


async def told(client: TrackerClient, manifest: Manifest, state: str) -> TitleReport:
    """Return what the tracker was told of a title, once it is in a state."""
    while True:
        for report in (await client.nodes())[0].titles:
            if report.title == manifest.title_id.hex() and report.state == state:
                return report
        await trio.sleep(0.02)


async def test_what_was_withdrawn_while_it_was_being_shown_may_be_ordered_again(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, let_go = threading.Event(), threading.Event()
    real = StoredTitle.go_live

    def go_live(stored: StoredTitle) -> None:
        reached.set()
        let_go.wait(LIMIT_S)
        real(stored)

    monkeypatch.setattr(StoredTitle, "go_live", go_live)
    async with node_with_tracker(tmp_path) as (node, client):
        try:
            fill_id = await order(tmp_path, client, manifest)
            await until(reached.is_set)
            filling = node.fill_of(manifest.title_id)
            assert filling is not None
            await client.delete_fill(fill_id)
            await filling.done.wait()
            assert filling.state == "failed"
        finally:
            let_go.set()
        await filling.ended.wait()
        stored = node.titles.stored(manifest.title_id)
        assert stored is not None
        assert stored.live
        assert node.titles.phase_of(manifest.title_id) is TitlePhase.ABSENT
        await order(tmp_path, client, manifest)
        await told(client, manifest, "live")
        assert node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE
        holdings = node.holdings(manifest.title_id)
        assert holdings is not None
        assert holdings.all()
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok


async def rotten(tmp_path: Path, node: Node, manifest: Manifest) -> None:
    """Spoil a chunk of the live title, and have it found."""
    with (tmp_path / "a1" / "live" / "film" / "a.bin").open("r+b") as file:
        file.seek(10 * CHUNK)
        file.write(bytes(CHUNK))
    await node.titles.repair(manifest.title_id, range(manifest.chunk_count))


async def test_a_refusal_does_not_outlive_a_repair(tmp_path: Path, manifest: Manifest) -> None:
    async with node_with_tracker(tmp_path) as (node, client):
        await order(tmp_path, client, manifest)
        await told(client, manifest, "live")
        node.titles.refuse(manifest.title_id, StoreError("the disk did not take it"))
        assert (await told(client, manifest, "failed")).error == "the disk did not take it"
        await rotten(tmp_path, node, manifest)
        assert node.titles.refusal(manifest.title_id) is None
        assert not (await told(client, manifest, "live")).error
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok


async def test_a_repair_left_over_at_the_start_that_fails_once_is_taken_up_with_the_orders(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with node_with_tracker(tmp_path) as (node, client):
        await order(tmp_path, client, manifest)
        await told(client, manifest, "live")
        (tmp_path / "src").rename(tmp_path / "away")
        await rotten(tmp_path, node, manifest)
        assert node.titles.phase_of(manifest.title_id) is TitlePhase.REPAIRING
    (tmp_path / "away").rename(tmp_path / "src")
    real, failed = titles_module.examine, []

    def examine(*given: Any) -> Any:
        if not failed:
            failed.append(given)
            raise StoreError("the disk refuses just now")
        return real(*given)

    monkeypatch.setattr(titles_module, "examine", examine)
    async with node_with_tracker(tmp_path) as (node, client):
        await until(lambda: node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE and bool(failed))
        stored = node.titles.stored(manifest.title_id)
        assert stored is not None
        await until(lambda: not stored.takes_writes)
        await until(lambda: node.titles.refusal(manifest.title_id) is None)
        await told(client, manifest, "live")
    assert "the disk refuses just now" in caplog.text
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok
