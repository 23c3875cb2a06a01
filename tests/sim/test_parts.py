"""Caches that want some files of a title each: every chunk leaves the origin once, and whoever can finish finishes."""

from __future__ import annotations

import msgspec
import pytest
from sim.worlds import CHAOS

from p2pfill.model.bitmap import Bitmap
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.world import World
from p2pfill.swarm.election import Scope

SCENARIO = msgspec.structs.replace(Scenario.load(CHAOS), parts=9)
CALM = msgspec.structs.replace(SCENARIO, chaos=None)


def test_what_somebody_wants_leaves_the_origin_once_and_nothing_else_does() -> None:
    left, wanted = 0, 0
    for seed in range(12):
        world = World(CALM, seed)
        world.run()
        (title,) = world.titles.values()
        anywhere = Bitmap(title.manifest.chunk_count)
        for cache in world.caches.values():
            stored = cache.stored[title.id]
            assert stored.durable == stored.wanted, "nothing is fetched but what is wanted"
            anywhere = anywhere | stored.wanted
        left += world.checkers.bytes_by_scope[Scope.ORIGIN]
        wanted += sum(map(title.manifest.chunk_length, anywhere.indexes()))
    # As with whole titles, a chunk of some hundred is asked for twice while the orders are on their way.
    assert wanted <= left <= 1.02 * wanted


@pytest.mark.parametrize("first", range(0, 24, 12))
def test_seeds_of_faults(first: int) -> None:
    for seed in range(first, first + 12):
        World(SCENARIO, seed).run()
