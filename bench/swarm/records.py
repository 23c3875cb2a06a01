"""What a report holds: the runs of all contenders on one topology, as JSON. Pure.

Times are seconds after the order to fill, sizes bytes, "copies" multiples of the title's size.
"""

from __future__ import annotations

import msgspec

from bench.swarm.clocks import Cpu, GroupUse
from bench.swarm.topology import Topology


class CacheRun(msgspec.Struct):
    """One cache in one run."""

    isp: str
    counted: bool
    """Its end was waited for."""
    live_s: float | None
    """When it had the whole title, verified; None where the run ended before."""
    bound_s: float
    """When it could have had it at best."""
    curve: list[tuple[float, float]]
    """(seconds, part of the title)."""


class ProcessUse(msgspec.Struct):
    """What one process took: processor seconds as (user, system), and context switches as (voluntary, involuntary)."""

    start: Cpu
    """From its start until just before the order."""
    fill: Cpu
    """From then until all caches that count had the title."""
    switches: tuple[int, int]
    """During the fill, of threads that lived at its end."""


class MachineUse(msgspec.Struct):
    """Parts of the time of all processors during the fill."""

    seconds: float
    """From the reading before the order until the reading at the end: a little longer than the fill."""
    busy: float
    """Processors that worked, for whomever."""
    stolen: float
    """Processors that the host of a virtual machine gave to others."""
    contender: float
    """What the contender's processes took."""
    harness: float
    """What the benchmark's own process took."""

    @property
    def others(self) -> float:
        """What is charged to neither: other programs, and what the kernel does for no process in particular."""
        return max(0.0, self.busy - self.contender - self.harness)

    @property
    def taken(self) -> float:
        """What was not idle, or not there to be had."""
        return self.busy + self.stolen


class Run(msgspec.Struct):
    """One run of one contender."""

    contender: str
    failed: str = ""
    """Why it did not come to its end; the rest is then empty."""
    seconds: float = 0.0
    bound_s: float = 0.0
    caches: dict[str, CacheRun] = {}
    cpu_s: dict[str, float] = {}
    """Process (a host's name, or `tracker`) -> processor seconds during the fill."""
    payload_origin: int = 0
    """Out of the origin, as the contender counts it."""
    payload_tiers: dict[str, int] = {}
    duplicate: int = 0
    escalations: dict[str, int] = {}
    joined_s: dict[str, float] = {}
    titles_s: dict[str, float] = {}
    """Of several titles: name -> seconds from its own order until all caches that count had it."""
    borders: list[tuple[float, dict[str, int]]] = []
    """(seconds, ISP -> bytes that have come in over its border since the order)."""
    isp_copies: dict[str, float] = {}
    """ISP -> copies that came in over its border, with headers and control traffic."""
    origin_border_copies: float = 0.0
    """Out of the cloud, likewise."""
    wire_tiers: dict[str, float] = {}
    """`same ISP`, `other ISPs`, `origin` -> copies that caches took from there, likewise."""
    moved_bytes: int = 0
    """Payload that caches had at the end, each its part of the title: what processor time is divided by."""
    wire_bytes: int = 0
    """What came in over the links of caches, with headers, control traffic and acknowledgements."""
    processes: dict[str, ProcessUse] = {}
    groups: dict[str, GroupUse] = {}
    """`caches: data plane` (processes: group of threads) -> what these took during the fill."""
    machine: MachineUse | None = None
    chunks: float = 0.0
    """Chunks that came to caches, where the contender says so."""
    counts: dict[str, int] = {}
    """What all caches counted during the fill, where the contender counts (`bench.swarm.counts`)."""

    @property
    def time_over_bound(self) -> float:
        """How many times the least possible time it took."""
        return self.seconds / self.bound_s

    @property
    def border_copies(self) -> float:
        """Copies over all ISPs' borders together."""
        return sum(self.isp_copies.values())

    @property
    def cpu_total_s(self) -> float:
        """Processor seconds of all processes together."""
        return sum(self.cpu_s.values())

    @property
    def worst_cache(self) -> float:
        """The largest multiple of its own bound that a cache that counts took."""
        return max(cache.live_s / cache.bound_s for cache in self.caches.values() if cache.counted and cache.live_s)


class Surroundings(msgspec.Struct):
    """Where and when a report was made."""

    made_at: str
    kernel: str
    processors: int
    python: str
    congestion_control: str
    versions: dict[str, str]
    """Contender -> its version."""
    goodput: float
    """The part of a link's rate that the bound counts with."""
    goodput_measured: float | None = None
    """What iperf3 found in the same lab, where that was asked for."""


class Report(msgspec.Struct):
    """All runs on one topology."""

    topology: Topology
    bound_s: float
    cuts: list[tuple[str, float]]
    """The narrowest cuts and their seconds."""
    surroundings: Surroundings
    absent: dict[str, str]
    """Contender -> why it was left out."""
    runs: list[Run]
    """In the order in which they ran."""
    floors: list[Run] = []
    """Of the C program, by how many sources each cache had at once; in that order too."""
