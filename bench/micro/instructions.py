"""How many instructions each work takes, beside the baseline in `instructions.json`.

    python -m bench.micro.instructions [--update]

A count is the same on a quiet machine and on a busy one, so a slow-down shows where time would not tell. It is taken by
valgrind's callgrind: `TIMES` and then twice as many of a work, and the difference is the count, so what begins and ends
a run is in none. The collector of garbage stands still meanwhile, since its turns depend on what else is in memory.

Most of what is counted is the interpreter, so a baseline holds for one build of Python, and `--update` makes one for
the build that runs it. What libraries do is in the counts too: their versions are kept with each baseline, and a check
that fails says which of them are others. Rejected: counting with `perf stat`, which needs a processor's counters, and
virtual machines seldom have them; and one baseline for all builds, divided by the count of a loop of plain Python:
from one build of 3.11 to another works that are Python alone change by 9 to 14 %, each by another figure.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

BASELINE: Final = Path(__file__).with_name("instructions.json")
ROOT: Final = Path(__file__).parents[2]
TOLERANCE: Final = 0.05
LIMIT_S: Final = 300.0
LIBRARIES: Final = ("blake3", "msgspec", "trio", "xxhash")
"""Whose instructions are in the counts."""

MARK: Final = "getppid"
"""A system call that nothing else makes: at each, callgrind writes what it has counted since the one before."""


def build_name() -> str:
    """Return what stands for this build of Python: two of one name run the same instructions."""
    flags = "avx2" if "avx2" in Path("/proc/cpuinfo").read_text() else "sse2"
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}, {flags}"


def lacking() -> str:
    """Return why nothing can be counted here; empty where it can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed; on Debian: apt-get install valgrind"
    return ""


def count_works() -> dict[str, int]:
    """Return the instructions that each work takes that is counted, once."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-micro-") as work:
        out = Path(work) / "out"
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}"]
        command += [sys.executable, "-m", "bench.micro.instructions", "--child"]
        # Nothing of this shell's: its length alone moves the stack.
        environment = {"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), "HOME": work}
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        if done.returncode:
            raise RuntimeError(f"valgrind failed:\n{done.stderr[-3000:]}")
        cases = json.loads(done.stdout)
        totals = [read_total(out.with_name(f"out.{number}")) for number in range(1, 3 * len(cases) + 1)]
    counts = {}
    for number, (name, times) in enumerate(cases):
        # The first of three dumps is what came before the work.
        once, twice = totals[3 * number + 1 : 3 * number + 3]
        counts[name] = round((twice - once) / times)
    return counts


def read_total(path: Path) -> int:
    """Return how many instructions a dump of callgrind says."""
    found = re.search(r"^(?:summary|totals): (\d+)", path.read_text(), re.MULTILINE)
    assert found is not None, path
    return int(found[1])


def run_works() -> None:
    """Do all works that are counted, with a mark before, between and after the two runs of each."""
    from bench.micro.works import WORKS, open_work

    gc.disable()
    counted = [work for work in WORKS.values() if work.times_counted]
    for work in counted:
        with open_work(work, "native", small=True) as run:
            run(work.times_counted)  # what is done once is done now
            for part in (1, 2):
                os.getppid()
                run(part * work.times_counted)
            os.getppid()
    print(json.dumps([(work.name, work.times_counted) for work in counted]))


def libraries() -> dict[str, str]:
    """Return the versions of the libraries that are counted with the works."""
    return {name: version(name) for name in LIBRARIES} | {"OpenSSL": ssl.OPENSSL_VERSION}


def compare(counts: dict[str, int], baseline: dict[str, Any]) -> list[str]:
    """Return a line for each work that takes other than `TOLERANCE` of its baseline, more or fewer."""
    faults = []
    for name in sorted(counts.keys() | baseline["counts"].keys()):
        before, after = baseline["counts"].get(name), counts.get(name)
        if before is None or after is None:
            faults.append(f"{name}: is not in the baseline" if before is None else f"{name}: is no longer counted")
        elif abs(after - before) > TOLERANCE * before:
            faults.append(f"{name}: {after:,} instructions, {after / before - 1:+.1%} against {before:,}")
    others = {name: held for name, held in baseline["libraries"].items() if libraries()[name] != held}
    if faults and others:
        faults.append("the baseline was made with " + ", ".join(f"{name} {held}" for name, held in others.items()))
    return faults


def main() -> int:
    """Count, and show or update the baseline."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro.instructions", description=__doc__)
    parser.add_argument("--update", action="store_true", help="make what is counted now the baseline of this Python")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_works()
        return 0
    if why := lacking():
        print(why, file=sys.stderr)
        return 2
    baselines = json.loads(BASELINE.read_text())
    counts = count_works()
    before = baselines.get(build_name(), {"counts": counts})["counts"]
    print(f"{build_name()}: instructions of each work, beside the baseline")
    for name, count in counts.items():
        print(f"{name:20} {count:>12,} {count / before.get(name, count) - 1:+8.2%}")
    if arguments.update:
        baselines[build_name()] = {"libraries": libraries(), "counts": counts}
        BASELINE.write_text(json.dumps(baselines, indent=1, sort_keys=True) + "\n")
        return 0
    return int(build_name() in baselines and bool(compare(counts, baselines[build_name()])))


if __name__ == "__main__":
    sys.exit(main())
