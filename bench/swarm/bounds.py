"""The least time in which a title can reach every cache of a topology, from cuts. Pure.

Nothing fills faster than what must pass a cut divided by the cut's capacity. For a title of F bytes:

- the origin sends each byte at least once: F / its upload;
- a cache takes in all of it: F / its download, after it has joined;
- a group of ISPs with n caches (one ISP, a region, all): one copy must come in, F / capacity into the group; and all n
  copies must be sent by somebody, n F / (upload inside the group + capacity into the group). The capacity into a group
  is that of its uplinks, but no more than all ISPs outside can send.

Rates are those at the start: a link that is slowed later only makes the true least time longer. Only the caches that
count have demands, while all hosts may send, so the bound holds for these whatever becomes of the others.

How many times a title must be stored and forwarded (Mundinger, Weber, Weiss) adds F / rate x log2(n) / chunks, a few
thousandths for these sizes, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from bench.swarm.topology import Host, Topology

GOODPUT: Final = 0.957
"""The part of a link's rate that payload can have: what a TCP stream (iperf3) carries over a shaped link of the lab.
Of the 1514 bytes of a full frame 1448 are payload, which is 95.6 %. `--iperf` measures it anew."""


class Cut(NamedTuple):
    """A place that the title must pass, and the seconds that it takes there at least."""

    name: str
    seconds: float


def bytes_per_s(rate_mbit: float, goodput: float = GOODPUT) -> float:
    """Return the payload that a link of a rate carries; a link without a rate (0) carries any amount."""
    return rate_mbit * 1e6 / 8 * goodput if rate_mbit else math.inf


def cuts(topology: Topology, goodput: float = GOODPUT, joins_s: Mapping[str, float] | None = None) -> list[Cut]:
    """Return all cuts, the narrowest first. `joins_s` says when late caches came, in seconds after the order."""
    counted = topology.counted()
    origin = topology.host(topology.origin)
    found = [Cut(f"upload of {origin.name}", topology.size / _origin_rate(topology, goodput))]
    found += [Cut(f"download of {host.name}", cache_bound_s(topology, host, goodput, joins_s)) for host in counted]
    groups = {f"ISP {isp}": {isp} for isp in sorted({host.isp for host in counted})}
    regions = sorted({host.region for host in counted})
    if len(regions) > 1:
        groups |= {f"region {region}": _isps_of(topology, region) for region in regions}
    groups["all caches"] = {host.isp for host in topology.caches()} - {topology.cloud()}
    for name, members in groups.items():
        found += _group_cuts(topology, name, members, counted, goodput)
    return sorted(found, key=lambda cut: -cut.seconds)


def bound_s(topology: Topology, goodput: float = GOODPUT, joins_s: Mapping[str, float] | None = None) -> float:
    """Return the least seconds in which all caches that count can have the title."""
    return cuts(topology, goodput, joins_s)[0].seconds


def cache_bound_s(
    topology: Topology, host: Host, goodput: float = GOODPUT, joins_s: Mapping[str, float] | None = None
) -> float:
    """Return the least seconds after the order in which one cache can have the title, whatever others have."""
    joined_s = (joins_s or {}).get(host.name, 0.0)
    alone = sum(cache.isp == host.isp for cache in topology.caches()) == 1
    rate = bytes_per_s(host.down_mbit, goodput)
    # By the time that a late cache comes its neighbours may hold the title: no border is then to be passed again.
    if host.isp != topology.cloud() and (alone or not joined_s):
        rate = min(rate, bytes_per_s(topology.uplink(host.isp), goodput))
    if not joined_s:
        rate = min(rate, _origin_rate(topology, goodput))
    return joined_s + topology.size / rate


def _origin_rate(topology: Topology, goodput: float) -> float:
    origin = topology.host(topology.origin)
    return min(bytes_per_s(origin.up_mbit, goodput), bytes_per_s(topology.uplink(origin.isp), goodput))


def _isps_of(topology: Topology, region: str) -> set[str]:
    return {host.isp for host in topology.caches() if host.region == region} - {topology.cloud()}


def _group_cuts(topology: Topology, name: str, isps: set[str], counted: Iterable[Host], goodput: float) -> list[Cut]:
    """Return the cuts around a group of ISPs, none where nobody in it counts or where nothing limits it."""
    inside = sum(host.isp in isps for host in counted)
    if not inside:
        return []
    hosts = topology.hosts()
    sent = {isp: sum(bytes_per_s(host.up_mbit, goodput) for host in hosts if host.isp == isp) for isp in topology.isps}
    upload = sum(sent[isp] for isp in isps)
    outside = sum(
        min(sent[isp], bytes_per_s(topology.uplink(isp), goodput)) for isp in topology.isps if isp not in isps
    )
    into = min(outside, sum(bytes_per_s(topology.uplink(isp), goodput) for isp in isps))
    return [
        Cut(f"into {name}", topology.size / into),
        Cut(f"all copies of {name}", inside * topology.size / (upload + into)),
    ]
