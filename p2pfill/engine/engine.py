"""One cache's engine: the titles that it fills, its links, and what is to be done for them. Pure.

Contract: the driver tells the engine what happens, with the time (`now`, which never goes back) as the first argument;
at the end of the tick it calls `poll(now)` and performs what that returns, in order; and it calls `poll` again no
later than `next_wakeup()`. Nothing here reads a clock, opens a socket, touches a file or draws chance but from the
`Random` that it is given, so the node's driver (`p2pfill.node`, Trio) and the simulator's (`p2pfill.sim`, virtual time)
run the same engine, and neither decides.

Messages go out through the `Channel` of each link, which queues them. What a remote does wrong leaves as
`RemoteProtocolError`, and the driver ends that link. An exception of any other kind is ours.

What one title raises fails that title, and what one link raises ends that link (`Faulted` says so); nothing else is
touched. A driver that was stopped for a while, as when a virtual machine moves, has all waits begin anew: nobody was
silent but itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from p2pfill.engine.dialler import NEVER, Dial, Dialler
from p2pfill.engine.link import Channel, Encryption, Link, OpenStream, Owner, WakeUploads
from p2pfill.engine.requests import Arrival, ChunkStore, Lock, Outcome, Receive, RequestBook, RequestState, RequestStep
from p2pfill.engine.task import (
    BeginWriteOut,
    Commit,
    EndFill,
    FillTask,
    GoLive,
    LimitSlots,
    ReadOrigin,
    StopRead,
    withdrawn,
)
from p2pfill.errors import P2PFillError, RemoteProtocolError, StoreError, is_fault
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.faults import as_p2pfill_error
from p2pfill.model.identity import Identity
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import clipped
from p2pfill.model.timing import FROZEN_S, PROGRESS_S, SCHEDULER_S
from p2pfill.model.urgency import Urgency
from p2pfill.protocol import messages as m
from p2pfill.protocol.tokens import Spent, TokenRegistry
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import ALL_WANTED, IN_ISP, IN_ORIGIN, Scope, Wants
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.scheduler import FillScheduler

if TYPE_CHECKING:
    from random import Random


Said = TypeVar("Said")


class Faulted(msgspec.Struct, frozen=True):
    """Something in here has raised what it should not, and what it was done for has ended: write it into the log."""

    doing: str
    error: BaseException


class Warn(msgspec.Struct, frozen=True):
    """Something that people should know: write it into the log."""

    text: str


Effect = (
    Dial
    | OpenStream
    | WakeUploads
    | ReadOrigin
    | StopRead
    | Commit
    | BeginWriteOut
    | GoLive
    | LimitSlots
    | EndFill
    | Faulted
    | Warn
)

NOT_ORDERED: Final = Urgency()
"""Of titles that are filled without a tracker, or served though nobody orders them any more."""

FINISH_S: Final = 10.0
"""For what is in flight when a fill window ends: a chunk over a slow link. What has not come then is given up."""

PROBE_S: Final = 3.0
"""For a remote that is linked to answer a Ping, when somebody else introduces himself by its name: a few round trips
and a busy event loop."""

_OVER: Final = frozenset(("live", "failed"))
"""States of a fill that is over, see `FillTask.is_over`."""

_VERIFIED: Final = Outcome.VERIFIED
"""A name of a module is found ten times as fast as one of an enumeration, and this is asked with each chunk."""

_MOVING: Final[frozenset[type]] = frozenset((events.ChunkReceived, events.ChunkFound))

PROBE_NONCE: Final = 1 << 31
"""Pings that the engine sends are numbered from here on, those that keep a link alive from 1."""


class Engine:
    """The engine of the cache `me`."""

    def __init__(
        self,
        me: NodeInfo,
        random: Random,
        random_bytes: Callable[[int], bytes],
        new_lock: Callable[[], Lock],
        upload_slots: int,
    ) -> None:
        """`random_bytes(n)` makes tokens that nobody can predict; `new_lock` guards what threads look at."""
        self.me = me
        self.now = 0.0
        """The time of the tick that is being dealt with."""
        self.is_stopping = False
        """No more requests are taken."""
        self.links: dict[str, Link] = {}
        """By the id of the remote, which has introduced itself."""
        self.tasks: dict[TitleId, FillTask] = {}
        """The fills that run."""
        self.live: dict[TitleId, Bitmap] = {}
        """Live titles that no fill works at -> the chunks that can be served: those here, unless some are bad."""
        self.opening: dict[TitleId, None] = {}
        """Titles that are live on disk and about to be served, in the order in which they are opened."""
        self.dialler = Dialler(me.id, random)
        self._random_bytes = random_bytes
        self._tokens: TokenRegistry[Link] = TokenRegistry(random_bytes)
        self._new_lock = new_lock
        self._upload_slots = upload_slots
        self._admits = 1.0
        """The part of the upload slots for which requests may wait (`engine.health`)."""
        self.received_bytes = 0
        """Payload that has come in since the start, of use or not, for fills that go by the cache's fill windows."""
        self.exempt_bytes = 0
        """And for those that do not."""
        self.regional_bytes = 0
        """Payload that has come from caches beyond the ISP since the start, of use or not."""
        self._regional_max = NEVER
        """So much of it may come in all."""
        self._regional_budget = ""
        """The budget that says so."""
        self._is_spent = False
        """Fills know that no more may come of them."""
        self._refused_bytes = 0
        """The length of the chunk for which there was not enough left."""
        self._exempt: frozenset[TitleId] = frozenset()
        """Titles that are ordered out of cycle."""
        self._closes_at_bytes = NEVER
        """Once so many are received, a budget is used up."""
        self._hand_back_at = NEVER
        """When what is still in flight after the end of a fill window is given up."""
        self._urgencies: dict[TitleId, Urgency] = {}
        """Of what is ordered here, live or not, but for those that are `NOT_ORDERED`. Threads look titles up."""
        self._scheduler = FillScheduler()
        self._scheduler_at = NEVER
        self._progress_at = NEVER
        self._awake_at = NEVER
        """When the driver was to poll at the latest."""
        self._timers_at = -NEVER
        """Nothing here waits for an earlier time, as far as the driver was told at the end of its last tick."""
        self._probes: dict[Link, tuple[Link, float]] = {}
        """A link whose remote is being asked whether it lives -> the link that came by its name, and until when."""
        self._probe_nonce = PROBE_NONCE
        self._dirty: dict[FillTask, None] = {}
        """Fills that want to decide."""
        self._to_wake: dict[Link, None] = {}
        """Links to whose remotes more is to be sent than before, or something more urgent."""
        self._effects: list[Effect] = []

    # ---- titles

    def begin_fill(
        self,
        now: float,
        fill: Fill,
        stored: ChunkStore,
        origins: Iterable[str] = (),
        members: Iterable[NodeInfo] = (),
        unlinked: Sequence[str] = (),
        unheard: Iterable[str] = (),
        urgency: Urgency | None = None,
        wants: Wants = ALL_WANTED,
        soon: Iterable[str] = (),
        *,
        repairs: bool = False,
    ) -> FillTask:
        """Begin to fill a title into `stored`, or resume; with `repairs` it is live, and lacks what turned out bad.

        `members` are the other caches that want it, `unlinked` those of them that this one knows by name only, and
        `unheard` those that may hold a part of it and were not heard yet. `wants` are the chunks of each of all these,
        this cache among them, that wants some only; `soon` as in `set_members`.
        """
        self.now = now
        task = FillTask(fill, stored, now, unheard, repairs=repairs)
        task.is_exempt = repairs or task.title_id in self._exempt
        self.tasks[task.title_id] = task
        self.opening.pop(task.title_id, None)
        if urgency is not None:
            self._urgencies[task.title_id] = urgency
        self._in_task(task, lambda: self.set_origins(now, task, origins), None)
        # Before the first decision: a cache that knows of nobody else is master of everything.
        self._in_task(task, lambda: self.set_members(now, task, members, unlinked, wants, soon), None)
        if task.is_over:
            return task  # it cannot even be told what to fill
        # Before the first decision too: a more urgent title may be under way. And anew: it was not there to be told.
        self._scheduler.drop(task.title_id)
        self.activate(now, task.title_id)
        self._progress_at = min(self._progress_at, now + PROGRESS_S)
        self._in_task(task, lambda: self._limit_slots(task), None)
        if self._is_spent:
            self.handle_event(task, events.BudgetSpent(self._regional_budget))
        self._dirty[task] = None
        self._each_link(lambda link: link.subscribe(task))
        self._each_link(lambda link: link.show(task.title_id))
        return task

    def set_admits(self, now: float, part: float) -> None:
        """Have requests of other caches wait for this part of the upload slots; with 0 those that wait are refused."""
        self.now = now
        self._admits = part
        if not part:
            self._each_link(lambda link: link.refuse_all())

    def is_busy(self, link: Link) -> bool:
        """Tell whether a request is refused, since the cache serves its viewers.

        One request of each remote may wait, unless nothing is taken at all: what only this cache has would else be
        fetched from far, or not, by who happens to come first.
        """
        if self._admits >= 1.0 or (self._admits and not len(link.uploads)):
            return False
        return sum(len(one.uploads) for one in self.links.values()) >= int(self._upload_slots * self._admits)

    def serve(self, now: float, title_id: TitleId, chunks: Bitmap) -> None:
        """Serve these chunks of a title that is live on disk: all, unless only some of its files are here."""
        self.live[title_id] = chunks.copy()
        self.opened(now, title_id)

    def opened(self, now: float, title_id: TitleId) -> None:
        """Take note that a title found on disk can be served now, or cannot: remotes that asked are answered."""
        self.now = now
        self.opening.pop(title_id, None)
        self._each_link(lambda link: link.show(title_id))

    def lose(self, now: float, title_id: TitleId, chunks: Collection[int]) -> None:
        """Serve chunks no more that are bad on disk, and fetch them anew if a fill runs.

        Other caches are told, and refused what they have asked for of them.
        """
        self.now = now
        if (task := self.tasks.get(title_id)) is not None:
            task.lose(chunks)
            self.handle_event(task, events.ChunksLost(tuple(chunks)))
        elif (held := self.live.get(title_id)) is not None:
            for chunk in chunks:
                held.discard(chunk)
        self._each_link(lambda link: link.lose(title_id, chunks))

    def regain(self, now: float, title_id: TitleId, chunks: Iterable[int]) -> None:
        """Serve chunks of a live title again that were lost: they are good after all."""
        self.now = now
        if (held := self.live.get(title_id)) is not None:
            held.add_all(chunks)
            self._each_link(lambda link: link.show(title_id))

    def forget(self, now: float, title_id: TitleId) -> None:
        """Serve a title no more: other caches are told, and refused what they have asked for of it."""
        self.now = now
        if (task := self.tasks.get(title_id)) is not None:
            self.withdraw(now, task)
        held = self.live.pop(title_id, None)
        self.opening.pop(title_id, None)
        if held is not None:
            self._each_link(lambda link: link.lose(title_id, range(len(held))))

    def set_origins(
        self, now: float, task: FillTask, urls: Iterable[str], costs: Mapping[str, float] | None = None
    ) -> None:
        """Use these origins besides those already known. `costs` is money for a gigabyte; those not named are free."""
        self.now = now
        for url in urls:
            if url not in task.origins:
                task.origins[url] = 0.0
                self.handle_event(task, events.OriginConfigured(url))
            cost = task.origins[url] if costs is None else costs.get(url, 0.0)
            if cost != task.origins[url]:
                task.origins[url] = cost
                self.handle_event(task, events.OriginPriced(url, cost))

    def set_route_costs(self, now: float, task: FillTask, costs: Mapping[str, float]) -> None:
        """Note what bytes of other caches cost by their routes; those not named cost nothing that is known."""
        self.now = now
        if task.route_costs != costs:
            task.route_costs = dict(costs)
            self.handle_event(task, events.RoutesPriced(dict(costs)))

    def set_members(
        self,
        now: float,
        task: FillTask,
        members: Iterable[NodeInfo],
        unlinked: Sequence[str] = (),
        wants: Wants = ALL_WANTED,
        soon: Iterable[str] = (),
    ) -> None:
        """Take in the caches that want a title, and the ids of those that this one is not to be linked with.

        `wants` are the chunks of each of them that wants some only; `soon` are those whose fill windows are about to
        open. Those whose windows are closed are not among the members.
        """
        self.now = now
        self.handle_event(task, events.RosterChanged(tuple(members), tuple(unlinked), dict(wants), frozenset(soon)))

    def set_policy(self, now: float, task: FillTask, policy: FillPolicy) -> None:
        """Have a fill go by another policy."""
        self.now = now
        if policy != task.fill.policy:
            self.handle_event(task, events.PolicyChanged(policy))

    def withdraw(self, now: float, task: FillTask) -> None:
        """Stop a fill; what is verified stays on disk for another time."""
        self.fail(now, task, withdrawn())

    def fail(self, now: float, task: FillTask, error: P2PFillError) -> None:
        """End a fill that cannot go on."""
        self.now = now
        if not task.is_over:
            task.fail(error)
            self._end(task)

    def committed(self, now: float, task: FillTask, chunks: Sequence[int], took_s: float) -> None:
        """Take note that chunks are durable."""
        self.now = now
        task.committed(now, took_s)
        self.handle_event(task, events.ChunksCommitted(chunks))
        self._dirty[task] = None

    def reuse(self, now: float, task: FillTask, chunks: Sequence[int]) -> None:
        """Ask for nothing of chunks that are about to be copied from another version of the title, until they were."""
        self.now = now
        self.handle_event(task, events.ReuseBegun(chunks))

    def reused(self, now: float, task: FillTask, chunks: Sequence[int], failed: Sequence[int]) -> None:
        """Take note that chunks were copied and verified, and that others turned out not to be the title's."""
        self.now = now
        self.handle_event(task, events.ReuseEnded(chunks, failed))

    def write_out_begun(self, now: float, task: FillTask) -> None:
        """Take note that the disk has taken what it was given to begin with."""
        self.now = now
        task.write_out_begun()
        self._dirty[task] = None

    def went_live(self, now: float, task: FillTask) -> None:
        """Take note that a title is shown."""
        self.now = now
        if not task.is_over:
            task.state = "live"
            ledger = task.fill.ledger
            self.live[task.title_id] = ledger.have & ledger.wanted
            self._end(task)

    def not_whole(self, now: float, task: FillTask) -> None:
        """Take note that a title could not be shown, since a chunk was lost meanwhile."""
        self.now = now
        task.resume()
        self._dirty[task] = None

    def _end(self, task: FillTask) -> None:
        """A fill is over: its links and its reads are told, and less urgent titles go on."""
        for receive in task.stop_reads():
            self.emit(StopRead(task, receive))
        self.tasks.pop(task.title_id, None)
        self._each_link(lambda link: link.unsubscribe(task))
        if task.state == "failed":
            if task.repairs:
                self.live[task.title_id] = task.fill.ledger.have.copy()
            self._each_link(lambda link: link.show(task.title_id))  # it is served no more, or not all of it
        self._dirty.pop(task, None)
        if not self.tasks:
            self._progress_at = NEVER
        self.emit(EndFill(task))
        self.yield_to_others(self.now, task.title_id)

    # ---- several titles at once

    def urgency(self, title_id: TitleId) -> Urgency:
        """Return how urgent a title is here. Callable from any thread."""
        return self._urgencies.get(title_id, NOT_ORDERED)

    def set_urgencies(
        self, now: float, changed: Mapping[TitleId, Urgency], gone: Iterable[TitleId] = ()
    ) -> None:
        """Note how urgent titles are that are ordered here, and which are so no more; what runs follows at once."""
        self.now = now
        before = [self.urgency(title_id) for title_id in changed]
        known = [self._urgencies.pop(title_id, NOT_ORDERED) for title_id in gone]
        if before == list(changed.values()) and all(urgency == NOT_ORDERED for urgency in known):
            return
        for title_id, urgency in changed.items():
            if urgency == NOT_ORDERED:
                self._urgencies.pop(title_id, None)
            else:
                self._urgencies[title_id] = urgency
        self._reschedule(now)
        self._to_wake.update(dict.fromkeys(self.links.values()))

    def _reschedule(self, now: float) -> None:
        for title_id in self._scheduler.titles():
            self._schedule(now, title_id)
        self._look_at_scheduler()

    def _schedule(self, now: float, title_id: TitleId) -> None:
        task = self.tasks.get(title_id)
        is_exempt = title_id in self._exempt if task is None else task.is_exempt
        self._scheduler.put(now, title_id, self.urgency(title_id), is_exempt=is_exempt)

    def activate(self, now: float, title_id: TitleId) -> None:
        """Let less urgent titles wait for one that is to be filled now; its fill may begin a little later."""
        self.now = now
        self._schedule(now, title_id)
        self._look_at_scheduler()

    def yield_to_others(self, now: float, title_id: TitleId) -> None:
        """Let less urgent titles ask: this one has nothing to ask for, or cannot."""
        self.now = now
        self._scheduler.drop(title_id)
        self._look_at_scheduler()

    def note_moved(self, task: FillTask, count: int = 0) -> None:
        """Note that payload of a title is arriving, `count` bytes in whole chunks: less urgent ones wait."""
        if self._scheduler.saw(self.now, task.title_id, count):
            self._look_at_scheduler()

    def _look_at_scheduler(self) -> None:
        self._scheduler_at = self.now + SCHEDULER_S if self._scheduler.awaits_time else NEVER
        for title_id, hold in self._scheduler.look(self.now).items():
            if (task := self.tasks.get(title_id)) is not None:
                self.handle_event(task, events.Resumed() if hold is None else events.Paused(hold))

    # ---- fill windows

    @property
    def is_open(self) -> bool:
        """Whether the cache may fill by its windows now."""
        return self._scheduler.is_open

    def set_open(
        self, now: float, *, is_open: bool, left: float = NEVER, is_announced: bool = False, hand_back: bool = False
    ) -> None:
        """Fill from now on, or do not: a fill window has begun, or has ended, or its budget is used up.

        It closes by itself when `left` bytes more have come. Where that it opens was not announced before, nothing
        crosses a border until the others may know: they would fetch the same. What is in flight at the end is given up
        with `hand_back`, and else received, if it comes in `FINISH_S`.
        """
        self.now = now
        self._closes_at_bytes = self.received_bytes + left
        if is_open == self._scheduler.is_open:
            return
        self._scheduler.set_open(now, is_open=is_open)
        if is_open and not is_announced:
            for task in list(self.tasks.values()):
                if not task.is_exempt:
                    self._await_others(task)
        self._progress_at = min(self._progress_at, now + PROGRESS_S)
        self._look_at_scheduler()
        self._hand_back_at = NEVER if is_open else now + FINISH_S
        if not is_open and hand_back:
            self._hand_back()

    def set_exempt(self, now: float, titles: Iterable[TitleId]) -> None:
        """Note which titles are ordered out of cycle: they are filled whether the cache is open or not."""
        self.now = now
        self._exempt = frozenset(titles)
        for title_id, task in list(self.tasks.items()):
            was_exempt, task.is_exempt = task.is_exempt, task.repairs or title_id in self._exempt
            if self.is_open or task.is_exempt == was_exempt:
                continue
            if task.is_exempt:
                self._await_others(task)
            else:
                self._hand_back_at = min(self._hand_back_at, now + FINISH_S)  # as at the end of a window
        self._reschedule(now)
        self._progress_at = min(self._progress_at, now + PROGRESS_S)

    def _await_others(self, task: FillTask) -> None:
        """Let a fill that goes on cross borders when the others may know that, who would fetch the same."""
        task.discover_again(self.now)
        self.handle_event(task, events.OthersUnaware())

    def _hand_back(self) -> None:
        self._hand_back_at = NEVER
        for task in list(self.tasks.values()):
            if not task.is_exempt:
                self.handle_event(task, events.HandedBack())
                self._dirty[task] = None

    # ---- budgets of the fleet's policy

    def set_regional_max(self, now: float, most: float, budget: str = "") -> None:
        """Let so many bytes come in all, since the start, from caches beyond the ISP: the budget has no more for this
        cache. What was asked for already comes."""
        self.now = now
        self._regional_max, self._regional_budget = most, budget
        self._look_at_budget()

    def _look_at_budget(self) -> None:
        """Let fills ask caches beyond the ISP again where there is enough left: more was handed out, or what was asked
        for has failed, which the tracker cannot see and gives nothing for."""
        # Not for less than what was refused: they would be told, be refused, and begin to wait anew time and again.
        if self._is_spent and self._may_cross(self._refused_bytes):
            self._is_spent = False
            for task in list(self.tasks.values()):
                self.handle_event(task, events.BudgetRenewed())

    @property
    def regional_asked(self) -> int:
        """The bytes that caches beyond the ISP were asked for and have not come, or were not taken in."""
        far = [link for link in self.links.values() if link.scope > Scope.ISP]
        return sum(receive.length for link in far for receive in link.book.outstanding())

    def _may_cross(self, length: int) -> bool:
        """Tell whether so many bytes more may come from caches beyond the ISP."""
        # Mostly there is no such budget, and then nothing is added up.
        return self._regional_max == NEVER or self.regional_bytes + self.regional_asked + length <= self._regional_max

    def _refuse_crossing(self, task: FillTask, request: int, length: int) -> None:
        task.late.append(events.BudgetSpent(self._regional_budget, request))
        self._refused_bytes = length
        if not self._is_spent:
            self._is_spent = True
            for other in list(self.tasks.values()):
                if other is not task:
                    self.handle_event(other, events.BudgetSpent(self._regional_budget))

    # ---- links

    def want_links(self, now: float, nodes: Iterable[NodeInfo]) -> None:
        """Be linked with the caches that the roster names."""
        self.now = now
        self.dialler.want(now, nodes)

    def dial_failed(self, now: float, node_id: str) -> None:
        """Take note that a cache could not be connected to."""
        self.now = now
        self.dialler.failed(now, node_id)

    def open_link(
        self, channel: Channel, wake: Callable[[Link], object], dialled: str = "", identity: Identity | None = None,
        encryption: Encryption | None = None,
    ) -> Link:
        """Return the link over a channel that has just been opened.

        `wake` is called, in whatever thread, when there is something to reap; `dialled` is whom we have dialled, and
        `identity` whose certificate the remote has shown. With that goes `encryption`, for data streams.
        """
        # The book calls for the link that it belongs to, which is made with it.
        book = RequestBook(lambda: wake(link), self._new_lock())
        link = Link(self, channel, book, self._new_lock(), dialled, identity, encryption)
        return link

    def handle(self, now: float, link: Link, message: m.Message) -> None:
        """Take in one message of a link. Raises `RemoteProtocolError`."""
        self.now = now
        try:
            link.handle(message)
        except RemoteProtocolError:
            raise
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.link_faulted(link, error)

    def close_link(self, link: Link, code: m.GoodbyeCode, reason: str) -> None:
        """End a link in good order."""
        self._in_link(link, lambda: link.close(code, reason))

    def link_ended(self, now: float, link: Link) -> None:
        """Take note that a link is no more, introduced or not."""
        self.now = now
        self._tokens.revoke(link)
        probe = self._probes.pop(link, None)
        if link.remote is not None and self.links.get(link.remote.id) is link:
            del self.links[link.remote.id]
            self._in_link(link, link.end)
        else:
            link.is_over = True
        if link.dialled:
            self.dialler.failed(now, link.dialled)
        if probe is not None and not probe[0].is_over:
            self._in_link(probe[0], lambda: self._take_in(probe[0]))

    def admit(self, link: Link) -> None:
        """Take in a link whose Hello has come. Raises `RemoteProtocolError` where it must not be.

        Where another link with that name is there, its remote is asked whether it lives, and is replaced if not: a
        stranger must not take a name by saying it, and a cache that has lost its connections must not wait long.
        """
        if link.remote is None or link.remote.id == self.me.id:
            raise RemoteProtocolError("a node cannot be linked with itself; are two nodes running under one id?")
        before = self.links.get(link.remote.id)
        if before is None:
            self._take_in(link)
        elif before in self._probes:
            self.close_link(link, m.GoodbyeCode.DUPLICATE, "another link of that name is being looked at")
        else:
            self._probe_nonce = PROBE_NONCE + (self._probe_nonce + 1) % PROBE_NONCE
            self._probes[before] = link, self.now + PROBE_S
            self._in_link(before, lambda: before.channel.send(m.Ping(self._probe_nonce)))

    def ponged(self, link: Link) -> None:
        """Take note that a remote has answered a Ping: it lives, and the link that came by its name goes."""
        probe = self._probes.pop(link, None)
        if probe is not None:
            self.close_link(probe[0], m.GoodbyeCode.DUPLICATE, "a cache of that name is linked, and lives")

    def _take_in(self, link: Link) -> None:
        if link.remote is None:
            return
        self.links[link.remote.id] = link
        for task in list(self.tasks.values()):
            link.subscribe(task)
        # Where it had to wait until another of its name was found dead, it was told nothing meanwhile.
        link.show_all()

    def _end_probes(self, now: float) -> None:
        for before, (link, until) in list(self._probes.items()):
            if now < until:
                continue
            del self._probes[before]
            if link.is_over or link.remote is None:
                continue
            self.close_link(before, m.GoodbyeCode.DUPLICATE, "a newer link takes over")
            del self.links[link.remote.id]
            self._in_link(before, before.end)
            self._in_link(link, partial(self._take_in, link))

    def issue_token(self, link: Link, certificate: bytes) -> bytes:
        """Return a token for a data stream of a link's remote. Raises `LocalProtocolError` where there are too many."""
        return self._tokens.issue(link, self.now, certificate)

    def tokens_of(self, link: Link) -> int:
        """Return how many tokens a link's remote holds and has not shown."""
        return self._tokens.held_by(link, self.now)

    def spend_token(self, now: float, token: bytes, *, encrypted: bool = False) -> Spent[Link]:
        """Return which link a data stream belongs to, and which certificate it must show where it is `encrypted`.

        Raises `RemoteProtocolError` where its token is not good.
        """
        self.now = now
        return self._tokens.spend(token, now, encrypted=encrypted)

    # ---- the data plane

    def reap(self, now: float, link: Link) -> None:
        """Take in what has become of chunks that were asked for over a link."""
        self.now = now
        try:
            link.reap()
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.link_faulted(link, error)

    def stream_ended(self, now: float, link: Link, reason: str, *, breach: bool = False) -> None:
        """Take note that a data stream towards us has ended, or could not be opened; `breach` by the remote's fault."""
        self.now = now
        if breach:
            self._in_link(link, lambda: link.distrust(reason))
        self._in_link(link, lambda: link.stream_ended(reason))

    def sent(self, now: float, link: Link, request_id: int) -> None:
        """Take note that a chunk was sent whole."""
        self.now = now
        try:
            link.sent(request_id)
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.link_faulted(link, error)

    def read_ended(self, now: float, task: FillTask, url: str, arrival: Arrival) -> None:
        """Take in what has become of a read of an origin."""
        self.now = now
        receive = arrival.receive
        task.reads.pop(receive.request_id, None)
        # Whoever waited for the thread may have been cancelled, as where the node stops: then the thread is to end too,
        # and if it has done all by now, that is not known yet.
        is_late = not receive.step(RequestStep.ABANDON)
        if is_late and receive.state is RequestState.VERIFIED and arrival.outcome is not Outcome.VERIFIED:
            arrival = Arrival(receive, Outcome.VERIFIED, receive.length)
        if arrival.outcome is Outcome.VERIFIED:
            # An origin may have sent more than was asked for, or some of it twice.
            task.fill.duplicate_bytes += max(0, arrival.length - receive.length)
        self.arrived(Owner(task, receive.request_id), arrival, url, Scope.ORIGIN)

    def chunk_found(self, now: float, task: FillTask, chunk: int, source: str) -> None:
        """Take note of a chunk that came of an origin on the way to another one; it is verified and sealed."""
        self.now = now
        self.handle_event(task, events.ChunkFound(chunk, source))

    def origin_without_range(self, now: float, task: FillTask, url: str) -> None:
        """Take note that an origin answers each request with a whole file."""
        self.now = now
        self.handle_event(task, events.OriginWithoutRange(url))

    def origin_failing(self, now: float, task: FillTask, url: str, reason: str) -> None:
        """Take note that an origin has failed again and again."""
        self.now = now
        self.handle_event(task, events.OriginFailing(url, reason))

    def arrived(self, owner: Owner, arrival: Arrival, source: str, scope: Scope) -> None:
        """Take in what became of a receive from a source in `scope`."""
        task, request = owner
        if IN_ISP < scope < IN_ORIGIN:
            self.regional_bytes += arrival.length
        if task.is_exempt:
            self.exempt_bytes += arrival.length
        else:
            self.received_bytes += arrival.length
            if self.received_bytes >= self._closes_at_bytes and self.is_open:
                self.set_open(self.now, is_open=False)
        try:
            is_awaited = task.fill.is_outstanding(request)
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.task_faulted(task, error)
            is_awaited = False
        if arrival.outcome is _VERIFIED:
            if is_awaited:
                self.handle_event(task, events.ChunkReceived(request))
            else:
                self.handle_event(task, events.ChunkFound(arrival.receive.chunk, source))
            return
        match arrival.outcome:
            case Outcome.WITHDRAWN if is_awaited and arrival.receive.title.is_sealed(arrival.receive.chunk):
                # It came of a request that was given up too late, and of that we have yet to hear: nobody's fault.
                task.fill.duplicate_bytes += arrival.length
                self.handle_event(task, events.ChunkFound(arrival.receive.chunk))
            case Outcome.STORE:
                self.fail(self.now, task, StoreError(arrival.fault))
            case outcome if is_awaited:
                corrupt, reason = outcome is Outcome.CORRUPT, arrival.fault or "no longer wanted"
                self.handle_event(task, events.RequestFailed(request, reason, arrival.length, corrupt))
            case _:
                task.fill.duplicate_bytes += arrival.length

    # ---- what links ask of their host

    def handle_event(self, task: FillTask, event: events.Event) -> None:
        """Hand an event to a fill."""
        if task.state in _OVER:
            return
        fill, kind = task.fill, type(event)
        try:
            fill.handle(self.now, event)
            if task not in self._dirty and fill.wants_poll:
                self._dirty[task] = None
            if kind in _MOVING:
                self.note_moved(task, task.manifest.chunk_size)
                self._limit_slots(task)
            elif kind is events.ReuseEnded:
                self._limit_slots(task)
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.task_faulted(task, error)

    def holdings_received(self, task: FillTask, node_id: str) -> None:
        """Note that a cache has said what it holds."""
        if task.holdings_received(node_id):
            self.handle_event(task, events.NeighboursHeard())

    def task(self, title_id: TitleId) -> FillTask | None:
        """Return a title's fill, if one runs."""
        return self.tasks.get(title_id)

    def shown(self, title_id: TitleId) -> Bitmap | None:
        """Return which chunks of a title can be served; None where the title is unknown here."""
        task = self.tasks.get(title_id)
        return task.fill.ledger.have if task is not None else self.live.get(title_id)

    def news(self, task: FillTask, node_id: str, gained: Sequence[int]) -> Sequence[int]:
        """Return those of newly verified chunks that concern a cache."""
        try:
            return task.fill.news(node_id, gained)
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.task_faulted(task, error)
            return []

    def border_chunks(self, task: FillTask) -> Sequence[int]:
        """Return the chunks that this cache fetches across a border."""
        return self._in_task(task, task.fill.border_chunks, [])

    def is_opening(self, title_id: TitleId) -> bool:
        """Tell whether a title is about to be served: a remote that asks for it is answered then."""
        return title_id in self.opening

    def wake_uploads(self, link: Link) -> None:
        """Have a look at what waits to be sent to a link's remote, at the end of the tick."""
        self._to_wake[link] = None

    def emit(self, effect: Effect) -> None:
        """Have something done."""
        self._effects.append(effect)

    def _limit_slots(self, task: FillTask) -> None:
        """Serve more receivers side by side the more there is to serve."""
        slots = task.next_slots(self._upload_slots)
        if slots is not None:
            self.emit(LimitSlots(task, slots if slots < self._upload_slots else None))

    # ---- output

    def next_wakeup(self) -> float:
        """Return when `poll` must be called again though nothing happens; infinite where nothing is awaited."""
        wake_at = self._progress_at
        for other_at in (self._scheduler_at, self._hand_back_at, self.dialler.next_at):
            if other_at < wake_at:
                wake_at = other_at
        for task in tuple(self.tasks.values()):
            try:
                at = task.next_wakeup()
            except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
                # Where it cannot say, it has failed, and that is to be done now.
                self.task_faulted(task, error)
                at = self.now
            if at < wake_at:
                wake_at = at
        if self._probes:
            wake_at = min(wake_at, *(until for _, until in self._probes.values()))
        self._awake_at = self._timers_at = wake_at
        return wake_at

    def is_settled(self, now: float) -> bool:
        """Tell whether `poll` would do nothing now, and `next_wakeup` name no earlier time than it did last.

        So it is after most messages: that a neighbour has got a chunk changes nothing where its queue is full.
        """
        # What has a fill look earlier makes it dirty, too.
        until = self._timers_at
        return now < until and not (self._dirty or self._to_wake or self._effects or self._probes) and (
            until <= self._progress_at and until <= self._scheduler_at
            and until <= self._hand_back_at and until <= self.dialler.next_at
        )  # fmt: skip

    def poll(self, now: float) -> list[Effect]:
        """Decide what to do now, and return it in order."""
        self.now = now
        awake_at, self._awake_at = self._awake_at, NEVER
        if now > awake_at + FROZEN_S:
            self._thaw()
        if now >= self._timers_at:
            self._advance(now)
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for task in dirty:
                try:
                    self._decide(task)
                except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
                    self.task_faulted(task, error)
        if self._to_wake:
            self._effects.extend(map(WakeUploads, self._to_wake))
            self._to_wake.clear()
        effects, self._effects = self._effects, []
        return effects

    def _thaw(self) -> None:
        """Begin all waits anew: this cache was stopped, and the others were not silent meanwhile."""
        self._probes = {before: (link, self.now + PROBE_S) for before, (link, _) in self._probes.items()}
        for task in list(self.tasks.values()):
            hold = task.fill.hold
            self.handle_event(task, events.Paused())
            self.handle_event(task, events.Resumed())
            if hold is not None:
                self.handle_event(task, events.Paused(hold))

    def _advance(self, now: float) -> None:
        """Take note of what the time has brought."""
        if now >= self.dialler.next_at:
            self._effects.extend(self.dialler.poll(now))
        if self._probes:
            self._end_probes(now)
        if now >= self._scheduler_at:
            self._look_at_scheduler()
        if now >= self._hand_back_at:
            self._hand_back()
        if now >= self._progress_at:
            is_idle = all(task.fill.is_at_rest for task in self.tasks.values())
            self._progress_at = NEVER if is_idle else now + PROGRESS_S
            self._look_at_budget()
            self._each_link(Link.report_progress)
            for task in list(self.tasks.values()):
                arriving, failing = task.origin_news()
                for url in dict.fromkeys(url for url, _ in task.reads.values() if url in arriving):
                    self.handle_event(task, events.SourceProgressed(url))
                for url in task.origins_held_back():
                    self.handle_event(task, events.SourceHeldBack(url))
                for url, reason in failing.items():
                    if url not in arriving:
                        self.handle_event(task, events.OriginFailing(url, reason))
        for task in list(self.tasks.values()):
            if task.is_discovery_over(now):
                self.handle_event(task, events.NeighboursHeard())
            if now >= self._in_task(task, task.next_wakeup, NEVER):
                self._dirty[task] = None

    def _decide(self, task: FillTask) -> None:
        """Have a fill decide, and do what it wants done."""
        while task.state not in _OVER:
            if task.late:
                late, task.late = task.late, []
                for event in late:
                    self.handle_event(task, event)
            # Often it is only time to announce, or to commit.
            fill = task.fill
            if fill.wants_poll or self.now >= fill.next_wakeup():
                for action in fill.poll_actions(self.now):
                    self._perform(task, action)
            if not task.late:
                break
        if task.to_announce or task.to_claim:
            self._tell(task)
        if task.to_commit and task.state not in _OVER:
            if (chunks := task.take_write_out()) is not None:
                self.emit(BeginWriteOut(task, chunks))
            if (chunks := task.take_commit(self.now)) is not None:
                self.emit(Commit(task, chunks))

    def _perform(self, task: FillTask, action: actions.Action) -> None:
        match action:
            case actions.RequestChunk(request, source, chunk):
                if source in task.origins:
                    self._read(task, request, source, chunk)
                elif (link := self.links.get(source)) is not None and link.is_full:
                    task.late.append(events.SourceFull(request))
                elif link is not None and link.scope > IN_ISP and not self._may_cross(
                    length := task.manifest.chunk_length(chunk)
                ):
                    self._refuse_crossing(task, request, length)
                elif link is None or not self._request(link, task, request, chunk):
                    task.late.append(events.RequestFailed(request, (link and link.fault) or "not linked"))
            case actions.CancelRequest(request, source):
                if (read := task.reads.pop(request, None)) is not None:
                    if read[1].step(RequestStep.ABANDON):
                        self.emit(StopRead(task, read[1]))
                elif (link := self.links.get(source)) is not None:
                    self._in_link(link, partial(link.cancel, task, request))
            case actions.AnnounceChunks(chunks):
                task.verified(self.now, chunks)
            case actions.ClaimChunks(chunks):
                task.to_claim.extend(chunks)
            case actions.PassOnClaims(chunks, scope):
                self._pass_on_claims(task, chunks, scope)
            case actions.ShowInterest(source, wanted):
                if (link := self.links.get(source)) is not None:
                    self._in_link(link, partial(link.show_interest, task, wanted))
            case actions.ReportSlow(node):
                self._each_link(lambda link: link.report_slow(task.title_id, node))
            case actions.ReportWays(closed, reason):
                if reason:
                    self.emit(
                        Warn(f"the origin cannot be reached from here, others of the ISP take its part: {reason}")
                    )
                self._each_link(lambda link: link.report_ways(task.title_id, closed))
            case actions.CompleteTitle():
                self._tell(task, at_once=True)
                task.state = "verifying"
                self.emit(GoLive(task))

    def _request(self, link: Link, task: FillTask, request: int, chunk: int) -> bool:
        # As `_in_link` does it, with each chunk.
        try:
            return link.request(task, request, chunk)
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.link_faulted(link, error)
            return False

    def _read(self, task: FillTask, request: int, url: str, chunk: int) -> None:
        manifest = task.manifest
        length, xxh3 = manifest.chunk_length(chunk), manifest.chunk_xxh3(chunk)
        owner = Owner(task, request)
        receive = Receive(request, task.stored, chunk, length, xxh3, None, owner, self._new_lock())
        receive.step(RequestStep.BEGIN)
        task.reads[request] = url, receive
        self.emit(ReadOrigin(task, url, receive))

    def _tell(self, task: FillTask, *, at_once: bool = False) -> None:
        """Tell linked caches what has happened here since the last time, as far as it concerns them."""
        news = task.take_news(self.now, at_once=at_once)
        if news is None:
            return
        gained, claimed = news
        # With each chunk, and as often as there are links: without a call for each boundary.
        for link in list(self.links.values()):
            try:
                link.tell(task, gained, claimed)
            except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
                self.link_faulted(link, error)

    def _pass_on_claims(self, task: FillTask, chunks: Sequence[int], scope: Scope) -> None:
        """Tell the linked caches nearer than `scope` whom it concerns that chunks are on their way to this one."""
        for name, link in list(self.links.items()):
            source = task.fill.sources.get(name)
            if source is not None and source.scope < scope and (concern := self.news(task, name, chunks)):
                self._in_link(link, partial(link.tell, task, (), concern))

    # ---- boundaries

    def _in_task(self, task: FillTask, call: Callable[[], Said], otherwise: Said) -> Said:
        """Return what a title's `call` returns; `otherwise` where it raises, and then the title has failed."""
        try:
            return call()
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.task_faulted(task, error)
            return otherwise

    def _in_link(self, link: Link, call: Callable[[], Said]) -> Said | None:
        """Return what a link's `call` returns; None where it raises, and then the link ends."""
        try:
            return call()
        except BaseException as error:  # noqa: BLE001  (goes on where it is no fault)
            self.link_faulted(link, error)
            return None

    def _each_link(self, call: Callable[[Link], object]) -> None:
        """Do something with each link; what one raises ends that one."""
        for link in list(self.links.values()):
            self._in_link(link, partial(call, link))

    def link_faulted(self, link: Link, error: BaseException) -> None:
        """End a link that has raised what it should not. Raises `error` where it is no fault (`errors.is_fault`)."""
        if not is_fault(error):
            raise error
        if link.fault:
            return  # until its end it may do so time and again
        doing = f"serve the link with {link.remote.id if link.remote is not None else 'a stranger'}"
        self.emit(Faulted(doing, error))
        self.fail_link(link, as_p2pfill_error(doing, error))

    def fail_link(self, link: Link, error: P2PFillError) -> None:
        """End a link that cannot go on, for a reason that its fills tell."""
        if not link.fault:
            link.fault = clipped(str(error)) or type(error).__name__
            self._in_link(link, lambda: link.close(m.GoodbyeCode.INTERNAL, m.INTERNAL_FAULT))

    def task_faulted(self, task: FillTask, error: BaseException) -> None:
        """Fail a title that has raised what it should not. Raises `error` where it is no fault (`errors.is_fault`)."""
        if not is_fault(error):
            raise error
        if not task.is_over:
            doing = f"fill title {task.manifest.name!r}"
            self.emit(Faulted(doing, error))
            self.fail(self.now, task, as_p2pfill_error(doing, error))
