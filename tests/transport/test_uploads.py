"""What is sent next: of one remote (`UploadQueue`), and of all that wait for a slot (`DataPlane`)."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.ids import TitleId
from p2pfill.model.urgency import Urgency
from p2pfill.transport.plane import DataPlane, Next, Stream
from p2pfill.transport.uploads import UploadQueue

TITLES = [TitleId(bytes([number]) * 32) for number in range(3)]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(TITLES)),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("withdraw"), st.integers(0, 20)),
        st.tuples(st.just("rank"), st.tuples(st.sampled_from(TITLES), st.integers(-2, 2))),
    ),
    max_size=40,
)


@given(steps)
def test_the_most_urgent_goes_first_and_what_is_equal_in_order_of_arrival(plan: list[Any]) -> None:
    ranks = dict.fromkeys(TITLES, 0)
    queue = UploadQueue(lambda title: Urgency(ranks[title]))
    waiting: list[tuple[int, TitleId]] = []
    number = 0
    for what, value in plan:
        match what:
            case "put":
                queue.put(number, value, number + 100)
                waiting.append((number, value))
                number += 1
            case "withdraw":
                queue.withdraw(value)
                waiting = [one for one in waiting if one[0] != value]
            case "rank":
                ranks[value[0]] = value[1]
            case _:
                first = min(waiting, key=lambda one: (ranks[one[1]], one[0]), default=None)
                expected = queue.urgency()
                asked = queue.take()
                if first is None:
                    assert (asked, expected) == (None, None)
                    continue
                waiting.remove(first)
                assert asked == (*first, first[0] + 100)
                assert expected == Urgency(ranks[first[1]])
        assert len(queue) == len(waiting)


def test_threads_that_take_get_each_request_once() -> None:
    queue = UploadQueue(lambda title: Urgency())
    took: list[int] = []
    done = threading.Event()

    def take() -> None:
        while not (done.is_set() and not len(queue)):
            if (asked := queue.take()) is not None:
                took.append(asked.request_id)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(5000):
        queue.put(number, TITLES[number % 3], 0)
        queue.withdraw(number - 40) if number % 5 == 0 else None
    done.set()
    for thread in threads:
        thread.join(20)
    assert len(took) == len(set(took))
    assert {number for number in range(5000) if (number + 40) % 5} <= set(took)


class Idle(Stream):
    """A stream that only waits for slots."""

    def interest(self) -> int:
        return 0

    def work(self, ready: int) -> Next:
        return Next.PARK

    def is_inside_chunk(self) -> bool:
        return False


@pytest.fixture
async def plane() -> AsyncIterator[DataPlane]:
    async with DataPlane(workers=1, upload_slots=1).running() as running:
        yield running


def streams(plane: DataPlane, count: int) -> list[Stream]:
    # One socket for all: nothing is sent, and the plane does not serve them.
    with trio.socket.socket() as sock:
        return [Idle(sock, plane) for _ in range(count)]


def owner(found: list[Stream]) -> int:
    (number,) = (number for number, stream in enumerate(found) if stream.has_slot)
    return number


async def test_slots_go_to_the_most_urgent_and_among_equals_to_who_came_first(plane: DataPlane) -> None:
    found = streams(plane, 5)
    ranks = [0, 0, -5, 3, -5]
    assert [plane.take_slot(stream, Urgency(rank)) for stream, rank in zip(found, ranks, strict=True)] == [
        True, False, False, False, False,
    ]  # fmt: skip
    order = []
    while any(stream.has_slot for stream in found):
        order.append(owner(found))
        plane.release_slot(found[order[-1]])
    assert order == [0, 2, 4, 1, 3]
    assert plane.take_slot(found[0], Urgency())


async def test_a_stream_that_waits_moves_up_when_something_more_urgent_comes(plane: DataPlane) -> None:
    found = streams(plane, 4)
    for stream in found:
        plane.take_slot(stream, Urgency())
    plane.hurry(found[3], Urgency(-1))
    plane.hurry(found[2], Urgency(1))  # what it waits for already is more urgent
    found[1].closed = True
    order = []
    while any(stream.has_slot for stream in found):
        order.append(owner(found))
        plane.release_slot(found[order[-1]])
    assert order == [0, 3, 2]


async def test_a_stream_keeps_its_slot_from_those_that_are_less_urgent_only(plane: DataPlane) -> None:
    found = streams(plane, 2)
    for stream in found:
        plane.take_slot(stream, Urgency())
    assert plane.renew_slot(found[0], Urgency(-1))
    assert owner(found) == 0
    assert not plane.renew_slot(found[0], Urgency())
    assert owner(found) == 1
    plane.release_slot(found[1])
    assert owner(found) == 0
