"""`p2pfill tracker` and `p2pfill node`: processes that run until they are told to stop (SIGTERM, SIGINT)."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

from p2pfill.threads import name_thread

COLLECT_AFTER: Final = 50_000
"""Objects that a tracker makes, beyond those that it lets go of, before cycles of them are looked for: some megabytes.
With Python's own 700, and the connections of 10,000 nodes in memory, looking took longer than all else that a heartbeat
costs."""


def run_tracker(
    listen: str, db: str, *, heartbeat_s: float | None, prices: Path | None, routes: Path | None,
    identity: Path | None, grants: Path | None, insecure: bool, until_eof: bool, as_json: bool,
) -> None:
    """Serve a tracker until a signal comes; its URL is printed once it answers."""
    import trio

    from p2pfill.model.prices import Prices
    from p2pfill.tracker.prices import load_prices
    from p2pfill.tracker.routes import RouteBook
    from p2pfill.tracker.server import HEARTBEAT_S, serve_tracker
    from p2pfill.trust.credentials import Credentials

    costs = Prices() if prices is None else load_prices(prices)
    book = RouteBook(routes)
    credentials = None if identity is None else Credentials(identity)

    async def serve(task_status: trio.TaskStatus[str]) -> None:
        await serve_tracker(
            listen, db, heartbeat_s=HEARTBEAT_S if heartbeat_s is None else heartbeat_s, prices=costs,
            routes=book, credentials=credentials, grants=grants, insecure=insecure, task_status=task_status,
        )  # fmt: skip

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                if until_eof:
                    stop_at_eof()
                if routes is not None:
                    await book.read()
                url = await nursery.start(lambda task_status: serve(task_status))
                announce({"url": url}, f"tracker at {url}, API description at {url}/openapi.json", as_json=as_json)
                async for number in signals:
                    if number != signal.SIGHUP:
                        break
                    nursery.start_soon(book.read_or_log)
                nursery.cancel_scope.cancel()

    configure_logs()
    raise_descriptors()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    trio.run(run)


def raise_descriptors() -> None:
    """Have as many descriptors as this process may give itself: two for each cache of a fleet."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_node(config: Path | None, settings: dict[str, Any], *, until_eof: bool, as_json: bool) -> None:
    """Run a cache until a signal comes; its address is printed once it listens."""
    # What is imported and opened stays, so nobody needs to look for garbage in it; `run_daemon` switches this on again.
    gc.disable()
    try:
        _run_node(config, settings, until_eof=until_eof, as_json=as_json)
    finally:
        gc.enable()


def _run_node(config: Path | None, settings: dict[str, Any], *, until_eof: bool, as_json: bool) -> None:
    import trio

    from p2pfill.node.config import NodeConfig
    from p2pfill.node.daemon import run_daemon
    from p2pfill.node.node import Node

    def load() -> NodeConfig:
        return NodeConfig.load(config, **settings)

    loaded = load()

    def ready(node: Node) -> None:
        address = f"{node.info.host}:{node.info.port}"
        announce({"id": node.info.id, "address": address}, f"node {node.info.id} at {address}", as_json=as_json)

    configure_logs()
    if until_eof:
        stop_at_eof()
    trio.run(run_daemon, loaded, ready, load)


def announce(record: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print one line, at once even into a pipe: a script waits for it."""
    print(json.dumps(record) if as_json else f"p2pfill {text}", flush=True)


def stop_at_eof() -> None:
    """Send this process SIGTERM when its standard input ends: so it never outlives the process that started it."""

    def watch() -> None:
        name_thread()
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def configure_logs() -> None:
    """Send the logs to stderr, one line an event.

    Standard output is for what a command was asked for, and a script reads its first line.
    """
    import logging

    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s [%(levelname)s] %(name)s: %(message)s"
    )
