"""What came of a plan: bytes by tier beside the least possible, what is not there and why, the finish, and the day.

All is made of the plan, of what the night says of its titles (`night`), copy by copy (`copies`), and of what was
watched on its day (`day`). Where that is not known yet the report is of the night alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from p2pfill.plan.document import Plan
from p2pfill.plan.report.copies import Copy, copies_of, least_of
from p2pfill.plan.report.day import Day, DayReport, day_report
from p2pfill.plan.report.night import WHYS, ByTier, CacheFacts, NightFacts, Why
from p2pfill.plan.tables import Caches

EXAMPLES_MAX: Final = 20
"""Copies that are not there of which it is told one by one, of each class: those of the largest files."""


class Lacking(msgspec.Struct, frozen=True):
    """A copy that is not there."""

    file: str
    cache: str
    bytes: int
    comes: bool
    said: str


class NotThere(msgspec.Struct):
    """Copies that are not there for one kind of reason."""

    why: Why
    copies: int = 0
    bytes: int = 0
    examples: list[Lacking] = []


class NightPart(msgspec.Struct):
    """What the night gave of the plan."""

    night: str
    is_over: bool
    planned: int
    """Copies that were to come."""
    planned_bytes: int
    there: int
    """Of these, are there."""
    there_bytes: int
    stays: int
    """Copies that lay there before and were to stay."""
    stays_there: int
    not_there: list[NotThere]
    """One for each of `night.WHYS` of which there is any, of what was to come and to stay."""
    least: ByTier
    """What the copies that were to come cost at least, by the plan."""
    came: ByTier
    """What came of the plan's titles into caches that were to hold any of their files."""
    besides: ByTier
    """What came in the night besides. With `came`, all of it."""
    begun_at: float
    finish_at: float
    """When the last of what was to come was there, as far as that is known; 0: not all is, or it is known of none."""
    untimed: int
    """Of what came, of which it is not known when: added to titles that were live, or there before the night."""
    bound_at: float
    """Before when no fill is over, by the plan's proof; 0: it has none."""
    deadline: float
    unknown_caches: list[str]
    """Of the plan, that the night does not know."""


class PlanReport(msgspec.Struct):
    """What came of a plan."""

    day: str
    made_at: float
    night: NightPart
    viewing: DayReport | None
    """None: what was watched is not known."""
    unknown_bytes: int = 0
    """Watched besides, of files or in regions that the tables do not name."""
    unknown_titles: list[str] = []
    """Of the plan, that the tracker does not have."""


def build_report(plan: Plan, night: NightFacts, day: Day | None = None) -> PlanReport:
    """Return what came of a plan."""
    copies = list(copies_of(plan, night))
    places = dict(night.caches)
    for name, facts in places_of(day.caches).items() if day is not None else ():
        places.setdefault(name, facts)
    titles = {file.title for file in plan.files if file.holders}
    unknown = [] if night.at_tracker is None else sorted(titles - night.at_tracker)
    return PlanReport(
        plan.head.day, plan.head.made_at, _night_part(plan, night, copies, places),
        None if day is None else day_report(plan, night, copies, day),
        0 if day is None else day.unknown_bytes, unknown,
    )  # fmt: skip


def places_of(caches: Caches) -> dict[str, CacheFacts]:
    """Return where the caches of a table stand."""
    isps, regions = caches.isp[caches.cluster].tolist(), caches.region[caches.isp[caches.cluster]].tolist()
    return {
        name: CacheFacts(caches.isps[isp], caches.regions[region])
        for name, isp, region in zip(caches.names, isps, regions, strict=True)
    }


def _night_part(plan: Plan, night: NightFacts, copies: list[Copy], places: Mapping[str, CacheFacts]) -> NightPart:
    came, besides = ByTier(), msgspec.structs.replace(night.came)
    for title, cache in sorted({(copy.file.title, copy.cache) for copy in copies}):
        facts = night.titles.get(title, {}).get(cache)
        if facts is not None:
            came.add(facts.came)
    for tier in ByTier.__struct_fields__:
        setattr(besides, tier, getattr(besides, tier) - getattr(came, tier))
    comes = [copy for copy in copies if copy.comes]
    there = [copy for copy in comes if copy.why is None]
    stays = [copy for copy in copies if not copy.comes]
    in_night = [copy.live_at for copy in there if copy.live_at >= night.began_at]
    untimed = len(there) - len(in_night)
    return NightPart(
        night.night, night.is_over, len(comes), sum(copy.file.size for copy in comes), len(there),
        sum(copy.file.size for copy in there), len(stays), sum(copy.why is None for copy in stays),
        _not_there(copies), least_of(plan, places), came, besides, night.began_at,
        max(in_night, default=0.0) if len(there) == len(comes) else 0.0, untimed,
        plan.head.finish_at, plan.head.deadline,
        sorted({copy.cache for copy in copies} - night.caches.keys()),
    )  # fmt: skip


def _not_there(copies: list[Copy]) -> list[NotThere]:
    found = {why: NotThere(why, examples=[]) for why in WHYS}
    lacking = sorted(
        (copy for copy in copies if copy.why is not None), key=lambda one: (-one.file.size, one.file.file, one.cache)
    )
    for copy in lacking:
        its = found[copy.why or "order"]
        its.copies += 1
        its.bytes += copy.file.size
        if len(its.examples) < EXAMPLES_MAX:
            its.examples.append(Lacking(copy.file.file, copy.cache, copy.file.size, copy.comes, copy.said))
    return [its for its in found.values() if its.copies]
