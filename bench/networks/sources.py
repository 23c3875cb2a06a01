"""What a third of wrong sources costs: a fill from honest caches, and the same where some send wrong bytes, by turns.

All sources are real nodes. Those that are wrong hold the title as it was published, but for a bit of each chunk, which
was turned on the disk: so they promise all and send every chunk wrong. Both fills have the same number of sources.
Processor seconds are those of all processes of a side while the fill runs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import trio

from bench.networks.records import Comparison, Fetch
from bench.swarm.processes import Peer, Processes, RunFailed, ThisMachine
from p2pfill.store.publish import publish

MIB: Final = 1024 * 1024
CHUNK_BYTES: Final = 512 * 1024
FILL_S: Final = 120.0


class Layout(NamedTuple):
    """Which sources there are. Receivers are in `isp-a`."""

    what: str
    honest: tuple[int, int]
    """In isp-a and in isp-b, where all are."""
    kept: tuple[int, int]
    """Those of them that stay beside the corrupting ones."""
    corrupting: int
    """In isp-a."""


LAYOUTS: Final[dict[str, Layout]] = {
    "sources-9": Layout("3 of 9 sources, all in the ISP of the receivers", (9, 0), (6, 0), 3),
    "sources-12": Layout("4 of 12 sources, all in the ISP of the receivers", (12, 0), (8, 0), 4),
    "sources-minority": Layout(
        "3 of 9 sources; in the ISP of the receivers one honest source beside them", (4, 5), (1, 5), 3
    ),
}


class Sizes(NamedTuple):
    """How large a comparison is."""

    title_bytes: int = 64 * MIB
    receivers: int = 2
    rate_bytes_s: int = 16 * MIB
    """That a receiver takes, as where its link is what a fill waits for; 0: any."""
    runs: int = 5


async def compare(
    work: Path | None, name: str, sizes: Sizes, seed: int, said: Callable[[str], None] = lambda text: None
) -> Comparison:
    """Run both fills by turns, one more first that does not count. Raises `RunFailed`."""
    layout = LAYOUTS[name]
    with TemporaryDirectory(prefix="p2pfill-sources-", dir=work) as scratch:
        bench = _Bench(Path(scratch), layout, sizes)
        async with Processes(ThisMachine(), Path(scratch)) as processes:
            await bench.start(processes, seed)
            compared = Comparison(
                name, layout.what, sum(layout.honest), layout.corrupting, sizes.receivers, sizes.title_bytes
            )
            for number in range(sizes.runs + 1):
                for is_mixed in (False, True) if number % 2 else (True, False):
                    fetched = await bench.fetch(is_mixed=is_mixed)
                    if number or not sizes.runs:
                        (compared.mixed if is_mixed else compared.honest).append(fetched)
                    said(f"{name}, {'some corrupt' if is_mixed else 'honest'}: {fetched.seconds:.2f} s")
    return compared


class _Bench:
    def __init__(self, work: Path, layout: Layout, sizes: Sizes) -> None:
        self._work = work
        self._layout = layout
        self._sizes = sizes
        self._infos: dict[str, Any] = {}
        self._processes: Processes
        self._receivers = [f"fetch{number}" for number in range(sizes.receivers)]

    async def start(self, processes: Processes, seed: int) -> None:
        """Start all sources, and wait until each holds the title."""
        self._processes = processes
        source = self._work / "source"
        source.mkdir()
        (source / "film").write_bytes(random.Random(seed).randbytes(self._sizes.title_bytes))
        published = publish(source, name="film", chunk_size=CHUNK_BYTES)
        self._manifest = published.manifest
        self._fill = self._work / "film.fill"
        self._fill.write_bytes(published.manifest.encode())
        wanted = [(f"h{isp}{number:02}", isp, ()) for isp, count in zip("ab", self._layout.honest, strict=True)
                  for number in range(count)]  # fmt: skip
        for name, isp, how in [*wanted, *((f"x{n:02}", "a", ("corrupt",)) for n in range(self._layout.corrupting))]:
            place = [f"isp-{isp}", str(self._work / name), str(source), str(self._fill)]
            await processes.start("", name, "bench.networks.cache", ["serve", name, *place, *how])
        for name in self._receivers:
            place = ["isp-a", str(self._work / name), str(self._fill), str(self._sizes.rate_bytes_s)]
            await processes.start("", name, "bench.networks.cache", ["fetch", name, *place])
        for name, peer in processes.peers.items():
            self._infos[name] = await peer.read_ready()

    def _sources(self, *, is_mixed: bool) -> list[str]:
        counts = self._layout.kept if is_mixed else self._layout.honest
        chosen = [f"h{isp}{number:02}" for isp, count in zip("ab", counts, strict=True) for number in range(count)]
        return chosen + [f"x{number:02}" for number in range(self._layout.corrupting if is_mixed else 0)]

    async def fetch(self, *, is_mixed: bool) -> Fetch:
        """Have new nodes fill the title, and look whether it is right."""
        receiving = [self._processes.peers[name] for name in self._receivers]
        sources = self._sources(is_mixed=is_mixed)
        serving = [self._processes.peers[name] for name in sources]
        for peer in receiving:
            await peer.send({})
        members = [await self._record(peer) for peer in receiving]
        for peer in [*receiving, *serving]:
            peer.start_clock()
        began = time.monotonic()
        for peer in receiving:
            await peer.send({"sources": [self._infos[name] for name in sources], "members": members})
        told = [await self._record(peer) for peer in receiving]
        fetched = Fetch(
            seconds=max(record["live"] for record in told) - began,
            receivers_cpu_s=sum(peer.cpu_s() for peer in receiving),
            sources_cpu_s=sum(peer.cpu_s() for peer in serving),
            duplicate_bytes=sum(record["duplicate_bytes"] for record in told),
            quarantined=sum(record["quarantined"] for record in told),
        )
        for peer in receiving:
            await peer.send({})
        for peer in receiving:
            if not (await self._record(peer))["is_right"]:
                raise RunFailed(f"{peer.name} has wrong bytes live")
        return fetched

    async def _record(self, peer: Peer) -> dict[str, Any]:
        with trio.move_on_after(FILL_S):
            record = await peer.read_record()
            if record is not None:
                return record
        raise RunFailed(f"{peer.name} said nothing for {FILL_S:g} s, or has ended: {peer.last_words()}")
