"""Connecting to a process that may not be there, and may be of this machine."""

from __future__ import annotations

import errno
import os
import socket
import struct

import trio

_AT_ONCE = struct.pack("@ii", 1, 0)
"""For SO_LINGER: nothing is left of the connection."""


async def open_stream(host: str, port: int) -> trio.SocketStream:
    """Connect to a port. Raises `OSError`, and what Trio raises of names and ports that are none.

    Where nobody listens on a port of this machine from which the kernel takes those of outgoing connections, it may
    take just that one. Then the two ends of the connection are one socket, which hears itself. Whoever tries for long
    enough meets this, and the port would be taken for a minute afterwards, by whom it was waited for above all.
    """
    stream = await trio.open_tcp_stream(host, port)
    if _hears_itself(stream.socket):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        stream.socket.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return stream


def _hears_itself(sock: trio.socket.SocketType) -> bool:
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # the other side has gone already, so it is another one
        return False
