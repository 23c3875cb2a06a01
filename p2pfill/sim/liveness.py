"""Every cache that can finish finishes in time: a run with faults that never heal beside the same run without them.

The property: where every chunk that somebody lacks can be had by some cache of each group, and the members of a group
reach each other, all of them complete within `TIMES` the time that it takes without the faults, and the waits of the
policy besides. Those are for what only time can tell: that a master is not just slow.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from p2pfill.sim.checkers import InvariantBroken
from p2pfill.sim.report import Report
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.world import World

TIMES: Final = 2.0


class Outcome(NamedTuple):
    """Two runs of one seed."""

    clean: Report
    faulty: Report
    limit_s: float


def check_liveness(scenario: Scenario, seed: int, waits: float = 1.0) -> Outcome:
    """Run a scenario with its faults and without them. Raises `InvariantBroken` where it takes too long with them.

    `waits` is how many times the policy's `stall_wait_s` there is to wait besides; as many for each urgency, since one
    title learns nothing of what another one has found out, and they take turns.
    """
    waits *= len({title.priority for title in scenario.all_titles()})
    clean = World(msgspec.structs.replace(scenario, faults=()), seed).run()
    faulty = World(scenario, seed).run()
    limit_s = TIMES * clean.seconds + waits * scenario.policy.stall_wait_s
    if faulty.seconds > limit_s:
        late = {name: round(at_s, 2) for name, at_s in faulty.completions.items() if at_s > limit_s}
        raise InvariantBroken(
            f"complete after {faulty.seconds:.2f} s, without faults after {clean.seconds:.2f} s: more than "
            f"{limit_s:.2f} s, which {TIMES:g} times that and {waits:g} waits make; late are {late}"
        )
    return Outcome(clean, faulty, limit_s)
