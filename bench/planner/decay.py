"""Direct decay: streams of each file, of which half are forgotten after some days; perfect LFU forgets nothing."""

from __future__ import annotations

import numpy as np

from p2pfill.plan.tables import Catalogue, Forecast, Ints, Longs


class Decay:
    """Streams of each file so far, of which half are forgotten after some days."""

    def __init__(self, catalogue: Catalogue, regions: tuple[str, ...], half_life: float, pooled: bool = False) -> None:
        self.name = f"decay of {half_life:g} days"
        self._size, self._regions, self._pooled = catalogue.size, regions, pooled
        self._kept = 0.5 ** (1.0 / half_life)
        self._streams = np.zeros((len(regions), catalogue.size.size))
        self._requests = np.zeros_like(self._streams)

    def take_in(self, day: int, region: Ints, file: Ints, size: Longs, requests: Longs) -> None:
        """Add a day, after the rest has faded."""
        if self._pooled:
            region = np.zeros_like(region)
        for counts, values in ((self._streams, size / self._size[file]), (self._requests, requests)):
            counts *= self._kept
            np.add.at(counts, (region, file), values)

    def forecast(self, day: int) -> Forecast:
        """Say that it goes on like that. A mean over days, but for perfect LFU, whose scale says nothing."""
        of_a_day = 1.0 - self._kept or 1.0
        streams, requests = self._streams * of_a_day, self._requests * of_a_day
        if self._pooled:
            streams, requests = (np.broadcast_to(counts[0], counts.shape) for counts in (streams, requests))
        return Forecast(self._regions, day, streams, requests, np.sqrt(streams))
