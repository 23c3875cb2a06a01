"""The clock of a run, and what is noted of each cache."""

from __future__ import annotations

import time

import pytest

from bench.swarm.contender import Course
from bench.swarm.topology import parse_topology

TOPOLOGY = parse_topology(
    'host_mbit = 100\napart = ["a3"]\n[isps]\ncloud = ["origin"]\nisp-a = ["a1", "a2", "a3"]\n', "test"
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until its only element is changed."""
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_times_are_seconds_after_the_order(clock: list[float]) -> None:
    course = Course(TOPOLOGY)
    clock[0] += 50
    assert not course.begun.is_set()
    course.begin()
    clock[0] += 2
    assert course.begun.is_set()
    assert course.elapsed_s() == 2.0
    course.note_progress("a1", 0.5)
    course.note_live("a1", 1051.5)
    assert course.live_s == {"a1": 1.5}
    assert course.curves["a1"] == [(0.0, 0.0), (1.5, 1.0)]


def test_done_when_all_that_count_are_live(clock: list[float]) -> None:
    course = Course(TOPOLOGY)
    course.begin()
    course.note_live("a1", clock[0] + 1)
    assert course.missing() == ["a2"]
    course.note_live("a2", clock[0] + 2)
    assert course.done.is_set()
    assert course.missing() == []
    assert "a3" not in course.live_s


def test_curves_only_grow(clock: list[float]) -> None:
    course = Course(TOPOLOGY)
    course.begin()
    for part in (0.2, 0.2, 0.1, 0.4):
        clock[0] += 1
        course.note_progress("a2", part)
    assert course.curves["a2"] == [(0.0, 0.0), (1.0, 0.2), (4.0, 0.4)]


def test_a_late_cache_has_its_own_beginning(clock: list[float]) -> None:
    course = Course(TOPOLOGY)
    course.begin()
    clock[0] += 3
    course.note_joined("a2")
    assert course.joined_s == {"a2": 3.0}
    assert course.curves["a2"] == [(3.0, 0.0)]
