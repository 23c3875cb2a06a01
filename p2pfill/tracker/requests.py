"""Requests to nodes, as to look at a title or to make room, and what came of them.

They live in memory: whoever waits for one that a restart has forgotten asks again. Each has a number, larger than those
of earlier runs, so that a node that remembers one never takes another for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Generic, Protocol, TypeVar

from p2pfill.tracker.checks import RequestRefused

REQUESTS_OF_NODE_MAX: Final = 256
"""Requests of a kind that a node is given at a time, which is as many as it takes."""


class Part(Protocol):
    """What one node is asked and has said; `report` is None until it has begun."""

    node: str
    report: Any


class Status(Protocol):
    """A request and its parts; `done` once all nodes have said that they are."""

    number: int
    done: bool

    @property
    def nodes(self) -> list[Any]:
        """The parts, each a `Part`."""


S = TypeVar("S", bound=Status)


class Requests(Generic[S]):
    """All requests of one kind; a node is done with one when it reports a state of `over`."""

    def __init__(self, kind: str, over: frozenset[str], count_max: int) -> None:
        """`kind` is for people. Of more than `count_max` the oldest are forgotten."""
        self._kind = kind
        self._over = over
        self._count_max = count_max
        self._requests: dict[int, S] = {}
        self._open: dict[str, dict[int, Part]] = {}
        """Node -> number -> its part of a request, while it has not said that it is done."""

    def put(self, status: S) -> S:
        """Remember a request."""
        self._requests[status.number] = status
        for part in status.nodes:
            self._open.setdefault(part.node, {})[status.number] = part
        if len(self._requests) > self._count_max:
            oldest = next(iter(self._requests))
            for part in self._requests.pop(oldest).nodes:
                self._close(part.node, oldest)
        return status

    def get(self, number: int) -> S:
        """Return what came of a request. Raises `RequestRefused`."""
        status = self._requests.get(number)
        if status is None:
            raise RequestRefused(
                f"there is no {self._kind} {number}: the tracker was started anew, or has forgotten it", 404
            )
        return status

    def open_of(self, node_id: str) -> list[S]:
        """Return what a node is yet to do, the oldest first."""
        return [self._requests[number] for number in list(self._open.get(node_id, ()))[:REQUESTS_OF_NODE_MAX]]

    def note(self, node_id: str, reports: Iterable[Any]) -> bool:
        """Take in what a node says of its requests; tell whether it has fewer of them now."""
        closed = False
        for report in reports:
            part = self._open.get(node_id, {}).get(report.number)
            if part is None:
                continue
            part.report = report
            if report.state in self._over:
                self._close(node_id, report.number)
                closed = True
                status = self._requests[report.number]
                status.done = all(one.report is not None and one.report.state in self._over for one in status.nodes)
        return closed

    def _close(self, node_id: str, number: int) -> None:
        open_ones = self._open.get(node_id, {})
        open_ones.pop(number, None)
        if not open_ones:
            self._open.pop(node_id, None)
