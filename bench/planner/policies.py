"""Caches that react to requests, by libcachesim, on the requests that planners are measured by.

    python -m bench.planner.policies POLICY DIRECTORY

is what runs here as a process of its own for each policy, since the library ends its process where a cache is too small
for a policy (S3-FIFO of size 1): the process that follows begins with the next cache. Rounding inside of a policy hangs
on the unit of sizes, and W-TinyLFU's window can come out smaller than any file, so each is run as `variants` says, and
of these the one with most hits on the days that count is taken: the choice favours the policy, never the planner.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.planner.rolling import Course, Dataset, Requests, day_rows

POLICIES: Final = {
    "LRU": "LRU", "LFU": "LFU", "ARC": "ARC", "SIEVE": "Sieve", "S3-FIFO": "S3FIFO", "W-TinyLFU": "WTinyLFU",
    "GDSF": "GDSF", "Belady": "Belady",
}  # fmt: skip
"""By the name of the field: the library's class."""
SEES_THE_FUTURE: Final = "Belady"

UNIT_BYTES: Final = 10**6
"""Of sizes: the library keeps them in 32 bits."""
WINDOW: Final = 0.01
"""Of W-TinyLFU, as its authors have it."""
WINDOW_MAX: Final = 0.5
HASH_POWER: Final = 18
"""The library's tables begin with two to this power of places; its own default takes 128 MB for each cache."""
NEVER: Final = 2**62
CHILD_S: Final = 300.0
"""A policy that takes longer hangs: the slowest took a tenth of that."""


@dataclass(frozen=True)
class Variant:
    """How a policy is run."""

    unit: int
    """A size is this many of the library's bytes, where all files are of one size."""
    window: float
    """Of W-TinyLFU, as a part of the cache."""


def requests_of(data: Dataset, region: int, seed: int) -> Requests:
    """Return the requests of a region, in a random order within each day where theirs is not known."""
    if data.requests is not None and region == 0:
        return data.requests
    views = data.views
    rows = np.flatnonzero(views.region == region)
    rows = rows[rows >= day_rows(views, data.policies_from).start]
    each = np.repeat(rows, views.requests[rows])
    random = np.random.default_rng([seed, region])
    each = each[np.lexsort((random.random(each.size), views.day[each]))]
    return Requests(views.file[each].astype(np.int64), views.day[each], (views.bytes / views.requests)[each])


def next_requests(file: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each request when the same file is asked for again, `NEVER` if it is not."""
    order = np.argsort(file, kind="stable")
    following = np.full(file.size, NEVER, np.int64)
    again = file[order[1:]] == file[order[:-1]]
    following[order[:-1][again]] = order[1:][again]
    return following


def variants(policy: str, size: NDArray[np.int64], capacity: int) -> list[Variant]:
    """Return how a policy is run on files of some sizes, in a cache of a capacity in the same unit."""
    units = [1, 100] if size.min() == size.max() else [1]
    windows = [WINDOW]
    if policy == "W-TinyLFU":
        # So that the largest file fits, and one of the usual size.
        needed = [float(part) * 1.001 / capacity for part in (size.max(), 2 * np.median(size))]
        windows = sorted({min(max(WINDOW, part), WINDOW_MAX) for part in needed} | {WINDOW})
    return [Variant(unit, window) for unit in units for window in windows]


def run_policy(policy: str, requests: Requests, data: Dataset, region: int) -> Course | None:
    """Run a policy with all capacities, as a course with figures of one region; None: it cannot be run here."""
    size = np.maximum(data.catalogue.size // UNIT_BYTES, 1) if data.catalogue.size.max() > 1 else data.catalogue.size
    capacities = [max(int(capacity * float(size.sum()) / data.catalogue.size.sum()), 1) for capacity in data.capacities]
    runs = [(share, one) for share, capacity in enumerate(capacities) for one in variants(policy, size, capacity)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(prefix="p2pfill-policies-") as name:
        directory = Path(name)
        np.savez(
            directory / "requests.npz", object=requests.file, size=size[requests.file],
            following=next_requests(requests.file),
            capacity=[capacities[share] * one.unit for share, one in runs], unit=[one.unit for _, one in runs],
            window=[one.window for _, one in runs],
        )  # fmt: skip
        _run_children(policy, directory, len(runs))
        hits = [_read(directory / f"{number}.npy", requests.file.size) for number in range(len(runs))]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if all(hit is None for hit in hits):
        return None
    used = (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)
    return _course(policy, requests, data, region, list(zip(runs, hits, strict=True)), used)


def _course(
    policy: str, requests: Requests, data: Dataset, region: int,
    runs: list[tuple[tuple[int, Variant], NDArray[np.bool_] | None]], used: tuple[float, float],
) -> Course:  # fmt: skip
    """Count hits by day, and take the best variant for each share."""
    days = data.views.last_day - data.tuned_from + 1
    shape = (days, len(data.shares), len(data.views.regions))
    hit_bytes, hit_requests = np.zeros(shape), np.zeros(shape)
    counted = requests.day >= data.tuned_from
    for (share, _), hit in runs:
        if hit is None:
            continue
        there = hit & counted
        at = requests.day[there] - data.tuned_from
        by_bytes = np.bincount(at, requests.weight[there], days)
        if by_bytes[data.scored_days].sum() > hit_bytes[data.scored_days, share, region].sum():
            hit_bytes[:, share, region] = by_bytes
            hit_requests[:, share, region] = np.bincount(at, minlength=days)
    return Course(policy, hit_bytes, hit_requests, np.zeros(shape), *used)


def _run_children(policy: str, directory: Path, count: int) -> None:
    """Run until each cache has its hits, or a mark that the library gave up on it."""
    command = [sys.executable, "-m", "bench.planner.policies", policy, str(directory)]
    for _ in range(count + 1):
        done = subprocess.run(command, capture_output=True, timeout=CHILD_S, check=False)
        if not done.returncode:
            return
        missing = next((number for number in range(count) if not (directory / f"{number}.npy").exists()), None)
        if missing is None:
            return
        np.save(directory / f"{missing}.npy", np.zeros(0, np.uint8))


def _read(path: Path, count: int) -> NDArray[np.bool_] | None:
    packed = np.load(path)
    return np.unpackbits(packed, count=count).astype(bool) if packed.size else None


def simulate(policy: str, asked: dict[str, Any], number: int) -> NDArray[np.bool_]:
    """Return which requests a cache has served. May end the process."""
    import libcachesim

    options: dict[str, Any] = {"hashpower": HASH_POWER}
    if policy == "W-TinyLFU":
        options["window_size"] = float(asked["window"][number])
    cache = getattr(libcachesim, POLICIES[policy])(int(asked["capacity"][number]), **options)
    request = libcachesim.Request()
    unit = int(asked["unit"][number])
    hits = bytearray(asked["object"].size)
    each = zip(
        (asked["object"] + 1).tolist(), (asked["size"] * unit).tolist(), asked["following"].tolist(), strict=True
    )
    for place, (file, size, following) in enumerate(each):
        request.obj_id = file
        request.obj_size = size
        request.next_access_vtime = following
        request.clock_time = place
        request.hv = 0  # or the hash of the request before it would count
        hits[place] = cache.get(request)
    return np.frombuffer(hits, np.uint8).astype(bool)


def main() -> None:
    """Run what has no hits yet."""
    policy, directory = sys.argv[1], Path(sys.argv[2])
    asked = dict(np.load(directory / "requests.npz"))
    for number in range(asked["capacity"].size):
        path = directory / f"{number}.npy"
        if not path.exists():
            np.save(path, np.packbits(simulate(policy, asked, number)))


if __name__ == "__main__":
    main()
