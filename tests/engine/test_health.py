"""What a cache spares for others while it serves its viewers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.engine.health import CALM_S, STEPS, Health


def test_it_gives_way_at_once_and_comes_back_when_it_was_calm() -> None:
    health = Health()
    assert not health.look(0.0, 0.1)
    assert health.look(1.0, 0.6)
    assert (health.step.weight, health.step.admits) == (0.25, 0.25)
    assert health.look(2.0, 1.0)
    assert health.step.admits == 0.0
    assert not health.look(3.0, 0.0)
    assert not health.look(3.0 + CALM_S - 0.1, 0.3)
    assert health.look(3.0 + CALM_S, 0.0)
    assert health.step.weight == 0.5, "it was so busy a moment ago"
    assert not health.look(4.0 + CALM_S, 0.0)
    assert health.look(4.0 + 2 * CALM_S, 0.0)
    assert health.step is STEPS[0]


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 1.0)), max_size=80))
def test_no_step_is_left_too_early_or_kept_too_long(looks: list[tuple[float, float]]) -> None:
    """It is never less than what was said last, and the highest of the last while where it is more."""
    health, now, said = Health(), 0.0, [(0.0, STEPS[0])]
    for passed, busy in looks:
        before, now = health.step, now + passed
        changed = health.look(now, busy)
        said.append((now, [step for step in STEPS if busy >= step.busy][-1]))
        assert changed == (health.step is not before)
        assert health.step.busy >= said[-1][1].busy
        assert health.step in [step for _, step in said]
        if health.step.busy < before.busy:
            assert all(step.busy < before.busy for at, step in said if at > now - CALM_S)
