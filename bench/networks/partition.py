"""Partitions of a lab: an ISP, a region or the tracker is cut off from everybody else for a while.

What goes from one side to the other is dropped in the core router without a word, by rules of routing, so that
connections learn nothing of it: as where a line is dead, and unlike where one is refused. Who is on the same side still
reaches each other.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import trio

from bench.networks.fleet import SETTINGS, make_title, watch_live, wrong_in
from bench.networks.records import Run
from bench.swarm.identities import TRACKER_NAME, Identities
from bench.swarm.lab import PREFIX, Lab, entered, ip
from bench.swarm.p2pfill_fleet import NODE_PORT, ORIGIN_PORT, TRACKER_PORT
from bench.swarm.processes import Processes, RunFailed
from bench.swarm.topology import Topology
from p2pfill.model.policy import FillPolicy
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPOLOGY: Final = Topology(
    name="partitions",
    isps={
        "cloud": ["origin"],
        "control": ["tracker"],
        "isp-a": ["a1", "a2"],
        "isp-b": ["b1", "b2"],
        "isp-c": ["c1", "c2"],
    },
    regions={"isp-a": "west", "isp-b": "west", "isp-c": "east"},
    host_mbit=40,
    size_mib=24,
)
"""A fill takes five seconds at least, by the links of its hosts."""

CACHES: Final = ("a1", "a2", "b1", "b2", "c1", "c2")

KINDS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "uncut": ("nobody is cut off, to compare with", ()),
    "isp": ("an ISP, of two caches, is cut off", ("isp-b",)),
    "region": ("a region, of two ISPs and four caches, is cut off", ("isp-a", "isp-b")),
    "tracker": ("the tracker is cut off", ("control",)),
    "origin": ("the origin is cut off", ("cloud",)),
}
"""Kind -> what it is, and the ISPs on the smaller side."""

BEGIN_S: Final = 1.0
"""From the order to the partition: the fill is under way."""

HEARTBEAT_S: Final = 1.0
READY_S: Final = 60.0
LIVE_S: Final = 120.0
"""From healing until a title must be live."""

PRIORITY: Final = 100
"""Of the rules, before those of the main table."""


@contextmanager
def cut(lab: Lab, inside: Iterable[str]) -> Iterator[None]:
    """Let nothing through between some ISPs and all others meanwhile."""
    core, numbers = f"{PREFIX}{os.getpid()}-core", {isp: at for at, isp in enumerate(lab.topology.isps, 1)}
    within = {numbers[isp] for isp in inside}
    pairs = [(one, other) for one in within for other in set(numbers.values()) - within]
    rules = [(f"10.{a}.0.0/24", f"10.{b}.0.0/24") for one, other in pairs for a, b in ((one, other), (other, one))]
    made: list[list[str]] = []
    try:
        for source, target in rules:
            rule = ["blackhole", "from", source, "to", target, "pref", str(PRIORITY)]
            ip("rule", "add", *rule, netns=core)
            made.append(rule)
        yield
    finally:
        for rule in made:
            ip("rule", "del", *rule, netns=core)


def run_partition(work: Path, kind: str, *, tls: bool, bad_s: float, seed: int) -> Run:
    """Fill a title through one partition, in a lab of its own. Raises `LabError`, and `RunFailed`."""
    with (
        TemporaryDirectory(prefix="p2pfill-partition-", dir=work) as scratch,
        Lab(TOPOLOGY) as lab,
        entered(lab.space("tracker")),  # from there it calls the tracker, whatever is cut
    ):
        return trio.run(_fill_through, lab, Path(scratch), kind, tls, bad_s, seed)


async def _fill_through(lab: Lab, work: Path, kind: str, tls: bool, bad_s: float, seed: int) -> Run:
    topology = lab.topology
    title = await trio.to_thread.run_sync(make_title, work, "film", topology.size, random.Random(seed))
    (work / "film.fill").write_bytes(title.manifest.encode())
    at, scheme = topology.host("tracker").address, "https" if tls else "http"
    url = f"{scheme}://{at}:{TRACKER_PORT}"
    identities = Identities(work / "identities", at, map(topology.host, CACHES)) if tls else None
    async with Processes(lab, work) as processes:
        await _start(processes, topology, work, url, identities)
        client = TrackerClient(url) if identities is None else identities.client(url)
        async with client:
            with trio.fail_after(READY_S):
                while sum(node.alive for node in await client.nodes()) < len(CACHES):
                    processes.check()
                    await trio.sleep(0.1)
            title_id = title.manifest.title_id.hex()
            await client.put_title(title_id, title.manifest.encode())
            origin = f"http://{topology.host('origin').address}:{ORIGIN_PORT}/"
            began = time.monotonic()
            await client.post_fill(FillRequest(title_id, "all", [origin], policy=FillPolicy()))
            live: dict[str, float] = {}
            healed_s = 0.0

            async def watch() -> None:
                live.update(await watch_live(work, CACHES, title, began, processes.check))

            with trio.move_on_after(BEGIN_S + bad_s + LIVE_S) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(watch)
                    await trio.sleep(BEGIN_S)
                    with cut(lab, KINDS[kind][1]):
                        await trio.sleep(bad_s)
                    healed_s = time.monotonic() - began
            if scope.cancelled_caught:
                raise RunFailed(f"{kind}: live in {sorted(live) or 'none'} only, {LIVE_S:g} s after healing")
            await _wait_told(client, title_id)
        return Run(healed_s=healed_s, live_s=live, wrong=await wrong_in(work, CACHES, title))


async def _start(processes: Processes, topology: Topology, work: Path, url: str, identities: Identities | None) -> None:
    origin, tracker = topology.host("origin").address, topology.host("tracker").address
    place = [str(work / "sources" / "film"), str(work / "film.fill"), f"{origin}:{ORIGIN_PORT}"]
    await processes.start("origin", "origin", "p2pfill.cli.static_server", place)
    settings = ["tracker", "--listen", f"{tracker}:{TRACKER_PORT}", "--db", f"sqlite:///{work}/tracker.db"]
    settings += ["--heartbeat", str(HEARTBEAT_S), "--json", "--until-eof"]
    trust = ["--insecure"]
    if identities is not None:
        trust = ["--identity", identities.of(TRACKER_NAME), "--grants", str(identities.grants)]
    await processes.start("tracker", "tracker", "p2pfill.cli", [*settings, *trust])
    for name in ("origin", "tracker"):
        await processes.peers[name].read_ready()
    config = work / "node.toml"
    config.write_text(SETTINGS)
    for cache in map(topology.host, CACHES):
        settings = [
            "node",
            "--config",
            str(config),
            "--data",
            str(work / cache.name),
            "--tracker",
            url,
            "--json",
            "--until-eof",
        ]
        settings += ["--listen", f"{cache.address}:{NODE_PORT}"]
        who = ["--id", cache.name, "--isp", cache.isp, "--region", cache.region, "--insecure"]
        who = who if identities is None else ["--identity", identities.of(cache.name)]
        await processes.start(cache.name, cache.name, "p2pfill.cli", [*settings, *who])
    for name in CACHES:
        await processes.peers[name].read_ready()


async def _wait_told(client: TrackerClient, title_id: str) -> None:
    """Wait until the tracker has heard from every cache that it is live there. Raises `RunFailed`."""
    with trio.move_on_after(LIVE_S):
        while True:
            nodes = await client.nodes()
            told = [node for node in nodes for one in node.titles if one.title == title_id and one.state == "live"]
            if len(told) == len(CACHES) and all(node.alive for node in nodes):
                return
            await trio.sleep(0.1)
    raise RunFailed("the tracker has not heard from all caches after healing")
