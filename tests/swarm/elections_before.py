"""The elections of a title as they were written first: every part at once, in whole bitmaps.

What `p2pfill.swarm.election` elects is held against it, each part as a title of its own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.election import (
    _BEYOND,
    ALL_WANTED,
    NOTHING_CLOSED,
    Closed,
    Scope,
    Wants,
    elect,
    elect_stand_ins,
    hand_on,
    stripe_count,
)

_BITS = [bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256)]


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
        self.first = chunks[0] if chunks else 0
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
