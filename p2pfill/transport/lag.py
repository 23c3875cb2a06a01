"""How late the event loop wakes: the one figure that tells whether everything else on it gets its turn.

A task sleeps until a time and looks how much later it is. Whatever keeps the loop shows there: a call that waits for a
disk, a long computation, another thread that will not let go of the interpreter, a machine short of processors. A
block shorter than the pause between two looks is met by chance, so the figures are of many looks; one longer is met
always, and shows short by one pause at most.

Rejected: timing every step of every task (Trio's instrumentation), which costs more than the steps of a busy loop and
says nothing of a machine that does not let the loop run.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from p2pfill.model.reports import LoopLag
from p2pfill.transport.looks import next_look

LOOK_S: Final = 0.25
"""Between two looks: blocks that people would notice are not missed, and the looks of a minute are enough for a
percentile. Each look more is a wake-up of an idle loop, which costs a third of a millisecond."""

LOOKS_MAX: Final = 240
"""How many looks back the figures go, which is a minute: a percentile of fewer would be one bad look."""

LATE_US: Final = 5_000
"""From here on a look is late: a thread may keep the interpreter for as long at a time, and a poll may round up."""


class LagMonitor:
    """Watches the event loop in which `run` runs."""

    def __init__(self, look_s: float = LOOK_S) -> None:
        """Look every `look_s` seconds."""
        self._look_s = look_s
        self._looks_us: deque[int] = deque(maxlen=LOOKS_MAX)
        self._looks = self._late_looks = 0

    @property
    def late_share(self) -> float:
        """The share of all looks that were late, which is that of the time in which the loop was held up: 0 to 1."""
        return self._late_looks / max(1, self._looks)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            due = await next_look(self._look_s)
            late_us = round((trio.current_time() - due) * 1e6)
            self._looks_us.append(late_us)
            self._looks += 1
            self._late_looks += late_us >= LATE_US

    def report(self) -> LoopLag:
        """Return the figures of the last minute; zeros before the first look."""
        if not self._looks_us:
            return LoopLag()
        ordered = sorted(self._looks_us)
        # The nearest rank: the least look that 99 in 100 do not exceed.
        p99_us = ordered[-(-99 * len(ordered) // 100) - 1]
        return LoopLag(last_us=self._looks_us[-1], p99_us=p99_us, max_us=ordered[-1])
