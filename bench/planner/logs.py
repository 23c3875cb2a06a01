"""Made viewing logs, as large as one likes: a fleet, a catalogue, and rows in Parquet, all from a seed.

Files are watched by Zipf's law, each region with a taste of its own, and hours as in `HOURS`. A thousandth of the rows
has something wrong with it, of all kinds that a log of numbers and names can have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from p2pfill.plan.tables import Caches, Catalogue

DAY_S: Final = 86_400
FIRST_DAY: Final = 20_756
"""2026-10-30."""

REGIONS: Final = 10
CACHES: Final = 1000
"""In clusters of ten; a region has as many as any other."""
TITLES: Final = 20_000
KINDS: Final = 5
"""Files of each title: encodings for devices."""

ZIPF: Final = 0.9
HOURS: Final = 1 + np.cos((np.arange(24) - 20) * np.pi / 12) * 0.8
"""How much is watched in each hour: most at eight in the evening."""
WRONG: Final = 1000
"""Of so many rows one has a fault."""
BATCH_ROWS: Final = 1_000_000
"""That are made at a time."""


def catalogue() -> Catalogue:
    """Return the titles and files of all logs."""
    files = tuple(f"title-{title:05}/{kind}.mp4" for title in range(TITLES) for kind in range(KINDS))
    return Catalogue(
        tuple(f"Title {title:05}" for title in range(TITLES)), ("",), tuple(map(str, range(KINDS))),
        np.zeros(TITLES, np.int32), np.zeros(TITLES, np.int32), np.full(TITLES, np.nan), files,
        np.repeat(np.arange(TITLES, dtype=np.int32), KINDS), np.tile(np.arange(KINDS, dtype=np.int32), TITLES),
        np.full(len(files), 10**9),
    )  # fmt: skip


def fleet() -> Caches:
    """Return the caches of all logs."""
    clusters = CACHES // 10
    return Caches(
        tuple(f"cache-{cache:04}" for cache in range(CACHES)), tuple(f"cluster-{one:03}" for one in range(clusters)),
        tuple(f"isp-{one}" for one in range(clusters)), tuple(f"region-{one}" for one in range(REGIONS)),
        np.repeat(np.arange(clusters, dtype=np.int32), 10), np.arange(clusters, dtype=np.int32),
        np.arange(clusters, dtype=np.int32) % REGIONS, np.full(CACHES, 10**13), np.full(CACHES, 5e9),
        np.full(CACHES, 5e9),
    )  # fmt: skip


class Made(NamedTuple):
    """What a history must have of logs, under names that tables have or not."""

    rows: int
    requests: int
    bytes: int
    served_bytes: int


def write_day(path: Path, day: int, rows: int, seed: int) -> Made:
    """Write the log of one day, counted from `FIRST_DAY`, in no order but that of its batches."""
    made = Made(rows, 0, 0, 0)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=1) as writer:
        for batch, start in enumerate(range(0, rows, BATCH_ROWS)):
            draw = np.random.default_rng((seed, day, batch))
            table = _rows(draw, (FIRST_DAY + day) * DAY_S, min(BATCH_ROWS, rows - start))
            writer.write_table(table)
            amount, moment = table["bytes"].fill_null(-1).to_numpy(), table["time"].to_numpy()
            counts = amount[(amount >= 0) & (moment.astype(np.int64) >= 0)]
            made = Made(rows, made.requests + len(counts), *[made.bytes + int(counts.sum())] * 2)
    return made


SCHEMA: Final = pa.schema([
    ("time", pa.timestamp("us")), ("region", pa.string()), ("cache", pa.string()), ("title", pa.string()),
    ("file", pa.string()), ("bytes", pa.int64()),
])  # fmt: skip


def _rows(draw: np.random.Generator, midnight_s: int, count: int) -> Any:
    caches, known = fleet(), catalogue()
    cache = draw.integers(0, CACHES, count)
    region = caches.region[caches.isp[caches.cluster[cache]]]
    weights = np.arange(1, TITLES + 1) ** -ZIPF
    rank = np.searchsorted(np.cumsum(weights / weights.sum()), draw.random(count))
    # What is first in one region is some places further down in the next.
    title = np.minimum(rank * (1 + region % 3), TITLES - 1)
    file = title * KINDS + draw.integers(0, KINDS, count)
    hour = np.searchsorted(np.cumsum(HOURS / HOURS.sum()), draw.random(count))
    moment = (midnight_s + hour * 3600) * 1_000_000 + draw.integers(0, 3_600_000_000, count)
    amount = draw.integers(1, 2 * 10**9, count)
    wrong = np.flatnonzero(draw.integers(0, WRONG, count) == 0)
    amount[wrong[0::7]] *= -1
    moment[wrong[1::7]] = -1
    columns = {
        "region": (region, caches.regions), "cache": (cache, caches.names), "title": (title, known.titles),
        "file": (file, known.files),
    }  # fmt: skip
    for place, (name, (numbers, names)) in enumerate(columns.items(), 2):
        numbers = np.array(numbers, np.int32)
        numbers[wrong[place::7]] = len(names)
        dictionary = pa.array([*names, "" if name == "title" else f"another {name}"])
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(numbers), dictionary).cast(pa.string())
    missing = np.zeros(count, np.bool_)
    missing[wrong[6::7]] = True
    return pa.table({
        "time": pa.array(moment, pa.timestamp("us")), **columns, "bytes": pa.array(amount, mask=missing)
    }, SCHEMA)  # fmt: skip
