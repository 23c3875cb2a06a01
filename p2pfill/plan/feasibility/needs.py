"""What is missing tonight, counted as peer fill moves it: once into each group, and once into each cache. Pure.

A file that ten caches of an ISP lack crosses the ISP's border once; the other nine copies come from the first. So of
each group, that is of each ISP, of each region and of the fleet, the *distinct* bytes are counted that some cache in it
lacks and none in it holds. They are few: an ISP of ten caches may lack 26.8 TB and need 0.84 TB over its uplink.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from p2pfill.plan.feasibility.network import Bools, Network
from p2pfill.plan.tables import Floats, Ints, Longs, Placement


@dataclass(frozen=True, slots=True)
class Needs:
    """Files that caches are to get: a row for each cache and file."""

    cache: Ints
    file: Ints
    size: Longs
    """Of each file of the catalogue, in bytes."""
    in_isp: Bools
    """Of each row: whether another cache of the ISP holds the file already."""
    in_region: Bools
    in_world: Bools
    value: Floats | None = None
    """Of each row: what it is worth to have it, in whatever unit; None: its bytes."""

    @property
    def bytes(self) -> Longs:
        """Of each row."""
        return self.size[self.file]

    @property
    def worth(self) -> Floats:
        """Of each row."""
        return self.bytes.astype(np.float64) if self.value is None else self.value

    def only(self, rows: Bools) -> Needs:
        """Return it with some of its rows."""
        value = None if self.value is None else self.value[rows]
        return Needs(
            self.cache[rows], self.file[rows], self.size,
            self.in_isp[rows], self.in_region[rows], self.in_world[rows], value,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Demand:
    """What is missing, in bytes. Who knows no more than bytes leaves the rest at 0, which makes bounds weaker.

    `nested` has four rows, of each cache what has to come out of an origin, into its region, into its ISP, and into it.
    """

    nested: Longs
    alone: Longs
    """Of each cache: what must come into its ISP and no other cache of that ISP is to have."""
    isp: Longs
    """Of each ISP, what is to come into it: distinct bytes."""
    isp_alone: Longs
    """And that of it which no other ISP of its region needs or holds."""
    region: Longs
    region_alone: Longs
    world: Longs
    """Distinct bytes that no cache holds: a number for each class."""
    origins: Longs
    """Of each class, which origins have it: a bit for each."""

    @property
    def missing(self) -> Longs:
        """Of each cache: all that is to come into it."""
        missing: Longs = self.nested[3]
        return missing

    def within(self, network: Network, isps: Bools) -> Demand:
        """Return what is needed in some ISPs only, as if what is outside of their regions had no limits."""
        caches, regions = isps[network.isp], np.zeros(len(self.region), np.bool_)
        regions[network.caches.region[isps]] = True
        return replace(
            self, nested=self.nested * caches, alone=self.alone * caches, isp=self.isp * isps,
            isp_alone=self.isp_alone * isps, region=self.region * regions, region_alone=self.region_alone * regions,
        )  # fmt: skip


def demand_of_bytes(network: Network, missing: Longs, isp: Longs, region: Longs, world: int) -> Demand:
    """Return what is needed, where only bytes are known: missing ones of each cache, distinct ones of each group."""
    nothing = np.zeros_like(missing)
    everywhere = np.array([(1 << len(network.origins)) - 1], np.int64)
    return Demand(
        np.stack([nothing, nothing, nothing, missing]), nothing, isp, np.zeros_like(isp), region,
        np.zeros_like(region), np.array([world], np.int64), everywhere,
    )  # fmt: skip


def needs_of(network: Network, size: Longs, target: Placement, held: Placement, value: Floats | None = None) -> Needs:
    """Return what caches lack of a placement. `value` is of each entry of `target.files`.

    What is held tonight counts as held also where it is to go: until then it can be copied.
    """
    files = len(size)
    wanted = _owners(target).astype(np.int64) * files + target.files
    have = np.sort(_owners(held).astype(np.int64) * files + held.files)
    rows = ~_is_in(wanted, have)
    cache, file = _owners(target)[rows], target.files[rows]
    lacked = np.zeros(files, np.bool_)
    lacked[file] = True
    holds = lacked[held.files]
    holder, copy = _owners(held)[holds], held.files[holds].astype(np.int64)

    def is_held(group: Ints) -> Bools:
        return _is_in(group[cache].astype(np.int64) * files + file, np.unique(group[holder] * np.int64(files) + copy))

    in_world = is_held(np.zeros(len(network.spans), np.int32))
    return Needs(
        cache, file, size, is_held(network.isp), is_held(network.region), in_world,
        None if value is None else value[rows],
    )  # fmt: skip


def demand_of(network: Network, needs: Needs) -> Demand:
    """Return what is needed, of the files that are."""
    caches, isps, regions = len(network.spans), len(network.uplink), len(network.region_uplink)
    isp, region = network.isp[needs.cache], network.region[needs.cache]

    def of_caches(rows: Bools) -> Longs:
        return _sum(needs.cache[rows], needs.bytes[rows], caches)

    nested = np.stack(
        [of_caches(~found) for found in (needs.in_world, needs.in_region, needs.in_isp)]
        + [of_caches(np.ones(len(needs.cache), np.bool_))]
    )
    into_isp, isp_file, in_isp = _distinct(isp, needs, ~needs.in_isp)
    alone = _sharers(isp, needs, ~needs.in_isp, in_isp) == 1
    into_region, region_file, _ = _distinct(region, needs, ~needs.in_region)
    needy = _parents(network.caches.region[into_isp], isp_file, into_region, region_file, len(needs.size))
    into_world, world_file, _ = _distinct(np.zeros_like(region), needs, ~needs.in_world)
    needy_regions = _parents(np.zeros_like(into_region), region_file, into_world, world_file, len(needs.size))
    bits = np.zeros(len(world_file), np.int64)
    for number, origin in enumerate(network.origins):
        bits |= (1 if origin.files is None else origin.files[world_file].astype(np.int64)) << number
    classes, of_class = np.unique(bits, return_inverse=True)
    return Demand(
        nested, of_caches(alone),
        _sum(into_isp, needs.size[isp_file], isps), _sum(into_isp[needy == 1], needs.size[isp_file[needy == 1]], isps),
        _sum(into_region, needs.size[region_file], regions),
        _sum(into_region[needy_regions == 1], needs.size[region_file[needy_regions == 1]], regions),
        _sum(of_class, needs.size[world_file], len(classes)), classes,
    )  # fmt: skip


def _owners(placement: Placement) -> Ints:
    return np.repeat(np.arange(len(placement.start) - 1, dtype=np.int32), np.diff(placement.start))


def _is_in(keys: Longs, known: Longs) -> Bools:
    """Tell of each key whether it is among `known`, which are ascending."""
    if not len(known):
        return np.zeros(len(keys), np.bool_)
    found: Bools = known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys
    return found


def _sum(group: Ints | Longs, bytes_: Longs, groups: int) -> Longs:
    total = np.zeros(groups, np.int64)
    np.add.at(total, group, bytes_)
    return total


def _distinct(group: Ints, needs: Needs, rows: Bools) -> tuple[Longs, Longs, Longs]:
    """Return each group and file of some rows once, ascending by both, and their keys."""
    keys = np.unique(group[rows] * np.int64(len(needs.size)) + needs.file[rows])
    return keys // len(needs.size), keys % len(needs.size), keys


def _sharers(group: Ints, needs: Needs, rows: Bools, keys: Longs) -> Longs:
    """Return of each row how many of `rows` have its group and file; 0 where it is none of them."""
    count = np.zeros(len(rows), np.int64)
    if len(keys):
        place = np.searchsorted(keys, group[rows] * np.int64(len(needs.size)) + needs.file[rows])
        count[rows] = np.bincount(place, minlength=len(keys))[place]
    return count


def _parents(parent: Ints | Longs, file: Longs, groups: Longs, files: Longs, count: int) -> Longs:
    """Return of each entry of small groups how many entries have its file in its larger group.

    0 where the larger group does not lack it: `groups` and `files` are those that do.
    """
    keys, lacking = parent.astype(np.int64) * count + file, groups.astype(np.int64) * count + files
    _, place, number = np.unique(keys, return_inverse=True, return_counts=True)
    found: Longs = np.where(_is_in(keys, lacking), number[place], 0)
    return found
