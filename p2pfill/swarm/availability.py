"""How many trusted sources hold each chunk, per scope.

`count[scope][chunk]` counts holders inside that scope (a holder in the ISP counts for ISP, REGION and WORLD), and
`held[scope]` is the bitmap of chunks with at least one. Tier order is then one set operation: a chunk may be taken from
a scope only if no smaller scope holds it. `shared` is the bitmap of chunks with at least two holders in the ISP: for
those it does not depend on one alone. Origins hold everything and are not counted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope

_CACHE_SCOPES = (Scope.ISP, Scope.REGION, Scope.WORLD)


class Availability:
    """Holders of `chunk_count` chunks by scope."""

    def __init__(self, chunk_count: int) -> None:
        self.count = {scope: array("H", bytes(2 * chunk_count)) for scope in _CACHE_SCOPES}
        self.held = {scope: Bitmap(chunk_count) for scope in _CACHE_SCOPES}
        self.shared = Bitmap(chunk_count)

    def add(self, scope: Scope, chunks: Iterable[int]) -> None:
        """Count one more holder inside `scope` for each of `chunks`."""
        outer = [(self.count[s], self.held[s]) for s in _CACHE_SCOPES if s >= scope]
        for chunk in chunks:
            for count, held in outer:
                count[chunk] += 1
                held[chunk] = True
            if scope == Scope.ISP and self.count[scope][chunk] > 1:
                self.shared[chunk] = True

    def remove(self, scope: Scope, chunks: Iterable[int]) -> None:
        """Count one holder fewer inside `scope` for each of `chunks`."""
        outer = [(self.count[s], self.held[s]) for s in _CACHE_SCOPES if s >= scope]
        for chunk in chunks:
            for count, held in outer:
                count[chunk] -= 1
                if not count[chunk]:
                    held[chunk] = False
            if scope == Scope.ISP and self.count[scope][chunk] < 2:
                self.shared[chunk] = False

    def held_within(self, scope: Scope) -> Bitmap:
        """Return the chunks that some cache nearer than `scope` holds; `scope` is REGION or further."""
        return self.held[Scope(scope - 1)]
