"""Several titles on real nodes: which one is asked for, which one is sent, and what an order changes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from process.peer import Peer

from p2pfill.errors import ManifestError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.urgency import Urgency
from p2pfill.node import Node, NodeConfig, open_node, origins
from p2pfill.node.agent import TrackerAgent
from p2pfill.origin import Listener, Origin, OriginChunk, open_origin
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import HEADER_BYTES, decode_header
from p2pfill.store.publish import publish
from p2pfill.swarm.scheduler import STUCK_S
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024
READS_MAX = 8
"""That a fill may have under way at an origin when another takes over."""

BULK, URGENT = Urgency.of(0), Urgency.of(5)


def make_title(tmp_path: Path, name: str, chunks: int) -> Manifest:
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_bytes(os.urandom(chunks * CHUNK - 5))
    return publish(tmp_path / name, name=name, chunk_size=CHUNK).manifest


@asynccontextmanager
async def node_at(tmp_path: Path, tracker: str = "", **settings: int) -> AsyncIterator[Node]:
    with trio.fail_after(60):
        config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), tracker=tracker, **settings)  # type: ignore[arg-type]
        async with open_node(config) as node:
            yield node


class SlowOrigin:
    """Passes on to an origin, slowly, and notes of which title a chunk was read, in the order of the beginnings."""

    reads: list[str]
    lock = threading.Lock()

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def read_chunk(
        self, manifest: Manifest, k: int, listener: Listener | None = None, *, whole: bool = False
    ) -> OriginChunk:
        with self.lock:
            self.reads.append(manifest.name)
        time.sleep(0.02)
        return self._origin.read_chunk(manifest, k, listener, whole=whole)

    def close(self) -> None:
        self._origin.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All origins are slow; what is read from them."""
    SlowOrigin.reads = []
    monkeypatch.setattr(origins, "open_origin", lambda url, **named: SlowOrigin(open_origin(url, **named)))
    return SlowOrigin.reads


def between(reads: list[str], name: str) -> int:
    """Return how many chunks of other titles were read between the first and the last of a title."""
    first, last = reads.index(name), len(reads) - reads[::-1].index(name)
    return sum(read != name for read in reads[first:last])


async def test_a_more_urgent_title_is_fetched_first_and_the_other_one_after_it(
    tmp_path: Path, reads: list[str]
) -> None:
    bulk, urgent = make_title(tmp_path, "bulk", 300), make_title(tmp_path, "urgent", 60)
    async with node_at(tmp_path) as node:
        slow = await node.start_fill(bulk, [str(tmp_path / "bulk")], urgency=BULK)
        while slow.fill.ledger.have.count() < 30:
            await trio.sleep(0.01)
        fast = await node.start_fill(urgent, [str(tmp_path / "urgent")], urgency=URGENT)
        await fast.wait()
        assert "a more urgent title" not in slow.report().waits
        assert not slow.done.is_set()
        await slow.wait()
        assert not slow.fill.escalations
    assert between(reads, "urgent") <= READS_MAX
    assert reads.count("bulk") == 300


async def test_a_title_that_cannot_get_on_does_not_keep_others_waiting(tmp_path: Path) -> None:
    bulk, urgent = make_title(tmp_path, "bulk", 40), make_title(tmp_path, "urgent", 10)
    async with node_at(tmp_path) as node:
        began = trio.current_time()
        nowhere = await node.start_fill(urgent, [str(tmp_path / "absent")], urgency=URGENT)
        filling = await node.start_fill(bulk, [str(tmp_path / "bulk")], urgency=BULK)
        assert filling.report().waits == {"a more urgent title": 40}
        await filling.wait()
        assert trio.current_time() > began + STUCK_S - 0.5
        assert not nowhere.done.is_set()
        nowhere.set_origins([str(tmp_path / "urgent")])
        await nowhere.wait()


async def test_a_title_that_is_found_to_be_live_keeps_nobody_waiting(tmp_path: Path) -> None:
    bulk, urgent = make_title(tmp_path, "bulk", 40), make_title(tmp_path, "urgent", 10)
    async with node_at(tmp_path) as node:
        await (await node.start_fill(urgent, [str(tmp_path / "urgent")], urgency=URGENT)).wait()
    async with node_at(tmp_path) as node:
        node.set_urgencies({urgent.title_id: URGENT})
        node.activate(urgent.title_id)
        filling = await node.start_fill(bulk, [])
        assert filling.report().waits == {"a more urgent title": 40}
        assert (await node.start_fill(urgent)).done.is_set()
        assert "a more urgent title" not in filling.report().waits


async def test_a_title_that_fails_lets_the_others_go_on(tmp_path: Path) -> None:
    bulk, urgent = make_title(tmp_path, "bulk", 40), make_title(tmp_path, "urgent", 10)
    async with node_at(tmp_path) as node:
        nowhere = await node.start_fill(urgent, [], urgency=URGENT)
        filling = await node.start_fill(bulk, [str(tmp_path / "bulk")], urgency=BULK)
        began = trio.current_time()
        nowhere.withdraw()
        assert "a more urgent title" not in filling.report().waits
        await filling.wait()
        assert trio.current_time() < began + STUCK_S


async def test_a_new_order_of_a_running_title_takes_effect_at_once(tmp_path: Path, reads: list[str]) -> None:
    titles = {name: make_title(tmp_path, name, chunks) for name, chunks in (("bulk", 1000), ("late", 60))}

    async def order(client: TrackerClient, name: str, priority: int = 0, deadline: float | None = None) -> None:
        request = FillRequest(
            titles[name].title_id.hex(), "all", [str(tmp_path / name)], priority=priority, deadline=deadline
        )
        await client.post_fill(request)

    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/tracker.db")
        async with node_at(tmp_path, url) as node, TrackerClient(url) as client:
            for (name, manifest), priority in zip(titles.items(), (1, 0), strict=True):
                await client.put_title(manifest.title_id.hex(), manifest.encode())
                await order(client, name, priority)
            while node.fill_of(titles["late"].title_id) is None or len(reads) < 20:
                await trio.sleep(0.01)
            bulk, late = (node.fill_of(manifest.title_id) for manifest in titles.values())
            assert bulk is not None
            assert late is not None
            assert late.report().waits == {"a more urgent title": 60}
            await order(client, "late", priority=1, deadline=time.time() + 3600)
            await late.wait()
            assert not bulk.done.is_set()
        nursery.cancel_scope.cancel()
    assert between(reads, "late") <= READS_MAX


async def test_others_hold_back_from_the_order_on_unless_nothing_comes_of_it(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk, urgent = make_title(tmp_path, "bulk", 1000), make_title(tmp_path, "urgent", 10)
    ordered, refused = trio.Event(), trio.Event()
    fetch = TrackerAgent._manifest

    async def refuse_once(agent: TrackerAgent, title_id: TitleId, signatures: object) -> Manifest:
        if title_id == urgent.title_id and not refused.is_set():
            ordered.set()
            await refused.wait()
            raise ManifestError("it is torn")
        return await fetch(agent, title_id, signatures)  # type: ignore[arg-type]

    monkeypatch.setattr(TrackerAgent, "_manifest", refuse_once)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/tracker.db")
        async with node_at(tmp_path, url) as node, TrackerClient(url) as client:
            for manifest, priority in ((bulk, 0), (urgent, 1)):
                await client.put_title(manifest.title_id.hex(), manifest.encode())
                where = [str(tmp_path / manifest.name)]
                await client.post_fill(FillRequest(manifest.title_id.hex(), "all", where, priority=priority))
                while manifest is bulk and len(reads) < 20:
                    await trio.sleep(0.01)
            await ordered.wait()
            filling = node.fill_of(bulk.title_id)
            assert filling is not None
            assert "a more urgent title" in filling.report().waits
            refused.set()
            while "a more urgent title" in filling.report().waits:
                await trio.sleep(0.01)
            assert node.fill_of(urgent.title_id) is None
            # Tried again with the next orders, here those that another fill brings.
            await client.post_fill(FillRequest(urgent.title_id.hex(), "id=a1", [], priority=1))
            while (fast := node.fill_of(urgent.title_id)) is None:
                await trio.sleep(0.01)
            await fast.wait()
        nursery.cancel_scope.cancel()


async def test_a_node_sends_the_more_urgent_title_first(tmp_path: Path) -> None:
    bulk, urgent = make_title(tmp_path, "bulk", 20), make_title(tmp_path, "urgent", 20)
    async with node_at(tmp_path) as node, trio.open_nursery() as nursery:
        for manifest, urgency in ((bulk, BULK), (urgent, URGENT)):
            filling = await node.start_fill(manifest, [str(tmp_path / manifest.name)], urgency=urgency)
            await filling.wait()
        peer = Peer(bulk)
        await nursery.start(peer.run, (node.info.host, node.info.port))
        handles = {"bulk": await peer.want()}
        assert peer.channel is not None
        peer.holdings = None
        handles["urgent"] = peer.channel.next_handle()
        peer.channel.send(m.Subscribe(handles["urgent"], urgent.title_id))
        while peer.holdings is None:
            await trio.sleep(0.01)
        for name in ("bulk", "urgent"):
            for chunk in range(5):
                peer.request(handles[name], chunk)
        (link,) = node.engine.links.values()
        while len(link.uploads) < 10:
            await trio.sleep(0.01)
        came = []
        async with await peer.open_stream((node.info.host, node.info.port)) as stream:
            for _ in range(10):
                header = decode_header(await take(stream, HEADER_BYTES))
                await take(stream, header.length)
                came.append(header.request_id)
        assert link.is_idle()
        nursery.cancel_scope.cancel()
    assert came == [*sorted(came)[5:], *sorted(came)[:5]]


async def take(stream: trio.SocketStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = await stream.receive_some(count - len(got))
        assert part
        got += part
    return got
