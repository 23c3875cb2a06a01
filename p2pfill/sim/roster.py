"""Which caches are told of which in the simulator: the tracker's code, with the scenario's bounds where it has any."""

from __future__ import annotations

from p2pfill.sim.scenario import Scenario
from p2pfill.swarm.neighbourhood import Neighbourhoods


def neighbourhoods(scenario: Scenario) -> Neighbourhoods:
    """Return the neighbourhoods that a tracker would keep, still without any cache.

    With `Scenario.neighbours` they are bounded however few caches there are.
    """
    manifest = scenario.manifest()
    if not scenario.neighbours:
        return Neighbourhoods(manifest.title_id, manifest.chunk_count)
    return Neighbourhoods(
        manifest.title_id, manifest.chunk_count, everybody_max=0, neighbours=scenario.neighbours
    )
