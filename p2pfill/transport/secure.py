"""Mutual TLS on a connection: who is at its other end is known, or it is of no use."""

from __future__ import annotations

import socket
import ssl
from typing import Final, NamedTuple

import trio

from p2pfill.model.identity import Identity
from p2pfill.transport.control import LoopShare, LoopShares
from p2pfill.trust.credentials import Credentials, PeerRefused

TLS_FIRST: Final = b"\x16"
"""The first byte of each TLS connection: a record of its handshake (RFC 8446, section 5.1)."""


HANDSHAKE_S: Final = 0.002
"""Of processor time: what a handshake costs who accepts it, before anything is known of the other side."""

ADDRESSES_MAX: Final = 4096
"""Whose handshakes are counted; of more the one that came longest ago is forgotten."""


class _Turns(NamedTuple):
    """Of one address."""

    share: LoopShare
    lock: trio.Lock
    """Of whoever's turn is next: what waits behind it, and gives up, costs nobody anything."""


class Handshakes:
    """How many handshakes each address may have done: a flood from one must not take the loop's time from others.

    An honest fleet that comes back behind one address waits a little, and others not at all.
    """

    def __init__(self) -> None:
        self._shares = LoopShares()
        self._by_address: dict[str, _Turns] = {}

    async def wait_turn(self, address: str) -> None:
        """Wait until one more handshake may be done for an address, as a rule not at all."""
        turns = self._by_address.pop(address, None) or _Turns(LoopShare(), trio.Lock())
        self._by_address[address] = turns
        if len(self._by_address) > ADDRESSES_MAX:
            del self._by_address[next(iter(self._by_address))]
        async with turns.lock:
            await trio.sleep(self._shares.charge(turns.share, trio.current_time(), HANDSHAKE_S))


class Secured(NamedTuple):
    """A connection whose other end has shown who it is."""

    stream: trio.SSLStream[trio.SocketStream]
    peer: Identity
    certificate: bytes
    """Of the peer, in DER: looked at again when something is revoked."""


async def secure(stream: trio.SocketStream, credentials: Credentials, *, accepting: bool) -> Secured:
    """Encrypt a connection and return who is at its other end.

    Raises `PeerRefused`, after which the connection is of no use. The caller bounds the time and closes.
    """
    context = credentials.accepting if accepting else credentials.connecting
    secured = trio.SSLStream(stream, context, server_side=accepting)
    try:
        await secured.do_handshake()
        certificate = secured.getpeercert(binary_form=True)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise PeerRefused(reason_of(error)) from error
    return Secured(secured, credentials.peer(certificate), certificate)


async def begins_with_tls(sock: trio.socket.SocketType) -> bool:
    """Tell whether a connection that came in is to be encrypted; nothing is read. Raises `OSError`."""
    return await sock.recv(1, socket.MSG_PEEK) == TLS_FIRST


def reason_of(error: BaseException) -> str:
    """Return why a handshake failed, with a next step where there is one."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of the other side is not accepted here: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"the handshake failed: {cause.reason or cause}; does the other side run with TLS, and trust this one?"
    return "the connection broke in its handshake; does the other side run with TLS, and trust this one?"

