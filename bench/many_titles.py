"""What live titles cost a node and its tracker while nothing happens to them: 1,000, 10,000 and 50,000 on a node.

    .venv/bin/python -m bench.many_titles --out docs/reports/titles

For each number of titles a store with that many small live titles, and a larger one, is written to the disk, and a
tracker's database with a standing order for each. Then a real tracker and a real node run on them, all of them side by
side. Rounds alternate between the nodes: each is measured idle, and while a neighbour takes the larger title from it as
fast as it goes. Figures are medians over the rounds. How late a node's event loop wakes is looked at from inside its
process, 100 times a second.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
import xxhash
from blake3 import blake3

from p2pfill._version import __version__
from p2pfill.bench.light_peer import LightPeer
from p2pfill.bench.measure import BenchFailed
from p2pfill.model import limits
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.reports import NodeReport
from p2pfill.node.config import NodeConfig
from p2pfill.node.node import open_node
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service
from p2pfill.transport.lag import LagMonitor

SMALL_BYTES: Final = 4096
LARGE_BYTES: Final = 256 << 20
LARGE_CHUNK_BYTES: Final = 16 << 20
PASSES: Final = 50
"""How often the neighbour takes the large title over one link: a light one never closes its requests."""
SIDE_BY_SIDE: Final = 512
"""Calls of the service at once: they share a transaction."""
SETTLE_S: Final = 8.0
"""After a node has told its tracker all, before it is measured."""
BEGIN_S: Final = 900.0
"""The longest that a node may take to begin."""
POLLS: Final = 50


# ---- what is on the disk


async def prepare(root: Path, count: int) -> None:
    """Write a store of `count` small titles and a large one, and the database of a tracker that orders them."""
    data, large = root / "data", os.urandom(1 << 20) * (LARGE_BYTES >> 20)
    for place in ("filling", "titles", "live"):
        (data / place).mkdir(parents=True)
    catalogue = Catalogue.open(f"sqlite:///{root}/tracker.db")
    try:
        service = Service(catalogue, await catalogue.load(), heartbeat_s=2.0)
        manifest = make_manifest("large", large, LARGE_CHUNK_BYTES)
        (root / "large.fill").write_bytes(manifest.encode())
        await _add(service, data, manifest, large)
        for first in range(0, count, SIDE_BY_SIDE):
            async with trio.open_nursery() as nursery:
                for number in range(first, min(first + SIDE_BY_SIDE, count)):
                    small = number.to_bytes(8, "big") * (SMALL_BYTES // 8)
                    manifest = make_manifest(f"clip-{number}", small, limits.CHUNK_SIZE_MIN)
                    nursery.start_soon(_add, service, data, manifest, small)
    finally:
        await trio.to_thread.run_sync(catalogue.close)


def make_manifest(name: str, data: bytes, chunk_size: int) -> Manifest:
    """Return the manifest of a title of one file."""
    chunks = [data[at : at + chunk_size] for at in range(0, len(data), chunk_size)]
    xxh3 = b"".join(xxhash.xxh3_128(chunk).digest() for chunk in chunks)
    return Manifest(name, chunk_size, layout([("film", len(data))]), xxh3, b"".join(blake3(c).digest() for c in chunks))


async def _add(service: Service, data: Path, manifest: Manifest, contents: bytes) -> None:
    """Order a title, and write what a fill of it leaves behind, without its syncs."""
    title, encoded = manifest.title_id.hex(), manifest.encode()
    await service.add_title(title, manifest, encoded)
    fill = await service.add_fill(FillRequest(title, "all", [f"http://192.0.2.1/{manifest.name}"]))
    _write(data, manifest, encoded, contents, service.fills[fill.fill_id].number)


def _write(data: Path, manifest: Manifest, encoded: bytes, contents: bytes, number: int) -> None:
    directory = data / "titles" / manifest.title_id.hex()
    (directory / "files").mkdir(parents=True)
    file = directory / "files" / "film"
    for path, written in ((directory / "manifest", encoded), (file, contents), (directory / "order", b"%d" % number)):
        path.write_bytes(written)
    os.utime(file, (0, 0))
    (data / "live" / manifest.name).symlink_to(f"../titles/{directory.name}/files")


# ---- the node, in a process of its own


class Begun(msgspec.Struct):
    """What a node says when it has told its tracker all."""

    host: str
    port: int
    boot_s: float
    """Until all titles were open."""
    told_s: float
    """Until the tracker had been told of all, and had told all orders."""


class Window(msgspec.Struct):
    """What a node says of a time that it was measured."""

    lag_p50_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    processor_s: float
    seconds: float
    resident_bytes: int
    heartbeat_bytes: int
    descriptors: int


def resident_bytes(pid: int | str = "self") -> int:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def run_node(data: str, tracker: str) -> None:
    """Run a node; for each line of standard input, which is a number of seconds, print what was seen in them."""
    began = time.monotonic()
    # Without the scrubber, whose round through all titles, once a day, would fall into the time of some nodes only.
    config = NodeConfig(id="bench", isp="bench", data=data, tracker=tracker, scrub_bytes_s=0)
    async with open_node(config) as node:
        gc.freeze()  # as `node.daemon` does
        boot_s = time.monotonic() - began
        sizes = [0]
        real = node.heartbeat

        def heartbeat(*, follows: bool = False) -> NodeReport:
            report = real(follows=follows)
            sizes[0] = len(msgspec.json.encode(report))
            return report

        node.heartbeat = heartbeat  # type: ignore[method-assign]
        while not (node.titles.orders is not None and node.titles.untold.since and not len(node.titles.untold)):
            await trio.sleep(0.1)
        begun = Begun("127.0.0.1", node.info.port, boot_s, time.monotonic() - began)
        print(msgspec.json.encode(begun).decode(), flush=True)
        while line := (await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)).strip():
            lag = LagMonitor(0.01)
            used, at = time.process_time(), time.monotonic()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lag.run)
                await trio.sleep(float(line))
                nursery.cancel_scope.cancel()
            looks = sorted(lag._looks_us)
            seen = Window(
                lag_p50_ms=looks[len(looks) // 2] / 1e3,
                lag_p99_ms=lag.report().p99_us / 1e3,
                lag_max_ms=looks[-1] / 1e3,
                processor_s=time.process_time() - used,
                seconds=time.monotonic() - at,
                resident_bytes=resident_bytes(),
                heartbeat_bytes=sizes[0],
                descriptors=len(os.listdir("/proc/self/fd")),
            )
            print(msgspec.json.encode(seen).decode(), flush=True)


# ---- measuring


class Round(msgspec.Struct):
    """One round of one node."""

    idle: Window
    serving: Window
    served_bytes_s: float


class Course(msgspec.Struct):
    """All that was measured with one number of titles."""

    titles: int
    begun: Begun
    node_bytes_a_title: float
    """Resident memory above that of a node with no titles."""
    tracker_bytes_a_title: float
    """The same of the tracker; its catalogue of titles and orders is part of it."""
    poll_ms: float
    """Processor time of the tracker for a poll that finds nothing new, over HTTP."""
    change_ms: float
    """The same for a new order, and the poll that brings it, as two other callers see it."""
    change_bytes: int
    """Of the answer that brings it."""
    whole_bytes: int
    """Of an answer with all orders."""
    rounds: list[Round] = []


class Pair:
    """A tracker and a node on one store."""

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.count = root, count
        self.manifest = Manifest.decode((root / "large.fill").read_bytes())
        self.node: trio.Process
        self.tracker: trio.Process
        self.url = ""
        self._said = b""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Begun]:
        """Run both."""
        command = [sys.executable, "-m", "p2pfill.cli", "tracker", "--listen", "127.0.0.1:0"]
        command += ["--db", f"sqlite:///{self.root}/tracker.db"]
        with (self.root / "tracker.log").open("wb") as log:
            self.tracker = await trio.lowlevel.open_process(command, stdout=log, stderr=log)
            try:
                self.url = await self._url()
                command = [sys.executable, "-m", "bench.many_titles", "--node", f"{self.root}/data", self.url]
                with (self.root / "node.log").open("wb") as errors:
                    self.node = await trio.lowlevel.open_process(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
                    )
                try:
                    with trio.fail_after(BEGIN_S):
                        begun = msgspec.json.decode(await self._line(), type=Begun)
                    yield begun
                finally:
                    with trio.CancelScope(shield=True):
                        await self.node.stdin.aclose()  # type: ignore[union-attr]
                        await self._end(self.node)
                        await self.node.stdout.aclose()  # type: ignore[union-attr]
            finally:
                self.tracker.terminate()
                with trio.CancelScope(shield=True):
                    await self._end(self.tracker)

    async def _end(self, process: trio.Process) -> None:
        with trio.move_on_after(30):
            await process.wait()
            return
        process.kill()
        await process.wait()

    async def _url(self) -> str:
        with trio.fail_after(BEGIN_S):
            while True:
                text = (self.root / "tracker.log").read_text(errors="replace")
                for word in text.split():
                    if word.startswith("http://"):
                        return word.rstrip(".,;")
                await trio.sleep(0.1)

    async def _line(self) -> bytes:
        """Return the next line that the node says. Raises `BenchFailed` where it has ended."""
        while b"\n" not in self._said:
            data = await self.node.stdout.receive_some()  # type: ignore[union-attr]
            if not data:
                raise BenchFailed(f"the node has ended: see {self.root}/node.log")
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line

    async def window(self, seconds: float) -> Window:
        """Have the node look at itself for some time."""
        await self.node.stdin.send_all(b"%f\n" % seconds)  # type: ignore[union-attr]
        return msgspec.json.decode(await self._line(), type=Window)

    async def serving(self, begun: Begun, seconds: float) -> tuple[Window, float]:
        """The same while the large title is taken as fast as it goes."""
        taken, is_under_way = 0, trio.Event()

        async def take() -> None:
            nonlocal taken
            count, number = self.manifest.chunk_count, 0
            while True:
                number += 1
                async with trio.open_nursery() as link:
                    address = begun.host, begun.port
                    peer = LightPeer(f"reader{number}", "bench", address, self.manifest, Bitmap(count), lambda _: b"")
                    link.start_soon(peer.run)
                    for _ in range(PASSES):
                        await peer.fetch(range(count))
                        taken += self.manifest.size
                        is_under_way.set()
                    link.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await is_under_way.wait()
            began, before = time.monotonic(), taken
            seen = await self.window(seconds)
            rate = (taken - before) / (time.monotonic() - began)
            nursery.cancel_scope.cancel()
        return seen, rate

    async def polls(self) -> tuple[float, float, int, int]:
        """Return the tracker's milliseconds for an idle poll and for a change, and the bytes of a change and of all."""
        fetch_bytes = [0]
        async with TrackerClient(self.url) as client:
            real = client._fetch

            async def fetch(*args: Any, **more: Any) -> bytes:
                answer = await real(*args, **more)
                fetch_bytes[0] = len(answer)
                return answer

            client._fetch = fetch  # type: ignore[method-assign]
            await client.orders("bench")
            whole = fetch_bytes[0]
            answer = await client.changes("bench", "", wait_s=0)
            while answer.more:
                answer = await client.changes("bench", answer.cursor, wait_s=0)
            used = self._tracker_s()
            for _ in range(POLLS):
                answer = await client.changes("bench", answer.cursor, wait_s=0)
            idle_ms = (self._tracker_s() - used) / POLLS * 1e3
            title, change = self.manifest.title_id.hex(), 0
            used = self._tracker_s()
            for _ in range(POLLS):
                await client.post_fill(FillRequest(title, "all", [f"http://192.0.2.1/{self.manifest.name}"]))
                answer = await client.changes("bench", answer.cursor, wait_s=1)
                change = max(change, fetch_bytes[0])
            return idle_ms, (self._tracker_s() - used) / POLLS * 1e3, change, whole

    def _tracker_s(self) -> float:
        fields = Path(f"/proc/{self.tracker.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(work: Path, counts: list[int], rounds: int, seconds: float) -> list[Course]:
    """Measure all, in turn."""
    courses: list[Course] = []
    async with trio.open_nursery() as nursery:
        pairs: list[tuple[Pair, Begun, Course]] = []
        empty = (0, 0)
        for count in [0, *counts]:
            if not (work / f"{count}").is_dir():
                await prepare(work / f"{count}", count)
            pair = Pair(work / f"{count}", count)
            begun = await nursery.start(_keep_running, pair)
            await trio.sleep(SETTLE_S)
            memory = (await pair.window(1.0)).resident_bytes, resident_bytes(pair.tracker.pid)
            if not count:
                empty = memory
                continue
            each = [(mine - base) / count for mine, base in zip(memory, empty, strict=True)]
            course = Course(count, begun, *each, *await pair.polls())
            courses.append(course)
            pairs.append((pair, begun, course))
            print(f"{count} titles: {msgspec.json.encode(course).decode()}", file=sys.stderr, flush=True)
        for number in range(rounds):
            for pair, begun, course in pairs[number % 2 :: 1] + pairs[: number % 2]:
                idle = await pair.window(seconds)
                course.rounds.append(Round(idle, *await pair.serving(begun, seconds)))
        nursery.cancel_scope.cancel()
    return courses


async def _keep_running(pair: Pair, task_status: trio.TaskStatus[Begun]) -> None:
    async with pair.running() as begun:
        task_status.started(begun)
        await trio.sleep_forever()


def table(courses: list[Course]) -> str:
    """Return the medians as a table."""

    def median(course: Course, of: Any) -> float:
        return statistics.median(of(one) for one in course.rounds)

    rows: list[tuple[str, Any]] = [
        ("memory of the node, kB a title", lambda c: f"{c.node_bytes_a_title / 1e3:.1f}"),
        ("memory of the tracker, kB a title", lambda c: f"{c.tracker_bytes_a_title / 1e3:.1f}"),
        ("until all titles are open, s", lambda c: f"{c.begun.boot_s:.1f}"),
        ("until tracker and node have told each other all, s", lambda c: f"{c.begun.told_s:.1f}"),
        ("open descriptors", lambda c: f"{median(c, lambda r: r.serving.descriptors):.0f}"),
        ("heartbeat with nothing new, bytes", lambda c: f"{median(c, lambda r: r.idle.heartbeat_bytes):.0f}"),
        ("answer with all orders, kB", lambda c: f"{c.whole_bytes / 1e3:,.0f}"),
        ("answer with one new order, bytes", lambda c: f"{c.change_bytes:,}"),
        ("tracker: processor ms a poll with nothing new", lambda c: f"{c.poll_ms:.1f}"),
        ("tracker: processor ms for a new order and its poll", lambda c: f"{c.change_ms:.1f}"),
        ("node idle: processor seconds a minute",
         lambda c: f"{median(c, lambda r: 60 * r.idle.processor_s / r.idle.seconds):.2f}"),
        ("node idle: loop lag p99, ms", lambda c: f"{median(c, lambda r: r.idle.lag_p99_ms):.2f}"),
        ("node serving: GB/s", lambda c: f"{median(c, lambda r: r.served_bytes_s / 1e9):.2f}"),
        ("node serving: loop lag median, ms", lambda c: f"{median(c, lambda r: r.serving.lag_p50_ms):.2f}"),
        ("node serving: loop lag p99, ms", lambda c: f"{median(c, lambda r: r.serving.lag_p99_ms):.2f}"),
    ]  # fmt: skip
    lines = ["| | " + " | ".join(f"{course.titles:,} titles" for course in courses) + " |"]
    lines.append("| --- |" + " ---: |" * len(courses))
    lines += [f"| {name} | " + " | ".join(show(course) for course in courses) + " |" for name, show in rows]
    return "\n".join(lines)


def write(out: Path, courses: list[Course], seconds: float) -> None:
    """Write the report."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "titles.json").write_bytes(msgspec.json.format(msgspec.json.encode(courses), indent=1) + b"\n")
    text = (
        f"# Live titles on a node\n\nMade by `python -m bench.many_titles` with p2pfill {__version__}, "
        f"Python {sys.version.split()[0]}, {os.cpu_count()} cores. A standing order for each title of {SMALL_BYTES} "
        f"bytes. Nodes and trackers of all sizes run side by side, and {len(courses[0].rounds)} rounds alternate among "
        f"them, {seconds:g} s idle and {seconds:g} s serving each, without scrubbers. Medians over the rounds; memory "
        "is what is resident above that of a node, or tracker, with no such title. The load average of the machine "
        f"was {os.getloadavg()[1]:.1f} at the end. All: [titles.json](titles.json).\n\n"
    )
    (out / "README.md").write_text(text + table(courses) + "\n")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure what live titles cost.")
    parser.add_argument("--sizes", default="1000,10000,50000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--work", type=Path, default=Path("many-titles"), help="for stores; kept, and used again")
    parser.add_argument("--out", type=Path, default=Path("docs/reports/titles"))
    parser.add_argument("--node", nargs=2, metavar=("DATA", "TRACKER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.node:
        trio.run(run_node, *given.node)
        return
    counts = [int(size) for size in given.sizes.split(",")]
    courses = trio.run(measure, given.work.absolute(), counts, given.rounds, given.seconds)
    write(given.out, courses, given.seconds)


if __name__ == "__main__":
    main()
