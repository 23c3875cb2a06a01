"""Whether LightGBM makes the planner's forecast better: a correction of it, learned from the days before.

    python -m bench.planner.corrected [--seed 2] [--movielens WHEEL] [--out docs/reports/planner]

Trees learn what came over what was forecast of each file and region (Poisson regression with the forecast as offset),
from a sample of the last three weeks, once a week. They see the forecast, what was watched of the file, of its title in
the region and of its title of late beside it, age, weekday, genre, kind and region. Made worlds are counted on the days
that count in `bench.planner`, to the planner that knows the rates; MovieLens on days before those.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from bench.planner import movielens
from bench.planner.__main__ import WORLDS, commit, datasets, versions
from bench.planner.contenders import Truth
from bench.planner.planned import Planner
from bench.planner.rolling import Course, Dataset, roll, totals
from bench.swarm.report import table_in_markdown
from p2pfill.plan.tables import Catalogue, Floats, Forecast, Ints, Longs

KEYS: Final = ("hard", "thin", "movielens", "movielens-regions")
MEMORIES: Final = (1.0, 3.0, 10.0, 30.0)
"""In days, of what was watched of late."""
DAYS_LEARNED: Final = 21
CELLS_A_DAY: Final = 12_000
FIRST_DAYS: Final = 17
"""Before it learns: forecasts of the first days are no examples."""
LEAST: Final = 0.01
"""Views below which nothing is told apart."""
ROUNDS: Final = 60
SETTINGS: Final[dict[str, Any]] = {
    "objective": "poisson", "num_leaves": 15, "learning_rate": 0.05, "min_data_in_leaf": 400, "lambda_l2": 50.0,
    "num_threads": 1, "verbose": -1, "seed": 1, "deterministic": True,
}  # fmt: skip


class Corrected:
    """The planner's forecast, times what trees say."""

    name = "corrected"

    def __init__(self, catalogue: Catalogue, regions: tuple[str, ...]) -> None:
        self._catalogue = catalogue
        self._planner = Planner(catalogue, regions)
        shape = (len(MEMORIES), len(regions))
        self._of_file = np.zeros((*shape, len(catalogue.files)))
        self._of_title = np.zeros((*shape, len(catalogue.titles)))
        self._examples: list[tuple[Floats, Floats, Floats]] = []
        self._asked: tuple[int, Floats, Floats] | None = None
        self._trees: lightgbm.Booster | None = None
        self._days = 0
        self._random = np.random.default_rng(1)

    def forecast(self, day: int) -> Forecast:
        """Forecast the next day."""
        made = self._planner.forecast(day)
        features = self._features(day, made.streams)
        self._asked = (day, made.streams, features)
        if self._trees is None:
            return made
        factor = np.exp(np.asarray(self._trees.predict(features, raw_score=True)))
        return replace(made, streams=made.streams * factor.reshape(made.streams.shape))

    def _titles(self, values: Floats) -> Floats:
        return np.stack([np.bincount(self._catalogue.title, row, len(self._catalogue.titles)) for row in values])

    def _features(self, day: int, streams: Floats) -> Floats:
        """Return a row for each region and file."""
        catalogue, title = self._catalogue, self._catalogue.title
        in_region = self._titles(streams)
        told = np.log(streams + LEAST)
        columns = [told, *(np.log(late + LEAST) - told for late in self._of_file)]
        for due, late in (
            (in_region, self._of_title),
            (in_region.sum(axis=0)[None], self._of_title.sum(axis=1, keepdims=True)),
        ):
            columns += [np.log(due + LEAST)[:, title]]
            columns += [(np.log(one + LEAST) - np.log(due + LEAST))[:, title] for one in late]
        columns += [np.minimum(day - catalogue.released, 400)[title][None], catalogue.genre[title][None]]
        columns += [catalogue.kind[None], np.full((1, 1), day % 7), np.arange(len(streams))[:, None]]
        return np.stack([np.broadcast_to(column, streams.shape).ravel() for column in columns], axis=1)

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn from a day."""
        if self._asked is None or self._asked[0] != day:
            self.forecast(day)
        assert self._asked is not None
        _, streams, features = self._asked
        seen = np.zeros_like(streams)
        np.add.at(seen, (region, file), size / self._catalogue.size[file])
        self._planner.take_in(day, region, file, size, requests)
        of_title = self._titles(seen)
        for place, memory in enumerate(MEMORIES):
            for sums, today in ((self._of_file, seen), (self._of_title, of_title)):
                sums[place] += (today - sums[place]) / memory
        self._keep(features, seen.ravel(), streams.ravel())
        self._days += 1
        if self._days >= FIRST_DAYS and self._days % 7 == 3:
            self._learn()

    def _keep(self, features: Floats, seen: Floats, streams: Floats) -> None:
        cells: NDArray[np.int64] = np.flatnonzero(streams > LEAST / 10)
        if cells.size > CELLS_A_DAY:
            cells = self._random.choice(cells, CELLS_A_DAY, replace=False)
        self._examples.append((features[cells], seen[cells], streams[cells]))
        self._examples = self._examples[-min(DAYS_LEARNED, max(self._days - 9, 1)) :]

    def _learn(self) -> None:
        features, seen, streams = (np.concatenate(part) for part in zip(*self._examples, strict=True))
        # What all files have in common moves none past another.
        offset = np.log(streams * seen.sum() / streams.sum())
        data = lightgbm.Dataset(features, seen, init_score=offset, params=SETTINGS)
        self._trees = lightgbm.train(SETTINGS, data, ROUNDS)


def figures(data: Dataset) -> list[tuple[str, ...]]:
    """Return a row for the planner and one for the corrected planner."""
    catalogue, regions = data.catalogue, data.views.regions
    if data.world is None:
        data = replace(data, views=data.views.until(data.scored_from))
    truth = roll(Truth(data.world), data) if data.world else None
    whole = totals(data)[1].sum()

    def share(course: Course, at: int) -> float:
        if truth is None:
            return float(course.hit_requests[:, at].sum() / whole)
        days = data.scored_days
        return float(course.expected_bytes[days, at].sum() / truth.expected_bytes[days, at].sum())

    rows = []
    for contender in (Planner(catalogue, regions), Corrected(catalogue, regions)):
        course = roll(contender, data)
        told = [f"{share(course, at):.4f} at {one:.0%}" for at, one in enumerate(data.shares)]
        rows.append((f"{data.name}: {course.name}", *told, f"{course.user_s:.0f} + {course.system_s:.0f} s"))
    return rows


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.planner.corrected", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=2, help="of made worlds (default: 2)")
    parser.add_argument("--movielens", type=Path, metavar="WHEEL", help="RecBole's wheel (default: pip fetches it)")
    parser.add_argument("--only", default=",".join(KEYS), metavar="NAMES", help=f"of {', '.join((*WORLDS, *KEYS[2:]))}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write corrected.md there")
    options = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    try:
        for data in datasets(options.only.split(","), options.seed, options.movielens):
            rows += figures(data)
            print(*rows[-2:], sep="\n", flush=True)
    except movielens.NoData as error:
        parser.error(str(error))
    head = ("contender", "", "", "", "", "processor time, user + system")
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    page = "\n\n".join(
        (
            "# The planner's forecast, corrected by LightGBM",
            "Made worlds: to the planner that knows the rates. MovieLens: hits by requests, on days 20 to 59.",
            table_in_markdown(head, rows).rstrip(),
            f"Made by `python -m bench.planner.corrected`, seed {options.seed}, commit {commit()}, {libraries}.",
        )
    )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "corrected.md").write_text(page + "\n")


if __name__ == "__main__":
    main()
