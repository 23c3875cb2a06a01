"""A small fleet that is given a plan: a tracker and a node for each cache, as processes of their own, and their fill.

What `demo_world` has written is published from its directory; the nodes fill from whatever origin the orders name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from p2pfill.cli.children import Child, Children
from p2pfill.cli.demo import FLEET_S
from p2pfill.cli.exits import CommandFailed
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillStatus, NodeStatus

if TYPE_CHECKING:
    from p2pfill.cli.demo_world import DemoCache

HEARTBEAT_S: Final = 0.5
POLL_S: Final = 0.2
FILL_S: Final = 120.0
"""For a fill of some ten megabytes to each cache, on a machine that is busy."""
TIERS: Final = ("peer", "regional", "origin")


class DemoFleet(NamedTuple):
    """A fleet that runs."""

    tracker: str
    """Its URL."""
    nodes: list[Child]
    """In the order of the caches. The data of each is in a directory of its name, and its log beside it."""


@asynccontextmanager
async def open_fleet(work: Path, caches: Sequence[DemoCache]) -> AsyncIterator[DemoFleet]:
    """Run a tracker and a node for each cache, with all of their data below `work`."""
    async with Children(work) as children:
        db = f"sqlite:///{work / 'tracker.db'}"
        options = ["--listen", "127.0.0.1:0", "--db", db, "--heartbeat", str(HEARTBEAT_S), "--until-eof", "--json"]
        tracker_process = await children.start("tracker", "p2pfill.cli", ["tracker", *options])
        tracker = (await tracker_process.read_ready())["url"]
        nodes = [
            await children.start(one.name, "p2pfill.cli", [
                "node", "--id", one.name, "--isp", one.isp, "--region", one.region, "--cluster", one.cluster,
                "--data", str(work / one.name), "--listen", "127.0.0.1:0", "--tracker", tracker, "--until-eof",
                "--json",
            ])
            for one in caches
        ]  # fmt: skip
        for node in nodes:
            await node.read_ready()
        yield DemoFleet(tracker, nodes)


async def publish_titles(work: Path, titles: Sequence[str], tracker: str, caches: int) -> None:
    """Make titles known to the tracker, and wait until so many caches have reported to it."""
    from p2pfill.store.publish import publish

    async with TrackerClient(tracker) as client:
        for title in titles:
            made = await trio.to_thread.run_sync(partial(publish, work / "origin" / title, name=title))
            await client.put_title(made.manifest.title_id.hex(), made.manifest.encode())
        with trio.move_on_after(FLEET_S) as scope:
            while True:
                if sum(node.alive for node in await client.nodes()) == caches:
                    break
                await trio.sleep(POLL_S)
        if scope.cancelled_caught:
            raise CommandFailed(f"not all caches have reported to the tracker after {FLEET_S:.0f} s")


async def wait_filled(tracker: str) -> list[NodeStatus]:
    """Wait until all that was ordered is live, and return what the nodes say then. Raises `CommandFailed`."""
    status: list[FillStatus] = []
    async with TrackerClient(tracker) as client:
        with trio.move_on_after(FILL_S) as scope:
            while True:
                status = [await client.fill(one.fill_id) for one in await client.fills()]
                if all(one.done for one in status):
                    break
                await trio.sleep(POLL_S)
        if scope.cancelled_caught:
            lacking = ", ".join(sorted({one.title_name for one in status if not one.done})[:5])
            raise CommandFailed(f"not all is live {FILL_S:.0f} s after: {lacking}; try again with --keep")
        return await client.nodes()


def by_tier(nodes: Sequence[NodeStatus]) -> dict[str, int]:
    """Return how many bytes nodes have had of each tier."""
    return {
        tier: sum(getattr(report, f"bytes_{tier}") for node in nodes for report in node.titles) for tier in TIERS
    }
