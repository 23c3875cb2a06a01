"""What the kernel sees of a pair: payload leaves through sendfile, and the event loop's thread touches no disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from p2pfill.bench.source import write_source
from p2pfill.store.publish import publish

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent.parent
MIB = 48
BLOCKING = {"sendfile", "pwrite64", "pread64", "preadv2", "fdatasync", "fsync", "syncfs", "fallocate"}
"""Calls that wait for a disk, whatever they are used for."""

CALL = re.compile(r"^(\d+) +(\w+)\(.*(?: = |resumed>.* = )(-?\d+)")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>.* = (-?\d+)")


def calls_of(trace: Path) -> Counter[tuple[int, str]]:
    """Return the bytes (or zeros) that finished calls returned, by (thread, call)."""
    found: Counter[tuple[int, str]] = Counter()
    for line in trace.read_text().splitlines():
        match = CALL.match(line) or RESUMED.match(line)
        if match:
            found[int(match[1]), match[2]] += max(0, int(match[3]))
    return found


def start_traced(trace: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start one side of the pair under strace."""
    strace = ["strace", "-f", "-qq", "-y", "-e", "trace=" + ",".join(sorted(BLOCKING)), "-o", str(trace)]
    pipe = subprocess.PIPE
    command = [*strace, sys.executable, "-m", "p2pfill.bench.node_process", *arguments]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)


def child_of(pid: int) -> int:
    """Return the process that strace has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_payload_goes_by_sendfile_and_the_event_loop_waits_for_no_disk(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed")
        pytest.skip("needs strace (Debian package strace)")
    (tmp_path / "source").mkdir()
    write_source(tmp_path / "source" / "file", MIB)
    fill = tmp_path / "t.fill"
    fill.write_bytes(publish(tmp_path / "source", name="pair").manifest.encode())
    traces = {side: tmp_path / f"{side}.trace" for side in ("seed", "fetch")}
    seeding = ("serve", "seed", str(tmp_path / "seed"), str(tmp_path / "source"), str(fill))
    with start_traced(traces["seed"], *seeding) as seed:
        assert seed.stdout is not None
        address = seed.stdout.readline()
        with start_traced(traces["fetch"], "fetch", "fetch", str(tmp_path / "fetch"), str(fill)) as fetch:
            assert fetch.stdout is not None
            fetch.stdout.readline()
            loops = {"seed": child_of(seed.pid), "fetch": child_of(fetch.pid)}
            result = json.loads(fetch.communicate('{"sources": [' + address.strip() + "]}\n", timeout=60)[0])
        seed.communicate(timeout=60)
    assert result["bytes"] == MIB << 20
    calls = {side: calls_of(trace) for side, trace in traces.items()}
    assert any(str(tmp_path / "seed") in line for line in traces["seed"].read_text().splitlines()), "no paths shown"
    sent = sum(count for (_, call), count in calls["seed"].items() if call == "sendfile")
    assert sent == MIB << 20
    written = sum(count for (_, call), count in calls["fetch"].items() if call == "pwrite64")
    assert written >= MIB << 20
    # The event loop runs in a process's first thread, whose id is the process's.
    for side, loop in loops.items():
        lines = [line for line in traces[side].read_text().splitlines() if line.startswith(f"{loop} ")]
        assert lines, "the trace does not show the loop's thread at all"
        assert not [line for line in lines if str(tmp_path) in line], f"the loop of {side} waits for a disk"
