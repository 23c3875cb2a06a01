"""The tracker, as caches notice it: orders, and rosters that change with a delay. Twin of `tracker.service`.

A cache that is gone is found out after its lease; one that boots is told its order again. While the tracker is down
nothing is told, and what has changed meanwhile is told when it is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfill.sim.roster import neighbourhoods

if TYPE_CHECKING:
    from p2pfill.sim.cache import SimCache
    from p2pfill.sim.world import World


class SimTracker:
    """Knows all caches, and tells each of its neighbourhood."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._around = neighbourhoods(world.scenario, [cache.info for cache in world.caches.values()], world.random)
        self._alive: dict[str, bool] = {name: cache.running for name, cache in world.caches.items()}
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
                state = cache.running
                if self._alive[cache.info.id] != state:
                    self._set_alive(cache, state)
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
        if self._alive[cache.info.id] != alive:
            self._alive[cache.info.id] = alive
            for other in self._world.caches.values():
                self._tell_soon(other)

    # ---- what it tells

    def _tell_soon(self, cache: SimCache) -> None:
        if self._down:
            self._untold[cache.info.id] = None
        else:
            delay_s = self._world.random.uniform(0.0, self._world.scenario.order_ms * 1e-3)
            self._world.schedule.after(delay_s, self._tell, cache)

    def _tell(self, cache: SimCache) -> None:
        """Give a cache its order with the roster of the moment; the node's side of it is `node.agent`."""
        if self._down or not cache.running:
            if self._down:
                self._untold[cache.info.id] = None
            return
        world = self._world
        around = self._around[cache.info.id]
        cache.peers.want(info for info in around.links if self._alive[info.id])
        members = [info for info in around.members if self._alive[info.id] and self._is_filling(info.id)]
        if cache.filling is not None:
            if not cache.filling.over:
                cache.filling.set_members([*members, cache.info])
                cache.pump()
        elif cache.live_at is None:
            known = [info for info in around.links if self._alive[info.id]]
            cache.start_fill([*members, cache.info], known)
        if world.scenario.poll_s and not cache.polled:
            cache.polled = True
            world.schedule.after(world.scenario.poll_s, self._poll, cache, cache.boots)

    def _is_filling(self, name: str) -> bool:
        # A stand-in counts for its whole group, of which others may still be filling.
        return bool(self._world.scenario.neighbours) or self._world.caches[name].live_at is None

    def _poll(self, cache: SimCache, boots: int) -> None:
        """Tell anew what a long poll brings when it ends without news."""
        if cache.running and cache.boots == boots and cache.live_at is None:
            cache.polled = False
            self._tell_soon(cache)
