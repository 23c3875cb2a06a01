"""What the tracker's API takes and gives besides the records of `p2pfill.model.reports`.

Same conventions: titles as 64 hexadecimal digits, sizes in bytes, times in seconds since the epoch.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from p2pfill.model.node import NodeInfo
from p2pfill.model.origins import OriginReport
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.model.reports import (
    DiskReport,
    EncryptionReport,
    EvictReport,
    HoursReport,
    LoopLag,
    PayloadRates,
    ScrubberReport,
    ScrubReport,
    ServingReport,
    TitleReport,
    Usage,
)
from p2pfill.model.routes import Weights
from p2pfill.model.urgency import Urgency


class TitleRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One title of the catalogue, without its digests."""

    title: str
    name: str
    size: int
    chunk_size: int
    chunk_count: int
    file_count: int
    added_at: float
    pins: list[str] = []
    """Selectors of the nodes that keep what they hold of it though no order wants it."""


class Titles(msgspec.Struct, forbid_unknown_fields=True):
    """The catalogue."""

    titles: list[TitleRecord]
    withdrawn: list[str] = []
    """Those of them that no node may hold until they are ordered again."""


class FillRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for a title on every node that a selector means, now and later."""

    title: str
    selector: str
    origins: list[str]
    """Base URLs below which the title's files lie; may be empty where some cache holds the title."""
    priority: int = 0
    """Larger is more urgent."""
    policy: FillPolicy = FillPolicy()
    deadline: float | None = None
    """When the title should be live on all nodes; among fills of one priority the earlier goes first."""
    files: tuple[str, ...] = ()
    """Which files of the title: paths, directories with a slash at the end, and patterns (`model.selection.select`).
    Empty: all."""
    now: bool = False
    """Out of cycle: caches fill it whether their fill windows are open or not."""
    rollback: bool = False
    """It may be an older version, by what was signed of it, than one that was shown before."""
    call_id: str = ""
    """Of the caller's choice, as a random number: a call with that of the call before is the same call, sent again
    since its answer was lost, and changes nothing."""
    signed: bytes = b""
    """The same, signed by the caller (`model.signed_order`): caches keep it, and bring it back after a loss."""


class SignedBy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a signed order."""

    id: str
    """Of its statement."""
    who: str
    number: int
    """When it was signed, in milliseconds."""
    terms: str
    """What a signed withdrawal of this order names, in hexadecimal digits."""


class Revocations(msgspec.Struct):
    """The certificates that were taken back, as the authorities have signed it."""

    pem: str
    """X.509 revocation lists, one after the other; empty where there are none."""


class FillCreated(msgspec.Struct, forbid_unknown_fields=True):
    """The answer to a `FillRequest`."""

    fill_id: str
    nodes: list[str]
    """The nodes that are assigned already; those that start later and match are added."""
    others: list[str] = []
    """Fills of the same title and selector that stand besides, and differ in something; their origins count too."""
    unmatched: list[str] = []
    """Clauses of the selector that mean no living node yet."""
    left_out: dict[str, str] = {}
    """Node that the selector means -> rule of the fleet's policy for which it may not hold the title."""


class FillRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A fill as the catalogue keeps it."""

    fill_id: str
    request: FillRequest
    """Without its `call_id` and `signed`."""
    created_at: float
    number: int = 0
    """Higher than those of all orders before; ordering the same again gives a new one."""
    ordered_at: float = 0.0
    """When it got that number."""
    call_id: str = ""
    """Of the last call that ordered it."""
    selection: bytes = b""
    """The files that `request.files` means, a bit for each; empty: all."""
    file_count: int = 0
    """How many those are; 0: all."""
    file_bytes: int = 0
    """How long those are together; 0: the whole title."""
    is_brought_back: bool = False
    """Nodes have brought it to a database that did not know it (`recall`)."""
    signed: SignedBy | None = None
    """By whom; None: by nobody, so caches cannot bring it back to a tracker that asks who calls."""

    @property
    def urgency(self) -> Urgency:
        """Where it stands among all fills."""
        return Urgency.of(self.request.priority, self.request.deadline)


class TitleHolder(msgspec.Struct, forbid_unknown_fields=True):
    """One node that has a part of a title, or is at it."""

    node: str
    alive: bool
    state: str
    have_bytes: int
    number: int
    """Of the order that it has done, or is at."""
    kept_by: list[Literal["order", "pin"]] = []
    """What keeps it there when room is needed; empty: it goes then, unless it is in use."""
    is_low: bool = False
    """The node has less room than it should: what nothing keeps there goes now."""


class TitleHolders(msgspec.Struct, forbid_unknown_fields=True):
    """What orders a title, and which nodes have a part of it."""

    title: TitleRecord
    fills: list[FillRecord]
    """The newest order first."""
    holders: list[TitleHolder]
    withdrawn: bool
    """It was withdrawn urgently: nodes that hold it delete it, also those that come back later."""


class NodeProgress(msgspec.Struct, forbid_unknown_fields=True):
    """How far one node is with one fill. `report` is None until it has said something of the title."""

    node: NodeInfo
    alive: bool
    report: TitleReport | None
    """With the state `waiting` while what the node says is about an older order of the title."""
    superseded: bool = False
    """The node holds nothing of the title, and a newer order of its name stands there: it is not fetched."""
    unreached: str = ""
    """As `NodeStatus.unreached`."""
    hours: HoursReport = HoursReport()

    @property
    def is_done(self) -> bool:
        """Whether the node has the title, or had it when it was last heard, or is to hold a newer one of its name."""
        return self.superseded or (self.report is not None and self.report.state == "live")


class FillTotals(msgspec.Struct, forbid_unknown_fields=True):
    """Sums over the nodes of a fill."""

    nodes: int = 0
    live: int = 0
    failed: int = 0
    lost: int = 0
    """Nodes whose heartbeats have stopped, also those that were live: nobody can take anything from them."""
    superseded: int = 0
    """Nodes that are to hold a newer title of that name instead."""
    have_bytes: int = 0
    bytes_peer: int = 0
    bytes_regional: int = 0
    bytes_origin: int = 0
    duplicate_bytes: int = 0
    reused_bytes: int = 0
    rate_bytes_s: float = 0.0
    isp_bytes: dict[str, int] = {}
    """ISP -> payload that entered it from outside (regional and origin)."""
    origins: dict[str, int] = {}
    """Origin, by its URL without its query -> payload that was kept of it."""
    escalations: dict[str, int] = {}


Outlook = Literal["", "due", "late", "kept", "missed"]
"""`due`: nothing speaks against the deadline; `late`: at the present rate of some node it will be missed; `kept` and
`missed` are final."""


class FillStatus(msgspec.Struct, forbid_unknown_fields=True):
    """A fill with its progress."""

    fill: FillRecord
    title_name: str
    title_bytes: int
    """Of the files that are ordered."""
    done: bool
    """At least one node is assigned that may hold the title, and all of them are done (`NodeProgress`)."""
    totals: FillTotals
    nodes: list[NodeProgress]
    left_out: dict[str, str] = {}
    """Node that the fill means -> rule of the fleet's policy for which it may not hold the title."""
    outlook: Outlook = ""
    """What has become, or will become, of the deadline; empty where there is none."""


class PinRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks the nodes that a selector means, now and later, to keep what they hold of a title, or no longer to."""

    selector: str
    """To unpin: that of a pin, or empty for all pins of the title."""


class LimitRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A standing limit for the nodes that a selector means, now and later."""

    selector: str
    rates: RateLimits
    """To clear it: none."""


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    """All standing limits."""

    limits: list[LimitRecord]


class Fills(msgspec.Struct, forbid_unknown_fields=True):
    """All fills that have not been deleted, the most urgent first."""

    fills: list[FillRecord]


class PolicyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for a policy of the fleet (`model.fleet_policy`) to stand from now on."""

    text: str
    """TOML."""
    comment: str = ""
    """Why."""
    by: str = ""
    """Who applies it, as the caller says."""
    base: int | None = None
    """The version that it was made from: refused, with status 409, where another one stands."""


class PolicyVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of the fleet's policy."""

    number: int
    """Counted from 1; 0: none was ever applied."""
    applied_at: float
    by: str = ""
    comment: str = ""
    text: str = ""
    """As it was applied; empty in a list of versions."""


class PolicyVersions(msgspec.Struct, forbid_unknown_fields=True):
    """The versions that are kept, the latest first."""

    versions: list[PolicyVersion]


class PolicyApplied(msgspec.Struct, forbid_unknown_fields=True):
    """What has come of a `PolicyRequest`, or, of a dry run, would."""

    version: PolicyVersion
    """The one that stands, without its text; of a dry run, the one that would be made."""
    changes: list[str]
    """In words, a rule and key each; none: it says what the one before said."""
    caches: int = 0
    """That get other settings."""
    orders: int = 0
    """Orders of single nodes that change."""
    left_out: int = 0
    """Of those, such as end, since the title may not be there any more."""
    doubts: list[str] = []
    """What can be used and is hardly meant, as a budget of money of origins whose price is not known."""


class ScrubRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks the living nodes that a selector means, and that hold a title, whether it is still right."""

    selector: str


class NodeScrub(msgspec.Struct, forbid_unknown_fields=True):
    """What one node has found. `report` is None until it has begun."""

    node: str
    report: ScrubReport | None = None


class ScrubStatus(msgspec.Struct, forbid_unknown_fields=True):
    """A request to look at a title, and what came of it."""

    number: int
    title: str
    nodes: list[NodeScrub]
    done: bool
    """All nodes have looked, and have the title whole again, or could not look."""


class EvictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks the living nodes that a selector means to make room, or what would go if they did."""

    selector: str
    free_bytes: int = 0
    """Titles go until so much is free on each."""
    dry_run: bool = False
    """Nothing goes; `free_bytes` 0 then asks for all that may."""


class NodeEvict(msgspec.Struct, forbid_unknown_fields=True):
    """What one node has done. `report` is None until it has begun."""

    node: str
    report: EvictReport | None = None


class EvictStatus(msgspec.Struct, forbid_unknown_fields=True):
    """A request to make room, and what came of it."""

    number: int
    request: EvictRequest
    nodes: list[NodeEvict]
    done: bool
    """All nodes have so much free, or could not make more."""
class OriginTotals(msgspec.Struct, forbid_unknown_fields=True):
    """What the nodes that are known have had of one origin, each since its process began."""

    counts: OriginReport
    nodes: int
    """That have asked it for anything."""
    money: float | None
    """None where its price is not known."""


class OriginsUsed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the fleet has had of all origins."""

    origins: list[OriginTotals]
    """Those of which most has come first."""
    currency: str
    """Of the tracker's prices."""


class NodeStatus(msgspec.Struct, forbid_unknown_fields=True):
    """What the tracker knows of one node."""

    info: NodeInfo
    alive: bool
    seen_at: float
    age_s: float
    """Since the last heartbeat."""
    orders_version: int
    titles: list[TitleReport]
    upload_active: int
    upload_queued: int
    upload_bytes: int
    loop_lag: LoopLag = LoopLag()
    """Of the node's event loop."""
    usage: Usage = Usage()
    disk: DiskReport = DiskReport()
    scrubber: ScrubberReport = ScrubberReport()
    origins: list[OriginReport] = []
    """What it has had of each origin, since its process began."""
    rates: RateLimits = NO_LIMITS
    """The limits in force."""
    moves: PayloadRates = PayloadRates()
    """How fast payload moves."""
    unreached: str = ""
    """Why others may not reach it at its address; empty: they do, or it is not known."""
    trouble: str = ""
    """What is wrong with its clock or its certificate; empty: nothing."""
    hours: HoursReport = HoursReport()
    serving: ServingReport = ServingReport()
    encryption: EncryptionReport = EncryptionReport()
    """Of its data streams."""


class Nodes(msgspec.Struct, forbid_unknown_fields=True):
    """Every node that has ever reported."""

    nodes: list[NodeStatus]


class RankedSource(msgspec.Struct, forbid_unknown_fields=True):
    """One place to take a title from, seen from one node."""

    rank: int
    id: str
    """A node id, or an origin's URL."""
    tier: str
    filling: bool
    have_chunks: int
    reason: str


class Sources(msgspec.Struct, forbid_unknown_fields=True):
    """The ranked sources of a title for a node, best first; origins come last."""

    node: str
    title: str
    sources: list[RankedSource]


class TableState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A BGP table as it was read last."""

    file: str
    seen_from: str
    prefixes: int
    wrong: int
    """Lines or records that cannot be used."""
    wrong_first: list[str]
    """The first of those, with number and reason."""


class RoutesState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What costs of routes go by."""

    read_at: float
    weights: Weights
    pairs: int
    tables: list[TableState]


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something in the fleet that costs bytes, or will."""

    kind: str
    """`missed-tier`, `dear-source`, `announced-apart`, `isp-in-two-regions`, `labels-alike`, `same-address`."""
    nodes: list[str]
    """Whom it is about; of far fills the receiver first, then some of those that had the title."""
    what: str
    """For people."""
    next_step: str
    bytes: int | None = None
    """What it has cost as far as the nodes' reports show; None where they cannot."""
    titles: list[str] = []
    """By name, those first of which most came from far; some of them."""


class Lint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was found in the fleet."""

    findings: list[Finding]
    """What costs most comes first."""
    more: int = 0
    """Findings that are not named."""


class Explanation(msgspec.Struct, forbid_unknown_fields=True):
    """Why a node is where it is with a title."""

    node: NodeStatus
    title: str
    title_name: str
    fill_ids: list[str]
    report: TitleReport | None
    sources: list[RankedSource]
    notes: list[str]
    """What follows from the above, in sentences for people."""


class BroughtBack(msgspec.Struct, forbid_unknown_fields=True):
    """What has become of a title that nodes have an order for, and the tracker's new database did not."""

    title: str
    name: str
    """Empty where its manifest has not come."""
    nodes: int
    """That have brought an order for it, which stands again."""
    reason: str = ""
    """Why none does, if so."""
    again: str = ""
    """The command that orders it again, where it must be."""


class Status(msgspec.Struct, forbid_unknown_fields=True):
    """The fleet at one glance."""

    version: str
    now: float
    uptime_s: float
    heartbeat_s: float
    titles: list[TitleRecord]
    fills: list[FillStatus]
    nodes: list[NodeStatus]
    loop_lag: LoopLag = LoopLag()
    """Of the tracker's own event loop."""
    used: OriginsUsed = OriginsUsed([], "")
    """What the fleet has had of origins."""
    losses: list[str] = []
    """What of the tracker's database is known to be lost, and what to do; the last first, for a week."""
    brought_back: list[BroughtBack] = []
    """Titles for which nodes have brought orders that were lost."""
    refused: dict[str, int] = {}
    """Reason -> calls and connections that were refused or ended for it, since the tracker started: floods."""
    trusts_all: bool = False
    """No caller is asked who he is, and each may everything: the tracker runs without certificates."""
    takes_unsigned: bool = False
    """Titles are taken that no publisher has signed: the tracker has no list of publishers."""


class Health(msgspec.Struct, forbid_unknown_fields=True):
    """The tracker answers."""

    status: str
    """`ok`, or `degraded` where something was lost."""
    version: str
    losses: list[str] = []
    """As in `Status`."""


class ErrorReply(msgspec.Struct):
    """Why a call was refused."""

    error: str
    number: int = 0
    """Of a signed order that is refused since it is old: it must have a higher number than this."""
