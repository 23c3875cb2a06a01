"""A limit on how much is done at a time, where waiters are let in by urgency and not by arrival.

Stands in for `trio.CapacityLimiter`, which lets in the first that came, at `trio.to_thread.run_sync`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import trio

from p2pfill.model.urgency import Urgency


class _Waiter:
    def __init__(self, urgency: Callable[[], Urgency]) -> None:
        self.urgency = urgency
        self.let_in = trio.Event()


class PriorityLimiter:
    """At most `count` at a time."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[_Waiter] = []
        """In order of arrival. Each is a chunk on request, so there are as many as the fills' windows allow."""

    def entry(self, urgency: Callable[[], Urgency]) -> trio.CapacityLimiter:
        """Return what to give to `run_sync` as its limiter, once. `urgency` is asked whenever somebody is let in."""
        # Trio takes anything with the two methods, but its types do not say so.
        return cast("trio.CapacityLimiter", _Entry(self, urgency))

    async def take(self, urgency: Callable[[], Urgency]) -> None:
        """Wait to be let in."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._free:
            self._free -= 1
            return
        waiter = _Waiter(urgency)
        self._waiting.append(waiter)
        try:
            await waiter.let_in.wait()
        except trio.Cancelled:
            if waiter.let_in.is_set():
                self.give_back()
            else:
                self._waiting.remove(waiter)
            raise

    def give_back(self) -> None:
        """Let in the most urgent of those that wait; of equals, the one that came first."""
        if not self._waiting:
            self._free += 1
            return
        first = min(self._waiting, key=lambda waiter: waiter.urgency())
        self._waiting.remove(first)
        first.let_in.set()


class _Entry:
    """What `trio.to_thread.run_sync` needs of a limiter."""

    def __init__(self, owner: PriorityLimiter, urgency: Callable[[], Urgency]) -> None:
        self._owner = owner
        self._urgency = urgency

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait to be let in."""
        await self._owner.take(self._urgency)

    def release_on_behalf_of(self, borrower: object) -> None:
        """Let the next one in."""
        self._owner.give_back()
