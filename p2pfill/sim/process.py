"""The process of a cache, as its connections see it: its clock, its engine and when that decides, its upload slots.

A process that is frozen does nothing, and what comes for it waits (`later`); its kernel goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from p2pfill.engine.engine import Effect, Engine
from p2pfill.engine.link import Link
from p2pfill.engine.slots import UploadSlots
from p2pfill.engine.task import NEVER, FillTask
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.sim.disk import NO_LOCK, StoredTitle
from p2pfill.sim.ground import Ground
from p2pfill.sim.network import Place
from p2pfill.swarm import actions


class SimEngine(Engine):
    """An engine whose holdings are looked at, of a cache that may lie."""

    process: Process

    def task_faulted(self, task: FillTask, error: BaseException) -> None:
        """A fault ends the run: it is ours."""
        raise error

    def link_faulted(self, link: Link, error: BaseException) -> None:
        """A fault ends the run: it is ours."""
        raise error

    def _perform(self, task: FillTask, action: actions.Action) -> None:
        """Do what a fill wants done; who claims without fetching asks for nothing."""
        if self.process.lie != "claim" or not isinstance(action, actions.RequestChunk):
            super()._perform(task, action)

    def shown(self, title_id: TitleId) -> Bitmap | None:
        """Return what others are told; a liar claims everything."""
        held, process = super().shown(title_id), self.process
        if held is None:
            return None
        if process.lie in ("reject", "silent"):
            return Bitmap.full(len(held))
        process.world.checkers.showed(process.info.id, process.stored[title_id].right, held)
        return held


class Process:
    """One cache's; `cache.SimCache` says what its engine's effects do."""

    def __init__(self, world: Ground, info: NodeInfo, place: Place) -> None:
        self.world = world
        self._schedule = world.schedule
        self.info = info
        self.place = place
        self.running = True
        self.frozen = False
        """It stands still, as one that is stopped or moved to another machine does."""
        self._frozen_deeds: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        """What is to be done once it goes on."""
        self.boots = 0
        self.clock_offset_s = 0.0
        self.clock_rate = 1.0
        """Seconds of its clock a second."""
        self.stored = {title.id: StoredTitle(title, title.wanted(info.id)) for title in world.titles.values()}
        for stored in self.stored.values():
            stored.hold(stored.title.held.get(info.id, 0))
        self.lie = ""
        """`reject` or `silent`: it claims to hold everything, and does that when asked for what it lacks. `claim`: it
        says that it is fetching everything, and asks for nothing."""
        self.answers: dict[str, frozenset[TitleId]] = {}
        """How what it sends is wrong (`connection.Foul`), and of which titles."""
        self.upload_bytes = 0
        self.messages_before = 0
        """Control messages sent on links that have ended."""
        self._start()

    def _start(self) -> None:
        world = self.world
        chance = Random(f"engine {world.seed} {self.info.id} {self.boots}")  # noqa: S311 (a simulation)
        self.engine = SimEngine(self.info, chance, self._token_bytes, lambda: NO_LOCK, world.scenario.upload_slots)
        self.engine.process = self
        self.slots = UploadSlots(world.scenario.upload_slots)
        self.connections: dict[Link, Any] = {}
        """Of kind `connection.Connection`."""
        self._tokens = 0
        self._output: list[Any] = []
        self._wake_at = NEVER
        self._clock_floor = 0.0

    def _token_bytes(self, count: int) -> bytes:
        self._tokens += 1
        return self._tokens.to_bytes(count, "big")

    def is_up(self) -> bool:
        """Tell whether it does anything."""
        return self.running and not self.frozen

    # ---- its clock

    def local_time(self) -> float:
        """Return what its clock shows; it never goes back."""
        local = self.clock_offset_s + self._schedule.now * self.clock_rate
        if local > self._clock_floor:
            self._clock_floor = local
        return self._clock_floor

    def _global_time(self, local: float) -> float:
        """Return when its clock will show `local`."""
        return (local - self.clock_offset_s) / self.clock_rate

    # ---- the engine

    def tick(self) -> None:
        """Have the engine decide, and do what it wants; what it says goes out at the end."""
        if not self.running or self.frozen:
            return
        engine, now = self.engine, self.local_time()
        if not self._output and self._wake_at != NEVER and engine.is_settled(now):
            return
        while effects := engine.poll(now):
            for effect in effects:
                self.perform(effect)
        if self._output:
            output, self._output = self._output, []
            for connection in output:
                connection.post()
        wake_at = engine.next_wakeup()
        if wake_at < self._wake_at:
            self._wake_at = wake_at
            self.world.schedule.at(self._global_time(wake_at), self._wake_up, engine, wake_at)

    def _wake_up(self, engine: Engine, wake_at: float) -> None:
        if self.running and engine is self.engine and wake_at == self._wake_at:
            self._wake_at = NEVER
            if not self.frozen:
                self._clock_floor = max(self._clock_floor, wake_at)
                self.tick()

    def perform(self, effect: Effect) -> None:
        """Do what the engine wants done."""
        raise NotImplementedError

    # ---- frozen

    def later(self, deed: Callable[..., object], *arguments: Any) -> bool:
        """Put something off that comes to a frozen process; False where it is not frozen."""
        if self.frozen:
            self._frozen_deeds.append((deed, arguments))
        return self.frozen

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
            connection.look_at_cut(thawed=True)
            connection.peer.look_at_cut()
        deeds, self._frozen_deeds = self._frozen_deeds, []
        for deed, arguments in deeds:
            deed(*arguments)
        self.tick()

    # ---- its connections

    def has_output(self, connection: Any) -> None:
        """Note that a connection has something to send at the end of the moment."""
        self._output.append(connection)

    def lose(self, connection: Any) -> None:
        """Take note that a connection is gone."""
        if self.connections.pop(connection.link, None) is None:
            return
        self.messages_before += connection.channel.messages_sent
        if connection.link.remote is not None:
            self.world.note(self.info.id, f"lost {connection.link.remote.id}")
        if self.running and not self.later(self._link_ended, connection.link):
            self._link_ended(connection.link)

    def _link_ended(self, link: Link) -> None:
        if self.running:
            self.engine.link_ended(self.local_time(), link)
            self.tick()

    def messages_sent(self) -> int:
        """Return how many control messages it has sent."""
        open_links: int = sum(one.channel.messages_sent for one in self.connections.values())
        return self.messages_before + open_links

    # ---- what it serves

    def can_send(self, link: Link, request_id: int, title: TitleId, chunk: int) -> bool:
        """Tell whether it has a chunk to send; a liar that has not refuses, or says nothing."""
        if self.stored[title].sealed[chunk]:
            return True
        if self.lie != "silent":
            link.channel.reject_request(request_id, "failed")
        return False

    def sent(self, link: Link, request_id: int, length: int) -> None:
        """Take note that a chunk was sent whole."""
        self.upload_bytes += length
        self.engine.sent(self.local_time(), link, request_id)

    def waste(self, title: TitleId, length: int) -> None:
        """Count payload of a title that came and was of no use."""
        if (task := self.stored[title].task) is not None:
            task.fill.duplicate_bytes += length
