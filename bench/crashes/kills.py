"""Kills processes of a fleet in the midst of fills and orders, starts them again, and looks at what was lost.

A *round* is a title that is ordered, one kill by SIGKILL, and a start on the same data. What a chunk's being durable
means is taken from the disk at the kill: it is in the journal of the title's fill, or the title is whole. What was
fetched after that is taken from the cache's own counters, which it keeps beside the journal: of a chunk that was
durable nothing may be in them.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Final, NamedTuple

import trio

from bench.crashes.fleet import (
    CACHES,
    DONE_S,
    LOOK_S,
    TRACKER,
    Fleet,
    KillsFailed,
    Title,
    wait_live,
)
from bench.crashes.records import RolePart, Times
from p2pfill.errors import P2PFillError, TrackerError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.limits import KIB
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.reports import TitleReport
from p2pfill.store.journal import JOURNAL, Journal
from p2pfill.store.tally import Tally, read_tally
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest

VICTIMS: Final = {"cache": "a2", "seed": "hub", "master": "a1", "tracker": TRACKER}
"""Role -> the process that has it in this fleet."""

KILL_S_MAX: Final = 1.2
"""After an order is answered, or a restart: a fill takes about a second."""
GIVEN_MAX: Final = 40
"""Orders that are given beside a fill while the tracker is about to be killed."""


class Settings(NamedTuple):
    """How much is killed."""

    roles: Sequence[str] = tuple(VICTIMS)
    """In turns."""
    kills: int = 300
    seed: int = 1
    fleets: int = 1
    """Side by side: each waits for most of its time."""
    at_calls: bool = True
    """Half of them at calls, as far as strace is here."""


@dataclass(slots=True)
class Counts:
    """What the rounds of one role have shown."""

    kills: int = 0
    at_calls: int = 0
    mid_fill: int = 0
    kept_chunks: int = 0
    fetched_again: int = 0
    orders_answered: int = 0
    orders_lost: int = 0
    files_compared: int = 0
    faults: list[str] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)

    def part(self, role: str) -> RolePart:
        """Return what the report says of them."""
        return RolePart(
            role, self.kills, self.at_calls, self.mid_fill, self.kept_chunks, self.fetched_again, self.orders_answered,
            self.orders_lost, self.files_compared, self.faults, Times.of(self.ready_s), Times.of(self.whole_s),
        )  # fmt: skip


class Rounds:
    """The rounds with one fleet."""

    def __init__(self, fleet: Fleet, chance: random.Random, counts: dict[str, Counts], *, at_calls: bool) -> None:
        self._fleet = fleet
        self._chance = chance
        self._at_calls = at_calls
        self._titles: dict[str, Title] = {}
        self._stands: set[str] = set()
        """Orders that were answered with success and not withdrawn."""
        self._gone: set[str] = set()
        """Orders whose withdrawal was answered with success."""
        self._given = 0
        self._counts = counts

    async def run(self, left: deque[str], say: Callable[[str], object]) -> None:
        """Kill the roles that are left, one after the other. What stops this is a fault of the role at hand."""
        while left:
            role = left.popleft()
            counts = self._counts.setdefault(role, Counts())
            say(f"{len(left)} kills are left; now: {role}")
            try:
                await (self._tracker_round(counts) if role == "tracker" else self._cache_round(role, counts))
            except (P2PFillError, trio.TooSlowError) as error:
                counts.faults.append(f"{type(error).__name__}: {error}")
                return
            if faults := self._fleet.tracebacks():
                counts.faults += faults
                return

    # ---- a cache is killed

    async def _cache_round(self, role: str, counts: Counts) -> None:
        fleet, victim = self._fleet, VICTIMS[role]
        async with fleet.client() as client:
            title = await self._publish(client)
            targets = ["a1", "a2"]
            if role == "seed":
                # All that the others need is on the one that is killed, and nowhere else.
                await self._order(client, title, "id=hub", [str(title.root)], counts)
                await wait_live(fleet, client, title, ["hub"])
                await self._order(client, title, "isp=isp-a", [], counts)
                targets.append("hub")
            else:
                await self._order(client, title, "isp=isp-a", [str(title.root)], counts)
            await self._kill(victim, counts)
            durable, before = held(fleet.data(victim), title)
            under_way = [name for name in targets if not (fleet.data(name) / "live" / title.name).exists()]
            counts.mid_fill += bool(under_way)
            counts.kept_chunks += len(durable)
            self._compare(victim, counts)
            ready_at = await self._start(victim, counts)
            since = time.time()
            others = [name for name in targets if name != victim]
            reports = await wait_live(fleet, client, title, [victim], since)
            await wait_live(fleet, client, title, others)
            counts.whole_s.append(time.monotonic() - ready_at)
            self._judge(victim, title, durable, before, reports[victim], counts)
            for name in targets:
                self._compare(name, counts, [title.name])
            await self._check_orders(client, counts)
            await self._withdraw(client, title, counts)

    def _judge(
        self, victim: str, title: Title, durable: set[int], before: Tally, report: TitleReport, counts: Counts
    ) -> None:
        """Compare what a cache has fetched since it was killed with what it lacked then."""
        fetched = _sum(report) - _sum(before) - (report.duplicate_bytes - before.duplicate_bytes)
        length = title.manifest.chunk_length
        lacked = title.manifest.size - sum(map(length, durable))
        if fetched > lacked:
            counts.fetched_again += -(-(fetched - lacked) // title.manifest.chunk_size)
            counts.faults.append(f"{victim} lacked {lacked} bytes of {title.name}, and has fetched {fetched}")

    # ---- the tracker is killed

    async def _tracker_round(self, counts: Counts) -> None:
        fleet = self._fleet
        async with fleet.client() as client, trio.open_nursery() as nursery:
            title = await self._publish(client)
            await self._order(client, title, "isp=isp-a", [str(title.root)], counts)
            nursery.start_soon(self._give_orders, client, counts)
            await self._kill(TRACKER, counts)
        counts.mid_fill += 1
        ready_at = await self._start(TRACKER, counts)
        async with fleet.client() as client:
            await self._check_orders(client, counts)
            counts.whole_s.append(time.monotonic() - ready_at)
            if losses := (await client.health()).losses:
                counts.faults.append(f"the tracker tells of a loss: {losses}")
            await wait_live(fleet, client, title, ["a1", "a2"])
            for name in ("a1", "a2"):
                self._compare(name, counts, [title.name])
            await self._withdraw(client, title, counts)

    async def _give_orders(self, client: TrackerClient, counts: Counts) -> None:
        """Order and withdraw titles that nobody fills, one call after the other, until the tracker is gone."""
        given: list[str] = []
        with suppress(TrackerError):
            for _ in range(GIVEN_MAX):
                self._given += 1
                manifest = Manifest(
                    name=f"paper-{self._given}", chunk_size=64 * KIB, files=layout([("a", 2 * 64 * KIB)]),
                    xxh3=self._chance.randbytes(32), blake3=self._chance.randbytes(64), integrity="blake3",
                )  # fmt: skip
                title = manifest.title_id.hex()
                await client.put_title(title, manifest.encode())
                made = await client.post_fill(FillRequest(title, "id=nobody", ["http://origin/"]))
                self._stands.add(made.fill_id)
                given.append(made.fill_id)
                counts.orders_answered += 1
                if self._chance.random() < 0.3:
                    fill = given.pop(self._chance.randrange(len(given)))
                    self._stands.discard(fill)  # from here on until the answer it may stand or not
                    await client.delete_fill(fill)
                    self._gone.add(fill)
                    counts.orders_answered += 1

    # ---- steps

    async def _publish(self, client: TrackerClient) -> Title:
        title = await trio.to_thread.run_sync(self._fleet.make_title)
        self._titles[title.name] = title
        await client.put_title(title.id, title.manifest.encode())
        return title

    async def _order(
        self, client: TrackerClient, title: Title, selector: str, origins: list[str], counts: Counts
    ) -> None:
        self._stands.add((await client.post_fill(FillRequest(title.id, selector, origins))).fill_id)
        counts.orders_answered += 1

    async def _withdraw(self, client: TrackerClient, title: Title, counts: Counts) -> None:
        """Take a title back from all caches, and see it go."""
        fills = {fill.fill_id for fill in await client.fills() if fill.request.title == title.id}
        self._stands -= fills
        await client.withdraw(title.id, urgent=True)
        self._gone |= fills
        counts.orders_answered += 1
        until = time.monotonic() + DONE_S
        while left := [name for name in CACHES if (self._fleet.data(name) / "live" / title.name).exists()]:
            if time.monotonic() > until:
                raise KillsFailed(f"{title.name} was withdrawn, and {left} show it")
            await trio.sleep(LOOK_S)
        shutil.rmtree(title.root)
        del self._titles[title.name]

    async def _kill(self, victim: str, counts: Counts) -> None:
        at_call = self._at_calls and self._chance.random() < 0.5
        was_at_call = await self._fleet.kill(victim, self._chance.uniform(0.0, KILL_S_MAX), at_call=at_call)
        counts.kills += 1
        counts.at_calls += was_at_call

    async def _start(self, victim: str, counts: Counts) -> float:
        """Start a process again; return when it was ready."""
        began = time.monotonic()
        self._fleet.start(victim)
        await self._fleet.wait_ready(victim)
        counts.ready_s.append(time.monotonic() - began)
        return time.monotonic()

    def _compare(self, cache: str, counts: Counts, whole: list[str] | None = None) -> None:
        count, faults = self._fleet.compare(cache, self._titles, whole=whole or [])
        counts.files_compared += count
        counts.faults += faults

    async def _check_orders(self, client: TrackerClient, counts: Counts) -> None:
        with suppress(TrackerRefused):
            there = {fill.fill_id for fill in await client.fills()}
            lost, back = self._stands - there, self._gone & there
            counts.orders_lost += len(lost) + len(back)
            counts.faults += [f"order {fill} was answered, and is lost" for fill in lost]
            counts.faults += [f"order {fill} was withdrawn, and stands" for fill in back]
            return
        counts.faults.append("the tracker refuses to say what is ordered")


def held(data: Path, title: Title) -> tuple[set[int], Tally]:
    """Return the chunks of a title that are durable in a data directory of a process that has ended, and its counters.

    The journal is read from a copy: opening it cuts what is torn.
    """
    whole, filling = data / "titles" / title.id, data / "filling" / title.id
    place = whole if whole.is_dir() else filling
    if not place.is_dir():
        return set(), Tally()
    directory_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        tally = read_tally(directory_fd)
    finally:
        os.close(directory_fd)
    if place == whole:
        return set(range(title.manifest.chunk_count)), tally
    return set(_journal(filling, title).indexes()), tally


def _journal(filling: Path, title: Title) -> Bitmap:
    if not (filling / JOURNAL).exists():
        return Bitmap(title.manifest.chunk_count)
    copy = filling.parents[1] / "copy"
    copy.mkdir()
    shutil.copy(filling / JOURNAL, copy / JOURNAL)
    directory_fd = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
    try:
        journal, have = Journal.open(directory_fd, title.manifest.title_id, title.manifest.chunk_count)
        journal.close()
    finally:
        os.close(directory_fd)
        shutil.rmtree(copy)
    return have


def _sum(one: TitleReport | Tally) -> int:
    return one.bytes_peer + one.bytes_regional + one.bytes_origin


def run(settings: Settings, work: Path, say: Callable[[str], object]) -> list[RolePart]:
    """Kill so many times, and return what that has shown of each role. Raises `KillsFailed` where none can be."""
    counts: dict[str, Counts] = {}
    left = deque(islice(cycle(settings.roles), settings.kills))

    async def one(number: int) -> None:
        chance = random.Random(f"{settings.seed} {number}")
        (place := work / f"fleet-{number}").mkdir()
        fleet = Fleet(place, chance)
        try:
            await fleet.begin()
            await Rounds(fleet, chance, counts, at_calls=settings.at_calls).run(left, say)
        finally:
            await trio.to_thread.run_sync(fleet.close)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(settings.fleets):
                nursery.start_soon(one, number)

    try:
        trio.run(main)
    except* P2PFillError as group:
        raise KillsFailed("; ".join(map(str, group.exceptions))) from group
    return [counts[role].part(role) for role in settings.roles if role in counts]
