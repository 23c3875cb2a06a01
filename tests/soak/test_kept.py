"""What is kept of titles that are gone: nothing, or what has a limit of its own."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from tracker.conftest import Make
from tracker.services import service_on

from bench.soak.watched import KEPT, count_entries
from p2pfill.model.reports import TitleReport
from p2pfill.node import NodeConfig, open_node
from p2pfill.node.titles import TitlePhase
from p2pfill.store import floors
from p2pfill.store.floors import Floors
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker
from p2pfill.tracker.service import Service

ROUNDS = 20


def grown(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """Return the containers that have grown by as much as one entry in two titles."""
    return {
        key: count - before[key]
        for key, count in after.items()
        if count - before[key] >= ROUNDS // 2 and key not in KEPT and not key.startswith("LagMonitor.")
    }


async def come_and_go(service: Service, name: str, sequence: int) -> None:
    manifest = Make.manifest(name)
    title = manifest.title_id.hex()
    await service.add_title(title, manifest, manifest.encode())
    await service.add_fill(FillRequest(title, "all", []))
    count, size = manifest.chunk_count, manifest.size
    live = TitleReport(title, "live", count, count, size, size)
    service.handle_heartbeat("n1", Make.report(Make.info("n1"), sequence, live))
    service.orders("n1")
    await service.withdraw(title)
    service.handle_heartbeat("n1", Make.report(Make.info("n1"), sequence + 1))
    await service.delete_title(title)
    await service.flush()


async def test_a_tracker_keeps_nothing_of_titles_that_were_deleted(tmp_path: Path) -> None:
    async with service_on(tmp_path / "db") as service:
        service.handle_heartbeat("n1", Make.report(Make.info("n1")))
        await come_and_go(service, "film-first", 2)
        before = count_entries([service])
        for number in range(ROUNDS):
            await come_and_go(service, f"film-{number}", 4 + 2 * number)
        assert not grown(before, count_entries([service]))
        assert not service.titles


async def test_a_node_keeps_nothing_of_titles_that_were_withdrawn(tmp_path: Path) -> None:
    serve = partial(serve_tracker, heartbeat_s=0.1)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
        config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "data"), tracker=url)
        async with open_node(config) as node, TrackerClient(url) as client:

            async def come_and_go(name: str) -> None:
                source = tmp_path / name
                source.mkdir()
                (source / "film").write_bytes(os.urandom(150_000))
                manifest = publish(source, name=name, chunk_size=65536).manifest
                title = manifest.title_id.hex()
                await client.put_title(title, manifest.encode())
                await client.post_fill(FillRequest(title, "all", [str(source)]))
                while node.titles.phase_of(manifest.title_id) is not TitlePhase.LIVE:
                    await trio.sleep(0.01)
                await client.withdraw(title, urgent=True)
                while node.titles.phase_of(manifest.title_id) is not TitlePhase.ABSENT:
                    await trio.sleep(0.01)
                assert node.fill_of(manifest.title_id) is None

            with trio.fail_after(60):
                while not await client.nodes():
                    await trio.sleep(0.01)
                await come_and_go("first")
                before = count_entries([node])
                for number in range(ROUNDS):
                    await come_and_go(f"film-{number}")
                assert not grown(before, count_entries([node]))
        nursery.cancel_scope.cancel()


async def test_a_title_that_is_ordered_while_it_goes_is_filled(tmp_path: Path) -> None:
    """What was begun before the last file went is what the node knows afterwards."""
    source = tmp_path / "film"
    source.mkdir()
    (source / "film").write_bytes(os.urandom(150_000))
    manifest = publish(source, name="film", chunk_size=65536).manifest
    async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "data"))) as node:
        with trio.fail_after(60):
            await node.fill(manifest, [str(source)])
            await node.titles.stop_serving(manifest.title_id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.fill, manifest, [str(source)])
                await trio.testing.wait_all_tasks_blocked(0.05)
                remove = await trio.to_thread.run_sync(node.store.begin_removal, manifest.title_id)
                while await trio.to_thread.run_sync(remove, 1000):
                    pass
                node.titles.forget(manifest.title_id)
            assert node.titles.phase_of(manifest.title_id) is TitlePhase.LIVE
            assert node.titles.live_ids() == [manifest.title_id]


def test_numbers_of_names_are_kept_within_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "HIGHEST_KEPT_MAX", 3)
    (tmp_path / floors.NUMBERS).mkdir()
    kept = Floors(tmp_path)
    for number in range(1, 8):
        (kept._path(f"film-{number}")).write_bytes(b"%d film\n" % number)
        assert kept.highest(f"nobody-signs-{number}") == 0
        assert kept.highest(f"film-{number}") == number
    assert sorted(kept._highest) == ["film-5", "film-6", "film-7"]
    assert kept.highest("film-1") == 1


def test_containers_are_counted_through_the_objects_that_hold_them() -> None:
    class Held:
        __slots__ = ("__dict__", "books")
        __module__ = "p2pfill.made.up"

        def __init__(self, inner: Any = None) -> None:
            self.books = {1: [1, 2], 2: [3]}
            self.inner = inner

    first = Held([Held(), Held()])
    first.inner[0].inner = first  # and in a circle
    assert count_entries([first]) == {"Held.books": 3 * 5, "Held.inner": 2}
    partly = Held({"first": partial(first.__init__, None)})
    assert count_entries([partly]) == {"Held.books": 4 * 5, "Held.inner": 3}
