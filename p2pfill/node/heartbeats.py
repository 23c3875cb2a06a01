"""What a tracker has been told of a node's titles, and what it has yet to be told. Pure.

A heartbeat says what has changed since the last one that the tracker has acknowledged, and no more than fits into a
piece; what is left goes with the next ones, which follow at once. Each builds on a heartbeat that was acknowledged
(`since`). A tracker that does not know that one says so, and is told everything again, beginning with 0.

Invariants: a title whose report differs from what the tracker has is in `_changed` or in the piece on its way; only one
piece is on its way. Rejected: a version of its own for each title, which both sides would have to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from p2pfill.model.ids import TitleId


class Untold:
    """The titles of which the tracker is to be told."""

    def __init__(self) -> None:
        self.since = 0
        """The last heartbeat that was acknowledged; 0: the tracker is told everything."""
        self._changed: dict[TitleId, None] = {}
        self._on_its_way: dict[TitleId, None] = {}

    def __len__(self) -> int:
        return len(self._changed)

    def note(self, titles: Iterable[TitleId]) -> None:
        """Note that there is news of titles, or that they are gone."""
        self._changed.update(dict.fromkeys(titles))

    def take(self) -> Iterator[TitleId]:
        """Yield the titles of the next piece, as long as the caller goes on; they are on their way then."""
        while self._changed:
            title_id = next(iter(self._changed))
            del self._changed[title_id]
            self._on_its_way[title_id] = None
            yield title_id

    def acknowledged(self, sequence: int) -> None:
        """Note that the tracker has taken the piece that was on its way."""
        self._on_its_way = {}
        self.since = sequence

    def lost(self) -> None:
        """Note that it may not have taken it."""
        self._changed = {**self._on_its_way, **self._changed}
        self._on_its_way = {}

    def begin_again(self, titles: Iterable[TitleId]) -> None:
        """Tell it everything: it has forgotten, or is another one."""
        self._on_its_way = {}
        self._changed = dict.fromkeys(titles)
        self.since = 0
