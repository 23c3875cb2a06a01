"""Both ends of a data stream, as it is or through TLS, for tests that are of either kind."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.lowlevel
from certificates import Signer, cache

from p2pfill.transport.payload import TlsInlet, TlsOutlet
from p2pfill.transport.secure import DataPeer, secure_receiving, secure_sending
from p2pfill.trust.credentials import Credentials

MakeLine = Callable[[], Awaitable[tuple[Any, Any]]]
"""Returns the end that sends payload, which tests may `send` on as well, and the one that receives it."""


class _End:
    """A socket with TLS above it."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def __enter__(self) -> _End:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class Near(_End):
    """Where payload goes out."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        super().__init__(tls)
        self.outlet = TlsOutlet(tls)

    async def send(self, data: bytes | memoryview) -> int:
        """Send, as a socket of Trio's does."""
        while True:
            await trio.lowlevel.checkpoint()
            try:
                return int(self.sock.send(data))
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self.sock)


class Far(_End):
    """Where payload comes in."""

    def __init__(self, sock: trio.socket.SocketType, inlet: TlsInlet) -> None:
        super().__init__(sock)
        self.inlet = inlet


class Identities:
    """Two caches that trust each other."""

    def __init__(self, directory: Path) -> None:
        signer = Signer()
        self.sender, self.receiver = (
            Credentials(signer.give(directory / name, cache(name))) for name in ("sends", "receives")
        )


async def secure_pair(
    near: trio.socket.SocketType, far: trio.socket.SocketType, identities: Identities
) -> tuple[Near, Far]:
    """Have both ends of a connection shake hands."""
    sender, receiver = identities.sender, identities.receiver
    ends: list[Any] = []

    async def accept() -> None:
        tls, _ = await secure_sending(near, sender, DataPeer(receiver.identity, receiver.fingerprint))
        ends.append(Near(tls))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        layer, _ = await secure_receiving(
            trio.SocketStream(far), receiver, DataPeer(sender.identity, sender.fingerprint)
        )
    return ends[0], Far(far, TlsInlet(far.fileno(), *layer.release()))


async def _tcp() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = (await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])).socket
    far = (await listener.accept()).socket
    await listener.aclose()
    return near, far


async def _make(identities: Identities | None, *, tcp: bool) -> tuple[Any, Any]:
    near, far = await _tcp() if tcp else trio.socket.socketpair()
    return (near, far) if identities is None else await secure_pair(near, far, identities)


@contextmanager
def lines(kind: str, *, tcp: bool = False) -> Iterator[MakeLine]:
    """Return what makes lines of a kind: `plain` or `tls`."""
    with tempfile.TemporaryDirectory() as directory:
        yield partial(_make, Identities(Path(directory)) if kind == "tls" else None, tcp=tcp)
