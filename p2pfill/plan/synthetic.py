"""A made world of viewing: its catalogue, what was watched day by day, and the rates behind it, which only it knows.

A forecast cannot be judged by what was watched alone: much of that is chance, which no planner foresees. Here the rate
of each file in each region on each day is known, so that a placement can be held against the one of a planner that
knows the rates. There are two grades. `base` is what most services see most of the time: titles of very different
size, launches that fade, regions that differ by genre. `hard` has what breaks models of that kind: launches of widely
different size and shape (fading by a power law, growing before they fade, an episode each week), releases that reach
regions one after the other, levels that wander, and jumps that nothing foretells.

The rate of a title t on day d in region r is

    scale x weight(r) x level(t) x curve(t, age in r) x week(genre, weekday) x lift(r, genre) x taste(r, t)
          x wander(d, r, t) + jumps(d, r, t)

and that of a file the title's, times the part of the region's devices that ask for the file's kind. Views are drawn
from it (Poisson), each of which streams a part of the file (beta). No level is gamma and no curve of the hard grade one
exponential: a world of the same form as a forecasting model would flatter it.

Each purpose has random numbers of its own (numpy's PCG64, seeded by seed, purpose and day). The same seed gives the
same world; another version of numpy may draw others from the same bits (numpy's NEP 19), so reports name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from p2pfill.errors import ConfigError
from p2pfill.plan.tables import Catalogue, Floats, Forecast, Ints, Load, Views

Grade = Literal["base", "hard"]

KINDS: Final = ("hd", "uhd", "mobile", "sd", "hd-hdr", "audio")
KIND_MBIT: Final = (5.0, 16.0, 1.2, 2.5, 7.0, 0.2)
KIND_WEIGHT: Final = (0.5, 0.2, 0.2, 0.1, 0.08, 0.02)
"""How many devices ask for it, before a region's own mix."""
KIND_PRESENT: Final = (1.0, 0.55, 0.95, 0.7, 0.35, 0.2)
"""What part of the titles has it. The first is in every title."""

GENRES: Final = ("drama", "comedy", "crime", "children", "sport", "documentary", "science fiction", "romance")
WEEK: Final = np.array([0.90, 0.87, 0.88, 0.93, 1.08, 1.20, 1.14])
"""Views by day of the week, from Monday on, beside their mean."""
EVENING: Final = np.array(
    [
        0.55, 0.36, 0.24, 0.17, 0.14, 0.14, 0.20, 0.32, 0.45, 0.55, 0.63, 0.72,
        0.82, 0.86, 0.87, 0.92, 1.04, 1.22, 1.50, 1.85, 2.10, 2.05, 1.60, 0.95,
    ]
)  # fmt: skip
"""Bytes by hour of the day in a region's own time, beside their mean."""

OLD_DAYS: Final = 250
"""How long before the first day the oldest title was released."""
AHEAD_DAYS: Final = 7
"""How far beyond the last day the release calendar reaches."""
EPOCH_WEEKDAY: Final = 3
"""1970-01-01 was a Thursday; Monday is 0."""

TITLES_MAX: Final = 200_000
CELLS_MAX: Final = 400_000_000
"""Days x regions x titles: rates of all are kept, in 8 bytes each (3.2 GB)."""


class _Purpose(IntEnum):
    """What random numbers are for: each has its own, so that a change of one leaves the others as they are."""

    TITLES = 1
    FILES = 2
    REGIONS = 3
    CURVES = 4
    WANDER = 5
    JUMPS = 6
    VIEWS = 7
    HINTS = 8
    LOAD = 9


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What makes a grade. All `*_sigma` are standard deviations of logarithms."""

    level_sigma: float
    """Of the sizes of titles."""
    lift_sigma: float
    """Of a region's liking for a genre."""
    taste_sigma: float
    """Of a region's liking for a title, beside its genre's."""
    mix_sigma: float
    """Of the devices of a region, and half as much of a title's."""
    hint_sigma: float
    """Of what an operator expects of a launch, beside what comes."""
    wander_sigma: float
    """Of a title's level in the long run, as it wanders; half as much again in each region alone, each day anew."""
    jumps_a_day: float
    """For each title: how often something that nothing foretells makes many watch it."""
    staggered: float
    """What part of the titles comes to some regions later."""
    shapes: bool
    """Whether launches differ in shape, and not in speed alone."""


GRADES: Final[dict[Grade, Difficulty]] = {
    "base": Difficulty(1.0, 0.4, 0.2, 0.35, 0.5, 0.05, 0.0, 0.0, False),
    "hard": Difficulty(1.5, 0.6, 0.5, 0.5, 1.2, 0.2, 0.001, 0.35, True),
}

WANDER_KEPT: Final = 0.9
"""What part of a level's deviation is left on the next day."""
JUMP_SHARE_MEDIAN: Final = 0.004
"""Of all views of the day, what a jump adds on its first: a title that nobody looked for is then one of the first."""
JUMP_SIGMA: Final = 1.0
JUMP_LOCAL: Final = 0.5
"""What part of the jumps is one region's alone."""
JUMP_DAYS: Final = 15
"""After which nothing of a jump is left: it fades with a time of 1.5 to 5 days."""
DELAY_DAYS_MAX: Final = 45
EPISODES: Final = 8
WATCHED_BETA: Final = 4.0
"""Sum of both parameters of the part of a file that a view streams: few see all of it, and few leave at once."""
LOAD_KEPT: Final = 0.6
"""What part of an hour's deviation is left in the next."""
LOAD_SIGMA: Final = 0.12


@dataclass(frozen=True, slots=True)
class WorldSettings:
    """What world to make."""

    grade: Grade = "base"
    titles: int = 2500
    """All that are in the catalogue on any day, those that launch within the world and shortly after it too."""
    regions: int = 3
    days: int = 90
    views_a_day: float = 40_000.0
    """In all regions together, the mean over all days without jumps. 5,000 is thin: most files go unseen most days."""
    kinds: int = 3
    """Of files, at most as many as `KINDS` has; titles lack some."""
    genres: int = 8
    hinted: float = 0.7
    """Of what part of the titles an operator says what is expected."""
    first_day: int = 20_454
    """Days since 1970-01-01: 2026-01-01."""

    def check(self) -> None:
        """Raise `ConfigError` where no such world can be made."""
        whole = {"titles": self.titles, "regions": self.regions, "days": self.days}
        for name, value in whole.items():
            if value < 1:
                raise ConfigError(f"a made world with {name} = {value}: it needs at least 1")
        if self.grade not in GRADES:
            raise ConfigError(f"a made world of grade {self.grade!r}: there are {', '.join(GRADES)}")
        if not 1 <= self.kinds <= len(KINDS) or not 1 <= self.genres <= len(GENRES):
            raise ConfigError(f"a made world has 1 to {len(KINDS)} kinds of files and 1 to {len(GENRES)} genres")
        if not self.views_a_day > 0 or not 0 <= self.hinted <= 1:
            raise ConfigError("a made world has more than 0 views a day, and hints for 0 to 1 of its titles")
        if self.titles > TITLES_MAX or self.titles * self.regions * self.days > CELLS_MAX:
            raise ConfigError(
                f"a made world of {self.titles} titles, {self.regions} regions and {self.days} days is too large:"
                f" at most {TITLES_MAX} titles, and {CELLS_MAX} of all three multiplied"
            )


@dataclass(frozen=True, slots=True)
class World:
    """What was made. A planner may see `catalogue`, and of `views` what is `until` its day; all else is the truth."""

    settings: WorldSettings
    seed: int
    catalogue: Catalogue
    views: Views
    load: Load
    """Of each region, in bytes of each hour of all days; by days (in UTC) it sums up to what `views` has."""
    title_rates: Floats
    """Views of each day, region and title, as expected."""
    shares: Floats
    """Of each region and file: what part of the title's views is of this file."""
    watched: Floats
    """Of each title: what part of a file a view streams on average."""

    @property
    def days(self) -> range:
        """All days of it, since 1970-01-01."""
        return range(self.views.first_day, self.views.last_day + 1)

    def truth(self, day: int) -> Forecast:
        """Return what a planner would say that knows the rates of a day. Arrays: a row a region, a column a file."""
        rates = self.title_rates[day - self.views.first_day]
        requests = rates[:, self.catalogue.title] * self.shares
        streams = requests * self.watched[self.catalogue.title]
        return Forecast(self.views.regions, day, streams, requests, np.sqrt(streams))


def make_world(settings: WorldSettings, seed: int) -> World:
    """Make a world. The same settings and seed give the same one. Raises `ConfigError`."""
    settings.check()
    hardness = GRADES[settings.grade]
    genre, released, level, watched, hours = _titles(settings, hardness, seed)
    files = _files(settings, seed, hours)
    liked, shares = _regions(settings, hardness, seed, genre, files)
    expected, launch = _expected(settings, hardness, seed, released, level * liked, genre)
    scale = settings.views_a_day * settings.days / max(float(expected.sum()), 1e-300)
    rates = scale * expected * _wander(settings, hardness, seed) + _jumps(settings, hardness, seed, released)
    title, kind, size = files
    names = tuple(f"title-{number:05d}" for number in range(settings.titles))
    catalogue = Catalogue(
        names, GENRES[: settings.genres], KINDS[: settings.kinds], genre, released,
        _hints(settings, hardness, seed, scale * launch),
        tuple(f"{names[t]}/{KINDS[k]}" for t, k in zip(title.tolist(), kind.tolist(), strict=True)),
        title, kind, size,
    )  # fmt: skip
    views = _views(settings, seed, catalogue, rates, shares, watched)
    return World(settings, seed, catalogue, views, _load(settings, seed, views), rates, shares, watched)


def _random(seed: int, purpose: _Purpose, day: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, day])))


def _titles(settings: WorldSettings, hardness: Difficulty, seed: int) -> tuple[Ints, Ints, Floats, Floats, Floats]:
    """Return genre, day of release, level, part watched and length in hours of each title, the oldest first."""
    random = _random(seed, _Purpose.TITLES)
    count = settings.titles
    released = np.sort(random.integers(-OLD_DAYS, settings.days + AHEAD_DAYS, count)) + settings.first_day
    genre = random.integers(0, settings.genres, count)
    level = np.exp(random.normal(0.0, hardness.level_sigma, count))
    watched = random.uniform(0.35, 0.9, count)
    hours = np.clip(np.exp(random.normal(0.3, 0.45, count)), 0.3, 4.0)
    return genre.astype(np.int32), released.astype(np.int32), level, watched, hours


def _files(settings: WorldSettings, seed: int, hours: Floats) -> tuple[Ints, Ints, NDArray[np.int64]]:
    """Return title, kind and size in bytes of each file, ordered by title and kind."""
    random = _random(seed, _Purpose.FILES)
    drawn = random.random((settings.titles, settings.kinds))
    present = drawn < np.array(KIND_PRESENT[: settings.kinds])
    rate = np.array(KIND_MBIT[: settings.kinds]) * np.exp(random.normal(0.0, 0.2, drawn.shape))
    title, kind = np.nonzero(present)
    size = np.maximum(hours[title] * 3600 * rate[title, kind] * 1e6 / 8, 1).astype(np.int64)
    return title.astype(np.int32), kind.astype(np.int32), size


def _regions(
    settings: WorldSettings, hardness: Difficulty, seed: int, genre: Ints, files: tuple[Ints, Ints, NDArray[np.int64]]
) -> tuple[Floats, Floats]:
    """Return of each region and title how many there like it, and of each region and file its share."""
    random = _random(seed, _Purpose.REGIONS)
    title, kind, _ = files
    regions = settings.regions
    lifts = np.exp(random.normal(0.0, hardness.lift_sigma, (regions, settings.genres)))[:, genre]
    lifts = lifts * np.exp(random.normal(0.0, hardness.taste_sigma, (regions, settings.titles)))
    weight = np.array(KIND_WEIGHT[: settings.kinds])
    mix = weight * np.exp(random.normal(0.0, hardness.mix_sigma, (regions, settings.kinds)))
    own = np.exp(random.normal(0.0, hardness.mix_sigma / 2, title.size))
    shares = mix[:, kind] * own
    for row in shares:
        row /= np.bincount(title, row, settings.titles)[title]
    weights = 1.0 / (1.0 + 0.5 * np.arange(regions))
    return lifts * (weights / weights.sum())[:, None], shares


def _expected(
    settings: WorldSettings, hardness: Difficulty, seed: int, released: Ints, liked: Floats, genre: Ints
) -> tuple[Floats, Floats]:
    """Return what views are proportional to, before what chance adds by day.

    First of each day, region and title; then of each title on its first day, whichever day of the week that is.
    """
    random = _random(seed, _Purpose.CURVES)
    count = settings.titles
    speed = np.exp(random.normal(np.log(8.0), 0.25, count))
    shape = (random.integers(0, 3, count) if hardness.shapes else np.full(count, -1)).astype(np.int32)
    power = random.uniform(0.5, 1.6, count)
    grows = random.uniform(3.0, 20.0, count)
    delay = random.geometric(0.08, (settings.regions, count)).clip(0, DELAY_DAYS_MAX)
    delay[random.integers(0, settings.regions, count), np.arange(count)] = 0
    delay *= random.random(count) < hardness.staggered
    by_genre = np.exp(random.normal(0.0, 0.1, (settings.genres, 7)))
    week = (WEEK * by_genre / by_genre.mean(axis=1, keepdims=True))[genre]
    found = np.zeros((settings.days, settings.regions, count))
    for number in range(settings.days):
        day = settings.first_day + number
        age = (day - released - delay).astype(np.float64)
        curve = _curve(age, shape, speed, power, grows)
        found[number] = curve * liked * week[:, (day + EPOCH_WEEKDAY) % 7]
    at_first = _curve(-delay.astype(np.float64), shape, speed, power, grows) * liked
    return found, at_first.sum(axis=0)


def _curve(age: Floats, shape: Ints, speed: Floats, power: Floats, grows: Floats) -> Floats:
    """Return how much a title is watched beside its level, days after it came (a row a region, a column a title)."""
    late = np.maximum(age, 0.0)
    tail = 0.2 / np.sqrt(1.0 + late / 20.0)
    fades = 0.8 * np.exp(-late / speed)
    falls = 0.8 * (1.0 + late / 4.0) ** -power
    hump = 0.8 * (late + 1.0) / grows * np.exp(1.0 - (late + 1.0) / grows)
    since_episode = late - 7.0 * np.minimum(np.floor(late / 7.0), EPISODES - 1)
    episodes = 0.5 * np.exp(-since_episode / 3.0)
    curve = tail + np.select([shape == 0, shape == 1, shape == 2], [falls, hump, episodes], fades)
    return np.where(age >= 0.0, curve, 0.0)


def _wander(settings: WorldSettings, hardness: Difficulty, seed: int) -> Floats:
    """Return a factor for each day, region and title, which wanders around 1."""
    shape = (settings.regions, settings.titles)
    sigma = hardness.wander_sigma
    level = _random(seed, _Purpose.WANDER).normal(0.0, sigma, shape[1])
    found = np.empty((settings.days, *shape))
    for number in range(settings.days):
        random = _random(seed, _Purpose.WANDER, number + 1)
        fresh = random.normal(0.0, sigma * np.sqrt(1.0 - WANDER_KEPT**2), shape[1])
        level = WANDER_KEPT * level + fresh
        found[number] = np.exp(level + random.normal(0.0, sigma / 2, shape))
    return found


def _jumps(settings: WorldSettings, hardness: Difficulty, seed: int, released: Ints) -> Floats:
    """Return the views that jumps add on each day in each region to each title."""
    found = np.zeros((settings.days, settings.regions, settings.titles))
    everywhere = np.full(settings.regions, 1.0 / settings.regions)
    for number in range(-JUMP_DAYS, settings.days):
        random = _random(seed, _Purpose.JUMPS, number + JUMP_DAYS)
        jumping = np.flatnonzero(random.random(settings.titles) < hardness.jumps_a_day)
        for title in jumping[released[jumping] <= settings.first_day + number].tolist():
            views = settings.views_a_day * JUMP_SHARE_MEDIAN * np.exp(random.normal(0.0, JUMP_SIGMA))
            fades_days = random.uniform(1.5, 5.0)
            spread = np.eye(settings.regions)[random.integers(settings.regions)] if random.random() < JUMP_LOCAL \
                else everywhere  # fmt: skip
            days = np.arange(max(number, 0), min(number + JUMP_DAYS, settings.days))
            found[days, :, title] += views * np.exp(-(days - number) / fades_days)[:, None] * spread
    return found


def _hints(settings: WorldSettings, hardness: Difficulty, seed: int, launch: Floats) -> Floats:
    """Return what the operator says of the first day of each title: what it will be, with an error; or NaN."""
    random = _random(seed, _Purpose.HINTS)
    said = launch * np.exp(random.normal(0.0, hardness.hint_sigma, settings.titles))
    return np.where(random.random(settings.titles) < settings.hinted, said, np.nan)


def _views(
    settings: WorldSettings, seed: int, catalogue: Catalogue, rates: Floats, shares: Floats, watched: Floats
) -> Views:
    """Draw what is watched."""
    rows: list[tuple[NDArray[np.int64], ...]] = []
    for number in range(settings.days):
        random = _random(seed, _Purpose.VIEWS, number)
        counts = random.poisson(rates[number][:, catalogue.title] * shares)
        region, file = np.nonzero(counts)
        requests = counts[region, file].astype(np.int64)
        part = np.repeat(watched[catalogue.title[file]], requests)
        streamed = random.beta(WATCHED_BETA * part, WATCHED_BETA * (1.0 - part))
        starts = np.concatenate([[0], np.cumsum(requests)[:-1]]) if requests.size else np.zeros(0, np.int64)
        streams = np.add.reduceat(streamed, starts) if requests.size else np.zeros(0)
        streamed_bytes = np.maximum(streams * catalogue.size[file], 1.0).astype(np.int64)
        rows.append((np.full(file.size, settings.first_day + number), region, file, streamed_bytes, requests))
    day, region, file, streamed_bytes, requests = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Views(
        tuple(f"region-{number}" for number in range(settings.regions)),
        settings.first_day, settings.first_day + settings.days - 1,
        day.astype(np.int32), region.astype(np.int32), file.astype(np.int32), streamed_bytes, requests,
    )  # fmt: skip


def _load(settings: WorldSettings, seed: int, views: Views) -> Load:
    """Spread what each region streamed on each day over its hours: more in the evening of its own time, with noise."""
    cells = (views.day - views.first_day).astype(np.int64) * settings.regions + views.region
    by_day = np.bincount(cells, views.bytes, settings.days * settings.regions).reshape(settings.days, settings.regions)
    random = _random(seed, _Purpose.LOAD)
    hours = np.arange(settings.days * 24)
    weekend = ((hours // 24 + settings.first_day + EPOCH_WEEKDAY) % 7) >= 5
    served = np.empty((settings.regions, hours.size))
    for region in range(settings.regions):
        local = (hours + 3 * region) % 24
        # At weekends people also watch from noon on.
        profile = EVENING[local] * np.where(weekend & (local >= 10) & (local <= 17), 1.25, 1.0)
        fresh = random.normal(0.0, LOAD_SIGMA * np.sqrt(1.0 - LOAD_KEPT**2), hours.size)
        deviation = np.empty(hours.size)
        last = random.normal(0.0, LOAD_SIGMA)
        for hour in range(hours.size):
            last = deviation[hour] = LOAD_KEPT * last + fresh[hour]
        shares = (profile * np.exp(deviation)).reshape(settings.days, 24)
        served[region] = (by_day[:, region, None] * shares / shares.sum(axis=1, keepdims=True)).ravel()
    return Load(views.regions, settings.first_day * 24, served)
