"""What routes cost decides between sources that are alike, and nothing else."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.sources import WINDOW_MIN

CHUNKS = 40
SIZE = 65536
ME = NodeInfo(NodeId("me"), "isp-a", "eu")
NEAR = [NodeInfo(NodeId(name), "isp-a", "eu") for name in ("a1", "a2")]
FAR = [NodeInfo(NodeId(name), "isp-b", "eu") for name in ("b1", "b2")]
ORIGIN = "http://origin/"


def begin(costs: dict[str, float], others: list[NodeInfo], *, before: bool = True) -> Fill:
    """Return a fill that may ask each of `others` for everything; costs come before their links, or after."""
    manifest = Manifest("t", SIZE, layout([("a", SIZE * CHUNKS)]), bytes(16 * CHUNKS), bytes(32 * CHUNKS))
    fill = Fill(manifest, ME, FillPolicy(), random.Random(1), 0.0, Bitmap(CHUNKS))
    fill.handle(0.0, events.RosterChanged((ME,)))
    if before:
        fill.handle(0.0, events.RoutesPriced(costs))
    for node in others:
        fill.handle(0.0, events.CacheConnected(node))
    if not before:
        fill.handle(0.0, events.RoutesPriced(costs))
    return fill


def gain(fill: Fill, now: float, names: list[str], chunk: int) -> list[str]:
    """Have all of them announce a chunk at once; return who was asked."""
    for name in names:
        fill.handle(now, events.ChunksGained(name, (chunk,)))
    return asked(fill, now)


def asked(fill: Fill, now: float) -> list[str]:
    return [action.source for action in fill.poll_actions(now) if isinstance(action, actions.RequestChunk)]


def test_of_sources_that_are_equally_idle_the_cheap_one_is_asked() -> None:
    for before in (True, False):
        for cheap, dear in (("a1", "a2"), ("a2", "a1")):
            fill = begin({cheap: 1.0, dear: 9.0}, NEAR, before=before)
            assert gain(fill, 0.0, ["a1", "a2"], 0) == [cheap]
    assert gain(begin({"a2": -1.0}, NEAR), 0.0, ["a1", "a2"], 0) == ["a2"], "one of which nothing is known costs 0"


def test_a_dear_source_that_is_idle_serves_and_nobody_waits_for_a_cheap_one() -> None:
    fill = begin({"a1": 0.001, "a2": 1e9}, NEAR)
    assert gain(fill, 0.0, ["a1", "a2"], 0) == ["a1"]
    # It never answers; the dear one has nothing to do and is asked for all that follows, as far as it has room.
    assert [gain(fill, 0.01, ["a1", "a2"], chunk) for chunk in (1, 2)] == [["a2"], ["a1"]]
    both = begin({"a1": 0.001, "a2": 1e9}, NEAR)
    for name in ("a1", "a2"):
        both.handle(0.0, events.HoldingsArrived(name, Bitmap.full(CHUNKS)))
    assert sorted(asked(both, 0.0)) == ["a1"] * WINDOW_MIN + ["a2"] * WINDOW_MIN


def test_no_cost_leads_over_a_border() -> None:
    fill = begin({"a1": 1e9, "a2": 1e9, "b1": 0.0, "b2": -1e9}, [*NEAR, *FAR])
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    assert gain(fill, 0.0, ["a1", "a2", "b1", "b2"], 0)[0] in ("a1", "a2")


@given(st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4), st.integers(0, 2**16))
def test_whatever_routes_cost_each_chunk_comes_from_the_scope_that_it_would_come_from(
    costs: list[float], seed: int
) -> None:
    names = ["a1", "a2", "b1", "b2"]
    priced = begin(dict(zip(names, costs, strict=True)), [*NEAR, *FAR])
    free = begin({}, [*NEAR, *FAR])
    holdings = random.Random(seed)
    bitmaps = {name: [chunk for chunk in range(CHUNKS) if holdings.random() < 0.3] for name in names}
    scopes = []
    for fill in (priced, free):
        for name, chunks in bitmaps.items():
            bitmap = Bitmap(CHUNKS)
            bitmap.add_all(chunks)
            fill.handle(0.0, events.HoldingsArrived(name, bitmap))
        made = [action for action in fill.poll_actions(0.0) if isinstance(action, actions.RequestChunk)]
        held_near = {*bitmaps["a1"], *bitmaps["a2"]}
        assert all(one.source.startswith("a") for one in made if one.chunk in held_near)
        scopes.append(sorted(one.source[0] for one in made))
    assert scopes[0] == scopes[1]
