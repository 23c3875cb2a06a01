"""What a fill knows of one source: what it holds, how fast it is, what it owes, and whether it is trusted now."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.node import NodeInfo
from p2pfill.model.timing import PROGRESS_S
from p2pfill.swarm.election import IN_ISP, IN_ORIGIN, Scope

WINDOW_MIN: Final = 3
"""For a cache, which sends one chunk after the other: one on the wire and two behind it, so that it never waits for a
request, also where queues at full links delay each message as much as a chunk."""

ORIGIN_REQUESTS: Final = 8
"""All caches of a fill together keep about so many requests outstanding at an origin, each at least one: enough to be
busy with while it works on an answer. It sends side by side what it is asked for, so each further request makes all of
them later, chunks come in bursts, and the links of the caches idle in between. See docs/experiments.md, "Requests at an
origin"."""

CATCH_UP_CHUNKS: Final = 2
"""A cache that is so many chunks behind the others of its ISP with its share of the origin keeps one more request
there. Each is a TCP stream, and streams that compete for one link for a whole fill get unequal parts of it. See
docs/experiments.md, "Requests at an origin"."""

WINDOW_MAX: Final = 8
"""More would only lengthen a source's queue, where a chunk cannot be given to anyone else."""

QUEUE_S: Final = 0.05
"""Requests are kept outstanding for this much of a source's measured rate: several times the delay of a national
network, little against the time in which it matters what waits where. No more than `moves.AHEAD_S`, so that what a fast
source is about to send is not taken for a line. See docs/experiments.md, "Requests"."""

RATE_WEIGHT: Final = 0.2
"""Weight of the newest sample in a source's smoothed rate: about the last ten count."""

SAMPLE_S: Final = 0.02
"""The least time that a sample of the rate covers: chunks that come side by side arrive at almost one moment."""

SLOW: Final = 5.0
"""A source this many times slower than others like it, by what each claims to be able to upload, is not what it claims.
Sources that are alike differ by up to three, by what else they are sending."""

SLOW_S: Final = 2.0
"""How long it must have been so: a machine that is held up for a second is not a slow one."""

LEAST_RATE_BYTES_S: Final = 64 * 1024
"""A source that gives less than this for longer than the usual wait is left alone where what it owes can be had from
another one that is not known to be slower still. Half a megabit a second: less than any cache in operation has, and a
title of 10 GiB would take two days."""

NEVER: Final = float("inf")

HELD_BACK_S: Final = 2.25 * PROGRESS_S
"""A source counts as held back for so long: it is said each `PROGRESS_S`, and may be late."""

LESS_SLOW: Final = 2.0
"""Of sources that are all slower than that, one is left for another that is so many times faster."""

SLOW_OTHERS_MIN: Final = 2
"""Sources to compare with; of two nobody knows which of them is unusual."""


@dataclass(slots=True)
class Request:
    """One chunk asked of one source."""

    number: int
    source: str
    chunk: int
    asked_at: float
    borders: Scope
    """How far out this request goes."""


@dataclass(slots=True, eq=False)
class Source:
    """A cache or an origin. `scope` is the smallest group that holds both it and this cache."""

    id: str
    scope: Scope
    holdings: Bitmap
    since: float
    weight: float = 1.0
    """What it claims to be able to upload, relative to other caches."""
    requests: dict[int, Request] = field(default_factory=dict)
    progress_at: float = 0.0
    """When it last delivered or announced anything."""
    delivered_at: float = 0.0
    rate_bytes_s: float = 0.0
    sample_bytes: int = 0
    """Delivered since the last sample of the rate."""
    sample_s: float = 0.0
    """Time for which something was outstanding since the last sample."""
    bytes_kept: int = 0
    faults: int = 0
    barred_until: float = 0.0
    """Not asked for anything before this time."""
    barred_reason: str = ""
    last_rate: float = 0.0
    """The latest sample of the rate."""
    slow_since: float = float("inf")
    """Since when it has been much slower than others like it; see `find_slow`."""
    crawls_since: float = float("inf")
    """Since when it has given less than `LEAST_RATE_BYTES_S`; see `find_crawling`."""
    is_slow: bool = False
    """It is barred for being slow, not for any harm."""
    was_slow: bool = False
    """It was barred for that, and has not shown since that it is faster: it gets one request at a time."""
    held_back_at: float = float("-inf")
    """When what it sends waited last for this cache's own limits."""
    fault_reason: str = ""
    """What it did wrong last; empty once it has delivered since."""
    is_failing: bool = False
    """An origin that is asked again and again in vain."""
    cost: float = 0.0
    """Money for a gigabyte of an origin, in whatever currency; only which costs more counts."""
    route_cost: float = 0.0
    """What a byte of a cache costs by its route: decides between those of one scope that have equally little to do."""
    has_range: bool = True
    """False of an origin that answers each request with a whole file."""
    quarantined: bool = False
    """What it sent was not the title's; it stays barred for that also when its link is made anew."""
    counted: bool = True
    """Its holdings count as available; not while it is barred."""
    origin_window: int = 1
    """Requests to keep outstanding at an origin; see `origin_window`."""
    interest: Bitmap | None = None
    """What it needs news of; None for everything."""
    shown: Bitmap | None = None
    """What it was told that we need news of; None before it was told anything."""
    node: NodeInfo | None = None
    """What is known of a cache; None of an origin."""
    answers_at: float = 0.0
    """Until then it may yet answer what it was shown last; 0 once it has."""

    def window(self, chunk_size: int) -> int:
        """Return how many requests to keep outstanding here; at a cache that goes by its rate."""
        if self.scope == IN_ORIGIN:
            return self.origin_window
        if self.was_slow:
            return 1
        window = 1 + int(self.rate_bytes_s * QUEUE_S / chunk_size)
        return WINDOW_MIN if window < WINDOW_MIN else min(WINDOW_MAX, window)

    def room(self, chunk_size: int) -> int:
        """Return how many more requests it may be given now."""
        if self.scope == IN_ORIGIN:
            window = self.origin_window
        elif self.was_slow:
            window = 1
        else:  # as `window`, without a call: asked with each message
            window = 1 + int(self.rate_bytes_s * QUEUE_S / chunk_size)
            window = WINDOW_MIN if window < WINDOW_MIN else WINDOW_MAX if window > WINDOW_MAX else window
        return window - len(self.requests)

    @property
    def asked_at(self) -> float:
        """When the oldest of what is outstanding here was asked for; infinite where nothing is."""
        for request in self.requests.values():  # in the order in which they were made
            return request.asked_at
        return NEVER

    def is_held_back(self, now: float) -> bool:
        """Tell whether this cache's own limits decide how fast it is."""
        return now < self.held_back_at + HELD_BACK_S

    def load(self) -> float:
        """Return what is outstanding here relative to its speed; the least is the best to ask."""
        return len(self.requests) / (self.rate_bytes_s or 1.0)

    def note_delivery(self, now: float, request: Request, length: int) -> None:
        """Count a delivered chunk of `length` bytes into rate, window and totals."""
        self.sample_bytes += length
        self.sample_s += now - max(request.asked_at, self.delivered_at)
        if self.sample_s >= SAMPLE_S or not self.rate_bytes_s:
            sample = self.last_rate = self.sample_bytes / max(self.sample_s, SAMPLE_S)
            self.rate_bytes_s += (sample - self.rate_bytes_s) * (RATE_WEIGHT if self.rate_bytes_s else 1.0)
            self.sample_bytes, self.sample_s = 0, 0.0
            self.was_slow = self.was_slow and sample < LEAST_RATE_BYTES_S
        self.count(now, length)

    def count(self, now: float, length: int) -> None:
        """Count a delivered chunk of `length` bytes into the totals alone: when it came says nothing of the source."""
        self.delivered_at = self.progress_at = now
        self.bytes_kept += length

    def wait_anew(self, now: float) -> None:
        """Measure from now on how long what is outstanding takes, and whether it is slow."""
        self.slow_since = self.crawls_since = float("inf")
        for request in self.requests.values():
            request.asked_at = now

    def learn(self, before: Source, now: float) -> None:
        """Take over what was learnt over a link that has ended, but for what may have been that link's fault."""
        self.bytes_kept = before.bytes_kept
        self.rate_bytes_s, self.last_rate = before.rate_bytes_s, before.last_rate
        self.was_slow, self.faults, self.fault_reason = before.was_slow, before.faults, before.fault_reason
        if before.barred_reason and not before.counted and now < before.barred_until:
            self.barred_until, self.barred_reason = before.barred_until, before.barred_reason
            self.quarantined, self.is_slow, self.counted = before.quarantined, before.is_slow, False

    def pace(self, now: float, chunk_size: int) -> float:
        """Return the bytes per second that it delivers, or at most can be delivering, for each unit of its weight.

        0 where nothing is known.
        """
        pace = self.last_rate
        if self.requests:
            waited_s = now - max(self.asked_at, self.delivered_at)
            possible = chunk_size / max(waited_s, 1e-3)
            pace = min(pace, possible) if pace else possible
        return pace / self.weight


def origin_window(share: float, behind: float = 0.0) -> int:
    """Return how many requests a cache keeps outstanding at an origin from which it fetches `share` of a title.

    `behind` is by how many chunks others of its ISP are ahead of it with theirs.
    """
    return max(1, round(ORIGIN_REQUESTS * share)) + (behind >= CATCH_UP_CHUNKS)


def cheapest(ready: Iterable[Source], sources: Iterable[Source]) -> list[Source]:
    """Return which origins among those that are `ready` may be asked, by what they cost.

    They are the cheapest that work, and cheaper ones that do not: those are tried again, at the pace of a source that
    fails. One that is barred, since it is silent or slow, does not work. Where none works all are tried.
    """
    costs = [
        source.cost
        for source in sources
        if source.scope == Scope.ORIGIN
        if not (source.barred_reason or source.fault_reason or source.is_failing)
    ]
    dearest = min(costs, default=float("inf"))
    return [source for source in ready if source.cost <= dearest]


def find_slow(sources: Iterable[Source], now: float, chunk_size: int) -> list[Source]:
    """Return the caches that owe something and have been slow beside the others for `SLOW_S`. To be called each tick.

    One of the ISP is compared with all caches, one from beyond with those that are as far: borders may be narrow.
    Where all are slow together, nobody is.
    """
    paces = {}
    for source in sources:
        if source.is_held_back(now):
            source.slow_since = float("inf")
        elif source.scope != Scope.ORIGIN and not source.barred_reason:
            paces[source] = source.pace(now, chunk_size)
    # Over all, itself included: the median of three or more hardly changes, and one sort serves everybody.
    usual: dict[Scope, float] = {}
    for source, pace in paces.items():
        scope = source.scope if source.scope > IN_ISP else IN_ISP
        # One from which nothing comes at all is silent, which is another fault and takes longer to be sure of.
        is_slow = bool(source.requests) and source.progress_at + SLOW_S > now
        if is_slow and scope not in usual:
            known = [other_pace for other, other_pace in paces.items() if other_pace and scope in (IN_ISP, other.scope)]
            usual[scope] = median(known) if len(known) > SLOW_OTHERS_MIN else 0.0
        is_slow = is_slow and pace * SLOW < usual[scope]
        source.slow_since = min(source.slow_since, now) if is_slow else float("inf")
    return [source for source in paces if now >= source.slow_since + SLOW_S]


def find_crawling(sources: Collection[Source], now: float, chunk_size: int, wait_s: float) -> list[Source]:
    """Return the sources that have given less than `LEAST_RATE_BYTES_S` for `wait_s`, where others may be faster.

    Those must have what it owes, and not be known to be as slow. An origin is left for other origins only: what caches
    have of what it owes is moved by itself (`swarm.moves`). To be called each tick.
    """

    def rate(source: Source) -> float:
        return source.pace(now, chunk_size) * source.weight

    found = []
    for source in sources:
        # One from which nothing comes at all is silent, see `find_slow`.
        # One that is left alone for a moment, since it says that it is busy, owes the rest all the same.
        is_moving = bool(source.requests) and source.progress_at > source.asked_at and not source.is_held_back(now)
        if not is_moving or not 0 < rate(source) < LEAST_RATE_BYTES_S:
            source.crawls_since = float("inf")
            continue
        source.crawls_since = min(source.crawls_since, now)
        if now < source.crawls_since + wait_s:
            continue
        rates = {other: rate(other) for other in sources if not other.barred_reason}
        others = [
            other
            for other, known in rates.items()
            # Of one that was never asked nothing is known.
            if other is not source and (not known or known > LESS_SLOW * rate(source))
            if source.scope != Scope.ORIGIN or other.scope == Scope.ORIGIN
        ]
        if all(any(other.holdings[request.chunk] for other in others) for request in source.requests.values()):
            found.append(source)
    return found
