"""What each cluster will be asked for on one day: a table of low rank, of which one row at a time is made.

A thousand clusters and a hundred thousand files would be 800 MB as an array, of which a placement looks at a row at a
time. Forecasts are made for regions, so that a cluster's row is its region's times the cluster's weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2pfill.plan.tables import Caches, Floats, Forecast, Ints, Longs


@dataclass(frozen=True, slots=True)
class Demand:
    """Demand of clusters for files, in bytes a day: that of cluster c for file f is `weight[c] * rows[row[c], f]`."""

    rows: Floats
    """A row for each region, or for whatever has a demand of its own, and a column for each file."""
    row: Ints
    """Of each cluster."""
    weight: Floats
    """Of each cluster."""

    @property
    def clusters(self) -> int:
        """How many there are."""
        return len(self.row)

    @property
    def files(self) -> int:
        """How many there are."""
        return int(self.rows.shape[1])

    def of(self, cluster: int) -> Floats:
        """Return what a cluster will be asked for, in bytes of each file: a fresh array."""
        row: Floats = self.rows[int(self.row[cluster])]
        return row * float(self.weight[cluster])


def demand_of_clusters(rows: Floats) -> Demand:
    """Return the demand that `rows` says, a row for each cluster, in bytes a day."""
    return Demand(rows, np.arange(len(rows), dtype=np.int32), np.ones(len(rows)))


def regions_of_clusters(caches: Caches) -> Ints:
    """Return the region of each cluster."""
    return caches.region[caches.isp]


def weights_by_serving(caches: Caches) -> Floats:
    """Return the part of its region's viewers that each cluster has, as its part of the serving bandwidth there.

    Operators size caches by viewers, so this is a fair guess where no log tells the clusters of a region apart.
    """
    region = regions_of_clusters(caches)
    serving = np.bincount(caches.cluster, caches.serving, minlength=len(caches.clusters))
    whole = np.bincount(region, serving, minlength=len(caches.regions))[region]
    return np.divide(serving, whole, out=np.zeros_like(serving), where=whole > 0)


def spread_demand(forecast: Forecast, size: Longs, caches: Caches, weights: Floats | None = None) -> Demand:
    """Return the demand of clusters: that of their regions, split by `weights`.

    `size` is of each file, in bytes. `weights` has the part of its region's viewers that each cluster has, from 0 to 1;
    `weights_by_serving` where it is left out. Regions are matched by name. ValueError: the forecast has no such region.
    """
    known = {name: number for number, name in enumerate(forecast.regions)}
    missing = sorted({caches.regions[region] for region in regions_of_clusters(caches).tolist()} - known.keys())
    if missing:
        raise ValueError(f"the forecast has no region {missing[0]!r} in which caches stand")
    row = np.array([known[caches.regions[region]] for region in regions_of_clusters(caches).tolist()], np.int32)
    return Demand(forecast.streams * size, row, weights_by_serving(caches) if weights is None else weights)
