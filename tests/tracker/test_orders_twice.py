"""Orders of some files, whose patterns take a while to look up, and what happens meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.files import Files
from p2pfill.store.publish import publish
from p2pfill.tracker import service
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker


async def test_a_call_that_is_sent_again_meanwhile_and_a_title_that_goes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    for name in "ab":
        (tmp_path / "src" / name).write_bytes(b"x")
    manifest = publish(tmp_path / "src", name="film").manifest
    title = manifest.title_id.hex()
    reached, let_go = threading.Semaphore(0), threading.Event()
    real = service.select

    def select_late(files: Files, patterns: Sequence[str]) -> Bitmap | None:
        reached.release()
        assert let_go.wait(20)
        return real(files, patterns)

    monkeypatch.setattr(service, "select", select_late)
    order = FillRequest(title, "all", ["/origin"], files=("a",), call_id="one")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            async with TrackerClient(url) as client:
                await client.put_title(title, manifest.encode())
                async with trio.open_nursery() as calls:
                    for _ in range(2):
                        calls.start_soon(client.post_fill, order)
                        await trio.to_thread.run_sync(reached.acquire)
                    let_go.set()
                (fill,) = await client.fills()
                assert fill.number == 1
                await client.delete_fill(fill.fill_id)
                let_go.clear()
                refusals: list[TrackerRefused] = []

                async def order_in_vain() -> None:
                    try:
                        await client.post_fill(order)
                    except TrackerRefused as error:
                        refusals.append(error)

                async with trio.open_nursery() as calls:
                    calls.start_soon(order_in_vain)
                    await trio.to_thread.run_sync(reached.acquire)
                    await client.delete_title(title)
                    let_go.set()
                assert [error.status for error in refusals] == [404]
                assert await client.fills() == []
            nursery.cancel_scope.cancel()
