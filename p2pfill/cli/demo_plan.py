"""`p2pfill demo --plan`: a week of viewing in three regions, the forecast of the day after, the plan, and its fill.

Viewing is made (`plan.synthetic`), all else is real: logs are taken in as an operator's would be, and the plan is
applied to a tracker and six caches, processes of their own, which fill it from a directory. What they hold then is
asked of the tracker, and held against what is watched on the next day: beside an LRU of the same size that has served
the week before, and beside the best that a cluster of that size could hold, had it known the day.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import trio
from rich.console import Console
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.demo import SPARE_BYTES, choose_directory, until_signal
from p2pfill.cli.demo_fleet import by_tier, open_fleet, publish_titles, wait_filled
from p2pfill.cli.demo_world import REGIONS, demo_caches, made_smaller, with_names, write_service
from p2pfill.cli.night_plot import check_plot, save_plot
from p2pfill.cli.plan_apply import apply, check_applied
from p2pfill.cli.plan_desk import Desk, day_of
from p2pfill.cli.plan_make import MadePlan, keep, made_plan, made_view, outlook
from p2pfill.cli.text import plural, show_bytes, show_seconds

if TYPE_CHECKING:
    from p2pfill.plan.synthetic import World
    from p2pfill.plan.tables import Placement

TITLES: Final = 60
DAYS: Final = 7
"""Of history; one more is watched afterwards."""
VIEWS_A_DAY: Final = 4000.0
FILE_BYTES: Final = 400_000
"""Of a file in the middle."""
HELD_SHARE: Final = 0.10
"""Of the catalogue that a cache has room for: a cluster of two has a fifth."""
SEED: Final = 5

STREAMS_MIN: Final = 0.5
"""Fewer are drawn as so many: a logarithmic scale has no 0."""


class Hits(NamedTuple):
    """What was served inside a region's cluster of what was watched there, as parts of its bytes, from 0 to 1."""

    region: str
    planned: float
    lru: float
    best: float
    """Of what no cluster of that size could exceed: each file's bytes of the day, the densest first."""


def run_plan(*, work: Path | None, plot: Path | None, keep_work: bool, as_json: bool) -> None:
    """Run the demo of the planner. Raises `CommandFailed` unless all that was planned is live."""
    from p2pfill.cli.plan_history import need_planner

    need_planner()
    if plot is not None:
        check_plot(plot)
    demo = _PlanDemo(Console(stderr=as_json, highlight=False), work, keep_work)
    if trio.run(until_signal, demo.run) is None:
        raise KeyboardInterrupt
    demo.show()
    if plot is not None:
        draw(demo, plot)
        demo.say(f"plot: {plot}")
    if as_json:
        sys.stderr.flush()
        print(json.dumps(demo.record()), flush=True)


class _PlanDemo:
    def __init__(self, console: Console, work: Path | None, keep_work: bool) -> None:
        from p2pfill.plan.synthetic import WorldSettings, make_world

        self._console = console
        self._work_choice = work
        self._keep = keep_work
        # A service knows what it launches: of each title there is a hint, as far off as hints are.
        settings = WorldSettings(
            titles=TITLES, regions=len(REGIONS), days=DAYS + 1, views_a_day=VIEWS_A_DAY, hinted=1.0
        )
        self.world: World = made_smaller(with_names(make_world(settings, SEED)), FILE_BYTES)
        capacity = int(self.world.catalogue.size.sum() * HELD_SHARE)
        self.caches = demo_caches(capacity)
        self.day = self.world.views.last_day
        self.made: MadePlan | None = None
        self.hits: list[Hits] = []
        self.fill_s = 0.0
        self.by_tier: dict[str, int] = {}
        self._desk: Desk | None = None

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    async def run(self) -> bool:
        """Run all of it; True at its end."""
        with self._work_directory() as work:
            await trio.to_thread.run_sync(self._write_world, work)
            async with open_fleet(work, self.caches) as (tracker, nodes):
                self.say(f"Started a tracker and {plural(len(nodes), 'cache')}, two in each region")
                await publish_titles(work, self.world.catalogue.titles, tracker, len(nodes))
                desk = await trio.to_thread.run_sync(self._plan, work, tracker)
                await self._fill(tracker)
                held = await trio.to_thread.run_sync(desk.held, "tracker", "")
            self.hits = self._next_day(held.placement)
        return True

    @contextmanager
    def _work_directory(self) -> Iterator[Path]:
        size = int(self.world.catalogue.size.sum()) * 3
        parent = choose_directory(self._work_choice, size + SPARE_BYTES)
        work = Path(tempfile.mkdtemp(prefix="p2pfill-plan-", dir=parent))
        try:
            yield work
        finally:
            if self._keep:
                self.say(f"left in {work}: planner.toml, its tables, the history and the plan")
            else:
                shutil.rmtree(work)

    def _write_world(self, work: Path) -> None:
        catalogue = self.world.catalogue
        rows = write_service(work, self.world, self.caches, self.day)
        self.say(
            f"Made {DAYS} days of viewing in {plural(len(REGIONS), 'region')}: {rows:,} rows of logs, of "
            f"{plural(len(catalogue.titles), 'title')} in {plural(len(catalogue.files), 'file')}, "
            f"{show_bytes(int(catalogue.size.sum()))}; a cache has room for {HELD_SHARE:.0%} of it"
        )

    def _plan(self, work: Path, tracker: str) -> Desk:
        desk = Desk(work / "planner.toml", tracker)
        found = desk.history.ingest(sorted((work / "logs").iterdir()), desk.catalogue, desk.caches, now_s=time.time())
        self.say(f"Took in {plural(len(found.taken), 'log')}")
        self.say("")
        start = time.time()
        made = made_plan(desk, day=day_of(self.day * 86_400), held="", fit=True, start=start)
        made = made._replace(outlook=outlook(desk, made.plan, start=start, simulate=True))
        path = keep(desk, made.plan, None)
        self._console.print(made_view(made, path, self._console.width), crop=False)
        self.say("")
        due = made.outlook.night.deadline
        done = apply(desk, made.plan, origins=(), due=due, rewrite_max=None, yes=True)
        check_applied(done)
        self.say(f"Applied it: {plural(done.ordered, 'order')}")
        self.made, self._desk = made, desk
        return desk

    async def _fill(self, tracker: str) -> None:
        began = time.monotonic()
        self.by_tier = by_tier(await wait_filled(tracker))
        self.fill_s = time.monotonic() - began
        tiers = " · ".join(f"{tier} {show_bytes(count)}" for tier, count in self.by_tier.items())
        self.say(f"Filled it in {show_seconds(self.fill_s)}: {tiers}")

    # ---- the next day

    def _next_day(self, held: Placement | None) -> list[Hits]:
        from p2pfill.plan.making import nothing_held
        from p2pfill.plan.placement.reactive import Lru

        catalogue, views = self.world.catalogue, self.world.views
        lies = held or nothing_held(len(self.caches))
        found = []
        for number, (region, _) in enumerate(REGIONS):
            its = [place for place, one in enumerate(self.caches) if one.region == region]
            in_it = np.unique(np.concatenate([lies.of(place) for place in its]))
            space = sum(self.caches[place].capacity for place in its)
            rows = (views.day == self.day) & (views.region == number)
            asked = np.bincount(views.file[rows], views.bytes[rows], minlength=len(catalogue.files))
            lru = Lru(space)
            for day in self.world.days:
                by_lru = self._lru_bytes(lru, day, number)
            order = np.argsort(-asked / catalogue.size, kind="stable")
            whole = np.minimum(np.maximum(space - np.cumsum(catalogue.size[order]) + catalogue.size[order], 0)
                               / catalogue.size[order], 1.0)  # fmt: skip
            total = max(float(asked.sum()), 1.0)
            found.append(Hits(
                region, float(asked[in_it].sum()) / total, by_lru / total, float((asked[order] * whole).sum()) / total
            ))  # fmt: skip
        return found

    def _lru_bytes(self, lru: Any, day: int, region: int) -> float:
        """Return what an LRU serves of a day: its views in a random order, each of its part of the file's bytes."""
        views, size = self.world.views, self.world.catalogue.size
        rows = np.flatnonzero((views.day == day) & (views.region == region))
        requests = np.repeat(rows, views.requests[rows])
        np.random.Generator(np.random.PCG64(day)).shuffle(requests)
        each = views.bytes / np.maximum(views.requests, 1)
        return float(
            sum(each[row] for row in requests.tolist() if lru.ask(int(views.file[row]), int(size[views.file[row]])))
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Return what came of it, for scripts."""
        head = self.made.plan.head if self.made is not None else None
        return {
            "day": day_of(self.day * 86_400),
            "expected_served": 0.0 if head is None else head.served_bytes / max(head.demand_bytes, 1.0),
            "filled_bytes": 0 if head is None else head.comes_bytes,
            "fill_s": round(self.fill_s, 2),
            "bytes_by_tier": self.by_tier,
            "hits": [one._asdict() for one in self.hits],
        }

    def show(self) -> None:
        """Print what the next day was like."""
        self.say("")
        self.say(f"{day_of(self.day * 86_400)}, as it came: bytes that were served inside the region's caches")
        columns = [
            Column("region"), Column("by the plan", is_right=True), Column("by an LRU of that size", is_right=True),
            Column("at best", is_right=True),
        ]  # fmt: skip
        rows = [
            [Text(one.region), *(Text(f"{part:.1%}") for part in (one.planned, one.lru, one.best))] for one in self.hits
        ]
        self._console.print(table_within(self._console.width, columns, rows))
        self.say("Stopped all processes" + ("" if self._keep else " and removed their data"))


def draw(demo: _PlanDemo, path: Path) -> None:
    """Draw the next day: hits by region, and what was expected of each file beside what came. Raises `ConfigError`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    places = np.arange(len(demo.hits))
    for number, (name, colour, label) in enumerate((
        ("planned", "#2a9d5c", "by the plan"), ("lru", "#e0a526", "by an LRU"), ("best", "#b8b8b8", "at best"),
    )):  # fmt: skip
        values = [100 * getattr(one, name) for one in demo.hits]
        bars = left.bar(places + (number - 1) * 0.27, values, 0.25, color=colour, label=label)
        left.bar_label(bars, fmt="%.0f", fontsize=8)
    left.set_xticks(places, [one.region for one in demo.hits])
    left.set_ylabel("% of the bytes watched, served in the region")
    left.set_ylim(0, 118)
    left.legend(frameon=False, ncols=3, loc="upper center")
    left.set_title("The next day")
    plan = None if demo.made is None else demo.made.plan
    catalogue, views = demo.world.catalogue, demo.world.views
    rows = views.day == demo.day
    came = np.bincount(views.file[rows], views.bytes[rows], minlength=len(catalogue.files)) / catalogue.size
    held = {one.file: one for one in ([] if plan is None else plan.files)}
    numbers = [number for number, name in enumerate(catalogue.files) if name in held]
    expected = [max(held[catalogue.files[number]].streams, STREAMS_MIN) for number in numbers]
    actual = np.maximum(came[numbers], STREAMS_MIN).tolist()
    right.scatter(expected, actual, s=14, color="#3572b0", alpha=0.7)
    ends = min([*expected, *actual, 1.0]) / 1.5, max([*expected, *actual, 1.0]) * 1.5
    right.plot(ends, ends, color="#999999", linewidth=0.8)
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("streams expected")
    right.set_ylabel("streams that came")
    right.set_title("Files that the plan placed, all regions")
    save_plot(figure, path)
