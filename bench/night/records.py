"""What is kept of nights, as JSON. Pure.

Times are seconds after the beginning of a night, sizes bytes, "copies" multiples of what all titles have together.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bench.night.topology import NightTopology, Span
from bench.swarm.records import Surroundings
from p2pfill.bench.measure import Load

FRAME_BYTES: Final = 66
"""The headers of a TCP segment: Ethernet 14, IPv4 20, TCP 32 with its timestamps. What an interface has carried beyond
these, for each of its packets, is at least what all connections had in them."""


class Outside(msgspec.Struct):
    """What an interface carried while its cache was closed."""

    seconds: float = 0.0
    """Watched, from `GRACE_S` after the end of a window on."""
    bytes_in: int = 0
    packets_in: int = 0
    bytes_out: int = 0
    """To other caches, and to viewers."""

    @property
    def content_in(self) -> int:
        """What came in without headers: whatever it says, payload of titles or not."""
        return max(0, self.bytes_in - FRAME_BYTES * self.packets_in)


class CacheNight(msgspec.Struct):
    """One cache in one night."""

    isp: str
    region: str
    windows: list[Span]
    live_s: dict[str, float]
    """Title -> when it was live; those that were not are not in it."""
    bytes_in: int
    bytes_out: int
    outside: Outside
    course: list[tuple[float, int]] = []
    """(seconds, bytes that have come in)."""


class Copies(msgspec.Struct):
    """How often what all titles have together has gone somewhere: by the caches' own count, and by interfaces."""

    payload: float
    wire: float
    """With headers, control traffic and what came in vain."""


class Night(msgspec.Struct):
    """One night."""

    failed: str = ""
    """Why it did not come to its end; the rest is then empty."""
    caches: dict[str, CacheNight] = {}
    ordered_s: dict[str, float] = {}
    origin: Copies = msgspec.field(default_factory=lambda: Copies(0.0, 0.0))
    """Out of the origin."""
    isps: dict[str, Copies] = {}
    """Into each ISP."""
    tiers: dict[str, int] = {}
    """Tier -> payload that came to all caches, as the tracker's report of the night has it."""
    duplicate: int = 0
    escalations: dict[str, int] = {}
    viewers_bytes: int = 0
    """That reached the viewers."""
    viewers_s: float = 0.0
    """Within which."""
    user_s: float = 0.0
    """Processor seconds of all processes of the night."""
    system_s: float = 0.0
    load: Load | None = None
    """Of the whole machine, others included."""
    load_average: float = 0.0
    """Of the minute before the night began."""


class NightsReport(msgspec.Struct):
    """All nights on one topology."""

    topology: NightTopology
    surroundings: Surroundings
    nights: list[Night]
    """In the order in which they ran; the course is that of one of them."""
