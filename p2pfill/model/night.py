"""What is known of a night in which caches filled, so that it can be gone through again: the tracker records it
(`tracker.nights`), and the simulator rebuilds it (`sim.rebuild`). Pure data.

Times are in seconds since the epoch, sizes in bytes, rates in bytes a second.
"""

from __future__ import annotations

import msgspec

from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import NO_LIMITS, RateLimits

Tiers = tuple[int, int, int]
"""Bytes from peers, from the region and the world, and from origins."""


class Span(msgspec.Struct, gc=False, omit_defaults=True):
    """A time in which something held, as the tracker was told of it."""

    opened_at: float
    closed_at: float = 0.0
    """0: it holds still."""
    soon_at: float = 0.0
    """Of a window: when its cache said that it opens in a moment; 0: it did not."""


class Busy(msgspec.Struct, frozen=True, gc=False):
    """How busy a cache was with its viewers from a moment on."""

    at: float
    busy: float
    """0 not at all, 1 had nothing to spare."""


class RecordedCache(msgspec.Struct, omit_defaults=True):
    """One cache in one night."""

    info: NodeInfo
    has_windows: bool = False
    windows: list[Span] = []
    """When it was open; without windows it always is."""
    away: list[Span] = []
    """When it was off: nothing was heard of it, and then of another process, or of none."""
    busy: list[Busy] = []
    """How busy it was with its viewers, where that has changed what it spared for other caches."""
    fastest_in: int = 0
    """The most that it has received between two heartbeats."""
    fastest_out: int = 0
    rates: RateLimits = NO_LIMITS
    """Its limits when it was last open, those of the fleet's policy among them."""


class RecordedTitle(msgspec.Struct, omit_defaults=True):
    """One title."""

    title: str
    name: str = ""
    """Empty where it was not in the catalogue."""
    size: int = 0
    chunk_size: int = 0
    held: dict[str, int] = {}
    """Cache -> what it had of the title, in bytes, when the night first heard of it; not all, where there are many. In
    a `RecordedNight` only of those that are in no `RecordedFill`."""
    origins: list[str] = []
    """Their URLs without queries; not all, where there are many."""


class RecordedFill(msgspec.Struct, omit_defaults=True):
    """One title in one cache that was to have it."""

    title: str
    node: str
    ordered_at: float = 0.0
    now: bool = False
    priority: int = 0
    deadline: float | None = None
    policy: FillPolicy = FillPolicy()
    had: int = 0
    """What was there before, or was reused of another version."""
    wanted: int = 0
    """What was to be there: less than the title where some of its files were ordered."""
    tiers: Tiers = (0, 0, 0)
    live_at: float = 0.0
    """0: it is not live."""
    rule: str = ""
    """Of the fleet's policy, that said last how far the cache may go; empty: none did, or nothing escalated."""


class RecordedNight(msgspec.Struct, omit_defaults=True):
    """One night."""

    night: str
    began_at: float
    last_at: float
    is_over: bool
    caches: list[RecordedCache] = []
    """Those that had to do with a title."""
    titles: list[RecordedTitle] = []
    fills: list[RecordedFill] = []
    left_out: Tiers = (0, 0, 0)
    """What came besides: for repairs, for what was withdrawn meanwhile, and to caches that are not kept one by one."""
