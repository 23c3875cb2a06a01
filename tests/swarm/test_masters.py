"""Who is passed over, and when."""

from __future__ import annotations

import pytest

from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Scope
from p2pfill.swarm.masters import STUCK, Masters

PATIENCE_S = 3.0
LAYOUTS = (
    {"a1": "isp-a", "a2": "isp-a", "a3": "isp-a", "a4": "isp-a"},
    {"a1": "isp-a", "b1": "isp-b", "b2": "isp-b", "c1": "isp-c", "c2": "isp-c"},
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stand_in_that_is_silent_too_is_passed_over(layout: dict[str, str]) -> None:
    """Found by the simulator: where several caches could not reach the origin, a chunk waited for as long as that."""
    nodes = [NodeInfo(NodeId(name), isp, "eu") for name, isp in layout.items()]
    for me in nodes:
        masters = Masters(TitleId(bytes(32)), 1, me)
        masters.set_members(0.0, nodes)
        for turn in range(1, (STUCK + 1) * len(nodes)):
            masters.watch(turn * PATIENCE_S, PATIENCE_S, list(layout), Availability(1))
        assert masters.duties()[Scope.ORIGIN][0], f"{me.id} still waits, without {masters.left_out}"
