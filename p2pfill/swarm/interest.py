"""Which chunks this cache needs news of, and from whom.

News of all chunks from all caches would grow with the square of the fleet. In the ISP everything matters; from beyond
only the share that this cache is master of. When it becomes master of more, it asks all caches anew, and nothing of
that is asked for across a border before they have told what they hold and what they are fetching: otherwise a change of
masters would have chunks fetched that are there, or on their way, already.

While its fill window is closed it needs no news at all; when it opens, it has become master of all its share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.actions import ShowInterest
from p2pfill.swarm.election import Scope
from p2pfill.swarm.sources import Source

ANSWER_S: Final = 1.0
"""How long a cache may take to answer. Takes a round trip as a rule; whoever takes longer must not hold up the fill."""


class Interest:
    """What one fill has told others that it needs news of."""

    def __init__(self, chunk_count: int) -> None:
        self._everything = Bitmap.full(chunk_count)
        self._assignment: Mapping[Scope, Bitmap] | None = None
        """What this cache was master of at the last look."""
        self.doubtful = Bitmap(chunk_count)
        """Chunks that this cache has just become master of, while others have yet to say whether they hold them."""

    def look(
        self,
        now: float,
        duties: Mapping[Scope, Bitmap],
        sources: Collection[Source],
        doubt_until: float = float("-inf"),
    ) -> list[ShowInterest]:
        """Return what to tell whom, now that this cache is master as `duties` say.

        No doubt ends before `doubt_until`: those who could end it are not linked yet.
        """
        caches = [source for source in sources if source.scope != Scope.ORIGIN]
        anew = self._take_duties(duties)
        told = []
        for source in caches:
            wanted = duties[source.scope] if source.scope > Scope.ISP else self._everything
            if anew and not source.barred_reason:
                source.answers_at = now + ANSWER_S
            elif source.shown == wanted or (source.shown is None and source.scope <= Scope.ISP):
                continue
            source.shown = wanted
            told.append(ShowInterest(source.id, wanted.copy()))
        if self.doubtful.any() and now >= doubt_until and all(now >= source.answers_at for source in caches):
            self.doubtful = Bitmap(len(self.doubtful))
        return told

    def rest(self, sources: Collection[Source]) -> list[ShowInterest]:
        """Return what to tell whom, now that nothing is to be asked for until the fill window opens."""
        nothing = Bitmap(len(self.doubtful))
        self._assignment = dict.fromkeys((Scope.REGION, Scope.WORLD, Scope.ORIGIN), nothing)
        told = []
        for source in sources:
            if source.scope != Scope.ORIGIN and source.shown != nothing:
                source.shown = nothing
                told.append(ShowInterest(source.id, nothing.copy()))
        return told

    def _take_duties(self, duties: Mapping[Scope, Bitmap]) -> bool:
        """Tell whether this cache has become master of more than it was, and doubt that."""
        before, self._assignment = self._assignment, duties
        if before is None or before is duties:
            return False
        fresh = Bitmap(len(self.doubtful))
        for scope, chunks in duties.items():
            fresh = fresh | chunks.and_not(before[scope])
        self.doubtful = self.doubtful | fresh
        return fresh.any()
