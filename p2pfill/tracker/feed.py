"""What has changed of one node's orders, in the order of versions. Pure.

Each title has the version of its last change and stands in the log once for it, so whoever knows a version is given
what is newer, in pieces if need be: what changes again meanwhile comes again, later. A title that is ordered no more
stays as one that has gone, up to `GONE_MAX` of them. Whoever knows no version since the oldest of those that were
forgotten is told everything (`knows`).

Invariant: `_titles` has each title of `_at` at its version, and what is stale besides is less than half of it.
Rejected: a log of changes alone, out of which a node that was away for a while would be told a title once per change.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final, NamedTuple

GONE_MAX: Final = 10_000
"""Titles that are remembered as gone: a node that was away for so many withdrawals may as well be told everything."""

STALE_MIN: Final = 64
"""Stale entries below which it is not worth while to clean up."""


class Change(NamedTuple):
    """The last change of a title."""

    version: int
    title: str
    is_ordered: bool
    """Else it has gone."""


class Feed:
    """The changes of one node's orders."""

    def __init__(self, version: int) -> None:
        """Changes come after `version`."""
        self._horizon = version
        """Nobody who knows less can be told what has changed alone."""
        self._at: dict[str, int] = {}
        self._gone: dict[str, None] = {}
        """The titles of `_at` that are not ordered, the oldest first."""
        self._versions = array("Q")
        self._titles: list[str] = []
        """The log, with `_versions` beside it."""

    def __contains__(self, title: str) -> bool:
        """Tell whether a title is ordered."""
        return title in self._at and title not in self._gone

    def has_gone(self, title: str) -> bool:
        """Tell whether it is remembered that a title is ordered no more."""
        return title in self._gone

    def knows(self, version: int) -> bool:
        """Tell whether all is remembered that has changed since."""
        return version >= self._horizon

    def note(self, title: str, version: int, *, is_ordered: bool) -> None:
        """Note a change; `version` is higher than all before."""
        self._at[title] = version
        self._versions.append(version)
        self._titles.append(title)
        self._gone.pop(title, None)
        if not is_ordered:
            self._gone[title] = None
            if len(self._gone) > GONE_MAX:
                oldest = next(iter(self._gone))
                del self._gone[oldest]
                self._horizon = max(self._horizon, self._at.pop(oldest))
        if len(self._titles) > 2 * len(self._at) + STALE_MIN:
            self._clean_up()

    def since(self, version: int) -> Iterator[Change]:
        """Yield what has changed since, the oldest change first."""
        for place in range(bisect_right(self._versions, version), len(self._titles)):
            title, at = self._titles[place], self._versions[place]
            if self._at.get(title) == at:
                yield Change(at, title, title not in self._gone)

    def _clean_up(self) -> None:
        kept = [place for place, title in enumerate(self._titles) if self._at.get(title) == self._versions[place]]
        self._versions = array("Q", (self._versions[place] for place in kept))
        self._titles = [self._titles[place] for place in kept]
