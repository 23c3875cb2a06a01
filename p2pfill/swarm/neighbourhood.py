"""Who links with whom, and who counts in elections, in a fleet of any size.

In a small fleet (`EVERYBODY_MAX`) everybody is told of everybody. In a larger one a cache is told of a bounded graph
and of a bounded roster, both worked out from names alone: the same set of caches gives the same answer in every process
and whatever the order in which they came, and nothing is drawn or remembered.

Links go both ways by construction and come in two kinds:

- in the ISP, with the two neighbours on each of some rings of hashes: every ring alone connects the ISP, and all of
  them together make a random regular graph, of a logarithmic diameter. A cache that meets one neighbour on two rings
  makes up for it on one more ring: sources share their uplinks evenly, so a cache with six of them instead of eight
  falls back (docs/experiments.md, "Large fleets");
- across borders, with other masters of the same chunks (`swarm.borders`). Only border caches have them, at most
  `ELECTORS_MAX` an ISP.

Elections look at nothing but the weights of groups (`swarm.election.Assignment`), so a cache needs the names of its own
ISP's electors, and of every other ISP of the region and every other region no more than the weight: all elect the same
as with the whole roster. That weight is told as that of a stand-in which is no cache. A real cache in its place would
be judged by what it does, though it does no more than its own share; and when it died the weight of its group would be
gone with it. Who stands for a group of which nobody is left, the tracker knows.

Caches that serve their own ISP alone stand at its border only where it has no others; then it weighs nothing outside,
and in its trees is a leaf.

Weights are counted in steps of `1 / WEIGHT_STEPS`: sums of those are exact, in whatever order they are made.

Rejected: neighbours drawn at random and kept, which every tracker would draw otherwise; rendezvous hashing by pair,
which costs a look at the whole fleet for each cache; one ring in the order of ISPs, whose neighbourhoods are all alike.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import SERVES_ISP, NodeInfo
from p2pfill.model.reports import Election, Elector, GroupWeight
from p2pfill.swarm.borders import Border, Borders

EVERYBODY_MAX: Final = 64
"""Up to so many caches everybody is linked with everybody: fewer hops, and little news to tell."""

NEIGHBOURS: Final = 8
"""Links with caches of the own ISP, in a large fleet; two a ring. More cost messages and scheduling and bring nothing,
and three rings stay whole when links of one fail. See docs/experiments.md, "Large fleets"."""

ELECTORS_MAX: Final = 256
"""Caches of one ISP that take part in elections and have links across its border: the work at a border is shared finely
enough by then."""

SPARE_REACH: Final = 4
"""Steps on the last ring within which a cache makes up for links that it lacks. Of a hundred caches eight are
neighbours already: four steps find as many as are lacking, as a rule."""

STRANGERS: Final = 16
"""Caches of other ISPs with which one is linked in whose ISP there is nobody yet."""

WEIGHT_STEPS: Final = 1024
"""Of one unit of weight."""

REBUILD_PART: Final = 8
"""Where more than this part of all caches comes at once, everything is sorted anew, which is then cheaper."""

POINTS_KEPT: Final = 1 << 14
"""Caches of which points on rings are kept, and weights as voters, since each title has the same: some megabytes."""

Spot = tuple[int, str]
"""A point on a ring and the cache that it belongs to."""


class Member(NamedTuple):
    """One cache that wants or holds the title."""

    info: NodeInfo
    counts: bool
    """It takes part in elections; else it is a source only, as one whose fill windows are closed."""
    soon: bool = False
    """It counts already, and its fill window opens in a moment."""


class Neighbourhoods:
    """All caches that want or hold one title. Changes tell whose neighbourhood is another one now."""

    def __init__(
        self,
        title_id: TitleId,
        chunk_count: int,
        *,
        everybody_max: int = EVERYBODY_MAX,
        neighbours: int = NEIGHBOURS,
    ) -> None:
        """With more caches than `everybody_max`, each is linked with `neighbours` of its ISP."""
        self.members: dict[str, Member] = {}
        self.everybody_max = everybody_max
        """To be changed before anybody is taken in."""
        self._rings = max(1, neighbours // 2)
        self._title = title_id, chunk_count
        self._isps: dict[tuple[str, str], _Isp] = {}
        self._isps_of: dict[str, dict[str, int]] = defaultdict(dict)
        """Region -> ISP -> weight in steps, for those in which somebody counts."""
        self._borders: Borders | None = None
        """Worked out when first asked for: of most titles nobody wants to know."""

    @property
    def is_small(self) -> bool:
        """Whether everybody is told of everybody."""
        return len(self.members) <= self.everybody_max

    # ---- changes

    def put(self, info: NodeInfo, *, counts: bool, soon: bool = False) -> set[str]:
        """Take in a cache, or what is new about it; return the ids of those who should be told soon.

        Those are the caches whose links change and the electors of the ISP. What an ISP or a region weighs is news that
        can wait, unless there is nobody left in it.
        """
        before = self.members.get(info.id)
        if before is not None and before.info == info:
            return self._turn({(info.region, info.isp): [Member(info, counts, soon)]})
        was_small = self.is_small
        changed = self._take_out(info.id) if before is not None else set()
        self.members[info.id] = Member(info, counts, soon)
        key = info.region, info.isp
        isp = self._isps.setdefault(key, _Isp(self._rings))
        changed |= isp.concerned(info.id)
        isp.add(info, steps_of(info.weight) if counts else 0, soon=soon)
        changed |= self._settle(key) | isp.concerned(info.id)
        return set(self.members) if was_small else changed

    def drop(self, node_id: str) -> set[str]:
        """Forget a cache; return the ids of those who should be told soon."""
        if node_id not in self.members:
            return set()
        changed = self._take_out(node_id)
        changed.discard(node_id)
        return set(self.members) if self.is_small else changed

    def put_all(self, members: Iterable[Member]) -> set[str]:
        """Take in many caches at once; return as `put` does."""
        coming = list(members)
        if REBUILD_PART * len(coming) <= len(self.members):
            return self._put_some(coming)
        self.members.update({member.info.id: member for member in coming})
        self._isps.clear()
        self._borders = None
        self._isps_of.clear()
        groups: dict[tuple[str, str], list[Member]] = defaultdict(list)
        for member in self.members.values():
            groups[member.info.region, member.info.isp].append(member)
        for (region, name), group in groups.items():
            isp = self._isps[region, name] = _Isp(self._rings)
            isp.load(group)
            isp.settle()
            self._weigh(region, name)
        return set(self.members)

    def _put_some(self, coming: Iterable[Member]) -> set[str]:
        """Take in some caches: those of an ISP that only turn all at once, since its masters are elected each time."""
        changed: set[str] = set()
        turning: dict[tuple[str, str], list[Member]] = defaultdict(list)
        for member in coming:
            before = self.members.get(member.info.id)
            if before is not None and before.info == member.info:
                turning[member.info.region, member.info.isp].append(member)
            else:
                changed |= self.put(member.info, counts=member.counts, soon=member.soon)
        return changed | self._turn(turning)

    def _turn(self, turning: Mapping[tuple[str, str], Collection[Member]]) -> set[str]:
        """Note which known caches of ISPs count now; a fleet's fill windows open in the same moment. They stay where
        they are on the rings, so that nobody's links in the ISP become others."""
        names = [member.info.id for members in turning.values() for member in members]
        changed: set[str] = set(names)
        for key, members in turning.items():
            changed.update(*(self._isps[key].links(member.info.id) for member in members))
        if self._borders is not None:
            changed |= self._borders.links_of(names)
        for key, members in turning.items():
            for member in members:
                self.members[member.info.id] = member
                steps = steps_of(member.info.weight) if member.counts else 0
                self._isps[key].turn(member.info.id, steps, soon=member.soon)
            changed |= self._settle(key)
        if self._borders is not None:
            changed |= self._borders.links_of(names)
        return set(self.members) if self.is_small else changed

    def _take_out(self, node_id: str) -> set[str]:
        info = self.members[node_id].info
        key = info.region, info.isp
        isp = self._isps[key]
        changed = isp.concerned(node_id)
        isp.remove(node_id)
        del self.members[node_id]
        changed |= isp.concerned(node_id)
        return changed | self._settle(key)

    def _settle(self, key: tuple[str, str]) -> set[str]:
        """Let rings and weights follow what an ISP is now; return whom that concerns."""
        region, name = key
        isp = self._isps[key]
        before, sworn = isp.stand(), isp.sworn
        isp.settle()
        changed: set[str] = set()
        if isp.sworn != sworn:
            changed |= isp.sworn.keys()
        if self._borders is not None and isp.stand() != before:
            changed |= self._borders.put(key, isp.stand())
        changed |= self._weigh(region, name)
        if not isp:
            del self._isps[key]
        return changed

    def _weigh(self, region: str, name: str) -> set[str]:
        """Add an ISP up; where there is nobody left in a group, return those who must hear of that."""
        if weight := self._isps[region, name].weight:
            self._isps_of[region][name] = weight
            return set()
        weights = self._isps_of.get(region)
        if weights is None or not weights.pop(name, 0):
            return set()
        if not weights:
            del self._isps_of[region]
        return {
            node_id
            for (where, _), isp in self._isps.items()
            if where == region or not weights
            for node_id in isp.border
        }

    # ---- answers

    def links(self, info: NodeInfo) -> list[str]:
        """Return the ids of the caches with which `info`, which need not be known yet, is to be linked."""
        if self.is_small:
            return [node_id for node_id in self.members if node_id != info.id]
        if self._borders is None:
            self._borders = Borders(*self._title)
            self._borders.load({key: isp.stand() for key, isp in self._isps.items()})
        isp = self._isps.get((info.region, info.isp))
        found = set(self._borders.some(info.region, STRANGERS)) if isp is None else isp.links(info.id)
        return sorted((found | self._borders.links(info.id)) - {info.id})

    def election(self, info: NodeInfo) -> Election | None:
        """Return who counts in the elections that `info` holds; None where that is everybody who wants the title."""
        if self.is_small:
            return None
        isp = self._isps.get((info.region, info.isp))
        electors = [] if isp is None else self._electors(isp)
        own = next((elector.weight for elector in electors if elector.id == info.id), 0.0)
        if not electors:
            own = steps_of(info.weight) / WEIGHT_STEPS
        groups = [
            GroupWeight(info.region, name, steps / WEIGHT_STEPS, self._isps[info.region, name].is_soon)
            for name, steps in sorted(self._isps_of.get(info.region, {}).items())
            if name != info.isp
        ]
        groups += [
            GroupWeight(
                region,
                "",
                sum(weights.values()) / WEIGHT_STEPS,
                all(self._isps[region, name].is_soon for name in weights),
            )
            for region, weights in sorted(self._isps_of.items())
            if region != info.region
        ]
        return Election(own, electors, groups, inward=bool(electors) and isp is not None and not isp.weight)

    def _electors(self, isp: _Isp) -> list[Elector]:
        """Return an ISP's electors with weights that add up to that of the whole ISP."""
        if isp.electors is None:
            steps = dict(isp.sworn)
            total, whole = sum(steps.values()), isp.weight or isp.inward_weight
            if total != whole:
                steps = {node_id: max(1, count * whole // total) for node_id, count in steps.items()}
                first = next(iter(steps))
                steps[first] += whole - sum(steps.values())
            isp.electors = [
                Elector(node_id, count / WEIGHT_STEPS, node_id in isp.soon) for node_id, count in sorted(steps.items())
            ]
        return isp.electors


def electorate(
    me: NodeInfo, election: Election, linked: Iterable[NodeInfo]
) -> tuple[tuple[NodeInfo, ...], tuple[str, ...], frozenset[str]]:
    """Return the members over which `me` holds elections, the ids of those with whom it is not to be linked, and of
    those whose fill windows open in a moment.

    Linked caches that do not count are among the members with the weight 0.
    """
    weights = {elector.id: elector.weight for elector in election.electors}
    soon = {elector.id for elector in election.electors if elector.soon}
    members = {node.id: _weighing(node, weights.pop(node.id, 0.0)) for node in linked if node.id != me.id}
    weights.pop(me.id, None)
    serves = SERVES_ISP if election.inward else ""
    apart = [_voter(node_id, me.isp, me.region, weight, serves) for node_id, weight in weights.items()]
    for group in election.groups:
        stand_in = f"({group.region}/{group.isp})"
        apart.append(_voter(stand_in, group.isp, group.region, group.weight))
        if group.soon:
            soon.add(stand_in)
    own = _weighing(me, election.weight)
    return (*members.values(), *apart, own), tuple(node.id for node in apart), frozenset(soon)


def steps_of(weight: float) -> int:
    """Return a weight in steps of `1 / WEIGHT_STEPS`, at least one."""
    return max(1, round(weight * WEIGHT_STEPS))


@lru_cache(maxsize=POINTS_KEPT)
def _voter(name: str, isp: str, region: str, weight: float, serves: str = "") -> NodeInfo:
    """Return one of whom no more than the weight is known: the same one in the rosters of all titles."""
    return NodeInfo(NodeId(name), isp, region, weight=weight, serves=serves)


@lru_cache(maxsize=POINTS_KEPT)
def _weighing(node: NodeInfo, weight: float) -> NodeInfo:
    return msgspec.structs.replace(node, weight=weight)


class _Isp:
    """The caches of one ISP in one region, on rings."""

    def __init__(self, rings: int) -> None:
        """Two links on each of `rings`."""
        self._degree = 2 * rings
        self._rings: list[list[Spot]] = [[] for _ in range(rings + 1)]
        """On the last one stands who makes up for whom."""
        self._order: list[tuple[int, int, str]] = []
        """All of them: those that count first, of those the ones that serve others; the first stand at the border."""
        self.inward: set[str] = set()
        """Those that serve this ISP alone."""
        self.counting: dict[str, int] = {}
        """Those that take part in elections, each with its weight in steps."""
        self.soon: set[str] = set()
        """Those of them whose fill windows open in a moment."""
        self.border: dict[str, None] = {}
        self.sworn: dict[str, int] = {}
        """Those at the border that take part in elections, likewise; those that serve others, if there are any."""
        self.weight = 0
        """Of all that count and serve others, in steps."""
        self.inward_weight = 0
        """Of the others that count."""
        self.electors: list[Elector] | None = None
        """Worked out when asked for, until somebody comes or goes."""

    def __bool__(self) -> bool:
        return bool(self._order)

    @property
    def is_soon(self) -> bool:
        """Whether the fill windows of all that count are yet to open."""
        return len(self.soon) == len(self.counting)

    def load(self, members: Iterable[Member]) -> None:
        for member in members:
            points = _points("isp", member.info.id, len(self._rings))
            for ring, point in zip(self._rings, points, strict=True):
                ring.append((point, member.info.id))
            if member.info.is_inward:
                self.inward.add(member.info.id)
            self._order.append((self._rank(member.info.id, counts=member.counts), points[0], member.info.id))
            if member.counts:
                self.counting[member.info.id] = steps_of(member.info.weight)
                if member.soon:
                    self.soon.add(member.info.id)
        self.inward_weight = sum(self.counting[node_id] for node_id in self.inward & self.counting.keys())
        self.weight = sum(self.counting.values()) - self.inward_weight
        self._order.sort()
        for ring in self._rings:
            ring.sort()

    def _rank(self, node_id: str, *, counts: bool) -> int:
        return 2 * (not counts) + (node_id in self.inward)

    def _add_weight(self, node_id: str, steps: int) -> None:
        if node_id in self.inward:
            self.inward_weight += steps
        else:
            self.weight += steps

    def add(self, info: NodeInfo, steps: int, *, soon: bool = False) -> None:
        """Add a cache with its weight; 0: it does not count."""
        node_id = info.id
        if info.is_inward:
            self.inward.add(node_id)
        points = _points("isp", node_id, len(self._rings))
        for ring, point in zip(self._rings, points, strict=True):
            insort(ring, (point, node_id))
        insort(self._order, (self._rank(node_id, counts=bool(steps)), points[0], node_id))
        if steps:
            self.counting[node_id] = steps
            self._add_weight(node_id, steps)
            if soon:
                self.soon.add(node_id)

    def remove(self, node_id: str) -> None:
        points = _points("isp", node_id, len(self._rings))
        for ring, point in zip(self._rings, points, strict=True):
            del ring[bisect_left(ring, (point, node_id))]
        self.soon.discard(node_id)
        steps = self.counting.pop(node_id, 0)
        self._add_weight(node_id, -steps)
        del self._order[bisect_left(self._order, (self._rank(node_id, counts=bool(steps)), points[0], node_id))]
        self.inward.discard(node_id)

    def turn(self, node_id: str, steps: int, *, soon: bool) -> None:
        """Let a cache have another weight; 0: it does not count."""
        before = self.counting.pop(node_id, 0)
        self.soon.discard(node_id)
        self._add_weight(node_id, steps - before)
        if bool(steps) != bool(before):
            point = _points("isp", node_id, len(self._rings))[0]
            del self._order[bisect_left(self._order, (self._rank(node_id, counts=bool(before)), point, node_id))]
            insort(self._order, (self._rank(node_id, counts=bool(steps)), point, node_id))
        if steps:
            self.counting[node_id] = steps
            if soon:
                self.soon.add(node_id)

    def settle(self) -> None:
        """Choose anew who stands at the border."""
        self.border = dict.fromkeys(node_id for _, _, node_id in self._order[:ELECTORS_MAX])
        sworn = {node_id: self.counting[node_id] for node_id in self.border if node_id in self.counting}
        self.sworn = {node_id: steps for node_id, steps in sworn.items() if node_id not in self.inward} or sworn
        self.electors = None

    def stand(self) -> Border:
        """Return how it stands in elections: those who count, or else those who hold the title."""
        if self.sworn:
            return Border(dict(self.sworn), float(self.weight), is_inward=not self.weight)
        outward = [node_id for node_id in self.border if node_id not in self.inward]
        return Border(dict.fromkeys(outward or self.border, 1), 0.0)

    def links(self, node_id: str) -> set[str]:
        """Return the neighbours of a cache, which need not be on the rings."""
        if len(self._order) <= self._degree + 1:
            return {other for _, _, other in self._order if other != node_id}
        found = self._beside(node_id)
        spare = self._around(node_id, range(-SPARE_REACH, 0))
        made_up_for = {other for other in spare if node_id in self._made_up(other, self._beside(other))}
        return found | self._made_up(node_id, found) | made_up_for

    def concerned(self, node_id: str) -> set[str]:
        """Return whose links may be others where `node_id` comes or goes; to be asked before and after.

        Those are its neighbours, whoever is beside it or may make up for links with it, and their neighbours.
        """
        if not self._order:
            return set()
        found = self.links(node_id)
        for other in self._beside(node_id).union(self._around(node_id, range(-SPARE_REACH, 0))):
            found |= {other} | self.links(other)
        return found

    def _beside(self, node_id: str) -> set[str]:
        """Return the neighbours of a cache on all rings but the last."""
        found: set[str] = set()
        for ring, point in zip(self._rings[:-1], _points("isp", node_id, len(self._rings)), strict=False):
            found.add(ring[bisect_left(ring, (point, node_id)) - 1][1])
            found.add(ring[bisect_right(ring, (point, node_id)) % len(ring)][1])
        return found

    def _made_up(self, node_id: str, beside: set[str]) -> set[str]:
        """Return those that make up for what a cache lacks `beside` it."""
        others = [other for other in self._around(node_id, range(1, SPARE_REACH + 1)) if other not in beside]
        return set(others[: self._degree - len(beside)])

    def _around(self, node_id: str, steps: range) -> list[str]:
        """Return who stands so many steps after a cache on the last ring; negative ones are before it."""
        ring = self._rings[-1]
        place = bisect_left(ring, (_points("isp", node_id, len(self._rings))[-1], node_id))
        # One that is not there would stand before whoever is at its place.
        is_there = place < len(ring) and ring[place][1] == node_id
        found = [ring[(place + step - (step > 0 and not is_there)) % len(ring)][1] for step in steps]
        return [other for other in dict.fromkeys(found) if other != node_id]


_DIGEST_POINTS: Final = 8
"""Points that one digest gives."""


@lru_cache(maxsize=POINTS_KEPT)
def _points(ring: str, node_id: str, count: int) -> tuple[int, ...]:
    """Return `count` points on a ring for a cache; more of them begin with the same ones."""
    points: list[int] = []
    while len(points) < count:
        digest = hashlib.blake2b(f"{ring}\0{node_id}\0{len(points)}".encode()).digest()
        points += [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 8 * _DIGEST_POINTS, 8)]
    return tuple(points[:count])
