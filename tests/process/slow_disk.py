"""A disk that stalls when a test says so: `slow_disk.c`, compiled here and preloaded into one process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


class SlowDisk:
    """Stalls what lies below `root`, for the processes that are started with `environment`."""

    def __init__(self, root: Path, work: Path, call_us: int = 0) -> None:
        """With `call_us` each call takes so many microseconds longer."""
        if shutil.which("cc") is None:
            if os.environ.get("CI"):
                pytest.fail("there is no C compiler")
            pytest.skip("needs a C compiler")
        library = work / "slow_disk.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True)
        self._gate = work / "slow-disk-gate"
        self._log = work / "slow-disk-calls"
        self._log.touch()
        self.environment = {
            "LD_PRELOAD": str(library),
            "SLOW_DISK_ROOT": str(root),
            "SLOW_DISK_GATE": str(self._gate),
            "SLOW_DISK_LOG": str(self._log),
            "SLOW_DISK_US": str(call_us),
        }

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Let no call get through for the time of the block."""
        self._log.write_bytes(b"")
        self._gate.touch()
        try:
            yield
        finally:
            self._gate.unlink()

    def calls(self) -> Counter[tuple[int, str]]:
        """Return what was held, by (thread, call), since the last stall began, and what a first thread called."""
        lines = (line.split() for line in self._log.read_text().splitlines())
        return Counter((int(thread), call) for thread, call in lines)

    def holds(self) -> bool:
        """Tell whether any call was held since the stall began, and so is."""
        return bool(self.calls())
