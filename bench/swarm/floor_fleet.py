"""The floor: a C program (`floor.c`) that moves the same bytes over the same links, and does nothing else.

The caches of a topology form a ring in its order. Each fetches the whole title from those before it, `SOURCES` of them
at once and an equal part from each; where there are fewer other caches the origin is the last of its sources, and where
that is not enough all are used. All hosts have the title from the start, so nobody waits for anybody: not imitated are
the one copy that a fill takes out of the origin and into each ISP, the exchange of what has just come, choosing,
messages, BLAKE3, and making anything durable. XXH3-128 of each part is compared with the source's when all is there.

It is no contender: no program fills like that. Beside theirs, its processor time says what the kernel takes for so
many streams and what a receiver cannot leave out.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final, NamedTuple

import trio
import xxhash

from bench.swarm.contender import Course, Payload
from bench.swarm.processes import Peer, Processes, RunFailed
from bench.swarm.topology import Topology
from p2pfill.bench.contenders import Floor, build_floor

PORT: Final = 7600
SOURCE: Final = Path(__file__).with_name("floor.c")


class Prepared(NamedTuple):
    """What all runs share."""

    binary: Path
    source: Path


class FloorFleet:
    """The floor with `SOURCES` sources at once; it is run as a contender is, see `Contender`."""

    SOURCES: ClassVar = 1

    def __init__(self, topology: Topology, processes: Processes, work: Path, title: Prepared) -> None:
        self._topology = topology
        self._processes = processes
        self._work = work
        self._title = title
        self._digests: dict[int, list[str]] = {}
        """How many sources a cache has -> the digests of the parts that it fetches."""

    @staticmethod
    def missing() -> str:
        """Say what the compiler lacks."""
        return Floor.missing()

    @staticmethod
    def version() -> str:
        """Return the compiler's version."""
        return Floor.version()

    @staticmethod
    def prepare(source: Path, work: Path) -> Prepared:
        """Compile it. The source is one file."""
        return Prepared(build_floor(SOURCE, work / "floor"), source / "file")

    def sources(self) -> dict[str, list[str]]:
        """Return cache -> the names of the hosts that it fetches from."""
        caches = [host.name for host in self._topology.caches()]
        found = {}
        for place, name in enumerate(caches):
            before = [caches[place - step] for step in range(1, len(caches))]
            found[name] = [*before, self._topology.origin][: self.SOURCES]
        return found

    async def start(self) -> None:
        """Start it on every host."""
        self._digests = {count: self._digests_of(count) for count in {len(names) for names in self.sources().values()}}
        for host in self._topology.hosts():
            target = self._work / f"{host.name}.copy"
            arguments = [str(PORT), str(self._title.source), str(self._topology.size), str(target)]
            await self._processes.start_program(host.name, host.name, [str(self._title.binary), *arguments])
        for peer in self._processes.peers.values():
            await peer.read_ready()

    async def join(self, host: str, course: Course) -> None:
        """There are no events."""
        raise RunFailed("the floor knows no events")

    async def fill(self, course: Course) -> None:
        """Order all caches to fetch, and wait for them."""
        addresses = {host.name: host.address for host in self._topology.hosts()}
        sources = self.sources()
        came: dict[str, list[str]] = {}

        async def fetch(peer: Peer, names: list[str]) -> None:
            await peer.send({"sources": [addresses[name] for name in names]})
            record = await peer.read_record()
            if record is None:
                raise RunFailed(f"{peer.name} has ended: {peer.last_words()}")
            course.note_live(peer.name, record["live_at"])
            came[peer.name] = record["digests"]

        async with trio.open_nursery() as nursery:
            course.begin()
            for cache in self._topology.caches():
                nursery.start_soon(fetch, self._processes.peers[cache.name], sources[cache.name])
        if wrong := [name for name, digests in came.items() if digests != self._digests[len(digests)]]:
            raise RunFailed(f"other bytes than the source's came to {', '.join(wrong)}")

    def _digests_of(self, count: int) -> list[str]:
        """Return the digests of the title's `count` parts."""
        found, size = [], self._topology.size
        with self._title.source.open("rb") as file:
            for number in range(count):
                file.seek(size * number // count)
                found.append(xxhash.xxh3_128_hexdigest(file.read(size * (number + 1) // count - file.tell())))
        return found

    async def read_counts(self) -> dict[str, int]:
        """It counts nothing."""
        return {}

    def payload(self) -> Payload:
        """Return nothing: its bytes are those of the wire."""
        return Payload()


class FloorOf4(FloorFleet):
    """The floor with four sources at once."""

    SOURCES: ClassVar = 4


class FloorOf11(FloorFleet):
    """The floor with eleven, which are all other caches of a topology of twelve."""

    SOURCES: ClassVar = 11


FLOORS: Final[dict[str, type[FloorFleet]]] = {
    f"C floor, {kind.SOURCES} source{'s' if kind.SOURCES > 1 else ''}": kind
    for kind in (FloorFleet, FloorOf4, FloorOf11)
}
