"""The API as data: one `Operation` a call. Routes are made from this table and the OpenAPI document from the very same,
with schemas read from the record types, so that the description cannot drift from what is served.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from p2pfill._version import __version__
from p2pfill.model.night import RecordedNight
from p2pfill.model.reports import BroughtOrders, BroughtReply, HeartbeatReply, NodeReport, Orders, SignedDocuments
from p2pfill.model.routes import RouteCost
from p2pfill.tracker import night_report, records
from p2pfill.tracker.audit import AuditPage
from p2pfill.tracker.rights import Right

MANIFEST_TYPE: Final = "application/vnd.p2pfill.manifest"
JSON_TYPE: Final = "application/json"


SIGNED: Final = "The same, signed by the caller, in base64 with `-` and `_`: nodes bring it back after a loss."

NODES_MIN: Final = {
    "nodes_min": "Refuse, with status 409, where fewer living nodes match the selector, or none one of its clauses."
}

class Operation(NamedTuple):
    """One call of the API."""

    name: str
    method: str
    path: str
    summary: str
    request: Any = None
    """Record type of the body; `bytes` for an encoded manifest; None for no body."""
    response: Any = None
    """Record type of the answer; `bytes` for an encoded manifest; None for none."""
    status: int = 200
    query: dict[str, str] = {}  # noqa: RUF012 - never changed
    """Query parameter -> what it means. All are optional numbers."""
    errors: tuple[int, ...] = ()
    needs: Right | None = None
    """The right to it; by default to read, where that is what it does, and else to manage."""

    @property
    def right(self) -> Right:
        """What a caller needs."""
        return self.needs or (Right.READ if self.method == "GET" else Right.MANAGE)


OPERATIONS: Final = (
    Operation("health", "GET", "/v1/health", "Tell that the tracker answers.", response=records.Health),
    Operation("status", "GET", "/v1/status", "Show titles, fills and nodes at one glance.", response=records.Status),
    Operation("list_titles", "GET", "/v1/titles", "List the catalogue.", response=records.Titles),
    Operation(
        "put_title",
        "PUT",
        "/v1/titles/{title}",
        "Publish a title: the body is its manifest, whose id must be the one in the path.",
        request=bytes,
        response=records.TitleRecord,
        status=201,
        query={"signatures": "Who has signed it, as in FILE.fill.sig, in base64 with `-` and `_`; also once more."},
        errors=(400, 409, 413),
        needs=Right.PUBLISH,
    ),
    Operation(
        "get_title", "GET", "/v1/titles/{title}", "Show one title.", response=records.TitleRecord, errors=(400, 404)
    ),
    Operation(
        "get_manifest",
        "GET",
        "/v1/titles/{title}/manifest",
        "Fetch a title's encoded manifest.",
        response=bytes,
        errors=(400, 404),
    ),
    Operation(
        "get_signatures",
        "GET",
        "/v1/titles/{title}/signatures",
        "Fetch who has signed a title, encoded as in FILE.fill.sig; nothing where nobody has.",
        response=bytes,
        errors=(400, 404),
    ),
    Operation(
        "delete_title",
        "DELETE",
        "/v1/titles/{title}",
        "Forget a title that nothing orders; nodes keep data.",
        status=204,
        errors=(400, 404, 409),
        needs=Right.PUBLISH,
    ),
    Operation(
        "get_holders",
        "GET",
        "/v1/titles/{title}/holders",
        "Show what orders a title, and which nodes have a part of it.",
        response=records.TitleHolders,
        errors=(400, 404),
    ),
    Operation(
        "withdraw_title",
        "POST",
        "/v1/titles/{title}/withdraw",
        "Withdraw all orders of a title; `urgent=1`: nodes delete it, also at their return.",
        response=records.TitleHolders,
        query={"urgent": "1: nodes that hold the title delete it, until it is ordered again.", "signed": SIGNED},
        errors=(400, 404, 409),
        needs=Right.WITHDRAW,
    ),
    Operation(
        "pin_title",
        "POST",
        "/v1/titles/{title}/pin",
        "Have the nodes that match a selector, now and later, keep what they hold of a title though no order wants it.",
        request=records.PinRequest,
        response=records.TitleRecord,
        query=NODES_MIN,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "unpin_title",
        "POST",
        "/v1/titles/{title}/unpin",
        "Take back the pin of a selector, or all pins of a title.",
        request=records.PinRequest,
        response=records.TitleRecord,
        errors=(400, 404, 409, 413),
    ),
    Operation("list_limits", "GET", "/v1/limits", "List all standing limits of rates.", response=records.Limits),
    Operation(
        "post_limit",
        "POST",
        "/v1/limits",
        "Have the nodes that match a selector, now and later, keep to rates; without rates the limit is cleared.",
        request=records.LimitRecord,
        response=records.Limits,
        query=NODES_MIN,
        errors=(400, 404, 409, 413),
    ),
    Operation("list_fills", "GET", "/v1/fills", "List all fills, the most urgent first.", response=records.Fills),
    Operation(
        "post_fill",
        "POST",
        "/v1/fills",
        "Order a title on all nodes that match a selector, now and later. The same order again renews it.",
        request=records.FillRequest,
        response=records.FillCreated,
        query=NODES_MIN,
        errors=(400, 404, 409, 413),
        needs=Right.ORDER,
    ),
    Operation(
        "get_fill",
        "GET",
        "/v1/fills/{fill}",
        "Show a fill with the progress of each node and bytes by tier.",
        response=records.FillStatus,
        errors=(404,),
    ),
    Operation(
        "delete_fill",
        "DELETE",
        "/v1/fills/{fill}",
        "Withdraw a fill; nodes keep data.",
        status=204,
        query={"signed": SIGNED},
        errors=(404, 409),
        needs=Right.WITHDRAW,
    ),
    Operation(
        "post_scrub",
        "POST",
        "/v1/titles/{title}/scrubs",
        "Have the nodes that match a selector and hold a title look whether it is still right, and repair it.",
        request=records.ScrubRequest,
        response=records.ScrubStatus,
        query=NODES_MIN,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "get_scrub",
        "GET",
        "/v1/scrubs/{scrub}",
        "Show what has come of such a request.",
        response=records.ScrubStatus,
        errors=(400, 404),
    ),
    Operation(
        "post_eviction",
        "POST",
        "/v1/evictions",
        "Have the nodes that match a selector make room, or say what would go.",
        request=records.EvictRequest,
        response=records.EvictStatus,
        query=NODES_MIN,
        errors=(400, 409, 413),
    ),
    Operation(
        "get_eviction",
        "GET",
        "/v1/evictions/{eviction}",
        "Show what has come of such a request to make room.",
        response=records.EvictStatus,
        errors=(400, 404),
    ),
    Operation(
        "list_origins",
        "GET",
        "/v1/origins",
        "Show what the fleet has had of each origin: requests, bytes and, where its price is known, money.",
        response=records.OriginsUsed,
    ),
    Operation(
        "list_nights",
        "GET",
        "/v1/nights",
        "List the nights that are known, the last one first.",
        response=night_report.NightList,
    ),
    Operation(
        "get_night",
        "GET",
        "/v1/nights/{night}",
        "Report a night: what was to be had, what came from where, and why something is lacking.",
        response=night_report.NightReport,
        errors=(404,),
    ),
    Operation(
        "get_night_record",
        "GET",
        "/v1/nights/{night}/record",
        "Show what is recorded of a night, so that it can be rebuilt in the simulator.",
        response=RecordedNight,
        errors=(404,),
    ),
    Operation("list_nodes", "GET", "/v1/nodes", "List every node that ever reported.", response=records.Nodes),
    Operation("get_node", "GET", "/v1/nodes/{node}", "Show one node.", response=records.NodeStatus, errors=(400, 404)),
    Operation(
        "delete_node",
        "DELETE",
        "/v1/nodes/{node}",
        "Forget a node whose heartbeats have stopped.",
        status=204,
        errors=(400, 404, 409),
    ),
    Operation(
        "heartbeat",
        "POST",
        "/v1/nodes/{node}/heartbeat",
        "Report a node's progress and prove that it lives.",
        request=NodeReport,
        response=HeartbeatReply,
        errors=(400, 409, 413),
        needs=Right.REPORT,
    ),
    Operation(
        "bring_back",
        "POST",
        "/v1/nodes/{node}/brought",
        "Take over a node's orders that a new database does not know, or one that has lost some.",
        request=BroughtOrders,
        response=BroughtReply,
        errors=(400, 404, 409, 413),
        needs=Right.REPORT,
    ),
    Operation(
        "get_orders",
        "GET",
        "/v1/nodes/{node}/orders",
        "Get what a node shall hold. Waits while the version is still `after`, or nothing has changed `since`.",
        response=Orders,
        query={
            "after": "Version that the node has; without it the answer comes at once.",
            "since": "Cursor of the answer before: what has changed since is told, in pieces. Empty: all of it.",
            "settings": "With `since`: `settings_digest` of the answer before. Settings of that digest are left out.",
            "pins": "With `since`: `pins` of the answer before. What is `pinned` is told where that has changed.",
            "title": "Title id: its order alone, an `Order`, at once.",
            "wait_s": "Longest wait, in seconds; at most 60.",
        },
        errors=(400, 404),
        needs=Right.REPORT,
    ),
    Operation(
        "get_signed",
        "GET",
        "/v1/nodes/{node}/signed",
        "Get what callers have signed of a node's orders, and which signed withdrawals of those titles there are.",
        response=SignedDocuments,
        query={"titles": "Title ids with commas between, at most 50. What is left out is to be asked again."},
        errors=(400, 404),
        needs=Right.REPORT,
    ),
    Operation(
        "get_sources",
        "GET",
        "/v1/nodes/{node}/sources/{title}",
        "Rank the sources of a title for a node, each with the reason for its rank.",
        response=records.Sources,
        errors=(400, 404),
    ),
    Operation(
        "explain",
        "GET",
        "/v1/nodes/{node}/explain/{title}",
        "Explain why a node is where it is with a title.",
        response=records.Explanation,
        errors=(400, 404),
    ),
    Operation(
        "get_policy",
        "GET",
        "/v1/policy",
        "Show the version of the fleet's policy that stands; its number is 0 where none was ever applied.",
        response=records.PolicyVersion,
    ),
    Operation(
        "post_policy",
        "POST",
        "/v1/policy",
        "Let a policy stand for the fleet, or say what that would change.",
        request=records.PolicyRequest,
        response=records.PolicyApplied,
        query={"dry_run": "1: only say what would change."},
        errors=(400, 409),
    ),
    Operation(
        "list_policies",
        "GET",
        "/v1/policy/versions",
        "List the versions that are kept, the latest first.",
        response=records.PolicyVersions,
    ),
    Operation(
        "get_policy_version",
        "GET",
        "/v1/policy/versions/{policy}",
        "Show one version of the fleet's policy.",
        response=records.PolicyVersion,
        errors=(400, 404),
    ),
    Operation(
        "lint",
        "GET",
        "/v1/lint",
        "Look for what costs bytes: far fills that were not needed, labels and addresses that do not fit.",
        response=records.Lint,
    ),
    Operation(
        "get_routes",
        "GET",
        "/v1/routes",
        "Show what costs of routes go by.",
        response=records.RoutesState,
        errors=(409,),
    ),
    Operation(
        "read_routes",
        "POST",
        "/v1/routes/read",
        "Read costs of routes and their tables anew; where that fails, those of before count on.",
        response=records.RoutesState,
        errors=(409,),
    ),
    Operation(
        "explain_route",
        "GET",
        "/v1/routes/{receiver}/{source}",
        "Explain what a byte to one cache or address from another costs.",
        response=RouteCost,
        errors=(400, 404, 409),
    ),
    Operation(
        "get_revocations",
        "GET",
        "/v1/revocations",
        "Show which certificates were taken back: revocation lists, signed by the authorities.",
        response=records.Revocations,
    ),
    Operation(
        "list_changes",
        "GET",
        "/v1/audit",
        "Show who has changed what, the latest first.",
        response=AuditPage,
        query={
            "before": "Number of a change: those before it. 0: the very latest.",
            "count": "How many at most; 1000 by default.",
        },
        needs=Right.MANAGE,
    ),
    Operation("openapi", "GET", "/openapi.json", "This description.", response=dict),
)

_TEXTS: Final = ("since", "pins", "settings", "title", "titles", "signatures", "signed")
"""What a query says in words; all else are numbers."""

_PARAMETERS: Final = {
    "title": "Title id: 64 hexadecimal digits.",
    "node": "Node id.",
    "receiver": "Node id, or an IP address.",
    "source": "Node id, or an IP address.",
    "scrub": "Number of a scrub, as `POST /v1/titles/{title}/scrubs` returned it.",
    "eviction": "Number of an eviction, as `POST /v1/evictions` returned it.",
    "policy": "Number of a version, as `GET /v1/policy/versions` lists it.",
    "night": "The date on which a night began, as 2026-11-29.",
    "fill": "Fill id, as `POST /v1/fills` returned it.",
}


def build_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the tracker's API."""
    types = [kind for one in OPERATIONS for kind in (one.request, one.response) if kind not in (None, bytes, dict)]
    types = list(dict.fromkeys([*types, records.ErrorReply]))
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    schema_of[dict] = {"type": "object"}
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _describe(one, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "p2pfill tracker", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _describe(one: Operation, schema_of: dict[Any, Any]) -> dict[str, Any]:
    def content(kind: Any) -> dict[str, Any]:
        if kind is bytes:
            return {MANIFEST_TYPE: {"schema": {"type": "string", "format": "binary"}}}
        return {JSON_TYPE: {"schema": schema_of[kind]}}

    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "description": _PARAMETERS[name], "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", one.path)
    ]
    parameters += [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": text,
            "schema": {"type": "string" if name in _TEXTS else "number"},
        }
        for name, text in one.query.items()
    ]
    answer: dict[str, Any] = {"description": one.summary}
    if one.response is not None:
        answer["content"] = content(one.response)
    responses = {str(one.status): answer}
    if one.name == "put_title":
        responses["200"] = answer | {"description": "The title was in the catalogue already."}
    reasons = {400: "Malformed", 403: "Not granted", 404: "Not found", 409: "Not as things are", 413: "Body too large"}
    for status in (*one.errors, 403, 503):
        text = reasons.get(status, "The tracker cannot serve this now")
        responses[str(status)] = {"description": text, "content": content(records.ErrorReply)}
    described: dict[str, Any] = {"operationId": one.name, "summary": one.summary, "responses": responses}
    if parameters:
        described["parameters"] = parameters
    if one.request is not None:
        described["requestBody"] = {"required": True, "content": content(one.request)}
    return described
