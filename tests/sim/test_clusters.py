"""The hop `cluster` in whole fleets: what crosses between clusters of an ISP crosses once for each of them."""

from __future__ import annotations

import msgspec
import pytest
from sim.worlds import CHAOS, SMALL

from p2pfill.model.ids import NodeId
from p2pfill.model.limits import MIB
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import ANYWHERE, FillPolicy, Reach
from p2pfill.sim.faults import FaultSpec
from p2pfill.sim.scenario import Scenario, TitleSpec
from p2pfill.sim.world import World
from p2pfill.swarm.election import Scope

SIZE = SMALL.size
CLUSTERED = Reach(isp_s=0.0, rule="clusters")


def fleet(clusters: int = 3, caches: int = 3, isps: int = 1) -> Scenario:
    """Return ISPs with clusters of some caches each."""
    infos = [
        NodeInfo(NodeId(f"{'abc'[isp]}{cluster}{number}"), f"isp-{isp}", "eu", f"rack-{cluster}")
        for isp in range(isps)
        for cluster in range(clusters)
        for number in range(caches)
    ]
    return msgspec.structs.replace(SMALL, isps={}, caches=tuple(infos), origin="the origin")


def moved(scenario: Scenario, reach: Reach, seed: int) -> tuple[dict[Scope, int], World]:
    made = World(msgspec.structs.replace(scenario, policy=FillPolicy(reach=reach)), seed)
    report = made.run()
    assert report.complete == len(scenario.caches)
    return dict(made.checkers.bytes_by_scope), made


@pytest.mark.parametrize("seed", range(3))
def test_each_cluster_takes_one_copy_and_shares_it(seed: int) -> None:
    found, _ = moved(fleet(), CLUSTERED, seed)
    assert SIZE <= found[Scope.ORIGIN] <= 1.05 * SIZE
    # Of three clusters each fetches a third of the title from outside, and the rest from the two others.
    assert 1.95 * SIZE <= found[Scope.ISP] <= 2.1 * SIZE
    plain, _ = moved(fleet(), ANYWHERE, seed)
    assert plain.get(Scope.CLUSTER, 0) == 0
    assert plain[Scope.ISP] > 3.5 * found[Scope.ISP]


@pytest.mark.parametrize("seed", range(3))
def test_borders_of_isps_are_crossed_once_with_clusters_too(seed: int) -> None:
    found, made = moved(fleet(clusters=2, caches=2, isps=3), CLUSTERED, seed)
    assert SIZE <= found[Scope.ORIGIN] <= 1.05 * SIZE
    assert 2 * SIZE <= found[Scope.REGION] + found[Scope.ORIGIN] <= 3.1 * SIZE
    assert not any(fill.escalations for fill in made.checkers.fills)


def test_a_cluster_of_one_cache_takes_what_it_lacks_from_others() -> None:
    found, _ = moved(fleet(clusters=4, caches=1), CLUSTERED, 1)
    assert found.get(Scope.CLUSTER, 0) == 0
    assert 2.9 * SIZE <= found[Scope.ISP] <= 3.1 * SIZE


def test_the_wait_of_the_hop_holds() -> None:
    """Each cluster gets a half from outside at once, and waits for the other one."""
    _, made = moved(fleet(clusters=2), Reach(isp_s=20.0, rule="later"), 1)
    assert min(fill.moved_at for fill in made.checkers.fills) >= 20.0
    assert not any(fill.escalations for fill in made.checkers.fills)


def test_a_cluster_whose_share_takes_minutes_to_bring_takes_one_copy_too() -> None:
    """One cluster has all of it already. While a cache gets on with its share nobody stands in for it."""
    names = [f"b{number}" for number in range(4)]
    has, lacks = [NodeInfo(NodeId(f"a{number}"), "isp", "eu", "rack-a") for number in range(4)], [
        NodeInfo(NodeId(name), "isp", "eu", "rack-b") for name in names
    ]
    film = TitleSpec("film", 128, at_s=0, chunk_kib=1024, caches=tuple(names), held={one.id: 1.0 for one in has})
    slow = msgspec.structs.replace(
        SMALL, isps={}, caches=(*has, *lacks), origin="the origin", host_mbit=10, titles=(film,)
    )
    made = World(msgspec.structs.replace(slow, policy=FillPolicy(reach=CLUSTERED)), 1)
    report = made.run()
    assert report.seconds > 60
    assert 1.0 <= made.checkers.bytes_by_scope[Scope.ISP] / (128 * MIB) <= 1.02


@pytest.mark.parametrize("kind", ["crash", "freeze", "partition", "one-way", "slow"])
def test_a_cluster_whose_caches_fail_completes(kind: str) -> None:
    faults = (FaultSpec(kind, at_s=0.1, for_s=30.0, node="a01"),)
    for seed in range(4):
        changes = msgspec.structs.replace(fleet(clusters=2), faults=faults, policy=FillPolicy(reach=CLUSTERED))
        World(changes, seed).run()


def test_clusters_under_chaos() -> None:
    for seed in range(6):
        scenario = Scenario.load(CHAOS)
        infos = [
            NodeInfo(NodeId(name), isp, scenario.regions.get(isp, ""), f"rack-{place % 2}")
            for isp, names in scenario.isps.items()
            for place, name in enumerate(names)
        ]
        origin = next(info for info in infos if info.id == "origin")
        changes = msgspec.structs.replace(
            scenario, isps={}, caches=tuple(info for info in infos if info is not origin), origin="origin",
            policy=msgspec.structs.replace(scenario.policy, reach=CLUSTERED),
        )  # fmt: skip
        World(changes, seed).run()
