"""What other caches say that they are fetching across borders, and for how long that is believed. Pure.

A cache repeats its claim of a chunk while bytes of it come, so that others wait for it and no change of the roster has
a chunk fetched twice. A claim alone proves nothing, so each has a time by which the chunk must be here: counted from
the first claim, however often it is repeated. After that it does not count, and whoever stands in fetches the chunk.

In a large fleet most of those who wait for a chunk are not linked with who fetches it. So its master in an ISP passes
on, into its ISP, what it hears from farther out, and the one of a region does so into the region (`Fill`). Claims only
ever go inwards, from a larger group into a smaller one, so they cannot go round in a circle and outlive who made them.

Of one chunk the second claimant has twice the time of the first, the third four times, and so on. Where an origin is
slower than the time allows for, all of them share its rate: with equal times everybody would join in, and nobody ever
get the chunk through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.timing import PROGRESS_S

CLAIM_S: Final = 2.25 * PROGRESS_S
"""A claim that was not repeated for so long is void: it was repeated each `PROGRESS_S`, and two may be late."""

DOUBLINGS_MAX: Final = 6
"""Stops the doubling of the time: some minutes for the usual chunk."""


@dataclass(slots=True)
class _Claim:
    since: float
    """When it was first made."""
    at: float
    """When it was made last."""
    times: int
    """How many times the usual time it has."""
    counts: bool = False
    is_broken: bool = False
    """Its time has passed, and the chunk has not come."""


class Claims:
    """Claims of the chunks of one title, as one cache has heard them."""

    def __init__(self, time_s: float) -> None:
        """`time_s` is within what a chunk must be here after it was first claimed; it may be changed at any time."""
        self.time_s = time_s
        self._made: dict[int, dict[str, _Claim]] = {}
        """Chunk -> who claims it -> the claim."""
        self._passed_on: dict[int, float] = {}
        """Chunk -> when its claim was passed on last."""

    def __bool__(self) -> bool:
        """Tell whether there are any, of use or not."""
        return bool(self._made)

    def note(self, now: float, node_id: str, chunks: Iterable[int]) -> None:
        """Take in that a cache says it is fetching `chunks`."""
        for chunk in chunks:
            made = self._made.setdefault(chunk, {})
            claim = made.get(node_id)
            if claim is None:
                claim = made[node_id] = _Claim(now, now, 1 << min(len(made), DOUBLINGS_MAX))
            claim.at = now
            claim.counts = now < claim.since + claim.times * self.time_s

    def settle(self, chunks: Iterable[int]) -> None:
        """Note that chunks have arrived somewhere, so that nobody is still fetching them."""
        if self._made:
            for chunk in chunks:
                self._made.pop(chunk, None)

    def settle_all(self, holdings: Bitmap) -> None:
        """Note that all of `holdings` have arrived somewhere."""
        self.settle([chunk for chunk in self._made if holdings[chunk]])

    def lose(self, node_id: str) -> None:
        """Note that the link to a cache has ended: what it was fetching is free for others.

        The time that it has used up stays used up if it comes back.
        """
        for made in self._made.values():
            if (claim := made.get(node_id)) is not None:
                claim.counts = False

    def look(self, now: float) -> None:
        """Forget what has become void. To be called each tick."""
        for chunk, made in list(self._made.items()):
            for node_id, claim in list(made.items()):
                used_up_at = claim.since + claim.times * self.time_s
                claim.is_broken = now >= used_up_at
                claim.counts = claim.counts and not claim.is_broken and now <= claim.at + CLAIM_S
                if now > max(used_up_at, claim.at + claim.times * self.time_s):
                    del made[node_id]
            if not made:
                del self._made[chunk]

    def standing(self) -> Iterator[tuple[int, str]]:
        """Yield the claims that count: a chunk, and who makes it."""
        for chunk, made in self._made.items():
            for node_id, claim in made.items():
                if claim.counts:
                    yield chunk, node_id

    def pass_on(self, now: float, chunks: Iterable[int]) -> tuple[int, ...]:
        """Return of which `chunks` a claim is to be passed on now: as often as it is made, and no more often."""
        due = [chunk for chunk in chunks if now >= self._passed_on.get(chunk, float("-inf")) + PROGRESS_S]
        self._passed_on = {chunk: at for chunk, at in self._passed_on.items() if chunk in self._made}
        self._passed_on.update(dict.fromkeys(due, now))
        return tuple(due)

    def broken(self) -> Iterator[tuple[int, str]]:
        """Yield the claims whose time has passed in vain: a chunk, and who made it."""
        for chunk, made in self._made.items():
            for node_id, claim in made.items():
                if claim.is_broken:
                    yield chunk, node_id

    def allowances(self) -> dict[str, float]:
        """Return who makes claims that count, each with the time that it has for one of them."""
        allowed: dict[str, float] = {}
        for made in self._made.values():
            for node_id, claim in made.items():
                if claim.counts:
                    allowed[node_id] = max(allowed.get(node_id, 0.0), claim.times * self.time_s)
        return allowed
