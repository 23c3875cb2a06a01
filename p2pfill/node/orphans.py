"""Brings back to the tracker what its database has lost: orders that this node goes on with, and their manifests.

It does so until each of them stands again, or was refused. With each call the tracker says which manifests it lacks;
where this node has none either, for its fill has not begun, another one may.

Also brought is what the node keeps that is signed (`node.signed_orders`): orders that it has not been told of since it
started, and withdrawals. A tracker that has lost nothing takes none of it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Final

import msgspec
import trio

from p2pfill.errors import StoreError, TrackerError
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.limits import MIB
from p2pfill.model.manifest import Manifest
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import BroughtOrder, Order
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.signed_orders import SignedOrders
from p2pfill.node.titles import TitleRegistry
from p2pfill.tracker.client import TrackerClient, TrackerRefused

AT_ONCE: Final = 100
"""Orders of one call, as many as a tracker takes."""

SIGNED_BYTES_MAX: Final = 2 * MIB
"""Of what is signed, in one call: a body has room for twice as many."""

PAUSE_S: Final = 2.0
"""Between two calls, about: what was brought is told as an order meanwhile."""

PAUSE_MAX_S: Final = 60.0


class Orphans:
    """The orders of one node that its tracker does not know."""

    def __init__(
        self, client: TrackerClient, titles: TitleRegistry, log: logging.Logger, signed: SignedOrders
    ) -> None:
        self._client, self._titles, self._log, self._signed = client, titles, log, signed
        self._orders: dict[TitleId, BroughtOrder] = {}
        self._stale: set[TitleId] = set()
        """Those of them that are kept, and stand for nobody who was told."""
        self._withdrawals: list[bytes] = []
        self._named: frozenset[TitleId] | None = None
        """Titles that the tracker has named, since when nobody has looked what else is kept."""
        self._refused: set[TitleId] = set()
        self._news = trio.Event()
        self._chance = random.Random()  # noqa: S311 (spreads calls)

    def put(self, orders: Mapping[TitleId, Order]) -> None:
        """Note which orders these are now."""
        self._refused &= orders.keys()
        stale = {title_id: self._orders[title_id] for title_id in self._stale - orders.keys()}
        self._stale = set(stale)
        fresh = {title_id: _brought(order) for title_id, order in orders.items() if title_id not in self._refused}
        self._orders = fresh | stale
        if self._orders:
            self._news.set()

    def offer(self, named: Collection[TitleId]) -> None:
        """Bring what is kept, too: the tracker has said all that it knows, and that are orders of these titles."""
        if self._signed.is_on:
            self._named = frozenset(named)
            self._news.set()

    async def _look_what_is_kept(self, named: frozenset[TitleId]) -> None:
        found, self._withdrawals = await trio.to_thread.run_sync(self._signed.not_named, named)
        for title_id in self._stale:
            self._orders.pop(title_id, None)
        self._stale = set(found) - self._orders.keys()
        self._orders |= {one: BroughtOrder(one.hex(), [], 0, FillPolicy()) for one in self._stale}

    async def that_may_return(self, titles: Iterable[TitleId]) -> set[TitleId]:
        """Return those of which an order is signed and was not refused: the tracker may not know it yet."""
        if not (asked := set(titles) - self._refused):
            return asked
        return await trio.to_thread.run_sync(lambda: {one for one in asked if self._signed.keeps(one)})

    async def run(self, node_id: str) -> None:
        """Bring back what there is, for ever."""
        pause_s = PAUSE_S
        while True:
            await self._news.wait()
            self._news = trio.Event()
            went_well = False
            async with ErrorBoundary(self._log, "bring back orders that the tracker has lost"):
                went_well = await self._bring(node_id)
            pause_s = PAUSE_S if went_well else min(2 * pause_s, PAUSE_MAX_S)
            await trio.sleep(pause_s * self._chance.uniform(0.5, 1.5))
            if self._orders or self._withdrawals:
                self._news.set()

    async def _bring(self, node_id: str) -> bool:
        """Bring back some; tell whether any of them can stand again."""
        if self._named is not None:
            named, self._named = self._named, None
            await self._look_what_is_kept(named)
        brought = await trio.to_thread.run_sync(self._with_signed, dict(islice(self._orders.items(), AT_ONCE)))
        withdrawals = self._withdrawals
        if not brought and not withdrawals:
            return True
        orders = list(brought.values())
        try:
            # Withdrawals first: what they have ended need not stand for a moment.
            while withdrawals:
                await self._client.bring_back(node_id, [], withdrawals[:AT_ONCE])
                del withdrawals[:AT_ONCE]
            reply = await self._client.bring_back(node_id, orders)
            if reply.manifests and await self._publish(reply.manifests):
                reply = await self._client.bring_back(node_id, orders)
        except TrackerRefused as error:
            if error.status not in (404, 405, 409):
                raise
            # It does not know this node yet, is of an older version, or takes none.
            self._log.debug("no order is brought back: %s", error)
            if error.status == 409:
                self._withdrawals.clear()
                self._settle(self._stale)
            return False
        for title, why in reply.refused.items():
            self._log.warning("the order of title %s does not come back: %s", title[:64], why)
            self._refused.add(title_id_from_hex(title))
        waits = {title_id_from_hex(title) for title in reply.manifests}
        self._settle(self._stale & (brought.keys() - waits))
        # Those that wait for a manifest come last the next time.
        last = {title_id: self._orders[title_id] for title_id in waits if title_id in self._orders}
        kept = {one: order for one, order in self._orders.items() if one not in brought}
        self._orders = kept | last
        return len(waits) < len(brought)

    def _settle(self, stale: Iterable[TitleId]) -> None:
        """Take what the tracker knows of these kept orders for all there is."""
        for title_id in list(stale):
            self._stale.discard(title_id)
            self._orders.pop(title_id, None)
            self._signed.look_at(title_id)

    def _with_signed(self, orders: Mapping[TitleId, BroughtOrder]) -> dict[TitleId, BroughtOrder]:
        """Return orders with what is signed of them, as many as one call has room for. Blocks. Raises `StoreError`."""
        found: dict[TitleId, BroughtOrder] = {}
        size = 0
        for title_id, order in orders.items():
            documents = self._signed.orders_of(title_id)
            size += sum(map(len, documents))
            if size > SIGNED_BYTES_MAX and found:
                break
            found[title_id] = msgspec.structs.replace(order, signed=documents)
        return found

    async def _publish(self, titles: list[str]) -> bool:
        """Publish those of these titles whose manifests are here; tell whether there was any."""
        published = False
        for title in titles:
            stored = self._titles.stored(title_id_from_hex(title))
            if stored is None:
                continue
            try:
                signatures = await trio.to_thread.run_sync(self._titles.signatures, stored.manifest.title_id)
                await self._client.put_title(title, await _encoded(stored.manifest), signatures)
            except (TrackerError, StoreError) as error:
                self._log.warning("title %s cannot be published again: %s", title[:64], error)
                continue
            published = True
        return published


async def _encoded(manifest: Manifest) -> bytes:
    return await trio.to_thread.run_sync(manifest.encode)


def _brought(order: Order) -> BroughtOrder:
    return BroughtOrder(
        order.title, order.origins, order.priority, order.policy, order.deadline, order.number, order.files, order.now
    )
