"""Heartbeats say what is new, in pieces, and the tracker ends with all of it, whatever is lost on the way."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.model.ids import TitleId
from p2pfill.node.heartbeats import Untold

PIECE = 3


class Tracker:
    """What a tracker makes of heartbeats: the rule of `Service`, over numbers instead of reports."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.titles: dict[TitleId, int] = {}
        self.applied = 0
        self.unconfirmed: set[TitleId] = set()

    def take(self, sequence: int, since: int, said: dict[TitleId, int | None], more: bool) -> bool:
        if since > self.applied:
            return False
        if not since:
            self.unconfirmed = set(self.titles)
        self.unconfirmed -= said.keys()
        for title_id, value in said.items():
            if value is None:
                self.titles.pop(title_id, None)
            else:
                self.titles[title_id] = value
        if not more:
            for title_id in self.unconfirmed:
                self.titles.pop(title_id, None)
            self.unconfirmed = set()
        self.applied = sequence
        return True


class Node:
    def __init__(self) -> None:
        self.titles: dict[TitleId, int] = {}
        self.untold = Untold()
        self.sequence = 0

    def set(self, number: int, value: int | None) -> None:
        title_id = TitleId(bytes([number]) * 32)
        if value is None:
            self.titles.pop(title_id, None)
        else:
            self.titles[title_id] = value
        self.untold.note([title_id])

    def beat(self, tracker: Tracker, fate: str) -> int:
        """Send a heartbeat; return how many titles it named."""
        said: dict[TitleId, int | None] = {}
        for title_id in self.untold.take():
            said[title_id] = self.titles.get(title_id)
            if len(said) >= PIECE:
                break
        self.sequence += 1
        known = fate != "lost" and tracker.take(self.sequence, self.untold.since, said, len(self.untold) > 0)
        if fate in ("lost", "unanswered"):
            self.untold.lost()
        elif known:
            self.untold.acknowledged(self.sequence)
        else:
            self.untold.begin_again(list(self.titles))
        return len(said)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 99))),
        st.tuples(st.just("beat"), st.sampled_from(["taken", "lost", "unanswered"])),
        st.tuples(st.just("restart")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_the_tracker_ends_with_what_the_node_has(steps: list[tuple[object, ...]]) -> None:
    node, tracker = Node(), Tracker()
    for step in steps:
        match step:
            case ("set", int(number), value):
                assert value is None or isinstance(value, int)
                node.set(number, value)
            case ("beat", str(fate)):
                node.beat(tracker, fate)
            case _:
                tracker.restart()
    for _ in range(10):
        node.beat(tracker, "taken")
    assert tracker.titles == node.titles
    assert node.beat(tracker, "taken") == 0
