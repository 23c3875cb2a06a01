"""What will be watched: each file in each region, on the next day.

`Model` takes in a day at a time and forecasts the next; `forecast` is the same over a whole table of views. A day's
forecast knows the days before it only. No chance is drawn: the same tables give the same forecast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pfill.plan.tables import Catalogue, Floats, Forecast, Ints, Longs, Views


@dataclass(frozen=True, slots=True)
class PopularitySettings:
    """How a forecast is made."""

    half_life_days: float = 10.0
    """After so many days a view counts half."""
    prior_streams: float = 4.0
    """The share of a region's views that a title has is taken for its share of all, as if seen in so many views."""


PLAIN = PopularitySettings()


class Model:
    """What the days so far say of those to come. Days come in ascending order; those left out were not watched."""

    def __init__(self, catalogue: Catalogue, regions: tuple[str, ...], settings: PopularitySettings = PLAIN) -> None:
        self.catalogue = catalogue
        self.regions = regions
        self.settings = settings
        shape = (len(regions), len(catalogue.files))
        self._streams = np.zeros(shape)
        self._requests = np.zeros(shape)
        self._weight = 0.0
        self._next: int | None = None

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Learn from a day: its rows, with `size` bytes each."""
        elapsed = 1 if self._next is None else day - self._next + 1
        keep = 0.5 ** (elapsed / self.settings.half_life_days)
        self._streams *= keep
        self._requests *= keep
        self._weight = keep * self._weight + 1
        np.add.at(self._streams, (region, file), size / self.catalogue.size[file])
        np.add.at(self._requests, (region, file), requests)
        self._next = day + 1

    def forecast(self, day: int) -> Forecast:
        """Return what is expected of `day`, which no day taken in may follow."""
        catalogue, settings = self.catalogue, self.settings
        weight = max(self._weight, 1.0)
        of_region = self._streams.sum(axis=1, keepdims=True)
        share = self._streams.sum(axis=0) / max(float(of_region.sum()), 1e-9)
        expected = share * of_region
        streams = self._streams + settings.prior_streams * share
        streams *= of_region / np.maximum(of_region + settings.prior_streams, 1e-9) / weight
        streams[:, catalogue.released[catalogue.title] > day] = 0
        ratio = self._requests.sum(axis=0) / np.maximum(self._streams.sum(axis=0), 1e-9)
        spread: NDArray[np.float64] = np.sqrt(streams + (expected / weight) / weight)
        return Forecast(self.regions, day, streams, streams * ratio, spread)


def forecast(views: Views, catalogue: Catalogue, day: int, settings: PopularitySettings = PLAIN) -> Forecast:
    """Forecast `day` from the days before it; later ones in `views` do not count."""
    return learn(views.until(day), catalogue, settings).forecast(day)


def learn(views: Views, catalogue: Catalogue, settings: PopularitySettings = PLAIN) -> Model:
    """Return a model that has taken in all of `views`."""
    model = Model(catalogue, views.regions, settings)
    days = np.arange(views.first_day, views.last_day + 2)
    cuts = np.searchsorted(views.day, days)
    for place, day in enumerate(days[:-1]):
        rows = slice(int(cuts[place]), int(cuts[place + 1]))
        model.take_in(int(day), views.region[rows], views.file[rows], views.bytes[rows], views.requests[rows])
    return model


@dataclass(frozen=True, slots=True)
class Reasons:
    """The factors of one forecast, whose product is `streams`, for `p2pfill plan why`."""

    title: str
    region: str
    day: int
    streams: float
    """Of all files of the title."""


def explain(
    views: Views, catalogue: Catalogue, day: int, title: str, region: str, settings: PopularitySettings = PLAIN
) -> Reasons:
    """Say what made the forecast of `title` in `region`. KeyError: there is no such title or region."""
    if title not in catalogue.titles or region not in views.regions:
        raise KeyError(title if title not in catalogue.titles else region)
    made = forecast(views, catalogue, day, settings)
    files = catalogue.title == catalogue.titles.index(title)
    row: Floats = made.streams[views.regions.index(region)]
    return Reasons(title, region, day, float(row[files].sum()))
