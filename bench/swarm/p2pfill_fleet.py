"""p2pfill as a contender: real `p2pfill tracker` and `p2pfill node` processes, and the repository's static HTTP origin.

Origin and tracker run on the origin's host. The fill is ordered and watched through the tracker's API, from the
namespace of that host, so that watching crosses no border. When a cache was live is taken from its own report, whose
clock is this machine's, and is so not blurred by how often the tracker is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import trio

from bench.swarm.contender import Course, Payload
from bench.swarm.processes import Processes, RunFailed
from bench.swarm.topology import Host, Topology
from p2pfill._version import __version__
from p2pfill.model.manifest import Manifest
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest, FillStatus

TRACKER_PORT: Final = 7070
ORIGIN_PORT: Final = 8000
NODE_PORT: Final = 7400

HEARTBEAT_S: Final = 1.0
"""How often caches report: the grain of the completion curves, though not of the times at which caches are live."""

POLL_S: Final = 0.2
"""How often the tracker is asked; an answer for 12 caches costs some milliseconds of its processor."""


class P2PFill:
    """The contender; see `Contender`."""

    def __init__(self, topology: Topology, processes: Processes, work: Path, title: Any) -> None:
        self._topology = topology
        self._processes = processes
        self._work = work
        self._manifest: Manifest = title
        self._address = topology.host(topology.origin).address
        self._tracker_url = f"http://{self._address}:{TRACKER_PORT}"
        self._status: FillStatus | None = None

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
    def prepare(source: Path, work: Path) -> Manifest:
        """Publish the title with the settings that `p2pfill publish` has by default."""
        manifest = publish(source, name="title").manifest
        (work / "title.fill").write_bytes(manifest.encode())
        return manifest

    async def start(self) -> None:
        """Start origin, tracker and caches, and wait until the tracker knows all of them but the late ones."""
        source, fill = self._work.parent / "source", self._work.parent / "title.fill"
        origin = self._topology.origin
        place = [str(source), str(fill), f"{self._address}:{ORIGIN_PORT}"]
        await self._processes.start(origin, origin, "p2pfill.cli.static_server", place)
        where = ["--listen", f"{self._address}:{TRACKER_PORT}", "--db", f"sqlite:///{self._work}/tracker.db"]
        options = ["--heartbeat", str(HEARTBEAT_S), "--json", "--until-eof"]
        tracker = await self._processes.start(origin, "tracker", "p2pfill.cli", ["tracker", *where, *options])
        await tracker.read_ready()
        for cache in self._topology.caches():
            await self._start_cache(cache)
        for peer in list(self._processes.peers.values()):
            if peer is not tracker:
                await peer.read_ready()
        there = len(self._topology.caches()) - len(self._topology.late())
        async with TrackerClient(self._tracker_url) as client:
            while sum(node.alive for node in await client.nodes()) < there:
                self._processes.check()
                await trio.sleep(0.1)
            await client.put_title(self._manifest.title_id.hex(), self._manifest.encode())

    async def _start_cache(self, host: Host) -> None:
        settings = {
            "--id": host.name,
            "--isp": host.isp,
            "--region": host.region,
            "--data": str(self._work / host.name),
            "--listen": f"{host.address}:{NODE_PORT}",
            "--tracker": self._tracker_url,
            "--weight": f"{host.weight:g}",
        }
        flags = [text for setting in settings.items() for text in setting]
        late = host.name in self._topology.late()
        command = ("bench.swarm.late_node", flags) if late else ("p2pfill.cli", ["node", *flags])
        await self._processes.start(host.name, host.name, command[0], [*command[1], "--json", "--until-eof"])

    async def join(self, host: str, course: Course) -> None:
        """Let a late cache's process, which waits, become a node."""
        course.note_joined(host)
        await self._processes.peers[host].send({})
        await self._processes.peers[host].read_ready()

    async def fill(self, course: Course) -> None:
        """Order the fill for all caches and watch it."""
        request = FillRequest(
            title=self._manifest.title_id.hex(), selector="all", origins=[f"http://{self._address}:{ORIGIN_PORT}/"]
        )
        async with TrackerClient(self._tracker_url) as client:
            await client.health()  # so that the order need not wait for a connection
            course.begin()
            created = await client.post_fill(request)
            while not course.done.is_set():
                await trio.sleep(POLL_S)
                self._processes.check()
                self._status = await client.fill(created.fill_id)
                self._note(self._status, course)

    def _note(self, status: FillStatus, course: Course) -> None:
        for node in status.nodes:
            report = node.report
            if report is None:
                continue
            if report.state == "failed":
                raise RunFailed(f"{node.node.id} failed: {report.error}")
            if report.state == "live":
                course.note_live(node.node.id, report.finished_at)
            else:
                course.note_progress(node.node.id, report.have_bytes / max(1, report.title_bytes))

    def payload(self) -> Payload:
        """Return the sums over the caches' own reports."""
        if self._status is None:
            return Payload()
        totals = self._status.totals
        return Payload(
            origin=totals.bytes_origin,
            tiers={"peer": totals.bytes_peer, "regional": totals.bytes_regional, "origin": totals.bytes_origin},
            duplicate=totals.duplicate_bytes,
            escalations=dict(totals.escalations),
        )
