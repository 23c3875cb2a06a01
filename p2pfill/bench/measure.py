"""What processes cost: processor time and peak memory, read from the kernel and not from what a program says of itself.

One instrument serves all contenders, whatever language they are in. A process and its children are one `Tree`: nginx
has workers, and rsync forks for each connection. Processor time of a living process comes from its clock, in
nanoseconds and with all of its threads; that of children that have ended comes in ticks of a hundredth of a second.

Rejected: getrusage for the peak of a child, in which Linux counts the memory of the process that it was forked from.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from p2pfill.errors import P2PFillError

TICKS_S: Final = os.sysconf("SC_CLK_TCK")
SECTOR_BYTES: Final = 512
"""In which the kernel counts what disks do, whatever their own sectors are."""

ALONE_S: Final = 2.0
ALONE_STEP_S: Final = 0.005


class BenchFailed(P2PFillError):
    """A benchmark cannot give a result: a process died, or what was fetched is not what was sent."""


class Spread(msgspec.Struct, frozen=True):
    """The middle of some values, and how far they lie apart."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))


class Tree:
    """A process and what it has forked. Its figures count from `start`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._peaks: dict[int, int] = {}
        self._cpu_before_s = 0.0

    def start(self) -> None:
        """Count processor time and peak memory from now on."""
        for pid in self._pids():
            # A write of 5 makes the kernel's own high-water mark begin anew (proc(5), clear_refs).
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._peaks.clear()
        self.look()
        self._cpu_before_s = self._read_cpu_s()

    def look(self) -> None:
        """Note the peaks of all that live now; a child that ends is remembered as it was seen last."""
        for pid in self._pids():
            with suppress(OSError):
                peak = _peak_bytes(pid)
                self._peaks[pid] = max(peak, self._peaks.get(pid, 0))

    def peak_bytes(self) -> int:
        """Return the sum of the peaks of its processes: resident memory, with the pages of files that they map."""
        self.look()
        return sum(self._peaks.values())

    def cpu_s(self) -> float:
        """Return the processor seconds, user and system, of all of its processes since `start`."""
        return self._read_cpu_s() - self._cpu_before_s

    def wait_alone(self) -> None:
        """Wait until its children have ended and are counted, where it has one for each connection."""
        until = time.monotonic() + ALONE_S
        while len(self._pids()) > 1 and time.monotonic() < until:
            time.sleep(ALONE_STEP_S)

    def _pids(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            # Of the main thread: none of the contenders forks from another.
            with suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def _read_cpu_s(self) -> float:
        spent_s = 0.0
        for pid in self._pids():
            with suppress(OSError):
                ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
                spent_s += time.clock_gettime(_clock_of(pid)) + sum(map(int, ended)) / TICKS_S
        return spent_s


def used_s(pid: int) -> tuple[float, float]:
    """Return the user and system seconds of a process so far, in ticks, without those of its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS_S, int(fields[12]) / TICKS_S


def _clock_of(pid: int) -> int:
    # The kernel's number for the processor clock of a process (clock_getcpuclockid(3)); Python has it for threads only.
    return (~pid << 3) | 2


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class Load(msgspec.Struct, frozen=True):
    """What the whole machine did meanwhile: parts of the time of all processors, and of the disk's."""

    busy: float
    """Processors that worked, for whomever."""
    waiting: float
    """Processors that had nothing to do but wait for a disk."""
    stolen: float
    """Processors that the host of a virtual machine gave to others."""
    disk_busy: float | None
    """The part of the time in which the disk had something to do; None where the directory is on no disk."""
    disk_written_bytes: int | None


class LoadMeter:
    """Reads the load between its making and `read`, for the disk that a directory is on."""

    def __init__(self, directory: Path) -> None:
        device = directory.stat().st_dev
        self._disk = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        self._began = time.monotonic()
        self._before = self._counters()

    def read(self) -> Load:
        """Return the load since the beginning."""
        elapsed_s = max(time.monotonic() - self._began, 1e-9)
        ticks, disk = self._counters()
        spent = [after - before for before, after in zip(self._before[0], ticks, strict=True)]
        total = max(sum(spent), 1)
        idle, waiting, stolen = spent[3], spent[4], spent[7]
        busy_part = (total - idle - waiting - stolen) / total
        if disk is None or self._before[1] is None:
            return Load(busy_part, waiting / total, stolen / total, None, None)
        written, busy_ms = (after - before for before, after in zip(self._before[1], disk, strict=True))
        disk_busy = min(1.0, busy_ms / 1000 / elapsed_s)
        return Load(busy_part, waiting / total, stolen / total, disk_busy, written * SECTOR_BYTES)

    def _counters(self) -> tuple[list[int], tuple[int, int] | None]:
        # user nice system idle iowait irq softirq steal (proc(5)); what guests take is in user and nice already.
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        try:
            fields = self._disk.read_text().split()
        except OSError:
            return ticks, None
        return ticks, (int(fields[6]), int(fields[9]))


def mean_load(loads: Sequence[Load]) -> Load:
    """Return the mean of the loads of some runs."""
    busy_s = [load.disk_busy for load in loads if load.disk_busy is not None]
    written = [load.disk_written_bytes for load in loads if load.disk_written_bytes is not None]
    return Load(
        busy=statistics.fmean(load.busy for load in loads),
        waiting=statistics.fmean(load.waiting for load in loads),
        stolen=statistics.fmean(load.stolen for load in loads),
        disk_busy=statistics.fmean(busy_s) if busy_s else None,
        disk_written_bytes=round(statistics.fmean(written)) if written else None,
    )


def begin(directory: Path, *trees: Tree) -> LoadMeter:
    """Start the figures of trees and machine, from a state that is the same for everybody."""
    # What others have left to be written must not share disk and processors with what is measured.
    os.sync()
    for tree in trees:
        tree.start()
    return LoadMeter(directory)


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    made_at: str
    kernel: str
    processor: str
    processors: int
    memory_bytes: int
    file_system: str
    python: str
    p2pfill: str
    native: bool
    """Whether p2pfill ran with its native module."""


def describe_machine(directory: Path) -> Machine:
    """Describe this machine, now, with the file system of a directory."""
    import platform

    from p2pfill import hot
    from p2pfill._version import __version__

    return Machine(
        made_at=time.strftime("%Y-%m-%d", time.gmtime()),
        kernel=f"{platform.system()} {platform.release()}",
        processor=_processor() or platform.machine(),
        processors=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        file_system=_file_system(directory),
        python=platform.python_version(),
        p2pfill=__version__,
        native=hot.NATIVE,
    )


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""


def _file_system(directory: Path) -> str:
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return "unknown"
