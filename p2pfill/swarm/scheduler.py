"""Several titles on one cache: which of its fills may ask for chunks now. Pure.

A fill holds back while a more urgent one moves: it asks for nothing new, and what is in flight goes on. A fill moves
while its payload arrives, and for `STUCK_S` after that, after its start and after it became more urgent. So one that
cannot go on (nobody has its chunks, its sources are dead) keeps the links idle for `STUCK_S` and no longer, and takes
precedence again with the next byte that it gets. Fills of one urgency do not hold each other back.

Rejected: shares of the links by priority. A receiver cannot hold a share of somebody else's uplink, and a title that is
given nine tenths of all links finishes a tenth late without making any other title finish sooner than in turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from p2pfill.model.ids import TitleId
from p2pfill.model.timing import PROGRESS_S
from p2pfill.model.urgency import Urgency

STUCK_S: Final = 2.25 * PROGRESS_S
"""A fill of which nothing has arrived for so long is stuck: what arrives is seen every `PROGRESS_S` at least, and one
look may be late."""


@dataclass(slots=True)
class _Standing:
    urgency: Urgency
    moved_at: float
    held: bool = False


class FillScheduler:
    """The fills of one cache that are not live yet. Each starts as one that may ask; `look` tells what changes."""

    def __init__(self) -> None:
        self._fills: dict[TitleId, _Standing] = {}
        self._stuck: set[TitleId] = set()
        """Those that did not move at the last look."""

    def __len__(self) -> int:
        return len(self._fills)

    def titles(self) -> list[TitleId]:
        """Return them, in the order in which they began."""
        return list(self._fills)

    def put(self, now: float, title: TitleId, urgency: Urgency) -> None:
        """Take in a fill, or its new urgency. One that becomes more urgent counts as moving: it has its turn now."""
        standing = self._fills.get(title)
        if standing is None:
            self._fills[title] = _Standing(urgency, now)
            return
        if urgency < standing.urgency:
            standing.moved_at = now
        standing.urgency = urgency

    def drop(self, title: TitleId) -> None:
        """Forget a fill: it is live, or has failed."""
        self._fills.pop(title, None)
        self._stuck.discard(title)

    def saw(self, now: float, title: TitleId) -> bool:
        """Note that payload of a title has arrived; return whether `look` would find something changed by that."""
        standing = self._fills.get(title)
        if standing is None:
            return False
        standing.moved_at = now
        return title in self._stuck

    def look(self, now: float) -> dict[TitleId, bool]:
        """Return the fills whose turn has come or gone since the last look, each with whether it holds back now.

        To be called when a fill was put or dropped, when `saw` says so, and each `SCHEDULER_S`.
        """
        changed = {}
        self._stuck.clear()
        first: Urgency | None = None
        for title, standing in sorted(self._fills.items(), key=lambda item: item[1].urgency):
            held = first is not None and first < standing.urgency
            if held != standing.held:
                standing.held = changed[title] = held
            if now >= standing.moved_at + STUCK_S:
                self._stuck.add(title)
            elif first is None:
                first = standing.urgency
        return changed
