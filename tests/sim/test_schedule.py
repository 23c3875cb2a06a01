"""What is entered happens once, in order of time and, at one moment, of entry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.sim.schedule import BUCKET_S, Schedule

delays = st.one_of(st.just(0.0), st.floats(0.0, 3 * BUCKET_S), st.floats(0.0, 5.0), st.sampled_from([BUCKET_S, 1.0]))


@given(
    st.lists(st.tuples(delays, st.lists(delays, max_size=3)), max_size=20), st.lists(st.floats(0.0, 12.0), max_size=4)
)
def test_deeds_are_done_in_order(plan: list[tuple[float, list[float]]], stops: list[float]) -> None:
    schedule = Schedule()
    entered: list[tuple[float, int]] = []
    done: list[tuple[float, int]] = []

    def enter(delay_s: float, more: list[float]) -> None:
        number = len(entered)
        entered.append((schedule.now + delay_s, number))
        schedule.after(delay_s, deed, number, more)

    def deed(number: int, more: list[float]) -> None:
        assert schedule.now == entered[number][0]
        done.append(entered[number])
        for delay_s in more:
            enter(delay_s, [])

    for delay_s, more in plan:
        enter(delay_s, more)
    for until in [*sorted(stops), 20.0]:
        schedule.run(until, lambda: False)
        assert schedule.now == until
        assert [one for one in entered if one[0] <= until] == sorted(done, key=lambda one: one[1])
        # From outside, between two runs.
        enter(0.0, [BUCKET_S])
    schedule.run(30.0, lambda: False)
    assert done == sorted(entered)
    assert schedule.done == len(entered)
