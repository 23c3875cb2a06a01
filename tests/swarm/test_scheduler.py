"""Which of several titles may ask: what must hold after any sequence of beginnings, ends, payload and time."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.ids import TitleId
from p2pfill.model.urgency import Urgency
from p2pfill.swarm.scheduler import STUCK_S, FillScheduler

TITLES = [TitleId(bytes([number]) * 32) for number in range(4)]
A, B, C, _ = TITLES

steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "saw", "wait"]),
        st.sampled_from(TITLES),
        st.integers(-2, 2),
        st.floats(0.0, 2 * STUCK_S),
    ),
    max_size=40,
)


class Model:
    """The rule, said the slow way: for each fill all others are looked at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.scheduler = FillScheduler()
        self.urgency: dict[TitleId, Urgency] = {}
        self.moved_at: dict[TitleId, float] = {}
        self.held: dict[TitleId, bool] = {}

    def step(self, what: str, title: TitleId, rank: int, span_s: float) -> None:
        match what:
            case "put":
                urgency = Urgency(rank)
                if title not in self.urgency or urgency < self.urgency[title]:
                    self.moved_at[title] = self.now
                self.urgency[title] = urgency
                self.held.setdefault(title, False)
                self.scheduler.put(self.now, title, urgency)
            case "drop":
                for table in (self.urgency, self.moved_at, self.held):
                    table.pop(title, None)  # type: ignore[attr-defined]
                self.scheduler.drop(title)
            case "saw":
                needs_look = self.scheduler.saw(self.now, title)
                if title in self.urgency:
                    self.moved_at[title] = self.now
                if not needs_look:
                    assert self.expected() == self.held
            case _:
                self.now += span_s
        self.look()

    def moves(self, title: TitleId) -> bool:
        return self.now < self.moved_at[title] + STUCK_S

    def expected(self) -> dict[TitleId, bool]:
        return {
            title: any(self.moves(other) and self.urgency[other] < urgency for other in self.urgency)
            for title, urgency in self.urgency.items()
        }

    def look(self) -> None:
        changed = self.scheduler.look(self.now)
        assert all(self.held[title] != held for title, held in changed.items())
        self.held |= changed
        assert self.held == self.expected()


@given(steps)
def test_a_fill_holds_back_while_a_more_urgent_one_moves_and_only_then(plan: list[Any]) -> None:
    model = Model()
    for step in plan:
        model.step(*step)
        assert not model.held or not all(model.held.values()), "somebody may always ask"
        assert len(model.scheduler) == len(model.held)


@given(steps)
def test_nobody_is_held_back_for_long_by_fills_that_are_stuck(plan: list[Any]) -> None:
    model = Model()
    for step in plan:
        model.step(*step)
    model.now += STUCK_S
    model.look()
    assert not any(model.held.values())


def test_a_stuck_fill_takes_precedence_again_with_its_next_byte() -> None:
    scheduler = FillScheduler()
    scheduler.put(0.0, A, Urgency(-1))
    scheduler.put(0.0, B, Urgency(0))
    assert scheduler.look(0.0) == {B: True}
    assert not scheduler.saw(1.0, A)
    assert scheduler.look(1.0 + STUCK_S) == {B: False}
    assert scheduler.saw(9.0, A)
    assert scheduler.look(9.0) == {B: True}


def test_a_fill_that_becomes_more_urgent_has_its_turn_at_once() -> None:
    scheduler = FillScheduler()
    for title, deadline in ((A, 1.0), (B, 2.0), (C, 3.0)):
        scheduler.put(0.0, title, Urgency.of(0, deadline))
    assert scheduler.look(0.0) == {B: True, C: True}
    scheduler.saw(9.0, A)
    scheduler.put(9.0, C, Urgency.of(5, 3.0))
    assert scheduler.look(9.0) == {A: True, C: False}
    scheduler.drop(C)
    assert scheduler.look(9.0) == {A: False}


def test_equals_share() -> None:
    scheduler = FillScheduler()
    scheduler.put(0.0, A, Urgency(1))
    scheduler.put(0.0, B, Urgency(1))
    assert scheduler.look(0.0) == {}
