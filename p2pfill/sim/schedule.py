"""Virtual time: a heap of what is to happen, and when.

Of two things at one moment the one that was entered first happens first, so a run depends on nothing but what was
entered: no clock, no threads, no order of hashes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

Deed = Callable[..., None]


class Schedule:
    """What is to happen, in order of time. `now` is in seconds and never goes back."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done = 0
        """Deeds done so far."""
        self._heap: list[tuple[float, int, Deed, tuple[Any, ...]]] = []
        self._entered = 0
        self._last: list[Deed] = []

    def at(self, when: float, deed: Deed, *arguments: Any) -> None:
        """Do `deed` at a moment; at once (but after all that is due before) where it has passed."""
        self._entered += 1
        heapq.heappush(self._heap, (when if when > self.now else self.now, self._entered, deed, arguments))

    def after(self, delay_s: float, deed: Deed, *arguments: Any) -> None:
        """Do `deed` in `delay_s` seconds."""
        self.at(self.now + delay_s, deed, *arguments)

    def last(self, deed: Deed) -> None:
        """Do `deed` when all that is entered for this moment is done, before time moves on."""
        self._last.append(deed)

    def run(self, until: float, is_over: Callable[[], bool]) -> None:
        """Do what is due until the moment `until`, which then has come, or until `is_over`."""
        heap = self._heap
        pop = heapq.heappop
        while not is_over():
            if self._last and (not heap or heap[0][0] > self.now):
                last, self._last = self._last, []
                for deed in last:
                    deed()
                continue
            if not heap or heap[0][0] > until:
                self.now = max(self.now, until)
                return
            self.now, _, deed, arguments = pop(heap)
            self.done += 1
            deed(*arguments)
