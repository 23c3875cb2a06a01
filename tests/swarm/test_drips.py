"""Caches that hold everything and give almost nothing: what is asked of others in their place, and how much."""

from __future__ import annotations

from random import Random

import pytest

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy, Reach
from p2pfill.swarm import actions, events
from p2pfill.swarm.fill import BELOW_MINIMUM, Fill

CHUNK = 1 << 20
COUNT = 200
ME = NodeInfo(NodeId("a0"), "isp", "eu")
NEAR = NodeInfo(NodeId("a1"), "isp", "eu")
REGIONAL = NodeInfo(NodeId("b1"), "isp-b", "eu")
ORIGIN = "http://origin"
STEP_S = 0.05


class Drips:
    """One fill. `near` gives its chunks one each so many seconds, others at once."""

    def __init__(self, reach: Reach, *nodes: NodeInfo, me: NodeInfo = ME) -> None:
        manifest = Manifest("t", CHUNK, layout([("a", COUNT * CHUNK)]), bytes(16 * COUNT), bytes(32 * COUNT), "blake3")
        self.fill = Fill(manifest, me, FillPolicy(reach=reach), Random(1), 0.0, Bitmap(COUNT))
        self.fill.handle(0.0, events.RosterChanged((me, *nodes)))
        for node in nodes:
            self.fill.handle(0.0, events.CacheConnected(node))
            self.fill.handle(0.0, events.HoldingsArrived(node.id, Bitmap.full(COUNT)))
        self.fill.handle(0.0, events.OriginConfigured(ORIGIN))
        self.now = 0.0
        self.asked: dict[str, list[int]] = {}
        """Source -> its requests."""
        self.came: dict[str, int] = {}
        """Source -> chunks."""
        self.gives_s = dict.fromkeys([node.id for node in nodes], 5.0)
        self._gave_at = dict.fromkeys(self.gives_s, 0.0)

    def step(self) -> None:
        """Let a moment pass."""
        self.now += STEP_S
        for source, asked in self.asked.items():
            if source in self.gives_s and self.now < self._gave_at[source] + self.gives_s[source]:
                if asked:
                    self.fill.handle(self.now, events.SourceProgressed(source))
                continue
            for request in asked[:1] if source in self.gives_s else asked[:]:
                self._gave_at[source] = self.now
                asked.remove(request)
                self.came[source] = self.came.get(source, 0) + 1
                self.fill.handle(self.now, events.ChunkReceived(request))
        for action in self.fill.poll_actions(self.now):
            match action:
                case actions.RequestChunk(request, source):
                    self.asked.setdefault(source, []).append(request)
                case actions.CancelRequest(request, source):
                    self.asked[source].remove(request)


def test_no_more_is_fetched_from_farther_away_than_is_lacking() -> None:
    """An origin that answers at once would else bring the whole title to each cache of the fleet."""
    drips = Drips(Reach(minimum_bytes_s=2 * CHUNK), NEAR)
    while drips.now < 30:
        drips.step()
    assert drips.fill.escalations[BELOW_MINIMUM]
    assert 25 <= drips.came[ORIGIN] <= 2 * 30


def test_the_origin_joins_in_where_the_region_drips_too() -> None:
    drips = Drips(Reach(minimum_bytes_s=CHUNK), NEAR, REGIONAL)
    while drips.now < 40:
        drips.step()
    assert drips.came.get(ORIGIN, 0) >= 10


def test_an_origin_without_range_is_left_to_its_reader() -> None:
    """It would send its whole file for each chunk, to each cache."""
    drips = Drips(Reach(minimum_bytes_s=2 * CHUNK), NEAR, me=NodeInfo(NodeId("a5"), "isp", "eu"))
    drips.fill.handle(0.0, events.OriginWithoutRange(ORIGIN))
    while drips.now < 20:
        drips.step()
        assert drips.fill.ways.is_left_to_reader
    assert drips.fill._minimum.joining(drips.now), "the test would find nothing"
    assert not drips.came.get(ORIGIN)


@pytest.mark.parametrize("is_busy", [False, True])
def test_who_crawls_is_found_out_also_where_it_says_in_between_that_it_is_busy(is_busy: bool) -> None:
    drips = Drips(Reach(), NEAR)
    drips.gives_s["a1"] = 1e9
    kept: list[int] = []
    while drips.now < 20 and not drips.came.get(ORIGIN):
        drips.step()
        asked = drips.asked.get("a1", [])
        kept = [number for number in kept if number in asked] or asked[:1]
        if is_busy:
            for request in [number for number in asked if number not in kept]:
                asked.remove(request)
                drips.fill.handle(drips.now, events.SourceBusy(request))
    assert drips.came.get(ORIGIN)
