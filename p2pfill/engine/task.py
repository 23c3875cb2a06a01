"""One title being filled on one cache: what is to be told, committed and read, and when. Pure.

The decisions are `swarm.fill.Fill`'s. What stands here is what they mean over time: neighbours are heard before
anything crosses a border, announcements keep a pace, commits are batched, and a title that is whole goes live.
`Engine` hands events in, performs the fill's actions with it, and asks `advance` what the time has brought.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from p2pfill.engine.requests import ChunkStore, Receive, RequestStep
from p2pfill.errors import P2PFillError, TransferError
from p2pfill.model.reports import TitleState, clipped
from p2pfill.model.timing import ANNOUNCE_S, COMMIT_INTERVAL_S, DISCOVERY_TIMEOUT_S, WRITE_OUT_BYTES, slots_for
from p2pfill.swarm import events

if TYPE_CHECKING:
    from p2pfill.swarm.fill import Fill

NEVER: Final = float("inf")


class ReadOrigin(msgspec.Struct, frozen=True):
    """Read a chunk from an origin, check it, write it (`requests.write_whole`); say what came (`Engine.read_ended`)."""

    task: FillTask
    url: str
    receive: Receive


class StopRead(msgspec.Struct, frozen=True):
    """Stop reading: the receive is abandoned, and what still comes of it is of no use."""

    task: FillTask
    receive: Receive


class Commit(msgspec.Struct, frozen=True):
    """Make chunks durable; say so (`Engine.committed`)."""

    task: FillTask
    chunks: list[int]


class BeginWriteOut(msgspec.Struct, frozen=True):
    """Have the disk begin with chunks; say when it has taken them (`Engine.write_out_begun`)."""

    task: FillTask
    chunks: list[int]


class GoLive(msgspec.Struct, frozen=True):
    """Show the whole title; say so (`Engine.went_live`)."""

    task: FillTask


class EndFill(msgspec.Struct, frozen=True):
    """The fill is over; its state says whether the title is live or the fill has failed."""

    task: FillTask


class LimitSlots(msgspec.Struct, frozen=True):
    """Let a title take so many upload slots; None: as many as there are."""

    task: FillTask
    slots: int | None


class FillTask:
    """The fill of one title. `stored` is where its bytes go."""

    __slots__ = (
        "_begun", "_commit_at", "_committing", "_discover_until", "_told_at", "_unheard", "_writing_out", "error",
        "fault", "fill", "is_exempt", "late", "manifest", "origin_news", "origins", "origins_held_back", "reads",
        "repairs", "route_costs", "slots", "state", "stored", "title_id", "to_announce", "to_claim", "to_commit",
    )  # fmt: skip

    def __init__(
        self, fill: Fill, stored: ChunkStore, now: float, unheard: Iterable[str] = (), *, repairs: bool = False
    ) -> None:
        """`unheard` are the caches that may hold a part of the title already and were not heard yet.

        `repairs`: the title is live, and what it lacks turned out to be bad.
        """
        self.fill = fill
        self.manifest = fill.manifest
        self.title_id = fill.manifest.title_id
        self.stored = stored
        self.repairs = repairs
        self.is_exempt = repairs
        """It goes on outside of the cache's fill windows."""
        self.state: TitleState = "repairing" if repairs else "filling"
        self.error = ""
        """Why it has failed, if so."""
        self.fault: P2PFillError | None = None
        self.origins: dict[str, float] = {}
        """Origin -> money for a gigabyte."""
        self.route_costs: dict[str, float] = {}
        """Cache -> what a byte of it costs by its route, where that is known."""
        self.reads: dict[int, tuple[str, Receive]] = {}
        """Request -> URL and receive, of the reads under way."""
        self.late: list[events.Event] = []
        """What became known while the fill's actions were performed."""
        self.origin_news: Callable[[], tuple[Collection[str], Mapping[str, str]]] = lambda: ((), {})
        """Of the driver: origins of which bytes have come since the last call, and those that fail, with the reason."""
        self.origins_held_back: Callable[[], Collection[str]] = tuple
        """Of the driver: origins of which bytes have waited for this cache's limits since the last call."""
        self.to_announce: list[int] = []
        self.to_claim: list[int] = []
        self.to_commit: list[int] = []
        self.slots = 0
        """Upload slots that this title may take."""
        self._unheard = set(unheard)
        self._discover_until = now + DISCOVERY_TIMEOUT_S if self._unheard else NEVER
        self._told_at = -NEVER
        self._commit_at = now
        self._committing = False
        self._begun = 0
        """How many of `to_commit` the disk was told to begin with."""
        self._writing_out = False

    @property
    def is_over(self) -> bool:
        """Whether the title is live, or the fill has failed."""
        return self.state in ("live", "failed")

    def holdings_received(self, neighbour: str) -> bool:
        """Note that a cache has said what it holds, which may be nothing; True where it was the last one to."""
        if neighbour not in self._unheard:
            return False
        self._unheard.discard(neighbour)
        if self._unheard:
            return False
        self._discover_until = NEVER
        return True

    def fail(self, error: P2PFillError) -> None:
        """Give up."""
        self.state, self.error, self.fault = "failed", clipped(str(error)) or type(error).__name__, error

    def lose(self, chunks: Collection[int]) -> None:
        """Neither announce nor commit chunks that have turned out to be bad, and go on if all seemed to be there."""
        lost = set(chunks)
        self._begun -= sum(chunk in lost for chunk in self.to_commit[: self._begun])
        self.to_commit = [chunk for chunk in self.to_commit if chunk not in lost]
        self.to_announce = [chunk for chunk in self.to_announce if chunk not in lost]
        self.resume()

    def resume(self) -> None:
        """Go on though the title was about to be shown: it is not whole after all."""
        if self.state == "verifying":
            self.state = "repairing" if self.repairs else "filling"

    def stop_reads(self) -> list[Receive]:
        """Abandon what is being read from origins, and return it."""
        receives = [receive for _, receive in self.reads.values() if receive.step(RequestStep.ABANDON)]
        self.reads.clear()
        return receives

    # ---- what is verified here

    def verified(self, now: float, chunks: Iterable[int]) -> None:
        """Note that chunks are verified: they are to be announced, and committed."""
        if not self.to_commit and now >= self._commit_at:
            self._commit_at = now + COMMIT_INTERVAL_S
        self.to_commit.extend(chunks)
        self.to_announce.extend(chunks)

    def next_slots(self, most: int) -> int | None:
        """Return how many upload slots the title may have now; None where that is what it has."""
        slots = slots_for(self.fill.ledger.held, most)
        if slots == self.slots:
            return None
        self.slots = slots
        return slots

    # ---- time

    def next_wakeup(self) -> float:
        """Return when `advance` is to be called though nothing happens."""
        # At the end of each tick: without calls.
        wake_at = self.fill.next_wakeup()
        if self._discover_until < wake_at:
            wake_at = self._discover_until
        if self.to_announce or self.to_claim:
            tell_at = self._told_at + ANNOUNCE_S
            if tell_at < wake_at:
                wake_at = tell_at
        if self.to_commit and not self._committing and self._commit_at < wake_at:
            wake_at = self._commit_at
        return wake_at

    def discover_again(self, now: float) -> None:
        """Have it take the time again until all that may hold a part of the title have said so."""
        self._unheard.clear()
        self._discover_until = now + DISCOVERY_TIMEOUT_S

    def is_discovery_over(self, now: float) -> bool:
        """Tell, once, that the caches that may hold a part of the title have had the time to say so."""
        if now < self._discover_until:
            return False
        self._discover_until = NEVER
        self._unheard.clear()
        return True

    def take_news(self, now: float, *, at_once: bool = False) -> tuple[list[int], list[int]] | None:
        """Return the chunks to announce and to claim, where it is time to; None where not, or where there are none."""
        if not (self.to_announce or self.to_claim) or (now < self._told_at + ANNOUNCE_S and not at_once):
            return None
        news = self.to_announce, self.to_claim
        self.to_announce, self.to_claim = [], []
        self._told_at = now
        return news

    def take_commit(self, now: float) -> list[int] | None:
        """Return the chunks to commit now: every `COMMIT_INTERVAL_S`, and when nothing is left to fetch."""
        if self._committing or not self.to_commit:
            return None
        if now < self._commit_at and self.fill.ledger.is_lacking:
            return None
        chunks, self.to_commit, self._begun = self.to_commit, [], 0
        self._committing = True
        return chunks

    def committed(self, now: float, took_s: float) -> None:
        """Note that a commit has ended. Where it took long others wait for the disk too: it gets half of the time."""
        self._committing = False
        self._commit_at = now + max(COMMIT_INTERVAL_S, took_s)

    def take_write_out(self) -> list[int] | None:
        """Return the chunks with which the disk is to begin: between two commits it would wait, and then they for it.

        See docs/experiments.md, "Disks and the page cache".
        """
        if self._writing_out or (len(self.to_commit) - self._begun) * self.manifest.chunk_size < WRITE_OUT_BYTES:
            return None
        chunks, self._begun = self.to_commit[self._begun :], len(self.to_commit)
        self._writing_out = True
        return chunks

    def write_out_begun(self) -> None:
        """Note that the disk has taken what it was given."""
        self._writing_out = False


def withdrawn() -> TransferError:
    """Return why a fill ends that nobody wants any more; what is verified stays on disk for another time."""
    return TransferError("the fill was withdrawn")
