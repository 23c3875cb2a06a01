"""From where a cache can take chunks, and what outlives the link to a source."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope
from p2pfill.swarm.sources import LEAST_RATE_BYTES_S, Request, Source, find_crawling
from p2pfill.swarm.ways import UNLINKED_S, Ways, as_number, from_number

CHUNK = 256 * 1024


def source(name: str, scope: Scope, **fields: float) -> Source:
    made = Source(name, scope, Bitmap.full(4), 0.0)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@given(st.sets(st.sampled_from([Scope.REGION, Scope.WORLD, Scope.ORIGIN])))
def test_scopes_are_one_number_on_the_wire(closed: set[Scope]) -> None:
    assert set(from_number(as_number(closed))) == closed


def test_the_way_to_the_origin_is_closed_while_all_origins_fail() -> None:
    first, second = source("o1", Scope.ORIGIN), source("o2", Scope.ORIGIN)
    ways = Ways()
    first.faults, first.fault_reason = 1, "connection refused"
    assert not ways.look(0.0, [first, second], ())
    second.is_failing = True
    assert ways.look(0.0, [first, second], ())
    assert ways.closed == {Scope.ORIGIN}
    assert ways.reason == "connection refused"
    second.is_failing = False
    assert ways.look(0.0, [first, second], ())
    assert not ways.closed
    assert not ways.reason


def test_an_origin_without_range_is_left_to_its_reader() -> None:
    plain, other = source("o1", Scope.ORIGIN), source("o2", Scope.ORIGIN)
    ways = Ways()
    assert not ways.look(0.0, [plain], (), is_reader=False)
    plain.has_range = False
    assert not ways.look(0.0, [plain, other], (), is_reader=False), "another one has Range"
    assert not ways.look(0.0, [plain], (), is_reader=True)
    assert ways.look(0.0, [plain], (), is_reader=False)
    assert (ways.closed, ways.reason, ways.is_left_to_reader) == ({Scope.ORIGIN}, "", True)
    assert ways.look(0.0, [plain], (), is_reader=True)
    assert not ways.closed
    plain.is_failing, plain.fault_reason = True, "broke off"
    assert ways.look(0.0, [plain], (), is_reader=False)
    assert (ways.reason, ways.is_left_to_reader) == ("broke off", False)


def test_a_group_to_which_there_is_no_link_is_out_of_reach_after_a_while() -> None:
    ways, near, far = Ways(), source("a2", Scope.ISP), source("b1", Scope.REGION)
    expected = {Scope.ISP, Scope.REGION}
    assert not ways.look(0.0, [near, far], expected)
    assert not ways.look(1.0, [near], expected)
    assert ways.look(1.0 + UNLINKED_S, [near], expected)
    assert ways.closed == {Scope.REGION}
    assert ways.look(9.0, [near, far], expected)
    assert not ways.look(9.0 + UNLINKED_S, [near], {Scope.ISP})


def owing(name: str, scope: Scope, rate: float, asked_at: float, progress_at: float) -> Source:
    made = source(name, scope, rate_bytes_s=rate, last_rate=rate, progress_at=progress_at)
    made.requests[1] = Request(1, name, 0, asked_at, scope)
    return made


def test_a_source_that_drips_is_left_where_another_may_be_faster() -> None:
    drip, origin = owing("a2", Scope.ISP, LEAST_RATE_BYTES_S / 2, 0.0, 8.0), source("o", Scope.ORIGIN)
    assert find_crawling([drip, origin], 8.0, CHUNK, 3.0) == []
    assert find_crawling([drip, origin], 11.0, CHUNK, 3.0) == [drip]
    assert find_crawling([drip], 12.0, CHUNK, 3.0) == []
    slower = source("o", Scope.ORIGIN, rate_bytes_s=13e3, last_rate=13e3)
    assert find_crawling([drip, slower], 12.0, CHUNK, 3.0) == []
    silent = owing("a2", Scope.ISP, 1e3, 1.0, 0.5)
    for now in (8.0, 12.0):
        assert find_crawling([silent, origin], now, CHUNK, 3.0) == []


@pytest.mark.parametrize("scope", [Scope.ISP, Scope.ORIGIN])
def test_an_origin_is_not_left_for_a_cache(scope: Scope) -> None:
    slow, other = owing("o1", Scope.ORIGIN, 13e3, 0.0, 8.0), source("o2", scope)
    find_crawling([slow, other], 8.0, CHUNK, 3.0)
    assert find_crawling([slow, other], 12.0, CHUNK, 3.0) == ([slow] if scope is Scope.ORIGIN else [])


def test_what_was_learnt_of_a_source_outlives_its_link() -> None:
    before = source("a2", Scope.ISP, rate_bytes_s=5e4, last_rate=4e4, faults=3, barred_until=60.0, bytes_kept=7)
    before.barred_reason, before.is_slow, before.was_slow, before.counted = "slow", True, True, False
    again, late = source("a2", Scope.ISP), source("a2", Scope.ISP)
    again.learn(before, 30.0)
    assert (again.barred_reason, again.barred_until, again.counted, again.is_slow) == ("slow", 60.0, False, True)
    assert (again.rate_bytes_s, again.last_rate, again.faults, again.bytes_kept) == (5e4, 4e4, 3, 7)
    late.learn(before, 61.0)
    assert not late.barred_reason
    assert late.counted
    assert late.was_slow
    assert late.window(CHUNK) == 1
