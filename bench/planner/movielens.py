"""MovieLens 100k: 100,000 ratings of 1,682 films by 943 people in the seven months from September 1997 on.

F. M. Harper, J. A. Konstan: The MovieLens Datasets: History and Context. ACM TiiS 5, 4 (2015), doi:10.1145/2827872. The
data may be used for research and not be handed on without leave of GroupLens, so it is no part of this repository: the
wheel of RecBole (PyPI: recbole) carries it as an example, and the benchmark fetches that into a temporary directory.

A rating stands for a view, and all films are of one size. Who rated has a zip code, whose first digit is one of ten
regions of the United States. People rate many films in one sitting, weeks after they joined: with people shuffled over
days a planner that knows the next day does as well, so that is no yardstick here.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.planner.rolling import Dataset, Requests
from p2pfill.errors import P2PFillError
from p2pfill.plan.tables import Catalogue, Views

REQUIREMENT: Final = "recbole==1.2.1"
WITHIN: Final = "recbole/dataset_example/ml-100k/ml-100k"
FETCH_S: Final = 120.0
INSTEAD: Final = "name a wheel with --movielens FILE, or leave MovieLens out with --only"

SHARES: Final = (0.01, 0.03, 0.1, 0.3)
SCORED_FROM: Final = 60
TUNED_FROM: Final = 20
REGIONS: Final = tuple(f"zip {digit}" for digit in range(10))
ELSEWHERE: Final = "elsewhere"
DAY_S: Final = 86_400


class NoData(P2PFillError):
    """The data cannot be had here, or it is not what it should be."""


@contextmanager
def fetched_wheel() -> Iterator[Path]:
    """Yield the wheel, which is gone afterwards. Raises `NoData`."""
    with tempfile.TemporaryDirectory(prefix="p2pfill-movielens-") as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, REQUIREMENT]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise NoData(f"pip has not fetched {REQUIREMENT} in {FETCH_S:g} s; {INSTEAD}") from error
        wheels = list(Path(directory).glob("*.whl"))
        if done.returncode or not wheels:
            said = done.stderr.strip().splitlines()
            raise NoData(f"pip cannot fetch {REQUIREMENT} ({said[-1] if said else 'it said nothing'}); {INSTEAD}")
        yield wheels[0]


def read_movielens(wheel: Path, by_region: bool) -> Dataset:
    """Read MovieLens 100k out of RecBole's wheel, as one region or by zip codes. Raises `NoData`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            ratings, films, people = (_table(archive, f"{WITHIN}.{kind}") for kind in ("inter", "item", "user"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise NoData(f"{wheel} holds no MovieLens 100k: {error}") from error
    names = tuple(films["item_id"])
    number = {name: place for place, name in enumerate(names)}
    film = np.array([number[name] for name in ratings["item_id"]])
    at_s = np.array([float(text) for text in ratings["timestamp"]])
    day = (at_s // DAY_S).astype(np.int64)
    if by_region:
        regions = (*REGIONS, ELSEWHERE)
        lives = {
            person: int(zip_code[0]) if zip_code[:1].isdigit() else len(REGIONS)
            for person, zip_code in zip(people["user_id"], people["zip_code"], strict=True)
        }
        region = np.array([lives[person] for person in ratings["user_id"]])
    else:
        regions, region = ("all",), np.zeros(day.size, np.int64)
    first = int(day.min())
    in_time = np.argsort(at_s, kind="stable")
    requests = Requests(film[in_time], day[in_time].astype(np.int32), np.ones(day.size))
    key, what = ("movielens-regions", "MovieLens 100k, by region") if by_region else ("movielens", "MovieLens 100k")
    return Dataset(
        key, what, _catalogue(films, names), _views(regions, day, region, film),
        first + TUNED_FROM, first + SCORED_FROM, SHARES, first, None if by_region else requests,
    )  # fmt: skip


def _table(archive: zipfile.ZipFile, name: str) -> dict[str, tuple[str, ...]]:
    """Return columns by name, whose types after a colon are left out."""
    with io.TextIOWrapper(archive.open(name), "utf-8") as text:
        rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        head = [column.partition(":")[0] for column in next(rows)]
        return dict(zip(head, zip(*rows, strict=True), strict=True))


def _catalogue(films: dict[str, tuple[str, ...]], names: tuple[str, ...]) -> Catalogue:
    """Return films, each with the first of its genres, released on the first day of the year that it has."""
    first_genre = [(text.split() or ["none"])[0] for text in films["class"]]
    genres = tuple(sorted(set(first_genre)))
    years = [text if text.isdigit() else "1990" for text in films["release_year"]]
    released = np.array(years, "datetime64[Y]").astype("datetime64[D]").astype(np.int32)
    count = len(names)
    return Catalogue(
        names, genres, ("film",), np.array([genres.index(one) for one in first_genre], np.int32), released,
        np.full(count, np.nan), names, np.arange(count, dtype=np.int32), np.zeros(count, np.int32),
        np.ones(count, np.int64),
    )  # fmt: skip


def _views(
    regions: tuple[str, ...], day: NDArray[np.int64], region: NDArray[np.int64], film: NDArray[np.int64]
) -> Views:
    cells, count = np.unique(np.stack([day, region, film], axis=1), axis=0, return_counts=True)
    columns = cells.astype(np.int32).T
    requests = count.astype(np.int64)
    return Views(regions, int(day.min()), int(day.max()), columns[0], columns[1], columns[2], requests, requests)
