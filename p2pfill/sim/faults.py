"""What can go wrong: kinds of faults, how each begins and is healed, and how they are drawn from a seed.

Faults of one kind on one cache may overlap; each undoes only its own. All heal but `loss`: then everything else must
complete (`checkers`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isinf
from random import Random
from typing import Final

from p2pfill.errors import ConfigError
from p2pfill.model.timing import PROGRESS_S
from p2pfill.sim.cache import Fleet, SimCache
from p2pfill.sim.scenario import FaultSpec, Scenario
from p2pfill.sim.tracker import SimTracker

Undo = Callable[[], None]

SHORTEST_S: Final = 0.2
"""A fault that is healed sooner is hardly one."""

LOOK_S: Final = 0.01
"""How often it is looked whether a cache has as much as a fault waits for."""

DRIP_BYTES_S: Final = 32 * 1024
"""What a source gives that drips: 256 KiB each 8 s."""

FLAP_S: Final = 1.0
"""How often a link that flaps breaks."""


class Faults:
    """The faults of one run."""

    def __init__(self, world: Fleet, tracker: SimTracker) -> None:
        self._world = world
        self._tracker = tracker
        self._holds: dict[str, int] = {}
        """Cache -> how many faults keep it down."""
        self.begun = 0
        self.healed_at = 0.0
        """When the last fault is healed."""

    def plan(self, specs: list[FaultSpec]) -> None:
        """Enter all faults into the schedule. Raises `ConfigError` for an unknown kind or place."""
        for spec in specs:
            begin = KINDS.get(spec.kind)
            if begin is None:
                raise ConfigError(f"there is no fault of kind {spec.kind!r}; there are: {', '.join(KINDS)}")
            if spec.node and spec.node not in self._world.caches and spec.node not in self._world.isps():
                raise ConfigError(f"fault {spec.kind}: there is no cache and no ISP {spec.node!r}")
            if not self._world.titles_named(spec.title):
                raise ConfigError(f"fault {spec.kind}: there is no title {spec.title!r}")
            if spec.at_part is not None:
                self._cache(spec)
            for_s = 0.0 if isinf(spec.for_s) else spec.for_s
            self.healed_at = max(self.healed_at, spec.at_s + for_s)
            self._world.schedule.at(spec.at_s, self._begin_when_due, spec)

    def _begin_when_due(self, spec: FaultSpec) -> None:
        """Begin a fault, once the cache has as much as it says."""
        if spec.at_part is not None:
            cache = self._cache(spec)
            count = sum(stored.wanted.count() for stored in cache.stored.values())
            if cache.held_chunks() < min(int(spec.at_part * count), count - 1):
                self._world.schedule.after(LOOK_S, self._begin_when_due, spec)
                return
        self._begin(spec)

    def _begin(self, spec: FaultSpec) -> None:
        self.begun += 1
        self._world.note("-", f"fault {spec.kind} {spec.node} for {spec.for_s!r} s")
        undo = KINDS[spec.kind](self, spec)
        if undo is not None and not isinf(spec.for_s):
            self.healed_at = max(self.healed_at, self._world.schedule.now + spec.for_s)
            self._world.schedule.after(spec.for_s, self._heal, spec, undo)

    def _heal(self, spec: FaultSpec, undo: Undo) -> None:
        self._world.note("-", f"healed {spec.kind} {spec.node}")
        undo()

    # ---- the kinds

    def crash(self, spec: FaultSpec) -> Undo | None:
        """Its process ends and is started again."""
        cache = self._cache(spec)
        self._take_down(cache, seen=True)
        return lambda: self._bring_up(cache)

    def vanish(self, spec: FaultSpec) -> Undo | None:
        """Its machine loses power and is started again; nobody is told."""
        cache = self._cache(spec)
        mend = self._cut(cache.info.id)
        self._take_down(cache, seen=False)

        def undo() -> None:
            mend()
            self._bring_up(cache)

        return undo

    def _database_lost(self, spec: FaultSpec, *, all_of_it: bool) -> Undo | None:
        cache = self._cache(spec)
        self._take_down(cache, seen=True)
        cache.lose_database(all_of_it=all_of_it)
        return lambda: self._bring_up(cache)

    def database_lost(self, spec: FaultSpec) -> Undo | None:
        """Its process ends, and when it is started again its journals are empty, those of live titles too."""
        return self._database_lost(spec, all_of_it=True)

    def database_older(self, spec: FaultSpec) -> Undo | None:
        """Its process ends, and when it is started again half of what its journals held is not in them."""
        return self._database_lost(spec, all_of_it=False)

    def loss(self, spec: FaultSpec) -> Undo | None:
        """Its machine loses power for good."""
        cache = self._cache(spec)
        self._world.cache_is_lost(cache)
        self._cut(cache.info.id)
        self._take_down(cache, seen=False)
        return None

    def partition(self, spec: FaultSpec) -> Undo | None:
        """A cache, or an ISP, is cut off."""
        return self._cut(spec.node)

    def slow(self, spec: FaultSpec) -> Undo | None:
        """Its link carries less."""
        place = self._cache(spec).place
        self._world.internet.set_pace(place, spec.factor)
        return lambda: self._world.internet.set_pace(place, 1.0)

    def slow_disk(self, spec: FaultSpec) -> Undo | None:
        """Its commits take longer."""
        cache = self._cache(spec)
        cache.slow_sync = 1 / spec.factor

        def undo() -> None:
            cache.slow_sync = 1.0

        return undo

    def busy(self, spec: FaultSpec) -> Undo | None:
        """Its viewers take so much of its link that `factor` of what it sends is left for other caches, as it says."""
        cache, internet = self._cache(spec), self._world.internet

        def set_busy(busy: float) -> None:
            cache.busy = busy
            internet.set_pace(cache.place, spec.factor if busy else 1.0, down=False)
            cache.look_at_health(cache.boots)

        set_busy(1.0 - spec.factor)
        return partial(set_busy, 0.0)

    def lie_reject(self, spec: FaultSpec) -> Undo | None:
        """It claims all chunks, and refuses those that it lacks."""
        return self._lie(self._cache(spec), "reject")

    def lie_silent(self, spec: FaultSpec) -> Undo | None:
        """It claims all chunks, and never answers for those that it lacks."""
        return self._lie(self._cache(spec), "silent")

    def _foul(self, spec: FaultSpec) -> Undo | None:
        cache = self._cache(spec)
        titles = cache.answers[spec.kind] = self._world.titles_named(spec.title)
        if spec.kind != "answer-late":
            self._world.checkers.guilty.add(cache.info.id)

        def undo() -> None:
            if cache.answers.get(spec.kind) is titles:
                del cache.answers[spec.kind]

        return undo

    def corrupt(self, spec: FaultSpec) -> Undo | None:
        """What it sends is wrong."""
        return self._foul(spec)

    def answer_twice(self, spec: FaultSpec) -> Undo | None:
        """It answers each request twice: with the chunk, then with garbage."""
        return self._foul(spec)

    def answer_mended(self, spec: FaultSpec) -> Undo | None:
        """It answers each request twice: with garbage, then with the chunk."""
        return self._foul(spec)

    def answer_late(self, spec: FaultSpec) -> Undo | None:
        """It answers what was withdrawn before it had begun, with the chunk or with garbage."""
        return self._foul(spec)

    def answer_crosswise(self, spec: FaultSpec) -> Undo | None:
        """Of two requests it sends the second's chunk under the header of the first, or under its id."""
        return self._foul(spec)

    def answer_interleaved(self, spec: FaultSpec) -> Undo | None:
        """On a second stream it answers each request with garbage, around the last bytes of the right answer."""
        return self._foul(spec)

    def answer_unasked(self, spec: FaultSpec) -> Undo | None:
        """It sends garbage that nobody has asked for."""
        return self._foul(spec)

    def disk_refuses(self, spec: FaultSpec) -> Undo | None:
        """What it writes of a title is refused; a long poll later it tries anew."""
        cache = self._cache(spec)
        stored = [cache.stored[title_id] for title_id in self._world.titles_named(spec.title)]
        for one in stored:
            one.refuses = True

        def undo() -> None:
            for one in stored:
                one.refuses = False

        return undo

    def withdraw(self, spec: FaultSpec) -> Undo | None:
        """A title is ordered no more, then once more; for good where it is not healed."""
        titles = self._world.titles_named(spec.title)
        self._tracker.withdraw(titles)
        if isinf(spec.for_s):
            self._world.withdrawn |= titles
            for cache in self._world.caches.values():
                for title_id in titles:
                    self._world.title_is_over(cache, title_id)
        return lambda: self._tracker.order(titles)

    def origin_outage(self, spec: FaultSpec) -> Undo | None:
        """The origin refuses connections and drops those that it has."""
        self._world.set_origin(up=False)
        return lambda: self._world.set_origin(up=True)

    def origin_corrupt(self, spec: FaultSpec) -> Undo | None:
        """What the origin sends is wrong."""
        world = self._world
        world.checkers.guilty.add(world.scenario.origin)
        world.origin_corrupts = world.titles_named(spec.title)

        def undo() -> None:
            world.origin_corrupts = frozenset()

        return undo

    def tracker_outage(self, spec: FaultSpec) -> Undo | None:
        """The tracker is away: nobody is told of a change."""
        self._tracker.go_down()
        return self._tracker.come_back

    def freeze(self, spec: FaultSpec) -> Undo | None:
        """Its process stands still, as one that is stopped, or whose machine is moved; then it goes on."""
        cache = self._cache(spec)
        if not cache.running or cache.frozen:
            return None
        boots = cache.boots
        cache.freeze()
        self._tracker.cache_ended(cache)  # which hears nothing from it

        def undo() -> None:
            if cache.boots == boots and cache.running:
                cache.thaw()
                self._tracker.cache_booted(cache)

        return undo

    def link(self, spec: FaultSpec) -> Undo | None:
        """One of its links breaks."""
        connections = list(self._cache(spec).connections.values())
        if connections:
            self._world.random.choice(connections).break_off()
        return None

    def origin_refused(self, spec: FaultSpec) -> Undo | None:
        """What it asks the origin for is refused at once: its proxy is dead."""
        cache = self._cache(spec)

        def refuse(refused: bool) -> None:
            cache.is_refused = refused
            self._world.look_at_reads()

        refuse(True)
        return partial(refuse, False)

    def origin_lost(self, spec: FaultSpec) -> Undo | None:
        """Nothing that the origin sends reaches it, and nobody says so: a firewall."""
        return self._lose_way(self._world.scenario.origin, self._cache(spec).info.id)

    def one_way(self, spec: FaultSpec) -> Undo | None:
        """What it sends to one other cache is lost, and that one's messages reach it."""
        cache = self._cache(spec)
        others = [name for name in cache.engine.links if not spec.peer or name == spec.peer]
        if not others:
            return None
        return self._lose_way(cache.info.id, self._world.random.choice(others))

    def lie_claim(self, spec: FaultSpec) -> Undo | None:
        """It says again and again that it is fetching all that it lacks, and fetches nothing."""
        cache = self._cache(spec)
        undo = self._lie(cache, "claim")
        self._claim(cache, cache.boots)
        return undo

    def _claim(self, cache: SimCache, boots: int) -> None:
        if cache.running and cache.boots == boots and cache.lie == "claim":
            cache.claim_everything()
            self._world.schedule.after(PROGRESS_S, self._claim, cache, boots)

    def drip(self, spec: FaultSpec) -> Undo | None:
        """What it sends drips: it shows that it is at it, and hardly anything comes."""
        place = self._cache(spec).place
        self._world.internet.flows.set_rate(place.up, min(place.up_rate, DRIP_BYTES_S))
        return lambda: self._world.internet.set_pace(place, 1.0, down=False)

    def slow_origin(self, spec: FaultSpec) -> Undo | None:
        """The origin's link carries less."""
        internet = self._world.internet
        internet.set_pace(internet.origin, spec.factor)
        return lambda: internet.set_pace(internet.origin, 1.0)

    def flap(self, spec: FaultSpec) -> Undo | None:
        """All of its links break, again and again."""
        cache = self._cache(spec)
        until = self._world.schedule.now + spec.for_s

        def again() -> None:
            if self._world.schedule.now < until:
                for connection in list(cache.connections.values()):
                    connection.break_off()
                self._world.schedule.after(FLAP_S, again)

        again()
        return lambda: None

    # ---- helpers

    def _cache(self, spec: FaultSpec) -> SimCache:
        if spec.node not in self._world.caches:
            raise ConfigError(f"fault {spec.kind} needs a cache, not {spec.node!r}")
        return self._world.caches[spec.node]

    def _changing(self, begin: Callable[[], None], end: Callable[[], None]) -> Undo:
        """Change what is cut off, and return what undoes it; several such changes add up."""

        def change(how: Callable[[], None]) -> None:
            how()
            self._world.look_at_cuts()

        change(begin)
        return partial(change, end)

    def _cut(self, name: str) -> Undo:
        internet = self._world.internet
        return self._changing(partial(internet.cut, name), partial(internet.mend, name))

    def _lose_way(self, *ends: str) -> Undo:
        internet = self._world.internet
        return self._changing(partial(internet.lose_way, *ends), partial(internet.mend_way, *ends))

    def _take_down(self, cache: SimCache, *, seen: bool) -> None:
        name = cache.info.id
        self._holds[name] = self._holds.get(name, 0) + 1
        if cache.running:
            cache.crash(seen=seen)
            self._tracker.cache_ended(cache)

    def _bring_up(self, cache: SimCache) -> None:
        name = cache.info.id
        self._holds[name] -= 1
        if not self._holds[name] and not cache.lost:
            cache.boot()
            self._tracker.cache_booted(cache)

    def _lie(self, cache: SimCache, how: str) -> Undo:
        cache.tell_lies(how)

        def undo() -> None:
            # What it has said cannot be taken back but by starting anew.
            if not cache.running:
                cache.lie = ""
            elif cache.lie:
                self._take_down(cache, seen=True)
                self._world.schedule.after(SHORTEST_S, self._bring_up, cache)

        return undo


KINDS: Final[dict[str, Callable[[Faults, FaultSpec], Undo | None]]] = {
    "crash": Faults.crash,
    "vanish": Faults.vanish,
    "loss": Faults.loss,
    "database-lost": Faults.database_lost,
    "database-older": Faults.database_older,
    "partition": Faults.partition,
    "slow": Faults.slow,
    "slow-disk": Faults.slow_disk,
    "busy": Faults.busy,
    "lie-reject": Faults.lie_reject,
    "lie-silent": Faults.lie_silent,
    "corrupt": Faults.corrupt,
    "answer-twice": Faults.answer_twice,
    "answer-mended": Faults.answer_mended,
    "answer-late": Faults.answer_late,
    "answer-crosswise": Faults.answer_crosswise,
    "answer-interleaved": Faults.answer_interleaved,
    "answer-unasked": Faults.answer_unasked,
    "disk-refuses": Faults.disk_refuses,
    "withdraw": Faults.withdraw,
    "origin-outage": Faults.origin_outage,
    "origin-corrupt": Faults.origin_corrupt,
    "tracker-outage": Faults.tracker_outage,
    "link": Faults.link,
    "freeze": Faults.freeze,
    "origin-refused": Faults.origin_refused,
    "origin-lost": Faults.origin_lost,
    "one-way": Faults.one_way,
    "lie-claim": Faults.lie_claim,
    "drip": Faults.drip,
    "slow-origin": Faults.slow_origin,
    "flap": Faults.flap,
}


def draw(scenario: Scenario, random: Random) -> list[FaultSpec]:
    """Return the faults of the scenario, and those that its `chaos` draws."""
    chaos = scenario.chaos
    drawn = list(scenario.faults)
    if chaos is None:
        return drawn
    names = [info.id for info in scenario.infos()]
    places = [*names, *dict.fromkeys(info.isp for info in scenario.infos()), scenario.origin_isp]
    kinds = list(chaos.kinds or KINDS)
    lost = 0
    for _ in range(random.randint(1, chaos.count_max)):
        kind = random.choice(kinds)
        if kind == "loss":
            # Half of the fleet must be left, or there is little to look at.
            lost += 1
            kind = kind if lost <= len(names) // 4 else "vanish"
        drawn.append(
            FaultSpec(
                kind=kind,
                # Half of them in the first moments, while links are made and rosters come.
                at_s=random.uniform(0.0, chaos.span_s if random.random() < 0.5 else 1.0),
                for_s=random.choice((random.uniform(SHORTEST_S, 3.0), random.uniform(SHORTEST_S, 2 * chaos.span_s))),
                node=random.choice(places if kind == "partition" else names),
                factor=random.choice((0.5, 0.1, 0.02)),
                title=random.choice(("", *(title.name for title in scenario.all_titles()))),
            )
        )
    return drawn
