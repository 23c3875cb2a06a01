"""What callers have signed of this node's orders: it learns it from the tracker, keeps it, and goes by it.

A tracker tells with an order the ids of what was signed of it. The node asks for that once, looks at the signatures,
and keeps it (`store.kept_orders`), and the signed withdrawals of the title too. When the tracker begins anew, the node
brings it withdrawals and what it keeps of orders that the tracker does not name (`node.orphans`): of a tracker that has
lost nothing it hears so, and takes over what that one knows.

That an order may show an older version than was shown before, a node in a fleet with certificates believes only where a
user has signed it: neither after a signed withdrawal, nor after a signed order of that name with a higher number.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio

from p2pfill.errors import SignatureError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.reports import Order
from p2pfill.model.signed_order import OrderStatement, Statement, WithdrawalStatement, statement_id
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.store.kept_orders import KeptOrders
from p2pfill.tracker.client import TrackerClient, TrackerRefused

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials
    from p2pfill.trust.order_signing import Opened

AT_ONCE: Final = 50
"""Titles of one call, as many as a tracker takes."""

PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
"""Between two calls that have failed, growing: a tracker may be of an older version, or not know this node yet."""

WITHDRAWN_KEPT_MAX: Final = 10_000
"""Titles that are ordered no more of which withdrawals are kept."""


class SignedOrders:
    """What is signed of one node's orders. Without credentials there is nothing, and the tracker is believed."""

    def __init__(
        self, client: TrackerClient, kept: KeptOrders, credentials: Credentials | None, log: logging.Logger,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._kept, self._credentials, self._log, self._wall = client, kept, credentials, log, wall
        self._wanted: dict[TitleId, list[str]] = {}
        """Of the titles that are ordered, the ids of what was signed of them."""
        self._pending: dict[TitleId, None] = {}
        """Titles of which may be signed what is not kept, or kept what does not hold any more."""
        self._news = trio.Event()
        self._chance = random.Random()  # noqa: S311 (spreads calls)

    @property
    def is_on(self) -> bool:
        """Tell whether this node looks who has signed what."""
        return self._credentials is not None

    def take(self, changed: Mapping[TitleId, Order], gone: Iterable[TitleId]) -> None:
        """Take note of orders that are new or have changed, and which stand no more."""
        if not self.is_on:
            return
        for title_id, order in changed.items():
            if order.signed != self._wanted.get(title_id, []) or (order.signed and title_id not in self._wanted):
                self.look_at(title_id)
            if order.signed:
                self._wanted[title_id] = order.signed
            else:
                self._wanted.pop(title_id, None)
        for title_id in gone:
            if self._wanted.pop(title_id, None) is not None:
                self.look_at(title_id)

    def look_at(self, title_id: TitleId) -> None:
        """Have what is kept of a title follow what the tracker says."""
        self._pending[title_id] = None
        self._news.set()

    async def run(self, node_id: str) -> None:
        """Learn and keep what there is, for ever."""
        pause_s = PAUSE_S
        while True:
            await self._news.wait()
            self._news = trio.Event()
            went_well = False
            async with ErrorBoundary(self._log, "keep what is signed of its orders"):
                went_well = await self._follow(node_id, list(islice(self._pending, AT_ONCE)))
            if self._pending:
                self._news.set()
            if not went_well:
                await trio.sleep(pause_s * self._chance.uniform(0.5, 1.5))
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
            else:
                pause_s = PAUSE_S

    async def _follow(self, node_id: str, titles: Sequence[TitleId]) -> bool:
        """Learn what is signed of some titles; tell whether the tracker has said it."""
        asked = await trio.to_thread.run_sync(self._lacking, titles)
        for title_id in set(titles) - asked:
            self._pending.pop(title_id, None)
        if not asked:
            return True
        try:
            found = await self._client.signed(node_id, [title_id.hex() for title_id in asked])
        except TrackerRefused as error:
            if error.status not in (404, 405):
                raise
            self._log.debug("nothing is known of what is signed: %s", error)
            return False
        now_s = self._wall()
        for title_id in asked:
            if (documents := found.get(title_id.hex())) is not None:
                self._pending.pop(title_id, None)
                await trio.to_thread.run_sync(self._learn, title_id, documents, now_s)
        await trio.to_thread.run_sync(self._kept.forget_old, self._wanted.keys(), WITHDRAWN_KEPT_MAX)
        return bool(found)

    def _lacking(self, titles: Iterable[TitleId]) -> set[TitleId]:
        """Return those titles of which is kept what the tracker does not name, or not what it does. Blocks."""
        return {
            title_id
            for title_id in titles
            if {one for one, said, _ in self._of(title_id) if isinstance(said, OrderStatement)}
            != set(self._wanted.get(title_id, ()))
        }

    def _of(self, title_id: TitleId) -> list[tuple[str, Statement, bytes]]:
        """Return what is kept of a title, with the ids. Blocks."""
        if not self._kept.has(title_id):
            return []
        return [(statement_id(said.encode()), said, document) for said, document in self._kept.documents(title_id)]

    def _learn(self, title_id: TitleId, documents: Sequence[bytes], now_s: float) -> None:
        """Keep what is signed of a title, as the tracker has said. Blocks. Raises `StoreError`."""
        from p2pfill.trust.order_signing import SignedOrder

        opened = [one for document in documents if (one := self._open(title_id, document, now_s)) is not None]
        orders = sorted((one for one in opened if isinstance(one, SignedOrder)), key=lambda one: -one.said.number)
        self._kept.note_numbers(one.said for one in orders)
        withdrawn = {one.document: one.said.number for one in opened if not isinstance(one, SignedOrder)}
        # The tracker may have lost those that are kept already.
        for said, document in self._kept.documents(title_id):
            if isinstance(said, WithdrawalStatement) and said.expires > now_s:
                withdrawn[document] = said.number
        latest = sorted(withdrawn, key=lambda document: -withdrawn[document])
        self._kept.keep(title_id, [*(one.document for one in orders), *latest])

    def _open(self, title_id: TitleId, document: bytes, now_s: float) -> Opened | None:
        """Return what is signed in a document, None where that does not hold here, which is said in the log. Blocks."""
        if self._credentials is None:
            return None
        from p2pfill.trust.order_signing import open_signed

        try:
            opened = open_signed(self._credentials, document, now_s)
            if opened.said.title_id != title_id:
                raise SignatureError(f"it is of title {opened.said.title_id.hex()}")
        except SignatureError as error:
            self._log.warning("what is signed of title %s is not kept: %s", title_id.hex(), error)
            return None
        return opened

    # ---- what follows from it

    async def rollbacks(self, node_id: str, orders: Mapping[TitleId, Order]) -> set[TitleId]:
        """Return which of some orders may show an older version: the tracker says so, and a user has signed it."""
        said = {title_id for title_id, order in orders.items() if order.rollback}
        if not self.is_on or not said:
            return said
        for title_id in said & await trio.to_thread.run_sync(self._lacking, said):
            async with ErrorBoundary(self._log, f"learn who wants an older version of title {title_id.hex()}"):
                await self._follow(node_id, [title_id])
        now_s, allowed = self._wall(), set()
        for title_id in said:
            if await trio.to_thread.run_sync(self._may_go_back, title_id, now_s):
                allowed.add(title_id)
            else:
                self._log.warning(
                    "no user has signed that title %s may be an older version, so this is not believed", title_id.hex()
                )
        return allowed

    def _may_go_back(self, title_id: TitleId, now_s: float) -> bool:
        kept = self._of(title_id)
        for _, said, document in kept:
            if (
                isinstance(said, OrderStatement)
                and said.rollback
                and self._open(title_id, document, now_s) is not None
                and said.number >= self._kept.number(said.name)
                and not any(
                    isinstance(other, WithdrawalStatement)
                    and other.covers(title_id, said.name, said.terms, said.number)
                    for _, other, _ in kept
                )
            ):
                return True
        return False

    def keeps(self, title_id: TitleId) -> bool:
        """Tell whether an order of a title is kept that can stand again. Blocks."""
        try:
            kept = [said for _, said, _ in self._of(title_id)]
        except StoreError:
            return False
        gone = [one for one in kept if isinstance(one, WithdrawalStatement)]
        return any(
            isinstance(one, OrderStatement)
            and not any(said.covers(title_id, one.name, one.terms, one.number) for said in gone)
            for one in kept
        )

    def orders_of(self, title_id: TitleId) -> list[bytes]:
        """Return what is signed of orders of a title. Blocks. Raises `StoreError`."""
        return [document for _, said, document in self._of(title_id) if isinstance(said, OrderStatement)]

    def not_named(self, named: Collection[TitleId]) -> tuple[list[TitleId], list[bytes]]:
        """Return the titles of which orders are kept though they are not named, and all withdrawals. Blocks.

        Raises `StoreError`.
        """
        stale, withdrawals = [], []
        for title_id in self._kept.titles() if self.is_on else ():
            kept = self._of(title_id)
            withdrawals += [document for _, said, document in kept if isinstance(said, WithdrawalStatement)]
            if title_id not in named and any(isinstance(said, OrderStatement) for _, said, _ in kept):
                stale.append(title_id)
        return stale, withdrawals
