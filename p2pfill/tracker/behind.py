"""Of which titles rosters have yet to follow what has become of some nodes. Pure.

An empty cache that joins a tracker with fifty thousand orders is news in as many rosters, and so is its loss: all of
them at once would keep the tracker from everybody else for a minute. So what is more than some milliseconds' work waits
here, a title at a time, in the order in which it came.

Invariant: `_of` has each node as often as titles name it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Behind:
    """Titles, each with the nodes that have changed there."""

    def __init__(self) -> None:
        self._nodes: dict[str, frozenset[str]] = {}
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node_id: str) -> bool:
        """Tell whether there is a title that waits for what has become of a node."""
        return node_id in self._of

    def add(self, titles: Iterable[str], node_ids: frozenset[str]) -> None:
        """Note that these nodes have changed in these titles; a title that waits keeps its turn."""
        count = len(self._nodes)
        for title in titles:
            # One set for all titles, as a rule.
            before = self._nodes.setdefault(title, node_ids)
            if before is not node_ids:
                self._nodes[title] = before | node_ids
                self._of.update(node_ids - before)
        if new := len(self._nodes) - count:
            self._of.update(dict.fromkeys(node_ids, new))

    def take(self, title: str) -> frozenset[str]:
        """Return the nodes that have changed in a title, which waits no longer."""
        node_ids = self._nodes.pop(title, frozenset())
        for node_id in node_ids:
            self._of[node_id] -= 1
            if not self._of[node_id]:
                del self._of[node_id]
        return node_ids

    def first(self) -> str | None:
        """Return the title that has waited longest."""
        return next(iter(self._nodes), None)
