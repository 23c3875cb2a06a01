"""The minimum service of a fill: where nearer caches give less than so much, the next tier joins in. Pure.

A chunk that a nearer cache holds is not fetched from farther away, and a cache that is alive may give very little of
it. The fleet's policy can say how much is too little (`Reach.minimum_bytes_s`). Then, for each tier beyond the ISP, it
is measured what all nearer ones give, while they have chunks that nobody could be asked for yet. Where that is less
than the minimum over `SPAN_S`, or over the tier's own wait where that is longer, the tier may be asked for such chunks
too, for as long as it stays so, and for about as much as is lacking.

What nobody holds is another matter: the cache that is to fetch it may be slow, but if all others fetched it for
themselves, a slow origin would be asked by a whole fleet at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.policy import Reach
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Scope

SPAN_S: Final = 5.0
"""Over which is measured: longer than rates waver as chunks of several sources end together."""

BEYOND: Final = (Scope.REGION, Scope.WORLD, Scope.ORIGIN)


class _Measure:
    """What comes from all that is nearer than one tier."""

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self.began: float | None = None
        self.bytes_before = 0
        self.given_s = 0.0
        """Bytes a second over the last span; what is known of it, where `joins`."""
        self.joins = False
        self.credit = 0.0
        """Bytes that may be asked for of the tier, beyond what was; below 0 none. At most a second's worth is saved."""
        self.credited_at = 0.0

    def look(self, now: float, came: int, coming: int, least: int) -> None:
        """Take in what has come in all, and how much of what was asked for may be here in a moment."""
        if self.began is None:
            self.began, self.bytes_before = now, came
        passed_s = now - self.began
        if passed_s < self.span_s:
            return
        gained = came - self.bytes_before
        # Where it is enough with what is half here already, it may be enough; where it is not, it is not.
        if gained >= least * passed_s:
            self.joins = False
        elif gained + coming < least * passed_s:
            if not self.joins:
                self.joins, self.credit, self.credited_at = True, 0.0, now
        else:
            return
        self.began, self.bytes_before, self.given_s = now, came, gained / passed_s

    def start_anew(self) -> None:
        self.began, self.joins = None, False


class MinimumService:
    """What one fill does about it."""

    def __init__(self, reach: Reach) -> None:
        self.least: Final = reach.minimum_bytes_s
        """Bytes a second; 0: no minimum."""
        waits = zip(BEYOND, (reach.region_s, reach.world_s, reach.origin_s), strict=True)
        self._tiers = {scope: _Measure(max(SPAN_S, wait_s)) for scope, wait_s in waits if wait_s is not None}

    def look(
        self,
        now: float,
        missing: Bitmap,
        available: Availability,
        came: Mapping[Scope, int],
        coming: Mapping[Scope, int],
    ) -> None:
        """Measure. `came` is what has come in all, by the tier, and `coming` what is outstanding. At each tick."""
        if not self.least:
            return
        for scope, measure in self._tiers.items():
            if not (missing & available.held_within(scope)).any():
                measure.start_anew()
                continue
            nearer = [one for one in Scope if one < scope]
            measure.look(now, sum(came[one] for one in nearer), sum(coming[one] for one in nearer), self.least)

    def start_anew(self) -> None:
        """Measure from now on: what has come until now says nothing."""
        for measure in self._tiers.values():
            measure.start_anew()

    def joining(self, now: float) -> dict[Scope, int]:
        """Return the tiers that join in now, the nearest first, and what is lacking: bytes a second."""
        found = {}
        for scope, measure in self._tiers.items():
            if measure.joins:
                lacking = self.least - int(measure.given_s)
                measure.credit = min(lacking, measure.credit + lacking * (now - measure.credited_at))
                measure.credited_at = now
                found[scope] = lacking
        return found

    def may_ask(self, scope: Scope) -> bool:
        """Tell whether a tier that joins in was asked for less than is lacking, however fast it answers."""
        return self._tiers[scope].credit >= 0

    def note_asked(self, scope: Scope, count: int) -> None:
        """Note that a tier that joins in was asked for so many bytes."""
        self._tiers[scope].credit -= count
