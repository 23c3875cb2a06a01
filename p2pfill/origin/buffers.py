"""Memory for chunks, which is used again and again.

New memory costs more than the bytes that are read into it: the kernel clears each page when it is first touched, and
takes them back with the GIL held. That took four fifths of the system time of reading large files, and held up the
event loop; see docs/experiments.md, "Reading origins". It is mapped, since each thread that reads has a heap of its
own, which would keep what the largest chunks have taken; see there, "Memory".

Invariant: what is spare is in nobody's hands. Who does not give memory back loses nothing: it goes back to the system.
"""

from __future__ import annotations

import mmap
import threading
import time
from typing import Final

from p2pfill.model.timing import ORIGIN_READS_MAX

SPARE_BYTES_MAX: Final = 32 * 1024 * 1024
"""As much as the chunks of 4 MiB that a node reads at a time take. Larger ones are few."""

_CAPACITY_MIN: Final = 64 * 1024
"""Below that new memory costs little."""


class Buffers:
    """Memory to be used again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: list[mmap.mmap] = []

    @property
    def spare_bytes(self) -> int:
        """How much is kept."""
        with self._lock:
            return sum(map(len, self._spare))

    def take(self, length: int) -> memoryview:
        """Return `length` bytes of memory, with anything in it. Raises `OSError` where the system has none."""
        capacity = max(_CAPACITY_MIN, 1 << (length - 1).bit_length())
        with self._lock:
            fitting = next((spare for spare in reversed(self._spare) if len(spare) == capacity), None)
            if fitting is not None:
                self._spare.remove(fitting)
        # What is not touched takes no memory, so the rest up to the power of two costs nothing.
        return memoryview(mmap.mmap(-1, capacity) if fitting is None else fitting)[:length]

    def give_back(self, data: memoryview) -> None:
        """Keep what was taken for others. Nobody may look at it from now on; `data` itself cannot be looked at."""
        memory = data.obj
        data.release()
        if not isinstance(memory, mmap.mmap):
            return
        with self._lock:
            self._spare.append(memory)
            # The oldest first: of another title, whose chunks have other lengths.
            while len(self._spare) > ORIGIN_READS_MAX or sum(map(len, self._spare)) > SPARE_BYTES_MAX:
                del self._spare[0]

    def clear(self) -> None:
        """Let the system have what is spare."""
        while True:
            with self._lock:
                if not self._spare:
                    return
                del self._spare[-1]
            time.sleep(0)  # each takes a millisecond, and the GIL


BUFFERS: Final = Buffers()
"""Of all origins of this process: what matters is how much memory that is in all."""
