"""Ports for servers that must know theirs before they listen, or listen on it again after a restart.

They are below those that the kernel gives to connections and to servers without a wish (32768 and up on Linux), so
nobody takes one between two servers of it. Each worker of pytest-xdist has a part of its own.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from typing import Final

FIRST: Final = 20_000
PART: Final = 1_500
"""Ports of one worker; the parts of eight workers end below 32768."""

_worker = (int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1").removeprefix("gw")) + 1) % 8
_numbers = itertools.count(random.randrange(PART))
"""By chance, since somebody may run tests by hand beside others."""


def free_port() -> int:
    """Return a port of the loopback address on which nobody listens; another one each time."""
    for number in itertools.islice(_numbers, PART):
        port = FIRST + _worker * PART + number % PART
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("there is no free port")
