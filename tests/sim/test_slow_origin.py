"""A large fleet at a slow origin: who is not linked with those who fetch what it waits for waits all the same."""

from __future__ import annotations

import pytest

from p2pfill.sim.scenario import Chaos, FaultSpec, Fleet, Scenario
from p2pfill.sim.world import World


def fleet(size_mib: float, origin_mbit: float, **settings: object) -> Scenario:
    """Twelve ISPs in four regions, with a bounded graph of links however few they are; chunks of 4 MiB."""
    return Scenario(
        isps={"cloud": ["origin"]}, fleet=Fleet(24, 12, 4), host_mbit=1000, rates={"origin": origin_mbit},
        size_mib=size_mib, chunk_kib=4096, neighbours=4, delay_ms=0.5, isp_delay_ms=5, region_delay_ms=40, **settings,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(("size_mib", "origin_mbit"), [(48, 50), (96, 100)])
def test_one_copy_leaves_an_origin_that_takes_longer_for_a_chunk_than_others_wait(
    size_mib: float, origin_mbit: float
) -> None:
    """All chunks come side by side, so the first takes about as long as all: several times the usual wait."""
    report = World(fleet(size_mib, origin_mbit), 1).run()
    assert report.origin_copies == 1.0
    assert report.escalations == {}
    assert report.time_over_bound < 1.3


def test_who_has_claimed_a_chunk_and_is_lost_is_not_waited_for() -> None:
    """What is passed on ends with those who say it: some seconds later, and not after the time of a claim."""
    cut_off = ("c00000", "c00001", "c00002")
    faults = tuple(FaultSpec("partition", at_s=3.0, for_s=200.0, node=name) for name in cut_off)
    world = World(fleet(48, 50, faults=faults), 1)
    world.run()
    others = [cache.live_at or 1e9 for name, cache in world.caches.items() if name not in cut_off]
    assert max(others) < 40.0


@pytest.mark.parametrize("seed", range(4))
def test_whatever_goes_wrong_all_complete(seed: int) -> None:
    World(fleet(48, 200, chaos=Chaos(count_max=8, span_s=10.0, titles_max=1)), seed).run()
