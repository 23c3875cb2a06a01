"""The sockets between this node and others: control links, and the data streams beside them. Drives `engine.Link`.

What comes in is told to the engine, and what the engine wants opened is opened here. Each link has a nursery of its own
below the node's, and a boundary: whatever it raises ends it, and its fills ask others.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from p2pfill.engine.dialler import Dial
from p2pfill.engine.engine import Engine
from p2pfill.engine.link import Link, OpenStream, WakeUploads, owner_of
from p2pfill.engine.requests import Receive
from p2pfill.engine.uploads import NextUpload
from p2pfill.errors import P2PFillError, PeerRefused, ProtocolError, RemoteProtocolError, TransferError
from p2pfill.model.hosts import address_of, is_loopback
from p2pfill.model.identity import Role
from p2pfill.model.ids import TitleId
from p2pfill.model.reports import EncryptionReport, clipped
from p2pfill.model.timing import CONNECT_TIMEOUT_S
from p2pfill.model.urgency import Urgency
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.fill import TIER_OF_SCOPE
from p2pfill.node.seldom import SeldomLog
from p2pfill.protocol.data import (
    DATA_MAGIC,
    ENCRYPTED_MAGIC,
    PREFACE_BYTES,
    PREFACE_HEAD_BYTES,
    DataHeader,
    check_preface_head,
    decode_preface,
    encode_preface,
)
from p2pfill.protocol.framing import CONTROL_MAGIC
from p2pfill.protocol.messages import GoodbyeCode, Hello, Message, plain_reason
from p2pfill.store.title import StoredTitle
from p2pfill.transport.connecting import open_stream
from p2pfill.transport.control import ControlChannel, LoopShares
from p2pfill.transport.data import Receiver, Sender, StreamStats, Upload
from p2pfill.transport.handshakes import Handshakes
from p2pfill.transport.payload import Inlet, Outlet, TlsInlet, TlsOutlet, kernel_has_tls
from p2pfill.transport.secure import (
    DataPeer,
    SecuredLink,
    begins_with_tls,
    secure_link,
    secure_receiving,
    secure_sending,
)
from p2pfill.transport.ticks import TickedPlane, Ticks

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials

LINKS_MAX: Final = 512
"""Control links of one node; each costs a few tens of KiB."""

NEWCOMERS_MAX: Final = 128
"""Connections that came in and have not said yet who they are; an honest one has within a few round trips. One more
makes the oldest go of the address that has most: strangers that say nothing cost little, and keep nobody out, however
fast they come."""

PREFACE_TIMEOUT_S: Final = 10.0
"""For a newcomer to say what it wants."""


class Newcomer(NamedTuple):
    """A connection that has not said yet who it is."""

    address: str
    """From where, as `address_of` spells it."""
    scope: trio.CancelScope


class LinkEncryption(NamedTuple):
    """What this node does about encrypting data streams of links with certificates. `engine.link.Encryption`."""

    credentials: Credentials
    required: bool

    @property
    def fingerprint(self) -> bytes:
        """Of the certificate that this node shows now: links may be older than that."""
        return self.credentials.fingerprint


class LinkSockets:
    """The connections of one link. `engine.link.DataStreams` of the engine's side of it."""

    def __init__(self, link: Link, nursery: trio.Nursery, certificate: bytes | None = None) -> None:
        self.link = link
        self.nursery = nursery
        self.certificate = certificate
        """That the remote has shown, in DER."""
        self.receivers: list[Receiver] = []
        self.senders: list[Sender] = []
        self.data: dict[trio.CancelScope, bytes] = {}
        """Data streams, those in their handshakes too -> the certificate that the remote has shown on each, which may
        be newer than that of the link; empty where none was shown."""
        self.spent_before = StreamStats()
        """Of the receivers that have ended."""
        self.bytes_before = 0

    def come_bytes(self) -> int:
        """Return how many payload bytes have come so far, unread ones among them."""
        return self.bytes_before + sum(receiver.come_bytes() for receiver in self.receivers)

    def take_held_back(self) -> bool:
        """Tell whether what comes has waited for this node's own limits since the last call."""
        held_back = [receiver for receiver in self.receivers if receiver.claim.was_held_back]
        for receiver in held_back:
            receiver.claim.was_held_back = receiver.claim.waits
        return bool(held_back)

    def receiving(self) -> list[int]:
        """Return the request ids of the chunks that are coming."""
        return [number for receiver in self.receivers if (number := receiver.receiving) is not None]

    def spent(self) -> StreamStats:
        """Return what the data streams towards us have done with their time."""
        total = self.spent_before
        for receiver in self.receivers:
            total = total.plus(receiver.spent)
        return total

    def certificates(self) -> set[bytes | None]:
        """Return all that the remote has shown on what is open."""
        return {self.certificate, *filter(None, self.data.values())}

    def upload_titles(self) -> set[TitleId]:
        """Return the titles of which the remote is being sent something, or waits for something."""
        return self.link.uploads.titles() | {sender.title for sender in self.senders if sender.title is not None}


class Links:
    """All connections of one node."""

    def __init__(
        self,
        engine: Engine,
        hello: Hello,
        ticks: Ticks,
        plane: TickedPlane,
        nursery: trio.Nursery,
        stored: Callable[[TitleId], StoredTitle | None],
        note_used: Callable[[TitleId], object],
        unreadable: Callable[[TitleId, int, str], object],
        wake: Callable[[], object],
        log: logging.Logger,
        credentials: Credentials | None = None,
        *,
        stays_near: bool = False,
        encrypts: bool = False,
    ) -> None:
        """`stored` and `note_used` are called from threads; `wake` has the engine polled.

        With `credentials` all control links are encrypted, and both sides show who they are. Where it `stays_near`
        the node connects to nothing but this machine. Where it `encrypts`, data streams go through TLS, and none as
        they are; else where the other side wants that.

        `unreadable` is told of a chunk that could not be read to be sent, and why.
        """
        self._engine = engine
        self._hello = hello
        self._ticks = ticks
        self._plane = plane
        self._nursery = nursery
        self._stored = stored
        self._note_used = note_used
        self._unreadable = unreadable
        self._wake = wake
        self._log = log
        self._seldom = SeldomLog(log)
        self._credentials = credentials
        self._stays_near = stays_near
        self._encryption = None if credentials is None else LinkEncryption(credentials, encrypts)
        self._encrypts = encrypts
        self._shares = LoopShares()
        self._sockets: dict[Link, LinkSockets] = {}
        self._handshakes = Handshakes()
        self._newcomers: dict[trio.SocketStream, Newcomer] = {}
        """The oldest first."""
        self._spent_before = StreamStats()
        self.upload_bytes = 0
        self._received_before = self._sent_before = 0
        """Payload bytes of data streams that have ended."""
        self.was_reached = False
        """Whether another cache has ever linked from its side, and so has reached this one."""

    # ---- what others ask

    def sockets(self) -> list[LinkSockets]:
        """Return the connections of each link."""
        return list(self._sockets.values())

    def is_idle(self) -> bool:
        """Tell whether no link owes its remote anything."""
        return all(one.link.is_idle() and not any(s.is_busy for s in one.senders) for one in self._sockets.values())

    def recheck(self) -> None:
        """End the links of caches whose certificates are accepted no more."""
        if self._credentials is None:
            return
        for one in list(self._sockets.values()):
            try:
                for certificate in one.certificates():
                    self._credentials.peer(certificate)
            except PeerRefused as error:
                self._log.warning("ends the link with %s: %s", one.link.remote.id if one.link.remote else "?", error)
                self._engine.close_link(one.link, GoodbyeCode.PROTOCOL_ERROR, plain_reason(str(error)))
                for scope in one.data:  # at once, while the link says its Goodbye
                    scope.cancel()

    def close(self, reason: str) -> None:
        """Say goodbye to all."""
        for link in list(self._sockets):
            self._engine.close_link(link, GoodbyeCode.SHUTDOWN, reason)

    def spent(self) -> StreamStats:
        """Return what all data streams on which this node receives have done with their time."""
        total = self._spent_before
        for one in self._sockets.values():
            total = total.plus(one.spent())
        return total

    def moved(self) -> tuple[int, int]:
        """Return the payload bytes that have come from caches and gone to them since the node was opened."""
        received = sum(receiver.moved_bytes for one in self._sockets.values() for receiver in one.receivers)
        sent = sum(sender.moved_bytes for one in self._sockets.values() for sender in one.senders)
        return self._received_before + received, self._sent_before + sent

    def encryption(self) -> EncryptionReport:
        """Return what is encrypted of the data streams."""
        if self._credentials is None:
            return EncryptionReport()
        outlets = [sender.outlet for one in self._sockets.values() for sender in one.senders]
        return EncryptionReport(
            required=self._encrypts,
            streams=sum(bool(shown) for one in self._sockets.values() for shown in one.data.values()),
            by_kernel=sum(isinstance(outlet, TlsOutlet) and outlet.by_kernel for outlet in outlets),
            kernel=kernel_has_tls(),
        )

    # ---- what the engine wants done

    def dial(self, effect: Dial) -> None:
        """Connect to a cache."""
        self._nursery.start_soon(self._dial, effect)

    def open_stream(self, effect: OpenStream) -> None:
        """Open a data stream on which chunks come."""
        sockets = self._sockets.get(effect.link)
        if sockets is not None:
            # Inside the link's nursery a fault would cut the link off before its Goodbye.
            bounds = ErrorBoundary(self._log, "receive chunks", partial(self._engine.fail_link, effect.link))
            sockets.nursery.start_soon(bounds.run, self._receive_stream, sockets, effect)

    def wake_uploads(self, effect: WakeUploads) -> None:
        """Look for something to send to a remote, or for something more urgent."""
        sockets = self._sockets.get(effect.link)
        if sockets is not None and not any(sender.wake() for sender in sockets.senders):
            for sender in sockets.senders:
                sender.reprioritise()

    # ---- control links

    async def _dial(self, effect: Dial) -> None:
        name = effect.node.id
        opened = False
        async with ErrorBoundary(self._log, f"link with {name}", level=logging.DEBUG):
            try:
                sock = await self._connect(effect.node.host, effect.node.port)
            except OSError as error:
                self._log.debug("cannot link with %s: %s", name, error)
            else:
                opened = await self._introduce(trio.SocketStream(sock), name)
        if not opened:
            self._engine.dial_failed(trio.current_time(), name)
            self._wake()

    async def _introduce(self, connection: trio.SocketStream, dialled: str) -> bool:
        """Serve a link that was dialled until it ends; False where there was no room for it, or it is not who it was.

        Raises `PeerRefused`.
        """
        if self._credentials is None:
            return await self._run_link(connection, dialled=dialled)
        try:
            with trio.fail_after(PREFACE_TIMEOUT_S):
                secured = await secure_link(connection, self._credentials, accepting=False)
            if secured.peer.role is not Role.CACHE or secured.peer.name != dialled:
                raise PeerRefused(f"{secured.peer.who} answers in the place of {dialled}")
        except (PeerRefused, trio.TooSlowError) as error:
            connection.socket.close()
            self._log.warning("cannot link with %s: %s", dialled, str(error) or "no handshake in time")
            return False
        except BaseException:
            connection.socket.close()
            raise
        return await self._run_link(connection, dialled=dialled, secured=secured)

    async def _connect(self, host: str, port: int) -> trio.socket.SocketType:
        """Connect to a cache. Raises `OSError`."""
        if self._stays_near and not is_loopback(host):
            raise OSError(f"{host!r} is another machine, and this node, without certificates, is for this one alone")
        return await connect(host, port)

    async def accept(self, stream: trio.SocketStream) -> None:
        """Serve one connection that came in, whatever it is."""
        try:
            address = address_of(stream.socket.getpeername()[0])
        except OSError:
            return  # it has gone already
        with trio.CancelScope() as scope:
            self._newcomers[stream] = Newcomer(address, scope)
            if len(self._newcomers) > NEWCOMERS_MAX:
                self._drop_newcomer()
            try:
                await ErrorBoundary(self._log, "serve a connection").run(self._welcome, stream, address)
            finally:
                self._newcomers.pop(stream, None)

    def _drop_newcomer(self) -> None:
        """Have the oldest newcomer go of the address that has most."""
        ((most, _),) = Counter(one.address for one in self._newcomers.values()).most_common(1)
        oldest = next(stream for stream, one in self._newcomers.items() if one.address == most)
        self._newcomers.pop(oldest).scope.cancel()

    async def _welcome(self, stream: trio.SocketStream, address: str) -> None:
        sock = stream.socket
        spent = secured = None
        first = b""
        try:
            with trio.fail_after(PREFACE_TIMEOUT_S):
                if self._credentials is not None and await begins_with_tls(sock):
                    await self._handshakes.wait_turn(address)
                    secured = await secure_link(stream, self._credentials, accepting=True)
                    if secured.peer.role is not Role.CACHE:
                        raise PeerRefused(f"{secured.peer.who} is no cache")
                else:
                    first = await _receive_exactly(sock, len(CONTROL_MAGIC))
                if first in (DATA_MAGIC, ENCRYPTED_MAGIC):
                    # Of another version the rest may be shorter, and would be waited for in vain.
                    first += await _receive_exactly(sock, PREFACE_HEAD_BYTES - len(first))
                    check_preface_head(first)
                    preface = decode_preface(first + await _receive_exactly(sock, PREFACE_BYTES - len(first)))
                    spent = self._engine.spend_token(
                        trio.current_time(), preface.token, encrypted=preface.encrypted
                    )
                elif secured is None and self._credentials is not None:
                    raise PeerRefused("it is not encrypted, as links here are; does its node run with --identity?")
                tune(sock)
        except (OSError, ProtocolError, PeerRefused) as error:
            self._seldom.info("a connection was refused", error)
            return
        except trio.TooSlowError:
            self._seldom.info("a connection was refused", f"it said nothing for {PREFACE_TIMEOUT_S:g} s")
            return
        if spent is None:
            await self._run_link(stream, first, secured=secured)
        else:
            self._newcomers.pop(stream, None)
            self.was_reached = True
            await self._send_stream(spent.owner, sock, spent.certificate, address)

    def _make_room(self) -> None:
        """Give up the oldest link that the rosters name no more; a cache that found no room tries again."""
        for node_id, link in self._engine.links.items():
            if not self._engine.dialler.is_wanted(node_id):
                self._engine.close_link(link, GoodbyeCode.OVERLOADED, "room is needed for a cache of the roster")
                return

    async def _run_link(
        self, stream: trio.SocketStream, received: bytes = b"", dialled: str = "", secured: SecuredLink | None = None
    ) -> bool:
        """Serve a link until it ends; False where there was no room for it."""
        if len(self._sockets) >= LINKS_MAX:
            self._make_room()
            await trio.aclose_forcefully(stream)
            return False
        layer = None if secured is None else secured.layer
        received = received if secured is None else secured.received
        channel = ControlChannel(stream, self._hello, received, self._shares, layer, self._ticks)
        identity, encryption = (None, None) if secured is None else (secured.peer, self._encryption)
        link = self._engine.open_link(channel, self._reap_soon, dialled, identity, encryption)
        bounds = ErrorBoundary(self._log, "serve a link", partial(self._engine.fail_link, link))
        try:
            async with bounds, trio.open_nursery() as nursery:
                self._sockets[link] = LinkSockets(link, nursery, None if secured is None else secured.certificate)
                link.streams = self._sockets[link]
                try:
                    await channel.run(partial(self._handle, link, stream))
                except (ProtocolError, ConnectionError) as error:
                    name = link.remote.id if link.remote else "a stranger"
                    self._seldom.info(f"link with {name} failed", error)
                    link.fault = link.fault or clipped(str(error))
                nursery.cancel_scope.cancel()
        finally:
            with bounds:
                self._forget(link)
            self._engine.link_ended(trio.current_time(), link)
            self._wake()
        return True

    def _forget(self, link: Link) -> None:
        sockets = self._sockets.pop(link, None)
        if sockets is not None:
            for scope in sockets.data:
                scope.cancel()
            self._spent_before = self._spent_before.plus(sockets.spent())

    def _handle(self, link: Link, stream: trio.SocketStream, message: Message) -> None:
        self._engine.handle(self._ticks.now, link, message)
        if type(message) is Hello and link.remote is not None and self._newcomers.pop(stream, None) is not None:
            self.was_reached = True
        self._wake()

    def _reap_soon(self, link: Link) -> None:
        """Have the loop take in what has come; called from threads."""
        self._ticks.tell(partial(self._reap, link), partial(self._engine.link_faulted, link))

    def _reap(self, link: Link) -> None:
        self._engine.reap(self._ticks.now, link)
        self._wake()

    # ---- data streams

    async def _receive_stream(self, sockets: LinkSockets, effect: OpenStream) -> None:
        """Be sent chunks on a data stream of our own, until it ends; what it raises fails what it owed."""
        link, reason, breach = sockets.link, "data stream ended", False
        name = link.remote.id if link.remote is not None else "a stranger"

        def failed(error: P2PFillError) -> None:
            nonlocal reason, breach
            reason, breach = str(error), isinstance(error, RemoteProtocolError)
            if breach:
                self._log.warning("%s breaks the protocol, and is quarantined: %s", name, reason)

        bounds = ErrorBoundary(self._log, f"receive from {name}", failed, level=logging.INFO)
        await bounds.run(self._receive, sockets, effect)
        self._engine.stream_ended(trio.current_time(), link, reason, breach=breach)
        self._wake()

    async def _receive(self, sockets: LinkSockets, effect: OpenStream) -> None:
        """Receive until the stream ends. Raises `TransferError`, and `RemoteProtocolError` for a broken rule."""
        link = sockets.link
        if link.remote is None:
            raise TransferError("the remote has not introduced itself")
        expected = self._expected(link, effect.certificate)
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                sock = await self._connect(link.remote.host, link.remote.port)
                inlet, certificate = await self._open_inlet(sock, effect.token, expected)
        except (OSError, PeerRefused, trio.TooSlowError) as error:
            raise TransferError(f"data stream cannot be opened: {str(error) or 'no answer in time'}") from error
        with sock, trio.CancelScope() as scope:
            receiver = Receiver(sock, self._plane, link.book, TIER_OF_SCOPE[link.scope], self._urgency, inlet)
            sockets.receivers.append(receiver)
            sockets.data[scope] = certificate
            try:
                await receiver.run()
            finally:
                del sockets.data[scope]
                sockets.receivers.remove(receiver)
                sockets.spent_before = sockets.spent_before.plus(receiver.spent)
                sockets.bytes_before += receiver.moved_bytes
                self._received_before += receiver.moved_bytes

    async def _open_inlet(
        self, sock: trio.socket.SocketType, token: bytes, expected: DataPeer | None
    ) -> tuple[Inlet | None, bytes]:
        """Show the token on a connection; return how payload comes, and the certificate that was shown, if one was.

        Raises `PeerRefused` and `OSError`, and then the connection is closed.
        """
        try:
            await sock.send(encode_preface(token, encrypted=expected is not None))
            if expected is None or self._credentials is None:
                return None, b""
            layer, certificate = await secure_receiving(trio.SocketStream(sock), self._credentials, expected)
            return TlsInlet(sock.fileno(), *layer.release()), certificate
        except BaseException:
            sock.close()
            raise

    def _expected(self, link: Link, fingerprint: bytes) -> DataPeer | None:
        """Return who must be at the other end of a data stream; None where that is plain.

        Raises `RemoteProtocolError` where it must not be: whatever was said before, this is where payload begins.
        """
        if fingerprint and link.identity is not None:
            return DataPeer(link.identity, fingerprint)
        if fingerprint or self._encrypts:
            raise RemoteProtocolError("a data stream that is not encrypted, where all must be")
        return None

    async def _send_stream(self, link: Link, sock: trio.socket.SocketType, fingerprint: bytes, address: str) -> None:
        """Serve the remote's requests over `sock`, which it has opened, until the stream or the link ends."""
        sockets = self._sockets.get(link)
        if sockets is None:
            return
        # From here on it counts as one of those that the remote may have open, though it be slow in its handshake.
        link.upload_streams += 1
        with trio.CancelScope() as scope:
            sockets.data[scope] = b""
            try:
                expected = self._expected(link, fingerprint)
                if expected is None or self._credentials is None:
                    await self._send(sockets, sock, None)
                else:
                    with trio.fail_after(PREFACE_TIMEOUT_S):
                        await self._handshakes.wait_turn(address)
                        tls, certificate = await secure_sending(sock, self._credentials, expected)
                    with tls:
                        sockets.data[scope] = certificate
                        await self._send(sockets, tls, TlsOutlet(tls))
            except (TransferError, RemoteProtocolError) as error:
                self._seldom.info("upload broke off", error)
            except (PeerRefused, trio.TooSlowError) as error:
                self._seldom.info("a data stream was refused", str(error) or "no handshake in time")
            finally:
                link.upload_streams -= 1
                del sockets.data[scope]

    async def _send(
        self, sockets: LinkSockets, sock: trio.socket.SocketType | ssl.SSLSocket, outlet: Outlet | None
    ) -> None:
        """Serve requests over a stream that is ready. Raises `TransferError` and `RemoteProtocolError`."""
        link = sockets.link
        sender = Sender(
            sock,
            self._plane,
            partial(self._take_upload, link),
            link.uploads.wanted,
            partial(self._sent, link),
            nearness=-link.scope,
            tier=TIER_OF_SCOPE[link.scope],
            outlet=outlet,
        )
        sockets.senders.append(sender)
        try:
            await sender.run()
        except (TransferError, RemoteProtocolError) as error:
            if sender.unreadable is not None:
                self._unreadable(*sender.unreadable, str(error))
            raise
        finally:
            sockets.senders.remove(sender)
            self._sent_before += sender.moved_bytes
            # What it was given and did not send goes to another stream, or fails with the requests of its receiver.
            for other in sockets.senders:
                other.wake()

    def _urgency(self, receive: Receive) -> Urgency:
        """Return how urgent the title is of which a chunk comes. Called from threads."""
        return self._engine.urgency(owner_of(receive).task.title_id)

    def _take_upload(self, link: Link) -> Upload | None:
        """Return the next chunk to send. Runs in a worker thread."""
        while (asked := link.uploads.take()) is not None:
            stored = self._stored(asked.title)
            if stored is not None:
                self._note_used(asked.title)
                header = DataHeader(asked.request_id, asked.chunk, stored.manifest.chunk_length(asked.chunk))
                return Upload(header, stored, NextUpload(self._engine.urgency(asked.title), asked.title))
        return None

    def _sent(self, link: Link, header: DataHeader) -> None:
        self.upload_bytes += header.length
        self._engine.sent(self._ticks.now, link, header.request_id)


async def connect(host: str, port: int) -> trio.socket.SocketType:
    """Connect to another node. Raises `OSError`."""
    with trio.move_on_after(CONNECT_TIMEOUT_S) as scope:
        try:
            stream = await open_stream(host, port)
        except (ValueError, OverflowError) as error:
            # Raised by name look-up; name and port are what another node says of itself.
            raise OSError(f"{host!r} is not a host name, or {port} not a port ({error})") from error
    if scope.cancelled_caught:
        raise OSError(f"{host}:{port} did not answer within {CONNECT_TIMEOUT_S:g} s")
    try:
        tune(stream.socket)
    except BaseException:
        stream.socket.close()
        raise
    return stream.socket


def tune(sock: trio.socket.SocketType) -> None:
    """Set the socket's options for the data path."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _receive_exactly(sock: trio.socket.SocketType, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = await sock.recv(count - len(got))
        if not part:
            raise RemoteProtocolError("the connection ended inside its preface")
        got += part
    return got
