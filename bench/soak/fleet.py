"""A soak: a tracker, a node and a crowd of light caches, and titles that come, are filled and served, and go.

All of them on this machine, with certificates. The node holds some hundred orders at a time: once it does, each new one
has the oldest withdrawn, half of them to be deleted at once and half when room is needed, which is always. One title in
five comes under the name of the one before. Certificates of all are signed anew three times, and each time one cache of
the crowd is revoked and given another. Every title is compared with what was published once it is live.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import trio

from bench.networks.fleet import SETTINGS
from bench.soak.crowd import Member, Plan
from bench.soak.flatness import judge
from bench.soak.records import Course, Happened, Report, Sample
from bench.soak.watched import Inside
from bench.swarm.identities import TRACKER_NAME, Identities
from bench.swarm.processes import Processes, RunFailed, ThisMachine
from bench.swarm.topology import Host
from p2pfill.bench.measure import describe_machine
from p2pfill.bench.processes import free_port
from p2pfill.cli.static_server import StaticServer
from p2pfill.errors import P2PFillError
from p2pfill.model.manifest import Manifest
from p2pfill.store.descriptors import descriptors_max
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.records import FillRequest
from p2pfill.trust.authority import Authority

T = TypeVar("T")

NODE: Final = "soak-node"
"""Higher than the names of the crowd, which so makes the links."""

HEARTBEAT_S: Final = 2.0

PROCESSES: Final = 4
"""Of the crowd."""

LINKS_A_SECOND: Final = 6.0
"""That are made anew, at most: each costs both ends some milliseconds, and the crowd is to leave the node time."""

FETCHES_A_SECOND: Final = 4.0
"""Of the crowd, from the node; each opens a data stream of its own."""

REPORTING: Final = 48
"""Of the crowd, that report to the tracker; the others only link."""

CHUNK_BYTES: Final = 64 * 1024
CHUNKS_MAX: Final = 5
"""Of a title."""

STANDING_MAX: Final = 100
"""Orders at a time."""

RAMP_PART: Final = 0.15
"""Of the time, in which the first orders come: the half that is judged has the same number all along."""

LIVE_S: Final = 300.0
"""For a title to be live: some seconds as a rule, and minutes where others keep the machine."""

TOLD_S: Final = 2 * HEARTBEAT_S
"""From when caches hold a title until it is ordered: they have told the tracker."""

REPLACED_PART: Final = 0.2
"""Of the titles come under the name of one before."""

LOOK_S: Final = 1.0
CALLS_MAX: Final = 60
"""Of the tracker, for one answer."""
BUSY: Final = (429, 503)
"""Answers of a tracker that asks for patience."""
READY_S: Final = 120.0
FORGET_S: Final = 30.0
"""From a title's withdrawal until it is deleted from the catalogue."""

HISTORIES: Final = frozenset(
    {
        "audit",
        "night_rows",
        "night_titles",
        "night_caches",
        "nights",
        "withdrawn",
        "signed_withdrawals",
        "order_numbers",
    }
)
"""Tables that grow with what has been: a row a change up to a million, reports of 30 nights up to 100,000 rows each,
the titles that caches which come back have to delete, signed withdrawals up to 100,000, and a number for each name."""

COUNTS: Final = 12
"""Samples: in one of them all entries are counted, which with hundreds of links takes as much of a process's time as a
hundred heartbeats."""
FEW_LINKS: Final = 100
"""Up to here in each."""

DESCRIPTORS_EACH: Final = 5
"""That a linked cache may take of the node; see docs/reliability.md, "Descriptors"."""
DESCRIPTORS_REST: Final = 256


class Title(NamedTuple):
    """One that has been ordered."""

    name: str
    manifest: Manifest
    source: Path
    fill_id: str
    ordered_at: float
    """By the monotonic clock."""

    @property
    def id(self) -> str:
        """As texts spell it."""
        return self.manifest.title_id.hex()


class Disks(NamedTuple):
    """What lies on the disks at one time."""

    data_bytes: int = 0
    """Below DATA, without the files of titles."""
    database_bytes: int = 0
    rows: int = 0
    histories: int = 0


class Soak:
    """One soak below the directory `work`."""

    def __init__(self, work: Path, links: int, titles: int, minutes: float, every_s: float, seed: int) -> None:
        self.work = work
        self.links = links
        self.titles = titles
        self.lasts_s = minutes * 60
        self.every_s = every_s
        self.standing = max(1, min(STANDING_MAX, titles // 4))
        self.happened = Happened()
        self.node, self.tracker = Course([]), Course([])
        self._chance = random.Random(seed)
        self._seed = seed
        self._members = [
            Host(f"p{number:03}", f"isp-{number % 3}", "east" if number % 3 else "west", 0.0, 0.0, 1.0, "127.0.0.1")
            for number in range(links)
        ]
        node = Host(NODE, "isp-0", "west", 0.0, 0.0, 1.0, "127.0.0.1")
        self._identities = Identities(work / "identities", "127.0.0.1", [*self._members, node])
        self._filling: dict[str, Title] = {}
        self._live: dict[str, Title] = {}
        """Fills of the titles that are ordered and live."""
        self._leaving: dict[str, Title] = {}
        """Titles that were withdrawn and are still on the node."""
        self._forget: list[tuple[float, str]] = []
        self._crowd_says: dict[str, dict[str, int]] = {}
        self._at_once: list[int] = []
        self.table_rows: dict[str, int] = {}
        """Of the tracker's database when it was read last."""
        self._rows: dict[float, Disks] = {}
        """Time -> what was found."""
        self._began = 0.0
        self._turn = trio.Lock()
        """Two lines for a process of the crowd must not mix."""

    # ---- processes

    async def run(self) -> None:
        """Run it to its end. Raises `RunFailed` where a process ends, and `P2PFillError` where the tracker refuses."""
        source = self.work / "sources"
        source.mkdir()
        server = StaticServer(source, frozenset(), "127.0.0.1:0")
        threading.Thread(target=server.serve_forever, name="origin", daemon=True).start()
        try:
            async with Processes(ThisMachine(), self.work) as processes:
                await self._start(processes)
                async with self._identities.client(self._url) as client, trio.open_nursery() as nursery:
                    self._began = time.monotonic()
                    processes.start_clocks()
                    for keep in (self._look_at_disks, self._renew_now_and_then):
                        nursery.start_soon(keep)
                    nursery.start_soon(self._ask_crowd, processes)
                    nursery.start_soon(self._watch, client, processes)
                    await self._order_all(client, server, processes, nursery)
                    await trio.sleep(max(0.0, self._began + self.lasts_s - time.monotonic()))
                    # A machine that others keep may be behind: what was to come is to have come.
                    with trio.move_on_after(LIVE_S):
                        while self.happened.ordered < self.titles or self._filling:
                            await trio.sleep(LOOK_S)
                    nursery.cancel_scope.cancel()
                self.node.processor_s = processes.peers["node"].cpu_s()
                self.tracker.processor_s = processes.peers["tracker"].cpu_s()
        finally:
            server.shutdown()
            server.server_close()
        self._finish()

    async def _start(self, processes: Processes) -> None:
        port = free_port()
        database, grants = f"sqlite:///{self.work}/tracker.db", str(self._identities.grants)
        settings = ["--listen", f"127.0.0.1:{port}", "--db", database, "--grants", grants]
        settings += ["--identity", self._identities.of(TRACKER_NAME), "--heartbeat", str(HEARTBEAT_S)]
        await self._begin(processes, "tracker", settings)
        self._url = f"https://127.0.0.1:{port}"
        # All that no order wants goes: of a disk, the node is to keep more free than there is.
        settings = ["--identity", self._identities.of(NODE), "--data", str(self.work / "data"), "--tracker", self._url]
        config = self.work / "node.toml"
        config.write_text(SETTINGS)
        ready = await self._begin(processes, "node", ["--config", str(config), *settings, "--free-min", str(1 << 60)])
        host, _, port_text = ready["address"].rpartition(":")
        share = -(-self.links // PROCESSES)
        for number in range(PROCESSES):
            members = self._members[number * share : (number + 1) * share]
            if not members:
                break
            plan = Plan(
                host=host, port=int(port_text), tracker=self._url, reporting=REPORTING // PROCESSES,
                members=[Member(one.name, one.isp, one.region, self._identities.of(one.name)) for one in members],
                link_s=max(5.0, self.lasts_s / 6, self.links / LINKS_A_SECOND),
                fetch_s=max(2.0, self.links / FETCHES_A_SECOND), seed=self._seed + number,
            )  # fmt: skip
            path = self.work / f"crowd-{number}.json"
            path.write_bytes(msgspec.json.encode(plan))
            await processes.start("", f"crowd-{number}", "bench.soak.crowd", [str(path)])

    async def _begin(self, processes: Processes, name: str, settings: list[str]) -> dict[str, Any]:
        counts = COUNTS if self.links > FEW_LINKS else 1
        samples = [str(self.work / f"{name}.jsonl"), str(self.every_s), str(counts), name]
        watched = [*samples, *settings, "--json", "--until-eof"]
        return await (await processes.start("", name, "bench.soak.watched", watched)).read_ready()

    async def _tell_crowd(self, processes: Processes, record: dict[str, Any]) -> None:
        async with self._turn:
            for name, peer in processes.peers.items():
                if name.startswith("crowd-"):
                    await peer.send(record)

    async def _ask_crowd(self, processes: Processes) -> None:
        while True:
            await trio.sleep(self.every_s)
            processes.check()
            await self._tell_crowd(processes, {"tell": True})
            for name, peer in processes.peers.items():
                if name.startswith("crowd-"):
                    self._crowd_says[name] = await peer.read_record() or {}
            self._at_once.append(sum(said.get("linked", 0) for said in self._crowd_says.values()))

    # ---- titles

    async def _order_all(
        self, client: TrackerClient, server: StaticServer, processes: Processes, nursery: trio.Nursery
    ) -> None:
        ramp_s = self.lasts_s * RAMP_PART
        rest_s = self.lasts_s * (1 - RAMP_PART) - TOLD_S - min(30.0, self.lasts_s / 8)
        for number in range(self.titles):
            if number < self.standing:
                due = ramp_s * number / self.standing
            else:
                due = ramp_s + rest_s * (number - self.standing) / max(1, self.titles - self.standing)
            await trio.sleep(max(0.0, self._began + due - time.monotonic()))
            nursery.start_soon(self._order, number, client, server, processes)

    async def _order(self, number: int, client: TrackerClient, server: StaticServer, processes: Processes) -> None:
        """Publish a title, let caches of the crowd report that they hold it, and order it."""
        before = next(reversed(self._live.values()), None)
        is_new_version = self._chance.random() < REPLACED_PART and before is not None
        name = before.name if is_new_version and before is not None else f"title-{number:04}"
        source = self.work / "sources" / str(number)
        source.mkdir()
        (source / "film").write_bytes(self._chance.randbytes(self._chance.randint(1, CHUNKS_MAX * CHUNK_BYTES)))
        manifest = (await trio.to_thread.run_sync(lambda: publish(source, name=name, chunk_size=CHUNK_BYTES))).manifest
        fill, title_id = self.work / "sources" / f"{number}.fill", manifest.title_id.hex()
        fill.write_bytes(manifest.encode())
        server.paths |= {f"{number}/film"}
        await again(lambda: client.put_title(title_id, manifest.encode()))
        told = {"add": title_id, "fill": str(fill), "file": str(source / "film"), "some_hold": number % 3 > 0}
        await self._tell_crowd(processes, told)
        await trio.sleep(TOLD_S)
        request = FillRequest(title=title_id, selector=f"id={NODE}", origins=[f"{server.url}/{number}/"])
        fill_id = (await again(lambda: client.post_fill(request))).fill_id
        self._filling[fill_id] = Title(name, manifest, source, fill_id, time.monotonic())
        self.happened.ordered += 1
        self.happened.replaced += is_new_version

    async def _withdraw(self, fill_id: str, client: TrackerClient, processes: Processes) -> None:
        title = self._live.pop(fill_id)
        is_urgent = self.happened.withdrawn % 2 == 0
        await again(lambda: client.withdraw(title.id, urgent=is_urgent))
        self.happened.withdrawn += 1
        self._leaving[title.id] = title
        await self._tell_crowd(processes, {"gone": title.id})

    async def _watch(self, client: TrackerClient, processes: Processes) -> None:
        """Follow what becomes of titles."""
        while True:
            await trio.sleep(LOOK_S)
            processes.check()
            now = time.monotonic()
            node = await again(lambda: client.node(NODE))
            reports = {report.title: report for report in node.titles}
            for fill_id, title in list(self._filling.items()):
                report = reports.get(title.id)
                if report is not None and report.state == "live":
                    del self._filling[fill_id]
                    self._live[fill_id] = title
                    self._note_live(title)
                    await self._tell_crowd(processes, {"live": title.id})
                elif any(one.name == title.name and one.ordered_at > title.ordered_at for one in self._versions()):
                    # A newer version of its name is what counts now, and it need never be live.
                    del self._filling[fill_id]
                    self._live[fill_id] = title
                    self.happened.superseded += 1
                elif now > title.ordered_at + LIVE_S:
                    del self._filling[fill_id]
                    said = "nothing" if report is None else f"{report.state} {report.error}"
                    self.happened.stuck.append(f"{title.name}: {said.strip()}")
            while len(self._live) + len(self._filling) > self.standing and self._live:
                await self._withdraw(next(iter(self._live)), client, processes)
            for title_id, title in list(self._leaving.items()):
                if not (self.work / "data" / "titles" / title_id).exists():
                    del self._leaving[title_id]
                    self.happened.evicted += 1
                    self._forget.append((now + FORGET_S, title_id))
                    shutil.rmtree(title.source)
            while self._forget and self._forget[0][0] < now:
                with suppress(P2PFillError):  # a cache may still report it
                    await client.delete_title(self._forget[0][1])
                self._forget.pop(0)

    def _versions(self) -> list[Title]:
        return [*self._filling.values(), *self._live.values()]

    def _note_live(self, title: Title) -> None:
        self.happened.live += 1
        self.happened.fill_s.append(time.monotonic() - title.ordered_at)
        there = self.work / "data" / "titles" / title.id / "files" / "film"
        self.happened.wrong += there.read_bytes() != (title.source / "film").read_bytes()

    # ---- certificates

    async def _renew_now_and_then(self) -> None:
        for _ in range(3):
            await trio.sleep(self.lasts_s / 4)
            await trio.to_thread.run_sync(self._renew)

    def _renew(self) -> None:
        now, revoked = datetime.now(UTC), self._chance.choice(self._members).name
        with Authority(self.work / "identities" / "ca") as authority:
            authority.renew([], self.work / "identities", now, within=timedelta(days=10_000))
            authority.revoke(authority.meant(revoked, now), now)
            shutil.rmtree(self._identities.of(revoked))
            authority.issue([revoked], self.work / "identities", now)
        self.happened.renewals += 1
        self.happened.revoked += 1

    # ---- samples

    async def _look_at_disks(self) -> None:
        while True:
            self._rows[time.monotonic()] = await trio.to_thread.run_sync(self._read_disks)
            await trio.sleep(self.every_s)

    def _read_disks(self) -> Disks:
        data = 0
        # Not `rglob`: titles go while it is walked, at which that fails.
        for directory, below, files in os.walk(self.work / "data"):
            below[:] = [name for name in below if name != "files"]
            data += sum(_size(Path(directory, name)) for name in files)
        database = sum(_size(self.work / f"tracker.db{end}") for end in ("", "-wal"))
        return Disks(data, database, *self._count_rows())

    def _count_rows(self) -> tuple[int, int]:
        """Return the rows of tables, and of those in `HISTORIES`; those of the look before where the copy is torn.

        Of a copy, since the tracker lets nobody else read its database.
        """
        copy = self.work / "copy.db"
        try:
            for end in ("", "-wal"):
                shutil.copyfile(self.work / f"tracker.db{end}", f"{copy}{end}")
            with closing(sqlite3.connect(copy)) as db:
                tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                counts = {name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
        except (OSError, sqlite3.Error):
            last = next(reversed(self._rows.values()), Disks())
            return last.rows, last.histories
        self.table_rows = counts
        histories = sum(count for name, count in counts.items() if name in HISTORIES)
        return sum(counts.values()) - histories, histories

    def _finish(self) -> None:
        """Bring all together."""
        for name, course in (("node", self.node), ("tracker", self.tracker)):
            lines = (self.work / f"{name}.jsonl").read_bytes().splitlines()
            inside = [one for line in lines if (one := _decode(line)) is not None and one.at >= self._began]
            course.samples = [self._sample(name, one) for one in inside]
            if inside:
                course.grown = _grown(inside[len(inside) // 2].entries, inside[-1].entries)
        said = self._crowd_says.values()
        happened = self.happened
        happened.links, happened.breaks = (sum(one.get(key, 0) for one in said) for key in ("links", "breaks"))
        happened.fetched_chunks = sum(one.get("fetched", 0) for one in said)
        happened.served_chunks = sum(one.get("served", 0) for one in said)
        happened.wrong_chunks = sum(one.get("wrong", 0) for one in said)
        happened.links_at_once = int(statistics.median(self._at_once)) if self._at_once else 0
        if happened.fill_s:
            happened.fill_s = [statistics.median(happened.fill_s), max(happened.fill_s)]

    def _sample(self, name: str, inside: Inside) -> Sample:
        nearest = min(self._rows, key=lambda at: abs(at - inside.at))
        disks, is_node = self._rows[nearest], name == "node"
        return Sample(
            at_s=inside.at - self._began, rss_bytes=inside.rss_bytes, descriptors=inside.descriptors,
            sockets=inside.sockets, threads=inside.threads, tasks=inside.tasks, objects=inside.objects,
            entries=sum(inside.entries.values()), kept=inside.kept,
            disk_bytes=disks.data_bytes if is_node else disks.database_bytes,
            rows=0 if is_node else disks.rows, histories=0 if is_node else disks.histories,
        )  # fmt: skip


async def again(call: Callable[[], Awaitable[T]]) -> T:
    """Call the tracker, again where it cannot be reached, as on a machine that is kept by others. Raises its error."""
    for _ in range(CALLS_MAX - 1):
        try:
            return await call()
        except TrackerUnreachable:
            pass
        except TrackerRefused as error:
            if error.status not in BUSY:
                raise
        await trio.sleep(LOOK_S)
    return await call()


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if not path.is_dir() else 0
    except OSError:
        return 0  # it has gone meanwhile


def _decode(line: bytes) -> Inside | None:
    with suppress(msgspec.DecodeError):  # the last one of a process that ends may be cut off
        return msgspec.json.decode(line, type=Inside)
    return None


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return the ten containers that have grown most."""
    grown = {key: count - before.get(key, 0) for key, count in after.items() if count > before.get(key, 0)}
    return dict(sorted(grown.items(), key=lambda one: -one[1])[:10])


def descriptors_needed(links: int) -> int:
    """Return what a soak takes of `ulimit -n`."""
    return links * DESCRIPTORS_EACH + DESCRIPTORS_REST


async def run_soak(work: Path, links: int, titles: int, minutes: float, every_s: float, seed: int) -> Report:
    """Run a soak in an empty directory and judge it. Raises `RunFailed`, `P2PFillError`, and `ValueError`."""
    needed = descriptors_needed(links)
    if descriptors_max() < needed:
        raise RunFailed(f"{links} links need {needed} descriptors, and there are {descriptors_max()}: see `ulimit -n`")
    soak = Soak(work, links, titles, minutes, every_s, seed)
    await soak.run()
    judged = [*judge("node", soak.node), *judge("tracker", soak.tracker)]
    return Report(
        machine=describe_machine(work), links=links, titles=titles, minutes=minutes, standing=soak.standing,
        every_s=every_s, descriptors_max=descriptors_max(), happened=soak.happened, node=soak.node,
        tracker=soak.tracker, judged=judged,
    )  # fmt: skip
