"""What it costs to start: processor time of a process until it is ready.

    python -m bench.starting [--runs 15] [--root DIR]... [--out FILE.json] [--json]

Kinds take turns: Python alone; `p2pfill --version`; `p2pfill node` with a new data directory and a tracker, ready when
it listens and prints its address; the same with a certificate; a program that opens a node as a library; and nodes
without a certificate until they have sent their first heartbeat, which is no part of being ready, but comes right after
it. The tracker is a socket of this program. A process is killed as soon as its line, or its call, is read, and the
kernel says what it has used by then, in microseconds: nothing of its end is counted, and of what it does after it was
ready no more than what this program takes to see that. With `--root`, once for each, the same is asked of other trees
of the code, by turns: so a change is measured beside what was before.

Bytecode is cached, as it is where a package was installed: each kind is started once before it counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.telling import tell
from bench.trees import check_tree
from p2pfill.bench.measure import BenchFailed, Machine, Spread, describe_machine
from p2pfill.trust.authority import Authority

ROOT: Final = Path(__file__).parents[1]

REACH_S: Final = 0.3
"""Processor seconds until a node is ready, at most: fleets start with all of their nodes on one machine in the lab, and
a cache that restarts does so beside its viewers. Exit code 1 above it."""

LIBRARY: Final = """
import sys, trio, p2pfill

async def main():
    config = p2pfill.NodeConfig(id="a1", isp="isp-a", data=sys.argv[1], tracker=sys.argv[2], listen="127.0.0.1:0")
    async with p2pfill.open_node(config):
        print("ready", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""

KINDS: Final = {
    "python": ["-c", "print('ready', flush=True)"],
    "p2pfill --version": ["-m", "p2pfill.cli", "--version"],
    "p2pfill node": ["-m", "p2pfill.cli", "node", "--id", "a1", "--isp", "isp-a", "--data", "{data}",
                     "--tracker", "{tracker}", "--listen", "127.0.0.1:0"],
    "p2pfill node --identity": ["-m", "p2pfill.cli", "node", "--identity", "{identity}", "--data", "{data}",
                                "--tracker", "{encrypted}", "--listen", "127.0.0.1:0"],
    "library": ["-c", LIBRARY, "{data}", "{tracker}"],
}  # fmt: skip
"""What is started, as arguments of Python. Each prints a line when it is ready."""

FLEET: Final = """
[[caches]]
id = "a1"
isp = "isp-a"
hosts = ["127.0.0.1"]
"""

NODES: Final = ("p2pfill node", "library")
"""Kinds to which `REACH_S` applies."""

CALLED: Final = ", first heartbeat"
"""Ends the name of a kind of node that is measured until it calls its tracker."""

NAMES: Final = (*KINDS, *(f"{name}{CALLED}" for name in NODES))

WAIT_S: Final = 60.0
"""For a process to be ready, or to call: machines that measure are busy at times."""


class Start(msgspec.Struct, frozen=True):
    """One process, until it was ready."""

    user_s: float
    system_s: float
    wall_s: float

    @property
    def cpu_s(self) -> float:
        """Processor seconds."""
        return self.user_s + self.system_s


class Kind(msgspec.Struct, frozen=True):
    """All starts of one kind."""

    name: str
    root: str
    """The directory of its code, as it was named."""
    starts: list[Start]

    @property
    def cpu_s(self) -> Spread:
        """Processor seconds."""
        return Spread.of(start.cpu_s for start in self.starts)


class Report(msgspec.Struct, frozen=True):
    """What `--out` writes."""

    machine: Machine
    kinds: list[Kind]

    @property
    def reached(self) -> bool:
        """Whether the middle of the starts of each node of the first tree is below `REACH_S`."""
        first = self.kinds[0].root
        return all(k.cpu_s.median < REACH_S for k in self.kinds if k.root == first and k.name in NODES)


def make_identity(directory: Path) -> Path:
    """Make the certificate of a cache; return where it is."""
    now = datetime.now(UTC)
    Authority.create(directory / "ca", "fleet.example", now)
    (directory / "ca" / "fleet.toml").write_text(FLEET)
    with Authority(directory / "ca") as authority:
        authority.issue([], directory / "identities", now)
    return directory / "identities" / "a1"


def start(name: str, root: Path, data: Path, identity: Path, tracker: socket.socket) -> Start:
    """Start a process of a kind with the code in `root`; return what it took. Raises `BenchFailed`."""
    address = "{}:{}".format(*tracker.getsockname())
    places = {"{data}": str(data), "{identity}": str(identity), "{tracker}": f"http://{address}",
              "{encrypted}": f"https://{address}"}  # fmt: skip
    arguments = [places.get(one, one) for one in KINDS[name.removesuffix(CALLED)]]
    # Python looks for modules where it is started before it looks anywhere else.
    env = {**os.environ, "PYTHONPATH": str(root.resolve())}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=log, env=env, cwd=root)
        assert process.stdout is not None
        is_ready = bool(process.stdout.readline())
        if is_ready and name.endswith(CALLED):
            is_ready = hear_call(tracker)
        wall_s = time.monotonic() - began
        process.stdout.close()
        # Not by methods of `process`: they wait for one that has ended, and do not say what it has used.
        os.kill(process.pid, signal.SIGKILL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if not is_ready:
            log.seek(0)
            raise BenchFailed(f"{name!r} was never ready: {log.read()[-400:].decode(errors='replace')}")
    return Start(used.ru_utime, used.ru_stime, wall_s)


def hear_call(tracker: socket.socket) -> bool:
    """Wait until somebody calls; tell whether that was a heartbeat."""
    connection, _ = tracker.accept()
    with connection:
        connection.settimeout(WAIT_S)
        return connection.recv(4096).startswith(b"POST ")


def start_node(name: str, data: Path, identity: Path = Path("none"), root: Path = ROOT) -> Start:
    """Start a process of a kind, with a tracker for it alone: calls of one that was killed must not reach another's."""
    with socket.create_server(("127.0.0.1", 0)) as tracker:
        tracker.settimeout(WAIT_S)
        return start(name, root, data, identity, tracker)


def measure(runs: int, roots: list[str], work: Path) -> list[Kind]:
    """Start each kind of each tree so many times, by turns."""
    kinds = [Kind(name, root, []) for root in roots for name in NAMES]
    identity = make_identity(work)
    for run in range(-1, runs):
        for number, kind in enumerate(kinds):
            used = start_node(kind.name, work / f"data-{run}-{number}", identity, Path(kind.root))
            if run >= 0:
                kind.starts.append(used)
    return kinds


def main(arguments: list[str] | None = None) -> int:
    """Measure and tell; 1 where the reach is missed, 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.starting", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--root", action="append", metavar="DIR", help="a tree with the code; by default this one")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    roots = options.root or [str(ROOT)]
    try:
        for root in roots:
            check_tree(Path(root))
        with tempfile.TemporaryDirectory() as scratch:
            kinds = measure(options.runs, roots, Path(scratch))
    except BenchFailed as error:
        print(f"bench.starting: {error}", file=sys.stderr)
        return 2
    report = Report(describe_machine(Path(tempfile.gettempdir())), kinds)
    tell(report, show, options.out, as_json=options.json)
    return 0 if report.reached else 1


def show(report: Report) -> None:
    """Print a table for each tree."""
    console = Console()
    for root in dict.fromkeys(kind.root for kind in report.kinds):
        table = Table(box=None, pad_edge=False)
        table.add_column("processor seconds", no_wrap=True)
        for name in ("median", "user", "system", "least", "most", "wall"):
            table.add_column(name, justify="right")
        for kind in report.kinds:
            if kind.root == root:
                user, system, wall = (
                    statistics.median(values) for values in zip(*map(msgspec.structs.astuple, kind.starts), strict=True)
                )
                cells = (kind.cpu_s.median, user, system, kind.cpu_s.min, kind.cpu_s.max, wall)
                table.add_row(kind.name, *(f"{one:.3f}" for one in cells))
        title = f"{root}, Python {report.machine.python}; a node's reach is {REACH_S}"
        console.print(title, highlight=False, soft_wrap=True)
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
