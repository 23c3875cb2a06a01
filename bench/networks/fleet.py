"""A tracker and caches behind proxies: whoever connects to one of them goes through the proxy before it.

All are processes of this machine. A cache advertises the port of its proxy, and is told that of the tracker's; orders
name that of the origin's. The benchmark itself orders at the tracker without one.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio

from bench.networks.proxy import CALM, Counts, Proxy, Weather
from bench.networks.records import Run
from bench.swarm.identities import TRACKER_NAME, Identities
from bench.swarm.processes import Processes, RunFailed, ThisMachine
from bench.swarm.topology import Host
from p2pfill.bench.processes import free_port
from p2pfill.cli.static_server import StaticServer
from p2pfill.model.manifest import Manifest
from p2pfill.model.policy import FillPolicy
from p2pfill.store.publish import publish
from p2pfill.store.verify import verify_tree
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest

CACHES: Final = (("a1", "isp-a"), ("a2", "isp-a"), ("b1", "isp-b"), ("b2", "isp-b"))

HEARTBEAT_S: Final = 1.0
READY_S: Final = 60.0
SETTINGS: Final = "[health]\nload = 0\ndisk_reads = 0\nlink_use = 0\n"
"""What else the machine does is no viewers, to whom a cache would give way."""

LOOK_S: Final = 0.02
"""Between two looks whether a title is live: its link is there."""

LIVE_S: Final = 180.0
"""From healing until a title must be live: beyond what a silent connection takes to be given up (35 s), and a source
that was quarantined twice (60 s, then 120 s) to be asked again."""

CHUNK_BYTES: Final = 256 * 1024


class Title(NamedTuple):
    """A title to fill."""

    manifest: Manifest
    source: Path

    @property
    def name(self) -> str:
        """Of the title."""
        return self.manifest.name


def make_title(work: Path, name: str, size: int, chance: random.Random) -> Title:
    """Write and publish one. Blocks."""
    source = work / "sources" / name
    source.mkdir(parents=True)
    (source / "film").write_bytes(chance.randbytes(size))
    return Title(publish(source, name=name, chunk_size=CHUNK_BYTES).manifest, source)


async def watch_live(
    work: Path, caches: Sequence[str], title: Title, began: float, check: Callable[[], None]
) -> dict[str, float]:
    """Wait until a title is live in all caches; return when it was, after `began`. Cancelled by whoever waits."""
    live: dict[str, float] = {}
    while len(live) < len(caches):
        await trio.sleep(LOOK_S)
        check()
        for cache in caches:
            if cache not in live and (work / cache / "live" / title.name).is_symlink():
                live[cache] = time.monotonic() - began
    return live


async def wrong_in(work: Path, caches: Sequence[str], title: Title) -> list[str]:
    """Return the caches in which something of a title is wrong, though it is live."""
    wrong = []
    for cache in caches:
        there = work / cache / "live" / title.name
        verdict = await trio.to_thread.run_sync(verify_tree, there, title.manifest)
        if not verdict.ok:
            wrong.append(cache)
    return wrong


class ProxiedFleet:
    """The tracker, the caches and an origin, each behind its proxy. Made by `proxied_fleet`."""

    def __init__(self, work: Path, processes: Processes, chance: random.Random, caches: Sequence[tuple[str, str]]):
        self.work = work
        self.names = [name for name, _ in caches]
        self._caches = caches
        self._processes = processes
        self._chance = chance
        self.proxies: dict[str, Proxy] = {}
        self.client: TrackerClient
        self._server: StaticServer

    async def start(self, nursery: trio.Nursery, *, tls: bool, caches: Sequence[tuple[str, str]]) -> None:
        """Start all, and wait until the tracker knows of every cache."""
        identities = None
        hosts = [Host(name, isp, isp.removeprefix("isp-"), 0.0, 0.0, 1.0, "127.0.0.1") for name, isp in caches]
        if tls:
            identities = Identities(self.work / "identities", "127.0.0.1", hosts)
        for name in ("tracker", "origin", *self.names):
            self.proxies[name] = Proxy(random.Random(self._chance.random()))
            await nursery.start(self.proxies[name].run)
        self._server = StaticServer(self.work, frozenset(), "127.0.0.1:0")
        threading.Thread(target=self._server.serve_forever, name="origin", daemon=True).start()
        self.proxies["origin"].target = ("127.0.0.1", self._server.server_address[1])
        port, scheme = free_port(), "https" if tls else "http"
        settings = ["tracker", "--listen", f"127.0.0.1:{port}", "--db", f"sqlite:///{self.work}/tracker.db"]
        settings += ["--heartbeat", str(HEARTBEAT_S)]
        if identities is not None:
            settings += ["--identity", identities.of(TRACKER_NAME), "--grants", str(identities.grants)]
        await self._begin("tracker", settings)
        self.proxies["tracker"].target = ("127.0.0.1", port)
        url = f"{scheme}://127.0.0.1:{port}"
        self.client = TrackerClient(url) if identities is None else identities.client(url)
        config = self.work / "node.toml"
        config.write_text(SETTINGS)
        proxied = f"{scheme}://127.0.0.1:{self.proxies['tracker'].port}"
        for name, isp in caches:
            self.proxies[name].target = ("127.0.0.1", free_port())
            settings = ["node", "--config", str(config), "--data", str(self.work / name), "--tracker", proxied]
            settings += ["--listen", f"127.0.0.1:{self.proxies[name].target[1]}"]
            settings += ["--advertise", f"127.0.0.1:{self.proxies[name].port}"]
            who = ["--id", name, "--isp", isp, "--region", isp.removeprefix("isp-")]
            await self._begin(name, [*settings, *(who if identities is None else ["--identity", identities.of(name)])])
        for name in self.names:
            await self._processes.peers[name].read_ready()
        with trio.fail_after(READY_S):
            while sum(node.alive for node in await self.client.nodes()) < len(self.names):
                await trio.sleep(0.05)

    async def _begin(self, name: str, settings: list[str]) -> None:
        peer = await self._processes.start("", name, "p2pfill.cli", [*settings, "--json", "--until-eof"])
        if name == "tracker":
            await peer.read_ready()

    async def close(self) -> None:
        """End the origin."""
        self._server.shutdown()
        self._server.server_close()
        await self.client.aclose()

    async def fill(
        self, title: Title, weather: Weather, bad_s: float, policy: FillPolicy, *, origin_rest: float = 0.5
    ) -> Run:
        """Order a title while the network is bad, let it be well after `bad_s`, and see what becomes of it.

        So that it is not over before, the origin gives all of them together no more than the part `origin_rest` of the
        title meanwhile. Raises `RunFailed` where it is not live in time.
        """
        before = self._counts()
        held = title.manifest.size * origin_rest / bad_s
        for name, proxy in self.proxies.items():
            is_origin = name == "origin"
            proxy.weather = msgspec.structs.replace(weather, total_bytes_s=held) if is_origin else weather
        self._server.paths |= {f"sources/{title.name}/film"}
        manifest = title.manifest
        await self.client.put_title(manifest.title_id.hex(), manifest.encode())
        url = f"http://127.0.0.1:{self.proxies['origin'].port}/sources/{title.name}/"
        began = time.monotonic()
        await self.client.post_fill(FillRequest(manifest.title_id.hex(), "all", [url], policy=policy))
        live: dict[str, float] = {}
        healed_s = bad_s

        async def watch() -> None:
            live.update(await watch_live(self.work, self.names, title, began, self._processes.check))

        with trio.move_on_after(bad_s + LIVE_S) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await trio.sleep(bad_s)
                for proxy in self.proxies.values():
                    proxy.weather = CALM
                healed_s = time.monotonic() - began
        if scope.cancelled_caught:
            raise RunFailed(f"{title.name} is live in {sorted(live) or 'none'} only, {LIVE_S:g} s after healing")
        after = self._counts()
        pairs = zip(msgspec.structs.astuple(after), msgspec.structs.astuple(before), strict=True)
        return Run(
            healed_s=healed_s,
            live_s=live,
            wrong=await wrong_in(self.work, self.names, title),
            counts=Counts(*(now - then for now, then in pairs)),
            duplicate_bytes=await self._duplicates(manifest.title_id.hex()),
        )

    def _counts(self) -> Counts:
        total = Counts()
        for proxy in self.proxies.values():
            total = total.plus(proxy.counts)
        return total

    async def _duplicates(self, title: str) -> int:
        """Return what came in vain, as far as the caches have told it yet."""
        await trio.sleep(2 * HEARTBEAT_S)
        reports = [report for node in await self.client.nodes() for report in node.titles if report.title == title]
        return sum(report.duplicate_bytes for report in reports)


@asynccontextmanager
async def proxied_fleet(
    work: Path | None = None, *, seed: int, tls: bool, caches: Sequence[tuple[str, str]] = CACHES
) -> AsyncIterator[ProxiedFleet]:
    """Run a fleet below a directory, or a temporary one, for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-networks-", dir=work) as scratch:
        place = Path(scratch)
        async with Processes(ThisMachine(), place) as processes, trio.open_nursery() as nursery:
            fleet = ProxiedFleet(place, processes, random.Random(seed), caches)
            try:
                await fleet.start(nursery, tls=tls, caches=caches)
                yield fleet
            finally:
                with trio.CancelScope(shield=True):
                    await fleet.close()
            nursery.cancel_scope.cancel()
