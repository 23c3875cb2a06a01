"""A made service as its operator's files: catalogue, caches, viewing logs and `planner.toml`, small enough to try out.

What was watched is of `plan.synthetic`; its files are made smaller, so that all of a catalogue lies on one disk. There
are three regions, in each an ISP with a cluster of two caches.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from p2pfill.plan.synthetic import World
    from p2pfill.plan.tables import Longs

REGIONS: Final = (("europe", "Europe/Berlin"), ("america", "America/New_York"), ("japan", "Asia/Tokyo"))
SERVING: Final = "400Mbit"
"""Of a cache: more than anybody asks of it."""

DAY_S: Final = 86_400
HOUR_S: Final = 3600
ROWS_A_FILE: Final = 6
"""Rows of a log for one file of one region and day, unless asked otherwise: each is as many views as it takes, so that
logs stay small."""

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


def demo_caches(capacity: int) -> list[DemoCache]:
    """Return the caches of the service, which have room for so many bytes each."""
    return [
        DemoCache(f"{name[:2]}{number}", name, f"{name}-isp", name, capacity, SERVING, zone)
        for name, zone in REGIONS
        for number in (1, 2)
    ]


def with_names(world: World) -> World:
    """Return a world whose regions have names. It has as many as `REGIONS`."""
    names = tuple(name for name, _ in REGIONS)
    return replace(world, views=replace(world.views, regions=names), load=replace(world.load, names=names))


def made_smaller(world: World, median_bytes: int) -> World:
    """Return a world whose files are as much smaller as makes their median so large. What is watched is alike."""
    factor = median_bytes / float(np.median(world.catalogue.size))
    size: Longs = np.maximum((world.catalogue.size * factor).astype(np.int64), FILE_BYTES_MIN)
    ratio = size[world.views.file] / world.catalogue.size[world.views.file]
    views = replace(world.views, bytes=np.maximum((world.views.bytes * ratio).astype(np.int64), 1))
    return replace(world, catalogue=replace(world.catalogue, size=size), views=views)


def write_service(
    work: Path, world: World, caches: Sequence[DemoCache], until: int, origin: str = "", rows_a_file: int = ROWS_A_FILE
) -> int:
    """Write the service's files, its tables and the logs of all days before `until`; return how many rows these have.

    `origin` is the base URL in which `{title}` stands for a title's name; empty: the directory of the files.
    """
    for file, size in zip(world.catalogue.files, world.catalogue.size.tolist(), strict=True):
        path = work / "origin" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(file).randbytes(size))  # noqa: S311 (something to move)
    (work / "logs").mkdir()
    write_catalogue(work / "catalogue.csv", world)
    write_caches(work / "caches.csv", caches)
    rows = sum(
        write_log(work / "logs" / f"{_date(day)}.csv", world, caches, day, rows_a_file)
        for day in world.days
        if day < until
    )
    (work / "origins.csv").write_text(f"name,rate,price\n{origin or (work / 'origin').as_uri() + '/{title}'},,\n")
    (work / "planner.toml").write_text(
        'catalogue = "catalogue.csv"\ncaches = "caches.csv"\norigins = "origins.csv"\nlogs = ["logs/*.csv"]\n'
    )
    return rows


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


def write_log(
    path: Path, world: World, caches: Sequence[DemoCache], day: int, rows_a_file: int = ROWS_A_FILE
) -> int:
    """Write what was watched on a day, and return how many rows that is. The same world gives the same rows.

    A file has as many rows in a region as it has views there, and not more than `rows_a_file`.
    """
    chance = np.random.Generator(np.random.PCG64(np.random.SeedSequence([world.seed, day, 17])))
    with path.open("w", newline="") as opened:
        out = csv.writer(opened)
        out.writerow(("time", "region", "cluster", "title", "file", "bytes"))
        rows = list(_rows(world, caches, day, rows_a_file, chance))
        out.writerows(rows)
    return len(rows)


def _rows(
    world: World, caches: Sequence[DemoCache], day: int, rows_a_file: int, chance: np.random.Generator
) -> Iterator[tuple[str, str, str, str, str, int]]:
    views, catalogue = world.views, world.catalogue
    first, last = np.searchsorted(views.day, (day, day + 1))
    clusters = {region: sorted({one.cluster for one in caches if one.region == region}) for region in views.regions}
    start = day * 24 - world.load.first_hour
    for row in range(int(first), int(last)):
        number, file = int(views.region[row]), int(views.file[row])
        region = views.regions[number]
        profile = world.load.served[number, start : start + 24]
        count = min(int(views.requests[row]), rows_a_file)
        hours = chance.choice(24, count, p=profile / profile.sum())
        parts = np.full(count, int(views.bytes[row]) // count)
        parts[0] += int(views.bytes[row]) - int(parts.sum())
        for hour, part in zip(hours.tolist(), parts.tolist(), strict=True):
            at = datetime.fromtimestamp((day * 24 + hour) * HOUR_S + int(chance.integers(HOUR_S)), UTC)
            cluster = clusters[region][int(chance.integers(len(clusters[region])))]
            name = catalogue.titles[int(catalogue.title[file])]
            yield f"{at:%Y-%m-%dT%H:%M:%SZ}", region, cluster, name, catalogue.files[file], part


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()
