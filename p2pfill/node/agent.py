"""What a node and its tracker say to each other: heartbeats out, orders in.

Two loops: one reports at the interval that the tracker asks for, the other holds a long poll open for orders. A tracker
that is away stops neither the fills that run nor the links that are open; both loops try again with growing pauses,
each cache at a moment of its own: all of them have lost it in the same one. Each call and each order has a boundary of
its own: what cannot be understood keeps nothing else from being done.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

import trio

from p2pfill.errors import P2PFillError, SignatureError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.rates import NO_LIMITS, RateLimits, spell
from p2pfill.model.selection import decode_selection
from p2pfill.model.urgency import Urgency
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.eviction import Evictor
from p2pfill.node.evictions import Evictions
from p2pfill.node.fill import FillDriver
from p2pfill.node.hours import FillHours
from p2pfill.node.orphans import Orphans
from p2pfill.node.renewal import Renewal
from p2pfill.node.scrubber import Scrubber
from p2pfill.node.settings import PolicySettings
from p2pfill.node.signed_orders import SignedOrders
from p2pfill.node.standing import NOTHING, Changed, StandingOrders
from p2pfill.node.titles import Roster, TitlePhase, TitleRegistry, roster_of
from p2pfill.node.troubles import Troubles
from p2pfill.node.vetting import Vetting
from p2pfill.store.kept_orders import KeptOrders
from p2pfill.swarm.election import ALL_WANTED, Wants
from p2pfill.tracker.client import ReadableOrders, TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.records import FillRequest
from p2pfill.transport.throttle import Throttle

if TYPE_CHECKING:
    from p2pfill.model.policy import FillPolicy
    from p2pfill.model.reports import HeartbeatReply, NodeReport, Order, Orders

RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 10.0
PIECE_PAUSE_S: Final = 0.05
"""Between the pieces of what the tracker is to be told: links are served meanwhile."""
NAMED_MAX: Final = 3
"""Titles that a line of the log names."""
POLL_S: Final = 25.0
"""How long one request for orders waits: below the usual time-out of middleboxes."""


class FillingNode(Protocol):
    """What an agent needs of its node."""

    info: NodeInfo
    log: logging.Logger
    titles: TitleRegistry
    vetting: Vetting
    settings: PolicySettings
    scrubber: Scrubber
    evictor: Evictor
    evictions: Evictions
    hours: FillHours
    limits: Throttle
    kept_orders: KeptOrders
    troubles: Troubles

    @property
    def rates(self) -> RateLimits:
        """The limits in force."""
        ...

    def heartbeat(self, *, follows: bool = False) -> NodeReport:
        """Return the next heartbeat; `follows`: the one before had more to say."""
        ...

    def heartbeat_ended(self, report: NodeReport | None, reply: HeartbeatReply | None) -> None:
        """Take note of what the tracker has answered; None: nothing."""

    def want_links(self, nodes: Iterable[NodeInfo]) -> None:
        """Be linked with the caches that the roster names."""

    def set_urgencies(self, changed: Mapping[TitleId, Urgency], gone: Iterable[TitleId] = ()) -> None:
        """Note how urgent orders are that have changed, and which are gone."""

    def set_out_of_cycle(self, titles: Iterable[TitleId]) -> None:
        """Note which titles are ordered out of cycle, whether fill windows are open or not."""

    def activate(self, title_id: TitleId) -> None:
        """Let less urgent titles wait for one that is to be filled in a moment."""

    def yield_to_others(self, title_id: TitleId) -> None:
        """Let less urgent titles ask again."""

    async def start_fill(
        self,
        manifest: Manifest,
        origins: Iterable[str] = (),
        policy: FillPolicy | None = None,
        members: Iterable[NodeInfo] = (),
        holders: Iterable[NodeInfo] = (),
        unlinked: Sequence[str] = (),
        *,
        selection: Bitmap | None = None,
        wants: Wants = ALL_WANTED,
        soon: Iterable[str] = (),
        signatures: bytes = b"",
    ) -> FillDriver:
        """Begin to fill a title, or resume."""
        ...


class TrackerAgent:
    """Speaks to the tracker at `url` for `node`."""

    def __init__(self, node: FillingNode, url: str, renewal: Renewal | None = None) -> None:
        """`renewal` has the node's certificate, where the tracker asks for one."""
        self._node = node
        self._renewal = renewal
        self._client = TrackerClient(url, credentials=None if renewal is None else renewal.credentials)
        self._known = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._standing = StandingOrders()
        credentials = None if renewal is None else renewal.credentials
        self._signed = SignedOrders(self._client, node.kept_orders, credentials, node.log)
        self._orphans = Orphans(self._client, node.titles, node.log, self._signed)
        self._unfinished: dict[TitleId, None] = {}
        """Titles that are ordered, and were not live when they were looked at last."""
        self._out_of_cycle: set[TitleId] = set()
        """Titles that are ordered whether fill windows are open or not."""
        self._taken = trio.Event()
        self._news, self._turned = trio.Event(), trio.Event()
        """Something is over that the tracker is to hear of; a fill window has opened or closed."""
        self._poll = trio.CancelScope()
        self._pins = ""
        """The state of what is pinned that was taken last."""
        self._pinned_by = self._limited_by = ""
        """Of which of the tracker's databases the pins and limits are that hold."""
        self._again = False
        """Whether the orders are to be taken once more though they are the same."""
        self._told_phase = "open"
        """What the tracker has acknowledged last of this node's fill windows."""
        self._is_away = False
        """The tracker has not answered the last heartbeat."""
        self._is_assumed = False
        """Others count as open, since nobody can be told that this node is."""
        self._chance = random.Random()  # noqa: S311 (spreads retries)

    async def run(self) -> None:
        """Report and take orders until cancelled."""
        async with self._client, trio.open_nursery() as nursery:
            self._nursery = nursery
            self._node.titles.order_of = self._order_now
            self._node.titles.ended, self._node.hours.turned = self._note_end, self._note_turn
            nursery.start_soon(self._report)
            nursery.start_soon(self._poll_orders)
            nursery.start_soon(self._orphans.run, self._node.info.id)
            nursery.start_soon(self._signed.run, self._node.info.id)

    async def _report(self) -> None:
        pause_s, follows = RETRY_S, False
        while True:
            reply: HeartbeatReply | None = None
            report: NodeReport | None = None
            # As of this report: a window may open or close while it is on its way.
            news, turned = self._news, self._turned = trio.Event(), trio.Event()
            if self._is_away:
                await self._assume_open()  # not first: a call to who does not answer takes its time
            async with ErrorBoundary(self._node.log, "report, and goes on without the tracker"):
                report = self._node.heartbeat(follows=follows)
                reply = await self._client.heartbeat(report)
            self._node.heartbeat_ended(report, reply)
            self._is_away = reply is None
            if reply is None:
                follows = False
                await self._assume_open()
                with trio.move_on_after(self._spread(pause_s)):
                    await turned.wait()
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            pause_s = RETRY_S
            self._node.troubles.look_at_clock(self._client.clock_ahead_s)
            if report is not None:
                self._told_phase = report.hours.phase
            self._is_assumed = False
            if self._renewal is not None:
                async with ErrorBoundary(self._node.log, "learn which certificates were revoked"):
                    await self._renewal.follow(reply.revocations, self._client.revocations)
            follows = reply.again or (report is not None and report.more)
            if follows:
                await trio.sleep(PIECE_PAUSE_S)
                continue
            self._known.set()  # not before: what it was not told of it would have sought
            # Less long where a fill ends in between, or a fill window begins or ends.
            with trio.move_on_after(max(0.05, min(reply.interval_s, 60.0))):
                await news.wait()

    async def _assume_open(self) -> None:
        """Where this node's windows have opened and the tracker is away, take those for open that were closed with it.

        They do the same, as a fleet's windows open together. Else each would elect itself alone, and fetch all. Who is
        closed yet is passed over after the usual wait. The next roster says how it is.
        """
        if self._is_assumed or self._told_phase != "closed" or self._node.hours.report().phase != "open":
            return
        self._is_assumed = True
        for title_id, order in list(self._standing.orders.items()):
            filling = self._node.titles.fill_of(title_id)
            if filling is None or filling.done.is_set():
                continue
            async with ErrorBoundary(self._node.log, f"fill title {order.title} without the tracker"):
                manifest = filling.stored.manifest
                assume = partial(roster_of, order, self._node.info, manifest, all_open=True)
                roster = await trio.to_thread.run_sync(assume)
                filling.set_members(roster.members, roster.unlinked, roster.wants, roster.soon)

    def _spread(self, pause_s: float) -> float:
        """Return about a pause, which another cache takes otherwise."""
        return pause_s * self._chance.uniform(0.5, 1.5)

    def _note_end(self) -> None:
        self._news.set()

    def _note_turn(self) -> None:
        self._news.set()
        self._turned.set()

    async def _poll_orders(self) -> None:
        await self._known.wait()
        pause_s = RETRY_S
        while True:
            orders: Orders | None = None
            is_again = self._again
            async with ErrorBoundary(self._node.log, "learn its orders"):
                orders = await self._changes()
            if orders is None:
                if is_again:  # the tracker is away, and what it said last stands
                    await ErrorBoundary(self._node.log, "try its orders once more").run(self._fill_all, NOTHING)
                await trio.sleep(self._spread(pause_s))
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            pause_s = RETRY_S
            # Also where nothing has changed: a fill that the disk refused is tried again this way.
            await ErrorBoundary(self._node.log, "take its orders").run(self._take, orders)
            self._taken.set()
            self._taken = trio.Event()
            if orders.more:
                await trio.sleep(PIECE_PAUSE_S)
            elif not orders.cursor:
                await trio.sleep(RETRY_S)  # this tracker knows of no changes, and answers at once

    def retry(self) -> None:
        """Try once more what is ordered and not live: what the disk has refused may go now."""
        self._again = True
        self._poll.cancel()

    async def _changes(self) -> Orders | None:
        """Return what has changed of the orders, once there is something, or they are to be tried once more.

        None where the tracker has none to give.
        """
        changes = partial(
            self._client.changes, self._node.info.id, self._standing.cursor, pins=self._pins,
            settings=self._node.settings.digest,
        )  # fmt: skip
        try:
            if not self._again:
                with trio.CancelScope() as self._poll:
                    return await changes(wait_s=POLL_S)
            self._again = False
            return await changes(wait_s=0.0)
        except (TrackerRefused, TrackerUnreachable) as error:
            if isinstance(error, TrackerRefused) and error.status != 404:
                raise
            # It does not know this node yet, or it is away, which the heartbeat says.
            self._node.log.debug("no orders: %s", error)
            return None

    async def _order_now(self, title_id: TitleId) -> Order:
        return await self._client.order(self._node.info.id, title_id.hex())

    async def _take(self, answer: Orders) -> None:
        unreadable = answer.unreadable if isinstance(answer, ReadableOrders) else []
        withdrawn = set(answer.withdrawn)
        ended = [one for one in self._standing.orders if one.hex() in withdrawn] if withdrawn else []
        may_return = await self._orphans.that_may_return(ended)
        changed = self._standing.take(answer, unreadable=bool(unreadable), may_return=may_return)
        for why in (*unreadable, *changed.wrong):
            self._node.log.error("cannot take an order: %s", why)
        if changed.orphaned:
            named = ", ".join(title_id.hex()[:16] for title_id in islice(changed.orphaned, NAMED_MAX))
            self._node.log.warning(
                "the tracker's database does not know %d orders of this cache, such as of title %s; they stand until "
                "they are withdrawn", len(changed.orphaned), named,
            )  # fmt: skip
        self._orphans.put({title_id: self._standing.orders[title_id] for title_id in self._standing.orphans})
        self._signed.take(changed.orders, changed.gone)
        if changed.is_last:
            self._orphans.offer(self._standing.orders)
        if changed.links:
            self._node.want_links(self._standing.linked)
        for title_id in changed.gone:
            self._unfinished.pop(title_id, None)
            if (filling := self._node.titles.fill_of(title_id)) is not None:
                filling.withdraw()
        # Before anything is waited for: what is ordered or pinned from now on is not evicted.
        if not answer.pins or answer.pins != self._pins:  # else they are what they were, and left out
            pinned = set()
            for title in answer.pinned:
                with ErrorBoundary(self._node.log, f"keep title {title[:80]!r}, which is pinned"):
                    pinned.add(title_id_from_hex(title))
            if pinned or not _is_foreign(answer, self._pinned_by):
                self._node.titles.pinned, self._pinned_by = frozenset(pinned), answer.database
            self._pins = answer.pins
        if answer.rates != NO_LIMITS or not _is_foreign(answer, self._limited_by):
            self._limited_by = answer.database
            if self._node.limits.put("tracker", answer.rates):
                said = spell(self._node.rates)
                self._node.log.info("the tracker has other limits for this node; now in force: %s", said)
            async with ErrorBoundary(self._node.log, "store the limits of the tracker"):
                await self._node.settings.take_limits(answer.rates)
        if isinstance(answer, ReadableOrders) and answer.wrong_settings:
            self._node.log.error("goes by the settings of before: %s", answer.wrong_settings)
        if answer.settings is not None:
            before = self._node.settings.settings
            async with ErrorBoundary(self._node.log, "store what the fleet's policy says of this cache"):
                await self._node.settings.take(answer.settings, answer.settings_digest)
            if answer.settings != before:
                rule = f"rule {answer.settings.rule!r}" if answer.settings.rule else "no rule for caches"
                self._node.log.info("goes by %s of the policy; limits now in force: %s", rule, spell(self._node.rates))
        if self._standing.is_whole:
            self._node.titles.orders = self._standing.orders
        rollbacks = await self._signed.rollbacks(self._node.info.id, changed.orders)
        self._node.vetting.set_orders(changed.orders, changed.gone, rollbacks)
        await self._learn_signatures(changed.orders)
        orphans = {title_id.hex() for title_id in self._standing.orphans}
        numbers = {title_id: order.number for title_id, order in changed.orders.items()}
        async with ErrorBoundary(self._node.log, "show what is ordered"):
            await self._node.titles.set_orders(numbers, changed.gone, is_all=changed.is_last)
        for title in answer.withdrawn:
            if title not in orphans:  # those it may have been ordered again after that, and says so first
                await self._remove(title)
        urgencies = {title_id: order.urgency for title_id, order in changed.orders.items()}
        self._node.set_urgencies(urgencies, changed.gone)
        if self._nursery is not None:
            self._node.scrubber.take(answer.scrubs, self._nursery)
            self._node.evictions.take(answer.evictions, self._nursery)
        await self._fill_all(changed)
        # After the rosters, which count as open whoever is to fill such a title.
        now = {title_id for title_id, order in changed.orders.items() if order.now}
        if now or not self._out_of_cycle.isdisjoint(changed.orders.keys() | changed.gone):
            self._out_of_cycle = (self._out_of_cycle - changed.orders.keys() - changed.gone) | now
            self._node.set_out_of_cycle(self._out_of_cycle)

    async def _fill_all(self, changed: Changed) -> None:
        """Begin with what is to be filled, the most urgent first, and tell the fills that run what has changed."""
        titles, orders = self._node.titles, self._standing.orders
        lacking, titles.lacking = titles.lacking & orders.keys(), set()
        for title_id in [*changed.orders, *(lacking - changed.orders.keys())]:
            if self._is_done(title_id):
                self._unfinished.pop(title_id, None)
            else:
                self._unfinished[title_id] = None
        for title_id in sorted(self._unfinished, key=lambda one: orders[one].urgency):
            filling = titles.fill_of(title_id)
            if title_id not in changed.orders and filling is not None and not filling.done.is_set():
                continue  # it runs, and there is nothing new to tell it
            if title_id not in changed.orders and titles.disk.reason(title_id):
                continue  # it goes on by itself, once the disk is well
            order = orders[title_id]
            bounds = ErrorBoundary(self._node.log, f"fill title {order.title}", partial(self._note_refusal, title_id))
            await bounds.run(self._fill, title_id, order)
            if self._is_done(title_id):
                self._unfinished.pop(title_id, None)

    def _is_done(self, title_id: TitleId) -> bool:
        with ErrorBoundary(self._node.log, f"look at title {title_id.hex()}"):
            return self._node.titles.is_at_rest(title_id, self._standing.orders[title_id].files)
        return False

    async def _remove(self, title: str) -> None:
        """Delete a title that was withdrawn; what the disk refuses is reported, and tried with the next orders."""
        titles = self._node.titles
        async with ErrorBoundary(self._node.log, f"remove title {title[:80]!r}, which was withdrawn"):
            title_id = title_id_from_hex(title)
            bounds = ErrorBoundary(self._node.log, f"remove withdrawn title {title}", partial(titles.refuse, title_id))
            async with bounds:
                filling = titles.fill_of(title_id)
                # A repair may never end, once nobody holds the title any more; the eviction ends it.
                if filling is not None and not filling.done.is_set() and not filling.task.repairs:
                    filling.withdraw()
                    await filling.ended.wait()
                if titles.phase_of(title_id) is not TitlePhase.EVICTING:
                    await self._node.evictor.evict(title_id)
                    self._node.log.warning("title %s was withdrawn, and is deleted", title)

    def _note_refusal(self, title_id: TitleId, error: P2PFillError) -> None:
        filling = self._node.titles.fill_of(title_id)
        # A tracker that is away says nothing of the title.
        if not isinstance(error, TrackerUnreachable) and (filling is None or filling.state == "failed"):
            self._node.titles.refuse(title_id, error)

    async def _fill(self, title_id: TitleId, order: Order) -> None:
        titles = self._node.titles
        filling, stored, phase = titles.fill_of(title_id), titles.stored(title_id), titles.phase_of(title_id)
        selection = None if stored is None else decode_selection(order.files, len(stored.manifest.files))
        if stored is not None and not stored.would_select(selection):
            # What has ended, and lacks something all the same: the disk refused in the midst of having other files.
            is_cut_short = filling is not None and filling.done.is_set() and stored.takes_writes
            if filling is not None and filling.state != "failed" and not is_cut_short:
                roster = await self._roster(order, stored.manifest)
                filling.set_members(roster.members, roster.unlinked, roster.wants, roster.soon)
                filling.set_policy(order.policy)
                filling.set_route_costs(roster.route_costs)
                filling.set_origins(order.origins, order.costs)
                titles.note_order(title_id)
                return
            if phase is TitlePhase.REPAIRING or (phase is TitlePhase.LIVE and stored.takes_writes):
                await titles.repair(title_id)  # once more: the disk may take it now
                return
            # Whole on disk and yet not live: the order was withdrawn while it was being shown.
            if stored.live and phase is not TitlePhase.ABSENT:
                return
        # Already now: what less urgent titles have in flight is then gone when this one is ready to ask.
        self._node.activate(title_id)
        try:
            # Before its manifest is fetched: that of a title that is not signed may be a large one, again and again.
            signatures = await self._signatures(title_id)
            manifest = stored.manifest if stored is not None else await self._manifest(title_id, signatures)
            roster = await self._roster(order, manifest)
            driver = await self._node.start_fill(
                manifest, order.origins, order.policy, roster.members, roster.holders, roster.unlinked,
                selection=decode_selection(order.files, len(manifest.files)), wants=roster.wants, soon=roster.soon,
                signatures=signatures,
            )  # fmt: skip
            driver.set_route_costs(roster.route_costs)
            if order.costs:
                driver.set_origins(order.origins, order.costs)
        finally:
            begun = titles.fill_of(title_id)
            if begun is None or begun.done.is_set():
                self._node.yield_to_others(title_id)

    async def _roster(self, order: Order, manifest: Manifest) -> Roster:
        if not order.selections and not order.files:
            return roster_of(order, self._node.info, manifest)
        return await trio.to_thread.run_sync(roster_of, order, self._node.info, manifest)

    async def _manifest(self, title_id: TitleId, signatures: bytes) -> Manifest:
        encoded = await self._client.manifest(title_id.hex())
        return await self._node.vetting.open(encoded, title_id, signatures)

    async def _signatures(self, title_id: TitleId) -> bytes:
        """Return the signatures with which a title may be filled, b'' where none are needed.

        Those that are kept go first: with them no tracker is needed. Raises `SignatureError`, `TrackerError`.
        """
        vetting = self._node.vetting
        if vetting.publishers is None:
            return b""
        with suppress(SignatureError):
            return await vetting.check(title_id, None, b"")
        offered = await self._client.signatures(title_id.hex())
        return await vetting.check(title_id, None, offered)

    async def _learn_signatures(self, titles: Iterable[TitleId]) -> None:
        """Look which of some live titles, that would not be shown since they are old, were signed anew."""
        vetting = self._node.vetting
        if vetting.publishers is None:
            return
        for title_id in await trio.to_thread.run_sync(vetting.held_back, list(titles)):
            # Why it is not shown is said where it is not.
            async with ErrorBoundary(self._node.log, f"show title {title_id.hex()}", level=logging.DEBUG):
                signatures = await self._signatures(title_id)
                await trio.to_thread.run_sync(vetting.keep, title_id, signatures)

    async def order(
        self, title: TitleId | Manifest, origins: list[str], signatures: bytes = b"", *, rollback: bool = False
    ) -> FillDriver:
        """Order a title for this node, and return its fill once it has begun.

        Raises `TrackerError`, `StoreError`, and `ManifestError` where the tracker's manifest cannot be used, or is not
        signed as it must be.
        """
        await self._known.wait()
        if isinstance(title, Manifest):
            title_id = await trio.to_thread.run_sync(lambda: title.title_id)
            await self._client.put_title(title_id.hex(), await trio.to_thread.run_sync(title.encode), signatures)
        else:
            title_id = title
        selector = f"id={self._node.info.id}"
        request = FillRequest(title=title_id.hex(), selector=selector, origins=origins, rollback=rollback)
        await self._client.post_fill(request)
        while (filling := self._node.titles.fill_of(title_id)) is None:
            stored = self._node.titles.stored(title_id)
            if stored is not None and stored.live:
                return await self._node.start_fill(stored.manifest)
            if (error := self._node.titles.refusal(title_id)) is not None:
                raise error
            await self._taken.wait()
        return filling


def _is_foreign(answer: Orders, database: str) -> bool:
    """Tell whether an answer is of another database than this one, and may have lost what that one knew."""
    return "" != answer.database != database != ""
