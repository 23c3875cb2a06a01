"""What a run has measured: sums for people, and series from which plots can be made."""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

import msgspec

from p2pfill.sim.cache import SimWorld
from p2pfill.sim.faults import Faults
from p2pfill.sim.trace import Trace
from p2pfill.swarm.election import Scope

SAMPLES_A_BOUND: Final = 50
"""How many samples of the series fall into the least time that the run can take."""

SAMPLE_S_MIN: Final = 0.01


class Spread(msgspec.Struct, frozen=True):
    """Some figures of one kind, summed up."""

    min: float
    median: float
    max: float


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """How far the fleet was at one moment: seconds, caches that are live, bytes received by scope, bytes sent."""

    at_s: float
    live: int
    isp_bytes: int
    region_bytes: int
    world_bytes: int
    origin_bytes: int
    requests: int


class Report(msgspec.Struct, frozen=True):
    """The outcome of one run. Times in virtual seconds from the order to fill."""

    scenario: str
    seed: int
    caches: int
    complete: int
    isps: int
    regions: int
    title_bytes: int
    chunk_count: int
    seconds: float
    """Until the last cache that counts was live."""
    bound_s: float
    """The least that the links allow."""
    time_over_bound: float
    p50_s: float
    p99_s: float
    p999_s: float
    origin_copies: float
    """Copies of the title that have left the origin."""
    isp_copies: Spread
    """Copies that have entered an ISP."""
    isp_border_copies: dict[str, float]
    bytes_by_scope: dict[str, int]
    messages: int
    messages_per_chunk: float
    """Control messages for each chunk of each cache."""
    requests: int
    escalations: dict[str, int]
    duplicate_bytes: int
    faults: int
    events: int
    """Deeds of the schedule."""
    trace_lines: int
    trace_digest: str
    completions: dict[str, float]
    """Cache -> when it was live."""
    samples: list[Sample]


class SampledWorld(SimWorld, Protocol):
    """What the samples look at."""

    faults: Faults
    trace: Trace

    @property
    def live_count(self) -> int:
        """How many caches are complete, or lost for good."""


class Samples:
    """Counts what a run does, and looks at it at regular times."""

    def __init__(self, world: SampledWorld) -> None:
        self._world = world
        self._bytes = dict.fromkeys(Scope, 0)
        self._escalations: Counter[str] = Counter()
        self._duplicate_bytes = 0
        self._samples: list[Sample] = []
        self._every_s = max(world.scenario.bound_s() / SAMPLES_A_BOUND, SAMPLE_S_MIN)

    def begin(self) -> None:
        """Take the first sample; the others follow."""
        self._sample()

    def received(self, scope: Scope, chunk: int) -> None:
        """Count a chunk that a cache has received and verified."""
        self._bytes[scope] += self._world.manifest.chunk_length(chunk)

    def fill_ended(self, escalations: Counter[str], duplicate_bytes: int) -> None:
        """Count what a fill, which a crash has ended, has done."""
        self._escalations.update(escalations)
        self._duplicate_bytes += duplicate_bytes

    def _sample(self) -> None:
        world = self._world
        moved = self._bytes
        self._samples.append(
            Sample(
                world.schedule.now,
                world.live_count,
                moved[Scope.ISP],
                moved[Scope.REGION],
                moved[Scope.WORLD],
                moved[Scope.ORIGIN],
                world.decisions,
            )
        )
        if world.live_count < len(world.caches):
            world.schedule.after(self._every_s, self._sample)

    def report(self) -> Report:
        """Return the outcome; call it once, at the end."""
        world = self._world
        caches = list(world.caches.values())
        for cache in caches:
            if cache.task is not None:
                self.fill_ended(cache.task.fill.escalations, cache.task.fill.duplicate_bytes)
        size, chunk_count = world.manifest.size, world.manifest.chunk_count
        completions: dict[str, float] = {cache.info.id: cache.live_at for cache in caches if cache.live_at is not None}
        times = sorted(completions.values())
        counted = [completions[info.id] for info in world.scenario.counted() if info.id in completions]
        seconds = max(counted or times)
        copies = {isp: moved / size for isp, moved in world.internet.isp_bytes.items()}
        in_order = sorted(copies.values())
        messages = sum(cache.messages_sent() for cache in caches)
        bound_s = world.scenario.bound_s()
        return Report(
            scenario=world.scenario.name,
            seed=world.seed,
            caches=len(caches),
            complete=len(completions),
            isps=len(copies),
            regions=len({cache.info.region for cache in caches}),
            title_bytes=size,
            chunk_count=chunk_count,
            seconds=seconds,
            bound_s=bound_s,
            time_over_bound=seconds / bound_s,
            p50_s=_quantile(times, 0.5),
            p99_s=_quantile(times, 0.99),
            p999_s=_quantile(times, 0.999),
            origin_copies=world.internet.origin_bytes / size,
            isp_copies=Spread(in_order[0], _quantile(in_order, 0.5), in_order[-1]),
            isp_border_copies=copies,
            bytes_by_scope={scope.name.lower(): moved for scope, moved in self._bytes.items()},
            messages=messages,
            messages_per_chunk=messages / (chunk_count * len(caches)),
            requests=world.decisions,
            escalations=dict(sorted(self._escalations.items())),
            duplicate_bytes=self._duplicate_bytes,
            faults=world.faults.begun,
            events=world.schedule.done,
            trace_lines=world.trace.count,
            trace_digest=world.trace.digest(),
            completions=completions,
            samples=self._samples,
        )


def _quantile(ordered: list[float], part: float) -> float:
    """Return the least of `ordered` that at least `part` of them do not exceed."""
    place = -int(-part * len(ordered) // 1) - 1
    return ordered[max(0, min(place, len(ordered) - 1))]
