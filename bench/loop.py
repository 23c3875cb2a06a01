"""What a node's event loop takes of a processor while a plane that moves nothing says that chunks have come.

    python -m bench.loop [--rate 2500] [--links 8] [--seconds 4] [--runs 5] [--root DIR]... [--out FILE.json] [--json]

No payload is moved and nothing is written: **these are figures of decisions and messages alone**, not of a fill. One
cache fills a title of chunks of 4 MiB from `--links` others that have all of it. Its engine, its links and their ticks
are those of a node. In the place of the data plane a thread claims what was asked for, calls it verified and sealed,
and has the loop reap it as the threads of a plane do, `--rate` times a second: 2,500 are 10 GB/s. Commits, too, are
over as soon as they are begun. The other caches are engines with links in another process, and count a request as sent
when it comes.

Counted is the thread of the event loop alone, in the program and in the system, after a second in which all begin. What
a node does beside is left out: its heartbeats, its journal, its log. With `--root`, once for each, the same is asked of
other trees of the code, by turns. Exit code 1 where the first tree misses the reach, 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from random import Random
from threading import RLock
from typing import Final

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from bench.micro.course import CHUNK_BYTES, make_manifest
from bench.telling import tell
from p2pfill import hot
from p2pfill.bench.measure import BenchFailed, Machine, Spread, describe_machine
from p2pfill.engine.engine import Effect, Engine
from p2pfill.engine.link import Link, WakeUploads
from p2pfill.engine.requests import Arrival, Outcome, Receive
from p2pfill.engine.task import BeginWriteOut, Commit, EndFill
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.timing import UPLOAD_SLOTS
from p2pfill.protocol.data import DataHeader
from p2pfill.protocol.messages import Message
from p2pfill.sim.channel import hello_of
from p2pfill.swarm.fill import Fill
from p2pfill.transport.control import ControlChannel, LoopShares
from p2pfill.transport.ticks import Ticks

ROOT: Final = Path(__file__).parents[1]

REACH: Final = 0.10
"""Of a core, for 2,500 chunks a second. Exit code 1 above it."""

WARM_S: Final = 1.0
"""In which links open and the first chunks come."""

LIMIT_S: Final = 60.0
"""For one run, beside its own time."""


class Run(msgspec.Struct, frozen=True):
    """What one run took, a second."""

    root: str
    chunks_s: float
    user: float
    """Of a core."""
    system: float
    ticks_s: float
    messages_s: float
    """Written by the loop."""
    plane: float
    """Of a core, for all other threads: of what stands in for the plane, and not counted."""
    native: bool = True
    """Whether the tree ran with its native module."""

    @property
    def share(self) -> float:
        """Of a core, for the event loop."""
        return self.user + self.system

    @property
    def chunk_us(self) -> float:
        """Processor time of the event loop for a chunk, in microseconds."""
        return self.share / self.chunks_s * 1e6


class Report(msgspec.Struct, frozen=True):
    """What `--out` writes."""

    machine: Machine
    rate: float
    links: int
    runs: list[Run]
    moves_payload: bool = False
    """Never."""

    def of(self, root: str) -> list[Run]:
        """Return the runs of one tree."""
        return [run for run in self.runs if run.root == root]

    @property
    def reached(self) -> bool:
        """Whether the middle of the runs of the first tree is below `REACH`."""
        return Spread.of(run.share for run in self.of(self.runs[0].root)).median < REACH


# ---- what stands in for the disk and the plane


class NoStore:
    """A title of which nothing is on any disk; an `engine.requests.ChunkStore`."""

    def __init__(self, chunk_count: int) -> None:
        self.seals = bytearray(chunk_count)
        self._lock = RLock()

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        """There are none."""
        return iter(())

    def write_lock(self, chunk: int) -> AbstractContextManager[object]:
        """Return one lock for all chunks."""
        return self._lock

    def is_sealed(self, chunk: int) -> bool:
        """Tell whether a chunk was called verified."""
        return bool(self.seals[chunk])

    def seal(self, chunk: int) -> None:
        """Call it so."""
        self.seals[chunk] = 1

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        """Nobody asks."""
        return True


class NoStreams:
    """Data streams of a link on which nothing comes; an `engine.link.DataStreams`."""

    def __init__(self) -> None:
        self.come = 0

    def come_bytes(self) -> int:
        """Return what was said to have come."""
        return self.come

    def take_held_back(self) -> bool:
        """There are no limits."""
        return False

    def receiving(self) -> list[int]:
        """Nothing comes but at once."""
        return []


class NoPlane(threading.Thread):
    """Says of what the links have asked for that it has come, in the order of the requests of each, link by link."""

    def __init__(self, links: list[tuple[Link, NoStreams]], rate: float) -> None:
        super().__init__(name="no-plane", daemon=True)
        self._links, self._rate = links, rate
        self.must_stop = False
        self.cpu_s = 0.0

    def run(self) -> None:
        """Work until stopped."""
        asked: deque[tuple[Link, NoStreams, Receive]] = deque()
        due_at = time.monotonic()
        while not self.must_stop:
            if not asked:
                lines = [(link, streams, link.book.outstanding()) for link, streams in list(self._links)]
                for place in range(max((len(line) for _, _, line in lines), default=0)):
                    asked.extend((link, streams, line[place]) for link, streams, line in lines if place < len(line))
            now = time.monotonic()
            while asked and now >= due_at:
                due_at += 1 / self._rate
                self._complete(*asked.popleft())
            # What it could not say in time, since nothing was asked for, is not made up for.
            due_at = max(due_at, now - 0.1)
            time.sleep(max(0.0, due_at - now) if asked else 1 / self._rate)
            self.cpu_s = time.thread_time()

    def _complete(self, link: Link, streams: NoStreams, receive: Receive) -> None:
        if link.book.get(receive.request_id) is not receive or not receive.is_wanted or receive.title.is_sealed(
            receive.chunk
        ):  # fmt: skip
            return
        link.book.claim(DataHeader(receive.request_id, receive.chunk, receive.length))
        outcome, fault = receive.verify(lambda: "")
        streams.come += receive.length
        link.book.arrive(Arrival(receive, outcome, receive.length, fault))
        assert outcome in (Outcome.VERIFIED, Outcome.WITHDRAWN)


# ---- one cache


class Cache:
    """An engine with links over sockets, in ticks."""

    def __init__(self, info: NodeInfo, shares: LoopShares, ticks: Ticks) -> None:
        self.info, self.ticks = info, ticks
        self.engine = Engine(info, Random(1), os.urandom, RLock, UPLOAD_SLOTS)
        self.links: list[tuple[Link, NoStreams]] = []
        self.decisions = self.messages = 0
        self._decide_at = 0.0
        self._shares = shares

    async def link(self, stream: trio.SocketStream) -> None:
        """Serve a link until it ends."""
        channel = CountingChannel(self, stream, hello_of(self.info, "boot"), shares=self._shares, ticks=self.ticks)
        link = self.engine.open_link(channel, self._reap_soon)
        link.streams = streams = NoStreams()
        self.links.append((link, streams))
        await channel.run(partial(self._handle, link))

    def _handle(self, link: Link, message: Message) -> None:
        self.engine.handle(self.ticks.now, link, message)
        self.ticks.wake()

    def _reap_soon(self, link: Link) -> None:
        self.ticks.tell(partial(self._reap, link), partial(self.engine.link_faulted, link))

    def _reap(self, link: Link) -> None:
        self.engine.reap(self.ticks.now, link)
        self.ticks.wake()

    def decide(self, now: float) -> float:
        """Have the engine decide, and do what it wants."""
        self.decisions += 1
        if not self.engine.is_settled(now):
            for effect in self.engine.poll(now):
                self._perform(now, effect)
            self._decide_at = self.engine.next_wakeup()
        return self._decide_at

    def _perform(self, now: float, effect: Effect) -> None:
        match effect:
            case WakeUploads(link):
                while (asked := link.uploads.take()) is not None:
                    self.engine.sent(now, link, asked.request_id)
            case Commit(task, chunks):
                self.engine.committed(now, task, chunks, 0.0)
                self.ticks.wake()
            case BeginWriteOut(task, _):
                self.engine.write_out_begun(now, task)
                self.ticks.wake()
            case EndFill(task):
                raise BenchFailed(f"the fill is over: {task.state} {task.error}")
            case _:
                pass  # streams are opened in name only, and there are no slots


class CountingChannel(ControlChannel):
    """A link that counts what it sends."""

    def __init__(
        self, cache: Cache, stream: trio.SocketStream, hello: Message, *, shares: LoopShares, ticks: Ticks
    ) -> None:
        super().__init__(stream, hello, shares=shares, ticks=ticks)  # type: ignore[arg-type]
        self._cache = cache

    def send(self, message: Message) -> bool:
        """Queue a message."""
        self._cache.messages += 1
        return super().send(message)


def info_of(name: str) -> NodeInfo:
    """Return who a cache is: all are of one ISP."""
    return NodeInfo(NodeId(name), "isp", "eu", host="127.0.0.1", port=7400)


async def serve_remotes(port: int, link_count: int, chunk_count: int) -> None:
    """Be the other caches, each of which has the whole title, until the one that fills goes."""
    title_id, shares = make_manifest(chunk_count).title_id, LoopShares()

    async def serve(number: int) -> None:
        cache = Cache(info_of(f"b{number:02}"), shares, Ticks())
        cache.engine.serve(trio.current_time(), title_id, Bitmap.full(chunk_count))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cache.ticks.run, cache.decide)
            await cache.link(await trio.open_tcp_stream("127.0.0.1", port))
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for number in range(link_count):
            nursery.start_soon(serve, number)


async def fill(root: str, rate: float, link_count: int, seconds: float) -> Run:
    """Fill for so long, and return what it took."""
    chunk_count = round((WARM_S + seconds + 2.0) * rate)
    manifest = make_manifest(chunk_count)
    me = Cache(info_of("a"), LoopShares(), Ticks())
    members = [info_of(f"b{number:02}") for number in range(link_count)]
    now = trio.current_time()
    logic = Fill(manifest, me.info, FillPolicy(), Random(1), now, Bitmap(chunk_count))
    me.engine.begin_fill(now, logic, NoStore(chunk_count), members=(me.info, *members))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = str(listener.socket.getsockname()[1])
    others = [sys.executable, str(Path(__file__)), "--remotes", port, "--links", str(link_count)]
    plane = NoPlane(me.links, rate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(me.ticks.run, me.decide)
        nursery.start_soon(trio.serve_listeners, me.link, [listener])
        process = await nursery.start(trio.run_process, [*others, "--chunks", str(chunk_count)])
        with trio.fail_after(LIMIT_S):
            while len(me.engine.links) < link_count:
                await trio.sleep(0.01)
        plane.start()
        await trio.sleep(WARM_S)
        before, began = _figures(me, plane), time.monotonic()
        await trio.sleep(seconds)
        after, took_s = _figures(me, plane), time.monotonic() - began
        plane.must_stop = True
        nursery.cancel_scope.cancel()
    assert process.returncode is not None
    each = [(later - earlier) / took_s for earlier, later in zip(before, after, strict=True)]
    return Run(root, *each, native=hot.NATIVE)


def _figures(cache: Cache, plane: NoPlane) -> tuple[float, float, float, float, float, float]:
    used = resource.getrusage(resource.RUSAGE_THREAD)
    came = cache.engine.received_bytes / CHUNK_BYTES
    return came, used.ru_utime, used.ru_stime, cache.decisions, cache.messages, plane.cpu_s


# ---- the command


def measure(root: str, options: argparse.Namespace) -> Run:
    """Run once with the code in `root`, in a process of its own. Raises `BenchFailed`."""
    # Here, since in the process of an older tree this module would be looked for in that tree.
    from bench.trees import check_tree

    check_tree(Path(root))
    figures = ["--rate", str(options.rate), "--links", str(options.links), "--seconds", str(options.seconds)]
    command = [sys.executable, str(Path(__file__)), "--child", root, *figures]
    # Modules are those of the tree, and this program's own for what only benchmarks know.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(root).resolve()), str(ROOT)))}
    limit_s = LIMIT_S + WARM_S + options.seconds
    try:
        done = subprocess.run(command, env=env, capture_output=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchFailed(f"a run with {root} did not end in {limit_s:.0f} s") from error
    if done.returncode:
        raise BenchFailed(f"a run with {root} failed: {done.stderr.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(done.stdout, type=Run)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.loop", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=2500.0, help="chunks of 4 MiB that come in a second")
    parser.add_argument("--links", type=int, default=8, help="caches that give them")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--root", action="append", metavar="DIR", help="a tree with the code; by default this one")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--remotes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--chunks", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rate <= 0 or not 0 < options.links < 100 or options.seconds <= 0 or options.runs < 1:
        parser.error("rate and seconds are more than 0, links 1 to 99, runs at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure and tell; 1 where the reach is missed, 2 where nothing could be measured."""
    options = parse_arguments(arguments)
    if options.remotes is not None:
        trio.run(serve_remotes, options.remotes, options.links, options.chunks)
        return 0
    if options.child is not None:
        run = trio.run(fill, options.child, options.rate, options.links, options.seconds)
        # What this program uses and an older tree lacks is found elsewhere, too (`bench.trees`).
        tree = Path(options.child).resolve()
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if name.split(".")[0] == "p2pfill" and path and not Path(path).resolve().is_relative_to(tree):
                print(f"the tree has no {name}; {path} is of another one", file=sys.stderr)
                return 1
        print(msgspec.json.encode(run).decode())
        return 0
    roots = options.root or [str(ROOT)]
    try:
        runs = [measure(root, options) for _ in range(options.runs) for root in roots]
    except BenchFailed as error:
        print(f"bench.loop: {error}", file=sys.stderr)
        return 2
    report = Report(describe_machine(Path(tempfile.gettempdir())), options.rate, options.links, runs)
    tell(report, show, options.out, as_json=options.json)
    return 0 if report.reached else 1


def show(report: Report) -> None:
    """Print a line for each tree."""
    table = Table(box=None, pad_edge=False)
    names = ("of a core", "user", "system", "least", "most", "us/chunk", "chunks/s", "ticks/s", "messages/s", "plane")
    for name in ("medians", *names):
        # A long path goes on in a line below, so that no figure is cut.
        is_tree = name == "medians"
        table.add_column(name, justify="left" if is_tree else "right", no_wrap=not is_tree, overflow="fold")
    for root in dict.fromkeys(run.root for run in report.runs):
        runs = report.of(root)
        share = Spread.of(run.share for run in runs)
        shares = [share.median, *(Spread.of(v).median for v in ([r.user for r in runs], [r.system for r in runs]))]
        cells = [f"{one:.1%}" for one in (*shares, share.min, share.max)]
        cells += [
            f"{Spread.of(getattr(run, name) for run in runs).median:,.0f}"
            for name in ("chunk_us", "chunks_s", "ticks_s", "messages_s")
        ]
        tree = root if all(run.native for run in runs) else f"{root} (pure Python)"
        table.add_row(tree, *cells, f"{Spread.of(run.plane for run in runs).median:.1%}")
    console = Console(width=140)
    asked = f"{report.rate:,.0f} chunks of 4 MiB a second from {report.links} links"
    console.print(f"{asked}, Python {report.machine.python}; no payload is moved", highlight=False, soft_wrap=True)
    console.print(table)
    first, met = report.runs[0].root, "met" if report.reached else "missed"
    end = f"the aim, less than {REACH:.0%} of a core for the event loop, is {met} by {first}"
    console.print(end, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
