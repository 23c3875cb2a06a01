"""Upload slots: how many chunks a cache sends at a time, and who is next. Pure; callers in threads hold a lock.

A slot goes to the most urgent title that waits, among equals to the uploader that is farthest away, since its whole
network waits for it, and of those to the one that came first. Whoever is found to take a slot's bytes too slowly comes
after all that are as urgent, wherever it says that it is. A title may be held to fewer slots than there are, where
little of it is here; and so may a tier whose rate is limited, since its uploads hold their slots while they wait for
their turn, and would leave none to the others. Those that are handed a slot are returned, for the caller to set to
work.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from typing import NamedTuple

from p2pfill.engine.uploads import NextUpload
from p2pfill.model.ids import TitleId
from p2pfill.model.urgency import Urgency


class QueueEntry(NamedTuple):
    """Where somebody stands in the queue for slots."""

    urgency: Urgency
    is_slow: bool
    nearness: int
    number: int
    """Grows with each that queues, so that equals go in order of arrival."""
    uploader: Uploader
    title: TitleId


class Uploader:
    """Somebody who may have a slot: one stream to one remote."""

    def __init__(self, nearness: int = 0, tier: str = "") -> None:
        """Among those that wait for something as urgent, the one with the least `nearness` goes first."""
        self.nearness = nearness
        self.tier = tier
        self.slot_title: TitleId | None = None
        """The title for which it has a slot, if it has one."""
        self.place: QueueEntry | None = None
        """Where it waits for a slot, if it does."""
        self.closed = False
        """It sends no more."""
        self.is_slow = False
        """It was found to hold a slot for others that wait, and to move next to nothing."""

    @property
    def has_slot(self) -> bool:
        """Whether it may send now."""
        return self.slot_title is not None


class UploadSlots:
    """The slots of one cache."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = count
        self._sending: Counter[TitleId | str] = Counter()
        """Slots that each title, and each tier, has now."""
        self._limits: dict[TitleId | str, int] = {}
        """And how many it may have, where that is not all."""
        self._queue: list[QueueEntry] = []
        """A heap. A place that its uploader has left for a better one stays until it comes up."""
        self._numbers = itertools.count()

    @property
    def has_queue(self) -> bool:
        """Whether somebody waits for a slot."""
        return bool(self._queue)

    def limit(self, share: TitleId | str, slots: int | None) -> list[Uploader]:
        """Let a title or tier take `slots` slots, at least one; None: as many as there are. Returns who is handed one.
        """
        if slots is None:
            self._limits.pop(share, None)
        else:
            self._limits[share] = slots
        return self._hand_out()

    def take(self, uploader: Uploader, wanted: NextUpload) -> bool:
        """Give a slot to `uploader`, which has none, or queue it for one; True where it has one now."""
        if uploader.closed:
            return False  # it ended while a thread was on the way here, and would never give the slot back
        if self._free and self._may_send(uploader, wanted.title):
            self._hand_to(uploader, wanted.title)
        elif uploader.place is None:
            self._enqueue(uploader, wanted)
        return uploader.has_slot

    def reprioritise(self, uploader: Uploader, wanted: NextUpload) -> bool:
        """Let `uploader` wait for something more urgent, if it waits; True where that gets it a slot."""
        if uploader.place is not None and wanted.urgency < uploader.place.urgency:
            self._enqueue(uploader, wanted)
        if uploader.closed or uploader.place is None or not self._free:
            return False
        if not self._may_send(uploader, uploader.place.title):
            return False
        self._hand_to(uploader, uploader.place.title)
        return True

    def renew(self, uploader: Uploader, wanted: NextUpload) -> tuple[bool, list[Uploader]]:
        """Leave `uploader` its slot for a next chunk unless another waits that is as urgent and as far; then queue it.

        Returns whether it still has one, and who was handed one meanwhile.
        """
        if not uploader.has_slot:
            return True, []  # it was taken away meanwhile; the next turn asks for another
        self._take_from(uploader)
        entry = self._next_waiting()
        if entry is not None:
            heapq.heappush(self._queue, entry)
        mine = wanted.urgency, uploader.is_slow, uploader.nearness
        if self._may_send(uploader, wanted.title) and (entry is None or mine < entry[:3]):
            self._hand_to(uploader, wanted.title)
            return True, self._hand_out()
        self._enqueue(uploader, wanted)
        return False, self._hand_out()

    def release(self, uploader: Uploader) -> list[Uploader]:
        """Take the slot from `uploader`, if it has one, and hand it to the one that waits and is to be first."""
        if not uploader.has_slot:
            return []
        self._take_from(uploader)
        return self._hand_out()

    def _hand_out(self) -> list[Uploader]:
        """Hand out what is free; more than one may wait for the end of one upload, for its title's and its tier's."""
        served = []
        while self._free and (entry := self._next_waiting()) is not None:
            self._hand_to(entry.uploader, entry.title)
            served.append(entry.uploader)
        return served

    def _enqueue(self, uploader: Uploader, wanted: NextUpload) -> None:
        uploader.place = QueueEntry(
            wanted.urgency, uploader.is_slow, uploader.nearness, next(self._numbers), uploader, wanted.title
        )
        heapq.heappush(self._queue, uploader.place)

    def _may_send(self, uploader: Uploader, title: TitleId) -> bool:
        limits, sending = self._limits, self._sending
        if not limits:
            return True
        tier = uploader.tier
        return (title not in limits or sending[title] < limits[title]) and (
            tier not in limits or sending[tier] < limits[tier]
        )

    def _next_waiting(self) -> QueueEntry | None:
        """Take the first place out of the queue whose uploader still waits there and may send."""
        held_up: list[QueueEntry] = []
        found: QueueEntry | None = None
        while self._queue and found is None:
            entry = heapq.heappop(self._queue)
            if entry is not entry.uploader.place or entry.uploader.closed:
                continue
            if self._may_send(entry.uploader, entry.title):
                found = entry
            else:
                held_up.append(entry)
        for entry in held_up:
            heapq.heappush(self._queue, entry)
        return found

    def _hand_to(self, uploader: Uploader, title: TitleId) -> None:
        self._free -= 1
        uploader.slot_title, uploader.place = title, None
        self._sending[title] += 1
        self._sending[uploader.tier] += 1

    def _take_from(self, uploader: Uploader) -> None:
        if uploader.slot_title is not None:
            for share in (uploader.slot_title, uploader.tier):
                self._sending[share] -= 1
                if not self._sending[share]:
                    del self._sending[share]
            self._free += 1
            uploader.slot_title = None
