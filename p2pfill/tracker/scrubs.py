"""Requests to look whether what caches hold of a title is still right, and what came of them.

They live in memory: whoever waits for one that a restart has forgotten asks again. Each has a number, larger than those
of earlier runs, so that a node that remembers one never takes another for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from p2pfill.model.reports import ScrubOrder, ScrubReport
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.records import NodeScrub, ScrubStatus

SCRUBS_MAX: Final = 1024
"""Requests that are remembered; the oldest go first."""

SCRUBS_OF_NODE_MAX: Final = 256
"""Requests that a node is given at a time, which is as many as it takes."""

OVER: Final = frozenset({"whole", "failed"})


class Scrubs:
    """All requests of one tracker."""

    def __init__(self) -> None:
        self._scrubs: dict[int, ScrubStatus] = {}
        self._open: dict[str, dict[int, NodeScrub]] = {}
        """Node -> number -> its part of a request, while it has not said that it is done."""

    def add(self, number: int, title: str, node_ids: Iterable[str]) -> ScrubStatus:
        """Remember a request for these nodes."""
        nodes = [NodeScrub(node_id) for node_id in sorted(node_ids)]
        status = self._scrubs[number] = ScrubStatus(number, title, nodes, done=not nodes)
        for node in nodes:
            self._open.setdefault(node.node, {})[number] = node
        if len(self._scrubs) > SCRUBS_MAX:
            oldest = next(iter(self._scrubs))
            for node in self._scrubs.pop(oldest).nodes:
                self._close(node.node, oldest)
        return status

    def get(self, number: int) -> ScrubStatus:
        """Return what came of a request. Raises `RequestRefused`."""
        status = self._scrubs.get(number)
        if status is None:
            raise RequestRefused(f"there is no scrub {number}: the tracker was started anew, or has forgotten it", 404)
        return status

    def orders_of(self, node_id: str) -> list[ScrubOrder]:
        """Return what a node is yet to look at, the oldest first."""
        numbers = list(self._open.get(node_id, ()))[:SCRUBS_OF_NODE_MAX]
        return [ScrubOrder(number, self._scrubs[number].title) for number in numbers]

    def note(self, node_id: str, reports: Iterable[ScrubReport]) -> bool:
        """Take in what a node says of its requests; tell whether it has fewer of them now."""
        closed = False
        for report in reports:
            part = self._open.get(node_id, {}).get(report.number)
            if part is None or self._scrubs[report.number].title != report.title:
                continue
            part.report = report
            if report.state in OVER:
                self._close(node_id, report.number)
                closed = True
                status = self._scrubs[report.number]
                status.done = all(node.report is not None and node.report.state in OVER for node in status.nodes)
        return closed

    def _close(self, node_id: str, number: int) -> None:
        open_ones = self._open.get(node_id, {})
        open_ones.pop(number, None)
        if not open_ones:
            self._open.pop(node_id, None)
