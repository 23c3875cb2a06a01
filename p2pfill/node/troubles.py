"""What is wrong with the machine's clock, or the node's certificate: in the log once, in `status` while it is so."""

from __future__ import annotations

import logging
from typing import Final

from p2pfill.model.limits import REASON_CHARS_MAX

CLOCK_S: Final = 300.0
"""Clocks may differ by this before it is said: less harms no certificate and no fill window."""


class Troubles:
    """Kind -> what is wrong, for people."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: dict[str, str] = {}

    def put(self, kind: str, text: str) -> None:
        """Note what is wrong; '' where nothing is any more."""
        before = self._said.pop(kind, "")
        if text:
            self._said[kind] = text
            if text != before:
                self._log.warning("%s", text)
        elif before:
            self._log.info("no more: %s", before)

    def look_at_clock(self, ahead_s: float | None) -> None:
        """Take in by how much this machine's clock is ahead of the tracker's, where that is known."""
        if ahead_s is None or abs(ahead_s) < CLOCK_S:
            self.put("clock", "")
            return
        way = "ahead of" if ahead_s > 0 else "behind"
        # In whole hours, where it is that much: it is told anew where it changes.
        apart = f"{abs(ahead_s) / 3600:.0f} hours" if abs(ahead_s) >= 5400 else f"{abs(ahead_s) / 60:.0f} minutes"
        self.put("clock", f"its clock is {apart} {way} the tracker's: certificates and windows go by it, so set it")

    def told(self) -> str:
        """Return all of it, as a heartbeat says it."""
        return "; ".join(self._said.values())[:REASON_CHARS_MAX]
