"""Viewers of one cache: they ask for objects at random times, at a mean rate, and note how long each one took.

    python -m bench.viewers URL --objects 64 --rate 100 --seconds 10

Times count from when a request was due, not from when a connection was free for it, so that one that waited behind a
slow one is as late as its viewer finds it. Prints one JSON object: requests that were due, answers, bytes, and the
latencies in seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
from queue import SimpleQueue
from typing import Final
from urllib.parse import urlsplit

CONNECTIONS: Final = 24
"""More than are busy at once while the link keeps up."""

READ_BYTES: Final = 256 * 1024

TIMEOUT_S: Final = 30.0


def view(url: str, objects: int, rate: float, seconds: float) -> dict[str, object]:
    """Ask for `objects` numbered files below `url`, `rate` a second on average, and return what was measured."""
    parts, chance = urlsplit(url), random.Random(1)
    due: SimpleQueue[float | None] = SimpleQueue()
    took: list[float] = []
    received = [0] * CONNECTIONS
    began = time.monotonic()

    def run(number: int) -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        while (at := due.get()) is not None:
            connection.request("GET", f"{parts.path}/{chance.randrange(objects)}")
            answer = connection.getresponse()
            while piece := answer.read(READ_BYTES):
                if time.monotonic() < began + seconds:
                    received[number] += len(piece)
            took.append(time.monotonic() - at)
        connection.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    at = began
    count = 0
    while (at := at + chance.expovariate(rate)) < began + seconds:
        time.sleep(max(0.0, at - time.monotonic()))
        due.put(at)
        count += 1
    for _ in threads:
        due.put(None)
    for thread in threads:
        thread.join(TIMEOUT_S)
    return {"due": count, "answered": len(took), "bytes": sum(received), "seconds": seconds, "took_s": took}


def main() -> None:
    """Parse the command line and print what was measured."""
    parser = argparse.ArgumentParser(description="Viewers of one cache")
    parser.add_argument("url")
    parser.add_argument("--objects", type=int, default=64)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    json.dump(view(options.url, options.objects, options.rate, options.seconds), sys.stdout)


if __name__ == "__main__":
    main()
