"""What the planner is to reach, and whether it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from bench.planner.records import Figure, Report, Section

HITS: Final = {"movielens": {0.01: 0.076, 0.03: 0.175, 0.1: 0.419, 0.3: 0.771}}
"""By data set and share: of requests."""
RATIOS: Final = {
    "base": {0.01: 0.985, 0.05: 0.99, 0.1: 0.99, 0.3: 0.99},
    "hard": {0.01: 0.94, 0.05: 0.97, 0.1: 0.975, 0.3: 0.985},
    "thin": {0.01: 0.98, 0.05: 0.98, 0.1: 0.98, 0.3: 0.98},
}
"""By data set and share: of the bytes that a planner serves who knows the rates."""
WORSE_MAX: Final = 0.001
"""By what regions that learn of each other may be worse than the better of learning alike and learning alone."""
BETTER_MIN: Final = 0.005
"""And by what they are to be better where views are thin, in the mean of the shares."""
THIN: Final = "thin"
RECALLS: Final = {"Films": 0.545, "TV": 0.775}
"""By Netflix's category."""


class Judged(NamedTuple):
    """One figure beside what it is to reach."""

    what: str
    value: float
    reach: float

    @property
    def reached(self) -> bool:
        """Whether it is as good, at the places that are told."""
        return round(self.value, 4) >= self.reach


def judge(report: Report) -> list[Judged]:
    """Return all figures that have something to reach."""
    return [*(one for section in report.sections for one in _judge_section(section)), *_judge_netflix(report)]


def _judge_section(section: Section) -> Iterator[Judged]:
    for place, figure in enumerate(section.planner.figures):
        at = f"{section.name}, {figure.share:.0%}"
        if (reach := HITS.get(section.key, {}).get(figure.share)) is not None:
            yield Judged(f"{at}: hit ratio", figure.hit, reach)
        if (reach := RATIOS.get(section.key, {}).get(figure.share)) is not None and figure.ratio is not None:
            yield Judged(f"{at}: to the planner that knows the rates", figure.ratio, reach)
        policies = [one.figures[place].hit for one in section.contestants if one.kind == "policy" and one.figures]
        policies += [one.figures[place].hit for one in section.contestants if one.name == "perfect LFU"]
        if section.key in HITS and policies:
            yield Judged(f"{at}: above the best policy that sees no future, by", figure.hit - max(policies), 0.0001)
    scopes = scope_gains(section)
    if scopes:
        yield Judged(
            f"{section.name}: above the better of regions alike and alone, at the least", min(scopes), -WORSE_MAX
        )
    if scopes and section.key == THIN:
        yield Judged(f"{section.name}: the same, in the mean", sum(scopes) / len(scopes), BETTER_MIN)


def scope_gains(section: Section) -> list[float]:
    """Return for each share by what the planner is above the better of its two simpler scopes.

    By ratio where the rates are known, by hits elsewhere. Empty where there is one region.
    """
    simpler = [one.figures for one in section.contestants[1:] if one.kind == "planner"]
    if not simpler:
        return []

    def value(figures: list[Figure], place: int) -> float:
        figure = figures[place]
        return figure.hit if figure.ratio is None else figure.ratio

    own = section.planner.figures
    return [value(own, at) - max(value(figures, at) for figures in simpler) for at in range(len(own))]


def _judge_netflix(report: Report) -> Iterator[Judged]:
    for one in report.netflix:
        if one.category in RECALLS:
            yield Judged(f"Netflix, {one.category}: recall at 20", one.planner, RECALLS[one.category])
