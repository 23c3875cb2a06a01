"""Whether a figure grows: the Theil-Sen slope of the second half of a soak.

The slope is the median of the slopes of all pairs of samples (H. Theil, 1950; P. K. Sen, 1968), which up to 29 % of
outliers do not move, such as a sample beside a renewal. Times the length of the half it is what a figure has grown by;
flat is what has grown by less than 5 % of its median, or by less than a floor below which a figure of that kind is
noise. A leak of one entry, task or descriptor a title or a link is tens to thousands in a half hour.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Final

from bench.soak.records import Course, Flatness, Sample

PART: Final = 0.05
"""Of the median."""

FLOORS: Final[dict[str, float]] = {
    "rss_bytes": 8 << 20,
    "descriptors": 32,
    "sockets": 16,
    "threads": 4,
    "tasks": 16,
    "objects": 5000,
    "entries": 500,
    "disk_bytes": 5 << 20,
    "rows": 50,
}
"""Figure -> growth that is noise. Memory: what the allocator keeps of one burst. Disk: the write-ahead log, which
SQLite begins anew at 4 MB, and histories, of which the audit has some 200 bytes a change."""

SAMPLES_MIN: Final = 8
"""In the second half; fewer say nothing."""


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """Return the median slope of all pairs of points, whose times must differ."""
    return statistics.median((y - v) / (x - u) for (u, v), (x, y) in combinations(points, 2))


def second_half(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples after the middle of the time."""
    middle = (samples[0].at_s + samples[-1].at_s) / 2
    return [sample for sample in samples if sample.at_s >= middle]


def judge(process: str, course: Course) -> list[Flatness]:
    """Return the verdict on each figure of a process. Raises `ValueError` where there are too few samples."""
    half = second_half(course.samples) if course.samples else []
    if len(half) < SAMPLES_MIN:
        raise ValueError(f"{len(half)} samples of the {process} in the second half: {SAMPLES_MIN} are needed")
    span = half[-1].at_s - half[0].at_s
    judged = []
    for what, floor in FLOORS.items():
        values = [float(getattr(sample, what)) for sample in half]
        if not any(values):
            continue  # this process has no such thing
        median = statistics.median(values)
        slope = theil_sen([(sample.at_s, value) for sample, value in zip(half, values, strict=True)])
        judged.append(Flatness(process, what, median, slope * span, max(PART * median, floor)))
    return judged
