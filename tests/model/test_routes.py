"""What a route costs: each part alone, their sum, what is unknown, and the laws of distances."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.routes import (
    FARTHEST_KM,
    UNKNOWN_HOPS,
    Match,
    Pair,
    Route,
    RouteConfig,
    Routes,
    TableFile,
    Weights,
    distance_km,
    hops_between,
)

PARIS, LONDON, SYDNEY = (48.8566, 2.3522), (51.5074, -0.1278), (-33.8688, 151.2093)


class Table:
    """Finds whole addresses only; the real ones are in tests/tracker/test_route_tables.py."""

    name = "rib"

    def __init__(self, **routes: Route) -> None:
        self.routes = {address.strip("_").replace("_", "."): route for address, route in routes.items()}

    def find(self, address: str) -> Match | None:
        route = self.routes.get(address)
        return None if route is None else Match(f"{address}/32", route)


def node(name: str, place: tuple[float, float] | None = None, isp: str = "a", **more: Any) -> NodeInfo:
    latitude, longitude = place or (None, None)
    return NodeInfo(NodeId(name), isp, "eu", latitude=latitude, longitude=longitude, **more)


def parts(routes: Routes, receiver: NodeInfo, source: NodeInfo) -> dict[str, float]:
    return {part.kind: part.cost for part in routes.explain(receiver, source).parts}


def test_without_a_configuration_all_is_free() -> None:
    routes = Routes(RouteConfig(), [])
    assert routes.cost(node("me"), node("x", host="10.0.0.1")) == 0.0


def test_the_first_pair_that_fits_counts_in_its_direction() -> None:
    pairs = [Pair(5.0, "isp=a", "isp=b"), Pair(1.0, "all", "isp=b"), Pair(0.5)]
    routes = Routes(RouteConfig(Weights(configured=2.0), pairs), [])
    assert routes.cost(node("me"), node("x", isp="b")) == 10.0
    assert routes.cost(node("x", isp="b"), node("me")) == 1.0
    why = routes.explain(node("me"), node("x", isp="b")).parts[0].why
    assert why == "pair 1: to isp=a from isp=b"
    assert parts(routes, node("me"), node("", host="10.0.0.1"))["configured"] == 0.0  # of no cache


def test_the_table_that_is_seen_from_the_receiver_counts() -> None:
    near, far = Table(_10_0_0_2=Route(("7",))), Table(_10_0_0_2=Route(("1", "2", "3"), 80, 40))
    config = RouteConfig(Weights(med=0.5), table=[TableFile("near", "isp=a"), TableFile("far")])
    routes = Routes(config, [near, far])
    source = node("x", host="10.0.0.2")
    assert routes.cost(node("me"), source) == 1.0
    assert parts(routes, node("me", isp="b"), source) == {
        "configured": 0.0, "as_hops": 3.0, "local_preference": pytest.approx(0.2), "med": 20.0, "distance": 0.0
    }  # fmt: skip
    assert routes.cost(node("me", isp="b"), source) == pytest.approx(23.2)


def test_an_address_that_is_in_no_prefix_is_not_the_cheapest() -> None:
    routes = Routes(RouteConfig(table=[TableFile("rib")]), [Table(_10_0_0_2=Route(("1",) * 9))])
    me = node("me", host="10.0.0.1")
    assert routes.cost(me, node("x", host="10.0.0.3")) == UNKNOWN_HOPS
    assert routes.cost(me, node("x", host="10.0.0.2")) == 9
    assert "no prefix for the source's address" in routes.explain(me, node("x", host="10.0.0.3")).parts[1].why
    assert routes.explain(me, node("x", host="10.0.0.2")).source.as_path == ["1"] * 9


@pytest.mark.parametrize(
    ("ours", "theirs", "hops"),
    [("1 2 3", "1 2 3", 0), ("1 2", "1 2 3", 1), ("1 2 3", "1 4", 3), ("", "1 2", 2), ("1 2", "", 2), ("", "", 0)],
)
def test_hops_go_up_to_the_last_network_that_both_share(ours: str, theirs: str, hops: int) -> None:
    assert hops_between(Route(tuple(ours.split())), Route(tuple(theirs.split()))) == hops


def test_a_source_whose_place_is_unknown_is_the_farthest_and_a_receiver_without_one_compares_none() -> None:
    routes = Routes(RouteConfig(), [])
    assert routes.cost(node("me", PARIS), node("x")) == pytest.approx(FARTHEST_KM / 1000)
    assert routes.cost(node("me", PARIS), node("x", SYDNEY)) < FARTHEST_KM / 1000
    assert routes.cost(node("me"), node("x", SYDNEY)) == 0.0
    assert routes.cost(node("me", PARIS), node("", host="10.0.0.1")) == 0.0


def test_distances_are_those_of_the_map() -> None:
    assert distance_km(PARIS, LONDON) == pytest.approx(343.6, abs=1)
    assert distance_km(PARIS, SYDNEY) == pytest.approx(16960, abs=20)
    assert distance_km((0, 179.5), (0, -179.5)) == pytest.approx(111.2, abs=0.1)  # over the date line


degrees = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(degrees, degrees, degrees)
def test_distance_is_a_metric(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> None:
    assert distance_km(a, a) == pytest.approx(0, abs=1e-3)
    assert distance_km(a, b) == pytest.approx(distance_km(b, a), abs=1e-3)
    assert 0 <= distance_km(a, b) <= FARTHEST_KM + 1e-3
    assert distance_km(a, c) <= distance_km(a, b) + distance_km(b, c) + 1e-3


paths = st.lists(st.sampled_from("123"), max_size=5).map(tuple)


@given(paths, paths)
def test_hops_are_the_same_both_ways_and_none_to_oneself(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assert hops_between(Route(one), Route(other)) == hops_between(Route(other), Route(one)) >= 0
    assert hops_between(Route(one), Route(one)) == 0


@given(
    st.builds(Weights, *[st.floats(0, 100)] * 5),
    st.one_of(st.none(), st.integers(0, 1000)), st.one_of(st.none(), st.integers(0, 1000)), paths,
)
def test_the_parts_are_the_cost(weights: Weights, preference: int | None, med: int | None, path: Any) -> None:
    table = Table(_10_0_0_2=Route(path, preference, med))
    routes = Routes(RouteConfig(weights, [Pair(3.0)], [TableFile("rib")]), [table])
    found = routes.explain(node("me", PARIS), node("x", LONDON, host="10.0.0.2"))
    assert found.cost == pytest.approx(sum(part.value * part.weight for part in found.parts))
    assert found.cost == pytest.approx(routes.cost(node("me", PARIS), node("x", LONDON, host="10.0.0.2")))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (RouteConfig(Weights(km=-1)), "weights.km"),
        (RouteConfig(Weights(med=math.nan)), "weights.med"),
        (RouteConfig(pair=[Pair(math.inf)]), "from all to all"),
        (RouteConfig(pair=[Pair(1, "isp")]), "selector"),
        (RouteConfig(pair=[Pair(1)] * 1001), "at most 1000 pairs"),
    ],
)
def test_what_makes_no_sense_is_refused(config: RouteConfig, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Routes(config, [])


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Route(("1", "2"), 110), Route(("1",))), (Route(("1",)), Route(("1", "2"))),
        (Route(("1",), med=5), Route(("1",), med=6)), (Route(("1",)), Route(("1",), 99)),
    ],
)  # fmt: skip
def test_routers_choose_by_preference_then_length_then_med(better: Route, worse: Route) -> None:
    assert better.is_better_than(worse)
    assert not worse.is_better_than(better)
