"""Budgets: never more than the rate allows, whoever asks when, and everybody's turn comes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pfill.model.rates import NO_LIMITS, TIERS, RateLimits, Rates
from p2pfill.model.urgency import Urgency
from p2pfill.transport.budget import KEPT_BESIDE, STARVED_S, Budget, Claim
from p2pfill.transport.throttle import Throttle


def claim(tier: str = "peer", rank: int = 0, number: int | None = None) -> Claim:
    return Claim(tier, lambda: Urgency(rank), lambda: None, number)


def run(budget: Budget, claims: list[Claim], until_s: float, wanted: int = 10_000_000) -> Counter[Claim]:
    """Have all claims take whatever they get, as fast as they get it, from second 0 on."""
    took: Counter[Claim] = Counter()
    now, awake = 0.0, list(claims)
    while now < until_s:
        while awake:
            one = awake.pop(0)
            count, woken = budget.take(now, one, wanted)
            took[one] += count
            awake += woken
            if count:
                awake.append(one)
        turns, again_at = budget.pour(now)
        awake += turns
        budget.check()
        now = now if turns else max(again_at, now + 1e-4)
    return took


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 7), st.integers(1, 3_000_000)),
        st.tuples(st.just("back"), st.integers(0, 7), st.floats(0, 1)),
        st.tuples(st.just("leave"), st.integers(0, 7), st.none()),
        st.tuples(st.just("pass"), st.floats(0, 2), st.none()),
        st.tuples(st.just("pour"), st.none(), st.none()),
    ),
    max_size=120,
)
rates = st.builds(Rates, *(st.sampled_from([0, 1, 5_000, 200_000, 30_000_000]) for _ in range(4)))


@given(rates, steps)
@example(
    Rates(5000),
    [
        ("take", 4, 4096), ("pass", 1.0, None), ("pour", None, None), ("pass", 1.0, None), ("take", 0, 1),
        ("take", 0, 1), ("take", 4, 4096),
    ],
)  # fmt: skip
def test_never_more_than_the_rate_and_one_burst_over_any_time(limits: Rates, plan: list[Any]) -> None:
    budget, now = Budget(), 100.0
    budget.set_rates(now, limits)
    claims = [claim(TIERS[n % 3], rank=n % 2, number=n if n > 5 else None) for n in range(8)]
    last: dict[Claim, int] = {}
    granted_at: dict[Claim, float] = {}
    moved: list[tuple[float, str, int]] = []
    for what, value, more in plan:
        match what:
            case "take":
                one = claims[value]
                count, _ = budget.take(now, one, more)
                assert 0 <= count <= more
                last[one] = count
                # What was granted by a pour before this was so by then, however late it is taken.
                moved.append((granted_at.pop(one, now), one.tier, count))
            case "back" if (one := claims[value]) in last:
                count = int(last.pop(one) * more)
                budget.give_back(one, count)
                moved.append((now, one.tier, -count))
            case "leave":
                budget.leave(gone := claims[value])
                granted_at.pop(gone, None)
                assert budget.take(now, gone, 1) == (0, [])
                assert not gone.waits
                claims[value] = claim(gone.tier, rank=value % 2, number=gone.number)
            case "pass":
                now += value
            case "pour":
                budget.pour(now)
        budget.check()
        for one in claims:
            if one.granted:
                granted_at.setdefault(one, now)
    moved.sort(key=lambda move: move[0])
    for scope, bucket in (("total", budget.total), *budget.tiers.items()):
        mine = [(at, count) for at, tier, count in moved if scope in ("total", tier)]
        if not bucket.rate:
            continue
        for first in range(len(mine)):
            taken = 0
            for at, count in mine[first:]:
                taken += count
                # What is given back was granted before, perhaps before this time began.
                granted_s = at - mine[first][0]
                assert taken <= bucket.rate * granted_s + bucket.burst + 1


@settings(max_examples=20)
@given(st.integers(1, 16), st.sampled_from([20_000, 200_000, 5_000_000, 1_000_000_000]))
def test_all_of_the_rate_is_used_and_equals_get_the_same(count: int, rate: int) -> None:
    budget = Budget()
    budget.set_rates(0.0, Rates(total=rate))
    claims = [claim() for _ in range(count)]
    took = run(budget, claims, 2.0)
    assert abs(took.total() - 2 * rate) <= budget.total.burst + count * budget.total.quantum
    assert max(took.values()) - min(took[one] for one in claims) <= 2 * budget.total.quantum


def test_the_more_urgent_goes_first_and_nobody_starves() -> None:
    budget = Budget()
    budget.set_rates(0.0, Rates(total=1_000_000))
    urgent, other = claim(rank=-5), claim()
    took = run(budget, [other, urgent], 4 * STARVED_S)
    assert 3 * budget.total.quantum <= took[other] <= 6 * budget.total.quantum
    assert took[urgent] >= 0.95 * 4 * STARVED_S * 1_000_000


def test_a_tier_that_has_used_up_its_own_holds_up_no_other() -> None:
    budget = Budget()
    budget.set_rates(0.0, Rates(total=1_000_000, origin=100_000))
    origin, peer = claim("origin", rank=-1), claim("peer")
    took = run(budget, [origin, peer], 4.0)
    assert abs(took[origin] - 400_000) < 20_000
    assert abs(took[peer] - 3_600_000) < 120_000


def test_numbered_claims_go_in_their_order() -> None:
    budget = Budget()
    budget.set_rates(0.0, Rates(origin=1_000_000))
    first, second = claim("origin", number=1), claim("origin", number=2)
    took = run(budget, [second, first], 3.0)
    assert took[second] < 30_000
    assert took[first] > 2_900_000


def test_many_that_wait_cost_each_other_nothing() -> None:
    """Each is asked once for what it waits how urgent it is, however many turns others have meanwhile."""
    asked = 0

    def urgency() -> Urgency:
        nonlocal asked
        asked += 1
        return Urgency()

    budget, takes = Budget(), 0
    budget.set_rates(0.0, Rates(total=1_000_000))
    for one in (claims := [Claim("peer", urgency, lambda: None) for _ in range(200)]):
        budget.take(0.0, one, 10**6)
    for tick in range(100):
        for one in budget.pour(tick / 50)[0]:
            assert budget.take(tick / 50, one, 10**6)[0]
            budget.take(tick / 50, one, 10**6)
            takes += 1
    assert takes > 50
    assert asked <= len(claims) + takes


def test_one_that_cannot_say_how_urgent_it_is_holds_up_nobody() -> None:
    budget, other = Budget(), claim()
    budget.set_rates(0.0, Rates(total=1_000_000))
    broken = Claim("peer", lambda: Urgency(1 // 0), lambda: None)
    with pytest.raises(ZeroDivisionError):
        budget.take(0.0, broken, 10**6)
    assert run(budget, [other], 1.0)[other] > 900_000
    assert not broken.waits


def test_those_that_have_left_or_starved_are_kept_nowhere() -> None:
    budget = Budget()
    budget.set_rates(0.0, Rates(total=1_000_000))
    urgent, others = claim(rank=-5), [claim() for _ in range(4)]
    run(budget, [urgent, *others], 40 * STARVED_S)
    for _ in range(1000):
        budget.take(0.0, gone := claim(), 10**6)
        budget.leave(gone)
    assert budget.kept <= 2 * len(others) + KEPT_BESIDE


def test_a_change_takes_hold_at_once() -> None:
    budget, one = Budget(), claim()
    budget.set_rates(0.0, Rates(total=1000))
    budget.take(0.0, one, 10**6)
    assert budget.pour(0.1) == ([], 4.096)
    budget.set_rates(0.1, Rates(total=10_000_000))
    assert budget.pour(0.2) == ([one], float("inf"))
    assert budget.take(0.2, one, 10**6)[0] == budget.total.quantum
    budget.set_rates(0.3, Rates())
    assert budget.take(0.3, one, 10**6)[0] == 10**6


def test_of_several_owners_the_tightest_holds() -> None:
    throttle = Throttle()
    try:
        assert throttle.put("config", RateLimits(Rates(total=100, peer=50)))
        assert throttle.put("window", RateLimits(Rates(total=70), Rates(total=9)))
        assert throttle.in_force == RateLimits(Rates(total=70, peer=50), Rates(total=9))
        assert not throttle.put("tracker", RateLimits(Rates(total=80)))
        assert throttle.put("window", NO_LIMITS)
        assert throttle.in_force == RateLimits(Rates(total=80, peer=50))
    finally:
        throttle.close()


def test_without_limits_nothing_waits_and_no_thread_runs() -> None:
    throttle = Throttle()
    assert throttle.inbound.take(claim(), 1 << 40) == 1 << 40
    assert throttle.inbound.wait("origin", Urgency, 0, 1 << 40, lambda: False) == 1 << 40
    assert "data-pace" not in {thread.name for thread in threading.enumerate()}
    throttle.close()


def test_threads_that_wait_are_served_stopped_and_let_go() -> None:
    throttle = Throttle()
    throttle.put("config", RateLimits(Rates(origin=1_000_000)))
    try:
        began, got = time.monotonic(), 0
        while got < 300_000:
            got += throttle.inbound.wait("origin", Urgency, 0, 300_000 - got, lambda: False)
        assert 0.25 < time.monotonic() - began < 5
        throttle.put("config", RateLimits(Rates(origin=1)))
        assert throttle.inbound.wait("origin", Urgency, 0, 300_000, lambda: True) == 0
        waiter = threading.Thread(target=throttle.inbound.wait, args=("origin", Urgency, 0, 5000, lambda: False))
        waiter.start()
        throttle.put("config", NO_LIMITS)
        waiter.join(10)
        assert not waiter.is_alive()
    finally:
        throttle.close()
