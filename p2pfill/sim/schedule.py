"""Virtual time: what is to happen, and when.

Of two things at one moment the one that was entered first happens first, so a run depends on nothing but what was
entered: no clock, no threads, no order of hashes.

What is far off lies unsorted in buckets of `BUCKET_S`, and only the present one is a heap: a heap of all that a
fleet of thousands has planned is larger than a processor's caches.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

BUCKET_S: Final = 0.002

Deed = Callable[..., None]


class Schedule:
    """What is to happen, in order of time. `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0
        """Deeds done so far."""
        self._near: list[tuple[float, int, Deed, tuple[Any, ...]]] = []
        """A heap of all up to the end of the bucket `_at`."""
        self._at = 0
        self._buckets: dict[int, list[tuple[float, int, Deed, tuple[Any, ...]]]] = {}
        self._numbers: list[int] = []
        """A heap of those of the buckets."""
        self._entered = 0
        self._last: list[Deed] = []

    def at(self, when: float, deed: Deed, *arguments: Any) -> None:
        """Do `deed` at a moment; at once (but after all that is due before) where it has passed."""
        self._entered += 1
        when = when if when > self.now else self.now
        entry = (when, self._entered, deed, arguments)
        number = int(when / BUCKET_S)
        if number <= self._at:
            heapq.heappush(self._near, entry)
        elif (bucket := self._buckets.get(number)) is not None:
            bucket.append(entry)
        else:
            self._buckets[number] = [entry]
            heapq.heappush(self._numbers, number)

    def after(self, delay_s: float, deed: Deed, *arguments: Any) -> None:
        """Do `deed` in `delay_s` seconds."""
        self.at(self.now + delay_s, deed, *arguments)

    def last(self, deed: Deed) -> None:
        """Do `deed` when all that is entered for this moment is done, before time moves on."""
        self._last.append(deed)

    def run(self, until: float, is_over: Callable[[], bool]) -> None:
        """Do what is due until the moment `until`, which then has come, or until `is_over`."""
        pop = heapq.heappop
        near = self._near
        while not is_over():
            if near:
                when = near[0][0]
                if when <= until and (when <= self.now or not self._last):
                    self.now, _, deed, arguments = pop(near)
                    self.done += 1
                    deed(*arguments)
                    continue
            if self._last and (not near or near[0][0] > self.now):
                last, self._last = self._last, []
                for deed in last:
                    deed()
            elif not near and self._numbers:
                self._at = pop(self._numbers)
                near = self._near = self._buckets.pop(self._at)
                heapq.heapify(near)
            else:
                self.now = max(self.now, until)
                return
