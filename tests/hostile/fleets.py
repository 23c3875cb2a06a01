"""Fleets to be attacked, with certificates and without: real nodes in this process, and strangers beside them."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from certificates import cache, user
from trusted import Fleet, unhurried

from p2pfill.model.manifest import Manifest
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import encode_preface
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.server import serve_tracker
from p2pfill.trust.credentials import Credentials
from tests.hostile.peer import Peer, frame

ISP, FAR = "isp-a", "far"


class Attacked:
    """A fleet. Where it has certificates a stranger has one too: a cache that means no good."""

    def __init__(self, root: Path, trusted: Fleet | None, url: str) -> None:
        self.root, self.trusted, self.url = root, trusted, url
        self.source = root / "src"

    def client(self) -> TrackerClient:
        """Return a client of somebody who may everything."""
        return TrackerClient(self.url) if self.trusted is None else self.trusted.client(user("anna"))

    @asynccontextmanager
    async def node(self, name: str, *, tracker: bool = False) -> AsyncIterator[Node]:
        """Have a cache run for the length of the block."""
        url = self.url if tracker else ""
        config = unhurried(NodeConfig(id=name, isp=ISP, data=str(self.root / name), tracker=url))
        if self.trusted is not None:
            config = self.trusted.config(cache(name, ISP), url)
        async with open_node(config) as node:
            yield node

    def stranger(self, name: str, *, says: str = "") -> Peer:
        """Return a cache of another region; in its Hello it `says` that it has another name."""
        peer = Peer(says or name, isp="isp-z", region=FAR, port=1)
        if self.trusted is not None:
            directory = self.root / f"id-{name}"
            if not directory.exists():
                self.trusted.signer.give(directory, cache(name, "isp-z", FAR))
            peer.tls = Credentials(directory).connecting
        return peer

    def title(self, chunks: int, chunk_size: int = 65536) -> Manifest:
        """Return a title, whose files lie in `source`."""
        self.source.mkdir()
        (self.source / "a.bin").write_bytes(os.urandom(chunks * chunk_size))
        return publish(self.source, name="film", chunk_size=chunk_size).manifest


@asynccontextmanager
async def attacked(root: Path, *, certificates: bool) -> AsyncIterator[Attacked]:
    """Have a fleet with a tracker for the length of the block."""
    async with trio.open_nursery() as nursery:
        if certificates:
            trusted = Fleet(root, nursery)
            await trusted.start()
            yield Attacked(root, trusted, trusted.url)
        else:
            serve = partial(serve_tracker, "127.0.0.1:0", f"sqlite:///{root}/t.db", heartbeat_s=0.2)
            yield Attacked(root, None, await nursery.start(serve))
        nursery.cancel_scope.cancel()


async def read_slowly(peer: Peer, address: tuple[str, int], title: bytes, rate_bytes_s: float, chunks: int) -> None:
    """Ask for chunks over a data stream of a peer's, and read them at a rate, through next to no buffer."""
    handle = await peer.want(title)
    await peer.send(m.StreamOpen(next(peer.next_stream_id)))
    token = await peer.tokens.receive()
    await peer.send(*(m.Request(handle, next(peer.next_request_id), number % chunks) for number in range(200)))
    with trio.socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect(address)
        await sock.send(encode_preface(token))
        while part := await sock.recv(int(rate_bytes_s / 20)):
            await trio.sleep(len(part) / rate_bytes_s)


def introduced(name: str) -> bytes:
    """Return what a stranger says first that links under a made-up name, without a certificate."""
    return Peer(name, isp="isp-z", region=FAR, port=1).opening() + frame(m.Ping(1))
