"""Data streams through TLS: real nodes with certificates, and what others can do about them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from certificates import Signer, cache

from p2pfill.model.manifest import Manifest
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.store.publish import publish

SIZE = 5_000_000


class Pair:
    """Two caches of one ISP, `a1` with a title and `a2` without, each with a certificate."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.signer = Signer()
        (root / "src").mkdir()
        (root / "src" / "a.bin").write_bytes(os.urandom(SIZE))
        self.manifest: Manifest = publish(root / "src", name="film").manifest

    @asynccontextmanager
    async def node(self, name: str, *, encrypt: bool, rates: str = "") -> AsyncIterator[Node]:
        directory = self.root / f"id-{name}"
        if not directory.exists():
            self.signer.give(directory, cache(name))
        data = str(self.root / f"data-{name}")
        # However busy the machine is: else nodes refuse requests for a while.
        health = {"load": 0, "disk_reads": 0, "link_use": 0}
        config = NodeConfig.load(
            None, identity=str(directory), data=data, encrypt_data=encrypt, rates=rates, health=health
        )
        async with open_node(config) as node:
            yield node

    async def fill(self, source: Node, receiver: Node) -> None:
        """Have the receiver fill the title from the source alone."""
        info = msgspec.structs.replace(source.info)
        filling = await receiver.start_fill(self.manifest, members=[info])
        source.want_links([receiver.info])
        receiver.want_links([info])
        await filling.wait()
        got = Path(receiver.config.data) / "live/film/a.bin"
        assert got.read_bytes() == (self.root / "src" / "a.bin").read_bytes()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture(autouse=True)
async def hurry() -> AsyncIterator[None]:
    with trio.fail_after(30):
        yield


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await trio.sleep(0.01)


@pytest.mark.parametrize("who", ["sender", "receiver", "both", "none"])
async def test_where_either_side_asks_for_it_both_encrypt(pair: Pair, who: str) -> None:
    async with (
        pair.node("a1", encrypt=who in ("sender", "both")) as a1,
        pair.node("a2", encrypt=who in ("receiver", "both")) as a2,
    ):
        await a1.fill(pair.manifest, [str(pair.root / "src")])
        await pair.fill(a1, a2)
        assert a1.links.moved()[1] >= SIZE
        told = [node.links.encryption() for node in (a1, a2)]
        assert [one.streams for one in told] == ([0, 0] if who == "none" else [1, 1])
        assert [one.required for one in told] == [who in ("sender", "both"), who in ("receiver", "both")]
