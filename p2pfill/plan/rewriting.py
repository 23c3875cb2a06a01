"""How much of each cache a plan writes over, by what the tracker says lies there now. Pure.

A plan says itself what comes; but it may be of yesterday, made of another plan's word, or edited by hand, and an order
fetches whatever is not there. So what is to stay and is not there counts as coming, whole titles count as large as the
tracker knows them, and a cache has nothing to lose only where the tracker says so. Of a title's files the tracker
knows together how many bytes lie there: as many as are to stay are taken to be these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
import numpy as np

from p2pfill.errors import ConfigError
from p2pfill.plan.document import Plan, by_cache
from p2pfill.plan.holding import is_shown, newest_of
from p2pfill.plan.tables import Caches, Catalogue, Longs, Placement
from p2pfill.tracker.records import NodeStatus, TitleRecord

NOTHING: Final[Mapping[str, int]] = MappingProxyType({})

SIZES_AGREE: Final = 0.99
"""Sizes of a catalogue may be rounded: those that differ by less are taken to be the same."""


class Written(NamedTuple):
    """What is to come into one cache."""

    comes: int
    """Bytes."""
    capacity: int
    """Bytes: what the table says, or what its disk has, where that is less."""
    is_empty: bool
    """There is nothing to lose: viewers see nothing there, or did not when the plan was made and what they see is of
    it."""
    free: int = 0
    """Bytes: what the capacity leaves beside what lies there by the plan, or what viewers see by the tracker, if that
    is more."""

    @property
    def share(self) -> float:
        """Of the cache, that is written over; what finds room is no loss."""
        if self.is_empty or self.comes <= self.free:
            return 0.0
        return self.comes / self.capacity if self.capacity > 0 else inf


def written_by(
    plan: Plan,
    caches: Caches,
    titles: Iterable[TitleRecord],
    nodes: Iterable[NodeStatus],
    withdrawn: Collection[str] = (),
    brought: Mapping[str, int] = NOTHING,
) -> dict[str, Written]:
    """Return for each cache of a plan what its orders bring there. Raises `ConfigError` for one that there is not.

    `brought` is what plans before it have brought in the same night (`brought_before`).
    """
    newest = {name: one for name, one in newest_of(titles).items() if one.title not in withdrawn}
    capacities = dict(zip(caches.names, caches.capacity.tolist(), strict=True))
    status = {str(one.info.id): one for one in nodes}
    comes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    stays: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for one in plan.files:
        record = newest.get(one.title)
        if record is None:
            continue  # it is not ordered
        size = one.size if one.path or record.size * SIZES_AGREE <= one.size else record.size
        for names, sums in ((one.comes, comes), (one.stays, stays)):
            for name in names:
                sums[name][one.title] += size
    found = {}
    for name, (_, lay, went) in by_cache(plan.files).items():
        if name not in capacities:
            raise ConfigError(f"the plan has cache {name!r}, which the table does not have: make it anew")
        node = status.get(name)
        have = {} if node is None else {one.title: one.have_bytes for one in node.titles if one.have_bytes}
        total = sum(comes[name].values()) + _lacking(stays[name], newest, have)
        disk = 0 if node is None else node.disk.size_bytes
        coming = {newest[title].title for title in comes[name]}
        capacity = min(capacities[name], disk or capacities[name])
        shown = {} if node is None else {one.title: one.have_bytes for one in node.titles if is_shown(one)}
        is_empty = not shown or (lay + went == 0 and shown.keys() <= coming)
        more = brought.get(name, 0)
        # More may lie there than was planned: small files of a title share chunks with those that are ordered.
        free = max(capacity - max(lay + went, sum(shown.values())), 0)
        found[name] = Written(total + more, capacity, is_empty, free + more)
    return found


def brought_before(plan: Plan, before: Plan) -> dict[str, int]:
    """Return what each cache was to fetch by the plan that was applied before for the same day, and not by this one.

    It may not have come yet, and then will not: counting it keeps on the safe side.
    """
    found: dict[str, int] = defaultdict(int, before.head.brought)
    comes = {one.file: frozenset(one.comes) for one in plan.files}
    for one in before.files:
        for name in one.comes:
            if name not in comes.get(one.file, ()):
                found[name] += one.size
    return dict(found)


def together(plan: Plan, before: Plan) -> Plan:
    """Return what two plans for one day bring, of which `before` was applied first.

    What has come by the first and is to stay by the second counts as coming in that night.
    """
    came = {one.file: frozenset(one.comes) for one in before.files}
    files = []
    for one in plan.files:
        tonight = came.get(one.file, frozenset()) & set(one.stays)
        files.append(
            msgspec.structs.replace(
                one, comes=tuple(sorted({*one.comes, *tonight})), stays=tuple(sorted({*one.stays} - tonight))
            )
        )
    size = sum(one.size * len(one.comes) for one in files)
    merged = Plan(msgspec.structs.replace(plan.head, comes_bytes=size), tuple(files))
    brought = brought_before(merged, before)
    return Plan(msgspec.structs.replace(merged.head, brought=brought), merged.files)


def written_tonight(before: Plan, held: Placement, catalogue: Catalogue, caches: Caches) -> Longs:
    """Return the bytes that lie in each cache by the plan that was applied before for the same day."""
    found = np.array([before.head.brought.get(name, 0) for name in caches.names], np.int64)
    file_at = {name: number for number, name in enumerate(catalogue.files)}
    cache_at = {name: number for number, name in enumerate(caches.names)}
    lies = [frozenset(held.of(number).tolist()) for number in range(len(caches.names))]
    for one in before.files:
        for name in one.comes:
            number = cache_at.get(name, -1)
            if number >= 0 and file_at.get(one.file, -1) in lies[number]:
                found[number] += one.size
    return found


def _lacking(stays: Mapping[str, int], newest: Mapping[str, TitleRecord], have: Mapping[str, int]) -> int:
    """Return the bytes that are to stay and are not there."""
    lacking = 0
    for title, size in stays.items():
        there = have.get(newest[title].title, 0)
        lacking += size - there if there < size * SIZES_AGREE else 0
    return lacking


def check_rewriting(written: Mapping[str, Written], share: float) -> None:
    """Look whether more than a share of any cache is written over. Raises `ConfigError`, with the worst."""
    over = {name: one.share for name, one in written.items() if one.share * SIZES_AGREE > share}
    if not over:
        return
    worst = max(over, key=lambda name: (over[name], name))
    raise ConfigError(
        f"what the plan orders writes over more than {share:.4g} of {len(over)} of {len(written)} caches, up to "
        f"{over[worst]:.4g} of {worst!r}: make it anew, since what lies there may be other than what it says, or allow "
        "it with a larger --rewrite-max"
    )
