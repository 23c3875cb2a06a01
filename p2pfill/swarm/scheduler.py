"""Several titles on one cache: which of its fills may ask for chunks now. Pure.

A fill holds back while a more urgent one moves: it asks for nothing new, and what is in flight goes on. A fill moves
while its payload arrives, and for `STUCK_S` after that, after its start and after it became more urgent. So one that
cannot go on (nobody has its chunks, its sources are dead) keeps the links idle for `STUCK_S` and no longer, and takes
precedence again with the next byte that it gets. Fills of one urgency do not hold each other back.

It has to pay for that, too: each chunk is worth the time that it takes at `LEAST_RATE_BYTES_S`. Else an order of the
highest priority from an origin that drips would keep all others waiting for ever. One that is slower holds the others
back for a part of the time only, and leaves them the rest.

While the cache is closed, outside of its fill windows, all hold back but those that are exempt: repairs, and titles
that were ordered out of cycle. They hold nobody else back then.

Rejected: shares of the links by priority. A receiver cannot hold a share of somebody else's uplink, and a title that is
given nine tenths of all links finishes a tenth late without making any other title finish sooner than in turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from p2pfill.model.ids import TitleId
from p2pfill.model.limits import KIB
from p2pfill.model.timing import PROGRESS_S
from p2pfill.model.urgency import Urgency

STUCK_S: Final = 2.25 * PROGRESS_S
"""A fill of which nothing has arrived for so long is stuck: what arrives is seen every `PROGRESS_S` at least, and one
look may be late."""


LEAST_RATE_BYTES_S: Final = 64 * KIB
"""Whoever is slower than this is a slow source wherever there is another; it is no reason to leave links idle."""

CREDIT_S: Final = 120.0
"""What a fill has at its start, and at most: in that time the longest chunk comes at half a megabyte a second."""


Hold = Literal["urgency", "window"] | None
"""Why a fill holds back: a more urgent one moves, or the cache is closed. None: it does not."""


@dataclass(slots=True)
class _Standing:
    urgency: Urgency
    moved_at: float
    paid_until: float
    """It holds others back until then, while it moves."""
    is_exempt: bool = False
    hold: Hold = None


class FillScheduler:
    """The fills of one cache that are not live yet. Each starts as one that may ask; `look` tells what changes."""

    def __init__(self) -> None:
        self._fills: dict[TitleId, _Standing] = {}
        self._stuck: set[TitleId] = set()
        """Those that did not move at the last look."""
        self.is_open = True
        """The cache is within a fill window, or has none."""

    def __len__(self) -> int:
        return len(self._fills)

    @property
    def awaits_time(self) -> bool:
        """Whether a look may find something else though nothing happens: one fill gets stuck, and another goes on."""
        if self.is_open:
            return len(self._fills) > 1
        return sum(standing.is_exempt for standing in self._fills.values()) > 1

    def titles(self) -> list[TitleId]:
        """Return them, in the order in which they began."""
        return list(self._fills)

    def put(self, now: float, title: TitleId, urgency: Urgency, *, is_exempt: bool = False) -> None:
        """Take in a fill, or what is new of it. One that becomes more urgent, or need not wait for a window any more,
        counts as moving: it has its turn now."""
        standing = self._fills.get(title)
        if standing is None:
            self._fills[title] = _Standing(urgency, now, now + CREDIT_S, is_exempt)
            return
        if urgency < standing.urgency or (is_exempt and standing.hold == "window"):
            standing.moved_at, standing.paid_until = now, now + CREDIT_S
        standing.is_exempt = is_exempt
        standing.urgency = urgency

    def set_open(self, now: float, *, is_open: bool) -> None:
        """Note that a fill window begins, or ends. When it begins each fill has its turn, as one that is new."""
        if is_open and not self.is_open:
            for standing in self._fills.values():
                if not standing.is_exempt:
                    standing.moved_at, standing.paid_until = now, now + CREDIT_S
        self.is_open = is_open

    def drop(self, title: TitleId) -> None:
        """Forget a fill: it is live, or has failed."""
        self._fills.pop(title, None)
        self._stuck.discard(title)

    def saw(self, now: float, title: TitleId, count: int = 0) -> bool:
        """Note that payload of a title has arrived; return whether `look` would find something changed by that.

        `count` are the bytes of whole chunks.
        """
        standing = self._fills.get(title)
        if standing is None:
            return False
        standing.moved_at = now
        paid_until = max(standing.paid_until, now) + count / LEAST_RATE_BYTES_S
        standing.paid_until = max(standing.paid_until, min(paid_until, now + CREDIT_S))
        return title in self._stuck and now < standing.paid_until

    def look(self, now: float) -> dict[TitleId, Hold]:
        """Return the fills that hold back for another reason than at the last look, each with that; None: not any more.

        To be called when a fill was put or dropped, when `saw` says so, when the cache has opened or closed, and each
        `SCHEDULER_S` while it `awaits_time`.
        """
        changed: dict[TitleId, Hold] = {}
        self._stuck.clear()
        first: Urgency | None = None
        for title, standing in sorted(self._fills.items(), key=lambda item: item[1].urgency):
            hold: Hold = "urgency" if first is not None and first < standing.urgency else None
            is_closed = not (self.is_open or standing.is_exempt)
            if is_closed:
                hold = "window"
            if hold != standing.hold:
                standing.hold = changed[title] = hold
            if is_closed:
                continue
            if now >= standing.moved_at + STUCK_S or now >= standing.paid_until:
                self._stuck.add(title)
            elif first is None:
                first = standing.urgency
        return changed
