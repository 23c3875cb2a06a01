"""From where a cache can take chunks: whether its own way to the origin, and to caches beyond its ISP, is open. Pure.

A cache whose way is dead says so (`actions.ReportWays`), so that the others do not elect it for what must come from
there. It goes on to try with its own part, at the rate at which a source that fails is asked again, and says when the
way is open again. That is better than to wait until others notice: they would for a while, each time, for every chunk.

An origin without Range sends the whole file for each chunk. So there is one reader of it, the master of the first chunk
as things are. All others say that their way is closed, and leave it alone while that is so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from p2pfill.model.timing import DISCOVERY_TIMEOUT_S
from p2pfill.swarm.election import Scope
from p2pfill.swarm.sources import Source

UNLINKED_S: Final = 2 * DISCOVERY_TIMEOUT_S
"""So long there must be no link to any cache of a group with which there should be some: links are made in less."""

SETTLE_S: Final = 1.0
"""For the others of an ISP to find the way open too, where it was closed for all, and to say so: some round trips, and
the times of their tries. Who took their parts meanwhile would fetch them a second time."""


def as_number(closed: Iterable[Scope]) -> int:
    """Return scopes as a message has them: see `protocol.messages.Ways`."""
    return sum(1 << scope - 1 for scope in closed)


def from_number(number: int) -> tuple[Scope, ...]:
    """Return what `as_number` has made a number of."""
    return tuple(scope for scope in (Scope.REGION, Scope.WORLD, Scope.ORIGIN) if number >> scope - 1 & 1)


class Ways:
    """What one fill knows of its own ways."""

    def __init__(self) -> None:
        self.closed: frozenset[Scope] = frozenset()
        self.reason = ""
        """Why the way to the origin is closed, for people; empty where it is not, or is by choice."""
        self.is_left_to_reader = False
        """The origin has no Range, and another cache reads it for all."""
        self._alone_since: dict[Scope, float] = {}
        self._opened_at: dict[Scope, float] = {}
        """When a way that had been closed was found open."""

    def is_settling(self, now: float, scope: Scope) -> bool:
        """Tell whether a way has just opened: what others say of theirs may be about to change likewise."""
        return now < self._opened_at.get(scope, float("-inf")) + SETTLE_S

    def look(
        self,
        now: float,
        sources: Iterable[Source],
        expected: Collection[Scope],
        *,
        is_reader: bool = True,
        never: frozenset[Scope] = frozenset(),
    ) -> bool:
        """Look at all sources, where links to caches of the `expected` scopes should be; tell whether that changes.

        `is_reader`: where an origin has no Range, this cache is the one to read it. The ways that it may `never` go are
        closed too.
        """
        before, failing, origins = self.closed, [], []
        linked: set[Scope] = set()
        for source in sources:
            if source.scope != Scope.ORIGIN:
                linked.add(source.scope)
            elif source.faults or source.is_failing:
                failing.append(source)
            else:
                linked.add(source.scope)
                origins.append(source)
        closed: set[Scope] = set()
        self.is_left_to_reader = bool(origins) and not is_reader and not any(source.has_range for source in origins)
        if (failing and Scope.ORIGIN not in linked) or self.is_left_to_reader:
            closed.add(Scope.ORIGIN)
        for scope in (Scope.REGION, Scope.WORLD):
            if scope in linked or scope not in expected:
                self._alone_since.pop(scope, None)
            elif now >= self._alone_since.setdefault(scope, now) + UNLINKED_S:
                closed.add(scope)
        closed |= never
        self._opened_at.update(dict.fromkeys(before - closed, now))
        self.closed = frozenset(closed)
        is_dead = failing and Scope.ORIGIN in closed and not self.is_left_to_reader
        self.reason = failing[0].fault_reason if is_dead else ""
        return self.closed != before
