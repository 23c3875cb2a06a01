"""The morning after: what a night was to bring, what it brought and from where, and why something is lacking.

Reports are made from the rows that `tracker.nights` keeps. The least that a title can cost is one copy out of the
origin, and one into each ISP in which it was to be had; less where caches had a part of it before, or a version that it
shares bytes with. Of several that had parts the largest part counts, so the least may be less yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import msgspec

from p2pfill.model.night import Span, Tiers
from p2pfill.tracker.night_rows import NightCache, NightHead, NightPage, NightRow, add_tiers

Cause = Literal[
    "", "failed", "unheard", "filling", "waiting", "budget", "silent", "no window", "too late", "window ended",
    "night ended",
]  # fmt: skip
"""Why a title is lacking in a cache: its fill failed; the cache was not heard in this night; it is open still, or waits
for a window of this night; a budget was used up; it has fallen silent; no window opened; the title was ordered after
the last one; the last window, or the night, ended before it was whole."""

NIGHT_S: Final = 24 * 3600
"""So long a night of one cache lasts at most from when it is first heard of."""


class Escalation(msgspec.Struct, frozen=True):
    """How many chunks came from further out than planned for one reason."""

    reason: str
    count: int
    rule: str = ""
    """Of the fleet's policy, that says how far the cache might go; empty: none did."""


class FarSource(msgspec.Struct, frozen=True):
    """What came from a source that is not of the own ISP."""

    id: str
    bytes: int


class CacheTitle(msgspec.Struct):
    """One title in one cache."""

    node: str
    isp: str
    is_wanted: bool
    """It was to be had. Else something came for a repair, or it was withdrawn: `ended`."""
    ended: str
    ordered_at: float
    now: bool
    """It was ordered out of cycle."""
    state: str
    live_at: float
    """0: it is not live."""
    had_bytes: int
    """What was there before."""
    have_bytes: int
    bytes_peer: int
    bytes_regional: int
    bytes_origin: int
    duplicate_bytes: int
    reused_bytes: int
    repair_bytes: int
    escalations: list[Escalation]
    far: list[FarSource]
    cause: Cause = ""
    waits: dict[str, int] = {}
    """Where it is lacking: what chunks waited for when the cache was last open."""
    error: str = ""


class IspCopies(msgspec.Struct, frozen=True):
    """What came into one ISP from outside."""

    isp: str
    bytes: int
    least_bytes: int


class TitleNight(msgspec.Struct):
    """One title in all caches."""

    title: str
    name: str
    title_bytes: int
    ordered_at: float
    """The first time in this night; 0: in none that is known."""
    caches: int
    """That were to have it."""
    live: int
    live_at: float
    """When the last of them had it; 0: not all have it."""
    bytes_peer: int
    bytes_regional: int
    bytes_origin: int
    repair_bytes: int
    least_origin_bytes: int
    isps: list[IspCopies]
    escalations: list[Escalation]
    far: list[FarSource]
    rows: list[CacheTitle]


class CacheNight(msgspec.Struct):
    """One cache."""

    node: str
    isp: str
    region: str
    heard_at: float
    """When this night was first heard of from it; 0: it was not heard."""
    last_at: float
    has_windows: bool
    windows: list[Span]
    used_bytes: int
    budget_bytes: int
    budget_used_at: float
    """0: it was not used up."""
    exempt_bytes: int
    """What came out of cycle, and for repairs."""
    lacking: int
    """Titles that it was to have and lacks."""


class Step(msgspec.Struct, frozen=True):
    """What came in one step of the night, which begins `at`."""

    at: float
    bytes_peer: int
    bytes_regional: int
    bytes_origin: int


class NightTotals(msgspec.Struct):
    """Sums over all titles and caches."""

    titles: int = 0
    """That were to be had."""
    caches: int = 0
    """In which."""
    wanted: int = 0
    """Titles times caches."""
    live: int = 0
    bytes_peer: int = 0
    bytes_regional: int = 0
    bytes_origin: int = 0
    isp_bytes: int = 0
    """What came into ISPs from outside."""
    least_origin_bytes: int = 0
    least_isp_bytes: int = 0
    duplicate_bytes: int = 0
    reused_bytes: int = 0
    repair_bytes: int = 0
    exempt_bytes: int = 0
    summed_bytes: int = 0
    """What came to titles and caches beyond those that are kept one by one; in the sums by tier of their titles."""


class NightReport(msgspec.Struct):
    """All of one night."""

    night: str
    began_at: float
    last_at: float
    is_over: bool
    totals: NightTotals
    escalations: list[Escalation]
    titles: list[TitleNight]
    """Those that lack somewhere first."""
    caches: list[CacheNight]
    step_s: int
    course: list[Step]


class NightSummary(msgspec.Struct):
    """One night of a list."""

    night: str
    began_at: float
    last_at: float
    is_over: bool
    titles: int
    caches: int
    bytes_peer: int
    bytes_regional: int
    bytes_origin: int


class NightList(msgspec.Struct):
    """The nights that can be asked for, the last one first."""

    nights: list[NightSummary]


def is_in_night(cache: NightCache) -> bool:
    """Tell whether a living cache, which was last heard in a night, may fill in it yet.

    It may until it has closed, and opens again when the night is over.
    """
    if not cache.has_windows or cache.phase != "closed" or not cache.spans:
        return True
    return cache.until < cache.heard_at + NIGHT_S


def summary(head: NightHead, *, is_over: bool) -> NightSummary:
    """Return a night as a list has it."""
    return NightSummary(head.night, head.began_at, head.last_at, is_over, head.titles, head.caches, *head.tiers)


def build_report(
    page: NightPage, names: Mapping[str, str], alive: Collection[str], silent: Collection[str], *, is_over: bool
) -> NightReport:
    """Return the report of a night.

    `names` are those of titles; `alive` and `silent` the caches that were last heard in this night: those that live,
    and the others.
    """
    head, caches = page.head, {cache.node: cache for cache in page.caches}
    by_title: dict[str, list[NightRow]] = defaultdict(list)
    for row in page.rows:
        by_title[row.title].append(row)
    titles = [_title(title, names.get(title, ""), rows, caches, alive, silent) for title, rows in by_title.items()]
    titles.sort(key=lambda one: (one.live - one.caches, one.name, one.title))
    lacking: dict[str, int] = defaultdict(int)
    for title in titles:
        for one in title.rows:
            lacking[one.node] += bool(one.cause)
    nights = [
        CacheNight(
            one.node, one.isp, one.region, one.heard_at, one.last_at, one.has_windows, one.spans, one.used_bytes,
            one.budget_bytes, one.budget_used_at, one.exempt_bytes, lacking[one.node],
        )
        for one in sorted(page.caches, key=lambda one: one.node)
    ]  # fmt: skip
    course = [Step(float(number * head.step_s), *tiers) for number, tiers in sorted(head.course.items())]
    return NightReport(
        head.night, head.began_at, head.last_at, is_over, _totals(page, titles),
        _escalations(page.rows), titles, nights, head.step_s, course,
    )  # fmt: skip


def _title(
    title: str, name: str, rows: list[NightRow], caches: Mapping[str, NightCache], alive: Collection[str],
    silent: Collection[str],
) -> TitleNight:  # fmt: skip
    wanted = [row for row in rows if row.node and row.is_wanted and not row.ended]
    size = max((row.title_bytes for row in rows), default=0)
    tiers = _sum(row.tiers for row in rows)
    isp_of = {row.node: caches[row.node].isp if row.node in caches else "" for row in rows}
    live = [row for row in wanted if _is_live(row)]
    into: dict[str, int] = defaultdict(int)
    for row in rows:
        into[isp_of[row.node]] += row.tiers[1] + row.tiers[2]
    isps = [
        IspCopies(isp, into[isp], _least(size, [row for row in wanted if isp_of[row.node] == isp]))
        for isp in sorted(into)
        if isp
    ]
    return TitleNight(
        title=title,
        name=name,
        title_bytes=size,
        ordered_at=min((row.ordered_at for row in wanted if row.ordered_at), default=0.0),
        caches=len(wanted),
        live=len(live),
        live_at=max((row.live_at for row in live), default=0.0) if len(live) == len(wanted) else 0.0,
        bytes_peer=tiers[0],
        bytes_regional=tiers[1],
        bytes_origin=tiers[2],
        repair_bytes=sum(row.repair for row in rows),
        least_origin_bytes=_least(size, wanted),
        isps=isps,
        escalations=_escalations(rows),
        far=_far(row.far for row in rows),
        rows=[
            _cache_title(row, caches.get(row.node), row.node in alive, row.node in silent)
            for row in sorted(rows, key=lambda row: row.node)
            if row.node
        ],
    )


def _is_live(row: NightRow) -> bool:
    return row.state in ("live", "repairing")


def _least(size: int, rows: list[NightRow]) -> int:
    """Return what must come to these caches together from elsewhere: one copy, but for what one of them had."""
    return max(0, size - max(row.had_bytes + row.reused for row in rows)) if rows else 0


def _cache_title(row: NightRow, cache: NightCache | None, is_alive: bool, is_silent: bool) -> CacheTitle:
    is_lacking = row.is_wanted and not row.ended and not _is_live(row)
    cause = _cause(row, cache, is_alive, is_silent) if is_lacking else ""
    return CacheTitle(
        row.node, "" if cache is None else cache.isp, row.is_wanted, row.ended, row.ordered_at, row.now, row.state,
        row.live_at, row.had_bytes, row.have_bytes, *row.tiers, row.duplicate, row.reused, row.repair,
        _escalations([row]), _far([row.far]), cause, row.waits if cause else {}, row.error,
    )  # fmt: skip


def _cause(row: NightRow, cache: NightCache | None, is_alive: bool, is_silent: bool) -> Cause:
    if row.state == "failed" or (row.state == "waiting" and row.error):
        return "failed"
    if cache is None or not cache.heard_at:
        return "unheard"
    always = not cache.has_windows
    if is_alive and (always or cache.phase == "open"):
        return "filling"
    if cache.budget_used_at:
        return "budget"
    if is_alive and is_in_night(cache):
        return "waiting"
    if is_silent and not cache.closed_at:
        return "silent"
    if always or (cache.spans and not cache.closed_at):
        return "night ended"
    if not cache.spans:
        return "no window"
    return "too late" if row.ordered_at > cache.closed_at else "window ended"


def _totals(page: NightPage, titles: list[TitleNight]) -> NightTotals:
    rows = page.rows
    wanted = [row for row in rows if row.node and row.is_wanted and not row.ended]
    tiers = _sum(row.tiers for row in rows)
    return NightTotals(
        titles=len({row.title for row in wanted}),
        caches=len({row.node for row in wanted}),
        wanted=len(wanted),
        live=sum(title.live for title in titles),
        bytes_peer=tiers[0],
        bytes_regional=tiers[1],
        bytes_origin=tiers[2],
        isp_bytes=sum(isp.bytes for title in titles for isp in title.isps),
        least_origin_bytes=sum(title.least_origin_bytes for title in titles),
        least_isp_bytes=sum(isp.least_bytes for title in titles for isp in title.isps),
        duplicate_bytes=sum(row.duplicate for row in rows),
        reused_bytes=sum(row.reused for row in rows),
        repair_bytes=sum(row.repair for row in rows),
        exempt_bytes=sum(cache.exempt_bytes for cache in page.caches),
        summed_bytes=sum(sum(row.tiers) for row in rows if not row.node),
    )


def _sum(tiers: Iterable[Tiers]) -> Tiers:
    total: Tiers = (0, 0, 0)
    for one in tiers:
        total = add_tiers(total, one)
    return total


def _counts(many: Iterable[Mapping[str, int]]) -> list[tuple[str, int]]:
    """Return sums by name, the largest first."""
    sums: dict[str, int] = defaultdict(int)
    for one in many:
        for name, count in one.items():
            sums[name] += count
    return sorted(sums.items(), key=lambda item: (-item[1], item[0]))


def _escalations(rows: Iterable[NightRow]) -> list[Escalation]:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        for reason, count in row.escalations.items():
            sums[reason, row.rule] += count
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return [Escalation(reason, count, rule) for (reason, rule), count in ranked]


def _far(many: Iterable[Mapping[str, int]]) -> list[FarSource]:
    return [FarSource(name, count) for name, count in _counts(many)]
