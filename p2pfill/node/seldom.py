"""Lines in the log that others can cause as often as they like: their number must not fill a disk."""

from __future__ import annotations

import logging
import time
from typing import Final

LOGGED_S: Final = 10.0
"""One line of a kind in so long: whoever looks for a fault sees it, and a flood of it is 2 MB a day."""

KINDS_MAX: Final = 1000
"""Kinds that are remembered: those of all links of a node. With more, some are told of sooner."""


class SeldomLog:
    """A log in which lines of one kind are told once in `LOGGED_S`, the first one at once."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._logged_at: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def info(self, kind: str, detail: object) -> None:
        """Tell of something, and how many of its kind were left out before."""
        now = time.monotonic()
        if now - self._logged_at.get(kind, float("-inf")) < LOGGED_S:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._logged_at.pop(kind, None)
        self._logged_at[kind] = now
        if len(self._logged_at) > KINDS_MAX:
            oldest = next(iter(self._logged_at))
            del self._logged_at[oldest]
            self._left_out.pop(oldest, None)
        left_out = self._left_out.pop(kind, 0)
        self._log.info("%s: %s%s", kind, detail, f" ({left_out} more before it)" if left_out else "")
