"""A made service as its operator's files: catalogue, caches, viewing logs and `planner.toml`, small enough to try out.

What was watched is of `plan.synthetic`; its files are made smaller, so that all of a catalogue lies on one disk.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from p2pfill.plan.synthetic import World
    from p2pfill.plan.tables import Longs

HOUR_S: Final = 3600
ROWS_A_FILE: Final = 6
"""Rows of a log for one file of one region and day: each is as many views as it takes, so that logs stay small."""

FILE_BYTES_MIN: Final = 1024


class DemoCache(NamedTuple):
    """One row of the table of caches."""

    name: str
    cluster: str
    isp: str
    region: str
    capacity: int
    serving: str
    timezone: str


def made_smaller(world: World, median_bytes: int) -> World:
    """Return a world whose files are as much smaller as makes their median so large. What is watched is alike."""
    factor = median_bytes / float(np.median(world.catalogue.size))
    size: Longs = np.maximum((world.catalogue.size * factor).astype(np.int64), FILE_BYTES_MIN)
    ratio = size[world.views.file] / world.catalogue.size[world.views.file]
    views = replace(world.views, bytes=np.maximum((world.views.bytes * ratio).astype(np.int64), 1))
    return replace(world, catalogue=replace(world.catalogue, size=size), views=views)


def write_catalogue(path: Path, world: World) -> None:
    """Write what files there are."""
    catalogue = world.catalogue
    with path.open("w", newline="") as opened:
        out = csv.writer(opened)
        out.writerow(("title", "file", "size", "kind", "genre", "released", "hint"))
        for file, title, kind, size in zip(
            catalogue.files, catalogue.title.tolist(), catalogue.kind.tolist(), catalogue.size.tolist(), strict=True
        ):
            hint = float(catalogue.hint[title])
            out.writerow((
                catalogue.titles[title], file, size, catalogue.kinds[kind],
                catalogue.genres[int(catalogue.genre[title])], _date(int(catalogue.released[title])),
                "" if hint != hint else f"{hint:.2f}",
            ))  # fmt: skip


def write_caches(path: Path, caches: Sequence[DemoCache]) -> None:
    """Write what caches there are."""
    with path.open("w", newline="") as opened:
        out = csv.writer(opened)
        out.writerow(DemoCache._fields)
        out.writerows(caches)


def write_log(path: Path, world: World, caches: Sequence[DemoCache], day: int) -> int:
    """Write what was watched on a day, and return how many rows that is. The same world gives the same rows."""
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([world.seed, day, 17])))
    with path.open("w", newline="") as opened:
        out = csv.writer(opened)
        out.writerow(("time", "region", "cluster", "title", "file", "bytes"))
        rows = list(_rows(world, caches, day, random))
        out.writerows(rows)
    return len(rows)


def _rows(
    world: World, caches: Sequence[DemoCache], day: int, random: np.random.Generator
) -> Iterator[tuple[str, str, str, str, str, int]]:
    views, catalogue = world.views, world.catalogue
    first, last = np.searchsorted(views.day, (day, day + 1))
    clusters = {region: sorted({one.cluster for one in caches if one.region == region}) for region in views.regions}
    start = day * 24 - world.load.first_hour
    for row in range(int(first), int(last)):
        number, file = int(views.region[row]), int(views.file[row])
        region = views.regions[number]
        profile = world.load.served[number, start : start + 24]
        count = min(int(views.requests[row]), ROWS_A_FILE)
        hours = random.choice(24, count, p=profile / profile.sum())
        parts = np.full(count, int(views.bytes[row]) // count)
        parts[0] += int(views.bytes[row]) - int(parts.sum())
        for hour, part in zip(hours.tolist(), parts.tolist(), strict=True):
            at = datetime.fromtimestamp((day * 24 + hour) * HOUR_S + int(random.integers(HOUR_S)), UTC)
            cluster = clusters[region][int(random.integers(len(clusters[region])))]
            name = catalogue.titles[int(catalogue.title[file])]
            yield f"{at:%Y-%m-%dT%H:%M:%SZ}", region, cluster, name, catalogue.files[file], part


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * 24 * HOUR_S, UTC).date().isoformat()
