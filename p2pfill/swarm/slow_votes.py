"""What caches say of each other: whom they do without because it is slow. Pure.

Caches that share the work at a border must agree on who takes part in it. One that is slow looks less so to whoever
waits for it alone, once the others have stopped asking it; so whoever finds one says so, and where half of the others
of its ISP do without a cache, everybody does. Whoever slanders can so have some work done by others in a small ISP, and
nothing in a large one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class SlowVotes:
    """Who has said of whom that it is slow, and until when that counts."""

    def __init__(self) -> None:
        self._said: dict[str, dict[str, float]] = {}
        """Cache -> who does without it -> until when."""

    def note(self, by: str, of: str, until: float) -> None:
        """Take in that `by` does without `of`. Both are members of the roster, which bounds what is kept."""
        if by != of:
            self._said.setdefault(of, {})[by] = until

    def is_agreed(self, now: float, of: str, judges: Collection[str]) -> bool:
        """Tell whether half of `judges` do without a cache."""
        said = self._said.get(of, {})
        return 2 * sum(said.get(judge, now) > now for judge in judges) >= len(judges) > 0

    def keep(self, members: Iterable[str]) -> None:
        """Forget what concerns others than `members`."""
        names = set(members)
        self._said = {
            of: {judge: until for judge, until in said.items() if judge in names}
            for of, said in self._said.items()
            if of in names
        }
