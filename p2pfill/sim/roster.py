"""Who a cache is told of, and whom it links with: the one place where the simulator decides that.

Without bounds every cache is told of all and linked with all, as a tracker does for a small fleet. With bounds
(`Scenario.neighbours`, `Scenario.far_neighbours`) links are a random graph: some inside the ISP, some to other ISPs of
the region, some to other regions. And the roster that elections are held over then has the caches of the own ISP, but
one stand-in with the weight of all for each other ISP of the region and for each other region: elections look at
nothing but the weights of groups (`swarm.election.Duties`), so everybody elects the same as with the whole roster, at
the cost of a few hundred names instead of the fleet's.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import Final, NamedTuple

import msgspec

from p2pfill.model.node import NodeInfo
from p2pfill.sim.scenario import Scenario

LINKS_MAX: Final = 512
"""As `node.peers.LINKS_MAX`."""


class Neighbourhood(NamedTuple):
    """What the tracker would tell one cache while all are well."""

    members: tuple[NodeInfo, ...]
    """Elections are held among these."""
    links: tuple[NodeInfo, ...]
    """It links with these."""


def neighbourhoods(scenario: Scenario, infos: list[NodeInfo], random: Random) -> dict[str, Neighbourhood]:
    """Return the neighbourhood of each cache. Links go both ways."""
    if not scenario.neighbours:
        everybody = tuple(infos)
        return {info.id: Neighbourhood(everybody, everybody) for info in infos}
    links = _random_links(scenario, infos, random)
    by_id: dict[str, NodeInfo] = {info.id: info for info in infos}
    isps: dict[str, list[NodeInfo]] = defaultdict(list)
    for info in infos:
        isps[info.isp].append(info)
    isp_weights = {isp: sum(info.weight for info in group) for isp, group in isps.items()}
    regions: dict[str, list[str]] = defaultdict(list)
    for isp, group in isps.items():
        regions[group[0].region].append(isp)
    region_weights = {region: sum(isp_weights[isp] for isp in names) for region, names in regions.items()}
    found: dict[str, Neighbourhood] = {}
    for info in infos:
        linked = [by_id[name] for name in links[info.id]]
        members = list(isps[info.isp])
        for isp in regions[info.region]:
            if isp != info.isp:
                members.append(_stand_in([n for n in linked if n.isp == isp], isps[isp], isp_weights[isp]))
        for region, names in regions.items():
            if region != info.region:
                near = [n for n in linked if n.region == region]
                members.append(_stand_in(near, isps[names[0]], region_weights[region]))
        found[info.id] = Neighbourhood(tuple(members), tuple(linked))
    return found


def _stand_in(linked: list[NodeInfo], group: list[NodeInfo], weight: float) -> NodeInfo:
    """Return one of a group in place of all of it: one that is linked, if any is, since that shows signs of life."""
    return msgspec.structs.replace((linked or group)[0], weight=weight)


def _random_links(scenario: Scenario, infos: list[NodeInfo], random: Random) -> dict[str, list[str]]:
    groups: dict[str, list[list[str]]] = {}
    isps: dict[str, list[str]] = defaultdict(list)
    regions: dict[str, list[str]] = defaultdict(list)
    for info in infos:
        isps[info.isp].append(info.id)
        regions[info.region].append(info.id)
    everybody: list[str] = [info.id for info in infos]
    for info in infos:
        groups[info.id] = [isps[info.isp], regions[info.region], everybody]
    isp_of: dict[str, str] = {info.id: info.isp for info in infos}
    links: dict[str, dict[str, None]] = {info.id: {} for info in infos}
    far = scenario.far_neighbours
    for info in infos:
        own, region, world = groups[info.id]
        # Each draws half of them and is drawn by as many others.
        for group, count in ((own, scenario.neighbours), (region, far - far // 2), (world, far // 2)):
            for other in random.sample(group, min(len(group), -(-count // 2) + 1)):
                drawn = len(links[info.id])
                if other != info.id and (group is own or isp_of[other] != info.isp) and drawn < LINKS_MAX:
                    links[info.id][other] = None
                    links[other][info.id] = None
    return {name: list(others) for name, others in links.items()}
