"""Standing limits: how fast the nodes that match a selector may move payload, whatever they are told otherwise.

A limit stands until it is cleared, and is durable (`catalogue.Catalogue.set_limit`). Of several that mean a node the
tightest holds, rate by rate. A node is told with its orders, at once where that has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfill.model.node import NodeInfo
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.model.selector import Selector
from p2pfill.tracker.records import LimitRecord

LIMITS_MAX: Final = 256
"""Selectors: each is compared with each node that joins, and people are to see all of them."""


class StandingLimits:
    """All limits, by the text of their selector."""

    def __init__(self, records: Iterable[LimitRecord]) -> None:
        self._limits = {record.selector: (Selector.parse(record.selector), record) for record in records}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._limits)

    def __contains__(self, selector: str) -> bool:
        """Tell whether one stands for exactly this selector."""
        return selector in self._limits

    def put(self, selector: Selector, record: LimitRecord | None) -> None:
        """Have a limit stand from now on; None: no more."""
        if record is None:
            self._limits.pop(selector.text, None)
        else:
            self._limits[selector.text] = (selector, record)

    def records(self) -> list[LimitRecord]:
        """Return all, in the order of their selectors."""
        return [record for _, (_, record) in sorted(self._limits.items())]

    def of(self, info: NodeInfo) -> RateLimits:
        """Return what a node is to keep to."""
        limits = NO_LIMITS
        for selector, record in self._limits.values():
            if selector.matches(info):
                limits = limits.within(record.rates)
        return limits
