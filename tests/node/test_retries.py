"""Caches that have lost their tracker, all in the same moment."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from p2pfill.node.agent import RETRY_MAX_S, TrackerAgent
from p2pfill.tracker.client import TrackerUnreachable

CACHES = 30


async def test_they_do_not_come_back_in_the_same_second(autojump_clock: trio.testing.MockClock) -> None:
    called: list[float] = []

    async def away(*given: object, **named: object) -> Any:
        called.append(trio.current_time() - began)
        raise TrackerUnreachable("it is away")

    began = trio.current_time()
    log = logging.getLogger("away")
    with trio.move_on_after(120):
        async with trio.open_nursery() as nursery:
            for number in range(CACHES):
                node: Any = SimpleNamespace(
                    log=log, info=SimpleNamespace(id=f"a{number}"), titles=SimpleNamespace(),
                    hours=SimpleNamespace(turned=trio.Event()), settings=SimpleNamespace(digest=""), kept_orders=None,
                    heartbeat=lambda follows: None, heartbeat_ended=lambda report, reply: None,
                )  # fmt: skip
                agent = TrackerAgent(node, "http://127.0.0.1:1")
                agent._client.heartbeat = away  # type: ignore[method-assign]
                agent._client.changes = away  # type: ignore[method-assign]
                agent._known.set()
                nursery.start_soon(agent.run)
    late = [at for at in called if at > 60]
    assert len(late) > 2 * CACHES * 60 / (2 * RETRY_MAX_S), "they go on trying"
    seconds = Counter(map(int, late))
    assert max(seconds.values()) < CACHES, "no second has many of them"
