"""What is kept of a night: its head, a row for each title and cache, for each cache, and for each title; and how
reports add to them.

The rows are what the catalogue writes. Times are in seconds since the epoch, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from p2pfill.model.night import Busy, RecordedTitle, Span, Tiers
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.model.reports import HoursReport, NodeReport, TitleReport
from p2pfill.tracker.records import FillRecord

SPANS_MAX: Final = 64
"""Windows of one cache in a night that are kept: as many as a timetable has."""

FAR_MAX: Final = 8
"""Sources of one title and cache that are kept by name; the others are summed up."""
REASONS_MAX: Final = 32
"""Reasons of escalations, likewise: fills have a dozen."""
OTHERS: Final = "others"

COURSE_MAX: Final = 200
"""Steps of the course of a night. Where it needs more, they become longer: 200 of a quarter of an hour are 50 hours,
which is how long a night lasts around the world."""
COURSE_STEPS_S: Final = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400)

ORIGINS_MAX: Final = 8
"""Origins of one title that are kept: more are asked of none."""

BUSY_MAX: Final = 64
"""Times in a night that a cache becomes more or less busy with its viewers that are kept: more in an evening than its
step for them changes."""

HOLDERS_MAX: Final = 1000
"""Caches of a title that are kept by name though they were not to have it: more sources than anybody asks."""


class Heard(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The counters of one fill as a node has said them last."""

    started_at: float = 0.0
    tiers: Tiers = (0, 0, 0)
    duplicate: int = 0
    reused: int = 0
    escalations: dict[str, int] = {}
    far: dict[str, int] = {}
    """Source that is not a peer -> bytes since the node's process began."""


class NightRow(msgspec.Struct, gc=False, omit_defaults=True):
    """One title in one cache in one night. Sums up what does not fit where `node` is empty."""

    title: str = ""
    node: str = ""
    is_wanted: bool = False
    """It was to be had: it was ordered in this night, or lacking when the night began or when it was heard of."""
    ordered_at: float = 0.0
    number: int = 0
    """Of that order."""
    now: bool = False
    """It was ordered out of cycle."""
    priority: int = 0
    deadline: float | None = None
    policy: FillPolicy = FillPolicy()
    """Of that order."""
    ended: str = ""
    """Why it was not to be had any more; empty: it was."""
    state: str = ""
    """The last that was heard of it; empty: nothing was."""
    error: str = ""
    live_at: float = 0.0
    had_bytes: int = 0
    """What of it was there when this row began."""
    have_bytes: int = 0
    title_bytes: int = 0
    tiers: Tiers = (0, 0, 0)
    """What came in this night; so the next three."""
    duplicate: int = 0
    reused: int = 0
    repair: int = 0
    """Of `tiers`, what came in place of what was bad, or for files that were ordered besides."""
    escalations: dict[str, int] = {}
    rule: str = ""
    """Of the fleet's policy, that held when the last of these came: how far the cache may go; empty: none."""
    far: dict[str, int] = {}
    """What came in this night from sources that are not peers, by source."""
    waits: dict[str, int] = {}
    """Reason -> chunks that waited when its cache was last open."""
    heard: Heard = Heard()


class NightCache(msgspec.Struct, omit_defaults=True):
    """One cache in one night."""

    node: str
    isp: str = ""
    region: str = ""
    heard_at: float = 0.0
    """When this night was first heard of from it; 0: never."""
    last_at: float = 0.0
    has_windows: bool = False
    phase: str = ""
    until: float = 0.0
    soon_at: float = 0.0
    """Since when it says that it opens in a moment; 0: it does not."""
    spans: list[Span] = []
    used_bytes: int = 0
    budget_bytes: int = 0
    budget_used_at: float = 0.0
    """When it first said that its budget is used up."""
    exempt_bytes: int = 0
    """What came in this night out of cycle, and for repairs."""
    exempt_heard: int = 0
    boot: str = ""
    info: NodeInfo | None = None
    """What it said of itself last."""
    away: list[Span] = []
    """When it was off: nothing was heard of it, and then of another process, or of none."""
    busy: list[Busy] = []
    """How busy it was with its viewers, where the weight that was left for other caches has changed."""
    weight: float = 1.0
    """The part of it that was left last."""
    fastest_in: int = 0
    """The most that it has received between two heartbeats, in bytes a second."""
    fastest_out: int = 0
    rates: RateLimits = NO_LIMITS
    """Its limits when it was last open."""

    @property
    def closed_at(self) -> float:
        """When its last window ended; 0 where one is open, or none was."""
        return self.spans[-1].closed_at if self.spans else 0.0


class NightHead(msgspec.Struct, omit_defaults=True):
    """What is known of a night without its rows."""

    night: str
    began_at: float = 0.0
    """When it was first heard of."""
    last_at: float = 0.0
    titles: int = 0
    caches: int = 0
    tiers: Tiers = (0, 0, 0)
    is_full: bool = False
    """Some rows are sums."""
    step_s: int = COURSE_STEPS_S[0]
    course: dict[int, Tiers] = {}
    """What came in each step of time, which is named by its number since the epoch."""


class NightPage(NamedTuple):
    """All of one night."""

    head: NightHead
    caches: list[NightCache]
    rows: list[NightRow]
    titles: Sequence[RecordedTitle] = ()


def note_hours(cache: NightCache, at: float, hours: HoursReport) -> None:
    """Note what a cache says of its windows and budgets."""
    cache.has_windows = bool(hours.night)
    is_open, spans = hours.phase == "open" and cache.has_windows, cache.spans
    if is_open and (not spans or spans[-1].closed_at):
        if len(spans) < SPANS_MAX:
            spans.append(Span(at, soon_at=cache.soon_at))
        else:
            spans[-1].closed_at = 0.0
    elif not is_open and spans and not spans[-1].closed_at:
        spans[-1].closed_at = at
    cache.soon_at = (cache.soon_at or at) if hours.phase == "soon" else 0.0
    cache.phase, cache.until = hours.phase, hours.until
    cache.used_bytes, cache.budget_bytes = hours.used_bytes, hours.budget_bytes
    # Once its window is over it does not say so any more, and the tracker may have been away till then.
    is_used = hours.budget_used or 0 < hours.budget_bytes <= hours.used_bytes
    if is_used and not cache.budget_used_at:
        cache.budget_used_at = at


def set_order(row: NightRow, fill: FillRecord) -> None:
    """Note which order a row is about."""
    row.ordered_at, row.number, row.now = fill.ordered_at or fill.created_at, fill.number, fill.request.now
    row.priority, row.deadline, row.policy = fill.request.priority, fill.request.deadline, fill.request.policy


def note_pace(cache: NightCache, at: float, report: NodeReport) -> None:
    """Note how fast a cache has moved payload, how busy it is with its viewers, and which limits hold while it is open.

    Call it after `note_hours`.
    """
    moves = report.moves
    if moves.in_bytes_s > cache.fastest_in:
        cache.fastest_in = moves.in_bytes_s
    if moves.out_bytes_s > cache.fastest_out:
        cache.fastest_out = moves.out_bytes_s
    if cache.phase == "open":
        cache.rates = report.rates
    if report.serving.weight != cache.weight:
        cache.weight = report.serving.weight
        if len(cache.busy) < BUSY_MAX:
            cache.busy.append(Busy(at, report.serving.busy))


def note_away(cache: NightCache, since: float, until: float = 0.0) -> None:
    """Note that nothing was heard of a cache for a while; 0: up to now."""
    if cache.away and (not cache.away[-1].closed_at or len(cache.away) >= SPANS_MAX):
        cache.away[-1].closed_at = until
    else:
        cache.away.append(Span(since, until))


def tiers_of(said: TitleReport) -> Tiers:
    """Return what has come in all, by tier."""
    return said.bytes_peer, said.bytes_regional, said.bytes_origin


def counters_of(said: TitleReport) -> Heard:
    """Return the counters of a report."""
    far = {source.id: source.bytes for source in said.sources if source.tier != "peer" and source.bytes}
    return Heard(said.started_at, tiers_of(said), said.duplicate_bytes, said.reused_bytes, dict(said.escalations), far)


def _more(now: int, before: int) -> int:
    return max(0, now - before)


def add_gains(row: NightRow, before: Heard, now: Heard) -> Tiers:
    """Add to a row what has come of a fill since it was last heard; return that by tier."""
    if now.started_at != before.started_at:
        before = Heard()
    peer, regional, origin = map(_more, now.tiers, before.tiers)
    row.tiers = add_tiers(row.tiers, (peer, regional, origin))
    row.duplicate += _more(now.duplicate, before.duplicate)
    row.reused += _more(now.reused, before.reused)
    for reason, count in now.escalations.items():
        if more := _more(count, before.escalations.get(reason, 0)):
            name = reason if reason in row.escalations or len(row.escalations) < REASONS_MAX else OTHERS
            row.escalations[name] = row.escalations.get(name, 0) + more
    for source, count in now.far.items():
        # Unlike the others this counter begins anew with the node's process.
        was = before.far.get(source, 0)
        if more := count - was if count >= was else count:
            name = source if source in row.far or len(row.far) < FAR_MAX else OTHERS
            row.far[name] = row.far.get(name, 0) + more
    row.heard = now
    return peer, regional, origin


def add_tiers(one: Tiers, other: Tiers) -> Tiers:
    """Return the sums by tier."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def add_course(head: NightHead, at: float, gained: Tiers) -> None:
    """Add what came to the course of a night, in longer steps where there are too many."""
    if not any(gained):
        return
    head.tiers = add_tiers(head.tiers, gained)
    step = int(at) // head.step_s
    head.course[step] = add_tiers(head.course.get(step, (0, 0, 0)), gained)
    while len(head.course) > COURSE_MAX and head.step_s < COURSE_STEPS_S[-1]:
        longer = COURSE_STEPS_S[COURSE_STEPS_S.index(head.step_s) + 1]
        course: dict[int, Tiers] = {}
        for number, tiers in head.course.items():
            place = number * head.step_s // longer
            course[place] = add_tiers(course.get(place, (0, 0, 0)), tiers)
        head.step_s, head.course = longer, course
