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

from p2pfill.model.night import RecordedTitle
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import NodeReport, TitleReport
from p2pfill.tracker.night_rows import (
    Heard,
    NightCache,
    NightHead,
    NightPage,
    NightRow,
    add_course,
    add_gains,
    counters_of,
    note_away,
    note_hours,
    note_pace,
    set_order,
    tiers_of,
)
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

SKEW_S: Final = 300.0
"""What clocks of nodes may differ by from the tracker's."""

NOON_S: Final = 12 * 3600

class Unsaved(NamedTuple):
    """What the catalogue lacks: heads, and by night what was written or changed of its caches and rows."""

    heads: list[NightHead]
    caches: list[tuple[str, NightCache]]
    rows: list[tuple[str, NightRow]]
    dropped: list[str]
    """Nights that are kept no longer."""
    titles: list[tuple[str, RecordedTitle]]


OrderOf = Callable[[str, str], FillRecord | None]
"""Node and title -> the newest order that stands."""

FactsOf = Callable[[str], RecordedTitle]
"""Title -> what it is, and who has how much of it."""

RuleOf = Callable[[str, str], str]
"""Node and title -> the rule of the fleet's policy that says how far the node may go for it."""


class _Open:
    """A night that heartbeats add to."""

    def __init__(self, page: NightPage) -> None:
        self.head = page.head
        self.caches = {cache.node: cache for cache in page.caches}
        self.rows = {(row.node, row.title): row for row in page.rows}
        self.titles = {one.title: one for one in page.titles}
        self.dirty_titles: set[str] = set()
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
        self._away: dict[str, float] = {}
        """Node that is taken for dead -> when it was last heard."""
        self.facts_of: FactsOf = RecordedTitle
        """Asked once for each title of a night."""

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
        before_it = night.caches.get(node)
        is_same = before_it is not None and before_it.boot == report.boot
        cache, is_new = self._cache(night, at, report)
        silent_since = self._away.pop(node, None) if self._away else None
        if cache is None:
            return
        if is_same and cache.away and not cache.away[-1].closed_at:
            cache.away.pop()  # it was not off: nothing was heard of it, and its fills and links went on
        elif (silent_since is not None and is_new) or (cache.away and not cache.away[-1].closed_at):
            note_away(cache, silent_since or 0.0, at)
        self._night_of[node] = night.head.night
        if is_new:
            for title in islice(lacking, BEGIN_MAX):
                self._begin(night, node, title, before.get(title), order_of).is_wanted = True
        note_hours(cache, at, hours)
        note_pace(cache, at, report)
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
                night.caches[info.id] = NightCache(info.id, info.isp, info.region, info=info)
                night.head.caches = len(night.caches)
                night.dirty_caches.add(info.id)
            row = self._begin(night, info.id, fill.request.title, before, lambda *_: fill)
            row.ended, row.is_wanted = "", True
            set_order(row, fill)
            night.dirty_rows.add((row.node, row.title))

    def note_silent(self, node: str, since: float) -> None:
        """Note that a node is taken for dead, and when it was last heard; 0: it never was."""
        self._away[node] = since
        night = self._open.get(self._night_of.get(node, ""))
        if night is not None and (cache := night.caches.get(node)) is not None:
            note_away(cache, since)
            night.dirty_caches.add(node)

    def forget(self, node: str) -> None:
        """Note that a node is gone for good."""
        self._away.pop(node, None)

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
        heard = last.heard if last is not None else counters_of(before) if before is not None else Heard()
        if not heard.started_at:
            heard = Heard() if said.started_at >= cache.heard_at - SKEW_S else counters_of(said)
            before = said if heard.started_at else None
        if row is None:
            if said.state == "live" and said.started_at == heard.started_at and tiers_of(said) == heard.tiers:
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
            set_order(row, fill)
        if said.started_at:  # else it tells of no fill, as where its files cannot be opened
            escalated = sum(row.escalations.values())
            gained = add_gains(row, heard, counters_of(said))
            if sum(row.escalations.values()) > escalated:
                row.rule = rule_of(node, title)
            if "repairing" in (was, said.state):
                row.repair += sum(gained)
            add_course(night.head, at, gained)
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
            set_order(row, fill)
        if title not in night.titles:
            night.titles[title] = self.facts_of(title)
            night.dirty_titles.add(title)
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
        cache.isp, cache.region, cache.last_at, cache.info = info.isp, info.region, at, info
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
        return night.is_dirty or bool(night.dirty_rows or night.dirty_caches or night.dirty_titles)

    # ---- the catalogue

    def take_unsaved(self) -> Unsaved:
        """Return what the catalogue lacks, which counts as saved from now on."""
        unsaved = Unsaved([], [], [], sorted(self._dropped), [])
        self._dropped = set()
        for name, night in self._open.items():
            if night.is_dirty or night.dirty_caches or night.dirty_rows:
                unsaved.heads.append(night.head)
            unsaved.caches.extend((name, night.caches[node]) for node in night.dirty_caches)
            unsaved.rows.extend((name, night.rows[key]) for key in night.dirty_rows)
            unsaved.titles.extend((name, night.titles[title]) for title in night.dirty_titles)
            night.is_dirty, night.dirty_caches, night.dirty_rows, night.dirty_titles = False, set(), set(), set()
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
        for name, title in unsaved.titles:
            if (night := self._open.get(name)) is not None:
                night.dirty_titles.add(title.title)


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
