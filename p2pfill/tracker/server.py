"""Runs a tracker: database, service, sweeper and HTTP server in one Trio task tree.

Cancelling `serve_tracker` is the way to stop it: long polls are answered, calls in progress get `GRACE_S` to end, the
last reports are written and the file is closed.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.events import Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from p2pfill.errors import ConfigError, PeerRefused, StoreError, leaves_of
from p2pfill.model.hosts import is_loopback
from p2pfill.model.identity import Role
from p2pfill.model.ids import TitleId
from p2pfill.model.prices import NO_PRICES, Prices
from p2pfill.swarm.neighbourhood import Neighbourhoods
from p2pfill.tracker.admission import Admission, Paced
from p2pfill.tracker.api import build_app
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.forgetting import CHECK_S
from p2pfill.tracker.revoked import KnownRevocations
from p2pfill.tracker.rights import Grants
from p2pfill.tracker.routes import RouteBook
from p2pfill.tracker.service import Service
from p2pfill.transport.handshakes import Handshakes
from p2pfill.transport.secure import VAIN, secure
from p2pfill.trust.credentials import OLD_LIST, PUBLISHERS_FILE, Bearer, Credentials
from p2pfill.trust.ending import Ending

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
"""Idle connections live longer here than in clients (15 s in ours): or a heartbeat may meet one just closed."""

HANDSHAKE_S: Final = 10.0
"""For the handshake of a caller, which takes an honest one a round trip or two."""

RENEW_S: Final = 5.0
"""Between looks at the files of certificates and grants."""

BACKLOG: Final = 1024
"""Connections that may wait to be accepted, when a fleet comes back at once."""

_INFORMS: Final = re.compile(rb"HTTP/1\.[01] 1")
"""What begins a head after which nothing comes before the caller goes on: he is told so at once."""

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
    neighbourhood_factory: Callable[[TitleId, int], Neighbourhoods] = Neighbourhoods,
    prices: Prices = NO_PRICES,
    routes: RouteBook | None = None,
    credentials: Credentials | None = None,
    grants: Path | None = None,
    insecure: bool = False,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a tracker on `listen` (`HOST:PORT`) over the database `db_url` (`sqlite:///FILE`) until cancelled.

    Reports its own URL through `task_status` once it answers; port 0 picks a free one. `neighbourhood_factory` makes
    the neighbourhoods of each title, by default with bounds for fleets of any size. `prices` is what origins cost,
    `routes` what routes do, where it was read before.
    With `credentials` all calls are encrypted, and each caller may what `grants` says, a file (`tracker.rights`).
    Without them the tracker serves this machine alone, unless it is `insecure`.
    Raises `ConfigError` with one clear line where the port is taken or the database cannot be used.
    """
    gate = check_trust(listen, credentials, grants, insecure=insecure)
    if not HEARTBEAT_S_MIN <= heartbeat_s <= HEARTBEAT_S_MAX:
        raise ConfigError(f"heartbeat of {heartbeat_s} s is not within {HEARTBEAT_S_MIN:g}..{HEARTBEAT_S_MAX:g} s")
    with bind(listen) as sock:
        catalogue = await trio.to_thread.run_sync(Catalogue.open, db_url)
        try:
            service = await _load(catalogue, db_url, heartbeat_s, neighbourhood_factory, prices, routes)
            if gate is not None:
                known = KnownRevocations(catalogue.path, gate.credentials)
                gate = gate._replace(known=known)
                await trio.to_thread.run_sync(known.load)
                await trio.to_thread.run_sync(known.keep)
            await _run(service, sock, gate, task_status)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(catalogue.close)


async def _load(
    catalogue: Catalogue,
    db_url: str,
    heartbeat_s: float,
    neighbourhood_factory: Callable[[TitleId, int], Neighbourhoods],
    prices: Prices,
    routes: RouteBook | None,
) -> Service:
    try:
        return Service(
            catalogue, await catalogue.load(), heartbeat_s=heartbeat_s, neighbourhood_factory=neighbourhood_factory,
            prices=prices, routes=routes,
        )  # fmt: skip
    except (msgspec.MsgspecError, StoreError) as error:
        raise ConfigError(f"cannot use database {db_url}: its records cannot be read ({error})") from error


class Gate(NamedTuple):
    """How callers are asked who they are, and what they may."""

    credentials: Credentials
    grants: Grants
    known: KnownRevocations | None = None


def check_trust(listen: str, credentials: Credentials | None, grants: Path | None, *, insecure: bool) -> Gate | None:
    """Return how callers are asked who they are; None: not at all. Raises `ConfigError`."""
    if credentials is None:
        if grants is not None:
            raise ConfigError("grants are of no use without an identity: nobody is asked who calls")
        if not (insecure or is_loopback(parse_listen(listen)[0])):
            raise ConfigError(
                f"cannot listen on {listen}: others reach it, and no caller is asked who he is; give the tracker a "
                "certificate (--identity DIR, see docs/certificates.md), or say --insecure if all of them are trusted"
            )
        return None
    if insecure:
        raise ConfigError("identity and insecure exclude each other: leave one of them out")
    if credentials.identity.role is not Role.TRACKER:
        raise ConfigError(f"identity {str(credentials.directory)!r} is of {credentials.identity.who}, not of a tracker")
    if credentials.publishers is None:
        _log.info("takes titles that nobody has signed: its identity has no %s", PUBLISHERS_FILE)
    return Gate(credentials, Grants(grants))


async def _run(service: Service, sock: socket.socket, gate: Gate | None, task_status: trio.TaskStatus[str]) -> None:
    config = Config()
    config.accesslog = None
    config.errorlog = _log
    config.graceful_timeout = GRACE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.include_server_header = False
    stop = trio.Event()
    host, port = sock.getsockname()[:2]
    scheme = "http" if gate is None else "https"
    url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    async with trio.open_nursery() as nursery:
        # The server is shielded so that a cancel becomes a request to stop, which lets open calls end.
        nursery.start_soon(service.lag.run)
        nursery.start_soon(_sweep, service)
        nursery.start_soon(_follow_rosters, service)
        nursery.start_soon(_flush_often, service)
        if gate is not None:
            service.trusts_all = False
            _show(gate.credentials, service)
            nursery.start_soon(_renew, gate, service)
        with trio.CancelScope(shield=True) as server_scope:
            async with trio.open_nursery() as server:
                await server.start(_serve, service, gate, config, sock, stop)
                task_status.started(url)
                server.start_soon(_stop_on_cancel, nursery, service, stop, server_scope)
        await _flush(service, shield=True)
        nursery.cancel_scope.cancel()


class _Server(TCPServer):
    """Hypercorn's, but for two things.

    Of a caller that has gone its connection stays there as long as an idle one may. And there the head of an answer is
    sent by itself: a record of TLS, a packet, a wake-up of who has called. Here it waits for what comes next at once,
    which is the body, or the end of the answer.
    """

    has_ended = False
    _head = b""

    async def protocol_send(self, event: Event) -> None:
        """Send what is said, or do what is to be done with the connection."""
        if isinstance(event, RawData):
            data = self._head + event.data
            is_final_head = not self._head and data.startswith(b"HTTP/") and not _INFORMS.match(data)
            self._head = data if is_final_head else b""
            if is_final_head or not data:
                return
            event = RawData(data)
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        self.has_ended = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self.has_ended:  # a call that was in progress meanwhile is over
            await super()._idle_timeout()


async def _serve(
    service: Service, gate: Gate | None, config: Config, sock: socket.socket, stop: trio.Event, *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve calls until `stop`, and then those in progress for `GRACE_S`.

    Hypercorn's parts, and not its `serve`: there what one connection raises ends the server, and a caller's garbage in
    a WebSocket handshake is enough for that.
    """
    admission = Admission(service.refused, is_secure=gate is not None)
    # Both sides speak ASGI, each with types of its own.
    trusted = (None, None) if gate is None else (gate.grants, gate.credentials)
    app: Any = admission.wrap(build_app(service, admission, *trusted))
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    context = WorkerContext(None)
    handshakes = Handshakes()

    async def serve_connection(paced: Paced) -> None:
        stream: Any = paced  # as Hypercorn types it, all are encrypted
        state = {}
        secured = None
        try:
            if gate is not None:
                with trio.fail_after(HANDSHAKE_S):
                    await handshakes.wait_turn(paced.address)
                    secured = await secure(stream, gate.credentials, accepting=True)
                stream, state["bearer"] = secured.stream, Bearer(gate.credentials, secured.certificate)
        except (PeerRefused, trio.TooSlowError) as error:
            why = str(error) or f"no handshake within {HANDSHAKE_S:g} s"
            admission.note("a connection without a certificate that counts here", f"{paced.address} ({why})")
            await trio.aclose_forcefully(stream)
            return
        try:
            await _Server(wrapped, config, context, ConnectionState(state), stream)
        except* Exception as faults:  # noqa: BLE001  (a connection is all that ends with it)
            # What the application raises is logged by then, and answered: this is what the caller has sent.
            admission.note("a connection broke off", f"{paced.address} ({'; '.join(map(repr, leaves_of(faults)))})")
        if secured is not None and secured.stream.ended_in_vain:
            admission.note(VAIN, paced.address)

    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            admit = partial(admission.serve, run=serve_connection)
            accepting.start_soon(partial(trio.serve_listeners, admit, [listener], handler_nursery=connections))
            accepting.start_soon(admission.run)
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + GRACE_S


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


def _show(credentials: Credentials, service: Service) -> None:
    """Let the service tell what credentials say."""
    service.set_revocations(credentials.revocations.pem())
    service.takes_unsigned = credentials.publishers is None


async def _renew(gate: Gate, service: Service) -> None:
    """Take over certificates, revocations and grants that have changed; what cannot be used changes nothing.

    Why it cannot is said once.
    """
    ending = Ending()
    troubles: dict[str, str] = {}
    while True:
        if line := ending.line(gate.credentials, datetime.now(UTC)):
            _log.warning("%s", line)
        await trio.sleep(RENEW_S)
        for name, reload in (("certificates", gate.credentials.reload), ("grants", gate.grants.reload)):
            try:
                is_news = await trio.to_thread.run_sync(reload)
                if is_news:
                    _show(gate.credentials, service)
                    if gate.credentials.has_old_list:
                        _log.warning("%s", OLD_LIST)
                    if gate.known is not None:
                        await trio.to_thread.run_sync(gate.known.keep)
                if troubles.pop(name, "") or is_news:
                    _log.info("has read its %s again", name)
            except ConfigError as error:
                if troubles.get(name) != str(error):
                    _log.error("%s; those before stand", error)
                troubles[name] = str(error)
            except Exception:  # noqa: BLE001  (logged, with its traceback)
                _log.exception("cannot look at its certificates and grants")


async def _sweep(service: Service) -> None:
    forget_at = 0.0
    while True:
        await trio.sleep(service.heartbeat_s / SWEEPS_PER_HEARTBEAT)
        try:
            for node_id in service.expire():
                _log.warning("node %s: heartbeats have stopped; it is no longer a source", node_id)
            if trio.current_time() >= forget_at:
                forget_at = trio.current_time() + CHECK_S
                for node_id in service.forget_silent():
                    _log.warning("node %s: silent for so long that it is forgotten", node_id)
        except Exception:  # noqa: BLE001  (logged, with its traceback)
            # What one node has said must not end the tracker; the next sweep looks at all of them again.
            _log.exception("cannot look which nodes are alive")


async def _follow_rosters(service: Service) -> None:
    while True:
        try:
            await service.follow_rosters()
        except Exception:  # noqa: BLE001  (logged, with its traceback)
            # That of one title, which is left as it is until something changes there; the others go on.
            _log.exception("cannot work out a roster")


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
        except Exception:  # noqa: BLE001  (logged, with its traceback)
            _log.exception("the last reports cannot be saved; they stay in memory")
