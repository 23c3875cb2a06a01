"""What a node's log says of the origins of one fill: when one begins to fail, and when it works again.

A chunk that fails is nothing to log: there may be a thousand a minute, and they come back. That an origin fails at all
is what people look for first, so each cause is a line. One that comes and goes is said once in `SAY_AGAIN_S`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from p2pfill.model.reports import clipped

SAY_AGAIN_S: Final = 60.0
"""Between two lines that one origin fails for one cause: often enough to see that it still does."""

CAUSES_MAX: Final = 8
"""Causes of one origin said within that time: one that fails each file in another way must not fill the log."""


class OriginLog:
    """Says how the origins of the title `name` are. Thread-safe."""

    def __init__(self, log: logging.Logger, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._name = name
        self._now = now
        self._lock = threading.Lock()
        self._failing: dict[str, set[str]] = {}
        """Said to fail, and not yet to work again, and why."""
        self._said_at: dict[str, dict[str, float]] = {}
        """Origin -> cause -> when it was said last."""

    def fails(self, url: str, reason: str, cause: str = "") -> None:
        """Note that a read has failed. `cause` is what is wrong without the file that it happened to."""
        cause = cause or reason
        with self._lock:
            now, said_at = self._now(), self._said_at.setdefault(url, {})
            for old in [old for old, at in said_at.items() if now >= at + SAY_AGAIN_S]:
                del said_at[old]
            if cause in self._failing.get(url, ()) or cause in said_at or len(said_at) >= CAUSES_MAX:
                return
            said_at[cause] = now
            self._failing.setdefault(url, set()).add(cause)
        self._log.warning("origin %s of title %r fails, and is tried again: %s", url, self._name, clipped(reason))

    def works(self, url: str) -> None:
        """Note that a read has succeeded."""
        if url not in self._failing:
            return
        with self._lock:
            if self._failing.pop(url, None) is None:
                return
        self._log.warning("origin %s of title %r works again", url, self._name)

    def remark(self, url: str, text: str) -> None:
        """Say what people should know of an origin that works."""
        self._log.warning("origin %s of title %r %s", url, self._name, clipped(text))
