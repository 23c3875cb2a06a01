"""p2pfill as a contender: real `p2pfill tracker` and `p2pfill node` processes, and the repository's static HTTP origin.

Origin and tracker run on the origin's host, of several titles an origin for each. Fills are ordered and watched through
the tracker's API, from the namespace of that host, so that watching crosses no border. When a cache was live is taken
from its own report, whose clock is this machine's, and is so not blurred by how often the tracker is asked.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from bench.swarm.contender import Course, Payload
from bench.swarm.identities import TRACKER_NAME, Identities
from bench.swarm.processes import Processes, RunFailed
from bench.swarm.topology import Host, Topology
from p2pfill._version import __version__
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import TitleReport
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest, FillStatus

TRACKER: Final = "tracker"
"""The name of its process."""
TRACKER_PORT: Final = 7070
ORIGIN_PORT: Final = 8000
NODE_PORT: Final = 7400

HEARTBEAT_S: Final = 1.0
"""How often caches report: the grain of the completion curves, though not of the times at which caches are live."""

POLL_S: Final = 0.2
"""How often the tracker is asked; an answer for 12 caches costs some milliseconds of its processor."""


SETTINGS: Final = "health = { load = 0 }\n"
"""The caches share a machine, and would take each other's processes for those of busy viewers."""


class Offer(NamedTuple):
    """A title that is to be filled."""

    name: str
    manifest: Manifest
    source: Path
    fill_file: Path
    priority: int = 0
    at_s: float = 0.0
    """When it is ordered, after the first one."""


class Ordered(NamedTuple):
    """A title whose fill is under way, or over."""

    offer: Offer
    fill_id: str
    at: float
    """When it was ordered, by the system's clock."""


class P2PFill:
    """The contender; see `Contender`."""

    def __init__(self, topology: Topology, processes: Processes, work: Path, title: Any) -> None:
        self._topology = topology
        self._processes = processes
        self._work = work
        self._offers: list[Offer] = title
        self._address = topology.host(topology.origin).address
        self._tracker_url = f"https://{self._address}:{TRACKER_PORT}"
        self._identities = Identities(work / "identities", self._address, topology.caches())
        self._ordered: list[Ordered] = []
        self._statuses: dict[str, FillStatus] = {}
        """Name of a title -> its fill's status when it was last asked for."""

    @staticmethod
    def missing() -> str:
        """It is this repository."""
        return ""

    @staticmethod
    def version() -> str:
        """Return the version and which hot path is used."""
        from p2pfill import hot

        return f"p2pfill {__version__} ({'native' if hot.NATIVE else 'pure Python'})"

    @staticmethod
    def prepare(source: Path, work: Path) -> list[Offer]:
        """Publish the title with the settings that `p2pfill publish` has by default."""
        return [make_offer("title", source, work)]

    async def start(self) -> None:
        """Start origins, tracker and caches, and wait until the tracker knows all of them but the late ones."""
        await self._start_servers()
        for cache in self._topology.caches():
            await self._start_cache(cache)
        for peer in list(self._processes.peers.values()):
            if peer.name != TRACKER:
                await peer.read_ready()
        await self._wait_known(len(self._topology.caches()) - len(self._topology.late()))

    async def _start_servers(self) -> None:
        """Start origins and tracker, and wait until the tracker answers."""
        origin = self._topology.origin
        for number, offer in enumerate(self._offers):
            place = [str(offer.source), str(offer.fill_file), f"{self._address}:{ORIGIN_PORT + number}"]
            name = f"{origin}-{offer.name}" if number else origin
            await self._processes.start(origin, name, "p2pfill.cli.static_server", place)
        where = ["--listen", f"{self._address}:{TRACKER_PORT}", "--db", f"sqlite:///{self._work}/tracker.db"]
        trust = ["--identity", self._identities.of(TRACKER_NAME), "--grants", str(self._identities.grants)]
        options = [*trust, "--heartbeat", str(HEARTBEAT_S), "--json", "--until-eof"]
        tracker = await self._processes.start(origin, TRACKER, "p2pfill.cli", ["tracker", *where, *options])
        await tracker.read_ready()

    async def _wait_known(self, there: int) -> None:
        """Wait until the tracker knows so many caches, and tell it of the titles."""
        async with self._identities.client(self._tracker_url) as client:
            while sum(node.alive for node in await client.nodes()) < there:
                self._processes.check()
                await trio.sleep(0.1)
            for offer in self._offers:
                await client.put_title(offer.manifest.title_id.hex(), offer.manifest.encode())

    async def _start_cache(self, host: Host) -> None:
        config = self._work / "node.toml"
        config.write_text(SETTINGS)
        settings = {
            "--config": str(config),
            "--identity": self._identities.of(host.name),
            "--data": str(self._work / host.name),
            "--listen": f"{host.address}:{NODE_PORT}",
            "--tracker": self._tracker_url,
            "--weight": f"{host.weight:g}",
        }
        flags = [text for setting in settings.items() for text in setting]
        late = host.name in self._topology.late()
        arguments = [*(["--held"] if late else []), *flags, "--json", "--until-eof"]
        await self._processes.start(host.name, host.name, "bench.swarm.counted_node", arguments)

    async def join(self, host: str, course: Course) -> None:
        """Let a late cache's process, which waits, become a node."""
        course.note_joined(host)
        await self._processes.peers[host].send({})
        await self._processes.peers[host].read_ready()

    async def fill(self, course: Course) -> None:
        """Order the fills for all caches, each at its time, and watch them."""
        waiting = sorted(self._offers, key=lambda offer: offer.at_s)
        async with self._identities.client(self._tracker_url) as client:
            await client.health()  # so that the order need not wait for a connection
            course.begin()
            while not course.done.is_set():
                while waiting and waiting[0].at_s <= course.elapsed_s():
                    await self._order(client, waiting.pop(0))
                await trio.sleep(min(POLL_S, waiting[0].at_s - course.elapsed_s()) if waiting else POLL_S)
                self._processes.check()
                for ordered in self._ordered:
                    self._statuses[ordered.offer.name] = await client.fill(ordered.fill_id)
                self._note(course)

    async def _order(self, client: TrackerClient, offer: Offer) -> None:
        port, at = ORIGIN_PORT + self._offers.index(offer), time.time()
        request = FillRequest(
            title=offer.manifest.title_id.hex(),
            selector="all",
            origins=[f"http://{self._address}:{port}/"],
            priority=offer.priority,
        )
        self._ordered.append(Ordered(offer, (await client.post_fill(request)).fill_id, at))

    def _reports(self) -> dict[str, list[TitleReport]]:
        """Return cache -> what it has reported of the titles. Raises `RunFailed` where it has failed."""
        found: dict[str, list[TitleReport]] = {}
        for status in self._statuses.values():
            for node in status.nodes:
                if node.report is None:
                    continue
                if node.report.state == "failed":
                    raise RunFailed(f"{node.node.id} failed: {node.report.error}")
                found.setdefault(node.node.id, []).append(node.report)
        return found

    def _note(self, course: Course) -> None:
        for cache, reports in self._reports().items():
            if len(reports) == len(self._offers) and all(report.state == "live" for report in reports):
                course.note_live(cache, max(report.finished_at for report in reports))
            else:
                have_bytes = sum(report.have_bytes for report in reports)
                course.note_progress(cache, have_bytes / self._topology.size)

    async def read_counts(self) -> dict[str, int]:
        """Return the sums of what caches have counted; nothing where one was killed, whose counts are lost."""
        found: Counter[str] = Counter()
        peers = [self._processes.peers[cache.name] for cache in self._topology.caches()]
        for peer in peers if not any(peer.killed for peer in peers) else ():
            found.update(await peer.read_counts())
        return dict(found)

    def payload(self) -> Payload:
        """Return the sums over the caches' own reports."""
        found = Payload(tiers=dict.fromkeys(("peer", "regional", "origin"), 0))
        escalations: Counter[str] = Counter()
        for offer in self._offers:
            totals = self._statuses[offer.name].totals
            came = totals.bytes_peer + totals.bytes_regional + totals.bytes_origin + totals.duplicate_bytes
            found.chunks += came / offer.manifest.chunk_size
            found.origin += totals.bytes_origin
            found.tiers["peer"] += totals.bytes_peer
            found.tiers["regional"] += totals.bytes_regional
            found.tiers["origin"] += totals.bytes_origin
            found.duplicate += totals.duplicate_bytes
            escalations.update(totals.escalations)
        found.escalations = dict(escalations)
        if len(self._offers) > 1:
            counted = {host.name for host in self._topology.counted()}
            for offer, _, at in self._ordered:
                nodes = self._statuses[offer.name].nodes
                ends = [node.report.finished_at for node in nodes if node.report and node.node.id in counted]
                found.titles_s[offer.name] = max(ends) - at
        return found


def make_offer(name: str, source: Path, work: Path) -> Offer:
    """Publish a title and write its manifest into `work`."""
    manifest = publish(source, name=name).manifest
    fill_file = work / f"{name}.fill"
    fill_file.write_bytes(manifest.encode())
    return Offer(name, manifest, source, fill_file)
