"""What the lag monitor says of a loop that is held up, and of one that is not."""

from __future__ import annotations

import time

import trio
import trio.testing

from p2pfill.model.reports import LoopLag
from p2pfill.transport import lag


async def test_a_loop_that_is_held_up_shows(nursery: trio.Nursery) -> None:
    monitor = lag.LagMonitor()
    assert monitor.report() == LoopLag(0, 0, 0)
    nursery.start_soon(monitor.run)
    await trio.sleep(3.5 * lag.LOOK_S)
    time.sleep(1.0)  # noqa: ASYNC251 (what is to show)
    await trio.sleep(2.5 * lag.LOOK_S)
    shown = monitor.report()
    assert shown.max_us >= (1.0 - lag.LOOK_S) * 1e6
    assert shown.last_us < shown.max_us


async def test_figures_are_of_the_last_looks(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    """On a clock that jumps to where somebody waits, nobody is ever late, but by what is put in."""
    monitor = lag.LagMonitor()
    nursery.start_soon(monitor.run)
    await trio.sleep(10.5 * lag.LOOK_S)
    assert monitor.report().max_us == 0
    monitor._looks_us.extend([5_000] * 6 + [70_000])
    assert monitor.report() == LoopLag(last_us=70_000, p99_us=70_000, max_us=70_000)
    await trio.sleep(200 * lag.LOOK_S)
    assert monitor.report() == LoopLag(last_us=0, p99_us=5_000, max_us=70_000)
    await trio.sleep(lag.LOOKS_MAX * lag.LOOK_S)
    assert monitor.report() == LoopLag(0, 0, 0)
    assert len(monitor._looks_us) == lag.LOOKS_MAX
