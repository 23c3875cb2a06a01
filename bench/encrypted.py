"""What encrypted data streams cost: one cache fills a title from another, with them and without, by turns.

    python -m bench.encrypted [--mib 1024] [--runs 5] [--work DIR] [--out FILE.json] [--json]

Both nodes are processes of their own with certificates of `p2pfill ca` and default settings but `encrypt_data` and
`health`; their control links are encrypted in either case. In each round both kinds run once, in every second round in
the opposite order, and the first round does not count. The source lies in the page cache. A run ends when the title is
live, and so on the disk. Processor time is the kernel's, of both whole processes, from the order to the end.
"""

from __future__ import annotations

import argparse
import shutil
import ssl
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from bench.telling import tell
from p2pfill.bench.measure import Load, Machine, Spread, begin, describe_machine, used_s
from p2pfill.bench.node_process import fetch, serve
from p2pfill.bench.processes import RUN_S_MAX, Child
from p2pfill.bench.source import FILE, Source, make_source
from p2pfill.model.manifest import Manifest
from p2pfill.node.config import NodeConfig
from p2pfill.store.publish import publish
from p2pfill.transport.payload import kernel_has_tls
from p2pfill.trust.authority import Authority

FLEET: Final = """
[[caches]]
id = "seed"
isp = "bench"
hosts = ["127.0.0.1"]

[[caches]]
id = "fetch"
isp = "bench"
hosts = ["127.0.0.1"]
"""

UNWATCHED: Final = {"load": 0, "disk_reads": 0, "link_use": 0}
"""No node gives way to what else the machine does: that would be measured."""

Kind = Literal["plain", "encrypted"]
KINDS: Final[tuple[Kind, ...]] = ("plain", "encrypted")


class Spent(msgspec.Struct, frozen=True):
    """Processor seconds of one process."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """Both."""
        return self.user_s + self.system_s


class Run(msgspec.Struct, frozen=True):
    """One fill."""

    seconds: float
    sender: Spent
    receiver: Spent
    load: Load


class Report(msgspec.Struct, frozen=True):
    """What `--out` writes."""

    machine: Machine
    openssl: str
    kernel_has_tls: bool
    size_bytes: int
    runs: dict[Kind, list[Run]]

    def rate(self, kind: Kind) -> Spread:
        """Return GB/s."""
        return Spread.of(self.size_bytes / run.seconds / 1e9 for run in self.runs[kind])

    def cost(self, kind: Kind, side: Literal["sender", "receiver"], part: str = "total_s") -> Spread:
        """Return processor seconds for each GB."""
        return Spread.of(getattr(getattr(run, side), part) / (self.size_bytes / 1e9) for run in self.runs[kind])


class Pair:
    """Two nodes of one kind: the one that serves stays, the other one begins anew for each fill."""

    def __init__(self, kind: Kind, source: Source, work: Path, ids: Path) -> None:
        self.kind = kind
        self._source = source
        self._work = work / kind
        self._work.mkdir()
        self._ids = ids
        self._fill = self._work / "title.fill"
        self._fill.write_bytes(publish(source.directory, name="title").manifest.encode())
        self._seed = self._start("serve", "seed")
        self._address = self._seed.read()

    def _start(self, role: str, name: str) -> Child:
        words = [role, str(self._ids / name), str(self._work / name), self.kind, str(self._source.directory)]
        module = [sys.executable, "-m", "bench.encrypted", "--node", *words, str(self._fill)]
        return Child(f"{self.kind} {name}", ["env", f"PYTHONPATH={Path(__file__).parents[1]}", *module], self._work)

    def run(self) -> Run:
        """Fill once, and look whether what came is right."""
        with self._start("fetch", "fetch") as child:
            child.read()
            pids = self._seed.tree.pid, child.tree.pid
            meter = begin(self._work, self._seed.tree, child.tree)
            before = [used_s(pid) for pid in pids]
            child.tell({"sources": [self._address]})
            done = child.read(RUN_S_MAX)
            after = [used_s(pid) for pid in pids]
            load = meter.read()
            self._source.check(self._work / "fetch" / "live" / "title" / FILE, self.kind)
            child.finish()
        shutil.rmtree(self._work / "fetch")
        sender, receiver = (
            Spent(*(now - then for then, now in zip(*both, strict=True))) for both in zip(before, after, strict=True)
        )
        return Run(done["live"] - done["began"], sender, receiver, load)

    def stop(self) -> None:
        """End the node that serves."""
        self._seed.stop()


def measure(work: Path, mib: int, runs: int) -> Report:
    """Run both kinds by turns in an empty directory. Raises `BenchFailed`."""
    source = make_source(work / "source", mib)
    now = datetime.now(UTC)
    Authority.create(work / "ca", "bench.example", now)
    (work / "ca" / "fleet.toml").write_text(FLEET)
    with Authority(work / "ca") as authority:
        authority.issue([], work / "ids", now)
    found: dict[Kind, list[Run]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        pairs = []
        for kind in KINDS:
            pairs.append(Pair(kind, source, work, work / "ids"))
            stack.callback(pairs[-1].stop)
        for number in range(runs + 1):
            for pair in pairs if number % 2 else reversed(pairs):
                run = pair.run()
                if number:
                    found[pair.kind].append(run)
    return Report(describe_machine(work), ssl.OPENSSL_VERSION, kernel_has_tls(), source.size, found)


def run_node(role: str, identity: str, data: str, kind: str, origin: str, fill: str) -> None:
    """Be one of the two nodes."""
    config = NodeConfig.load(None, identity=identity, data=data, encrypt_data=kind == "encrypted", health=UNWATCHED)
    manifest = Manifest.decode(Path(fill).read_bytes())
    if role == "serve":
        trio.run(serve, config, [(origin, manifest)])
    else:
        trio.run(fetch, config, manifest)


def show(report: Report) -> None:
    """Print a table."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "GB/s", "cpu s/GB, sender", "user", "system", "receiver", "user", "system"):
        table.add_column(name, justify="right" if name else "left")
    for kind in KINDS:
        costs = (
            report.cost(kind, side, part).median
            for side in ("sender", "receiver") for part in ("total_s", "user_s", "system_s")
        )  # fmt: skip
        table.add_row(kind, f"{report.rate(kind).median:.2f}", *(f"{cost:.2f}" for cost in costs))
    console = Console()
    console.print(table)
    kernel = "has" if report.kernel_has_tls else "shows no"
    console.print(f"medians of {len(report.runs['plain'])} runs; {report.openssl}; the kernel {kernel} TLS")


def main(arguments: list[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.encrypted", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024, help="of the title")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to work; by default below /tmp")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--node", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.node:
        run_node(*options.node)
        return 0
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        report = measure(Path(scratch), options.mib, options.runs)
    tell(report, show, options.out, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
