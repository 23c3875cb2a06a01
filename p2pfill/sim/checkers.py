"""What must hold in every run, looked at from outside: what caches say and ask for, against the truth of the model.

Each cache's engine is given a `CheckedFill`, the fill logic as it ships with the checkers around it.

1. No chunk is announced, shown or live whose bytes on the disk are not right (`announced`, `showed`, `went_live`).
2. Each chunk is in exactly one state of the ledger, and one that is asked for is asked of one source (`decided`).
3. Tier order: nothing is asked for across a border while a trusted source nearer holds it, and whoever goes further out
   than the roster that he was told gives him leave to has counted an escalation for it (`decided`).
4. A title asks for nothing new while a more urgent one of the same cache moves (`decided`), as `swarm.scheduler` has
it. 5. Nobody is accused of wrong bytes, or of a breach of the rules, who has kept to them (`accused`).
6. Nothing is asked for while the cache's fill windows are closed, but for titles out of cycle (`decided`).
7. Once all that was broken is healed, every cache that is not lost for good completes in time (`completed`).
8. No cache that serves its own ISP alone is asked for anything by others (`decided`).

A broken one raises `InvariantBroken`, an error of ours and never of a scenario. Tier order is worked out anew here,
from the roster and from what the sources of a fill hold, not with the sets that the fill keeps for it.

Left alone: a chunk that is taken from a slow source and asked of another one, no further out than the first
(`swarm.moves`); it was on its way when its neighbours got it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final, NamedTuple

from p2pfill.engine.task import FillTask
from p2pfill.errors import InternalError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.urgency import Urgency
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Assignment, Scope, Wants, reach
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.scheduler import STUCK_S

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

    def __init__(
        self,
        manifests: Mapping[TitleId, Manifest],
        note: Callable[[str, str], None],
        *,
        ledger_every: int = LEDGER_EVERY,
        tiers: bool = True,
    ) -> None:
        """`note` writes a line into the trace: who, what. Without `tiers` nobody is asked whether an escalation was
        due: elections are the costly part."""
        self.note = note
        self.fills: list[CheckedFill] = []
        """All that have begun."""
        self.requests = 0
        """Requests made."""
        self.bytes_by_scope = dict.fromkeys(Scope, 0)
        """Of chunks that were received and verified."""
        self.guilty: set[str] = set()
        """Sources that have sent what they should not."""
        self.inward: dict[str, str] = {}
        """Cache that serves its own ISP alone -> its ISP."""
        self._manifests = manifests
        self._ledger_every = ledger_every
        self._tiers = tiers
        self._decisions = 0
        self._rosters: dict[tuple[str, TitleId], tuple[NodeInfo, ...]] = {}
        self._wants: dict[TitleId, Wants] = {}
        """The chunks of whoever wants a part: the same all the time."""
        self._assignment: dict[tuple[TitleId, tuple[NodeInfo, ...]], Assignment] = {}
        self._nominal_share: dict[tuple[str, TitleId], dict[Scope, Bitmap]] = {}

    # ---- 1: what is said

    def announced(self, name: str, right: Bitmap, chunks: Sequence[int]) -> None:
        """Look at chunks that a cache is about to announce, against those whose bytes are right."""
        for chunk in chunks:
            if not right[chunk]:
                raise InvariantBroken(f"{name} announces chunk {chunk}, which is not right on its disk")

    def showed(self, name: str, right: Bitmap, held: Bitmap) -> None:
        """Look at holdings that a cache is about to show."""
        if held.and_not(right).any():
            wrong = next(held.and_not(right).indexes())
            raise InvariantBroken(f"{name} shows chunk {wrong}, which is not right on its disk")

    def went_live(self, name: str, right: Bitmap, durable: Bitmap, wanted: Bitmap) -> None:
        """Look at a title that goes live."""
        if wanted.and_not(right & durable).any():
            raise InvariantBroken(
                f"{name} goes live with {right.count()} chunks right and {durable.count()} durable of {len(right)}"
            )

    def accused(self, name: str, source: str, reason: str) -> None:
        """Look at who is said to have sent what it should not."""
        if source not in self.guilty:
            raise InvariantBroken(f"{name} accuses {source}, which has kept to the rules: {reason}")

    # ---- 2 to 4: what is decided

    def told_members(self, fill: CheckedFill, members: tuple[NodeInfo, ...], wants: Wants) -> None:
        """Take note of the roster that a fill is given."""
        self._wants[fill.manifest.title_id] = wants
        self._rosters[fill.key] = members
        self._nominal_share.pop(fill.key, None)

    def decided(self, now: float, fill: CheckedFill, made: Sequence[actions.Action]) -> None:
        """Look at what a fill has decided, before it is done."""
        self._decisions += 1
        if self._decisions % self._ledger_every == 0:
            self.check_ledger(fill)
        if not made:
            return
        beyond = 0
        given_up: dict[int, Scope] = {}
        for action in made:
            if isinstance(action, actions.RequestChunk):
                scope = fill.sources[action.source].scope
                if self.inward.get(action.source, fill.me.isp) != fill.me.isp:
                    raise InvariantBroken(f"{fill.me.id} asks {action.source}, which serves its own ISP alone")
                if not fill.may_ask():
                    raise InvariantBroken(f"{fill.me.id} asks for chunk {action.chunk} while its windows are closed")
                joins = self._check_request(fill, action, scope, given_up.get(action.chunk))
                beyond += joins
                _check_policy(now, fill, action, scope)
                if len(fill.beside) > 1:
                    _check_turn(now, fill)
                is_beyond = not joins and scope > Scope.ISP and self._tiers
                if is_beyond and scope > reach(self._nominal_of(fill), action.chunk):
                    beyond += not fill.hops.duty(self._nominal_of(fill), scope)[action.chunk]
                fill.asked.add(action.request, action.chunk, action.source, scope)
            elif isinstance(action, actions.CancelRequest) and (ended := fill.asked.end(action.request)):
                given_up[ended.chunk] = ended.scope
            elif isinstance(action, actions.AnnounceChunks):
                self.announced(fill.me.id, fill.right, action.chunks)
        escalations = fill.escalations.total()
        counted, fill.escalations_seen = escalations - fill.escalations_seen, escalations
        if self._tiers and counted != beyond:
            raise InvariantBroken(
                f"{fill.me.id} went further out than its roster lets it {beyond} times, and counted {counted}"
            )

    def check_ledger(self, fill: Fill) -> None:
        """Look at a whole ledger. Raises `InvariantBroken`."""
        try:
            fill.ledger.check()
        except InternalError as error:
            raise InvariantBroken(f"{fill.me.id}: {error}") from error

    def _check_request(
        self, fill: CheckedFill, action: actions.RequestChunk, scope: Scope, given_up: Scope | None
    ) -> bool:
        """Look at a request; tell whether it is for what a nearer cache holds, and may be since the policy says so."""
        name, chunk = fill.me.id, action.chunk
        if (owes := fill.asked.source_of(chunk)) is not None:
            raise InvariantBroken(f"{name} asks {action.source} for chunk {chunk}, which {owes} owes it")
        if not fill.ledger.wanted[chunk]:
            raise InvariantBroken(f"{name} asks {action.source} for chunk {chunk}, which it does not want")
        if fill.sealed[chunk]:
            raise InvariantBroken(f"{name} asks {action.source} for chunk {chunk}, which it has verified")
        if scope <= fill.hops.nearest or (given_up is not None and scope <= given_up):
            return False
        for source in fill.sources.values():
            if source.scope < scope and source.counted and source.holdings[chunk]:
                if fill.policy.reach.minimum_bytes_s:
                    return True
                raise InvariantBroken(
                    f"{name} asks {action.source} for chunk {chunk}, though {source.id}, which is nearer, holds it"
                )
        return False

    def _nominal_of(self, fill: CheckedFill) -> dict[Scope, Bitmap]:
        """Return how far the roster that it was told lets a cache go for each chunk."""
        rights = self._nominal_share.get(fill.key)
        if rights is None:
            title_id, members = fill.manifest.title_id, self._rosters[fill.key]
            if (title_id, members) not in self._assignment:
                if len(self._assignment) >= DUTIES_MAX:
                    self._assignment.clear()
                chunk_count = self._manifests[title_id].chunk_count
                self._assignment[title_id, members] = Assignment(
                    title_id, chunk_count, members, wants=self._wants[title_id]
                )
            rights = self._nominal_share[fill.key] = self._assignment[title_id, members].within(fill.me)
        return rights

    # ---- 7: the end

    def completed(self, late: Sequence[str], limit_s: float) -> None:
        """Look at the end of a run, `limit_s` seconds after the last fault was healed: who is not complete, and why."""
        if late:
            raise InvariantBroken(
                f"{len(late)} caches are not complete {limit_s:g} s after the last fault was healed: "
                + ", ".join(late[:4])
            )


class CheckedFill(Fill):
    """The fill logic, with all that goes in and comes out looked at."""

    def __init__(
        self,
        checkers: Checkers,
        manifest: Manifest,
        me: NodeInfo,
        policy: FillPolicy,
        random: Random,
        now: float,
        durable: Bitmap,
        *,
        heard: bool,
        sealed: Bitmap,
        right: Bitmap,
        urgency: Urgency,
        beside: Mapping[TitleId, FillTask],
        wanted: Bitmap | None,
        may_ask: Callable[[], bool] = lambda: True,
    ) -> None:
        """As `Fill`; `sealed` and `right` are those of the disk, `beside` is what its cache's engine fills.

        `may_ask` tells whether the cache's fill windows let it ask for chunks now.
        """
        super().__init__(manifest, me, policy, random, now, durable, heard=heard, wanted=wanted)
        self.checkers = checkers
        self.key = me.id, manifest.title_id
        self.sealed = sealed
        self.right = right
        self.urgency = urgency
        self.beside = beside
        self.may_ask = may_ask
        self.began_at = self.moved_at = now
        """When it began, or a chunk came."""
        self.asked = Outstanding()
        self.escalations_seen = 0
        """How many were counted when what it had decided was last looked at."""
        checkers.fills.append(self)

    def handle(self, now: float, event: events.Event) -> None:
        """Take in one event."""
        if (look := _LOOKS.get(type(event))) is not None:
            look(self, now, event)
        super().handle(now, event)

    def _look_at_roster(self, _: float, event: events.RosterChanged) -> None:
        self.checkers.told_members(self, event.members, event.wants)

    def _look_at_chunk(self, now: float, event: events.ChunkReceived) -> None:
        self.moved_at = now
        if (asked := self.asked.end(event.request)) is not None:
            self.checkers.bytes_by_scope[asked.scope] += self.manifest.chunk_length(asked.chunk)

    def _look_at_failure(self, _: float, event: events.RequestFailed) -> None:
        if (asked := self.asked.end(event.request)) is not None and event.corrupt:
            self.checkers.accused(self.me.id, asked.source, event.reason)

    def _look_at_end(self, _: float, event: events.SourceFull | events.SourceBusy | events.BudgetSpent) -> None:
        self.asked.end(event.request)

    def _look_at_accusation(self, _: float, event: events.SourceMisbehaved) -> None:
        self.checkers.accused(self.me.id, event.source, event.reason)

    def _look_at_loss(self, _: float, event: events.SourceLost) -> None:
        self.asked.lose(event.source)

    def poll_actions(self, now: float) -> list[actions.Action]:
        """Decide and return what to do now, in order."""
        made = super().poll_actions(now)
        if made:
            note = self.checkers.note
            for action in made:
                match action:
                    case actions.RequestChunk(request, source, chunk):
                        note(self.me.id, f"request {request} of {chunk} from {source}")
                        self.checkers.requests += 1
                    case actions.CancelRequest(request, source):
                        note(self.me.id, f"cancel {request} at {source}")
                    case actions.AnnounceChunks(chunks):
                        note(self.me.id, f"verified {chunks}")
        self.checkers.decided(now, self, made)
        return made


_LOOKS: Final[dict[type, Callable[[CheckedFill, float, Any], None]]] = {
    events.RosterChanged: CheckedFill._look_at_roster,
    events.ChunkReceived: CheckedFill._look_at_chunk,
    events.RequestFailed: CheckedFill._look_at_failure,
    events.SourceFull: CheckedFill._look_at_end,
    events.SourceBusy: CheckedFill._look_at_end,
    events.BudgetSpent: CheckedFill._look_at_end,
    events.SourceMisbehaved: CheckedFill._look_at_accusation,
    events.SourceLost: CheckedFill._look_at_loss,
}


def _check_policy(now: float, fill: CheckedFill, action: actions.RequestChunk, scope: Scope) -> None:
    """Look whether the fleet's policy lets a fill ask a source, as far as that can be told without its logic."""
    rule, node = fill.policy.reach, fill.sources[action.source].node
    wait_s = (0.0, rule.region_s, rule.world_s, rule.origin_s)[scope]
    if wait_s is None or now < fill.began_at + wait_s:
        raise InvariantBroken(f"{fill.me.id} asks {action.source} for chunk {action.chunk}: the policy has it wait")
    if rule.regions and node is not None and node.region not in rule.regions:
        raise InvariantBroken(f"{fill.me.id} asks {action.source} in {node.region}, from where the title may not come")


def _check_turn(now: float, fill: CheckedFill) -> None:
    """Look whether a fill that asks for something may: a more urgent one that has just moved goes first."""
    for task in fill.beside.values():
        other = task.fill
        if isinstance(other, CheckedFill) and other.urgency < fill.urgency and now < other.moved_at + STUCK_S:
            raise InvariantBroken(f"{fill.me.id} asks for {fill.manifest.name}, while {other.manifest.name} goes first")
