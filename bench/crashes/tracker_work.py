"""A night of orders at a tracker, as a process that is recorded: titles, orders, withdrawals, heartbeats, a restart.

    python -m bench.crashes.tracker_work DIRECTORY SEED TITLES

The database is DIRECTORY/disk/tracker.db, and the calls come over HTTP, as from people and caches. Into DIRECTORY/marks
go lines that say what was answered with success, and before each withdrawal what is about to be withdrawn.
"""

from __future__ import annotations

import os
import random
import sqlite3
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from p2pfill.model.limits import KIB
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.rates import read_limits
from p2pfill.model.reports import NodeReport, TitleReport
from p2pfill.tracker import catalogue
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker

NODES: Final = 4
CHECKPOINT_PAGES: Final = 40
"""After so many pages SQLite moves its log into the database; by default 1,000, which takes longer than this night."""
HEARTBEAT_S: Final = 0.5


class Night:
    """The orders of one night, and what is answered."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._marks = os.open(directory / "marks", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._fills: dict[str, str] = {}
        """Fill that stands -> its title."""
        self._titles: list[str] = []
        self._sequences = dict.fromkeys((f"n{number}" for number in range(NODES)), 0)

    def say(self, event: str, **more: Any) -> None:
        """Write a mark."""
        os.write(self._marks, msgspec.json.encode({"event": event, **more}) + b"\n")

    async def publish(self, client: TrackerClient) -> None:
        """Publish one more title."""
        number, chunks = len(self._titles), 2 + self._chance.randrange(200)
        manifest = Manifest(
            name=f"film-{number}",
            chunk_size=64 * KIB,
            files=layout([("a.bin", chunks * 64 * KIB)]),
            xxh3=self._chance.randbytes(16 * chunks),
            blake3=self._chance.randbytes(32 * chunks),
            integrity="blake3",
        )
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        self.say("title", title=title)
        self._titles.append(title)

    async def order(self, client: TrackerClient) -> None:
        """Order some title."""
        title = self._chance.choice(self._titles)
        selector = self._chance.choice(["all", "isp=isp-a", "id=n1", "id=n2"])
        self.say("ordering", title=title)
        made = await client.post_fill(FillRequest(title, selector, ["http://origin/"], self._chance.randrange(10)))
        number = (await client.fill(made.fill_id)).fill.number
        self.say("order", fill=made.fill_id, title=title, number=number)
        self._fills[made.fill_id] = title

    async def take_back(self, client: TrackerClient) -> None:
        """Withdraw an order, or a title at once."""
        if not self._fills:
            return
        fill = self._chance.choice(sorted(self._fills))
        title = self._fills[fill]
        if self._chance.random() < 0.5:
            self.say("taking back", fills=[fill])
            await client.delete_fill(fill)
            self.say("taken back", fills=[fill], title="")
            del self._fills[fill]
            return
        fills = [one for one, its_title in self._fills.items() if its_title == title]
        self.say("taking back", fills=fills)
        await client.withdraw(title, urgent=True)
        self.say("taken back", fills=fills, title=title)
        for one in fills:
            del self._fills[one]

    async def report(self, client: TrackerClient) -> None:
        """Have each cache say how far it is."""
        for node in self._sequences:
            self._sequences[node] += 1
            info = NodeInfo(id=node, isp="isp-a", region="eu", host="127.0.0.1", port=4000)  # type: ignore[arg-type]
            held = [TitleReport(title, "filling", 10, self._chance.randrange(10)) for title in self._titles[-3:]]
            await client.heartbeat(NodeReport(info, f"boot-{node}", self._sequences[node], held))

    async def limit(self, client: TrackerClient) -> None:
        """Set a limit."""
        selector = self._chance.choice(["all", "id=n1", "id=n3"])
        self.say("limiting", selector=selector)
        rate = self._chance.randrange(1, 1000) * 1_000_000
        await client.set_limit(selector, read_limits(rate, "rates"))
        self.say("limit", selector=selector, rate=rate)

    async def part(self, client: TrackerClient, titles: int) -> None:
        """Go through a part of the night: so many titles, each with what comes between two of them."""
        for _ in range(titles):
            await self.publish(client)
            await self.report(client)
            await self.order(client)
            if self._chance.random() < 0.6:
                await self.order(client)
            if self._chance.random() < 0.5:
                await self.take_back(client)
            if self._chance.random() < 0.4:
                await self.limit(client)


def connect(call: Any, path: str, file: Any) -> tuple[sqlite3.Connection, Any]:
    """Open the database as the tracker does, to be tidied up more often."""
    connection, count = call(path, file)
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    return connection, count


async def main(directory: Path, seed: int, titles: int) -> None:
    """Go through the night, with a clean restart in its middle."""
    catalogue._connect = partial(connect, catalogue._connect)
    night = Night(directory, seed)
    database = f"sqlite:///{directory}/disk/tracker.db"
    for part in (titles // 2, titles - titles // 2):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(partial(serve_tracker, "127.0.0.1:0", database, heartbeat_s=HEARTBEAT_S))
            async with TrackerClient(url) as client:
                night.say("started")
                await night.part(client, part)
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
