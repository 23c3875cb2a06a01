"""Runs a tracker: database, service, sweeper and HTTP server in one Trio task tree.

Cancelling `serve_tracker` is the way to stop it: long polls are answered, calls in progress get `GRACE_S` to end, the
last reports are written and the file is closed.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

import hypercorn.trio
import msgspec
import trio
from hypercorn.config import Config

from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.swarm.neighbourhood import Neighbourhoods
from p2pfill.tracker.api import build_app
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.service import Service

HEARTBEAT_S: Final = 2.0
"""By default: a dead source is out of all rosters after 6 s, at a cost of one small call a node every 2 s."""

HEARTBEAT_S_MIN: Final = 0.05
HEARTBEAT_S_MAX: Final = 3600.0
FLUSH_S: Final = 1.0
"""How much of the nodes' reports a crash of the tracker may lose; they are sent again anyway."""

SWEEPS_PER_HEARTBEAT: Final = 4
"""A dead node is noticed this part of a heartbeat late, at most."""

GRACE_S: Final = 2.0
KEEP_ALIVE_S: Final = 30.0
"""Idle connections live longer here than in clients (5 s in ours): or a heartbeat may meet one just closed."""

BACKLOG: Final = 1024
"""Connections that may wait to be accepted, when a fleet comes back at once."""

_log = logging.getLogger("p2pfill.tracker")


def parse_listen(listen: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` (`[::1]:80` for IPv6; port 0 for any). Raises `ConfigError`."""
    host, colon, port = listen.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"cannot listen on {listen[:100]!r}: write HOST:PORT, for example 0.0.0.0:7070")
    return host, int(port)


def bind(listen: str) -> socket.socket:
    """Return a listening socket. Raises `ConfigError` that says why there can be none."""
    host, port = parse_listen(listen)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigError(f"cannot listen on {listen}: {host!r} is no address of this machine ({error})") from error
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        is_foreign = error.errno == errno.EADDRNOTAVAIL
        advice = "choose another port or stop what uses it" if port and not is_foreign else "choose another address"
        raise ConfigError(f"cannot listen on {listen}: {error.strerror}; {advice}") from error
    return sock


async def serve_tracker(
    listen: str,
    db_url: str,
    *,
    heartbeat_s: float = HEARTBEAT_S,
    make_around: Callable[[TitleId, int], Neighbourhoods] = Neighbourhoods,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a tracker on `listen` (`HOST:PORT`) over the database `db_url` (`sqlite:///FILE`) until cancelled.

    Reports its own URL through `task_status` once it answers; port 0 picks a free one. `make_around` makes the
    neighbourhoods of each title, by default with bounds for fleets of any size. Raises `ConfigError` with one
    clear line where the port is taken or the database cannot be used.
    """
    if not HEARTBEAT_S_MIN <= heartbeat_s <= HEARTBEAT_S_MAX:
        raise ConfigError(f"heartbeat of {heartbeat_s} s is not within {HEARTBEAT_S_MIN:g}..{HEARTBEAT_S_MAX:g} s")
    with bind(listen) as sock:
        catalogue = await trio.to_thread.run_sync(Catalogue.open, db_url)
        try:
            service = await _load(catalogue, db_url, heartbeat_s, make_around)
            await _run(service, sock, task_status)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(catalogue.close)


async def _load(
    catalogue: Catalogue, db_url: str, heartbeat_s: float, make_around: Callable[[TitleId, int], Neighbourhoods]
) -> Service:
    try:
        return Service(catalogue, await catalogue.load(), heartbeat_s=heartbeat_s, make_around=make_around)
    except (msgspec.MsgspecError, StoreError) as error:
        raise ConfigError(f"cannot use database {db_url}: its records cannot be read ({error})") from error


async def _run(service: Service, sock: socket.socket, task_status: trio.TaskStatus[str]) -> None:
    config = Config()
    config.bind = [f"fd://{sock.fileno()}"]
    config.accesslog = None
    config.errorlog = _log
    config.graceful_timeout = GRACE_S
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.include_server_header = False
    stop = trio.Event()
    host, port = sock.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    async with trio.open_nursery() as nursery:
        # The server is shielded so that a cancel becomes a request to stop, which lets open calls end.
        nursery.start_soon(service.lag.run)
        nursery.start_soon(_sweep, service)
        nursery.start_soon(_flush_often, service)
        with trio.CancelScope(shield=True) as server_scope:
            async with trio.open_nursery() as server:
                await server.start(_serve, service, config, stop)
                sock.detach()  # the server owns the descriptor now, and closes it
                task_status.started(url)
                server.start_soon(_stop_on_cancel, nursery, service, stop, server_scope)
        await _flush(service, shield=True)
        nursery.cancel_scope.cancel()


async def _serve(
    service: Service, config: Config, stop: trio.Event, *, task_status: trio.TaskStatus[list[str]]
) -> None:
    app: Any = build_app(service)  # both sides speak ASGI, each with types of its own
    await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, task_status=task_status)


async def _stop_on_cancel(
    nursery: trio.Nursery, service: Service, stop: trio.Event, server_scope: trio.CancelScope
) -> None:
    """Wait for the cancellation that the shield keeps from the server, then stop that in order."""
    cancelled = trio.Event()

    async def watch() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    nursery.start_soon(watch)
    await cancelled.wait()
    service.release_polls()
    stop.set()
    server_scope.deadline = trio.current_time() + 2 * GRACE_S


async def _sweep(service: Service) -> None:
    while True:
        await trio.sleep(service.heartbeat_s / SWEEPS_PER_HEARTBEAT)
        try:
            for node_id in service.expire():
                _log.warning("node %s: heartbeats have stopped; it is no longer a source", node_id)
        except Exception:
            # What one node has said must not end the tracker; the next sweep looks at all of them again.
            _log.exception("cannot look which nodes are alive")


async def _flush_often(service: Service) -> None:
    while True:
        await trio.sleep(FLUSH_S)
        await _flush(service, shield=False)


async def _flush(service: Service, *, shield: bool) -> None:
    with trio.CancelScope(shield=shield):
        try:
            await service.flush()
        except StoreError as error:
            _log.error("%s; the last reports stay in memory", error)
        except Exception:
            _log.exception("the last reports cannot be saved; they stay in memory")
