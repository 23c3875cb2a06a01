"""What comes of a connection whose two ends are one."""

from __future__ import annotations

import socket

import pytest
import trio

from p2pfill.node import links
from p2pfill.tracker.client import TrackerClient, TrackerUnreachable


@pytest.fixture
def own_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Return a port on which nobody listens, and from which whoever connects to it does so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])

    async def connect(host: str, _: int) -> trio.SocketStream:
        sock = trio.socket.socket()
        await sock.bind((host, port))
        await sock.connect((host, port))
        assert sock.getsockname() == sock.getpeername()
        return trio.SocketStream(sock)

    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    return port


def is_free(port: int) -> bool:
    """Tell whether a server can listen on a port."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
        return True


async def test_a_tracker_that_is_away_finds_its_port_free_when_it_comes(own_port: int) -> None:
    async with TrackerClient(f"http://127.0.0.1:{own_port}", timeout_s=5) as client:
        with pytest.raises(TrackerUnreachable, match="refused"):
            await client.health()
    assert is_free(own_port)


async def test_a_cache_that_is_away_finds_its_port_free_when_it_comes(own_port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        await links.connect("127.0.0.1", own_port)
    assert is_free(own_port)
