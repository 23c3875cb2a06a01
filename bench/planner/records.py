"""What was found, as it is kept in JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from p2pfill.bench.measure import Machine

Kind = Literal["planner", "plan", "policy", "future"]
"""The planner itself, in its scopes; others that plan; caches that react; those that see what nobody can."""


class Figure(msgspec.Struct, frozen=True):
    """What one contender has served of one data set, in caches of one size."""

    share: float
    """Of the catalogue's bytes: the size of each cache."""
    hit: float
    """Of the bytes streamed on the days that count, in the regions of `Section.hit_regions`."""
    more: tuple[float, float, float] | None = None
    """By how much the planner's `hit` is above, and the bounds of 95% of the paired draws. None: the planner's own."""
    ratio: float | None = None
    """Bytes to be expected, to those of a planner that knows the rates, in all regions. None: not known."""


class Contestant(msgspec.Struct, frozen=True):
    """One contender and its figures, in the order of the shares. No figures: it cannot be run here."""

    name: str
    kind: Kind
    figures: list[Figure]
    chosen: str
    """What was chosen on the days before those that count."""
    user_s: float
    system_s: float


class Section(msgspec.Struct, frozen=True):
    """One data set."""

    key: str
    name: str
    files: int
    regions: list[str]
    hit_regions: list[str]
    """Those whose hits are told: reactive caches are run in the first alone."""
    requests: int
    """On the days that count, in all regions."""
    days_before: int
    days: int
    contestants: list[Contestant]

    @property
    def planner(self) -> Contestant:
        """The planner's."""
        return self.contestants[0]


class Recall(msgspec.Struct, frozen=True):
    """One category of Netflix's weekly lists."""

    category: str
    weeks: int
    countries: int
    persistence: float
    """Recall at `netflix.LISTED` of next week's list, by what was listed last."""
    planner: float
    more: tuple[float, float, float]
    never_seen: float
    """What part of those that enter a country's list was in no country's before."""


class Report(msgspec.Struct, frozen=True):
    """All that was found."""

    machine: Machine
    commit: str
    versions: dict[str, str]
    seed: int
    user_s: float
    system_s: float
    sections: list[Section]
    netflix: list[Recall] = []
