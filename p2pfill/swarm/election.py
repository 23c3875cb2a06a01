"""Who fetches which chunk across which border.

Every cache that wants a title stands in three nested groups: its ISP, its region, the world. For each chunk (for each
stripe of chunks, where there are very many) each group elects one fill master: the world elects a region, that region
an ISP, that ISP a cache. So the cache that may fetch a chunk from the origin is also its ISP's master for it, each
border is crossed once, and each chunk has its own tree.

Within a group the choice is weighted rendezvous hashing held to exact quotas (`hot.bits.assign`): plain rendezvous
hashing leaves some masters with a third more work than others, and a fill ends when the last one does. Everyone
computes the same masters from the same roster, and a change of it moves little more than the share of who came or went.
A central per-chunk plan was rejected: it would put the tracker into the data path.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from p2pfill.hot import bits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo

STRIPES_MAX: Final = 1024
"""Masters are elected for stripes, not for chunks, where a title has more chunks than this: an election costs stripes x
members, and whoever are masters of one stripe in their ISPs are linked with each other (`swarm.borders`). In an ISP of
a hundred caches some then do a tenth more than others at the border, which is a hundredth of the title."""


class Scope(IntEnum):
    """How far out a cache may go for a chunk."""

    ISP = 0
    REGION = 1
    WORLD = 2
    """Caches of other regions."""
    ORIGIN = 3


SCOPES: Final = tuple(Scope)
"""From near to far. Going through the enumeration itself makes a list of it each time."""


def scope_between(one: NodeInfo, other: NodeInfo) -> Scope:
    """Return the smallest group that holds both caches: how far apart they are."""
    if one.region != other.region:
        return Scope.WORLD
    return Scope.ISP if one.isp == other.isp else Scope.REGION


_BEYOND: Final = (Scope.REGION, Scope.WORLD, Scope.ORIGIN)

_BITS: Final = [bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256)]
"""The bits of a byte, lowest first, each as a byte."""

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
        names, owners = elect(title_id, stripes, group, number * len(group) // len(Scope))
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


def _seed(title_id: TitleId, name: str) -> int:
    # Keyed by the title, so that a cache is not the master of the same positions in every title.
    return int.from_bytes(hashlib.blake2b(name.encode(), key=title_id, digest_size=8).digest(), "little")


def cut_by_wants(
    chunk_count: int, members: Iterable[NodeInfo], wants: Wants
) -> list[tuple[Sequence[int], list[NodeInfo]]]:
    """Cut a title into the fewest sets of chunks such that whoever wants a chunk of a set wants all of it.

    Returns each with those who want it, in the order of their first chunks. What nobody wants is in none.
    """
    members = list(members)
    if not any(node.id in wants for node in members):
        return [(range(chunk_count), members)]
    groups: dict[bytes, list[NodeInfo]] = {}
    full = Bitmap.full(chunk_count)
    for node in members:
        groups.setdefault(wants.get(node.id, full).to_bytes(), []).append(node)
    # A row for each group with a byte for each chunk, woven so that those of one chunk lie together: where each of some
    # hundred caches wants files of its own, cutting set by set takes minutes.
    width = len(groups)
    woven = bytearray(width * chunk_count)
    for number, row in enumerate(groups):
        woven[number::width] = b"".join(map(_BITS.__getitem__, row))[:chunk_count]
    found: dict[bytes, list[int]] = {}
    for chunk in range(chunk_count):
        found.setdefault(bytes(woven[chunk * width : (chunk + 1) * width]), []).append(chunk)
    found.pop(bytes(width), None)
    nodes_of = list(groups.values())
    return [
        (chunks, [node for number, nodes in enumerate(nodes_of) if who[number] for node in nodes])
        for who, chunks in found.items()
    ]


class Assignment:
    """For which chunks each member of a roster is master, and how far it may go for them.

    `members` are the caches that take part, `without` those whom their ISP must do without, and `closed` what each
    cannot reach (`_Elections`). Of each chunk those are elected who want it: `wants` names the chunks of whoever wants
    a part of the title only. Chunks that the same caches want are shared out together, by themselves.
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
        self._chunk_count = chunk_count
        self._parts = [
            ({node.id for node in nodes}, _Elections(title_id, chunks, chunk_count, nodes, without, closed))
            for chunks, nodes in cut_by_wants(chunk_count, members, wants)
        ]
        self._within: dict[str, dict[Scope, Bitmap]] = {}
        """Worked out before, where there are several parts."""

    def within(self, node: NodeInfo) -> dict[Scope, Bitmap]:
        """Return, per scope beyond the ISP, the chunks for which `node` may go that far. Not to be changed."""
        if len(self._parts) == 1:
            return self._parts[0][1].within(node)
        if node.id not in self._within:
            total = {scope: Bitmap(self._chunk_count) for scope in _BEYOND}
            for names, elections in self._parts:
                if node.id in names:
                    total = {scope: total[scope] | chunks for scope, chunks in elections.within(node).items()}
            self._within[node.id] = total
        return self._within[node.id]

    def firsts(self) -> list[int]:
        """Return the first chunk of each set that is shared out by itself."""
        return [elections.first for _, elections in self._parts]


class _Elections:
    """For which of some chunks, all of which the same caches want, each of them is master.

    `members` are the caches that take part, but for those `without` whom their ISP must do: their weight stays with it
    as long as it has anyone else. So whom a cache does without changes nothing between ISPs, where others, who may
    not do without the same ones, would elect otherwise and each side wait for the other. Nor does it change how an
    ISP shares out its stripes but for theirs: the loss of a whole other ISP would, if that went by what is left.

    So it is with caches whose own ways are `closed` (name -> scopes that they cannot take chunks from): each hands on
    only the stripes for which it would have to go there, and so does an ISP, or a region, in which all are so. Where a
    way is closed for everybody nobody hands on anything.

    Members of the weight 0 count for nothing.

    Group elections are worked out when first asked for and kept: the answer for one cache needs three of them (its
    ISP's, its region's, the world's).
    """

    def __init__(
        self,
        title_id: TitleId,
        chunks: Sequence[int],
        chunk_count: int,
        members: Iterable[NodeInfo],
        without: Container[str] = (),
        closed: Closed = NOTHING_CLOSED,
    ) -> None:
        """`chunks` are those elected for, ascending; the title has `chunk_count`."""
        self.first: Final = chunks[0] if chunks else 0
        self._title_id = title_id
        self._chunks = chunks
        self._chunk_count = chunk_count
        self._stripes = stripe_count(len(chunks))
        self._isps: dict[str, dict[str, float]] = defaultdict(dict)
        self._caches: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        self._without = without
        nodes = [node for node in {node.id: node for node in members}.values() if node.weight]
        present = {(node.region, node.isp) for node in nodes if node.id not in without}
        for node in nodes:
            if (node.region, node.isp) in present:
                self._caches[node.region, node.isp][node.id] = node.weight
        weights: dict[str, list[float]] = defaultdict(list)
        for (region, isp), group in self._caches.items():
            # Rounded once: each cache has its members in another order, and sums of floats depend on that.
            self._isps[region][isp] = math.fsum(group.values())
            weights[region] += group.values()
        self._regions = {region: math.fsum(parts) for region, parts in weights.items()}
        is_whole = not closed and all((node.region, node.isp) in present for node in nodes)
        self._nominal = self if is_whole else _Elections(title_id, chunks, chunk_count, nodes)
        """With those of ISPs that are gone altogether, and all ways open."""
        self._closed = closed
        self._open: dict[tuple[str, ...], set[Scope]] = defaultdict(set)
        """ISP or region -> the scopes that somebody there can take chunks from; worked out where any is closed."""
        if closed:
            for node in nodes:
                if node.id not in without:
                    ways = set(_BEYOND).difference(closed.get(node.id, ()))
                    self._open[node.region, node.isp] |= ways
                    self._open[node.region,] |= ways
        self._won: dict[tuple[str, ...], Bitmap] = {}

    def within(self, node: NodeInfo) -> dict[Scope, Bitmap]:
        """Return, per scope beyond the ISP, the chunks for which `node` may go that far."""
        mine = self._share(node.region, node.isp, node.id)
        leads_region, leads_world = self._leads(node.region, node.isp)
        return {Scope.REGION: mine, Scope.WORLD: mine & leads_region, Scope.ORIGIN: mine & leads_world}

    def _leads(self, region: str, isp: str) -> tuple[Bitmap, Bitmap]:
        """Return the chunks of which an ISP is the region's master, and those of which it is the world's."""
        leads = self._stripe((region, isp), self._isps[region])
        return leads, leads & self._stripe((region,), self._regions)

    def _share(self, region: str, isp: str, cache: str) -> Bitmap:
        """Return the chunks of which a cache is master in its ISP."""
        group = self._caches[region, isp]
        if group and (region, isp, next(iter(group))) not in self._won:
            leads_region, leads_world = self._nominal._leads(region, isp)
            reaches = {stripe: leads_region[stripe] + leads_world[stripe] for stripe in range(self._stripes)}
            masters = elect_stand_ins(self._title_id, reaches, group, self._without)
            if self._closed:
                leads_region, leads_world = self._leads(region, isp)
                present = {name: weight for name, weight in group.items() if name not in self._without} or group
                for needed in _BEYOND:
                    stripes = {
                        stripe
                        for stripe in range(self._stripes)
                        if 1 + leads_region[stripe] + leads_world[stripe] == needed
                    }
                    unable = {name for name in present if needed in self._closed.get(name, ())}
                    hand_on(self._title_id, masters, stripes, present, unable)
            self._keep((region, isp), group, masters)
        return self._won.get((region, isp, cache)) or Bitmap(self._chunk_count)

    def _stripe(self, path: tuple[str, ...], group: Mapping[str, float]) -> Bitmap:
        """Return the chunks that the last name of `path` has won in `group`."""
        if path not in self._won:
            if path[-1] not in group:
                return Bitmap(self._chunk_count)
            names, owners = elect(self._title_id, range(self._stripes), group)
            winners = {stripe: names[owner] for stripe, owner in enumerate(owners)}
            if self._closed:
                to_world = self._world_lots(path[:-1])
                for needed, stripes in ((Scope.ORIGIN, to_world), (Scope.WORLD, set(range(self._stripes)) - to_world)):
                    unable = {name for name in group if needed not in self._open[*path[:-1], name]}
                    hand_on(self._title_id, winners, stripes, group, unable)
            self._keep(path[:-1], group, winners)
        return self._won[path]

    def _world_lots(self, path: tuple[str, ...]) -> set[int]:
        """Return the stripes for which whoever wins among those below `path` has to go to an origin."""
        if not path:
            return set(range(self._stripes))
        won = self._stripe(path, self._regions)
        return {stripe for stripe in range(self._stripes) if won[stripe]}

    def _keep(self, path: tuple[str, ...], group: Mapping[str, float], masters: Mapping[int, str]) -> None:
        won = {name: Bitmap(self._chunk_count) for name in group}
        for stripe, name in masters.items():
            won[name].add_all(self._chunks[stripe :: self._stripes])
        self._won.update({(*path, name): share for name, share in won.items()})


def reach(within: Mapping[Scope, Bitmap], chunk: int) -> Scope:
    """Return the farthest scope that `within` (see `Assignment.within`) allows for `chunk`."""
    for scope in (Scope.ORIGIN, Scope.WORLD, Scope.REGION):
        if within[scope][chunk]:
            return scope
    return Scope.ISP
