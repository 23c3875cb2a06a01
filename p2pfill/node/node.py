"""The node: one store, its links with other caches, and the fills that run between them."""

from __future__ import annotations

import logging
import random
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from p2pfill._version import __version__
from p2pfill.errors import ConfigError, P2PFillError, StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.pace import AGENDA_S, ORIGIN_READS_MAX
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import LoopLag, NodeReport, TitleReport, clipped
from p2pfill.model.urgency import Urgency
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.cached import CachedTitles
from p2pfill.node.config import NodeConfig
from p2pfill.node.filling import Filling
from p2pfill.node.link import Link
from p2pfill.node.peers import Peers
from p2pfill.node.turns import Turns
from p2pfill.node.usage import process_usage
from p2pfill.protocol.tokens import TokenRegistry
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle
from p2pfill.swarm import events
from p2pfill.swarm.agenda import Agenda
from p2pfill.transport.data import Spent
from p2pfill.transport.lag import LagMonitor
from p2pfill.transport.plane import DataPlane

if TYPE_CHECKING:
    from p2pfill.node.agent import TrackerAgent

DRAIN_S: Final = 3.0
"""What a stopping node gives to chunks that it has promised; the receivers then ask others."""

DRAIN_STEP_S: Final = 0.02

NOT_ORDERED: Final = Urgency()
"""Of titles that are filled without a tracker, or served though nobody orders them any more."""


class Node:
    """A cache in operation. Made by `open_node`."""

    def __init__(
        self, config: NodeConfig, store: Store, info: NodeInfo, nursery: trio.Nursery, plane: DataPlane
    ) -> None:
        self.config = config
        self.store = store
        self.info = info
        self.nursery = nursery
        self.agent = f"p2pfill/{__version__}"
        self.boot = secrets.token_hex(8)
        self.log = logging.getLogger(f"p2pfill.node.{config.id}")
        self.random = random.Random()  # noqa: S311 (spreads retries)
        self.tokens: TokenRegistry[Link] = TokenRegistry(secrets.token_bytes)
        self.plane = plane
        self.origin_turns = Turns(ORIGIN_READS_MAX)
        self.upload_bytes = 0
        self.spent_before = Spent()
        """Of the data streams that have ended."""
        self.peers = Peers(self)
        self._fillings: dict[TitleId, Filling] = {}
        self._open: dict[TitleId, StoredTitle] = {}
        self._opening: dict[TitleId, None] = {}
        """In the order in which they are opened."""
        self._refused: dict[TitleId, P2PFillError] = {}
        self._urgencies: dict[TitleId, Urgency] = {}
        """Of all that is ordered here, live or not. Replaced as a whole: threads look into it."""
        self._agenda = Agenda()
        self.cached = CachedTitles(self)
        self._sequence = 0
        self.lag = LagMonitor()
        self.stopping = False
        """No more requests are taken."""
        self.tracker: TrackerAgent | None = None

    # ---- titles

    async def fill(self, title: TitleId | Manifest, origins: Iterable[str] = ()) -> TitleReport:
        """Hold a title: fetch what is missing, wait until it is live, and return the last report.

        `title` and `origins` as for `order`. Raises what `order` raises, `StoreError` where the disk refuses and
        `TransferError` where the fill was withdrawn.
        """
        filling = await self.order(title, origins)
        await filling.wait()
        return filling.report()

    async def order(self, title: TitleId | Manifest, origins: Iterable[str] = ()) -> Filling:
        """Begin to hold a title and return its fill, whose `progress` and `wait` follow it.

        With a tracker the title may be named by its id, and other caches take part; without one `title` is a manifest
        and all comes from `origins`. Raises `ConfigError` where a tracker is needed, `TrackerError`, and `StoreError`
        where the disk refuses.
        """
        if self.tracker is not None:
            return await self.tracker.order(title, list(origins))
        if isinstance(title, Manifest):
            return await self.start_fill(title, origins)
        raise ConfigError(f"title {title.hex()} is known by its id only: give its manifest, or set a tracker")

    async def start_fill(
        self,
        manifest: Manifest,
        origins: Iterable[str] = (),
        policy: FillPolicy | None = None,
        members: Iterable[NodeInfo] = (),
        holders: Iterable[NodeInfo] = (),
        unlinked: Sequence[str] = (),
        urgency: Urgency | None = None,
    ) -> Filling:
        """Begin to fill a title, or resume, and return at once; `Filling.progress` and `Filling.wait` follow it.

        `members` are the other caches that want the title: who fetches what across borders is elected among them.
        `holders` have it, or a part of it: nothing is fetched across borders before they were asked, and the members,
        but for those that are `unlinked`, whom this node only knows by name.
        While a title of a lesser `urgency` gets on, this one asks for nothing; with a tracker, its orders say that.
        Raises `StoreError` where the disk refuses.
        """
        # In a thread: where the manifest has just been read from a file, it is encoded and hashed now.
        title_id = await trio.to_thread.run_sync(lambda: manifest.title_id)
        running = self._fillings.get(title_id)
        if running is not None and running.state != "failed":
            running.set_origins(list(origins))
            return running
        try:
            stored = await trio.to_thread.run_sync(self.store.begin_fill, manifest)
        except StoreError as error:
            self.refuse(title_id, error)
            raise
        self._refused.pop(title_id, None)
        self._fillings.pop(title_id, None)
        self._open[title_id] = stored
        members = list(members)
        apart = set(unlinked)
        neighbours = [node for node in (*members, *holders) if node.id not in apart]
        filling = Filling(self, stored, policy or FillPolicy(), list(origins), neighbours)
        # Before the first decision: a node that knows of nobody else is master of everything.
        filling.set_members(members, unlinked)
        self._fillings[title_id] = filling
        if urgency is not None:
            self._urgencies = self._urgencies | {title_id: urgency}
        if stored.live:
            filling.done.set()
            self.yield_turn(title_id)
        else:
            # Before the first decision: a more urgent title may be under way. And anew: it was not there to be told.
            self._agenda.drop(title_id)
            self.take_turn(title_id)
            self.nursery.start_soon(filling.run)
        self.peers.follow(filling)
        return filling

    # ---- several titles at once

    def urgency(self, title_id: TitleId) -> Urgency:
        """Return how urgent a title is here. Callable from any thread."""
        return self._urgencies.get(title_id, NOT_ORDERED)

    def set_urgencies(self, urgencies: Mapping[TitleId, Urgency]) -> None:
        """Note how urgent everything is that is ordered here; what runs follows at once."""
        if urgencies == self._urgencies:
            return
        self._urgencies = dict(urgencies)
        now = trio.current_time()
        for title_id in self._agenda.titles():
            self._agenda.put(now, title_id, self.urgency(title_id))
        self._look_at_agenda()
        for link in self.peers.links():
            link.hurry_uploads()

    def take_turn(self, title_id: TitleId) -> None:
        """Let less urgent titles wait for one that is to be filled now; its fill may begin a little later."""
        self._agenda.put(trio.current_time(), title_id, self.urgency(title_id))
        self._look_at_agenda()

    def note_moved(self, title_id: TitleId) -> None:
        """Note that payload of a title is arriving."""
        if self._agenda.saw(trio.current_time(), title_id):
            self._look_at_agenda()

    def yield_turn(self, title_id: TitleId) -> None:
        """Let less urgent titles ask: this one has nothing to ask for, or cannot."""
        self._agenda.drop(title_id)
        self._look_at_agenda()

    async def watch_agenda(self) -> None:
        """Look again and again whether a title has got stuck; runs until cancelled."""
        while True:
            await trio.sleep(AGENDA_S)
            if len(self._agenda) > 1:
                self._look_at_agenda()

    def _look_at_agenda(self) -> None:
        for title_id, held in self._agenda.look(trio.current_time()).items():
            if (filling := self._fillings.get(title_id)) is not None:
                filling.handle(events.HeldBack() if held else events.Released())

    def fillings(self) -> list[Filling]:
        """Return the fills that still run."""
        return [filling for filling in self._fillings.values() if not filling.done.is_set()]

    def filling(self, title_id: TitleId) -> Filling | None:
        """Return a title's fill, finished or not."""
        return self._fillings.get(title_id)

    def refusal(self, title_id: TitleId) -> P2PFillError | None:
        """Return why a fill could not begin, if so."""
        return self._refused.get(title_id)

    def refuse(self, title_id: TitleId, error: P2PFillError) -> None:
        """Note why a title can be neither filled nor served, until it can; the tracker is told."""
        self._refused[title_id] = error
        self.yield_turn(title_id)

    def stored(self, title_id: TitleId) -> StoredTitle | None:
        """Return a title's files, where this node has them open."""
        return self._open.get(title_id)

    def holdings(self, title_id: TitleId) -> Bitmap | None:
        """Return which chunks of a title can be served; None where the title is unknown here."""
        filling = self._fillings.get(title_id)
        if filling is not None:
            return filling.fill.ledger.have
        stored = self._open.get(title_id)
        return stored.have if stored is not None else None

    def is_opening(self, title_id: TitleId) -> bool:
        """Tell whether a title is live on disk and about to be served: who asks for it is answered then."""
        return title_id in self._opening

    async def find_stored(self) -> None:
        """Note which titles are live on disk, before anybody can ask: who hears of none goes to the origin."""
        self._opening = dict.fromkeys(await trio.to_thread.run_sync(self.store.live_ids))

    async def open_stored(self) -> None:
        """Open the titles that were found, one after the other; each is served from then on."""
        for title_id in list(self._opening):
            async with ErrorBoundary(self.log, f"serve title {title_id.hex()}", partial(self.refuse, title_id)):
                self._open[title_id] = await trio.to_thread.run_sync(self.store.open_title, title_id)
            del self._opening[title_id]
            for link in self.peers.links():
                link.show(title_id)

    # ---- what links and fills need

    async def connect(self, address: tuple[str, int]) -> trio.socket.SocketType:
        """Connect to another node. Raises `OSError`."""
        host, port = address
        with trio.move_on_after(10) as scope:
            try:
                stream = await trio.open_tcp_stream(host, port)
            except (ValueError, OverflowError) as error:
                # Raised by name look-up; name and port are what another node says of itself.
                raise OSError(f"{host!r} is not a host name, or {port} not a port ({error})") from error
        if scope.cancelled_caught:
            raise OSError(f"{host}:{port} did not answer within 10 s")
        self.tune(stream.socket)
        return stream.socket

    def tune(self, sock: trio.socket.SocketType) -> None:
        """Set the socket's options for the data path."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def drain(self) -> None:
        """Take no more requests, and wait until those accepted are served, but not for long."""
        self.stopping = True
        with trio.move_on_after(DRAIN_S):
            while not self.peers.is_idle():  # noqa: ASYNC110 (over in seconds; an event per link would be more state)
                await trio.sleep(DRAIN_STEP_S)

    # ---- what the tracker is told

    def report(self) -> NodeReport:
        """Return the next heartbeat."""
        self._sequence += 1
        # Each title once, or the tracker refuses the heartbeat: of one that was tried again in vain, what came of that.
        titles = [self._report_of(one) for one in self._fillings.values() if one.title_id not in self._refused]
        titles += [
            TitleReport(title_id.hex(), "failed", error=clipped(str(why)) or type(why).__name__)
            for title_id, why in self._refused.items()
        ]
        told = {*self._fillings, *self._refused}
        for title_id, stored in self._open.items():
            if title_id not in told:
                size, count = stored.manifest.size, stored.manifest.chunk_count
                titles.append(
                    TitleReport(title_id.hex(), "live", count, count, have_bytes=size, title_bytes=size)
                )
        links = self.peers.links()
        return NodeReport(
            info=self.info,
            boot=self.boot,
            sequence=self._sequence,
            titles=titles,
            upload_active=sum(link.uploading for link in links),
            upload_queued=sum(link.upload_queued for link in links),
            upload_bytes=self.upload_bytes,
            loop_lag=self.loop_lag,
            usage=process_usage(),
        )

    def _report_of(self, filling: Filling) -> TitleReport:
        with filling.bounds:
            return filling.report()
        return TitleReport(filling.title_id.hex(), "failed", error=filling.error or "its state cannot be told")

    @property
    def spent(self) -> Spent:
        """What the data streams on which this node receives have done with their time."""
        total = self.spent_before
        for link in self.peers.links():
            for spent in link.spent:
                total = total.plus(spent)
        return total

    @property
    def loop_lag(self) -> LoopLag:
        """How late the event loop that the node runs in has woken in the last minute, in microseconds.

        Where it is large, links are slow to answer, whatever it is that keeps the loop: a program that embeds the node
        finds its own blocking calls here.
        """
        return self.lag.report()


@asynccontextmanager
async def open_node(config: NodeConfig) -> AsyncIterator[Node]:
    """Open a node: its store, its listener and, where `config.tracker` is set, its link to the tracker.

    On leaving, links are closed and verified chunks committed. Raises `StoreError` and `ConfigError` (port in use).
    """
    from p2pfill.node.agent import TrackerAgent

    store = await trio.to_thread.run_sync(Store.open, Path(config.data))
    try:
        host, port = config.listen_address()
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.listen}: {error.strerror or error}; is another node running there?"
            ) from error
        fault: P2PFillError | None = None
        info = config.info(listeners[0].socket.getsockname()[1])
        try:
            plane = DataPlane(config.data_workers, config.upload_slots)
            async with plane.running(), trio.open_nursery() as nursery:
                node = Node(config, store, info, nursery, plane)
                await node.find_stored()
                nursery.start_soon(node.lag.run)
                nursery.start_soon(plane.watch_slots)
                nursery.start_soon(node.watch_agenda)
                if config.drop_pages:
                    nursery.start_soon(node.cached.drop_often)
                nursery.start_soon(trio.serve_listeners, node.peers.accept, listeners)
                # After the listener: a title of a million files must not hold up all others. And before the tracker,
                # which would order what it is not told of.
                await node.open_stored()
                if config.tracker:
                    node.tracker = TrackerAgent(node, config.tracker)
                    nursery.start_soon(node.tracker.run)
                try:
                    yield node
                finally:
                    with trio.CancelScope(shield=True):
                        await node.drain()
                    node.peers.close("the node stops")
                    nursery.cancel_scope.cancel()
        except* P2PFillError as group:
            fault = _first(group)
        # Not from inside except*, which would wrap it in a group.
        if fault is not None:
            raise fault
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)


def _first(group: BaseExceptionGroup[P2PFillError]) -> P2PFillError:
    error: P2PFillError | BaseExceptionGroup[P2PFillError] = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
