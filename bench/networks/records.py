"""What the benchmark of bad networks writes down."""

from __future__ import annotations

import statistics

import msgspec

from bench.networks.proxy import Counts
from p2pfill.bench.measure import Machine


class Run(msgspec.Struct, frozen=True):
    """One fill through a bad network."""

    healed_s: float
    """When the network was well again, after the order."""
    live_s: dict[str, float]
    """Cache -> when the title was live there, after the order."""
    wrong: list[str]
    """Caches in which any byte that was live was wrong."""
    counts: Counts = msgspec.field(default_factory=Counts)
    """What the proxies have done to it."""
    duplicate_bytes: int = 0
    """Payload that came and was of no use, of all caches."""

    @property
    def recovery_s(self) -> float:
        """From healing to the last cache; 0 where all were live before."""
        return max(0.0, max(self.live_s.values()) - self.healed_s)

    @property
    def early(self) -> int:
        """Caches that were live before the network was well."""
        return sum(at_s <= self.healed_s for at_s in self.live_s.values())


class Scenario(msgspec.Struct):
    """All runs of one kind of bad network."""

    name: str
    what: str
    """For people."""
    tls: bool
    caches: int
    size: int
    runs: list[Run] = []

    @property
    def recovery_s(self) -> tuple[float, float]:
        """The median time to recover, and the longest."""
        times = [run.recovery_s for run in self.runs]
        return statistics.median(times), max(times)

    @property
    def lost(self) -> int:
        """Titles that were wrong in a cache. What is not live in time ends the benchmark."""
        return sum(len(run.wrong) for run in self.runs)


class Fetch(msgspec.Struct, frozen=True):
    """A fill from many sources."""

    seconds: float
    """From the order to live at the last receiver."""
    receivers_cpu_s: float
    sources_cpu_s: float
    duplicate_bytes: int
    quarantined: int
    """Sources, summed over receivers."""


class Comparison(msgspec.Struct):
    """The same fill with honest sources only, and with some that send wrong bytes in the place of some; by turns."""

    name: str
    what: str
    sources: int
    corrupting: int
    receivers: int
    size: int
    honest: list[Fetch] = []
    mixed: list[Fetch] = []

    @property
    def ratio(self) -> float:
        """Of the median times."""
        return statistics.median(one.seconds for one in self.mixed) / statistics.median(
            one.seconds for one in self.honest
        )

    def medians(self, figure: str) -> tuple[float, float]:
        """Return the medians of a figure, of the honest runs and of the others."""
        return (
            statistics.median(getattr(one, figure) for one in self.honest),
            statistics.median(getattr(one, figure) for one in self.mixed),
        )


class Report(msgspec.Struct):
    """What `--out` writes."""

    machine: Machine
    seed: int
    scenarios: list[Scenario] = []
    comparisons: list[Comparison] = []
    remarks: list[str] = []
    """What a reader must know besides, as where parts were measured under other conditions."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was wrong, and wrong sources cost no more than they may."""
        return not any(one.lost for one in self.scenarios) and all(one.ratio <= RATIO_MAX for one in self.comparisons)


RATIO_MAX = 1.5
"""That a third of the sources may cost."""
