"""Whether a cache may fill now: windows, budgets of the night, and clocks that jump."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pfill.engine.hours import NIGHTS_KEPT, SOON_S, TOTAL, Hours
from p2pfill.model.windows import read_windows

DAY_S = 24 * 3600
TWO: dict[str, Any] = {"timezone": "Europe/Berlin", "budget": 100,
       "window": [{"from": "23:00", "to": "02:00", "budget": 70}, {"from": "04:00", "to": "06:00"}]}  # fmt: skip


def when(*of: int) -> float:
    """Return a moment in Berlin's winter, which is an hour ahead."""
    return datetime(*of, tzinfo=UTC).timestamp() - 3600  # type: ignore[arg-type, misc]


def test_a_cache_says_a_little_before_that_it_will_be_open() -> None:
    hours = Hours(read_windows(TWO))
    assert hours.look(when(2026, 11, 29, 22)).phase == "closed"
    assert hours.look(when(2026, 11, 29, 23) - SOON_S - 1).phase == "closed"
    assert hours.look(when(2026, 11, 29, 23) - SOON_S).phase == "soon"
    now = hours.look(when(2026, 11, 29, 23))
    assert (now.phase, now.window, now.until) == ("open", 0, when(2026, 11, 30, 2))
    assert hours.look(when(2026, 11, 30, 2)).phase == "closed"


def test_before_a_short_window_it_says_so_a_tenth_of_it_before() -> None:
    hours = Hours(read_windows("12:00,max 12:02,off"))
    noon = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
    assert hours.look(noon - 13).phase == "closed"
    assert hours.look(noon - 12).phase == "soon"


def test_budgets_close_a_window_and_end_with_the_night() -> None:
    hours = Hours(read_windows(TWO))
    late = when(2026, 11, 29, 23, 30)
    hours.count(late, 69)
    assert hours.look(late).phase == "open"
    hours.count(late, 1)
    now = hours.look(late)
    assert (now.phase, now.budget_used) == ("closed", True)
    early = when(2026, 11, 30, 4, 30)
    assert hours.look(early).phase == "open"  # another window of the same night
    hours.count(early, 30)
    assert hours.look(early).phase == "closed"
    assert hours.used_of("2026-11-29") == 100
    assert hours.look(when(2026, 11, 30, 23, 30)).phase == "open"  # another night
    assert not hours.look(when(2026, 11, 30, 11)).budget_used


def test_nights_of_a_clock_that_was_ahead_do_not_push_out_this_one() -> None:
    ahead = {f"2027-05-{day:02}": {TOTAL: 1} for day in range(1, NIGHTS_KEPT + 1)}
    hours = Hours(read_windows(TWO), ahead)
    late = when(2026, 11, 29, 23, 30)
    hours.count(late, 70)
    assert hours.look(late).budget_used
    assert len(hours.used) == NIGHTS_KEPT


def test_what_was_used_of_a_window_stands_in_another_timetable_and_after_a_restart() -> None:
    late = when(2026, 11, 29, 23, 30)
    hours = Hours(read_windows(TWO))
    hours.count(late, 70)
    # One more before it, and another budget of the night; its own times are as they were.
    other = read_windows(TWO | {"budget": 900, "window": [{"from": "20:00", "to": "21:00"}, *TWO["window"]]})
    for found in (Hours(other, hours.used), hours):
        found.set_windows(other)
        assert found.look(late).budget_used
        assert not found.look(when(2026, 11, 29, 20, 30)).budget_used


def test_a_clock_that_goes_back_finds_what_was_used_then() -> None:
    hours = Hours(read_windows(TWO))
    hours.count(when(2026, 11, 29, 23, 30), 70)
    assert hours.look(when(2026, 11, 30, 23, 30)).phase == "open"
    assert hours.look(when(2026, 11, 29, 23, 30)).phase == "closed"
    again = Hours(read_windows(TWO), hours.used)
    assert again.look(when(2026, 11, 29, 23, 30)).phase == "closed"


def test_a_budget_without_windows_holds_all_day() -> None:
    hours = Hours(read_windows({"budget": 10}))
    assert hours.look(0.0).phase == "open"
    hours.count(0.0, 10)
    assert hours.look(0.0).phase == "closed"


def test_another_timetable_counts_at_once_and_the_night_goes_on() -> None:
    hours = Hours(read_windows(TWO))
    late = when(2026, 11, 29, 23, 30)
    hours.count(late, 70)
    assert hours.look(late).phase == "closed"
    hours.set_windows(read_windows(TWO | {"window": [{"from": "23:00", "to": "02:00", "budget": 90}]}))
    assert hours.look(late).phase == "open"
    hours.set_windows(read_windows(TWO | {"budget": 60}))
    assert hours.look(late).phase == "closed"


class Clock(RuleBasedStateMachine):
    """A clock that runs, jumps and goes back, and bytes that come in meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.hours = Hours(read_windows(TWO))
        self.now = when(2026, 3, 28, 22)
        self.came: dict[tuple[str, int | None], int] = {}

    @rule(by=st.one_of(st.floats(0, 120), st.integers(-2, 3).map(lambda days: days * DAY_S), st.floats(0, 6 * 3600)))
    def pass_time(self, by: float) -> None:
        self.now += by

    @rule(count=st.integers(1, 40))
    def come_in(self, count: int) -> None:
        now = self.hours.look(self.now)
        if now.phase == "open":
            self.hours.count(self.now, count)
            key = now.night, now.window
            self.came[key] = self.came.get(key, 0) + count

    @rule()
    def restart(self) -> None:
        self.hours = Hours(self.hours.windows, self.hours.used)

    @invariant()
    def says_what_the_timetable_says(self) -> None:
        now, fresh = self.hours.look(self.now), self.hours.windows.at(self.now)
        assert (now.window, now.until, now.night) == (fresh.window, fresh.until, fresh.night)
        assert now.phase != "open" or fresh.is_open
        assert now.phase != "soon" or (not fresh.is_open and fresh.until - self.now <= SOON_S)

    @invariant()
    def no_budget_is_exceeded_by_more_than_what_came_last(self) -> None:
        for night, by_window in self.hours.used.items():
            assert by_window[TOTAL] < 100 + 40
            assert by_window.get("0123456 23:00-02:00", 0) < 70 + 40
            # Less where the night was forgotten meanwhile.
            assert by_window[TOTAL] <= sum(count for (of, _), count in self.came.items() if of == night)
        assert len(self.hours.used) <= NIGHTS_KEPT


TestClock = Clock.TestCase
TestClock.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
