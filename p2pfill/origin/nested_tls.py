"""TLS with an origin through a proxy that is spoken to under TLS itself.

`ssl` puts TLS on a socket only, and the second one would go past the first to the bare descriptor. So this one works in
memory, and what it wants to send and to read goes through the socket of the first.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_FEED_BYTES: Final = 64 * 1024
"""What is taken of the outer connection at a time: a few records."""


class NestedTls:
    """What `wire.Wire` needs of a socket, for a connection to `host` inside of `outer`. Raises what a socket raises."""

    def __init__(self, outer: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        self._outer = outer
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)
        try:
            self._drive(self._tls.do_handshake)
        except ssl.SSLError:
            with suppress(OSError):
                self._flush()  # it says what is wrong
            raise

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Put what comes next into a buffer and return how much it is; nothing at the end."""
        view = memoryview(buffer)
        count = 0

        def read() -> None:
            nonlocal count
            count = int(self._tls.read(len(view), view))

        try:
            self._drive(read)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0
        return count

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        left = memoryview(data)

        def write() -> None:
            nonlocal left
            while left:
                left = left[self._tls.write(left) :]

        self._drive(write)

    def settimeout(self, wait_s: float) -> None:
        """Limit how long one call takes, in seconds."""
        self._outer.settimeout(wait_s)

    def fileno(self) -> int:
        """Return the descriptor below."""
        return self._outer.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._outer.close()

    def _drive(self, step: Callable[[], object]) -> None:
        """Make a step, with as much of what the other side sends as it takes. Raises `TimeoutError`, `OSError`."""
        # Over all: bytes that make no record would hold the thread as long as they come.
        until = time.monotonic() + (self._outer.gettimeout() or 0.0)
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._outer.recv(_FEED_BYTES)
                if data:
                    self._received.write(data)
                else:
                    self._received.write_eof()
                if time.monotonic() > until:
                    raise TimeoutError from None
                continue
            self._flush()
            return

    def _flush(self) -> None:
        if data := self._to_send.read():
            self._outer.sendall(data)
