"""One cache: a machine with a disk and connections, and the process on it that comes and goes.

The process runs the engine that ships (`p2pfill.engine`); this is its driver in virtual time, as `p2pfill.node` is in
Trio. What takes time (dials, origin reads, commits, go-live) comes back as deeds of the schedule. A crash makes a new
engine at the next boot; whatever is then still scheduled for the old one finds that out and does nothing.

What survives a crash is what the journals hold (`disk.StoredTitle.durable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Final

from p2pfill.engine.dialler import Dial
from p2pfill.engine.engine import Effect, Engine, Faulted, Warn
from p2pfill.engine.health import STEPS, Health
from p2pfill.engine.hours import Phase
from p2pfill.engine.link import OpenStream, WakeUploads
from p2pfill.engine.task import BeginWriteOut, Commit, EndFill, FillTask, GoLive, LimitSlots, ReadOrigin, StopRead
from p2pfill.errors import StoreError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.fleet_policy import settings_for
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.timing import CONNECT_TIMEOUT_S
from p2pfill.model.urgency import Urgency
from p2pfill.sim.checkers import CheckedFill
from p2pfill.sim.connection import Connection, serve
from p2pfill.sim.disk import StoredTitle
from p2pfill.sim.ground import Ground
from p2pfill.sim.hours import hours_of
from p2pfill.sim.network import Place
from p2pfill.sim.origin import Reader
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.trace import Trace

HOURS_LATE_S: Final = 1e-6
"""What a look is late: a moment that a float has made a little early would find the window as it was."""


HEALTH_LOOK_S: Final = 1.0
"""How often a cache looks how busy it is."""


class SimCache(Reader):
    """One cache of the world."""

    world: Fleet

    def __init__(self, world: Fleet, info: NodeInfo, place: Place, origin_weight: float = 1.0) -> None:
        super().__init__(world, info, place, origin_weight)
        self.lost = False
        """It will never come back."""
        self.polled = False
        """A long poll for orders is open."""
        self.slow_sync = 1.0
        self.busy = 0.0
        """How busy it is with its viewers, from 0 to 1."""
        self.health = Health()
        self.hours = hours_of(world.scenario, settings_for(world.rules, info), info, lambda: world.schedule.now)
        self.turned_at = 0.0
        """When a window of it opened or closed last."""
        self.turns_at = 0.0
        """When its windows are looked at next: till then nothing changes by the clock."""
        self._hours_number = 0
        """Of the last look that was planned: the others are void."""
        self.ordered: set[TitleId] = set()
        """What it was told last to hold."""

    @property
    def live_at(self) -> float | None:
        """When the last of its titles went live that are ordered and not withdrawn; None while one is not."""
        withdrawn, name = self.world.withdrawn, self.info.id
        times = [
            stored.live_at
            for title_id, stored in self.stored.items()
            if title_id not in withdrawn and name in stored.title.caches
        ]
        return None if None in times else max((at_s for at_s in times if at_s is not None), default=0.0)

    @property
    def task(self) -> FillTask | None:
        """The fill of the first title that runs, or the last one that did."""
        return next(iter(self.stored.values())).task

    def held_chunks(self) -> int:
        """Return how many chunks of all titles it has."""
        return sum(stored.sealed.count() for stored in self.stored.values())

    # ---- what the engine wants done

    def perform(self, effect: Effect) -> None:
        """Do it, or have the schedule do it when it has taken its time."""
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
                serve(self.slots.limit(task.title_id, slots))
            case ReadOrigin(task, _, receive):
                self.read(task, receive)
            case StopRead(_, receive):
                if (stopped := self.reads.pop(receive, None)) is not None:
                    stopped.cancel()
            case Commit(task, chunks):
                self.stored[task.title_id].syncing.append(chunks)
                schedule.after(self.sync_s(), self._committed, self.engine, task, chunks, self.sync_s())
            case BeginWriteOut(task, _):
                self.engine.write_out_begun(self.local_time(), task)
            case GoLive(task):
                self.world.note(self.info.id, "complete")
                schedule.after(self.world.scenario.sync_ms * 1e-3, self.go_live, self.engine, task)
            case EndFill() | Faulted() | Warn():
                pass

    def sync_s(self) -> float:
        """Return how long a commit takes now."""
        return self.world.scenario.sync_ms * 1e-3 * self.slow_sync

    def _committed(self, engine: Engine, task: FillTask, chunks: list[int], took_s: float) -> None:
        if engine is not self.engine or not self.running or self.later(self._committed, engine, task, chunks, took_s):
            return
        stored = self.stored[task.title_id]
        stored.syncing.remove(chunks)
        try:
            stored.commit(chunks)
        except StoreError as error:
            engine.fail(self.local_time(), task, error)
        else:
            engine.committed(self.local_time(), task, chunks, took_s)
        self.tick()

    def go_live(self, engine: Engine, task: FillTask) -> None:
        """Show the title."""
        if engine is not self.engine or not self.running or self.later(self.go_live, engine, task) or task.is_over:
            return
        stored = self.stored[task.title_id]
        self.world.checkers.went_live(self.info.id, stored.right, stored.durable, stored.wanted)
        self.world.note(self.info.id, "live")
        stored.live_at = self.world.schedule.now
        engine.went_live(self.local_time(), task)
        self.world.title_is_over(self, task.title_id)
        self.tick()

    # ---- its fill windows

    @property
    def phase(self) -> Phase:
        """Whether it fills now, as far as it has said."""
        return "open" if self.hours is None else self.hours.phase

    def look_at_hours(self, number: int | None = None) -> None:
        """Open or close, and look again when that may change."""
        if self.hours is None or not self.running or number not in (None, self._hours_number):
            return
        if self.later(self.look_at_hours):
            return
        before = self.phase
        phase, in_s = self.hours.look(self.local_time(), self.engine)
        self._hours_number += 1
        self.turns_at = self.world.schedule.now + in_s
        self.world.schedule.after(in_s + HOURS_LATE_S, self.look_at_hours, self._hours_number)
        self.world.internet.set_limits(self.place, self.hours.limits)
        if phase != before:
            self.turned_at = self.world.schedule.now
            self.world.note(self.info.id, f"window {phase}")
            self.world.turned(self)
        self.tick()

    def may_read(self, title_id: TitleId, length: int) -> str:
        """Let a read of the origin begin, or return the budget that has nothing left for it."""
        return self.world.may_read(self, self.world.titles[title_id].origin, length)

    def read_is_over(self, title_id: TitleId, length: int, came: int) -> None:
        """Have what has come count."""
        self.world.read_is_over(self, self.world.titles[title_id].origin, length, came)

    def may_ask(self, title_id: TitleId) -> bool:
        """Tell whether its windows let it ask for chunks of a title."""
        return self.phase == "open" or self.world.titles[title_id].now

    # ---- its viewers

    def look_at_health(self, boots: int) -> None:
        """Take in how busy it is, and look again while that may change; the node's side of it is `node.health`."""
        if not self.running or self.boots != boots or self.later(self.look_at_health, boots):
            return
        if self.health.look(self.local_time(), self.busy):
            self.engine.set_admits(self.local_time(), self.health.step.admits)
            self.world.note(self.info.id, f"health {self.health.step.weight}")
            self.world.turned(self)
        if self.busy or self.health.step is not STEPS[0]:
            self.world.schedule.after(HEALTH_LOOK_S, self.look_at_health, boots)

    # ---- what it is told

    def take_orders(self, links: Iterable[NodeInfo], urgencies: Mapping[TitleId, Urgency]) -> None:
        """Take in whom to be linked with, and what is ordered; the fills of what is not any more end."""
        now = self.local_time()
        self.engine.want_links(now, links)
        self.tick()
        for title_id, task in list(self.engine.tasks.items()):
            if title_id not in urgencies:
                self.engine.withdraw(now, task)
        gone, self.ordered = self.ordered - urgencies.keys(), set(urgencies)
        self.engine.set_urgencies(now, urgencies, gone)

    def fill(
        self,
        stored: StoredTitle,
        members: Sequence[NodeInfo],
        links: Iterable[NodeInfo],
        unlinked: tuple[str, ...],
        soon: frozenset[str] = frozenset(),
    ) -> None:
        """Take the order to hold a title, or who wants it now: `links` are those of `members`, and who holds it."""
        now, task = self.local_time(), stored.task
        if task is not None and not task.is_over:
            self.engine.set_members(now, task, members, unlinked, stored.title.wants, soon)
        elif stored.live_at is None:
            world, unheard = self.world, {info.id for info in links} - {self.info.id}
            stored.begin_again()
            title = stored.title
            chance = Random(f"{world.seed}{self.info.id}{world.schedule.now!r}")  # noqa: S311 (a simulation)
            logic = CheckedFill(
                world.checkers, title.manifest, self.info, world.policy_for(self.info, title), chance, now,
                stored.durable.copy(),
                heard=not unheard, sealed=stored.sealed, right=stored.right, urgency=title.urgency,
                beside=self.engine.tasks, wanted=stored.title.wanted(self.info.id),
                may_ask=partial(self.may_ask, title.id),
            )  # fmt: skip
            origins = [world.scenario.origin]
            wants = stored.title.wants
            stored.task = self.engine.begin_fill(
                now, logic, stored, origins, members, unlinked, unheard, wants=wants, soon=soon
            )
            stored.task.origin_news = self.origin_news
            stored.task.origins_held_back = self.origins_held_back
        self.tick()

    def tell_lies(self, how: str) -> None:
        """Claim to hold everything from now on."""
        self.lie = how
        if self.running:
            for link in self.engine.links.values():
                for title_id in self.stored:
                    link.show(title_id)
            self.tick()

    def claim_everything(self) -> None:
        """Say that all that it lacks is on its way."""
        for task in self.engine.tasks.values():
            sealed = self.stored[task.title_id].sealed
            lacking = Bitmap.full(len(sealed)).and_not(sealed)
            for link in self.engine.links.values():
                link.tell(task, (), tuple(lacking.indexes()))
        self.tick()

    # ---- its process

    def crash(self, *, seen: bool) -> None:
        """End the process. With `seen` the machine lives on and closes the connections, so that others learn of it."""
        self.world.note(self.info.id, "crash" if seen else "gone")
        self.running = False
        self.thaw()
        self.polled = False
        self.stop_reads()
        for connection in list(self.connections.values()):
            if seen:
                connection.break_off()
            else:
                connection.end()
        self.connections.clear()
        chance = self.world.random
        for stored in self.stored.values():
            for chunks in stored.syncing:
                # The sync may or may not have come through.
                if chance.random() < 0.5:
                    stored.durable.add_all(chunks)
            stored.end()
        self.lie = ""

    def lose_database(self, *, all_of_it: bool) -> None:
        """Boot with empty journals, or with older ones: what was live is then filled anew."""
        chance = self.world.random
        for stored in self.stored.values():
            for chunk in list(stored.durable.indexes()):
                if all_of_it or chance.random() < 0.5:
                    stored.durable.discard(chunk)
            stored.end()
            if stored.live_at is not None and stored.lacks_any():
                stored.live_at = None
                self.world.title_is_awaited(self, stored.title.id)

    def boot(self) -> None:
        """Start the process anew."""
        self.world.note(self.info.id, "boot")
        self.running = True
        self.boots += 1
        self._start()
        self.health = Health()
        self.look_at_health(self.boots)
        self.begin()

    def begin(self) -> None:
        """Serve what is there, learn of what goes out of cycle, and look at the windows for the first time."""
        for title_id, stored in self.stored.items():
            is_left = self.info.id not in stored.title.caches and stored.durable.any()
            if stored.live_at is not None or is_left:
                self.engine.serve(self.local_time(), title_id, stored.durable)
        self.engine.set_exempt(self.local_time(), [title.id for title in self.world.titles.values() if title.now])
        self.world.process_began(self)
        self.look_at_hours()

    # ---- its connections

    def _dial(self, name: str) -> None:
        world = self.world
        route = world.internet.route(self.place, world.caches[name].place)
        if world.internet.is_cut(route):
            world.schedule.after(CONNECT_TIMEOUT_S, self._dial_failed, self.engine, name)
        else:
            world.schedule.after(2 * route.delay_s(), self._connect, self.engine, name)

    def _dial_failed(self, engine: Engine, name: str) -> None:
        if engine is self.engine and self.running and not self.later(self._dial_failed, engine, name):
            engine.dial_failed(self.local_time(), name)
            self.tick()

    def _connect(self, engine: Engine, name: str) -> None:
        if engine is not self.engine or not self.running or self.later(self._connect, engine, name):
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
            end.look_at_cut()


class Fleet(Ground):
    """A world with caches, and what befalls it as a whole."""

    def __init__(self, scenario: Scenario, seed: int, trace: Trace) -> None:
        super().__init__(scenario, seed, trace)
        self.caches: dict[str, SimCache] = {}
        self.awaited: dict[str, set[TitleId]] = {}
        """Caches that shall complete and have not -> the titles that they lack."""
        self._origin_outages = 0

    @property
    def live_count(self) -> int:
        """How many caches are complete, or lost for good."""
        return len(self.caches) - len(self.awaited)

    def title_is_over(self, cache: SimCache, title_id: TitleId) -> None:
        """Take note that a cache has a title, or will never have it."""
        titles = self.awaited.get(cache.info.id, set())
        titles.discard(title_id)
        if not titles:
            self.awaited.pop(cache.info.id, None)

    def title_is_awaited(self, cache: SimCache, title_id: TitleId) -> None:
        """Take note that a cache has to have a title anew, if it ever will."""
        if not cache.lost and title_id not in self.withdrawn:
            self.awaited.setdefault(cache.info.id, set()).add(title_id)

    def turned(self, cache: SimCache) -> None:
        """Take note that a fill window of a cache has opened or closed."""
        raise NotImplementedError

    def process_began(self, cache: SimCache) -> None:
        """Take note that a cache's process has begun."""
        raise NotImplementedError

    def may_read(self, cache: SimCache, origin: str, length: int) -> str:
        """Return the budget that does not let a cache read from an origin now."""
        raise NotImplementedError

    def read_is_over(self, cache: SimCache, origin: str, length: int, came: int) -> None:
        """Take note of what came of a read."""
        raise NotImplementedError

    def cache_is_lost(self, cache: SimCache) -> None:
        """Take note that a cache will never complete."""
        cache.lost = True
        self.awaited.pop(cache.info.id, None)

    def isps(self) -> set[str]:
        """Return the names of all ISPs, that of the origin among them."""
        return {cache.info.isp for cache in self.caches.values()} | {self.scenario.origin_isp}

    def set_origin(self, *, up: bool) -> None:
        """Begin or end an outage of the origin; several add up."""
        self._origin_outages += -1 if up else 1
        self.origin_up = not self._origin_outages
        self.look_at_reads()

    def look_at_reads(self) -> None:
        """Take note that the origin answers otherwise than before."""
        for read in list(self.origin_reads):
            read.look_at_cut()

    def look_at_cuts(self) -> None:
        """Take note that what is cut off has changed."""
        for cache in self.caches.values():
            for connection in list(cache.connections.values()):
                connection.look_at_cut()
        self.look_at_reads()
