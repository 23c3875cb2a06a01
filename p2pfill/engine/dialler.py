"""With whom a cache is to be linked, and when it dials. Pure.

Of two caches the one with the lower id dials, so that a pair ends up with one link. A link that fails is dialled again,
with growing pauses, for as long as the roster names the cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from p2pfill.model.node import NodeInfo
from p2pfill.model.timing import REDIAL_MAX_S, REDIAL_S

if TYPE_CHECKING:
    from random import Random

NEVER: Final = float("inf")


class Dial(msgspec.Struct, frozen=True):
    """Connect to a cache; say what came of it (`Engine.open_link` with `dialled`, or `Engine.dial_failed`)."""

    node: NodeInfo


class _Target:
    """One cache to be linked with."""

    __slots__ = ("at", "pause_s", "started_at")

    def __init__(self, now: float) -> None:
        self.at = now
        """When it is to be dialled; `NEVER` while it is being dialled or linked."""
        self.pause_s = REDIAL_S
        self.started_at = now


class Dialler:
    """Dials for the cache `me`; `random` spreads the pauses."""

    def __init__(self, me: str, random: Random) -> None:
        self._me = me
        self._random = random
        self._wanted: dict[str, NodeInfo] = {}
        self._targets: dict[str, _Target] = {}
        self.next_at = NEVER
        """When `poll` has something to return."""

    def is_wanted(self, node_id: str) -> bool:
        """Tell whether the roster names a cache; where there is no roster, all count."""
        return not self._wanted or node_id in self._wanted

    def want(self, now: float, nodes: Iterable[NodeInfo]) -> None:
        """Be linked with these from now on. Links with others stay while they last, but are not renewed."""
        before = self._wanted
        self._wanted = {node.id: node for node in nodes if node.id != self._me}
        for node_id, node in self._wanted.items():
            if node_id < self._me:
                continue
            target = self._targets.get(node_id)
            if target is None:
                self._targets[node_id] = _Target(now)
            elif before.get(node_id) != node and target.at < NEVER:
                # It has been started anew elsewhere, or is back: no reason to wait any longer.
                target.at, target.pause_s = now, REDIAL_S
        self._find_next()

    def failed(self, now: float, node_id: str) -> None:
        """Note that a dial has failed, or that the link that it made has ended."""
        target = self._targets.get(node_id)
        if target is None or target.at < NEVER:
            return
        if now - target.started_at > REDIAL_MAX_S:
            target.pause_s = REDIAL_S
        target.at = now + target.pause_s * (1 + self._random.random())
        target.pause_s = min(2 * target.pause_s, REDIAL_MAX_S)
        self._find_next()

    def poll(self, now: float) -> list[Dial]:
        """Return whom to dial now."""
        if now < self.next_at:
            return []
        dials = []
        for node_id, target in list(self._targets.items()):
            if target.at > now:
                continue
            node = self._wanted.get(node_id)
            if node is None:
                del self._targets[node_id]
                continue
            target.at, target.started_at = NEVER, now
            dials.append(Dial(node))
        self._find_next()
        return dials

    def _find_next(self) -> None:
        self.next_at = min((target.at for target in self._targets.values()), default=NEVER)
