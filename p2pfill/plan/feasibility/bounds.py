"""When a night's fill can be over at the earliest, as far as one limit after the other says. Pure.

Each bound here holds by itself, and is worked out for all caches at once:

- *Alone*: a cache takes all that it lacks within its hours; an ISP, a region, the origins pass their distinct bytes.
- *In turn*: what a cache lacks comes out of the origins, into its region, into its ISP and into it, and can wait on a
  disk at each of these: queues in tandem, whose output is the least over all s of what had come in until s and what
  could leave since (Cruz, "A calculus for network delay", 1991; Lindley's recursion in discrete time).
- *At once*: what no other cache of its ISP is to have comes over the uplink while the cache is open: nobody keeps it.

What several groups share is a matter of flows (`flow`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from p2pfill.plan.feasibility.flow import by_group
from p2pfill.plan.feasibility.needs import Demand
from p2pfill.plan.feasibility.network import RATE_MAX, Network, Timeline
from p2pfill.plan.tables import Floats, Ints, Longs

SLACK: Final = 1e-9
"""Part of an amount that sums of floats may lack."""


class Series(NamedTuple):
    """What can pass in each bucket: bytes, and bytes a second at most. A row for each cache or group."""

    volume: Floats
    peak: Floats

    @property
    def sums(self) -> Floats:
        """Bytes until each edge: a column more."""
        return np.concatenate([np.zeros((len(self.volume), 1)), np.cumsum(self.volume, axis=1)], axis=1)


class Stages(NamedTuple):
    """What passes into caches, and before that into ISPs, into regions, and out of origins."""

    cache: Series
    isp: Series
    region: Series
    world: Series


def stages(network: Network, demand: Demand, line: Timeline) -> Stages:
    """Return what can pass where. What is outside of a group can bring no more into it than its caches take in."""
    needy = (demand.missing > 0)[:, None]
    cache = Series(line.volume * needy, line.peak * needy)
    isp = _within(cache, network.isp, network.uplink, line)
    region = _within(isp, network.caches.region, network.region_uplink, line)
    rate = np.array([sum(min(origin.rate, RATE_MAX) for origin in network.origins)])
    world = _within(region, np.zeros(len(region.volume), np.int64), rate, line)
    return Stages(cache, isp, region, world)


def _within(inner: Series, group: Ints | Longs, rate: Floats, line: Timeline) -> Series:
    rates = np.minimum(rate, RATE_MAX)[:, None]
    volume, peak = (by_group(part, np.asarray(group, np.int64), len(rate)) for part in inner)
    return Series(np.minimum(volume, rates * line.seconds), np.minimum(peak, rates))


def reached(series: Series, amount: Floats, line: Timeline) -> Floats:
    """Return of each row the earliest moment at which `amount` bytes have passed; inf: never."""
    return _crossing(series.sums, [(series.sums, series.peak, amount)], amount, line)


def _crossing(sums: Floats, parts: list[tuple[Floats, Floats, Floats]], amount: Floats, line: Timeline) -> Floats:
    """Return when `sums` reach an amount, at the earliest.

    `parts` are sums, rates and amounts all of which must have been reached by then.
    """
    enough = sums >= (amount * (1 - SLACK))[:, None]
    edge = np.argmax(enough, axis=1)
    rows, before = np.arange(len(sums)), np.maximum(edge - 1, 0)
    seconds = np.zeros(len(sums))
    for come, peak, least in parts:
        lacking = np.maximum(least - come[rows, before], 0.0)
        rate = peak[rows, np.minimum(before, peak.shape[1] - 1)]
        seconds = np.maximum(seconds, np.divide(lacking, rate, out=np.zeros_like(lacking), where=rate > 0))
    at = line.edges[before] + np.minimum(seconds, line.seconds[np.minimum(before, len(line.seconds) - 1)])
    at = np.where(edge == 0, line.edges[0], at)
    return np.where(enough.any(axis=1), at, np.inf)


class InTurn(NamedTuple):
    """What can have come to each cache, stage by stage."""

    arrived: Floats
    """Bytes until each edge."""
    at: Floats
    """When all of it can be there at the earliest; inf: not within the night's horizon."""


def in_turn(network: Network, demand: Demand, line: Timeline, by: Stages) -> InTurn:
    """Return what can come to each cache, if it were the only one, with storage on the way."""
    nested = demand.nested.astype(np.float64)
    one, all_ = np.zeros(len(network.spans), np.int64), np.arange(len(network.spans))
    come = np.minimum(by.world.sums[one], nested[0][:, None])
    parts = [(come, by.world.peak[one], nested[0])]
    ways: list[tuple[Series, Ints | Longs]] = [(by.region, network.region), (by.isp, network.isp), (by.cache, all_)]
    for (stage, place), less, more in zip(ways, nested[:-1], nested[1:], strict=True):
        passed = stage.sums[place]
        # Besides what passes the stage before, what others in the larger group hold, or have got.
        ready = come + (more - less)[:, None]
        ready[:, 0] = 0.0
        come = passed + np.minimum.accumulate(ready - passed, axis=1)
        parts.append((come, stage.peak[place], more))
    return InTurn(come, _crossing(come, parts, nested[3], line))


def at_once(network: Network, demand: Demand, line: Timeline) -> Series:
    """Return what can come into each cache directly over the uplink of its ISP."""
    rate = np.minimum(network.uplink, RATE_MAX)[network.isp][:, None]
    return Series(np.minimum(line.volume, rate * line.seconds), np.minimum(line.peak, rate))
