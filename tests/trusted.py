"""A fleet with certificates, for tests: an authority, a tracker that asks who calls, and what is made with them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import msgspec
import trio
from certificates import Signer, tracker

from p2pfill.model.identity import Identity
from p2pfill.node import NodeConfig
from p2pfill.node.health import HealthConfig
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.server import serve_tracker
from p2pfill.trust.credentials import Credentials

GRANTS = """
[[grants]]
who = "user/anna"
may = ["read", "publish", "order", "withdraw", "manage"]

[[grants]]
who = "user/bob"
may = ["read", "publish", "order"]
titles = "b-*"
to = "isp=isp-b"
priority_max = 3
bytes_max = "1MB"
"""


def unhurried(config: NodeConfig) -> NodeConfig:
    """Return a configuration that does not take a busy machine for one with viewers: tests share theirs."""
    return msgspec.structs.replace(config, health=HealthConfig(load=0, disk_reads=0, link_use=0))


class Fleet:
    """An authority, a tracker that asks for certificates, and what is made with them."""

    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.root = root
        self.signer = Signer()
        self.url = ""
        self._nursery = nursery

    async def start(self) -> None:
        (self.root / "grants.toml").write_text(GRANTS)
        credentials = Credentials(self.signer.give(self.root / "tracker", tracker()))
        self.url = await self._nursery.start(
            partial(
                serve_tracker, "127.0.0.1:0", f"sqlite:///{self.root}/t.db", heartbeat_s=0.2, credentials=credentials,
                grants=self.root / "grants.toml",
            )
        )  # fmt: skip

    def client(self, who: Identity, signer: Signer | None = None) -> TrackerClient:
        directory = (signer or self.signer).give(self.root / f"id-{who.name}", who)
        if signer is not None:  # it believes the tracker, which does not believe it
            (directory / "ca.pem").write_bytes((self.root / "tracker" / "ca.pem").read_bytes())
        return TrackerClient(self.url, credentials=Credentials(directory))

    def config(self, who: Identity, url: str | None = None) -> NodeConfig:
        directory = self.root / f"id-{who.name}"
        if not directory.exists():
            self.signer.give(directory, who)
        data = str(self.root / f"data-{who.name}")
        config = NodeConfig.load(None, identity=str(directory), data=data, tracker=self.url if url is None else url)
        return unhurried(config)


def film(root: Path, name: str = "film", size: int = 3_000_000) -> tuple[bytes, str, str]:
    """Return an encoded manifest, its title id and an origin."""
    source = root / f"src-{name}"
    source.mkdir()
    (source / "a.bin").write_bytes(os.urandom(size))
    manifest = publish(source, name=name).manifest
    return manifest.encode(), manifest.title_id.hex(), str(source)
