"""What a world has beneath its caches: time, chance, the network, the titles, the origin, and who looks at it all."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any, NamedTuple

import msgspec

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import ANYWHERE, FillPolicy
from p2pfill.model.selection import chunks_of_selection
from p2pfill.model.urgency import Urgency
from p2pfill.sim.checkers import Checkers
from p2pfill.sim.network import Internet
from p2pfill.sim.scenario import Scenario, TitleSpec
from p2pfill.sim.schedule import Schedule
from p2pfill.sim.trace import Trace


class Title(NamedTuple):
    """A title that is to be filled."""

    name: str
    id: TitleId
    manifest: Manifest
    urgency: Urgency
    at_s: float
    """When it is ordered."""
    now: bool
    """It is filled whether fill windows are open or not."""
    wants: dict[str, Bitmap]
    """Cache -> the chunks that it wants, where that is not all of them."""
    called: str
    """The name by which rules choose it."""
    policy: FillPolicy
    """Of its order."""
    origin: str
    """By which budgets count what comes from its origin."""
    caches: frozenset[str]
    """For which it is ordered, and which may hold it."""
    held: dict[str, int]
    """Cache that may hold it -> how many of its chunks, the first ones, are there when the run begins."""

    def wanted(self, name: str) -> Bitmap | None:
        """Return the chunks that a cache wants; None: all."""
        return self.wants.get(name)


def _draw_wants(names: Iterable[str], manifest: Manifest, random: Random) -> dict[str, Bitmap]:
    """Draw which files each cache wants: one to all of them, some of them asked for by many."""
    count = len(manifest.files)
    wants = {}
    for name in names:
        chosen = Bitmap(count)
        chosen.add_all(sorted(random.sample(range(count), random.randint(1, count))))
        if not chosen.all():
            wants[name] = chunks_of_selection(manifest, chosen)
    return wants


def _first(manifest: Manifest, part: float) -> int:
    """Return how many chunks are a part of a title."""
    return round(part * manifest.chunk_count)


class Ground:
    """A world without anybody in it. All chance is drawn from generators that the seed has set up."""

    def __init__(self, scenario: Scenario, seed: int, trace: Trace) -> None:
        self.scenario = scenario
        self.seed = seed
        self.trace = trace
        self.schedule = Schedule()
        self.random = Random(f"world {seed}")  # noqa: S311 (a simulation)
        infos = scenario.infos()
        self.rules = scenario.rules()
        """The fleet's policy."""
        self.internet = Internet(scenario, infos, self.schedule, self.rules)
        self.titles: dict[TitleId, Title] = {}
        for spec in scenario.all_titles():
            title = self._title(spec, infos)
            self.titles[title.id] = title
        self.chunk_count = sum(title.manifest.chunk_count for title in self.titles.values())
        """Of all titles."""
        self.checkers = Checkers(
            {title.id: title.manifest for title in self.titles.values()},
            self.note,
            ledger_every=8 if scenario.chaos is not None else 64,
            tiers=scenario.check_tiers,
        )
        self.checkers.inward = {info.id: info.isp for info in infos if info.is_inward}
        self.withdrawn: frozenset[TitleId] = frozenset()
        """Titles that are ordered no more, and will not be."""
        self.origin_up = True
        self.origin_corrupts: frozenset[TitleId] = frozenset()
        """Of which titles the origin has other bytes."""
        self.origin_reads: dict[Any, None] = {}
        """Reads (`origin.OriginRead`) of which bytes are moving."""
        self._jitter_s = 0.0
        self._jitter = Random(f"jitter {seed}")  # noqa: S311
        if scenario.chaos is not None:
            self._jitter_s = self._jitter.uniform(0.0, scenario.chaos.jitter_ms * 1e-3)

    def _title(self, spec: TitleSpec, infos: list[NodeInfo]) -> Title:
        scenario, manifest, called = self.scenario, spec.manifest(self.scenario.parts), spec.called or spec.name
        names = [info.id for info in infos] if scenario.parts else []
        wants = _draw_wants(names, manifest, Random(f"wants {self.seed} {spec.name}"))  # noqa: S311 (a simulation)
        for name, part in spec.parts.items():
            if (count := _first(manifest, part)) < manifest.chunk_count:
                wants[name] = Bitmap(manifest.chunk_count)
                wants[name].add_all(range(count))
        allowed = {info.id for info in infos if not self.rules.bars(info, called)}
        return Title(
            name=spec.name,
            id=manifest.title_id,
            manifest=manifest,
            urgency=Urgency.of(spec.priority, spec.deadline),
            at_s=scenario.ordered_s(spec),
            now=spec.now,
            wants=wants,
            called=called,
            policy=spec.policy or scenario.policy,
            origin=spec.origin or scenario.origin,
            caches=frozenset(allowed.intersection(spec.caches or allowed)),
            held={name: _first(manifest, part) for name, part in spec.held.items() if name in allowed},
        )

    def policy_for(self, cache: NodeInfo, title: Title) -> FillPolicy:
        """Return how a cache is to fill a title, as `tracker.service` does: the order's, within the fleet's policy."""
        policy, reach = title.policy, self.rules.reach_for(cache, title.called)
        return policy if reach == ANYWHERE else msgspec.structs.replace(policy, reach=reach)

    @property
    def manifest(self) -> Manifest:
        """Of the first title."""
        return next(iter(self.titles.values())).manifest

    def titles_named(self, name: str) -> frozenset[TitleId]:
        """Return the title of a name; all titles where it is empty."""
        return frozenset(title.id for title in self.titles.values() if name in ("", title.name))

    def note(self, who: str, what: str) -> None:
        """Write a line into the trace: what a cache does, or what happens to the world (`-`)."""
        self.trace.add(self.schedule.now, who, what)

    def jitter_s(self) -> float:
        """Return by how much the next message is late."""
        return self._jitter.random() * self._jitter_s if self._jitter_s else 0.0
