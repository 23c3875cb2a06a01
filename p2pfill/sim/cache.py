"""One cache: a machine with a disk and connections, and the process on it that comes and goes.

The process runs the engine that ships (`p2pfill.engine`); this is its driver in virtual time, as `p2pfill.node` is in
Trio. What takes time (dials, origin reads, commits, go-live) comes back as deeds of the schedule. A crash makes a new
engine at the next boot; whatever is then still scheduled for the old one finds that out and does nothing.

What survives a crash is `durable`, the chunks that the journal holds. `verified` is the truth about the disk that the
checkers compare with what is said: the chunks whose right bytes are there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import Any, Protocol

from p2pfill.engine.dialler import NEVER, Dial
from p2pfill.engine.engine import Effect, Engine, Faulted, Warn
from p2pfill.engine.link import Link, OpenStream, WakeUploads
from p2pfill.engine.requests import Arrival, Lock
from p2pfill.engine.slots import Uploader, UploadSlots
from p2pfill.engine.task import BeginWriteOut, Commit, EndFill, FillTask, GoLive, LimitSlots, ReadOrigin, StopRead
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.pace import CONNECT_TIMEOUT_S, ORIGIN_READS_MAX
from p2pfill.sim.checkers import CheckedFill, CheckedWorld
from p2pfill.sim.connection import NO_LOCK, Connection, DataStream
from p2pfill.sim.network import Place
from p2pfill.sim.origin import OriginRead, OriginWorld
from p2pfill.swarm import actions


class SimWorld(OriginWorld, CheckedWorld, Protocol):
    """What a cache needs of its world."""

    seed: int
    caches: dict[str, SimCache]

    def cache_is_live(self, cache: SimCache) -> None:
        """Take note that a cache has completed."""

    def fill_is_over(self, task: FillTask) -> None:
        """Count what a fill has done that a crash has ended."""


class SimStore:
    """The title on the disk of a cache, as far as the engine looks at it."""

    def __init__(self, cache: SimCache) -> None:
        self._cache = cache

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """Nothing is read or written here."""
        return iter(())

    def write_lock(self, chunk: int) -> Lock:
        """Nothing happens side by side."""
        return NO_LOCK

    def is_sealed(self, chunk: int) -> bool:
        """Tell whether the right bytes are there."""
        return self._cache.verified[chunk]

    def seal(self, chunk: int) -> None:
        """Note that the right bytes are there."""
        self._cache.verified.add(chunk)

    def check_blake3(self, chunk: int) -> bool:
        """Digests are the checkers' business."""
        return True


class SimEngine(Engine):
    """An engine whose holdings are looked at, of a cache that may lie."""

    cache: SimCache

    def task_faulted(self, task: FillTask, error: BaseException) -> None:
        """A fault ends the run: it is ours."""
        raise error

    def link_faulted(self, link: Link, error: BaseException) -> None:
        """A fault ends the run: it is ours."""
        raise error

    def _perform(self, task: FillTask, action: actions.Action) -> None:
        """Do what a fill wants done; a cache that claims without fetching asks for nothing."""
        if self.cache.lie != "claim" or not isinstance(action, actions.RequestChunk):
            super()._perform(task, action)

    def shown(self, title_id: TitleId) -> Bitmap | None:
        """Return what others are told; a liar claims everything."""
        held, cache = super().shown(title_id), self.cache
        if held is None:
            return None
        if cache.lie in ("reject", "silent"):
            return Bitmap.full(len(held))
        cache.world.checkers.showed(cache.info.id, cache.verified, held)
        return held


class SimCache:
    """One cache of the world."""

    def __init__(self, world: SimWorld, info: NodeInfo, place: Place, origin_weight: float = 1.0) -> None:
        self.world = world
        self.info = info
        self.place = place
        self.origin_route = world.internet.route(world.internet.origin, place)
        self.request_route = world.internet.route(place, world.internet.origin)
        """The way of a request to the origin."""
        self.origin_weight = origin_weight
        """What its streams get of the origin's link beside those of others."""
        self.running = True
        """Its process runs."""
        self.frozen = False
        """Its process stands still, as one that is stopped or moved to another machine does."""
        self.frozen_deeds: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        """What is to be done once it goes on."""
        self.boots = 0
        self.lost = False
        """It will never come back."""
        self.polled = False
        """A long poll for orders is open."""
        self.task: FillTask | None = None
        """The fill that runs, or the last one that did."""
        self.live_at: float | None = None
        """When the title went live."""
        self.durable = Bitmap(world.manifest.chunk_count)
        self.verified = Bitmap(world.manifest.chunk_count)
        self.syncing: list[list[int]] = []
        """Chunks of commits that are under way."""
        self.clock_offset_s = 0.0
        self.clock_rate = 1.0
        """Seconds of its clock a second."""
        self.lie = ""
        """`reject` or `silent`: it claims to hold everything, and does that when asked for what it lacks. `claim`: it
        says that it is fetching everything, and asks for nothing."""
        self.is_refused = False
        """What it asks the origin for is refused at once, as by a dead proxy."""
        self.corrupts = False
        """What it sends is not what it should be."""
        self.slow_sync = 1.0
        self.upload_bytes = 0
        self.messages_before = 0
        """Control messages sent on links that have ended."""
        self.reads: dict[int, OriginRead] = {}
        """Request -> the read of the origin that serves it."""
        self._start_process()

    def _start_process(self) -> None:
        world = self.world
        chance = Random(f"engine {world.seed} {self.info.id} {self.boots}")  # noqa: S311 (a simulation)
        self.engine = SimEngine(self.info, chance, self._token_bytes, lambda: NO_LOCK, world.scenario.upload_slots)
        self.engine.cache = self
        self.slots = UploadSlots(world.scenario.upload_slots)
        self.connections: dict[Link, Connection] = {}
        self._tokens = 0
        self._output: list[Connection] = []
        self._wake_at = NEVER
        self._clock_floor = 0.0
        self._reads_begun: dict[OriginRead, None] = {}
        self._read_queue: deque[OriginRead] = deque()

    def _token_bytes(self, count: int) -> bytes:
        self._tokens += 1
        return self._tokens.to_bytes(count, "big")

    # ---- its clock

    def local_time(self) -> float:
        """Return what its clock shows; it never goes back."""
        local = self.clock_offset_s + self.world.schedule.now * self.clock_rate
        self._clock_floor = max(local, self._clock_floor)
        return self._clock_floor

    def global_time(self, local: float) -> float:
        """Return when its clock will show `local`."""
        return (local - self.clock_offset_s) / self.clock_rate

    # ---- the engine

    def tick(self) -> None:
        """Have the engine decide, and do what it wants; what it says goes out at the end."""
        if not self.running or self.frozen:
            return
        engine = self.engine
        while effects := engine.poll(self.local_time()):
            for effect in effects:
                self._perform(effect)
        output, self._output = self._output, []
        for connection in output:
            connection.post()
        wake_at = engine.next_wakeup()
        if wake_at < self._wake_at:
            self._wake_at = wake_at
            self.world.schedule.at(self.global_time(wake_at), self._wake_up, engine, wake_at)

    def _wake_up(self, engine: Engine, wake_at: float) -> None:
        if self.running and engine is self.engine and wake_at == self._wake_at:
            self._wake_at = NEVER
            if not self.frozen:
                self._clock_floor = max(self._clock_floor, wake_at)
                self.tick()

    def _perform(self, effect: Effect) -> None:
        schedule = self.world.schedule
        match effect:
            case Dial(node):
                self._dial(node.id)
            case OpenStream(link):
                if (connection := self.connections.get(link)) is not None:
                    connection.open_stream()
            case WakeUploads(link):
                if (connection := self.connections.get(link)) is not None:
                    for stream in connection.uploads:
                        stream.wake()
            case LimitSlots(task, slots):
                for uploader in self.slots.limit(task.title_id, slots):
                    self.serve(uploader)
            case ReadOrigin(task, _, receive):
                read = OriginRead(self, receive.chunk, lambda arrival: self._read_ended(task, arrival), receive)
                self.reads[receive.request_id] = read
                self._read_queue.append(read)
                self._read_next()
            case StopRead(_, receive):
                if (stopped := self.reads.pop(receive.request_id, None)) is not None:
                    stopped.cancel()
            case Commit(task, chunks):
                self.syncing.append(chunks)
                schedule.after(self.sync_s(), self._committed, self.engine, task, chunks, self.sync_s())
            case BeginWriteOut(task, _):
                self.engine.write_out_begun(self.local_time(), task)
            case GoLive(task):
                self.world.note(self.info.id, "complete")
                schedule.after(self.world.scenario.sync_ms * 1e-3, self.go_live, self.engine, task)
            case EndFill() | Faulted() | Warn():
                pass

    def _later(self, deed: Callable[..., object], *arguments: Any) -> bool:
        """Put something off that comes to a frozen process; False where it is not frozen."""
        if self.frozen:
            self.frozen_deeds.append((deed, arguments))
        return self.frozen

    def _committed(self, engine: Engine, task: FillTask, chunks: list[int], took_s: float) -> None:
        if engine is not self.engine or not self.running or self._later(self._committed, engine, task, chunks, took_s):
            return
        self.syncing.remove(chunks)
        for chunk in chunks:
            self.durable.add(chunk)
        engine.committed(self.local_time(), task, chunks, took_s)
        self.tick()

    def go_live(self, engine: Engine, task: FillTask) -> None:
        """Show the title."""
        if engine is not self.engine or not self.running or self._later(self.go_live, engine, task):
            return
        self.world.checkers.went_live(self.info.id, self.verified, self.durable)
        self.world.note(self.info.id, "live")
        self.live_at = self.world.schedule.now
        engine.went_live(self.local_time(), task)
        self.world.cache_is_live(self)
        self.tick()

    # ---- its process

    def start_fill(
        self, members: Sequence[NodeInfo], neighbours: Iterable[NodeInfo], unlinked: tuple[str, ...] = ()
    ) -> None:
        """Take the order to hold the title: `members` want it, `neighbours` may hold a part of it already."""
        world, now = self.world, self.local_time()
        unheard = {info.id for info in neighbours} - {self.info.id}
        chance = Random(f"{world.seed}{self.info.id}{world.schedule.now!r}")  # noqa: S311 (a simulation)
        fill = CheckedFill(
            world, world.manifest, self.info, world.scenario.policy, chance, now, self.durable.copy(),
            heard=not unheard, verified=self.verified,
        )  # fmt: skip
        origins = [world.scenario.origin]
        self.task = self.engine.begin_fill(now, fill, SimStore(self), origins, members, unlinked, unheard)
        self.task.origin_news = self._origin_news
        self.tick()

    def _origin_news(self) -> tuple[list[str], dict[str, str]]:
        """Return the origins of which bytes are arriving; what fails is told as it does."""
        return [self.world.scenario.origin] if any(read.is_moving for read in self.reads.values()) else [], {}

    def origin_failing(self, reason: str) -> None:
        """Take note that the origin has failed again and again."""
        if self.task is not None and self.running and not self._later(self.origin_failing, reason):
            self.engine.origin_failing(self.local_time(), self.task, self.world.scenario.origin, reason)
            self.tick()

    def claim_everything(self) -> None:
        """Say that all that it lacks is on its way."""
        if self.task is not None and not self.task.is_over:
            lacking = Bitmap.full(len(self.verified)).and_not(self.verified)
            for link in self.engine.links.values():
                link.tell(self.task, (), tuple(lacking.indexes()))
            self.tick()

    def set_members(self, members: Sequence[NodeInfo], unlinked: tuple[str, ...] = ()) -> None:
        """Take in the caches that want the title."""
        if self.task is not None and not self.task.is_over:
            self.engine.set_members(self.local_time(), self.task, members, unlinked)
            self.tick()

    def want_links(self, nodes: Iterable[NodeInfo]) -> None:
        """Be linked with these caches from now on."""
        self.engine.want_links(self.local_time(), nodes)
        self.tick()

    def crash(self, *, seen: bool) -> None:
        """End the process. With `seen` the machine lives on and closes the connections, so that others learn of it."""
        self.world.note(self.info.id, "crash" if seen else "gone")
        self.running = False
        self.thaw()
        if self.task is not None and not self.task.is_over:
            self.world.fill_is_over(self.task)
        self.task = None
        self.polled = False
        for read in self.reads.values():
            read.cancel()
        self.reads.clear()
        for connection in list(self.connections.values()):
            if seen:
                connection.break_off()
            else:
                connection.end()
        self.connections.clear()
        for chunks in self.syncing:
            # The sync may or may not have come through.
            if self.world.random.random() < 0.5:
                for chunk in chunks:
                    self.durable.add(chunk)
        self.syncing.clear()
        self.verified = self.durable.copy()
        self.lie = ""

    def boot(self) -> None:
        """Start the process anew."""
        self.world.note(self.info.id, "boot")
        self.running = True
        self.boots += 1
        self._start_process()
        if self.live_at is not None:
            self.engine.serve(self.local_time(), self.world.manifest.title_id, self.world.manifest.chunk_count)

    def freeze(self) -> None:
        """Stop the process as it is; its kernel goes on."""
        self.frozen = True
        for connection in list(self.connections.values()):
            connection.look_at_cut()
            connection.peer.look_at_cut()

    def thaw(self) -> None:
        """Let the process go on."""
        if not self.frozen:
            return
        self.frozen = False
        for connection in list(self.connections.values()):
            connection.look_at_cut()
            connection.peer.look_at_cut()
        deeds, self.frozen_deeds = self.frozen_deeds, []
        for deed, arguments in deeds:
            deed(*arguments)
        self.tick()

    def tell_lies(self, how: str) -> None:
        """Claim to hold everything from now on."""
        self.lie = how
        if self.running:
            for link in self.engine.links.values():
                link.show(self.world.manifest.title_id)
            self.tick()

    # ---- its connections

    def _dial(self, name: str) -> None:
        world = self.world
        route = world.internet.route(self.place, world.caches[name].place)
        if world.internet.is_cut(route):
            world.schedule.after(CONNECT_TIMEOUT_S, self._dial_failed, self.engine, name)
        else:
            world.schedule.after(2 * route.delay_s(), self._connect, self.engine, name)

    def _dial_failed(self, engine: Engine, name: str) -> None:
        if engine is self.engine and self.running and not self._later(self._dial_failed, engine, name):
            engine.dial_failed(self.local_time(), name)
            self.tick()

    def _connect(self, engine: Engine, name: str) -> None:
        if engine is not self.engine or not self.running or self._later(self._connect, engine, name):
            return
        target, internet = self.world.caches[name], self.world.internet
        ways = internet.route(self.place, target.place), internet.route(target.place, self.place)
        if not target.running or internet.is_cut(ways[0]):
            self._dial_failed(engine, name)
            return
        mine, theirs = Connection(self, ways[0], name), Connection(target, ways[1])
        mine.peer, theirs.peer = theirs, mine
        for end in (mine, theirs):
            cache = self if end is mine else target
            cache.connections[end.link] = end
            end.channel.start()
            cache.tick()

    def has_output(self, connection: Connection) -> None:
        """Note that a connection has something to send at the end of the tick."""
        self._output.append(connection)

    def lose(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        if self.connections.pop(connection.link, None) is None:
            return
        self.messages_before += connection.channel.messages_sent
        if connection.link.remote is not None:
            self.world.note(self.info.id, f"lost {connection.link.remote.id}")
        if self.running and not self._later(self._link_ended, connection.link):
            self._link_ended(connection.link)

    def _link_ended(self, link: Link) -> None:
        if self.running:
            self.engine.link_ended(self.local_time(), link)
            self.tick()

    def messages_sent(self) -> int:
        """Return how many control messages it has sent."""
        return self.messages_before + sum(one.channel.messages_sent for one in self.connections.values())

    # ---- what it serves

    def serve(self, uploader: Uploader | None) -> None:
        """Have an uploader send that was handed a slot."""
        if isinstance(uploader, DataStream):
            uploader.serve()

    def can_send(self, link: Link, request_id: int, chunk: int) -> bool:
        """Tell whether it has a chunk to send; a liar that has not refuses, or says nothing."""
        if self.verified[chunk]:
            return True
        if self.lie != "silent":
            link.channel.reject_request(request_id, "failed")
        return False

    def sent(self, link: Link, request_id: int, length: int) -> None:
        """Take note that a chunk was sent whole."""
        self.upload_bytes += length
        self.engine.sent(self.local_time(), link, request_id)

    def fault_of_next(self) -> str:
        """Return what a receiver finds wrong with the chunk that was just sent; nothing as a rule."""
        return "wrong BLAKE3 digest" if self.corrupts else ""

    def waste(self, length: int) -> None:
        """Count payload that came and was of no use."""
        if self.task is not None:
            self.task.fill.duplicate_bytes += length

    def sync_s(self) -> float:
        """Return how long a commit takes now."""
        return self.world.scenario.sync_ms * 1e-3 * self.slow_sync

    # ---- what it reads from the origin

    def _read_next(self) -> None:
        while self._read_queue and len(self._reads_begun) < ORIGIN_READS_MAX:
            read = self._read_queue.popleft()
            if read.wanted:
                self._reads_begun[read] = None
                read.begin()

    def end_read(self, read: OriginRead) -> None:
        """Make room for another read."""
        self._reads_begun.pop(read, None)
        self._read_next()

    def _read_ended(self, task: FillTask, arrival: Arrival) -> None:
        if self.running and not self._later(self._read_ended, task, arrival):
            self.reads.pop(arrival.receive.request_id, None)
            self.engine.read_ended(self.local_time(), task, arrival)
            self.tick()
