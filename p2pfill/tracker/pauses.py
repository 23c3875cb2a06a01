"""Long work on the event loop, in pieces: calls are answered in between."""

from __future__ import annotations

from typing import Final

import trio.lowlevel

COMPARED_AT_ONCE: Final = 200
"""Titles, orders, and rules or limits with a cache, that are compared at a time: a millisecond or two."""


class Pauses:
    """Has calls answered as work goes on."""

    def __init__(self) -> None:
        self._done = 0

    async def note(self, count: int) -> None:
        """Note that so much was compared."""
        self._done += count
        if self._done >= COMPARED_AT_ONCE:
            self._done = 0
            await trio.lowlevel.checkpoint()
