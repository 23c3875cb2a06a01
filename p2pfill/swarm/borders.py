"""Links across borders in a large fleet: with those from whom a cache takes, or to whom it gives, what it is master of.

Each lot of chunks (`election.lot_count`) has a master in every ISP. The ISPs of a region stand in an order for each
lot, the one that the region has elected first and the others by rendezvous rank, and form a tree with `CHILDREN`
branches: the master takes the lot from its parent in the tree and gives it to its children. The regions of the world do
the same with the masters of their first ISPs. Each cache is also linked with its grandparents and grandchildren, so
that no loss of one cache cuts others off.

So the links follow the elections: a chunk goes from master to master without a detour through caches that happen to be
linked. All of it is worked out when asked for, from one election an ISP, a region and the world; nothing is kept for a
cache but its lots.

Rejected: far links by chance. In the simulator's fleet of 2,600 a chunk then reached half of the ISPs only when most
caches of those before had it, a second later than this way. Rejected too: everybody at the leader. Of 25 ISPs the last
gets a chunk 24 chunk times later; in a tree of threes after 3 x 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from p2pfill.model.ids import TitleId
from p2pfill.swarm.election import elect, lot_count, rank

CHILDREN: Final = 3
"""Branches of a tree. With b of them the last of n members waits for about b log_b n chunks: the least for 3."""

Group = Mapping[str, float]
IspKey = tuple[str, str]
"""Region and ISP."""


class Tree:
    """An order of named groups for each lot. One of those with a weight leads it; those without are never first."""

    def __init__(self, title_id: TitleId, lots: int, weights: Group, before: Tree | None = None) -> None:
        """What can be had from `before`, a tree of the same title, is not worked out again."""
        self.weights = dict(weights)
        self._ranks: list[list[str]]
        if before is not None and before.weights.keys() == weights.keys():
            self._ranks = before._ranks
        else:
            equal = dict.fromkeys(weights, 1.0)
            self._ranks = [rank(title_id, lot, equal) for lot in range(lots)]
        leading = {name: weight for name, weight in weights.items() if weight > 0}
        names, leaders = elect(title_id, lots if leading else 0, leading)
        self.order = [
            [names[leader], *(name for name in ranked if name != names[leader])]
            for leader, ranked in zip(leaders, self._ranks, strict=False)
        ] or self._ranks
        """Lot -> names, the one that leads first."""

    def around(self, lot: int, name: str) -> Iterator[str]:
        """Yield the parent, the grandparent, the children and the grandchildren of a group."""
        order = self.order[lot]
        place = order.index(name)
        parent = (place - 1) // CHILDREN
        if place > 0:
            yield order[parent]
            if parent > 0:
                yield order[(parent - 1) // CHILDREN]
        for child in range(CHILDREN * place + 1, min(CHILDREN * place + CHILDREN + 1, len(order))):
            yield order[child]
            yield from order[CHILDREN * child + 1 : CHILDREN * child + CHILDREN + 1]


class Border(NamedTuple):
    """What counts of one ISP."""

    caches: Group
    """Those that stand at its border, with weights above 0."""
    weight: float
    """What it counts in elections: 0 where its caches hold the title and do not want it."""


class Borders:
    """The masters of one title's lots in all ISPs, and which of them are linked."""

    def __init__(self, title_id: TitleId, chunk_count: int) -> None:
        self._title_id = title_id
        self._lots = lot_count(chunk_count)
        self._isps: dict[IspKey, _Masters] = {}
        self._regions: dict[str, Tree] = {}
        self._world = Tree(title_id, 0, {})

    def load(self, borders: Mapping[IspKey, Border]) -> None:
        """Begin anew with all ISPs at once."""
        self._isps = {key: self._elect(border) for key, border in borders.items() if border.caches}
        weights: dict[str, dict[str, float]] = defaultdict(dict)
        for region, isp in self._isps:
            weights[region][isp] = borders[region, isp].weight
        self._regions = {region: Tree(self._title_id, self._lots, group) for region, group in weights.items()}
        self._world = Tree(self._title_id, self._lots, _sums(self._regions))

    def put(self, key: IspKey, border: Border) -> set[str]:
        """Take in how an ISP's border is now, be it that there is nobody left; return the ids of those to be told.

        Those are all whose links change, and some who are masters of the same lots.
        """
        region, isp = key
        isps, regions = dict(self._isps), dict(self._regions)
        isps.pop(key, None)
        weights = dict(regions[region].weights) if region in regions else {}
        weights.pop(isp, None)
        if border.caches:
            isps[key] = self._elect(border)
            weights[isp] = border.weight
        regions.pop(region, None)
        if weights:
            regions[region] = Tree(self._title_id, self._lots, weights, self._regions.get(region))
        world = Tree(self._title_id, self._lots, _sums(regions), self._world)
        near = [
            lot
            for lot in range(self._lots)
            if _at(isps.get(key), lot) != _at(self._isps.get(key), lot)
            or _order(regions.get(region), lot) != _order(self._regions.get(region), lot)
        ]
        far = {*near, *(lot for lot in range(self._lots) if _order(world, lot) != _order(self._world, lot))}
        changed = self._masters_of(region, near) | self._leaders_of(far)
        self._isps, self._regions, self._world = isps, regions, world
        return changed | self._masters_of(region, near) | self._leaders_of(far)

    def links(self, key: IspKey, node_id: str) -> set[str]:
        """Return the ids of the caches of other ISPs with which a cache at the border of `key` is to be linked."""
        found: set[str] = set()
        region, isp = key
        masters = self._isps.get(key)
        for lot in masters.lots_of.get(node_id, ()) if masters is not None else ():
            tree = self._regions[region]
            found.update(self._isps[region, other].master[lot] for other in tree.around(lot, isp))
            if tree.order[lot][0] == isp:
                found.update(self._leader(other, lot) for other in self._world.around(lot, region))
        return found

    def _elect(self, border: Border) -> _Masters:
        names, owners = elect(self._title_id, self._lots, border.caches)
        masters = _Masters([names[owner] for owner in owners], defaultdict(list))
        for lot, name in enumerate(masters.master):
            masters.lots_of[name].append(lot)
        return masters

    def _leader(self, region: str, lot: int) -> str:
        return self._isps[region, self._regions[region].order[lot][0]].master[lot]

    def _masters_of(self, region: str, lots: Iterable[int]) -> set[str]:
        rows = [masters.master for (where, _), masters in self._isps.items() if where == region]
        return {row[lot] for lot in lots for row in rows}

    def _leaders_of(self, lots: Iterable[int]) -> set[str]:
        return {self._leader(region, lot) for lot in lots for region in self._regions}


class _Masters(NamedTuple):
    """Who are the masters in one ISP."""

    master: list[str]
    """Lot -> cache."""
    lots_of: dict[str, list[int]]


def _at(masters: _Masters | None, lot: int) -> str:
    return masters.master[lot] if masters is not None else ""


def _order(tree: Tree | None, lot: int) -> list[str]:
    return tree.order[lot] if tree is not None and tree.order else []


def _sums(regions: Mapping[str, Tree]) -> dict[str, float]:
    return {region: sum(tree.weights.values()) for region, tree in regions.items()}
