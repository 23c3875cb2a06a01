"""A cache that says that it has nothing to do is not asked; it must have nothing to do then."""

from __future__ import annotations

import pytest
from sim.worlds import CHAOS, SMALL

from p2pfill.engine.engine import Engine
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.world import World


@pytest.mark.parametrize(("scenario", "seed"), [(SMALL, 1), *((Scenario.load(CHAOS), seed) for seed in range(20, 23))])
def test_a_settled_engine_would_have_done_nothing(
    monkeypatch: pytest.MonkeyPatch, scenario: Scenario, seed: int
) -> None:
    usual = World(scenario, seed).run()
    is_settled, settled = Engine.is_settled, 0

    def look_all_the_same(engine: Engine, now: float) -> bool:
        nonlocal settled
        if is_settled(engine, now):
            settled += 1
            before = engine._timers_at
            assert not engine.poll(now)
            assert engine.next_wakeup() >= before
        return False

    monkeypatch.setattr(Engine, "is_settled", look_all_the_same)
    report = World(scenario, seed).run()
    assert settled > 5
    assert report == usual
