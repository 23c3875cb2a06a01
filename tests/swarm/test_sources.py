"""How many requests a source is given, and which sources are slow."""

from __future__ import annotations

from random import Random

import pytest

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Assignment, Scope
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.sources import CATCH_UP_CHUNKS, SLOW_S, Request, Source, find_slow

CHUNK = 1 << 18
ORIGIN = "http://origin/"


def deliver(source: Source, asked_at: float, took_s: float) -> None:
    source.note_delivery(asked_at + took_s, Request(1, source.id, 0, asked_at, source.scope), CHUNK)


@pytest.mark.parametrize(("caches", "each"), [(1, 8), (2, 4), (4, 2), (12, 1), (400, 1)])
def test_the_caches_of_a_fill_share_what_is_asked_of_an_origin(caches: int, each: int) -> None:
    fill, _ = fill_with_origin(caches)
    assert len(asked_of_origin(fill, 0.0)) == each


@pytest.mark.parametrize(("caches", "each"), [(4, 2), (12, 1), (400, 1)])
def test_a_cache_that_is_behind_its_isp_asks_an_origin_for_one_chunk_more(caches: int, each: int) -> None:
    fill, members = fill_with_origin(caches)
    duties = Assignment(fill.manifest.title_id, 400, members)
    shares = [list(duties.within(node)[Scope.ORIGIN].indexes()) for node in members]
    asked = asked_of_origin(fill, 0.0)
    for fetched, in_all in ((1, each), (CATCH_UP_CHUNKS, each + (len(shares[0]) >= CATCH_UP_CHUNKS))):
        for node, share in zip(members[1:], shares[1:], strict=True):
            if fetched == 1:
                fill.handle(0.0, events.CacheConnected(node))
            held = Bitmap(400)
            held.add_all(share[:fetched])
            fill.handle(0.0, events.HoldingsArrived(node.id, held))
        asked += asked_of_origin(fill, float(fetched))
        assert len(asked) == in_all


def fill_with_origin(caches: int) -> tuple[Fill, tuple[NodeInfo, ...]]:
    """A fill of 400 chunks in an ISP of so many caches, and all of them."""
    manifest = Manifest("t", CHUNK, layout([("a", 400 * CHUNK)]), bytes(16 * 400), bytes(32 * 400), "blake3")
    members = tuple(NodeInfo(NodeId(f"c{n:03}"), "isp", "region") for n in range(caches))
    fill = Fill(manifest, members[0], FillPolicy(), Random(1), 0.0, Bitmap(400))
    fill.handle(0.0, events.RosterChanged(members))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    return fill, members


def asked_of_origin(fill: Fill, now: float) -> list[actions.RequestChunk]:
    """What is asked of the origin at a time."""
    asked = [action for action in fill.poll_actions(now) if isinstance(action, actions.RequestChunk)]
    return [action for action in asked if action.source.startswith(ORIGIN)]


def fleet(paces: dict[str, float], scope: Scope) -> dict[str, Source]:
    """Sources that have each delivered a chunk at some bytes per second, and owe another."""
    sources = {name: Source(name, scope, Bitmap.full(9), 0.0) for name in paces}
    for name, rate in paces.items():
        deliver(sources[name], 0.0, CHUNK / rate)
        sources[name].requests[2] = Request(2, name, 1, 100.0, scope)
        sources[name].progress_at = 101.0
    return sources


@pytest.mark.parametrize("scope", [Scope.ISP, Scope.REGION])
def test_only_what_stays_far_below_the_others_is_slow(scope: Scope) -> None:
    sources = fleet({"a": 1e6, "b": 1.2e6, "c": 0.4e6, "d": 0.1e6}, scope)
    for name in "abc":
        sources[name].requests.clear()
    assert find_slow(sources.values(), 100.0, CHUNK) == []
    assert find_slow(sources.values(), 99.9 + SLOW_S, CHUNK) == []
    sources["d"].progress_at = 99.0
    assert find_slow(sources.values(), 100.0 + SLOW_S, CHUNK) == []  # silent, not slow
    sources["d"].progress_at = 102.0
    assert find_slow(sources.values(), 102.0, CHUNK) == []
    assert [source.id for source in find_slow(sources.values(), 102.0 + SLOW_S - 0.01, CHUNK)] == []
    sources["d"].progress_at = 103.5
    assert [source.id for source in find_slow(sources.values(), 102.0 + SLOW_S, CHUNK)] == ["d"]
    deliver(sources["d"], 104.0, 0.3)
    assert find_slow(sources.values(), 104.3, CHUNK) == []


def test_where_all_are_held_up_together_nobody_is_slow() -> None:
    sources = fleet(dict.fromkeys("abcd", 1e6), Scope.ISP)
    for tick in range(40):
        assert find_slow(sources.values(), 100.0 + tick / 4, CHUNK) == []


def test_a_weight_says_what_can_be_expected() -> None:
    sources = fleet({"a": 1e6, "b": 1e6, "c": 1e6, "d": 0.1e6}, Scope.ISP)
    sources["d"].weight = 0.1
    for tick in range(12):
        assert find_slow(sources.values(), 100.0 + tick / 100, CHUNK) == []


# ---- what origins cost


def fill_with_prices(*costs: float) -> Fill:
    """A fill of one cache with an origin for each cost."""
    fill, _ = fill_with_origin(1)
    fill.handle(0.0, events.OriginPriced(ORIGIN, costs[0]))
    for number, cost in enumerate(costs[1:], start=1):
        fill.handle(0.0, events.OriginConfigured(f"{ORIGIN}{number}"))
        fill.handle(0.0, events.OriginPriced(f"{ORIGIN}{number}", cost))
    return fill


def origins_asked(fill: Fill, now: float) -> set[str]:
    return {action.source for action in asked_of_origin(fill, now)}


def test_origins_of_one_cost_are_asked_side_by_side() -> None:
    assert origins_asked(fill_with_prices(1.0, 1.0), 0.0) == {ORIGIN, f"{ORIGIN}1"}


def test_of_origins_the_cheapest_is_asked() -> None:
    assert origins_asked(fill_with_prices(2.0, 1.0, 3.0), 0.0) == {f"{ORIGIN}1"}


def test_the_next_origin_is_asked_where_the_cheapest_fails_and_no_longer_than_that() -> None:
    fill = fill_with_prices(1.0, 2.0, 3.0)
    asked = asked_of_origin(fill, 0.0)
    assert {action.source for action in asked} == {ORIGIN}
    fill.handle(1.0, events.OriginFailing(ORIGIN, "down"))
    assert origins_asked(fill, 1.0) == {f"{ORIGIN}1"}, "at once"
    for action in asked:
        fill.handle(1.1, events.RequestFailed(action.request, "down"))
    fill.handle(1.1, events.OriginFailing(f"{ORIGIN}1", "down"))
    assert f"{ORIGIN}2" in origins_asked(fill, 1.1)
    # It is tried again, and once it delivers the others are not asked any more.
    again = [action for action in asked_of_origin(fill, 10.0) if action.source == ORIGIN]
    assert again
    fill.handle(10.1, events.ChunkReceived(again[0].request))
    assert origins_asked(fill, 10.1) <= {ORIGIN}
