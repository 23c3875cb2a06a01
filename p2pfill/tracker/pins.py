"""Pins: which nodes keep what they hold of a title though no order wants it.

A pin is a selector in the record of its title, and so as durable as that. It goes with the title, and with an urgent
withdrawal, which is stronger. Each node is told all titles that are pinned on it with its orders, also those of which
it has said nothing: a tracker that knows little of a node yet must not have it delete what is pinned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfill.model.node import NodeInfo
from p2pfill.model.selector import Selector
from p2pfill.tracker.records import TitleRecord

PINS_OF_TITLE_MAX: Final = 16
"""Selectors of one title: one names many nodes, by label or by name."""

PINS_MAX: Final = 10_000
"""Titles that are pinned: their ids, 670 kB then, go to a node in one answer whenever they have changed."""


class Pins:
    """The selectors of all titles that are pinned."""

    def __init__(self, records: Iterable[TitleRecord]) -> None:
        self._selectors: dict[str, list[Selector]] = {}
        self._titles_by: dict[Selector, set[str]] = {}
        for record in records:
            self.put(record)

    def put(self, record: TitleRecord) -> None:
        """Follow what a title's record says now."""
        for selector in self._selectors.pop(record.title, ()):
            self._titles_by[selector].discard(record.title)
            if not self._titles_by[selector]:
                del self._titles_by[selector]
        if record.pins:
            selectors = self._selectors[record.title] = [Selector.parse(text) for text in record.pins]
            for selector in selectors:
                self._titles_by.setdefault(selector, set()).add(record.title)

    @property
    def titles(self) -> set[str]:
        """All titles that are pinned somewhere."""
        return set(self._selectors)

    def of(self, info: NodeInfo) -> set[str]:
        """Return the titles that a node is to keep."""
        return set().union(*(titles for selector, titles in self._titles_by.items() if selector.matches(info)))

    def holds(self, title: str, info: NodeInfo) -> bool:
        """Tell whether a node is to keep a title."""
        return any(selector.matches(info) for selector in self._selectors.get(title, ()))
