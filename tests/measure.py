"""Measurements on a machine that others use: one that is good is enough, of three.

It is for times, rates and copies, which a busy machine makes worse and nothing makes better. What is right or wrong is
asserted in each measurement, and so must hold each time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

TIMES: Final = 3
SPIN_S: Final = 0.2


def check_at_most(limit: float, measure: Callable[[int], float]) -> None:
    """Fail where `measure`, called with 0, 1 and 2, returns more than `limit` each time."""
    found: list[float] = []
    while not found or found[-1] > limit:
        assert len(found) < TIMES, f"at most {limit:.3f} was expected, and measured were {found}"
        found.append(measure(len(found)))


async def acheck_at_most(limit: float, measure: Callable[[int], Awaitable[float]]) -> None:
    """Do as `check_at_most` does, with an asynchronous measurement."""
    found: list[float] = []
    while not found or found[-1] > limit:
        assert len(found) < TIMES, f"at most {limit:.3f} was expected, and measured were {found}"
        found.append(await measure(len(found)))


def machine_slowness() -> float:
    """Return how many times as long as alone a program takes now that does not wait: what others leave of the machine.

    It asks nothing of what is tested, so no fault of that can make it larger.
    """
    began, spent = time.monotonic(), time.thread_time()
    while time.thread_time() < spent + SPIN_S:
        pass
    return max(1.0, (time.monotonic() - began) / SPIN_S)
