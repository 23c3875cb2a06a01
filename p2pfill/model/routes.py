"""What a byte from one cache to another costs: configuration, addresses and distance, each with its weight. Pure.

    cost = configured + as_hop * AS hops + local_preference * (100 - LOCAL_PREF) + med * MED + km * kilometres

A cost orders sources inside a tier and never across: tiers are a rule (`tracker.ranking`, `swarm.fill`), since a sum
that trades distance for a border leaks traffic over it.

AS hops are counted over a table as one router sees it: from the receiver up its AS path to the last network that both
paths share, and down to the source. Seen from a router of the receiver's own network that is the length of the path
to the source. A route through that router always exists, so the figure is no less than the truth, and caches behind the
same path have none. Trees of relations between networks were turned down: they need data that few operators have.

What is not known never makes a source the cheapest: an address without a prefix counts as `UNKNOWN_HOPS`, a place that
is not known as half way round the Earth. What is known of no source at all, since there is no table or the receiver
has no place, counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.node import NodeInfo
from p2pfill.model.selector import Selector

LOCAL_PREFERENCE: Final = 100
"""Of a route that has none: what routers give where they are told nothing."""

UNKNOWN_HOPS: Final = 16
"""Networks between two caches where the table has no prefix for the source: more than nearly all AS paths have."""

EARTH_KM: Final = 6371.0088
"""The mean radius of the Earth, of the International Union of Geodesy and Geophysics."""

FARTHEST_KM: Final = math.pi * EARTH_KM
"""Half way round: nothing is farther."""

PAIRS_MAX: Final = 1000
"""Each is compared with the caches of a pair one after the other."""

TABLES_MAX: Final = 64
"""A table for each router of a large network; one of the whole Internet takes some hundred megabytes."""

COST_MAX: Final = 1e9
"""Of a weight or a configured cost: more is a unit mixed up."""

MEASURED_MAX: Final = 1 << 16
"""Pairs of caches whose costs are remembered: those of a thousand rosters, in some dozen megabytes."""

Kind = Literal["configured", "as_hops", "local_preference", "med", "distance"]


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a unit of each part counts for. With these, a network between two caches is worth 1,000 km."""

    configured: float = 1.0
    as_hop: float = 1.0
    local_preference: float = 0.01
    """For each point below 100; what is above counts less than nothing."""
    med: float = 0.0
    """Networks mean different things by it, so it counts where somebody says what for."""
    km: float = 0.001


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configured cost from caches of one selector to those of another, in this direction."""

    cost: float
    receiver: str = "all"
    source: str = "all"


class TableFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file with a BGP table, and the caches from which the network looks as it says."""

    file: str
    seen_from: str = "all"


class RouteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file of `p2pfill tracker --routes` says. Of pairs and tables the first that fits counts."""

    weights: Weights = Weights()
    pair: list[Pair] = []
    table: list[TableFile] = []


class Route(msgspec.Struct, frozen=True, gc=False):
    """How a router reaches a prefix. In no cycles of objects, and a million of them are not looked through for any."""

    as_path: tuple[str, ...]
    """AS numbers, the nearest first; a set of them is one, as `{64500,64501}`."""
    local_preference: int | None = None
    med: int | None = None

    def is_better_than(self, other: Route) -> bool:
        """Tell whether a router prefers it, as far as these three decide (RFC 4271, 9.1.2.2)."""
        return self._key() < other._key()

    def _key(self) -> tuple[int, int, int]:
        preference = LOCAL_PREFERENCE if self.local_preference is None else self.local_preference
        return -preference, len(self.as_path), self.med or 0


class Match(NamedTuple):
    """The longest prefix of a table that an address is in."""

    prefix: str
    route: Route


class RouteTable(Protocol):
    """A BGP table."""

    @property
    def name(self) -> str:
        """What people call it."""

    def find(self, address: str) -> Match | None:
        """Return the longest prefix for an address; None where there is none, or `address` is no address."""


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One end of a route as it was looked up. Lists are empty, and figures None, where nothing was found."""

    id: str
    """Of the cache; empty for an address alone."""
    address: str
    prefix: str = ""
    as_path: list[str] = []
    local_preference: int | None = None
    med: int | None = None
    latitude: float | None = None
    longitude: float | None = None


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One summand of a cost: `value` times `weight`."""

    kind: Kind
    value: float
    """Of `local_preference` it is by how much that is below 100; of `distance`, kilometres."""
    weight: float
    cost: float
    why: str


class RouteCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a byte from `source` to `receiver` costs, and why."""

    receiver: Side
    source: Side
    table: str
    """In which both were looked up; empty where none is seen from the receiver."""
    parts: list[Part]
    cost: float


class _Measured(NamedTuple):
    """What is known between two caches; None: nothing, and that counts nothing."""

    configured: float
    pair: int | None
    """Which of the configured pairs."""
    hops: int | None
    below: int
    """By how much the local preference is below 100."""
    med: int
    km: float | None
    ends: tuple[Match | None, Match | None]


class Routes:
    """Costs of routes. `tables` come in the order in which they are asked."""

    def __init__(self, config: RouteConfig, tables: Sequence[RouteTable]) -> None:
        """`tables` are those of `config.table`. Raises `ConfigError` where the configuration makes no sense."""
        self.weights = check_weights(config.weights)
        if len(config.pair) > PAIRS_MAX or len(config.table) > TABLES_MAX:
            raise ConfigError(f"routes: at most {PAIRS_MAX} pairs and {TABLES_MAX} tables")
        self._pairs = [(pair, Selector.parse(pair.receiver), Selector.parse(pair.source)) for pair in config.pair]
        for pair in config.pair:
            if not 0 <= pair.cost <= COST_MAX:
                raise ConfigError(f"routes: the cost from {pair.source} to {pair.receiver} is not in 0..{COST_MAX:g}")
        self.tables = [
            (Selector.parse(file.seen_from), table) for file, table in zip(config.table, tables, strict=True)
        ]
        self._measure = lru_cache(MEASURED_MAX)(self._look)

    @property
    def pair_count(self) -> int:
        """How many pairs are configured."""
        return len(self._pairs)

    def cost(self, receiver: NodeInfo, source: NodeInfo) -> float:
        """Return what a byte from `source` to `receiver` costs."""
        return sum(value * weight for _, value, weight in self._values(self._measure(receiver, source)))

    def explain(self, receiver: NodeInfo, source: NodeInfo) -> RouteCost:
        """Return the same, each part with its reason. An address that is of no cache has an empty id."""
        found = self._measure(receiver, source)
        table = self.table_of(receiver)
        name = "" if table is None else table.name
        whys: dict[Kind, str] = {
            "configured": self._why_configured(found),
            "as_hops": _why_hops(found, name),
            "local_preference": "of the route to the source" if found.ends[1] else "no route to the source is known",
            "med": "of the route to the source" if found.ends[1] else "no route to the source is known",
            "distance": _why_distance(receiver, source),
        }
        parts = [
            Part(kind, value, weight, value * weight, whys[kind]) for kind, value, weight in self._values(found)
        ]
        return RouteCost(
            _side(receiver, found.ends[0]), _side(source, found.ends[1]), name, parts, sum(part.cost for part in parts)
        )

    def table_of(self, receiver: NodeInfo) -> RouteTable | None:
        """Return the table that is seen from a cache."""
        return next((table for selector, table in self.tables if selector.matches(receiver)), None)

    def _look(self, receiver: NodeInfo, source: NodeInfo) -> _Measured:
        pair = next((number for number, one in enumerate(self._pairs) if _fits(one, receiver, source)), None)
        table = self.table_of(receiver)
        ends = (None, None) if table is None else (table.find(receiver.host), table.find(source.host))
        route = None if ends[1] is None else ends[1].route
        preference = LOCAL_PREFERENCE if route is None or route.local_preference is None else route.local_preference
        return _Measured(
            0.0 if pair is None else self._pairs[pair][0].cost,
            pair,
            None if table is None else hops_between(ends[0] and ends[0].route, route),
            LOCAL_PREFERENCE - preference,
            0 if route is None or route.med is None else route.med,
            _distance(receiver, source),
            ends,
        )

    def _values(self, found: _Measured) -> tuple[tuple[Kind, float, float], ...]:
        weights = self.weights
        return (
            ("configured", found.configured, weights.configured),
            ("as_hops", found.hops or 0, weights.as_hop),
            ("local_preference", found.below, weights.local_preference),
            ("med", found.med, weights.med),
            ("distance", found.km or 0.0, weights.km),
        )

    def _why_configured(self, found: _Measured) -> str:
        if found.pair is None:
            return "no pair of the configuration fits" if self._pairs else "no pairs are configured"
        pair = self._pairs[found.pair][0]
        return f"pair {found.pair + 1}: to {pair.receiver} from {pair.source}"


def check_weights(weights: Weights) -> Weights:
    """Return `weights`. Raises `ConfigError` where one is negative, or no number."""
    for name in weights.__struct_fields__:
        if not 0 <= getattr(weights, name) <= COST_MAX:
            raise ConfigError(f"routes: weights.{name} is not in 0..{COST_MAX:g}")
    return weights


def hops_between(receiver: Route | None, source: Route | None) -> int:
    """Return how many networks lie between two routes of one table; a receiver without one is where the router is."""
    if source is None:
        return UNKNOWN_HOPS
    ours = () if receiver is None else receiver.as_path
    shared = 0
    for mine, theirs in zip(ours, source.as_path, strict=False):
        if mine != theirs:
            break
        shared += 1
    return len(ours) + len(source.as_path) - 2 * shared


def distance_km(here: tuple[float, float], there: tuple[float, float]) -> float:
    """Return the great-circle distance between two places in degrees of latitude and longitude.

    By the haversine formula, which keeps its digits for small distances: R. W. Sinnott, "Virtues of the Haversine", Sky
    and Telescope 68 (1984), 159.
    """
    (south, west), (north, east) = here, there
    one, other = math.radians(south), math.radians(north)
    half = math.sin((other - one) / 2) ** 2 + math.cos(one) * math.cos(other) * (
        math.sin(math.radians(east - west) / 2) ** 2
    )
    return 2 * EARTH_KM * math.asin(math.sqrt(min(1.0, half)))


def _fits(one: tuple[Pair, Selector, Selector], receiver: NodeInfo, source: NodeInfo) -> bool:
    # An address alone has no labels, so no selector means it, `all` neither.
    return bool(receiver.id and source.id) and one[1].matches(receiver) and one[2].matches(source)


def _distance(receiver: NodeInfo, source: NodeInfo) -> float | None:
    if receiver.place is None or not source.id:
        return None
    return FARTHEST_KM if source.place is None else distance_km(receiver.place, source.place)


def _side(info: NodeInfo, match: Match | None) -> Side:
    route = Route(()) if match is None else match.route
    return Side(
        info.id, info.host, "" if match is None else match.prefix, list(route.as_path), route.local_preference,
        route.med, info.latitude, info.longitude,
    )  # fmt: skip


def _why_hops(found: _Measured, table: str) -> str:
    if not table:
        return "no table is seen from the receiver"
    if found.ends[1] is None:
        return f"{table} has no prefix for the source's address, which counts as {UNKNOWN_HOPS}"
    if found.ends[0] is None:
        return f"the path to the source in {table}, which has no prefix for the receiver's address"
    return f"between the two in {table}"


def _why_distance(receiver: NodeInfo, source: NodeInfo) -> str:
    if receiver.place is None:
        return "the receiver has no latitude and longitude"
    if not source.id:
        return "an address alone has no place"
    return "the source has no place: it counts as the farthest" if source.place is None else "great circle"
