"""What the reports hold. Times in seconds."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Sequence

import msgspec

from p2pfill.bench.measure import Machine


class Times(msgspec.Struct, frozen=True):
    """How long something took, of `count` times."""

    count: int
    median: float
    worst: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Times:
        """Return what is to be said of some times; zeros of none."""
        if not values:
            return cls(0, 0.0, 0.0)
        return cls(len(values), round(statistics.median(values), 4), round(max(values), 4))


class Example(msgspec.Struct, frozen=True):
    """A fault, and the state that has shown it first."""

    fault: str
    prefix: int
    last_ops: list[str]
    disk: list[str]
    """Paths, and how many writes they hold."""


class PowerPart(msgspec.Struct, frozen=True):
    """The replay of one recording."""

    name: str
    ops: dict[str, int]
    bytes_written: int
    prefixes: int
    prefixes_exhaustive: int
    """Of which all subsets were made."""
    pending_max: int
    """Changes that no sync covered."""
    states_made: int
    states_distinct: int
    """Each was started on; equal ones once for each set of promises."""
    starts_of_processes: int
    """Of them with all that starts in a node."""
    damaged: int
    """States that no crash leaves, of a log that is rotten besides."""
    damaged_told: int
    """Of them those of which a loss was told."""
    faults: dict[str, int]
    examples: list[Example]
    recovery: Times
    """Until the storage was open."""
    recovery_whole: Times
    """Until a node was up and all that was ordered was live."""
    seconds: float
    user_s: float
    system_s: float


class PowerReport(msgspec.Struct, frozen=True):
    """What `power` writes."""

    machine: Machine
    seed: int
    command: str
    parts: list[PowerPart]

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost."""
        return not any(part.faults for part in self.parts)


class RolePart(msgspec.Struct, frozen=True):
    """The kills of one role."""

    role: str
    kills: int
    at_syscalls: int
    """Of them those that the kernel was told to do at a call of the process; the others after some time."""
    mid_fill: int
    """Of them those that found a fill, or an order, under way."""
    kept_chunks: int
    """Durable when they were killed."""
    fetched_again: int
    """Of those the chunks that were fetched again."""
    orders_answered: int
    orders_lost: int
    files_compared: int
    faults: list[str]
    ready: Times
    """From the start of the process anew until it is ready."""
    whole: Times
    """From there until what was under way was live on all caches; of the tracker until its orders are read back."""


class KillsReport(msgspec.Struct, frozen=True):
    """What `kills` writes."""

    machine: Machine
    seed: int
    command: str
    roles: list[RolePart]
    seconds: float
    user_s: float
    system_s: float

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, and all came back."""
        return not any(role.faults for role in self.roles)


def used_s() -> list[float]:
    """Return the user and system seconds of this process, and of those below it that have ended."""
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return [sum(one.ru_utime for one in both), sum(one.ru_stime for one in both)]
