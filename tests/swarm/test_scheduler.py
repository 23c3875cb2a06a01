"""Which of several titles may ask: what must hold after any sequence of beginnings, ends, payload and time."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.ids import TitleId
from p2pfill.model.limits import CHUNK_SIZE_MIN
from p2pfill.model.timing import SCHEDULER_S
from p2pfill.model.urgency import Urgency
from p2pfill.swarm.scheduler import CREDIT_S, LEAST_RATE_BYTES_S, STUCK_S, FillScheduler, Hold

TITLES = [TitleId(bytes([number]) * 32) for number in range(4)]
A, B, C, _ = TITLES

steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "drop", "saw", "wait", "turn"]),
        st.sampled_from(TITLES),
        st.integers(-2, 2),
        st.floats(0.0, 2 * STUCK_S) | st.floats(0.0, 2 * CREDIT_S),
        st.booleans(),
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
        self.paid_until: dict[TitleId, float] = {}
        self.held: dict[TitleId, Hold] = {}
        self.exempt: set[TitleId] = set()
        self.is_open = True

    def step(self, what: str, title: TitleId, rank: int, span_s: float, is_exempt: bool) -> None:
        match what:
            case "put":
                urgency = Urgency(rank)
                waited = is_exempt and self.held.get(title) == "window"
                if title not in self.urgency or urgency < self.urgency[title] or waited:
                    self.begin(title)
                self.urgency[title] = urgency
                self.held.setdefault(title, None)
                self.exempt = (self.exempt - {title}) | ({title} if is_exempt else set())
                self.scheduler.put(self.now, title, urgency, is_exempt=is_exempt)
            case "drop":
                for table in (self.urgency, self.moved_at, self.paid_until, self.held):
                    table.pop(title, None)  # type: ignore[attr-defined]
                self.scheduler.drop(title)
            case "saw":
                count = int(span_s * LEAST_RATE_BYTES_S)
                needs_look = self.scheduler.saw(self.now, title, count)
                if title in self.urgency:
                    self.moved_at[title] = self.now
                    paid_until = max(self.now, self.paid_until[title]) + count / LEAST_RATE_BYTES_S
                    self.paid_until[title] = min(paid_until, self.now + CREDIT_S)
                if not needs_look:
                    assert self.expected() == self.held
            case "turn":
                self.is_open = not self.is_open
                if self.is_open:
                    for one in self.urgency.keys() - self.exempt:
                        self.begin(one)
                self.scheduler.set_open(self.now, is_open=self.is_open)
            case _:
                self.now += span_s
                before, awaited = dict(self.held), self.scheduler.awaits_time
                self.look()
                assert awaited or self.held == before
        self.look()

    def begin(self, title: TitleId) -> None:
        self.moved_at[title], self.paid_until[title] = self.now, self.now + CREDIT_S

    def moves(self, title: TitleId) -> bool:
        return self.now < self.moved_at[title] + STUCK_S and self.now < self.paid_until[title]

    def may(self, title: TitleId) -> bool:
        return self.is_open or title in self.exempt

    def expected(self) -> dict[TitleId, Hold]:
        holds: dict[TitleId, Hold] = {}
        for title, urgency in self.urgency.items():
            before = [other for other in self.urgency if self.may(other) and self.urgency[other] < urgency]
            holds[title] = "urgency" if any(self.moves(other) for other in before) else None
            if not self.may(title):
                holds[title] = "window"
        return holds

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
        may = [title for title in model.held if model.may(title)]
        assert not may or not all(model.held[title] for title in may), "somebody may always ask"
        assert len(model.scheduler) == len(model.held)


@given(steps)
def test_nobody_is_held_back_for_long_by_fills_that_are_stuck(plan: list[Any]) -> None:
    model = Model()
    for step in plan:
        model.step(*step)
    model.now += STUCK_S
    model.look()
    assert not any(hold for title, hold in model.held.items() if model.may(title))
    assert all(model.held[title] == "window" for title in model.held if not model.may(title))


def test_a_stuck_fill_takes_precedence_again_with_its_next_byte() -> None:
    scheduler = FillScheduler()
    scheduler.put(0.0, A, Urgency(-1))
    scheduler.put(0.0, B, Urgency(0))
    assert scheduler.look(0.0) == {B: "urgency"}
    assert not scheduler.saw(1.0, A)
    assert scheduler.look(1.0 + STUCK_S) == {B: None}
    assert scheduler.saw(9.0, A)
    assert scheduler.look(9.0) == {B: "urgency"}


def held_part(gap_s: int) -> float:
    """Return which part of the time, after the first minutes, A holds B back with the shortest chunk each `gap_s`."""
    scheduler, held, looks = FillScheduler(), 0, 0
    scheduler.put(0.0, A, Urgency(-1))
    scheduler.put(0.0, B, Urgency(0))
    hold: Hold = None
    for step in range(4 * 1200):
        now = step * SCHEDULER_S
        scheduler.saw(now, A, CHUNK_SIZE_MIN if now % gap_s == 0 else 0)
        hold = scheduler.look(now).get(B, hold)
        if now > 4 * CREDIT_S:
            held, looks = held + (hold is not None), looks + 1
    return held / looks


def test_a_fill_of_highest_priority_that_drips_leaves_others_the_time_that_it_does_not_pay_for() -> None:
    assert held_part(1) == 1.0
    assert held_part(2) < 0.6
    assert held_part(60) < 0.03


def test_one_that_is_ordered_out_of_cycle_later_has_its_turn_before_those_that_are_less_urgent() -> None:
    scheduler = FillScheduler()
    scheduler.set_open(0.0, is_open=False)
    scheduler.put(0.0, A, Urgency(-1))
    scheduler.put(0.0, B, Urgency(0))
    assert scheduler.look(0.0) == {A: "window", B: "window"}
    for title, rank in ((A, -1), (B, 0)):
        scheduler.put(3600.0, title, Urgency(rank), is_exempt=True)
    assert scheduler.look(3600.0) == {A: None, B: "urgency"}


def test_a_fill_that_becomes_more_urgent_has_its_turn_at_once() -> None:
    scheduler = FillScheduler()
    for title, deadline in ((A, 1.0), (B, 2.0), (C, 3.0)):
        scheduler.put(0.0, title, Urgency.of(0, deadline))
    assert scheduler.look(0.0) == {B: "urgency", C: "urgency"}
    scheduler.saw(9.0, A)
    scheduler.put(9.0, C, Urgency.of(5, 3.0))
    assert scheduler.look(9.0) == {A: "urgency", C: None}
    scheduler.drop(C)
    assert scheduler.look(9.0) == {A: None}


def test_equals_share() -> None:
    scheduler = FillScheduler()
    scheduler.put(0.0, A, Urgency(1))
    scheduler.put(0.0, B, Urgency(1))
    assert scheduler.look(0.0) == {}


def test_a_closed_cache_goes_on_with_what_is_exempt_and_opens_with_the_most_urgent() -> None:
    scheduler = FillScheduler()
    scheduler.put(0.0, A, Urgency(-1))
    scheduler.put(0.0, B, Urgency(0))
    scheduler.put(0.0, C, Urgency(1), is_exempt=True)
    assert scheduler.look(0.0) == {B: "urgency", C: "urgency"}
    scheduler.set_open(0.0, is_open=False)
    assert scheduler.look(0.0) == {A: "window", B: "window", C: None}
    scheduler.set_open(99.0, is_open=True)
    assert scheduler.look(99.0) == {A: None, B: "urgency", C: "urgency"}
