"""Descriptors: a budget for all titles, and what happens where the kernel has none left."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pfill.errors import StoreError
from p2pfill.store import descriptors
from p2pfill.store.descriptors import DescriptorBudget, is_short
from p2pfill.store.disk import FileCache, store_error


@pytest.fixture
def opener(tmp_path: Path) -> Callable[[int], int]:
    """Opens files by number."""

    def open_file(index: int) -> int:
        return os.open(tmp_path / str(index), os.O_RDWR | os.O_CREAT)

    return open_file


def held() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_titles_share_a_budget(opener: Callable[[int], int]) -> None:
    before = held()
    budget = DescriptorBudget()
    budget.fit(40)
    caches = [FileCache(opener, 128, budget) for _ in range(3)]
    for index in range(50):
        for cache in caches:
            with cache.pinned(index) as fd:
                assert os.fstat(fd).st_size == 0
        assert held() - before <= budget.most == 10
    # What is in use stays open, however little there is.
    budget.fit(0)
    with caches[0].pinned(1) as one, caches[0].pinned(2) as two, caches[1].pinned(1):
        assert one != two
        assert os.fstat(one)
    budget.fit(1 << 20)
    budget.relieve()
    for cache in caches:
        with cache.pinned(1):
            pass
    assert held() - before == 3
    for cache in caches:
        cache.close()
    assert held() == before
    assert budget._kept == 0


def test_where_there_is_none_left_others_let_go_and_it_is_tried_again(opener: Callable[[int], int]) -> None:
    budget = DescriptorBudget()
    idle, busy = FileCache(opener, 128, budget), FileCache(opener, 128, budget)
    for index in range(5):
        with idle.pinned(index):
            pass
    refusals = 2

    def refusing(index: int) -> int:
        nonlocal refusals
        if refusals:
            refusals -= 1
            error = OSError(errno.EMFILE, "too many open files")
            raise store_error("open a file", error) from error
        return opener(index)

    before = held()
    needy = FileCache(refusing, 128, budget)
    with busy.pinned(7) as fd, needy.pinned(1):
        assert os.fstat(fd)
        assert held() - before == 2 - 5
    for cache in (idle, busy, needy):
        cache.close()


def test_it_ends_where_there_is_none_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(descriptors.time, "sleep", slept.append)

    def refuse(_: int) -> int:
        error = OSError(errno.ENFILE, "too many open files")
        raise store_error("open a file", error) from error

    with pytest.raises(StoreError, match="open files") as caught, FileCache(refuse, 8).pinned(1):
        pytest.fail("it was opened")
    assert is_short(caught.value)
    assert 0.5 < sum(slept) < 1
    slept.clear()

    def bad(_: int) -> int:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output"), FileCache(bad, 8).pinned(1):
        pytest.fail("it was opened")
    assert not slept


def test_caches_that_rest_each_other_do_not_wait_for_each_other(opener: Callable[[int], int]) -> None:
    """Two threads that open files each closed what the other's title held, and waited for its lock."""
    budget = DescriptorBudget()
    barrier = threading.Barrier(2)
    caches: list[FileCache] = []

    def open_and_rest(index: int) -> int:
        if index < 2:
            barrier.wait(10)
            budget.relieve()
            barrier.wait(10)
        return opener(index)

    caches += [FileCache(open_and_rest, 8, budget) for _ in range(2)]

    def use(number: int) -> None:
        with caches[number].pinned(number):
            pass

    threads = [threading.Thread(target=use, args=(number,), daemon=True) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    for cache in caches:
        cache.close()
