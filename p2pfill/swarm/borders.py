"""Links across borders in a large fleet: with those from whom a cache takes, or to whom it gives, what it is master of.

Each stripe of chunks (`election.stripe_count`) has a master in every ISP. The ISPs of a region stand in an order for
each stripe, the one that the region has elected first and the others by rendezvous rank, and form a tree with
`CHILDREN` branches: the master takes the stripe from its parent in the tree and gives it to its children. The regions
of the world do the same with the masters of their first ISPs. Each cache is also linked with its grandparents and
grandchildren, so that no loss of one cache cuts others off.

So the links follow the elections: a chunk goes from master to master without a detour through caches that happen to be
linked. All of it is worked out when asked for, from one election an ISP, a region and the world; nothing is kept for a
cache but its stripes. A cache that stands alone in its ISP is master of all stripes there and would be linked with most
of the region: `FAR_MAX` of those links are kept, the same ones for both ends, and what it is master of beyond them
comes from others who hold it.

An ISP whose caches serve it alone weighs nothing and passes nothing on, and must not hang on another one of its kind:
it is linked with two of those that lead. Where a region has nobody else each such ISP is linked as the first one is.

Rejected: far links by chance. A chunk then reaches an ISP only when most caches of those before have it. Rejected too:
everybody at the leader. Of 25 ISPs the last gets a chunk 24 chunk times later; in a tree of threes after 3 x 3. See
docs/experiments.md, "Large fleets".
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from p2pfill.model.ids import TitleId
from p2pfill.swarm.election import elect, elect_masters, rank, stripe_count

CHILDREN: Final = 3
"""Branches of a tree. With b of them the last of n members waits for about b log_b n chunks: the least for 3."""

FAR_MAX: Final = 256
"""Links of one cache across borders; half of `node.links.LINKS_MAX`."""

LOTS_FEW: Final = FAR_MAX // (2 * (2 + CHILDREN + CHILDREN**2))
"""A master of so few stripes keeps all of its links: in each tree a stripe gives it two upwards, and children and
theirs."""

Group = Mapping[str, float]
IspKey = tuple[str, str]
"""Region and ISP."""


class Tree:
    """An order of named groups for each stripe. One of those with a weight leads it; those without come last."""

    def __init__(
        self, title_id: TitleId, stripes: int, weights: Group, before: Tree | None = None,
        inward: frozenset[str] = frozenset(),
    ) -> None:
        """What can be had from `before`, a tree of the same title, is not worked out again.

        `inward` are groups without weight that take, and give nothing to others.
        """
        self.weights = dict(weights)
        self.inward = inward
        leading = {name: weight for name, weight in weights.items() if weight > 0}
        self.leading = leading.keys()
        names, leaders = elect(title_id, range(stripes if leading else 0), leading)
        self._leaders = [names[leader] for leader in leaders] or [""] * stripes
        """Stripe -> who leads; empty where nobody does."""
        self._ranks: list[list[str]]
        self.order: list[list[str]]
        """Stripe -> names, the one that leads first."""
        self.turned: Iterable[int] = range(stripes)
        """The stripes whose order differs from that before."""
        stays = before is not None and before.weights.keys() == weights.keys()
        if before is not None and stays and before.leading == leading.keys():
            self._ranks = before._ranks
            self.order = list(before.order)
            self.turned = [stripe for stripe in range(stripes) if self._leaders[stripe] != before._leaders[stripe]]
        else:
            equal = dict.fromkeys(weights, 1.0)
            ranks = [rank(title_id, stripe, equal) for stripe in range(stripes)]
            # Those that fetch nothing, as while their fill windows are closed, pass nothing on: they are leaves.
            self._ranks = [sorted(names, key=lambda name: name not in leading) for names in ranks]
            self.order = list(self._ranks)
        for stripe in self.turned:
            leader = self._leaders[stripe]
            others = [name for name in self._ranks[stripe] if name != leader]
            self.order[stripe] = [leader, *others] if leader else others

    def around(self, stripe: int, name: str) -> Iterator[str]:
        """Yield the parent, the grandparent, the children and the grandchildren of a group."""
        order = self.order[stripe]
        place = order.index(name)
        leading = len(self.leading)
        for child in range(leading, len(order)) if self.inward and leading else ():
            parents = {child % leading, (child + 1) % leading}
            if child == place and name in self.inward:
                yield from (order[parent] for parent in parents)
            elif place in parents and order[child] in self.inward:
                yield order[child]
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
    is_inward: bool = False
    """They want it, and serve their own ISP alone."""


class Borders:
    """The masters of one title's stripes in all ISPs, and which of them are linked."""

    def __init__(self, title_id: TitleId, chunk_count: int) -> None:
        self._title_id = title_id
        self._stripes = stripe_count(chunk_count)
        self._isps: dict[IspKey, _Masters] = {}
        self._regions: dict[str, Tree] = {}
        self._world = Tree(title_id, self._stripes, {})
        self._isp_of: dict[str, IspKey] = {}
        self._inward: frozenset[IspKey] = frozenset()
        """ISPs whose caches serve them alone."""
        self._kept: dict[str, frozenset[str]] = {}
        """With whom a cache would be linked for its own part, as far as it was asked for."""

    def load(self, borders: Mapping[IspKey, Border]) -> None:
        """Begin anew with all ISPs at once."""
        weights: dict[str, dict[str, float]] = defaultdict(dict)
        groups = {key: border.caches for key, border in borders.items() if border.caches}
        for region, isp in groups:
            weights[region][isp] = borders[region, isp].weight
        self._inward = frozenset(key for key, border in borders.items() if border.is_inward)
        self._regions = {
            region: Tree(self._title_id, self._stripes, group, inward=self._inward_in(region))
            for region, group in weights.items()
        }
        self._world = Tree(self._title_id, self._stripes, _sums(self._regions), inward=_apart(self._regions))
        self._isps = {key: self._elect(key, group, self._regions, self._world) for key, group in groups.items()}
        self._isp_of = {name: key for key, masters in self._isps.items() for name in masters.caches}
        self._kept.clear()

    def put(self, key: IspKey, border: Border) -> set[str]:
        """Take in how an ISP's border is now, be it that there is nobody left; return the ids of those to be told soon.

        Those are the masters there of the stripes that move, before and after, and who is linked with them for these.
        That an ISP weighs more or less may also turn a few trees and move a few stripes elsewhere: that is news that
        can wait.
        """
        region, isp = key
        self._inward = self._inward - {key} | ({key} if border.is_inward else set())
        regions = dict(self._regions)
        tree = regions.pop(region, None)
        weights = dict(tree.weights) if tree is not None else {}
        weights.pop(isp, None)
        if border.caches:
            weights[isp] = border.weight
        turned: Iterable[int] = range(self._stripes)
        if weights:
            regions[region] = Tree(self._title_id, self._stripes, weights, tree, self._inward_in(region))
            turned = regions[region].turned
        world = Tree(self._title_id, self._stripes, _sums(regions), self._world, _apart(regions))
        isps = {other: masters for other, masters in self._isps.items() if other != key}
        if border.caches:
            isps[key] = self._elect(key, border.caches, regions, world)
        # Who leads for other stripes than before shares them out anew.
        leaders: set[IspKey] = set()
        for trees, stripes in ((self._regions, turned), (regions, turned)):
            if region in trees:
                leaders.update((region, trees[region].order[stripe][0]) for stripe in stripes)
        for trees, top in ((self._regions, self._world), (regions, world)):
            for stripe in world.turned if top.weights else ():
                first = top.order[stripe][0]
                leaders.add((first, trees[first].order[stripe][0]))
        for other in leaders - {key}:
            if other in isps:
                isps[other] = self._elect(other, isps[other].caches, regions, world)
        old, new = self._isps.get(key), isps.get(key)
        moved = list(range(self._stripes))
        if old is not None and new is not None:
            moved = [stripe for stripe in moved if old.master[stripe] != new.master[stripe]]
        changed = self._touching(key, moved)
        self._isps, self._regions, self._world = isps, regions, world
        for name in old.caches if old is not None else ():
            self._isp_of.pop(name, None)
        self._isp_of.update(dict.fromkeys(new.caches if new is not None else (), key))
        self._kept.clear()
        return changed | self._touching(key, moved)

    def links(self, node_id: str) -> set[str]:
        """Return the ids of the caches of other ISPs with which a cache is to be linked; none for one at no border."""
        return {other for other in self._keeps(node_id) if self._has_few(other) or node_id in self._keeps(other)}

    def links_of(self, node_ids: Iterable[str]) -> set[str]:
        """Return with whom any of some caches is to be linked."""
        return set().union(*map(self.links, node_ids))

    def some(self, region: str, count: int) -> list[str]:
        """Return up to `count` caches of a region, or else of any, with which a stranger to it might be linked."""
        key = region if region in self._regions else next(iter(self._regions), None)
        if key is None:
            return []
        return list(dict.fromkeys(self._leader(key, stripe) for stripe in range(self._stripes)))[:count]

    def _elect(self, key: IspKey, caches: Group, regions: Mapping[str, Tree], world: Tree) -> _Masters:
        region, isp = key
        tree = regions[region]
        reaches = dict.fromkeys(range(self._stripes), 0)
        for stripe in range(self._stripes) if tree.weights[isp] else ():
            if tree.order[stripe][0] == isp:
                reaches[stripe] = 2 if world.order[stripe][0] == region else 1
        elected = elect_masters(self._title_id, reaches, caches)
        masters = _Masters(caches, [elected[stripe] for stripe in range(self._stripes)], defaultdict(list))
        for stripe, name in enumerate(masters.master):
            masters.stripes_of[name].append(stripe)
        return masters

    def _keeps(self, node_id: str) -> frozenset[str]:
        """Return with whom a cache would be linked for its own part."""
        if node_id not in self._isp_of:
            return frozenset()
        if node_id not in self._kept:
            key = self._isp_of[node_id]
            found: set[str] = set()
            for stripe in self._isps[key].stripes_of.get(node_id, ()):
                found.update(self._around(key, stripe))
            nearest = sorted(found, key=lambda other: _distance(node_id, other)) if len(found) > FAR_MAX else found
            self._kept[node_id] = frozenset(list(nearest)[:FAR_MAX])
        return self._kept[node_id]

    def _has_few(self, node_id: str) -> bool:
        """Tell whether a cache keeps all of its links for sure."""
        return len(self._isps[self._isp_of[node_id]].stripes_of.get(node_id, ())) <= LOTS_FEW

    def _leader(self, region: str, stripe: int) -> str:
        return self._isps[region, self._regions[region].order[stripe][0]].master[stripe]

    def _touching(self, key: IspKey, stripes: Iterable[int]) -> set[str]:
        """Return the masters of `stripes` in an ISP and those with whom each of them is linked for its stripe."""
        found: set[str] = set()
        masters = self._isps.get(key)
        if masters is None:
            return found
        for stripe in stripes:
            found.add(masters.master[stripe])
            found.update(self._around(key, stripe))
        return found

    def _around(self, key: IspKey, stripe: int) -> Iterator[str]:
        """Yield the caches with which the master of a stripe in an ISP is to be linked for it."""
        region, isp = key
        tree = self._regions[region]
        for other in tree.around(stripe, isp):
            yield self._isps[region, other].master[stripe]
        if isp in self._heads(region, stripe):
            for other in self._world.around(stripe, region):
                for head in self._heads(other, stripe):
                    yield self._isps[other, head].master[stripe]

    def _heads(self, region: str, stripe: int) -> Collection[str]:
        """Return the ISPs of a region that are linked with other regions for a stripe."""
        tree = self._regions[region]
        first = tree.order[stripe][0]
        return {first} if tree.leading or not tree.inward else {first, *tree.inward}

    def _inward_in(self, region: str) -> frozenset[str]:
        return frozenset(isp for where, isp in self._inward if where == region)


class _Masters(NamedTuple):
    """Who are the masters in one ISP."""

    caches: Group
    master: list[str]
    """Stripe -> cache."""
    stripes_of: dict[str, list[int]]


def _apart(regions: Mapping[str, Tree]) -> frozenset[str]:
    """Return the regions in which nobody serves others, and somebody wants the title."""
    return frozenset(region for region, tree in regions.items() if tree.inward and not tree.leading)


def _sums(regions: Mapping[str, Tree]) -> dict[str, float]:
    return {region: sum(tree.weights.values()) for region, tree in regions.items()}


def _distance(one: str, other: str) -> bytes:
    """Return a hash of a pair, the same for both."""
    return hashlib.blake2b("\0".join(sorted((one, other))).encode(), digest_size=8).digest()
