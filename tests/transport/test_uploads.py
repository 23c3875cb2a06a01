"""What is sent next: of one remote (`UploadQueue`), and of all that wait for a slot (`DataPlane`)."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.engine.uploads import NextUpload, UploadQueue
from p2pfill.model.ids import TitleId
from p2pfill.model.urgency import Urgency
from p2pfill.transport.plane import DataPlane, Poll, Stream

TITLES = [TitleId(bytes([number]) * 32) for number in range(3)]


def wanted(rank: int = 0, title: TitleId = TITLES[0]) -> NextUpload:
    return NextUpload(Urgency(rank), title)


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
    queue = UploadQueue(lambda title: Urgency(ranks[title]), threading.Lock())
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
                expected = queue.wanted()
                asked = queue.take()
                if first is None:
                    assert (asked, expected) == (None, None)
                    continue
                waiting.remove(first)
                assert asked == (*first, first[0] + 100)
                assert expected == NextUpload(Urgency(ranks[first[1]]), first[1])
        assert len(queue) == len(waiting)


def test_threads_that_take_get_each_request_once() -> None:
    queue = UploadQueue(lambda title: Urgency(), threading.Lock())
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

    def work(self, ready: int) -> Poll:
        return Poll.PARK

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
    assert [plane.take_slot(stream, wanted(rank)) for stream, rank in zip(found, ranks, strict=True)] == [
        True, False, False, False, False,
    ]  # fmt: skip
    order = []
    while any(stream.has_slot for stream in found):
        order.append(owner(found))
        plane.release_slot(found[order[-1]])
    assert order == [0, 2, 4, 1, 3]
    assert plane.take_slot(found[0], wanted())


async def test_a_stream_that_has_ended_takes_no_slot_with_it(plane: DataPlane) -> None:
    ended, other = streams(plane, 2)
    # Where a thread was on its way for a slot when the stream ended.
    ended.closed = True
    plane.release_slot(ended)
    assert not plane.take_slot(ended, wanted())
    assert not plane.reprioritise(ended, wanted(-1))
    assert plane.take_slot(other, wanted())


async def test_a_stream_that_waits_moves_up_when_something_more_urgent_comes(plane: DataPlane) -> None:
    found = streams(plane, 4)
    for stream in found:
        plane.take_slot(stream, wanted())
    plane.reprioritise(found[3], wanted(-1))
    plane.reprioritise(found[2], wanted(1))  # what it waits for already is more urgent
    found[1].closed = True
    order = []
    while any(stream.has_slot for stream in found):
        order.append(owner(found))
        plane.release_slot(found[order[-1]])
    assert order == [0, 3, 2]


async def test_a_stream_keeps_its_slot_from_those_that_are_less_urgent_only(plane: DataPlane) -> None:
    found = streams(plane, 2)
    for stream in found:
        plane.take_slot(stream, wanted())
    assert plane.renew_slot(found[0], wanted(-1))
    assert owner(found) == 0
    assert not plane.renew_slot(found[0], wanted())
    assert owner(found) == 1
    plane.release_slot(found[1])
    assert owner(found) == 0


async def test_who_is_farthest_away_goes_first_among_what_is_as_urgent(plane: DataPlane) -> None:
    found = streams(plane, 4)
    for stream, nearness in zip(found, (0, 0, -2, -1), strict=True):
        stream.nearness = nearness
        plane.take_slot(stream, wanted())
    order = []
    while any(stream.has_slot for stream in found):
        order.append(owner(found))
        plane.release_slot(found[order[-1]])
    assert order == [0, 2, 3, 1]


async def test_a_title_takes_no_more_slots_than_it_may_and_others_take_the_rest() -> None:
    async with DataPlane(workers=1, upload_slots=4).running() as plane:
        found = streams(plane, 6)
        plane.limit(TITLES[0], 2)
        for stream in found[:4]:
            plane.take_slot(stream, wanted())
        assert [stream.has_slot for stream in found] == [True, True, False, False, False, False]
        assert plane.take_slot(found[4], wanted(5, TITLES[1]))
        plane.release_slot(found[0])
        assert [stream.has_slot for stream in found] == [False, True, True, False, True, False]
        # Between chunks: what may go on does, and a title over its limit waits.
        assert plane.renew_slot(found[4], wanted(5, TITLES[1]))
        assert not plane.renew_slot(found[1], wanted())
        assert found[3].has_slot
        plane.limit(TITLES[0], 1)
        assert not plane.renew_slot(found[2], wanted())
        assert [stream.has_slot for stream in found[:4]] == [False, False, False, True]
        plane.limit(TITLES[0], None)
        assert [stream.has_slot for stream in found[:4]] == [False, True, True, True]
        for stream in found:
            plane.release_slot(stream)
        assert not any(stream.has_slot for stream in found)
        for stream in found[:4]:
            assert plane.take_slot(stream, wanted())
        assert not plane.take_slot(found[4], wanted())
        assert not plane.take_slot(found[5], wanted(-1))


async def test_who_waits_for_a_title_at_its_limit_is_served_when_it_waits_for_something_else() -> None:
    async with DataPlane(workers=1, upload_slots=4).running() as plane:
        found = streams(plane, 2)
        plane.limit(TITLES[0], 1)
        for stream in found:
            plane.take_slot(stream, wanted())
        assert not found[1].has_slot
        plane.reprioritise(found[1], wanted(-1, TITLES[1]))
        assert found[1].slot_title == TITLES[1]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "renew", "release", "limit", "hurry"]),
            st.integers(0, 5), st.integers(-1, 1), st.sampled_from(TITLES), st.none() | st.integers(1, 3),
            st.booleans(),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_slots_are_neither_lost_nor_made_and_none_is_free_while_somebody_may_have_it(steps: list[Any]) -> None:
    async def play() -> None:
        plane = DataPlane(workers=1, upload_slots=3)
        found = streams(plane, 6)
        for stream in found[3:]:
            stream.tier = "regional"
        for what, number, rank, title, slots, is_tier in steps:
            stream, need = found[number], wanted(rank, title)
            match what:
                case "take" if not stream.has_slot and stream.place is None:
                    plane.take_slot(stream, need)
                case "renew" if stream.has_slot:
                    plane.renew_slot(stream, need)
                case "hurry":
                    plane.reprioritise(stream, need)
                case "release":
                    plane.release_slot(stream)
                case "limit":
                    plane.limit(stream.tier if is_tier else title, slots)
            busy = [stream for stream in found if stream.has_slot]
            sending = Counter([stream.slot_title for stream in busy] + [stream.tier for stream in busy])
            assert plane._slots._free + len(busy) == 3
            assert plane._slots._sending == sending
            if plane._slots._free:
                for waiting in found:
                    if waiting.place is not None:
                        shares = waiting.place.title, waiting.tier
                        assert any(sending[share] >= plane._slots._limits.get(share, 4) for share in shares)
        plane._epoll.close()
        os.close(plane._stop_fd)

    trio.run(play)
