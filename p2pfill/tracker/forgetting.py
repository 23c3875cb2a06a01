"""When the tracker forgets a node by itself. Pure.

Whoever reaches the tracker can make nodes up, and a node that is removed is one anew when it reports again: it is told
its orders by their selectors. So nothing is lost with one that is forgotten but what is shown of it, and the table of
nodes need not grow with everybody who ever called.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

NODES_MAX: Final = 100_000
"""Five times the fleet that one tracker is meant for."""

NODES_OF_ADDRESS_MAX: Final = NODES_MAX // 2
"""That may first have reported from one address: there may be a whole fleet behind it."""

NEWCOMER_S: Final = 3600.0
"""A node that has reported for less than this is a newcomer."""

NEWCOMER_KEPT_S: Final = 86400.0
"""How long one is kept after its last heartbeat: until somebody has looked at what was tried here."""

KEPT_S: Final = 30 * 86400.0
"""How long any other one is: longer than a cache is away for repair."""

CHECK_S: Final = 60.0
AT_ONCE: Final = 1000
"""Nodes that are forgotten at a time, each with all that follows for rosters."""


class Known(Protocol):
    """What matters of a node. Times are seconds since the epoch."""

    alive: bool
    first_at: float
    """Of its first heartbeat; 0 where that is not known, so long ago is it."""
    seen_at: float
    """Of its last one."""


def is_newcomer(node: Known) -> bool:
    """Tell whether a node has reported for a short time only."""
    return node.seen_at - node.first_at < NEWCOMER_S


def are_due(nodes: Iterable[tuple[str, Known]], now: float) -> list[str]:
    """Return the nodes that are to be forgotten."""
    due = (
        node_id
        for node_id, node in nodes
        if not node.alive and now - node.seen_at > (NEWCOMER_KEPT_S if is_newcomer(node) else KEPT_S)
    )
    return list(due)[:AT_ONCE]


def first_to_go(nodes: Iterable[tuple[str, Known]]) -> list[str]:
    """Return newcomers that report no more, those first that have been silent longest: what a full table loses."""
    gone = [(node.seen_at, node_id) for node_id, node in nodes if not node.alive and is_newcomer(node)]
    return [node_id for _, node_id in sorted(gone)[:AT_ONCE]]
