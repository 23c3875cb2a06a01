"""How many trusted sources hold each chunk, per scope.

`count[scope][chunk]` counts holders inside that scope (a holder in the ISP counts for ISP, REGION and WORLD, and one in
the cluster, where that is a hop, for CLUSTER too), and
`held[scope]` is the bitmap of chunks with at least one. Tier order is then one set operation: a chunk may be taken from
a scope only if no smaller scope holds it. `shared` is the bitmap of chunks with at least two holders in the ISP: for
those it does not depend on one alone. Origins hold everything and are not counted.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from typing import Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import IN_ISP, NEARER, Scope

_CACHE_SCOPES = (Scope.CLUSTER, Scope.ISP, Scope.REGION, Scope.WORLD)

_LISTS: Final = (list, tuple)
"""Can be gone through twice. To ask whether something is a `Sequence` takes longer than what is done with it."""

_LANES = [array("H", [value >> bit & 1 for bit in range(8)]).tobytes() for value in range(256)]
"""The bits of a byte as counts of 16 bits: so the counts of all chunks are one number, and adding is one addition."""


class Availability:
    """Holders of `chunk_count` chunks by scope."""

    def __init__(self, chunk_count: int) -> None:
        self.count = {scope: array("H", bytes(2 * chunk_count)) for scope in _CACHE_SCOPES}
        self.held = {scope: Bitmap(chunk_count) for scope in _CACHE_SCOPES}
        self.shared = Bitmap(chunk_count)

    def add(self, scope: Scope, chunks: Iterable[int]) -> None:
        """Count one more holder inside `scope` for each of `chunks`."""
        known = chunks if isinstance(chunks, _LISTS) else tuple(chunks)
        if scope <= IN_ISP:
            count, reached = self.count[IN_ISP], (self.held[IN_ISP], self.shared)
            for chunk in known:
                before = count[chunk]
                if before < 2:
                    reached[before].add(chunk)
                count[chunk] = before + 1
        for outer in _REACHED[scope]:
            if outer == IN_ISP:
                continue
            count, held = self.count[outer], self.held[outer]
            for chunk in known:
                if not count[chunk]:
                    held.add(chunk)
                count[chunk] += 1

    def add_holdings(self, scope: Scope, holdings: Bitmap) -> None:
        """Count one more holder inside `scope` for each of the chunks in `holdings`, all at once.

        Far faster than `add` of each: see docs/experiments.md, "The data path".
        """
        lanes = b"".join(map(_LANES.__getitem__, holdings.buffer))[: 2 * len(holdings)]
        gained = int.from_bytes(lanes, sys.byteorder)
        if scope <= Scope.ISP:
            self.shared = self.shared | (self.held[Scope.ISP] & holdings)
        for outer in _REACHED[scope]:
            count = self.count[outer]
            # No count passes its 16 bits: there are fewer sources than that.
            total = int.from_bytes(count.tobytes(), sys.byteorder) + gained
            count[:] = array("H", total.to_bytes(len(lanes), sys.byteorder))
            self.held[outer] = self.held[outer] | holdings

    def remove(self, scope: Scope, chunks: Iterable[int]) -> None:
        """Count one holder fewer inside `scope` for each of `chunks`."""
        known = chunks if isinstance(chunks, _LISTS) else tuple(chunks)
        for outer in _REACHED[scope]:
            count, held = self.count[outer], self.held[outer]
            for chunk in known:
                count[chunk] -= 1
                if not count[chunk]:
                    held.discard(chunk)
        if scope <= Scope.ISP:
            for chunk in known:
                if self.count[Scope.ISP][chunk] < 2:
                    self.shared.discard(chunk)

    def held_within(self, scope: Scope) -> Bitmap:
        """Return the chunks that some cache nearer than `scope` holds; `scope` is ISP or further."""
        return self.held[NEARER[scope]]


_REACHED: Final = {scope: _CACHE_SCOPES[place:] for place, scope in enumerate(_CACHE_SCOPES)}
"""The scopes for which a holder inside a scope counts."""
