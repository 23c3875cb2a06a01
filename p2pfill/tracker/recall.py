"""Orders that nodes bring back to a tracker whose database is new, or lacks something.

A node goes on with an order that the tracker's database does not know (`node.standing`), and says which it is.

Where callers are asked who they are, the tracker goes by what is signed (`model.signed_order`), whichever node brings
it: the very order stands again, for all whom its selector means, where its signer would be granted it now, and where no
signed withdrawal has the same number or a higher one. Withdrawals are brought back likewise, and end what had come
before them. What nobody has signed does not stand: it is listed, with the command that orders it again. Its nodes go on
with it until then.

Where nobody is asked, the tracker takes an order over for just the nodes that bring it: what selector it had, nobody
knows any more. Those that brought the same are one fill, up to the length of a selector. It keeps its number, so that
what was newer is newer yet.

A title is published by the first node that has its manifest. What this database has withdrawn does not come back. Nor
does anything where the database is whole and old, for then a node that knows more has it from elsewhere.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from p2pfill.errors import ManifestError, SignatureError
from p2pfill.model.limits import FILE_COUNT_MAX
from p2pfill.model.manifest import Manifest
from p2pfill.model.policy import ANYWHERE
from p2pfill.model.reports import BroughtOrder, BroughtReply
from p2pfill.model.selection import bytes_of_selection, decode_selection
from p2pfill.model.selector import SELECTOR_CHARS_MAX, Selector
from p2pfill.tracker.checks import NUMBER_ADOPTED_MAX, ORIGINS_MAX, RequestRefused, check_fill, check_title, require
from p2pfill.tracker.order_terms import request_of
from p2pfill.tracker.records import FillRecord, FillRequest
from p2pfill.tracker.signed_orders import UNSIGNED, SignedOrders, Withdrawn
from p2pfill.trust.order_signing import SignedOrder, SignedWithdrawal

if TYPE_CHECKING:
    from p2pfill.tracker.service import Service

BROUGHT_MAX: Final = 100
"""Orders in one call: each may wait for a sync of the disk."""

SIGNED_MAX: Final = 16
"""Signed orders of one title that a node may bring, as many as it keeps."""

NOTHING_SIGNED: Final = SignedOrders(None)
"""Of a tracker that asks nobody who he is."""

_log = logging.getLogger("p2pfill.tracker")


async def bring_back(
    service: Service, node_id: str, brought: list[BroughtOrder], withdrawals: Sequence[bytes] = (),
    signed: SignedOrders = NOTHING_SIGNED,
) -> BroughtReply:
    """Take over orders of a node that this database does not know. Raises `RequestRefused`, `StoreError`."""
    service.node(node_id)
    service.recall.require_open()
    for count in (len(brought), len(withdrawals)):
        require(count <= BROUGHT_MAX, f"{count} orders: at most {BROUGHT_MAX} are taken at a time")
    if signed.is_asked:
        for document in withdrawals:
            await _withdraw(service, node_id, document, signed)
    reply = BroughtReply()
    for order in brought:
        require(check_title(order.title) == order.title, "title {!r} must be in lower case", order.title[:80])
        if service.is_ordered(node_id, order.title):
            continue
        reason, is_lost = "", False
        name = "" if (known := service.titles.get(order.title)) is None else known.name
        if service.has_withdrawn(node_id, order.title) and not service.signed.knows(order.title, name):
            reply.refused[order.title] = reason = "it was withdrawn here"
        elif order.title not in service.titles:
            reply.manifests.append(order.title)
            reason = service.recall.lacks(order.title)
        else:
            try:
                if signed.is_asked:
                    is_lost = not order.signed
                    await _restore(service, node_id, order, signed)
                else:
                    await _take_over(service, node_id, order)
            except (ManifestError, RequestRefused) as error:
                reply.refused[order.title] = reason = str(error)
        record = service.titles.get(order.title)
        origins = order.origins[:ORIGINS_MAX] if is_lost else ()
        service.recall.note(order.title, "" if record is None else record.name, node_id, reason, origins)
    service.recall.ask(node_id, reply.manifests)
    return reply


async def _restore(service: Service, node_id: str, order: BroughtOrder, signed: SignedOrders) -> None:
    """Let those orders of a title stand again that are signed. Raises `RequestRefused` where none of them does."""
    require(len(order.signed) <= SIGNED_MAX, f"title {order.title} has more than {SIGNED_MAX} signed orders")
    record = service.title(order.title)
    why, stands = "", False
    withdrawals: list[Withdrawn] = []
    for document in order.signed:
        try:
            opened = await trio.to_thread.run_sync(signed.brought, document)
            if not isinstance(opened, SignedOrder):
                continue
            said = opened.said
            request = request_of(said)
            signed.require_granted(opened, record, check_fill(request))
            withdrawn = service.signed.withdrawal_of(order.title, record.name, said.terms, said.number)
            if withdrawn is not None:
                withdrawals.append(withdrawn)
                why = f"{withdrawn}"
                continue
            await service.put_signed(request, opened)
            stands = True
        except (RequestRefused, SignatureError) as error:
            why = str(error)
    if withdrawals and not stands:
        service.tell_withdrawn(node_id, order.title)
        for withdrawn in withdrawals:
            await service.end_withdrawn(order.title, withdrawn)
    if not stands:
        raise RequestRefused(why or f"{UNSIGNED}, and this tracker asks who orders", 403)
    # Where its selector does not mean this node any more, that goes on as with a new order.


async def _withdraw(service: Service, node_id: str, document: bytes, signed: SignedOrders) -> None:
    """Take in a signed withdrawal, unless it is known, or not by whom it may be."""
    try:
        opened = await trio.to_thread.run_sync(signed.brought, document)
        if not isinstance(opened, SignedWithdrawal):
            return
        signed.require_may_withdraw(opened)
        if not service.signed.is_news(opened.said):
            return
        await service.withdraw_brought(opened)
    except (RequestRefused, SignatureError) as error:
        _log.info("a withdrawal that %s brings back is not taken: %s", node_id, error)
        return
    said = opened.said
    if said.title_id.hex() in service.titles:  # of others it changes nothing yet
        detail = f"{said.name} ({said.title_id.hex()}), signed by {opened.identity.who}"
        await service.note_change(f"cache/{node_id}", "", "bring_back a withdrawal", detail)


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
