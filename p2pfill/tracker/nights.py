"""What a fleet did in each night: kept while heartbeats come, for the morning after. Pure.

A night is named by the date on which it began. A cache belongs to the night that its own heartbeats name, whatever its
clock shows; one without fill windows to the tracker's own, noon to noon in UTC. All times here are the tracker's, or
as nodes report them, in seconds since the epoch.

**What counts.** Nodes count on over their restarts, and over nights, so what a night has is the difference between two
reports of one fill. A fill is known by its `started_at`:

- The same fill: what it has more than when it was last heard. Where it has less, a crash has cost it some figures, and
  what is fetched again counts again, as it has crossed borders twice.
- Another fill of the title, as after an eviction: all of it.
- A title that was never heard of: all of it where the fill began since its cache was first heard in this night, give
  or take `SKEW_S`; else nothing, since it is of another time.

Heartbeats that come twice or late are dropped before they come here. What was heard last stands in the rows themselves,
which are durable, so neither a restart of the tracker counts anything twice, nor is what moved meanwhile lost.

A heartbeat costs what it says, and nothing for what it does not. Rejected: to write each heartbeat down and to add up
in the morning; a fleet of ten thousand says some hundred million things a night.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import HoursReport, NodeReport, TitleReport
from p2pfill.tracker.records import FillRecord

NIGHTS_KEPT: Final = 30
"""Nights that can be asked for: a month."""

STRANGE_KEPT: Final = 8
"""Besides, nights that lie more than `STRANGE_DAYS` from the tracker's own: of rehearsals, and of wrong clocks, which
must not push out the others."""
STRANGE_DAYS: Final = 3

NIGHTS_OPEN_MAX: Final = 8
"""Nights that heartbeats may add to: two or three in a fleet around the world, and some of wrong clocks."""

QUIET_S: Final = 2 * 86400.0
"""A night that nothing was heard of for so long is closed for good when another begins, and leaves the memory."""

ROWS_MAX: Final = 100_000
"""Pairs of title and cache of one night, each 1.4 kB in memory: ten titles in 10,000 caches. What comes to others is
summed up by title."""

CACHES_MAX: Final = 100_000
"""Of one night: as many as a tracker knows."""

BEGIN_MAX: Final = 1000
"""Titles that a cache is noted to lack when its night begins; of more, those that it says anything of."""

SPANS_MAX: Final = 64
"""Windows of one cache in a night that are kept: as many as a timetable has."""

FAR_MAX: Final = 8
"""Sources of one title and cache that are kept by name; the others are summed up."""
REASONS_MAX: Final = 32
"""Reasons of escalations, likewise: fills have a dozen."""
OTHERS: Final = "others"

SKEW_S: Final = 300.0
"""What clocks of nodes may differ by from the tracker's."""

COURSE_MAX: Final = 200
"""Steps of the course of a night. Where it needs more, they become longer: 200 of a quarter of an hour are 50 hours,
which is how long a night lasts around the world."""
COURSE_STEPS_S: Final = (1, 5, 15, 60, 300, 900, 3600, 14400, 86400)

NOON_S: Final = 12 * 3600

Tiers = tuple[int, int, int]
"""Bytes from peers, from the region and the world, and from origins."""


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


class Span(msgspec.Struct, gc=False, omit_defaults=True):
    """A window of a cache, as the tracker was told of it."""

    opened_at: float
    closed_at: float = 0.0
    """0: it is open."""


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
    spans: list[Span] = []
    used_bytes: int = 0
    budget_bytes: int = 0
    budget_used_at: float = 0.0
    """When it first said that its budget is used up."""
    exempt_bytes: int = 0
    """What came in this night out of cycle, and for repairs."""
    exempt_heard: int = 0
    boot: str = ""

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


class Unsaved(NamedTuple):
    """What the catalogue lacks: heads, and by night what was written or changed of its caches and rows."""

    heads: list[NightHead]
    caches: list[tuple[str, NightCache]]
    rows: list[tuple[str, NightRow]]
    dropped: list[str]
    """Nights that are kept no longer."""


OrderOf = Callable[[str, str], FillRecord | None]
"""Node and title -> the newest order that stands."""

RuleOf = Callable[[str, str], str]
"""Node and title -> the rule of the fleet's policy that says how far the node may go for it."""


class _Open:
    """A night that heartbeats add to."""

    def __init__(self, page: NightPage) -> None:
        self.head = page.head
        self.caches = {cache.node: cache for cache in page.caches}
        self.rows = {(row.node, row.title): row for row in page.rows}
        self.titles = {row.title for row in page.rows}
        self.dirty_rows: set[tuple[str, str]] = set()
        self.dirty_caches: set[str] = set()
        self.is_dirty = False


class Nights:
    """The nights that a tracker keeps, and what heartbeats and orders add to them."""

    def __init__(self, heads: Iterable[NightHead] = (), pages: Iterable[NightPage] = ()) -> None:
        """`heads` are of all nights that are kept, `pages` those that may still be added to (`still_open`)."""
        self.heads: dict[str, NightHead] = {head.night: head for head in heads}
        self._open = {page.head.night: _Open(page) for page in pages}
        self.heads |= {name: night.head for name, night in self._open.items()}
        self._night_of: dict[str, str] = {}
        """Node -> the night that it was last heard in."""
        for night in sorted(self._open.values(), key=lambda night: night.head.last_at):
            for cache in night.caches.values():
                if cache.heard_at:
                    self._night_of[cache.node] = night.head.night
        self._dropped: set[str] = set()

    def in_night(self, night: str) -> list[str]:
        """Return the caches that were last heard in a night."""
        if night not in self._open:
            return []
        return [node for node, name in self._night_of.items() if name == night]

    def cache(self, night: str, node: str) -> NightCache | None:
        """Return what is known of a cache in a night that is added to."""
        found = self._open.get(night)
        return None if found is None else found.caches.get(node)

    # ---- what happens

    def take(
        self,
        at: float,
        report: NodeReport,
        before: Mapping[str, TitleReport],
        lacking: Iterable[str],
        order_of: OrderOf,
        rule_of: RuleOf,
    ) -> None:
        """Take a heartbeat that is new. `before` is what its node had said of titles, `lacking` what it is to fetch."""
        node, hours = report.info.id, report.hours
        night = self._night(at, hours.night)
        cache, is_new = self._cache(night, at, report)
        if cache is None:
            return
        self._night_of[node] = night.head.night
        if is_new:
            for title in islice(lacking, BEGIN_MAX):
                self._begin(night, node, title, before.get(title), order_of).is_wanted = True
        _note_hours(cache, at, hours)
        for said in report.titles:
            self._take_title(night, cache, at, said, before.get(said.title), order_of, rule_of)
        for title in report.gone:
            row = night.rows.get((node, title))
            if row is not None and row.state != "live" and not row.ended:
                row.ended = "it was dropped"
                night.dirty_rows.add((node, title))

    def note_order(self, at: float, fill: FillRecord, nodes: Iterable[tuple[NodeInfo, TitleReport | None]]) -> None:
        """Note that a title was ordered for these nodes, with what they say of it."""
        for info, before in nodes:
            night = self._night(at, self._night_of.get(info.id, ""))
            if info.id not in night.caches and len(night.caches) < CACHES_MAX:
                night.caches[info.id] = NightCache(info.id, info.isp, info.region)
                night.head.caches = len(night.caches)
                night.dirty_caches.add(info.id)
            row = self._begin(night, info.id, fill.request.title, before, lambda *_: fill)
            row.ended, row.is_wanted = "", True
            _set_order(row, fill)
            night.dirty_rows.add((row.node, row.title))

    def note_end(self, at: float, title: str, nodes: Iterable[str], why: str) -> None:
        """Note that these nodes are not to have a title any more, where they have not got it in this night."""
        for node in nodes:
            night = self._open.get(self._night_of.get(node) or own_night(at))
            row = None if night is None else night.rows.get((node, title))
            if night is not None and row is not None and row.state not in ("live", "repairing"):
                row.ended = why
                night.dirty_rows.add((node, title))

    # ---- parts

    def _take_title(
        self, night: _Open, cache: NightCache, at: float, said: TitleReport, before: TitleReport | None,
        order_of: OrderOf, rule_of: RuleOf,
    ) -> None:  # fmt: skip
        node, title = cache.node, said.title
        row = night.rows.get((node, title))
        last = self._last(night, node, title)
        heard = last.heard if last is not None else _counters(before) if before is not None else Heard()
        if not heard.started_at:
            heard = Heard() if said.started_at >= cache.heard_at - SKEW_S else _counters(said)
            before = said if heard.started_at else None
        if row is None:
            if said.state == "live" and said.started_at == heard.started_at and _tiers(said) == heard.tiers:
                return  # it was live before this night, and nothing has come
            row = self._begin(night, node, title, before, order_of)
            was_live = before is not None and before.state in ("live", "repairing")
            row.is_wanted = row.is_wanted or (said.state != "repairing" and not was_live)
        was = row.state
        row.state, row.error = said.state, said.error
        row.have_bytes, row.title_bytes = said.have_bytes, said.title_bytes or row.title_bytes
        if cache.phase == "open" or not row.waits:
            row.waits = dict(said.waits)
        if said.state == "live":
            row.waits = {}
            if not row.live_at:
                row.live_at = said.finished_at if 0 < said.finished_at <= at else at
        if 0 < said.number != row.number and (fill := order_of(node, title)) is not None:
            _set_order(row, fill)
        if said.started_at:  # else it tells of no fill, as where its files cannot be opened
            escalated = sum(row.escalations.values())
            gained = _add(row, heard, _counters(said))
            if sum(row.escalations.values()) > escalated:
                row.rule = rule_of(node, title)
            if "repairing" in (was, said.state):
                row.repair += sum(gained)
            _add_course(night.head, at, gained)
        night.dirty_rows.add((row.node, row.title))
        night.is_dirty = True

    def _last(self, night: _Open, node: str, title: str) -> NightRow | None:
        """Return the row in which a fill was last heard of, in this night or in one before."""
        if (row := night.rows.get((node, title))) is not None and row.heard.started_at:
            return row
        found = [one for one in self._open.values() if (node, title) in one.rows]
        for one in sorted(found, key=lambda one: one.head.last_at, reverse=True):
            if (row := one.rows[node, title]).heard.started_at:
                return row
        return None

    def _begin(
        self, night: _Open, node: str, title: str, before: TitleReport | None, order_of: OrderOf
    ) -> NightRow:
        """Return the row of a title and cache, a new one where there is none, and a sum where there is no room."""
        if (node, title) in night.rows:
            return night.rows[node, title]
        if len(night.rows) >= ROWS_MAX:
            night.head.is_full = True
            return night.rows.setdefault(("", title if title in night.titles else ""), NightRow(title))
        last = self._last(night, node, title)
        row = night.rows[node, title] = NightRow(title, node)
        if before is not None:
            row.state, row.title_bytes = before.state, before.title_bytes
            row.live_at = before.finished_at if before.state == "live" else 0.0
            # What the catalogue knows of a title that was being filled when the tracker stopped may be old.
            row.had_bytes = max(before.have_bytes, last.have_bytes if last is not None else 0)
            row.have_bytes = row.had_bytes
        if (fill := order_of(node, title)) is not None:
            _set_order(row, fill)
        night.titles.add(title)
        night.head.titles = len(night.titles)
        night.dirty_rows.add((node, title))
        night.is_dirty = True
        return row

    def _cache(self, night: _Open, at: float, report: NodeReport) -> tuple[NightCache | None, bool]:
        info = report.info
        cache = night.caches.get(info.id)
        if cache is None:
            if len(night.caches) >= CACHES_MAX:
                return None, False
            cache = night.caches[info.id] = NightCache(info.id)
            night.head.caches = len(night.caches)
        is_new = not cache.heard_at
        if is_new:
            cache.exempt_heard, cache.boot = self._exempt_heard(report)
            cache.heard_at = at
        cache.isp, cache.region, cache.last_at = info.isp, info.region, at
        if cache.boot != report.boot:
            cache.boot, cache.exempt_heard = report.boot, 0
        cache.exempt_bytes += max(0, report.hours.exempt_bytes - cache.exempt_heard)
        cache.exempt_heard = report.hours.exempt_bytes
        night.head.last_at = at
        night.dirty_caches.add(info.id)
        night.is_dirty = True
        return cache, is_new

    def _exempt_heard(self, report: NodeReport) -> tuple[int, str]:
        """Return what was last heard of bytes out of cycle, and of which process, when a cache comes into a night."""
        found = [one.caches.get(report.info.id) for one in self._open.values()]
        last = max((one for one in found if one and one.heard_at), key=lambda one: one.last_at, default=None)
        return (report.hours.exempt_bytes, report.boot) if last is None else (last.exempt_heard, last.boot)

    def _night(self, at: float, name: str) -> _Open:
        """Return the night of a name, or the tracker's own where it is none, or one that is closed for good."""
        if name not in self._open and (name in self.heads or not is_night(name)):
            name = own_night(at)
        if name in self.heads and self._open and name not in self._open:  # the tracker's clock has gone back for days
            name = max(self._open, key=lambda one: self.heads[one].last_at)
        if name in self._open:
            return self._open[name]
        head = NightHead(name, at, at)
        night = self._open[name] = _Open(NightPage(head, [], []))
        self.heads[name] = head
        self._dropped.discard(name)
        night.is_dirty = True
        self._close(name, at)
        return night

    def _close(self, name: str, at: float) -> None:
        """Close and drop the nights that are too many, but not `name`, nor the tracker's own."""
        keep = {name, own_night(at)}
        heads = [self.heads[one] for one in self._open if one not in keep]
        too_many = len(self._open) - NIGHTS_OPEN_MAX
        for place, head in enumerate(sorted(heads, key=lambda head: (not _is_strange(head), head.last_at))):
            is_done = place < too_many or head.last_at < at - QUIET_S
            if is_done and not self._has_unsaved(head.night):
                del self._open[head.night]
        for is_strange, kept in ((False, NIGHTS_KEPT), (True, STRANGE_KEPT)):
            alike = [head for head in self.heads.values() if _is_strange(head) == is_strange]
            for head in sorted(alike, key=lambda head: -head.last_at)[kept:]:
                if head.night not in keep:
                    del self.heads[head.night]
                    self._open.pop(head.night, None)
                    self._dropped.add(head.night)
        self._night_of = {node: night for node, night in self._night_of.items() if night in self._open}

    def _has_unsaved(self, name: str) -> bool:
        night = self._open[name]
        return night.is_dirty or bool(night.dirty_rows or night.dirty_caches)

    # ---- the catalogue

    def take_unsaved(self) -> Unsaved:
        """Return what the catalogue lacks, which counts as saved from now on."""
        unsaved = Unsaved([], [], [], sorted(self._dropped))
        self._dropped = set()
        for name, night in self._open.items():
            if night.is_dirty or night.dirty_caches or night.dirty_rows:
                unsaved.heads.append(night.head)
            unsaved.caches.extend((name, night.caches[node]) for node in night.dirty_caches)
            unsaved.rows.extend((name, night.rows[key]) for key in night.dirty_rows)
            night.is_dirty, night.dirty_caches, night.dirty_rows = False, set(), set()
        return unsaved

    def not_saved(self, unsaved: Unsaved) -> None:
        """Take back that these were saved."""
        self._dropped |= set(unsaved.dropped) - self.heads.keys()
        for head in unsaved.heads:
            if (night := self._open.get(head.night)) is not None:
                night.is_dirty = True
        for name, cache in unsaved.caches:
            if (night := self._open.get(name)) is not None:
                night.dirty_caches.add(cache.node)
        for name, row in unsaved.rows:
            if (night := self._open.get(name)) is not None:
                night.dirty_rows.add((row.node, row.title))


def still_open(heads: Iterable[NightHead]) -> list[str]:
    """Return the nights that a tracker that starts goes on adding to: the last that were heard of."""
    found = sorted(heads, key=lambda head: -head.last_at)[:NIGHTS_OPEN_MAX]
    return [head.night for head in found if head.last_at >= found[0].last_at - QUIET_S]


def own_night(at: float) -> str:
    """Return the tracker's own night of a time, noon to noon in UTC."""
    return (datetime.fromtimestamp(at, UTC) - timedelta(seconds=NOON_S)).date().isoformat()


def is_night(name: str) -> bool:
    """Tell whether a text names a night: a date, as 2026-11-29."""
    try:
        return date.fromisoformat(name).isoformat() == name
    except ValueError:
        return False


def _is_strange(head: NightHead) -> bool:
    return abs((date.fromisoformat(head.night) - date.fromisoformat(own_night(head.last_at))).days) > STRANGE_DAYS


def _note_hours(cache: NightCache, at: float, hours: HoursReport) -> None:
    cache.has_windows = bool(hours.night)
    is_open, spans = hours.phase == "open" and cache.has_windows, cache.spans
    if is_open and (not spans or spans[-1].closed_at):
        if len(spans) < SPANS_MAX:
            spans.append(Span(at))
        else:
            spans[-1].closed_at = 0.0
    elif not is_open and spans and not spans[-1].closed_at:
        spans[-1].closed_at = at
    cache.phase, cache.until = hours.phase, hours.until
    cache.used_bytes, cache.budget_bytes = hours.used_bytes, hours.budget_bytes
    # Once its window is over it does not say so any more, and the tracker may have been away till then.
    is_used = hours.budget_used or 0 < hours.budget_bytes <= hours.used_bytes
    if is_used and not cache.budget_used_at:
        cache.budget_used_at = at


def _set_order(row: NightRow, fill: FillRecord) -> None:
    row.ordered_at, row.number, row.now = fill.ordered_at or fill.created_at, fill.number, fill.request.now


def _tiers(said: TitleReport) -> Tiers:
    return said.bytes_peer, said.bytes_regional, said.bytes_origin


def _counters(said: TitleReport) -> Heard:
    far = {source.id: source.bytes for source in said.sources if source.tier != "peer" and source.bytes}
    return Heard(said.started_at, _tiers(said), said.duplicate_bytes, said.reused_bytes, dict(said.escalations), far)


def _more(now: int, before: int) -> int:
    return max(0, now - before)


def _add(row: NightRow, before: Heard, now: Heard) -> Tiers:
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


def _add_course(head: NightHead, at: float, gained: Tiers) -> None:
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
