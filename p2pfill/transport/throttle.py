"""The limits of a node: who has set them, and the budgets by which all threads keep to them.

Several owners put limits of their own (the configuration, a window, the tracker), and of each limit the tightest holds.
Where none is set nothing here is locked or counted, and no thread runs. Where one is, one thread wakes those whose turn
has come (`budget.Budget.pour`); the streams of the data plane are armed by it, and readers of origins wait in slices.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from p2pfill.errors import is_fault
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.model.urgency import Urgency
from p2pfill.threads import name_thread
from p2pfill.transport.budget import Budget, Claim

SLICE_S: Final = 0.05
"""How late a cancel may be noticed by a thread that waits for its turn."""

IDLE_S: Final = 1.0
"""The longest time between two looks at who waits: whoever has waited too long goes first."""

PAUSE_S: Final = 0.001
"""The shortest: a thread that looked more often would do nothing else on a slow machine."""

_log = logging.getLogger("p2pfill.transport")


class Direction:
    """What may come in, or go out. Callable from any thread."""

    def __init__(self, owner: Throttle) -> None:
        self._owner = owner
        self.budget = Budget()
        self.is_limited = False
        """Whether anything is limited; looked at before each slice, so it costs what a look costs."""

    def take(self, claim: Claim, wanted: int) -> int:
        """Return how many of `wanted` bytes may be moved now; 0: the claim waits, and is woken."""
        if not self.is_limited and not claim.waits and not claim.granted:
            return wanted
        with self._owner.changed:
            count, woken = self.budget.take(self._owner.clock(), claim, wanted)
            if not count:
                self._owner.changed.notify()
        for other in woken:
            other.wake()
        return count

    def give_back(self, claim: Claim, count: int) -> None:
        """Take back what was not moved."""
        if self.is_limited:
            with self._owner.changed:
                self.budget.give_back(claim, count)

    def leave(self, claim: Claim) -> None:
        """Have a claim wait no more, though a thread be on the way to `take`."""
        with self._owner.changed:
            self.budget.leave(claim)

    def wait(
        self, tier: str, urgency: Callable[[], Urgency], number: int, wanted: int, is_cancelled: Callable[[], bool]
    ) -> int:
        """Wait until bytes may be moved and return how many, 0 where cancelled. For threads that have nothing else."""
        if not self.is_limited:
            return wanted
        turn = threading.Event()
        claim = Claim(tier, urgency, turn.set, number)
        try:
            while not (count := self.take(claim, wanted)):
                turn.wait(SLICE_S)
                turn.clear()
                if is_cancelled():
                    return 0
            return count
        finally:
            self.leave(claim)


class Throttle:
    """The limits of one node."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.changed = threading.Condition()
        """Guards the budgets; notified where somebody has begun to wait, or limits have changed."""
        self.inbound = Direction(self)
        self.outbound = Direction(self)
        self.on_change: Callable[[], object] = lambda: None
        """Called, in the thread that has changed them, when other limits are in force."""
        self._owners: dict[str, RateLimits] = {}
        self._in_force = NO_LIMITS
        self._pacer: threading.Thread | None = None
        self._is_closed = False

    @property
    def in_force(self) -> RateLimits:
        """What holds now."""
        return self._in_force

    def put(self, owner: str, limits: RateLimits) -> bool:
        """Have `owner` limit the node so from now on; tells whether that changes what is in force. From any thread."""
        with self.changed:
            self._owners[owner] = limits
            in_force = NO_LIMITS
            for one in self._owners.values():
                in_force = in_force.within(one)
            if in_force == self._in_force:
                return False
            self._in_force = in_force
            now = self.clock()
            for direction, rates in ((self.inbound, in_force.inbound), (self.outbound, in_force.outbound)):
                direction.budget.set_rates(now, rates)
                direction.is_limited = rates != Rates()
            self._start()
            self.changed.notify()
        self.on_change()
        return True

    def _start(self) -> None:
        is_limited = self.inbound.is_limited or self.outbound.is_limited
        if is_limited and self._pacer is None and not self._is_closed:
            self._pacer = threading.Thread(target=self._pace, name="data-pace", daemon=True)
            self._pacer.start()

    def close(self) -> None:
        """End the thread; nobody is woken any more."""
        with self.changed:
            self._is_closed = True
            self.changed.notify()
        if self._pacer is not None:
            self._pacer.join()

    def _pace(self) -> None:
        name_thread()
        with self.changed:
            while not self._is_closed:
                now = self.clock()
                turns, again_at = self.inbound.budget.pour(now)
                others, other_at = self.outbound.budget.pour(now)
                turns += others
                if turns:
                    self.changed.release()
                    try:
                        _wake(turns)
                    finally:
                        self.changed.acquire()
                    continue
                self.changed.wait(min(max(min(again_at, other_at) - self.clock(), PAUSE_S), IDLE_S))


def _wake(claims: list[Claim]) -> None:
    for claim in claims:
        try:
            claim.wake()
        except BaseException as error:
            if not is_fault(error):
                raise
            # Without this thread nobody would be woken any more.
            _log.exception("a stream could not be woken; please report it")
