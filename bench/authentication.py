"""What certificates cost a fill: instructions and processor time a chunk, with them and without, by turns.

    python -m bench.authentication [--chunks 256,512] [--chunk-kib 64,256,1024] [--runs 5] [--instructions]
                                   [--out FILE.json] [--json]

Two nodes of one process fill one title after the other, one from the other, over loopback. A fill of the larger number
of chunks less one of the smaller is what the chunks between them cost both ends, so what is done once (the link, its
handshake, the title, going live) is in no figure. The two kinds, "clear" and "certificates", take turns.

Processor time is the process's, user and system apart. With `--instructions` a run of each is counted instead by
valgrind's callgrind, user instructions only: what the kernel does is in no such count. Counts differ from run to run
by a few per cent, since how many messages and wake-ups a chunk takes depends on when things come; medians are shown.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import trio
from rich.console import Console
from rich.table import Table

from bench.micro.instructions import MARK, ROOT, lacking, read_total
from bench.telling import tell
from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.model.limits import MIB
from p2pfill.model.manifest import Manifest
from p2pfill.node import NodeConfig, open_node
from p2pfill.store.publish import publish
from p2pfill.trust.authority import Authority

KINDS: Final = ("clear", "certificates")
SOURCE: Final = "z1"
RECEIVER: Final = "b1"
"""Of two nodes the one with the lower name dials, and only this one is told of the other."""

FLEET: Final = "".join(
    f'[[caches]]\nid = "{name}"\nisp = "isp-a"\nhosts = ["127.0.0.1"]\n\n' for name in (SOURCE, RECEIVER)
)  # fmt: skip
FILL_LIMIT_S: Final = 120.0
"""A fill of at most a few hundred MiB, under valgrind too."""
COUNT_LIMIT_S: Final = 900.0
"""One run under valgrind."""


class Cost(msgspec.Struct, frozen=True):
    """What a chunk costs both ends in one run."""

    kind: str
    chunk_bytes: int
    user_us: float = 0.0
    system_us: float = 0.0
    instructions: int = 0
    """In user space; 0 where time was measured."""


class Report(msgspec.Struct, frozen=True):
    """What `--out` writes."""

    machine: Machine
    chunks: tuple[int, int]
    """Of the smaller and the larger title."""
    costs: list[Cost]

    def median(self, kind: str, chunk_bytes: int, figure: str) -> float:
        """Return the middle one of a figure of `Cost`."""
        return statistics.median(
            getattr(cost, figure) for cost in self.costs if (cost.kind, cost.chunk_bytes) == (kind, chunk_bytes)
        )


def make_titles(directory: Path, chunk_bytes: int, counts: tuple[int, ...]) -> list[tuple[Manifest, Path]]:
    """Write a title of random bytes for each count of chunks; the first fill of a process is not measured."""
    titles = []
    for number, chunks in enumerate((min(8, counts[0]), *counts)):
        source = directory / f"title-{number}"
        source.mkdir()
        with (source / "film").open("wb") as file:
            for _ in range(chunks):
                file.write(os.urandom(chunk_bytes))
        titles.append((publish(source, name=f"title-{number}", chunk_size=chunk_bytes).manifest, source))
    return titles


def configs(directory: Path, kind: str) -> tuple[NodeConfig, NodeConfig]:
    """Return the configurations of source and receiver, with identities where the kind asks for them."""
    directory.mkdir()
    data = {name: str(directory / f"data-{name}") for name in (SOURCE, RECEIVER)}
    if kind == "clear":
        source, receiver = (
            NodeConfig(id=name, isp="isp-a", data=data[name], scrub_bytes_s=0) for name in (SOURCE, RECEIVER)
        )
        return source, receiver
    now = datetime.now(UTC)
    (directory / "ca").mkdir(mode=0o700)
    (directory / "ca" / "fleet.toml").write_text(FLEET)
    Authority.create(directory / "ca", "fleet.example", now)
    with Authority(directory / "ca") as authority:
        authority.issue([], directory / "ids", now)
    source, receiver = (
        NodeConfig.load(None, identity=str(directory / "ids" / name), data=data[name], scrub_bytes_s=0)
        for name in (SOURCE, RECEIVER)
    )
    return source, receiver


async def fill_each(directory: Path, kind: str, titles: list[tuple[Manifest, Path]]) -> list[tuple[float, float]]:
    """Fill the titles one by one; return user and system processor seconds of each but the first."""
    spent = []
    source_config, receiver_config = configs(directory, kind)
    async with open_node(source_config) as source, open_node(receiver_config) as receiver:
        for manifest, path in titles:
            await source.fill(manifest, [str(path)])
        receiver.want_links([source.info])
        for number, (manifest, _) in enumerate(titles):
            # The collector's turns depend on what else is in memory.
            gc.collect()
            gc.disable()
            if number:
                os.getppid()
            before = resource.getrusage(resource.RUSAGE_SELF)
            fill = await receiver.start_fill(manifest, members=[source.info])
            with trio.fail_after(FILL_LIMIT_S):
                await fill.wait()
            after = resource.getrusage(resource.RUSAGE_SELF)
            gc.enable()
            if number:
                spent.append((after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime))
        os.getppid()
    return spent


def measure(kind: str, chunk_bytes: int, chunks: tuple[int, int]) -> Cost:
    """Return what a chunk costs in processor time."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-authentication-") as work:
        titles = make_titles(Path(work), chunk_bytes, chunks)
        few, many = trio.run(fill_each, Path(work) / kind, kind, titles)
    user, system = ((more - less) * 1e6 / (chunks[1] - chunks[0]) for less, more in zip(few, many, strict=True))
    return Cost(kind, chunk_bytes, round(user, 1), round(system, 1))


def count(kind: str, chunk_bytes: int, chunks: tuple[int, int]) -> Cost:
    """Return how many instructions a chunk takes. Raises `RuntimeError` where valgrind fails."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-authentication-") as work:
        out = Path(work) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
        command += [sys.executable, "-m", "bench.authentication", "--child", kind]
        command += ["--chunk-kib", str(chunk_bytes >> 10), "--chunks", ",".join(map(str, chunks))]
        environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), "HOME": work}
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=COUNT_LIMIT_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"valgrind failed:\n{done.stderr[-3000:]}")
        dumps = sorted(Path(work).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        # Before each measured fill and after the last stands a mark; the first dump is what came before.
        few, many = (read_total(path) for path in dumps[1:3])
    return Cost(kind, chunk_bytes, instructions=round((many - few) / (chunks[1] - chunks[0])))


def measured(sizes: list[int], chunks: tuple[int, int], runs: int, instructions: bool) -> Iterator[Cost]:
    """Yield each cost, the kinds by turns and the first of them by turns too."""
    one = count if instructions else measure
    for size in sizes:
        for run in range(runs):
            for kind in KINDS if run % 2 == 0 else KINDS[::-1]:
                yield one(kind, size, chunks)


def main(arguments: list[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.authentication", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", default="256,512", help="chunks of the smaller and of the larger title")
    parser.add_argument("--chunk-kib", default="64,256,1024")
    parser.add_argument("--runs", type=int, default=5, help="of each kind and size")
    parser.add_argument("--instructions", action="store_true", help="count them, instead of processor time")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    few, many = (int(number) for number in options.chunks.split(","))
    sizes = [int(kib) << 10 for kib in options.chunk_kib.split(",")]
    if options.child:
        measure(options.child, sizes[0], (few, many))
        return 0
    if options.instructions and (why := lacking()):
        print(why, file=sys.stderr)
        return 2
    needed = (few + many + 8) * max(sizes) * 3
    if shutil.disk_usage(tempfile.gettempdir()).free < needed:
        print(f"{tempfile.gettempdir()} has less than {needed // MIB} MiB free; set TMPDIR", file=sys.stderr)
        return 2
    costs = []
    for cost in measured(sizes, (few, many), options.runs, options.instructions):
        costs.append(cost)
        print(f"{cost.chunk_bytes >> 10} KiB, {cost.kind}: {figures(cost)}", file=sys.stderr)
    report = Report(describe_machine(Path(tempfile.gettempdir())), (few, many), costs)
    tell(report, show, options.out, as_json=options.json)
    return 0


def figures(cost: Cost) -> str:
    """Return a run's figures as a line."""
    if cost.instructions:
        return f"{cost.instructions:,} instructions a chunk"
    return f"{cost.user_us:.0f} us user and {cost.system_us:.0f} us system a chunk"


def show(report: Report) -> None:
    """Print the medians, and how many times a chunk without certificates one with them costs."""
    counted = any(cost.instructions for cost in report.costs)
    table = Table(box=None, pad_edge=False)
    for name in ("chunk KiB", "of a chunk", *KINDS, "ratio"):
        table.add_column(name, justify="right")
    for size in sorted({cost.chunk_bytes for cost in report.costs}):
        for figure in ("instructions",) if counted else ("user_us", "system_us"):
            clear, certificates = (report.median(kind, size, figure) for kind in KINDS)
            ratio = f"{certificates / clear:.3f}" if clear else "-"
            table.add_row(str(size >> 10), figure, f"{clear:,.0f}", f"{certificates:,.0f}", ratio)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
