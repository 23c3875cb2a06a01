"""Plans of schedules, drawn from their seeds."""

from __future__ import annotations

import random
from typing import Final, Literal, NamedTuple

Step = Literal[
    "ask", "move", "cancel", "hear", "write", "contest", "break", "reject", "reap", "ended", "decide", "do", "let",
    "wait", "drop", "refill",
]  # fmt: skip
WEIGHTS: Final[dict[Step, float]] = {
    "ask": 14, "move": 9, "cancel": 3, "hear": 8, "write": 36, "contest": 14, "break": 1, "reject": 1, "reap": 6,
    "ended": 3, "decide": 4, "do": 6, "let": 6, "wait": 6, "drop": 0.4, "refill": 0.4,
}  # fmt: skip


class Planned(NamedTuple):
    """One step, and what it is to pick, as parts of whatever there is to pick from."""

    step: Step
    a: float
    b: float
    c: float


class Plan(NamedTuple):
    """A schedule."""

    honest: tuple[bool, ...]
    """Of each remote; the first one always is."""
    lines: tuple[int, ...]
    steps: tuple[Planned, ...]


def draw(seed: int) -> Plan:
    """Return the schedule of a seed."""
    chance = random.Random(f"schedule {seed}")
    count = chance.choice((1, 2, 2, 2, 3))
    honest = (True, *(chance.random() < 0.25 for _ in range(count - 1)))
    lines = tuple(chance.choice((1, 1, 2, 3)) for _ in range(count))
    kinds = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=chance.randrange(10, 60))
    return Plan(honest, lines, tuple(Planned(k, chance.random(), chance.random(), chance.random()) for k in kinds))
