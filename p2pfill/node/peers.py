"""Which other caches this node is linked with: listening, dialling, and one link per pair.

Of two nodes the one with the lower id dials, so that a pair ends up with one link. A link that fails is dialled
again, with growing pauses, for as long as the roster names the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from p2pfill.errors import ProtocolError, RemoteProtocolError
from p2pfill.model.node import NodeInfo
from p2pfill.model.pace import REDIAL_MAX_S, REDIAL_S
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.link import Link
from p2pfill.protocol.data import DATA_MAGIC, PREFACE_BYTES, decode_preface
from p2pfill.protocol.framing import CONTROL_MAGIC
from p2pfill.protocol.messages import GoodbyeCode, Hello
from p2pfill.transport.control import ControlChannel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pfill.node.filling import Filling
    from p2pfill.node.node import Node

LINKS_MAX: Final = 512
"""Control links of one node; each costs a few tens of KiB."""

NEWCOMERS_MAX: Final = 128
"""Connections that came in and have not said yet who they are; an honest one has within a round trip. One more makes
the oldest go: strangers that say nothing cost little, and keep nobody out."""

PREFACE_TIMEOUT_S: Final = 10.0
"""For a newcomer to say what it wants."""

CONNECT_TIMEOUT_S: Final = 10.0


class Peers:
    """The links of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._links: dict[str, Link] = {}
        self._open = 0
        self._wanted: dict[str, NodeInfo] = {}
        self._dialling: dict[str, trio.Event] = {}
        self._newcomers: dict[trio.SocketStream, trio.CancelScope] = {}

    def link(self, node_id: str) -> Link | None:
        """Return the link with a node, if there is one."""
        return self._links.get(node_id)

    def links(self) -> list[Link]:
        """Return all links over which a Hello has come."""
        return list(self._links.values())

    def want(self, nodes: Iterable[NodeInfo]) -> None:
        """Be linked with these nodes from now on. Links with others stay while they last, but are not renewed."""
        before = self._wanted
        self._wanted = {node.id: node for node in nodes if node.id != self._node.info.id}
        for node in self._wanted.values():
            if node.id in self._dialling:
                if before.get(node.id) != node:
                    # It has been started anew elsewhere, or is back: no reason to wait any longer.
                    self._dialling[node.id].set()
            elif self._node.info.id < node.id:
                self._dialling[node.id] = trio.Event()
                self._node.nursery.start_soon(self._dial, node.id)

    def admit(self, link: Link) -> None:
        """Take in a link whose Hello has come. Raises `RemoteProtocolError` where it must not be."""
        remote = link.remote
        if remote is None or remote.id == self._node.info.id:
            raise RemoteProtocolError("a node cannot be linked with itself; are two nodes running under one id?")
        before = self._links.get(remote.id)
        if before is not None:
            before.close(GoodbyeCode.DUPLICATE, "a newer link takes over")
            before.end()
        self._links[remote.id] = link
        for filling in self._node.fillings():
            link.want(filling)

    def follow(self, filling: Filling) -> None:
        """Ask all linked nodes for their holdings of a title, and tell them of ours."""
        for link in self.links():
            link.want(filling)
            link.show(filling.title_id)

    def is_idle(self) -> bool:
        """Tell whether no link owes its remote anything."""
        return all(link.is_idle() for link in self.links())

    def close(self, reason: str) -> None:
        """Say goodbye to all."""
        for link in self.links():
            link.close(GoodbyeCode.SHUTDOWN, reason)

    async def _dial(self, node_id: str) -> None:
        pause_s = REDIAL_S
        while (node := self._wanted.get(node_id)) is not None:
            started = trio.current_time()
            await ErrorBoundary(self._node.log, f"link with {node_id}").run(self._connect, node)
            if trio.current_time() - started > REDIAL_MAX_S:
                pause_s = REDIAL_S
            with trio.move_on_after(pause_s * (1 + self._node.random.random())) as pause:
                await self._dialling[node_id].wait()
            self._dialling[node_id] = trio.Event()
            pause_s = min(2 * pause_s, REDIAL_MAX_S) if pause.cancelled_caught else REDIAL_S
        del self._dialling[node_id]

    async def _connect(self, node: NodeInfo) -> None:
        try:
            sock = await self._node.connect((node.host, node.port))
        except OSError as error:
            self._node.log.debug("cannot link with %s: %s", node.id, error)
        else:
            await self._run_link(trio.SocketStream(sock))

    async def accept(self, stream: trio.SocketStream) -> None:
        """Serve one connection that came in, whatever it is."""
        with trio.CancelScope() as scope:
            self._newcomers[stream] = scope
            if len(self._newcomers) > NEWCOMERS_MAX:
                oldest = next(iter(self._newcomers))
                self._newcomers.pop(oldest).cancel()
            try:
                await ErrorBoundary(self._node.log, "serve a connection").run(self._welcome, stream)
            finally:
                self._newcomers.pop(stream, None)

    async def _welcome(self, stream: trio.SocketStream) -> None:
        sock = stream.socket
        link = None
        try:
            with trio.fail_after(PREFACE_TIMEOUT_S):
                first = await _receive_exactly(sock, len(CONTROL_MAGIC))
                if first == DATA_MAGIC:
                    preface = decode_preface(first + await _receive_exactly(sock, PREFACE_BYTES - len(first)))
                    link = self._node.tokens.spend(preface.token, trio.current_time())
                self._node.tune(sock)
        except (OSError, ProtocolError) as error:
            self._node.log.info("a connection was refused: %s", error)
            return
        except trio.TooSlowError:
            self._node.log.info("a connection was refused: it said nothing for %g s", PREFACE_TIMEOUT_S)
            return
        if link is None:
            await self._run_link(stream, first)
        else:
            self._newcomers.pop(stream, None)
            await link.send_stream(sock)

    def _make_room(self) -> None:
        """Give up the oldest link that the rosters name no more; whoever was refused for want of room tries again."""
        for node_id, link in self._links.items():
            if self._wanted and node_id not in self._wanted:
                link.close(GoodbyeCode.OVERLOADED, "room is needed for a cache of the roster")
                return

    async def _run_link(self, stream: trio.SocketStream, received: bytes = b"") -> None:
        if self._open >= LINKS_MAX:
            self._make_room()
            await trio.aclose_forcefully(stream)
            return
        info = self._node.info
        hello = Hello(
            node_id=info.id,
            isp=info.isp,
            region=info.region,
            cluster=info.cluster,
            host=info.host,
            port=info.port,
            weight=info.weight,
            agent=self._node.agent,
            boot=self._node.boot,
        )
        channel = ControlChannel(stream, hello, received)
        self._open += 1
        try:
            async with trio.open_nursery() as nursery:
                link = Link(self._node, channel, nursery, lambda: self._newcomers.pop(stream, None))
                async with link.bounds:
                    try:
                        await channel.run(link.handle)
                    except (ProtocolError, ConnectionError) as error:
                        link.failure = link.failure or str(error)
                        name = link.remote.id if link.remote else "a stranger"
                        self._node.log.info("link with %s failed: %s", name, error)
                nursery.cancel_scope.cancel()
        finally:
            self._open -= 1
            self._node.tokens.revoke(link)
            if link.remote is not None and self._links.get(link.remote.id) is link:
                del self._links[link.remote.id]
                link.end()
            link.stop_streams()


async def _receive_exactly(sock: trio.socket.SocketType, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = await sock.recv(count - len(got))
        if not part:
            raise RemoteProtocolError("the connection ended inside its preface")
        got += part
    return got
