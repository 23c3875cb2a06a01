"""The bound against calculations by hand. Payload takes all of a link here, so that figures stay round."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.swarm.bounds import GOODPUT, bound_s, cache_bound_s, cuts
from bench.swarm.topology import Event, Topology

MIB_MBIT = 1024 * 1024 * 8 / 1e6
"""Seconds that a MiB takes at 1 Mbit/s."""


def make(**settings: Any) -> Topology:
    isps = {"cloud": ["origin"], "isp-a": ["a1", "a2", "a3"], "isp-b": ["b1", "b2", "b3"]}
    return Topology(**{"isps": isps, "host_mbit": 100.0, "size_mib": 100, **settings})


def test_alike_everywhere() -> None:
    topology = make()
    assert bound_s(topology, 1.0) == pytest.approx(MIB_MBIT)
    assert bound_s(topology) == pytest.approx(MIB_MBIT / GOODPUT)
    assert cuts(topology, 1.0)[0].name == "upload of origin"


def test_a_slow_origin_bounds_all() -> None:
    topology = make(rates={"origin": 50.0})
    assert cuts(topology, 1.0)[0] == ("upload of origin", pytest.approx(2 * MIB_MBIT))


def test_a_slow_cache_bounds_all_but_not_the_others() -> None:
    topology = make(rates={"b3": 25.0})
    assert cuts(topology, 1.0)[0] == ("download of b3", pytest.approx(4 * MIB_MBIT))
    assert cache_bound_s(topology, topology.host("b2"), 1.0) == pytest.approx(MIB_MBIT)
    assert bound_s(make(rates={"b3": 25.0}, apart=["b3"]), 1.0) == pytest.approx(MIB_MBIT)


def test_an_uplink_must_pass_one_copy() -> None:
    topology = make(uplinks={"isp-b": 20.0})
    assert bound_s(topology, 1.0) == pytest.approx(5 * MIB_MBIT)
    assert cache_bound_s(topology, topology.host("b1"), 1.0) == pytest.approx(5 * MIB_MBIT)
    assert cache_bound_s(topology, topology.host("a1"), 1.0) == pytest.approx(MIB_MBIT)


def test_the_cloud_has_a_free_uplink_unless_it_is_named() -> None:
    assert bound_s(make(uplink_mbit=200.0), 1.0) == pytest.approx(MIB_MBIT)
    assert bound_s(make(uplinks={"cloud": 10.0}), 1.0) == pytest.approx(10 * MIB_MBIT)


def test_somebody_must_send_every_copy() -> None:
    """Three caches that send at 10 Mbit/s each, behind an uplink of 120: 3 copies over 30 + 120 Mbit/s."""
    uploads = {"b1": 10.0, "b2": 10.0, "b3": 10.0}
    topology = make(upload_rates=uploads, uplinks={"isp-b": 120.0}, rates={"origin": 1000.0}, host_mbit=300.0)
    found = {cut.name: cut.seconds for cut in cuts(topology, 1.0)}
    assert found["all copies of ISP isp-b"] == pytest.approx(3 * 100 / 150 * MIB_MBIT)
    assert cuts(topology, 1.0)[0].name == "all copies of ISP isp-b"


def test_all_copies_of_all_caches_come_from_the_origin_and_each_other() -> None:
    """Six caches that send at 5 Mbit/s each and an origin of 100: 6 copies over 130 Mbit/s."""
    topology = make(upload_rates=dict.fromkeys(("a1", "a2", "a3", "b1", "b2", "b3"), 5.0))
    assert cuts(topology, 1.0)[0] == ("all copies of all caches", pytest.approx(600 / 130 * MIB_MBIT))


def test_a_region_is_a_group() -> None:
    """Both ISPs of a region have uplinks of 30 Mbit/s: one copy may come in half over each."""
    isps = {"cloud": ["origin"], "isp-a": ["a1"], "isp-b": ["b1"], "isp-c": ["c1"]}
    regions = {"isp-a": "north", "isp-b": "north", "isp-c": "south"}
    uplinks = {"isp-a": 30.0, "isp-b": 30.0}
    found = {cut.name: cut.seconds for cut in cuts(make(isps=isps, regions=regions, uplinks=uplinks), 1.0)}
    assert found["into region north"] == pytest.approx(100 / 60 * MIB_MBIT)
    assert found["into ISP isp-a"] == pytest.approx(100 / 30 * MIB_MBIT)


def test_killed_and_slowed_caches_have_no_demand_but_may_send() -> None:
    events = [Event(kind="kill", host="b3", at=0.5), Event(kind="slow", host="b2", at=0.5)]
    topology = make(events=events, rates={"b3": 10.0, "b2": 10.0})
    assert bound_s(topology, 1.0) == pytest.approx(MIB_MBIT)


def test_a_late_cache_counts_from_when_it_is_there() -> None:
    topology = make(events=[Event(kind="join", host="b3", at=0.5)], uplinks={"isp-b": 200.0}, rates={"origin": 100.0})
    assert bound_s(topology, 1.0) == pytest.approx(MIB_MBIT)
    assert bound_s(topology, 1.0, {"b3": 4.0}) == pytest.approx(4.0 + MIB_MBIT)


def test_a_late_cache_that_is_alone_needs_its_border_too() -> None:
    isps = {"cloud": ["origin"], "isp-a": ["a1"], "isp-b": ["b1"]}
    topology = make(isps=isps, uplinks={"isp-b": 50.0}, events=[Event(kind="join", host="b1", at_s=4.0)])
    assert bound_s(topology, 1.0, {"b1": 4.0}) == pytest.approx(4.0 + 2 * MIB_MBIT)


def test_links_without_rates_bound_nothing() -> None:
    topology = make(host_mbit=0.0, rates={"a1": 50.0})
    assert bound_s(topology, 1.0) == pytest.approx(2 * MIB_MBIT)
    assert all(math.isfinite(cut.seconds) for cut in cuts(topology, 1.0))
