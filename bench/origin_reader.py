"""The process that `bench.origin_reads` measures; reads a title from an origin by whatever p2pfill is imported.

    python bench/origin_reader.py MANIFEST URL DATA READS

Prints what that cost as JSON. Run as a file, so that the p2pfill of another checkout can be measured by it.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import trio

from p2pfill.engine.requests import Outcome, Receive, RequestStep
from p2pfill.model.manifest import Manifest
from p2pfill.node.origins import Origins
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle


class Spent(msgspec.Struct, frozen=True):
    """What a read of all chunks has cost this process."""

    elapsed_s: float
    user_s: float
    system_s: float
    switches: int
    """Context switches, asked for and not."""


async def read_all(stored: StoredTitle, url: str, reads: int) -> Spent:
    """Read all chunks, so many at a time."""
    manifest = stored.manifest
    origins = Origins(stored, logging.getLogger())
    (name,) = origins.add([url])
    chunks = iter(range(manifest.chunk_count))
    limiter = trio.CapacityLimiter(reads)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(reads):
            nursery.start_soon(_read_some, origins, name, chunks, limiter)
    elapsed_s, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    origins.close()
    return Spent(
        elapsed_s,
        after.ru_utime - before.ru_utime,
        after.ru_stime - before.ru_stime,
        after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw,
    )


async def _read_some(origins: Origins, name: str, chunks: Iterator[int], limiter: trio.CapacityLimiter) -> None:
    stored = origins.stored
    for chunk in chunks:
        length, xxh3 = stored.manifest.chunk_length(chunk), stored.manifest.chunk_xxh3(chunk)
        receive = Receive(chunk, stored, chunk, length, xxh3, None, None, threading.RLock())
        receive.step(RequestStep.BEGIN)
        arrival = await trio.to_thread.run_sync(origins.read, name, receive, limiter=limiter)
        if arrival.outcome is not Outcome.VERIFIED:
            raise RuntimeError(f"chunk {chunk}: {arrival.outcome.value}: {arrival.fault}")


def main() -> int:
    """Run as a process; see the top of this file."""
    manifest, url, data, reads = sys.argv[1:]
    with Store.open(Path(data)) as store:
        stored = store.begin_fill(Manifest.decode(Path(manifest).read_bytes()))
        spent = trio.run(read_all, stored, url, int(reads))
    sys.stdout.buffer.write(msgspec.json.encode(spent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
