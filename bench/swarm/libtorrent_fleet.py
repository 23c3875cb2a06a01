"""libtorrent as a contender: one seed with the whole title, and a peer a cache, told each other's addresses.

There is no BitTorrent tracker: connecting all peers at the start is the best that a tracker could do for such a fleet,
and costs the contender nothing. A pair is connected by the one that stands earlier in the topology.
"""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import trio

from bench.swarm.contender import Course, Payload
from bench.swarm.processes import Peer, Processes, RunFailed
from bench.swarm.topology import Topology

PORT: Final = 6881

REPORT_S: Final = 10.0
"""For a peer to say its counters."""


class LibTorrent:
    """The contender; see `Contender`."""

    def __init__(self, topology: Topology, processes: Processes, work: Path, title: Any) -> None:
        self._topology = topology
        self._processes = processes
        self._work = work
        self._torrent: Path = title
        self._addresses: dict[str, str] = {host.name: host.address for host in topology.hosts()}
        self._there: list[str] = []
        self._counters: dict[str, dict[str, int]] = {}

    @staticmethod
    def missing() -> str:
        """Say whether libtorrent is installed."""
        return "" if find_spec("libtorrent") else "libtorrent is not installed; pip install 'p2pfill[bench]'"

    @staticmethod
    def version() -> str:
        """Return its version."""
        return f"libtorrent {metadata.version('libtorrent')}"

    @staticmethod
    def prepare(source: Path, work: Path) -> Path:
        """Make the torrent."""
        from p2pfill.bench.torrent_peer import make_torrent

        made = work / "title.torrent"
        make_torrent(source, made)
        return made

    async def start(self) -> None:
        """Start the seed, which checks its files, and the caches' peers; nobody is connected."""
        for host in self._addresses:
            await self._start_peer(host)
            if host not in self._topology.late():
                self._there.append(host)
        for peer in list(self._processes.peers.values()):
            ready = await peer.read_ready()
            if ready["seed"] != (peer.name == self._topology.origin):
                raise RunFailed(f"{peer.name} began with the wrong files: {peer.last_words()}")

    async def _start_peer(self, host: str) -> None:
        save_dir = self._work / host
        if host == self._topology.origin:
            save_dir = self._torrent.parent
        save_dir.mkdir(exist_ok=True)
        arguments = [self._addresses[host], str(self._torrent), str(save_dir)]
        await self._processes.start(host, host, "p2pfill.bench.torrent_peer", arguments)

    async def join(self, host: str, course: Course) -> None:
        """Connect a late peer to all others."""
        course.note_joined(host)
        others = [[self._addresses[other], PORT] for other in self._there]
        self._there.append(host)
        await self._processes.peers[host].send({"connect": others})

    async def fill(self, course: Course) -> None:
        """Tell all peers to connect, and listen until the course is done."""
        async with trio.open_nursery() as nursery:
            for peer in self._processes.peers.values():
                nursery.start_soon(self._read, peer, course)
            course.begin()
            for number, host in enumerate(self._there):
                later = [[self._addresses[other], PORT] for other in self._there[number + 1 :]]
                nursery.start_soon(self._processes.peers[host].send, {"connect": later})
            await course.done.wait()
            with trio.move_on_after(REPORT_S):
                await self._ask_counters()
            nursery.cancel_scope.cancel()

    async def read_counts(self) -> dict[str, int]:
        """It counts nothing of the kind."""
        return {}

    async def _ask_counters(self) -> None:
        asked = [peer for peer in self._processes.peers.values() if not peer.killed]
        for peer in asked:
            await peer.send({"report": True})
        while not {peer.name for peer in asked} <= self._counters.keys():
            await trio.sleep(0.01)

    async def _read(self, peer: Peer, course: Course) -> None:
        while (record := await peer.read_record()) is not None:
            if "part" in record:
                course.note_progress(peer.name, record["part"])
            elif "live_at" in record:
                course.note_live(peer.name, record["live_at"])
            elif "counters" in record:
                self._counters[peer.name] = record["counters"]
        if not peer.killed:
            raise RunFailed(f"{peer.name} has ended: {peer.last_words()}")

    def payload(self) -> Payload:
        """Return the seed's upload and what was downloaded in vain; there are no tiers and no escalations."""
        seed = self._counters.get(self._topology.origin, {})
        return Payload(
            origin=seed.get("sent", 0), duplicate=sum(counted["wasted"] for counted in self._counters.values())
        )
