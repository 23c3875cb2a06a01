"""Where a process spends processor time: user and system apart, by group of threads, with its context switches.

All is read from /proc/PID, alike for programs in any language. The figures of a whole process hold threads that have
ended; those of a thread are gone with it. What a thread took until it was last looked at counts for its group
(`merge`). What it took after that, and all that a thread took that was never looked at, is known as a sum only, the
group `ENDED`: of that the names and the context switches are lost.

A process is counted in ticks of a hundredth of a second; a thread in nanoseconds, since many of them take less than a
tick, where the kernel has `schedstat` (else in ticks too). How a thread's time divides into user and system is an
estimate of most kernels, which look at each tick what is running; the sum is exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from p2pfill.bench.measure import TICKS_S

MAIN: Final = "main"
"""The first thread of a process; in a node the event loop."""
ENDED: Final = "ended"
"""Threads that ended between two readings, whatever they were called."""
WORKERS: Final = "workers"
"""Threads of other names: in a node Trio's workers, which are called by what they do."""
UNNAMED: Final = "unnamed"
"""Threads that are called like their process: those of libraries, among them all of libtorrent's."""

GROUPS: Final = {
    "data-pace": "pacer", "data": "data plane", "origin": "origin pool", "stdin": "stdin",
    "p2pfill-catalog": "catalogue", "p2pfill-hash": "hashing", "floor-send": "sending", "floor-recv": "receiving",
}  # fmt: skip
"""What the name of a thread begins with (the kernel keeps 15 characters) -> its group. The first that fits counts."""

REST_S: Final = 3 / TICKS_S
"""What readings of a process in ticks may leave of its threads; more was taken by threads that have ended."""

_SWITCHES: Final = re.compile(r"^(voluntary|nonvoluntary)_ctxt_switches:\s*(\d+)", re.MULTILINE)


class Cpu(NamedTuple):
    """Processor seconds."""

    user_s: float
    system_s: float


class GroupUse(NamedTuple):
    """What a group of threads took between two readings."""

    threads: int
    """So many there were at the second reading."""
    user_s: float
    system_s: float
    voluntary: int
    """Context switches, since it waited."""
    involuntary: int
    """Context switches, since others were to run."""


class ThreadClock(NamedTuple):
    """What one thread has taken since its start."""

    group: str
    cpu: Cpu
    """In ticks; how it divides is an estimate."""
    total_s: float
    """Both together, exact where the kernel says it."""
    voluntary: int
    involuntary: int


class ProcessClock(NamedTuple):
    """What a process has taken since its start."""

    cpu: Cpu
    """With threads that have ended."""
    threads: Mapping[tuple[int, int], ThreadClock]
    """Thread id and start -> its clock, of threads that live: an id may be given again."""

    def merge(self, later: ProcessClock) -> ProcessClock:
        """Return the later reading, with the threads of this one that have ended as they were."""
        return ProcessClock(later.cpu, {**self.threads, **later.threads})


def group_of(name: str, process: str) -> str:
    """Return the group of a thread, not the first of its process, by the names that the kernel has for both."""
    if name == process:
        return UNNAMED
    return next((group for start, group in GROUPS.items() if name.startswith(start)), WORKERS)


def read_process(pid: int) -> ProcessClock:
    """Read the clocks of a process. Raises `OSError` where it is gone."""
    threads = {}
    process, _ = _read_stat(Path(f"/proc/{pid}"))
    for path in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            key, name, clock = _read_thread(path)
            group = MAIN if key[0] == pid else group_of(name, process)
            threads[key] = clock._replace(group=group)
    # After its threads, so that their sum is not above it.
    return ProcessClock(read_cpu(pid), threads)


def read_cpu(pid: int) -> Cpu:
    """Return what a process has taken, with all of its threads. Raises `OSError` where it is gone."""
    _, fields = _read_stat(Path(f"/proc/{pid}"))
    return _cpu_of(fields)


def _read_thread(path: Path) -> tuple[tuple[int, int], str, ThreadClock]:
    """Return id and start, name and clock of a thread from its directory in /proc."""
    name, fields = _read_stat(path)
    switches = {kind: int(count) for kind, count in _SWITCHES.findall((path / "status").read_text())}
    cpu = _cpu_of(fields)
    total_s = sum(cpu)
    with suppress(FileNotFoundError):
        total_s = int((path / "schedstat").read_text().split()[0]) / 1e9
    clock = ThreadClock("", cpu, total_s, switches["voluntary"], switches["nonvoluntary"])
    return (int(path.name), int(fields[19])), name, clock


def _read_stat(path: Path) -> tuple[str, list[str]]:
    """Return the name, which may hold anything, and the fields behind it (proc(5), from the third on)."""
    text, _, fields = (path / "stat").read_text().rpartition(")")
    return text.partition("(")[2], fields.split()


def _cpu_of(fields: list[str]) -> Cpu:
    return Cpu(int(fields[11]) / TICKS_S, int(fields[12]) / TICKS_S)


def groups_between(before: ProcessClock, after: ProcessClock) -> dict[str, GroupUse]:
    """Return what each group of threads took between two readings of one process."""
    found: dict[str, GroupUse] = {}
    taken = _minus(after.cpu, before.cpu)
    rest_s = sum(taken)
    nothing = ThreadClock("", Cpu(0.0, 0.0), 0.0, 0, 0)
    for key, clock in after.threads.items():
        first = before.threads.get(key, nothing)
        total_s = clock.total_s - first.total_s
        rest_s -= total_s
        # One that took less than a tick divides as its process does.
        ticks = _minus(clock.cpu, first.cpu)
        system_s = total_s * _system_part(ticks if sum(ticks) else taken)
        switches = clock.voluntary - first.voluntary, clock.involuntary - first.involuntary
        add_group(found, clock.group, GroupUse(1, total_s - system_s, system_s, *switches))
    if rest_s > REST_S:
        system_s = rest_s * _system_part(taken)
        add_group(found, ENDED, GroupUse(0, rest_s - system_s, system_s, 0, 0))
    return found


def _minus(one: Cpu, other: Cpu) -> Cpu:
    return Cpu(one.user_s - other.user_s, one.system_s - other.system_s)


def _system_part(cpu: Cpu) -> float:
    return cpu.system_s / sum(cpu) if sum(cpu) else 0.0


def add_group(groups: dict[str, GroupUse], name: str, use: GroupUse) -> None:
    """Add what was used to a group's sum."""
    before = groups.get(name, GroupUse(0, 0.0, 0.0, 0, 0))
    groups[name] = GroupUse(
        before.threads + use.threads,
        before.user_s + use.user_s,
        before.system_s + use.system_s,
        before.voluntary + use.voluntary,
        before.involuntary + use.involuntary,
    )


def cpu_of(groups: Mapping[str, GroupUse]) -> Cpu:
    """Return what all groups took."""
    return Cpu(sum(use.user_s for use in groups.values()), sum(use.system_s for use in groups.values()))


def switches_of(groups: Mapping[str, GroupUse]) -> tuple[int, int]:
    """Return the voluntary and the involuntary context switches of all groups."""
    return sum(use.voluntary for use in groups.values()), sum(use.involuntary for use in groups.values())
