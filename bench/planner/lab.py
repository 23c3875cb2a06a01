"""A planned night in the lab, beside LRU pull-through caches that are warm with the same logs: what crosses borders.

    python -m bench.planner.lab [--seeds 5] [--grade base,hard] [--views 4000] [--out docs/reports/planner] [--json]

A made service in three regions, in each an ISP with two caches; an origin; a week of logs, and one day more. On one
side a tracker and six p2pfill nodes: `p2pfill plan night --yes` plans out of the logs, the nodes fill, and the next day
an nginx in each ISP serves viewers from what lies live and passes the rest on. On the other side an nginx in each ISP
is a pull-through cache with the room of both caches, which has served the week before, request for request. Then both
are asked for the same files of the next day in the same order, and the origin's log says what crossed which border
when. Everything is a real process and every byte is sent over loopback; only the clock is not waited for.

Exit code 1 where the planned side lets as much or more over some border at peak, by the median of the seeds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import trio
from rich.console import Console

from bench.planner import lab_report, viewing
from bench.planner.__main__ import commit
from bench.planner.lab_report import Border, Report, Run
from bench.planner.sides import PullThrough, Server, room_for, start_origin, start_planned, watch
from bench.planner.viewing import Crossed, Requests
from p2pfill.bench.measure import BenchFailed, describe_machine, used_s
from p2pfill.bench.processes import find_program
from p2pfill.cli.demo_fleet import open_fleet, publish_titles, wait_filled
from p2pfill.cli.demo_world import (
    DAY_S,
    REGIONS,
    DemoCache,
    demo_caches,
    made_smaller,
    with_names,
    write_log,
    write_service,
)
from p2pfill.cli.plan_desk import day_of
from p2pfill.errors import P2PFillError, leaves_of
from p2pfill.plan.document import PlannedFile, read_plan
from p2pfill.plan.placement.reactive import Lru
from p2pfill.plan.synthetic import GRADES, Grade, World, WorldSettings, make_world
from p2pfill.tracker.records import NodeStatus

TITLES: Final = 60
DAYS: Final = 7
"""Of history; one more is watched afterwards."""
VIEWS_A_DAY: Final = 4000.0
FILE_BYTES: Final = 400_000
"""Of a file in the middle."""
HELD_SHARE: Final = 0.10
"""Of the catalogue that a cache has room for: an ISP has a fifth."""
EACH_VIEW: Final = 1 << 30
"""Rows of a log for a file: each view is one, so that no file's requests come in bunches, which an LRU would like."""

PLANNED: Final = "planned"
LRU: Final = "lru"


class Settings(NamedTuple):
    """Of one run."""

    grade: Grade
    titles: int = TITLES
    days: int = DAYS
    views: float = VIEWS_A_DAY
    file_bytes: int = FILE_BYTES


class Service(NamedTuple):
    """A made service, and what its viewers ask for; requests have an entry for each region."""

    world: World
    caches: list[DemoCache]
    week: list[Requests]
    day: list[Requests]
    peaks: list[list[int]]
    origin_peak: list[int]

    @property
    def number(self) -> int:
        """The day that is watched, since 1970."""
        return self.world.views.last_day

    @property
    def isps(self) -> list[str]:
        """In the order of the regions."""
        return [f"{name}-isp" for name, _ in REGIONS]

    @property
    def room(self) -> int:
        """Of the caches of an ISP together, in bytes."""
        return sum(one.capacity for one in self.caches if one.isp == self.isps[0])


class Night(NamedTuple):
    """What came of the planned night."""

    files: Sequence[PlannedFile]
    nodes: Sequence[NodeStatus]
    fill_s: float
    plan_cpu_s: tuple[float, float]
    nodes_cpu_s: tuple[float, float]


def write_made(work: Path, settings: Settings, seed: int, origin: Server) -> Service:
    """Make a service, write it below `work`, and draw what its viewers ask for."""
    made = make_world(
        WorldSettings(
            settings.grade, titles=settings.titles, regions=len(REGIONS), days=settings.days + 1,
            views_a_day=settings.views,
        ),
        seed,
    )  # fmt: skip
    world = made_smaller(with_names(made), settings.file_bytes)
    size, day = world.catalogue.size, world.views.last_day
    caches = demo_caches(int(size.sum() * HELD_SHARE))
    fills = f"http://127.0.0.1:{origin.port}/fill/{{title}}"
    write_service(work, world, caches, day, fills, EACH_VIEW)
    write_log(work / "next.csv", world, caches, day, EACH_VIEW)
    read = partial(viewing.read_logs, files=world.catalogue.files, regions=world.views.regions)
    week, after = read(sorted((work / "logs").iterdir())), read([work / "next.csv"])
    regions = range(len(REGIONS))
    return Service(
        world, caches,
        [viewing.whole_requests(week.of(region), size, 1000 * seed + region) for region in regions],
        [viewing.whole_requests(after.of(region), size, 1000 * seed + 500 + region) for region in regions],
        [viewing.peak_hours(week.of(region)) for region in regions], viewing.peak_hours(week),
    )  # fmt: skip


async def plan_night(work: Path, service: Service, tracker: str, nodes: Sequence[int]) -> Night:
    """Plan and apply by the command that an operator's cron runs, and wait for the fill."""
    before, planner = _used_by(nodes), _used_by_children()
    command = [
        sys.executable, "-m", "p2pfill.cli", "plan", "night", "--planner", str(work / "planner.toml"),
        "--tracker", tracker, "--day", day_of(service.number * DAY_S), "--yes", "--json",
    ]  # fmt: skip
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode:
        raise BenchFailed(f"p2pfill plan night ended with {done.returncode}: {done.stderr.decode()[-400:]}")
    began = time.monotonic()
    made = json.loads(done.stdout)
    status = await wait_filled(tracker)
    filled = _less(_used_by(nodes), before)
    return Night(
        read_plan(Path(made["plan"])).files, status, time.monotonic() - began, _less(_used_by_children(), planner),
        filled,
    )  # fmt: skip


def check_room(work: Path, caches: Sequence[DemoCache]) -> None:
    """Raise `BenchFailed` where a cache shows more than it has room for: then both sides are not of one size."""
    for one in caches:
        # What is live is a link to a directory.
        titles = [link.resolve() for link in (work / one.name / "live").iterdir()]
        lies = sum(path.stat().st_size for title in titles for path in title.rglob("*") if path.is_file())
        if lies > one.capacity:
            raise BenchFailed(f"cache {one.name} has {lies} bytes live, and room for {one.capacity}")


async def measure(work: Path, settings: Settings, seed: int, say: Callable[[str], None]) -> Run:
    """Run both sides once. Raises `P2PFillError`."""
    with ExitStack() as servers:
        (work / "origin").mkdir()
        origin = servers.enter_context(start_origin(work / "nginx-origin", work / "origin"))
        service = await trio.to_thread.run_sync(write_made, work, settings, seed, origin)
        size = service.world.catalogue.size
        room = room_for(service.room, size)
        lrus = [
            servers.enter_context(PullThrough(f"{LRU}-{isp}", work / f"nginx-lru-{isp}", origin, room))
            for isp in service.isps
        ]
        say(f"{settings.grade}, seed {seed}: warming LRUs with {sum(len(one.file) for one in service.week):,} requests")
        await watch_all(lrus, service.week, service)
        async with open_fleet(work, service.caches) as fleet:
            await publish_titles(work, service.world.catalogue.titles, fleet.tracker, len(fleet.nodes))
            night = await plan_night(work, service, fleet.tracker, [node.pid for node in fleet.nodes])
            check_room(work, service.caches)
            fronts = [
                servers.enter_context(
                    start_planned(f"{PLANNED}-{isp}", work / f"nginx-planned-{isp}", origin, [
                        work / one.name for one in service.caches if one.isp == isp
                    ])
                )
                for isp in service.isps
            ]  # fmt: skip
            say(f"{settings.grade}, seed {seed}: the next day, {sum(len(one.file) for one in service.day):,} requests")
            used = {}
            for name, side in ((PLANNED, fronts), (LRU, lrus)):
                before = _used_of(side)
                await watch_all(side, service.day, service)
                used[name] = _less(_used_of(side), before)
        origin.stop()
        with (work / "nginx-origin" / "access.log").open() as lines:
            crossed = viewing.read_crossed(lines, service.number)
    return run_of(settings, seed, service, night, crossed, used)


async def watch_all(side: Sequence[Server], requests: Sequence[Requests], service: Service) -> None:
    """Have the viewers of all ISPs ask, each ISP's one after the other."""
    catalogue = service.world.catalogue
    async with trio.open_nursery() as nursery:
        for server, asked in zip(side, requests, strict=True):
            nursery.start_soon(trio.to_thread.run_sync, watch, server, asked, catalogue.files, catalogue.size)


def run_of(
    settings: Settings, seed: int, service: Service, night: Night, crossed: Mapping[str, Crossed],
    used: Mapping[str, tuple[float, float]],
) -> Run:  # fmt: skip
    """Return what was measured."""
    size = service.world.catalogue.size
    nothing = Crossed([0] * viewing.HOURS, [0] * viewing.HOURS)
    file_at = {name: number for number, name in enumerate(service.world.catalogue.files)}
    borders = []
    for number, isp in enumerate(service.isps):
        caches = {one.name for one in service.caches if one.isp == isp}
        reports = [report for node in night.nodes if node.info.isp == isp for report in node.titles]
        lru = Lru(service.room)
        for file in service.week[number].file.tolist():
            lru.ask(file, int(size[file]))
        files = service.day[number].file.tolist()
        hits = [lru.ask(file, int(size[file])) for file in files]
        held = {file_at[one.file] for one in night.files if caches & {*one.holders}}
        asked = viewing.asked(service.day[number], size)
        by_plan, by_lru = (crossed.get(f"{side}-{isp}", nothing) for side in (PLANNED, LRU))
        borders.append(Border(
            isp, service.peaks[number], asked.bytes, by_plan.bytes, by_lru.bytes,
            sum(asked.requests), sum(by_plan.requests), sum(by_lru.requests),
            exact_lru=sum(int(size[file]) for file, hit in zip(files, hits, strict=True) if not hit),
            exact_plan=sum(int(size[file]) for file in files if file not in held),
            fill_origin=sum(one.bytes_origin for one in reports),
            fill_regional=sum(one.bytes_regional for one in reports),
            fill_peer=sum(one.bytes_peer for one in reports),
            fill_distinct=sum(one.size for one in night.files if caches & {*one.comes}),
        ))  # fmt: skip
    return Run(
        settings.grade, seed, len(size), int(size.sum()), service.room, service.origin_peak, borders,
        fill_logged=sum(crossed.get(viewing.FILL, nothing).bytes),
        fill_distinct=sum(one.size for one in night.files if one.comes),
        fill_s=round(night.fill_s, 3), planned_cpu_s=used[PLANNED], lru_cpu_s=used[LRU],
        nodes_cpu_s=night.nodes_cpu_s, plan_cpu_s=night.plan_cpu_s,
    )  # fmt: skip


def _used_by(pids: Sequence[int]) -> tuple[float, float]:
    user, system = zip(*map(used_s, pids), strict=True)
    return sum(user), sum(system)


def _used_of(side: Sequence[Server]) -> tuple[float, float]:
    user, system = zip(*(one.used_s() for one in side), strict=True)
    return sum(user), sum(system)


def _used_by_children() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime, used.ru_stime


def _less(after: tuple[float, float], before: tuple[float, float]) -> tuple[float, float]:
    return round(after[0] - before[0], 3), round(after[1] - before[1], 3)


# ---- the command


def nginx_version() -> str:
    """Return what nginx calls itself. Raises `BenchFailed` where it is not there."""
    program = find_program("nginx")
    if program is None:
        raise BenchFailed("nginx is not installed; on Debian: apt-get install nginx-light")
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("/")[2]


def run(options: argparse.Namespace, say: Callable[[str], None]) -> Report:
    """Do what the command line says, and write what there is after each service. Raises `P2PFillError`."""
    made = Report(
        describe_machine(Path(tempfile.gettempdir())), commit(), nginx_version(), TITLES, DAYS, options.views,
        HELD_SHARE, [],
    )  # fmt: skip
    for grade in options.grade:
        for seed in range(1, options.seeds + 1):
            with tempfile.TemporaryDirectory(prefix="p2pfill-lab-") as work:
                made.runs.append(trio.run(measure, Path(work), Settings(grade, views=options.views), seed, say))
            say(f"{grade}, seed {seed}: {lab_report.in_short(made.runs[-1])}")
            if options.out:
                lab_report.write_report(made, options.out)
    return made


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.planner.lab", description=about)
    parser.add_argument("--seeds", type=int, default=5, help="from 1 on, each a service of its own (default: 5)")
    parser.add_argument("--grade", default=",".join(GRADES), help=f"of {', '.join(GRADES)} (default: all)")
    parser.add_argument("--views", type=float, default=VIEWS_A_DAY, help=f"a day (default: {VIEWS_A_DAY:g})")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write lab.json and lab.md there; other grades stay in them"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    options = parser.parse_args(arguments)
    options.grade = [grade for grade in options.grade.split(",") if grade]
    if unknown := [grade for grade in options.grade if grade not in GRADES]:
        parser.error(f"--grade knows {', '.join(GRADES)}, and not {', '.join(unknown)}")
    if options.seeds < 1 or not options.views > 0:
        parser.error("--seeds and --views are above 0")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 1 where the plan saves nothing somewhere, 2 where it cannot run."""
    options = parse_arguments(arguments)
    console = Console(stderr=options.json, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    try:
        made = run(options, say)
    except (P2PFillError, ExceptionGroup) as error:
        leaves = leaves_of(error)
        if not all(isinstance(leaf, P2PFillError) for leaf in leaves):
            raise
        print(f"bench.planner.lab: {leaves[0]}", file=sys.stderr)
        return 2
    for table in lab_report.terminal_tables(made):
        console.print(table)
    if options.json:
        print(lab_report.encode_report(made))
    missed = lab_report.not_fewer(made)
    for what in missed:
        console.print(f"not fewer bytes at peak over {what}", markup=False, soft_wrap=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
