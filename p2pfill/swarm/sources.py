"""What a fill knows of one source: what it holds, how fast it is, what it owes, and whether it is trusted now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope

WINDOW_MIN: Final = 2
"""One chunk on the wire and one behind it, so that a source never waits for a request."""

WINDOW_MAX: Final = 8
"""More would only lengthen a source's queue, where a chunk cannot be given to anyone else."""

QUEUE_S: Final = 0.05
"""Requests are kept outstanding for this much of a source's measured rate: several times the delay of a national
network, little against the time in which stealing matters."""

RATE_WEIGHT: Final = 0.2
"""Weight of the newest chunk in a source's smoothed rate: about the last ten chunks count."""


@dataclass(slots=True)
class Request:
    """One chunk asked of one source."""

    number: int
    source: str
    chunk: int
    asked_at: float
    borders: Scope
    """How far out this request goes."""


@dataclass(slots=True)
class Source:
    """A cache or an origin. `scope` is the smallest group that holds both it and this cache."""

    id: str
    scope: Scope
    holdings: Bitmap
    since: float
    requests: dict[int, Request] = field(default_factory=dict)
    progress_at: float = 0.0
    """When it last delivered or announced anything."""
    delivered_at: float = 0.0
    rate_bytes_s: float = 0.0
    bytes_kept: int = 0
    faults: int = 0
    barred_until: float = 0.0
    """Not asked for anything before this time."""
    barred_reason: str = ""
    quarantined: bool = False
    """What it sent was not the title's; it stays barred for that also when its link is made anew."""
    counted: bool = True
    """Its holdings count as available; not while it is barred."""
    interest: Bitmap | None = None
    """What it needs news of; None for everything."""
    shown: Bitmap | None = None
    """What it was told that we need news of; None for everything."""
    answers_at: float = 0.0
    """Until then it may yet tell what it holds of the chunks that are new in `shown`; 0 once it has."""

    def window(self, chunk_size: int) -> int:
        """Return how many requests to keep outstanding here, from its rate."""
        return min(WINDOW_MAX, max(WINDOW_MIN, 1 + int(self.rate_bytes_s * QUEUE_S / chunk_size)))

    def room(self, chunk_size: int) -> int:
        """Return how many more requests it may be given now."""
        return self.window(chunk_size) - len(self.requests)

    def load(self) -> float:
        """Return what is outstanding here relative to its speed; the least is the best to ask."""
        return len(self.requests) / (self.rate_bytes_s or 1.0)

    def note_delivery(self, now: float, request: Request, length: int) -> None:
        """Count a delivered chunk of `length` bytes into rate and totals."""
        elapsed = max(now - max(request.asked_at, self.delivered_at), 1e-6)
        sample = length / elapsed
        self.rate_bytes_s += (sample - self.rate_bytes_s) * (RATE_WEIGHT if self.rate_bytes_s else 1.0)
        self.delivered_at = self.progress_at = now
        self.bytes_kept += length
