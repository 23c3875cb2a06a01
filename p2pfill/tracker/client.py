"""The tracker's API for Python: typed records in and out. Used by nodes and by the CLI.

A call never waits without bound, and an answer is never read beyond a limit: a tracker is a remote too. Calls are not
repeated here, for nodes and people know better when that is of use, but for those that were refused unread since there
were too many (status 429). After what the tracker says is too much, all calls wait for as long as it says.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import msgspec
import trio

from p2pfill.errors import ConfigError, PeerRefused, TrackerError
from p2pfill.model import limits
from p2pfill.model.fleet_policy import CacheSettings
from p2pfill.model.identity import Role
from p2pfill.model.night import RecordedNight
from p2pfill.model.packing import JSON_ERRORS
from p2pfill.model.rates import NO_LIMITS, RateLimits
from p2pfill.model.reports import (
    BroughtOrder,
    BroughtOrders,
    BroughtReply,
    EvictOrder,
    HeartbeatReply,
    NodeReport,
    Order,
    Orders,
    ScrubOrder,
    SignedDocuments,
)
from p2pfill.model.routes import RouteCost
from p2pfill.model.signed_order import WithdrawalStatement
from p2pfill.model.statement import SIGNATURES_BYTES_MAX
from p2pfill.origin.retry_after import parse_retry_after
from p2pfill.tracker import night_report, records
from p2pfill.tracker.audit import AuditPage
from p2pfill.tracker.order_terms import statement_of
from p2pfill.tracker.urls import place_of, tracker_url

if TYPE_CHECKING:
    from p2pfill.tracker.connections import Answer, CallFailed, Connections
    from p2pfill.trust.credentials import Credentials
    from p2pfill.trust.order_signing import Signer

T = TypeVar("T")

TIMEOUT_S: Final = 10.0
"""For connecting, and for silence while a call runs."""

LOOKUP_S: Final = 120.0
"""For an order of some files: in a title of a million files their patterns are looked up for a minute, or in turn."""

READ_ROUTES_S: Final = 900.0
"""For tables of routes that are read anew: some of the whole Internet, one after the other."""

POLL_MARGIN_S: Final = 5.0
"""What a long poll may take beyond the wait that it asks for."""

AGAIN_MAX_S: Final = 10.0
"""A tracker that asks for a longer pause is called all the same: it is a remote too."""

REPEATS_MAX: Final = 3
"""Of a call that was one too many."""

ANSWER_BYTES_MAX: Final = 256 * limits.MIB
"""A status of 100,000 nodes."""


class TrackerUnreachable(TrackerError):
    """The tracker does not answer: it is down, or the URL is wrong. Trying again later makes sense."""


class TrackerRefused(TrackerError):
    """The tracker answered and said no; `status` is the HTTP status.

    `number`: what was signed is old, and must have a higher number than this.
    """

    def __init__(self, message: str, status: int, number: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.number = number


class ReadableOrders(Orders):
    """Those of a node's orders that could be read, where some could not."""

    unreadable: list[str] = msgspec.field(default_factory=list)
    """What is wrong with each of the others."""
    wrong_settings: str = ""
    """Why the settings could not be read, if so; then there are none."""


class _RawOrders(msgspec.Struct):
    version: int
    orders: list[msgspec.Raw]
    scrubs: list[ScrubOrder] = []
    withdrawn: list[str] = []
    evictions: list[EvictOrder] = []
    pinned: list[str] = []
    rates: RateLimits = NO_LIMITS
    pins: str = ""
    settings: msgspec.Raw = msgspec.Raw(b"null")
    settings_digest: str = ""
    cursor: str = ""
    changes: bool = False
    gone: list[str] = []
    more: bool = False
    database: str = ""
    number: int = 0


class TrackerClient:
    """Calls one tracker at `url` (`http://HOST:PORT`). Use as an async context manager, or call `aclose`.

    With `credentials` the URL begins with https, both sides show who they are, and what answers must be a tracker, at
    a host that its certificate names. Those of a user sign what it orders and withdraws.
    Raises `ConfigError` where `url` is none. Every call raises `TrackerUnreachable` or `TrackerRefused`, both of them
    `TrackerError`.
    """

    def __init__(self, url: str, *, credentials: Credentials | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.url = tracker_url(url)
        self._place = place_of(self.url)
        if credentials is not None and not self._place.is_encrypted:
            raise ConfigError(f"tracker URL {self.url!r} is not encrypted: with --identity it begins with https://")
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._not_before = float("-inf")
        """When the tracker may be called again, as it has said."""
        self._signer: Signer | None = None
        if credentials is not None and credentials.identity.role is Role.USER:
            from p2pfill.trust.order_signing import Signer

            self._signer = Signer(credentials)
        self._names: dict[str, str] = {}
        """Of titles of which the tracker has told, as many as a catalogue has."""
        self.clock_ahead_s: float | None = None
        """By how much this machine's clock is ahead of the tracker's, as of the last answer."""
        self._connections: Connections | None = None
        """Made with the first call."""

    async def __aenter__(self) -> TrackerClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._connections is not None:
            self._connections.close()

    # ---- titles

    async def put_title(self, title: str, manifest: bytes, signatures: bytes = b"") -> records.TitleRecord:
        """Publish a title (64 hexadecimal digits) by its encoded manifest and signatures; again is harmless."""
        path = f"/v1/titles/{title}"
        if signatures:
            path += f"?signatures={base64.urlsafe_b64encode(signatures).decode()}"
        return self._named(await self._call("PUT", path, records.TitleRecord, body=manifest))

    async def catalogue(self) -> records.Titles:
        """Return the catalogue, and which of it was withdrawn."""
        found = await self._call("GET", "/v1/titles", records.Titles)
        for record in found.titles:
            self._named(record)
        return found

    async def titles(self) -> list[records.TitleRecord]:
        """Return the catalogue."""
        return (await self.catalogue()).titles

    async def title(self, title: str) -> records.TitleRecord:
        """Return one title's record."""
        return self._named(await self._call("GET", f"/v1/titles/{title}", records.TitleRecord))

    async def manifest(self, title: str) -> bytes:
        """Return a title's encoded manifest. What it decodes to must be checked against the id that was asked for."""
        return await self._fetch("GET", f"/v1/titles/{title}/manifest", size_max=limits.MANIFEST_BYTES_MAX)

    async def signatures(self, title: str) -> bytes:
        """Return a title's encoded signatures, b'' where the tracker has none. What they are worth must be checked."""
        return await self._fetch("GET", f"/v1/titles/{title}/signatures", size_max=SIGNATURES_BYTES_MAX)

    async def holders(self, title: str) -> records.TitleHolders:
        """Return what orders a title, and which nodes have a part of it."""
        found = await self._call("GET", f"/v1/titles/{title}/holders", records.TitleHolders)
        self._named(found.title)
        return found

    async def withdraw(self, title: str, *, urgent: bool = False) -> records.TitleHolders:
        """Withdraw all orders of a title, `urgent` to have it deleted wherever it is. Returns what stood."""
        path = f"/v1/titles/{title}/withdraw?urgent={int(urgent)}"

        async def withdraw(above: int) -> records.TitleHolders:
            signed = await self._sign_withdrawal(title, above, urgent=urgent)
            return await self._call("POST", f"{path}&signed={signed}", records.TitleHolders)

        return await _in_order(withdraw)

    async def pin(self, title: str, selector: str, *, nodes_min: int = 0) -> records.TitleRecord:
        """Have nodes keep what they hold of a title though no order wants it; refused where fewer match."""
        body = msgspec.json.encode(records.PinRequest(selector))
        path = f"/v1/titles/{title}/pin?nodes_min={nodes_min}"
        return await self._call("POST", path, records.TitleRecord, body=body)

    async def unpin(self, title: str, selector: str = "") -> records.TitleRecord:
        """Take back the pin of this selector, or all pins of a title."""
        body = msgspec.json.encode(records.PinRequest(selector))
        return await self._call("POST", f"/v1/titles/{title}/unpin", records.TitleRecord, body=body)

    async def limits(self) -> list[records.LimitRecord]:
        """Return all standing limits."""
        return (await self._call("GET", "/v1/limits", records.Limits)).limits

    async def set_limit(self, selector: str, rates: RateLimits, *, nodes_min: int = 0) -> list[records.LimitRecord]:
        """Have nodes keep to limits, or no longer where they are none; refused where fewer match. Returns all."""
        body = msgspec.json.encode(records.LimitRecord(selector, rates))
        return (await self._call("POST", f"/v1/limits?nodes_min={nodes_min}", records.Limits, body=body)).limits

    async def delete_title(self, title: str) -> None:
        """Have the catalogue forget a title that nothing orders."""
        await self._fetch("DELETE", f"/v1/titles/{title}")

    # ---- fills

    async def post_fill(self, request: records.FillRequest, *, nodes_min: int = 0) -> records.FillCreated:
        """Order a fill; refused with status 409 where fewer living nodes match."""
        path = f"/v1/fills?nodes_min={nodes_min}" if nodes_min else "/v1/fills"
        timeout_s = LOOKUP_S if request.files else None

        async def order(above: int) -> records.FillCreated:
            body = msgspec.json.encode(await self._sign_order(request, above))
            return await self._call("POST", path, records.FillCreated, body=body, timeout_s=timeout_s)

        return await _in_order(order)

    async def fills(self) -> list[records.FillRecord]:
        """Return all fills, the most urgent first."""
        return (await self._call("GET", "/v1/fills", records.Fills)).fills

    async def fill(self, fill_id: str) -> records.FillStatus:
        """Return a fill with its progress."""
        return await self._call("GET", f"/v1/fills/{fill_id}", records.FillStatus)

    async def delete_fill(self, fill_id: str, fill: records.FillRecord | None = None) -> None:
        """Withdraw a fill; `fill` is what the tracker has told of it, if that is known."""
        if self._signer is None:
            await self._fetch("DELETE", f"/v1/fills/{fill_id}")
            return
        record = (await self.fill(fill_id)).fill if fill is None else fill

        async def withdraw(above: int) -> None:
            signed = ""
            if record.signed is not None:
                terms = bytes.fromhex(record.signed.terms)
                signed = await self._sign_withdrawal(record.request.title, above, terms=terms)
            await self._fetch("DELETE", f"/v1/fills/{fill_id}?signed={signed}")

        await _in_order(withdraw)

    # ---- what is signed of these

    async def _sign_order(self, request: records.FillRequest, above: int) -> records.FillRequest:
        """Return an order as it is sent, with a number above another one."""
        if self._signer is None or (name := await self._name_of(request.title)) is None:
            return request
        number = self._signer.number(above)
        expires = self._signer.expires(number)
        said = statement_of(request, domain=self._signer.domain, name=name, number=number, expires=expires)
        return msgspec.structs.replace(request, signed=self._signer.sign(said))

    async def _sign_withdrawal(self, title: str, above: int, *, urgent: bool = False, terms: bytes = b"") -> str:
        """Return a withdrawal as it is sent, '' where it is not signed."""
        if self._signer is None or (name := await self._name_of(title)) is None:
            return ""
        number = self._signer.number(above)
        expires, title_id = self._signer.expires(number), bytes.fromhex(title)
        said = WithdrawalStatement(self._signer.domain, title_id, name, number, expires, urgent, terms)
        return base64.urlsafe_b64encode(self._signer.sign(said)).decode()

    async def _name_of(self, title: str) -> str | None:
        """Return the name of a title, None where it is not to be had: who may not read does not know what he signs."""
        if (name := self._names.get(title)) is not None:
            return name
        try:
            return (await self.title(title)).name
        except TrackerRefused as error:
            if error.status not in (400, 403, 404):
                raise
            return None  # what is wrong with the title, the order is told

    def _named(self, record: records.TitleRecord) -> records.TitleRecord:
        self._names[record.title] = record.name
        return record

    # ---- scrubs

    async def post_scrub(self, title: str, selector: str, *, nodes_min: int = 0) -> records.ScrubStatus:
        """Have nodes that hold a title look at it; refused with status 409 where fewer living nodes match."""
        body = msgspec.json.encode(records.ScrubRequest(selector))
        path = f"/v1/titles/{title}/scrubs?nodes_min={nodes_min}"
        return await self._call("POST", path, records.ScrubStatus, body=body)

    async def scrub(self, number: int) -> records.ScrubStatus:
        """Return what came of that."""
        return await self._call("GET", f"/v1/scrubs/{number}", records.ScrubStatus)

    # ---- room

    async def post_eviction(self, request: records.EvictRequest, *, nodes_min: int = 0) -> records.EvictStatus:
        """Have nodes make room, or say what would go; refused with status 409 where fewer living nodes match."""
        path = f"/v1/evictions?nodes_min={nodes_min}"
        return await self._call("POST", path, records.EvictStatus, body=msgspec.json.encode(request))

    async def eviction(self, number: int) -> records.EvictStatus:
        """Return what came of that."""
        return await self._call("GET", f"/v1/evictions/{number}", records.EvictStatus)

    # ---- the fleet's policy

    async def policy(self, number: int | None = None) -> records.PolicyVersion:
        """Return the version of the fleet's policy that stands, or another one."""
        path = "/v1/policy" if number is None else f"/v1/policy/versions/{number}"
        return await self._call("GET", path, records.PolicyVersion)

    async def policies(self) -> list[records.PolicyVersion]:
        """Return the versions that are kept, without their texts, the latest first."""
        return (await self._call("GET", "/v1/policy/versions", records.PolicyVersions)).versions

    async def apply_policy(self, request: records.PolicyRequest, *, dry_run: bool = False) -> records.PolicyApplied:
        """Let a policy stand, or say what that would change; refused with status 409 where its base does not stand."""
        path, body = f"/v1/policy?dry_run={int(dry_run)}", msgspec.json.encode(request)
        return await self._call("POST", path, records.PolicyApplied, body=body, timeout_s=LOOKUP_S)

    # ---- nodes

    async def heartbeat(self, report: NodeReport) -> HeartbeatReply:
        """Send a node's report."""
        path = f"/v1/nodes/{report.info.id}/heartbeat"
        return await self._call("POST", path, HeartbeatReply, body=msgspec.json.encode(report))

    async def orders(self, node_id: str, *, after: int | None = None, wait_s: float = 30.0) -> Orders:
        """Return a node's orders: at once without `after`, else when their version differs or `wait_s` is over.

        One that cannot be read keeps no other from being read: then they are `ReadableOrders`.
        """
        path, timeout_s = f"/v1/nodes/{node_id}/orders", None
        if after is not None:
            path += f"?after={after}&wait_s={wait_s:.3f}"
            timeout_s = wait_s + max(POLL_MARGIN_S, self._timeout_s)
        return await self._orders(path, timeout_s)

    async def changes(
        self, node_id: str, since: str, *, wait_s: float = 30.0, pins: str = "", settings: str = ""
    ) -> Orders:
        """Return what has changed of a node's orders since a cursor, '' for none, once there is something.

        What is known after `wait_s` may be nothing. As for `orders` they may be `ReadableOrders`. `pins` is that of the
        answer before: what is pinned is left out where it is the same. So are settings of the digest `settings`.
        """
        path = f"/v1/nodes/{node_id}/orders?since={quote(since)}&wait_s={wait_s:.3f}&pins={quote(pins)}"
        path += f"&settings={quote(settings)}"
        return await self._orders(path, wait_s + max(POLL_MARGIN_S, self._timeout_s))

    async def bring_back(
        self, node_id: str, orders: list[BroughtOrder], withdrawals: Iterable[bytes] = ()
    ) -> BroughtReply:
        """Bring back orders of a node that the tracker's database does not know, and signed withdrawals."""
        body = msgspec.json.encode(BroughtOrders(orders, list(withdrawals)))
        return await self._call("POST", f"/v1/nodes/{node_id}/brought", BroughtReply, body=body, timeout_s=LOOKUP_S)

    async def signed(self, node_id: str, titles: Iterable[str]) -> dict[str, list[bytes]]:
        """Return what is signed of a node's orders of some titles; one that is left out is to be asked for again."""
        path = f"/v1/nodes/{node_id}/signed?titles={','.join(titles)}"
        return (await self._call("GET", path, SignedDocuments)).titles

    async def order(self, node_id: str, title: str) -> Order:
        """Return a node's order of one title, with those who have it."""
        return await self._call("GET", f"/v1/nodes/{node_id}/orders?title={title}", Order)

    async def _orders(self, path: str, timeout_s: float | None) -> Orders:
        answer = await self._fetch("GET", path, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(answer, type=Orders)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError):
            return _readable(self._decode(answer, _RawOrders, f"GET {path}"))

    async def nodes(self) -> list[records.NodeStatus]:
        """Return all nodes."""
        return (await self._call("GET", "/v1/nodes", records.Nodes)).nodes

    async def node(self, node_id: str) -> records.NodeStatus:
        """Return one node."""
        return await self._call("GET", f"/v1/nodes/{node_id}", records.NodeStatus)

    async def delete_node(self, node_id: str) -> None:
        """Have the tracker forget a node whose heartbeats have stopped."""
        await self._fetch("DELETE", f"/v1/nodes/{node_id}")

    async def sources(self, node_id: str, title: str) -> list[records.RankedSource]:
        """Return the ranked sources of a title for a node."""
        return (await self._call("GET", f"/v1/nodes/{node_id}/sources/{title}", records.Sources)).sources

    async def explain(self, node_id: str, title: str) -> records.Explanation:
        """Return why a node is where it is with a title."""
        return await self._call("GET", f"/v1/nodes/{node_id}/explain/{title}", records.Explanation)

    # ---- the fleet

    async def status(self) -> records.Status:
        """Return the fleet at one glance."""
        return await self._call("GET", "/v1/status", records.Status)

    async def origins_used(self) -> records.OriginsUsed:
        """Return what the fleet has had of each origin."""
        return await self._call("GET", "/v1/origins", records.OriginsUsed)

    async def lint(self) -> records.Lint:
        """Return what costs bytes in the fleet, or will."""
        return await self._call("GET", "/v1/lint", records.Lint, timeout_s=LOOKUP_S)

    async def routes(self) -> records.RoutesState:
        """Return what costs of routes go by."""
        return await self._call("GET", "/v1/routes", records.RoutesState)

    async def read_routes(self) -> records.RoutesState:
        """Have costs of routes and their tables read anew."""
        return await self._call("POST", "/v1/routes/read", records.RoutesState, timeout_s=READ_ROUTES_S)

    async def route(self, receiver: str, source: str) -> RouteCost:
        """Return what a byte to one cache or address from another costs."""
        return await self._call("GET", f"/v1/routes/{quote(receiver, safe='')}/{quote(source, safe='')}", RouteCost)

    async def nights(self) -> list[night_report.NightSummary]:
        """Return the nights that are known, the last one first."""
        return (await self._call("GET", "/v1/nights", night_report.NightList)).nights

    async def night(self, night: str) -> night_report.NightReport:
        """Return the report of a night, which is named by its date."""
        return await self._call("GET", f"/v1/nights/{quote(night, safe='')}", night_report.NightReport)

    async def night_record(self, night: str) -> RecordedNight:
        """Return what is recorded of a night, to rebuild it."""
        return await self._call("GET", f"/v1/nights/{quote(night, safe='')}/record", RecordedNight)

    async def revocations(self) -> bytes:
        """Return the revocation lists that the tracker goes by, in PEM; whoever takes them in checks signatures."""
        return (await self._call("GET", "/v1/revocations", records.Revocations)).pem.encode()

    async def audit(self, *, before: int = 0, count: int = 1000) -> AuditPage:
        """Return who has changed what, the latest first: `count` before the number `before`; 0: the very latest."""
        return await self._call("GET", f"/v1/audit?before={before}&count={count}", AuditPage)

    async def health(self) -> records.Health:
        """Return that the tracker answers."""
        return await self._call("GET", "/v1/health", records.Health)

    # ---- the wire

    async def _call(
        self, method: str, path: str, kind: type[T], *, body: bytes | None = None, timeout_s: float | None = None
    ) -> T:
        return self._decode(await self._fetch(method, path, body=body, timeout_s=timeout_s), kind, f"{method} {path}")

    def _decode(self, answer: bytes, kind: type[T], call: str) -> T:
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TrackerError(
                f"tracker {self.url}: the answer to {call} cannot be read ({error}); "
                "is it a p2pfill tracker of the same version?"
            ) from error

    async def _fetch(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout_s: float | None = None,
        size_max: int = ANSWER_BYTES_MAX,
    ) -> bytes:
        call = partial(self._fetch_once, method, path, body=body, timeout_s=timeout_s, size_max=size_max)
        for _ in range(REPEATS_MAX):
            try:
                return await call()
            except TrackerRefused as error:
                if error.status != 429:
                    raise
        return await call()

    async def _fetch_once(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout_s: float | None = None,
        size_max: int = ANSWER_BYTES_MAX,
    ) -> bytes:
        if trio.current_time() < self._not_before:
            await trio.sleep_until(self._not_before)
        answer = await self.exchange(method, path, body, timeout_s=timeout_s, size_max=size_max)
        self._note_clock(answer.header(b"date"))
        if not 200 <= answer.status < 300:
            self._note_pause(answer.header(b"retry-after"))
            raise _refusal(answer.body, answer.status, self.url)
        return answer.body

    async def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout_s: float | None = None,
        size_max: int = ANSWER_BYTES_MAX,
    ) -> Answer:
        """Make a call and return what is answered, whatever that is. Raises `TrackerError`."""
        # Not above: a node listens before it loads what calls its tracker.
        from p2pfill.tracker.connections import AnswerTooLong, CallFailed, Connections

        if self._connections is None:
            self._connections = Connections(self._place, self._credentials)
        wait_s = self._timeout_s if timeout_s is None else timeout_s
        # A report says how things stand, and who has sent one in vain sends another.
        again = method in ("GET", "PUT") or path.endswith("/heartbeat")
        try:
            return await self._connections.call(method, path, body, wait_s, size_max, again=again)
        except AnswerTooLong as error:
            text = f"tracker {self.url}: answer to {method} {path} is above {size_max} bytes"
            raise TrackerError(text) from error
        except trio.TooSlowError as error:
            raise TrackerUnreachable(
                f"tracker {self.url} does not answer in time; check that it runs and can be reached from here"
            ) from error
        except PeerRefused as error:
            raise TrackerUnreachable(f"tracker {self.url}: {error}") from error
        except CallFailed as error:
            raise TrackerUnreachable(self._unreachable(error)) from error

    def _note_clock(self, said: str | None) -> None:
        """Take in what the tracker's clock shows."""
        try:
            self.clock_ahead_s = time.time() - parsedate_to_datetime(said or "").timestamp()
        except (ValueError, OverflowError):
            self.clock_ahead_s = None

    def _note_pause(self, said: str | None) -> None:
        """Take in that the tracker asks for a pause."""
        pause_s = parse_retry_after(said, datetime.now(UTC))
        if pause_s is not None:
            self._not_before = max(self._not_before, trio.current_time() + min(pause_s, AGAIN_MAX_S))

    def _unreachable(self, error: CallFailed) -> str:
        """Return what is said where no answer came, with what to do."""
        from p2pfill.tracker.connections import HandshakeFailed  # not above, as in `exchange`

        mine = self._credentials
        if mine is not None and mine.expires <= datetime.now(UTC):
            return (
                f"tracker {self.url} cannot be reached: this side's own certificate, in {str(mine.directory)!r}, has "
                f"ended at {mine.expires:%Y-%m-%d %H:%M:%S} UTC: renew it with `p2pfill ca renew`, or set the clock"
            )
        if mine is not None and (refused := _verification(error)) is not None:
            return (
                f"tracker {self.url} cannot be reached: its certificate is not accepted here: "
                f"{refused.verify_message}; look at its certificate, the ca.pem of both sides, and the clock of each"
            )
        if not (self._place.is_encrypted and mine is None) and isinstance(error, HandshakeFailed):
            return f"tracker {self.url} cannot be reached: {error}"
        reason = f" ({error})" if str(error) else ""
        return f"tracker {self.url} cannot be reached{reason}; {self._advice_after(error)}"

    def _advice_after(self, error: CallFailed) -> str:
        from p2pfill.tracker.connections import CallBroken  # not above, as in `exchange`

        if self._place.is_encrypted and self._credentials is None:
            return "does it run, and ask for a certificate? Show yours with --identity DIR, or P2PFILL_IDENTITY"
        if self._credentials is not None and isinstance(error, CallBroken):
            # In TLS 1.3 who calls is through its handshake before it is looked at.
            return (
                "does it refuse this side's certificate, or stop just now? Its log says why, and so may "
                f"`p2pfill ca check {self._credentials.directory}`"
            )
        if isinstance(error, CallBroken):
            return "check that the URL is right: that of a tracker with an identity begins with https://"
        return "check that it runs and that the URL is right"


def _verification(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Return why the other side's certificate was not accepted, where an error came of that."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _readable(raw: _RawOrders) -> ReadableOrders:
    orders, unreadable = [], []
    for number, one in enumerate(raw.orders):
        try:
            orders.append(msgspec.json.decode(one, type=Order))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            unreadable.append(f"order {number} of {len(raw.orders)} cannot be read ({error})")
    settings, wrong = None, ""
    try:
        settings = msgspec.json.decode(raw.settings, type=CacheSettings | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError) as error:
        # As of a time zone that this machine does not know: that must not keep a cache from its orders.
        wrong = f"the settings of the fleet's policy cannot be read ({error})"
    return ReadableOrders(
        raw.version, orders, raw.scrubs, raw.withdrawn, raw.evictions, raw.pinned, raw.rates, raw.pins, settings,
        raw.settings_digest, raw.cursor, raw.changes, raw.gone, raw.more, raw.database, raw.number, unreadable, wrong,
    )  # fmt: skip


async def _in_order(call: Callable[[int], Awaitable[T]]) -> T:
    """Make a call that is signed: once more, with a higher number, where another clock is ahead of ours."""
    try:
        return await call(0)
    except TrackerRefused as error:
        if not error.number:
            raise
        return await call(error.number)


def _refusal(answer: bytes, status: int, url: str) -> TrackerRefused:
    try:
        said = msgspec.json.decode(answer, type=records.ErrorReply)
    except JSON_ERRORS:
        return TrackerRefused(
            f"{url} answered with HTTP status {status} and no reason; is it a p2pfill tracker?", status
        )
    return TrackerRefused(f"tracker {url}: {said.error[:2000]}", status, said.number)
