"""Every checker fails in a world that is broken in its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sim.worlds import world

from p2pfill.engine.engine import Engine
from p2pfill.engine.task import FillTask
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.sim.cache import SimCache
from p2pfill.sim.checkers import InvariantBroken
from p2pfill.sim.disk import StoredTitle
from p2pfill.sim.world import World
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.ledger import ChunkLedger
from p2pfill.swarm.masters import Masters


def test_a_sound_world_passes() -> None:
    world().run()


def test_announcing_what_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoredTitle, "write_tail", lambda *_, **__: None)
    with pytest.raises(InvariantBroken, match="announces chunk"):
        world().run()


def test_showing_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Engine.shown

    def all_of_it(engine: Engine, title_id: TitleId) -> Bitmap | None:
        held = shown(engine, title_id)
        return held if held is None or engine.me.id != "a1" else Bitmap.full(len(held))

    monkeypatch.setattr(Engine, "shown", all_of_it)
    with pytest.raises(InvariantBroken, match="a1 shows chunk 0"):
        world().run()


def test_going_live_with_a_chunk_that_is_not_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    go_live = SimCache.go_live

    def lose_one(cache: SimCache, engine: Engine, task: FillTask) -> None:
        cache.stored[task.title_id].durable.discard(3)
        go_live(cache, engine, task)

    monkeypatch.setattr(SimCache, "go_live", lose_one)
    with pytest.raises(InvariantBroken, match="goes live with"):
        world().run()


def test_a_ledger_that_disagrees_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    request = ChunkLedger.request

    def forget(ledger: ChunkLedger, chunk: int) -> None:
        request(ledger, chunk)
        if chunk == 5:
            ledger.missing.add(chunk)

    monkeypatch.setattr(ChunkLedger, "request", forget)
    with pytest.raises(Exception, match=r"its sets disagree|cannot go from"):
        world().run()


def poll_with(change: Callable[[Fill, list[actions.Action]], None]) -> Callable[[Fill, float], list[actions.Action]]:
    poll_actions = Fill.poll_actions

    def poll(fill: Fill, now: float) -> list[actions.Action]:
        made = poll_actions(fill, now)
        change(fill, made)
        return made

    return poll


def test_asking_twice_for_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_twice(fill: Fill, made: list[actions.Action]) -> None:
        asked = [action for action in made if isinstance(action, actions.RequestChunk)]
        made += [actions.RequestChunk(10_000 + a.request, a.source, a.chunk) for a in asked]

    monkeypatch.setattr(Fill, "poll_actions", poll_with(ask_twice))
    with pytest.raises(InvariantBroken, match="owes it"):
        world().run()


def test_asking_for_what_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_again(fill: Fill, made: list[actions.Action]) -> None:
        if fill.ledger.have.any():
            made.append(actions.RequestChunk(10_000, next(iter(fill.sources)), next(fill.ledger.have.indexes())))

    monkeypatch.setattr(Fill, "poll_actions", poll_with(ask_again))
    with pytest.raises(InvariantBroken, match="which it has verified"):
        world().run()


def test_going_further_out_than_a_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_the_origin(fill: Fill, made: list[actions.Action]) -> None:
        for place, action in enumerate(made):
            if isinstance(action, actions.RequestChunk) and fill.sources[action.source].scope is Scope.ISP:
                made[place] = actions.RequestChunk(action.request, "origin", action.chunk)

    monkeypatch.setattr(Fill, "poll_actions", poll_with(ask_the_origin))
    with pytest.raises(InvariantBroken, match="which is nearer, holds it"):
        world().run()


def test_an_escalation_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Masters, "escalation", lambda *_: "")
    broken = world()
    cut_off(broken, "b1")
    with pytest.raises(InvariantBroken, match="and counted 0"):
        broken.run()


def test_an_escalation_that_was_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(fill: Fill, made: list[actions.Action]) -> None:
        fill.escalations["roster-changed"] += bool(made)

    monkeypatch.setattr(Fill, "poll_actions", poll_with(count))
    with pytest.raises(InvariantBroken, match="0 times, and counted"):
        world().run()


def cut_off(broken: World, name: str) -> None:
    """Have a cache in the roster that never does anything."""
    broken.caches[name].running = False
    broken.cache_is_lost(broken.caches[name])


def test_a_cache_that_never_completes(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(fill: Fill, now: float, event: events.Event, handle: Any = Fill.handle) -> None:
        if not (fill.me.id == "a2" and isinstance(event, events.ChunksCommitted)):
            handle(fill, now, event)

    monkeypatch.setattr(Fill, "handle", never)
    with pytest.raises(InvariantBroken, match="1 caches are not complete 20 s after the last fault"):
        world(limit_s=20.0).run()
