"""Files that are ordered while they are being dropped."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from p2pfill.model.bitmap import Bitmap
from p2pfill.store.publish import publish
from p2pfill.store.title import StoredTitle
from p2pfill.store.verify import verify_tree
from p2pfill.tracker.records import FillRequest
from tests.node.test_eviction import CHUNK, fill, node_with_tracker, until


async def test_files_that_are_ordered_while_they_are_dropped_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = tmp_path / "src" / "film"
    src.mkdir(parents=True)
    for name in ("hd", "sd"):
        (src / name).write_bytes(os.urandom(3 * CHUNK + 7))
    manifest = publish(src, name="film", chunk_size=CHUNK).manifest
    title_id = manifest.title_id
    reached, let_go = threading.Event(), threading.Event()
    real = StoredTitle.drop_files

    def drop_late(stored: StoredTitle, selection: Bitmap) -> list[int]:
        reached.set()
        assert let_go.wait(20)
        return real(stored, selection)

    monkeypatch.setattr(StoredTitle, "drop_files", drop_late)
    async with node_with_tracker(tmp_path) as (node, client):
        whole = await fill(tmp_path, node, client, manifest)
        await client.post_fill(FillRequest(title_id.hex(), "all", [str(src)], files=("hd",)))
        await client.delete_fill(whole)
        await until(lambda: node.titles.surplus(title_id).files == 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.evictor.make_room, 1 << 60)
            await trio.to_thread.run_sync(reached.wait)
            await client.post_fill(FillRequest(title_id.hex(), "all", [str(src)]))
            await until(lambda: not (node.titles.orders or {})[title_id].files)
            await trio.sleep(0.3)
            let_go.set()
        shown = tmp_path / "a1" / "live" / "film" / "sd"
        await until(lambda: shown.exists() and node.titles.is_at_rest(title_id, b""))
    assert verify_tree(tmp_path / "a1" / "live" / "film", manifest).ok
