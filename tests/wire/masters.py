"""The elections once more, written from docs/protocol.md, section 8, with whole numbers, doubles and two hashes.

Nothing of p2pfill is used. Plain and slow: each step of the page is one function, in the page's order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

U64 = (1 << 64) - 1
STRIPES_MAX = 1024
REGION, WORLD, ORIGIN = 1, 2, 3


class Member(NamedTuple):
    """One cache that takes part; `closed` are the places that it cannot take chunks from: REGION, WORLD, ORIGIN."""

    name: str
    isp: str
    region: str
    weight: float = 1.0
    closed: frozenset[int] = frozenset()


def stripe_count(chunk_count: int) -> int:
    if not chunk_count:
        return 0
    chunks_a_lot = -(-chunk_count // STRIPES_MAX)
    return -(-chunk_count // chunks_a_lot)


# ---- scores


def mix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & U64
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & U64
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & U64
    return value ^ value >> 31


def logarithm(x: float) -> float:
    m, e = math.frexp(x)
    if m < 0.7071067811865476:
        m, e = m * 2.0, e - 1
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    t = 1.0 / 17.0
    for divisor in (15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):
        t = t * z + 1.0 / divisor
    return (2.0 * s) * t + e * 0.6931471805599453


def seed(title_id: bytes, name: str) -> int:
    digest = hashlib.blake2b(name.encode(), key=title_id, digest_size=8).digest()
    return int.from_bytes(digest, "little")


def score(seeded: int, weight: float, mixed: int) -> float:
    u = ((mix(seeded ^ mixed) >> 12) + 0.5) / 2.0**52
    return -logarithm(u) / weight


# ---- one election


def quotas(count: int, weights: Sequence[float]) -> list[int]:
    exact = [Fraction(weight) for weight in weights]
    shares = [weight * count / sum(exact) for weight in exact]
    parts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda place: (parts[place] - shares[place], place))
    for place in by_remainder[: count - sum(parts)]:
        parts[place] += 1
    return parts


def elect(title_id: bytes, stripes: Sequence[int], group: Mapping[str, float], first: int = 0) -> dict[int, str]:
    names = sorted(group, key=str.encode)
    names = names[first:] + names[:first]
    left = dict(zip(names, quotas(len(stripes), [group[name] for name in names]), strict=True))
    seeds = {name: seed(title_id, name) for name in names}
    won = {}
    for stripe in stripes:
        mixed = mix(stripe)
        able = [name for name in names if left[name]]
        won[stripe] = min(able, key=lambda name: score(seeds[name], group[name], mixed))
        left[won[stripe]] -= 1
    return won


def hand_on(
    title_id: bytes,
    won: dict[int, str],
    stripes: Collection[int],
    group: Mapping[str, float],
    unable: Collection[str],
) -> None:
    able = {name: weight for name, weight in group.items() if name not in unable}
    if able:
        for name in sorted(unable, key=str.encode):
            won.update(elect(title_id, [stripe for stripe in won if won[stripe] == name and stripe in stripes], able))


def elect_caches(title_id: bytes, reaches: Mapping[int, int], group: Mapping[str, float]) -> dict[int, str]:
    won: dict[int, str] = {}
    for number, reach in enumerate(sorted(set(reaches.values()))):
        stripes = [stripe for stripe in reaches if reaches[stripe] == reach]
        won.update(elect(title_id, stripes, group, number * len(group) // 4))
    return won


# ---- the three levels


def total(members: Collection[Member]) -> float:
    return float(sum((Fraction(member.weight) for member in members), Fraction()))


class Fleet:
    """The masters of one title; `excluded` are the caches that whoever holds this election does without."""

    def __init__(
        self, title_id: bytes, chunk_count: int, members: Collection[Member], excluded: Collection[str] = ()
    ) -> None:
        self.title_id = title_id
        self.chunk_count = chunk_count
        self.stripes = range(stripe_count(chunk_count))
        self.excluded = excluded
        self.all = [member for member in members if member.weight]
        present = {(m.region, m.isp) for m in self.all if m.name not in excluded}
        self.members = [m for m in self.all if (m.region, m.isp) in present]
        self.masters: dict[tuple[str, str], dict[int, str]] = {}
        self.region_of, self.isp_of = self.lead(self.members, open_only=True)
        self.by_right = self.lead(self.all, open_only=False)

    def lead(self, members: Collection[Member], *, open_only: bool) -> tuple[dict[int, str], dict[str, dict[int, str]]]:
        """Which region leads for each stripe, and in each region which ISP."""

        def unable(place: int, groups: Mapping[str, Collection[Member]]) -> list[str]:
            if not open_only:
                return []
            return [
                name
                for name, group in groups.items()
                if all(place in m.closed for m in group if m.name not in self.excluded)
            ]

        regions = by(members, lambda m: m.region)
        weights = {name: total(group) for name, group in regions.items()}
        region_of = elect(self.title_id, self.stripes, weights) if regions else {}
        hand_on(self.title_id, region_of, self.stripes, weights, unable(ORIGIN, regions))
        isp_of = {}
        for region, inside in regions.items():
            isps = by(inside, lambda m: m.isp)
            weights = {name: total(group) for name, group in isps.items()}
            won = isp_of[region] = elect(self.title_id, self.stripes, weights)
            to_origin = {stripe for stripe in self.stripes if region_of[stripe] == region}
            hand_on(self.title_id, won, to_origin, weights, unable(ORIGIN, isps))
            hand_on(self.title_id, won, set(self.stripes) - to_origin, weights, unable(WORLD, isps))
        return region_of, isp_of

    def reach(self, region: str, isp: str, stripe: int, *, by_right: bool = False) -> int:
        region_of, isp_of = self.by_right if by_right else (self.region_of, self.isp_of)
        if isp_of[region][stripe] != isp:
            return REGION
        return ORIGIN if region_of[stripe] == region else WORLD

    def caches(self, region: str, isp: str) -> dict[int, str]:
        """Stripe -> its master in an ISP."""
        if (region, isp) not in self.masters:
            self.masters[region, isp] = self.elect_inside(region, isp)
        return self.masters[region, isp]

    def elect_inside(self, region: str, isp: str) -> dict[int, str]:
        inside = [m for m in self.members if (m.region, m.isp) == (region, isp)]
        if not inside:
            return {}
        group = {m.name: m.weight for m in inside}
        reaches = {stripe: self.reach(region, isp, stripe, by_right=True) for stripe in self.stripes}
        won = elect_caches(self.title_id, reaches, group)
        left = dict(group)
        for name in sorted(group, key=str.encode):
            if name in self.excluded:
                del left[name]
                own = {stripe: reaches[stripe] for stripe in won if won[stripe] == name}
                won.update(elect_caches(self.title_id, own, left))
        for place in (REGION, WORLD, ORIGIN):
            stripes = {stripe for stripe in self.stripes if self.reach(region, isp, stripe) == place}
            unable = [m.name for m in inside if m.name in left and place in m.closed]
            hand_on(self.title_id, won, stripes, left, unable)
        return won

    def may_go(self, member: Member) -> dict[int, set[int]]:
        """REGION, WORLD and ORIGIN -> the chunks that a cache may take from there."""
        found: dict[int, set[int]] = {REGION: set(), WORLD: set(), ORIGIN: set()}
        for stripe, name in self.caches(member.region, member.isp).items():
            if name == member.name:
                for place in range(REGION, self.reach(member.region, member.isp, stripe) + 1):
                    found[place].update(range(stripe, self.chunk_count, len(self.stripes)))
        return found


def by(members: Collection[Member], key: object) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member)  # type: ignore[operator]
    return groups
