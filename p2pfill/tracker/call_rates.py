"""How many calls each caller may make, so that one that calls without end leaves the loop to the others.

A bucket each: so many calls at once, and so many a second from then on. Whoever has shown a certificate is one caller,
wherever from. An address that has shown none may have a whole fleet behind it, and so gets more. Both are far above
what anybody has a use for: what this ends is a loop that has gone wrong, or somebody who means to be one.

Rejected: to have calls wait, as handshakes do. Each that waits holds a connection and a task, and its caller does not
know why; one that is refused costs nothing more, and is told when to come again.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Rate(NamedTuple):
    """What a caller may do."""

    calls_s: float
    burst: float


NAMED: Final = Rate(200.0, 5000.0)
"""A cache makes one or two calls a second, and as many at once as it has orders when it comes back, each with a
manifest to fetch, so 2,500 of them, and 100 more each second."""

UNNAMED: Final = Rate(2000.0, 50_000.0)
"""Two calls for each of 20,000 caches at once, and heartbeats of 4,000 after that: as many as one process serves."""

CALLERS_MAX: Final = 4096
"""That are counted; of more the one that called longest ago is forgotten, whose bucket is as good as full."""


class CallRates:
    """The buckets of all callers."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}
        """Caller -> calls that are left, and as of when; in the order in which they have called last."""

    def wait_s(self, caller: str, now: float, *, is_named: bool) -> float:
        """Count a call; return 0, or for how many seconds it comes too soon. Then it does not count."""
        rate = NAMED if is_named else UNNAMED
        left, since = self._buckets.pop(caller, (rate.burst, now))
        left = min(rate.burst, left + (now - since) * rate.calls_s)
        wait_s = max(0.0, (1.0 - left) / rate.calls_s)
        self._buckets[caller] = left if wait_s else left - 1.0, now
        if len(self._buckets) > CALLERS_MAX:
            del self._buckets[next(iter(self._buckets))]
        return wait_s
