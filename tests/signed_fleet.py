"""A fleet of real nodes and a tracker with certificates, whose tracker can be stopped and lose its database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from certificates import Signer, cache, tracker, user
from publishing import Studio, write_publishers

from p2pfill.model.identity import Identity
from p2pfill.node import Node, NodeConfig
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
"""


class Fleet:
    """A tracker that knows no publishers, unless told, and what is made with its authority."""

    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.root = root
        self.signer = Signer()
        self.url = ""
        self._nursery = nursery
        (root / "grants.toml").write_text(GRANTS)

    async def start(self, *studios: Studio, database: str = "t") -> None:
        """Start the tracker, again at the same place."""
        directory = self.signer.give(self.root / "tracker", tracker())
        if studios:
            write_publishers(directory, *studios)
        serve = partial(
            serve_tracker, self.url.removeprefix("https://") or "127.0.0.1:0", f"sqlite:///{self.root}/{database}.db",
            heartbeat_s=0.2, credentials=Credentials(directory), grants=self.root / "grants.toml",
        )  # fmt: skip
        self.url = await self._nursery.start(self._run, serve)

    async def _run(self, serve: Callable[..., Awaitable[None]], task_status: trio.TaskStatus[str]) -> None:
        self._ended = trio.Event()
        with trio.CancelScope() as self._serving:
            await serve(task_status=task_status)
        self._ended.set()

    async def stop(self) -> None:
        self._serving.cancel()
        await self._ended.wait()

    def client(self, name: str = "anna") -> TrackerClient:
        return TrackerClient(self.url, credentials=Credentials(self.signer.give(self.root / name, user(name))))

    def config(
        self, *studios: Studio, who: Identity | None = None, more: str = "", url: str | None = None
    ) -> NodeConfig:
        who = who or cache("a1")
        directory = self.root / f"id-{who.name}"
        self.signer.give(directory, who)
        if studios:
            write_publishers(directory, *studios, more=more)
        data = str(self.root / f"data-{who.name}")
        return NodeConfig.load(None, identity=str(directory), data=data, tracker=self.url if url is None else url)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await trio.sleep(0.02)


def shown(node: Node) -> bytes:
    """Return how the file begins that viewers see, b'' where they see none."""
    try:
        return (Path(node.config.data) / "live/film/a.bin").read_bytes()[:2]
    except OSError:
        return b""
