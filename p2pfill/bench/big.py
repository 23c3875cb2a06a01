"""Big titles: how publishing, verifying, serving and resuming grow with bytes and with files, and what a node needs.

The commands of the product do the work, each a process of its own: `p2pfill publish`, `verify`, `tracker`, `fill`,
`node`. Titles of many bytes are sparse files, of which one page a MiB is written, so that they fit any disk; all of
their bytes are read and hashed. A store is laid out by renaming the published tree into it, as a fill would have
left it, since copying 100 GiB measures the disk. A light peer (`light_peer`) watches from outside when a node that
starts serves: it dials from the moment the process exists.

Growth is the exponent of time over size between the two largest titles of a kind: 1 is linear.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio

from p2pfill.bench.light_peer import LightPeer
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.limits import GIB, MIB
from p2pfill.model.manifest import Manifest
from p2pfill.store.disk import DIRECTORY_FLAGS
from p2pfill.store.journal import Journal

Say = Callable[[str], None]
Record = dict[str, Any]

GIB_SIZES: Final = (1, 10, 100)
FILE_COUNTS: Final = (2_000, 20_000, 200_000)
PEERS: Final = 64
RUNS: Final = 5
"""Starts of a node, of which the median counts."""

FILES_A_DIRECTORY: Final = 1000
SMALL_FILE_BYTES_MAX: Final = 8192
RECORD_CHUNKS: Final = 64
"""Chunks of one record in the journal of a title that is half there: what a quarter of a second brings at 1 GB/s."""

EXTRA_CHUNKS: Final = 256
"""What the 64 peers have beyond a node that fills: enough that it asks each of them, and little to write."""
FETCHES: Final = 8
"""Chunks that each of the 64 peers is sent."""

START_LIMIT_S: Final = 120.0
"""For a process to get ready, far above what it takes."""
DIAL_PAUSE_S: Final = 0.002
POLL_S: Final = 0.05
WATCH_S: Final = 0.01
"""How often a command's memory is looked at; its time is known no better than that."""


# ---- sources


def write_sparse(path: Path, size_gib: float) -> None:
    """Make a directory of one sparse file, no two MiB of which are alike."""
    path.mkdir()
    fd = os.open(path / "movie.bin", os.O_RDWR | os.O_CREAT)
    try:
        size = int(size_gib * GIB)
        os.ftruncate(fd, size)
        for position in range(0, size, MIB):
            os.pwrite(fd, position.to_bytes(8, "little"), position)
    finally:
        os.close(fd)


def write_small_files(path: Path, count: int) -> None:
    """Make a tree of `count` files of up to 8 KiB."""
    noise, sizes = random.Random(count).randbytes(2 * SMALL_FILE_BYTES_MAX), random.Random(count + 1)  # noqa: S311
    for number in range(count):
        directory = path / f"{number // FILES_A_DIRECTORY:04d}"
        if number % FILES_A_DIRECTORY == 0:
            directory.mkdir(parents=True)
        start, size = sizes.randrange(SMALL_FILE_BYTES_MAX), sizes.randrange(1, SMALL_FILE_BYTES_MAX)
        (directory / f"segment-{number:07d}.ts").write_bytes(noise[start : start + size])


# ---- processes


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "p2pfill.cli", *arguments]


class Finished(NamedTuple):
    """What one run of a command took."""

    seconds: float
    cpu_s: float
    rss_mib: float
    """The most that it had at once."""


def run_command(*arguments: str) -> Finished:
    """Run a command of p2pfill to its end. Raises `subprocess.CalledProcessError`."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(_command(*arguments), stdout=output, stderr=output)
        ended, rss_mib = 0, 0.0
        while not ended:
            # Not from rusage: that counts what this process had when it forked.
            rss_mib = max(rss_mib, memory_mib(process.pid)[1])
            time.sleep(WATCH_S)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise subprocess.CalledProcessError(process.returncode, process.args, output.read())
    took = time.monotonic() - began
    return Finished(took, usage.ru_utime + usage.ru_stime, rss_mib)


@contextmanager
def running(log: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a service of p2pfill for the time of the block; its first line says that it is ready."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            _command(*arguments, "--until-eof", "--json"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_LIMIT_S)


def wait_ready(process: subprocess.Popen[str]) -> Record:
    """Return what a service says when it is ready. Raises `subprocess.CalledProcessError` where it ends instead."""
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise subprocess.CalledProcessError(process.wait(), process.args)
    said: Record = json.loads(line)
    return said


def memory_mib(pid: int) -> tuple[float, float]:
    """Return what a process has resident now and at most so far; 0 for one that has ended and was not waited for."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    now, most = (int(fields.get(name, "0").split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# ---- stores as fills leave them


class Stock:
    """The tree of a published title, renamed to and fro between the stores that a node is started on."""

    def __init__(self, source: Path, work: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.work = work
        self._files = source

    def files(self) -> Path:
        """Return where the files lie now."""
        return self._files

    def _lay_out(self, data: Path, place: str) -> Path:
        directory = data / place / self.manifest.title_id.hex()
        directory.mkdir(parents=True)
        (directory / "manifest").write_bytes(self.manifest.encode())
        self._files = self._files.rename(directory / "files")
        return directory

    def complete(self) -> Path:
        """Return the data directory of a node that holds the title."""
        data = self.work / "complete"
        self._lay_out(data, "titles")
        (data / "live").mkdir()
        (data / "live" / self.manifest.name).symlink_to(f"../titles/{self.manifest.title_id.hex()}/files")
        return data

    def half(self) -> Path:
        """Return the data directory of a node that holds every other chunk."""
        data = self.work / "half"
        directory = self._lay_out(data, "filling")
        fd = os.open(directory, DIRECTORY_FLAGS)
        try:
            journal = Journal.create(fd, self.manifest.title_id)
            chunks = list(range(0, self.manifest.chunk_count, 2))
            for start in range(0, len(chunks), RECORD_CHUNKS):
                journal.append(chunks[start : start + RECORD_CHUNKS])
            journal.close()
        finally:
            os.close(fd)
        return data

    def half_bitmap(self) -> Bitmap:
        """Return the chunks that are there in `half`."""
        bitmap = Bitmap(self.manifest.chunk_count)
        for chunk in range(0, self.manifest.chunk_count, 2):
            bitmap.add(chunk)
        return bitmap

    def read_chunk(self, chunk: int) -> bytes:
        """Return the bytes of a chunk."""
        parts = []
        for index, offset, length in self.manifest.segments(chunk):
            with (self._files / self.manifest.files[index].path).open("rb") as file:
                file.seek(offset)
                parts.append(file.read(length))
        return b"".join(parts)


# ---- what a peer sees of a node that starts


class Start(NamedTuple):
    """Seconds from the start of the process until a peer was linked, knew the holdings, and had a chunk."""

    linked_s: float
    holdings_s: float
    chunk_s: float


async def watch_start(address: tuple[str, int], stock: Stock, began: float) -> Start:
    """Dial the node that is starting at `address` until it answers, and have one chunk sent."""
    manifest = stock.manifest
    with trio.fail_after(START_LIMIT_S):
        while True:
            try:
                with socket.create_connection(address, timeout=1):
                    break
            except OSError:
                await trio.sleep(DIAL_PAUSE_S)
        peer = LightPeer("peer-0", "isp", address, manifest, Bitmap(manifest.chunk_count), stock.read_chunk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run)
            await peer.linked.wait()
            linked = time.monotonic()
            await peer.held.wait()
            held = time.monotonic()
            chunks = [] if peer.holdings is None else list(peer.holdings.indexes())
            await peer.fetch(chunks[len(chunks) // 4 : len(chunks) // 4 + 1])
            sent = time.monotonic()
            nursery.cancel_scope.cancel()
    return Start(linked - began, held - began, sent - began)


def _node_arguments(data: Path, port: int, *more: str) -> list[str]:
    return ["node", "--id", "node", "--isp", "isp", "--data", str(data), "--listen", f"127.0.0.1:{port}", *more]


def start_node(stock: Stock, data: Path, *more: str) -> tuple[Start, float]:
    """Start a node on `data`; return what a peer saw, and the most memory that the node had till then."""
    port = free_port()
    began = time.monotonic()
    with running(stock.work / "node.log", *_node_arguments(data, port, *more)) as process:
        start = trio.run(watch_start, ("127.0.0.1", port), stock, began)
        return start, memory_mib(process.pid)[1]


def start_often(stock: Stock, data: Path, runs: int, *more: str) -> Record:
    """Start a node `runs` times and return the medians."""
    starts = [start_node(stock, data, *more) for _ in range(runs)]
    medians = {
        name: round(statistics.median(getattr(start, name) for start, _ in starts), 4) for name in Start._fields
    }
    return {**medians, "rss_mib": round(max(rss for _, rss in starts), 1)}


def start_empty(work: Path, runs: int) -> float:
    """Return the seconds (median) from the start of a node without titles until it listens."""
    took = []
    for number in range(runs):
        began = time.monotonic()
        with running(work / "node.log", *_node_arguments(work / f"empty{number}", free_port())) as process:
            wait_ready(process)
            took.append(time.monotonic() - began)
    return round(statistics.median(took), 4)


# ---- many peers


async def _with_peers(address: tuple[str, int], stock: Stock, count: int, pid: int, extra: int) -> Record:
    """Link `count` peers with a node, each sent some chunks; those that hold `extra` chunks more are asked for them."""
    manifest, chance = stock.manifest, random.Random(1)  # noqa: S311
    holds = stock.half_bitmap() if extra else Bitmap(manifest.chunk_count)
    for chunk in range(1, min(2 * extra, manifest.chunk_count), 2):
        holds.add(chunk)
    wanted = holds.count() - stock.half_bitmap().count() if extra else 0
    peers = [LightPeer(f"peer-{n}", "isp", address, manifest, holds, stock.read_chunk) for n in range(count)]
    before = memory_mib(pid)[0]
    with trio.fail_after(START_LIMIT_S):
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(peer.run)
            for peer in peers:
                await peer.held.wait()
            async with trio.open_nursery() as fetching:
                for peer in peers:
                    held = [] if peer.holdings is None else list(peer.holdings.indexes())
                    fetching.start_soon(peer.fetch, chance.sample(held, min(FETCHES, len(held))))
            while sum(peer.sent_chunks for peer in peers) < wanted:  # noqa: ASYNC110 (64 of them; an event is no gain)
                await trio.sleep(POLL_S)
            now, peak = memory_mib(pid)
            nursery.cancel_scope.cancel()
    sent = sum(peer.sent_chunks for peer in peers)
    return {
        "peers": count,
        "chunks_served": count * FETCHES,
        "chunks_filled": sent,
        "rss_before_mib": round(before, 1),
        "rss_mib": round(now, 1),
        "peak_rss_mib": round(peak, 1),
    }


def with_peers(stock: Stock, data: Path, count: int, extra: int, *more: str) -> Record:
    """Start a node on `data` and return its memory with `count` peers."""
    port = free_port()
    began = time.monotonic()
    with running(stock.work / "node.log", *_node_arguments(data, port, *more)) as process:
        trio.run(watch_start, ("127.0.0.1", port), stock, began)
        return trio.run(_with_peers, ("127.0.0.1", port), stock, count, process.pid, extra)


# ---- one title


@contextmanager
def tracker_with_order(stock: Stock, fill_file: Path) -> Iterator[tuple[str, Record]]:
    """Run a tracker that orders the title of the node; yield its URL, and what taking in the title took."""
    database = f"sqlite:///{stock.work}/tracker.db"
    arguments = ["tracker", "--listen", "127.0.0.1:0", "--db", database]
    with running(stock.work / "tracker.log", *arguments) as process:
        url = wait_ready(process)["url"]
        nothing = stock.work / "origin"
        nothing.mkdir()
        to = ("--to", "all", "--later", "--origin", str(nothing))
        ordered = run_command("fill", str(fill_file), "--tracker", url, *to)
        took = {"order_s": round(ordered.seconds, 3), "tracker_rss_mib": round(memory_mib(process.pid)[1], 1)}
        yield url, took


def measure_title(source: Path, work: Path, *, runs: int, peers: int, say: Say) -> Record:
    """Publish, verify, serve and resume the tree `source`, which is used up. `peers` of 0 leaves out the crowd."""
    fill_file = work / "title.fill"
    say("publishing")
    published = run_command("publish", str(source), "--name", "title", "--out", str(fill_file))
    manifest = Manifest.decode(fill_file.read_bytes())
    stock = Stock(source, work, manifest)
    record: Record = {
        "bytes": manifest.size,
        "files": len(manifest.files),
        "chunks": manifest.chunk_count,
        "manifest_bytes": fill_file.stat().st_size,
        "publish_s": round(published.seconds, 3),
        "publish_cpu_s": round(published.cpu_s, 3),
        "publish_rss_mib": round(published.rss_mib, 1),
    }
    data = stock.complete()
    say("starting a node that holds all of it")
    record["complete"] = start_often(stock, data, runs)
    if peers:
        say(f"serving {peers} peers")
        record["complete"]["crowd"] = with_peers(stock, data, peers, 0)
    say("verifying")
    verified = run_command("verify", str(stock.files()), str(fill_file))
    record |= {"verify_s": round(verified.seconds, 3), "verify_rss_mib": round(verified.rss_mib, 1)}
    data = stock.half()
    say("starting a node that holds half of it")
    with tracker_with_order(stock, fill_file) as (url, took):
        record |= took
        record["half"] = start_often(stock, data, runs, "--tracker", url)
        if peers:
            say(f"filling among {peers} peers")
            record["half"]["crowd"] = with_peers(stock, data, peers, EXTRA_CHUNKS, "--tracker", url)
    return record


# ---- all of it


GROWING: Final = ("publish_s", "verify_s", "order_s", "complete.holdings_s", "complete.chunk_s", "half.chunk_s")


def growth(records: list[Record], size: str) -> dict[str, float]:
    """Return for each time the exponent of its growth with `size` between the two largest titles; 1 is linear."""
    if len(records) < 2:
        return {}
    small, large = records[-2:]
    ratio = math.log(large[size] / small[size])
    return {
        name: round(math.log(max(_value(large, name), 1e-6) / max(_value(small, name), 1e-6)) / ratio, 3)
        for name in GROWING
    }


def _value(record: Record, name: str) -> float:
    value: Any = record
    for part in name.split("."):
        value = value[part]
    return float(value)


def measure_big(
    *,
    gib_sizes: Iterable[float] = GIB_SIZES,
    file_counts: Iterable[int] = FILE_COUNTS,
    peers: int = PEERS,
    runs: int = RUNS,
    work: Path | None = None,
    say: Say = lambda text: None,
) -> Record:
    """Measure titles of these sizes, the largest of each kind with `peers` peers, and return one record.

    Needs below `work` room for the small files and for a page a MiB of the sparse ones. Raises
    `subprocess.CalledProcessError` where a command fails, and `trio.TooSlowError` where a node does not get ready.
    """
    kinds: list[tuple[str, str, list[float], Callable[[Path, Any], None]]] = [
        ("sparse", "bytes", sorted(set(gib_sizes)), write_sparse),
        ("small_files", "files", sorted(set(file_counts)), write_small_files),
    ]
    with tempfile.TemporaryDirectory(prefix="p2pfill-big-", dir=work) as directory:
        record: Record = {"start_empty_s": start_empty(Path(directory), runs), "growth": {}}
        for kind, size_name, sizes, write in kinds:
            record[kind] = []
            for size in sizes:
                place = Path(directory) / f"{kind}-{size:g}"
                place.mkdir()
                label = f"{size:g} GiB" if kind == "sparse" else f"{size:g} files"
                say(f"{label}: writing the source")
                write(place / "source", size if kind == "sparse" else int(size))
                crowd = peers if size == sizes[-1] else 0
                record[kind].append(
                    measure_title(
                        place / "source",
                        place,
                        runs=runs,
                        peers=crowd,
                        say=lambda text, label=label: say(f"{label}: {text}"),  # type: ignore[misc]
                    )
                )
                shutil.rmtree(place)
            record["growth"][kind] = growth(record[kind], size_name)
    return record
