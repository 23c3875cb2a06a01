"""With whom a cache is linked: the twin of `node.peers.Peers`.

Of two caches the one with the lower id dials. A link that fails is dialled again, with growing pauses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfill.model.pace import CONNECT_TIMEOUT_S, REDIAL_MAX_S, REDIAL_S
from p2pfill.sim.channel import PlainEnd, WireEnd, hello_of
from p2pfill.sim.link import SimLink

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pfill.model.node import NodeInfo
    from p2pfill.sim.cache import SimCache


class _Dial:
    """One cache to be linked with."""

    __slots__ = ("link", "pause_s", "started_at", "waiting")

    def __init__(self) -> None:
        self.pause_s = REDIAL_S
        self.started_at = 0.0
        self.link: SimLink | None = None
        self.waiting = 0
        """Changes whenever a pause begins or is cut short."""


class SimPeers:
    """Dials for one process of one cache."""

    def __init__(self, cache: SimCache) -> None:
        self._cache = cache
        self._wanted: dict[str, NodeInfo] = {}
        self._dials: dict[str, _Dial] = {}
        self._stopped = False

    def want(self, nodes: Iterable[NodeInfo]) -> None:
        """Be linked with these from now on."""
        before, mine = self._wanted, self._cache.info.id
        self._wanted = {node.id: node for node in nodes if node.id != mine}
        for name in self._wanted:
            if mine > name:
                continue
            dial = self._dials.get(name)
            if dial is None:
                self._dials[name] = _Dial()
                self._dial(name)
            elif name not in before and dial.waiting:
                dial.pause_s = REDIAL_S
                self._dial(name)

    def stop(self) -> None:
        """Dial no more: the process has ended."""
        self._stopped = True

    def link_ended(self, link: SimLink) -> None:
        """Dial again what this process has dialled."""
        dial = self._dials.get(link.route.receiver.name)
        if dial is not None and dial.link is link:
            dial.link = None
            self._pause(link.route.receiver.name, dial)

    def _dial(self, name: str) -> None:
        world = self._cache.world
        dial = self._dials[name]
        dial.waiting = 0
        dial.started_at = world.schedule.now
        if name not in self._wanted:
            del self._dials[name]
            return
        target = world.caches[name]
        route = world.internet.route(self._cache.place, target.place)
        if world.internet.is_cut(route):
            world.schedule.after(CONNECT_TIMEOUT_S, self._pause, name, dial)
        else:
            world.schedule.after(2 * route.delay_s(), self._connect, name, dial)

    def _connect(self, name: str, dial: _Dial) -> None:
        if self._stopped:
            return
        cache = self._cache
        target = cache.world.caches[name]
        internet = cache.world.internet
        ways = internet.route(cache.place, target.place), internet.route(target.place, cache.place)
        if not target.running or internet.is_cut(ways[0]):
            self._pause(name, dial)
            return
        mine, theirs = (SimLink(one, _end(one), way) for one, way in zip((cache, target), ways, strict=True))
        mine.peer, theirs.peer = theirs, mine
        dial.link = mine
        cache.opening[mine] = None
        target.opening[theirs] = None
        mine.open()
        theirs.open()

    def _pause(self, name: str, dial: _Dial) -> None:
        if self._stopped or self._dials.get(name) is not dial:
            return
        schedule = self._cache.world.schedule
        if schedule.now - dial.started_at > REDIAL_MAX_S:
            dial.pause_s = REDIAL_S
        self._cache.world.pauses += 1
        dial.waiting = self._cache.world.pauses
        pause_s = dial.pause_s * (1 + self._cache.world.random.random())
        dial.pause_s = min(2 * dial.pause_s, REDIAL_MAX_S)
        schedule.after(pause_s, self._dial_again, name, dial, dial.waiting)

    def _dial_again(self, name: str, dial: _Dial, waiting: int) -> None:
        if not self._stopped and self._dials.get(name) is dial and dial.waiting == waiting:
            self._dial(name)


def _end(cache: SimCache) -> PlainEnd | WireEnd:
    hello = hello_of(cache.info, f"boot{cache.boots}")
    return WireEnd(hello) if cache.world.scenario.wire else PlainEnd(hello)
