"""Threads that read from origins: how many, whose turn it is, and what becomes of reads that nobody wants."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from p2pfill.engine.requests import Arrival, Outcome, Receive
from p2pfill.model.urgency import Urgency
from p2pfill.node.origin_threads import OriginRead, OriginThreads

WAIT_S = 10.0
"""Longer than any read here takes."""


class Loop:
    """Stands in for an event loop: makes calls of threads when it is asked to."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._told = threading.Semaphore(0)

    def tell(self, call: Callable[[], object], failed: Callable[[Exception], object]) -> None:
        self._calls.append(call)
        self._told.release()

    def make(self, count: int) -> None:
        for _ in range(count):
            assert self._told.acquire(timeout=WAIT_S), "nothing was told"
            self._calls.popleft()()

    def is_quiet(self) -> bool:
        return not self._calls


class Reads:
    """Reads of `threads`, and in which order they were begun and ended."""

    def __init__(self, count: int) -> None:
        self.loop = Loop()
        self.threads = OriginThreads(count, self.loop.tell, logging.getLogger())
        self.begun: list[str] = []
        self.ended: list[tuple[str, object]] = []

    def begin(self, name: str, rank: Callable[[], int] = lambda: 0, until: threading.Event | None = None) -> OriginRead:
        receive = Receive(0, None, 0, 1, b"", None, None, threading.RLock())  # type: ignore[arg-type]

        def work() -> Arrival:
            self.begun.append(name)
            assert until is None or until.wait(WAIT_S)
            return Arrival(receive, Outcome.VERIFIED, 1, name)

        read = OriginRead(work, lambda: Urgency(rank()), lambda arrival, error: self.ended.append((name, arrival)))
        self.threads.begin(read)
        return read


@pytest.fixture
def make() -> Iterator[Callable[[int], Reads]]:
    made: list[Reads] = []

    def make_one(count: int) -> Reads:
        made.append(Reads(count))
        return made[-1]

    yield make_one
    for reads in made:
        reads.threads.close()


def origin_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("origin-")]


def test_the_most_urgent_goes_first_by_its_urgency_then(make: Callable[[int], Reads]) -> None:
    reads, ranks, go = make(1), {"a": 0, "b": 1, "c": 0, "d": 2}, threading.Event()
    reads.begin("first", until=go)
    for name in ranks:
        reads.begin(name, lambda name=name: ranks[name])  # type: ignore[misc]
    ranks["d"] = -1
    go.set()
    reads.loop.make(5)
    assert reads.begun == ["first", "d", "a", "c", "b"]
    assert [name for name, _ in reads.ended] == reads.begun


def test_a_read_that_is_over_is_told_whatever_the_next_one_raises(make: Callable[[int], Reads]) -> None:
    """They are of several fills, and that of the first would wait for its chunk for ever."""

    def fail() -> int:
        raise RuntimeError("of another fill")

    reads, go = make(1), threading.Event()
    reads.begin("first", until=go)
    reads.begin("another", fail)
    go.set()
    with pytest.raises(RuntimeError):
        reads.loop.make(1)
    assert [name for name, _ in reads.ended] == ["first"]


def test_a_read_has_its_turn_whatever_the_end_of_the_last_one_raises(make: Callable[[int], Reads]) -> None:
    reads, go = make(1), threading.Event()
    reads.begin("first", until=go).ended = fail_at_the_end
    reads.begin("second")
    go.set()
    with pytest.raises(RuntimeError):
        reads.loop.make(1)
    reads.loop.make(1)
    assert [name for name, _ in reads.ended] == ["second"]


def fail_at_the_end(arrival: Arrival | None, error: BaseException | None) -> None:
    raise RuntimeError("of a fill")


def test_so_many_read_at_a_time_and_threads_serve_again(make: Callable[[int], Reads]) -> None:
    before = set(origin_threads())
    reads, go = make(3), threading.Event()
    for number in range(9):
        reads.begin(str(number), until=go)
    assert len(set(origin_threads()) - before) == 3
    assert reads.loop.is_quiet()
    go.set()
    reads.loop.make(9)
    assert sorted(reads.begun) == [str(number) for number in range(9)]
    reads.begin("alone")
    reads.loop.make(1)
    assert len(set(origin_threads()) - before) == 3, "no more are begun than were needed at a time"


def test_a_read_that_is_given_up_before_its_turn_is_not_made(make: Callable[[int], Reads]) -> None:
    reads, go = make(1), threading.Event()
    reads.begin("first", until=go)
    given_up = reads.begin("given up")
    reads.begin("last")
    reads.threads.give_up(given_up)
    go.set()
    reads.loop.make(2)
    assert reads.begun == ["first", "last"]
    reads.threads.give_up(given_up)  # once more, which changes nothing


def test_what_a_read_raises_is_told_and_the_thread_goes_on(make: Callable[[int], Reads]) -> None:
    reads, told = make(1), []

    def fail() -> Arrival:
        raise SystemExit("no arrival")

    reads.threads.begin(OriginRead(fail, Urgency, lambda arrival, error: told.append((arrival, error))))
    reads.begin("next")
    reads.loop.make(2)
    ((arrival, error),) = told
    assert arrival is None
    assert isinstance(error, SystemExit)
    assert reads.begun == ["next"]


def test_once_closed_all_threads_end_and_nothing_is_told(make: Callable[[int], Reads]) -> None:
    before = set(origin_threads())
    reads, go = make(2), threading.Event()
    reads.begin("idle soon")
    reads.loop.make(1)
    reads.begin("reading", until=go)
    reads.begin("reading too", until=go)
    reads.begin("waiting")
    mine = set(origin_threads()) - before
    reads.threads.close()
    go.set()
    for thread in mine:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert reads.loop.is_quiet()
    assert "waiting" not in reads.begun


def test_where_the_system_has_no_thread_a_place_is_kept(
    make: Callable[[int], Reads], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = make(1)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            reads.begin("refused")
    reads.begin("next")
    reads.loop.make(1)
    assert reads.begun == ["next"]
