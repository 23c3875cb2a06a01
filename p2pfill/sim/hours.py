"""The fill windows of a simulated cache: `node.hours` in virtual time, with the same `engine.hours`.

All walls show the same time but for a cache whose clock a fault has set. They may run faster than the engine's clock
(`Scenario.wall_speed`): a night then passes in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from p2pfill.engine.engine import Engine
from p2pfill.engine.hours import ANNOUNCED_S, Hours, Phase
from p2pfill.model.fleet_policy import CacheSettings
from p2pfill.model.node import NodeInfo
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.model.windows import FillWindows
from p2pfill.sim.scenario import Scenario

LOOK_S: Final = 1.0
"""Between two looks where there is a budget that may be used up, or is."""

LOOK_MAX_S: Final = 86400.0
"""Between two looks where nothing is to come."""


def hours_of(
    scenario: Scenario, settings: CacheSettings, info: NodeInfo, virtual_now: Callable[[], float]
) -> SimHours | SpanHours | None:
    """Return the hours of a cache with these settings of the fleet's policy; None where it always fills."""
    base = base_limits(scenario, settings, info)
    if info.id in scenario.open_spans:
        return SpanHours(scenario.open_spans[info.id], virtual_now, base)
    windows = _windows(scenario, settings, info)
    return None if windows is None else SimHours(scenario, windows, virtual_now, base)


def base_limits(scenario: Scenario, settings: CacheSettings, info: NodeInfo) -> RateLimits:
    """Return the limits that a cache keeps to whatever its windows say."""
    return scenario.limits.get(info.id, NO_LIMITS).within(settings.rates)


def all_limits(scenario: Scenario, settings: CacheSettings, info: NodeInfo) -> list[RateLimits]:
    """Return all limits that a cache may come to keep to."""
    windows = _windows(scenario, settings, info)
    found = [] if windows is None else [windows.rates_of(number) for number in range(len(windows.windows))]
    return [base_limits(scenario, settings, info), *found]


def _windows(scenario: Scenario, settings: CacheSettings, info: NodeInfo) -> FillWindows | None:
    """Return a cache's timetable: the policy's before its own, as in a node."""
    if settings.windows is not None:
        return settings.windows
    written = scenario.windows_of(info)
    return None if written is None else scenario.read_windows(written)


class SimHours:
    """The hours of one cache, over all of its boots."""

    def __init__(
        self, scenario: Scenario, windows: FillWindows, virtual_now: Callable[[], float], base: RateLimits = NO_LIMITS
    ) -> None:
        """`base` are limits beside those of the windows."""
        self._hours = Hours(windows, speed=scenario.wall_speed)
        self._base = base
        self.limits = base
        """What holds now."""
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
        windows = self._hours.windows
        self.limits = self._base.within(windows.rates_of(now.window) if windows.windows else NO_LIMITS)
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


class SpanHours:
    """The hours of a cache that is open at given times, as it was in a night that is rebuilt."""

    def __init__(
        self,
        spans: Sequence[tuple[float, float, float]],
        virtual_now: Callable[[], float],
        limits: RateLimits = NO_LIMITS,
    ) -> None:
        """`spans` are in virtual seconds: when it says that it opens in a moment, opens, and closes; in order."""
        self._spans = spans
        self._virtual_now = virtual_now
        self.limits = limits
        self.skew_s = 0.0
        self.phase: Phase = "open"

    def look(self, local_now: float, engine: Engine) -> tuple[Phase, float]:
        """As `SimHours.look`."""
        now = self._virtual_now()
        soon_at, opens_at, closes_at = next((span for span in self._spans if now < span[2]), 3 * (float("inf"),))
        if now >= opens_at:
            self.phase, next_at = "open", closes_at
        else:
            self.phase, next_at = ("soon", opens_at) if now >= soon_at else ("closed", soon_at)
        is_announced = self.phase == "open" and opens_at - max(soon_at, 0.0) >= ANNOUNCED_S
        engine.set_open(local_now, is_open=self.phase == "open", is_announced=is_announced)
        return self.phase, min(next_at - now, LOOK_MAX_S)
