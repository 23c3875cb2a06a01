"""What happens to a fill, one class per kind. The driver reports each to `Fill.handle`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm.election import Scope
from p2pfill.swarm.scheduler import Hold


class RosterChanged(msgspec.Struct, frozen=True):
    """Occurs when the tracker names the caches that want the title (this one may be among them)."""

    members: tuple[NodeInfo, ...]
    unlinked: tuple[str, ...] = ()
    """Those of them with whom this cache is not to be linked, in a large fleet."""
    wants: dict[str, Bitmap] = msgspec.field(default_factory=dict)
    """Member -> the chunks that it wants, where that is not all of them."""
    soon: frozenset[str] = frozenset()
    """Those whose fill windows open in a moment: they are elected, and nothing is expected of them yet."""


class PolicyChanged(msgspec.Struct, frozen=True):
    """Occurs when the tracker says otherwise how the fill is to behave, or how far it may go."""

    policy: FillPolicy


class CacheConnected(msgspec.Struct, frozen=True):
    """Occurs when the control link to another cache opens."""

    node: NodeInfo


class OriginConfigured(msgspec.Struct, frozen=True):
    """Occurs when the fill order names an origin. Origins hold every chunk."""

    url: str


class OriginPriced(msgspec.Struct, frozen=True):
    """Occurs when it becomes known what a gigabyte costs at an origin. Those of which nothing is known are free."""

    source: str
    cost: float


class RoutesPriced(msgspec.Struct, frozen=True):
    """Occurs when the tracker says what bytes of caches cost by their routes; of those not named nothing is known."""

    costs: dict[str, float]


class SourceLost(msgspec.Struct, frozen=True):
    """Occurs when the link to a cache closes or an origin is withdrawn; all its requests are void."""

    source: str
    reason: str = ""
    """What was wrong with it, for people; empty where nothing was."""


class HoldingsArrived(msgspec.Struct, frozen=True):
    """Occurs when a cache tells which chunks of the title it has verified: these and, from now on, no others."""

    source: str
    holdings: Bitmap


class NeighboursHeard(msgspec.Struct, frozen=True):
    """Occurs when all caches that might hold the title have said what they hold, or have had the time to."""


class OthersUnaware(msgspec.Struct, frozen=True):
    """Occurs when the fill window opens and others may not know that yet: until `NeighboursHeard` nothing is to be
    asked for across a border."""


class ChunksGained(msgspec.Struct, frozen=True):
    """Occurs when a cache announces chunks that it has newly verified."""

    source: str
    chunks: Sequence[int]


class InterestShown(msgspec.Struct, frozen=True):
    """Occurs when a cache tells which chunks it needs news of; until then it needs news of all."""

    source: str
    chunks: Bitmap


class ChunksClaimed(msgspec.Struct, frozen=True):
    """Occurs when a cache tells that it is fetching chunks across a border."""

    source: str
    chunks: Sequence[int]


class SlowReported(msgspec.Struct, frozen=True):
    """Occurs when a cache tells that it does without another one (which may be this one), since that is slow."""

    source: str
    node: str


class WaysReported(msgspec.Struct, frozen=True):
    """Occurs when a cache tells from where it cannot take chunks, since its own way there is dead; or no longer."""

    source: str
    closed: tuple[Scope, ...]


class SourceProgressed(msgspec.Struct, frozen=True):
    """Occurs at most once a second per source while payload that was asked of it is arriving."""

    source: str


class SourceHeldBack(msgspec.Struct, frozen=True):
    """Occurs at most once a second per source while what it sends waits for this cache's own limits.

    So it lives, and how fast it seems to be says nothing of it.
    """

    source: str


class OriginFailing(msgspec.Struct, frozen=True):
    """Occurs when a chunk was asked of an origin in vain for the second time in a row; it is tried again by itself."""

    source: str
    reason: str


class OriginWithoutRange(msgspec.Struct, frozen=True):
    """Occurs when an origin answers the request for a chunk with the whole file: one cache then reads it for all."""

    source: str


class ChunkReceived(msgspec.Struct, frozen=True):
    """Occurs when all bytes of a request are written and every digest that the title asks for holds."""

    request: int


class ChunkFound(msgspec.Struct, frozen=True):
    """Occurs when a chunk turns out to be verified on disk though nothing is outstanding that brought it.

    Its request was given up while the last byte came, or it came of an origin on the way to another chunk.
    """

    chunk: int
    source: str = ""
    """Of whom it came, where that was not counted yet."""


class ChunksLost(msgspec.Struct, frozen=True):
    """Occurs when chunks that were verified are found bad on disk: they are to be fetched anew."""

    chunks: Sequence[int]


class ReuseBegun(msgspec.Struct, frozen=True):
    """Occurs when chunks are about to be copied from another version of the title: meanwhile they are not asked for."""

    chunks: Sequence[int]


class ReuseEnded(msgspec.Struct, frozen=True):
    """Occurs when some of them were copied and verified, and some, `failed`, were not what the title has."""

    chunks: Sequence[int]
    failed: Sequence[int] = ()


class SourceMisbehaved(msgspec.Struct, frozen=True):
    """Occurs when a source breaks the rules of a data stream, so that nothing of it is to be trusted."""

    source: str
    reason: str


class RequestFailed(msgspec.Struct, frozen=True):
    """Occurs when a request will not be answered: refused, broken off, or a wrong digest (`corrupt`)."""

    request: int
    reason: str
    wasted_bytes: int = 0
    corrupt: bool = False


class SourceFull(msgspec.Struct, frozen=True):
    """Occurs when a request cannot be made now: the link to its source has as many as it may, of all titles."""

    request: int


class SourceBusy(msgspec.Struct, frozen=True):
    """Occurs when a cache takes no request now, since it serves its viewers."""

    request: int


class BudgetSpent(msgspec.Struct, frozen=True):
    """Occurs when a budget of the fleet's policy has nothing left for caches beyond the ISP: none is to be asked."""

    budget: str
    request: int = 0
    """The one that was not made for that; 0: none."""


class BudgetRenewed(msgspec.Struct, frozen=True):
    """Occurs when caches beyond the ISP may be asked again."""


class ChunksCommitted(msgspec.Struct, frozen=True):
    """Occurs when the journal holds these chunks."""

    chunks: Sequence[int]


class Paused(msgspec.Struct, frozen=True):
    """Occurs when a more urgent title of this cache moves, or its fill window ends, and when one of these reasons takes
    the place of the other: until `Resumed` nothing new is to be asked for."""

    hold: Hold = "urgency"


class HandedBack(msgspec.Struct, frozen=True):
    """Occurs when what is in flight is to be given up, since the fill window has ended: it is had later, or by others.
    """


class Resumed(msgspec.Struct, frozen=True):
    """Occurs when nothing holds the fill back any more."""


class TimePassed(msgspec.Struct, frozen=True):
    """Occurs when the moment that `Fill.next_wakeup` named has come."""


Event = (
    RosterChanged
    | PolicyChanged
    | CacheConnected
    | OriginConfigured
    | OriginPriced
    | RoutesPriced
    | SourceLost
    | HoldingsArrived
    | NeighboursHeard
    | OthersUnaware
    | ChunksGained
    | InterestShown
    | ChunksClaimed
    | SlowReported
    | WaysReported
    | SourceProgressed
    | SourceHeldBack
    | OriginFailing
    | OriginWithoutRange
    | ChunkReceived
    | ChunkFound
    | ChunksLost
    | ReuseBegun
    | ReuseEnded
    | SourceMisbehaved
    | RequestFailed
    | SourceFull
    | SourceBusy
    | BudgetSpent
    | BudgetRenewed
    | ChunksCommitted
    | Paused
    | HandedBack
    | Resumed
    | TimePassed
)
