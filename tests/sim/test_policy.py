"""Fills that keep to rules of the fleet's policy, in whole fleets: hops, waits, and faults beside them."""

from __future__ import annotations

import msgspec
import pytest
from sim.worlds import CHAOS, SMALL, world

from p2pfill.model.policy import FillPolicy, Reach
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.world import World
from p2pfill.swarm.election import Scope

CHAOTIC = Scenario.load(CHAOS)
SIZE = SMALL.size


def bytes_of(made: World) -> dict[Scope, int]:
    made.run()
    return dict(made.checkers.bytes_by_scope)


@pytest.mark.parametrize("seed", range(3))
def test_the_origin_is_left_alone_for_as_long_as_the_rule_says_and_then_gives_one_copy(seed: int) -> None:
    made = world(seed, policy=FillPolicy(reach=Reach(origin_s=20.0, rule="late")))
    found = bytes_of(made)
    assert SIZE <= found[Scope.ORIGIN] <= 1.05 * SIZE
    assert not any(fill.escalations for fill in made.checkers.fills), "nobody is passed over for keeping to a rule"
    assert min(fill.moved_at for fill in made.checkers.fills) >= 20.0


@pytest.mark.parametrize("seed", range(3))
def test_without_hops_between_each_isp_takes_its_own_copy_from_the_origin(seed: int) -> None:
    found = bytes_of(world(seed, policy=FillPolicy(reach=Reach(None, None, 0.0, "own"))))
    assert found.get(Scope.REGION, 0) == found.get(Scope.WORLD, 0) == 0
    assert 2 * SIZE <= found[Scope.ORIGIN] <= 2.1 * SIZE


@pytest.mark.parametrize("seed", range(3))
def test_without_the_hop_to_other_regions_each_region_takes_its_own_copy(seed: int) -> None:
    regions = {"isp-a": "eu", "isp-b": "us"}
    found = bytes_of(world(seed, regions=regions, policy=FillPolicy(reach=Reach(0.0, None, 5.0, "own"))))
    assert found.get(Scope.WORLD, 0) == 0
    assert 2 * SIZE <= found[Scope.ORIGIN] <= 2.1 * SIZE


@pytest.mark.parametrize(
    "reach", [Reach(1.0, 2.0, 4.0, "waits"), Reach(None, None, 1.0, "isp"), Reach(0.0, None, 0.0, "region")]
)
def test_seeds_of_faults(reach: Reach) -> None:
    for seed in range(6):
        World(msgspec.structs.replace(CHAOTIC, policy=msgspec.structs.replace(CHAOTIC.policy, reach=reach)), seed).run()
