"""Orders that nodes bring back to a tracker whose database is new, or lacks something.

A node goes on with an order that the tracker's database does not know (`node.standing`), and says which it is. The
tracker takes it over as an order for just the nodes that bring it: what selector it had, nobody knows any more. Those
that brought the same are one fill, up to the length of a selector. It keeps its number, so that what was newer is newer
yet. A title is published by the first node that has its manifest.

A withdrawal wins: what this database has withdrawn does not come back, neither from a node. Nor does anything where the
database is whole and old, for then a node that knows more has it from elsewhere.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from p2pfill.errors import ManifestError
from p2pfill.model.limits import FILE_COUNT_MAX
from p2pfill.model.manifest import Manifest
from p2pfill.model.policy import ANYWHERE
from p2pfill.model.reports import BroughtOrder, BroughtReply
from p2pfill.model.selection import bytes_of_selection, decode_selection
from p2pfill.model.selector import SELECTOR_CHARS_MAX, Selector
from p2pfill.tracker.checks import NUMBER_ADOPTED_MAX, ORIGINS_MAX, RequestRefused, check_fill, check_title, require
from p2pfill.tracker.records import FillRecord, FillRequest

if TYPE_CHECKING:
    from p2pfill.tracker.service import Service

BROUGHT_MAX: Final = 100
"""Orders in one call: each may wait for a sync of the disk."""


async def bring_back(service: Service, node_id: str, brought: list[BroughtOrder]) -> BroughtReply:
    """Take over orders of a node that this database does not know. Raises `RequestRefused`, `StoreError`."""
    service.node(node_id)
    service.recall.require_open()
    require(len(brought) <= BROUGHT_MAX, f"{len(brought)} orders: at most {BROUGHT_MAX} are taken at a time")
    reply = BroughtReply()
    for order in brought:
        require(check_title(order.title) == order.title, "title {!r} must be in lower case", order.title[:80])
        if service.is_ordered(node_id, order.title):
            continue
        reason = ""
        if service.has_withdrawn(node_id, order.title):
            reply.refused[order.title] = reason = "it was withdrawn here"
        elif order.title not in service.titles:
            reply.manifests.append(order.title)
            reason = "nobody has brought its manifest yet"
        else:
            try:
                await _take_over(service, node_id, order)
            except (ManifestError, RequestRefused) as error:
                reply.refused[order.title] = reason = str(error)
        record = service.titles.get(order.title)
        service.recall.note(order.title, "" if record is None else record.name, node_id, reason)
    return reply


async def _take_over(service: Service, node_id: str, order: BroughtOrder) -> None:
    """Let an order stand. Raises `RequestRefused`, `ManifestError`, `StoreError`."""
    mine = f"id={node_id}"
    # How far a cache may go the fleet's policy has added. There may be origins of several orders.
    policy, origins = msgspec.structs.replace(order.policy, reach=ANYWHERE), order.origins[:ORIGINS_MAX]
    request = FillRequest(order.title, mine, origins, order.priority, policy, order.deadline, now=order.now)
    check_fill(request)
    fits = 0 <= order.number <= NUMBER_ADOPTED_MAX and len(order.files) <= FILE_COUNT_MAX // 8
    require(fits, f"order for title {order.title}: its number or its files are out of range")
    chosen, count, size = await _files_of(service, order)
    async with service.ordering:
        before = next(
            (
                fill
                for fill in service.fills_of_title(order.title)
                if fill.is_brought_back
                and msgspec.structs.replace(fill.request, selector=mine) == request
                and fill.selection == chosen
                and len(fill.request.selector) + len(mine) < SELECTOR_CHARS_MAX
            ),
            None,
        )
        selector = mine if before is None else f"{before.request.selector},{mine}"
        now = time.time()
        fill = FillRecord(
            fill_id=secrets.token_hex(6) if before is None else before.fill_id,
            request=msgspec.structs.replace(request, selector=selector),
            created_at=now if before is None else before.created_at,
            number=max(order.number, 0 if before is None else before.number),
            ordered_at=now if before is None else before.ordered_at,
            selection=chosen,
            file_count=count,
            file_bytes=size,
            is_brought_back=True,
        )
        await service.put_brought(fill, Selector.parse(selector), node_id)


async def _files_of(service: Service, order: BroughtOrder) -> tuple[bytes, int, int]:
    """Return the files of an order, how many and how long they are; all of them are said as nothing.

    Raises `ManifestError`, `StoreError`.
    """
    if not order.files:
        return b"", 0, 0
    encoded = await service.manifest(order.title)

    def look() -> tuple[bytes, int, int]:
        manifest = Manifest.decode(encoded)
        selection = decode_selection(order.files, len(manifest.files))
        if selection is None:
            return b"", 0, 0
        return order.files, selection.count(), bytes_of_selection(manifest, selection)

    return await trio.to_thread.run_sync(look)
