"""A cache whose links all end at once is cut off itself: it waits for new ones, and holds it against nobody."""

from __future__ import annotations

import random

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.timing import DISCOVERY_TIMEOUT_S
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import TICK_S, Fill
from p2pfill.swarm.losses import EPISODE_S, MOMENT_S, Losses
from p2pfill.swarm.sources import Source

COUNT, SIZE = 40, 65536
ORIGIN = "http://origin/"
MATES = [NodeInfo(NodeId(f"a{number}"), "isp", "eu") for number in range(5)]


def source(name: str, scope: Scope = Scope.ISP) -> Source:
    return Source(name, scope, Bitmap(1), 0.0)


def of_isp(count: int) -> list[Source]:
    return [source(f"a{number}") for number in range(count)]


# ---- whose fault it is


def test_who_loses_most_of_its_links_at_once_blames_nobody() -> None:
    losses, left = Losses(), of_isp(5)
    assert losses.note(1.0, left.pop(), left) == set()
    assert losses.note(1.1, left.pop(), left) == set()
    assert losses.note(1.2, left.pop(), left) == {"a4", "a3", "a2"}
    assert losses.wait_until == 1.2 + DISCOVERY_TIMEOUT_S
    assert losses.note(1.3, left.pop(), left) == {"a1"}


def test_links_that_end_one_after_the_other_are_the_loss_of_those_caches() -> None:
    losses, left = Losses(), of_isp(8)
    for number in range(8):
        assert losses.note(number * MOMENT_S, left.pop(), left) == set()
    assert losses.wait_until < 0


def test_the_only_other_cache_of_an_isp_is_lost_by_itself() -> None:
    losses = Losses()
    assert losses.note(1.0, source("a1"), [source(ORIGIN, Scope.ORIGIN), source("b1", Scope.REGION)]) == set()


def test_an_isp_that_is_lost_as_a_whole_is_enough() -> None:
    losses, beyond = Losses(), [source(f"b{number}", Scope.REGION) for number in range(9)]
    a2, a1 = of_isp(2)
    assert losses.note(1.0, a1, [a2, *beyond]) == set()
    assert losses.note(1.0, a2, beyond) == {"a0", "a1"}


def test_who_is_cut_off_again_and_again_does_not_wait_for_ever() -> None:
    losses, now = Losses(), 0.0
    while now < 3 * EPISODE_S:
        for one in of_isp(3):
            losses.note(now, one, [])
        now += 1.0
    assert losses.wait_until == EPISODE_S
    now += EPISODE_S
    for one in of_isp(3):
        losses.note(now, one, [])
    assert losses.wait_until == now + DISCOVERY_TIMEOUT_S


# ---- what a fill makes of it


def filling() -> Fill:
    manifest = Manifest("t", SIZE, layout([("a", COUNT * SIZE)]), bytes(16 * COUNT), bytes(32 * COUNT), "blake3")
    fill = Fill(manifest, MATES[0], FillPolicy(), random.Random(1), 0.0, Bitmap(COUNT), heard=False)
    fill.handle(0.0, events.RosterChanged(tuple(MATES)))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    for mate in MATES[1:]:
        fill.handle(0.0, events.CacheConnected(mate))
    fill.poll_actions(0.0)
    fill.handle(0.0, events.NeighboursHeard())
    return fill


def drain(fill: Fill, begin: float, end: float) -> dict[int, float]:
    """Give a fill all that it asks the origin for, at once; return the chunks, each with when."""
    asked: dict[int, float] = {}
    now = begin
    while now < end:
        requests = [one for one in fill.poll_actions(now) if isinstance(one, actions.RequestChunk)]
        for request in requests:
            asked.setdefault(request.chunk, now)
            fill.handle(now, events.ChunkReceived(request.request))
        if not requests:
            now += TICK_S
            fill.handle(now, events.TimePassed())
    return asked


def test_a_cache_that_is_cut_off_goes_on_with_its_own_part_and_takes_over_after_a_moment() -> None:
    fill = filling()
    own = COUNT // len(MATES)
    for mate in MATES[1:]:
        fill.handle(0.5, events.SourceLost(mate.id))
    assert len(drain(fill, 0.5, 0.5 + DISCOVERY_TIMEOUT_S)) == own
    assert len(drain(fill, 0.5 + DISCOVERY_TIMEOUT_S, 4.0)) == COUNT - own


def test_who_is_linked_again_is_relied_on_at_once() -> None:
    fill = filling()
    for now in (0.5, 1.5, 2.5):
        for mate in MATES[1:]:
            fill.handle(now, events.SourceLost(mate.id))
        for mate in MATES[1:]:
            fill.handle(now + 0.6, events.CacheConnected(mate))
    assert len(drain(fill, 3.1, 5.5)) == COUNT // len(MATES)
    assert not fill.escalations


def test_the_part_of_one_that_is_lost_is_taken_over_at_once() -> None:
    fill = filling()
    own = len(drain(fill, 0.0, 0.25))
    fill.handle(0.5, events.SourceLost(MATES[1].id))
    fill.poll_actions(0.5)
    for mate in MATES[2:]:
        fill.handle(0.5, events.HoldingsArrived(mate.id, Bitmap(COUNT)))
    taken_over = drain(fill, 0.5, 0.75)
    assert 0 < len(taken_over) <= own
    assert fill.escalations == {"master-lost": len(taken_over)}
