"""Who fetches which chunk across which border.

Every cache that wants a title stands in three nested groups: its ISP, its region, the world. For each chunk (for each
stripe of chunks, where there are very many) each group elects one fill master: the world elects a region, that region
an ISP, that ISP a cache. So the cache that may fetch a chunk from the origin is also its ISP's master for it, each
border is crossed once, and each chunk has its own tree.

Within a group the choice is weighted rendezvous hashing held to exact quotas (`hot.bits.assign`): plain rendezvous
hashing leaves some masters with a third more work than others, and a fill ends when the last one does. Everyone
computes the same masters from the same roster, and a change of it moves little more than the share of who came or went.
A central per-chunk plan was rejected: it would put the tracker into the data path.

A cache that serves its own ISP alone counts for nothing between ISPs, and is master in its own only where there is
nobody else. An ISP of such caches leads nobody: its masters take from whoever leads, and from the origin where nobody
does.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from weakref import WeakValueDictionary

from p2pfill.hot import bits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo

STRIPES_MAX: Final = 1024
"""Masters are elected for stripes, not for chunks, where a title has more chunks than this: an election costs stripes x
members, and whoever are masters of one stripe in their ISPs are linked with each other (`swarm.borders`). In an ISP of
a hundred caches some then do a tenth more than others at the border, which is a hundredth of the title."""

REACHES: Final = 4
"""Parts into which the names of a group are cut, for what is left over of shares to go to others in each: one more than
there are borders that its masters may have to cross."""

SEEDS_MAX: Final = 4096
"""Seeds that are kept: of the names in some elections, for each of thousands of parts the same. A megabyte."""


class Scope(IntEnum):
    """How far out a cache may go for a chunk."""

    CLUSTER = -1
    """Caches of its cluster, in a fill whose policy has that hop; in others they are of the ISP like all there."""
    ISP = 0
    REGION = 1
    WORLD = 2
    """Caches of other regions."""
    ORIGIN = 3


SCOPES: Final = tuple(Scope)
"""From near to far. Going through the enumeration itself makes a list of it each time."""

NEARER: Final = dict(zip(SCOPES[1:], SCOPES, strict=False))
"""Of each scope the one within it."""

IN_ISP, IN_REGION, IN_WORLD, IN_ORIGIN = SCOPES[1:]
"""For what is asked with each message: a name of a module is found ten times as fast as one of an enumeration."""


def scope_between(one: NodeInfo, other: NodeInfo) -> Scope:
    """Return the smallest group that holds both caches: how far apart they are."""
    if one.region != other.region:
        return Scope.WORLD
    return Scope.ISP if one.isp == other.isp else Scope.REGION


_BEYOND: Final = (Scope.REGION, Scope.WORLD, Scope.ORIGIN)

Closed = Mapping[str, Collection[Scope]]
"""Cache -> scopes from which it cannot take chunks, since its way there is dead."""

NOTHING_CLOSED: Final[Closed] = MappingProxyType({})

Wants = Mapping[str, Bitmap]
"""Cache -> the chunks that it wants, where that is not all of them."""

ALL_WANTED: Final[Wants] = MappingProxyType({})


def stripe_count(chunk_count: int) -> int:
    """Return how many stripes a title's chunks make; chunk k is in stripe k % stripes.

    No more than `STRIPES_MAX`, and all of the same size to within one chunk: 1,500 chunks make 750 stripes of two.
    """
    return -(-chunk_count // max(1, -(-chunk_count // STRIPES_MAX)))


def elect(
    title_id: TitleId, stripes: Sequence[int], group: Mapping[str, float], first: int = 0
) -> tuple[list[str], array[int]]:
    """Elect one of `group` (name -> weight above 0) as master of each of `stripes` (numbers).

    Returns the names and, per stripe, the master's place among them. Shares follow the weights to within one stripe;
    what is left over goes to those first who come first in order of names, counted from the place `first` on.
    """
    names = sorted(group)
    names = names[first:] + names[:first]
    owners = bits.assign(stripes, [_seed(title_id, name) for name in names], [group[name] for name in names])
    return names, owners


def elect_masters(title_id: TitleId, reaches: Mapping[int, int], group: Mapping[str, float]) -> dict[int, str]:
    """Elect a cache of an ISP as master of each stripe, of which `reaches` tells how far its master has to go.

    The stripes of each reach are shared out by themselves. All in one, some caches had more to fetch from the origin
    than others, and the fill took longer: docs/experiments.md, "Requests at an origin".
    """
    masters: dict[int, str] = {}
    for number, reach_ in enumerate(sorted(set(reaches.values()))):
        stripes = [stripe for stripe, this in reaches.items() if this == reach_]
        names, owners = elect(title_id, stripes, group, number * len(group) // REACHES)
        masters.update({stripe: names[owner] for stripe, owner in zip(stripes, owners, strict=True)})
    return masters


def elect_stand_ins(
    title_id: TitleId, reaches: Mapping[int, int], group: Mapping[str, float], without: Container[str]
) -> dict[int, str]:
    """Elect as `elect_masters` does, and then others in the place of those `without` whom `group` must do.

    One after the other in order of names hands on its stripes, and nobody else's move. Caches that differ in whom they
    do without so differ in the stripes of those alone; elected anew, other stripes would move too, and each might wait
    for the other. `group` has somebody else.
    """
    masters = elect_masters(title_id, reaches, group)
    left = dict(group)
    for name in sorted(group):
        if name in without:
            del left[name]
            handed_on = {stripe: reaches[stripe] for stripe, master in masters.items() if master == name}
            masters.update(elect_masters(title_id, handed_on, left))
    return masters


def hand_on(
    title_id: TitleId,
    masters: dict[int, str],
    stripes: Container[int],
    group: Mapping[str, float],
    unable: Container[str],
) -> None:
    """Elect others of `group` in the place of those who are `unable` to do what `stripes` ask for; changes `masters`.

    The stripes of one after the other, in order of names, go to those who are able; nothing changes where nobody is.
    """
    left = {name: weight for name, weight in group.items() if name not in unable}
    if not left or len(left) == len(group):
        return
    for name in sorted(group):
        if name in unable and (
            own := [stripe for stripe, master in masters.items() if master == name and stripe in stripes]
        ):
            names, owners = elect(title_id, own, left)
            masters.update({stripe: names[owner] for stripe, owner in zip(own, owners, strict=True)})


def rank(title_id: TitleId, stripe: int, group: Mapping[str, float]) -> list[str]:
    """Return `group` in the order in which its members stand in for a lost master of `stripe`."""
    names = sorted(group)
    order = bits.rank(stripe, [_seed(title_id, name) for name in names], [group[name] for name in names])
    return [names[place] for place in order]


def share_by_rank(
    title_id: TitleId, chunk_count: int, group: Mapping[str, float], wants: Wants = ALL_WANTED
) -> dict[str, Bitmap]:
    """Return of which chunks each of `group` (name -> weight above 0) ranks first among those that want them.

    By plain scores, so shares are less even than those of `elect`; but whom a cache puts first puts nobody first but
    those who rank higher still, whoever else it knows. So caches that know different others never wait in a circle.
    """
    names, count = list(group), stripe_count(chunk_count)
    seeds, weights = [_seed(title_id, name) for name in names], list(group.values())
    won: dict[str, list[Sequence[int]]] = {name: [] for name in names}
    for stripe in range(count if names else 0):
        left: Sequence[int] = range(stripe, chunk_count, count)
        for place in bits.rank(stripe, seeds, weights):
            if (some := wants.get(name := names[place])) is None:
                won[name].append(left)
                break
            won[name].append([chunk for chunk in left if some[chunk]])
            left = [chunk for chunk in left if not some[chunk]]
    return {name: _bitmap_of(chunk_count, stripes) for name, stripes in won.items()}


@lru_cache(maxsize=SEEDS_MAX)
def _seed(title_id: TitleId, name: str) -> int:
    # Keyed by the title, so that a cache is not the master of the same positions in every title.
    return int.from_bytes(hashlib.blake2b(name.encode(), key=title_id, digest_size=8).digest(), "little")


def cut_by_wants(chunk_count: int, wanted: Sequence[Bitmap]) -> list[tuple[Sequence[int], int]]:
    """Cut a title into the fewest sets of chunks such that whoever wants a chunk of a set wants all of it.

    Returns each, ascending, with those who want it, bit k for the one that wants the k-th of `wanted`, in the order of
    their first chunks.
    """
    if not wanted:
        return [(range(chunk_count), 0)]
    # A byte a chunk for each eight who want, and the bytes of one chunk side by side: where each of some hundred caches
    # wants files of its own, cutting set by set takes minutes. The digits 0 and 1 differ in their lowest bit.
    ones, width = int.from_bytes(b"\1" * chunk_count, "little"), -(-len(wanted) // 8)
    woven = bytearray(width * chunk_count)
    for lane in range(width):
        eight = 0
        for place, chosen in enumerate(wanted[8 * lane : 8 * lane + 8]):
            digits = f"{int.from_bytes(chosen.buffer, 'little'):0{chunk_count}b}"
            eight |= (int.from_bytes(digits.encode(), "big") & ones) << place
        woven[lane::width] = eight.to_bytes(chunk_count, "little")
    found: dict[bytes, list[int]] = {}
    whole = bytes(woven)
    for chunk in range(chunk_count):
        found.setdefault(whole[chunk * width : (chunk + 1) * width], []).append(chunk)
    return [(chunks, int.from_bytes(who, "little")) for who, chunks in found.items()]


class Assignment:
    """For which chunks each member of a roster is master, and how far it may go for them.

    `members` are the caches that take part, `without` those whom their ISP must do without, and `closed` what each
    cannot reach (`_Elections`). Of each chunk those are elected who want it: `wants` names the chunks of whoever wants
    a part of the title only. Chunks that the same caches want are shared out together, by themselves.

    There may be as many such parts as chunks. So the elections of an ISP are held when one of its caches is asked for,
    in the parts that somebody there wants, and of them only what was won is kept.
    """

    def __init__(
        self,
        title_id: TitleId,
        chunk_count: int,
        members: Iterable[NodeInfo],
        without: Container[str] = (),
        closed: Closed = NOTHING_CLOSED,
        wants: Wants = ALL_WANTED,
    ) -> None:
        self._title_id = title_id
        self._chunk_count = chunk_count
        nodes = {node.id: node for node in members}
        picky = [name for name in nodes if name in wants]
        others = [name for name in nodes if name not in wants]
        self._voters = _Voters([nodes[name] for name in picky + others], without, closed)
        of_others = (1 << len(nodes)) - (1 << len(picky))
        parts = cut_by_wants(chunk_count, [wants[name] for name in picky])
        # Where all want a part, what nobody wants is none.
        self._parts = [(chunks, who | of_others) for chunks, who in parts if who or others or not picky]
        """Chunks, and the voters who want them."""
        self._won: dict[tuple[str, str], _Won] = {}
        self._only: _Elections | None = None
        """Where there is one part: regions and the world elect once. Those of many would be too many to keep."""

    def within(self, node: NodeInfo) -> dict[Scope, Bitmap]:
        """Return, per scope beyond the ISP, the chunks for which `node` may go that far. Not to be changed."""
        won = self._won.get((node.region, node.isp)) or self._elect(node.region, node.isp)
        mine = won.by(node.id)
        return {Scope.REGION: mine, Scope.WORLD: mine & won.leads_region, Scope.ORIGIN: mine & won.leads_world}

    def masters(self, region: str, isp: str) -> tuple[Mapping[str, Bitmap], Bitmap, Bitmap]:
        """Return of what each cache of an ISP is master that is of anything, and for what the ISP leads its region, and
        the world. Not to be changed."""
        won = self._won.get((region, isp)) or self._elect(region, isp)
        return won.all(), won.leads_region, won.leads_world

    def firsts(self) -> list[int]:
        """Return the first chunk of each set that is shared out by itself."""
        return [chunks[0] if chunks else 0 for chunks, _ in self._parts]

    def _elect(self, region: str, isp: str) -> _Won:
        mine: dict[str, list[Sequence[int]]] = defaultdict(list)
        in_region: list[Sequence[int]] = []
        in_world: list[Sequence[int]] = []
        found = self._voters.group(region, isp)
        here = found.mask if found is not None else 0
        for chunks, who in self._parts:
            if who & here:
                elections = self._only or _Elections(self._title_id, len(chunks), self._voters, who)
                if len(self._parts) == 1:
                    self._only = elections
                count = elections.stripe_count
                for stripe, name in elections.masters(region, isp).items():
                    mine[name].append(chunks[stripe::count])
                leads_region, leads_world = elections.leads(region, isp)
                in_region += [chunks[stripe::count] for stripe in leads_region]
                in_world += [chunks[stripe::count] for stripe in leads_world]
        won = self._won[region, isp] = _Won(self._chunk_count, mine, in_region, in_world)
        return won


_held: WeakValueDictionary[object, Assignment] = WeakValueDictionary()
"""Elections that somebody goes by, each by what it depends on."""


def hold_elections(
    title_id: TitleId,
    chunk_count: int,
    members: Iterable[NodeInfo],
    without: Container[str] = (),
    closed: Closed = NOTHING_CLOSED,
    wants: Wants = ALL_WANTED,
) -> Assignment:
    """Return an `Assignment`: the one that is in use where there is one for the same voters.

    Rosters differ in links far more often than in voters, and of those a large fleet has hundreds. It goes by `without`
    and `closed` as they are now: an ISP elects when it is first asked for, and they may have become others by then.
    """
    nodes = list(members)
    without = frozenset([node.id for node in nodes if node.id in without])
    closed = {node.id: frozenset(closed[node.id]) for node in nodes if node.id in closed}
    if wants:
        return Assignment(title_id, chunk_count, nodes, without, closed, wants)
    voters = [node for node in nodes if node.weight]
    key = (
        title_id,
        chunk_count,
        frozenset([(node.id, node.isp, node.region, node.weight, node.serves) for node in voters]),
        frozenset([node.id for node in voters if node.id in without]),
        frozenset([(node.id, frozenset(closed[node.id])) for node in voters if node.id in closed]),
    )
    found = _held.get(key)
    if found is None:
        found = _held[key] = Assignment(title_id, chunk_count, nodes, without, closed)
    return found


class _Won:
    """What the caches of one ISP are masters of, and the chunks for which the ISP leads its region, or the world."""

    def __init__(
        self,
        chunk_count: int,
        mine: dict[str, list[Sequence[int]]],
        in_region: Iterable[Sequence[int]],
        in_world: Iterable[Sequence[int]],
    ) -> None:
        self._chunk_count = chunk_count
        self._new = mine
        """What nobody has asked for yet."""
        self._by: dict[str, Bitmap] = {}
        self.leads_region: Final = _bitmap_of(chunk_count, in_region)
        self.leads_world: Final = _bitmap_of(chunk_count, in_world)

    def by(self, name: str) -> Bitmap:
        """Return the chunks of which a cache is master."""
        if name in self._new:
            self._by[name] = _bitmap_of(self._chunk_count, self._new.pop(name))
        return self._by.get(name) or Bitmap(self._chunk_count)

    def all(self) -> Mapping[str, Bitmap]:
        """Return the masters, and the chunks of each."""
        for name in list(self._new):
            self.by(name)
        return self._by


def _bitmap_of(chunk_count: int, stripes: Iterable[Sequence[int]]) -> Bitmap:
    chosen = bytearray(chunk_count)
    for chunks in stripes:
        if isinstance(chunks, range):
            chosen[chunks.start : chunks.stop : chunks.step] = b"\1" * len(chunks)
        else:
            for chunk in chunks:
                chosen[chunk] = 1
    return Bitmap.from_flags(chosen)


class _Group:
    """Some voters: the caches of an ISP, or of a region."""

    def __init__(self, members: Sequence[tuple[int, NodeInfo]]) -> None:
        """Each with the number of its bit."""
        self._members = [(place, node.id, node.weight) for place, node in members]
        self._all: dict[str, float] = {node.id: node.weight for _, node in members}
        self.mask: Final = _mask_of([place for place, _ in members])
        outward = [(place, node) for place, node in members if not node.is_inward]
        self.outward: Final = self.mask if len(outward) == len(members) else _mask_of([place for place, _ in outward])
        """Those who serve other ISPs too, and so count between them."""
        alike: dict[float, list[int]] = defaultdict(list)
        for place, node in outward:
            alike[node.weight].append(place)
        ratios = {weight: weight.as_integer_ratio() for weight in alike}
        self._scale = max((denominator for _, denominator in ratios.values()), default=1)
        self._alike = [
            (ratios[weight][0] * (self._scale // ratios[weight][1]), _mask_of(places))
            for weight, places in alike.items()
        ]
        """Weights in whole parts of one of `_scale`, a power of two, and those who have each."""

    def weights(self, who: int) -> dict[str, float]:
        """Return those of `who` that belong to it, each with its weight. Not to be changed."""
        if who & self.mask == self.mask:
            return self._all
        return {name: weight for place, name, weight in self._members if who >> place & 1}

    def total(self, who: int) -> float:
        """Return what those of `who` weigh together between ISPs.

        Rounded once: each cache has its members in another order, and sums of floats depend on that.
        """
        total = 0
        for weight, mask in self._alike:
            total += weight * (who & mask).bit_count()
        return total / self._scale


def _mask_of(places: Sequence[int]) -> int:
    """Return a number with these bits, which are ascending."""
    mask = bytearray((places[-1] >> 3) + 1 if places else 0)
    for place in places:
        mask[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(mask, "little")


class _Voters:
    """All that may take part in elections of a title, a bit each, so that those who want a part are one number."""

    def __init__(self, nodes: Sequence[NodeInfo], without: Container[str], closed: Closed) -> None:
        """Bit k is that of the k-th node. Those of the weight 0 count for nothing."""
        self.without: Final = without
        self.closed: Final = closed
        members = [(place, node) for place, node in enumerate(nodes) if node.weight]
        of_region: dict[str, list[tuple[int, NodeInfo]]] = defaultdict(list)
        of_isp: dict[tuple[str, str], list[tuple[int, NodeInfo]]] = defaultdict(list)
        for one in members:
            of_region[one[1].region].append(one)
            of_isp[one[1].region, one[1].isp].append(one)
        self.groups: Final[dict[str | None, dict[str, _Group]]] = {
            None: {region: _Group(found) for region, found in of_region.items()}
        }
        """The regions of the world (None), and the ISPs of each region."""
        for (region, isp), found in of_isp.items():
            self.groups.setdefault(region, {})[isp] = _Group(found)
        self.absent: Final = _mask_of([place for place, node in members if node.id in without])
        """Those whom others must do without."""
        self.open: Final = {
            scope: _mask_of(
                [place for place, node in members if node.id not in without and scope not in closed.get(node.id, ())]
            )
            for scope in (_BEYOND if closed else ())
        }
        """Those of the others whose own way to a scope is open; worked out where any is closed."""

    def group(self, region: str, isp: str) -> _Group | None:
        """Return the caches of an ISP."""
        return self.groups.get(region, {}).get(isp)

    def counting(self, who: int) -> int:
        """Return those of `who` that count: without ISPs in which all are absent, or all who serve others."""
        if absent := who & self.absent:
            for region, isps in self.groups.items():
                for group in isps.values() if region is not None else ():
                    if who & group.mask == absent & group.mask:
                        who &= ~group.mask
                    elif who & group.outward == absent & group.outward:
                        who &= ~group.outward
        return who


class _Elections:
    """Who is master of which of some chunks, all of which the same caches want.

    Those take part whom `who` names, but for those `without` whom their ISP must do: their weight stays with it as long
    as it has anyone else. So whom a cache does without changes nothing between ISPs, where others, who may not do
    without the same ones, would elect otherwise and each side wait for the other. Nor does it change how an ISP shares
    out its stripes but for theirs: the loss of a whole other ISP would, if that went by what is left.

    So it is with caches whose own ways are `closed` (name -> scopes that they cannot take chunks from): each hands on
    only the stripes for which it would have to go there, and so does an ISP, or a region, in which all are so. Where a
    way is closed for everybody nobody hands on anything.

    Group elections are worked out when first asked for: the answer for one cache needs three of them (its ISP's, its
    region's, the world's).
    """

    def __init__(
        self, title_id: TitleId, chunk_count: int, voters: _Voters, who: int, *, is_nominal: bool = False
    ) -> None:
        """They are for so many chunks. Nominally everybody counts, and all ways are open."""
        self.stripe_count: Final = stripe_count(chunk_count)
        self._title_id = title_id
        self._voters = voters
        self._who = who if is_nominal else voters.counting(who)
        self._closed = NOTHING_CLOSED if is_nominal else voters.closed
        self._nominal = self
        if self._closed or self._who != who:
            self._nominal = _Elections(title_id, chunk_count, voters, who, is_nominal=True)
        self._won: dict[str | None, dict[int, str]] = {}

    def masters(self, region: str, isp: str) -> dict[int, str]:
        """Return which cache of an ISP is master of each stripe; nothing where none counts."""
        found = self._voters.group(region, isp)
        if found is None or not self._who & found.mask:
            return {}
        # Who serves this ISP alone is master where nobody else is: what others wait for must come to them.
        group = found.weights(self._who & found.outward or self._who)
        if self.stripe_count == 1 and not self._closed and not self._who & found.mask & self._voters.absent:
            return {0: _heaviest(group)}
        reaches = self._reaches(*self._nominal.leads(region, isp))
        masters = elect_stand_ins(self._title_id, reaches, group, self._voters.without)
        if self._closed:
            reaches = self._reaches(*self.leads(region, isp))
            present = {name: weight for name, weight in group.items() if name not in self._voters.without} or group
            for needed in _BEYOND:
                stripes = {stripe for stripe, this in reaches.items() if 1 + this == needed}
                unable = {name for name in present if needed in self._closed.get(name, ())}
                hand_on(self._title_id, masters, stripes, present, unable)
        return masters

    def leads(self, region: str, isp: str) -> tuple[set[int], set[int]]:
        """Return the stripes of which an ISP is the region's master, and those of which it is the world's."""
        found = self._voters.group(region, isp)
        if found is None or not self._who & found.mask:
            return set(), set()
        # Where nobody serves others each leads itself.
        everything = set(range(self.stripe_count))
        winners = self._winners(region)
        in_region = {stripe for stripe, name in winners.items() if name == isp} if winners else everything
        if not in_region:
            return in_region, in_region
        winners = self._winners(None)
        in_world = {stripe for stripe, name in winners.items() if name == region} if winners else everything
        return in_region, in_region & in_world

    def _winners(self, region: str | None) -> dict[int, str]:
        """Return which ISP of a region, or which region of the world (None), wins each stripe."""
        if region not in self._won:
            groups = self._voters.groups[region]
            weights = {name: group.total(self._who) for name, group in groups.items() if self._who & group.outward}
            if not weights:
                self._won[region] = {}
                return {}
            if self.stripe_count == 1 and not self._closed:
                winners = {0: _heaviest(weights)}
            else:
                names, owners = elect(self._title_id, range(self.stripe_count), weights)
                winners = {stripe: names[owner] for stripe, owner in enumerate(owners)}
            if self._closed:
                everything = set(range(self.stripe_count))
                to_world = everything
                if region is not None:
                    to_world = {stripe for stripe, name in self._winners(None).items() if name == region}
                for needed, stripes in ((Scope.ORIGIN, to_world), (Scope.WORLD, everything - to_world)):
                    way = self._who & self._voters.open[needed]
                    unable = {name for name in weights if not way & groups[name].outward}
                    hand_on(self._title_id, winners, stripes, weights, unable)
            self._won[region] = winners
        return self._won[region]

    def _reaches(self, in_region: set[int], in_world: set[int]) -> dict[int, int]:
        """Return how far whoever is master of each stripe has to go."""
        return {stripe: (stripe in in_region) + (stripe in in_world) for stripe in range(self.stripe_count)}


def _heaviest(group: Mapping[str, float]) -> str:
    """Return who is elected for a single stripe: who has the largest share is due it, whatever the scores."""
    most = max(group.values())
    return min(name for name, weight in group.items() if weight == most)


def reach(within: Mapping[Scope, Bitmap], chunk: int) -> Scope:
    """Return the farthest scope that `within` (see `Assignment.within`) allows for `chunk`."""
    for scope in (IN_ORIGIN, IN_WORLD, IN_REGION):
        if within[scope][chunk]:
            return scope
    return IN_ISP
