"""The HTTP face of the tracker: reads and bounds what comes in, calls the service, writes JSON.

Handlers are bound by name to `openapi.OPERATIONS`; no rule of the control plane lives here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from p2pfill.errors import ConfigError, P2PFillError, PeerRefused, StoreError
from p2pfill.model import limits
from p2pfill.model.reports import BroughtOrders, NodeReport, SignedDocuments
from p2pfill.model.signed_order import WITHDRAWAL_BYTES_MAX
from p2pfill.tracker import night_report, openapi, records, views
from p2pfill.tracker.admission import GRACE_S, RATE_MIN_BYTES_S, Admission
from p2pfill.tracker.applying import apply_policy
from p2pfill.tracker.callers import Caller, caller_of
from p2pfill.tracker.checks import NotSigned, RequestRefused, check_fill, check_node_id, check_title, require
from p2pfill.tracker.night_record import build_record
from p2pfill.tracker.recall import bring_back
from p2pfill.tracker.rights import Call, Grants, Right, admit, call_of
from p2pfill.tracker.service import ORDERS_WAIT_S_MAX, Service
from p2pfill.tracker.signed import SignedTitles, signatures_in
from p2pfill.tracker.signed_orders import SignedOrders
from p2pfill.trust.credentials import Bearer, Credentials

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

JSON_BODY_BYTES_MAX: Final = 4 * limits.MIB
"""Four times a heartbeat of 500 titles that have all failed for long reasons: nodes say more than 500 titles and
sources in pieces. Orders and policies are shorter."""

UPLOADS_MAX: Final = 2
"""Manifests taken in at once: each may need `MANIFEST_BYTES_MAX` of memory."""

REPORTS_MAX: Final = 1
"""Reports of nights, and looks over the fleet, made at once: a large one takes seconds of processor time, and some
hundred megabytes for what it is made of."""

BRINGS_MAX: Final = 16
"""Calls that bring back orders, at once: one may have two thousand signatures to look at, for a second or two in one of
Trio's 40 threads, which others need; and commits of several go to the disk together."""

OFTEN: Final = ("heartbeat", "get_orders")
"""What each node calls all the time. These routes come first: a call is compared with one after the other."""

SIGNED_TITLES_MAX: Final = 50
"""Titles of which a node is sent what is signed at a time, as many as a URL has room for."""

SIGNED_BYTES_MAX: Final = 2 * limits.MIB
"""Of that; a title by itself may have more."""

LINGER_S: Final = 1.0
LINGER_BYTES: Final = 32 * limits.MIB
"""What a caller may send yet of a body that was refused."""

BODY_TOTAL_S: Final = 900.0
"""Longest time for a whole body: the largest manifest at 5 Mbit/s."""

_log = logging.getLogger("p2pfill.tracker")


class Api:
    """One handler a call; the names are those of the operations."""

    def __init__(
        self, service: Service, admission: Admission, signed: SignedTitles, orders: SignedOrders
    ) -> None:
        self._service = service
        self._admission = admission
        self._signed = signed
        self._orders = orders
        self._uploads = trio.CapacityLimiter(UPLOADS_MAX)
        self._reporting = trio.CapacityLimiter(REPORTS_MAX)
        self._bringing = trio.CapacityLimiter(BRINGS_MAX)
        self._document = msgspec.json.encode(openapi.build_document())

    async def _read_body(self, request: Request, size_max: int) -> bytes:
        address = caller_of(request).address
        with self._admission.body(address) as take:
            try:
                return await read_body(request, size_max, take)
            except RequestRefused as error:
                if error.status == 408:
                    self._admission.note("a body came too slowly", address)
                else:
                    await leave_unread(request)
                raise

    async def _read_json(self, request: Request, kind: type[T]) -> T:
        return decode_json(await self._read_body(request, JSON_BODY_BYTES_MAX), kind)

    @asynccontextmanager
    async def _in_turn(self, request: Request, limiter: trio.CapacityLimiter, what: str) -> AsyncIterator[None]:
        """Do what is done few at a time. Raises `RequestRefused` where the caller has too much of it waiting."""
        with self._admission.waiting(caller_of(request).address, what):
            async with limiter:
                yield

    async def health(self, request: Request) -> Response:
        """Tell that the tracker answers."""
        return reply(views.health(self._service))

    async def status(self, request: Request) -> Response:
        """Show the fleet."""
        return reply(views.status(self._service, trio.current_time()))

    async def list_origins(self, request: Request) -> Response:
        """Show what was had of origins."""
        return reply(views.origins_used(self._service))

    async def list_nights(self, request: Request) -> Response:
        """List the nights."""
        return reply(views.nights(self._service))

    async def get_night(self, request: Request) -> Response:
        """Report a night."""
        async with self._in_turn(request, self._reporting, "reports"):
            page = await self._service.night(request.path_params["night"])
            titles = self._service.titles
            names = {title: titles[title].name for title in {row.title for row in page.rows} if title in titles}
            alive, silent = views.caches_in_night(self._service, page.head.night)
            is_over = views.is_over(self._service, page.head.night)

            def build() -> Response:
                return reply(night_report.build_report(page, names, alive, silent, is_over=is_over))

            return await trio.to_thread.run_sync(build)

    async def get_night_record(self, request: Request) -> Response:
        """Show what is recorded of a night."""
        async with self._in_turn(request, self._reporting, "reports"):
            page = await self._service.night(request.path_params["night"])
            is_over = views.is_over(self._service, page.head.night)

            def build() -> Response:
                return reply(build_record(page, is_over=is_over))

            return await trio.to_thread.run_sync(build)

    async def list_titles(self, request: Request) -> Response:
        """List the catalogue."""
        return reply(views.catalogue(self._service))

    async def put_title(self, request: Request) -> Response:
        """Take in a manifest."""
        call, title = call_of(request), request.path_params["title"]
        me = call.caller.identity
        if call.is_cache and me is not None and not self._service.recall.asks(me.name, title):
            raise RequestRefused(f"{call.caller.who} may not publish: nobody has asked it for this manifest", 403)
        signatures = signatures_in(request.query_params.get("signatures"))
        title, body = check_title(title), await self._read_body(request, limits.MANIFEST_BYTES_MAX)
        async with self._in_turn(request, self._uploads, "manifests"):
            # Who sends what the catalogue has need not have the signatures too.
            known = await self._service.signatures(title) if title in self._service.titles else b""
            # Decoding a large manifest takes seconds of processor time, so it must not hold up heartbeats.
            opening = partial(self._signed.open, body, title, signatures or known, is_brought=call.is_cache)
            try:
                manifest = await trio.to_thread.run_sync(opening)
            except NotSigned as error:
                if call.is_cache:
                    self._service.recall.refuse(title, f"{error}; sign it, and bring it with `p2pfill title add`")
                raise
            if not call.is_cache:
                call.require_title(manifest.name)
            first = self._signed.added(b"", signatures) if signatures else b""
            record, added = await self._service.add_title(title, manifest, body, first)
            if signatures and not added:
                await self._service.change_signatures(title, partial(self._signed.added, new=signatures))
            call.has_changed = added or await self._service.signatures(title) != known
            call.noted = f"{record.name} ({title})"
        return reply(record, 201 if added else 200)

    async def get_title(self, request: Request) -> Response:
        """Show one title."""
        return reply(self._service.title(request.path_params["title"]))

    async def get_manifest(self, request: Request) -> Response:
        """Send a manifest."""
        encoded = await self._service.manifest(request.path_params["title"])
        return Response(encoded, media_type=openapi.MANIFEST_TYPE)

    async def get_signatures(self, request: Request) -> Response:
        """Send who has signed a title."""
        encoded = await self._service.signatures(request.path_params["title"])
        return Response(encoded, media_type=openapi.MANIFEST_TYPE)

    async def delete_title(self, request: Request) -> Response:
        """Forget a title."""
        self._for_title(request)
        await self._service.delete_title(request.path_params["title"])
        return Response(status_code=204)

    async def get_holders(self, request: Request) -> Response:
        """Show who holds a title."""
        return reply(views.holders(self._service, request.path_params["title"]))

    async def withdraw_title(self, request: Request) -> Response:
        """Withdraw a title."""
        self._for_title(request)
        stood, urgent = views.holders(self._service, request.path_params["title"]), number_of(request, "urgent", 0) != 0
        caller = call_of(request).caller
        signed = await trio.to_thread.run_sync(
            partial(self._orders.withdrawal, signed_in(request), stood.title, caller, urgent=urgent)
        )
        await self._service.withdraw(stood.title.title, urgent=urgent, signed=signed)
        return reply(stood)

    async def pin_title(self, request: Request) -> Response:
        """Pin a title."""
        self._for_title(request)
        wanted, nodes_min = await self._read_json(request, records.PinRequest), int(number_of(request, "nodes_min", 0))
        note_asked(request, wanted)
        return reply(await self._service.pin(request.path_params["title"], wanted.selector, nodes_min))

    async def unpin_title(self, request: Request) -> Response:
        """Unpin a title."""
        self._for_title(request)
        wanted = await self._read_json(request, records.PinRequest)
        note_asked(request, wanted)
        return reply(await self._service.unpin(request.path_params["title"], wanted.selector))

    async def list_limits(self, request: Request) -> Response:
        """List standing limits."""
        return reply(records.Limits(self._service.limits.records()))

    async def post_limit(self, request: Request) -> Response:
        """Set or clear a standing limit."""
        wanted, nodes_min = await self._read_json(request, records.LimitRecord), int(number_of(request, "nodes_min", 0))
        note_asked(request, wanted)
        return reply(records.Limits(await self._service.set_limit(wanted, nodes_min)))

    async def list_fills(self, request: Request) -> Response:
        """List fills."""
        return reply(records.Fills(views.all_fills(self._service)))

    async def post_fill(self, request: Request) -> Response:
        """Order a fill."""
        nodes_min, call = int(number_of(request, "nodes_min", 0)), call_of(request)
        wanted = await self._read_json(request, records.FillRequest)
        selector, title = check_fill(wanted), self._service.title(wanted.title)
        call.require_order(title.name, selector, wanted.priority, title.size)
        if wanted.rollback:
            call.require_rollback(title.name)
        if self._signed.publishers is not None:
            self._signed.require(title.title, title.name, await self._service.signatures(title.title))
        signed = await trio.to_thread.run_sync(self._orders.order, wanted.signed, wanted, title, call.caller)
        made = await self._service.add_fill(wanted, nodes_min, signed)
        by = "" if signed is None else ", signed"
        call.noted = f"{title.name} to {wanted.selector}, priority {wanted.priority}: fill {made.fill_id}{by}"
        return reply(made)

    async def get_fill(self, request: Request) -> Response:
        """Show a fill."""
        return reply(views.fill_status(self._service, self._service.fill(request.path_params["fill"])))

    async def delete_fill(self, request: Request) -> Response:
        """Withdraw a fill."""
        call, fill = call_of(request), self._service.fill(request.path_params["fill"])
        title = self._service.title(fill.request.title)
        call.require_title(title.name)
        terms = b"" if fill.signed is None else bytes.fromhex(fill.signed.terms)
        signed = None
        if terms:  # what nobody has signed cannot come back, so there is nothing to keep of its end
            signed = await trio.to_thread.run_sync(
                partial(self._orders.withdrawal, signed_in(request), title, call.caller, terms=terms)
            )
        await self._service.delete_fill(fill.fill_id, signed)
        call.noted = f"{title.name} to {fill.request.selector}: fill {fill.fill_id}"
        return Response(status_code=204)

    async def post_scrub(self, request: Request) -> Response:
        """Have nodes look at a title."""
        wanted = await self._read_json(request, records.ScrubRequest)
        note_asked(request, wanted)
        nodes_min = int(number_of(request, "nodes_min", 0))
        return reply(self._service.add_scrub(request.path_params["title"], wanted.selector, nodes_min))

    async def get_scrub(self, request: Request) -> Response:
        """Show what came of that."""
        return reply(self._service.scrubs.get(request_number(request, "scrub")))

    async def post_eviction(self, request: Request) -> Response:
        """Have nodes make room."""
        nodes_min = int(number_of(request, "nodes_min", 0))
        wanted = await self._read_json(request, records.EvictRequest)
        note_asked(request, wanted)
        return reply(self._service.add_eviction(wanted, nodes_min))

    async def get_eviction(self, request: Request) -> Response:
        """Show what came of that."""
        return reply(self._service.evictions.get(request_number(request, "eviction")))

    async def list_nodes(self, request: Request) -> Response:
        """List nodes."""
        return reply(records.Nodes(views.all_nodes(self._service)))

    async def get_node(self, request: Request) -> Response:
        """Show a node."""
        return reply(views.node_status(self._service.node(node_of(request))))

    async def delete_node(self, request: Request) -> Response:
        """Forget a node."""
        await self._service.delete_node(node_of(request))
        return Response(status_code=204)

    async def heartbeat(self, request: Request) -> Response:
        """Take in a heartbeat."""
        node_id, call = node_of(request), call_of(request)
        report = await self._read_json(request, NodeReport)
        call.require_report(report.info)
        taken = self._service.handle_heartbeat(node_id, report, call.caller)
        self._admission.know(call.caller.address)
        return reply(taken)

    async def bring_back(self, request: Request) -> Response:
        """Take over a node's orders."""
        node_id, brought = node_of(request), await self._read_json(request, BroughtOrders)
        # Of one node, whatever address it has: after a loss all of a house come from one.
        with self._admission.waiting(node_id, "orders to be looked at"):
            async with self._bringing:
                return reply(
                    await bring_back(self._service, node_id, brought.orders, brought.withdrawals, self._orders)
                )

    async def get_signed(self, request: Request) -> Response:
        """Send what is signed of a node's orders."""
        titles = request.query_params.get("titles", "").split(",")
        require(len(titles) <= SIGNED_TITLES_MAX, f"{len(titles)} titles: at most {SIGNED_TITLES_MAX} at a time")
        asked = [check_title(one) for one in titles if one]
        return reply(SignedDocuments(await self._service.signed_documents(node_of(request), asked, SIGNED_BYTES_MAX)))

    async def get_orders(self, request: Request) -> Response:
        """Send a node's orders, or what has changed of them, when they change."""
        since, title = request.query_params.get("since"), request.query_params.get("title")
        if title is not None:
            return reply(self._service.order_now(node_of(request), title))
        if since is not None:
            wait_s = number_of(request, "wait_s", ORDERS_WAIT_S_MAX)
            pins, settings = request.query_params.get("pins", ""), request.query_params.get("settings", "")
            with self._admission.poll(caller_of(request).address, node_of(request)):
                waiting = partial(self._service.wait_changes, node_of(request), since, wait_s, pins, settings)
                return reply(await while_connected(request, waiting))
        after = int(number_of(request, "after", -1))
        wait_s = number_of(request, "wait_s", ORDERS_WAIT_S_MAX)
        with self._admission.poll(caller_of(request).address, node_of(request)):
            waiting = partial(self._service.wait_orders, node_of(request), after, wait_s)
            return reply(await while_connected(request, waiting))

    async def get_sources(self, request: Request) -> Response:
        """Rank sources."""
        return reply(views.sources(self._service, node_of(request), request.path_params["title"]))

    async def explain(self, request: Request) -> Response:
        """Explain a node's state."""
        return reply(views.explanation(self._service, node_of(request), request.path_params["title"]))

    async def get_policy(self, request: Request) -> Response:
        """Show the policy that stands."""
        return reply(self._service.policies.stands.version)

    async def post_policy(self, request: Request) -> Response:
        """Let a policy stand."""
        wanted, dry_run = await self._read_json(request, records.PolicyRequest), number_of(request, "dry_run", 0) != 0
        note_asked(request, wanted)
        return reply(await apply_policy(self._service, wanted, dry_run=dry_run))

    async def list_policies(self, request: Request) -> Response:
        """List versions of the policy."""
        return reply(records.PolicyVersions(self._service.policies.versions()))

    async def get_policy_version(self, request: Request) -> Response:
        """Show a version of the policy."""
        return reply(self._service.policies.get(request_number(request, "policy")))

    async def lint(self, request: Request) -> Response:
        """Look over the fleet."""
        async with self._in_turn(request, self._reporting, "reports"):
            return reply(await views.lint_fleet(self._service))

    async def get_routes(self, request: Request) -> Response:
        """Show what costs of routes go by."""
        try:
            return reply(self._service.routes.state())
        except ConfigError as error:
            raise RequestRefused(str(error), 409) from error

    async def read_routes(self, request: Request) -> Response:
        """Read them anew."""
        try:
            return reply(await self._service.routes.read())
        except ConfigError as error:
            raise RequestRefused(str(error), 409) from error

    async def explain_route(self, request: Request) -> Response:
        """Explain what a route costs."""
        ends = request.path_params
        return reply(views.route(self._service, ends["receiver"], ends["source"]))

    async def get_revocations(self, request: Request) -> Response:
        """Show which certificates were taken back."""
        return reply(records.Revocations(self._service.revocations.decode("ascii")))

    async def list_changes(self, request: Request) -> Response:
        """Show who has changed what."""
        before, count = int(number_of(request, "before", 0)), int(number_of(request, "count", 1000))
        return reply(await self._service.audit_page(before, count))

    def _for_title(self, request: Request) -> None:
        """Look whether the caller may do this with the title in the path. Raises `RequestRefused`."""
        call, title = call_of(request), self._service.title(request.path_params["title"])
        call.require_title(title.name)
        call.noted = f"{title.name} ({title.title})"

    async def openapi(self, request: Request) -> Response:
        """Describe this API."""
        return Response(self._document, media_type=openapi.JSON_TYPE)


def build_app(
    service: Service, admission: Admission, grants: Grants | None = None, credentials: Credentials | None = None
) -> ASGIApp:
    """Return the ASGI application that serves `service` to those whom `grants` names; None: to everybody.

    Whose titles it takes, `credentials` say.

    A bare router: Starlette's own application has two layers of middleware, which wrap what each call sends, and cost a
    heartbeat more than the service does. For a fault of ours the server answers with status 500, and logs it.
    """
    api = Api(service, admission, SignedTitles(credentials), SignedOrders(credentials, grants))
    routes = [
        Route(
            one.path, Guarded(service, admission, one, getattr(api, one.name), grants), methods=[one.method],
            name=one.name,
        )
        for one in sorted(openapi.OPERATIONS, key=lambda one: one.name not in OFTEN)
    ]
    # A redirect to a path without its last slash would lead to the host that the caller names.
    router = Router(routes, redirect_slashes=False)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app  # so the router raises for what it has no route for, and answers nothing itself
        try:
            await router(scope, receive, send)
        except HTTPException as error:
            await _refuse_http(Request(scope), error)(scope, receive, send)

    return app


class Guarded:
    """A handler as an ASGI application: asks who calls, and turns our errors into answers with the right status."""

    def __init__(
        self, service: Service, admission: Admission, operation: openapi.Operation, handler: Handler,
        grants: Grants | None,
    ) -> None:
        self._service = service
        self._admission = admission
        self._name = operation.name
        self._right = operation.right
        self._handler = handler
        self._grants = grants

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        answer = await self._answer(Request(scope, receive, send))
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        caller = caller_of(request)
        try:
            caller = _caller_with_identity(request, caller)
            self._admission.call(caller)
            call = admit(caller, self._grants, self._name, self._right, request.path_params.get("node", ""))
            request.scope["p2pfill.call"] = call
            answer = await self._handler(request)
            if self._right not in (Right.READ, Right.REPORT) and call.has_changed:
                await self._note(request, call)
        except RequestRefused as error:
            if error.status == 403:
                is_unsigned = isinstance(error, NotSigned)
                why = "a title is not signed as it must be" if is_unsigned else "a call was not granted"
                self._admission.note(why, f"{self._name} to {caller.who} at {caller.address}")
            return refuse(str(error), error.status, error.again_s, error.number)
        except StoreError as error:
            _log.error("%s", error)
            return refuse(str(error), 503)
        except ClientDisconnect:
            return refuse("the body ended early", 400)
        return answer

    async def _note(self, request: Request, call: Call) -> None:
        """Keep what the call has changed."""
        detail, caller = call.noted or asked_of(request), call.caller
        try:
            await self._service.note_change(caller.who, caller.address, self._name, detail)
        except StoreError as error:
            # It has been done, and its caller must not take it for undone.
            _log.error("%s of %s, %r, is not in the audit: %s", self._name, caller.who, detail, error)


def _caller_with_identity(request: Request, caller: Caller) -> Caller:
    """Return who has shown a certificate on the connection of a request. Raises `RequestRefused`."""
    bearer: Bearer | None = request.scope.get("state", {}).get("bearer")
    try:
        return caller if bearer is None else caller._replace(identity=bearer.identity())
    except PeerRefused as error:
        raise RequestRefused(str(error), 403) from error


def asked_of(request: Request) -> str:
    """Return what a request asks for: its path, and its query as it came."""
    # Not `request.url`: that raises where the query is no UTF-8, and has the host in it that the caller names.
    query = request.scope["query_string"].decode("ascii", "backslashreplace")
    return path_of(request) + (f"?{query}" if query else "")


def path_of(request: Request) -> str:
    """Return the path of a request."""
    path: str = request.scope["path"]
    return path


def note_asked(request: Request, wanted: msgspec.Struct) -> None:
    """Let the audit say what a body asks for, beside what is known of the call before."""
    call = call_of(request)
    call.noted = f"{call.noted or asked_of(request)} {msgspec.json.encode(wanted).decode()}"


def _refuse_http(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        return refuse(f"there is nothing at {path_of(request)[:200]}; see /openapi.json", 404)
    if error.status_code == 405:
        return refuse(f"{request.method} is not possible at {path_of(request)[:200]}; see /openapi.json", 405)
    return refuse(error.detail, error.status_code)


def reply(record: msgspec.Struct, status: int = 200) -> Response:
    """Return a record as JSON, with a line's end for people with curl."""
    return Response(msgspec.json.encode(record) + b"\n", status, media_type=openapi.JSON_TYPE)


def refuse(message: str, status: int, again_s: float = 1.0, number: int = 0) -> Response:
    """Return an error as JSON; where it may be tried again, with after how long."""
    answer = reply(records.ErrorReply(message, number), status)
    if status in (429, 503):
        answer.headers["retry-after"] = str(math.ceil(again_s))
    return answer


async def read_body(request: Request, size_max: int, take: Callable[[int], None]) -> bytes:
    """Return a request's body, of whose pieces `take` is told the lengths before they are kept.

    Raises `RequestRefused` where it is larger than `size_max` bytes, or slower than `RATE_MIN_BYTES_S`.
    """
    too_large = RequestRefused(f"the body is larger than {size_max} bytes", 413)
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > size_max:
        raise too_large
    body = bytearray()
    began = trio.current_time()
    with trio.move_on_after(GRACE_S) as scope:
        async with aclosing(request.stream()) as pieces:
            async for piece in pieces:
                if len(body) + len(piece) > size_max:
                    raise too_large
                take(len(piece))
                body += piece
                scope.deadline = began + min(BODY_TOTAL_S, GRACE_S + len(body) / RATE_MIN_BYTES_S)
    if scope.cancelled_caught:
        raise RequestRefused(f"the body comes too slowly: below {RATE_MIN_BYTES_S} bytes a second", 408)
    return bytes(body)


async def leave_unread(request: Request) -> None:
    """Let go by what a caller is sending yet: who is cut off in the midst of it does not hear why."""
    left = LINGER_BYTES
    with trio.move_on_after(LINGER_S):
        async with aclosing(request.stream()) as pieces:
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    return


async def while_connected(request: Request, wait: Callable[[], Awaitable[T]]) -> T:
    """Return what `wait` does, and raise what it raises; `ClientDisconnect` once the caller has gone."""
    came: list[T | P2PFillError] = []

    async def watch(scope: trio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        try:
            came.append(await wait())
        except P2PFillError as error:  # as itself, and in no group
            came.append(error)
        nursery.cancel_scope.cancel()
    if not came:
        raise ClientDisconnect
    if isinstance(came[0], P2PFillError):
        raise came[0]
    return came[0]


def decode_json(body: bytes, kind: type[T]) -> T:
    """Return a JSON body as a record. Raises `RequestRefused` that names the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestRefused(f"the body is not a {kind.__name__}: {error}") from error


def signed_in(request: Request) -> bytes:
    """Return the signed withdrawal in a request's query, b'' where there is none. Raises `RequestRefused`."""
    text = request.query_params.get("signed", "")
    require(len(text) <= 2 * WITHDRAWAL_BYTES_MAX, f"a signed withdrawal has at most {WITHDRAWAL_BYTES_MAX} bytes")
    return signatures_in(text)


def node_of(request: Request) -> str:
    """Return the node id in a request's path. Raises `RequestRefused`."""
    return check_node_id(request.path_params["node"])


def request_number(request: Request, name: str) -> int:
    """Return the number in a request's path. Raises `RequestRefused`."""
    number: str = request.path_params[name]
    require(number.isdecimal() and len(number) < 20, f"{number[:40]!r} is not the number of a {name}")
    return int(number)


def number_of(request: Request, name: str, default: float) -> float:
    """Return a query parameter as a finite number. Raises `RequestRefused`."""
    text: Any = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text) if "." in text else int(text[:20])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RequestRefused(f"{name}={text[:40]!r} is not a number")
    return value  # an int stays one: a version may be beyond the exact floats
