"""What must hold in every run, looked at from outside: what caches say and ask for, against the truth of the model.

Each cache's engine is given a `CheckedFill`, the fill logic as it ships with the checkers around it.

1. No chunk is announced, shown or live that was not verified (`announced`, `showed`, `went_live`).
2. Each chunk is in exactly one state of the ledger, and one that is asked for is asked of one source (`decided`).
3. Tier order: nothing is asked for across a border while a trusted source nearer holds it, and a cache that goes
   further out than the roster that it was told lets it has counted an escalation for it (`decided`).
4. Once all that was broken is healed, every cache that is not lost for good completes in time (`completed`).

A broken one raises `InvariantBroken`, an error of ours and never of a scenario. Tier order is worked out anew here,
from the roster and from what the sources of a fill hold, not with the sets that the fill keeps for it.

Left alone: a chunk that is taken from a slow source and asked of another one, no further out than the first
(`swarm.moves`); it was on its way when its neighbours got it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple, Protocol

from p2pfill.errors import InternalError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Duties, Scope, reach
from p2pfill.swarm.fill import Fill

LEDGER_EVERY: Final = 64
"""Decisions of a fleet between two looks at a whole ledger; each costs as much as some dozen decisions."""

DUTIES_MAX: Final = 256
"""Elections that are remembered; each takes a few bitmaps for every member."""


class InvariantBroken(InternalError):
    """Something that must always hold did not: a bug of the fill logic, of the protocol, or of the simulator."""


class Asked(NamedTuple):
    """A request that is outstanding, as the driver knows it."""

    chunk: int
    source: str
    scope: Scope


class Outstanding:
    """What one fill has asked for, kept by its driver and not by the fill: the second book of the ledger's audit."""

    def __init__(self) -> None:
        self._by_request: dict[int, Asked] = {}
        self._by_chunk: dict[int, int] = {}

    def add(self, request: int, chunk: int, source: str, scope: Scope) -> None:
        """Note a request that is made."""
        self._by_request[request] = Asked(chunk, source, scope)
        self._by_chunk[chunk] = request

    def end(self, request: int) -> Asked | None:
        """Note that a request is over; None where it was before."""
        asked = self._by_request.pop(request, None)
        if asked is not None:
            del self._by_chunk[asked.chunk]
        return asked

    def lose(self, source: str) -> None:
        """Note that a source is gone, and its requests with it."""
        for request in [number for number, asked in self._by_request.items() if asked.source == source]:
            self.end(request)

    def source_of(self, chunk: int) -> str | None:
        """Return who owes a chunk; None where nobody does."""
        request = self._by_chunk.get(chunk)
        return None if request is None else self._by_request[request].source


class Checkers:
    """Looks at all caches of one run."""

    def __init__(self, manifest: Manifest, *, ledger_every: int = LEDGER_EVERY, tiers: bool = True) -> None:
        """Without `tiers` nobody is asked whether an escalation was due: elections are the costly part."""
        self._manifest = manifest
        self._ledger_every = ledger_every
        self._tiers = tiers
        self._decisions = 0
        self._rosters: dict[str, tuple[NodeInfo, ...]] = {}
        self._duties: dict[tuple[NodeInfo, ...], Duties] = {}
        self._rights: dict[str, dict[Scope, Bitmap]] = {}

    # ---- 1: what is said

    def announced(self, name: str, verified: Bitmap, chunks: Sequence[int]) -> None:
        """Look at chunks that a cache is about to announce, against those that it has verified."""
        for chunk in chunks:
            if not verified[chunk]:
                raise InvariantBroken(f"{name} announces chunk {chunk}, which it has not verified")

    def showed(self, name: str, verified: Bitmap, held: Bitmap) -> None:
        """Look at holdings that a cache is about to show."""
        if held.and_not(verified).any():
            wrong = next(held.and_not(verified).indexes())
            raise InvariantBroken(f"{name} shows chunk {wrong}, which it has not verified")

    def went_live(self, name: str, verified: Bitmap, durable: Bitmap) -> None:
        """Look at a title that goes live."""
        if not verified.all() or not durable.all():
            raise InvariantBroken(
                f"{name} goes live with {verified.count()} chunks verified and {durable.count()} "
                f"durable of {self._manifest.chunk_count}"
            )

    # ---- 2 and 3: what is decided

    def told_members(self, name: str, members: tuple[NodeInfo, ...]) -> None:
        """Take note of the roster that a cache is given."""
        self._rosters[name] = members
        self._rights.pop(name, None)

    def decided(self, fill: CheckedFill, made: Sequence[actions.Action], escalations_before: int) -> None:
        """Look at what a fill has decided, before it is done."""
        self._decisions += 1
        beyond = 0
        given_up: dict[int, Scope] = {}
        for action in made:
            if isinstance(action, actions.RequestChunk):
                scope = fill.sources[action.source].scope
                self._check_request(fill, action, scope, given_up.get(action.chunk))
                if scope > Scope.ISP and self._tiers and scope > reach(self._rights_of(fill.me), action.chunk):
                    beyond += 1
                fill.asked.add(action.request, action.chunk, action.source, scope)
            elif isinstance(action, actions.CancelRequest) and (ended := fill.asked.end(action.request)):
                given_up[ended.chunk] = ended.scope
            elif isinstance(action, actions.AnnounceChunks):
                self.announced(fill.me.id, fill.verified, action.chunks)
        counted = fill.escalations.total() - escalations_before
        if self._tiers and counted != beyond:
            raise InvariantBroken(
                f"{fill.me.id} went further out than its roster lets it {beyond} times, and counted {counted}"
            )
        if self._decisions % self._ledger_every == 0:
            self.check_ledger(fill)

    def check_ledger(self, fill: Fill) -> None:
        """Look at a whole ledger. Raises `InvariantBroken`."""
        try:
            fill.ledger.check()
        except InternalError as error:
            raise InvariantBroken(f"{fill.me.id}: {error}") from error

    def _check_request(
        self, fill: CheckedFill, action: actions.RequestChunk, scope: Scope, given_up: Scope | None
    ) -> None:
        name, chunk = fill.me.id, action.chunk
        if (owes := fill.asked.source_of(chunk)) is not None:
            raise InvariantBroken(f"{name} asks {action.source} for chunk {chunk}, which {owes} owes it")
        if fill.verified[chunk]:
            raise InvariantBroken(f"{name} asks {action.source} for chunk {chunk}, which it has verified")
        if scope is Scope.ISP or (given_up is not None and scope <= given_up):
            return
        for source in fill.sources.values():
            if source.scope < scope and source.counted and source.holdings[chunk]:
                raise InvariantBroken(
                    f"{name} asks {action.source} for chunk {chunk}, though {source.id}, which is nearer, holds it"
                )

    def _rights_of(self, info: NodeInfo) -> dict[Scope, Bitmap]:
        """Return how far the roster that it was told lets a cache go for each chunk."""
        rights = self._rights.get(info.id)
        if rights is None:
            members = self._rosters[info.id]
            if members not in self._duties:
                if len(self._duties) >= DUTIES_MAX:
                    self._duties.clear()
                self._duties[members] = Duties(self._manifest.title_id, self._manifest.chunk_count, members)
            rights = self._rights[info.id] = self._duties[members].within(info)
        return rights

    # ---- 4: the end

    def completed(self, late: Sequence[str], limit_s: float) -> None:
        """Look at the end of a run, `limit_s` seconds after the last fault was healed: who is not complete, and why."""
        if late:
            raise InvariantBroken(
                f"{len(late)} caches are not complete {limit_s:g} s after the last fault was healed: "
                + ", ".join(late[:4])
            )


class CheckedWorld(Protocol):
    """What a checked fill tells of itself."""

    checkers: Checkers
    decisions: int
    """Requests made."""

    def note(self, who: str, what: str) -> None:
        """Write a line into the trace."""

    def received(self, scope: Scope, chunk: int) -> None:
        """Count a chunk that a cache has received and verified."""


class CheckedFill(Fill):
    """The fill logic, with all that goes in and comes out looked at."""

    def __init__(
        self,
        world: CheckedWorld,
        manifest: Manifest,
        me: NodeInfo,
        policy: FillPolicy,
        random: Random,
        now: float,
        durable: Bitmap,
        *,
        heard: bool,
        verified: Bitmap,
    ) -> None:
        """As `Fill`; `verified` is the truth about the disk."""
        super().__init__(manifest, me, policy, random, now, durable, heard=heard)
        self.world = world
        self.verified = verified
        self.asked = Outstanding()

    def handle(self, now: float, event: events.Event) -> None:
        """Take in one event."""
        match event:
            case events.RosterChanged(members):
                self.world.checkers.told_members(self.me.id, members)
            case events.ChunkReceived(request):
                if (asked := self.asked.end(request)) is not None:
                    self.world.received(asked.scope, asked.chunk)
            case events.RequestFailed(request):
                self.asked.end(request)
            case events.SourceLost(source):
                self.asked.lose(source)
        super().handle(now, event)

    def poll_actions(self, now: float) -> list[actions.Action]:
        """Decide and return what to do now, in order."""
        before = self.escalations.total()
        made = super().poll_actions(now)
        if made:
            for action in made:
                match action:
                    case actions.RequestChunk(request, source, chunk):
                        self.world.note(self.me.id, f"request {request} of {chunk} from {source}")
                        self.world.decisions += 1
                    case actions.CancelRequest(request, source):
                        self.world.note(self.me.id, f"cancel {request} at {source}")
                    case actions.AnnounceChunks(chunks):
                        self.world.note(self.me.id, f"verified {chunks}")
        self.world.checkers.decided(self, made, before)
        return made
