"""What a run has measured: sums for people, and series from which plots can be made."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from p2pfill.sim.cache import Fleet
from p2pfill.sim.faults import Faults
from p2pfill.sim.ground import Title
from p2pfill.swarm.election import Scope

SAMPLES_A_BOUND: Final = 50
"""How many samples of the series fall into the least time that the run can take."""

SAMPLE_S_MIN: Final = 0.01

ENDS_A_BOUND: Final = 20
"""A run that has an end of its own may be much longer: it has so many times as many samples at most."""


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


class TitleFigures(msgspec.Struct, frozen=True):
    """What became of one title."""

    title_bytes: int
    chunk_count: int
    priority: int
    ordered_s: float
    complete: int
    p50_s: float
    """Times are from the first order on; 0 where nobody has it."""
    seconds: float
    """Until the last cache had it."""


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
    """Cache -> when it had all titles."""
    samples: list[Sample]
    titles: dict[str, TitleFigures]


class Samples:
    """Looks at what a run does, at regular times."""

    def __init__(self, world: Fleet, faults: Faults) -> None:
        self._world = world
        self._faults = faults
        self._samples: list[Sample] = []
        whole_s = max(world.scenario.bound_s(), world.scenario.end_s / ENDS_A_BOUND)
        self._every_s = max(whole_s / SAMPLES_A_BOUND, SAMPLE_S_MIN)

    def begin(self) -> None:
        """Take the first sample; the others follow."""
        self._sample()

    def _sample(self) -> None:
        world = self._world
        moved = world.checkers.bytes_by_scope
        self._samples.append(
            Sample(
                world.schedule.now,
                world.live_count,
                moved[Scope.CLUSTER] + moved[Scope.ISP],
                moved[Scope.REGION],
                moved[Scope.WORLD],
                moved[Scope.ORIGIN],
                world.checkers.requests,
            )
        )
        if world.live_count < len(world.caches):
            world.schedule.after(self._every_s, self._sample)

    def report(self) -> Report:
        """Return the outcome; call it once, at the end."""
        world = self._world
        caches = list(world.caches.values())
        fills = world.checkers.fills
        size, chunk_count = world.scenario.size, world.chunk_count
        escalations = sum((fill.escalations for fill in fills), Counter[str]())
        completions: dict[str, float] = {cache.info.id: cache.live_at for cache in caches if cache.live_at is not None}
        times = sorted(completions.values())
        counted = [completions[info.id] for info in world.scenario.counted() if info.id in completions]
        seconds = max(counted or times, default=0.0)
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
            bytes_by_scope={scope.name.lower(): moved for scope, moved in world.checkers.bytes_by_scope.items()},
            messages=messages,
            messages_per_chunk=messages / (chunk_count * len(caches)),
            requests=world.checkers.requests,
            escalations=dict(sorted(escalations.items())),
            duplicate_bytes=sum(fill.duplicate_bytes for fill in fills),
            faults=self._faults.begun,
            events=world.schedule.done,
            trace_lines=world.trace.count,
            trace_digest=world.trace.digest(),
            completions=completions,
            samples=self._samples,
            titles={title.name: self._of_title(title) for title in world.titles.values()},
        )


    def _of_title(self, title: Title) -> TitleFigures:
        caches = (cache for name, cache in self._world.caches.items() if name in title.caches)
        times = (cache.stored[title.id].live_at for cache in caches)
        ordered = sorted(at_s for at_s in times if at_s is not None)
        return TitleFigures(
            title.manifest.size, title.manifest.chunk_count, -title.urgency.rank, title.at_s, len(ordered),
            _quantile(ordered, 0.5), max(ordered, default=0.0),
        )  # fmt: skip


def _quantile(ordered: list[float], part: float) -> float:
    """Return the least of `ordered` that at least `part` of them do not exceed."""
    place = -int(-part * len(ordered) // 1) - 1
    if not ordered:
        return 0.0
    return ordered[max(0, min(place, len(ordered) - 1))]
