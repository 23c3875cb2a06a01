"""How patiently and how widely an origin is read. Every limit has its reason beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

from p2pfill.errors import ConfigError
from p2pfill.origin.access import OriginAccess


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """Settings of one origin. Times in seconds. Raises `ConfigError` where a value makes no sense.

    Waits are for silence: nothing limits how long a chunk takes of which bytes keep coming.
    """

    concurrency: int = 8
    """Requests in flight for one chunk made of many small files; all but one of them in threads that the chunks of
    this origin share. Browsers stay near 6 per host; more mostly queues."""

    attempts_max: int = 5
    """Requests in a row for a file range that bring next to nothing. With the backoff below, a restart of the web
    server fits in."""

    idle_max_s: float = 60.0
    """Without a byte of a chunk for this long, pauses between requests included, its read is given up; the scheduler
    decides again."""

    connect_max_s: float = 4.0
    """One connect: two packets may be lost. A longer one hides a dead address from people and from the retry."""

    stall_max_s: float = 10.0
    """Without a byte for this long, a response is given up and continued by a new request. So long may its head take,
    too."""

    backoff_base_s: float = 0.2
    backoff_max_s: float = 5.0
    """Wait before attempt n is uniform in [0, min(backoff_max_s, backoff_base_s * 2**n)] (full jitter)."""

    access: OriginAccess = field(default_factory=OriginAccess)
    """Where it may be."""

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= 64 or not 1 <= self.attempts_max <= 100:
            raise ConfigError("origin settings: concurrency must be 1 to 64 and attempts_max 1 to 100")
        if min(self.idle_max_s, self.connect_max_s, self.stall_max_s) <= 0:
            raise ConfigError("origin settings: idle_max_s, connect_max_s and stall_max_s must be above 0")
        if self.backoff_base_s < 0 or self.backoff_max_s < self.backoff_base_s:
            raise ConfigError("origin settings: backoff_base_s must be between 0 and backoff_max_s")
