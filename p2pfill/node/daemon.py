"""The process around a node: signals, a clean stop, and limits that are read again (SIGHUP)."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable

import trio

from p2pfill.model.rates import spell
from p2pfill.node.background import yield_processors
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.config import NodeConfig
from p2pfill.node.node import Node, open_node


async def run_daemon(
    config: NodeConfig,
    ready: Callable[[Node], None] = lambda node: None,
    read_again: Callable[[], NodeConfig] | None = None,
) -> None:
    """Run a node until SIGTERM or SIGINT. Calls `ready` once it listens. Raises what `open_node` raises.

    `read_again` reads its settings anew, of which a SIGHUP has the `rates` taken over. Without it SIGHUP does nothing.
    """
    if config.background:
        yield_processors()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with open_node(config) as node:
            # What has been opened stays: a search for garbage in 50,000 titles would hold the loop up for 0.2 s.
            gc.freeze()
            gc.enable()
            node.log.info("runs on %s:%d, tracker %s", node.info.host, node.info.port, config.tracker or "none")
            ready(node)
            async for number in signals:
                if number == signal.SIGHUP:
                    if read_again is not None:
                        await take_rates(node, read_again)
                    continue
                node.log.info("stops on %s", signal.Signals(number).name)
                return


async def take_rates(node: Node, read_again: Callable[[], NodeConfig]) -> None:
    """Take over the `rates` of settings that are read now. Where they are wrong nothing changes, as the log says."""
    before = node.rates
    async with ErrorBoundary(node.log, "read the settings again, and changes nothing"):
        settings = await trio.to_thread.run_sync(read_again)
        node.set_rates(settings.limits())
        if node.rates == before:
            node.log.info("read the settings again: the limits in force are as before: %s", spell(before))
        else:
            node.log.info("limits were %s, and are now %s", spell(before), spell(node.rates))
