"""One bad neighbour, or one bad order, never takes a node down or holds up the others."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import trio
from process.peer import Peer

from p2pfill.engine import link as link_module
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node import links as links_module
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import HEADER_BYTES, DataHeader, encode_header
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

CHUNK = 64 * 1024


def make_title(tmp_path: Path, chunks: int = 20) -> Manifest:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "big.bin").write_bytes(os.urandom(chunks * CHUNK - 5))
    return publish(tmp_path / "src", name="t", chunk_size=CHUNK).manifest


@asynccontextmanager
async def node_at(tmp_path: Path, tracker: str = "") -> AsyncIterator[tuple[Node, tuple[str, int]]]:
    with trio.fail_after(30):
        config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), tracker=tracker)
        async with open_node(config) as node:
            yield node, (node.info.host, node.info.port)


async def read_chunk(stream: trio.SocketStream, length: int) -> None:
    left = HEADER_BYTES + length
    while left:
        got = await stream.receive_some(left)
        assert got
        left -= len(got)


async def test_a_data_stream_that_ends_makes_room_for_the_next(tmp_path: Path) -> None:
    manifest = make_title(tmp_path)
    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        await node.fill(manifest, [str(tmp_path / "src")])
        peer = Peer(manifest)
        await nursery.start(peer.run, address)
        handle = await peer.want()
        for chunk in range(link_module.DATA_STREAMS_MAX + 3):
            async with await peer.open_stream(address) as stream:
                peer.request(handle, chunk)
                await read_chunk(stream, CHUNK)
            # The node must notice the end by itself: nothing is sent on the stream any more.
            await trio.sleep(0.02)
        assert not peer.ended.is_set()
        nursery.cancel_scope.cancel()


async def test_several_data_streams_of_a_link_lose_no_request(tmp_path: Path) -> None:
    manifest = make_title(tmp_path)
    came: list[int] = []

    async def count(stream: trio.SocketStream) -> None:
        async with stream:
            while True:
                await read_chunk(stream, CHUNK)
                came.append(1)

    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        await node.fill(manifest, [str(tmp_path / "src")])
        peer = Peer(manifest)
        await nursery.start(peer.run, address)
        handle = await peer.want()
        for _ in range(3):
            nursery.start_soon(count, await peer.open_stream(address))
        for chunk in range(12):
            peer.request(handle, chunk)
            while len(came) <= chunk:
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_advertises_an_impossible_host(tmp_path: Path) -> None:
    manifest = make_title(tmp_path)
    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        for number, host in enumerate(("a" * 70, "a..b", "%", "")):
            await nursery.start(Peer(manifest, node_id=f"zz{number}", host=host).run, address)
        report = await node.fill(manifest, [str(tmp_path / "src")])
        assert report.state == "live"
        nursery.cancel_scope.cancel()


async def test_strangers_that_say_nothing_do_not_keep_others_out(tmp_path: Path) -> None:
    manifest = make_title(tmp_path)
    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        honest = [Peer(manifest, node_id=f"zz{number}") for number in range(3)]
        for early in honest:
            await nursery.start(early.run, address)
            await early.linked.wait()
        strangers = []
        for number in range(2 * links_module.NEWCOMERS_MAX):
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all((b"P", b"P2FC\x02\x02", b"P2FD\x02", b"")[number % 4])
            strangers.append(stream)
        peer = Peer(manifest)
        await nursery.start(peer.run, address)
        with trio.fail_after(9):
            await peer.linked.wait()
        assert (await node.fill(manifest, [str(tmp_path / "src")])).state == "live"
        assert not any(early.ended.is_set() for early in honest), "those who have said who they are stay"
        for stream in strangers:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def test_an_origin_that_cannot_be_used_here_says_so_and_harms_nothing(tmp_path: Path) -> None:
    manifest = make_title(tmp_path)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            tracker = partial(serve_tracker, heartbeat_s=0.2)
            url = await nursery.start(tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/tracker.db")
            async with node_at(tmp_path, url) as (_, _), TrackerClient(url) as client:
                while not await client.nodes():
                    await trio.sleep(0.02)
                title = manifest.title_id.hex()
                await client.put_title(title, manifest.encode())
                absent = str(tmp_path / "absent")
                await client.post_fill(FillRequest(title=title, selector="all", origins=[absent]))
                reasons: list[str] = []
                while not reasons:
                    await trio.sleep(0.05)
                    reports = (await client.nodes())[0].titles
                    reasons = [source.reason for report in reports for source in report.sources if source.reason]
                assert absent in reasons[0]
                assert "is not a directory" in reasons[0]
                # A second order brings an origin that can be used into the fill that runs.
                good = FillRequest(title=title, selector="id=a1", origins=[str(tmp_path / "src")])
                await client.post_fill(good)
                while (await client.nodes())[0].titles[0].state != "live":
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()


async def test_news_is_told_to_whom_it_concerns(tmp_path: Path) -> None:
    """A cache that shows Interest gets the holdings as its answer, then news of those chunks only, and of no others."""
    manifest = make_title(tmp_path, chunks=40)
    (tmp_path / "empty").mkdir()
    odd = bytes([0b10101010] * 5)
    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        # Nothing to fetch from yet, so that the peer's Interest comes before any chunk does.
        filling = await node.start_fill(manifest, [str(tmp_path / "empty")])
        peer = Peer(manifest, isp="isp-b", holds_nothing=True)
        await nursery.start(peer.run, address)
        handle = await peer.want()
        assert peer.channel is not None
        peer.holdings = None
        peer.channel.send(m.Interest(handle, 40, odd))
        while peer.holdings is None:
            await trio.sleep(0.01)
        assert peer.holdings == m.Holdings(handle, True, 40, bytes(5))
        filling.set_origins([str(tmp_path / "src")])
        await filling.wait()
        with trio.move_on_after(20):
            while len(peer.heard) < 20:
                await trio.sleep(0.01)
        assert sorted(peer.heard) == list(range(1, 40, 2))
        nursery.cancel_scope.cancel()


async def test_a_node_asks_another_isp_for_news_of_its_share_only(tmp_path: Path) -> None:
    manifest = make_title(tmp_path, chunks=40)
    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        members = [NodeInfo(NodeId(name), isp, "default") for name, isp in (("a9", "isp-a"), ("zz-peer", "isp-b"))]
        await node.start_fill(manifest, members=members)
        peer = Peer(manifest, isp="isp-b")
        await nursery.start(peer.run, address)
        while not peer.interests:
            await trio.sleep(0.01)
        share = Bitmap.from_bytes(peer.interests[-1].bitmap, 40)
        assert 19 <= share.count() <= 21  # of two caches, in two parts that are shared out apart
        nursery.cancel_scope.cancel()


async def test_what_neighbours_say_of_a_slow_cache_is_heard_and_told_on(tmp_path: Path) -> None:
    """One of three neighbours is slow, in the words of another; this node does without it too, and says so."""
    manifest = make_title(tmp_path, chunks=40)
    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        names = ("a9", "zz-peer", "zz-slow")
        members = [NodeInfo(NodeId(name), "isp-a", "default") for name in names]
        filling = await node.start_fill(manifest, members=members)
        peer, slow = Peer(manifest, holds_nothing=True), Peer(manifest, holds_nothing=True, node_id="zz-slow")
        for one in (peer, slow):
            await nursery.start(one.run, address)
            await one.want()
        assert peer.channel is not None
        while len(filling.fill.sources) < 2 or not peer.asked_by:
            await trio.sleep(0.01)
        peer.channel.send(m.ReportSlow(peer.asked_by[0], "zz-slow"))
        while not (peer.slow and slow.slow):
            await trio.sleep(0.01)
        assert {said.node_id for said in (*peer.slow, *slow.slow)} == {"zz-slow"}
        assert filling.fill.sources["zz-slow"].barred_reason
        nursery.cancel_scope.cancel()


async def test_an_interest_and_the_end_of_its_handle_in_one_segment(tmp_path: Path) -> None:
    """What answers the first is about something that is over by the time it is written; a node that fills lives on."""
    manifest = make_title(tmp_path, chunks=40)
    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        filling = await node.start_fill(manifest)
        for number in range(20):
            peer = Peer(manifest, isp="isp-b", holds_nothing=True, node_id=f"zz-peer{number}")
            await nursery.start(peer.run, address)
            handle = await peer.want()
            assert peer.channel is not None
            peer.channel.send(m.Interest(handle, 40, bytes([255] * 5)))
            peer.channel.send(m.Unsubscribe(handle))
        filling.set_origins([str(tmp_path / "src")])
        await filling.wait()
        assert len(node.engine.links) == 20
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("integrity", ["blake3", "xxh3"])
@pytest.mark.parametrize("good_first", [True, False])
async def test_a_source_that_answers_twice_has_nothing_written_over(
    tmp_path: Path, integrity: Literal["blake3", "xxh3"], good_first: bool
) -> None:
    (tmp_path / "src").mkdir()
    content = os.urandom(24 * CHUNK)
    (tmp_path / "src" / "big.bin").write_bytes(content)
    manifest = publish(tmp_path / "src", name="t", chunk_size=CHUNK, integrity=integrity).manifest

    def twice(request: m.Request) -> bytes:
        good = content[request.chunk * CHUNK : (request.chunk + 1) * CHUNK]
        header = encode_header(DataHeader(request.request_id, request.chunk, CHUNK))
        answers = [header + good, header + bytes(CHUNK)]
        return b"".join(answers if good_first else answers[::-1])

    async with node_at(tmp_path) as (node, address), trio.open_nursery() as nursery:
        filling = await node.start_fill(manifest)
        peer = Peer(manifest, answer=twice)
        await nursery.start(peer.run, address)
        await peer.ended.wait()
        assert "second answer" in peer.end_reason or not good_first
        source = next(source for source in filling.report().sources if source.id == "zz-peer")
        assert source.state == "quarantined"
        assert source.reason
        filling.set_origins([str(tmp_path / "src")])
        await filling.wait()
        assert (tmp_path / "a1" / "live" / "t" / "big.bin").read_bytes() == content
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", [b"P2FC\x01\x01", b"P2FD\x01\0\0\0" + bytes(16)], ids=["control", "data"])
async def test_the_version_before_is_refused_and_told_both(
    tmp_path: Path, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """At once, though what came of a data stream is all that its old preface has."""
    caplog.set_level(logging.INFO)
    async with node_at(tmp_path) as (_, address):
        said = b""
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(first)
            with trio.fail_after(5), suppress(trio.BrokenResourceError):  # where it is closed with bytes unread
                while part := await stream.receive_some(4096):
                    said += part
    assert re.search(r"of version 1, and 2 to 2 are spoken here|speaks 2 to 2, remote 1 to 1", caplog.text)
    assert "upgrade the remote node" in caplog.text
    if first.startswith(b"P2FC"):
        assert b"local speaks 2 to 2, remote 1 to 1; upgrade the remote node" in said
    else:
        assert said == b""
