"""The tracker, as caches notice it: orders, and rosters that change with a delay. Twin of `tracker.service`.

A cache that is gone is found out after its lease; one that boots is told its orders again. While the tracker is down
nothing is told, and what has changed meanwhile is told when it is back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from msgspec.structs import replace

from p2pfill.engine.hours import Phase
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.sim.cache import Fleet, SimCache
from p2pfill.swarm.neighbourhood import Member, Neighbourhoods, electorate

FOLLOW_PART: Final = 0.25
"""Part of the time that orders take within which a large fleet's changes are taken together: each costs elections."""


class SimTracker:
    """Knows all caches, and tells each of its neighbourhoods."""

    def __init__(self, world: Fleet) -> None:
        self._world = world
        self._around: dict[TitleId, Neighbourhoods] = {}
        """Of titles that are ordered, the most urgent first."""
        self._phases: dict[str, Phase] = {}
        """What caches have said last of their fill windows; those that are not here fill always."""
        self._weights: dict[str, float] = {}
        """And of their health: the part of their weight that is left, where that is not all."""
        self._alive = {cache.info.id: cache.info for cache in world.caches.values() if cache.running}
        self._down = 0
        self._untold: dict[str, None] = {}
        self._turned: dict[NodeId, None] = {}
        """Whose fill windows have opened or closed, and the rosters do not show it yet."""
        self._telling: set[str] = set()
        """Who is about to be told."""

    def begin(self) -> None:
        """Order all titles, each at its time."""
        self._phases = {name: cache.phase for name, cache in self._world.caches.items() if cache.hours is not None}
        for title in self._world.titles.values():
            if title.at_s:
                self._world.schedule.at(title.at_s, self.order, frozenset((title.id,)))
            else:
                self._update_rosters(title.id)
        self._tell_all()

    def order(self, titles: frozenset[TitleId]) -> None:
        """Order titles for all."""
        for title_id in titles:
            self._update_rosters(title_id)
        self._tell_all()

    def withdraw(self, titles: frozenset[TitleId]) -> None:
        """Order titles no more."""
        for title_id in titles:
            self._around.pop(title_id, None)
        self._tell_all()

    def _update_rosters(self, title_id: TitleId) -> None:
        """Make the neighbourhoods of a title with the code of the tracker, bounded where the scenario says so."""
        neighbours = self._world.scenario.neighbours
        bounds: dict[str, Any] = {"everybody_max": 0, "neighbours": neighbours} if neighbours else {}
        around = Neighbourhoods(title_id, self._world.titles[title_id].manifest.chunk_count, **bounds)
        around.put_all(self._members(self._alive.values(), title_id))
        self._around[title_id] = around
        urgencies = {title.id: title.urgency for title in self._world.titles.values()}
        self._around = dict(sorted(self._around.items(), key=lambda item: urgencies[item[0]]))

    def _members(self, infos: Iterable[NodeInfo], title_id: TitleId) -> list[Member]:
        found = [self._member(info, title_id) for info in infos]
        return [member for member in found if member is not None]

    def _member(self, info: NodeInfo, title_id: TitleId) -> Member | None:
        """Return what a cache is to a title; None where it neither wants nor holds it."""
        title = self._world.titles[title_id]
        if not self._is_concerned(info.id, title_id):
            return None
        phase = "open" if title.now else self._phases.get(info.id, "open")
        counts = phase != "closed" and info.id in title.caches
        if (part := self._weights.get(info.id, 1.0)) != 1.0:
            info = replace(info, weight=part * info.weight)
        return Member(info, counts, counts and phase == "soon")

    def _is_concerned(self, name: str, title_id: TitleId) -> bool:
        title = self._world.titles[title_id]
        return name in title.caches or title.held.get(name, 0) > 0

    def _put(self, around: Neighbourhoods, info: NodeInfo, title_id: TitleId) -> set[str]:
        member = self._member(info, title_id)
        if member is None:
            return set()
        return around.put(member.info, counts=member.counts, soon=member.soon)

    # ---- what happens to it

    def go_down(self) -> None:
        """Be away; several outages add up."""
        self._down += 1

    def come_back(self) -> None:
        """Be there again."""
        self._down -= 1
        if not self._down:
            untold, self._untold = self._untold, {}
            for cache in self._world.caches.values():
                self._set_alive(cache, cache.is_up())
                self._take_phase(cache)
            for name in untold:
                self._tell_soon(self._world.caches[name])

    def cache_ended(self, cache: SimCache) -> None:
        """Find out, after its lease, that a cache is gone, or frozen."""
        self._world.schedule.after(self._world.scenario.lease_s, self._expire, cache, cache.boots)

    def cache_booted(self, cache: SimCache) -> None:
        """Hear from a cache again."""
        if not self._down:
            self._set_alive(cache, True)
            self._take_phase(cache)
        self._tell_soon(cache)

    def turned(self, cache: SimCache) -> None:
        """Hear, a little later, that a fill window of a cache has opened or closed; while away, let it do without."""
        if self._down and cache.phase == "open" and self._phases.get(cache.info.id) == "closed":
            self._assume_open(cache)
        self._world.schedule.after(
            self._world.random.uniform(0.0, self._world.scenario.order_ms * 1e-3), self._take_phase, cache
        )

    def _assume_open(self, cache: SimCache) -> None:
        """Have a cache take those for open that it was told were closed; the node's side of it is `node.agent`."""
        for title_id, around in self._around.items():
            task = cache.stored[title_id].task
            if task is None or task.is_over:
                continue
            links = [self._world.caches[name] for name in around.links(cache.info)]
            members, _, unlinked, soon = self._roster(cache, title_id, [link.info for link in links])
            lacking = {
                link.info.id: link.info
                for link in (*links, cache)
                if link.stored[title_id].live_at is None and link.info.id in link.stored[title_id].title.caches
            }
            known = {node.id for node in members}
            members = tuple(node if node.weight else lacking.get(node.id, node) for node in members)
            members += tuple(node for name, node in lacking.items() if name not in known)
            cache.engine.set_members(
                cache.local_time(), task, members, unlinked, cache.stored[title_id].title.wants, soon
            )

    def _take_phase(self, cache: SimCache) -> None:
        name = cache.info.id
        weight = cache.health.step.weight
        turns = cache.hours is not None and self._phases.get(name) != cache.phase
        if self._down or name not in self._alive or not (turns or self._weights.get(name, 1.0) != weight):
            return
        if cache.hours is not None:
            self._phases[name] = cache.phase
        self._weights[name] = weight
        self._turned[cache.info.id] = None
        if not self._is_large():
            self._follow()
        elif len(self._turned) == 1:
            self._world.schedule.after(FOLLOW_PART * self._world.scenario.order_ms * 1e-3, self._follow)

    def _is_large(self) -> bool:
        """Tell whether a roster is one of many: then those of a zone, whose windows open together, turn together."""
        return any(not around.is_small for around in self._around.values())

    def _follow(self) -> None:
        """Let rosters show whose fill windows have opened or closed."""
        turned, self._turned = [self._alive[name] for name in self._turned if name in self._alive], {}
        changed: set[str] = set()
        for title_id, around in self._around.items():
            changed |= around.put_all(self._members(turned, title_id))
        self._tell_these(sorted(changed))

    def _expire(self, cache: SimCache, boots: int) -> None:
        if not self._down and not cache.is_up() and cache.boots == boots:
            self._set_alive(cache, False)

    def _set_alive(self, cache: SimCache, alive: bool) -> None:
        name = cache.info.id
        if (name in self._alive) == alive:
            return
        if alive:
            self._alive[name] = cache.info
        else:
            del self._alive[name]
        changed: set[str] = set()
        for title_id, around in self._around.items():
            changed |= self._put(around, cache.info, title_id) if alive else around.drop(name)
            if around.is_small:
                changed |= self._world.caches.keys()
        self._tell_all() if len(changed) == len(self._world.caches) else self._tell_these(sorted(changed))

    # ---- what it tells

    def _tell_all(self) -> None:
        self._tell_these(list(self._world.caches))

    def _tell_these(self, names: list[str]) -> None:
        for name in names:
            self._tell_soon(self._world.caches[name])

    def _tell_soon(self, cache: SimCache) -> None:
        if self._down:
            self._untold[cache.info.id] = None
        elif not (cache.info.id in self._telling and self._is_large()):
            self._telling.add(cache.info.id)
            delay_s = self._world.random.uniform(0.0, self._world.scenario.order_ms * 1e-3)
            self._world.schedule.after(delay_s, self._tell, cache)

    def _tell(self, cache: SimCache) -> None:
        """Give a cache its orders with the rosters of the moment; the node's side of it is `node.agent`."""
        world = self._world
        self._telling.discard(cache.info.id)
        if self._down:
            self._untold[cache.info.id] = None
        if self._down or not cache.running or cache.later(self._tell, cache):
            return
        links = {
            title_id: [world.caches[name].info for name in around.links(cache.info)]
            for title_id, around in self._around.items()
            if self._is_concerned(cache.info.id, title_id)
        }
        ordered = [title_id for title_id in links if cache.info.id in world.titles[title_id].caches]
        everybody = {info.id: info for infos in links.values() for info in infos}
        cache.take_orders(everybody.values(), {title_id: world.titles[title_id].urgency for title_id in ordered})
        for title_id in ordered:
            if (stored := cache.stored[title_id]).seeks:
                cache.fill(stored, *self._roster(cache, title_id, links[title_id]))
            else:
                cache.tick()
        if world.scenario.poll_s and not cache.polled:
            cache.polled = True
            world.schedule.after(world.scenario.poll_s, self._poll, cache, cache.boots)

    def _roster(
        self, cache: SimCache, title_id: TitleId, links: list[NodeInfo]
    ) -> tuple[tuple[NodeInfo, ...], list[NodeInfo], tuple[str, ...], frozenset[str]]:
        """Return who wants a title, with whom a cache is linked, whom of the former it is not linked with, and who of
        them opens in a moment.
        """
        around = self._around[title_id]
        election = around.election(cache.info)
        if election is None:
            caches = self._world.caches
            lacking = [info for info in links if caches[info.id].stored[title_id].live_at is None]
            wanting = [one for one in (around.members[info.id] for info in lacking) if one.counts]
            soon: frozenset[str] = frozenset(one.info.id for one in wanting if one.soon)
            me = around.members.get(cache.info.id)
            return (*(one.info for one in wanting), me.info if me else cache.info), links, (), soon
        members, unlinked, soon = electorate(cache.info, election, links)
        return members, links, unlinked, soon

    def _poll(self, cache: SimCache, boots: int) -> None:
        """Tell anew what a long poll brings when it ends without news."""
        if cache.running and cache.boots == boots and cache.live_at is None:
            cache.polled = False
            self._tell_soon(cache)
