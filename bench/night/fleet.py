"""p2pfill in a night: as `bench.swarm.p2pfill_fleet`, with fill windows, clocks that run fast, and viewers.

Caches are started first and held back (`bench.swarm.late_node`), and get their configuration, which says when the night
begins, when all of them are there. So all begin with it, however busy the machine is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final

import trio

from bench.night.topology import NightTopology
from bench.swarm.p2pfill_fleet import HEARTBEAT_S, NODE_PORT, TRACKER, Offer, P2PFill
from bench.swarm.processes import Processes, RunFailed
from bench.swarm.topology import Host
from p2pfill.model.reports import TitleReport
from p2pfill.tracker.night_report import NightReport

LEAD_S: Final = 4.0
"""From the configuration to the beginning of the night, on a machine that has nothing else to do: the caches have to
open their data and find the tracker."""
LEAD_PART: Final = 0.5
"""So much of the time that the processes took to start comes on top: others may be at work here."""

VIEWERS_PORT: Final = 8400


class NightFleet(P2PFill):
    """The fleet of one night. Used as a contender of the benchmark of swarms is."""

    def __init__(self, topology: NightTopology, processes: Processes, work: Path, title: list[Offer]) -> None:
        super().__init__(topology, processes, work, title)
        self._night = topology
        self.begins_at = 0.0
        """In seconds since the epoch."""

    async def start(self) -> None:
        """Start everything, and return when all caches are known and wait for the night to begin.

        Raises `RunFailed` where the machine is too busy for that.
        """
        began = time.monotonic()
        await self._start_servers()
        for cache in self._night.caches():
            config = str(self._work / f"{cache.name}.toml")
            arguments = ["--config", config, "--json", "--until-eof"]
            await self._processes.start(cache.name, cache.name, "bench.swarm.late_node", arguments)
        for peer in self._processes.peers.values():
            if peer.name != TRACKER:
                await peer.read_ready()
        await self._start_viewers()
        lead_s = LEAD_S + LEAD_PART * (time.monotonic() - began)
        self.begins_at = time.time() + lead_s
        for cache in self._night.caches():
            (self._work / f"{cache.name}.toml").write_text(self._config(cache))
            await self._processes.peers[cache.name].send({})
        with trio.move_on_after(lead_s - HEARTBEAT_S) as scope:
            for cache in self._night.caches():
                await self._processes.peers[cache.name].read_ready()
            await self._wait_known(len(self._night.caches()))
        if scope.cancelled_caught:
            raise RunFailed("this machine is too busy: the caches were not ready when the night was to begin")

    async def _start_viewers(self) -> None:
        """The cache serves one of the titles to its viewers beside the node, as a web server does."""
        viewers = self._night.viewers
        busy, watched = self._night.host(viewers.cache), self._offers[0]
        listen = f"{busy.address}:{VIEWERS_PORT}"
        place = [str(watched.source), str(watched.fill_file), listen]
        server = await self._processes.start(busy.name, f"{busy.name}-web", "p2pfill.cli.static_server", place)
        await server.read_ready()
        urls = [f"http://{listen}/{entry.path}" for entry in watched.manifest.files]
        arguments = [str(viewers.streams), f"{viewers.mbit:g}", *urls]
        await (await self._processes.start(viewers.name, viewers.name, "bench.night.viewers", arguments)).read_ready()

    def _config(self, cache: Host) -> str:
        """Return the configuration of a cache; a text of JSON is one of TOML."""
        texts = {
            "identity": self._identities.of(cache.name),
            "data": str(self._work / cache.name),
            "listen": f"{cache.address}:{NODE_PORT}",
            "tracker": self._tracker_url,
        }
        lines = [f"{key} = {json.dumps(text)}" for key, text in texts.items()]
        night = self._night
        lines.append(f"weight = {cache.weight!r}")
        lines.append(f'clock = {{ shows = "{night.wall_at}", at = {self.begins_at!r}, speed = {night.wall_speed!r} }}')
        written = night.written_windows(cache)
        if isinstance(written, str):
            lines.append(f"windows = {json.dumps(written)}")
        else:
            table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in written.items())
            lines.append(f"windows = {{ {table} }}")
        return "\n".join(lines) + "\n"

    async def look_again(self) -> NightReport:
        """Ask once more how far all fills are, and return the tracker's report of the night."""
        async with self._identities.client(self._tracker_url) as client:
            for ordered in self._ordered:
                self._statuses[ordered.offer.name] = await client.fill(ordered.fill_id)
            return await client.night(self._night.date())

    def ordered_s(self) -> dict[str, float]:
        """Return when each title was ordered, in seconds after the beginning."""
        return {ordered.offer.name: ordered.at - self.begins_at for ordered in self._ordered}

    def reports(self) -> dict[str, dict[str, TitleReport]]:
        """Return cache -> title -> what the cache said last."""
        found: dict[str, dict[str, TitleReport]] = {cache.name: {} for cache in self._night.caches()}
        for title, status in self._statuses.items():
            for node in status.nodes:
                if node.report is not None:
                    found[node.node.id][title] = node.report
        return found
