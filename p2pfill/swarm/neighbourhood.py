"""Who links with whom, and who counts in elections, in a fleet of any size.

In a small fleet (`EVERYBODY_MAX`) everybody is told of everybody. In a larger one a cache is told of a bounded graph
and of a bounded roster, both worked out from names alone: the same set of caches gives the same answer in every process
and whatever the order in which they came, and nothing is drawn or remembered.

Links go both ways by construction and come in three kinds:

- in the ISP, with the two neighbours on each of some rings of hashes: every ring alone connects the ISP, and all of
  them together make a random regular graph, of a logarithmic diameter;
- to other ISPs of the region, and to other regions, by fingers: hashes of the one end's name, each of which means the
  next cache of another group on a ring of all. Only border caches have them, at most `ELECTORS_MAX` an ISP.

A small ISP has more fingers for each of its caches: what it fetches for the others has to reach one of their masters,
of whom each ISP has one, and a few fingers among many caches would as a rule mean none of them.

Elections look at nothing but the weights of groups (`swarm.election.Duties`), so a cache needs the names of its own
ISP's electors, and of every other ISP of the region and every other region no more than the weight: all elect the same
as with the whole roster. In the elections a stand-in has that weight, which is no cache: a real one in its place would
be judged by what it does, though it does no more than its own share, and when it died the weight of its group would be
gone with it. When nobody of a group is left, the tracker says so.

Weights are counted in steps of `1 / WEIGHT_STEPS`: sums of those are exact, in whatever order they are made.

Rejected: neighbours drawn at random and kept, which every tracker would draw otherwise; rendezvous hashing by pair,
which costs a look at the whole fleet for each cache; one ring in the order of ISPs, whose neighbourhoods are all alike.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import Election, Elector, GroupWeight

EVERYBODY_MAX: Final = 64
"""Up to so many caches everybody is linked with everybody: fewer hops, and little news to tell."""

NEIGHBOURS: Final = 16
"""Links with caches of the own ISP, in a large fleet; two a ring."""

FAR_NEIGHBOURS: Final = 12
"""Links to other ISPs of the region, and as many to other regions; one half are fingers of the cache, the other half
mean it. Where ISPs are alike and many, a chunk that all of one ISP hold so lies with a neighbour of the masters of
twelve others on average, and that of none is one in 160,000. With eight it is one in 3,000, and a fill of 600 caches in
the simulator waited at its end for such a chunk."""

ELECTORS_MAX: Final = 256
"""Caches of one ISP that take part in elections and have links across its border: the work at a border is shared finely
enough by then."""

FINGERS_MAX: Final = 128
"""Of one cache that stands alone in its ISP among large ones, on each of the two rings."""

POINTERS_MAX: Final = 96
"""Fingers that may mean one cache, on each of the two rings; the nearest count. With the limits above a cache has at
most 16 + 2 * (128 + 96) links, which is below `node.peers.LINKS_MAX`."""

SKIPS_MAX: Final = 8
"""Caches of its own group that a finger passes over. Where one group is nearly all of the ring most of its fingers mean
nobody, since all of them together would bury the few others."""

WEIGHT_STEPS: Final = 1024
"""Of one unit of weight."""

REBUILD_PART: Final = 8
"""Where more than this part of all caches comes at once, everything is sorted anew, which is then cheaper."""

Spot = tuple[int, str]
"""A point on a ring and the cache that it belongs to."""


class Member(NamedTuple):
    """One cache that wants or holds the title."""

    info: NodeInfo
    counts: bool
    """It takes part in elections; else it is a source only."""


class Neighbourhoods:
    """All caches that want or hold one title. Changes tell whose neighbourhood is another one now."""

    def __init__(
        self, *, everybody_max: int = EVERYBODY_MAX, neighbours: int = NEIGHBOURS, far: int = FAR_NEIGHBOURS
    ) -> None:
        """`neighbours` caches of the ISP, and about `far` of other ISPs and as many of other regions, are linked."""
        self.members: dict[str, Member] = {}
        self._everybody_max = everybody_max
        self._rings = max(1, neighbours // 2)
        self._fingers = max(1, far // 2)
        self._isps: dict[tuple[str, str], _Isp] = {}
        self._isps_of: dict[str, dict[str, int]] = defaultdict(dict)
        """Region -> ISP -> weight in steps, for those in which somebody counts."""
        self._levels: dict[str, _Level] = {}
        """The ring of each region, and that of the world."""

    @property
    def is_small(self) -> bool:
        """Whether everybody is told of everybody."""
        return len(self.members) <= self._everybody_max

    # ---- changes

    def put(self, info: NodeInfo, *, counts: bool) -> set[str]:
        """Take in a cache, or what is new about it; return the ids of those who should be told soon.

        Those are the caches whose links change and the electors of the ISP. What an ISP or a region weighs is news that
        can wait, unless there is nobody left in it.
        """
        was_small = self.is_small
        changed = self._take_out(info.id) if info.id in self.members else set()
        self.members[info.id] = Member(info, counts)
        key = info.region, info.isp
        isp = self._isps.setdefault(key, _Isp(self._rings))
        isp.add(info.id, steps_of(info.weight) if counts else 0)
        changed |= self._settle(key) | isp.links(info.id)
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
            changed: set[str] = set()
            for info, counts in coming:
                changed |= self.put(info, counts=counts)
            return changed
        self.members.update({member.info.id: member for member in coming})
        self._isps.clear()
        self._levels.clear()
        self._isps_of.clear()
        groups: dict[tuple[str, str], list[Member]] = defaultdict(list)
        for member in self.members.values():
            groups[member.info.region, member.info.isp].append(member)
        borders: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for (region, name), group in groups.items():
            isp = self._isps[region, name] = _Isp(self._rings)
            isp.load(group)
            isp.settle()
            self._weigh(region, name)
            borders[_REGION + region].extend((node_id, name) for node_id in isp.border)
            borders[_WORLD].extend((node_id, region) for node_id in isp.border)
        for level, pairs in borders.items():
            self._level(level).load(pairs)
        return set(self.members)

    def _take_out(self, node_id: str) -> set[str]:
        info = self.members[node_id].info
        key = info.region, info.isp
        isp = self._isps[key]
        changed = isp.links(node_id)
        isp.remove(node_id)
        del self.members[node_id]
        return changed | self._settle(key)

    def _settle(self, key: tuple[str, str]) -> set[str]:
        """Let rings and weights follow what an ISP is now; return whom that concerns."""
        region, name = key
        isp = self._isps[key]
        before, sworn = isp.border, isp.sworn
        isp.settle()
        changed: set[str] = set()
        for node_id in before.keys() - isp.border.keys():
            changed |= self._level(_REGION + region).remove(node_id) | self._level(_WORLD).remove(node_id)
        for node_id in isp.border.keys() - before.keys():
            changed |= self._level(_REGION + region).add(node_id, name)
            changed |= self._level(_WORLD).add(node_id, region)
        if isp.sworn != sworn:
            changed |= isp.sworn.keys()
        vanished = self._weigh(region, name)
        if vanished:
            changed |= self._level(vanished).everybody()
        if not isp:
            del self._isps[key]
        return changed

    def _weigh(self, region: str, name: str) -> str:
        """Add an ISP up; return the name of the ring whose caches must hear that a group is gone, if one is."""
        isp = self._isps[region, name]
        weights = self._isps_of[region]
        if isp.weight:
            weights[name] = isp.weight
        elif weights.pop(name, 0):
            if weights:
                return _REGION + region
            del self._isps_of[region]
            return _WORLD
        return ""

    def _level(self, name: str) -> _Level:
        if name not in self._levels:
            self._levels[name] = _Level(name, self._fingers)
        return self._levels[name]

    # ---- answers

    def links(self, info: NodeInfo) -> list[str]:
        """Return the ids of the caches with which `info`, which need not be known yet, is to be linked."""
        if self.is_small:
            return [node_id for node_id in self.members if node_id != info.id]
        found: dict[str, None] = {}
        isp = self._isps.get((info.region, info.isp))
        if isp is not None:
            found.update(dict.fromkeys(isp.links(info.id)))
        for level, group in ((_REGION + info.region, info.isp), (_WORLD, info.region)):
            if level in self._levels and (isp is None or info.id in isp.border or info.id not in self.members):
                found.update(dict.fromkeys(self._levels[level].links(info.id, group)))
        found.pop(info.id, None)
        return sorted(found)

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
            GroupWeight(info.region, name, steps / WEIGHT_STEPS)
            for name, steps in sorted(self._isps_of.get(info.region, {}).items())
            if name != info.isp
        ]
        groups += [
            GroupWeight(region, "", sum(weights.values()) / WEIGHT_STEPS)
            for region, weights in sorted(self._isps_of.items())
            if region != info.region
        ]
        return Election(own, electors, groups)

    def _electors(self, isp: _Isp) -> list[Elector]:
        """Return an ISP's electors with weights that add up to that of the whole ISP."""
        if isp.electors is None:
            steps = dict(isp.sworn)
            total = sum(steps.values())
            if total != isp.weight:
                steps = {node_id: max(1, count * isp.weight // total) for node_id, count in steps.items()}
                first = next(iter(steps))
                steps[first] += isp.weight - sum(steps.values())
            isp.electors = [Elector(node_id, count / WEIGHT_STEPS) for node_id, count in sorted(steps.items())]
        return isp.electors


def electorate(
    me: NodeInfo, election: Election, linked: Iterable[NodeInfo]
) -> tuple[tuple[NodeInfo, ...], tuple[str, ...]]:
    """Return the members over which `me` holds elections, and the ids of those with whom it is not to be linked.

    Linked caches that do not count are among the members with the weight 0.
    """
    weights = {elector.id: elector.weight for elector in election.electors}
    members = {node.id: _weighing(node, weights.pop(node.id, 0.0)) for node in linked if node.id != me.id}
    weights.pop(me.id, None)
    apart = [NodeInfo(NodeId(node_id), me.isp, me.region, weight=weight) for node_id, weight in weights.items()]
    apart += [
        NodeInfo(NodeId(f"({group.region}/{group.isp})"), group.isp, group.region, weight=group.weight)
        for group in election.groups
    ]
    own = _weighing(me, election.weight)
    return (*members.values(), *apart, own), tuple(node.id for node in apart)


def steps_of(weight: float) -> int:
    """Return a weight in steps of `1 / WEIGHT_STEPS`, at least one."""
    return max(1, round(weight * WEIGHT_STEPS))


def _weighing(node: NodeInfo, weight: float) -> NodeInfo:
    return msgspec.structs.replace(node, weight=weight)


_WORLD: Final = "world"
_REGION: Final = "region "


class _Isp:
    """The caches of one ISP in one region, on rings."""

    def __init__(self, rings: int) -> None:
        self._rings: list[list[Spot]] = [[] for _ in range(rings)]
        self._order: list[tuple[bool, int, str]] = []
        """All of them, those that count first; the first ones stand at the border."""
        self.counting: dict[str, int] = {}
        """Those that take part in elections, each with its weight in steps."""
        self.border: dict[str, None] = {}
        self.sworn: dict[str, int] = {}
        """Those at the border that take part in elections, likewise."""
        self.weight = 0
        """Of all that count, in steps."""
        self.electors: list[Elector] | None = None
        """Worked out when asked for, until somebody comes or goes."""

    def __bool__(self) -> bool:
        return bool(self._order)

    def load(self, members: Iterable[Member]) -> None:
        for member in members:
            points = _points("isp", member.info.id, len(self._rings))
            for ring, point in zip(self._rings, points, strict=True):
                ring.append((point, member.info.id))
            self._order.append((not member.counts, points[0], member.info.id))
            if member.counts:
                self.counting[member.info.id] = steps_of(member.info.weight)
        self.weight = sum(self.counting.values())
        self._order.sort()
        for ring in self._rings:
            ring.sort()

    def add(self, node_id: str, steps: int) -> None:
        """Add a cache with its weight; 0: it does not count."""
        points = _points("isp", node_id, len(self._rings))
        for ring, point in zip(self._rings, points, strict=True):
            insort(ring, (point, node_id))
        insort(self._order, (not steps, points[0], node_id))
        if steps:
            self.counting[node_id] = steps
            self.weight += steps

    def remove(self, node_id: str) -> None:
        points = _points("isp", node_id, len(self._rings))
        for ring, point in zip(self._rings, points, strict=True):
            del ring[bisect_left(ring, (point, node_id))]
        steps = self.counting.pop(node_id, 0)
        self.weight -= steps
        del self._order[bisect_left(self._order, (not steps, points[0], node_id))]

    def settle(self) -> None:
        """Choose anew who stands at the border."""
        self.border = dict.fromkeys(node_id for _, _, node_id in self._order[:ELECTORS_MAX])
        self.sworn = {node_id: self.counting[node_id] for node_id in self.border if node_id in self.counting}
        self.electors = None

    def links(self, node_id: str) -> set[str]:
        """Return the neighbours of a cache, which need not be on the rings."""
        if len(self._order) <= 2 * len(self._rings) + 1:
            return {other for _, _, other in self._order if other != node_id}
        found: set[str] = set()
        for ring, point in zip(self._rings, _points("isp", node_id, len(self._rings)), strict=True):
            found.add(ring[bisect_left(ring, (point, node_id)) - 1][1])
            found.add(ring[bisect_right(ring, (point, node_id)) % len(ring)][1])
        return found


class _Level:
    """A ring of border caches in groups, with the fingers by which each means caches of other groups."""

    def __init__(self, name: str, fingers: int) -> None:
        self._name = name
        self._fingers = fingers
        self._spots: list[Spot] = []
        self._starts: list[Spot] = []
        """Where fingers begin; each means the next spot of another group."""
        self._groups: dict[str, dict[str, None]] = defaultdict(dict)
        self._group_of: dict[str, str] = {}
        self._begun: dict[str, list[Spot]] = {}
        """Cache -> where its fingers begin."""
        self._at: dict[str, Spot] = {}
        self._counts: dict[str, int] = {}
        """Group -> fingers of each of its caches."""
        self._usual = 0
        """What an average group has, in powers of four."""

    def everybody(self) -> set[str]:
        return set(self._group_of)

    # ---- changes

    def load(self, members: Iterable[tuple[str, str]]) -> None:
        """Begin with pairs of a cache and its group."""
        for node_id, group in members:
            self._spots.append(self._place(node_id))
            self._groups[group][node_id] = None
            self._group_of[node_id] = group
        self._usual = self._usual_size()
        self._counts = {group: self._count(group) for group in self._groups}
        for node_id, group in self._group_of.items():
            self._begun[node_id] = self._starts_of(node_id, self._counts[group])
            self._starts += self._begun[node_id]
        self._spots.sort()
        self._starts.sort()

    def add(self, node_id: str, group: str) -> set[str]:
        """Add a cache; return whose links change, and at times some more."""
        spot = self._place(node_id)
        before = self._aims(self._window(spot))
        insort(self._spots, spot)
        self._groups[group][node_id] = None
        self._group_of[node_id] = group
        self._begun[node_id] = self._starts_of(node_id, self._counts.setdefault(group, self._fingers))
        for start in self._begun[node_id]:
            insort(self._starts, start)
        changed = self._moved(before) | self._ends(self._begun[node_id]) | {node_id}
        return changed | self._resize(group)

    def remove(self, node_id: str) -> set[str]:
        """Remove a cache; return whose links change, and at times some more."""
        group = self._group_of[node_id]
        spot = self._at[node_id]
        changed = self._ends(self._begun[node_id])
        before = self._aims(start for start in self._window(spot) if start[1] != node_id)
        for start in self._begun.pop(node_id):
            del self._starts[bisect_left(self._starts, start)]
        del self._spots[bisect_left(self._spots, spot)]
        del self._groups[group][node_id], self._group_of[node_id], self._at[node_id]
        if not self._groups[group]:
            del self._groups[group], self._counts[group]
        return changed | self._moved(before) | self._resize(group)

    def _aims(self, starts: Iterable[Spot]) -> dict[Spot, str]:
        return {start: self._target(start, self._group_of[start[1]]) for start in starts}

    def _moved(self, before: dict[Spot, str]) -> set[str]:
        """Return whose links change where fingers mean others than `before`."""
        changed: set[str] = set()
        for start, then in before.items():
            now = self._target(start, self._group_of[start[1]])
            if now != then:
                changed |= {start[1]} | self._around(then) | self._around(now)
        return changed

    def _ends(self, starts: Iterable[Spot]) -> set[str]:
        """Return the caches at both ends of fingers."""
        changed: set[str] = set()
        for start, target in self._aims(starts).items():
            changed |= {start[1]} | self._around(target)
        return changed

    def _around(self, target: str) -> set[str]:
        """Return whom one finger more or less that means `target` concerns: where it is crowded, others give way."""
        if target not in self._at:
            return set()
        aimed = self._aimed(target) if self._is_crowded(target) else []
        return {target} | ({source for _, source in aimed} if len(aimed) >= POINTERS_MAX else set())

    def _resize(self, group: str) -> set[str]:
        """Give each cache the fingers that its group's size calls for; return whose links change."""
        usual = self._usual_size()
        groups = [group] if usual == self._usual else list(self._groups)
        self._usual = usual
        changed: set[str] = set()
        for name in groups:
            if name not in self._groups or self._count(name) == self._counts[name]:
                continue
            before, self._counts[name] = self._counts[name], self._count(name)
            few, many = sorted((before, self._counts[name]))
            for node_id in self._groups[name]:
                starts = self._begun[node_id] if many == before else self._starts_of(node_id, many)
                self._begun[node_id] = starts[: self._counts[name]]
                changed |= self._ends(starts[few:])
                for start in starts[few:]:
                    if many == before:
                        del self._starts[bisect_left(self._starts, start)]
                    else:
                        insort(self._starts, start)
                changed |= self._ends(starts[few:])
        return changed

    def _usual_size(self) -> int:
        return _power_of_four(len(self._spots) // max(1, len(self._groups)))

    def _count(self, group: str) -> int:
        return min(FINGERS_MAX, self._fingers * max(1, self._usual // _power_of_four(len(self._groups[group]))))

    # ---- answers

    def links(self, node_id: str, group: str) -> set[str]:
        """Return the caches that a cache means, and those that mean it. It need not be on the ring."""
        if node_id in self._group_of:
            return self._linked(node_id)
        return {target for start in self._starts_of(node_id, self._fingers) if (target := self._target(start, group))}

    def _linked(self, node_id: str) -> set[str]:
        return self._out(node_id) | {source for _, source in self._pointers(node_id)}

    def _out(self, node_id: str) -> set[str]:
        group = self._group_of[node_id]
        found = set()
        for start in self._begun[node_id]:
            target = self._target(start, group)
            if target and (not self._is_crowded(target) or start in self._pointers(target)):
                found.add(target)
        return found

    def _target(self, start: Spot, group: str) -> str:
        """Return whom a finger of a cache of `group` means; nobody (empty) where its own group is all around."""
        first, count = bisect_left(self._spots, start), len(self._spots)
        for place in range(first, first + min(count, SKIPS_MAX + 1)):
            node_id = self._spots[place % count][1]
            if self._group_of[node_id] != group:
                return node_id
        return ""

    def _is_crowded(self, node_id: str) -> bool:
        """Tell whether more fingers may mean a cache than it takes."""
        return len(self._window(self._at[node_id])) > POINTERS_MAX

    def _pointers(self, node_id: str) -> list[Spot]:
        """Return the fingers that mean a cache and that it takes."""
        return self._aimed(node_id)[:POINTERS_MAX]

    def _aimed(self, node_id: str) -> list[Spot]:
        """Return the fingers that mean a cache, the nearest first."""
        return [
            start
            for start in reversed(self._window(self._at[node_id]))
            if self._target(start, self._group_of[start[1]]) == node_id
        ]

    def _window(self, spot: Spot) -> list[Spot]:
        """Return the fingers that may mean whoever is at `spot`, the nearest last."""
        count = len(self._spots)
        end = bisect_right(self._starts, spot)
        if count <= SKIPS_MAX + 1:
            return self._starts[end:] + self._starts[:end]
        place = bisect_left(self._spots, spot) - SKIPS_MAX - 1
        begin = bisect_right(self._starts, self._spots[place])
        if place < 0:
            return self._starts[begin:] + self._starts[:end]
        return self._starts[begin:end]

    def _place(self, node_id: str) -> Spot:
        spot = self._at[node_id] = _points(self._name, node_id, 1)[0], node_id
        return spot

    def _starts_of(self, node_id: str, count: int) -> list[Spot]:
        return [(point, node_id) for point in _points(f"{self._name} fingers", node_id, count)]


def _power_of_four(count: int) -> int:
    """Return the least power of four that is not less: so that what follows from a size changes seldom."""
    return 1 << (max(0, count - 1).bit_length() + 1) // 2 * 2


_DIGEST_POINTS: Final = 8
"""Points that one digest gives."""


def _points(ring: str, node_id: str, count: int) -> list[int]:
    """Return `count` points on a ring for a cache; more of them begin with the same ones."""
    points: list[int] = []
    while len(points) < count:
        digest = hashlib.blake2b(f"{ring}\0{node_id}\0{len(points)}".encode()).digest()
        points += [int.from_bytes(digest[i : i + 8], "little") for i in range(0, 8 * _DIGEST_POINTS, 8)]
    return points[:count]
