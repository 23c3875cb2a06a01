"""What goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.urgency import Urgency

orders = st.tuples(st.integers(-5, 5), st.none() | st.floats(1, 4e9))


@given(orders, orders)
def test_priority_binds_before_the_deadline(one: tuple[int, float | None], other: tuple[int, float | None]) -> None:
    first = Urgency.of(*one) < Urgency.of(*other)
    if one[0] != other[0]:
        assert first == (one[0] > other[0])
    else:
        assert first == (one[1] is not None and (other[1] is None or one[1] < other[1]))


def test_what_nobody_orders_is_like_an_order_without_priority_and_deadline() -> None:
    assert Urgency() == Urgency.of(0)
    assert Urgency.of(0, 4e9) < Urgency() < Urgency.of(-1, 1.0)
