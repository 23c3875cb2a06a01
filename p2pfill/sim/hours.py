"""The fill windows of a simulated cache: `node.hours` in virtual time, with the same `engine.hours`.

All walls show the same time but for a cache whose clock a fault has set. They may run faster than the engine's clock
(`Scenario.wall_speed`): a night then passes in minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from p2pfill.engine.engine import Engine
from p2pfill.engine.hours import Hours, Phase
from p2pfill.sim.scenario import Scenario

LOOK_S: Final = 1.0
"""Between two looks where there is a budget that may be used up, or is."""


class SimHours:
    """The hours of one cache, over all of its boots."""

    def __init__(self, scenario: Scenario, windows: object, virtual_now: Callable[[], float]) -> None:
        """`windows` as `model.windows.read_windows` takes them."""
        self._hours = Hours(scenario.read_windows(windows), speed=scenario.wall_speed)
        self._start_s, self._speed = scenario.wall_start_s, scenario.wall_speed
        self._virtual_now = virtual_now
        self.skew_s = 0.0
        """By how much its wall is wrong."""
        self.phase: Phase = "open"
        self._counted = 0
        self._engine: Engine | None = None

    def wall(self) -> float:
        """Return what the cache takes for the time, in seconds since the epoch."""
        return self._start_s + self._virtual_now() * self._speed + self.skew_s

    def look(self, local_now: float, engine: Engine) -> tuple[Phase, float]:
        """Let the engine follow the clock; return the phase, and in how many virtual seconds to look again."""
        wall = self.wall()
        if engine is not self._engine:
            self._engine, self._counted = engine, 0
        came, self._counted = engine.received_bytes - self._counted, engine.received_bytes
        self._hours.count(wall, came)
        now = self._hours.look(wall)
        self.phase = now.phase
        engine.set_open(
            local_now,
            is_open=now.phase == "open",
            left=now.left,
            is_announced=now.is_announced,
            hand_back=self._hours.windows.at_end == "hand-back",
        )
        in_s = max(self._hours.next_at(wall) - wall, 0.0) / self._speed
        # A budget is used up, or a new one begins with the next night.
        may_turn = self._hours.has_budget and (now.phase == "open" or now.budget_used)
        return now.phase, min(in_s, LOOK_S) if may_turn else in_s
