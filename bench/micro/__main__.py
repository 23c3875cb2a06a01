"""All micro benchmarks, and the two figures that the project holds itself to, in one small report.

    python -m bench.micro [--out docs/reports/bench/micro.json] [--rounds 5]

The report is one JSON object: `works` (name, unit, median seconds for one, units per second, bytes per second, and how
many times as long the pure twin takes), `scheduler` and `tracker`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.micro import course, heartbeats
from bench.micro.works import WORKS, open_work

ROOT: Final = Path(__file__).parents[2]
REPORT: Final = ROOT / "docs" / "reports" / "bench" / "micro.json"

SOURCE_COUNT: Final = 50
CORE_PART: Final = 0.05
SCHEDULER_US_MAX: Final = CORE_PART / course.CHUNKS_S * 1e6
"""Microseconds of a processor for each chunk that are 5 % of a core at 5 GB/s."""

HEARTBEATS_MIN: Final = 2000
"""For each second of one processor."""

INGEST_TIMES: Final = heartbeats.NODE_COUNT


def time_works(work: Path) -> list[dict[str, Any]]:
    """Run all micro benchmarks; return a row for each work."""
    found = work / "benchmarks.json"
    command = [sys.executable, "-m", "pytest", "bench/micro", "--benchmark-only", "-q", "--benchmark-quiet"]
    subprocess.run([*command, f"--benchmark-json={found}"], cwd=ROOT, check=True)
    return summarize(json.loads(found.read_text())["benchmarks"])


def summarize(benchmarks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each work from what pytest-benchmark has written of its twins."""
    seconds: dict[tuple[str, str], float] = {}
    for one in benchmarks:
        info = one["extra_info"]
        seconds[info["work"], info["twin"]] = one["stats"]["median"] / info["times"]
    rows = []
    for name, work in WORKS.items():
        native_s, pure_s = seconds[name, "native"], seconds.get((name, "pure"))
        rows.append(
            {
                "name": name,
                "unit": work.unit,
                "median_s": native_s,
                "per_s": 1 / native_s,
                "bytes_s": work.bytes_each / native_s if work.bytes_each else None,
                "pure_over_native": None if pure_s is None else pure_s / native_s,
            }
        )
    return rows


def cpu_s(do: Callable[[], object]) -> float:
    """Return the processor seconds of this process that a call takes."""
    began = time.process_time()
    do()
    return time.process_time() - began


def measure_scheduler(rounds: int) -> dict[str, Any]:
    """Run whole courses of both kinds in turn; return microseconds for each chunk."""
    found: dict[str, list[float]] = {"holding_us": [], "filling_us": []}
    for _ in range(rounds):
        for name, filling in (("holding_us", False), ("filling_us", True)):
            one = course.Course(SOURCE_COUNT, filling=filling)
            took_s = cpu_s(lambda run=one.run: run(course.CHUNK_COUNT + 1))  # type: ignore[misc]
            found[name].append(took_s / course.CHUNK_COUNT * 1e6)
    medians = {name: statistics.median(values) for name, values in found.items()}
    slowest = max(medians.values())
    return {
        "sources": SOURCE_COUNT,
        "chunks": course.CHUNK_COUNT,
        **medians,
        "decisions_per_s": 1e6 / slowest,
        "core_part_at_5_gb_s": slowest * course.CHUNKS_S / 1e6,
        "wanted_us_max": SCHEDULER_US_MAX,
        "runs": found,
    }


def measure_tracker(rounds: int) -> dict[str, Any]:
    """Return heartbeats for each second of processor time: through HTTP, and from JSON to memory without it."""
    with open_work(WORKS["ingest"], "native") as run:
        ingest = [INGEST_TIMES / cpu_s(lambda: run(INGEST_TIMES)) for _ in range(rounds)]
    found = heartbeats.measure(rounds=rounds)
    return {
        "nodes": heartbeats.NODE_COUNT,
        "http_per_cpu_s": statistics.median(found["per_cpu_s"]),
        "http_per_s": statistics.median(found["per_s"]),
        "service_per_cpu_s": statistics.median(ingest),
        "wanted_http_per_cpu_s_min": HEARTBEATS_MIN,
        "runs": {"http_per_cpu_s": found["per_cpu_s"], "http_per_s": found["per_s"], "service_per_cpu_s": ingest},
    }


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPORT, help="the report (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the two figures (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2pfill-micro-") as work:
        report = {
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "scheduler": measure_scheduler(arguments.rounds),
            "tracker": measure_tracker(arguments.rounds),
            "works": time_works(Path(work)),
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    for name in ("scheduler", "tracker"):
        print(name, {key: value for key, value in report[name].items() if key != "runs"})
    print(f"report: {arguments.out}")


if __name__ == "__main__":
    main()
