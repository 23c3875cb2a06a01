"""What the night gave of a plan's titles, as far as the planner needs it: made of the tracker's report. Pure.

A row of the night is a title in a cache; the plan has files. Which files of a title are there follows from the row:

- What `comes` is there when all that was ordered is: the title is live, and has all the bytes that its order is about.
  While more files are added to a live title (`repairing`), what was there stays, and what comes is not there yet; nor
  is it where the title is whole and the cache has fewer bytes than the plan's files of it (`copies`): it was not
  ordered, or the cache has not begun with that order.
- What `stays` is there while the title is shown, live or repairing. A title that was live before the night, and of
  which nothing came, has no row: it is there where its cache was heard.
- A cache that was never heard, or fell silent while it was open, is down, and has nothing. One that lives and whose
  night has not begun by its own clock has what it had.

Why something is not there is one of `Why`, decided in this order:

- `health`: the cache is down, or has not been heard since it was ordered, or the fill failed.
- `order`: it was not ordered, or not any more.
- `rate`: a budget of the night was used up, or most of the chunks waited for a budget of the fleet's policy, or the
  cache took in all that its rate allows while it was open (`RATE_SPENT`).
- `route`: most of the chunks waited for a source that cannot be reached, or that a rule of the policy forbids or holds
  back.
- `window`: the rest. No window opened, it ended, or has not come, before all was there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, get_args

import msgspec
from msgspec.structs import replace

from p2pfill.plan.orders import is_planned, named_by, path_of
from p2pfill.tracker.night_report import CacheNight, CacheTitle, Cause, NightReport
from p2pfill.tracker.records import FillRecord

Why = Literal["window", "rate", "route", "health", "order"]
WHYS: Final[tuple[Why, ...]] = get_args(Why)

RATE_SPENT: Final = 0.9
"""Of what a cache's rate lets in while it is open: with so much, the rate was the limit. The rest is what starts, ends
and pauses cost."""

ROUTE_WAITS: Final = ("the origin, which cannot be reached", "a cache that holds them, since", "the wait that")
"""How the reasons begin for which chunks wait where there is no way to a source (`swarm.waits`)."""
FAR_MASTER: Final = "cannot reach the origin"
"""How that of a fill master ends which has no way to one."""
BUDGET_WAIT: Final = "budget "

Say = Callable[[CacheTitle, CacheNight | None], str]
"""Puts into words why a cache lacks a title."""
Ordered = Mapping[str, Mapping[str, frozenset[str]]]
"""Title -> cache -> its files that the planner's orders are about; an empty set: all of them."""


class ByTier(msgspec.Struct):
    """Bytes by where they came from."""

    peer: int = 0
    """Of the same ISP."""
    region: int = 0
    """Of another ISP of the region."""
    other: int = 0
    """Of another region."""
    origin: int = 0

    def add(self, more: ByTier) -> None:
        """Add what came elsewhere."""
        self.peer += more.peer
        self.region += more.region
        self.other += more.other
        self.origin += more.origin

    @property
    def total(self) -> int:
        """All of it."""
        return self.peer + self.region + self.other + self.origin

    @property
    def into_isps(self) -> int:
        """What crossed the border of an ISP."""
        return self.region + self.other + self.origin


class TitleFacts(msgspec.Struct):
    """What became of one title in one cache."""

    is_shown: bool = False
    """What was there before is served."""
    is_whole: bool = False
    """All that was ordered is."""
    live_at: float = 0.0
    """Since it was ordered last; 0: not known. Of a title that was live before, and had files added, the night does not
    say when these were there."""
    have_bytes: int = 0
    came: ByTier = msgspec.field(default_factory=ByTier)
    why: Why = "window"
    """Why it is not whole, or where it is, would not be if more had been ordered."""
    said: str = ""


class CacheFacts(msgspec.Struct):
    """What is known of one cache."""

    isp: str = ""
    region: str = ""
    down: str = ""
    """Why it had nothing to serve, for people; empty: it was heard."""
    is_early: bool = False
    """Its night has not begun: it lives, and by its own clock is in one before."""


class NightFacts(msgspec.Struct):
    """What a night gave."""

    night: str
    began_at: float
    is_over: bool
    caches: dict[str, CacheFacts]
    titles: dict[str, dict[str, TitleFacts]]
    """Title, by its name, -> cache ->."""
    came: ByTier
    """All that came, also of other titles."""
    ordered: Ordered | None = None
    """None: not known."""
    at_tracker: frozenset[str] | None = None
    """Names of the titles that the tracker has; None: not known."""
    live: frozenset[tuple[str, str]] = frozenset()
    """Titles and caches where they are live now, as far as that was asked."""


def facts_of(
    report: NightReport,
    say: Say,
    *,
    rates: Mapping[str, float] | None = None,
    ordered: Ordered | None = None,
    at_tracker: frozenset[str] | None = None,
    live: frozenset[tuple[str, str]] = frozenset(),
    early: Mapping[str, CacheFacts] | None = None,
) -> NightFacts:
    """Return what a night gave. `rates` are those at which caches may take in, in bytes a second, where known.

    `early` are caches whose night has not begun: the tracker hears them, but not in this night. Of several titles of a
    name the one counts that was ordered last, and what came of the others is added to it.
    """
    nights = {cache.node: cache for cache in report.caches}
    caches = {name: CacheFacts(cache.isp, cache.region) for name, cache in nights.items()}
    titles: dict[str, dict[str, TitleFacts]] = {}
    came = ByTier()
    for title in sorted(report.titles, key=lambda one: one.ordered_at):
        of_title = titles.setdefault(title.name, {})
        beyond = ByTier(title.bytes_peer, title.bytes_regional, 0, title.bytes_origin)
        for row in title.rows:
            tiers = _tiers(row, caches)
            for tier in ("peer", "origin"):
                setattr(beyond, tier, getattr(beyond, tier) - getattr(tiers, tier))
            beyond.region -= tiers.region + tiers.other
            came.add(tiers)
            cache = caches.setdefault(row.node, CacheFacts(row.isp))
            if row.cause in ("unheard", "silent"):
                cache.down = say(row, nights.get(row.node))
            facts = _facts(row, nights.get(row.node), say, rates or {})
            if row.node in of_title:
                tiers.add(of_title[row.node].came)
            facts.came = tiers
            of_title[row.node] = facts
        came.add(beyond)  # what came to caches that the night does not list one by one
    for name, night in nights.items():
        if not night.heard_at and not caches[name].down:
            caches[name].down = "the cache was not heard in this night"
    for name, its in (early or {}).items():
        caches[name] = CacheFacts(its.isp, its.region, is_early=True)
    return NightFacts(report.night, report.began_at, report.is_over, caches, titles, came, ordered, at_tracker, live)


def ordered_of(fills: Iterable[FillRecord], names: Mapping[str, str]) -> Ordered:
    """Return what the planner's orders at a tracker are about. `names` are those of titles, by id."""
    found: dict[str, dict[str, frozenset[str]]] = {}
    for fill in fills:
        if not is_planned(fill) or fill.request.title not in names:
            continue
        of_title, files = found.setdefault(names[fill.request.title], {}), frozenset(map(path_of, fill.request.files))
        for cache in named_by(fill):
            before = of_title.get(cache, files)
            of_title[cache] = files | before if files and before else frozenset()
    return found


def _tiers(row: CacheTitle, caches: Mapping[str, CacheFacts]) -> ByTier:
    """Return what came of a title into a cache; from another region is what a named cache of one has sent."""
    here = caches[row.node].region if row.node in caches else ""
    far = sum(one.bytes for one in row.far if one.id in caches and caches[one.id].region != here)
    other = min(far, row.bytes_regional)
    return ByTier(row.bytes_peer, row.bytes_regional - other, other, row.bytes_origin)


def _facts(row: CacheTitle, cache: CacheNight | None, say: Say, rates: Mapping[str, float]) -> TitleFacts:
    is_shown = row.state in ("live", "repairing")
    # A title that is added to counts as live in the night. One that went live since it was ordered is only mended.
    is_mended = row.state == "repairing" and row.live_at >= row.ordered_at > 0
    is_whole = (row.state == "live" or is_mended) and not row.ended
    # Also of what is whole: it may have fewer files than a plan wants.
    lacking = row if row.cause or row.ended else replace(row, cause=_cause(cache))
    why, said = _why(lacking, cache, rates), row.ended or say(lacking, cache)
    live_at = row.live_at if row.live_at >= row.ordered_at else 0.0
    return TitleFacts(is_shown, is_whole, live_at, row.have_bytes, ByTier(), why, said)


def _cause(cache: CacheNight | None) -> Cause:
    """Return what ended the fill of a cache in general."""
    if cache is None or not cache.heard_at:
        return "unheard"
    if cache.budget_used_at:
        return "budget"
    if not cache.has_windows:
        return "night ended"
    return ("window ended" if cache.windows[-1].closed_at else "filling") if cache.windows else "no window"


def _why(row: CacheTitle, cache: CacheNight | None, rates: Mapping[str, float]) -> Why:
    if row.ended:
        return "order"
    if row.cause in ("failed", "unheard", "silent"):
        return "health"
    if row.cause == "budget":
        return "rate"
    route = sum(n for why, n in row.waits.items() if why.startswith(ROUTE_WAITS) or FAR_MASTER in why)
    budget = sum(n for why, n in row.waits.items() if why.startswith(BUDGET_WAIT))
    half = sum(row.waits.values()) / 2
    if budget > half or (cache is not None and _is_rate_spent(cache, rates.get(row.node, 0.0))):
        return "rate"
    return "route" if route > half else "window"


def _is_rate_spent(cache: CacheNight, rate: float) -> bool:
    open_s = sum((span.closed_at or cache.last_at) - span.opened_at for span in cache.windows)
    return 0 < rate * open_s * RATE_SPENT <= cache.used_bytes
