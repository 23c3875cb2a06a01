"""What it costs a cache to read chunks from an HTTP origin: processor seconds per GB of the reading process alone.

    python -m bench.origin_reads [--mib 256] [--chunks 256,1024,4096] [--mbit 0] [--reads 8] [--runs 5]
        [--beside DIR] [--out FILE.json] [--json]

nginx serves one file that does not compress. A process of its own reads it as a node does: a Trio loop, so many reads
at a time in threads, each by `node.origins: Origins.read`, which checks both digests and writes the chunk into a store.
Its own clocks count, from the first chunk to the last, and neither its start nor nginx. With `--beside DIR` the code of
another checkout reads by turns with this one. With `--mbit` nginx is behind a link of that rate, in network namespaces
of its own, which needs root; else all is on the loopback.

What the kernel does for a packet that comes is partly charged to whoever sends, so both ends of a real network cost
more. What is compared is two readers behind the same sender.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.origin_reader import Spent
from bench.swarm.lab import Lab
from bench.swarm.topology import Topology
from bench.telling import tell
from bench.trees import check_tree
from p2pfill.bench.measure import BenchFailed, Machine, describe_machine
from p2pfill.bench.nginx import nginx_command, nginx_config
from p2pfill.bench.source import make_source
from p2pfill.store.publish import publish

GB: Final = 1e9
PORT: Final = 8611
READER: Final = Path(__file__).with_name("origin_reader.py")
HERE: Final = Path(__file__).parents[1]
START_S: Final = 10.0
READ_S: Final = 300.0
"""A read that takes longer has come to a stop."""


class Run(msgspec.Struct, frozen=True):
    """One read of the whole file."""

    code: str
    """`this`, or `beside`: that of the other checkout."""
    chunk_kib: int
    spent: Spent


class Report(msgspec.Struct, frozen=True):
    """What `--out` writes."""

    machine: Machine
    size_bytes: int
    reads: int
    mbit: float
    runs: list[Run]

    def median(self, code: str, chunk_kib: int, field: str) -> float:
        """Return the median of a field of `Spent`, per GB."""
        found = [getattr(run.spent, field) for run in self.runs if (run.code, run.chunk_kib) == (code, chunk_kib)]
        return statistics.median(found) * GB / self.size_bytes


@contextmanager
def origin(work: Path, source: Path, mbit: float) -> Iterator[tuple[str, list[str]]]:
    """Serve a directory; yield its URL, and what comes before the command of who reads it."""
    program = which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        raise BenchFailed("nginx is not installed; on Debian: apt-get install nginx-light")
    with ExitStack() as stack:
        address, serving, reading = "127.0.0.1", [], []
        if mbit:
            topology = Topology(isps={"cloud": ["origin"], "isp-a": ["a1"]}, host_mbit=mbit)
            lab = stack.enter_context(Lab(topology))
            address = topology.host("origin").address
            serving, reading = lab.command("origin", []), lab.command("a1", [])
        server = f"access_log off; keepalive_requests 1000000; server {{ listen {address}:{PORT}; root {source}; }}"
        config = work / "nginx.conf"
        config.write_text(nginx_config(work, server))
        nginx = subprocess.Popen([*serving, *nginx_command(program, work, config)], stderr=subprocess.PIPE)
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)
        until = time.monotonic() + START_S
        while not (work / "pid").exists() or not (work / "pid").read_text().strip():
            if nginx.poll() is not None or time.monotonic() > until:
                raise BenchFailed("nginx does not start")
            time.sleep(0.02)
        yield f"http://{address}:{PORT}/", reading


def read(code: Path, manifest: Path, url: str, data: Path, reads: int, before: list[str]) -> Spent:
    """Have a process of its own read all chunks by the code of a checkout. Raises `BenchFailed`."""
    command = [*before, sys.executable, str(READER), str(manifest), url, str(data), str(reads)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(code)}, cwd=code, capture_output=True, timeout=READ_S, check=False
    )
    if done.returncode:
        raise BenchFailed(f"reading by {code} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    return msgspec.json.decode(done.stdout, type=Spent)


def measure(options: argparse.Namespace) -> Report:
    """Read by turns; the first read of each, which finds nothing warm, does not count."""
    codes = {"this": HERE, **({"beside": Path(options.beside).absolute()} if options.beside else {})}
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        source = make_source(work / "source", options.mib)
        (work / "nginx").mkdir()
        with origin(work / "nginx", source.directory, options.mbit) as (url, before):
            for chunk_kib in options.chunks:
                manifest = work / f"{chunk_kib}.manifest"
                published = publish(source.directory, name="bench", chunk_size=chunk_kib * 1024)
                manifest.write_bytes(published.manifest.encode())
                for turn in range(options.runs + 1):
                    for code in list(codes)[:: 1 if turn % 2 else -1]:
                        data = work / f"data-{chunk_kib}-{turn}-{code}"
                        spent = read(codes[code], manifest, url, data, options.reads, before)
                        subprocess.run(["rm", "-rf", str(data)], check=True)
                        if turn:
                            runs.append(Run(code, chunk_kib, spent))
        machine = describe_machine(work)
    return Report(machine, source.size, options.reads, options.mbit, runs)


def show(report: Report) -> None:
    """Print a table of medians per GB."""
    table = Table(box=None, pad_edge=False)
    for name in ("code", "chunk, KiB", "user s/GB", "system s/GB", "both", "switches/GB", "s/GB"):
        table.add_column(name, justify="right")
    for code, chunk_kib in dict.fromkeys((run.code, run.chunk_kib) for run in report.runs):
        user, system, switches, elapsed = (
            report.median(code, chunk_kib, field) for field in ("user_s", "system_s", "switches", "elapsed_s")
        )
        table.add_row(
            code, str(chunk_kib), f"{user:.2f}", f"{system:.2f}", f"{user + system:.2f}", f"{switches:,.0f}",
            f"{elapsed:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.origin_reads", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mib", type=int, default=256, help="of the file")
    parser.add_argument("--chunks", type=lambda text: [int(one) for one in text.split(",")], default=[256, 1024, 4096],
                        help="sizes of chunks in KiB")  # fmt: skip
    parser.add_argument("--mbit", type=float, default=0.0, help="rate of the link; 0: the loopback")
    parser.add_argument("--reads", type=int, default=8, help="at a time")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--beside", metavar="DIR", help="another checkout, which reads by turns with this one")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.beside:
            check_tree(Path(options.beside))
        report = measure(options)
    except BenchFailed as error:
        print(error, file=sys.stderr)
        return 1
    tell(report, show, options.out, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
