"""What could be foreseen of a made world: the most that any forecast can reach, beside who knows the rates of the day.

    python -m bench.planner.foreseen [--seeds 1,2,3,4,5] [--out docs/reports/planner]

It knows all rates until yesterday without noise, and how the world is made: levels, curves, tastes, the share of each
file, the fate of jumps that have begun. It does not know what is drawn on the day: how far levels wander, what jumps
begin, which regions open, and of a title on its first day the level, of which it knows the hint, and how widely levels
and hints are spread. Nothing learned from views knows as much, so this is a bound; and what the planner is short of the
planner that knows the rates falls into what nobody could know, and what a better forecast could.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.planner.__main__ import WORLDS, commit, made_dataset, versions
from bench.planner.contenders import Truth
from bench.planner.planned import Planner
from bench.planner.rolling import Contender, Dataset, roll
from bench.swarm.report import table_in_markdown
from p2pfill.plan import synthetic
from p2pfill.plan.synthetic import World
from p2pfill.plan.tables import Floats, Forecast, Ints, Longs

SEEDS: Final = "1,2,3,4,5"
OPENS: Final = 0.08
"""Chance of each day that a region that is late opens, as the world is made."""
MEAN_WATCHED: Final = (0.35 + 0.9) / 2


class Foreseen:
    """A planner that knows all but what is drawn on the day."""

    name = "foresees what can be foreseen"

    def __init__(self, world: World) -> None:
        self._world = world
        settings, seed = world.settings, world.seed
        self._hardness = hardness = synthetic.GRADES[settings.grade]
        genre, self._released, self._level, _, hours = synthetic._titles(settings, hardness, seed)
        liked, _ = synthetic._regions(settings, hardness, seed, genre, synthetic._files(settings, seed, hours))
        found, launch = synthetic._expected(settings, hardness, seed, self._released, self._level * liked, genre)
        scale = settings.views_a_day * settings.days / float(found.sum())
        self._expected: Floats = scale * found
        self._of_genre: Floats = scale * self._lifts(genre)
        self._launch: Floats = self._launches(np.log(scale * launch))
        self._wander = self._wandered()

    def _lifts(self, genre: Ints) -> Floats:
        """Return what regions are worth by genre, before their taste for single titles."""
        settings = self._world.settings
        random = synthetic._random(self._world.seed, synthetic._Purpose.REGIONS)
        lifts = np.exp(random.normal(0.0, self._hardness.lift_sigma, (settings.regions, settings.genres)))[:, genre]
        weights = 1.0 / (1.0 + 0.5 * np.arange(settings.regions))
        found: Floats = lifts * (weights / weights.sum())[:, None]
        return found

    def _launches(self, size: Floats) -> Floats:
        """Return what is expected of each title's first day by its hint; `size` is the logarithm of what came."""
        mean, variance = float(size.mean()), float(size.var())
        hint = self._world.catalogue.hint
        hinted = hint > 0
        kept = np.where(hinted, variance / (variance + self._hardness.hint_sigma**2), 0.0)
        beside = np.log(np.where(hinted, hint, 1.0)) - mean
        found: Floats = np.exp(mean + kept * beside + variance * (1 - kept) / 2)
        return found

    def _wandered(self) -> Floats:
        """Return how far each title's level has wandered by each day, as a logarithm."""
        settings, sigma, seed = self._world.settings, self._hardness.wander_sigma, self._world.seed
        level = synthetic._random(seed, synthetic._Purpose.WANDER).normal(0.0, sigma, settings.titles)
        fresh = sigma * np.sqrt(1.0 - synthetic.WANDER_KEPT**2)
        found = np.empty((settings.days, settings.titles))
        for number in range(settings.days):
            random = synthetic._random(seed, synthetic._Purpose.WANDER, number + 1)
            level = synthetic.WANDER_KEPT * level + random.normal(0.0, fresh, settings.titles)
            found[number] = level
        return found

    def _jumps(self, number: int) -> Floats:
        """Return the views of jumps that began before a day."""
        settings, hardness = self._world.settings, self._hardness
        before = replace(settings, days=number)
        if not number or not hardness.jumps_a_day:
            return np.zeros((settings.regions, settings.titles))
        with_today = synthetic._jumps(replace(settings, days=number + 1), hardness, self._world.seed, self._released)
        yesterday = synthetic._jumps(before, hardness, self._world.seed, self._released)[-1]
        # What was there yesterday fades; what is there today alone, or has grown, has begun today.
        today = with_today[-1]
        return np.where(today < yesterday, today, 0.0)

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn nothing: it knows."""

    def forecast(self, day: int) -> Forecast:
        """Say what can be known on the morning of a day."""
        world, hardness, number = self._world, self._hardness, day - self._world.views.first_day
        sigma, kept = hardness.wander_sigma, synthetic.WANDER_KEPT
        drawn = sigma**2 * (1 - kept**2) / 2 + (sigma / 2) ** 2 / 2
        known = self._expected[number] * np.exp(kept * self._wander[number - 1] + drawn)
        age = day - self._released
        weekday = synthetic.WEEK[(day + synthetic.EPOCH_WEEKDAY) % 7]
        closed = (self._expected[number - 1] <= 0) & (age > 0) & (age <= synthetic.DELAY_DAYS_MAX)
        opening = self._of_genre * self._level * np.exp(hardness.taste_sigma**2 / 2) * weekday * OPENS
        rates = np.where(closed, opening if hardness.staggered else 0.0, known)
        fresh = age == 0
        at_once = 1 - hardness.staggered * (1 - 1 / len(rates))
        first = self._launch * self._of_genre / self._of_genre.sum(axis=0) * weekday * at_once
        rates = np.where(fresh, first, rates) + self._jumps(number)
        catalogue = world.catalogue
        requests = rates[:, catalogue.title] * world.shares
        streams = requests * np.where(fresh, MEAN_WATCHED, world.watched)[catalogue.title]
        return Forecast(world.views.regions, day, streams, requests, np.sqrt(streams))


def ratios(data: Dataset) -> Iterator[Floats]:
    """Yield of the planner and of what can be foreseen what each share reaches of who knows the rates."""
    assert data.world is not None
    contenders: tuple[Contender, ...] = (
        Truth(data.world), Planner(data.catalogue, data.views.regions), Foreseen(data.world)
    )  # fmt: skip
    truth, *others = (roll(one, data).expected_bytes[data.scored_days].sum(axis=(0, 2)) for one in contenders)
    for one in others:
        yield one / truth


def main() -> None:
    """Run the comparison."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.planner.foreseen", description=about)
    parser.add_argument("--seeds", default=SEEDS, metavar="NUMBERS", help=f"of made worlds (default: {SEEDS})")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write foreseen.md there")
    options = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    shares: tuple[float, ...] = ()
    for key, (name, settings) in WORLDS.items():
        found = []
        for seed in options.seeds.split(","):
            data = made_dataset(key, settings, name, int(seed))
            shares = data.shares
            found.append(list(ratios(data)))
            for who, one in zip(("planner", "can be foreseen"), found[-1], strict=True):
                rows.append((f"{name}, seed {seed}: {who}", *(f"{value:.4f}" for value in one)))
            print(*rows[-2:], sep="\n", flush=True)
        for who, one in zip(("planner", "can be foreseen"), np.median(found, axis=0), strict=True):
            rows.append((f"**{name}, median: {who}**", *(f"{value:.4f}" for value in one)))
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    page = "\n\n".join(
        (
            "# What can be foreseen of the made worlds",
            "Bytes to be expected of what is placed, to the planner that knows the rates of the day. What can be"
            " foreseen is what one would place who knew all rates until yesterday without noise.",
            table_in_markdown(("to who knows the rates", *(f"{one:.0%}" for one in shares)), rows).rstrip(),
            f"Made by `python -m bench.planner.foreseen`, commit {commit()}, {libraries}.",
        )
    )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "foreseen.md").write_text(page + "\n")


if __name__ == "__main__":
    main()
