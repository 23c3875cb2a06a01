"""What moves to another source: never farther out, never what may have begun to come, and only where that pays."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.election import Scope
from p2pfill.swarm.moves import AHEAD_S, OVERDUE, OVERDUE_S, WAIT, find_lines, find_overdue, find_waiting
from p2pfill.swarm.sources import LEAST_RATE_BYTES_S, QUEUE_S, WINDOW_MIN, Request, Source

CHUNK = 1 << 18
CHUNKS = 25
RATE = 1e6
CHUNK_S = CHUNK / RATE
NOW = 100.0
WAIT_S = 3.0


class Line(NamedTuple):
    """A source and what is outstanding there, as a test draws it."""

    scope: Scope
    length: int
    rate_chunks_s: float
    used: float
    """Of the usual time of its first chunk, as far as anything is known of it."""


scopes = st.sampled_from(Scope)
cache_scopes = st.sampled_from([Scope.ISP, Scope.REGION, Scope.WORLD])
rates = st.sampled_from([0.0, 0.5, 1.0, 4.0, 40.0])
lines = st.lists(st.builds(Line, scopes, st.integers(0, 5), rates, st.floats(0.0, 3.0)), max_size=5)
long_lines = st.lists(
    st.builds(Line, st.just(Scope.ISP) | cache_scopes, st.integers(2, 5), rates, st.floats(0.0, 1.0)),
    min_size=1,
    max_size=5,
)
holdings = st.sets(st.integers(0, CHUNKS - 1))


def source(name: str, scope: Scope, rate_bytes_s: float, held: set[int] | None = None) -> Source:
    bitmap = Bitmap.full(CHUNKS)
    for chunk in set(range(CHUNKS)) - held if held is not None else ():
        bitmap.discard(chunk)
    return Source(name, scope, bitmap, 0.0, rate_bytes_s=rate_bytes_s)


def busy(name: str, line: Line, first_chunk: int = 0) -> Source:
    """Return a source that was asked for some chunks at one moment, all before it delivered last."""
    owner = source(name, line.scope, line.rate_chunks_s * CHUNK)
    owner.delivered_at = NOW - (line.used / line.rate_chunks_s if line.rate_chunks_s else line.used)
    for number in range(first_chunk, first_chunk + line.length):
        owner.requests[number] = Request(number, name, number, owner.delivered_at - 1.0, line.scope)
    return owner


def all_busy(drawn: list[Line]) -> list[Source]:
    return [busy(f"s{place}", line, 5 * place) for place, line in enumerate(drawn)]


def wait_s(owner: Source) -> float:
    return len(owner.requests) * CHUNK / owner.rate_bytes_s if owner.rate_bytes_s else float("inf")


# ---- what waits in line


@given(lines)
def test_lines_are_those_of_caches_that_owe_several_chunks_the_longest_wait_first(drawn: list[Line]) -> None:
    sources = all_busy(drawn)
    found = find_lines(sources, CHUNK)
    assert {owner.id for owner in found} == {
        owner.id for owner in sources if len(owner.requests) >= 2 and owner.scope <= Scope.ISP
    }
    waits = [wait_s(owner) for owner in found]
    assert waits == sorted(waits, reverse=True)


def ahead_s(owner: Source, place: int) -> float:
    """Return how long it surely takes until what stands at a place in line begins to come."""
    if not owner.rate_bytes_s:
        return float("inf")
    each_s = CHUNK / owner.rate_bytes_s
    return place * each_s - min(each_s, NOW - owner.delivered_at)


@given(long_lines, rates, st.sets(st.integers(0, CHUNKS - 1), min_size=CHUNKS // 2))
def test_what_moves_has_surely_not_begun_and_stays_in_the_isp(drawn: list[Line], rate: float, held: set[int]) -> None:
    sources = all_busy(drawn)
    idle = source("idle", Scope.ISP, rate * CHUNK, held)
    for beyond in (Scope.REGION, Scope.WORLD):
        assert find_waiting(source("far", beyond, 0.0), find_lines(sources, CHUNK), NOW, CHUNK) is None
    request = find_waiting(idle, find_lines(sources, CHUNK), NOW, CHUNK)
    assume(request is not None)
    assert request is not None
    owner = next(owner for owner in sources if owner.id == request.source)
    line = list(owner.requests.values())
    place = line.index(request)
    assert idle.scope == owner.scope == Scope.ISP
    assert idle.holdings[request.chunk]
    assert place >= 1
    assert ahead_s(owner, place) >= AHEAD_S
    # Nobody waits longer for anything behind it in line, or in a longer line, that could have moved as well.
    assert not any(idle.holdings[later.chunk] for later in line[place + 1 :])
    for longer in sources:
        if wait_s(longer) > wait_s(owner) and longer.scope == Scope.ISP:
            for behind, other in enumerate(longer.requests.values()):
                assert not (behind and ahead_s(longer, behind) >= AHEAD_S and idle.holdings[other.chunk])
    if idle.rate_bytes_s:
        assert wait_s(owner) >= WAIT * CHUNK / idle.rate_bytes_s


@given(lines, rates, holdings)
def test_nothing_stays_that_surely_waits_and_could_go(drawn: list[Line], rate: float, held: set[int]) -> None:
    sources = all_busy(drawn)
    idle = source("idle", Scope.ISP, rate * CHUNK, held)
    least_s = WAIT * CHUNK / idle.rate_bytes_s if idle.rate_bytes_s else 0.0
    could_go = [
        request
        for owner in sources
        if owner.scope == Scope.ISP and wait_s(owner) >= least_s
        for place, request in enumerate(owner.requests.values())
        if place and ahead_s(owner, place) >= AHEAD_S and idle.holdings[request.chunk]
    ]
    if could_go:
        assert find_waiting(idle, find_lines(sources, CHUNK), NOW, CHUNK) is not None


def test_the_last_of_the_longest_line_moves_first() -> None:
    short, long = busy("short", Line(Scope.ISP, 3, 1.0, 0.0)), busy("long", Line(Scope.ISP, 5, 1.0, 0.0), 10)
    lines = find_lines([short, long], CHUNK)
    request = find_waiting(source("idle", Scope.ISP, CHUNK), lines, NOW, CHUNK)
    assert request is not None
    assert request.chunk == 14
    # What the longest line does not have comes out of the next one.
    request = find_waiting(source("idle", Scope.ISP, CHUNK, {0, 1, 10}), lines, NOW, CHUNK)
    assert request is not None
    assert request.chunk == 1


@pytest.mark.parametrize(
    ("scope", "used", "moves"),
    [
        (Scope.ISP, 0.0, True),
        (Scope.ISP, 1.0 - 2 * AHEAD_S, True),
        (Scope.ISP, 1.0 - AHEAD_S / 2, False),
        (Scope.ISP, 2.0, False),
        (Scope.REGION, 0.0, False),
        (Scope.WORLD, 0.0, False),
    ],
)
def test_the_second_in_line_moves_inside_the_isp_while_the_first_has_long_to_go(
    scope: Scope, used: float, moves: bool
) -> None:
    lines = find_lines([busy("owner", Line(scope, 2, 1.0, used))], CHUNK)
    request = find_waiting(source("idle", Scope.ISP, CHUNK), lines, NOW, CHUNK)
    assert (request is not None) == moves
    assert request is None or request.chunk == 1


def test_nothing_moves_where_the_wait_is_short() -> None:
    lines = find_lines([busy("owner", Line(Scope.ISP, 4, 8.0, 0.0))], CHUNK)
    assert find_waiting(source("slow", Scope.ISP, 3.9 * CHUNK), lines, NOW, CHUNK) is None
    assert find_waiting(source("quick", Scope.ISP, 4 * CHUNK), lines, NOW, CHUNK) is not None
    # Of a source that has delivered nothing yet nobody knows that it is slow.
    assert find_waiting(source("new", Scope.ISP, 0.0), lines, NOW, CHUNK) is not None


# ---- what is overdue


@given(lines, st.lists(st.tuples(scopes, rates, holdings), max_size=4), st.floats(0.0, 30.0))
def test_overdue_requests_go_to_idle_sources_that_are_faster_and_no_farther(
    drawn: list[Line], idlers: list[tuple[Scope, float, set[int]]], later_s: float
) -> None:
    owners = all_busy(drawn)
    idle = [source(f"i{place}", scope, rate * CHUNK, held) for place, (scope, rate, held) in enumerate(idlers)]
    now = NOW + later_s
    moves = list(find_overdue([*owners, *idle], now, CHUNK, WAIT_S))
    for request, taker in moves:
        owner = next(owner for owner in owners if owner.id == request.source)
        since = max(request.asked_at, owner.delivered_at)
        assert not taker.requests
        assert taker.scope <= owner.scope
        assert taker.holdings[request.chunk]
        late = owner.rate_bytes_s * (now - since) > OVERDUE * CHUNK
        assert taker.rate_bytes_s > 2 * owner.rate_bytes_s or late or not owner.rate_bytes_s
        if taker.rate_bytes_s:
            assert now - since > max(OVERDUE_S, OVERDUE * CHUNK / taker.rate_bytes_s)
        else:
            assert taker.scope != Scope.ORIGIN
            assert now - owner.progress_at > WAIT_S or (now - since) * LEAST_RATE_BYTES_S > CHUNK
            assert now - since > max(OVERDUE_S, WAIT_S)
    assert len({taker.id for _, taker in moves}) == len(moves)
    assert len({request.number for request, _ in moves}) == len(moves)


def test_the_oldest_overdue_request_moves_and_not_to_a_source_that_is_barred() -> None:
    owner = busy("owner", Line(Scope.ISP, 2, 0.1, 0.0))
    owner.delivered_at = 0.0
    owner.requests[0].asked_at, owner.requests[1].asked_at = NOW - 20.0, NOW - 30.0
    barred, idle = source("barred", Scope.ISP, CHUNK), source("idle", Scope.ISP, CHUNK)
    barred.barred_reason = "refused"
    moves = find_overdue([owner, barred, idle], NOW, CHUNK, WAIT_S)
    assert [(request.chunk, taker.id) for request, taker in moves] == [(1, "idle")]
    assert not list(find_overdue([owner, barred, idle], NOW - 25.0, CHUNK, WAIT_S))


@given(st.floats(WINDOW_MIN / QUEUE_S * 1.01, 1e3))
def test_what_a_fast_source_is_about_to_send_is_not_moved(rate_chunks_s: float) -> None:
    """As much is outstanding as its window allows, it has just delivered, and others have nothing to do."""
    owner = source("owner", Scope.ISP, rate_chunks_s * CHUNK)
    owner.delivered_at = NOW
    for number in range(owner.window(CHUNK) - 1):
        owner.requests[number] = Request(number, "owner", number, NOW - 0.01, Scope.ISP)
    idle = source("idle", Scope.ISP, 1e12)
    assert find_waiting(idle, find_lines([owner, idle], CHUNK), NOW, CHUNK) is None
