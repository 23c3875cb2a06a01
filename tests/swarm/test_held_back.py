"""What this cache's own limits hold back says nothing of a source: it is not slow, crawling, overdue or silent."""

from __future__ import annotations

from random import Random

import pytest

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.fill import Fill

CHUNK = 1 << 20
ME = NodeInfo(NodeId("a0"), "isp", "region")
OTHERS = tuple(NodeInfo(NodeId(f"a{n}"), "isp", "region") for n in range(1, 6))


def blamed(event: type[events.SourceProgressed] | type[events.SourceHeldBack], seconds: int) -> set[str]:
    """Return what is said against sources of which one brings no whole chunk, and shows each second that it lives."""
    count = 40
    manifest = Manifest("t", CHUNK, layout([("a", count * CHUNK)]), bytes(16 * count), bytes(32 * count), "blake3")
    fill = Fill(manifest, ME, FillPolicy(), Random(1), 0.0, Bitmap(count))
    fill.handle(0.0, events.RosterChanged((ME, *OTHERS)))
    for node in OTHERS:
        fill.handle(0.0, events.CacheConnected(node))
        fill.handle(0.0, events.HoldingsArrived(node.id, Bitmap.full(count)))
    found: set[str] = set()
    asked: list[actions.RequestChunk] = []
    for tick in range(4 * seconds):
        now = tick / 4
        for request in [one for one in asked if one.source != "a1"][:3]:
            fill.handle(now, events.ChunkReceived(request.request))
            asked.remove(request)
        if tick % 4 == 0:
            fill.handle(now, event("a1"))
        first = next((one.request for one in asked if one.source == "a1"), 0)
        for action in fill.poll_actions(now):
            if isinstance(action, actions.RequestChunk):
                asked.append(action)
            elif isinstance(action, actions.CancelRequest):
                asked = [one for one in asked if one.request != action.request]
                found |= {"what was under way is moved"} if action.request == first else set()
        found |= {source.barred_reason for source in fill.sources.values()} - {""}
    return found | set(fill.escalations)


@pytest.mark.parametrize("seconds", [30])
def test_a_source_that_waits_for_our_limits_is_not_blamed(seconds: int) -> None:
    assert blamed(events.SourceProgressed, seconds), "the test would find nothing"
    assert not blamed(events.SourceHeldBack, seconds)


def test_patience_does_not_grow_with_our_own_limits() -> None:
    fill = Fill(
        Manifest("t", CHUNK, layout([("a", CHUNK)]), bytes(16), bytes(32), "blake3"),
        ME, FillPolicy(), Random(1), 0.0, Bitmap(1),
    )  # fmt: skip
    fill.handle(0.0, events.CacheConnected(OTHERS[0]))
    fill.sources["a1"].rate_bytes_s = 1000.0
    fill.handle(1.0, events.SourceHeldBack("a1"))
    fill.poll_actions(2.0)
    assert fill._patience_s == fill.policy.stall_wait_s
    fill.poll_actions(10.0)
    assert fill._patience_s > 60
