"""A night as the simulator takes it to rebuild it: made from the rows that `tracker.nights` keeps."""

from __future__ import annotations

from msgspec.structs import replace

from p2pfill.model.ids import NodeId
from p2pfill.model.night import RecordedCache, RecordedFill, RecordedNight, RecordedTitle, Span, Tiers
from p2pfill.model.node import NodeInfo
from p2pfill.tracker.night_rows import NightCache, NightPage, NightRow, add_tiers


def build_record(page: NightPage, *, is_over: bool) -> RecordedNight:
    """Return what is recorded of a night. Caches that had nothing to do with a title are left out."""
    fills, left_out = [row for row in page.rows if _is_fill(row)], _left_out(page)
    known = {one.title: one for one in page.titles}
    sizes: dict[str, int] = {}
    in_rows: dict[str, set[str]] = {}
    for row in fills:
        sizes[row.title] = max(sizes.get(row.title, 0), row.title_bytes)
        in_rows.setdefault(row.title, set()).add(row.node)
    titles = []
    for title, nodes in in_rows.items():
        one = known.get(title)
        held = {} if one is None else {node: count for node, count in one.held.items() if node not in nodes}
        one = one or RecordedTitle(title)
        titles.append(replace(one, size=one.size or sizes[title], held=held))
    concerned = {row.node for row in fills}.union(*(one.held for one in titles))
    return RecordedNight(
        night=page.head.night,
        began_at=page.head.began_at,
        last_at=page.head.last_at,
        is_over=is_over,
        caches=[_cache(one) for one in sorted(page.caches, key=lambda one: one.node) if one.node in concerned],
        titles=titles,
        fills=[_fill(row) for row in sorted(fills, key=lambda row: (row.title, row.node))],
        left_out=left_out,
    )


def _is_fill(row: NightRow) -> bool:
    return bool(row.node) and row.is_wanted and not row.ended


def _left_out(page: NightPage) -> Tiers:
    left_out: Tiers = (0, 0, 0)
    for row in page.rows:
        if not _is_fill(row):
            left_out = add_tiers(left_out, row.tiers)
    return left_out


def _cache(cache: NightCache) -> RecordedCache:
    # One that is not heard in a night is known by orders alone; what an older tracker has kept lacks `info`.
    info = cache.info or NodeInfo(NodeId(cache.node), cache.isp, cache.region)
    if cache.weight != 1.0:  # what a cache says of itself is what its viewers leave of it
        info = replace(info, weight=info.weight / cache.weight)
    return RecordedCache(
        info=info,
        has_windows=cache.has_windows,
        windows=cache.spans,
        away=cache.away if cache.heard_at else [Span(0.0)],
        busy=cache.busy,
        fastest_in=cache.fastest_in,
        fastest_out=cache.fastest_out,
        rates=cache.rates,
    )


def _fill(row: NightRow) -> RecordedFill:
    return RecordedFill(
        title=row.title,
        node=row.node,
        ordered_at=row.ordered_at,
        now=row.now,
        priority=row.priority,
        deadline=row.deadline,
        policy=row.policy,
        had=row.had_bytes + row.reused,
        wanted=row.title_bytes,
        tiers=row.tiers,
        live_at=row.live_at if row.state in ("live", "repairing") else 0.0,
        rule=row.rule,
    )
