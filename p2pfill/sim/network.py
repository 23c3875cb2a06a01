"""The network between caches and origin: which pipes a transfer passes, how long a message takes, what is cut off.

A transfer passes the sender's link, the uplinks of both ISPs where it leaves one, and the receiver's link. An uplink
without a limit is no pipe at all: it would only cost time. Bytes that leave the origin or enter an ISP are counted when
a transfer ends, whether the receiver has a use for them or not: they have crossed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from p2pfill.model.fleet_policy import NO_POLICY, FleetPolicy, settings_for
from p2pfill.model.node import NodeInfo
from p2pfill.model.rates import NO_LIMITS, TIERS, RateLimits
from p2pfill.sim.flows import FULL, ExactNetwork, LocalNetwork, Network, Pipe
from p2pfill.sim.hours import all_limits, base_limits
from p2pfill.sim.scenario import UNLIMITED_BYTES_S, Scenario
from p2pfill.sim.schedule import Schedule
from p2pfill.swarm.election import Scope

TierName = tuple[str, str]
"""`inbound` or `outbound`, and a tier."""


class Place:
    """Where a host stands, with its two pipes."""

    __slots__ = (
        "down", "down_pace", "down_rate", "isp", "limits", "name", "region", "tiers", "up", "up_pace", "up_rate",
    )  # fmt: skip

    def __init__(
        self, name: str, isp: str, region: str, down_rate: float, up_rate: float, tiers: Iterable[TierName] = ()
    ) -> None:
        """`tiers` are those that may have limits of their own."""
        self.name = name
        self.isp = isp
        self.region = region
        self.down_rate = down_rate
        self.up_rate = up_rate
        """What its link was built for, in bytes per second; `Internet.set_pace` may slow it down."""
        self.up = Pipe(f"{name} up", up_rate)
        self.down = Pipe(f"{name} down", down_rate)
        self.up_pace = self.down_pace = 1.0
        """What part of that it carries now."""
        self.limits = NO_LIMITS
        """What the cache keeps to."""
        self.tiers = {tier: Pipe(f"{name} {tier[0]} {tier[1]}", UNLIMITED_BYTES_S) for tier in tiers}


    def is_held_back(self, scope: Scope) -> bool:
        """Tell whether what comes from there waits for this cache's own limits now."""
        limits = self.limits.inbound
        tier = self.tiers.get(("inbound", _tier(scope)))
        is_full = tier is not None and tier.rate < UNLIMITED_BYTES_S and tier.is_full
        return is_full or (0 < limits.total <= self.down_rate * self.down_pace and self.down.is_full)


def _tier(scope: Scope) -> str:
    return "origin" if scope is Scope.ORIGIN else "peer" if scope is Scope.ISP else "regional"


class Route:
    """The way from one place to another. Made once a link: it is looked at for every message."""

    __slots__ = ("_base_s", "_queue_s", "pipes", "receiver", "scope", "sender")

    def __init__(
        self, sender: Place, receiver: Place, pipes: tuple[Pipe, ...], scope: Scope, base_s: float, queue_s: float
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.pipes = pipes
        self.scope = scope
        self._base_s = base_s
        self._queue_s = queue_s

    def delay_s(self) -> float:
        """Return how long a message takes now, with what queues before full links."""
        delay_s, queue_s = self._base_s, self._queue_s
        if queue_s:
            for pipe in self.pipes:
                if pipe.used >= FULL * pipe.rate:
                    delay_s += queue_s
        return delay_s


class Internet:
    """All places, the pipes between them, and what is cut off."""

    def __init__(
        self, scenario: Scenario, infos: list[NodeInfo], schedule: Schedule, rules: FleetPolicy = NO_POLICY
    ) -> None:
        self._scenario = scenario
        self.flows: Network = ExactNetwork(schedule) if scenario.exact else LocalNetwork(schedule)
        self.origin = self._place(scenario.origin, scenario.origin_isp, "")
        self.places: dict[str, Place] = {}
        for info in infos:
            settings = settings_for(rules, info)
            tiers = _limited_tiers(all_limits(scenario, settings, info))
            place = self.places[info.id] = self._place(info.id, info.isp, info.region, tiers)
            self.set_limits(place, base_limits(scenario, settings, info))
        self._uplinks: dict[str, tuple[Pipe, Pipe]] = {}
        for info in infos:
            rate = scenario.uplink_rate(info.isp)
            if rate is not None and info.isp not in self._uplinks:
                self._uplinks[info.isp] = (Pipe(f"{info.isp} out", rate), Pipe(f"{info.isp} in", rate))
        self.is_whole = True
        """Nothing is cut off, and no way is lost."""
        self._cut: Counter[str] = Counter()
        self._lost_ways: Counter[tuple[str, str]] = Counter()
        """Sender, receiver -> how many faults lose what goes this way."""
        self.origin_bytes = 0.0
        """Bytes that have left the origin."""
        self.isp_bytes: dict[str, float] = {info.isp: 0.0 for info in infos}
        """ISP -> bytes that have entered it."""

    def _place(self, name: str, isp: str, region: str, tiers: Iterable[TierName] = ()) -> Place:
        return Place(name, isp, region, self._scenario.rate(name), self._scenario.upload_rate(name), tiers)

    def route(self, sender: Place, receiver: Place) -> Route:
        """Return the way between two places."""
        pipes = [sender.up]
        scenario = self._scenario
        delay_ms = scenario.delay_ms
        scope = Scope.ISP
        if sender.isp != receiver.isp:
            scope = Scope.REGION if sender.region == receiver.region else Scope.WORLD
            delay_ms += scenario.isp_delay_ms + (scenario.region_delay_ms if scope is Scope.WORLD else 0.0)
            if (uplink := self._uplinks.get(sender.isp)) is not None:
                pipes.append(uplink[0])
            if (uplink := self._uplinks.get(receiver.isp)) is not None:
                pipes.append(uplink[1])
        pipes.append(receiver.down)
        scope = Scope.ORIGIN if sender is self.origin else scope
        tier = _tier(scope)
        ends = (sender, "outbound"), (receiver, "inbound")
        pipes += [place.tiers[way, tier] for place, way in ends if (way, tier) in place.tiers]
        return Route(sender, receiver, tuple(pipes), scope, delay_ms * 1e-3, scenario.queue_ms * 1e-3)

    def count(self, route: Route, moved_bytes: float) -> None:
        """Count the bytes of a transfer that has ended."""
        if route.scope is Scope.ORIGIN:
            self.origin_bytes += moved_bytes
        if route.sender.isp != route.receiver.isp:
            self.isp_bytes[route.receiver.isp] += moved_bytes

    # ---- what goes wrong

    def cut(self, name: str) -> None:
        """Cut a host off from all others, or an ISP from all other ISPs; cuts of one name add up."""
        self._cut[name] += 1
        self.is_whole = False

    def mend(self, name: str) -> None:
        """Undo one cut."""
        self._cut[name] -= 1
        if not self._cut[name]:
            del self._cut[name]
        self.is_whole = not (self._cut or self._lost_ways)

    def lose_way(self, sender: str, receiver: str) -> None:
        """Lose what goes one way between two hosts; losses of one way add up."""
        self._lost_ways[sender, receiver] += 1
        self.is_whole = False

    def mend_way(self, sender: str, receiver: str) -> None:
        """Undo one loss."""
        self._lost_ways[sender, receiver] -= 1
        if not self._lost_ways[sender, receiver]:
            del self._lost_ways[sender, receiver]
        self.is_whole = not (self._cut or self._lost_ways)

    def is_lost(self, sender: Place, receiver: Place) -> bool:
        """Tell whether a message of an open connection does not arrive now: answers may be lost alone."""
        return (sender.name, receiver.name) in self._lost_ways or self._is_cut(sender, receiver)

    def is_cut(self, route: Route) -> bool:
        """Tell whether nothing can be connected and no payload moves between two places now: both ways are needed."""
        sender, receiver = route.sender, route.receiver
        if self._lost_ways:
            ways = self._lost_ways
            if (sender.name, receiver.name) in ways or (receiver.name, sender.name) in ways:
                return True
        return self._is_cut(sender, receiver)

    def _is_cut(self, sender: Place, receiver: Place) -> bool:
        cut = self._cut
        if not cut:
            return False
        if sender.name in cut or receiver.name in cut:
            return True
        return sender.isp != receiver.isp and (sender.isp in cut or receiver.isp in cut)

    def set_pace(self, place: Place, factor: float, *, up: bool = True, down: bool = True) -> None:
        """Let a host's link carry `factor` of what it was built for, in the directions that are named."""
        if up:
            place.up_pace = factor
        if down:
            place.down_pace = factor
        self._set_rates(place)

    def set_limits(self, place: Place, limits: RateLimits) -> None:
        """Have a cache keep to limits, as its throttle does: those of tiers only if it was made with them."""
        if limits == place.limits:
            return
        place.limits = limits
        self._set_rates(place)
        for (way, tier), pipe in place.tiers.items():
            self.flows.set_rate(pipe, getattr(getattr(limits, way), tier) or UNLIMITED_BYTES_S)

    def _set_rates(self, place: Place) -> None:
        limits = place.limits
        up, down = place.up_rate * place.up_pace, place.down_rate * place.down_pace
        self.flows.set_rate(place.up, min(up, limits.outbound.total or up))
        self.flows.set_rate(place.down, min(down, limits.inbound.total or down))


def _limited_tiers(limits: Iterable[RateLimits]) -> list[TierName]:
    """Return the tiers that some of these limits name, each with the way that it goes."""
    return [
        (way, tier)
        for way in ("inbound", "outbound")
        for tier in TIERS
        if any(getattr(getattr(one, way), tier) for one in limits)
    ]
