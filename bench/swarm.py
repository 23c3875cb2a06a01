"""A fill on a small Internet of network namespaces, measured against the best that its links allow.

    python -m bench.swarm bench/topologies/3x4.toml [--runs 1] [--work DIR] [--json]

The bound is the title's size over the goodput of the narrowest link that all of it must pass: the origin's, a cache's,
or an ISP's uplink. Goodput is taken as 95.7 % of a link's rate, what one TCP stream (iperf3) carries over such links.
Time runs from the order to fill until the tracker knows the last cache live.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from bench.lab import Host, Lab, Topology
from bench.pair import write_source
from p2pfill.model.manifest import Manifest
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest, FillStatus

GOODPUT: Final = 0.957
TRACKER_PORT: Final = 7070
ORIGIN_PORT: Final = 8000
NODE_PORT: Final = 7400
FILL_S: Final = 600.0


def bound_s(topology: Topology, size: int) -> float:
    """Return the least seconds in which `size` bytes can reach every cache of `topology`."""
    rates = [host.rate_mbit for host in topology.hosts() if host.rate_mbit]
    if topology.uplink_mbit:
        rates.append(topology.uplink_mbit)
    return size / (min(rates) * 1e6 / 8 * GOODPUT)


class Fleet:
    """The processes of one run; each writes its log below `work`."""

    def __init__(self, lab: Lab, work: Path) -> None:
        self._lab = lab
        self._work = work
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, host: str, name: str, *arguments: str) -> dict[str, Any]:
        """Start a Python module on a host and return the JSON object that it prints when it is ready."""
        pipe = subprocess.PIPE
        with (self._work / f"{name}.log").open("w") as log:
            command = self._lab.command(host, [sys.executable, "-m", *arguments])
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=self._work)
        self._processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start: {(self._work / f'{name}.log').read_text()[-500:]}")
        ready: dict[str, Any] = json.loads(line)
        return ready

    def stop(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def running_fleet(lab: Lab, work: Path) -> Iterator[str]:
    """Start origin, tracker and caches; yield the origin's URL."""
    topology = lab.topology
    hosts = {host.name: host for host in topology.hosts()}
    origin = hosts[topology.origin]
    tracker_url = f"http://{origin.address}:{TRACKER_PORT}"
    fleet = Fleet(lab, work)
    try:
        source = str(work / "source")
        place = [source, str(work / "t.fill"), f"{origin.address}:{ORIGIN_PORT}"]
        fleet.start(origin.name, "origin", "p2pfill.cli.static_server", *place)
        where = ["--listen", f"{origin.address}:{TRACKER_PORT}", "--db", f"sqlite:///{work}/tracker.db"]
        fleet.start(origin.name, "tracker", "p2pfill.cli", "tracker", *where, "--json", "--until-eof")
        for host in topology.caches():
            fleet.start(host.name, host.name, "p2pfill.cli", "node", *node_arguments(host, work, tracker_url))
        yield f"http://{origin.address}:{ORIGIN_PORT}/"
    finally:
        fleet.stop()


def node_arguments(host: Host, work: Path, tracker_url: str) -> list[str]:
    """Return the flags of one cache."""
    settings = {
        "id": host.name,
        "isp": host.isp,
        "region": "region",
        "data": str(work / host.name),
        "listen": f"{host.address}:{NODE_PORT}",
        "tracker": tracker_url,
    }
    return [*(part for name, value in settings.items() for part in (f"--{name}", value)), "--json", "--until-eof"]


async def order_fill(tracker_url: str, manifest: Manifest, origin_url: str, caches: int) -> tuple[float, FillStatus]:
    """Order the fill, wait for its end, and return seconds and the last status."""
    async with TrackerClient(tracker_url) as client:
        while len(await client.nodes()) < caches:
            await trio.sleep(0.1)
        title = manifest.title_id.hex()
        await client.put_title(title, manifest.encode())
        began = time.monotonic()
        created = await client.post_fill(FillRequest(title=title, selector="all", origins=[origin_url]))
        with trio.fail_after(FILL_S):
            while True:
                status = await client.fill(created.fill_id)
                if status.done or status.totals.failed:
                    return time.monotonic() - began, status
                await trio.sleep(0.1)


def measure(topology: Topology, work: Path) -> dict[str, Any]:
    """Build the lab, fill once, and return what was measured."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "source").mkdir(parents=True)
    write_source(work / "source" / "file", topology.size_mib)
    manifest = publish(work / "source", name="lab").manifest
    (work / "t.fill").write_bytes(manifest.encode())
    with Lab(topology) as lab:
        cpu_before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with running_fleet(lab, work) as url:
            before = lab.border_bytes()
            origin = next(host for host in topology.hosts() if host.name == topology.origin)
            done = subprocess.run(
                lab.command(origin.name, [sys.executable, "-m", "bench.swarm", "--order", str(work / "t.fill"), url,
                                          f"http://{origin.address}:{TRACKER_PORT}", str(len(topology.caches()))]),
                stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parent.parent,
            )  # fmt: skip
            after = lab.border_bytes()
        cpu_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result: dict[str, Any] = json.loads(done.stdout)
    crossed = {isp: (after[isp][0] - before[isp][0]) / manifest.size for isp in topology.isps}
    cloud = next(host.isp for host in topology.hosts() if host.name == topology.origin)
    result["time_over_bound"] = result["seconds"] / bound_s(topology, manifest.size)
    result["origin_border_copies"] = (after[cloud][1] - before[cloud][1]) / manifest.size
    result["isp_border_copies"] = {isp: copies for isp, copies in crossed.items() if isp != cloud}
    result["cpu_s"] = cpu_after.ru_utime + cpu_after.ru_stime - cpu_before.ru_utime - cpu_before.ru_stime
    return result


def order_from_inside(fill: str, origin_url: str, tracker_url: str, caches: str) -> None:
    """Order a fill and print its outcome as JSON; runs inside the lab, where the tracker can be reached."""
    manifest = Manifest.decode(Path(fill).read_bytes())
    seconds, status = trio.run(order_fill, tracker_url, manifest, origin_url, int(caches))
    totals = status.totals
    print(
        json.dumps(
            {
                "seconds": seconds,
                "live": totals.live,
                "origin_copies": totals.bytes_origin / manifest.size,
                "duplicate_bytes": totals.duplicate_bytes,
                "escalations": totals.escalations,
            }
        )
    )


def main() -> None:
    if sys.argv[1:2] == ["--order"]:
        order_from_inside(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m bench.swarm", description=__doc__.splitlines()[0])
    parser.add_argument("topology", type=Path, help="a TOML file, as in bench/topologies")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where the caches' data goes (default: the system's choice)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a run and nothing else")
    options = parser.parse_args()
    if os.geteuid():
        parser.error("needs root, to make network namespaces")
    topology = Topology.load(options.topology)
    work = Path(tempfile.mkdtemp(prefix="p2pfill-swarm-", dir=options.work))
    try:
        for _ in range(options.runs):
            result = measure(topology, work)
            print(json.dumps(result) if options.json else json.dumps(result, indent=2), flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
