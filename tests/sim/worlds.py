"""Small worlds for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from p2pfill.sim.report import Report
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.trace import Trace
from p2pfill.sim.world import World

ROOT = Path(__file__).parents[2]
CHAOS = ROOT / "scenarios" / "chaos.toml"
SMALL = Scenario(
    name="small",
    isps={"cloud": ["origin"], "isp-a": ["a1", "a2", "a3"], "isp-b": ["b1", "b2", "b3"]},
    host_mbit=100,
    size_mib=4,
    chunk_kib=256,
)


def world(seed: int = 1, *, trace: Trace | None = None, **changes: Any) -> World:
    """Return the small world, with some settings otherwise."""
    return World(msgspec.structs.replace(SMALL, **changes), seed, trace=trace)


def run(seed: int = 1, **changes: Any) -> Report:
    """Run the small world."""
    return world(seed, **changes).run()
