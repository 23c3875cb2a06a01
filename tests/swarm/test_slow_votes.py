"""What counts of what caches say of each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.swarm.slow_votes import SlowVotes

JUDGES = ["a", "b", "c", "d"]


@given(st.lists(st.tuples(st.sampled_from([*JUDGES, "x", "stranger"]), st.floats(0, 10)), max_size=12))
def test_half_of_the_judges_decide_while_their_word_counts(said: list[tuple[str, float]]) -> None:
    verdicts = SlowVotes()
    for by, until in said:
        verdicts.note(by, "x", until)
    latest = dict(said)
    for now in (0.0, 2.5, 5.0, 11.0):
        voices = sum(latest.get(judge, -1.0) > now for judge in JUDGES)
        assert verdicts.is_agreed(now, "x", JUDGES) == (voices >= 2)
        assert not verdicts.is_agreed(now, "x", [])


def test_who_is_gone_is_forgotten() -> None:
    verdicts = SlowVotes()
    for by in JUDGES:
        verdicts.note(by, "x", 10.0)
    verdicts.keep(["x", "a"])
    assert not verdicts.is_agreed(0.0, "x", JUDGES)
    assert verdicts.is_agreed(0.0, "x", ["a", "b"])
    verdicts.keep(["a"])
    assert not verdicts.is_agreed(0.0, "x", ["a"])
