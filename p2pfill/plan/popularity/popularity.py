"""What will be watched: each file in each region, on the next day.

What is expected of a file is a product, each factor of which is learned on its own and shrunk to the one before:

    audience of the region that day (`volume`) x level of the title in all regions (`levels`, `launch`)
    x lift of the title in the region (`lifts`) x chance that it can be watched there (`waves`) x share (`shares`)

`Model` takes in a day at a time and forecasts the next; `forecast` is the same over a whole table of views. A day's
forecast knows the days before it only. No chance is drawn: the same tables give the same forecast.

Learning each (region, file) by itself with decaying counts was the alternative: it needs the views of each cell, where
this needs those of the title somewhere, of the region in anything, and of the genre there.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from p2pfill.plan.popularity.launch import AGE_MAX, CELL_MAX, LaunchCurve, LaunchSizes
from p2pfill.plan.popularity.levels import NOISE, Levels
from p2pfill.plan.popularity.lifts import Lifts
from p2pfill.plan.popularity.shares import Shares
from p2pfill.plan.popularity.spread import Spread
from p2pfill.plan.popularity.volume import Volume
from p2pfill.plan.popularity.waves import Waves
from p2pfill.plan.tables import Catalogue, Floats, Forecast, Ints, Longs, Views


class Scope(Enum):
    """Of whom a region learns."""

    HIERARCHICAL = "hierarchical"
    """Of itself, and as far as that says little, of its genre and of all regions."""
    GLOBAL = "global"
    """All regions like the same."""
    REGIONAL = "regional"
    """Each region of itself alone."""


@dataclass(frozen=True, slots=True)
class PopularitySettings:
    """How a forecast is made. What is learned has no setting."""

    scope: Scope = Scope.HIERARCHICAL


DEFAULTS: Final = PopularitySettings()
SETTLED_DAYS: Final = 7
"""Age from which a title measures its region's audience."""
PHASE_MAX: Final = 20.0
"""How far a region that opened late can be from the others."""
UNKNOWN: Final = 1e-6
"""Level of titles without a hint before anything was watched: next to nothing, so that hints alone count."""
SIZED_DAYS: Final = 3
"""Age at which a launch is taken for known, and its size learned from."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """The factors of one forecast, whose product is `streams`, for `p2pfill plan why`."""

    title: str
    region: str
    day: int
    streams: float
    """Of all files of the title."""
    spread: float
    """Standard deviation of `streams`."""
    level: float
    """Streams a day that the title would have if it were open everywhere, and every region as fond of it as all."""
    audience: float
    """The region's part of that."""
    genre_lift: float
    """How much fonder the region is of the genre than all regions are."""
    own_lift: float
    """How much fonder than of the genre."""
    phase: float
    """Launch curve of the region's age over that of the title's, which is not 1 where the region opened late."""
    open: float
    """Chance that the title can be watched there by then."""
    age: int
    """Days since its release."""
    seen: bool
    """Whether anybody watched it yet, in any region; if not, its level comes from the hint or from its genre."""
    hint: float
    """Of the operator; NaN: none."""


class _Core:
    """A model of regions that learn of each other. Files are kept in the order of their titles."""

    def __init__(self, catalogue: Catalogue, regions: int, alike: bool) -> None:
        self.catalogue = catalogue
        self._alike = alike
        self.order = np.argsort(catalogue.title, kind="stable")
        self._place = np.argsort(self.order, kind="stable")
        self._of = catalogue.title[self.order]
        self._size = catalogue.size[self.order].astype(np.float64)
        self._titles = len(catalogue.titles)
        self._shape = (regions, len(catalogue.files))
        genres = max(len(catalogue.genres), 1)
        self.curve = LaunchCurve(genres)
        self.sizes = LaunchSizes(genres)
        self.volume = Volume(regions)
        self.lifts = Lifts(regions, catalogue.genre, genres)
        self.shares = Shares(regions, self._of, catalogue.kind[self.order], max(len(catalogue.kinds), 1))
        self.spread = Spread()
        titles = self._titles
        hinted = np.where(catalogue.hint > 0, catalogue.hint, UNKNOWN)
        self.levels = Levels(hinted, np.full(titles, 0.1))
        self._mean, self._form = UNKNOWN, 0.1
        self.waves: Waves | None = None
        self._first = 0
        self.day = 0
        self._last = 0
        self._yesterday: tuple[Floats, Floats] | None = None
        kinds = max(len(catalogue.kinds), 1)
        self._asked = np.zeros((2, kinds))
        self._asked_file = np.zeros((2, len(catalogue.files)))
        self._taken = False

    def advance(self, day: int) -> Waves:
        """Make `day` the day that all parts speak of."""
        if self.waves is None:
            self.waves = Waves(self._shape[0], self.catalogue.released, day)
            self._first = self.day = day
            self._launch(day)
        while self.day < day:
            genre = self.catalogue.genre
            age = np.clip(self.day - self.catalogue.released, 0, AGE_MAX)
            step = np.where(self.catalogue.released <= self.day, self.curve.step[genre, age], 1.0)
            self.levels.step(step, self._mean, self._form)
            self.waves.step()
            self.day += 1
            self._launch(self.day)
        return self.waves

    def _launch(self, day: int) -> None:
        fresh = self.catalogue.released == day
        if fresh.any():
            mean, shape = self.sizes.prior(self.catalogue.genre, self.catalogue.hint, self._mean)
            self.levels.start(fresh, mean, shape)

    def phase(self, waves: Waves) -> Floats:
        """Return the launch curve of each cell's own age over that of its title's."""
        of_title = np.maximum(self.day - self.catalogue.released, 0)
        result: Floats = np.ones((self._shape[0], self._titles))
        late = np.flatnonzero((np.abs(waves.age - of_title) > 0.5).any(axis=0) & (of_title < 2 * AGE_MAX))
        if len(late):
            own = np.clip(np.rint(waves.age[:, late]).astype(np.int64), 0, AGE_MAX)
            genre = self.catalogue.genre[late]
            whole = self.curve.log[genre, np.minimum(of_title[late], AGE_MAX)]
            result[:, late] = np.clip(np.exp(self.curve.log[genre, own] - whole), 1 / PHASE_MAX, PHASE_MAX)
        return result

    def lift(self) -> Floats:
        """Return the lifts of cells."""
        return np.ones_like(self.lifts.value) if self._alike else self.lifts.value

    def expected(self, audience: Floats) -> tuple[Floats, Floats]:
        """Return what each cell brings if it is open, and its relative variance."""
        level = self.levels.mean()
        mean = audience[:, None] * (level * self.lift() * self.phase(self.advance(self.day)))
        relative = self.levels.variance() + NOISE**2 + self.lifts.variance()
        return mean, relative

    def files(self, audience: Floats) -> tuple[Floats, Floats]:
        """Return what each file brings, in the order kept, and its relative variance."""
        waves = self.advance(self.day)
        mean, relative = self.expected(audience)
        opened = waves.open
        whole = mean * opened
        unsure = (relative + 1) / np.maximum(opened, 1e-3) - 1
        return whole[:, self._of] * self.shares.value, unsure[:, self._of]

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn from a day."""
        if self._last != day - 1:
            self._yesterday = None  # steps of launch curves are from one day to the next
        self._last = day
        waves = self.advance(day)
        place = region.astype(np.int64) * self._shape[1] + self._place[file]
        streams = size / self.catalogue.size[file]
        seen: Floats = (
            np.bincount(place, streams, self._shape[0] * self._shape[1]).astype(np.float64).reshape(self._shape)
        )
        of_title = np.zeros((self._shape[0], self._titles))
        if len(file):
            of_title[:, np.unique(self._of)] = self.shares.sums(seen)
        if not self._taken and seen.any():
            self._taken = True
            self._begin(of_title)
        if not self._taken:
            return
        forecast, relative = self.files(self.volume.expected(day))
        self.spread.learn(seen, forecast, relative)
        unit = self.spread.unit
        phase, lift = self.phase(waves), self.lift()
        audience = self._audience(day, of_title, self.levels.mean() * lift * phase * waves.open)
        mean, _ = self.expected(audience)
        before = mean * waves.open / unit
        waves.learn(of_title, mean / unit)
        exposure = audience[:, None] * phase * waves.open / unit
        self.levels.learn(of_title.sum(axis=0) / unit, (exposure * lift).sum(axis=0))
        self.lifts.learn(of_title / unit, exposure * self.levels.mean(), self.volume.level())
        self.shares.learn(seen / unit, region, self._place[file].astype(np.int32))
        self._learn_curve(waves, of_title / unit, audience, before)
        self._learn_sizes()
        self._learn_requests(file, streams, requests)
        self.levels.scale(self.volume.learn(day, audience))

    def _begin(self, of_title: Floats) -> None:
        """Take the first day for the scale of everything."""
        old = self.catalogue.released < self.day
        total = float(of_title.sum())
        self._mean = total / max(int(old.sum()), 1)
        titles = self._titles
        self.levels.start(old, np.full(titles, self._mean), np.full(titles, self._form))

    def _audience(self, day: int, seen: Floats, base: Floats) -> Floats:
        """Return what each region watched of what it would watch if it were all there is."""
        settled = day - self.catalogue.released >= SETTLED_DAYS
        if not settled.any():
            settled = np.ones_like(settled)
        expected = self.volume.expected(day)
        some = 5 * self.spread.unit
        whole = base[:, settled].sum(axis=1) + some / np.maximum(expected, 1e-9)
        result: Floats = (seen[:, settled].sum(axis=1) + some) / whole
        return result

    def _learn_curve(self, waves: Waves, seen: Floats, audience: Floats, expected: Floats) -> None:
        today = seen / np.maximum(audience, 1e-9)[:, None]
        young = np.flatnonzero((self.day - self.catalogue.released) < AGE_MAX)
        weight = np.where(waves.open > 0.9, expected / ((1 + expected) * (1 + expected / CELL_MAX)), 0)[:, young]
        if self._yesterday is not None:
            views, weights = self._yesterday
            some = weights > 0
            age = np.rint(waves.age[:, young] - 1).astype(np.int32)
            good = some[:, young] & (age >= 0)
            genre = np.broadcast_to(self.catalogue.genre[young], good.shape)[good]
            scale = (weights[:, young] * audience[:, None])[good]
            before, after = views[:, young][good] * scale, today[:, young][good] * scale
            self.curve.learn(genre, age[good], before, after)
        whole = np.zeros_like(today)
        whole[:, young] = weight
        self._yesterday = (today, whole)
        old = self.day - self.catalogue.released > AGE_MAX // 4
        if old.sum() > 10:
            level = self.levels.mean()[old]
            self._mean = float(level.mean())
            self._form = float(np.clip(level.mean() ** 2 / max(level.var(), 1e-12), 0.01, 1.0))

    def _learn_sizes(self) -> None:
        ripe = (self.catalogue.released == self.day - SIZED_DAYS) & (self.catalogue.released >= self._first)
        if ripe.any():
            genre = self.catalogue.genre[ripe]
            size = self.levels.mean()[ripe] / np.exp(self.curve.log[genre, SIZED_DAYS])
            self.sizes.learn(genre, self.catalogue.hint[ripe], size)

    def _learn_requests(self, file: Ints, streams: Floats, requests: Longs) -> None:
        for row, values in enumerate((requests.astype(np.float64), streams)):
            self._asked_file[row] = self._asked_file[row] * 0.97 + np.bincount(file, values, self._shape[1])
            kinds = np.bincount(self.catalogue.kind[file], values, self._asked.shape[1])
            self._asked[row] = self._asked[row] * 0.97 + kinds

    def requests_per_stream(self) -> Floats:
        """Return requests over streams of each file, shrunk to its kind."""
        whole = self._asked.sum(axis=1)
        of_all = whole[0] / whole[1] if whole[1] > 0 else 1.0
        prior = 10 * self.spread.unit
        of_kind = (self._asked[0] + prior * of_all) / (self._asked[1] + prior)
        result: Floats = (self._asked_file[0] + prior * of_kind[self.catalogue.kind]) / (self._asked_file[1] + prior)
        return result

    def forecast(self, day: int) -> tuple[Floats, Floats, Floats]:
        """Return streams, requests and spread of the files in the catalogue's order."""
        self.advance(day)
        mean, relative = self.files(self.volume.expected(day))
        spread = np.sqrt(self.spread.variance(mean, relative))
        streams = mean[:, self._place]
        return streams, streams * self.requests_per_stream(), spread[:, self._place]

    def explain(self, title: int, region: int) -> tuple[dict[str, float], Floats, float, bool]:
        """Return the factors of a title in a region, its streams' variance by file, their product, and whether seen."""
        waves = self.advance(self.day)
        audience = self.volume.expected(self.day)
        genre = int(self.catalogue.genre[title])
        of_genre = 1.0 if self._alike else float(self.lifts.of_genre[region, genre])
        factors = {
            "level": float(self.levels.mean()[title]),
            "audience": float(audience[region]),
            "genre_lift": of_genre,
            "own_lift": float(self.lift()[region, title]) / max(of_genre, 1e-12),
            "phase": float(self.phase(waves)[region, title]),
            "open": float(waves.open[region, title]),
        }
        mean, relative = self.files(audience)
        files = self._of == title
        mean, relative = mean[region, files], relative[region, files]
        # All files of a title share what is not known of it, so their deviations add up, and not their variances.
        spread = float(np.sqrt(self.spread.variance(mean, relative)).sum())
        return factors, mean, spread, bool(waves.seen[:, title].any())


class Model:
    """What the days so far say of those to come. Days come in ascending order; nothing is known of those left out."""

    def __init__(self, catalogue: Catalogue, regions: tuple[str, ...], settings: PopularitySettings = DEFAULTS) -> None:
        self.catalogue = catalogue
        self.regions = regions
        self.settings = settings
        alike = settings.scope is Scope.GLOBAL
        apart = settings.scope is Scope.REGIONAL
        sizes = [1] * len(regions) if apart else [len(regions)]
        self._cores = [_Core(catalogue, size, alike) for size in sizes]
        self._next: int | None = None

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn from a day: its rows, with `size` bytes each. ValueError: a later day was taken in before."""
        if self._next is not None and day < self._next:
            raise ValueError(f"day {day} comes after day {self._next - 1}")
        self._next = day + 1
        if len(self._cores) == 1:
            self._cores[0].take_in(day, region, file, size, requests)
            return
        for place, core in enumerate(self._cores):
            rows = region == place
            core.take_in(day, np.zeros(int(rows.sum()), np.int32), file[rows], size[rows], requests[rows])

    def forecast(self, day: int) -> Forecast:
        """Return what is expected of `day`, which must follow all days that were taken in."""
        parts = [core.forecast(day) for core in self._ahead(day)]
        streams, requests, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Forecast(self.regions, day, streams, requests, spread)

    def explain(self, day: int, title: str, region: str) -> Reasons:
        """Say what made the forecast of `title` in `region` on `day`. KeyError: there is no such title or region."""
        if title not in self.catalogue.titles or region not in self.regions:
            raise KeyError(title if title not in self.catalogue.titles else region)
        place, number = self.regions.index(region), self.catalogue.titles.index(title)
        cores = self._ahead(day)
        core, row = (cores[0], place) if len(cores) == 1 else (cores[place], 0)
        core.advance(day)
        factors, mean, spread, seen = core.explain(number, row)
        released, hint = int(self.catalogue.released[number]), float(self.catalogue.hint[number])
        return Reasons(
            title=title, region=region, day=day, streams=float(mean.sum()), spread=spread, age=day - released,
            seen=seen, hint=hint, **factors,
        )  # fmt: skip

    def _ahead(self, day: int) -> list[_Core]:
        """Return cores that may go on to `day`: copies, unless it is the next."""
        if self._next is not None and day < self._next:
            raise ValueError(f"day {day} is known already")
        return self._cores if day == self._next else deepcopy(self._cores)


def forecast(views: Views, catalogue: Catalogue, day: int, settings: PopularitySettings = DEFAULTS) -> Forecast:
    """Forecast `day` from the days before it; later ones in `views` do not count."""
    return learn(views.until(day), catalogue, settings).forecast(day)


def learn(views: Views, catalogue: Catalogue, settings: PopularitySettings = DEFAULTS) -> Model:
    """Return a model that has taken in all of `views`. A day that is not known says nothing: it is not one without
    views, or each lost log would pass for a fall of all that is watched.
    """
    model = Model(catalogue, views.regions, settings)
    days = np.arange(views.first_day, views.last_day + 2)
    cuts = np.searchsorted(views.day, days)
    unknown = set(views.unknown)
    for place, day in enumerate(days[:-1]):
        if int(day) in unknown:
            continue
        rows = slice(int(cuts[place]), int(cuts[place + 1]))
        model.take_in(int(day), views.region[rows], views.file[rows], views.bytes[rows], views.requests[rows])
    return model


def explain(
    views: Views, catalogue: Catalogue, day: int, title: str, region: str, settings: PopularitySettings = DEFAULTS
) -> Reasons:
    """Say what made the forecast of `title` in `region`. KeyError: there is no such title or region."""
    return learn(views.until(day), catalogue, settings).explain(day, title, region)
