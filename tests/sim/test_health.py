"""A cache that is busy with its viewers gives less, says so, and holds up nobody; the minimum service is kept."""

from __future__ import annotations

import pytest

from p2pfill.model.policy import FillPolicy, Reach
from p2pfill.sim.report import Report
from p2pfill.sim.scenario import FaultSpec, Scenario
from p2pfill.sim.world import World


def run(factor: float, at_s: float, seed: int, for_s: float = float("inf"), minimum: int = 0) -> Report:
    """Three ISPs of three caches, of which the viewers of one leave `factor` of its link."""
    scenario = Scenario(
        isps={"cloud": ["origin"], **{f"isp-{one}": [f"{one}{number}" for number in (1, 2, 3)] for one in "abc"}},
        regions={"isp-a": "eu", "isp-b": "eu", "isp-c": "us"}, host_mbit=100, rates={"origin": 1000}, size_mib=64,
        chunk_kib=512, delay_ms=2, faults=(FaultSpec("busy", at_s=at_s, for_s=for_s, node="a1", factor=factor),),
        policy=FillPolicy(reach=Reach(minimum_bytes_s=minimum)), limit_s=600,
    )  # fmt: skip
    return World(scenario, seed).run()


@pytest.mark.parametrize("factor", [0.5, 0.2])
@pytest.mark.parametrize("at_s", [0.0, 2.0])
def test_a_busy_cache_is_asked_for_less_and_costs_no_copies(factor: float, at_s: float) -> None:
    report = run(factor, at_s, seed=1)
    assert report.complete == 9
    assert report.origin_copies <= 1.02
    assert report.isp_copies.max <= 1.05
    assert not report.escalations


def test_what_a_cache_alone_holds_is_had_elsewhere_where_it_takes_no_requests() -> None:
    report = run(0.02, 2.0, seed=1, for_s=30.0)
    assert report.complete == 9
    assert report.seconds < 3 * report.bound_s
    assert report.escalations["master-busy"]


def test_the_next_tier_joins_in_where_caches_give_less_than_the_minimum() -> None:
    without, little, much = (run(0.1, 2.0, seed=2, minimum=minimum) for minimum in (0, 100_000, 6_000_000))
    assert "below-minimum" not in without.escalations
    assert "below-minimum" not in little.escalations, "it gives more than that"
    joined = much.escalations["below-minimum"]
    assert joined
    assert much.seconds < 0.8 * without.seconds
    beyond = sum(much.bytes_by_scope[scope] - without.bytes_by_scope[scope] for scope in ("region", "world", "origin"))
    assert beyond <= joined * 512 * 1024, "nothing else came from farther away"
