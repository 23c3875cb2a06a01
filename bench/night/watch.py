"""One night: build the lab, start the fleet, let the night go by, and read counters and clocks.

The counters of all interfaces are read every `SAMPLE_S`, and whether a cache is open is worked out from its timetable
and the clock that it was given. An interval counts as outside of its windows where it lies there as a whole. What is
in flight when a window ends still comes out of the queues of links and sockets, for `GRACE_S` at most.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import trio

from bench.night.fleet import NightFleet
from bench.night.records import CacheNight, Copies, Night, Outside
from bench.night.topology import NightTopology, Span
from bench.swarm.contender import Course
from bench.swarm.lab import Lab, Reading, entered
from bench.swarm.p2pfill_fleet import Offer
from bench.swarm.processes import Processes
from p2pfill.bench.measure import LoadMeter
from p2pfill.cli.demo import until_signal

SAMPLE_S: Final = 0.25

GRACE_S: Final = 0.5
"""After the end of a window: a node looks at its clock every quarter of a second, and a link's queue holds 40 ms."""

MORNING_S: Final = 1.5
"""After the night: until the last heartbeats have been told to the tracker."""


class Sample(NamedTuple):
    """The counters at one moment of the night."""

    at_s: float
    reading: Reading


def run_night(topology: NightTopology, offers: list[Offer], work: Path) -> Night:
    """Run one night; one that fails says so in its record.

    Raises `LabError`, and `KeyboardInterrupt` after a signal.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    # What was written before must not share the disk with this night.
    os.sync()

    async def run() -> Night:
        return await _run(lab, offers, topology, work)

    with Lab(topology) as lab, entered(lab.space(topology.origin)):
        try:
            night = trio.run(until_signal, run)
        except Exception as error:  # noqa: BLE001 (the other nights shall still be watched)
            night = Night(failed=_first_cause(error))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    if night is None:
        raise KeyboardInterrupt
    return night


def _first_cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


async def _run(lab: Lab, offers: list[Offer], topology: NightTopology, work: Path) -> Night:
    course = Course(topology)
    samples: list[Sample] = []
    load_average = os.getloadavg()[0]
    async with Processes(lab, work) as processes:
        fleet = NightFleet(topology, processes, work, offers)
        await fleet.start()
        await trio.sleep(fleet.begins_at - time.time())
        processes.start_clocks()
        meter = LoadMeter(work)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_sample, lab, fleet.begins_at, samples)
            ends = trio.current_time() + topology.lasts_s
            with trio.move_on_at(ends):
                await fleet.fill(course)
            await trio.sleep_until(ends)
            nursery.cancel_scope.cancel()
        load = meter.read()
        spent = [peer.cpu() for peer in processes.peers.values()]
        await trio.sleep(MORNING_S)
        processes.check()
        told = await fleet.look_again()
    night = Night(
        ordered_s={name: round(at_s, 3) for name, at_s in fleet.ordered_s().items()},
        tiers={
            "peer": told.totals.bytes_peer,
            "regional": told.totals.bytes_regional,
            "origin": told.totals.bytes_origin,
        },
        user_s=sum(cpu.user_s for cpu in spent),
        system_s=sum(cpu.system_s for cpu in spent),
        load=load,
        load_average=load_average,
    )
    _count(night, topology, samples)
    _take_reports(night, topology, fleet)
    return night


async def _sample(lab: Lab, begins_at: float, samples: list[Sample]) -> None:
    while True:
        samples.append(Sample(time.time() - begins_at, lab.read()))
        await trio.sleep(SAMPLE_S)


# ---- what the counters say; pure


def outside_of(cache: str, windows: Sequence[Span], samples: Sequence[Sample]) -> Outside:
    """Sum up what a cache's interface carried in all intervals that lie outside of its windows as a whole."""
    found = Outside()
    for first, last in pairwise(samples):
        if any(first.at_s < span.closes_s + GRACE_S and last.at_s > span.opens_s for span in windows):
            continue
        before, after = first.reading.hosts[cache], last.reading.hosts[cache]
        found.seconds += last.at_s - first.at_s
        found.bytes_in += after.bytes_in - before.bytes_in
        found.packets_in += after.packets_in - before.packets_in
        found.bytes_out += after.bytes_out - before.bytes_out
    return found


def _count(night: Night, topology: NightTopology, samples: list[Sample]) -> None:
    """Fill in what the interfaces have counted. What the viewers send is no business of the fill, and left out."""
    viewers = topology.viewers
    without = [_without_viewers(sample, viewers.name, viewers.cache) for sample in samples]
    first, last = without[0].reading, without[-1].reading
    for host in topology.caches():
        before, after = first.hosts[host.name], last.hosts[host.name]
        windows = topology.spans(host)
        night.caches[host.name] = CacheNight(
            isp=host.isp,
            region=host.region,
            windows=windows,
            live_s={},
            bytes_in=after.bytes_in - before.bytes_in,
            bytes_out=after.bytes_out - before.bytes_out,
            outside=outside_of(host.name, windows, without),
            course=[(round(at_s, 2), reading.hosts[host.name].bytes_in - before.bytes_in) for at_s, reading in without],
        )
    cloud = topology.cloud()
    night.origin.wire = (last.isps[cloud].border_out - first.isps[cloud].border_out) / topology.size
    night.isps = {
        isp: Copies(0.0, (last.isps[isp].border_in - first.isps[isp].border_in) / topology.size)
        for isp in topology.isps
        if isp != cloud
    }
    night.viewers_bytes = last.hosts[viewers.name].bytes_in - first.hosts[viewers.name].bytes_in
    night.viewers_s = samples[-1].at_s - samples[0].at_s


def _without_viewers(sample: Sample, viewers: str, cache: str) -> Sample:
    """Take from what came in at a cache what its viewers have sent: they talk with nobody else.

    The counters of both are read at once, and what is between the two is a few packets.
    """
    hosts = dict(sample.reading.hosts)
    sent, had = hosts[viewers], hosts[cache]
    hosts[cache] = had._replace(bytes_in=had.bytes_in - sent.bytes_out, packets_in=had.packets_in - sent.packets_out)
    return sample._replace(reading=sample.reading._replace(hosts=hosts))


def _take_reports(night: Night, topology: NightTopology, fleet: NightFleet) -> None:
    """Fill in what the caches say themselves."""
    into: Counter[str] = Counter()
    escalations: Counter[str] = Counter()
    origin = 0
    for name, titles in fleet.reports().items():
        cache = night.caches[name]
        for title, report in titles.items():
            if report.state == "live":
                cache.live_s[title] = round(report.finished_at - fleet.begins_at, 3)
            into[cache.isp] += report.bytes_origin + report.bytes_regional
            origin += report.bytes_origin
            night.duplicate += report.duplicate_bytes
            escalations.update(report.escalations)
    night.origin.payload = origin / topology.size
    for isp, copies in night.isps.items():
        copies.payload = into[isp] / topology.size
    night.escalations = dict(escalations)
