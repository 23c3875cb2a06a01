"""`p2pfill node` or `p2pfill tracker` with samples taken inside: what only a process itself can tell.

    python -m bench.soak.watched SAMPLES.jsonl SECONDS COUNTS node|tracker ARGUMENTS...

Trio's own hook for instruments is called by its loop, so the command runs as it always does. Of the objects of p2pfill
that can be reached from the `Node`, or the tracker's `Service`, all containers are counted, under the name of class and
attribute, in one sample of COUNTS. The garbage is collected before each sample: what is only a cycle that waits for
that is no leak.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

import p2pfill.cli
from p2pfill.node.node import Node
from p2pfill.tracker.service import Service

CONTAINERS: Final = (dict, list, set, deque, OrderedDict, bytearray)
PLAIN: Final = frozenset({bytes, str, int, float, bool, type(None)})
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
DEPTH_MAX: Final = 4
"""Of containers in containers."""

KEPT: Final = frozenset(
    {
        "Feed._at", "Feed._gone", "Feed._titles", "NodeState.feed",  # `GONE_MAX` titles that went, of each node
        "_Open.rows", "_Open.titles", "_Open.caches",  # the report of the night: `ROWS_MAX`, `CACHES_MAX`
        "SignedBook._withdrawn", "SignedBook._numbers",  # `WITHDRAWALS_MAX`; a number for each name that was ordered
        "KeptOrders._titles", "KeptOrders._numbers",  # the same of a node: a file each
        "Service.withdrawn",  # that caches which come back have to delete; the database has it too
        "OriginCounts._totals", "OriginCounts._news", "NodeState.origins",  # `ORIGINS_COUNTED_MAX`
        "SeldomLog._logged_at",  # `KINDS_MAX`
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
    took_s: float
    """For this sample, of the loop's time."""


class Sampler(trio.abc.Instrument):
    """Takes a sample now and then, in the event loop's own time."""

    def __init__(self, path: Path, every_s: float, counts_every: int) -> None:
        self._path = path
        self._counts_every = counts_every
        self._every_s = every_s
        self._due_at = 0.0
        self._number = 0
        self._counts: Counter[str] = Counter()
        self.roots: list[object] = []

    def after_io_wait(self, timeout: float) -> None:
        """Take one where it is due. Nodes and trackers wake several times a second."""
        now = time.monotonic()
        if now < self._due_at:
            return
        self._due_at = now + self._every_s
        gc.collect()
        self._number += 1
        if self._number % self._counts_every == 1 % self._counts_every:
            self._counts = count_entries(self.roots)
        sockets, descriptors = count_descriptors()
        counts = self._counts
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
            took_s=time.monotonic() - now,
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
        kind = type(owner).__name__
        for name, value in attributes(owner):
            if type(value) in PLAIN:
                continue
            found: list[object] = []
            count = _look_into(value, found, 0)
            if isinstance(value, CONTAINERS):
                counts[f"{kind}.{name}"] += count
            for one in found:
                if id(one) not in seen:
                    seen.add(id(one))
                    waiting.append(one)
    return counts


def attributes(owner: object) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds by name."""
    yield from getattr(owner, "__dict__", {}).items()
    for name in _slots(type(owner)):
        with suppress(AttributeError):
            yield name, getattr(owner, name)


@cache
def _slots(kind: type) -> tuple[str, ...]:
    """Return the names of a class's slots, as they are looked up."""
    names = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__"):
                names.append(name)
            elif not name.endswith("__"):
                names.append(f"_{base.__name__.lstrip('_')}{name}")
    return tuple(names)


def _look_into(value: Any, found: list[object], depth: int) -> int:
    """Return how many entries a container has, with those of containers in it, and add what of p2pfill it holds."""
    if isinstance(value, bytearray):
        return len(value)
    if isinstance(value, CONTAINERS) or type(value) is tuple:
        count = len(value) if type(value) is not tuple else 0
        if depth < DEPTH_MAX:
            sides = (value.keys(), value.values()) if isinstance(value, Mapping) else (value,)
            for side in sides:
                # Of one kind as a rule: where the first is plain, so are all.
                if type(next(iter(side), None)) not in PLAIN:
                    count += sum(_look_into(one, found, depth + 1) for one in list(side))
        return count
    if isinstance(value, partial):
        return _look_into(getattr(value.func, "__self__", None), found, depth + 1)
    if type(value).__module__.startswith("p2pfill.") and not isinstance(value, msgspec.Struct | type):
        found.append(value)
    return 0


def main() -> int:
    """Be the command; see the top of this file."""
    path, every_s, counts_every, *command = sys.argv[1:]
    sampler = Sampler(Path(path), float(every_s), int(counts_every))
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
