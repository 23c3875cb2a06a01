"""Which orders nodes have brought back to a database that did not know them (`recall`), and until when they may."""

from __future__ import annotations

import time
from typing import Final

from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.records import BroughtBack

REBUILT_S: Final = 7 * 86400.0
"""How long after a loss, or after it was made, a database takes orders from nodes: all of them are back by then."""

LISTED_MAX: Final = 1000
"""Titles of which is listed whether they came back."""


class Recall:
    """What has come back to one service."""

    def __init__(self, made_at: float, lost_at: float) -> None:
        """The database was made then, and lost something then, seconds since the epoch; 0: never."""
        self._open_until = max(made_at, lost_at) + REBUILT_S
        self._told: dict[str, BroughtBack] = {}

    def listed(self) -> list[BroughtBack]:
        """Return which titles have come back, and which could not, in the order of their ids."""
        return [self._told[title] for title in sorted(self._told)]

    def require_open(self) -> None:
        """Raise `RequestRefused` where orders cannot come back."""
        if time.time() > self._open_until:
            raise RequestRefused(
                "this tracker's database has lost nothing that is known: orders come from those who give them", 409
            )

    def wants(self, title: str) -> bool:
        """Tell whether nodes have been asked for a title's manifest, and none has come yet."""
        told = self._told.get(title)
        return told is not None and not told.nodes

    def note(self, title: str, name: str, node_id: str, reason: str) -> None:
        """Note what has become of an order that a node has brought."""
        told = self._told.get(title)
        if told is None:
            if len(self._told) >= LISTED_MAX:
                return
            told = self._told[title] = BroughtBack(title, name, 0)
        told.name = name or told.name
        if reason:
            told.reason = told.reason if told.nodes else reason
        else:
            told.nodes, told.reason = told.nodes + 1, ""
