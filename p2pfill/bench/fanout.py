"""One node serving many receivers, and one receiver fetching from many nodes: real processes, default settings.

Receivers know of the sources alone, so nothing moves between them. The rate is that of all together, from the order to
the end of the last, and is compared with that of one pair which moves the same title in the same rounds. All share the
processors of one machine, and all receivers write to its disk and wait until everything is there; so the report says
what the machine did meanwhile: where processors or disk were busy all the time, it is they that were measured.

So that the copies of many receivers fit into memory beside the source, a title is made smaller than asked for where
they would be more than `TOTAL_MIB_MAX` together.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from p2pfill.bench.contenders import live_file, start_node
from p2pfill.bench.measure import Load, Machine, Spread, begin, describe_machine, mean_load
from p2pfill.bench.pair import Said, check_room
from p2pfill.bench.processes import RUN_S_MAX, Child
from p2pfill.bench.source import MIB, Source, make_source
from p2pfill.store.publish import publish

Direction = Literal["out", "in"]

DIRECTIONS: Final[dict[Direction, str]] = {"out": "one node serves", "in": "one receiver fetches from"}
RECEIVERS: Final = (1, 4, 16, 64)
SOURCES: Final = (1, 4, 16)
PAIR: Final = 1

TOTAL_MIB_MAX: Final = 4096
"""What all receivers fetch together at most, and what all sources hold: it stays in the memory of a small server."""

LIMITED: Final = 0.9
"""A part of the time that counts as all of it."""


class FanRun(msgspec.Struct, frozen=True):
    """One counted fetch of all receivers; the figures of the many are sums."""

    seconds: float
    """From the order to the end of the last."""
    sender_cpu_s: float
    receiver_cpu_s: float
    one_peak_bytes: int
    """Of the one node that all the others fetch from, or that fetches from all."""
    load: Load


class Point(msgspec.Struct, frozen=True):
    """A number of receivers, or of sources, and its runs."""

    direction: Direction
    count: int
    size_bytes: int
    """Of the title."""
    runs: list[FanRun]

    @property
    def moved_bytes(self) -> int:
        """What one run moves."""
        return self.size_bytes * (self.count if self.direction == "out" else 1)


class FanReport(msgspec.Struct, frozen=True):
    """Everything that was measured."""

    machine: Machine
    points: list[Point]


class _Title:
    """A title of some size, and the directory that it is published from."""

    def __init__(self, work: Path, mib: int) -> None:
        self.name = f"title-{mib}"
        self.source: Source = make_source(work / f"source-{mib}", mib)
        self.fill = work / f"{self.name}.fill"
        self.fill.write_bytes(publish(self.source.directory, name=self.name).manifest.encode())


def run_fanout(
    work: Path,
    mib: int,
    runs: int,
    receivers: Sequence[int] = RECEIVERS,
    sources: Sequence[int] = SOURCES,
    said: Said = lambda text: None,
) -> FanReport:
    """Run both directions, each beside a pair of its own, in an empty directory.

    Raises `ConfigError` where there is no room, and `BenchFailed` where a node fails or fetches anything wrong.
    """
    points: list[Point] = []
    asked: dict[Direction, Sequence[int]] = {"out": receivers, "in": sources}
    for direction, counts in asked.items():
        if counts:
            place = work / direction
            place.mkdir()
            points += _run_direction(place, direction, sorted({PAIR, *counts}), mib, runs, said)
            shutil.rmtree(place)
    return FanReport(describe_machine(work), points)


def _run_direction(
    work: Path, direction: Direction, counts: Sequence[int], mib: int, runs: int, said: Said
) -> list[Point]:
    sizes = sizes_mib(direction, counts, mib)
    held = counts[-1] if direction == "in" else 1
    fetched = max(size * (count if direction == "out" else 1) for count, size in sizes.items())
    check_room(work, (sum(set(sizes.values())) * (1 + held) + fetched) * MIB)
    said(f"{DIRECTIONS[direction]} {', '.join(map(str, counts))}: writing the titles")
    titles = {size: _Title(work, size) for size in set(sizes.values())}
    # A small title is slower in itself, so there is a pair for each size.
    plan = sorted({*sizes.items(), *((PAIR, size) for size in sizes.values())}, key=lambda one: (one[0], -one[1]))
    found: dict[tuple[int, int], list[FanRun]] = {one: [] for one in plan}
    with ExitStack() as stack:
        servers = [_start_server(work, number, titles.values(), stack) for number in range(held)]
        for number in range(runs + 1):
            for count, size in plan if number % 2 else reversed(plan):
                what = f"{DIRECTIONS[direction]} {count}, {size} MiB"
                said(f"{f'run {number} of {runs}' if number else 'warm-up'}: {what}")
                run = _run_once(work, direction, count, servers, titles[size])
                if number:
                    found[count, size].append(run)
    return [Point(direction, count, size * MIB, found[count, size]) for count, size in plan]


def sizes_mib(direction: Direction, counts: Sequence[int], mib: int) -> dict[int, int]:
    """Return how large a title is for each count.

    In the one direction each receiver writes a copy, so it depends on the count; in the other all sources hold the same
    title.
    """
    bounded = {count: max(1, min(mib, TOTAL_MIB_MAX // count)) for count in counts}
    return bounded if direction == "out" else dict.fromkeys(counts, min(bounded.values()))


class _Server(NamedTuple):
    """A node that serves all titles, and its address."""

    node: Child
    address: dict[str, Any]


def _start_server(work: Path, number: int, titles: Iterable[_Title], stack: ExitStack) -> _Server:
    pairs = [path for title in titles for path in (title.source.directory, title.fill)]
    node = stack.enter_context(start_node(work, "serve", f"seed-{number:02}", *pairs))
    return _Server(node, node.read())


def _run_once(
    work: Path, direction: Direction, count: int, servers: Sequence[_Server], title: _Title
) -> FanRun:
    # Of two nodes the one with the lower id dials, and only receivers know of the others.
    names = [f"fetch-{number:02}" for number in range(count if direction == "out" else 1)]
    used = servers if direction == "out" else servers[:count]
    with ExitStack() as stack:
        nodes = [stack.enter_context(start_node(work, "fetch", name, title.fill)) for name in names]
        for node in nodes:
            node.read()
        senders, receivers = [server.node.tree for server in used], [node.tree for node in nodes]
        meter = begin(work, *senders, *receivers)
        order = {"sources": [server.address for server in used]}
        ordered = time.monotonic()
        for node in nodes:
            node.tell(order)
        live = max(node.read(RUN_S_MAX)["live"] for node in nodes)
        load = meter.read()
        run = FanRun(
            seconds=live - ordered,
            sender_cpu_s=sum(tree.cpu_s() for tree in senders),
            receiver_cpu_s=sum(tree.cpu_s() for tree in receivers),
            one_peak_bytes=(senders if direction == "out" else receivers)[0].peak_bytes(),
            load=load,
        )
        for server in used:
            server.node.check()
        for name, node in zip(names, nodes, strict=True):
            node.finish()
            title.source.check(live_file(work, name, title.name), name)
            shutil.rmtree(work / name)
    return run


# ---- what the runs say; pure


def rate(point: Point) -> Spread:
    """Return the rate of all together, in GB/s."""
    return Spread.of(point.moved_bytes / run.seconds / 1e9 for run in point.runs)


def cost(point: Point) -> dict[str, Spread]:
    """Return the processor seconds per GB of each side."""
    gb = point.moved_bytes / 1e9
    return {
        "sender": Spread.of(run.sender_cpu_s / gb for run in point.runs),
        "receiver": Spread.of(run.receiver_cpu_s / gb for run in point.runs),
    }


def one_peak_bytes(point: Point) -> int:
    """Return the most memory that the one node had in any run."""
    return max(run.one_peak_bytes for run in point.runs)


def limit_of(point: Point) -> str:
    """Return what of the machine was busy all the time, in words; nothing where nothing was."""
    load = mean_load([run.load for run in point.runs])
    found = ["processors"] if load.busy + load.stolen >= LIMITED else []
    if load.disk_busy is not None and load.disk_busy >= LIMITED:
        found.append("disk")
    return " and ".join(found)


def over_pair(report: FanReport, point: Point) -> float:
    """Return the rate of a point over that of the pair that moved the same title in the same rounds."""
    beside = (point.direction, PAIR, point.size_bytes)
    base = next(one for one in report.points if (one.direction, one.count, one.size_bytes) == beside)
    return rate(point).median / rate(base).median


def ratios(report: FanReport) -> dict[str, float]:
    """Return the rate of each number of receivers (`16 receivers/pair`) or sources over that of its pair."""
    return {
        f"{point.count} {'receivers' if point.direction == 'out' else 'sources'}/pair": over_pair(report, point)
        for point in report.points
        if point.count != PAIR
    }


def as_record(report: FanReport) -> dict[str, Any]:
    """Return what the report says, and the report itself, as JSON has it."""
    points = [
        {
            "direction": point.direction,
            "count": point.count,
            "size_bytes": point.size_bytes,
            "rate_gb_s": rate(point),
            "cpu_s_per_gb": cost(point),
            "one_peak_bytes": one_peak_bytes(point),
            "limited_by": limit_of(point),
        }
        for point in report.points
    ]
    said: dict[str, Any] = msgspec.to_builtins({"ratios": ratios(report), "figures": points})
    record: dict[str, Any] = msgspec.to_builtins(report)
    return said | record
