"""What the chunks of a fill wait for, in words for people. Pure."""

from __future__ import annotations

from typing import Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Scope
from p2pfill.swarm.hops import Hops
from p2pfill.swarm.ledger import ChunkLedger, ChunkState
from p2pfill.swarm.masters import Masters
from p2pfill.swarm.scheduler import Hold
from p2pfill.swarm.ways import Ways

HELD_FOR: Final = {"urgency": "a more urgent title", "window": "the cache's next fill window"}
"""What a fill waits for that holds back."""


def count_waits(
    ledger: ChunkLedger, available: Availability, masters: Masters, ways: Ways, hops: Hops, hold: Hold = None
) -> dict[str, int]:
    """Return how many chunks wait, by what they wait for; counts every chunk that is not verified."""
    missing, held_back = ledger.missing, 0
    if hold is not None:
        missing, held_back = Bitmap(ledger.chunk_count), missing.count()
    in_isp = missing & available.held[Scope.ISP]
    by_mates = Bitmap(ledger.chunk_count)
    if hops.nearest == Scope.CLUSTER:
        apart = in_isp.and_not(available.held[Scope.CLUSTER])
        by_mates = apart.and_not(hops.of_other_clusters(apart, masters.cluster_share()))
        in_isp = in_isp.and_not(by_mates)
    elsewhere = missing.and_not(available.held[Scope.ISP])
    duties = masters.assignment()
    # By right, since others stand in for a cache that cannot reach the origin; unless nobody can.
    nominal = masters.nominal_share()
    unreachable = elsewhere & (hops.duty(duties, Scope.ORIGIN) | hops.duty(nominal, Scope.ORIGIN))
    unreachable = unreachable.and_not(available.held[Scope.WORLD])
    if Scope.ORIGIN not in ways.closed or ways.is_left_to_reader:
        unreachable = Bitmap(ledger.chunk_count)
    mine = (elsewhere & duties[Scope.REGION]).and_not(unreachable)
    others = elsewhere.and_not(unreachable | mine)
    by_budget = mine & hops.unaffordable(missing, available)
    by_rule = (mine & hops.waiting).and_not(by_budget)
    mine = mine.and_not(by_rule | by_budget)
    no_origin = Scope.ORIGIN in hops.never
    rule = f"rule {hops.rule!r} of the fleet's policy"
    waits = {
        HELD_FOR["urgency" if hold is None else hold]: held_back,
        "room at a peer": in_isp.count(),
        "the cache of its cluster that fetches them from others of the ISP": by_mates.count(),
        # Why it cannot be is said once, with the source.
        "the origin, which cannot be reached from here": 0 if no_origin else unreachable.count(),
        f"a cache that holds them, since {rule} forbids the origin": unreachable.count() if no_origin else 0,
        f"the wait that {rule} sets before the next hop": by_rule.count(),
        f"budget {hops.budget!r} of the fleet's policy, which has nothing left for this cache now": by_budget.count(),
        f"the ISP's fill master{'' if ways.is_left_to_reader else _who_cannot(masters)}": others.count(),
        "a source beyond the ISP": mine.count(),
        "bytes on their way": ledger.counts[ChunkState.REQUESTED],
    }
    return {reason: count for reason, count in waits.items() if count}


def _who_cannot(masters: Masters) -> str:
    """Return who of the own ISP has said that it cannot reach the origin, as the end of a reason."""
    names = sorted(name for name in masters.mates() if Scope.ORIGIN in masters.closed.get(name, ()))
    if not names:
        return ""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f" (cache {names[0]}{more} cannot reach the origin)"
