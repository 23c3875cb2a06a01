"""Looks over a fleet for what costs bytes or will: far fills that were not needed, and labels that do not fit. Pure.

What nodes have reported is all that there is: how many bytes of a title came from which tier, from which sources, and
when it was begun and done. So it is said what held a title when a cache began with it, and not what it could have sent.
Clocks of nodes are compared, with room for what they may be apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import TitleReport
from p2pfill.model.routes import Match, Routes
from p2pfill.tracker.records import Finding, Lint

CLOCKS_APART_S: Final = 60.0
"""A title counts as held by another cache if it was so this long before: far above what clocks of servers differ by."""

DEAR: Final = 2.0
"""A source is dear beside one whose route costs less than this part of it. What is a little dearer serves its share, as
what is cheap has only so much to give."""

HOLDERS_MAX: Final = 8
"""Of a title in one ISP of one region that are looked at: those that had it first. With all of them the work would be
caches times caches; with these 10,000 caches of 20 titles each are looked over in three seconds of processor time."""

NAMED_MAX: Final = 5
"""Caches and titles that a finding names."""

FINDINGS_MAX: Final = 1000
"""Those that cost most; a page of them is more than anybody mends at a time."""


_Key = TypeVar("_Key", bound=Hashable)


class Cache(NamedTuple):
    """What is known of one node."""

    info: NodeInfo
    titles: Mapping[str, TitleReport]
    unreached: str = ""
    """Why others may not reach it."""


class _Held(NamedTuple):
    """Since when a cache has had all of a title; 0: from its start."""

    since: float
    cache: Cache


class _Holders:
    """Who has a title as a whole, by group, those first who have had it longest."""

    def __init__(self, held: list[_Held]) -> None:
        self._by_isp: dict[tuple[str, str], list[_Held]] = defaultdict(list)
        self._by_region: dict[str, list[_Held]] = defaultdict(list)
        self._all: list[_Held] = []
        for one in sorted(held, key=lambda one: (one.since, one.cache.info.id)):
            info = one.cache.info
            own = self._by_isp[info.isp, info.region]
            if len(own) < HOLDERS_MAX:
                for group in (own, self._by_region[info.region], self._all):
                    group.append(one)

    def nearest(self, me: NodeInfo, before: float) -> tuple[str, Cache] | None:
        """Return the smallest group of `me` in which another cache had it `before` a time, and that cache."""
        groups = {
            "its own ISP": self._by_isp.get((me.isp, me.region), ()),
            "its region": self._by_region.get(me.region, ()),
            "the caches": self._all,
        }
        for place, group in groups.items():
            # Only `me` is passed over, so this looks at two.
            for since, cache in group:
                if since > before:
                    break
                if cache.info.id != me.id:
                    return place, cache
        return None

    def rivals(self, me: NodeInfo, region: str, before: float) -> list[Cache]:
        """Return caches of a region that had it before a time, and are not of the ISP of `me`."""
        group = self._by_region.get(region, ())
        return [cache for since, cache in group if since <= before and cache.info.isp != me.isp]


def find_all(caches: Sequence[Cache], names: Mapping[str, str], routes: Routes | None) -> Lint:
    """Return what is found, the most bytes first. `names` are those of titles."""
    moved = _moved(caches)
    found = [
        *_missed(caches, names, routes),
        *_announced_apart(caches, routes, moved),
        *_isps_apart(caches, moved),
        *_alike(caches, moved),
        *_same_address(caches),
    ]
    found.sort(key=lambda one: (-(one.bytes or 0), one.kind, one.nodes))
    return Lint(found[:FINDINGS_MAX], max(0, len(found) - FINDINGS_MAX))


# ---- far fills


class _Far:
    """What one cache had from further out than it needed, of all titles."""

    def __init__(self) -> None:
        self.bytes = 0
        self.holders: dict[str, str] = {}
        """Id -> why others may not reach it."""
        self.titles: dict[str, int] = defaultdict(int)

    def add(self, holder: Cache, title: str, count: int) -> None:
        self.bytes += count
        self.holders[holder.info.id] = holder.unreached
        self.titles[title] += count


def _missed(caches: Sequence[Cache], names: Mapping[str, str], routes: Routes | None) -> Iterable[Finding]:
    infos: dict[str, NodeInfo] = {cache.info.id: cache.info for cache in caches}
    held = _holders(caches)
    for receiver in caches:
        missed: dict[str, _Far] = defaultdict(_Far)
        dear = _Far()
        for title, report in receiver.titles.items():
            if not report.started_at or not report.bytes_regional + report.bytes_origin or title not in held:
                continue
            before = report.started_at - CLOCKS_APART_S
            if nearest := held[title].nearest(receiver.info, before):
                place, holder = nearest
                if count := _beyond(receiver.info, report, infos, place):
                    missed[place].add(holder, title, count)
            if routes is not None:
                _note_dear(dear, receiver.info, report, held[title], infos, routes)
        for place, far in missed.items():
            what = f"from beyond {place}, and {_names(far.holders)} had"
            yield _far_finding("missed-tier", receiver, far, names, what)
        if dear.bytes:
            what = f"from caches whose routes cost more than twice as much as that of {_names(dear.holders)}, which had"
            yield _far_finding("dear-source", receiver, dear, names, what)


def _holders(caches: Sequence[Cache]) -> dict[str, _Holders]:
    held: dict[str, list[_Held]] = defaultdict(list)
    for cache in caches:
        for title, report in cache.titles.items():
            if report.state == "live" and not report.files:
                held[title].append(_Held(report.finished_at, cache))
    return {title: _Holders(of_title) for title, of_title in held.items()}


def _beyond(me: NodeInfo, report: TitleReport, infos: Mapping[str, NodeInfo], place: str) -> int:
    """Return the bytes of a title that came from outside of a group."""
    if place == "its own ISP":
        return report.bytes_regional + report.bytes_origin
    if place == "the caches":
        return report.bytes_origin
    regions = ((infos[one.id].region, one.bytes) for one in report.sources if one.id in infos)
    return report.bytes_origin + sum(count for region, count in regions if region != me.region)


def _note_dear(
    dear: _Far, me: NodeInfo, report: TitleReport, held: _Holders, infos: Mapping[str, NodeInfo], routes: Routes
) -> None:
    """Add what came over a border from a cache that is dear beside another one of the same region, outside the ISP."""
    for source in report.sources:
        info = infos.get(source.id)
        if info is None or not source.bytes or info.isp == me.isp:
            continue
        rivals = held.rivals(me, info.region, report.started_at - CLOCKS_APART_S)
        best = min(rivals, key=lambda one: routes.cost(me, one.info), default=None)
        if best is not None and routes.cost(me, info) > DEAR * max(0.0, routes.cost(me, best.info)):
            dear.add(best, report.title, source.bytes)


def _far_finding(kind: str, receiver: Cache, far: _Far, names: Mapping[str, str], what: str) -> Finding:
    titles = sorted(far.titles, key=lambda title: -far.titles[title])
    named = [names.get(title, title[:16]) for title in titles]
    lost = next((f"{one}: {why}" for one, why in far.holders.items() if why), "")
    step = f"p2pfill explain {receiver.info.id} {titles[0][:16]} says why each chunk came from further out"
    return Finding(
        kind, [receiver.info.id, *sorted(far.holders)[:NAMED_MAX]],
        f"{receiver.info.id} had bytes of {_names(named)} {what} all of it",
        f"see the advertise of {lost}" if lost else step, far.bytes, named[:NAMED_MAX],
    )  # fmt: skip


# ---- labels and addresses


def _announced_apart(
    caches: Sequence[Cache], routes: Routes | None, moved: Mapping[tuple[str, str], int]
) -> Iterable[Finding]:
    sites = _grouped(caches, lambda info: (info.isp, info.region, info.cluster) if info.cluster else None)
    for (isp, _, cluster), members in sites.items():
        for _, table in routes.tables if routes is not None and len(members) > 1 else ():
            ways: dict[str, str] = {info.id: _way(table.find(info.host)) for info in members}
            if len(set(ways.values())) < 2:
                continue
            by_way: dict[str, list[str]] = defaultdict(list)
            for node_id, way in ways.items():
                by_way[way].append(node_id)
            said = "; ".join(f"{_names(ids)} {way}" for way, ids in sorted(by_way.items(), key=lambda one: one[1]))
            yield Finding(
                "announced-apart", sorted(ways), f"site {cluster} of {isp} is announced in {len(by_way)} ways: {said}",
                "have its routers announce all of its caches alike, or correct the label cluster",
                _between(ways, moved),
            )  # fmt: skip


def _way(match: Match | None) -> str:
    """Return in words how an address is announced."""
    if match is None:
        return "in no prefix"
    preference = match.route.local_preference
    path = " ".join(match.route.as_path) or "itself"
    return f"by {path}" + ("" if preference is None else f" at local preference {preference}")


def _isps_apart(caches: Sequence[Cache], moved: Mapping[tuple[str, str], int]) -> Iterable[Finding]:
    for isp, members in _grouped(caches, lambda info: info.isp).items():
        regions: dict[str, str] = {info.id: info.region for info in members}
        if len(set(regions.values())) > 1:
            yield Finding(
                "isp-in-two-regions", sorted(regions), f"{isp} stands in {_names(sorted(set(regions.values())))}",
                "correct a wrong region; where both are right, give each part of it an isp of its own: caches of one "
                "ISP in two regions take each other for far", _between(regions, moved),
            )  # fmt: skip


def _alike(caches: Sequence[Cache], moved: Mapping[tuple[str, str], int]) -> Iterable[Finding]:
    """Labels that a person takes for the same, and the fleet for two."""
    within: dict[str, Callable[[NodeInfo], Hashable]] = {
        "isp": lambda info: plain(info.isp),
        "region": lambda info: plain(info.region),
        "cluster": lambda info: (plain(info.isp), plain(info.cluster)) if info.cluster else None,
    }
    for label, group in within.items():
        for members in _grouped(caches, group).values():
            said: dict[str, str] = {info.id: str(getattr(info, label)) for info in members}
            if len(set(said.values())) > 1:
                spelt = ", ".join(repr(one) for one in sorted(set(said.values()))[:NAMED_MAX])
                yield Finding(
                    "labels-alike", sorted(said), f"{label} is spelt {spelt}",
                    f"spell {label} in one way in the settings of these caches, and start them again",
                    _between(said, moved),
                )  # fmt: skip


def plain(label: str) -> str:
    """Return a label without what people do not see in it: case, and spaces of any kind and number."""
    return "".join(label.split()).casefold()


def _same_address(caches: Sequence[Cache]) -> Iterable[Finding]:
    groups = _grouped(caches, lambda info: (info.host, info.port) if info.host and info.port else None)
    for (host, port), members in groups.items():
        if len(members) > 1:
            ids = sorted(info.id for info in members)
            yield Finding(
                "same-address", list(ids), f"{_names(ids)} say that they are reached at {host} port {port}",
                "correct advertise of all but one, or remove those that are gone: p2pfill nodes remove",
            )  # fmt: skip


def _grouped(caches: Sequence[Cache], key: Callable[[NodeInfo], _Key | None]) -> dict[_Key, list[NodeInfo]]:
    """Return the nodes of each group; those without a key are in none."""
    groups: dict[_Key, list[NodeInfo]] = defaultdict(list)
    for cache in caches:
        if (of := key(cache.info)) is not None:
            groups[of].append(cache.info)
    return groups


def _moved(caches: Sequence[Cache]) -> dict[tuple[str, str], int]:
    """Return the bytes that were kept of one node by another, by receiver and source."""
    moved: dict[tuple[str, str], int] = defaultdict(int)
    for cache in caches:
        for report in cache.titles.values():
            for source in report.sources:
                if source.tier != "origin" and source.bytes:
                    moved[cache.info.id, source.id] += source.bytes
    return moved


def _between(group: Mapping[str, str], moved: Mapping[tuple[str, str], int]) -> int:
    """Return the bytes that moved between members of different groups."""
    pairs = ((group.get(receiver), group.get(source), count) for (receiver, source), count in moved.items())
    return sum(count for one, other, count in pairs if one is not None and other is not None and one != other)


def _names(ids: Iterable[str]) -> str:
    """Return names as people list them, at most `NAMED_MAX`."""
    found = list(ids)
    more = [f"{len(found) - NAMED_MAX} more"] if len(found) > NAMED_MAX else []
    *first, last = [*found[:NAMED_MAX], *more]
    return f"{', '.join(first)} and {last}" if first else last
