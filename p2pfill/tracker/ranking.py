"""Ranking of the sources of a title as one node sees them, each with the reason for its rank.

The order is lexicographic, not a weighted sum: a score that trades distance for load leaks traffic over borders, and
nobody can say afterwards why. From first to last: tier, site (same cluster, then same region), fill health, route cost
(`model.routes`, where configured), holdings in tenths, load, and at the end a hash of both names, so that equals are
not all ranked alike by everybody. Cost stands behind health: what is dear and idle serves before what is cheap and
busy.

Which nodes are in a roster is decided apart from their rank (`swarm.neighbourhood`), and from nothing that changes from
one heartbeat to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Final, NamedTuple
from zlib import crc32

from p2pfill.model.node import NodeInfo, Tier, tier_between
from p2pfill.model.reports import RosterEntry

QUEUE_BUSY: Final = 16
"""Queued uploads from which a source counts as busy: four times what it serves at once."""

HOLDINGS_STEPS: Final = 10
"""Holdings are compared in tenths: finer, and the ranks would change with every chunk."""

_TIER_WORDS: Final = {Tier.PEER: "same ISP", Tier.REGIONAL: "other ISP", Tier.ORIGIN: "origin"}


class Candidate(NamedTuple):
    """One live node that has, or is ordered to have, the title in question."""

    node: NodeInfo
    filling: bool
    have_chunks: int
    chunk_count: int
    upload_active: int = 0
    upload_queued: int = 0
    late: bool = False
    """A heartbeat is overdue, though not by enough to call the node dead."""
    soon: bool = False
    """Its fill window opens in a moment."""


CostOf = Callable[[NodeInfo, NodeInfo], float]
"""Of a byte to the first from the second."""


class Rank(NamedTuple):
    """The sort key of a source; smaller is better in every field, and earlier fields decide."""

    tier: int
    away: int
    health: int
    cost: float
    lacking: int
    load: float
    shuffle: int


def rank_of(receiver: NodeInfo, source: Candidate, cost: float = 0.0) -> Rank:
    """Return the key by which `receiver` orders `source`, whose route costs so much."""
    node = source.node
    near = receiver.cluster != "" and (node.isp, node.cluster) == (receiver.isp, receiver.cluster)
    away = 0 if near else 1 if node.region == receiver.region else 2
    health = 2 if source.late else 1 if source.upload_queued >= QUEUE_BUSY else 0
    held = HOLDINGS_STEPS if source.chunk_count == 0 else HOLDINGS_STEPS * source.have_chunks // source.chunk_count
    load = (source.upload_active + source.upload_queued) / node.weight
    shuffle = crc32(f"{receiver.id}\0{node.id}".encode())
    return Rank(int(tier_between(receiver, node)), away, health, cost, HOLDINGS_STEPS - held, load, shuffle)


def reason_of(receiver: NodeInfo, source: Candidate) -> str:
    """Return the fields of the rank in words, in the order in which they decide."""
    return _in_words(rank_of(receiver, source), source)


def _in_words(rank: Rank, source: Candidate) -> str:
    tier = _TIER_WORDS[Tier(rank.tier)]
    site = ("same cluster", f"same region {source.node.region}", f"region {source.node.region}")[rank.away]
    health = (
        "healthy",
        f"busy with {source.upload_queued} uploads queued",
        "heartbeat overdue",
    )[rank.health]
    if source.node.is_inward and rank.tier != Tier.PEER:
        holdings = "serves its own ISP alone"
    elif source.have_chunks >= source.chunk_count:
        holdings = "has the whole title"
    elif source.have_chunks:
        holdings = f"has {source.have_chunks} of {source.chunk_count} chunks"
    else:
        holdings = "has nothing yet"
    doing = ", still filling" if source.filling else ""
    cost = f"route cost {rank.cost:.4g}; " if rank.cost else ""
    return f"{tier}, {site}; {health}; {cost}{holdings}{doing}; {source.upload_active} uploads running"


def rank_sources(
    receiver: NodeInfo, candidates: Iterable[Candidate], cost_of: CostOf | None = None
) -> list[RosterEntry]:
    """Return the roster of one title for `receiver`, best source first, and without itself."""
    chosen = [
        (rank_of(receiver, source, 0.0 if cost_of is None else cost_of(receiver, source.node)), source)
        for source in candidates
        if source.node.id != receiver.id
    ]
    chosen.sort(key=itemgetter(0))
    return [
        RosterEntry(
            node=source.node,
            filling=source.filling,
            have_chunks=source.have_chunks,
            rank=position,
            reason=_in_words(rank, source),
            soon=source.soon,
            cost=rank.cost,
        )
        for position, (rank, source) in enumerate(chosen)
    ]
