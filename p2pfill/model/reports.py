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
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.urgency import Urgency

TitleState = Literal["waiting", "filling", "verifying", "live", "repairing", "failed"]
"""`repairing`: viewers and other caches are served what is good of it, and the rest is fetched: what was bad, or files
that were ordered since."""


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
    scrubs: list[ScrubReport] = []
    scrubber: ScrubberReport = ScrubberReport()
    since: int = 0
    """A heartbeat of this boot that the tracker has acknowledged; 0: this begins anew, and what was said before counts
    no more, but for what the pieces that follow say again."""
    gone: list[str] = []
    """Titles of which the node holds nothing any more."""
    more: bool = False
    """More titles follow at once."""


class HeartbeatReply(msgspec.Struct, forbid_unknown_fields=True):
    interval_s: float
    """When the tracker wants the next heartbeat."""
    orders_version: int
    again: bool = False
    """The tracker does not know the heartbeat that this one builds on: the node is to tell everything again."""


class RosterEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One node that matters to a fill, as the tracker ranks it for the node that asks."""

    node: NodeInfo
    filling: bool
    """It wants the title too, and so takes part in the election of fill masters; see `Order.election`."""
    have_chunks: int
    rank: int
    """0 is the best source."""
    reason: str
    """Why it ranks there, in words."""
    selection: int = 0
    """Which files it wants: the place in `Order.selections`, counted from 1; 0: all."""


class Elector(msgspec.Struct, forbid_unknown_fields=True):
    """One cache of the own ISP that takes part in its elections."""

    id: str
    weight: float


class GroupWeight(msgspec.Struct, forbid_unknown_fields=True):
    """What another ISP of the region counts for in elections, or all of another region (`isp` is empty)."""

    region: str
    isp: str
    weight: float


class Election(msgspec.Struct, forbid_unknown_fields=True):
    """Who takes part in the election of fill masters, where a fleet is too large to name everybody."""

    weight: float
    """What the node itself counts for; 0: it is not elected."""
    electors: list[Elector]
    """Of its own ISP, it among them. They need not be in the roster."""
    groups: list[GroupWeight]


class Order(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One entry of a node's fill manifest: hold this title."""

    fill_id: str
    title: str
    origins: list[str]
    """Base URLs below which the title's files lie; tried in order."""
    priority: int
    """Larger is more urgent."""
    policy: FillPolicy
    roster: list[RosterEntry]
    """The nodes to be linked with."""
    election: Election | None = None
    """Absent in a small fleet, where those of the roster that fill elect masters with their own weights."""
    deadline: float | None = None
    """When the title should be live; among orders of one priority the earlier goes first. None: whenever it can."""
    number: int = 0
    """Grows with each order that the tracker takes. Of the titles of one name that are live on a node, `live/NAME`
    shows the one whose order has the highest."""
    files: bytes = b""
    """Which files of the title are to be held, a bit for each (`model.selection`); empty: all."""
    selections: list[bytes] = []
    """What those of the roster want that want some files only."""

    @property
    def urgency(self) -> Urgency:
        """Where it stands among all orders."""
        return Urgency.of(self.priority, self.deadline)


class Orders(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A node's whole fill manifest; `version` is what to pass as `after` to wait for the next one."""

    version: int
    orders: list[Order]
    scrubs: list[ScrubOrder] = []
    """What the node is to look at, until it has said what came of it."""
    withdrawn: list[str] = []
    """Titles that the node says something of and must not hold: it deletes them, their links first."""
