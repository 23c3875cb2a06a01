"""What people and scripts are shown of the tracker's state: progress, node status, explanations. Changes nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
import trio

from p2pfill._version import __version__
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo, tier_between
from p2pfill.model.origins import OriginReport
from p2pfill.model.reports import TitleReport
from p2pfill.model.routes import RouteCost
from p2pfill.model.terms import REGIONAL
from p2pfill.origin.urls import shown
from p2pfill.tracker import lint
from p2pfill.tracker.checks import RequestRefused, check_title
from p2pfill.tracker.night_report import NightList, is_in_night, summary
from p2pfill.tracker.records import (
    Explanation,
    FillRecord,
    FillStatus,
    FillTotals,
    Health,
    Lint,
    NodeProgress,
    NodeStatus,
    OriginsUsed,
    OriginTotals,
    Outlook,
    RankedSource,
    Sources,
    Status,
    TitleHolder,
    TitleHolders,
    Titles,
)
from p2pfill.tracker.route_tables import parse_address
from p2pfill.tracker.service import NodeState, Service, holds, urgency

LAG_NOTED_US: Final = 250_000
"""An event loop that is this late is said to be so: others see it as a slow answer to everything."""

ORIGINS_SHOWN_MAX: Final = 1000
"""Each node may name others."""


def fill_status(service: Service, fill: FillRecord) -> FillStatus:
    """Return a fill with the progress of each of its nodes and the sums over them."""
    title = fill.request.title
    record = service.titles.get(title)
    totals = FillTotals()
    nodes = []
    left_out = service.left_out(fill.fill_id)
    assigned = [node_id for node_id in service.nodes_of_fill(fill.fill_id) if node_id not in left_out]
    for node_id in assigned:
        state = service.nodes.get(node_id)
        if state is None:
            continue  # its first report never reached the disk before a restart; it counts below, so `done` stays false
        superseded = not service.is_wanted(node_id, title)
        report = report_on(state, fill)
        told = state.report
        progress = NodeProgress(state.info, state.alive, report, superseded, told.unreached, told.hours)
        _add(totals, progress)
        nodes.append(progress)
    totals.nodes = len(assigned)
    return FillStatus(
        fill=_without_secrets(fill),
        title_name="" if record is None else record.name,
        title_bytes=fill.file_bytes or (0 if record is None else record.size),
        done=0 < totals.nodes == sum(node.is_done for node in nodes),
        totals=totals,
        nodes=nodes,
        left_out=left_out,
        outlook=_outlook(fill.request.deadline, totals, nodes, time.time()),
    )


def report_on(state: NodeState, fill: FillRecord) -> TitleReport | None:
    """Return what a node says of a fill. While it speaks of an older order of the title, it has not begun with this."""
    report = state.titles.get(fill.request.title)
    if report is None or not 0 < report.number < fill.number:
        return report
    return msgspec.structs.replace(report, state="waiting", error="", waits={}, finished_at=0.0)


def _outlook(deadline: float | None, totals: FillTotals, nodes: list[NodeProgress], now: float) -> Outlook:
    """Return what becomes of a deadline, as far as the nodes' own clocks and rates tell."""
    if deadline is None:
        return ""
    reports = [node.report for node in nodes if node.report is not None]
    if any(report.finished_at > deadline for report in reports):
        return "missed"
    if 0 < totals.nodes == sum(report.state == "live" for report in reports):
        return "kept"  # also where one of them has gone since
    if now > deadline:
        return "missed"
    moving = [node.report for node in nodes if node.alive and node.report and node.report.rate_bytes_s >= 1]
    left_s = [(report.title_bytes - report.have_bytes) / report.rate_bytes_s for report in moving]
    return "late" if now + max(left_s, default=0.0) > deadline else "due"


def _add(totals: FillTotals, progress: NodeProgress) -> None:
    report = progress.report
    if progress.superseded:
        totals.superseded += 1
        return
    totals.lost += not progress.alive
    if report is None:
        return
    totals.live += progress.alive and report.state == "live"
    totals.failed += progress.alive and report.state == "failed"
    totals.have_bytes += report.have_bytes
    totals.bytes_peer += report.bytes_peer
    totals.bytes_regional += report.bytes_regional
    totals.bytes_origin += report.bytes_origin
    totals.duplicate_bytes += report.duplicate_bytes
    totals.reused_bytes += report.reused_bytes
    totals.rate_bytes_s += report.rate_bytes_s if progress.alive else 0.0
    isp = progress.node.isp
    totals.isp_bytes[isp] = totals.isp_bytes.get(isp, 0) + report.bytes_regional + report.bytes_origin
    for source in report.sources:
        if source.tier == "origin" and (source.id in totals.origins or len(totals.origins) < ORIGINS_SHOWN_MAX):
            totals.origins[source.id] = totals.origins.get(source.id, 0) + source.bytes
    for reason, count in report.escalations.items():
        totals.escalations[reason] = totals.escalations.get(reason, 0) + count


def catalogue(service: Service) -> Titles:
    """Return all titles, by name."""
    titles = sorted(service.titles.values(), key=lambda record: record.name)
    return Titles(titles, sorted(service.withdrawn & service.titles.keys()))


def holders(service: Service, title: str) -> TitleHolders:
    """Return what orders a title, and which nodes have a part of it. Raises `RequestRefused`."""
    record = service.title(title)
    reports = [(node_id, state, state.titles.get(record.title)) for node_id, state in sorted(service.nodes.items())]
    fills = [fill for fill in service.fills.values() if fill.request.title == record.title]
    return TitleHolders(
        title=record,
        fills=[_without_secrets(fill) for fill in sorted(fills, key=lambda fill: -fill.number)],
        holders=[
            TitleHolder(
                node_id, state.alive, report.state, report.have_bytes, report.number,
                _kept_by(service, state, record.title), state.alive and state.report.disk.is_low,
            )
            for node_id, state, report in reports
            if report is not None and (holds(report) or report.state != "failed")
        ],
        withdrawn=record.title in service.withdrawn,
    )


def _kept_by(service: Service, state: NodeState, title: str) -> list[Literal["order", "pin"]]:
    """Return what keeps a title on a node when room is needed there."""
    kept_by: list[Literal["order", "pin"]] = ["order"] if service.is_wanted(state.info.id, title) else []
    return [*kept_by, "pin"] if title in state.pinned else kept_by


def node_status(state: NodeState) -> NodeStatus:
    """Return what is known of a node."""
    return NodeStatus(
        info=state.info,
        alive=state.alive,
        seen_at=state.seen_at,
        age_s=max(0.0, time.time() - state.seen_at),
        orders_version=state.version,
        titles=list(state.titles.values()),
        upload_active=state.report.upload_active,
        upload_queued=state.report.upload_queued,
        upload_bytes=state.report.upload_bytes,
        loop_lag=state.report.loop_lag,
        usage=state.report.usage,
        disk=state.report.disk,
        scrubber=state.report.scrubber,
        origins=[one for one in state.origins.values() if one.id != REGIONAL],
        rates=state.report.rates,
        moves=state.report.moves,
        unreached=state.report.unreached,
        trouble=state.report.trouble,
        hours=state.report.hours,
        serving=state.report.serving,
        encryption=state.report.encryption,
    )


def origins_used(service: Service) -> OriginsUsed:
    """Return what the fleet has had of each origin."""
    sums: dict[str, OriginReport] = {}
    nodes: dict[str, int] = {}
    for state in service.nodes.values():
        for one in state.origins.values():
            if one.id == REGIONAL:
                continue
            total = sums.setdefault(one.id, OriginReport(one.id))
            nodes[one.id] = nodes.get(one.id, 0) + 1
            for figure in ("requests", "failed", "bytes_kept", "bytes_wasted", "given_up"):
                setattr(total, figure, getattr(total, figure) + getattr(one, figure))
    ranked = sorted(sums.values(), key=lambda one: (-one.bytes_kept - one.bytes_wasted, one.id))[:ORIGINS_SHOWN_MAX]
    return OriginsUsed(
        [OriginTotals(one, nodes[one.id], service.prices.money(one)) for one in ranked], service.prices.currency
    )


def all_nodes(service: Service) -> list[NodeStatus]:
    """Return all nodes, by id."""
    return [node_status(state) for _, state in sorted(service.nodes.items())]


def nights(service: Service) -> NightList:
    """Return the nights that are known, the last one first."""
    heads = sorted(service.nights.heads.values(), key=lambda head: (head.last_at, head.night), reverse=True)
    return NightList([summary(head, is_over=is_over(service, head.night)) for head in heads])


def caches_in_night(service: Service, night: str) -> tuple[set[str], set[str]]:
    """Return the caches that were last heard in a night: those that live, and those that are silent."""
    found = set(service.nights.in_night(night))
    alive = {node for node in found if node in service.nodes and service.nodes[node].alive}
    return alive, found - alive


def is_over(service: Service, night: str) -> bool:
    """Tell whether no cache fills in a night any more.

    Where some have fill windows, those that have none and always fill do not keep it from being over.
    """
    alive, _ = caches_in_night(service, night)
    found = [cache for node in alive if (cache := service.nights.cache(night, node)) is not None]
    has_windows = any(cache.has_windows for cache in found)
    return not any((one.has_windows or not has_windows) and is_in_night(one) for one in found)


def all_fills(service: Service) -> list[FillRecord]:
    """Return all fills, the most urgent first."""
    return [_without_secrets(fill) for fill in sorted(service.fills.values(), key=urgency)]


def _without_secrets(fill: FillRecord) -> FillRecord:
    """Return a fill as it is shown: the queries of its origins are for the caches alone, which get them as orders."""
    origins = [shown(url) for url in fill.request.origins]
    if origins == fill.request.origins:
        return fill
    return msgspec.structs.replace(fill, request=msgspec.structs.replace(fill.request, origins=origins))


def sources(service: Service, node_id: str, title: str) -> Sources:
    """Return where a node can take a title from, best first. Raises `RequestRefused`."""
    title = check_title(title)
    receiver = service.node(node_id).info
    ranked = [
        RankedSource(
            rank=entry.rank,
            id=entry.node.id,
            tier=tier_between(receiver, entry.node).name.lower(),
            filling=entry.filling,
            have_chunks=entry.have_chunks,
            reason=entry.reason,
        )
        for entry in service.roster(node_id, title)
    ]
    record = service.titles.get(title)
    chunk_count = 0 if record is None else record.chunk_count
    for fill in all_fills(service):
        if fill.request.title == title:
            known = {source.id for source in ranked}
            ranked.extend(
                RankedSource(len(ranked) + index, url, "origin", False, chunk_count, "origin of the fill; last resort")
                for index, url in enumerate(url for url in dict.fromkeys(fill.request.origins) if url not in known)
            )
    return Sources(node=node_id, title=title, sources=ranked)


def explanation(service: Service, node_id: str, title: str) -> Explanation:
    """Return why a node is where it is with a title. Raises `RequestRefused`."""
    title = check_title(title)
    state = service.node(node_id)
    record = service.titles.get(title)
    fills = [fill.fill_id for fill in all_fills(service) if fill.request.title == title]
    fills = [fill_id for fill_id in fills if node_id in service.nodes_of_fill(fill_id)]
    found = sources(service, node_id, title).sources
    newest = max(fills, key=lambda fill_id: service.fills[fill_id].number, default=None)
    report = state.titles.get(title) if newest is None else report_on(state, service.fills[newest])
    notes = []
    if record is None:
        notes.append("The title is not in the catalogue.")
    else:
        notes += service.policies.explain(state.info, record.name)
    if not fills:
        notes.append("No fill orders this title on this node.")
    if not state.alive:
        notes.append("The node's heartbeats have stopped: it is no source, and what is shown here is its last report.")
    if (late_us := state.report.loop_lag.max_us) >= LAG_NOTED_US:
        notes.append(
            f"The node's event loop was up to {late_us / 1e6:.1f} s late within a minute: the machine is short of "
            "processors, or the program around the node blocks it."
        )
    if (disk := state.report.disk).is_low:
        notes.append(
            f"The node's disk is low on space: {disk.free_bytes} bytes are free, fewer than the {disk.free_bytes_min} "
            "that it is to keep free, and nothing that may go is left, or it is going now."
        )
    if report is None:
        notes.append("The node has reported nothing of this title yet.")
    elif report.state == "waiting" and report.error:
        notes.append(f"The title waits for the node's disk, and goes on by itself once that is well: {report.error}.")
    elif report.state == "waiting":
        notes.append("The node has not begun with the order that stands now.")
    elif report.state == "failed":
        notes.append(f"The fill failed on the node: {report.error or 'it gave no reason'}.")
    elif report.state != "live":
        if report.state == "repairing":
            lacking, count = report.chunk_count - report.have_chunks, report.chunk_count
            notes.append(
                f"{lacking} of {count} chunks are bad on its disk: they are fetched anew, and the rest is served."
            )
            if report.error:
                notes.append(f"The repair cannot go on, and is tried again: {report.error}.")
        notes.extend(f"{count} chunks wait: {reason}." for reason, count in sorted(report.waits.items()))
        if not any(source.have_chunks for source in found):
            notes.append("No cache of its roster has a chunk of it, and no origin is named: it waits for a source.")
    if report is not None:
        notes.extend(
            f"{count} chunks came from further out: {why}." for why, count in sorted(report.escalations.items())
        )
        for source in report.sources:
            if source.state != "ok":
                notes.append(f"Source {source.id} is {source.state}: {source.reason or 'no reason given'}.")
            elif source.reason:
                notes.append(f"Source {source.id}: {source.reason}.")
    return Explanation(
        node=node_status(state),
        title=title,
        title_name="" if record is None else record.name,
        fill_ids=fills,
        report=report,
        sources=found,
        notes=notes,
    )


def status(service: Service, now: float) -> Status:
    """Return the fleet at one glance; `now` is on the service's clock."""
    return Status(
        version=__version__,
        now=time.time(),
        uptime_s=now - service.started_at,
        heartbeat_s=service.heartbeat_s,
        titles=sorted(service.titles.values(), key=lambda record: record.name),
        fills=[fill_status(service, fill) for fill in all_fills(service)],
        nodes=all_nodes(service),
        loop_lag=service.lag.report(),
        used=origins_used(service),
        losses=losses(service),
        brought_back=service.recall.listed(),
        refused=dict(service.refused),
        trusts_all=service.trusts_all,
        takes_unsigned=service.takes_unsigned,
    )


def health(service: Service) -> Health:
    """Tell how the tracker is."""
    lost = losses(service)
    return Health("degraded" if lost else "ok", __version__, lost)


def losses(service: Service) -> list[str]:
    """Return what is known to be lost, each with the time at which it was found."""
    return [f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC: {text}" for at, text in service.losses]


def route(service: Service, receiver: str, source: str) -> RouteCost:
    """Return what a byte to `receiver` from `source` costs, each a node id or an address. Raises `RequestRefused`."""
    ends = [_end_of_route(service, text) for text in (receiver, source)]
    routes = service.routes.routes
    if routes is None:
        raise RequestRefused("no costs of routes are configured: start the tracker with --routes FILE", 409)
    return routes.explain(*ends)


async def lint_fleet(service: Service) -> Lint:
    """Return what is found in the fleet."""
    caches = [
        lint.Cache(state.info, dict(state.titles), state.report.unreached)
        for _, state in sorted(service.nodes.items())
    ]
    names = {title: record.name for title, record in service.titles.items()}
    # Of a fleet that holds a million titles in sum it takes seconds. Reports are replaced, never changed.
    return await trio.to_thread.run_sync(lint.find_all, caches, names, service.routes.routes)


def _end_of_route(service: Service, text: str) -> NodeInfo:
    if (state := service.nodes.get(text)) is not None:
        return state.info
    address = parse_address(text)
    if address is None:
        known = "`p2pfill nodes list` shows the caches that the tracker knows"
        raise RequestRefused(f"{text[:80]!r} is neither a cache of this tracker nor an IP address; {known}", 404)
    return NodeInfo(NodeId(""), "", "", host=str(address))
