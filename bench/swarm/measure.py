"""One run: build the lab, start a contender, let it fill, play the events, and read all counters and clocks.

What is measured lasts from the order to fill until the last cache that counts has the title. Starting processes,
importing Python, hashing the title and meeting the tracker come before; processor time and bytes are counted from a
reading just before the order, so these are not in them either. Processor time until that reading is kept apart. The
second reading is taken as soon as the benchmark knows that the last cache has the title.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import trio

from bench.swarm.bounds import GOODPUT, bound_s, cache_bound_s
from bench.swarm.clocks import GroupUse, add_group, switches_of
from bench.swarm.contender import Contender, Course
from bench.swarm.lab import IspBytes, Lab, Reading, entered
from bench.swarm.processes import Processes, RunFailed
from bench.swarm.records import CacheRun, MachineUse, ProcessUse, Run
from bench.swarm.topology import Event, Topology
from p2pfill.bench.measure import LoadMeter

SAMPLE_S: Final = 0.2
"""Between two readings of the border counters: a few system calls an ISP each."""

LOOK_S: Final = 1.0
"""Between two looks at all threads: 20 ms of the benchmark's own processor time for 13 processes. What a thread that
ends has taken since the last look is not known as its own."""

PATIENCE: Final = 12.0
"""A run that takes this many times its bound has failed."""

PATIENCE_S_MIN: Final = 60.0


def run_contender(
    name: str, kind: type[Contender], topology: Topology, title: Any, work: Path, goodput: float = GOODPUT
) -> Run:
    """Run one contender once; a run that fails says so in its record. Raises `LabError` where no lab can be built."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    # What the last run has left to be written must not share the disk with this one.
    os.sync()
    with Lab(topology) as lab, entered(lab.space(topology.origin)):
        try:
            return trio.run(_run_until_signal, name, kind, lab, title, work, goodput)
        except Exception as error:  # noqa: BLE001 (whatever the contender did, the others shall still be measured)
            return Run(contender=name, failed=_first_cause(error))
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _first_cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


async def _run_until_signal(name: str, kind: type[Contender], lab: Lab, title: Any, work: Path, goodput: float) -> Run:
    """Run; on SIGINT or SIGTERM end all processes, then raise `KeyboardInterrupt`."""
    run: Run | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            run = await _run(name, kind, lab, title, work, goodput)
            nursery.cancel_scope.cancel()
    if run is None:
        raise KeyboardInterrupt
    return run


async def _run(name: str, kind: type[Contender], lab: Lab, title: Any, work: Path, goodput: float) -> Run:
    topology = lab.topology
    course = Course(topology)
    plain_bound_s = bound_s(topology, goodput)
    borders: list[tuple[float, dict[str, int]]] = []
    async with Processes(lab, work) as processes:
        contender = kind(topology, processes, work, title)
        await contender.start()
        counted = await contender.read_counts()
        processes.start_clocks()
        before, meter = lab.read(), MachineMeter(work)
        limit_s = max(PATIENCE_S_MIN, PATIENCE * plain_bound_s)
        async with trio.open_nursery() as nursery:
            for event in topology.events:
                nursery.start_soon(_play, event, event.at_seconds(plain_bound_s), lab, contender, processes, course)
            nursery.start_soon(_watch_borders, lab, before.isps, course, borders)
            nursery.start_soon(_read_clocks, course, processes, meter)
            with trio.move_on_after(limit_s) as limit:
                await contender.fill(course)
                await meter.has_read.wait()
            nursery.cancel_scope.cancel()
        if limit.cancelled_caught:
            raise RunFailed(f"after {limit_s:.0f} s these lack the title: {', '.join(course.missing())}")
        after = lab.read()
        payload = contender.payload()
        counts = Counter(await contender.read_counts())
        counts.subtract(counted)
    run = Run(
        contender=name,
        seconds=max(course.live_s[host.name] for host in topology.counted()),
        bound_s=bound_s(topology, goodput, course.joined_s),
        caches=_caches(topology, course, goodput),
        chunks=payload.chunks,
        counts=dict(counts),
        payload_origin=payload.origin,
        payload_tiers=payload.tiers,
        duplicate=payload.duplicate,
        escalations=payload.escalations,
        joined_s=course.joined_s,
        titles_s={name: round(seconds, 3) for name, seconds in payload.titles_s.items()},
        borders=borders,
    )
    _count_bytes(run, topology, before.isps, after.isps)
    _count_moved(run, topology, before, after)
    _count_use(run, processes, meter)
    return run


class MachineMeter:
    """What all processors did, from its making until `read`."""

    def __init__(self, directory: Path) -> None:
        self.has_read = trio.Event()
        self._load = LoadMeter(directory)
        self._began, self._own = time.monotonic(), time.process_time()
        self._use = MachineUse(0.0, 0.0, 0.0, 0.0, 0.0)

    def read(self) -> None:
        """Note it."""
        load, seconds = self._load.read(), time.monotonic() - self._began
        harness = (time.process_time() - self._own) / (seconds * (os.cpu_count() or 1))
        self._use = MachineUse(seconds, load.busy, load.stolen, 0.0, harness)
        self.has_read.set()

    def use(self, processes_s: float) -> MachineUse:
        """Return it, with `processes_s` as the processor seconds of the contender's processes."""
        self._use.contender = processes_s / (self._use.seconds * (os.cpu_count() or 1))
        return self._use


async def _read_clocks(course: Course, processes: Processes, meter: MachineMeter) -> None:
    """Look at all clocks now and then, since threads end, and at the end of the fill."""
    while not course.done.is_set():
        with trio.move_on_after(LOOK_S):
            await course.done.wait()
        processes.read_clocks()
    meter.read()


def _count_moved(run: Run, topology: Topology, before: Reading, after: Reading) -> None:
    """Fill in the bytes that processor time is divided by: payload, alike for all contenders, and beside it the wire.
    """
    caches = [host.name for host in topology.caches()]
    parts = [run.caches[name].curve[-1][1] for name in caches]
    run.moved_bytes = round(sum(parts) * topology.size)
    run.wire_bytes = sum(after.hosts[name].bytes_in - before.hosts[name].bytes_in for name in caches)


def _count_use(run: Run, processes: Processes, meter: MachineMeter) -> None:
    """Fill in what processes and the machine did. Threads of all caches go together; those of servers by process."""
    groups: dict[str, GroupUse] = {}
    for name, peer in processes.peers.items():
        use = peer.use()
        run.processes[name] = ProcessUse(use.start, use.since, switches_of(use.groups))
        run.cpu_s[name] = round(sum(use.since), 3)
        for group, taken in use.groups.items():
            add_group(groups, f"{'caches' if name in run.caches else name}: {group}", taken)
    run.groups = groups
    run.machine = meter.use(run.cpu_total_s)


async def _play(
    event: Event, at_s: float, lab: Lab, contender: Contender, processes: Processes, course: Course
) -> None:
    await course.begun.wait()
    await trio.sleep(at_s)
    match event.kind:
        case "kill":
            processes.peers[event.host].kill()
        case "slow":
            lab.slow(lab.topology.host(event.host), event.factor, event.way)
        case "join":
            await contender.join(event.host, course)


async def _watch_borders(
    lab: Lab, before: dict[str, IspBytes], course: Course, borders: list[tuple[float, dict[str, int]]]
) -> None:
    await course.begun.wait()
    while True:
        await trio.sleep(SAMPLE_S)
        now = lab.isp_bytes()
        entered_bytes = {isp: now[isp].border_in - before[isp].border_in for isp in now}
        borders.append((round(course.elapsed_s(), 3), entered_bytes))


def _caches(topology: Topology, course: Course, goodput: float) -> dict[str, CacheRun]:
    counted = {host.name for host in topology.counted()}
    return {
        host.name: CacheRun(
            isp=host.isp,
            counted=host.name in counted,
            live_s=course.live_s.get(host.name),
            bound_s=cache_bound_s(topology, host, goodput, course.joined_s),
            curve=[(round(at_s, 3), round(part, 4)) for at_s, part in course.curves[host.name]],
        )
        for host in topology.caches()
    }


def _count_bytes(run: Run, topology: Topology, before: dict[str, IspBytes], after: dict[str, IspBytes]) -> None:
    """Fill in the bytes by tier, from interface counters alone and so alike for all contenders.

    What reached hosts and came over no border came from the same ISP; what came over a border and did not leave the
    cloud came from other ISPs. In copies of the title, headers and control traffic included.
    """
    size, cloud = topology.size, topology.cloud()
    into = {isp: after[isp].border_in - before[isp].border_in for isp in after}
    out = {isp: after[isp].border_out - before[isp].border_out for isp in after}
    delivered = {isp: after[isp].delivered - before[isp].delivered for isp in after}
    run.isp_copies = {isp: into[isp] / size for isp in topology.isps if isp != cloud}
    run.origin_border_copies = out[cloud] / size
    others = [isp for isp in topology.isps if isp != cloud]
    run.wire_tiers = {
        "same ISP": sum(delivered[isp] - into[isp] for isp in others) / size,
        "other ISPs": (sum(into[isp] for isp in others) - out[cloud]) / size,
        "origin": out[cloud] / size,
    }
