"""What else than the node the machine is busy with: processes, reads of its disk, traffic on its link.

All of it comes from /proc and /sys, so the calls are for worker threads. What a machine does not tell, as how fast a
virtual link is, is None. Where the node itself is part of a figure it is taken out, so that a fill is not taken for
viewers; reads for other caches are not told apart from reads for viewers.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

WIRE: Final = 1.06
"""Bytes on a link for each of payload: headers of Ethernet, IP and TCP with full packets, and acknowledgements."""

LOOPBACK: Final = "lo"


class Moved(NamedTuple):
    """Bytes since some moment."""

    inbound: int
    outbound: int


class LinkUse(NamedTuple):
    """Bytes a second on the link since the look before: of all others, and of the node."""

    others_in: float
    others_out: float
    own_in: float
    own_out: float


class Link:
    """The link of the machine, as one interface counts it."""

    def __init__(self, interface: str = "", rate: int = 0) -> None:
        """By default the interface of the default route, and the `rate`, bytes a second, that the kernel says."""
        self.interface = interface or default_interface()
        self.rate = rate or link_rate(self.interface)
        """0: nobody knows."""
        self._before: tuple[float, Moved, Moved] | None = None
        self._went_back = False
        """The counters were lower at the last look than before it."""

    def look(self, own: Moved) -> LinkUse | None:
        """Return what has moved since the look before; `own` is the node's payload until now.

        None at the first look, or where there is no such interface, or where its counters went back. Some drivers tell
        zeros for a moment: then the next look goes on from before. Taken for a beginning, they would have all that
        the link ever carried move at the next look, and the cache taken for busy.
        """
        counted = interface_bytes(self.interface)
        if counted is None:
            return None
        now, before = time.monotonic(), self._before
        if before is not None and now <= before[0]:
            return None
        went_back = before is not None and any(here < there for here, there in zip(counted, before[1], strict=True))
        if went_back and not self._went_back:
            self._went_back = True
            return None
        self._before, self._went_back = (now, counted, own), False
        if before is None or went_back:
            return None
        passed_s = now - before[0]
        own_in, own_out = (WIRE * (here - there) / passed_s for here, there in zip(own, before[2], strict=True))
        all_in, all_out = ((here - there) / passed_s for here, there in zip(counted, before[1], strict=True))
        return LinkUse(max(0.0, all_in - own_in), max(0.0, all_out - own_out), own_in, own_out)


class DiskReads:
    """Reads that the disk of a directory has outstanding."""

    def __init__(self, directory: Path) -> None:
        device = directory.stat().st_dev
        self._name = f"{os.major(device)}:{os.minor(device)}"
        self._before: tuple[float, int] | None = None

    def look(self) -> float | None:
        """Return how many reads were outstanding on average since the look before; None where that is not known."""
        spent_ms = self._read_ms()
        now, before = time.monotonic(), self._before
        if spent_ms is None or (before is not None and now <= before[0]):
            return None
        self._before = now, spent_ms
        return None if before is None else max(0.0, (spent_ms - before[1]) / 1000 / (now - before[0]))

    def _read_ms(self) -> int | None:
        """Return the milliseconds that all reads have taken together."""
        # A file system that spans devices, or none, has a number that no device has.
        with suppress(OSError, ValueError, IndexError):
            return int(Path(f"/sys/dev/block/{self._name}/stat").read_text().split()[3])
        return None


class Load:
    """Processes that run or want to, for each processor."""

    def __init__(self) -> None:
        self._before = time.monotonic(), time.process_time()

    def look(self) -> float:
        """Return how many there are besides what this process has used since the look before."""
        now, used = time.monotonic(), time.process_time()
        own = (used - self._before[1]) / max(now - self._before[0], 1e-3)
        self._before = now, used
        return max(0.0, os.getloadavg()[0] - own) / len(os.sched_getaffinity(0))


def default_interface() -> str:
    """Return the name of the interface of the default route; empty where there is none."""
    with suppress(OSError, IndexError):
        for line in Path("/proc/net/route").read_text().splitlines()[1:]:
            name, destination, *_ = line.split()
            if destination == "00000000":
                return name
    return ""


def interface_bytes(name: str) -> Moved | None:
    """Return what an interface has received and sent since it was made."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/net/dev").read_text().splitlines():
            found, _, figures = line.partition(":")
            if name and found.strip() == name:
                counts = figures.split()
                return Moved(int(counts[0]), int(counts[8]))
    return None


def link_rate(name: str) -> int:
    """Return what an interface carries in each direction, bytes a second; 0 where the kernel does not say."""
    with suppress(OSError, ValueError):
        if name and name != LOOPBACK:
            return max(0, int(Path(f"/sys/class/net/{name}/speed").read_text())) * 1_000_000 // 8
    return 0
