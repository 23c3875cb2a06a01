"""What an operator knows better: pins and exclusions, laid over a forecast.

They change where files are placed, not what will be watched, so they are applied to a forecast that is otherwise left
as it is, and the honest one is kept for reports and for learning. An excluded title is worth nothing, and a placement
by value leaves it out. A pinned one is worth as much as the best of its region, so a placement that takes the densest
first takes it first; two pins are equals. What an operator knows of launches is `Catalogue.hint` and `.released`.
Infinite values for pins were rejected: sums over a forecast, and whoever compares two plans, would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from p2pfill.errors import ConfigError
from p2pfill.plan.tables import Catalogue, Forecast


@dataclass(frozen=True, slots=True)
class Override:
    """A title that is to be held, or not, in some regions."""

    title: str
    regions: tuple[str, ...] = ()
    """Empty: all."""


def steer(
    forecast: Forecast, catalogue: Catalogue, pins: Sequence[Override] = (), exclusions: Sequence[Override] = ()
) -> Forecast:
    """Return the forecast with pins and exclusions in it. Of a title that is both, the exclusion holds.

    Raises `ConfigError` for a title or region that there is not: a slip of the pen must not pass for a pin.
    """
    streams, requests, spread = forecast.streams.copy(), forecast.requests.copy(), forecast.spread.copy()
    best = streams.max(axis=1, initial=0.0)
    best_requests = requests.max(axis=1, initial=0.0)
    for pin in pins:
        rows, files = _cells(pin, forecast, catalogue)
        streams[np.ix_(rows, files)] = best[rows, None]
        requests[np.ix_(rows, files)] = best_requests[rows, None]
    for exclusion in exclusions:
        rows, files = _cells(exclusion, forecast, catalogue)
        for values in (streams, requests, spread):
            values[np.ix_(rows, files)] = 0.0
    return replace(forecast, streams=streams, requests=requests, spread=spread)


def _cells(
    override: Override, forecast: Forecast, catalogue: Catalogue
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:  # fmt: skip
    if override.title not in catalogue.titles:
        raise ConfigError(f"pin or exclusion of title {override.title!r}, which the catalogue does not have")
    unknown = [name for name in override.regions if name not in forecast.regions]
    if unknown:
        raise ConfigError(f"pin or exclusion of title {override.title!r} in region {unknown[0]!r}: no such region")
    names = override.regions or forecast.regions
    rows = np.array([forecast.regions.index(name) for name in names], np.intp)
    return rows, np.flatnonzero(catalogue.title == catalogue.titles.index(override.title))
