"""What a node and its tracker say to each other: heartbeats out, orders in.

Two loops: one reports at the interval that the tracker asks for, the other holds a long poll open for orders. A tracker
that is away stops neither the fills that run nor the links that are open; both loops try again with growing pauses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from p2pfill.errors import ManifestError, StoreError, TrackerError
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.manifest import Manifest
from p2pfill.swarm.neighbourhood import electorate
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest

if TYPE_CHECKING:
    from p2pfill.model.node import NodeInfo
    from p2pfill.model.reports import Order, Orders
    from p2pfill.node.filling import Filling
    from p2pfill.node.node import Node

RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 10.0
POLL_S: Final = 25.0
"""How long one request for orders waits: below the usual time-out of middleboxes."""


class TrackerAgent:
    """Speaks to the tracker at `url` for `node`."""

    def __init__(self, node: Node, url: str) -> None:
        self._node = node
        self._client = TrackerClient(url)
        self._known = trio.Event()
        self._ordered: set[str] = set()
        self._taken = trio.Event()

    async def run(self) -> None:
        """Report and take orders until cancelled."""
        async with self._client, trio.open_nursery() as nursery:
            nursery.start_soon(self._report)
            nursery.start_soon(self._obey)

    async def _report(self) -> None:
        pause_s = RETRY_S
        while True:
            try:
                reply = await self._client.heartbeat(self._node.report())
            except TrackerError as error:
                self._node.log.warning("goes on without the tracker: %s", error)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            pause_s = RETRY_S
            self._known.set()
            await self._pause(reply.interval_s)

    async def _pause(self, interval_s: float) -> None:
        """Wait for the next heartbeat, less long where a fill ends in between: its end is news."""
        with trio.move_on_after(max(0.05, min(interval_s, 60.0))):
            running = self._node.fillings()
            if not running:
                await trio.sleep_forever()
            async with trio.open_nursery() as nursery:
                for filling in running:
                    nursery.start_soon(self._until_done, filling.done, nursery.cancel_scope)

    async def _until_done(self, done: trio.Event, scope: trio.CancelScope) -> None:
        await done.wait()
        scope.cancel()

    async def _obey(self) -> None:
        await self._known.wait()
        version: int | None = None
        pause_s = RETRY_S
        while True:
            try:
                orders = await self._client.orders(self._node.info.id, after=version, wait_s=POLL_S)
            except TrackerError as error:
                if not (isinstance(error, TrackerRefused) and error.status == 404):
                    self._node.log.debug("no orders: %s", error)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            pause_s = RETRY_S
            version = orders.version
            # Also where nothing has changed: a fill that the disk refused is tried again this way.
            await self._take(orders)

    async def _take(self, orders: Orders) -> None:
        others: dict[str, NodeInfo] = {}
        for order in orders.orders:
            others.update({entry.node.id: entry.node for entry in order.roster})
        self._node.peers.want(others.values())
        ordered = {order.title for order in orders.orders}
        for title in self._ordered - ordered:
            if (filling := self._node.filling(title_id_from_hex(title))) is not None:
                filling.withdraw()
        self._ordered = ordered
        self._node.set_urgencies({title_id_from_hex(order.title): order.urgency for order in orders.orders})
        for order in sorted(orders.orders, key=lambda order: order.urgency):
            try:
                await self._fill(order)
            except (TrackerError, ManifestError, StoreError) as error:
                self._node.log.error("cannot fill title %s: %s", order.title, error)
        self._taken.set()
        self._taken = trio.Event()

    async def _fill(self, order: Order) -> None:
        title_id = title_id_from_hex(order.title)
        members, unlinked = _members(order, self._node.info)
        filling = self._node.filling(title_id)
        if filling is not None and not filling.error:
            filling.set_members(members, unlinked)
            filling.set_origins(order.origins)
            return
        stored = self._node.stored(title_id)
        if stored is None or not stored.live:
            # Already now: what less urgent titles have in flight is then gone when this one is ready to ask.
            self._node.take_turn(title_id)
            try:
                manifest = await self._manifest(title_id)
                holders = [entry.node for entry in order.roster if entry.have_chunks]
                await self._node.start_fill(manifest, order.origins, order.policy, members, holders, unlinked)
            except (TrackerError, ManifestError, StoreError):
                self._node.yield_turn(title_id)
                raise

    async def _manifest(self, title_id: TitleId) -> Manifest:
        encoded = await self._client.manifest(title_id.hex())
        # That of a million files takes seconds, for which links would stay without an answer.
        return await trio.to_thread.run_sync(_decode, encoded, title_id)

    async def order(self, title: TitleId | Manifest, origins: list[str]) -> Filling:
        """Order a title for this node, and return its fill once it has begun. Raises `TrackerError`, `StoreError`."""
        await self._known.wait()
        if isinstance(title, Manifest):
            title_id = await trio.to_thread.run_sync(lambda: title.title_id)
            await self._client.put_title(title_id.hex(), await trio.to_thread.run_sync(title.encode))
        else:
            title_id = title
        request = FillRequest(title=title_id.hex(), selector=f"id={self._node.info.id}", origins=origins)
        await self._client.post_fill(request)
        while (filling := self._node.filling(title_id)) is None:
            stored = self._node.stored(title_id)
            if stored is not None and stored.live:
                return await self._node.start_fill(stored.manifest)
            if (error := self._node.refusal(title_id)) is not None:
                raise error
            await self._taken.wait()
        return filling


def _decode(encoded: bytes, title_id: TitleId) -> Manifest:
    """Return the manifest of a title. Raises `ManifestError` where it is none, or another's."""
    manifest = Manifest.decode(encoded)
    if manifest.title_id != title_id:
        raise ManifestError(f"the tracker sent another manifest than that of title {title_id.hex()}")
    return manifest


def _members(order: Order, me: NodeInfo) -> tuple[tuple[NodeInfo, ...], tuple[str, ...]]:
    """Return over whom masters are elected, and the ids of those of them that are not to be linked with."""
    if order.election is None:
        return (*(entry.node for entry in order.roster if entry.filling), me), ()
    return electorate(me, order.election, [entry.node for entry in order.roster])
