"""`p2pfill node` or `p2pfill tracker` with samples taken inside: what only a process itself can tell.

    python -m bench.soak.watched SAMPLES.jsonl SECONDS node|tracker ARGUMENTS...

Trio's own hook for instruments is called by its loop, so the command runs as it always does. Of the objects of p2pfill
that can be reached from the `Node`, or the tracker's `Service`, all containers are counted, under the name of class and
attribute. The garbage is collected before each sample: what is only a cycle that waits for that is no leak.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

import p2pfill.cli
from p2pfill.node.node import Node
from p2pfill.tracker.service import Service

CONTAINERS: Final = (dict, list, set, deque, OrderedDict, bytearray)
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
DEPTH_MAX: Final = 4
"""Of containers in containers."""

KEPT: Final = frozenset(
    {
        "Feed._at", "Feed._gone", "Feed._titles", "NodeState.feed",  # `GONE_MAX` titles that went, of each node
        "_Open.rows", "_Open.titles", "_Open.caches",  # the report of the night: `ROWS_MAX`, `CACHES_MAX`
        "Service.withdrawn",  # that caches which come back have to delete; the database has it too
        "OriginCounts._totals", "OriginCounts._news", "NodeState.origins",  # `ORIGINS_COUNTED_MAX`
        "LagMonitor._looks_us",  # of the last minute
    }
)  # fmt: skip
"""Containers that grow with titles that are gone, up to a limit of their own: no leaks, and told apart."""


class Inside(msgspec.Struct):
    """One sample."""

    at: float
    """Seconds of the machine's monotonic clock."""
    rss_bytes: int
    descriptors: int
    sockets: int
    threads: int
    tasks: int
    objects: int
    entries: dict[str, int]
    """But for those in `KEPT`."""
    kept: int


class Sampler(trio.abc.Instrument):
    """Takes a sample now and then, in the event loop's own time."""

    def __init__(self, path: Path, every_s: float) -> None:
        self._path = path
        self._every_s = every_s
        self._due_at = 0.0
        self.roots: list[object] = []

    def after_io_wait(self, timeout: float) -> None:
        """Take one where it is due. Nodes and trackers wake several times a second."""
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + self._every_s
        gc.collect()
        sockets, descriptors = count_descriptors()
        counts = count_entries(self.roots)
        sample = Inside(
            at=now,
            rss_bytes=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES,
            descriptors=descriptors,
            sockets=sockets,
            threads=len(os.listdir("/proc/self/task")),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            objects=len(gc.get_objects()),
            entries={key: count for key, count in counts.items() if key not in KEPT},
            kept=sum(counts[key] for key in KEPT),
        )
        with self._path.open("ab") as out:
            out.write(msgspec.json.encode(sample) + b"\n")


def count_descriptors() -> tuple[int, int]:
    """Return how many descriptors are sockets, and how many there are."""
    kinds = []
    for name in os.listdir("/proc/self/fd"):
        try:
            kinds.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # of the look itself
            continue
    return sum(kind.startswith("socket:") for kind in kinds), len(kinds)


def count_entries(roots: list[object]) -> Counter[str]:
    """Return class and attribute -> entries of the containers there, over all objects of p2pfill below some."""
    counts: Counter[str] = Counter()
    seen = set(map(id, roots))
    waiting = list(roots)
    while waiting:
        owner = waiting.pop()
        for name, value in attributes(owner):
            for found in _follow(value, counts, f"{type(owner).__name__}.{name}", 0):
                if id(found) not in seen:
                    seen.add(id(found))
                    waiting.append(found)
    return counts


def attributes(owner: object) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds by name."""
    yield from getattr(owner, "__dict__", {}).items()
    for kind in type(owner).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            spelled = f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") else name
            if not name.startswith("__") and hasattr(owner, spelled):
                yield name, getattr(owner, spelled)


def _follow(value: Any, counts: Counter[str], key: str, depth: int) -> Iterator[object]:
    """Count a container, and yield the objects of p2pfill that it holds, or is."""
    if isinstance(value, CONTAINERS):
        counts[key] += len(value)
        if depth < DEPTH_MAX and not isinstance(value, bytearray):
            inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else list(value)
            for one in inner:
                yield from _follow(one, counts, key, depth + 1)
    elif isinstance(value, tuple) and depth < DEPTH_MAX:
        for one in value:
            yield from _follow(one, counts, key, depth + 1)
    elif isinstance(value, partial):
        yield from _follow(getattr(value.func, "__self__", None), counts, key, depth + 1)
    elif type(value).__module__.startswith("p2pfill.") and not isinstance(value, msgspec.Struct | type):
        yield value


def main() -> int:
    """Be the command; see the top of this file."""
    path, every_s, *command = sys.argv[1:]
    sampler = Sampler(Path(path), float(every_s))
    for kind in (Node, Service):
        _note_made(kind, sampler.roots)
    trio.run = partial(trio.run, instruments=[sampler])
    return p2pfill.cli.main(command)


def _note_made(kind: type, made: list[object]) -> None:
    begin = kind.__init__  # type: ignore[misc]

    def note(self: object, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        made.append(self)

    kind.__init__ = note  # type: ignore[misc]


if __name__ == "__main__":
    sys.exit(main())
