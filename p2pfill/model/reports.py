"""The records that nodes and the tracker exchange as JSON, and that the CLI shows.

Titles are named by 64 hexadecimal digits here: these records are read by people with curl.
All sizes are bytes, all rates bytes per second, all times seconds since the epoch unless a name says otherwise.
Those of a heartbeat are left out when cycles of objects are looked for (`gc=False`): they are in none, and a tracker
keeps a dozen of them for each node.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from p2pfill.model import limits
from p2pfill.model.fleet_policy import CacheSettings
from p2pfill.model.node import NodeInfo
from p2pfill.model.origins import OriginReport
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.model.urgency import Urgency

TitleState = Literal["waiting", "filling", "verifying", "live", "repairing", "failed"]
"""`waiting`: not begun with the order that stands; or, with an `error`, refused by the disk, and it goes on by itself.
`repairing`: viewers and other caches are served what is good of it, and the rest is fetched: what was bad, or files
that were ordered since."""

Keeper = Literal["", "order", "pin", "fill", "use", "unknown"]
"""What keeps a title on a node when room is needed: an order, a pin, that it is being filled (or deleted already), that
it is in use. `unknown`: the tracker has not said yet what is ordered. Empty: nothing."""


def clipped(text: str, chars_max: int = limits.REASON_CHARS_MAX) -> str:
    """Return `text` as a report can carry it: not longer than that, and nothing in it that UTF-8 cannot say.

    The text of an error may name a path of any length and of any bytes.
    """
    said = text.encode("utf-8", "backslashreplace").decode()
    return said if len(said) <= chars_max else said[: chars_max - 1] + "…"


class SourceReport(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What one node says of one source of one title."""

    id: str
    """A node id, or an origin's URL."""
    tier: Literal["peer", "regional", "origin"]
    bytes: int = 0
    """Payload received from it and kept."""
    rate_bytes_s: float = 0.0
    in_flight: int = 0
    """Chunks requested and not yet here."""
    state: str = "ok"
    """`ok`, `slow`, `failing`, `quarantined`, `lost`."""
    reason: str = ""
    """Why it is in that state, for people."""


class TitleReport(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """How far one node is with one title, and why not further."""

    title: str
    state: TitleState
    chunk_count: int = 0
    """Of the chunks that are to be here: all, unless some files only are ordered. So are the next three."""
    have_chunks: int = 0
    have_bytes: int = 0
    title_bytes: int = 0
    files: int = 0
    """How many of the title's files are to be here; 0: all."""
    bytes_peer: int = 0
    bytes_regional: int = 0
    bytes_origin: int = 0
    duplicate_bytes: int = 0
    """Payload that arrived and was of no use: a second copy, an aborted chunk, a chunk that failed its digest."""
    reused_bytes: int = 0
    """What was copied from another version of the title on this node's disk, and verified."""
    rate_bytes_s: float = 0.0
    escalations: dict[str, int] = {}
    """Reason -> times that a chunk was taken from further out than the plan says."""
    waits: dict[str, int] = {}
    """Reason -> chunks that wait for it now."""
    sources: list[SourceReport] = []
    started_at: float = 0.0
    """When this node began the fill, 0 where it was live from the start."""
    finished_at: float = 0.0
    """When it went live, 0 while it has not."""
    error: str = ""
    number: int = 0
    """Of the order that this is about; 0 where the node knows of none. What is said of an older order than the one
    that stands is not said of that."""


class LoopLag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How late an event loop woke in the last minute, in microseconds; zeros where it was not looked at yet."""

    last_us: int = 0
    """The last time that it was looked at."""
    p99_us: int = 0
    """What 99 of 100 looks did not exceed."""
    max_us: int = 0


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node's process has used since it started; zeros where that is not known."""

    processor_s: float = 0.0
    memory_peak_bytes: int = 0
    """The most memory that it has had resident."""


class ScrubOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Asks a node to look whether what it holds of a title is still right."""

    number: int
    """Of the request; a node does each once."""
    title: str


class ScrubReport(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What has come of a `ScrubOrder` so far."""

    number: int
    title: str
    state: Literal["checking", "repairing", "whole", "failed"]
    """`repairing`: all was looked at, and what is bad is fetched anew; `failed`: it could not be looked at."""
    chunk_count: int = 0
    checked_chunks: int = 0
    bad_chunks: int = 0
    """Those of lost files among them."""
    lost_files: int = 0
    altered_files: int = 0
    """Files and directories that had lost their time or mode, and have them again."""
    error: str = ""


class EvictOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Asks a node to make room, or what would go if it did."""

    number: int
    """Of the request; a node does each once."""
    free_bytes: int
    """Titles go until so much is free."""
    dry_run: bool = False
    """Nothing goes; `free_bytes` 0 then asks for all that may."""


class TitleFate(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What becomes of one title of a node when room is needed."""

    title: str
    name: str = ""
    """Empty where the node does not know it, as of a title that it cannot open."""
    size: int = 0
    """On disk, as its files are."""
    used_at: float = 0.0
    """The last use that is known."""
    kept_by: Keeper = ""
    goes: bool = False
    """It has gone, or would."""
    files: int = 0
    """How many of its files are meant, and not the others, which are ordered; 0: the whole title."""


class EvictReport(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What has come of an `EvictOrder` so far."""

    number: int
    state: Literal["looking", "evicting", "done", "failed"]
    """`done`: so much is free, or nothing else may go."""
    free_bytes: int = 0
    titles: list[TitleFate] = []
    """What may go first, in the order in which it does, then what may not; the first `EVICT_TITLES_MAX`."""
    more: int = 0
    """Titles that are not in the list."""
    gone: int = 0
    """Titles that have gone; with a dry run, that would."""
    gone_bytes: int = 0
    most_bytes: int = 0
    """More was asked for than can be free, so nothing has gone; that much can be. Else 0."""
    error: str = ""


class ScrubberReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a node's own round through all of its titles is. Times are 0 where there was none."""

    rate_bytes_s: int = 0
    """At most; 0 where it is off."""
    began_at: float = 0.0
    ended_at: float = 0.0
    """Of the last round that has come to its end."""
    checked_bytes: int = 0
    """In this round, or the last one."""
    bad_chunks: int = 0
    """Found in it, and fetched anew."""


class DiskReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The room on a node's disk a few seconds ago; zeros where it was not looked at yet."""

    size_bytes: int = 0
    free_bytes: int = 0
    free_bytes_min: int = 0
    """Where less is free, titles go that nothing keeps."""

    @property
    def is_low(self) -> bool:
        """Whether less is free than there should be: nothing that may go is left, or it is going now."""
        return self.size_bytes > 0 and self.free_bytes < self.free_bytes_min


class HoursReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whether a node may fill now, by its own clock."""

    phase: Literal["open", "soon", "closed"] = "open"
    """`soon`: its window opens in a moment, and it counts in elections already."""
    until: float = 0.0
    """When its timetable says something else; 0: it has none."""
    night: str = ""
    """The date on which its night began."""
    used_bytes: int = 0
    """Came in during this night, for what goes by the windows."""
    budget_bytes: int = 0
    """For the night; 0: no limit."""
    budget_used: bool = False
    """It is closed since a budget is used up."""
    exempt_bytes: int = 0
    """Came in since its process began for what does not go by the windows: repairs, and orders out of cycle."""


class ServingReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """How busy a cache is with its viewers."""

    busy: float = 0.0
    """0 not at all, 1 has nothing to spare."""
    why: str = ""
    """For people."""
    weight: float = 1.0
    """The part of its weight that is left for other caches; the weight in its `NodeInfo` is that already."""


class EncryptionReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a node does about encrypting its data streams."""

    required: bool = False
    """All are encrypted; else those with caches that are set so."""
    streams: int = 0
    """Open ones that are encrypted, of both directions."""
    by_kernel: int = 0
    """Those of them on which the kernel says that it encrypts what is sent."""
    kernel: bool = False
    """The kernel has TLS, so that it may be used."""


class PayloadRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """How fast payload has moved since the heartbeat before, in bytes a second."""

    in_bytes_s: int = 0
    """From caches, of chunks that are still coming too; from origins, of chunks that have come."""
    out_bytes_s: int = 0


class NodeReport(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A heartbeat: what has changed since the one with the sequence `since`, or a part of that."""

    info: NodeInfo
    boot: str
    """Random per start of the process: tells the tracker a restart from a late message."""
    sequence: int
    """Grows by one per heartbeat of a boot, so that late ones are dropped."""
    titles: list[TitleReport] = []
    """Those of which there is news."""
    upload_active: int = 0
    upload_queued: int = 0
    upload_bytes: int = 0
    loop_lag: LoopLag = LoopLag()
    usage: Usage = Usage()
    disk: DiskReport = DiskReport()
    scrubs: list[ScrubReport] = []
    scrubber: ScrubberReport = ScrubberReport()
    evictions: list[EvictReport] = []
    origins: list[OriginReport] = []
    """Those of which there is news."""
    allowances: list[Allowance] = []
    """Those that the node goes by."""
    since: int = 0
    """A heartbeat of this boot that the tracker has acknowledged; 0: this begins anew, and what was said before counts
    no more, but for what the pieces that follow say again."""
    gone: list[str] = []
    """Titles of which the node holds nothing any more."""
    rates: RateLimits = NO_LIMITS
    """The limits in force."""
    moves: PayloadRates = PayloadRates()
    unreached: str = ""
    """Why others may not reach it where they are told to, for people: it has tried itself. Empty: they do."""
    trouble: str = ""
    """What is wrong with its clock or its certificate, for people; empty: nothing."""
    more: bool = False
    """More titles follow at once."""
    hours: HoursReport = HoursReport()
    serving: ServingReport = ServingReport()
    encryption: EncryptionReport = EncryptionReport()


class Allowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """How much a node may take of a budget of the fleet's policy."""

    budget: str
    terms: str
    """`BudgetTerms.key`: what it is an allowance of."""
    amount: int
    """Bytes, or millionths of money: in all since the node's process began, counted as in `OriginReport`, what was
    wasted included."""


class HeartbeatReply(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    interval_s: float
    """When the tracker wants the next heartbeat."""
    orders_version: int
    again: bool = False
    """The tracker does not know the heartbeat that this one builds on: the node is to tell everything again."""
    allowances: list[Allowance] = []
    """Of all budgets there are."""
    revocations: str = ""
    """Which revocation lists the tracker goes by: changes with them. Empty where there are none."""


class RosterEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One node that matters to a fill, as the tracker ranks it for the node that asks."""

    node: NodeInfo
    filling: bool
    """It wants the title too, and may fetch it now or in a moment. So it takes part in the election of fill masters,
    see `Order.election`; one whose fill windows are closed does not, and is a source."""
    have_chunks: int
    rank: int
    """0 is the best source."""
    reason: str
    """Why it ranks there, in words."""
    selection: int = 0
    """Which files it wants: the place in `Order.selections`, counted from 1; 0: all."""
    soon: bool = False
    """Its fill window opens in a moment: it is elected, and nothing is expected of it yet."""
    cost: float = 0.0
    """What a byte of it costs by its route (`model.routes`): orders sources that are equally far, and no others."""


class Elector(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One cache of the own ISP that takes part in its elections."""

    id: str
    weight: float
    soon: bool = False
    """As in a `RosterEntry`."""


class GroupWeight(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What another ISP of the region counts for in elections, or all of another region (`isp` is empty)."""

    region: str
    isp: str
    weight: float
    soon: bool = False
    """The fill windows of all that it counts for are yet to open."""


class Election(msgspec.Struct, forbid_unknown_fields=True):
    """Who takes part in the election of fill masters, where a fleet is too large to name everybody."""

    weight: float
    """What the node itself counts for; 0: it is not elected."""
    electors: list[Elector]
    """Of its own ISP, it among them. They need not be in the roster."""
    groups: list[GroupWeight]
    inward: bool = False
    """The electors serve their own ISP alone, and so lead nobody else."""


class Order(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of a node's fill manifest: hold this title."""

    fill_id: str
    title: str
    origins: list[str]
    """Base URLs below which the title's files lie. The cheapest that works is asked, all of them where all cost the
    same."""
    priority: int
    """Larger is more urgent."""
    policy: FillPolicy
    roster: list[RosterEntry]
    """The nodes to be linked with."""
    election: Election | None = None
    """Absent in a small fleet, where those of the roster that fill elect masters with their own weights."""
    deadline: float | None = None
    """When the title should be live; among orders of one priority the earlier goes first. None: whenever it can."""
    costs: dict[str, float] = {}
    """Origin, by its URL without its query -> money for a gigabyte, where a price is known. The others are free."""
    number: int = 0
    """Grows with each order that the tracker takes. Of the titles of one name that are live on a node, `live/NAME`
    shows the one whose order has the highest."""
    files: bytes = b""
    """Which files of the title are to be held, a bit for each (`model.selection`); empty: all."""
    selections: list[bytes] = []
    """What those of the roster want that want some files only."""
    now: bool = False
    """It is to be filled out of cycle, whether fill windows are open or not."""
    rollback: bool = False
    """It may be an older version, by what was signed of it, than one that was shown before."""
    signed: list[str] = []
    """Ids of what was signed of it (`model.signed_order`), of all fills that it is made of, the newest first."""

    @property
    def urgency(self) -> Urgency:
        """Where it stands among all orders."""
        return Urgency.of(self.priority, self.deadline)


class BroughtOrder(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An order that a node goes on with though its tracker's database does not know it; fields as of an `Order`."""

    title: str
    origins: list[str]
    priority: int
    policy: FillPolicy
    deadline: float | None = None
    number: int = 0
    files: bytes = b""
    now: bool = False
    signed: list[bytes] = []
    """What the node keeps of it that is signed: a tracker that asks who calls goes by this alone."""


class BroughtOrders(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a node brings back."""

    orders: list[BroughtOrder]
    withdrawals: list[bytes] = []
    """Signed ones that it keeps."""


class SignedDocuments(msgspec.Struct, forbid_unknown_fields=True):
    """What is signed of a node's orders, and which withdrawals of those titles are (`model.signed_order`)."""

    titles: dict[str, list[bytes]]
    """By title; one that was asked for and is left out is to be asked for again."""


class BroughtReply(msgspec.Struct, forbid_unknown_fields=True):
    """What came of that: orders that are named in neither stand again."""

    manifests: list[str] = []
    """Titles whose manifest the tracker lacks, which the node may publish."""
    refused: dict[str, str] = {}
    """Title -> why its order does not stand."""


class Orders(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A node's fill manifest, whole, or a piece of what has changed of it."""

    version: int
    """What to pass as `after` to wait for the next one, whole."""
    orders: list[Order]
    scrubs: list[ScrubOrder] = []
    """What the node is to look at, until it has said what came of it."""
    withdrawn: list[str] = []
    """Titles that the node says something of and must not hold: it deletes them, their links first."""
    evictions: list[EvictOrder] = []
    """Room that the node is to make, until it has said what came of it."""
    pinned: list[str] = []
    """Titles of which the node keeps what it has, if anything, though no order wants them."""
    rates: RateLimits = NO_LIMITS
    """What the node is to keep to, beside its own limits."""
    pins: str = ""
    """Which state of `pinned` this is. Where it is the one that the node has named, `pinned` is left out."""
    settings: CacheSettings | None = None
    """What the fleet's policy says of the node; absent where it has named that digest, and where none
    was ever applied."""
    settings_digest: str = ""
    """Tells settings apart; empty: no policy was ever applied, and the node keeps those that it has."""
    cursor: str = ""
    """What to pass as `since` for what has changed after this."""
    changes: bool = False
    """This is what has changed since the cursor that was passed. Else it begins anew, and what is not named again, here
    or in the pieces that follow, is ordered no more."""
    gone: list[str] = []
    """Titles that are ordered no more."""
    more: bool = False
    """More follows at once."""
    database: str = ""
    """The name of the tracker's database. Another one does not know of orders that were given before it was made, so
    what it leaves unnamed was not withdrawn by that."""
    number: int = 0
    """The highest that an order of it has had: of orders with higher ones it does not know either, as it is a copy of
    before."""
