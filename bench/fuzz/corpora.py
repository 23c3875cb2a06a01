"""Which of the inputs that were found are worth keeping: those that take a way through the code that no other does."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any, Final

from bench.fuzz.target import CORPUS, Run, Target

KEPT_MAX: Final = 40
"""Inputs of a target; those that reach most go first."""
BYTES_MAX: Final = 16 * 1024
"""Of a target's inputs together."""
LOOKED_AT: Final = 3000
"""The shortest of those that were found."""

_PACKAGE: Final = str(Path(__file__).parents[2] / "p2pfill")

Way = tuple[CodeType, int, int]
"""From one line to the next, in a piece of code."""


def ways_of(run: Run, data: bytes) -> set[Way]:
    """Return the ways that an input takes through the package, in this thread."""
    ways: set[Way] = set()

    def trace(frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            return None
        line = frame.f_lineno

        def trace_line(inner: FrameType, event: str, _: Any) -> Callable[..., Any]:
            nonlocal line
            if event == "line":
                ways.add((code, line, inner.f_lineno))
                line = inner.f_lineno
            return trace_line

        return trace_line

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run(data)
    finally:
        sys.settrace(before)
    return ways


def keep(target: Target, found: Path) -> int:
    """Add to a target's corpus what reaches something that its inputs do not; return how many that are."""
    inputs = sorted((path.read_bytes() for path in found.iterdir()), key=lambda data: (len(data), data))[:LOOKED_AT]
    with TemporaryDirectory(prefix="p2pfill-fuzz-") as work, target.opened(Path(work)) as run:
        known: set[Way] = set()
        for data in target.inputs():
            known |= ways_of(run, data)
        found_ways = {data: ways_of(run, data) - known for data in inputs}
    room = BYTES_MAX - sum(map(len, target.corpus()))
    count = sum(1 for _ in target.corpus())
    added = 0
    while found_ways and count + added < KEPT_MAX:
        best = max(found_ways, key=lambda data: (len(found_ways[data]), -len(data)))
        gained = found_ways.pop(best)
        if not gained:
            break
        if len(best) > room:
            continue
        room -= len(best)
        added += 1
        found_ways = {data: ways - gained for data, ways in found_ways.items()}
        directory = CORPUS / target.name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / hashlib.sha256(best).hexdigest()[:16]).write_bytes(best)
    return added
