"""Caches that serve their own ISP alone: nobody else asks them for anything, and all fills complete."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sim.worlds import CHAOS, SMALL

from p2pfill.model.ids import NodeId
from p2pfill.model.node import SERVES_ISP, NodeInfo
from p2pfill.sim.checkers import InvariantBroken
from p2pfill.sim.faults import FaultSpec
from p2pfill.sim.scenario import Fleet, Scenario, TitleSpec
from p2pfill.sim.world import World
from p2pfill.swarm.election import Scope, hold_elections


def moved(scenario: Scenario = SMALL, seed: int = 1, **changes: Any) -> tuple[dict[Scope, float], World]:
    """Return how many copies of the title came from where; each request is looked at on the way (`sim.checkers`)."""
    made = World(msgspec.structs.replace(scenario, **changes), seed)
    report = made.run()
    assert report.complete == len(made.caches)
    (title,) = made.titles.values()
    return {scope: size / title.manifest.size for scope, size in made.checkers.bytes_by_scope.items()}, made


def escalations(made: World) -> int:
    return sum(fill.escalations.total() for fill in made.checkers.fills)


@pytest.mark.parametrize("seed", range(3))
def test_an_isp_of_such_caches_takes_from_others_what_they_lead(seed: int) -> None:
    found, made = moved(seed=seed, inward=("isp-a",))
    # isp-b fetches all of it from the origin, and isp-a one copy from isp-b.
    assert 1.0 <= found[Scope.ORIGIN] <= 1.05
    assert 1.0 <= found[Scope.REGION] <= 1.05
    assert not escalations(made)


@pytest.mark.parametrize("seed", range(3))
def test_where_there_are_others_in_the_isp_those_fetch(seed: int) -> None:
    found, made = moved(seed=seed, inward=("a1", "b2"))
    assert 1.0 <= found[Scope.ORIGIN] <= 1.05
    assert 0.95 <= found[Scope.REGION] <= 1.05
    assert not escalations(made)
    for name in ("a1", "b2"):
        (fill,) = (fill for fill in made.checkers.fills if fill.me.id == name)
        assert not any(mine.any() for scope, mine in made.checkers._nominal_of(fill).items() if scope > Scope.ISP)


@pytest.mark.parametrize("seed", range(3))
def test_where_nobody_serves_others_each_isp_goes_to_the_origin(seed: int) -> None:
    found, made = moved(seed=seed, inward=("isp-a", "isp-b"))
    assert 2.0 <= found[Scope.ORIGIN] <= 2.1
    assert found[Scope.REGION] == 0
    assert not escalations(made)


def test_a_region_of_such_caches_takes_from_the_world() -> None:
    regions = {"isp-a": "eu", "isp-b": "us"}
    found, _ = moved(inward=("isp-a",), regions=regions)
    assert (1.0 <= found[Scope.ORIGIN] <= 1.05, 1.0 <= found[Scope.WORLD] <= 1.05) == (True, True)


@pytest.mark.parametrize("kind", ["crash", "freeze", "partition", "slow"])
def test_when_those_who_serve_others_fail_the_rest_of_the_isp_goes_on(kind: str) -> None:
    for seed in range(3):
        for inward in (("a2", "a3"), ("isp-b", "a2", "a3")):
            faults = (FaultSpec(kind, at_s=0.05, for_s=20.0, node="a1"),)
            World(msgspec.structs.replace(SMALL, faults=faults, inward=inward), seed).run()


def test_under_chaos() -> None:
    for seed in range(4):
        scenario = Scenario.load(CHAOS)
        isps = [isp for isp, names in scenario.isps.items() if "origin" not in names]
        singles = tuple(scenario.isps[isp][0] for isp in isps[seed % 2 :])
        World(msgspec.structs.replace(scenario, inward=(isps[seed % len(isps)], *singles)), seed).run()


@pytest.mark.parametrize("inward", [("isp001",), ("isp000", "isp001", "isp002"), ("c00000", "c00031", "c00070")])
def test_in_a_large_fleet(inward: tuple[str, ...]) -> None:
    large = Fleet(caches=72, isps=4, regions=2)
    found, made = moved(
        isps={}, fleet=large, origin="the origin", inward=inward, size_mib=1, chunk_kib=64, check_tiers=False
    )
    assert found[Scope.ORIGIN] <= 1.3
    # Into each of the four ISPs it came once, or hardly more often: they have masters, too.
    assert found[Scope.ORIGIN] + found[Scope.REGION] + found[Scope.WORLD] <= 5.0
    assert any(info.is_inward for info in made.scenario.infos())


HELD = TitleSpec("film", SMALL.size_mib, at_s=0, chunk_kib=256, held={"a1": 1.0, "a2": 1.0, "a3": 1.0})


def test_what_they_alone_hold_others_take_from_the_origin() -> None:
    found, _ = moved(inward=("isp-a",), titles=(HELD,))
    assert (found[Scope.REGION], 1.0 <= found[Scope.ORIGIN] <= 1.05) == (0, True)
    found, _ = moved(titles=(HELD,))
    assert (found[Scope.ORIGIN], 1.0 <= found[Scope.REGION] <= 1.05) == (0, True)


def test_the_checker_finds_who_asks_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfill.model.node.NodeInfo.may_serve", lambda *_: True)
    with pytest.raises(InvariantBroken, match="serves its own ISP alone"):
        moved(inward=("isp-a",), titles=(HELD,))


def test_elections_know_them() -> None:
    def node(name: str, isp: str, serves: str = "") -> NodeInfo:
        return NodeInfo(NodeId(name), isp, "eu", serves=serves)

    title = bytes(32)
    mixed = [node("a1", "a"), node("a2", "a", SERVES_ISP), node("b1", "b")]
    held = hold_elections(title, 64, mixed)  # type: ignore[arg-type]
    assert held.within(mixed[0])[Scope.REGION].count() == 64
    assert held.within(mixed[1])[Scope.REGION].count() == 0
    assert 20 <= held.within(mixed[2])[Scope.ORIGIN].count() <= 44
    # Who lacks the only one that serves others lets the ISP lead nobody, and the rest of it take its place there.
    without = hold_elections(title, 64, mixed, without=["a1"])  # type: ignore[arg-type]
    assert without.within(mixed[1])[Scope.REGION].count() == 64
    assert without.within(mixed[1])[Scope.ORIGIN].count() == 0
    assert without.within(mixed[2])[Scope.ORIGIN].count() == 64
