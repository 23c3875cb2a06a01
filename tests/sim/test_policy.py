"""Fills that keep to rules of the fleet's policy, in whole fleets: hops, waits, and faults beside them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from sim.worlds import CHAOS, SMALL, world

from p2pfill.errors import ConfigError
from p2pfill.model.limits import KIB, MIB
from p2pfill.model.policy import FillPolicy, Reach
from p2pfill.sim.scenario import Scenario, TitleSpec
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


def test_a_policy_chooses_by_cache_and_title() -> None:
    """One ISP may not go to the other, of films alone; each title is filled by its own rule."""
    policy = """
    [[fills]]
    name = "own"
    selector = "isp=isp-b"
    titles = "film-*"
    hops = ["isp", "origin"]
    """
    titles = (TitleSpec("film-1", 4, at_s=0, chunk_kib=256), TitleSpec("news", 4, at_s=0, chunk_kib=256))
    made = world(1, titles=titles, fleet_policy=policy)
    made.run()
    by_title = {title.name: dict.fromkeys(Scope, 0) for title in made.titles.values()}
    for fill in made.checkers.fills:
        for scope, count in fill.bytes_by_scope.items():
            by_title[fill.manifest.name][scope] += count if fill.me.isp == "isp-b" else 0
    assert by_title["film-1"][Scope.ORIGIN] == SIZE
    assert by_title["film-1"][Scope.REGION] == 0
    assert by_title["news"][Scope.ORIGIN] + by_title["news"][Scope.REGION] == pytest.approx(SIZE, rel=0.1)


def test_residency_leaves_out_the_caches_of_other_regions() -> None:
    policy = '[[residency]]\nname = "licence"\nregions = ["eu"]\n'
    made = world(1, regions={"isp-a": "eu", "isp-b": "us"}, fleet_policy=policy)
    made.run()
    (title,) = made.titles.values()
    assert title.caches == {"a1", "a2", "a3"}
    assert {fill.me.id for fill in made.checkers.fills} == title.caches
    assert made.checkers.bytes_by_scope[Scope.ORIGIN] == SIZE


@pytest.mark.parametrize("tier", ["total", "origin"])
def test_rates_of_a_policy_hold(tier: str) -> None:
    """One cache that has to have all of it from the origin takes as long as its limit says."""
    policy = f'[[caches]]\nname = "slow"\nrates = {{inbound = {{{tier} = "1MiB"}}}}\n'
    report = world(1, isps={"cloud": ["origin"], "isp-a": ["a1"]}, fleet_policy=policy).run()
    assert report.seconds == pytest.approx(4, rel=0.05)


def test_windows_of_a_policy_hold_with_their_rates() -> None:
    policy = '[[caches]]\nname = "night"\nwindows = "02:00,1MiB 08:00,off"\n'
    isps = {"cloud": ["origin"], "isp-a": ["a1"]}
    report = world(1, isps=isps, fleet_policy=policy, wall_at="2026-11-29T01:59:00").run()
    assert report.seconds == pytest.approx(64, rel=0.05)


def test_what_is_held_is_a_source_and_who_has_no_order_fetches_nothing() -> None:
    """a1 holds it and has no order; b2 has half of it. a2 is alone with an order in its ISP."""
    title = TitleSpec(
        "film", 4, at_s=0, chunk_kib=256, caches=("a2", "b1", "b2"), held={"a1": 1.0, "b2": 0.5}, parts={"b1": 0.25}
    )
    made = world(1, titles=(title,))
    report = made.run()
    assert report.complete == 6
    got = {fill.me.id: sum(fill.bytes_by_scope.values()) for fill in made.checkers.fills}
    assert got == {"a2": SIZE, "b1": SIZE // 4, "b2": SIZE // 2}
    assert made.checkers.bytes_by_scope[Scope.ORIGIN] == 0, "a1 has all of it"
    assert made.checkers.bytes_by_scope[Scope.REGION] == SIZE // 2, "b1 takes its quarter from b2"


@pytest.mark.parametrize("spans", [((5.0, 5.0, 9.0),), ((0.0, 0.0, 0.1), (15.0, 20.0, 30.0))])
def test_a_cache_is_open_when_it_is_said_to_be(spans: tuple[tuple[float, float, float], ...]) -> None:
    made = world(1, isps={"cloud": ["origin"], "isp-a": ["a1"]}, open_spans={"a1": spans}, size_mib=16)
    report = made.run()
    assert report.seconds > spans[-1][1]


def test_a_run_with_an_end_says_what_is_lacking_and_ends_sooner_where_nothing_comes() -> None:
    policy = '[[fills]]\nname = "never"\nhops = ["isp"]\n'
    report = world(1, fleet_policy=policy, end_s=3600.0, quiet_s=20.0).run()
    assert report.complete == 0
    assert report.samples[-1].at_s < 60
    later = world(1, fleet_policy=policy, end_s=200.0, quiet_s=20.0, open_spans={"a1": ((150.0, 150.0, 160.0),)}).run()
    assert later.samples[-1].at_s > 150, "a window is to come"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fleet_policy": "[[fills]]\nhops = 3"}, "cannot be used"),
        ({"titles": (TitleSpec("film", 4, at_s=0, caches=("x9",)),)}, "x9"),
        ({"titles": (TitleSpec("film", 4, at_s=0, held={"a1": 2.0}),)}, "from 0 to 1"),
    ],
)
def test_scenarios_that_do_not_fit_together(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        msgspec.structs.replace(SMALL, **changes).check()


BUDGET = '[[budgets]]\nname = "cloud"\norigins = "https://cloud.example/*"\nbytes = "{}"\n'


@pytest.mark.parametrize("seed", range(3))
def test_budgets_of_origins_hold_and_are_not_exceeded(seed: int) -> None:
    """Half of the title may come; of another origin all of it."""
    titles = (
        TitleSpec("film", 4, at_s=0, chunk_kib=256, origin="https://cloud.example/film"),
        TitleSpec("news", 4, at_s=0, chunk_kib=256, origin="https://other.example/news"),
    )
    made = world(seed, titles=titles, fleet_policy=BUDGET.format("2MiB"), end_s=3600.0, quiet_s=300.0)
    report = made.run()
    assert report.titles["news"].complete == 6
    assert report.titles["film"].complete == 0
    film = [fill for fill in made.checkers.fills if fill.manifest.name == "film"]
    came = sum(fill.bytes_by_scope[Scope.ORIGIN] for fill in film)
    assert came <= made.budgets.used()["cloud"] <= 2 * MIB
    assert came >= MIB
    assert {fill.ledger.have.count() for fill in film} == {came // (256 * KIB)}, "what came is shared"


TRANSIT = '[[budgets]]\nname = "transit"\ntier = "regional"\nbytes = "{}"\n'


@pytest.mark.parametrize("seed", range(3))
def test_a_budget_of_the_regional_tier_holds_and_is_shared(seed: int) -> None:
    """Each ISP lacks half of the title: less than that may cross."""
    titles = (TitleSpec("film", 4, at_s=0, chunk_kib=256), TitleSpec("news", 4, at_s=60, chunk_kib=256))
    made = world(seed, titles=titles, fleet_policy=TRANSIT.format("3MiB"), end_s=3600.0, quiet_s=300.0)
    made.run()
    fills = made.checkers.fills
    came = sum(fill.bytes_by_scope[scope] for fill in fills for scope in (Scope.REGION, Scope.WORLD))
    assert came <= made.budgets.used()["transit"] <= 3 * MIB
    assert came >= 2 * MIB, "of two ISPs one may hold the allowance that the other lacks"
    origin = sum(fill.bytes_by_scope[Scope.ORIGIN] for fill in fills)
    assert origin <= 8 * MIB, "what caches hold is not fetched from the origin for that"
    waiting = [fill.waits() for fill in fills if not fill.ledger.is_complete()]
    assert any("budget 'transit' of the fleet's policy" in why for waits in waiting for why in waits)


def test_a_regional_budget_that_is_large_enough_costs_nothing() -> None:
    report = world(1, fleet_policy=TRANSIT.format("1GB")).run()
    assert (report.complete, report.origin_copies) == (6, pytest.approx(1.0, abs=0.07))


def test_a_regional_budget_under_faults() -> None:
    for seed in range(4):
        World(msgspec.structs.replace(CHAOTIC, fleet_policy=TRANSIT.format("1TB")), seed).run()


def test_a_budget_that_is_large_enough_costs_nothing() -> None:
    report = world(1, fleet_policy='[[budgets]]\nname = "all"\nbytes = "1GB"\n').run()
    assert (report.complete, report.origin_copies) == (6, pytest.approx(1.0, abs=0.07))


def test_budgets_under_faults() -> None:
    for seed in range(4):
        World(msgspec.structs.replace(CHAOTIC, fleet_policy='[[budgets]]\nname = "all"\nbytes = "1TB"\n'), seed).run()
