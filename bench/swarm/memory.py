"""Memory of the machine that nobody has used yet.

A virtual machine's host gives each page at its first use, in the processor time of whoever writes there: up to 2.7 s
for a gigabyte on one such machine, and 0.7 s once all of it had been used. A fill puts a title into the page cache for
each cache, so on a machine that was just started the first runs cost a processor second a gigabyte more than the rest.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

from bench.swarm.topology import Topology

MIB: Final = 1 << 20

_PAGES: Final = bytes(MIB)


def bytes_of(topology: Topology) -> int:
    """Return twice what a fill puts into the page cache: its titles, at their source and at each cache."""
    size_mib = sum(title.size_mib for title in topology.titles) or topology.size_mib
    return 2 * size_mib * MIB * len(topology.hosts())


def touch(wanted: int, meminfo: Path = Path("/proc/meminfo")) -> int:
    """Write to so many bytes of fresh memory once, or to half of what is available; return how many. They are freed."""
    available = next(int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if "MemAvailable" in line)
    size = min(wanted, available // 2) // MIB * MIB
    if size:
        with mmap.mmap(-1, size) as memory:
            for at in range(0, size, MIB):
                memory[at : at + MIB] = _PAGES
    return size
