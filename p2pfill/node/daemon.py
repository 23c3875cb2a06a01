"""The process around a node: signals and a clean stop."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable

import trio

from p2pfill.node.config import NodeConfig
from p2pfill.node.node import Node, open_node


async def run_daemon(config: NodeConfig, ready: Callable[[Node], None] = lambda node: None) -> None:
    """Run a node until SIGTERM or SIGINT. Calls `ready` once it listens. Raises what `open_node` raises."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_node(config) as node:
            # What has been opened stays: a search for garbage in 50,000 titles would hold the loop up for 0.2 s.
            gc.freeze()
            node.log.info("runs on %s:%d, tracker %s", node.info.host, node.info.port, config.tracker or "none")
            ready(node)
            async for number in signals:
                node.log.info("stops on %s", signal.Signals(number).name)
                return
