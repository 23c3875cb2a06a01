"""How near placements come to what is possible: small instances beside the exact solver, and a large fleet over days.

    python -m bench.planner.placement [--instances 30] [--seconds 5] [--caches 1000] [--files 100000] [--days 4]
                                      [--out docs/reports/planner-placement] [--json]

Small instances are of one cluster, in turn from nothing and from what caches hold after demand has moved. HiGHS gets
`--seconds` for each; where that does not suffice, its bound is given beside the best that it found. The worth of a
placement is what it serves less the price of what it writes.

The large fleet is placed from nothing, and then for each day anew as popularity moves. Its yardstick is the bound of
`p2pfill.plan.placement.valuation`, beside that from the sums over a cluster alone, and consistent hashing by value: the
densest files of a cluster, one copy each, to the cache of the highest hash that has room. Compiling is measured apart.

Exit code 1 where a reach is missed: `MEAN_MAX`, `WORST_MAX`, `GAP_MAX`, `REWRITTEN_MAX`, `PROCESSOR_S_MAX`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np
import xxhash
from numpy.random import Generator, default_rng
from rich.console import Console

from bench.swarm.report import table_in_markdown
from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.plan.placement.demand import Demand, demand_of_clusters, weights_by_serving
from p2pfill.plan.placement.exact import exact
from p2pfill.plan.placement.placement import PlacementResult, PlacementSettings, exact_instance, place
from p2pfill.plan.placement.valuation import served_of
from p2pfill.plan.tables import Caches, Floats, Ints, Longs, Placement

MEAN_MAX: Final = 0.0075
WORST_MAX: Final = 0.03
"""Of the small instances, below the best known."""
GAP_MAX: Final = 0.015
REWRITTEN_MAX: Final = 0.10
PROCESSOR_S_MAX: Final = 10.0
"""For a fleet of 1,000 caches and 100,000 files, without compiling."""

REGIONS: Final = 20
CACHES_OF_CLUSTER: Final = 10
"""On average."""
DRIFT: Final = 0.15
"""Standard deviation of the logarithm by which a file's popularity moves from day to day, all over."""
REGIONAL_DRIFT: Final = 0.05
"""The same of a file's lift in one region."""
JUMPS: Final = 0.005
"""Of the files: they get the popularity of another file overnight, as launches and whims do."""

SMALL_HEAD: Final = ("seed", "from", "caches", "files", "below the best known", "below HiGHS' bound", "rewritten")
LARGE_HEAD: Final = (
    "day", "below the bound", "below the aggregate bound", "worst cluster", "of demand served", "rewritten",
    "most of a cache", "user s", "system s", "by hashing, below the bound",
)  # fmt: skip

Result = TypeVar("Result")


class Small(msgspec.Struct, frozen=True):
    """One small instance."""

    seed: int
    from_held: bool
    caches: int
    files: int
    worth: float
    exact_worth: float
    exact_bound: float
    is_optimal: bool
    rewritten: float
    """Of the capacity of all caches."""
    processor_s: float
    exact_processor_s: float

    @property
    def off(self) -> float:
        """By what part it is below the better of both; 0 where the planner's is the better."""
        return 1 - self.worth / max(self.worth, self.exact_worth)


class Day(msgspec.Struct, frozen=True):
    """One night's placement of the large fleet."""

    day: int
    gap: float
    aggregate_gap: float
    worst_cluster: float
    served: float
    """Of all demand."""
    rewritten: float
    """Of the capacity of all caches."""
    rewritten_most: float
    """Of the capacity of a cache."""
    user_s: float
    system_s: float
    copies: int
    hashing_gap: float
    """Of consistent hashing by value, to the bound."""


class Report(msgspec.Struct, frozen=True):
    """What was measured."""

    machine: Machine
    compile_user_s: float
    compile_system_s: float
    exact_seconds: float
    small: list[Small]
    caches: int
    files: int
    memory_bytes: int
    """The most that the process had."""
    days: list[Day]

    @property
    def is_good(self) -> bool:
        """Whether all that is to be reached is."""
        offs = [small.off for small in self.small] or [0.0]
        return (
            float(np.mean(offs)) <= MEAN_MAX
            and max(offs) <= WORST_MAX
            and all(day.aggregate_gap <= GAP_MAX for day in self.days)
            and all(day.rewritten_most <= REWRITTEN_MAX for day in self.days[1:])
            and all(day.user_s + day.system_s <= PROCESSOR_S_MAX for day in self.days)
        )


def processor_time(do: Callable[[], Result]) -> tuple[Result, float, float]:
    """Return what `do` returns, and the user and system seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = do()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return result, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def names(prefix: str, count: int) -> tuple[str, ...]:
    """Return names that count up."""
    return tuple(f"{prefix}{number}" for number in range(count))


def sizes(rng: Generator, files: int) -> Longs:
    """Return sizes of files in bytes: 2 GB in the middle."""
    return np.clip(rng.lognormal(np.log(2e9), 0.8, files), 1e8, 4e10).astype(np.int64)


def small_instance(rng: Generator) -> tuple[Floats, Longs, Caches]:
    """Return demand in bytes a day, sizes, and the caches of one cluster that is short of space, bandwidth or both."""
    count, files = int(rng.integers(3, 7)), int(rng.integers(30, 61))
    size = sizes(rng, files)
    popularity = rng.permutation((np.arange(files) + 3.0) ** -rng.uniform(0.6, 1.1))
    demand = popularity * size * (1e14 / (popularity * size).sum())
    space = rng.choice([1.0, 2.0, 4.0], count)
    capacity = (space / space.sum() * rng.uniform(0.3, 0.8) * size.sum()).astype(np.int64)
    speed = rng.choice([1.0, 2.0, 3.0], count)
    serving = speed / speed.sum() * rng.uniform(0.6, 1.4) * 1e14 / 12 / 3600
    one, clusters = np.zeros(1, np.int32), np.zeros(count, np.int32)
    caches = Caches(names("c", count), ("k",), ("i",), ("r",), clusters, one, one, capacity, serving, serving)
    return demand, size, caches


def moved(rng: Generator, demand: Floats, sigma: float) -> Floats:
    """Return demand of which each file's has moved by a factor, with the same sum."""
    after = demand * np.exp(rng.normal(0, sigma, len(demand)))
    return after * (demand.sum() / after.sum())


def measure_small(seed: int, seconds: float) -> Small:
    """Place one small instance, and solve it exactly."""
    rng = default_rng(seed)
    demand, size, caches = small_instance(rng)
    held, settings = None, PlacementSettings(rewritten_share=0.2)
    if seed % 2:
        held = place(demand_of_clusters(demand[None]), size, caches, None, settings).placement
        demand = moved(rng, demand, 0.5)
    table = demand_of_clusters(demand[None])
    result, user, system = processor_time(lambda: place(table, size, caches, held, settings))
    instance = exact_instance(0, table, size, caches, held, settings)
    best, exact_user, exact_system = processor_time(lambda: exact(instance, seconds))
    if best is None:
        raise ArithmeticError(f"HiGHS found no placement for seed {seed} in {seconds} s")
    worth = float(result.served.sum()) - settings.write_price * int(result.written.sum())
    return Small(
        seed, held is not None, len(caches.names), len(size), worth, best.value, best.bound, best.is_optimal,
        float(result.written.sum() / caches.capacity.sum()), user + system, exact_user + exact_system,
    )  # fmt: skip


class Fleet:
    """A large fleet and its demand, which moves from day to day."""

    def __init__(self, caches: int, files: int, seed: int) -> None:
        self.rng = rng = default_rng(seed)
        self.size = sizes(rng, files)
        clusters = max(1, caches // CACHES_OF_CLUSTER)
        regions = min(REGIONS, clusters)
        some = rng.integers(0, clusters, caches - clusters)
        cluster = np.sort(np.concatenate([np.arange(clusters), some])).astype(np.int32)
        isp = np.arange(clusters, dtype=np.int32)
        serving = rng.choice([1.25e9, 2.5e9, 5e9], caches)
        capacity = rng.choice([2e12, 4e12, 8e12, 16e12], caches).astype(np.int64)
        self.caches = Caches(
            names("c", caches), names("k", clusters), names("i", clusters), names("r", regions),
            cluster, isp, (isp % regions).astype(np.int32), capacity, serving, serving,
        )  # fmt: skip
        self.popularity = rng.permutation((np.arange(files) + 30.0) ** -0.9)
        self.lift = np.exp(rng.normal(0, 0.7, (regions, files)))
        self.weight = weights_by_serving(self.caches) * np.exp(rng.normal(0, 0.15, clusters))
        carried = np.bincount(cluster, serving * 12 * 3600, minlength=clusters)
        self.asked = np.bincount(isp % regions, carried, minlength=regions) * 0.9

    def demand(self) -> Demand:
        """Return what clusters are asked for today: of a region nine tenths of what its caches can serve."""
        rows = self.popularity * self.lift * self.size
        rows *= (self.asked / rows.sum(axis=1))[:, None]
        return Demand(rows, self.caches.region[self.caches.isp], self.weight)

    def next_day(self) -> None:
        """Move popularity on."""
        files = len(self.size)
        self.popularity = self.popularity * np.exp(self.rng.normal(0, DRIFT, files))
        jump = self.rng.choice(files, int(files * JUMPS), replace=False)
        self.popularity[jump] = self.popularity[self.rng.choice(files, len(jump))]
        self.lift = self.lift * np.exp(self.rng.normal(0, REGIONAL_DRIFT, self.lift.shape))


def hashed(demand: Floats, size: Longs, capacity: Longs, keys: list[str]) -> tuple[Ints, Ints]:
    """Return copies, as caches and files: the densest files, each in the cache of the highest hash that has room."""
    room, caches, files = capacity.copy(), [], []
    for file in np.argsort(-demand / size, kind="stable").tolist():
        if room.max() < size.min():
            break
        for cache in sorted(range(len(keys)), key=lambda at: -xxhash.xxh3_64_intdigest(f"{keys[at]}/{file}".encode())):
            if room[cache] >= size[file]:
                room[cache] -= size[file]
                caches.append(cache)
                files.append(file)
                break
    return np.array(caches, np.int32), np.array(files, np.int32)


def hashing_gap(fleet: Fleet, demand: Demand, result: PlacementResult, clusters: int = 5) -> float:
    """Return by what part consistent hashing by value is below the bound, in some clusters."""
    served = 0.0
    for cluster in range(min(clusters, demand.clusters)):
        members = np.flatnonzero(fleet.caches.cluster == cluster)
        row, keys = demand.of(cluster), [fleet.caches.names[member] for member in members.tolist()]
        caches, files = hashed(row, fleet.size, fleet.caches.capacity[members], keys)
        served += served_of(row, fleet.caches.serving[members] * 12 * 3600, caches, files)
    return 1 - served / float(result.bound[:clusters].sum())


def measure_large(caches: int, files: int, days: int, tell: Callable[[str], None]) -> list[Day]:
    """Place a fleet from nothing, and then from day to day."""
    fleet, settings = Fleet(caches, files, 1), PlacementSettings()
    held: Placement | None = None
    found = []
    for day in range(days):
        demand = fleet.demand()
        result, user, system = processor_time(lambda: place(demand, fleet.size, fleet.caches, held, settings))  # noqa: B023
        held = result.placement
        rewritten = result.written / fleet.caches.capacity
        found.append(
            Day(
                day, result.gap, float(1 - result.served.sum() / result.aggregate.sum()),
                float((1 - result.served / result.bound).max()), float(result.served.sum() / result.demand.sum()),
                float(result.written.sum() / fleet.caches.capacity.sum()), float(rewritten.max()), user, system,
                len(held.files), hashing_gap(fleet, demand, result),
            )
        )  # fmt: skip
        tell(" ".join(row_of_day(found[-1])))
        fleet.next_day()
    return found


def compile_time() -> tuple[float, float]:
    """Compile all of the loops, and return the user and system seconds that it took."""
    demand, size, caches = small_instance(default_rng(0))
    settings = PlacementSettings(neighbourhoods=0)
    _, user, system = processor_time(lambda: place(demand_of_clusters(demand[None]), size, caches, None, settings))
    return user, system


def row_of_small(small: Small) -> tuple[str, ...]:
    """Return a row of the table of small instances."""
    return (
        str(small.seed), "held" if small.from_held else "nothing", str(small.caches), str(small.files),
        f"{small.off:.2%}" + ("" if small.is_optimal else " *"), f"{1 - small.worth / small.exact_bound:.2%}",
        f"{small.rewritten:.1%}",
    )  # fmt: skip


def row_of_day(day: Day) -> tuple[str, ...]:
    """Return a row of the table of days."""
    return (
        str(day.day), f"{day.gap:.3%}", f"{day.aggregate_gap:.3%}", f"{day.worst_cluster:.2%}", f"{day.served:.1%}",
        f"{day.rewritten:.2%}", f"{day.rewritten_most:.2%}", f"{day.user_s:.2f}", f"{day.system_s:.2f}",
        f"{day.hashing_gap:.1%}",
    )  # fmt: skip


def page(report: Report) -> str:
    """Return the report as a page."""
    machine = report.machine
    parts = [
        "# Placement beside what is possible\n",
        f"Made on {machine.made_at} by `python -m bench.planner.placement`, p2pfill {machine.p2pfill}, "
        f"{machine.processors} x {machine.processor}, Python {machine.python}. Times are processor seconds of one "
        f"thread. Compiling the loops took {report.compile_user_s:.1f} s user and {report.compile_system_s:.1f} s "
        "system, once in each process, and is in no other figure.\n",
    ]
    if report.small:
        offs = [small.off for small in report.small]
        bounds = [1 - small.worth / small.exact_bound for small in report.small]
        parts += [
            f"## {len(report.small)} small instances beside HiGHS\n",
            f"Below the best known: {np.mean(offs):.2%} in the mean, {max(offs):.2%} at worst. Below HiGHS' bound: "
            f"{np.mean(bounds):.2%} and {max(bounds):.2%}. HiGHS had {report.exact_seconds:g} s for each and proved "
            f"{sum(small.is_optimal for small in report.small)} of them (the others: *); the planner took "
            f"{np.median([small.processor_s for small in report.small]):.2f} s in the middle and "
            f"{max(small.processor_s for small in report.small):.2f} s at most.\n",
            table_in_markdown(SMALL_HEAD, [row_of_small(small) for small in report.small]),
        ]
    if report.days:
        parts += [
            f"## {report.caches:,} caches and {report.files:,} files\n",
            f"Day 0 is placed from nothing. The process had {report.memory_bytes / 1e6:.0f} MB at most.\n",
            table_in_markdown(LARGE_HEAD, [row_of_day(day) for day in report.days]),
        ]
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 1 where a reach is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.planner.placement", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--instances", type=int, default=30, help="small ones (default: 30)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for HiGHS, each (default: 5)")
    parser.add_argument("--caches", type=int, default=1000, help="of the large fleet; 0: none (default: 1000)")
    parser.add_argument("--files", type=int, default=100_000, help="of the large fleet (default: 100000)")
    parser.add_argument("--days", type=int, default=4, help="of the large fleet (default: 4)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write placement.json and README.md there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json, highlight=False)
    started = time.monotonic()
    user, system = compile_time()
    small = []
    for seed in range(options.instances):
        small.append(measure_small(seed, options.seconds))
        console.print(*row_of_small(small[-1]), soft_wrap=True)
    days = measure_large(options.caches, options.files, options.days, console.print) if options.caches else []
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = Report(
        describe_machine(Path("/tmp")), user, system, options.seconds, small, options.caches, options.files, memory,
        days,
    )  # fmt: skip
    console.print(page(report), f"{time.monotonic() - started:.0f} s in all", soft_wrap=True)
    if options.json:
        print(msgspec.json.encode(report).decode())
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "placement.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        (options.out / "README.md").write_text(page(report))
    return int(not report.is_good)


if __name__ == "__main__":
    sys.exit(main())
