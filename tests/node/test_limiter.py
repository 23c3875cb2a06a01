"""Who is let in next where many wait to read from an origin."""

from __future__ import annotations

import threading

import trio
import trio.testing

from p2pfill.model.urgency import Urgency
from p2pfill.node.limiter import PriorityLimiter


async def test_the_most_urgent_is_let_in_first_by_its_urgency_then() -> None:
    turns, order, ranks = PriorityLimiter(1), list[str](), {"a": 0, "b": 1, "c": 0, "d": 2}
    go = threading.Event()

    async def read(name: str) -> None:
        await trio.to_thread.run_sync(order.append, name, limiter=turns.entry(lambda: Urgency(ranks[name])))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: trio.to_thread.run_sync(go.wait, limiter=turns.entry(Urgency)))
            await trio.testing.wait_all_tasks_blocked()
            for name in "abcd":
                nursery.start_soon(read, name)
                await trio.testing.wait_all_tasks_blocked()
            ranks["d"] = -1
            go.set()
    assert order == ["d", "a", "c", "b"]


async def test_one_that_gives_up_waiting_is_passed_over_and_loses_no_turn() -> None:
    turns = PriorityLimiter(2)
    entered, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal entered, most
        with lock:
            entered += 1
            most = max(most, entered)
        threading.Event().wait(0.002)
        with lock:
            entered -= 1

    async def read(number: int) -> None:
        with trio.move_on_after(0.001 * number if number % 3 else 60):
            await trio.to_thread.run_sync(work, limiter=turns.entry(Urgency), abandon_on_cancel=True)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(read, number)
        # Both turns are free again, so two that wait for each other come through.
        both = threading.Barrier(2)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(
                    lambda: trio.to_thread.run_sync(both.wait, limiter=turns.entry(Urgency))
                )
    assert most <= 2
