"""A night that a tracker has recorded, as a scenario: run with the policy that stood it should give that night's bytes,
and with another policy what that would have given.

What a record does not say is taken as follows. `notes` of a `Rebuilding` says for whom that mattered.

- Of a part of a title, the first chunks: of several caches that had parts the largest holds all the others.
- A cache's link carries the most that the cache was seen to move, either way, or as much as is usual where that is not
  much more (`ALIKE`). Where a limit kept it there, nobody knows what it could do; it is taken for as fast as the limit
  under the other policy, if that has one.
- Origins, uplinks of ISPs and the ways between have no limits.
- A cache opens and closes as it did, unless the two policies differ about its windows; then as the new one says.
- A title of many chunks is cut into fewer and larger ones (`PAIRS_MAX`); its bytes stay the same.

A record is of another machine: what it says is checked before anything is made of it. Rejected: to replay what each
cache did, which says nothing about another policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, isfinite
from statistics import median
from typing import Final, NamedTuple

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import WAIT_S_MAX, CacheSettings, FleetPolicy, parse_policy, settings_for
from p2pfill.model.limits import CHUNK_SIZE_MAX, CHUNK_SIZE_MIN, KIB, MIB, TITLE_BYTES_MAX, TITLE_ID_BYTES
from p2pfill.model.manifest import default_chunk_size
from p2pfill.model.night import RecordedCache, RecordedFill, RecordedNight, RecordedTitle, Span, Tiers
from p2pfill.model.policy import ANYWHERE
from p2pfill.model.rates import NO_LIMITS, TIERS, RateLimits, Rates
from p2pfill.model.windows import show_utc
from p2pfill.sim.cache import SimCache
from p2pfill.sim.disk import StoredTitle
from p2pfill.sim.scenario import MBIT_BYTES, FaultSpec, LabEvent, Scenario, TitleSpec
from p2pfill.sim.world import Progress, World
from p2pfill.swarm.election import Scope

CACHES_MAX: Final = 500
"""Of a night that can be rebuilt: more take longer than anybody waits for an answer."""

PAIRS_MAX: Final = 24_000
"""Chunks times caches that are to have them, of all titles: some minutes on one core."""

CELLS_MAX: Final = 50_000
"""Titles times caches: each takes some kilobytes, whether the cache is to have the title or not."""

URL_CHARS_MAX: Final = 4096

CHUNKS_MIN: Final = 64
"""No title is cut into fewer chunks than that, or than it has: one of them is then less than 2 % of it."""

EXACT_MAX: Final = 64
"""Caches up to which the sharing of bandwidth is worked out exactly."""

NIGHT_S_MAX: Final = 4 * 86400.0
"""Of a record: around the world a night lasts 50 hours."""

DAY_S: Final = 86400.0

EPOCH_S_MAX: Final = 1e11
"""No time of a record is later."""

RATE_UNKNOWN: Final = 125_000_000
"""Bytes a second of a cache's link where no cache was seen to move anything: a gigabit a second."""

ALIKE: Final = 0.5
"""A cache that was seen to move this part of its limit is taken to have been kept by that, and one that moved this part
of what is usual to be as fast as usual: what it was seen to move at most depends on when it was looked at, and caches
that seem slower than the others are taken for slow by them, too."""

LEAD_S: Final = 60.0
"""A run begins so long before the first cache that lacks something opens."""

LATER_S: Final = 60.0
"""An order that comes so long after the first one of its title is late."""

QUIET_S: Final = 180.0
"""A run in which nothing has come for so long beyond the longest wait of the policy brings nothing more: several times
as long as a source that was at fault is left alone."""

WAIT_STRETCH: Final = 1.0625
"""A wait may be a sixteenth longer than it says (`swarm.hops`)."""

LEAST_LEFT: Final = 0.02
"""Of the link of a cache that has nothing to spare: what is under way ends some time."""

STEPS: Final = 200
"""How often, at most, progress is told in a run."""


class NotRebuilt(ConfigError):
    """A night cannot be rebuilt; the message says why."""


class Rebuilding(NamedTuple):
    """A night as a scenario."""

    scenario: Scenario
    began_at: float
    """When the run begins, in seconds since the epoch."""
    notes: list[str]
    """What had to be assumed, in sentences for people."""


class TitleFigures(msgspec.Struct):
    """What became of one title."""

    title: str
    name: str
    tiers: Tiers
    """Bytes."""
    caches: int
    """That were to have it."""
    live: int
    live_at: float
    """When the last of them had it, in seconds since the epoch; 0: not all had it."""


class Lacking(msgspec.Struct):
    """Caches that did not get a title, for one reason."""

    title: str
    name: str
    caches: list[str]
    reason: str


class Figures(msgspec.Struct):
    """What a night gave."""

    tiers: Tiers
    titles: list[TitleFigures]
    lacking: list[Lacking] = []
    escalations: dict[str, int] = {}
    budgets: dict[str, int] = {}
    """Of the policy -> what came from its origins."""
    barred: int = 0
    """Orders that residency does not allow."""


# ---- what is recorded


def usable(night: RecordedNight) -> tuple[RecordedNight, list[str]]:
    """Return a record without titles that nobody knew, and what of it was left out. Raises `NotRebuilt`."""
    _check(night)
    had = {fill.title for fill in night.fills}
    known = [title for title in night.titles if title.name and title.size and title.title in had]
    names = {title.title for title in known}
    fills = [fill for fill in night.fills if fill.title in names]
    notes = []
    if unknown := len(had) - len(known):
        notes.append(f"{unknown} titles are left out: they were not in the tracker's catalogue")
    if not fills:
        why = f"; {notes[0]}" if notes else ""
        raise NotRebuilt(f"nothing was to be had in the night of {night.night}: there is nothing to rebuild{why}")
    left_out = night.left_out
    for fill in night.fills:
        if fill.title not in names:
            left_out = _add(left_out, fill.tiers)
    return msgspec.structs.replace(night, titles=known, fills=fills, left_out=left_out), notes


def recorded(night: RecordedNight) -> Figures:
    """Return what a night gave, by its record."""
    titles, by_title = [], _by_title(night)
    for title in night.titles:
        fills = by_title[title.title]
        live = [fill.live_at for fill in fills if fill.live_at]
        live_at = max(live) if live and len(live) == len(fills) else 0.0
        tiers = _sum(fill.tiers for fill in fills)
        titles.append(TitleFigures(title.title, title.name, tiers, len(fills), len(live), live_at))
    return Figures(_sum(fill.tiers for fill in night.fills), titles)


def ordered_at(night: RecordedNight) -> float:
    """Return when the first title was to be had in a night."""
    return min(_order_at(night, fill) for fill in night.fills)


def _by_title(night: RecordedNight) -> dict[str, list[RecordedFill]]:
    found: dict[str, list[RecordedFill]] = {title.title: [] for title in night.titles}
    for fill in night.fills:
        found[fill.title].append(fill)
    return found


def _order_at(night: RecordedNight, fill: RecordedFill) -> float:
    return min(max(fill.ordered_at, night.began_at), night.last_at)


def _check(night: RecordedNight) -> None:
    """Look whether a record can be one. Raises `NotRebuilt`."""
    _require(0 < night.began_at <= night.last_at <= EPOCH_S_MAX, "it ends before it begins")
    _require(night.last_at - night.began_at <= NIGHT_S_MAX, f"it lasts longer than {NIGHT_S_MAX / 86400:g} days")
    caches = [cache.info.id for cache in night.caches]
    titles = [title.title for title in night.titles]
    pairs = {(fill.title, fill.node) for fill in night.fills}
    _require(len(set(caches)) == len(caches), "a cache is in it twice")
    _require(len(set(titles)) == len(titles), "a title is in it twice")
    _require(all(_is_title(title) for title in titles), "a title has no id")
    _require(len(pairs) == len(night.fills), "a title is in a cache twice")
    _require({title for title, _ in pairs} <= set(titles), "it tells of a title that is not in it")
    _require({node for _, node in pairs} <= set(caches), "it tells of a cache that is not in it")
    for cache in night.caches:
        name, info = cache.info.id[:40], cache.info
        _require(bool(info.id and info.isp), "a cache has no name or no ISP")
        _require(isfinite(info.weight) and 0 < info.weight <= 1e6, f"the weight of {name!r} is absurd")
        _require(min(cache.fastest_in, cache.fastest_out) >= 0, f"the rate of {name!r} is below 0")
        spans = [at for span in (*cache.windows, *cache.away) for at in (span.opened_at, span.closed_at)]
        spans += [one.at for one in cache.busy]
        _require(all(0 <= at <= EPOCH_S_MAX for at in spans), f"a time of {name!r} is absurd")
        _require(all(0 <= one.busy <= 1 for one in cache.busy), f"how busy {name!r} was is absurd")
    for title in night.titles:
        sizes = (title.size, title.chunk_size, *title.held.values())
        _require(all(0 <= size <= TITLE_BYTES_MAX for size in sizes), f"the size of {title.title[:8]} is absurd")
        _require(len(title.name) <= 1024, "a title's name is absurd")
        _require(all(len(url) <= URL_CHARS_MAX for url in title.origins), "an origin's URL is absurd")
    for fill in night.fills:
        figures = (fill.had, fill.wanted, *fill.tiers)
        where = f"of {fill.title[:8]} in {fill.node[:40]!r}"
        _require(all(0 <= count < 1 << 62 for count in figures), f"what came {where} is absurd")
        times = (fill.ordered_at, fill.live_at, fill.deadline or 0.0)
        _require(all(isfinite(at) and 0 <= at <= EPOCH_S_MAX for at in times), f"a time {where} is absurd")
        _require(abs(fill.priority) < 1 << 31, f"the priority {where} is absurd")
        waits = (fill.policy.stall_wait_s, fill.policy.request_timeout_s, fill.policy.quarantine_s)
        is_plain = fill.policy.reach == ANYWHERE and all(0 < wait_s <= WAIT_S_MAX for wait_s in waits)
        _require(is_plain, f"the policy of the order {where} is absurd")


def _is_title(text: str) -> bool:
    return len(text) == 2 * TITLE_ID_BYTES and not set(text) - set("0123456789abcdef")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise NotRebuilt(f"the record of this night cannot be used: {what}")


# ---- the scenario


def rebuild(night: RecordedNight, stood: str, policy: str) -> Rebuilding:
    """Return a night that is `usable` as a scenario under a policy. `stood` is the one that stood then, both as texts.

    Raises `NotRebuilt`, and `PolicyError`.
    """
    before, after = (parse_policy(text) for text in (stood, policy))
    concerned = {fill.node for fill in night.fills}.union(*(title.held for title in night.titles))
    caches = [cache for cache in night.caches if cache.info.id in concerned]
    if len(caches) > CACHES_MAX:
        raise NotRebuilt(
            f"{len(caches)} caches had to do with titles in the night of {night.night}: at most {CACHES_MAX} can be "
            "simulated in a time that one waits for"
        )
    if len(caches) * len(night.titles) > CELLS_MAX:
        raise NotRebuilt(
            f"{len(night.titles)} titles and {len(caches)} caches had to do with each other in the night of "
            f"{night.night}: titles times caches may be {CELLS_MAX:,} at most"
        )
    notes: list[str] = []
    chunk_sizes = _chunk_sizes(night, notes)
    spans = _windows(caches, before, after, notes)
    began_at = _begins(night, caches, after, spans)
    end_s = max(_ends(night) - began_at, 1.0)
    rates, limits = _rates(caches, before, after, notes)
    joins, faults = _away(caches, began_at, end_s)
    faults += _busy(caches, began_at, end_s)
    by_title = _by_title(night)
    if late := sum(_late(night, fills) for fills in by_title.values()):
        notes.append(f"{late} orders came later than the first one of their title, and are taken for as early")
    if money := [rule.name for rule in after.budgets if rule.money]:
        notes.append(f"budgets of money are left out, since prices are not known here: {', '.join(money)}")
    scenario = Scenario(
        name=f"the night of {night.night}",
        caches=tuple(cache.info for cache in caches),
        origin="the origin",
        rates={name: rate / MBIT_BYTES for name, rate in rates.items()},
        goodput=1.0,
        titles=tuple(
            _title(night, title, by_title[title.title], chunk_sizes[title.title], began_at) for title in night.titles
        ),
        delay_ms=0.5,
        isp_delay_ms=5.0,
        region_delay_ms=40.0,
        fleet_policy=policy,
        limits=limits,
        open_spans={name: _open_spans(found, began_at, end_s) for name, found in spans.items()},
        events=joins,
        faults=faults,
        wall_at=show_utc(began_at),
        exact=len(caches) <= EXACT_MAX,
        check_tiers=False,
        end_s=end_s,
        quiet_s=_longest_wait_s(after) * WAIT_STRETCH + QUIET_S,
    )
    scenario.check()
    return Rebuilding(scenario, began_at, notes)


def _longest_wait_s(policy: FleetPolicy) -> float:
    return max((wait_s for rule in policy.fills for wait_s in rule.waits.values()), default=0.0)


def _chunk_sizes(night: RecordedNight, notes: list[str]) -> dict[str, int]:
    """Return the size of the chunks into which each title is cut. Raises `NotRebuilt`."""
    caches = Counter(fill.title for fill in night.fills)
    sizes = {title.title: title.chunk_size or default_chunk_size(title.size) for title in night.titles}
    sizes = {title: min(max(-(-size // KIB) * KIB, CHUNK_SIZE_MIN), CHUNK_SIZE_MAX) for title, size in sizes.items()}
    before = dict(sizes)

    def counts() -> dict[str, int]:
        return {title.title: -(-title.size // sizes[title.title]) for title in night.titles}

    now = counts()
    while (pairs := sum(count * caches[title] for title, count in now.items())) > PAIRS_MAX:
        larger = [title for title, count in now.items() if count > CHUNKS_MIN and sizes[title] < CHUNK_SIZE_MAX]
        if not larger:
            raise NotRebuilt(
                f"{len(now)} titles in {len({fill.node for fill in night.fills})} caches are {pairs:,} chunks to "
                f"fetch even where they are cut as coarsely as can be; at most {PAIRS_MAX:,} can be simulated in a "
                "time that one waits for"
            )
        most = max(now[title] for title in larger)
        for title in larger:
            if 2 * now[title] >= most:
                sizes[title] = min(2 * sizes[title], CHUNK_SIZE_MAX)
        now = counts()
    if coarse := [title for title in sizes if sizes[title] != before[title]]:
        was = sum(-(-title.size // before[title.title]) for title in night.titles if title.title in coarse)
        notes.append(
            f"{len(coarse)} titles are cut into {sum(now[title] for title in coarse):,} chunks instead of {was:,}; "
            "their bytes are the same, and numbers of chunks are fewer"
        )
    return sizes


def _windows(
    caches: Iterable[RecordedCache], before: FleetPolicy, after: FleetPolicy, notes: list[str]
) -> dict[str, list[Span]]:
    """Return the caches that open as they did that night, and when that was."""
    found: dict[str, list[Span]] = {}
    unknown = 0
    for cache in caches:
        was, now = settings_for(before, cache.info).windows, settings_for(after, cache.info).windows
        if not cache.has_windows or (now != was and now is not None):
            continue
        found[cache.info.id] = cache.windows
        unknown += now != was
    if unknown:
        notes.append(
            f"{unknown} caches go by windows of their own under the new policy, which are not known here: they open "
            "as they did that night"
        )
    return found


def _begins(
    night: RecordedNight, caches: Iterable[RecordedCache], after: FleetPolicy, spans: Mapping[str, list[Span]]
) -> float:
    """Return when a run begins: with the first order, or later where nobody who lacks something is open."""
    first = ordered_at(night)
    if any(fill.now for fill in night.fills):
        return first
    lacking = {fill.node for fill in night.fills}
    opens = []
    for cache in caches:
        windows = settings_for(after, cache.info).windows
        if cache.info.id not in lacking:
            continue
        if cache.info.id in spans:
            ends = ((span.opened_at, span.closed_at or inf) for span in spans[cache.info.id])
            opens.append(min((max(begin, first) for begin, end in ends if end > first), default=night.last_at))
        elif windows is None or (moment := windows.at(first)).is_open:
            return first
        else:
            opens.append(moment.until)
    return min(max(first, min(opens, default=first) - LEAD_S), night.last_at)


def _ends(night: RecordedNight) -> float:
    """Return when a run ends. Where all is live and the night goes on, what takes longer has all of it yet."""
    if night.is_over or not all(fill.live_at for fill in night.fills):
        return night.last_at
    return max(night.last_at, night.began_at + DAY_S)


def _rates(
    caches: Sequence[RecordedCache], before: FleetPolicy, after: FleetPolicy, notes: list[str]
) -> tuple[dict[str, float], dict[str, RateLimits]]:
    """Return what each cache's link carries, in bytes a second, and its limits beside those of the new policy."""
    seen = {cache.info.id: max(cache.fastest_in, cache.fastest_out) for cache in caches}
    usual = median([rate for rate in seen.values() if rate] or [RATE_UNKNOWN])
    if idle := sum(not rate for rate in seen.values()):
        notes.append(f"links taken for as fast as the others', of caches not seen to move anything: {idle}")
    rates: dict[str, float] = {}
    limits: dict[str, RateLimits] = {}
    lifted = 0
    for cache in caches:
        name = cache.info.id
        was, now = settings_for(before, cache.info), settings_for(after, cache.info)
        rates[name] = max(seen[name], usual) if seen[name] >= ALIKE * usual else seen[name] or usual
        limits[name] = cache.rates if was == now else _others(cache.rates, was)
        limit = cache.rates.inbound.total
        if limit and cache.fastest_in >= ALIKE * limit:
            later = limits[name].within(now.rates).inbound.total
            rates[name] = max(rates[name], limit, later)
            lifted += later == 0
    if lifted:
        notes.append(
            f"{lifted} caches moved as much as their limits let them, and have none under the new policy: what they "
            "could do is not known, and taken for what they did"
        )
    return rates, {name: found for name, found in limits.items() if found != NO_LIMITS}


def _others(limits: RateLimits, settings: CacheSettings) -> RateLimits:
    """Return a cache's limits without those that the policy with these settings has set."""
    windows = () if settings.windows is None else settings.windows.windows
    own = [settings.rates, *(window.rates for window in windows)]

    def without(way: str) -> Rates:
        held = getattr(limits, way)
        of_policy = {name: {getattr(getattr(one, way), name) for one in own} for name in ("total", *TIERS)}
        kept = {name: getattr(held, name) for name in ("total", *TIERS)}
        return Rates(**{name: 0 if rate in of_policy[name] else rate for name, rate in kept.items()})

    return RateLimits(without("inbound"), without("outbound"))


def _away(
    caches: Iterable[RecordedCache], began_at: float, end_s: float
) -> tuple[tuple[LabEvent, ...], tuple[FaultSpec, ...]]:
    """Return which caches come later, and which are silent when."""
    joins: list[LabEvent] = []
    silences: list[FaultSpec] = []
    for cache in caches:
        for begin, end in _clipped(cache.away, began_at, end_s):
            if begin <= 0:
                joins.append(LabEvent("join", cache.info.id, at_s=end))
            else:
                silences.append(FaultSpec("vanish", at_s=begin, for_s=end - begin, node=cache.info.id))
    return tuple(joins), tuple(silences)


def _busy(caches: Iterable[RecordedCache], began_at: float, end_s: float) -> tuple[FaultSpec, ...]:
    """Return which caches are busy with their viewers when."""
    found: list[FaultSpec] = []
    for cache in caches:
        changes = sorted(cache.busy, key=lambda one: one.at)
        ends = [*(one.at for one in changes[1:]), began_at + end_s + LATER_S]
        for one, end in zip(changes, ends, strict=False):
            at_s = max(one.at - began_at, 0.0)
            for_s = end - began_at - at_s
            if one.busy and for_s > 0 and at_s < end_s:
                left = max(1.0 - one.busy, LEAST_LEFT)
                found.append(FaultSpec("busy", at_s=at_s, for_s=for_s, node=cache.info.id, factor=left))
    return tuple(found)


def _open_spans(windows: Sequence[Span], began_at: float, end_s: float) -> tuple[tuple[float, float, float], ...]:
    soon = {span.opened_at: span.soon_at for span in windows if span.soon_at}
    found = []
    for begin, end in _clipped(windows, began_at, end_s):
        said = (soon_at - began_at for opened_at, soon_at in soon.items() if opened_at - began_at == begin)
        found.append((min(next(said, begin), begin), begin, end))
    return tuple(found)


def _clipped(spans: Iterable[Span], began_at: float, end_s: float) -> tuple[tuple[float, float], ...]:
    """Return spans in seconds of the run, in order and apart; one that goes on when the run ends, ends after it."""
    found: list[tuple[float, float]] = []
    for span in sorted(spans, key=lambda span: span.opened_at):
        begin = max(span.opened_at - began_at, 0.0)
        end = span.closed_at - began_at if span.closed_at else end_s + LATER_S
        if end <= begin or begin >= end_s:
            continue
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return tuple(found)


def _late(night: RecordedNight, fills: Iterable[RecordedFill]) -> int:
    times = [_order_at(night, fill) for fill in fills]
    return sum(at > min(times) + LATER_S for at in times)


def _title(
    night: RecordedNight, title: RecordedTitle, fills: Sequence[RecordedFill], chunk_size: int, began_at: float
) -> TitleSpec:
    at_s = max(min(_order_at(night, fill) for fill in fills) - began_at, 0.0)
    first = min(fills, key=lambda fill: (-fill.priority, fill.deadline or inf, fill.node))
    known = {cache.info.id for cache in night.caches}
    held = {node: count for node, count in title.held.items() if node in known}
    held |= {fill.node: fill.had for fill in fills if fill.had}
    wanted = {fill.node: fill.wanted for fill in fills if 0 < fill.wanted < title.size}
    return TitleSpec(
        name=title.title,
        size_mib=title.size / MIB,
        priority=first.priority,
        at_s=at_s,
        chunk_kib=chunk_size // KIB,
        now=any(fill.now for fill in fills),
        called=title.name,
        policy=first.policy,
        origin=title.origins[0] if title.origins else "",
        deadline=first.deadline,
        caches=tuple(fill.node for fill in fills),
        held={node: min(count / title.size, 1.0) for node, count in held.items()},
        parts={node: count / title.size for node, count in wanted.items()},
    )


# ---- a run


def run(
    night: RecordedNight, rebuilding: Rebuilding, seed: int, progress: Callable[[float], None] | None = None
) -> Figures:
    """Run a night that was rebuilt; `progress` is told which part of it is over. Raises `InvariantBroken`."""
    scenario = rebuilding.scenario
    world = World(scenario, seed)
    tell: Progress | None = None
    if progress is not None:
        tell = lambda now, live, caches: progress(max(now / scenario.end_s, live / caches))  # noqa: E731
    world.run(tell, step_s=max(scenario.end_s / STEPS, 1.0))
    return _figures(night, world, rebuilding.began_at)


def _figures(night: RecordedNight, world: World, began_at: float) -> Figures:
    by_title: dict[bytes, Tiers] = {}
    escalations: Counter[str] = Counter()
    for fill in world.checkers.fills:
        moved, key = fill.bytes_by_scope, fill.manifest.title_id
        tiers = (moved[Scope.CLUSTER] + moved[Scope.ISP], moved[Scope.REGION] + moved[Scope.WORLD], moved[Scope.ORIGIN])
        by_title[key] = _add(by_title.get(key, (0, 0, 0)), tiers)
        escalations.update(fill.escalations)
    titles, lacking, barred, fills_of = [], list[Lacking](), 0, _by_title(night)
    # The world keeps the titles of its scenario in their order, which is that of the record.
    for title, simulated in zip(night.titles, world.titles.values(), strict=True):
        wanted = [fill.node for fill in fills_of[title.title]]
        stored = {name: world.caches[name].stored[simulated.id] for name in wanted if name in simulated.caches}
        barred += len(wanted) - len(stored)
        live = [one.live_at for one in stored.values() if one.live_at is not None]
        is_all = bool(live) and len(live) == len(stored)
        titles.append(
            TitleFigures(
                title.title, title.name, by_title.get(simulated.id, (0, 0, 0)), len(stored), len(live),
                began_at + max(live) if is_all else 0.0,
            )
        )  # fmt: skip
        reasons: dict[str, list[str]] = {}
        for name, one in stored.items():
            if one.live_at is None:
                budget = world.budgets.refused.get((name, simulated.origin), "")
                reasons.setdefault(_why(world.caches[name], one, budget), []).append(name)
        lacking += [Lacking(title.title, title.name, names, why) for why, names in reasons.items()]
    return Figures(
        _sum(one.tiers for one in titles), titles, lacking, dict(escalations.most_common()), world.budgets.used(),
        barred,
    )  # fmt: skip


def _why(cache: SimCache, stored: StoredTitle, budget: str) -> str:
    """Return why a title is lacking in a cache when a run ends. `budget` is that which let it read no more."""
    if not cache.running:
        return "the cache was silent"
    task = stored.task
    waits = {} if task is None or task.is_over else task.fill.waits()
    waited = ", ".join(f"{count} chunks waited for {reason}" for reason, count in list(waits.items())[:2])
    if cache.phase != "open" and not stored.title.now:
        return "its window had ended" if stored.durable.any() else "none of its windows was long enough, or opened"
    said = f"budget {budget!r} of the policy had nothing left for it" if budget else ""
    return "; ".join(one for one in (said, waited) if one) or "the night ended"


def _add(one: Tiers, other: Tiers) -> Tiers:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _sum(many: Iterable[Tiers]) -> Tiers:
    total: Tiers = (0, 0, 0)
    for one in many:
        total = _add(total, one)
    return total
