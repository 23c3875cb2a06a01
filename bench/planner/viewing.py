"""What viewers ask for, out of the logs, and what of that crosses a border, out of the origin's log. Pure.

A row of a log says how many bytes of a file were streamed, and a cache that pulls through fetches a file whole. So a
row becomes so many requests for the whole file as its bytes are files, rounded up or down by chance, so that the sum is
right on average: a view that streams 60% of a film is a request for all of it in 60 of 100 cases. Both sides are asked
the same.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from p2pfill.plan.tables import Longs

HOUR_S: Final = 3600
HOURS: Final = 24
PEAK_HOURS: Final = 4

FILL: Final = "fill"
"""The border of an answer that went to a node."""
LOG_FORMAT: Final = "$http_x_border\t$arg_day\t$arg_hour\t$status\t$body_bytes_sent\t$uri"
"""Of the origin, for nginx. `X-Border` is set by whoever passes a viewer's request on."""


class Log(NamedTuple):
    """Rows of viewing logs, in order of time. Arrays have an entry for each row."""

    at_s: Longs
    """Seconds since 1970."""
    region: Longs
    file: Longs
    bytes: Longs

    def of(self, region: int) -> Log:
        """Return the rows of a region."""
        rows = self.region == region
        return Log(self.at_s[rows], self.region[rows], self.file[rows], self.bytes[rows])


class Requests(NamedTuple):
    """What is asked for, in its order: each time a whole file."""

    hour: Longs
    """Since 1970."""
    file: Longs


class Crossed(NamedTuple):
    """What came over a border in each hour of a day."""

    bytes: list[int]
    requests: list[int]


def read_logs(paths: Iterable[Path], files: Sequence[str], regions: Sequence[str]) -> Log:
    """Return the rows of logs as `demo_world` writes them."""
    file_at = {name: number for number, name in enumerate(files)}
    region_at = {name: number for number, name in enumerate(regions)}
    rows: list[tuple[int, int, int, int]] = []
    for path in paths:
        with path.open(newline="") as opened:
            rows += (
                (
                    int(datetime.fromisoformat(row["time"]).timestamp()), region_at[row["region"]],
                    file_at[row["file"]], int(row["bytes"]),
                )
                for row in csv.DictReader(opened)
            )  # fmt: skip
    columns = np.array(rows, np.int64).reshape(-1, 4)
    columns = columns[np.argsort(columns[:, 0], kind="stable")]
    return Log(*columns.T)


def whole_requests(log: Log, size: Longs, seed: int) -> Requests:
    """Return requests for whole files whose bytes are those of the log on average, in its order."""
    chance = np.random.Generator(np.random.PCG64(seed))
    count = np.floor(log.bytes / size[log.file] + chance.random(log.file.size)).astype(np.int64)
    return Requests(np.repeat(log.at_s // HOUR_S, count), np.repeat(log.file, count))


def peak_hours(log: Log, count: int = PEAK_HOURS) -> list[int]:
    """Return the hours of the day, in UTC, in which most bytes were streamed, ascending."""
    by_hour = np.bincount(log.at_s // HOUR_S % HOURS, log.bytes, HOURS)
    return sorted(np.argsort(-by_hour, kind="stable")[:count].tolist())


def asked(requests: Requests, size: Longs) -> Crossed:
    """Return what is asked for in each hour of the day."""
    hour = requests.hour % HOURS
    by_hour = np.bincount(hour, size[requests.file], HOURS).astype(np.int64)
    return Crossed(by_hour.tolist(), np.bincount(hour, minlength=HOURS).tolist())


def read_crossed(lines: Iterable[str], day: int) -> Mapping[str, Crossed]:
    """Return what came over each border on a day, by the lines of the origin's log (`LOG_FORMAT`).

    Under `FILL` is what nodes have fetched, on whatever day, in the first hour. ValueError: an answer was no file.
    """
    found: dict[str, Crossed] = {}
    for line in lines:
        border, of_day, hour, status, sent, uri = line.rstrip("\n").split("\t")
        if status not in ("200", "206"):
            raise ValueError(f"the origin answered {status} for {uri}")
        if border == "-":
            border, of_day, hour = FILL, str(day), "0"
        if int(of_day) == day:
            crossed = found.setdefault(border, Crossed([0] * HOURS, [0] * HOURS))
            crossed.bytes[int(hour)] += int(sent)
            crossed.requests[int(hour)] += 1
    return found
