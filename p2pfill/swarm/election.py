"""Who fetches which chunk across which border.

Every cache that wants a title stands in three nested groups: its ISP, its region, the world. For each chunk each group
elects one fill master: the world elects a region, that region an ISP, that ISP a cache. So the cache that may fetch a
chunk from the origin is also its ISP's master for it, each border is crossed once, and each chunk has its own tree.

Within a group the choice is weighted rendezvous hashing held to exact quotas (`hot.bits.assign`): plain rendezvous
hashing leaves some masters with a third more work than others, and a fill ends when the last one does. Everyone
computes the same masters from the same roster, and a change of it moves little more than the share of who came or went.
A central per-chunk plan was rejected: it would put the tracker into the data path.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from enum import IntEnum

from p2pfill.hot import bits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo


class Scope(IntEnum):
    """How far out a cache may go for a chunk."""

    ISP = 0
    REGION = 1
    WORLD = 2
    """Caches of other regions."""
    ORIGIN = 3


def elect(title_id: TitleId, chunk_count: int, group: Mapping[str, float]) -> tuple[list[str], array[int]]:
    """Elect one of `group` (name -> weight above 0) as master of each of `chunk_count` chunks.

    Returns the names in order and, per chunk, the master's place among them. Shares follow the weights to within
    one chunk.
    """
    names = sorted(group)
    owners = bits.assign(chunk_count, [_seed(title_id, name) for name in names], [group[name] for name in names])
    return names, owners


def rank(title_id: TitleId, chunk: int, group: Mapping[str, float]) -> list[str]:
    """Return `group` in the order in which its members stand in for a lost master of `chunk`."""
    names = sorted(group)
    order = bits.rank(chunk, [_seed(title_id, name) for name in names], [group[name] for name in names])
    return [names[place] for place in order]


def _seed(title_id: TitleId, name: str) -> int:
    # Keyed by the title, so that a cache is not the master of the same positions in every title.
    return int.from_bytes(hashlib.blake2b(name.encode(), key=title_id, digest_size=8).digest(), "little")


class Duties:
    """The chunks for which one cache is master, as a bitmap per scope that it may reach for them."""

    def __init__(self, title_id: TitleId, chunk_count: int, me: NodeInfo, members: Iterable[NodeInfo]) -> None:
        """`members` are the caches that want the title and are not known dead; `me` counts as one of them."""
        caches: dict[str, float] = {me.id: me.weight}
        isps: dict[str, float] = defaultdict(float)
        regions: dict[str, float] = defaultdict(float)
        for node in {node.id: node for node in (*members, me)}.values():
            regions[node.region] += node.weight
            if node.region == me.region:
                isps[node.isp] += node.weight
                if node.isp == me.isp:
                    caches[node.id] = node.weight
        mine = _won(title_id, chunk_count, caches, me.id)
        leads_region = mine & _won(title_id, chunk_count, isps, me.isp)
        leads_world = leads_region & _won(title_id, chunk_count, regions, me.region)
        self.within = {Scope.REGION: mine, Scope.WORLD: leads_region, Scope.ORIGIN: leads_world}

    def reach(self, chunk: int) -> Scope:
        """Return how far this cache may go for `chunk` by right of election."""
        for scope in (Scope.ORIGIN, Scope.WORLD, Scope.REGION):
            if self.within[scope][chunk]:
                return scope
        return Scope.ISP


def _won(title_id: TitleId, chunk_count: int, group: Mapping[str, float], name: str) -> Bitmap:
    if len(group) == 1:
        return Bitmap.full(chunk_count)
    names, owners = elect(title_id, chunk_count, group)
    place = names.index(name)
    won = Bitmap(chunk_count)
    for chunk, owner in enumerate(owners):
        if owner == place:
            won.add(chunk)
    return won
