"""What goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.urgency import Urgency

orders = st.tuples(
    st.integers(-5, 5), st.none() | st.floats(1, 4e9), st.floats(1, 4e9)
)


@given(orders, orders)
def test_priority_binds_before_the_deadline_and_the_deadline_before_age(
    one: tuple[int, float | None, float], other: tuple[int, float | None, float]
) -> None:
    first = Urgency.of(*one) < Urgency.of(*other)
    if one[0] != other[0]:
        assert first == (one[0] > other[0])
    elif one[1] != other[1]:
        assert first == (one[1] is not None and (other[1] is None or one[1] < other[1]))
    else:
        assert first == (one[2] < other[2])


def test_what_nobody_has_ordered_goes_last_of_its_priority_only() -> None:
    assert Urgency.of(0, None, 4e9) < Urgency() < Urgency.of(-1, 1.0, 1.0)
