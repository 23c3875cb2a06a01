"""What a node's log says of the origins of one fill: when one begins to fail, and when it works again.

A chunk that fails is nothing to log: there may be a thousand a minute, and they come back. That an origin fails at all
is what people look for first. An origin that comes and goes is said once in `SAY_AGAIN_S`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from p2pfill.model.reports import clipped

SAY_AGAIN_S: Final = 60.0
"""Between two lines that one origin fails: often enough to see that it still does."""


class OriginLog:
    """Says how the origins of the title `name` are. Thread-safe."""

    def __init__(self, log: logging.Logger, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._name = name
        self._now = now
        self._lock = threading.Lock()
        self._failing: set[str] = set()
        """Said to fail, and not yet to work again."""
        self._said_at: dict[str, float] = {}

    def fails(self, url: str, reason: str) -> None:
        """Note that a read has failed."""
        with self._lock:
            now = self._now()
            if url in self._failing or now < self._said_at.get(url, -SAY_AGAIN_S) + SAY_AGAIN_S:
                return
            self._failing.add(url)
            self._said_at[url] = now
        self._log.warning("origin %s of title %r fails, and is tried again: %s", url, self._name, clipped(reason))

    def works(self, url: str) -> None:
        """Note that a read has succeeded."""
        if url not in self._failing:
            return
        with self._lock:
            if url not in self._failing:
                return
            self._failing.discard(url)
        self._log.warning("origin %s of title %r works again", url, self._name)
