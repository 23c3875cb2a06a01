"""One node of a benchmark, as an embedder would run it: default settings, no tracker.

    python -m p2pfill.bench.node_process serve ID DATA [ORIGIN FILL]...   fills from directories, then serves
    python -m p2pfill.bench.node_process fetch ID DATA FILL               fills once, when told to

Both print one line of JSON when they are ready, with the node's address, and end with their standard input. A fetching
node takes one line of JSON, {"sources": [...]} with the addresses of the nodes to fetch from; that is the order. It
prints another one when the title is live: when the order came, when the title was live (seconds of the machine's
monotonic clock), and the bytes that came from other nodes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pfill.bench.measure import BenchFailed
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.node.config import NodeConfig
from p2pfill.node.node import open_node

ISP = "bench"


def say(record: Any) -> None:
    """Print one line."""
    print(msgspec.json.encode(record).decode(), flush=True)


async def hear() -> str:
    """Return the next line of standard input; nothing at its end."""
    return await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)


async def serve(config: NodeConfig, titles: list[tuple[str, Manifest]]) -> None:
    """Hold all titles, each from its origin, and serve them."""
    async with open_node(config) as node:
        for origin, manifest in titles:
            await node.fill(manifest, [origin])
        say(node.info)
        await hear()


async def fetch(config: NodeConfig, manifest: Manifest) -> None:
    """Fill one title from the nodes that the order names."""
    async with open_node(config) as node:
        say(node.info)
        order = await hear()
        began = time.monotonic()
        sources = msgspec.convert(msgspec.json.decode(order)["sources"], list[NodeInfo])
        filling = await node.start_fill(manifest, members=[node.info], holders=sources)
        node.want_links(sources)
        await filling.wait()
        live = time.monotonic()
        report = filling.report()
        if report.bytes_peer != manifest.size:
            raise BenchFailed(f"{report.bytes_peer:,} of {manifest.size:,} bytes came from the nodes to fetch from")
        say({"began": began, "live": live, "bytes": report.bytes_peer})
        await hear()


def main() -> None:
    """Run as a process; see the top of this file."""
    role, name, data, *rest = sys.argv[1:]
    config = NodeConfig(id=name, isp=ISP, data=data)
    if role == "serve":
        pairs = zip(rest[::2], rest[1::2], strict=True)
        trio.run(serve, config, [(origin, _manifest(fill)) for origin, fill in pairs])
    else:
        trio.run(fetch, config, _manifest(rest[0]))


def _manifest(fill: str) -> Manifest:
    return Manifest.decode(Path(fill).read_bytes())


if __name__ == "__main__":
    main()
