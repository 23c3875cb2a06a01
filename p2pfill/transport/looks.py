"""When a process looks at what nobody tells it of: at whole multiples of the time between two looks.

An idle event loop that is woken for one look pays for the wake-up, with caches that others have filled meanwhile,
several times what the look costs. All looks that are due by then come with it, since they fall on one grid.
Where it lies on the clock Trio draws for each process, so processes of one machine do not look at the same moment.
"""

from __future__ import annotations

import trio


async def next_look(every_s: float) -> float:
    """Sleep until the loop's clock shows the next whole multiple of `every_s`, and return that.

    To meet others exactly, `every_s` is a power of two.
    """
    due = (trio.current_time() // every_s + 1) * every_s
    await trio.sleep_until(due)
    return due
