"""A budget: who of many may move how many bytes now, so that all together keep to a rate. Pure: `now` is an argument.

Each tier has a token bucket, and all tiers together have one. Whoever is to move bytes makes a `Claim` and takes a
small quantum at a time. Where there is none to be had the claim waits, and is woken with its quantum when its turn
comes: so what is moved is shared by those who wait, not by those who happen to look first.

Whose turn it is: the more urgent title first; of equals the one that has waited longest, so they take turns; but reads
of an origin in the order in which they were begun, since a chunk that comes whole is of use and eight halves are not.
How urgent it is counts as of when it began to wait. Nobody waits for longer than `STARVED_S`: the remote of a stream
that stands still takes it for dead. A tier that has used up its own budget holds up no other tier.

Invariant: over any t seconds no more is granted, less what is given back, than `rate * t + burst`, for each bucket.
Whoever is granted something takes it as soon as it is woken.

Rejected: tokens that a stream looks for again at a time. At each of those all would look, the first would take all, and
neither urgency nor turns would mean anything.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final, NamedTuple

from p2pfill.errors import InternalError
from p2pfill.model.rates import TIERS, Rates
from p2pfill.model.urgency import Urgency

BURST_S: Final = 0.1
"""So many seconds' worth may be moved at once by those who were late: threads are, on a busy machine, by tens of
milliseconds. It is a hundredth of the ten seconds over which a rate is averaged."""

QUANTUM_S: Final = 0.01
"""What is taken at a time, in seconds at the rate: small beside the burst, so that many streams take turns in it."""

QUANTUM_MIN_BYTES: Final = 4096
"""A call of the system for less would cost more than it moves."""

QUANTUM_MAX_BYTES: Final = 1024 * 1024
"""Above 100 MB/s each takes so much at a time, and a thousand turns a second are enough."""

STARVED_S: Final = 5.0
"""Who has waited for so long goes before all others, once: well below `timing.PROGRESS_TIMEOUT_S`."""


KEPT_BESIDE: Final = 64
"""Places that those who have left it early may have in a line besides as many as wait: then it is cleared of them."""


class Bucket:
    """Tokens that grow at `rate` bytes a second, up to a burst; a rate of 0 is no limit."""

    def __init__(self) -> None:
        self.rate = 0
        self.quantum = QUANTUM_MAX_BYTES
        self._tokens = self._burst = 0.0
        self._at = 0.0

    def set_rate(self, now: float, rate: int) -> None:
        """Let tokens grow at another rate from now on. A bucket that had no limit begins empty."""
        self.refill(now)
        self.rate = rate
        self.quantum = QUANTUM_MAX_BYTES
        if rate:
            self.quantum = int(min(max(rate * QUANTUM_S, QUANTUM_MIN_BYTES), QUANTUM_MAX_BYTES))
        self._burst = max(rate * BURST_S, self.quantum)
        self._tokens = min(self._tokens, self._burst)

    @property
    def burst(self) -> float:
        """How many bytes may be taken at once after a pause."""
        return self._burst

    def refill(self, now: float) -> None:
        """Let tokens grow up to now. A clock that goes back gives none."""
        if self.rate:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now

    def lacks_s(self, count: int) -> float:
        """Return in how many seconds there will be `count` tokens; 0 where they are there."""
        return max(0.0, (count - self._tokens) / self.rate) if self.rate else 0.0

    def add(self, count: int) -> None:
        """Give `count` tokens back, or take them where it is negative."""
        if self.rate:
            self._tokens = min(self._burst, self._tokens + count)


class Claim:
    """One that moves bytes of a tier: a data stream, or one part of a read of an origin."""

    __slots__ = (
        "granted", "has_left", "number", "since", "tier", "urgency", "waits", "wake", "wanted", "was_held_back",
    )  # fmt: skip

    def __init__(
        self, tier: str, urgency: Callable[[], Urgency], wake: Callable[[], object], number: int | None = None
    ) -> None:
        """`wake` is called, in any thread, when bytes may be moved that had to wait.

        Claims with a `number` go in the order of that, before those of their like that have none.
        """
        self.tier = tier
        self.urgency = urgency
        self.wake = wake
        self.number = number
        self.wanted = 0
        self.granted = 0
        """What it may move and has not been told of yet."""
        self.since = 0.0
        self.waits = False
        """It is in the queue."""
        self.has_left = False
        """It is over."""
        self.was_held_back = False
        """It has waited since somebody has looked, and has set this to False."""


class _Place(NamedTuple):
    """Where a claim stands in the line of its tier: the least goes first."""

    urgency: Urgency
    number: int
    """The claim's, or `arrival`."""
    arrival: int
    claim: Claim


class _Line:
    """The claims of one tier that wait: by arrival for those that starve, and as a heap for all others.

    However many wait, a turn costs a few comparisons. A place that was left early stays in the heap until it comes up.
    """

    def __init__(self) -> None:
        self.waiting: dict[Claim, _Place] = {}
        """In order of arrival."""
        self.heap: list[_Place] = []

    def add(self, place: _Place) -> None:
        self.waiting[place.claim] = place
        heapq.heappush(self.heap, place)

    def remove(self, claim: Claim) -> bool:
        """Take a claim out; False where it does not stand here."""
        if self.waiting.pop(claim, None) is None:
            return False
        if len(self.heap) > 2 * len(self.waiting) + KEPT_BESIDE:
            self.heap = list(self.waiting.values())
            heapq.heapify(self.heap)
        return True

    def first(self, now: float) -> tuple[bool, _Place] | None:
        """Return whether nobody starves, and whose turn it is; None where nobody waits."""
        if not self.waiting:
            return None
        oldest = next(iter(self.waiting.values()))
        if now >= oldest.claim.since + STARVED_S:
            return False, oldest._replace(urgency=Urgency(), number=oldest.arrival)
        while self.waiting.get(self.heap[0].claim) is not self.heap[0]:
            heapq.heappop(self.heap)
        return True, self.heap[0]


class Budget:
    """What may be moved in one direction. Its callers hold a lock."""

    def __init__(self) -> None:
        self.rates = Rates()
        self.total = Bucket()
        self.tiers = {tier: Bucket() for tier in TIERS}
        self._lines = {tier: _Line() for tier in TIERS}
        self._arrivals = itertools.count()

    def set_rates(self, now: float, rates: Rates) -> None:
        """Keep to other rates from now on; `pour` then, since some may not have to wait any more."""
        self.rates = rates
        self.total.set_rate(now, rates.total)
        for tier, bucket in self.tiers.items():
            bucket.set_rate(now, getattr(rates, tier))

    def tightest(self, tier: str) -> int:
        """Return the lowest rate that holds for a tier; 0 for none."""
        rates = [rate for rate in (self.rates.total, self.tiers[tier].rate) if rate]
        return min(rates, default=0)

    def take(self, now: float, claim: Claim, wanted: int) -> tuple[int, list[Claim]]:
        """Return how many of `wanted` bytes (at least 1) may be moved now, and others whose turn has come.

        0: the claim waits, and will be among those whose turn has come; then it takes again.
        """
        if claim.has_left:
            return 0, []  # it ended while a thread was on the way here, and nobody would take what it is given
        if not claim.waits and not claim.granted:
            arrival = next(self._arrivals)
            number = arrival if claim.number is None else claim.number
            # Before anything is noted, since it is asked of another, whose fault would else be everybody's.
            self._lines[claim.tier].add(_Place(claim.urgency(), number, arrival, claim))
            claim.wanted, claim.waits, claim.since = wanted, True, now
            woken, _ = self.pour(now)
        else:
            woken = []
        count, claim.granted = claim.granted, 0
        if count > wanted:
            self.give_back(claim, count - wanted)
            count = wanted
        claim.was_held_back = claim.was_held_back or claim.waits
        return count, [one for one in woken if one is not claim]

    def give_back(self, claim: Claim, count: int) -> None:
        """Take back what was not moved."""
        self.total.add(count)
        self.tiers[claim.tier].add(count)

    def leave(self, claim: Claim) -> None:
        """Have a claim wait no more, now or later, and take back what it was given."""
        claim.has_left = True
        if self._lines[claim.tier].remove(claim):
            claim.waits = False
        if claim.granted:
            count, claim.granted = claim.granted, 0
            self.give_back(claim, count)

    def pour(self, now: float) -> tuple[list[Claim], float]:
        """Give those who wait what there is; return whose turn has come, and when to look again (infinite: never)."""
        turns: list[Claim] = []
        again_at = float("inf")
        lines = {tier: line for tier, line in self._lines.items() if line.waiting}
        if lines:
            for bucket in (self.total, *self.tiers.values()):
                bucket.refill(now)
        while firsts := [first for line in lines.values() if (first := line.first(now)) is not None]:
            claim = min(firsts)[1].claim
            tier = self.tiers[claim.tier]
            need = min(claim.wanted, self.total.quantum, tier.quantum)
            lacks_s = max(tier.lacks_s(need), self.total.lacks_s(need))
            if not lacks_s:
                self._grant(claim, need)
                turns.append(claim)
                continue
            again_at = min(again_at, now + lacks_s)
            # Those behind it of its tier, or of all, would take what it waits for.
            if self.total.lacks_s(need):
                break
            del lines[claim.tier]
        return turns, again_at

    def _grant(self, claim: Claim, count: int) -> None:
        self.total.add(-count)
        self.tiers[claim.tier].add(-count)
        self._lines[claim.tier].remove(claim)
        claim.granted, claim.waits = count, False

    @property
    def kept(self) -> int:
        """How many places are in memory, those of claims that wait no more among them."""
        return sum(len(line.heap) for line in self._lines.values())

    def check(self) -> None:
        """Raise `InternalError` where somebody stands in line who does not wait: for tests."""
        if not all(claim.waits and not claim.granted for line in self._lines.values() for claim in line.waiting):
            raise InternalError("budget: a claim stands in line and does not wait")
