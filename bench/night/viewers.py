"""Viewers: download files over and over, on some connections at a time, each at the rate at which it is watched.

    python -m bench.night.viewers STREAMS MBIT URL…

With 0 Mbit/s as fast as they come. Says when it is ready, and ends when its standard input does.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from typing import Final
from urllib.parse import urlsplit

PIECE_BYTES: Final = 64 * 1024
BUFFER_BYTES: Final = 256 * 1024
"""Of a socket: a player that has enough in its buffer reads no more, and the server waits."""
TIMEOUT_S: Final = 20.0
AGAIN_S: Final = 0.2
"""Before a download that failed is tried again."""


def watch(urls: list[str], rate_bytes_s: float) -> None:
    """Download one after the other, for ever."""
    while True:
        for url in urls:
            try:
                _download(url, rate_bytes_s)
            except (OSError, http.client.HTTPException) as error:
                print(f"{url}: {error}", file=sys.stderr, flush=True)
                time.sleep(AGAIN_S)


def _download(url: str, rate_bytes_s: float) -> None:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    try:
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        due = time.monotonic()
        while piece := answer.read(PIECE_BYTES):
            if rate_bytes_s:
                # What is late is made up for, up to what a buffer holds.
                due = max(due, time.monotonic() - BUFFER_BYTES / rate_bytes_s) + len(piece) / rate_bytes_s
                time.sleep(max(0.0, due - time.monotonic()))
    finally:
        connection.close()


def main() -> int:
    """Run as a process; see the top of this file."""
    streams, rate_bytes_s, urls = int(sys.argv[1]), float(sys.argv[2]) * 1e6 / 8, sys.argv[3:]
    for _ in range(streams):
        threading.Thread(target=watch, args=[urls, rate_bytes_s], daemon=True).start()
    print(json.dumps({"streams": streams}), flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
