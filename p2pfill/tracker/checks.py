"""Bounds on what nodes and people send, beyond what the types of the records say.

Raises `RequestRefused` with a sentence for the sender; nothing of a refused record is kept.
"""

from __future__ import annotations

import math
from typing import Final

from p2pfill.errors import ConfigError, P2PFillError
from p2pfill.model import limits
from p2pfill.model.fleet_policy import GLOB_CHARS_MAX, NAME_CHARS_MAX, RULES_MAX
from p2pfill.model.ids import node_id_from_text, title_id_from_hex
from p2pfill.model.node import SERVES_ISP, NodeInfo
from p2pfill.model.policy import ANYWHERE
from p2pfill.model.reports import EvictReport, HoursReport, NodeReport, ServingReport, TitleReport
from p2pfill.model.selection import check_patterns
from p2pfill.model.selector import Selector
from p2pfill.origin.urls import check_origin, shown
from p2pfill.tracker.records import FillRequest

LABEL_CHARS_MAX: Final = 64
"""Of isp, region and cluster: names that people type in selectors."""

HOST_CHARS_MAX: Final = 253
"""The longest DNS name."""

REPORT_TITLES_MAX: Final = 10_000
REPORT_REASONS_MAX: Final = 64
"""Bounds of one heartbeat, far above what a node sends; they keep one bad node from filling the tracker's memory."""

REASON_NAME_CHARS_MAX: Final = 100
"""Of what titles wait for: words such as `master-slow`, which nodes count."""

STATE_CHARS_MAX: Final = 32
"""Of what a source is: a word such as `quarantined`."""

ORDER_CHARS_MAX: Final = 1 << 20
"""Of all texts of an order: ten thousand files by names of a hundred characters, the most that one may name."""

CALL_ID_CHARS_MAX: Final = 64
"""Room for a UUID or a digest."""

REPORT_SCRUBS_MAX: Final = 1024
"""Above what a node is asked for at a time."""

ORIGINS_MAX: Final = 16
ORIGIN_CHARS_MAX: Final = 2048
PRIORITY_MAX: Final = 1_000_000
POLICY_S_MAX: Final = {"stall_wait_s": 600.0, "request_timeout_s": 600.0, "quarantine_s": 86400.0}
"""How long an order may have caches wait: a night is short, and the longest chunk comes in less over a slow line. A
source is left alone for longer with each relapse anyway."""

DEADLINE_MAX: Final = 253402300799.0
"""The last second of the year 9999, which every calendar can show."""
TERMS_CHARS_MAX: Final = GLOB_CHARS_MAX + 64
"""A glob, and a digest of prices."""

NUMBER_ADOPTED_MAX: Final = 1 << 52
"""The highest number of an order that is believed: as many are left for orders to come, exact in JSON."""

COUNTER_MAX: Final = 1 << 62
"""Fits SQLite and JSON readers alike, and sums of two of them fit 64 bits."""


class RequestRefused(P2PFillError):
    """A call to the tracker cannot be served; `status` is the HTTP status that says so.

    `again_s` is after how long it may be tried again, where the status says that it may; `number`, of a signed order
    that is old, the one that a newer one is above.
    """

    def __init__(self, message: str, status: int = 400, again_s: float = 1.0, *, number: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.again_s = again_s
        self.number = number


class NotSigned(RequestRefused):
    """A title is not signed as this tracker's publishers must have signed it."""


def require(condition: bool, message: str, *parts: object) -> None:
    """Raise `RequestRefused` unless `condition` holds: with `message`, into which the `parts` are put only then."""
    if not condition:
        raise RequestRefused(message.format(*parts) if parts else message)


def check_title(text: str) -> str:
    """Return the title id in lower case. Raises `RequestRefused`."""
    try:
        return title_id_from_hex(text).hex()
    except ConfigError as error:
        raise RequestRefused(str(error)) from error


def check_node_id(text: str) -> str:
    """Return `text` where it is a node id. Raises `RequestRefused`."""
    try:
        return node_id_from_text(text)
    except ConfigError as error:
        raise RequestRefused(str(error)) from error


def check_info(info: NodeInfo) -> None:
    """Raise `RequestRefused` where a node's description breaks a bound."""
    check_node_id(info.id)
    for key in ("isp", "region", "cluster"):
        value = getattr(info, key)
        require(len(value) <= LABEL_CHARS_MAX, f"node {info.id}: {key} is longer than {LABEL_CHARS_MAX} characters")
        require(value.isprintable(), f"node {info.id}: {key} has characters that cannot be printed")
    require(info.isp != "", f"node {info.id}: isp is empty; set the network that the cache stands in")
    require(len(info.host) <= HOST_CHARS_MAX and info.host.isprintable(), f"node {info.id}: host is not an address")
    require(info.serves in ("", SERVES_ISP), f"node {info.id}: serves is neither empty nor {SERVES_ISP!r}")
    require(0 <= info.port <= 65535, f"node {info.id}: port {info.port} is not in 0..65535")
    require(
        math.isfinite(info.weight) and 0 < info.weight <= limits.WEIGHT_MAX,
        f"node {info.id}: weight {info.weight} is not above 0 and at most {limits.WEIGHT_MAX:g}",
    )
    if info.latitude is not None or info.longitude is not None:
        place = info.place
        require(place is not None, f"node {info.id}: latitude and longitude go together")
        require(
            place is not None and abs(place[0]) <= 90 and abs(place[1]) <= 180,
            f"node {info.id}: latitude is not in -90..90, or longitude not in -180..180",
        )


NO_HOURS: Final = HoursReport()
"""Of a node without fill windows, as most are: nothing in it needs a check, and a tracker takes thousands a second."""

NIGHT_CHARS_MAX: Final = 10
"""A date, as `2026-11-29`."""


def _check_hours(hours: HoursReport) -> None:
    for figure in (hours.used_bytes, hours.budget_bytes, hours.exempt_bytes):
        require(0 <= figure <= COUNTER_MAX, f"hours: a figure of {figure} bytes is out of range")
    require(0 <= hours.until <= DEADLINE_MAX, f"hours: time {hours.until:g} is out of range")
    require(len(hours.night) <= NIGHT_CHARS_MAX, "hours: the name of a night is a date")


NOT_BUSY: Final = ServingReport()


def _check_serving(serving: ServingReport) -> None:
    is_bounded = 0 <= serving.busy <= 1 and 0 < serving.weight <= 1 and len(serving.why) <= limits.REASON_CHARS_MAX
    require(is_bounded, "how busy the node is with its viewers is out of range")


def check_report(node_id: str, report: NodeReport) -> None:
    """Raise `RequestRefused` where a heartbeat breaks a bound or speaks for another node."""
    check_info(report.info)
    require(report.info.id == node_id, "heartbeat of {!r} was sent to the address of {!r}", report.info.id, node_id)
    require(0 < len(report.boot) <= 64, "boot must have 1 to 64 characters")
    require(0 <= report.sequence <= COUNTER_MAX, "sequence {} is out of range", report.sequence)
    require(len(report.titles) <= REPORT_TITLES_MAX, "more than {} titles in one heartbeat", REPORT_TITLES_MAX)
    require(len(report.unreached) <= limits.REASON_CHARS_MAX, "unreached is too long")
    require(len(report.trouble) <= limits.REASON_CHARS_MAX, "trouble is too long")
    if report.serving != NOT_BUSY:
        _check_serving(report.serving)
    for value in (
        report.upload_active, report.upload_queued, report.upload_bytes, report.encryption.streams,
        report.encryption.by_kernel,
    ):  # fmt: skip
        require(0 <= value <= COUNTER_MAX, "figure {} of uploads or streams is out of range", value)
    for value in (report.loop_lag.last_us, report.loop_lag.p99_us, report.loop_lag.max_us):
        require(0 <= value <= COUNTER_MAX, "loop_lag of {} us is out of range", value)
    moves = report.moves
    is_bounded = 0 <= moves.in_bytes_s <= COUNTER_MAX and 0 <= moves.out_bytes_s <= COUNTER_MAX
    require(is_bounded, "a rate at which payload moves is out of range")
    for size in (report.disk.size_bytes, report.disk.free_bytes, report.disk.free_bytes_min):
        require(0 <= size <= COUNTER_MAX, "disk figure {} is out of range", size)
    for used in (report.usage.processor_s, report.usage.memory_peak_bytes):
        require(0 <= used <= COUNTER_MAX, "a figure of what the process has used is out of range")
    if report.hours != NO_HOURS:
        _check_hours(report.hours)
    require(len(report.scrubs) <= REPORT_SCRUBS_MAX, "more than {} scrubs in one heartbeat", REPORT_SCRUBS_MAX)
    for scrub in report.scrubs:
        require(len(scrub.error) <= limits.REASON_CHARS_MAX, "scrub {}: error is too long", scrub.number)
        require(check_title(scrub.title) == scrub.title, "scrub {}: its title must be in lower case", scrub.number)
        figures = scrub.chunk_count, scrub.checked_chunks, scrub.bad_chunks, scrub.lost_files, scrub.altered_files
        for value in (scrub.number, *figures):
            require(0 <= value <= COUNTER_MAX, "scrub {}: a figure is out of range", scrub.number)
    evictions_max = limits.EVICTIONS_MAX
    require(len(report.evictions) <= evictions_max, "more than {} evictions in one heartbeat", evictions_max)
    for eviction in report.evictions:
        _check_eviction(eviction)
    scrubber = report.scrubber
    for figure in (scrubber.rate_bytes_s, scrubber.checked_bytes, scrubber.bad_chunks):
        require(0 <= figure <= COUNTER_MAX, "scrubber figure {} is out of range", figure)
    for at in (scrubber.began_at, scrubber.ended_at):
        require(0 <= at <= DEADLINE_MAX, "scrubber time {:g} is out of range", at)
    origins_max = limits.ORIGINS_COUNTED_MAX
    require(len(report.origins) <= origins_max, "more than {} origins in one heartbeat", origins_max)
    for origin in report.origins:
        require(0 < len(origin.id) <= limits.REASON_CHARS_MAX, "the name of an origin is empty or too long")
        for value in (origin.requests, origin.failed, origin.bytes_kept, origin.bytes_wasted, origin.given_up):
            require(0 <= value <= COUNTER_MAX, "origin {}: a figure is out of range", origin.id[:80])
    require(len(report.allowances) <= RULES_MAX, "more than {} allowances in one heartbeat", RULES_MAX)
    for allowance in report.allowances:
        fits = len(allowance.budget) <= NAME_CHARS_MAX and len(allowance.terms) <= TERMS_CHARS_MAX
        require(fits, "allowance of {!r}: its name or its terms are too long", allowance.budget[:80])
        require(0 <= allowance.amount <= COUNTER_MAX, "allowance of {!r} is out of range", allowance.budget[:80])
    require(0 <= report.since <= COUNTER_MAX, "since {} is out of range", report.since)
    require(len(report.gone) <= REPORT_TITLES_MAX, "more than {} titles gone in one heartbeat", REPORT_TITLES_MAX)
    for gone in report.gone:
        require(check_title(gone) == gone, "title {!r} must be in lower case", gone[:80])
    seen = set()
    for title in report.titles:
        _check_title_report(title)
        require(title.title not in seen, "title {} is in one heartbeat twice", title.title)
        seen.add(title.title)


def _check_eviction(report: EvictReport) -> None:
    number = report.number
    require(len(report.error) <= limits.REASON_CHARS_MAX, "eviction {}: error is too long", number)
    titles_max = limits.EVICT_TITLES_MAX
    require(len(report.titles) <= titles_max, "eviction {}: more than {} titles", number, titles_max)
    for value in (number, report.free_bytes, report.more, report.gone, report.gone_bytes, report.most_bytes):
        require(0 <= value <= COUNTER_MAX, "eviction {}: a figure is out of range", number)
    for title in report.titles:
        require(check_title(title.title) == title.title, "title {!r} must be in lower case", title.title[:80])
        require(len(title.name) <= limits.REASON_CHARS_MAX, "eviction {}: a name is too long", number)
        fits = 0 <= title.size <= COUNTER_MAX and 0 <= title.used_at <= DEADLINE_MAX and 0 <= title.files <= COUNTER_MAX
        require(fits, "eviction {}: a figure of title {} is out of range", number, title.title)


def _check_title_report(report: TitleReport) -> None:
    name = report.title[:80]
    require(check_title(report.title) == report.title, "title {!r} must be in lower case", name)
    require(0 <= report.chunk_count <= limits.CHUNK_COUNT_MAX, "title {}: chunk_count is out of range", name)
    require(0 <= report.number <= COUNTER_MAX, "title {}: number is out of range", name)
    require(0 <= report.have_chunks <= report.chunk_count, "title {}: have_chunks is not in 0..chunk_count", name)
    counters = "have_bytes", "title_bytes", "bytes_peer", "bytes_regional", "bytes_origin"
    for key in (*counters, "duplicate_bytes", "reused_bytes", "files"):
        require(0 <= getattr(report, key) <= COUNTER_MAX, "title {}: {} is out of range", name, key)
    # It falls below 0 where a node has lost chunks.
    require(abs(report.rate_bytes_s) <= COUNTER_MAX, "title {}: rate_bytes_s is out of range", name)
    is_dated = 0 <= report.started_at <= DEADLINE_MAX and 0 <= report.finished_at <= DEADLINE_MAX
    require(is_dated, "title {}: started_at or finished_at is out of range", name)
    sources_max = limits.REPORT_SOURCES_MAX
    require(len(report.sources) <= sources_max, "title {}: more than {} sources", name, sources_max)
    require(len(report.error) <= limits.REASON_CHARS_MAX, "title {}: error is too long", name)
    for reasons in (report.escalations, report.waits):
        require(len(reasons) <= REPORT_REASONS_MAX, "title {}: more than {} reasons", name, REPORT_REASONS_MAX)
        require(
            all(len(key) <= REASON_NAME_CHARS_MAX and 0 <= count <= COUNTER_MAX for key, count in reasons.items()),
            "title {}: a reason or its count is out of range", name,
        )
    longest = most = least = 0.0
    for one in report.sources:
        require(len(one.state) <= STATE_CHARS_MAX, "title {}: the state of a source is too long", name)
        longest = max(longest, len(one.id), len(one.reason))
        most, least = max(most, one.bytes, one.in_flight, abs(one.rate_bytes_s)), min(least, one.bytes, one.in_flight)
    require(least >= 0, "title {}: a source has sent, or is to send, less than nothing", name)
    require(longest <= ORIGIN_CHARS_MAX, "title {}: a source's text is too long", name)
    require(most <= COUNTER_MAX, "title {}: a figure of a source is out of range", name)


def check_selector(text: str) -> Selector:
    """Return a parsed selector. Raises `RequestRefused`."""
    try:
        return Selector.parse(text)
    except ConfigError as error:
        raise RequestRefused(str(error)) from error


def chars_of(request: FillRequest) -> int:
    """Return how long the texts of an order are."""
    return len(request.selector) + sum(map(len, request.origins)) + sum(map(len, request.files))


def check_fill(request: FillRequest) -> Selector:
    """Return the parsed selector of a fill. Raises `RequestRefused`."""
    check_title(request.title)
    require(len(request.origins) <= ORIGINS_MAX, f"{len(request.origins)} origins: at most {ORIGINS_MAX} are allowed")
    for url in request.origins:
        fits = 0 < len(url) <= ORIGIN_CHARS_MAX and url.isprintable()
        require(fits, f"origin {shown(url)[:80]!r} is not a URL of 1 to {ORIGIN_CHARS_MAX} printable characters")
        try:
            check_origin(url)
        except ConfigError as error:
            raise RequestRefused(str(error)) from error
    try:
        check_patterns(request.files)
    except ConfigError as error:
        raise RequestRefused(str(error)) from error
    chars = chars_of(request)
    require(chars <= ORDER_CHARS_MAX, f"the order has {chars} characters: at most {ORDER_CHARS_MAX} are allowed")
    require(len(request.call_id) <= CALL_ID_CHARS_MAX, f"call_id is longer than {CALL_ID_CHARS_MAX} characters")
    require(abs(request.priority) <= PRIORITY_MAX, f"priority is not within {-PRIORITY_MAX}..{PRIORITY_MAX}")
    if (deadline := request.deadline) is not None:
        require(0 < deadline <= DEADLINE_MAX, f"deadline is not within 1970 to 9999, in seconds: {deadline:g}")
    for key, longest in POLICY_S_MAX.items():
        value = getattr(request.policy, key)
        require(0 < value <= longest, f"policy.{key} is not above 0 and at most {longest:g} seconds")
    require(request.policy.reach == ANYWHERE, "policy.reach is a matter of the fleet's policy: apply it there")
    return check_selector(request.selector)
