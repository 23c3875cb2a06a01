"""What a contender is, and what is noted of each cache while it fills.

`measure` drives any contender alike: it starts the processes, lets it fill, plays the events, and reads counters and
clocks. A contender only knows how its processes are started, ordered to fill, and asked.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from bench.swarm.processes import Processes
from bench.swarm.topology import Topology

CURVE_POINTS_MAX: Final = 20_000
"""Of one cache: an hour at 5 Hz."""


class Course:
    """How the caches of one run get on. All times are seconds after the order."""

    def __init__(self, topology: Topology) -> None:
        self._began_at = 0.0
        self._waited = {host.name for host in topology.counted()}
        self.curves: dict[str, list[tuple[float, float]]] = {host.name: [(0.0, 0.0)] for host in topology.caches()}
        """Cache -> (seconds, part of the title that it has), whenever something has changed."""
        self.live_s: dict[str, float] = {}
        self.joined_s: dict[str, float] = {}
        self.begun = trio.Event()
        """Set when the order is given."""
        self.done = trio.Event()
        """Set when all caches that count have the title."""

    def begin(self) -> None:
        """Start the clock: the order to fill is given now."""
        self._began_at = time.time()
        self.begun.set()

    def elapsed_s(self, at: float | None = None) -> float:
        """Return the seconds from the order to now, or to a time of the system's clock."""
        return (time.time() if at is None else at) - self._began_at

    def note_joined(self, cache: str) -> None:
        """A late cache takes part from now on."""
        self.joined_s[cache] = self.elapsed_s()
        self.curves[cache] = [(self.elapsed_s(), 0.0)]

    def note_progress(self, cache: str, part: float) -> None:
        """A cache has this part of the title now."""
        curve = self.curves[cache]
        if part > curve[-1][1] and cache not in self.live_s and len(curve) < CURVE_POINTS_MAX:
            curve.append((self.elapsed_s(), part))

    def note_live(self, cache: str, at: float) -> None:
        """A cache has had the whole title, verified, since `at` (system's clock)."""
        if cache not in self.live_s:
            self.live_s[cache] = self.elapsed_s(at)
            self.curves[cache] = [point for point in self.curves[cache] if point[0] < self.live_s[cache]]
            self.curves[cache].append((self.live_s[cache], 1.0))
        if self._waited <= self.live_s.keys():
            self.done.set()

    def missing(self) -> list[str]:
        """Return the caches that are waited for and do not have the title."""
        return sorted(self._waited - self.live_s.keys())


@dataclass
class Payload:
    """What a contender says of the payload that it moved, in bytes."""

    origin: int = 0
    """Out of the origin."""
    tiers: dict[str, int] = field(default_factory=dict)
    """Tier -> received and kept; empty where the contender knows no tiers."""
    duplicate: int = 0
    """Received and of no use."""
    escalations: dict[str, int] = field(default_factory=dict)
    chunks: float = 0.0
    """So many chunks came to caches; 0 where the contender has none of a size of its own."""
    titles_s: dict[str, float] = field(default_factory=dict)
    """Where there were several titles: title -> seconds from its own order until all caches that count had it."""


class Contender(Protocol):
    """One way to fill the caches of a topology. Made anew for each run."""

    @staticmethod
    def missing() -> str:
        """Return why it cannot run here, or nothing."""

    @staticmethod
    def version() -> str:
        """Return what it is, for reports."""

    @staticmethod
    def prepare(source: Path, work: Path) -> Any:
        """Hash the title in directory `source` once for all runs; return what `__init__` takes as `title`."""

    def __init__(self, topology: Topology, processes: Processes, work: Path, title: Any) -> None: ...

    async def start(self) -> None:
        """Start the origin and all caches, and return when all could be ordered to fill; late ones only wait."""

    async def join(self, host: str, course: Course) -> None:
        """Let a late cache take part while the fill runs, and note when."""

    async def fill(self, course: Course) -> None:
        """Begin the course, order the fill, and note all progress until the course is done."""

    async def read_counts(self) -> dict[str, int]:
        """Return what its caches have counted so far, in all; nothing where they do not count."""

    def payload(self) -> Payload:
        """Return what was moved; after `fill`."""
