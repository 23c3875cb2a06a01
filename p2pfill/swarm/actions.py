"""What a fill wants done, one class per kind. The driver performs them in order."""

from __future__ import annotations

import msgspec

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope


class RequestChunk(msgspec.Struct, frozen=True):
    """Ask `source` (a node id or an origin's URL) for `chunk`; answer with the same `request` number."""

    request: int
    source: str
    chunk: int


class CancelRequest(msgspec.Struct, frozen=True):
    """Withdraw a request. No event for it is expected any more, and one that comes is ignored."""

    request: int
    source: str


class AnnounceChunks(msgspec.Struct, frozen=True):
    """Tell linked caches that these chunks are verified here, and the store that they may be committed."""

    chunks: tuple[int, ...]


class ClaimChunks(msgspec.Struct, frozen=True):
    """Tell all linked caches that these chunks are still on their way across a border to this cache: a sign of life."""

    chunks: tuple[int, ...]


class PassOnClaims(msgspec.Struct, frozen=True):
    """Tell the linked caches nearer than `scope`, as far as it concerns them, that these chunks are on their way here:
    caches as far away as that are fetching them."""

    chunks: tuple[int, ...]
    scope: Scope


class ShowInterest(msgspec.Struct, frozen=True):
    """Tell a cache that news of `chunks` is enough; it answers with what it holds and what crosses borders for it."""

    source: str
    chunks: Bitmap


class ReportSlow(msgspec.Struct, frozen=True):
    """Tell all linked caches that this one does without a cache, since it is slow."""

    node: str


class ReportWays(msgspec.Struct, frozen=True):
    """Tell all linked caches from where this one cannot take chunks; replaces what it told before."""

    closed: tuple[Scope, ...]
    reason: str
    """For people here; empty where nothing is closed."""


class CompleteTitle(msgspec.Struct, frozen=True):
    """Every chunk is durable: the title can go live."""


Action = (
    RequestChunk
    | CancelRequest
    | AnnounceChunks
    | ClaimChunks
    | PassOnClaims
    | ShowInterest
    | ReportSlow
    | ReportWays
    | CompleteTitle
)
