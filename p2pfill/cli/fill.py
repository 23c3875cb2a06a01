"""`p2pfill fill`: publish the manifest at a tracker, order the fill, and wait for it."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import trio
from rich.console import Console

from p2pfill.cli.board import fill_board, state_of
from p2pfill.cli.calling import call_tracker
from p2pfill.cli.deadline import parse_deadline
from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.options import note_timeout
from p2pfill.cli.reasons import causes, reasons
from p2pfill.cli.signing import encoded_beside
from p2pfill.cli.text import plural, printable, read_manifest, read_patterns, show_bytes, show_seconds
from p2pfill.errors import ConfigError
from p2pfill.model.selection import bytes_of_selection, select
from p2pfill.model.selector import Selector
from p2pfill.tracker.client import TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.records import FillRequest, FillStatus

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest

T = TypeVar("T")

POLL_S: Final = 0.5
HOST_LIKE: Final = re.compile(r"(localhost|[\w-]+(\.[\w-]+)+|[\w-]+(?=:\d)|\[[0-9a-fA-F:.]+\])(:\d+)?(/.*)?")
"""What people write for a web server when they forget its scheme."""
JOIN_WAIT_S: Final = 2.0
"""How long a selector that nobody matches is tried: a cache that has just been started reports within a heartbeat."""
TRACKER_GONE_S: Final = 60.0
"""How long a wait goes on without the tracker: caches keep filling meanwhile, and it may be restarting."""
UNMATCHED_MAX: Final = 10
"""Clauses of a selector that are named."""
CAUSES_MAX: Final = 3
"""Named in the line that ends a command; the others stand above it."""


def order_fill(
    fill: Path,
    tracker: str,
    origins: list[str],
    selector: str,
    *,
    files: list[str],
    files_from: Path | None,
    priority: int,
    deadline: str | None,
    now: bool,
    rollback: bool = False,
    later: bool,
    wait: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Order a fill of all files, or of those that `files` and the lines of `files_from` mean.

    With `later` also where no running cache matches.

    With `wait`, raises `CommandFailed` unless every cache comes to hold the title.
    """
    Selector.parse(selector)
    note_timeout(timeout_s, wait=wait)
    manifest = read_manifest(fill)
    patterns = read_patterns(files, files_from)
    if patterns:
        select(manifest.files, patterns)  # said here, before anything is sent
    bases = [absolute_origin(origin) for origin in origins]
    request = FillRequest(
        title=manifest.title_id.hex(),
        selector=selector,
        origins=bases,
        files=patterns,
        priority=priority,
        deadline=None if deadline is None else parse_deadline(deadline, time.time()),
        now=now,
        rollback=rollback,
        call_id=secrets.token_hex(8),
    )
    signatures = encoded_beside(fill, manifest)
    trio.run(_order, tracker, manifest, signatures, request, later, wait, timeout_s, as_json)


def absolute_origin(origin: str) -> str:
    """Return an origin as caches need it: URLs as they are, a directory's path absolute. Raises `ConfigError`."""
    from p2pfill.origin.urls import check_origin, directory, is_bucket, is_http

    if is_http(origin) or is_bucket(origin):
        return check_origin(origin)
    try:
        return directory(origin).as_uri()
    except ConfigError as error:
        if HOST_LIKE.fullmatch(origin):
            raise ConfigError(f"{error}; for a web server write http://{origin}") from error
        raise


async def _order(
    tracker: str,
    manifest: Manifest,
    signatures: bytes,
    request: FillRequest,
    later: bool,
    wait: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    async with call_tracker(tracker) as client:
        await client.put_title(request.title, manifest.encode(), signatures)
        order = partial(client.post_fill, request, nodes_min=1)
        created = await client.post_fill(request) if later else await order_now(order)
        notes = Console(stderr=True)
        if not as_json:
            where = plural(len(created.nodes), "cache")
            what = show_bytes(manifest.size)
            if request.files and (chosen := select(manifest.files, request.files)) is not None:
                count, size = chosen.count(), bytes_of_selection(manifest, chosen)
                what = f"{count} of {plural(len(manifest.files), 'file')}, {show_bytes(size)}"
            print(f"fill {created.fill_id}: {printable(manifest.name)}, {what}, to {where}")
        for other in created.others:
            notes.print(
                f"fill {other} orders the same title for the same caches, and stands: its origins count too. "
                f"Withdraw it with: p2pfill fills withdraw {other} --tracker {tracker}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        for clause in created.unmatched[:UNMATCHED_MAX]:
            notes.print(
                printable(f"no running cache matches {clause!r} yet; those that start later and match are added"),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        for rule in sorted(set(created.left_out.values())):
            names = [node_id for node_id, why in sorted(created.left_out.items()) if why == rule]
            more = f" and {len(names) - UNMATCHED_MAX} more" if len(names) > UNMATCHED_MAX else ""
            notes.print(
                printable(
                    f"rule {rule!r} of the fleet's policy keeps the title in other regions: left out are "
                    f"{', '.join(names[:UNMATCHED_MAX])}{more}"
                ),
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if not wait:
            if as_json:
                record = {"fill": created.fill_id, "title": request.title, "nodes": created.nodes}
                print(json.dumps(record | {"unmatched": created.unmatched, "left_out": created.left_out}))
            else:
                print(f"watch it with: p2pfill status --tracker {tracker} --watch")
            return
        with fill_board(Console(stderr=True) if as_json else Console(), manifest.name) as show:
            status = await wait_fill(client, created.fill_id, show=show, timeout_s=timeout_s)
        if as_json:
            print(msgspec.json.encode(status).decode())
    for line in [] if status.done else reasons(status):
        notes.print(line, markup=False, highlight=False, soft_wrap=True)
    check_outcome(status, timeout_s, tracker)


async def order_now(order: Callable[[], Awaitable[T]]) -> T:
    """Order what at least one running cache matches, and one each clause of its selector. Raises `CommandFailed`.

    Then nothing is ordered; `order` is refused with status 409.
    """
    deadline = trio.current_time() + JOIN_WAIT_S
    while True:
        try:
            return await order()
        except TrackerRefused as error:
            if error.status != 409:
                raise
            if trio.current_time() >= deadline:
                raise CommandFailed(f"{error}; for caches that start later add --later", ExitCode.USAGE) from error
        await trio.sleep(POLL_S)


async def of_running(call: Awaitable[T]) -> T:
    """Return the answer to a call that goes to running caches. Raises `CommandFailed` where a clause means none."""
    try:
        return await call
    except TrackerRefused as error:
        if error.status != 409:
            raise
        raise CommandFailed(str(error), ExitCode.USAGE) from error


async def wait_fill(
    client: TrackerClient,
    fill_id: str,
    *,
    show: Callable[[FillStatus], None],
    timeout_s: float | None = None,
    poll_s: float = POLL_S,
    check: Callable[[], Awaitable[None]] | None = None,
) -> FillStatus:
    """Return the status of a fill once it is settled: every cache is live or has failed, or the time is over.

    `check` is awaited before each poll and may raise. A tracker that is gone is waited for; `TrackerUnreachable` is
    raised after `TRACKER_GONE_S`.
    """
    deadline = trio.current_time() + (float("inf") if timeout_s is None else timeout_s)
    seen_at = trio.current_time()
    while True:
        if check is not None:
            await check()
        try:
            status = await client.fill(fill_id)
        except TrackerUnreachable:
            if trio.current_time() > min(seen_at + TRACKER_GONE_S, deadline):
                raise
        else:
            seen_at = trio.current_time()
            show(status)
            if is_settled(status) or seen_at >= deadline:
                return status
        await trio.sleep(min(poll_s, max(0.0, deadline - trio.current_time())))


def check_outcome(status: FillStatus, timeout_s: float | None, tracker: str = "") -> None:
    """Raise `CommandFailed`, with the causes and the command that says more, unless the fill is done."""
    if status.done:
        return
    totals = status.totals
    failed = [node for node in status.nodes if state_of(node) == "failed"]
    if failed and is_settled(status):
        first = failed[0]
        reason = first.report.error if first.report and first.report.error else "no reason given"
        raise CommandFailed(f"{plural(totals.failed, 'cache')} of {totals.nodes} failed; {first.node.id}: {reason}")
    why = [cause for cause in causes(status) if cause.lacking]
    lacking = [node.node.id for node in status.nodes if not node.superseded and state_of(node) != "live"]
    late = next(iter([*(why[0].caches if why else ()), *lacking]), None)
    command = "p2pfill status" if late is None else f"p2pfill explain {late} {status.fill.request.title[:16]}"
    raise CommandFailed(
        f"{totals.live} of {plural(totals.nodes, 'cache')} hold the title after "
        f"{show_seconds(timeout_s or 0.0)}{''.join(f'; {cause}' for cause in why[:CAUSES_MAX])}; "
        f"the fill goes on, see: {command}{f' --tracker {tracker}' if tracker else ''}",
        ExitCode.TIMEOUT,
    )


def is_settled(status: FillStatus) -> bool:
    """Tell whether all caches of a fill are done, or have failed and live to say so."""
    return 0 < status.totals.nodes == sum(node.is_done or state_of(node) == "failed" for node in status.nodes)
