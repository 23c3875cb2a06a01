"""The table of a title's phases, and that what is not in it does not happen."""

from __future__ import annotations

from itertools import product

import pytest

from p2pfill.errors import InternalError
from p2pfill.model.ids import TitleId
from p2pfill.node.titles import TRANSITIONS, NodeTitle, TitlePhase, TitleStep


@pytest.mark.parametrize(("phase", "step"), list(product(TitlePhase, TitleStep)))
def test_a_title_moves_as_the_table_says(phase: TitlePhase, step: TitleStep) -> None:
    title = NodeTitle(TitleId(bytes(32)))
    title.phase = phase
    if (target := TRANSITIONS.get((phase, step))) is not None:
        title.step(step)
        assert title.phase is target
    else:
        with pytest.raises(InternalError, match=phase.value):
            title.step(step)
        assert title.phase is phase


def test_every_phase_is_reached_and_left() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(TitlePhase)
