"""One side of the pair benchmark: a node as an embedder would run it.

python -m bench.pair_node seed FILL DATA ORIGIN      fills from ORIGIN, prints its address, serves until stdin ends
python -m bench.pair_node fetch FILL DATA HOST PORT  fills from that node, prints one JSON object
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import trio

from p2pfill import Manifest, NodeConfig, open_node
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def seed(manifest: Manifest, data: str, origin: str) -> None:
    async with open_node(NodeConfig(id="seed", isp="pair", data=data)) as node:
        await node.fill(manifest, [origin])
        print(json.dumps({"host": node.info.host, "port": node.info.port, "pid": os.getpid()}), flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print(json.dumps({"cpu_s": cpu_s()}), flush=True)


async def fetch(manifest: Manifest, data: str, host: str, port: int) -> None:
    source = NodeInfo(id=NodeId("seed"), isp="pair", region="default", host=host, port=port)
    async with open_node(NodeConfig(id="fetch", isp="pair", data=data)) as node:
        began, cpu_began = time.monotonic(), cpu_s()
        filling = await node.start_fill(manifest, members=[source])
        node.peers.want([source])
        await filling.wait()
        took = time.monotonic() - began
        report = filling.report()
        result = {"seconds": took, "bytes": report.bytes_peer, "receiver_cpu_s": cpu_s() - cpu_began}
        result["pid"] = os.getpid()
        print(json.dumps(result), flush=True)


def main() -> None:
    role, fill, data, *rest = sys.argv[1:]
    manifest = Manifest.decode(Path(fill).read_bytes())
    if role == "seed":
        trio.run(seed, manifest, data, rest[0])
    else:
        trio.run(fetch, manifest, data, rest[0], int(rest[1]))


if __name__ == "__main__":
    main()
