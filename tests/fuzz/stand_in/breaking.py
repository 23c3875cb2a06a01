"""Targets that break: one at an input, one at what it has taken before."""

from __future__ import annotations

from pathlib import Path

from bench.fuzz.target import Run, Target, check


def open_breaking(_: Path) -> Run:
    """Nothing ends with an exclamation mark."""

    def run(data: bytes) -> bool:
        check(not data.endswith(b"!"), "it ends with an exclamation mark", data)
        return True

    return run


def open_counting(_: Path) -> Run:
    """There are not more than five."""
    count = 0

    def run(data: bytes) -> bool:
        nonlocal count
        count += 1
        check(count <= 5, "there are too many")
        return False

    return run


TARGETS = (
    Target("breaking", open_breaking, lambda: [b"abc", b"def"]),
    Target("counting", open_counting, lambda: [b"1"], per_state=100),
)
