"""What the tracker says of routes reaches the fill of a real node, at its begin and with later rosters."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import trio

from p2pfill.node import NodeConfig, open_node
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.routes import RouteBook
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024
LIMIT_S = 60.0


def configure(tmp_path: Path, cost: float) -> Path:
    path = tmp_path / "routes.toml"
    path.write_text(f"[[pair]]\nreceiver = 'id=a1'\nsource = 'id=a2'\ncost = {cost}\n")
    return path


async def test_a_fill_hears_what_its_sources_cost(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.bin").write_bytes(os.urandom(8 * CHUNK))
    manifest = publish(tmp_path / "src", name="film", chunk_size=CHUNK).manifest
    book = RouteBook(configure(tmp_path, 7.5))
    await book.read()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1, routes=book)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            first, second = (
                NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name), tracker=url) for name in ("a1", "a2")
            )
            async with open_node(first) as node, open_node(second) as other, TrackerClient(url) as client:
                while len(await client.nodes()) < 2:
                    await trio.sleep(0.02)
                await client.put_title(manifest.title_id.hex(), manifest.encode())
                # Nobody has it, so the fills go on for as long as the test looks.
                await client.post_fill(FillRequest(manifest.title_id.hex(), "all", []))

                async def told(cost: float) -> None:
                    while True:
                        driver = node.titles.fill_of(manifest.title_id)
                        source = None if driver is None else driver.task.fill.sources.get("a2")
                        if source is not None and source.route_cost == cost:
                            return
                        await trio.sleep(0.02)

                await told(7.5)
                configure(tmp_path, 2.5)
                await client.read_routes()
                await client.post_fill(FillRequest(manifest.title_id.hex(), "all", [], priority=1))
                await told(2.5)
                theirs = other.titles.fill_of(manifest.title_id)
                assert theirs is not None
                assert theirs.task.route_costs == {}
            nursery.cancel_scope.cancel()
