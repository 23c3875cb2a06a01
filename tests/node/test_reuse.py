"""A new version of a title moves what has changed in it, over every border."""

from __future__ import annotations

import os
import random
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from measure import acheck_at_most

from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import TitleReport
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.store import publish, verify_tree
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

LAYOUT = {"a1": "a", "a2": "a", "a3": "a", "b1": "b"}


def make_tree(root: Path) -> Path:
    chance = random.Random(root.name)
    root.mkdir()
    for number in range(20):
        (root / f"f{number:02}").write_bytes(chance.randbytes(chance.randrange(300_000, 1_500_000)))
    return root


async def order(
    client: TrackerClient, nodes: list[Node], manifest: Manifest, origin: Path
) -> tuple[str, dict[str, TitleReport]]:
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    created = await client.post_fill(FillRequest(title=title, selector="all", origins=[str(origin)]))
    reports = {}
    for node in nodes:
        while (filling := node.fill_of(manifest.title_id)) is None:
            await trio.sleep(0.02)
        await filling.wait()
        filling.fill.ledger.check()
        reports[node.info.id] = filling.report()
    return created.fill_id, reports


@pytest.mark.parametrize("rots", [False, True])
async def test_one_file_of_twenty_changed(tmp_path: Path, rots: bool) -> None:
    async def excess(number: int) -> float:
        (tmp_path / str(number)).mkdir()
        return await change_one_file(tmp_path / str(number), rots)

    await acheck_at_most(1.0, excess)


async def change_one_file(place: Path, rots: bool) -> float:
    """Have four nodes move a title and its next version; return by how much too much has moved."""
    old = make_tree(place / "v1")
    new = place / "v2"
    shutil.copytree(old, new)
    changed = random.Random(1).randbytes(1_234_567)
    (new / "f07").write_bytes(changed)
    first, second = (publish(tree, name="film").manifest for tree in (old, new))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve_tracker, "127.0.0.1:0", f"sqlite:///{place}/tracker.db")
            async with AsyncExitStack() as stack:
                nodes = []
                for name, isp in LAYOUT.items():
                    config = NodeConfig(id=name, isp=isp, data=str(place / name), tracker=url)
                    nodes.append(await stack.enter_async_context(open_node(config)))
                client = await stack.enter_async_context(TrackerClient(url))
                while len(await client.nodes()) < len(LAYOUT):
                    await trio.sleep(0.05)
                await order(client, nodes, first, old)
                if rots:
                    with (place / "a2" / "live" / "film" / "f03").open("r+b") as file:
                        file.seek(123_456)
                        file.write(os.urandom(8))
                fill_id, reports = await order(client, nodes, second, new)
                while (status := await client.fill(fill_id)).totals.live < len(LAYOUT):
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    for name in LAYOUT:
        assert verify_tree(place / name / "live" / "film", second).ok
    for name, report in reports.items():
        moved = report.bytes_origin + report.bytes_regional + report.bytes_peer
        assert moved + report.reused_bytes == second.size
        if not (rots and name == "a2"):
            assert report.reused_bytes == second.size - len(changed)
        else:
            assert second.size - len(changed) - second.chunk_size <= report.reused_bytes < second.size - len(changed)
    assert status.totals.reused_bytes == sum(report.reused_bytes for report in reports.values())
    # The one that rots may find so before it hears who holds the same chunk.
    most = 1.1 * len(changed) + rots * second.chunk_size
    entered = {
        isp: sum(r.bytes_origin + r.bytes_regional for n, r in reports.items() if LAYOUT[n] == isp)
        for isp in LAYOUT.values()
    }
    from_origin = sum(report.bytes_origin for report in reports.values())
    # Nothing is asked for twice but what seems to be stuck, which on a busy machine may be one chunk.
    twice = sum(report.duplicate_bytes for report in reports.values())
    return max(from_origin / most, *(amount / most for amount in entered.values()), twice / second.chunk_size)
