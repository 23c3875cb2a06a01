"""One sender, one receiver, file to file on loopback: p2pfill beside the floor that a C program sets.

    python -m bench.pair [--mib 2048] [--runs 5] [--work DIR] [--json]

The contenders take turns in one run, since the machine's speed drifts; compare medians and ratios, not single figures.
The source lies in the page cache. p2pfill runs as shipped: default integrity (XXH3 and BLAKE3), and every chunk durable
on disk before the title counts as live, which the floor does not do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2pfill.store.publish import publish

HERE = Path(__file__).parent


def build_floor(work: Path) -> Path:
    """Compile `floor.c` with the xxhash.h that the extension is built with."""
    import pyarrow

    include = Path(pyarrow.get_include()) / "arrow" / "vendored" / "xxhash"
    binary = work / "floor"
    subprocess.run(["cc", "-O3", f"-I{include}", "-o", str(binary), str(HERE / "floor.c")], check=True)
    return binary


def write_source(path: Path, mib: int) -> None:
    """Write `mib` MiB that do not compress and in which no two MiB are alike."""
    noise = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(mib):
            file.write(number.to_bytes(8, "big") + noise[8:])


@contextmanager
def seed_node(work: Path) -> Iterator[tuple[str, int, subprocess.Popen[str]]]:
    """Run the sending node; yield its address and process."""
    command = [sys.executable, "-m", "bench.pair_node", "seed", str(work / "t.fill"), str(work / "seed")]
    command.append(str(work / "source"))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=HERE.parent) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())
        yield address["host"], address["port"], process


def ask_cpu(process: subprocess.Popen[str]) -> float:
    """Return the processor seconds that the sending node has used."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline())["cpu_s"])


def run_pair(work: Path, host: str, port: int, sender: subprocess.Popen[str]) -> dict[str, float]:
    """Fill once from the sending node and return what it took."""
    before = ask_cpu(sender)
    command = [sys.executable, "-m", "bench.pair_node", "fetch", str(work / "t.fill"), str(work / "fetch")]
    done = subprocess.run([*command, host, str(port)], stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent)
    shutil.rmtree(work / "fetch")
    result: dict[str, float] = json.loads(done.stdout)
    return {**result, "sender_cpu_s": ask_cpu(sender) - before}


def run_floor(floor: Path, work: Path) -> dict[str, float]:
    """Move the file once with the C program and return what it took."""
    done = subprocess.run(
        [str(floor), str(work / "source" / "file"), str(work / "copy")], stdout=subprocess.PIPE, text=True, check=True
    )
    (work / "copy").unlink()
    result: dict[str, float] = json.loads(done.stdout)
    return result


def summary(results: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return medians and ranges per contender, and the ratios of medians."""
    rates = {name: [run["bytes"] / run["seconds"] / 1e9 for run in runs] for name, runs in results.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    cpu = {
        name: {
            side: statistics.median(run[f"{side}_cpu_s"] / run["bytes"] * 1e9 for run in runs)
            for side in ("sender", "receiver")
        }
        for name, runs in results.items()
    }
    return {
        "rate_gb_s": {name: {"median": medians[name], "min": min(r), "max": max(r)} for name, r in rates.items()},
        "cpu_s_per_gb": cpu,
        "ratios": {"default/floor": medians["p2pfill"] / medians["floor"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pair", description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=2048, help="size of the file (default: 2048)")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each contender (default: 5)")
    parser.add_argument("--work", type=Path, help="directory on the file system to measure (default: the system's)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="p2pfill-pair-", dir=options.work))
    results: dict[str, list[dict[str, float]]] = {"floor": [], "p2pfill": []}
    try:
        floor = build_floor(work)
        (work / "source").mkdir()
        write_source(work / "source" / "file", options.mib)
        (work / "t.fill").write_bytes(publish(work / "source", name="pair").manifest.encode())
        with seed_node(work) as (host, port, sender):
            for number in range(options.runs + 1):
                for name in results:
                    run = run_floor(floor, work) if name == "floor" else run_pair(work, host, port, sender)
                    # The first round warms caches and the machine's memory.
                    if number:
                        results[name].append(run)
                    if not options.json:
                        note = "" if number else " (warm-up)"
                        print(f"{name:8} {run['bytes'] / run['seconds'] / 1e9:5.2f} GB/s{note}", flush=True)
    finally:
        shutil.rmtree(work)
    print(json.dumps(summary(results)) if options.json else json.dumps(summary(results), indent=2))


if __name__ == "__main__":
    main()
