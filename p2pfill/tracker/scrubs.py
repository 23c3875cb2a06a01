"""Requests to look whether what caches hold of a title is still right, and to make room, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfill.model import limits
from p2pfill.model.reports import EvictOrder, ScrubOrder, ScrubReport
from p2pfill.tracker.records import EvictRequest, EvictStatus, NodeEvict, NodeScrub, ScrubStatus
from p2pfill.tracker.requests import Requests

SCRUBS_MAX: Final = 1024
"""Requests that are remembered; the oldest go first."""

class Scrubs(Requests[ScrubStatus]):
    """All requests to look at a title."""

    def __init__(self) -> None:
        super().__init__("scrub", frozenset({"whole", "failed"}), SCRUBS_MAX)

    def add(self, number: int, title: str, node_ids: Iterable[str]) -> ScrubStatus:
        """Remember a request for these nodes."""
        nodes = [NodeScrub(node_id) for node_id in sorted(node_ids)]
        return self.put(ScrubStatus(number, title, nodes, done=not nodes))

    def orders_of(self, node_id: str) -> list[ScrubOrder]:
        """Return what a node is yet to look at, the oldest first."""
        return [ScrubOrder(status.number, status.title) for status in self.open_of(node_id)]

    def note_scrubs(self, node_id: str, reports: Iterable[ScrubReport]) -> bool:
        """Take in what a node says, but for what it says of another title than it was asked for."""
        asked = {status.number: status.title for status in self.open_of(node_id)}
        return self.note(node_id, [report for report in reports if asked.get(report.number) == report.title])


class Evictions(Requests[EvictStatus]):
    """All requests to make room. Few are remembered: each has a list of titles for each node."""

    def __init__(self) -> None:
        super().__init__("eviction", frozenset({"done", "failed"}), limits.EVICTIONS_MAX)

    def add(self, number: int, request: EvictRequest, node_ids: Iterable[str]) -> EvictStatus:
        """Remember a request for these nodes."""
        nodes = [NodeEvict(node_id) for node_id in sorted(node_ids)]
        return self.put(EvictStatus(number, request, nodes, done=not nodes))

    def orders_of(self, node_id: str) -> list[EvictOrder]:
        """Return what a node is yet to do, the oldest first."""
        return [
            EvictOrder(status.number, status.request.free_bytes, status.request.dry_run)
            for status in self.open_of(node_id)
        ]
