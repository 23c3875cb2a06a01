"""The node: one store and its titles, the engine, the sockets and fills that it drives, and the tracker."""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from p2pfill._version import __version__
from p2pfill.engine.dialler import NEVER, Dial
from p2pfill.engine.engine import Effect, Engine, Faulted, Warn
from p2pfill.engine.link import OpenStream, WakeUploads
from p2pfill.engine.task import EndFill, LimitSlots, StopRead
from p2pfill.errors import ConfigError, P2PFillError, leaves_of
from p2pfill.hot.lanes import NATIVE
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.fleet_policy import CacheSettings
from p2pfill.model.hosts import is_loopback
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.origins import OriginReport
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import RateLimits
from p2pfill.model.reports import HeartbeatReply, LoopLag, NodeReport, PayloadRates, TitleReport
from p2pfill.model.timing import ORIGIN_READS_MAX
from p2pfill.model.urgency import Urgency
from p2pfill.node.agent import TrackerAgent
from p2pfill.node.background import Background
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.cached import CachedTitles
from p2pfill.node.config import NodeConfig
from p2pfill.node.eviction import Evictor
from p2pfill.node.evictions import Evictions
from p2pfill.node.fill import FillDriver
from p2pfill.node.found import FoundTitles
from p2pfill.node.health import Busy, ServingHealth
from p2pfill.node.hours import FillHours
from p2pfill.node.in_use import InUse, asking
from p2pfill.node.links import Links
from p2pfill.node.listening import PatientListener, say_limit
from p2pfill.node.machine import Moved
from p2pfill.node.origin_threads import OriginThreads
from p2pfill.node.reach import Reach
from p2pfill.node.renewal import Renewal, load_credentials
from p2pfill.node.scrubber import Scrubber
from p2pfill.node.settings import PolicySettings
from p2pfill.node.titles import TitleRegistry
from p2pfill.node.troubles import Troubles
from p2pfill.node.usage import process_usage
from p2pfill.node.vetting import Vetting
from p2pfill.protocol.messages import Hello
from p2pfill.store.descriptors import DESCRIPTORS_ENOUGH, DESCRIPTORS_MIN, descriptors_max
from p2pfill.store.kept_orders import KeptOrders
from p2pfill.store.store import Store
from p2pfill.swarm.election import ALL_WANTED, Wants
from p2pfill.transport.data import StreamStats
from p2pfill.transport.lag import LagMonitor
from p2pfill.transport.ticks import TickedPlane, Ticks

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials

DRAIN_S: Final = 3.0
"""What a stopping node gives to chunks that it has promised; the receivers then ask others."""

DRAIN_STEP_S: Final = 0.02

MOVES_S: Final = 1.0
"""The least time over which is measured how fast payload moves: heartbeats may follow each other at once."""

FAULT_PAUSE_S: Final = 1.0
"""Before the engine is asked again where it could not decide: only a bug has it come to that, and it may last."""


class Node:
    """A cache in operation. Made by `open_node`."""

    def __init__(
        self,
        config: NodeConfig,
        store: Store,
        info: NodeInfo,
        nursery: trio.Nursery,
        ticks: Ticks,
        origin_threads: OriginThreads,
        plane: TickedPlane,
        in_use: InUse | None = None,
        wall: Callable[[], float] = time.time,
        busy: Busy | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.config = config
        self.credentials = credentials
        self.store = store
        self.info = info
        self.boot = secrets.token_hex(8)
        self.log = logging.getLogger(f"p2pfill.node.{config.id}")
        chance = random.Random()  # noqa: S311 (spreads retries)
        self.engine = Engine(info, chance, secrets.token_bytes, threading.RLock, config.upload_slots)
        self.lag = LagMonitor()
        self.tracker: TrackerAgent | None = None
        self._nursery = nursery
        self._ticks = ticks
        self._plane = plane
        self._rests_until = -NEVER
        """The engine, which could not decide."""
        self._decide_at = -NEVER
        """When it was to be asked again, by what it has said last."""
        self._deciding = ErrorBoundary(self.log, "decide what to do")
        self._sequence = 0
        speed = 1.0
        if config.clock is not None:
            wall, speed = config.clock, config.clock.speed
        self._moved_at = (trio.current_time(), 0, 0)
        """When it was looked how much has moved, and what had come and gone by then."""
        self._moves_now = PayloadRates()
        self.limits = plane.throttle
        """What this node may move: `put` limits under a name of their own, and the tightest of all holds."""
        self.limits.put("config", config.limits())
        self.hours = FillHours(
            self.engine, config.fill_windows(), Path(config.data), self.wake, self.log, wall, speed,
            partial(self.limits.put, "window"),
        )  # fmt: skip
        self._awaited: frozenset[TitleId] = frozenset()
        """Titles for which viewers wait."""
        self._out_of_cycle: frozenset[TitleId] = frozenset()
        """Titles that are ordered to be filled whether windows are open or not."""
        self.titles = TitleRegistry(
            info, store, self.engine, nursery, self.wake, self.log, config.record, origin_threads, self.limits.inbound
        )
        self.found = FoundTitles(self.titles, store, self.engine, self.log)
        self.kept_orders = KeptOrders(store.root)
        self.vetting = Vetting(store, credentials, self.log, wall)
        self.settings = PolicySettings(Path(config.data), self.log)
        self.scrubber = Scrubber(self.titles, Path(config.data), config.scrub_bytes_s, self.log)
        self.evictor = Evictor(self.titles, store, self._being_sent, config.free_bytes_min, in_use, self.log)
        self.evictions = Evictions(self.evictor, self.titles, store, self.log)
        self.titles.make_room = self.evictor.make_room
        self.titles.unlimit = lambda title_id: plane.limit(title_id, None)
        self.titles.origin_access = config.origin_access()
        self.cached = CachedTitles(self.titles.stored, self._being_sent, self.log, drops=config.drop_pages)
        hello = Hello(
            node_id=info.id,
            isp=info.isp,
            region=info.region,
            cluster=info.cluster,
            host=info.host,
            port=info.port,
            weight=info.weight,
            agent=f"p2pfill/{__version__}",
            boot=self.boot,
        )
        self.links = Links(
            self.engine, hello, ticks, plane, nursery, self.titles.stored, self._note_used,
            self.titles.suspect, self.wake, self.log, credentials,
            stays_near=credentials is None and not config.insecure and is_loopback(info.host),
            encrypts=config.encrypt_data,
        )  # fmt: skip

        self.health = ServingHealth(
            config.health, Path(config.data), self.moved, self._set_admits, self.log, busy
        )
        self.troubles = Troubles(self.log)
        self.reach = Reach(hello, lambda: self.links.was_reached, self.log, credentials)

    # ---- titles

    async def fill(
        self,
        title: TitleId | Manifest,
        origins: Iterable[str] = (),
        *,
        signatures: bytes = b"",
        rollback: bool = False,
    ) -> TitleReport:
        """Hold a title: fetch what is missing, wait until it is live, and return the last report.

        Arguments as for `order`. Raises what `order` raises, `StoreError` where the disk refuses and
        `TransferError` where the fill was withdrawn.
        """
        fill = await self.order(title, origins, signatures=signatures, rollback=rollback)
        await fill.wait()
        return fill.report()

    async def order(
        self,
        title: TitleId | Manifest,
        origins: Iterable[str] = (),
        *,
        signatures: bytes = b"",
        rollback: bool = False,
    ) -> FillDriver:
        """Begin to hold a title and return its fill, whose `progress` and `wait` follow it.

        With a tracker the title may be named by its id, and other caches take part; without one `title` is a manifest
        and all comes from `origins`. `signatures` are those of the manifest, encoded (`model.statement`), which a node
        with a publishers.toml wants to see; `rollback`: it may be older than what was shown of its name.
        Raises `ConfigError` where a tracker is needed, `SignatureError` where the title is not signed as it must be,
        `TrackerError`, and `StoreError` where the disk refuses.
        """
        if self.tracker is not None:
            return await self.tracker.order(title, list(origins), signatures, rollback=rollback)
        if isinstance(title, Manifest):
            if rollback:
                self.vetting.allow_rollback(await trio.to_thread.run_sync(lambda: title.title_id))
            fill = await self.start_fill(title, origins, signatures=signatures)
            if fill.stored.live:
                await trio.to_thread.run_sync(self.store.show_anew, fill.title_id)
            return fill
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
        selection: Bitmap | None = None,
        wants: Wants = ALL_WANTED,
        soon: Iterable[str] = (),
        signatures: bytes = b"",
    ) -> FillDriver:
        """Begin to fill a title, or resume, and return at once; its `progress` and `wait` follow it.

        Only the files in `selection` (`model.selection`) are fetched, all where it is None; a live title keeps those
        that it has. `wants` are the chunks of each of the members that wants some only, this node among them.

        `members` are the other caches that want the title: who fetches what across borders is elected among them.
        `holders` have it, or a part of it: nothing is fetched across borders before they were asked, and the members,
        but for those that are `unlinked`, whom this node only knows by name.
        `soon` are the ids of the members whose fill windows open in a moment; those whose windows are closed are none.
        While a title of a lesser `urgency` gets on, this one asks for nothing; with a tracker, its orders say that.
        Nothing is asked of anybody before the title is found to be signed (`node.vetting`).
        Raises `SignatureError` where it is not, and `StoreError` where the disk refuses.
        """
        if self.vetting.publishers is not None:
            signatures = await self._vet(manifest, selection, signatures)
        return await self.titles.start_fill(
            manifest, origins, policy, members, holders, unlinked, urgency, selection, wants, soon, signatures
        )

    async def _vet(self, manifest: Manifest, selection: Bitmap | None, signatures: bytes) -> bytes:
        """Return the signatures that are to be kept of a title. Raises `SignatureError` where it may not be filled."""
        title_id = await trio.to_thread.run_sync(lambda: manifest.title_id)
        stored = self.titles.stored(title_id)
        if stored is not None and stored.live and not stored.would_select(selection):
            return b""  # there is nothing to be fetched that was not let in before
        try:
            return await self.vetting.check(title_id, manifest.name, signatures)
        except P2PFillError as error:
            self.titles.refuse(title_id, error)
            raise

    def recheck(self) -> None:
        """Look anew at whom others are, and at who has signed what is being filled: what is trusted has changed."""
        self.links.recheck()
        self._nursery.start_soon(ErrorBoundary(self.log, "look who has signed its titles").run, self._check_signers)

    async def _check_signers(self) -> None:
        for fill in self.titles.running_fills():
            if fill.task.repairs:
                continue
            failed = partial(self._refuse_fill, fill)
            async with ErrorBoundary(self.log, f"go on with title {fill.manifest.name!r}", failed):
                await trio.to_thread.run_sync(self.vetting.check_again, fill.title_id, fill.manifest.name)
        self.titles.retry()  # what was refused may go now

    def _refuse_fill(self, fill: FillDriver, error: P2PFillError) -> None:
        self.titles.refuse(fill.title_id, error)
        fill.fail(error)

    # ---- limits

    @property
    def rates(self) -> RateLimits:
        """The limits in force, of all who have set some."""
        return self.limits.in_force

    def set_rates(self, limits: RateLimits) -> None:
        """Keep to these limits from now on, in the place of those of the configuration. Callable from any thread."""
        self.limits.put("config", limits)

    def set_urgencies(self, changed: Mapping[TitleId, Urgency], gone: Iterable[TitleId] = ()) -> None:
        """Note how urgent titles are that are ordered here, and which are so no more; what runs follows at once."""
        self.engine.set_urgencies(trio.current_time(), changed, gone)
        self.wake()

    def set_exempt(self, titles: Iterable[TitleId]) -> None:
        """Fill these titles also while the node's fill windows are closed, since viewers wait for them.

        They take the place of those of the call before. What is ordered out of cycle has nothing to do with it.
        """
        self._awaited = frozenset(titles)
        self._set_exempt()

    def set_out_of_cycle(self, titles: Iterable[TitleId]) -> None:
        """Fill these titles, too, while the node's fill windows are closed: they are ordered so."""
        self._out_of_cycle = frozenset(titles)
        self._set_exempt()

    def _set_exempt(self) -> None:
        self.engine.set_exempt(trio.current_time(), self._awaited | self._out_of_cycle)
        self.wake()

    def activate(self, title_id: TitleId) -> None:
        """Let less urgent titles wait for one that is to be filled in a moment."""
        self.engine.activate(trio.current_time(), title_id)
        self.wake()

    def yield_to_others(self, title_id: TitleId) -> None:
        """Let less urgent titles ask again: this one cannot be filled."""
        self.engine.yield_to_others(trio.current_time(), title_id)
        self.wake()

    def want_links(self, nodes: Iterable[NodeInfo]) -> None:
        """Be linked with the caches that the roster names."""
        self.engine.want_links(trio.current_time(), nodes)
        self.wake()

    def fill_of(self, title_id: TitleId) -> FillDriver | None:
        """Return a title's fill, or the last one: those of many titles that are live are forgotten."""
        return self.titles.fill_of(title_id)

    def holdings(self, title_id: TitleId) -> Bitmap | None:
        """Return which chunks of a title can be served; None where the title is unknown here."""
        return self.engine.shown(title_id)

    def follow_settings(self, settings: CacheSettings) -> None:
        """Go by what the fleet's policy says of this cache; where it says nothing, by the configuration."""
        self.hours.set_windows(settings.windows or self.config.fill_windows())
        self.limits.put("policy", settings.rates)
        self.titles.origin_counts.set_budgets(settings.budgets)
        self._follow_budgets()

    def _follow_budgets(self) -> None:
        """Have the engine hold to what budgets say of caches beyond the ISP."""
        counts = self.titles.origin_counts
        self._note_regional()
        most, budget = counts.regional_limit()
        self.engine.set_regional_max(trio.current_time(), NEVER if most is None else most, budget)
        self.wake()

    # ---- the engine

    def wake(self) -> None:
        """Have the engine decide: something has happened."""
        self._ticks.wake()

    async def drive(self) -> None:
        """Have the engine decide whenever something has happened, and do what it wants; runs until cancelled."""
        await self._ticks.run(self._decide)

    def _decide(self, now: float) -> float:
        """Have the engine decide, and do what it wants; return when it is to decide again though nothing happens."""
        if now < self._rests_until:
            return self._rests_until
        with self._deciding:
            if self.engine.is_settled(now):
                return self._decide_at
            for effect in self.engine.poll(now):
                try:
                    self._perform(effect)
                except BaseException:
                    failed = partial(self._effect_failed, effect)
                    with ErrorBoundary(self.log, f"begin with {type(effect).__name__}", failed):
                        raise
            self._decide_at = self.engine.next_wakeup()
            return self._decide_at
        # Whatever happens meanwhile, or it would fail, and fill the log, with each message that comes.
        self._rests_until = now + FAULT_PAUSE_S
        return self._rests_until

    def _effect_failed(self, effect: Effect, error: P2PFillError) -> None:
        """Fail what waits for an effect that could not be begun with; it would wait for ever."""
        match effect:
            case Dial(node):
                self.engine.dial_failed(self._ticks.now, node.id)
            case OpenStream(link) | WakeUploads(link):
                self.engine.fail_link(link, error)
            case Faulted() | Warn():
                pass
            case EndFill(task):
                if (driver := self.titles.driver_of(task)) is not None:
                    driver.done.set()
                    self.titles.note_end(driver)
            case _:
                self.engine.fail(self._ticks.now, effect.task, error)
        self.wake()

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Dial():
                self.links.dial(effect)
            case OpenStream():
                self.links.open_stream(effect)
            case WakeUploads():
                self.links.wake_uploads(effect)
            case LimitSlots(task, slots):
                self._plane.limit(task.title_id, slots)
            case StopRead():
                pass  # the thread that reads looks at the receive
            case Warn(text):
                self.log.warning("%s", text)
            case Faulted(doing, error):
                self.log.error("could not %s: %r; please report it", doing, error, exc_info=error)
            case _:
                if (driver := self.titles.driver_of(effect.task)) is not None:
                    driver.perform(effect)
                    if isinstance(effect, EndFill):
                        self.titles.note_end(driver)
                        if driver.state == "live":
                            self.cached.note_used(driver.title_id)

    def _note_used(self, title_id: TitleId) -> None:
        """Note that a chunk is about to be sent. Called from threads."""
        self.cached.note_used(title_id)
        self.evictor.note_used(title_id)

    def _being_sent(self) -> set[TitleId]:
        return {title_id for one in self.links.sockets() for title_id in one.upload_titles()}

    async def drain(self) -> None:
        """Take no more requests, and wait until those accepted are served, but not for long."""
        self.engine.is_stopping = True
        with trio.move_on_after(DRAIN_S):
            while not self.links.is_idle():  # noqa: ASYNC110 (over in seconds; an event per link would be more state)
                await trio.sleep(DRAIN_STEP_S)

    # ---- what the tracker is told

    def report(self) -> NodeReport:
        """Return what there is to say of this node and of all its titles."""
        return self._heartbeat(self.titles.reports(), self.titles.origin_counts.totals())

    def heartbeat(self, *, follows: bool = False) -> NodeReport:
        """Return the next heartbeat: what the tracker has yet to be told; `follows`: the piece before had more."""
        if not follows:
            self.titles.note_running()
        reports, gone = self.titles.next_piece()
        self._note_regional()
        said = self._heartbeat(reports, self.titles.origin_counts.take())
        said.since, said.gone, said.more = self.titles.untold.since, gone, len(self.titles.untold) > 0
        return said

    def heartbeat_ended(self, report: NodeReport | None, reply: HeartbeatReply | None) -> None:
        """Take note of what the tracker has answered to a heartbeat; None: nothing, or there was none."""
        if report is None or reply is None:
            self.titles.untold.lost()
        elif reply.again:
            self.titles.begin_again()
            self.titles.origin_counts.begin_again()
        else:
            self.titles.origin_counts.acknowledged()
            self.titles.untold.acknowledged(report.sequence)
        if reply is not None:
            self._note_regional()
            self.titles.origin_counts.set_allowances(reply.allowances)
            self._follow_budgets()

    def _note_regional(self) -> None:
        self.titles.origin_counts.set_regional(self.engine.regional_bytes, self.engine.regional_asked)

    def _heartbeat(self, titles: list[TitleReport], origins: list[OriginReport]) -> NodeReport:
        self._sequence += 1
        sockets = self.links.sockets()
        return NodeReport(
            info=self.health.weigh(self.info),
            boot=self.boot,
            sequence=self._sequence,
            titles=titles,
            upload_active=sum(sender.is_busy for one in sockets for sender in one.senders),
            upload_queued=sum(len(one.link.uploads) for one in sockets),
            upload_bytes=self.links.upload_bytes,
            loop_lag=self.loop_lag,
            usage=process_usage(),
            disk=self.evictor.disk,
            scrubs=self.scrubber.reports(),
            scrubber=self.scrubber.report(),
            evictions=self.evictions.reports(),
            origins=origins,
            rates=self.rates,
            moves=self._moves(),
            allowances=self.titles.origin_counts.allowances(),
            unreached=self.reach.fault,
            trouble=self.troubles.told(),
            hours=self.hours.report(),
            serving=self.health.report(),
            encryption=self.links.encryption(),
        )

    def background(self) -> Background:
        """Return what has the fill yield to viewers."""
        health = self.config.health
        put = partial(self.limits.put, "background")
        return Background(health.interface, health.link_rate(), self.moved, put, self.log)

    def _set_admits(self, part: float) -> None:
        self.engine.set_admits(trio.current_time(), part)
        self.wake()

    def moved(self) -> Moved:
        """Return what payload has come in and gone out since the start."""
        received, sent = self.links.moved()
        return Moved(received + self.titles.origin_counts.bytes_received(), sent)

    def _moves(self) -> PayloadRates:
        """Return how fast payload has moved between the last two looks that were `MOVES_S` apart, or more."""
        now, (received, sent) = trio.current_time(), self.moved()
        before, received_before, sent_before = self._moved_at
        span_s = now - before
        if span_s >= MOVES_S:
            self._moves_now = PayloadRates(
                max(0, int((received - received_before) / span_s)), max(0, int((sent - sent_before) / span_s))
            )
            self._moved_at = now, received, sent
        return self._moves_now

    @property
    def spent(self) -> StreamStats:
        """What the data streams on which this node receives have done with their time."""
        return self.links.spent()

    @property
    def loop_lag(self) -> LoopLag:
        """How late the event loop that the node runs in has woken in the last minute, in microseconds.

        Where it is large, links are slow to answer, whatever it is that keeps the loop: a program that embeds the node
        finds its own blocking calls here.
        """
        return self.lag.report()


@asynccontextmanager
async def open_node(
    config: NodeConfig,
    *,
    in_use: InUse | None = None,
    wall: Callable[[], float] = time.time,
    busy: Busy | None = None,
) -> AsyncIterator[Node]:
    """Open a node: its store, its listener and, where `config.tracker` is set, its link to the tracker.

    `in_use`, or else `config.in_use_command`, is asked which titles viewers use before any go for want of room: it is
    called in a worker thread and returns names below live/, ids, or paths of files (`node.in_use`).
    `wall` is the clock, in seconds since the epoch, by which fill windows open and close, and signatures expire.
    `busy` is asked each second, in a worker thread, how busy the cache is with its viewers, from 0 to 1: the more, the
    less it does for other caches (`engine.health`). Without it the machine is looked at, as `config.health` says.
    On leaving, links are closed and verified chunks committed. Raises `StoreError` and `ConfigError` (port in use).
    """
    credentials = await trio.to_thread.run_sync(load_credentials, config)
    store = await trio.to_thread.run_sync(Store.open, Path(config.data))
    ticks = Ticks()
    origin_threads = OriginThreads(ORIGIN_READS_MAX, ticks.tell, logging.getLogger(f"p2pfill.node.{config.id}"))
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
            plane = TickedPlane(ticks, config.data_workers, config.upload_slots, yields=config.background)
            async with plane.running(), trio.open_nursery() as nursery:
                if in_use is None and config.in_use_command:
                    in_use = asking(config.in_use_command)
                node = Node(config, store, info, nursery, ticks, origin_threads, plane, in_use, wall, busy, credentials)
                await node.settings.load()
                if config.tracker:  # else nobody could ever clear them
                    node.limits.put("tracker", node.settings.limits)
                for remark in store.take_remarks():
                    node.log.warning("%s", remark)
                await node.found.find()
                await node.hours.open()  # before anything is filled
                node.settings.on_change(node.follow_settings)
                nursery.start_soon(node.lag.run)
                node.vetting.tell()
                renewal: Renewal | None = None
                if credentials is not None:
                    renewal = Renewal(credentials, node.recheck, Path(config.data), node.log, node.troubles)
                    await trio.to_thread.run_sync(renewal.load)
                    nursery.start_soon(renewal.run)
                nursery.start_soon(node.hours.run)
                nursery.start_soon(node.health.run)
                if config.background:
                    nursery.start_soon(node.background().run)
                nursery.start_soon(plane.watch_slots)
                nursery.start_soon(node.drive)
                if config.drop_pages:
                    nursery.start_soon(node.cached.eviction_loop)
                say_limit(descriptors_max(), DESCRIPTORS_MIN, DESCRIPTORS_ENOUGH, node.log)
                if not NATIVE:
                    node.log.warning(
                        "the native module is not in use, so fills take several times the processor time: install "
                        "p2pfill with P2PFILL_NATIVE=require, and without P2PFILL_PURE in the environment"
                    )
                patient = [PatientListener(listener, node.log) for listener in listeners]
                nursery.start_soon(trio.serve_listeners, node.links.accept, patient)
                # After the listener: a title of a million files must not hold up all others. And before the tracker,
                # which would order what it is not told of.
                await node.found.open_all()
                nursery.start_soon(node.titles.disk.run)
                nursery.start_soon(node.found.check_doubtful)
                nursery.start_soon(node.found.check_files)
                nursery.start_soon(node.scrubber.run)
                nursery.start_soon(node.evictor.run)
                if config.tracker:
                    node.tracker = TrackerAgent(node, config.tracker, renewal)
                    node.titles.retry = node.tracker.retry
                    nursery.start_soon(node.tracker.run)
                    nursery.start_soon(node.reach.run)
                try:
                    yield node
                finally:
                    with trio.CancelScope(shield=True):
                        await node.drain()
                    node.links.close("the node stops")
                    nursery.cancel_scope.cancel()
        except* P2PFillError as group:
            fault = next(leaf for leaf in leaves_of(group) if isinstance(leaf, P2PFillError))
        # Not from inside except*, which would wrap it in a group.
        if fault is not None:
            raise fault
    finally:
        origin_threads.close()
        ticks.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)
