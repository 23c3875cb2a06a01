"""The node under attack, in a process of its own: `open_node` as it is, told by lines of JSON on standard input.

Nothing of the attackers runs here, so memory, lateness of the event loop and survival are the node's own.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.node import Node, NodeConfig, open_node, seldom

LOOK_S = 0.01


class Lateness:
    """The latest that the event loop has woken since `mark`. The node's own figure covers a minute, many attacks."""

    def __init__(self) -> None:
        self.max_s = 0.0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            due = trio.current_time() + LOOK_S
            await trio.sleep_until(due)
            self.max_s = max(self.max_s, trio.current_time() - due)


class Target:
    """The node and what it was told to fill."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.late = Lateness()
        self.fillings: dict[str, Any] = {}

    async def fill(
        self,
        manifest: str,
        origins: list[str],
        members: list[dict[str, Any]],
        holders: list[dict[str, Any]],
        policy: dict[str, float],
    ) -> dict[str, Any]:
        """Begin to fill a title."""
        title = Manifest.decode(await trio.Path(manifest).read_bytes())
        self.fillings[title.title_id.hex()] = await self.node.start_fill(
            title,
            origins,
            FillPolicy(**policy),
            members=msgspec.convert(members, list[NodeInfo]),
            holders=msgspec.convert(holders, list[NodeInfo]),
        )
        return {}

    async def report(self, title: str) -> dict[str, Any]:
        """Say how far a title is."""
        return {"title": msgspec.to_builtins(self.fillings[title].report())}

    async def withdraw(self, title: str) -> dict[str, Any]:
        """Fill a title no more."""
        self.fillings[title].withdraw()
        return {}

    async def mark(self) -> dict[str, Any]:
        """Measure lateness from now on."""
        self.late.max_s = 0.0
        return {}

    async def figures(self) -> dict[str, Any]:
        """Say how late the event loop was, and how much the node owes to others."""
        report = self.node.report()
        return {
            "late_s": self.late.max_s,
            "loop_lag_s": self.node.loop_lag.max_us / 1e6,
            "upload_queued": report.upload_queued,
        }


async def main(data: str) -> None:
    """Run a node in `data` until standard input ends."""
    config = NodeConfig(id="n1", isp="isp-a", data=data)
    async with open_node(config) as node, trio.open_nursery() as nursery:
        target = Target(node)
        nursery.start_soon(target.late.run)
        print(json.dumps({"address": [node.info.host, node.info.port]}), flush=True)
        # In a thread that nobody waits for, so that a node that ends of itself is not held up by it.
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            command = json.loads(line)
            do = getattr(target, command.pop("do"))
            try:
                said = await do(**command)
            except Exception as error:  # noqa: BLE001  (told to the test)
                said = {"error": repr(error)}
            print(json.dumps(said), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    seldom.LOGGED_S = 0.01  # type: ignore[misc]  # each attack must be named, however soon after another one
    trio.run(main, str(Path(sys.argv[1])))
