"""The tracker, as caches notice it: orders, and rosters that change with a delay. It stands for `tracker.service`.

A cache that is gone is found out after its lease; one that boots is told its order again. While the tracker is down
nothing is told, and what has changed meanwhile is told when it is back.
"""

from __future__ import annotations

from p2pfill.sim.cache import SimCache, SimWorld
from p2pfill.sim.roster import neighbourhoods
from p2pfill.swarm.neighbourhood import Member, electorate


class SimTracker:
    """Knows all caches, and tells each of its neighbourhood."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._around = neighbourhoods(world.scenario)
        self._around.put_all(Member(cache.info, True) for cache in world.caches.values() if cache.running)
        self._down = 0
        self._untold: dict[str, None] = {}

    def begin(self) -> None:
        """Order the title for all."""
        for cache in self._world.caches.values():
            self._tell_soon(cache)

    # ---- what happens to it

    def go_down(self) -> None:
        """Be away; several outages add up."""
        self._down += 1

    def come_back(self) -> None:
        """Be there again."""
        self._down -= 1
        if not self._down:
            untold, self._untold = self._untold, {}
            for cache in self._world.caches.values():
                self._set_alive(cache, cache.running)
            for name in untold:
                self._tell_soon(self._world.caches[name])

    def cache_ended(self, cache: SimCache) -> None:
        """Find out, after its lease, that a cache is gone."""
        self._world.schedule.after(self._world.scenario.lease_s, self._expire, cache, cache.boots)

    def cache_booted(self, cache: SimCache) -> None:
        """Hear from a cache again."""
        if not self._down:
            self._set_alive(cache, True)
        self._tell_soon(cache)

    def _expire(self, cache: SimCache, boots: int) -> None:
        if not self._down and not cache.running and cache.boots == boots:
            self._set_alive(cache, False)

    def _set_alive(self, cache: SimCache, alive: bool) -> None:
        if (cache.info.id in self._around.members) == alive:
            return
        changed = self._around.put(cache.info, counts=True) if alive else self._around.drop(cache.info.id)
        for name in self._world.caches if self._around.is_small else sorted(changed):
            self._tell_soon(self._world.caches[name])

    # ---- what it tells

    def _tell_soon(self, cache: SimCache) -> None:
        if self._down:
            self._untold[cache.info.id] = None
        else:
            delay_s = self._world.random.uniform(0.0, self._world.scenario.order_ms * 1e-3)
            self._world.schedule.after(delay_s, self._tell, cache)

    def _tell(self, cache: SimCache) -> None:
        """Give a cache its order with the present roster; the node's side of it is `node.agent`."""
        if self._down or not cache.running:
            if self._down:
                self._untold[cache.info.id] = None
            return
        world = self._world
        links = [world.caches[name].info for name in self._around.links(cache.info)]
        cache.want_links(links)
        election = self._around.election(cache.info)
        unlinked: tuple[str, ...] = ()
        if election is not None:
            members, unlinked = electorate(cache.info, election, links)
        else:
            members = (*(info for info in links if world.caches[info.id].live_at is None), cache.info)
        if cache.task is not None:
            cache.set_members(members, unlinked)
        elif cache.live_at is None:
            cache.start_fill(members, links, unlinked)
        if world.scenario.poll_s and not cache.polled:
            cache.polled = True
            world.schedule.after(world.scenario.poll_s, self._poll, cache, cache.boots)

    def _poll(self, cache: SimCache, boots: int) -> None:
        """Tell anew what a long poll brings when it ends without news."""
        if cache.running and cache.boots == boots and cache.live_at is None:
            cache.polled = False
            self._tell_soon(cache)
