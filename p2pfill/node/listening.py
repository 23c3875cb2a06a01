"""Listening sockets where descriptors may run out: whoever connects then waits, and the node stays.

The kernel keeps connections that are not accepted in the socket's queue, so a moment's wait loses none of them.
"""

from __future__ import annotations

import errno
import logging
from typing import Final

import trio

from p2pfill.store.descriptors import BUDGET

SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What accepting a connection answers where the process or the machine has no room for one."""
PAUSE_S: Final = 0.1
PAUSE_S_MAX: Final = 2.0
SAID_S: Final = 60.0
"""Between two lines in the log that say so."""


class PatientListener(trio.abc.Listener[trio.SocketStream]):
    """A listener that waits where there is no descriptor for a connection, after it has closed what files it can."""

    def __init__(self, listener: trio.SocketListener, log: logging.Logger) -> None:
        self.socket = listener.socket
        self._listener = listener
        self._log = log
        self._said_at = -SAID_S

    async def accept(self) -> trio.SocketStream:
        """Return the next connection."""
        pause_s = PAUSE_S
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in SHORT:
                    raise
                if trio.current_time() >= self._said_at + SAID_S:
                    self._said_at = trio.current_time()
                    self._log.warning(
                        "a connection has to wait: %s; raise the limit of descriptors (ulimit -n)", error.strerror
                    )
            await trio.to_thread.run_sync(BUDGET.relieve)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def aclose(self) -> None:
        """Close the socket."""
        await self._listener.aclose()


def say_limit(most: int, least: int, enough: int, log: logging.Logger) -> None:
    """Say how many descriptors there are, where they are few."""
    if most < least:
        log.warning(
            "this process may have %d open files, and %d is the least that is supported: raise its limit (ulimit -n)",
            most, least,
        )  # fmt: skip
    elif most < enough:
        log.warning(
            "this process may have %d open files: %d are for files of titles, and each linked cache takes up to 5; "
            "where they run out, titles and connections wait; with %d (ulimit -n) nothing does", most, BUDGET.most,
            enough,
        )  # fmt: skip
    else:
        log.info("this process may have %d open files: %d are for files of titles", most, BUDGET.most)
