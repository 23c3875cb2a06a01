"""The receive buffer of a stream in background mode: as large as its rate needs (`scavenger.window`), and no larger.

It only grows. The kernel drops what has come beyond a buffer that is made smaller, though the remote was free to send
it. Where the system does not allow as much as is needed (net.core.rmem_max) the kernel is left to size the buffer, as
it does without background mode: a far source would be slow for good. To hand it back takes Linux 5.16 (SO_BUF_LOCK),
so on an older one the buffer is left alone from the beginning.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Final

import trio

from p2pfill.transport.scavenger import window

SO_BUF_LOCK: Final = 72
"""Of Linux; Python has no name for it. Which buffers were given a size: a 0 has the kernel size both again."""

_UNLOCKED: Final = 0

_MIN_RTT: Final = struct.Struct("@I")
_MIN_RTT_AT: Final = 148
"""Where `struct tcp_info` has `tcpi_min_rtt`, microseconds."""


class ReceiveBuffer:
    """That of one connected TCP socket. Of any other it does nothing."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock
        self._window_bytes = 0
        """What it has room for; 0: the kernel sizes it."""
        self._is_left = False
        """The kernel sizes it for good."""

    def fit(self, rate: float) -> None:
        """Have room for what a reader of `rate`, bytes a second, needs. From any thread."""
        if self._is_left:
            return
        try:
            wanted = window(rate, self._round_trip_s())
            if wanted > self._window_bytes:
                self._resize(wanted)
                self._window_bytes = wanted
        except (OSError, struct.error):
            # It was closed meanwhile, is no TCP socket, or the kernel is too old to say or do it.
            self._is_left = True

    def _round_trip_s(self) -> float:
        """Return the least round trip. What the stream itself has in a queue on the way is not in it: from a longer one
        would follow a larger window, and from that a longer queue.
        """
        told = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT_AT + _MIN_RTT.size)
        (microseconds,) = _MIN_RTT.unpack_from(told, _MIN_RTT_AT)
        return float(microseconds) * 1e-6

    def _resize(self, wanted: int) -> None:
        self._sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)  # raises where it could not be handed back
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted)
        # The kernel takes twice as much, the half of it for its own books, and less where the system allows less.
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 2 * wanted:
            self._hand_back()
        elif self._window_bytes:
            # Of old, what the window may be does not follow a buffer that was given a size.
            with suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, wanted)

    def _hand_back(self) -> None:
        self._is_left = True
        self._sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, _UNLOCKED)
