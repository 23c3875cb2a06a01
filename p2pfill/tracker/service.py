"""The tracker's logic: who is alive, who shall hold what, and when a node's orders have changed.

Hot data (heartbeats) live in memory and reach the catalogue in batches; titles, fills and their assignments are
durable before a call returns. After a restart every known node counts as alive for one lease, counted from the
start: else the first node to ask would be told that it is alone, and would drop good sources.

A node's orders have a version of their own. It grows when the node's orders or the membership of one of its rosters
change: a node joins, leaves, moves, comes to hold a title or gives one up. It does not grow with progress: nodes tell
each other about chunks, and a fleet that polls for each would be quadratic. Versions start above all those of earlier
runs, as the catalogue counts them. Which titles have changed since a version, the node's `Feed` says, so the answer to
a poll is as long as what has changed, however many titles the node holds.

Who stands in whose roster is kept for each title that some node seeks (`rosters`, `swarm.neighbourhood`) and follows
each change at the cost of a few dozen nodes, so in a large fleet one that comes or goes wakes its ISP and its
neighbours only. What has changed further away, and who has completed, those who fetch are told every `REFRESH_S`.
Elections in a large fleet are held over those who want the title or have got it by its orders: whoever completes has
every chunk that it is master of, and nobody has to elect anew.
"""

from __future__ import annotations

import hashlib
import heapq
import secrets
import time
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import msgspec
import trio
import trio.lowlevel

from p2pfill.errors import ConfigError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.budgets import Budgets
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.limits import KIB, MIB, ORIGINS_COUNTED_MAX
from p2pfill.model.manifest import Manifest
from p2pfill.model.night import RecordedTitle
from p2pfill.model.node import NodeInfo
from p2pfill.model.origins import OriginReport
from p2pfill.model.policy import ANYWHERE, FillPolicy, together
from p2pfill.model.prices import NO_PRICES, Prices
from p2pfill.model.rates import NO_LIMITS
from p2pfill.model.reports import (
    Allowance,
    HeartbeatReply,
    NodeReport,
    Order,
    Orders,
    RosterEntry,
    TitleReport,
)
from p2pfill.model.selection import bytes_of_selection, encode_selection, select
from p2pfill.model.selector import Selector
from p2pfill.model.signed_order import Document, WithdrawalStatement, decode_statement
from p2pfill.model.urgency import Urgency
from p2pfill.origin.urls import shown
from p2pfill.swarm.neighbourhood import Member, Neighbourhoods
from p2pfill.tracker import audit, forgetting, ranking
from p2pfill.tracker.behind import Behind
from p2pfill.tracker.brought_back import Recall
from p2pfill.tracker.callers import NOBODY, Caller
from p2pfill.tracker.catalogue import Catalogue, Snapshot, StoredReport
from p2pfill.tracker.checks import (
    COUNTER_MAX,
    NUMBER_ADOPTED_MAX,
    RequestRefused,
    chars_of,
    check_fill,
    check_report,
    check_selector,
    check_title,
    require,
)
from p2pfill.tracker.feed import Feed
from p2pfill.tracker.limits import LIMITS_MAX, StandingLimits
from p2pfill.tracker.names import Tenancy
from p2pfill.tracker.night_rows import HOLDERS_MAX, ORIGINS_MAX, NightPage
from p2pfill.tracker.pauses import Pauses
from p2pfill.tracker.pins import PINS_MAX, PINS_OF_TITLE_MAX, Pins
from p2pfill.tracker.policies import Policies, StoredPolicy
from p2pfill.tracker.records import (
    EvictRequest,
    EvictStatus,
    FillCreated,
    FillRecord,
    FillRequest,
    LimitRecord,
    ScrubStatus,
    TitleRecord,
)
from p2pfill.tracker.rosters import Rosters, Standing
from p2pfill.tracker.routes import RouteBook
from p2pfill.tracker.scrubs import Evictions, Scrubs
from p2pfill.tracker.signed_orders import SignedBook, Withdrawn, signed_by
from p2pfill.tracker.texts import Texts
from p2pfill.transport.lag import LagMonitor
from p2pfill.trust.order_signing import SignedOrder, SignedWithdrawal

LEASE_INTERVALS: Final = 3
"""Heartbeats that may be missed before a node is no longer a source."""

LATE_INTERVALS: Final = 1.5
"""Heartbeat age from which a node ranks behind those that are on time."""

ORDERS_WAIT_S_MAX: Final = 60.0
"""Longest a long poll is held: below the idle timeouts of usual proxies."""

NODE_TITLES_MAX: Final = 200_000
"""Titles of one node: four times what a cache is meant for, and some hundred megabytes here."""

TITLES_MAX: Final = 1_000_000
FILLS_MAX: Final = 100_000
"""Bounds of the tracker's memory; far above the fleet that one process is meant for."""

ORDERS_CHARS_MAX: Final = 64 * MIB
"""Of the texts of all orders, which the status shows: 100,000 of usual length, or 64 of the longest."""

PARTS_NODES_MAX: Final = 256
"""Caches of a title of which some want a part, up to which all of them are told of all: who wants what is said of those
in the roster only. Half of the links that a node may have; in a larger fleet chunks come by detours, and twice."""

SELECTIONS_BYTES_MAX: Final = 4 * MIB
"""Bits of all selections of one title, a bit a file and fill, which an order may carry: 33,000 fills of a title of a
thousand files, or 33 of one of a million."""

LOOKUPS_MAX: Final = 2
"""Orders of some files that are looked up at once: each may need some hundred megabytes for a million files."""

NAMED_MAX: Final = 5
"""Nodes that a message names: enough to see how their labels are written."""

NAME_TAKEN: Final = "another process reports under that name"
TEXTS_CUT: Final = "sources of a title were left away: too much is said"
"""See `texts`."""

EPOCH_VERSIONS: Final = 1 << 32
"""Versions of one run of the tracker; with 2^20 runs they stay exact in a JSON number."""

FOLLOWED_AT_ONCE: Final = 200
"""Titles, and nodes of theirs, of which rosters are made to follow at a time: some milliseconds. See
docs/experiments.md, "Some files of a title"."""

FOLLOW_PAUSE_S: Final = 0.005
"""Between two such times: about as long as one takes, so that half of the time is left for calls."""

PIECE_BYTES_MAX: Final = 128 * KIB
"""Of one answer of changes: some hundred caches that its orders name, made in ten milliseconds. An order that names
files may be longer by itself (`SELECTIONS_BYTES_MAX`), and then ends its piece."""

WITHDRAWN_MAX: Final = 500
"""Titles that a node is told to delete at a time; the next ones follow as it has done so."""

REFRESH_S: Final = 20.0
"""How often a node is told anew of what it fetches: about once a poll."""

REFRESH_MAX: Final = 32
"""Titles of which it is at a time, in turn: more than are fetched side by side to any purpose."""


class NodeState:
    """One node as the tracker sees it."""

    def __init__(
        self, report: NodeReport, *, seen_at: float, lease_from: float, version: int, caller: Caller = NOBODY
    ) -> None:
        self.report = report
        self.seen_at = seen_at
        """Of the last heartbeat, seconds since the epoch; for people."""
        self.first_at = seen_at
        """Of the first one that is known; see `forgetting`."""
        self.made_by = caller.key
        """Where that came from; '' for those of before this run."""
        self.lease_from = lease_from
        """The same on the monotonic clock; what liveness goes by."""
        self.alive = True
        self.version = version
        self.changed = trio.Event()
        self.tenancy = Tenancy(report.boot, caller, lease_from, report.sequence)
        """Whose its name is."""
        self.titles: dict[str, TitleReport] = {title.title: title for title in report.titles}
        """All that it has said of titles, which its heartbeats say in pieces."""
        self.unconfirmed: set[str] = set()
        """Titles that it has not said again since it began anew."""
        self.origins: dict[str, OriginReport] = {}
        """What it has had of each origin, since its process began."""
        self.has_said_all = True
        """Else it is new here, and what it has not said yet it may hold all the same: it seeks nothing."""
        self.applied = 0
        """The last heartbeat whose titles were taken in, of this boot and since this tracker runs."""
        self.to_delete: set[str] = set()
        """Withdrawn titles that it says something of."""
        self.pinned: set[str] = set()
        """Titles that it keeps though no order wants them."""
        self.rates = NO_LIMITS
        """What it is to keep to."""
        self.pins_version = version
        """Of its orders, when those changed last."""
        self.feed = Feed(version)
        self.unfinished: dict[str, None] = {}
        """Titles that it is to hold and is not live with, those first of which it was told longest ago."""
        self.rostered: set[str] = set()
        """Titles of which the roster that it was told last names somebody."""
        self.refresh_at = lease_from
        self.waits_for_all = False
        """It was told that more follows, since rosters of its titles were behind."""

    @property
    def info(self) -> NodeInfo:
        """What the node says of itself."""
        return self.report.info


class Service:
    """All state of a tracker, used from one Trio run. `now` is a monotonic clock in seconds.

    `neighbourhood_factory` makes the neighbourhoods of a title, by default with the usual bounds.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        snapshot: Snapshot,
        *,
        heartbeat_s: float,
        neighbourhood_factory: Callable[[TitleId, int], Neighbourhoods] = Neighbourhoods,
        now: Callable[[], float] = trio.current_time,
        prices: Prices = NO_PRICES,
        routes: RouteBook | None = None,
    ) -> None:
        self.heartbeat_s = heartbeat_s
        self.prices = prices
        """What origins cost."""
        self.routes = routes or RouteBook()
        """What routes between caches cost."""
        self._catalogue = catalogue
        self.set_revocations(b"")
        self.trusts_all = self.takes_unsigned = True
        """No caller is asked who he is, and nobody need have signed a title."""
        self._now = now
        self.started_at = now()
        self._swept_at = self.started_at
        self._version = snapshot.epoch * EPOCH_VERSIONS
        self._run = secrets.token_hex(8)
        """Of this run alone: versions of another database may look like ours."""
        self._number = self._number_given = snapshot.number
        """The highest that an order has had, also by what nodes say; and the highest that this database has given."""
        self.database = snapshot.database
        """The name of the database: another one does not know what this one has withdrawn."""
        self.recall = Recall(snapshot.made_at, max((loss.at for loss in snapshot.losses), default=0.0))
        """What nodes bring back of orders that are lost."""
        self._brought_ids: dict[str, frozenset[str]] = {}
        """Fill that nodes have brought back -> whom it means: there may be far more of them than of others."""
        self.losses = list(snapshot.losses)
        """What is known to be lost of it, the last first."""
        self.refused: Counter[str] = Counter()
        """Reason -> how often callers were refused for it, or ended."""
        self._texts = Texts()
        self._closing = False
        self.ordering = trio.Lock()
        """Held from a look whether an order stands already until it does: a call may be sent again meanwhile."""
        self._lookups = trio.CapacityLimiter(LOOKUPS_MAX)
        self.lag = LagMonitor()
        """Of the event loop that serves; whoever runs the service runs it."""
        self.titles: dict[str, TitleRecord] = {record.title: record for record in snapshot.titles}
        self._versions: dict[str, set[str]] = defaultdict(set)  # name -> titles
        for record in snapshot.titles:
            self._versions[record.name].add(record.title)
        self.withdrawn: set[str] = set(snapshot.withdrawn)
        """Titles that no node may hold."""
        self.pins = Pins(self.titles.values())
        self.signed = SignedBook(dict(snapshot.order_numbers), _withdrawn(snapshot.signed_withdrawals))
        """Of orders and withdrawals that are signed."""
        self.limits = StandingLimits(snapshot.limits)
        self.policies = Policies(snapshot.policies, prices)
        self.budgets = Budgets(snapshot.budgets)
        self.fills: dict[str, FillRecord] = {}
        self._order_chars = 0
        """Of the texts of all orders."""
        self._selectors: dict[str, Selector] = {}
        self.nodes: dict[str, NodeState] = {}
        self.nights = snapshot.nights
        self.nights.facts_of = self._facts_of
        self.scrubs = Scrubs()
        self.evictions = Evictions()
        self._assigned: dict[str, set[str]] = defaultdict(set)  # fill -> nodes
        self._fills_of: dict[str, set[str]] = defaultdict(set)  # node -> fills
        self._fills_by_title: dict[str, set[str]] = defaultdict(set)
        self._by_urgency: list[tuple[Urgency, float, str]] = []
        """The sort keys of all fills, in order."""
        self._make_around = neighbourhood_factory
        self._rosters = Rosters(self._new_around, self._members)
        self._behind = Behind()
        self._is_behind = trio.Event()
        self._told_of: dict[str, set[str]] = defaultdict(set)
        """Title -> nodes that say something of it."""
        self._made_by: Counter[str] = Counter()
        """Address -> nodes that reported from it first."""
        self._forgotten: set[str] = set()
        """Nodes that the catalogue is yet to forget."""
        self._dirty_nodes: set[str] = set()
        self._dirty_titles: dict[str, set[str]] = defaultdict(set)
        """Node -> titles of which it has said what the catalogue lacks."""
        self._dirty_assignments: set[tuple[str, str]] = set()
        for fill in snapshot.fills:
            self._index_fill(fill, Selector.parse(fill.request.selector))
        self._by_urgency.sort()
        self._number = max(self._number, *(fill.number for fill in snapshot.fills), 0)
        for fill_id, node_id in snapshot.assignments:
            if fill_id in self.fills:
                self._assign(fill_id, node_id)
        for stored in snapshot.nodes:
            state = NodeState(
                stored.report, seen_at=stored.seen_at, lease_from=self.started_at, version=self._next_version()
            )
            # A catalogue of before had them in the report itself.
            self._dirty_titles[state.info.id] = set(state.titles)
            state.titles |= {report.title: report for report in snapshot.holdings.get(state.info.id, ())}
            state.report.titles = []
            state.first_at = stored.first_at
            self.nodes[state.info.id] = state
            self._made_by[state.made_by] += 1
            for title, one in state.titles.items():
                state.titles[title] = self._texts.take(state.info.id, one)[0]
                self._told_of[title].add(state.info.id)
            self._note_withdrawn(state)
            self._note_pins(state)
            self._note_limits(state)
        by_urgency = dict.fromkeys(self.fills[fill_id].request.title for *_, fill_id in self._by_urgency)
        self._update_rosters(self.nodes, [*by_urgency, *(self._told_of.keys() - by_urgency.keys())])

    # ---- titles and fills

    async def add_title(
        self, title: str, manifest: Manifest, encoded: bytes, signatures: bytes = b""
    ) -> tuple[TitleRecord, bool]:
        """Remember a title; return its record and whether it is new. Raises `RequestRefused`, `StoreError`."""
        found = manifest.title_id.hex()
        require(found == title, f"the manifest's title id is {found}, not {title}: was it sent to the wrong address?")
        if title in self.titles:
            return self.titles[title], False
        if len(self.titles) >= TITLES_MAX:
            raise RequestRefused(f"the catalogue is full: {TITLES_MAX} titles", 507)
        await trio.to_thread.run_sync(self._catalogue.require_room, len(encoded))
        record = TitleRecord(
            title=title,
            name=manifest.name,
            size=manifest.size,
            chunk_size=manifest.chunk_size,
            chunk_count=manifest.chunk_count,
            file_count=len(manifest.files),
            added_at=time.time(),
        )
        await self._catalogue.add_title(record, encoded, signatures)
        self.titles[title] = record
        self._versions[record.name].add(title)
        self._rosters.renew(title)  # some hold it already, and till now it was not known of how many chunks it is
        return record, True

    async def signatures(self, title: str) -> bytes:
        """Return who has signed a title, encoded, b'' where nobody has. Raises `RequestRefused`, `StoreError`."""
        return await self._catalogue.signatures(self.title(title).title)

    async def change_signatures(self, title: str, change: Callable[[bytes], bytes]) -> None:
        """Let `change` make the signatures of a title from those before. Raises what that raises, `StoreError`."""
        await self._catalogue.change_signatures(self.title(title).title, change)

    async def manifest(self, title: str) -> bytes:
        """Return a title's encoded manifest. Raises `RequestRefused`."""
        encoded = await self._catalogue.manifest(self.title(title).title)
        if encoded is None:
            raise RequestRefused(f"title {title} is not in the catalogue", 404)
        return encoded

    def title(self, title: str) -> TitleRecord:
        """Return a title's record. Raises `RequestRefused`."""
        record = self.titles.get(check_title(title))
        if record is None:
            raise RequestRefused(f"title {title} is not in the catalogue; publish its manifest first", 404)
        return record

    def set_revocations(self, pem: bytes) -> None:
        """Tell caches of these revocation lists from now on."""
        self.revocations = pem
        self._revocations_digest = hashlib.sha256(pem).hexdigest()[:32] if pem else ""

    async def note_change(self, who: str, address: str, what: str, detail: str) -> None:
        """Keep who has changed what. Raises `StoreError`."""
        await audit.add(self._catalogue, time.time(), who, address, what, detail)

    async def audit_page(self, before: int, count: int) -> audit.AuditPage:
        """Return who has changed what, the latest first: `count` before the number `before`, 0 for the very latest."""
        return await audit.page(self._catalogue, before, count)

    async def add_fill(
        self, request: FillRequest, nodes_min: int = 0, signed: SignedOrder | None = None
    ) -> FillCreated:
        """Order a title on all living nodes that match, and on all that will. Raises `RequestRefused`, `StoreError`.

        With `nodes_min` nothing is ordered where fewer match now: a selector that was mistyped would wait for ever.
        Asking for the very same again renews that order: it gets a new number, and nodes where it has failed try again.
        A call that is sent again since its answer was lost has the same `call_id`, and changes nothing. `signed` is the
        order as its caller has signed it: of one name it has a higher number than all before.
        """
        selector = check_fill(request)
        title = self.title(request.title).title
        selection, file_bytes = await self._select(title, request.files)
        self._require_nodes(selector, nodes_min, "ordered")
        if nodes_min > 0:
            self._require_allowed(selector, title)
        async with self.ordering:
            wanted = msgspec.structs.replace(request, call_id="", signed=b"")
            fills = [self.fills[fill_id] for fill_id in self._fills_by_title.get(title, ())]
            before = next((fill for fill in fills if fill.request == wanted), None)
            if before is not None and before.call_id == request.call_id != "":
                nodes = self.nodes_of_fill(before.fill_id)
                barred = self.left_out(before.fill_id)
                nodes = [node_id for node_id in nodes if node_id not in barred]
                return FillCreated(before.fill_id, nodes, [], selector.unmatched(self._alive()), barred)
            if signed is not None:
                self.signed.require_news(self.titles[title].name, signed.said.number)
            else:
                self.signed.require_signed(title, self.titles[title].name)
            chosen = encode_selection(selection)
            self._require_room(wanted, before, fills, chosen)
            # That of a signed order is the same after a loss, when caches bring it back: newer ones stay newer.
            self._number = max(self._number + 1, 0 if signed is None else signed.said.number)
            self._number_given = self._number
            now = time.time()
            fill = FillRecord(
                fill_id=secrets.token_hex(6) if before is None else before.fill_id,
                request=wanted,
                created_at=now if before is None else before.created_at,
                number=self._number,
                ordered_at=now,
                call_id=request.call_id,
                selection=chosen,
                file_count=0 if selection is None else selection.count(),
                file_bytes=file_bytes,
                signed=None if signed is None else signed_by(signed),
            )
            await self._put_fill(fill, selector, signed)
        self._follow_fill(fill, selector)
        assigned = self._assigned[fill.fill_id]
        others = [one.fill_id for one in fills if one.request.selector == wanted.selector and one is not before]
        barred = self.left_out(fill.fill_id)
        return FillCreated(
            fill.fill_id, sorted(assigned - barred.keys()), others, selector.unmatched(self._alive()), barred
        )

    async def _put_fill(self, fill: FillRecord, selector: Selector, signed: SignedOrder | None) -> None:
        """Let a fill stand, durably. Raises `StoreError`."""
        await self._catalogue.add_fill(fill, self._matching(selector), signed)
        if signed is not None:
            self.signed.note(signed.said.name, signed.said.number)
        if (other := self.fills.get(fill.fill_id)) is None or other.number < fill.number:
            self._index_fill(fill, selector)

    def _follow_fill(self, fill: FillRecord, selector: Selector) -> None:
        """Have nodes told of a fill that stands now."""
        title = fill.request.title
        if fill.selection:
            self._rosters.renew(title)  # some want a part from now on, and all are told of all
        if title in self.withdrawn:
            self.withdrawn.discard(title)
            for state in self.nodes.values():
                self._note_withdrawn(state)
        # Asked anew: a node may have come while the catalogue was writing. It is told, and saved with the next batch.
        nodes = self._matching(selector)
        for node_id in nodes:
            self._assign(fill.fill_id, node_id)
            self._dirty_assignments.add((fill.fill_id, node_id))
        assigned = self._assigned[fill.fill_id]
        self._note_night(fill, assigned)
        self._update_rosters(assigned, self._same_name(title))
        for node_id in self._receivers(title):
            self._note_order(node_id, title)

    async def put_signed(self, request: FillRequest, signed: SignedOrder) -> FillRecord:
        """Let a signed order stand that a node has brought back (`recall`). Raises `RequestRefused`, `StoreError`."""
        selector = check_fill(request)
        by = signed_by(signed)
        selection, file_bytes = await self._select(request.title, request.files)
        async with self.ordering:
            fills = self.fills_of_title(request.title)
            before = next((fill for fill in fills if fill.request == request), None)
            if before is not None and before.signed is not None and by.number <= before.signed.number:
                return before
            chosen = encode_selection(selection)
            self._require_room(request, before, fills, chosen)
            now = time.time()
            fill = FillRecord(
                fill_id=secrets.token_hex(6) if before is None else before.fill_id,
                request=request,
                created_at=now if before is None else before.created_at,
                number=max(by.number, 0 if before is None else before.number + 1),
                ordered_at=now,
                selection=chosen,
                file_count=0 if selection is None else selection.count(),
                file_bytes=file_bytes,
                is_brought_back=True,
                signed=by,
            )
            self._number = max(self._number, fill.number)
            await self._put_fill(fill, selector, signed)
        self._follow_fill(fill, selector)
        return fill

    def _require_room(
        self, request: FillRequest, before: FillRecord | None, fills: list[FillRecord], chosen: bytes
    ) -> None:
        """Look whether an order fits in; of the `fills` of its title `before` is the same. Raises `RequestRefused`."""
        if before is None and len(self.fills) >= FILLS_MAX:
            raise RequestRefused(f"{FILLS_MAX} fills exist: delete old ones first", 507)
        if before is None and self._order_chars + chars_of(request) > ORDERS_CHARS_MAX:
            raise RequestRefused(
                "the texts of all orders are as long as may be: delete old fills, or name files by patterns", 507
            )
        taken = sum(len(fill.selection) for fill in fills if fill is not before)
        if taken + len(chosen) > SELECTIONS_BYTES_MAX:
            raise RequestRefused(
                f"{len(fills)} fills of this title name files: withdraw old ones, or order more files in one fill", 507
            )

    def fills_of_title(self, title: str) -> list[FillRecord]:
        """Return the fills of a title."""
        return [self.fills[fill_id] for fill_id in self._fills_by_title.get(title, ())]

    def has_withdrawn(self, node_id: str, title: str) -> bool:
        """Tell whether it is known that a node is not to hold a title any more."""
        return title in self.withdrawn or self.nodes[node_id].feed.has_gone(title)

    async def put_brought(self, fill: FillRecord, selector: Selector, node_id: str) -> None:
        """Let a fill stand that a node has brought back (`recall`). Raises `RequestRefused`, `StoreError`."""
        before = self.fills.get(fill.fill_id)
        chars = chars_of(fill.request) - (0 if before is None else chars_of(before.request))
        if len(self.fills) >= FILLS_MAX or self._order_chars + chars > ORDERS_CHARS_MAX:
            raise RequestRefused("there are as many orders as may be: delete old fills", 507)
        await self._catalogue.add_fill(fill, [node_id])
        self._index_fill(fill, selector)
        self._number = max(self._number, fill.number)
        if fill.selection:
            self._rosters.renew(fill.request.title)
        self._assign(fill.fill_id, node_id)
        self._update_rosters([node_id], self._same_name(fill.request.title))
        self._note_order(node_id, fill.request.title)

    def _note_night(self, fill: FillRecord, node_ids: Iterable[str]) -> None:
        """Have the night know of an order, and of older versions that nodes are not to fetch any more by it."""
        title = fill.request.title
        states = [self.nodes[one] for one in node_ids if one in self.nodes and self.is_wanted(one, title)]
        self.nights.note_order(time.time(), fill, ((state.info, state.titles.get(title)) for state in states))
        for other in self._same_name(title) - {title}:
            replaced = [state.info.id for state in states if not self.is_wanted(state.info.id, other)]
            self.nights.note_end(time.time(), other, replaced, "a newer version was ordered")

    def _facts_of(self, title: str) -> RecordedTitle:
        """Return what a night is to know of a title, and what nodes have of it."""
        record, told = self.titles.get(title), self._told_of.get(title, set())
        holders = ((one, self.nodes[one].titles.get(title)) for one in islice(told, HOLDERS_MAX) if one in self.nodes)
        held = {one: report.have_bytes for one, report in holders if report is not None and holds(report)}
        if record is None:
            return RecordedTitle(title, held=held)
        urls = (url for one in self._fills_by_title.get(title, ()) for url in self.fills[one].request.origins)
        origins = list(islice(dict.fromkeys(map(shown, urls)), ORIGINS_MAX))
        return RecordedTitle(title, record.name, record.size, record.chunk_size, held, origins)

    def _rule_of(self, node_id: str, title: str) -> str:
        """Return the rule of the fleet's policy that says how far a node may go for a title."""
        record, state = self.titles.get(title), self.nodes.get(node_id)
        return "" if record is None or state is None else self.policies.reach(state.info, record.name).rule

    def _newest_order(self, node_id: str, title: str) -> FillRecord | None:
        """Return a node's newest order of a title."""
        fills = self._fills_by_title.get(title, set()) & self._fills_of.get(node_id, set())
        return max((self.fills[fill_id] for fill_id in fills), key=lambda fill: fill.number, default=None)

    async def _select(self, title: str, patterns: tuple[str, ...]) -> tuple[Bitmap | None, int]:
        """Return the files of a title that patterns mean, None for all, and how long they are together, 0 for all.

        Raises `RequestRefused`, `StoreError`.
        """
        if not patterns:
            return None, 0

        def find(encoded: bytes) -> tuple[Bitmap | None, int]:
            manifest = Manifest.decode(encoded)
            selection = select(manifest.files, patterns)
            return selection, 0 if selection is None else bytes_of_selection(manifest, selection)

        try:
            async with self._lookups:
                found = await trio.to_thread.run_sync(find, await self.manifest(title))  # seconds for a million files
            self.title(title)  # it may have been deleted meanwhile
            return found
        except ConfigError as error:
            raise RequestRefused(str(error)) from error

    def selection_of(self, node_id: str, title: str) -> bytes:
        """Return which files of a title its orders have a node hold, a bit for each; empty: all."""
        return self._selected_by(self._fills_by_title.get(title, set()) & self._fills_of.get(node_id, set()))

    def _selected_by(self, fill_ids: Iterable[str]) -> bytes:
        """Return the files that these fills of one title name together, likewise."""
        chosen = [self.fills[fill_id].selection for fill_id in fill_ids]
        if not all(chosen) or not chosen:
            return b""
        total = 0
        for bits in chosen:
            total |= int.from_bytes(bits, "little")
        # All files together are still said bit by bit, which whoever reads it takes for all.
        return total.to_bytes(len(chosen[0]), "little")

    def _selections(self, title: str, roster: list[RosterEntry]) -> list[bytes]:
        """Note in a roster which files each of its caches wants; return the selections that its entries name."""
        fills = self._fills_by_title.get(title, set())
        if not any(self.fills[fill_id].selection for fill_id in fills):
            return []
        numbers: dict[bytes, int] = {}
        by_fills: dict[frozenset[str], bytes] = {}
        for entry in roster:
            if not entry.filling:
                continue
            # Most caches have the very same fills, and to put their selections together takes a while.
            if (own := frozenset(fills & self._fills_of.get(entry.node.id, set()))) not in by_fills:
                by_fills[own] = self._selected_by(own)
            if chosen := by_fills[own]:
                entry.selection = numbers.setdefault(chosen, len(numbers) + 1)
        return list(numbers)

    def _same_name(self, title: str) -> set[str]:
        """Return the versions of a title, itself among them."""
        record = self.titles.get(title)
        return {title} if record is None else self._versions[record.name] | {title}

    def _matching(self, selector: Selector) -> list[str]:
        """Return the living nodes that a selector means."""
        return [node_id for node_id, state in self.nodes.items() if state.alive and selector.matches(state.info)]

    def _alive(self) -> Iterator[NodeInfo]:
        return (state.info for state in self.nodes.values() if state.alive)

    def _require_nodes(self, selector: Selector, nodes_min: int, done: str) -> None:
        """Raise `RequestRefused` where a selector means fewer than so many living nodes, or a clause of it means none.

        What was mistyped would wait for ever, and half of a selector as well as all of it.
        """
        if nodes_min <= 0:
            return
        missed = selector.unmatched(self._alive())
        if not missed and len(self._matching(selector)) >= nodes_min:
            return
        what = ", ".join(repr(text[:80]) for text in missed[:NAMED_MAX]) or repr(selector.text[:80])
        of_all = f" of {selector.text[:80]!r}" if missed and len(selector.clauses) > 1 else ""
        alive = sorted(self._alive(), key=lambda info: info.id)
        named = ", ".join(f"{info.id} (isp {info.isp}, region {info.region})" for info in alive[:NAMED_MAX])
        more = f", and {len(alive) - NAMED_MAX} more" if len(alive) > NAMED_MAX else ""
        running = f"running are {named}{more}" if alive else "none has reported to this tracker yet, or all are dead"
        found = "no running cache matches" if missed else "too few running caches match"
        raise RequestRefused(f"{found} {what}{of_all}: {running}; nothing was {done}", 409)

    def _require_allowed(self, selector: Selector, title: str) -> None:
        """Raise `RequestRefused` where the fleet's policy keeps a title from all living nodes that a selector means."""
        found = self._matching(selector)
        if found and all(barred := [self.barred(self.nodes[node_id].info, title) for node_id in found]):
            raise RequestRefused(
                f"rule {barred[0]!r} of the fleet's policy keeps {self.titles[title].name[:80]!r} in regions in which "
                f"none of the {len(found)} caches stands that match; nothing was ordered",
                409,
            )

    # ---- the fleet's policy

    def barred(self, info: NodeInfo, title: str) -> str:
        """Return the rule of the fleet's policy for which a node may not hold a title; empty where it may."""
        record = self.titles.get(title)
        return "" if record is None else self.policies.bars(info, record.name)

    def left_out(self, fill_id: str) -> dict[str, str]:
        """Return the nodes that a fill means and that may not hold its title, each with the rule."""
        title, found = self.fills[fill_id].request.title, {}
        for node_id in self.nodes_of_fill(fill_id):
            if (state := self.nodes.get(node_id)) is not None and (rule := self.barred(state.info, title)):
                found[node_id] = rule
        return found

    def _policy_for(self, info: NodeInfo, title: str, policy: FillPolicy) -> FillPolicy:
        record = self.titles.get(title)
        reach = ANYWHERE if record is None else self.policies.reach(info, record.name)
        return policy if reach == ANYWHERE else msgspec.structs.replace(policy, reach=reach)

    async def put_policy(self, stored: StoredPolicy) -> None:
        """Let a version of the policy stand. Raises `StoreError`. Who is told of it, `applying` works out."""
        await self._catalogue.add_policy(stored)
        self.policies.put(stored)
        self.budgets.keep({rule.ledger for rule, _ in self.policies.budgets})

    def told_or_ordered(self, title: str) -> set[str]:
        """Return the nodes that have an order of a title, or say something of it."""
        return self._receivers(title) | self._told_of.get(title, set())

    def is_ordered(self, node_id: str, title: str) -> bool:
        """Tell whether a fill of a title means a node, whatever the policy says."""
        return self._number_for(node_id, title) > 0

    def follow_orders(self, title: str, node_ids: Iterable[str]) -> None:
        """Have nodes told of their orders of a title, which are others now."""
        for node_id in node_ids:
            self._note_order(node_id, title)

    def follow_moved(self, title: str, node_ids: Iterable[str]) -> None:
        """Let the roster of a title follow nodes that may hold it now, or may not any more."""
        self._rosters.renew(title)  # they may be most of a fleet: one by one takes a thousand times longer
        self._update_rosters(node_ids, [title])

    def wake(self, node_id: str) -> None:
        """Have a node told anew what is meant for it alone."""
        self._touch(node_id)

    async def delete_fill(self, fill_id: str, signed: SignedWithdrawal | None = None) -> None:
        """Withdraw a fill: its nodes lose the order, and keep what they have. Raises `RequestRefused`, `StoreError`.

        `signed` is the withdrawal as its caller has signed it, likewise below.
        """
        await self._withdraw_fills(self.fill(fill_id).request.title, [fill_id], signed=signed)

    async def withdraw(self, title: str, *, urgent: bool = False, signed: SignedWithdrawal | None = None) -> None:
        """Withdraw all fills of a title. Raises `RequestRefused`, `StoreError`.

        With `urgent` no node may hold it until it is ordered again: those that do, now or when they come back, delete
        it. Its pins go too, or they would come back with the next order.
        """
        record = self.title(title)
        title = record.title
        if urgent and record.pins:
            await self._set_pins(record, [])
        await self._withdraw_fills(title, list(self._fills_by_title.get(title, ())), urgent=urgent, signed=signed)

    async def withdraw_brought(self, signed: SignedWithdrawal) -> None:
        """Take in a signed withdrawal that a node has brought back (`recall`). Raises `StoreError`.

        What was ordered after it stands. While the title is not known, nor is its name, which is what its signer may
        withdraw by: then nothing is deleted for it yet (`end_withdrawn`).
        """
        said = signed.said
        title = said.title_id.hex()
        if (record := self.titles.get(title)) is not None and record.name != said.name:
            raise RequestRefused(f"title {title} is not named {said.name[:100]!r}")
        fills = [fill for fill in self.fills_of_title(title) if _covers(said, fill)]
        urgent = said.urgent and record is not None and len(fills) == len(self.fills_of_title(title))
        await self._withdraw_fills(
            title, [fill.fill_id for fill in fills], urgent=urgent, signed=signed, is_brought=True
        )

    async def end_withdrawn(self, title: str, withdrawn: Withdrawn) -> None:
        """Have a title deleted whose signed withdrawal came before its name was known. Raises `StoreError`."""
        if withdrawn.said.urgent and title not in self.withdrawn and not self._fills_by_title.get(title):
            await self._withdraw_fills(title, [], urgent=True, is_brought=True)

    async def _withdraw_fills(
        self, title: str, fill_ids: list[str], *, urgent: bool = False, signed: SignedWithdrawal | None = None,
        is_brought: bool = False,
    ) -> None:
        forgotten: list[WithdrawalStatement] = []
        if signed is not None:
            said = signed.said
            if not is_brought:
                self.signed.require_news(said.name, said.number)
            # Before the catalogue, which takes what is queued in turn: no order of before comes in between.
            forgotten = self.signed.put(Withdrawn(said, signed.identity.who))
            if title in self.titles:  # of others anybody may make up names, and no end of them
                self.signed.note(said.name, said.number)
        await self._catalogue.delete_fills(fill_ids, title if urgent else "", signed, forgotten)
        receivers = self._receivers(title)
        assigned: set[str] = set()
        for fill_id in fill_ids:
            if not self._unindex_fill(fill_id):
                continue  # somebody else was faster
            of_fill = self._assigned.pop(fill_id, set())
            for node_id in of_fill:
                self._fills_of[node_id].discard(fill_id)
            assigned |= of_fill
        self.nights.note_end(time.time(), title, assigned - self._receivers(title), "its order was withdrawn")
        if urgent:
            self.withdrawn.add(title)
            for state in self.nodes.values():
                self._note_withdrawn(state)
        self._update_rosters(assigned, self._same_name(title))
        for node_id in receivers:
            self._note_order(node_id, title)
        if is_brought:
            return  # others may have an order that was given later, and have yet to bring it back
        for node_id in self._told_of.get(title, set()) - receivers:
            self._note_gone(self.nodes[node_id], title)

    async def signed_documents(
        self, node_id: str, titles: Sequence[str], bytes_max: int = 2 * MIB
    ) -> dict[str, list[bytes]]:
        """Return what is signed of a node's orders of some titles, and the withdrawals. Raises `StoreError`.

        Titles for which there is no room in `bytes_max` are left out: they are to be asked for again.
        """
        mine = self._fills_of.get(node_id, set())
        named = {one: self.titles[one].name for one in titles if one in self.titles}
        found = await self._catalogue.signed(
            {one: (name, self._fills_by_title.get(one, set()) & mine) for one, name in named.items()}, bytes_max
        )
        return {one: [] for one in titles if one not in named} | found

    def tell_withdrawn(self, node_id: str, title: str) -> None:
        """Tell a node that its order of a title, of which this database does not know, was withdrawn."""
        self._note_gone(self.node(node_id), title)

    def _note_gone(self, state: NodeState, title: str) -> None:
        """Say of a title that nothing orders it on a node, which may have an order that this database never knew."""
        if not self._number_for(state.info.id, title):
            self._touch(state.info.id)
            state.feed.note(title, state.version, is_ordered=False)

    def add_scrub(self, title: str, selector_text: str, nodes_min: int = 0) -> ScrubStatus:
        """Have the living nodes that match and hold a title look at it. Raises `RequestRefused`."""
        title, selector = self.title(title).title, check_selector(selector_text)
        self._require_nodes(selector, nodes_min, "done")
        nodes = [
            node_id
            for node_id, state in self.nodes.items()
            if state.alive and selector.matches(state.info) and title in state.titles and holds(state.titles[title])
        ]
        status = self.scrubs.add(self._next_version(), title, nodes)
        for node_id in nodes:
            self._touch(node_id)
        return status

    def add_eviction(self, request: EvictRequest, nodes_min: int = 0) -> EvictStatus:
        """Have the living nodes that match make room, or say what would go. Raises `RequestRefused`."""
        selector = check_selector(request.selector)
        self._require_nodes(selector, nodes_min, "done")
        nodes = self._matching(selector)
        require(0 <= request.free_bytes <= COUNTER_MAX, f"free_bytes of {request.free_bytes} is out of range")
        require(request.dry_run or request.free_bytes > 0, "free_bytes: say how much is to be free")
        status = self.evictions.add(self._next_version(), request, nodes)
        for node_id in nodes:
            self._touch(node_id)
        return status

    async def pin(self, title: str, selector_text: str, nodes_min: int = 0) -> TitleRecord:
        """Have the nodes that match, now and later, keep what they hold of a title though no order wants it.

        Raises `RequestRefused`, also where fewer than `nodes_min` living nodes match, and `StoreError`.
        """
        record, selector = self.title(title), check_selector(selector_text)
        if record.title in self.withdrawn:
            raise RequestRefused(f"title {record.title} was withdrawn and is deleted: order it again first", 409)
        self._require_nodes(selector, nodes_min, "pinned")
        if selector.text in record.pins:
            return record
        if len(record.pins) >= PINS_OF_TITLE_MAX:
            raise RequestRefused(f"title {record.title} has {PINS_OF_TITLE_MAX} pins: unpin one first", 507)
        if not record.pins and len(self.pins.titles) >= PINS_MAX:
            raise RequestRefused(f"{PINS_MAX} titles are pinned: unpin others first", 507)
        return await self._set_pins(record, [*record.pins, selector.text])

    async def unpin(self, title: str, selector_text: str = "") -> TitleRecord:
        """Take back the pin of this selector, or all pins of a title. Raises `RequestRefused` where there is none."""
        record, text = self.title(title), selector_text.strip()
        if not record.pins or (text and text not in record.pins):
            pinned = f"it is pinned on {', '.join(record.pins)[:400]}" if record.pins else "it is not pinned at all"
            what = f"no such pin {text[:80]!r}" if text else "no pin"
            raise RequestRefused(f"title {record.title} has {what}: {pinned}", 404)
        return await self._set_pins(record, [one for one in record.pins if text and one != text])

    async def _set_pins(self, record: TitleRecord, pins: list[str]) -> TitleRecord:
        # Before the catalogue, which takes what is queued in turn: a call in between builds on this one.
        record = self.titles[record.title] = msgspec.structs.replace(record, pins=pins)
        self.pins.put(record)
        for state in self.nodes.values():
            self._note_pins(state, record.title)
        await self._catalogue.set_title(record)
        return record

    def _note_pins(self, state: NodeState, title: str = "") -> None:
        """Have a node told what it keeps, where that has changed, by one title or by any."""
        if not title:
            pinned = self.pins.of(state.info)
            if pinned == state.pinned:
                return
            state.pinned = pinned
        elif (holds_it := self.pins.holds(title, state.info)) == (title in state.pinned):
            return
        else:
            (state.pinned.add if holds_it else state.pinned.discard)(title)
        self._touch(state.info.id)
        state.pins_version = state.version

    async def set_limit(self, wanted: LimitRecord, nodes_min: int = 0) -> list[LimitRecord]:
        """Have the nodes that match, now and later, keep to limits, or no longer where they are none; return all.

        Raises `RequestRefused`, also where there is nothing to clear, and `StoreError`.
        """
        selector = check_selector(wanted.selector)
        record = LimitRecord(selector.text, wanted.rates) if wanted.rates != NO_LIMITS else None
        if record is None:
            if selector.text not in self.limits:
                stand = ", ".join(repr(one.selector) for one in self.limits.records()[:5]) or "none"
                raise RequestRefused(
                    f"no limit stands for {selector.text[:80]!r}; limits stand for: {stand}. Caches that keep to one "
                    "of a database that was lost give it up once one is set for them and cleared", 404,
                )  # fmt: skip
        else:
            self._require_nodes(selector, nodes_min, "limited")
            if selector.text not in self.limits and len(self.limits) >= LIMITS_MAX:
                raise RequestRefused(f"{LIMITS_MAX} limits stand: clear one first", 507)
        self.limits.put(selector, record)
        await self._catalogue.set_limit(selector.text, record)
        pauses = Pauses()
        for state in list(self.nodes.values()):
            await pauses.note(1)
            if selector.matches(state.info):
                await pauses.note(len(self.limits))
                self._note_limits(state)
        return self.limits.records()

    def _note_limits(self, state: NodeState) -> None:
        """Have a node told what it is to keep to, where that has changed."""
        rates = self.limits.of(state.info)
        if rates != state.rates:
            state.rates = rates
            self._touch(state.info.id)

    def _note_withdrawn(self, state: NodeState) -> None:
        """Have a node told what it is to delete, once for each change."""
        to_delete = self.withdrawn & state.titles.keys()
        if to_delete != state.to_delete:
            state.to_delete = to_delete
            self._touch(state.info.id)

    async def delete_title(self, title: str) -> None:
        """Forget a title that nothing orders. Raises `RequestRefused`, `StoreError`."""
        record = self.title(title)
        if fills := sorted(self._fills_by_title.get(record.title, ())):
            named = ", ".join(fills[:NAMED_MAX])
            raise RequestRefused(f"title {record.title} is ordered by fill {named}: withdraw it first", 409)
        await self._catalogue.delete_title(record.title)
        self.titles.pop(record.title, None)
        _take_out(self._versions, record.name, record.title)
        self.pins.put(msgspec.structs.replace(record, pins=[]))
        for state in self.nodes.values():
            self._note_pins(state, record.title)

    async def delete_node(self, node_id: str) -> None:
        """Forget a node whose heartbeats have stopped. Raises `RequestRefused`, `StoreError`."""
        if self.node(node_id).alive:
            raise RequestRefused(f"node {node_id} is alive: stop it first, or it would come back at once", 409)
        await self._catalogue.delete_nodes([node_id])
        if (state := self.nodes.get(node_id)) is None or state.alive:
            return  # it has come back meanwhile, as a node that is assigned anew
        self._forget(state)

    def _make_room(self, caller: Caller) -> None:
        """Have room for one node more. Raises `RequestRefused`."""
        if len(self.nodes) >= forgetting.NODES_MAX:
            for node_id in forgetting.first_to_go(self.nodes.items()):
                self._forget(self.nodes[node_id])
        if len(self.nodes) >= forgetting.NODES_MAX:
            raise RequestRefused(f"{forgetting.NODES_MAX} nodes are known: this tracker is full; remove dead ones", 507)
        if caller.key and self._made_by[caller.key] >= forgetting.NODES_OF_ADDRESS_MAX:
            raise RequestRefused(f"{forgetting.NODES_OF_ADDRESS_MAX} nodes came from {caller.key} already", 507)

    def forget_silent(self) -> list[str]:
        """Forget the nodes that have been silent for long; return their ids. To be called now and then."""
        due = forgetting.are_due(self.nodes.items(), time.time())
        for node_id in due:
            self._forget(self.nodes[node_id])
        return due

    def _forget(self, state: NodeState) -> None:
        """Forget a node; the catalogue does with the next batch."""
        node_id = state.info.id
        self._forgotten.add(node_id)
        state.alive = False
        self._update_rosters([node_id], self._concerned(state))
        for fill_id in self._fills_of.pop(node_id, set()):
            self._assigned[fill_id].discard(node_id)
        self.budgets.forget(node_id)
        self.nights.forget(node_id)
        self._dirty_nodes.discard(node_id)
        self._dirty_titles.pop(node_id, None)
        self._dirty_assignments = {pair for pair in self._dirty_assignments if pair[1] != node_id}
        for title in state.titles:
            self._forget_holder(node_id, title)
        self._texts.forget(node_id)
        self._made_by[state.made_by] -= 1
        if not self._made_by[state.made_by]:
            del self._made_by[state.made_by]
        state.changed.set()
        del self.nodes[node_id]

    def fill(self, fill_id: str) -> FillRecord:
        """Return a fill. Raises `RequestRefused`."""
        fill = self.fills.get(fill_id)
        if fill is None:
            raise RequestRefused(f"there is no fill {fill_id[:80]!r}", 404)
        return fill

    def nodes_of_fill(self, fill_id: str) -> list[str]:
        """Return the ids of the nodes that a fill is assigned to, sorted."""
        return sorted(self._assigned.get(fill_id, ()))

    def _index_fill(self, fill: FillRecord, selector: Selector) -> None:
        self._unindex_fill(fill.fill_id)
        self.fills[fill.fill_id] = fill
        self._order_chars += chars_of(fill.request)
        insort(self._by_urgency, urgency(fill))
        self._selectors[fill.fill_id] = selector
        if fill.is_brought_back and fill.signed is None:
            ids = (term.pattern for clause in selector.clauses for term in clause)
            self._brought_ids[fill.fill_id] = frozenset(ids)
        self._fills_by_title[fill.request.title].add(fill.fill_id)

    def _unindex_fill(self, fill_id: str) -> bool:
        if (fill := self.fills.pop(fill_id, None)) is None:
            return False
        self._order_chars -= chars_of(fill.request)
        del self._by_urgency[bisect_left(self._by_urgency, urgency(fill))]
        del self._selectors[fill_id]
        self._brought_ids.pop(fill_id, None)
        _take_out(self._fills_by_title, fill.request.title, fill_id)
        return True

    def _assign(self, fill_id: str, node_id: str) -> None:
        self._assigned[fill_id].add(node_id)
        self._fills_of[node_id].add(fill_id)

    # ---- liveness

    def handle_heartbeat(self, node_id: str, report: NodeReport, caller: Caller = NOBODY) -> HeartbeatReply:
        """Take a node's report. Raises `RequestRefused`; status 409 where the name is another process's."""
        check_report(node_id, report)
        state = self.nodes.get(node_id)
        known = True
        if state is None:
            self._make_room(caller)
            first = msgspec.structs.replace(report, titles=[], gone=[], origins=[])
            state = NodeState(
                first, seen_at=time.time(), lease_from=self._now(), version=self._next_version(), caller=caller
            )
            state.has_said_all = not report.more
            self.nodes[node_id] = state
            self._made_by[state.made_by] += 1
            self._forgotten.discard(node_id)
            self.nights.note_silent(node_id, 0.0)
            # Also those that it was given before a restart, where its first report never reached the disk.
            joined = dict.fromkeys(self.wanted(node_id)) | self._join_fills(node_id)
            known = self._take_titles(state, report)
            self._update_rosters([node_id], joined)
        elif not state.tenancy.claim(caller, report.boot, report.sequence, self._now(), self._lease_s):
            self.refused[NAME_TAKEN] += 1
            raise RequestRefused(
                f"another process reports as node {node_id}: if two nodes use this id, give one another; if that one "
                f"has ended, this one is taken {self._lease_s:g} s after its last heartbeat",
                409,
            )
        elif report.boot != state.report.boot or report.sequence > state.report.sequence:
            known = self._update(state, report)
        self._dirty_nodes.add(node_id)
        closed = self.scrubs.note_scrubs(node_id, report.scrubs)
        if self.evictions.note(node_id, report.evictions) or closed:
            self._touch(node_id)
            state = self.nodes[node_id]
        reply = HeartbeatReply(
            interval_s=self.heartbeat_s, orders_version=state.version, again=not known,
            revocations=self._revocations_digest,
        )  # fmt: skip
        reply.allowances = self._allowances(self.nodes[node_id], report, known=known)
        return reply

    def _allowances(self, state: NodeState, report: NodeReport, *, known: bool) -> list[Allowance]:
        """Return what a node may have of the policy's budgets. One that is to say all again is not judged yet."""
        if not (rules := self.policies.budgets):
            return []
        if not known or report.boot != state.report.boot or report.sequence < state.report.sequence:
            return report.allowances  # what has come of origins is not known, or this is a late one
        used = state.origins.values()
        needs, night = bool(state.unfinished), night_of(time.time())
        return self.budgets.renew(rules, night, state.info.id, report.boot, used, report.allowances, needs=needs)

    def _update(self, state: NodeState, report: NodeReport) -> bool:
        node_id = state.info.id
        joins = report.info != state.info or not state.alive
        turns = report.hours.phase != state.report.hours.phase
        if report.boot != state.report.boot:
            state.applied = 0
            state.origins.clear()
        state.report = msgspec.structs.replace(report, titles=[], gone=[], origins=[])
        state.seen_at = time.time()
        state.lease_from = self._now()
        state.alive = True
        joined = self._join_fills(node_id) if joins else {}
        known = self._take_titles(state, report)
        if joins:
            self._update_rosters([node_id], joined | self._concerned(state))
            # Nobody has told it of the changes since it was taken for dead.
            for title in list(state.rostered):
                self._note_order(node_id, title)
        elif turns:
            self._update_rosters([node_id], self._concerned(state))
        return known

    def _take_titles(self, state: NodeState, report: NodeReport) -> bool:
        """Take in what a heartbeat says of titles; False where it builds on one that is not known here."""
        if report.since and not report.since <= state.applied:
            return False
        if len(state.origins.keys() | {one.id for one in report.origins}) > ORIGINS_COUNTED_MAX:
            raise RequestRefused(f"node {state.info.id} counts more than {ORIGINS_COUNTED_MAX} origins")
        if len(state.titles) + len(report.titles) > NODE_TITLES_MAX:
            raise RequestRefused(f"node {state.info.id} has more than {NODE_TITLES_MAX} titles", 507)
        # Nodes have done orders of a database that is lost, and what is ordered from now on is newer.
        numbers = (one.number for one in report.titles if one.number <= NUMBER_ADOPTED_MAX)
        self._number = max(self._number, *numbers, 0)
        self.nights.take(time.time(), report, state.titles, state.unfinished, self._newest_order, self._rule_of)
        if not report.since:
            state.unconfirmed = set(state.titles)
        state.origins.update({one.id: one for one in report.origins})
        said = {title.title: self._kept_of(state, title) for title in report.titles}
        gone = set(report.gone)
        if state.unconfirmed:
            state.unconfirmed -= said.keys()
            if not report.more:
                gone |= state.unconfirmed
                state.unconfirmed = set()
        gone &= state.titles.keys()
        news = gone | {title for title, one in said.items() if _is_news(state.titles.get(title), one)}
        for title in said.keys() - state.titles.keys():
            self._told_of[title].add(state.info.id)
        state.titles.update(said)
        for title in gone:
            del state.titles[title]
            self._texts.drop(state.info.id, title)
            self._forget_holder(state.info.id, title)
        state.applied = report.sequence
        if news:
            self._dirty_titles[state.info.id] |= news
            self._update_rosters([state.info.id], news)
            self._note_withdrawn(state)
        if not (state.has_said_all or report.more):
            state.has_said_all = True
            self._update_rosters([state.info.id], list(state.unfinished))
        return True

    def _kept_of(self, state: NodeState, said: TitleReport) -> TitleReport:
        kept, is_cut = self._texts.take(state.info.id, said)
        if is_cut:
            self.refused[TEXTS_CUT] += 1
        return kept

    def expire(self) -> list[str]:
        """Drop the nodes whose heartbeats have stopped; return their ids. To be called several times a heartbeat.

        Where the tracker itself has been held up, nobody is dropped: heartbeats may be waiting to be read.
        """
        held_up = self._now() - self._swept_at > self.heartbeat_s
        self._swept_at = self._now()
        if held_up:
            return []
        lost = [node_id for node_id, state in self.nodes.items() if state.alive and self._age_s(state) > self._lease_s]
        for node_id in lost:
            self._lose(self.nodes[node_id])
        return lost

    def _lose(self, state: NodeState) -> None:
        """Take a node for no source any more."""
        state.alive = False
        self.nights.note_silent(state.info.id, state.seen_at)
        self._update_rosters([state.info.id], self._concerned(state))

    def _forget_holder(self, node_id: str, title: str) -> None:
        _take_out(self._told_of, title, node_id)

    @property
    def _lease_s(self) -> float:
        return LEASE_INTERVALS * self.heartbeat_s

    def _age_s(self, state: NodeState) -> float:
        return self._now() - state.lease_from

    def node(self, node_id: str) -> NodeState:
        """Return a node's state. Raises `RequestRefused`."""
        state = self.nodes.get(node_id)
        if state is None:
            raise RequestRefused(f"node {node_id[:80]!r} has never sent a heartbeat to this tracker", 404)
        return state

    def _join_fills(self, node_id: str) -> dict[str, None]:
        """Assign a node to all fills that mean it; return the titles of which its orders may be others now."""
        info = self.nodes[node_id].info
        self._note_pins(self.nodes[node_id])
        self._note_limits(self.nodes[node_id])
        mine = self._fills_of[node_id]
        # A fleet has few selectors, and many fills.
        matches: dict[str, bool] = {}
        joined: dict[str, None] = {}
        for *_, fill_id in self._by_urgency:
            selector = self._selectors[fill_id]
            if (ids := self._brought_ids.get(fill_id)) is not None and node_id not in ids:
                continue
            if selector.text not in matches:
                matches[selector.text] = selector.matches(info)
            if matches[selector.text] and fill_id not in mine:
                self._assign(fill_id, node_id)
                self._dirty_assignments.add((fill_id, node_id))
                joined.update(dict.fromkeys(sorted(self._same_name(self.fills[fill_id].request.title))))
        return joined

    def _standing(self, node_id: str, title: str) -> Standing:
        """Return what a node is to a title, and let its orders follow.

        It counts in elections where it wants the title, or has wanted it.
        """
        if (state := self.nodes.get(node_id)) is None:
            return Standing(None, False)
        report, is_wanted = state.titles.get(title), self.is_wanted(node_id, title)
        lacks = is_wanted and (report is None or report.state != "live" or self._wants_more(node_id, title, report))
        if lacks:
            state.unfinished.setdefault(title)
        else:
            state.unfinished.pop(title, None)
        if is_wanted != (title in state.feed):
            self._note_order(node_id, title)
        return Standing(self._member(state, title, is_wanted), lacks and state.alive and state.has_said_all)

    def _wants_more(self, node_id: str, title: str, report: TitleReport) -> bool:
        """Tell whether other files of a title that a node is live with may have been ordered since."""
        if not report.files and not self.selection_of(node_id, title):
            return False
        return report.number < self._number_for(node_id, title)

    def _member(self, state: NodeState, title: str, is_wanted: bool) -> Member | None:
        if self.barred(state.info, title):
            return None
        report = state.titles.get(title)
        phase = state.report.hours.phase
        if phase != "open" and self._is_out_of_cycle(state.info.id, title):
            phase = "open"
        # One that is closed is linked all the same: when it opens it is to know what its neighbours have.
        may_come = is_wanted and (report is None or not is_stuck(report))
        if not state.alive or not (may_come or (report and holds(report))):
            return None
        counts = may_come and phase != "closed"
        return Member(state.info, counts, counts and phase == "soon")

    def _is_out_of_cycle(self, node_id: str, title: str) -> bool:
        """Tell whether a node is to fill a title whether its fill windows are open or not."""
        fills = self._fills_by_title.get(title, set()) & self._fills_of.get(node_id, set())
        return any(self.fills[fill_id].request.now for fill_id in fills)

    def _members(self, title: str) -> Iterator[Member]:
        """Yield all that belong into the roster of a title."""
        for node_id in self._told_of.get(title, set()) | self._receivers(title):
            if (state := self.nodes.get(node_id)) is not None:
                member = self._member(state, title, self.is_wanted(node_id, title))
                if member is not None:
                    yield member

    def wanted(self, node_id: str) -> dict[str, list[FillRecord]]:
        """Return the titles that a node is to hold (`is_wanted`), with their fills."""
        fills: dict[str, list[FillRecord]] = defaultdict(list)
        for fill_id in self._fills_of[node_id]:
            fills[self.fills[fill_id].request.title].append(self.fills[fill_id])
        return {title: found for title, found in fills.items() if self.is_wanted(node_id, title)}

    def is_wanted(self, node_id: str, title: str) -> bool:
        """Tell whether a node is to hold a title.

        Of the versions of a name these are the one that was ordered last, and older ones of which the node has a part:
        what is under way there goes on, and is shown until the newest is whole.
        """
        number = self._number_for(node_id, title)
        state = self.nodes.get(node_id)
        if number and state is not None and self.barred(state.info, title):
            return False
        if number and state is not None and (report := state.titles.get(title)) is not None and holds(report):
            return True
        return number > 0 and all(self._number_for(node_id, one) <= number for one in self._same_name(title))

    def _number_for(self, node_id: str, title: str) -> int:
        """Return the number of a node's newest order of a title, 0 where it has none."""
        return 0 if (fill := self._newest_order(node_id, title)) is None else fill.number

    def _update_rosters(self, node_ids: Iterable[str], titles: Iterable[str]) -> None:
        """Let rosters and orders of titles follow what these nodes are now, and wake whom that concerns.

        At once as far as `FOLLOWED_AT_ONCE` goes, in the order of `titles`; `follow_rosters` does the rest.
        """
        nodes, left = frozenset(node_ids), iter(titles)
        done = 0
        for title in left:
            done += self._follow(title, nodes)
            if done >= FOLLOWED_AT_ONCE:
                break
        self._behind.add(left, nodes)
        if self._behind:
            self._is_behind.set()

    async def follow_rosters(self) -> None:
        """Do what `_update_rosters` has left, for ever, so that calls are answered in between. To be run by one task.

        What it raises is of one title, whose turn is over then.
        """
        while True:
            await self._is_behind.wait()
            if self.catch_up():
                await trio.sleep(FOLLOW_PAUSE_S)
            else:
                self._is_behind = trio.Event()

    def catch_up(self) -> bool:
        """Do some of what `_update_rosters` has left; tell whether there is more."""
        done = 0
        while (title := self._behind.first()) is not None and done < FOLLOWED_AT_ONCE:
            done += self._follow(title, frozenset())
        return title is not None

    def _follow(self, title: str, node_ids: frozenset[str]) -> int:
        """Let the roster of a title follow what these nodes are there now; return how many nodes were looked at."""
        node_ids |= (waited := self._behind.take(title))
        # Those of before a restart, whose first report never reached the disk, are unknown.
        told = self._rosters.follow(title, {node_id: self._standing(node_id, title) for node_id in node_ids})
        for node_id in self._receivers(title, told):
            self._note_order(node_id, title)
        for node_id in waited:
            if (state := self.nodes.get(node_id)) is not None and state.waits_for_all and node_id not in self._behind:
                state.waits_for_all = False
                self._touch(node_id)
        return 1 + len(node_ids) + len(told)

    def _concerned(self, state: NodeState) -> dict[str, None]:
        """Return the titles to whose rosters it matters that a node has come, gone or moved."""
        return state.unfinished | dict.fromkeys(self._rosters.titles_of(state.info.id, state.titles))

    def _new_around(self, title: str) -> Neighbourhoods:
        # Of a title that some hold and nobody has published, no neighbourhood is ever asked for.
        record = self.titles.get(title)
        around = self._make_around(title_id_from_hex(title), record.chunk_count if record is not None else 1)
        if any(self.fills[fill_id].selection for fill_id in self._fills_by_title.get(title, ())):
            around.everybody_max = max(around.everybody_max, PARTS_NODES_MAX)
        return around

    def _receivers(self, title: str, among: set[str] | None = None) -> set[str]:
        """Return the nodes (all, or those `among` some) that have an order for a title."""
        fills = self._fills_by_title.get(title, set())
        if among is None:
            return {node_id for fill_id in fills for node_id in self._assigned[fill_id]}
        return {node_id for node_id in among if not fills.isdisjoint(self._fills_of[node_id])}

    # ---- orders

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _touch(self, node_id: str) -> None:
        state = self.nodes.get(node_id)
        if state is not None:
            state.version = self._next_version()
            state.changed.set()
            state.changed = trio.Event()

    def _note_order(self, node_id: str, title: str) -> None:
        """Have a node told of its order of a title, or that it has none any more."""
        state, is_wanted = self.nodes.get(node_id), self.is_wanted(node_id, title)
        if state is not None and (is_wanted or title in state.feed):
            self._touch(node_id)
            state.feed.note(title, state.version, is_ordered=is_wanted)

    async def wait_orders(self, node_id: str, after: int, wait_s: float) -> Orders:
        """Return the orders of a node, at once where their version is not `after`, else when they change.

        Waits at most `wait_s`; the orders may then be unchanged. Raises `RequestRefused`.
        """
        state = await self._wait_version(node_id, after, wait_s)
        return self._answer(state, self.orders(node_id))

    async def wait_changes(
        self, node_id: str, cursor: str, wait_s: float, pins: str = "", settings: str = ""
    ) -> Orders:
        """Return what has changed of a node's orders since a cursor, once there is something, or `wait_s` is over.

        It comes in pieces. They begin anew, with all orders, where the cursor is none of this run, or too old. What is
        pinned is left out where the node knows that: `pins`; so are settings of that digest. Raises `RequestRefused`.
        """
        run, _, number = cursor.partition("-")
        after = int(number) if run == self._run and number.isdecimal() and len(number) < 20 else -1
        state = await self._wait_version(node_id, after, wait_s)
        is_known = state.feed.knows(after) and after <= state.version
        orders, gone, version, more = self._changes(state, after if is_known else 0)
        answer = self._answer(state, orders, pins, settings)
        answer.cursor, answer.changes, answer.gone, answer.more = f"{self._run}-{version}", is_known, gone, more
        return answer

    async def _wait_version(self, node_id: str, after: int, wait_s: float) -> NodeState:
        """Return a node once the version of its orders is not `after`, or `wait_s` is over. Raises `RequestRefused`."""
        state = self.node(node_id)
        with trio.move_on_after(min(max(wait_s, 0.0), ORDERS_WAIT_S_MAX)):
            while self.nodes.get(node_id) is state and state.version == after and not self._closing:
                await state.changed.wait()
        if self.nodes.get(node_id) is not state:
            raise RequestRefused(f"node {node_id} was removed", 404)
        return state

    def _answer(self, state: NodeState, orders: list[Order], pins: str = "", settings_known: str = "") -> Orders:
        digest, settings = self.policies.settings(state.info)
        pins_now = f"{self._run}-{state.pins_version}"
        withdrawn = heapq.nsmallest(WITHDRAWN_MAX, state.to_delete)
        return Orders(
            version=state.version,
            orders=orders,
            scrubs=self.scrubs.orders_of(state.info.id),
            withdrawn=withdrawn,
            evictions=self.evictions.orders_of(state.info.id),
            pinned=[] if pins == pins_now else sorted(state.pinned),
            pins=pins_now,
            rates=state.rates,
            settings=None if not digest or digest == settings_known else settings,
            settings_digest=digest,
            database=self.database,
            number=self._number_given,
        )

    def _changes(self, state: NodeState, after: int) -> tuple[list[Order], list[str], int, bool]:
        """Return the next piece of what is newer than `after`: orders, gone titles, its version, whether more is."""
        orders: dict[str, Order] = {}
        gone: list[str] = []
        size = 0
        for version, title, is_ordered in state.feed.since(after):
            if size >= PIECE_BYTES_MAX:
                return list(orders.values()), gone, after, True
            after = version
            if is_ordered:
                order = orders[title] = self._told(state, title)
                size += len(msgspec.json.encode(order))
            else:
                gone.append(title)
                state.rostered.discard(title)
                size += len(title)
        if state.unfinished and self._now() >= state.refresh_at:
            state.refresh_at = self._now() + REFRESH_S
            for title in list(islice(state.unfinished, REFRESH_MAX)):
                if size >= PIECE_BYTES_MAX:
                    break  # its turn comes first the next time
                state.unfinished[title] = state.unfinished.pop(title)
                # One that was withdrawn stands here until the rosters have followed.
                if title not in orders and self.is_wanted(state.info.id, title):
                    order = orders[title] = self._told(state, title)
                    size += len(msgspec.json.encode(order))
        state.waits_for_all = state.info.id in self._behind
        return list(orders.values()), gone, state.version, state.waits_for_all

    def _told(self, state: NodeState, title: str) -> Order:
        order = self.order(state.info.id, title)
        (state.rostered.add if order.roster else state.rostered.discard)(title)
        return order

    def orders(self, node_id: str) -> list[Order]:
        """Return what a node shall hold, one order a title, the most urgent first."""
        wanted = [(min(map(urgency, fills)), title) for title, fills in self.wanted(node_id).items()]
        return [self.order(node_id, title) for _, title in sorted(wanted)]

    def order_now(self, node_id: str, title: str) -> Order:
        """Return the order of a title, with a roster in any case. Raises `RequestRefused` where there is none."""
        self.node(node_id)
        if not self.is_wanted(node_id, check_title(title)):
            raise RequestRefused(f"node {node_id} has no order for title {title}", 404)
        return self.order(node_id, title, sought=True)

    def order(self, node_id: str, title: str, *, sought: bool = False) -> Order:
        """Return the order of a title that a node is to hold, with the origins of all its fills.

        So whoever finds that an origin has moved orders the title again from where it is now. There is a roster while
        somebody seeks the title; `sought`: as if the node did.
        """
        fill_ids = self._fills_by_title.get(title, set()) & self._fills_of.get(node_id, set())
        fills = sorted((self.fills[fill_id] for fill_id in fill_ids), key=urgency)
        sought = sought or self._rosters.is_sought(title)
        around = self._rosters.around(title) if sought else None
        roster = [] if around is None else self._ranked(node_id, title, around)
        return Order(
            fill_id=fills[0].fill_id,
            title=title,
            origins=(origins := list(dict.fromkeys(url for fill in fills for url in fill.request.origins))),
            costs=self.prices.costs(map(shown, origins)) if len(origins) > 1 else {},
            priority=fills[0].request.priority,
            policy=self._policy_for(self.nodes[node_id].info, title, together([fill.request.policy for fill in fills])),
            roster=roster,
            deadline=fills[0].request.deadline,
            election=None if around is None else around.election(self.node(node_id).info),
            number=(newest := max(fills, key=lambda fill: fill.number)).number,
            # Of the newest alone: who may not roll back must not do so by the flag of an order that stands yet.
            rollback=newest.request.rollback,
            signed=[one.signed.id for one in sorted(fills, key=lambda fill: -fill.number) if one.signed is not None],
            files=self.selection_of(node_id, title),
            selections=self._selections(title, roster),
            now=any(fill.request.now for fill in fills),
        )

    def roster(self, node_id: str, title: str) -> list[RosterEntry]:
        """Return the ranked sources of a title for a node, with which it is to be linked. Raises `RequestRefused`.

        They are the living who have a part of it or shall have it: all of them, or its neighbours in a large fleet.
        """
        return self._ranked(node_id, title, self._rosters.around(title))

    def _ranked(self, node_id: str, title: str, around: Neighbourhoods) -> list[RosterEntry]:
        receiver = self.node(node_id).info
        # One that was removed may stand there until the roster has followed.
        linked = [other for other in around.links(receiver) if other in self.nodes]
        candidates = [self._candidate(around.members[other], title) for other in linked]
        # With those it is linked all the same, which take from it.
        candidates = [
            one if one.node.may_serve(receiver.isp) else one._replace(have_chunks=0) for one in candidates
        ]
        routes = self.routes.routes
        return ranking.rank_sources(receiver, candidates, None if routes is None else routes.cost)

    def _candidate(self, member: Member, title: str) -> ranking.Candidate:
        state = self.nodes[member.info.id]
        record = self.titles.get(title)
        report = state.titles.get(title)
        return ranking.Candidate(
            node=state.info,
            soon=member.soon,
            filling=member.counts and (report is None or report.state != "live" or title in state.unfinished),
            have_chunks=0 if report is None else report.have_chunks,
            chunk_count=record.chunk_count if record is not None else report.chunk_count if report else 0,
            upload_active=state.report.upload_active,
            upload_queued=state.report.upload_queued,
            late=self._age_s(state) > LATE_INTERVALS * self.heartbeat_s,
        )

    # ---- running

    async def flush(self) -> None:
        """Write the reports and assignments that the catalogue lacks. Raises `StoreError`; then they stay queued."""
        if reserved := self.budgets.to_reserve():
            await self._catalogue.reserve(reserved)
            self.budgets.note_reserved(reserved)
        nodes, self._dirty_nodes = self._dirty_nodes, set()
        titles, self._dirty_titles = self._dirty_titles, defaultdict(set)
        pairs, self._dirty_assignments = self._dirty_assignments, set()
        if self._forgotten:
            forgotten, self._forgotten = self._forgotten, set()
            try:
                await self._catalogue.delete_nodes(forgotten - self.nodes.keys())
            except BaseException:
                self._forgotten |= forgotten
                raise
        if not nodes and not pairs:
            return
        saved = False
        try:
            states = [self.nodes[node_id] for node_id in nodes if node_id in self.nodes]
            holdings = [
                (state.info.id, title, state.titles.get(title)) for state in states for title in titles[state.info.id]
            ]
            await self._flush_nights()
            reports = [StoredReport(state.report, state.seen_at, state.first_at) for state in states]
            await self._catalogue.save(reports, holdings, pairs)
            saved = True
        finally:
            if not saved:
                self._dirty_nodes |= nodes
                self._dirty_assignments |= pairs
                for node_id, of_node in titles.items():
                    self._dirty_titles[node_id] |= of_node

    async def _flush_nights(self) -> None:
        unsaved = self.nights.take_unsaved()
        try:
            await self._catalogue.save_nights(unsaved)
        except BaseException:
            self.nights.not_saved(unsaved)
            raise

    async def night(self, night: str) -> NightPage:
        """Return all that is known of a night. Raises `RequestRefused`, `StoreError`."""
        await self._flush_nights()
        page = await self._catalogue.night(night)
        if page is None:
            raise RequestRefused(
                f"no night {night[:40]!r} is known: a night is named by the date on which it began, as in 2026-11-29; "
                "`p2pfill night list` (GET /v1/nights) has those that are known",
                404,
            )
        return page

    def release_polls(self) -> None:
        """Answer all long polls now and from now on: the tracker stops."""
        self._closing = True
        for state in self.nodes.values():
            state.changed.set()


def _take_out(index: dict[str, set[str]], key: str, member: str) -> None:
    """Take a member out of an index, with its key where it was the last: keys come for ever, as titles do."""
    members = index.get(key, set())
    members.discard(member)
    if not members:
        index.pop(key, None)


def _covers(said: WithdrawalStatement, fill: FillRecord) -> bool:
    """Tell whether a signed withdrawal is of a fill that stands."""
    if fill.signed is not None:
        return said.covers(said.title_id, said.name, bytes.fromhex(fill.signed.terms), fill.signed.number)
    return not said.terms and fill.ordered_at * 1000 <= said.number


def _withdrawn(stored: Iterable[tuple[bytes, str]]) -> Iterator[Withdrawn]:
    """Yield the signed withdrawals that a database has kept. They were looked at before they came there."""
    for document, who in stored:
        said = decode_statement(Document.decode(document).statement)
        if isinstance(said, WithdrawalStatement):
            yield Withdrawn(said, who)


def urgency(fill: FillRecord) -> tuple[Urgency, float, str]:
    """Return the sort key of fills: the most urgent first, then the older, and no two alike."""
    return fill.urgency, fill.created_at, fill.fill_id


def _is_news(before: TitleReport | None, after: TitleReport) -> bool:
    """Tell whether a report is more than progress: the catalogue remembers it, and rosters may follow from it."""
    if before is None or (before.state, before.number) != (after.state, after.number):
        return True
    return holds(before) != holds(after)


def night_of(epoch_s: float) -> str:
    """Return the night of budgets: they run from noon to noon in UTC, for the fleet stands in many time zones."""
    return datetime.fromtimestamp(epoch_s - 12 * 3600, UTC).date().isoformat()


def is_stuck(report: TitleReport) -> bool:
    """Tell whether a node cannot fill a title now: it has failed, or waits for the node's disk, with the reason."""
    return report.state == "failed" or (report.state == "waiting" and bool(report.error))


def holds(report: TitleReport) -> bool:
    """Tell whether a node has a part of a title."""
    return report.have_chunks > 0 or report.state == "live"
