"""A cache of the comparison of sources, as an embedder would run it, without a tracker.

    python -m bench.networks.cache serve ID ISP DATA ORIGIN FILL [corrupt]    fills from a directory, then serves
    python -m bench.networks.cache fetch ID ISP DATA FILL RATE                fills as often as it is told to

With `corrupt` a bit of each chunk is turned on the disk once the title is live: the node believes that it holds it, and
sends it. A fetching node may receive RATE bytes a second (0: any). It takes lines of JSON in turn: {} opens a new node
on an empty directory, {"sources": [...], "members": [...]} has it fill from these, {} looks at what is live, closes it
and removes all of it. Both end with their standard input.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from pathlib import Path

import msgspec
import trio

from p2pfill.bench.node_process import hear, say
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.node.config import NodeConfig
from p2pfill.node.health import HealthConfig
from p2pfill.node.node import open_node
from p2pfill.store.verify import verify_tree

UNWATCHED = HealthConfig(load=0, disk_reads=0, link_use=0)
"""What else the machine does is no viewers, to whom a cache would give way."""

LINES_MAX = 4
"""That wait to be obeyed; whoever sends them waits for the answer of each."""


def corrupt(data: Path, manifest: Manifest) -> None:
    """Turn a bit in the middle of each chunk of a title of one file, and leave all else of it as it is."""
    path = data / "titles" / manifest.title_id.hex() / "files" / manifest.files.path(0)
    before = path.stat()
    with path.open("r+b") as file:
        for chunk in range(manifest.chunk_count):
            start, end = manifest.cut.span(chunk)
            place = (start + end) // 2
            byte = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), place)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def serve(config: NodeConfig, origin: str, manifest: Manifest, *, is_corrupt: bool) -> None:
    """Hold the title and serve it."""
    async with open_node(config) as node:
        await node.fill(manifest, [origin])
        if is_corrupt:
            corrupt(Path(config.data), manifest)
        say(node.info)
        await hear()


async def fetch(config: NodeConfig, manifest: Manifest) -> None:
    """Fill the title from the caches that orders name, each time with a new node, until standard input ends."""
    async with trio.open_nursery() as nursery:
        send, lines = trio.open_memory_channel[str](LINES_MAX)
        nursery.start_soon(fetch_often, config, manifest, lines)
        say({})
        while line := await hear():
            await send.send(line)
        nursery.cancel_scope.cancel()  # also in the middle of a fill: whoever has ordered it is gone


async def fetch_often(config: NodeConfig, manifest: Manifest, lines: trio.MemoryReceiveChannel[str]) -> None:
    """Obey the lines that come, until cancelled."""
    async for _ in lines:
        async with open_node(config) as node:
            say(node.info)
            order = msgspec.json.decode(await lines.receive())
            sources, members = (msgspec.convert(order[key], list[NodeInfo]) for key in ("sources", "members"))
            filling = await node.start_fill(manifest, members=members, holders=sources)
            node.want_links([*sources, *members])
            await filling.wait()
            live, report = time.monotonic(), filling.report()
            quarantined = sum(source.state == "quarantined" for source in report.sources)
            say({"live": live, "duplicate_bytes": report.duplicate_bytes, "quarantined": quarantined})
            await lines.receive()
        verdict = await trio.to_thread.run_sync(verify_tree, Path(config.data, "live", manifest.name), manifest)
        await trio.to_thread.run_sync(shutil.rmtree, config.data)
        say({"is_right": verdict.ok})


def main() -> None:
    """Run as a process; see the top of this file."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    role, name, isp, data, *rest = sys.argv[1:]
    if role == "serve":
        origin, fill, *how = rest
        manifest = Manifest.decode(Path(fill).read_bytes())
        # A scrubber would find what is wrong, some minutes later.
        config = NodeConfig(id=name, isp=isp, data=data, scrub_bytes_s=0, health=UNWATCHED)
        trio.run(lambda: serve(config, origin, manifest, is_corrupt=bool(how)))
    else:
        fill, rate = rest
        rates = {"inbound": f"{rate}B"} if int(rate) else ""
        config = NodeConfig(id=name, isp=isp, data=data, rates=rates, health=UNWATCHED)
        trio.run(fetch, config, Manifest.decode(Path(fill).read_bytes()))


if __name__ == "__main__":
    main()
