"""How good the planner's proof is: beside a linear program and the simulator, with planted bottlenecks, and how fast.

    python -m bench.planner.feasibility [--lps 200] [--nights 40] [--planted 100] [--seed 1] [--out DIR] [--json]

Exit code 1 where a bound is not that of the linear program, a night that the simulator completes is called impossible
or over later than it was, or a planted bottleneck is not named.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from scipy.optimize import linprog
from scipy.sparse import lil_matrix

from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.cli.planned_night import predict
from p2pfill.plan.feasibility.feasibility import Verdict, check
from p2pfill.plan.feasibility.flow import Level, solve
from p2pfill.plan.feasibility.needs import Demand, Needs, demand_of, demand_of_bytes, needs_of
from p2pfill.plan.feasibility.network import RATE_MAX, Network, Night, Origin, Span, timeline
from p2pfill.plan.feasibility.remedies import drop
from p2pfill.plan.tables import Caches, Placement

Draw = Callable[[int, int], int]
"""Returns an integer from the first to the last."""

MIDNIGHT: Final = 1_795_996_800.0
"""2026-11-30T00:00:00 in UTC."""

MB: Final = 10**6

ROWS_MAX: Final = 9
"""Of a night of which all ways to give something up are tried."""

FINISH_OFF_S: Final = 1.0
"""By how much a finish may differ from that of the linear program, which is found by bisection."""


class Case(NamedTuple):
    """A night with what is lacking in it."""

    network: Network
    needs: Needs
    held: Placement
    night: Night

    @property
    def demand(self) -> Demand:
        """What is missing."""
        return demand_of(self.network, self.needs)


def fleet(isp_of: list[int], region_of: list[int], filling: list[float]) -> Caches:
    """Return caches of ISPs of regions, each a cluster of its own."""
    count, isp, region = len(isp_of), np.array(isp_of, np.int32), np.array(region_of, np.int32)
    names = tuple(f"a{number}" for number in range(count))
    regions = tuple(f"region{number}" for number in range(max(region_of) + 1))
    return Caches(
        names, names, tuple(str(64500 + number) for number in range(len(region_of))), regions,
        np.arange(count, dtype=np.int32), isp, region, np.full(count, 10**15), np.array(filling), np.array(filling),
    )  # fmt: skip


def placement(rows: list[list[int]]) -> Placement:
    """Return which files lie where, of a list for each cache."""
    start = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Placement(start, np.array([file for row in rows for file in sorted(row)], np.int32))


def small_night(draw: Draw, *, minutes: int = 60, unit: int = MB, regions_max: int = 2, origins_max: int = 2) -> Case:
    """Return a small night with whatever limits are drawn. Rates are so that some of them matter."""
    regions = draw(1, regions_max)
    region_of = [*range(regions), *(draw(0, regions - 1) for _ in range(draw(0, 2)))]
    isp_of = [draw(0, len(region_of) - 1) for _ in range(draw(1, 6))]
    caches = fleet(isp_of, region_of, [float(draw(3, 12) * unit) for _ in isp_of])
    files = draw(1, 6)
    size = np.array([draw(1, 20) * minutes * unit for _ in range(files)], np.int64)
    held = placement([[file for file in range(files) if draw(0, 5) == 0] for _ in isp_of])
    target = placement([[file for file in range(files) if draw(0, 1)] for _ in isp_of])
    spans = []
    for _ in isp_of:
        begin = draw(0, minutes // 2)
        end = draw(begin + 1, minutes)
        later = draw(end, minutes)
        rate = float(draw(2, 10) * unit) if draw(0, 1) else np.inf
        row = [Span(MIDNIGHT + 60 * begin, MIDNIGHT + 60 * end, rate)]
        if draw(0, 2) == 0 and later < minutes:
            row.append(Span(MIDNIGHT + 60 * later, MIDNIGHT + 60 * minutes, rate))
        spans.append(tuple(row) if draw(0, 2) == 0 else (Span(MIDNIGHT, MIDNIGHT + 60 * minutes),))

    def rates(count: int, most: int) -> Any:
        return np.array([draw(1, 4 * most) * unit / 4 if draw(0, 2) else np.inf for _ in range(count)])

    origins = [Origin("first", draw(1, 30) * unit / 4)]
    if origins_max > 1 and draw(0, 1):
        has = np.array([draw(0, 1) == 1 for _ in range(files)])
        served = tuple(region for region in range(regions) if draw(0, 1))
        origins.append(Origin("second", float(draw(1, 10) * unit), served or None, has))
    sending = np.array([float(draw(1, 6) * unit) for _ in isp_of]) if draw(0, 3) == 0 else None
    uplinks = rates(len(region_of), 4), rates(regions, 5)
    network = Network(caches, tuple(spans), *uplinks, tuple(origins), sending)
    deadline = MIDNIGHT + 60 * draw(minutes // 2, minutes)
    return Case(
        network, needs_of(network, size, target, held), held, Night(MIDNIGHT, deadline, MIDNIGHT + 60 * minutes)
    )


# ---- the same bound as a linear program


class _Program:
    """Variables and rows of a linear program, built one by one."""

    def __init__(self) -> None:
        self.tops: list[float] = []
        self.rows: list[tuple[dict[int, float], float, bool]] = []

    def variable(self, top: float) -> int:
        self.tops.append(top)
        return len(self.tops) - 1

    def at_most(self, parts: list[int], limit: float) -> None:
        self.rows.append((dict.fromkeys(parts, 1.0), limit, False))

    def equal(self, left: list[int], right: list[int]) -> None:
        self.rows.append((dict.fromkeys(left, 1.0) | dict.fromkeys(right, -1.0), 0.0, True))

    def most(self, parts: list[int]) -> float:
        """Return the largest sum of some variables."""
        goal = np.zeros(len(self.tops))
        goal[parts] = -1.0
        sides: dict[bool, tuple[Any, list[float]]] = {}
        for is_equal in (False, True):
            chosen = [row for row in self.rows if row[2] == is_equal]
            matrix = lil_matrix((len(chosen), len(self.tops)))
            for number, (row, _, _) in enumerate(chosen):
                for column, factor in row.items():
                    matrix[number, column] = factor
            sides[is_equal] = matrix.tocsr(), [limit for _, limit, _ in chosen]
        found = linprog(
            goal, A_ub=sides[False][0], b_ub=sides[False][1], A_eq=sides[True][0], b_eq=sides[True][1],
            bounds=[(0.0, top) for top in self.tops], method="highs",
        )  # fmt: skip
        if not found.success:
            raise RuntimeError(found.message)
        return float(-found.fun)


def most_by_program(case: Case, at: float) -> float:
    """Return how many bytes can come until a moment, by a linear program of what flows when over which border."""
    network, demand = case.network, case.demand
    line = timeline(network, case.night)
    seconds, volume = line.until(at)
    program, buckets = _Program(), range(len(seconds))
    caches, isps, regions = range(len(network.spans)), range(len(network.uplink)), range(len(network.region_uplink))
    gone = float(volume.sum()) + float(demand.missing.sum())

    def each(count: range) -> list[list[int]]:
        return [[program.variable(gone) for _ in buckets] for _ in count]

    taken = [[program.variable(float(volume[cache, bucket])) for bucket in buckets] for cache in caches]
    entered, shared, copied, first = each(isps), each(isps), each(isps), each(regions)
    over = each(isps)  # copies between caches of an ISP that come over its uplink
    moved = each(regions)
    sent = [each(regions) for _ in network.origins]
    for cache in caches:
        program.at_most(taken[cache], float(demand.missing[cache]))
    for isp in isps:
        mine = [cache for cache in caches if network.isp[cache] == isp]
        copies = float(sum(demand.missing[cache] for cache in mine) - demand.isp[isp])
        program.at_most(copied[isp] + over[isp], max(copies, 0.0))
        program.at_most(shared[isp], float(max(demand.isp[isp] - demand.isp_alone[isp], 0)))
        for bucket in buckets:
            into = [entered[isp][bucket], shared[isp][bucket], over[isp][bucket]]
            program.equal([taken[cache][bucket] for cache in mine], [*into, copied[isp][bucket]])
            program.at_most(into, float(min(network.uplink[isp], RATE_MAX) * seconds[bucket]))
            if network.sending is not None:
                rate = float(sum(network.sending[cache] for cache in mine))
                program.at_most([copied[isp][bucket]], rate * float(seconds[bucket]))
    for region in regions:
        mine = [isp for isp in isps if network.caches.region[isp] == region]
        copies = float(sum(demand.isp[isp] for isp in mine) - demand.region[region])
        program.at_most([one for isp in mine for one in shared[isp]], max(copies, 0.0))
        program.at_most(moved[region], float(max(demand.region[region] - demand.region_alone[region], 0)))
        for bucket in buckets:
            into = [first[region][bucket], moved[region][bucket]]
            program.equal([entered[isp][bucket] for isp in mine], into)
            program.at_most(into, float(min(network.region_uplink[region], RATE_MAX) * seconds[bucket]))
            program.equal([first[region][bucket]], [part[region][bucket] for part in sent])
    program.at_most([one for row in moved for one in row], float(max(demand.region.sum() - demand.world.sum(), 0)))
    classes: list[list[int]] = [[] for _ in demand.world]
    for number, origin in enumerate(network.origins):
        supply = []
        for place, bits in enumerate(demand.origins):
            if int(bits) >> number & 1:
                supply.append(program.variable(float(demand.world[place])))
                classes[place].append(supply[-1])
        served = regions if origin.regions is None else origin.regions
        program.equal(supply, [one for row in sent[number] for one in row])
        for bucket in buckets:
            program.at_most([row[bucket] for row in sent[number]], float(min(origin.rate, RATE_MAX) * seconds[bucket]))
            program.at_most([sent[number][region][bucket] for region in regions if region not in served], 0.0)
    for place, parts in enumerate(classes):
        program.at_most(parts, float(demand.world[place]))
    return program.most([one for row in taken for one in row])


def one_by_program(case: Case, cache: int, at: float) -> float:
    """Return how many bytes can come to one cache until a moment, if it were the only one, with storage on the way."""
    network, demand = case.network, case.demand
    line = timeline(network, case.night)
    seconds, _ = line.until(at)
    volume = line.until(at)[1] * (demand.missing > 0)[:, None]
    isp, region = int(network.isp[cache]), int(network.region[cache])
    by_isp = np.array(
        [
            np.minimum(volume[network.isp == one].sum(axis=0), min(network.uplink[one], RATE_MAX) * seconds)
            for one in range(len(network.uplink))
        ]
    )
    by_region = np.array(
        [
            np.minimum(by_isp[network.caches.region == one].sum(axis=0), min(rate, RATE_MAX) * seconds)
            for one, rate in enumerate(network.region_uplink)
        ]
    )
    world = np.minimum(by_region.sum(axis=0), sum(min(origin.rate, RATE_MAX) for origin in network.origins) * seconds)
    nested = demand.nested[:, cache].astype(float)
    program = _Program()
    before: list[int] = []
    for stage, (tops, extra) in enumerate(
        zip((world, by_region[region], by_isp[isp], volume[cache]), np.diff(nested, prepend=0.0), strict=True)
    ):
        passed = [program.variable(float(top)) for top in tops]
        if stage == 0:
            program.at_most(passed, extra)
        for bucket in range(len(passed)) if stage else ():
            # What has passed until a bucket had come, or was there.
            row = dict.fromkeys(passed[: bucket + 1], 1.0) | dict.fromkeys(before[: bucket + 1], -1.0)
            program.rows.append((row, float(extra), False))
        before = passed
    return program.most(before)


# ---- planted bottlenecks


class Planted(NamedTuple):
    """A night that would fit but for what was made too narrow."""

    case: Case
    expected: set[tuple[str, tuple[int, ...]]]
    """Kind and owners of each shortage."""


def planted_night(draw: Draw, count: int) -> Planted:
    """Return a night of a fleet of 4 ISPs in 2 regions with so many bottlenecks, of different kinds or in other places.

    Further out more is cut away, since what is short further in is charged there no more.
    """
    files, begin, end = 40, MIDNIGHT + 7200.0, MIDNIGHT + 6 * 3600.0
    isp_of = [isp for isp in range(4) for _ in range(draw(2, 4))]
    size = np.array([draw(20, 60) * 10**9 for _ in range(files)], np.int64)
    target = placement([sorted({draw(0, files - 1) for _ in range(25)}) for _ in isp_of])
    held = placement([[] for _ in isp_of])
    caches = fleet(isp_of, [0, 0, 1, 1], [1e12] * len(isp_of))
    ample = Network(
        caches, tuple((Span(begin, end),) for _ in isp_of), np.full(4, 1e12), np.full(2, 1e12), (Origin("cloud", 1e12),)
    )
    needs = needs_of(ample, size, target, held)
    demand, seconds = demand_of(ample, needs), end - begin
    places: list[tuple[str, int]] = [("origin", 0), *(("region", region) for region in (0, 1))]
    places += [("isp", isp) for isp in range(4)] + [("hours", cache) for cache in range(len(isp_of))]
    rates = {
        "hours": demand.missing / seconds * 2, "isp": demand.isp / seconds * 2, "region": demand.region / seconds * 2,
        "origin": demand.world / seconds * 2,
    }  # fmt: skip
    expected: set[tuple[str, tuple[int, ...]]] = set()
    for _ in range(count):
        where, owner = places.pop(draw(0, len(places) - 1))
        rates[where][owner] *= {"hours": 0.45, "isp": 0.4, "region": 0.28, "origin": 0.15}[where]
        expected.add((where, (owner,)))
    network = replace(
        ample, caches=replace(caches, filling=rates["hours"]), uplink=rates["isp"], region_uplink=rates["region"],
        origins=(Origin("cloud", float(rates["origin"][0])),),
    )  # fmt: skip
    return Planted(Case(network, needs, held, Night(MIDNIGHT, MIDNIGHT + 8 * 3600.0, MIDNIGHT + 86400.0)), expected)


def named(verdict: Verdict) -> set[tuple[str, tuple[int, ...]]]:
    """Return kind and owners of all shortages."""
    return {(shortage.where, shortage.owners) for shortage in verdict.shortages}


# ---- a large night


def large_night(tight: float, caches: int = 1000, buckets: int = 288) -> tuple[Network, Demand, Night]:
    """Return a night of many caches that open and close in any of so many buckets, with uplinks this tight.

    With 1 they carry what is needed in the mean over a day, so that a part of the ISPs is short.
    """
    chance = np.random.default_rng(1)
    isps, regions, step = caches // 10, 8, 86400 // buckets
    isp_of = np.sort(chance.integers(0, isps, caches)).tolist()
    region_of = [*range(regions), *chance.integers(0, regions, isps - regions).tolist()]
    made = fleet(isp_of, region_of, chance.uniform(50e6, 300e6, caches).tolist())
    spans = []
    for _ in range(caches):
        ends = np.sort(chance.choice(buckets + 1, 4, replace=False)) * step + MIDNIGHT
        rate = float(chance.uniform(40e6, 300e6))
        spans.append((Span(float(ends[0]), float(ends[1]), rate), Span(float(ends[2]), float(ends[3]), rate)))
    night = Night(MIDNIGHT, MIDNIGHT + 86400.0, MIDNIGHT + 86400.0)
    unlimited = np.full(isps, np.inf)
    open_ = Network(made, tuple(spans), unlimited, np.full(regions, np.inf), (Origin("cloud"),))
    missing = (timeline(open_, night, 0.0).volume.sum(axis=1) * chance.uniform(0.2, 0.5, caches)).astype(np.int64)
    isp, region = np.zeros(isps, np.int64), np.zeros(regions, np.int64)
    np.maximum.at(isp, open_.isp, missing // 2)
    np.maximum.at(region, made.region, isp)
    world = int(region.max())
    network = replace(
        open_, uplink=isp / 86400 / tight, region_uplink=region / 86400 / tight * 2,
        origins=(Origin("cloud", world / 86400 / tight * 2),),
    )  # fmt: skip
    return network, demand_of_bytes(network, missing, isp, region, world), night


# ---- the report


class Measured(msgspec.Struct, frozen=True):
    """What came of one run."""

    machine: Machine
    seed: int
    programs: int
    equal: int
    """Of them: flow and finish as the linear program has them."""
    nights: int
    completed: int
    """By the simulator."""
    impossible: int
    """Of them: called impossible, or over later than they were."""
    over_bound: dict[str, float]
    """Simulated time divided by the bound: quantiles."""
    planted: int
    named: int
    """Of them: all bottlenecks and nothing else."""
    dropped: int
    """Small nights that did not fit, and of which something was given up."""
    over_least: dict[str, float]
    """What was given up, divided by the least that could be: quantiles."""
    large: dict[str, dict[str, float]]
    """Seconds of processor and wall for a thousand caches and 288 buckets."""


def quantiles(values: list[float]) -> dict[str, float]:
    """Return some quantiles, by name."""
    names = {"median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: round(float(np.quantile(values, part)), 4) for name, part in names.items()} if values else {}


def drawing(seed: int) -> Draw:
    """Return a source of integers."""
    chance = np.random.default_rng(seed)
    return lambda low, high: int(chance.integers(low, high + 1))


def is_equal(case: Case) -> bool:
    """Tell whether flow and finish are those of the linear program."""
    demand, deadline = case.demand, case.night.deadline
    need = float(demand.missing.sum())
    flow = solve(case.network, demand, timeline(case.network, case.night), deadline, Level.WORLD)
    if abs(need - flow.short - most_by_program(case, deadline)) > 1e-6 * need + 100:
        return False
    verdict = check(case.network, demand, case.night)
    if verdict.finish is None:
        return True
    is_enough = most_by_program(case, verdict.finish + 1e-3) >= need * (1 - 1e-6) - 100
    is_least = "share" not in verdict.kept_by or most_by_program(case, verdict.finish - FINISH_OFF_S) < need
    return is_enough and is_least


def beside_simulator(count: int, seed: int) -> tuple[int, int, list[float]]:
    """Return how many nights were completed, how many of them were called impossible, and times over the bound."""
    completed, impossible, over = 0, 0, []
    for number in range(count):
        case = small_night(drawing(seed + number), minutes=6, unit=MB // 2, origins_max=1)
        network = replace(case.network, region_uplink=np.full_like(case.network.region_uplink, np.inf))
        demand = demand_of(network, case.needs)
        found = predict(network, case.needs, case.held, case.night)
        if found.finish is None or not found.caches:
            continue
        completed += 1
        verdict = check(network, demand, case.night)
        fits = check(network, demand, case.night._replace(deadline=found.finish)).fits
        impossible += verdict.finish is None or verdict.finish > found.finish or not fits
        if verdict.finish is not None and verdict.finish > MIDNIGHT:
            over.append((found.finish - MIDNIGHT) / (verdict.finish - MIDNIGHT))
    return completed, impossible, over


def beside_least(count: int, seed: int) -> list[float]:
    """Return what was given up in small nights, divided by the least that could be, by trying all."""
    over = []
    for number in range(count):
        case = small_night(drawing(seed + number))
        worth = np.random.default_rng(seed + number).uniform(1, 10, len(case.needs.cache))
        needs = replace(case.needs, value=worth)
        if len(worth) > ROWS_MAX or check(case.network, case.demand, case.night).fits:
            continue
        least = np.inf
        for bits in range(1 << len(worth)):
            kept = np.array([bits >> row & 1 for row in range(len(worth))], np.bool_)
            lost = float(worth[~kept].sum())
            if lost < least and check(case.network, demand_of(case.network, needs.only(kept)), case.night).fits:
                least = lost
        over.append(drop(case.network, needs, case.night).lost / least)
    return over


def how_fast(times: int = 3) -> dict[str, dict[str, float]]:
    """Return the seconds of a check of a large night, the least of some times."""
    found = {}
    for name, tight in (("fits", 0.2), ("short", 0.6)):
        network, demand, night = large_night(tight)
        took = []
        for _ in range(times):
            wall, used = time.perf_counter(), time.process_time()
            verdict = check(network, demand, night)
            took.append((time.process_time() - used, time.perf_counter() - wall))
        if verdict.fits != (name == "fits"):
            raise RuntimeError(f"the large night that is to be {name!r} is not")
        processor, wall = min(took)
        found[name] = {
            "processor_s": round(processor, 3), "wall_s": round(wall, 3), "shortages": float(len(verdict.shortages)),
            "buckets": float(len(timeline(network, night).seconds)),
        }  # fmt: skip
    return found


def measure(options: argparse.Namespace) -> Measured:
    """Run everything."""
    seed = options.seed
    equal = sum(is_equal(small_night(drawing(seed + number))) for number in range(options.lps))
    completed, impossible, over = beside_simulator(options.nights, seed)
    right = 0
    for number in range(options.planted):
        case, expected = planted_night(drawing(seed + number), number % 4)
        right += named(check(case.network, case.demand, case.night)) == expected
    least = beside_least(options.lps // 2, seed)
    return Measured(
        describe_machine(Path()), seed, options.lps, equal, options.nights, completed, impossible, quantiles(over),
        options.planted, right, len(least), quantiles(least), how_fast(),
    )  # fmt: skip


def spelled(values: dict[str, float]) -> str:
    """Return quantiles for people."""
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def in_words(found: Measured) -> str:
    """Return the report as Markdown."""
    lines = [
        "# The planner's proof",
        "",
        f"`python -m bench.planner.feasibility --seed {found.seed}` on {found.machine.processor}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| flow and finish as the linear program has them | {found.equal} of {found.programs} |",
        f"| called impossible, or over later, of those that the simulator completes | {found.impossible} of "
        f"{found.completed} |",
        f"| simulated time / bound | {spelled(found.over_bound)} |",
        f"| planted bottlenecks, none to three, all named and nothing else | {found.named} of {found.planted} |",
        f"| value given up / the least, of {found.dropped} nights that do not fit | {spelled(found.over_least)} |",
    ]
    for name, took in found.large.items():
        lines.append(
            f"| 1,000 caches x {took['buckets']:.0f} buckets, {name} ({took['shortages']:.0f} shortages) | "
            f"{took['processor_s']:.2f} s of processor, {took['wall_s']:.2f} s |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and write a report where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--lps", type=int, default=200)
    parser.add_argument("--nights", type=int, default=40)
    parser.add_argument("--planted", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options)
    print(msgspec.json.encode(found).decode() if options.json else in_words(found))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "feasibility.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
        (options.out / "feasibility.md").write_text(in_words(found))
    if found.equal < found.programs or found.impossible or found.named < found.planted:
        sys.exit(1)


if __name__ == "__main__":
    main()
