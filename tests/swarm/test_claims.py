"""A claim is believed for its time, however often it is repeated."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.claims import CLAIM_S, Claims
from p2pfill.swarm.election import Assignment, Scope
from p2pfill.swarm.fill import Fill

TIME_S = 7.0


def repeat(claims: Claims, name: str, chunks: list[int], begin: float, end: float) -> None:
    now = begin
    while now <= end:
        claims.note(now, name, chunks)
        claims.look(now)
        now += 1.0


def test_a_claim_that_is_repeated_for_ever_counts_for_its_time() -> None:
    claims = Claims(TIME_S)
    repeat(claims, "a1", [3, 4], 0.0, TIME_S - 1.0)
    assert set(claims.standing()) == {(3, "a1"), (4, "a1")}
    assert claims.allowances() == {"a1": TIME_S}
    repeat(claims, "a1", [3, 4], TIME_S, 500.0)
    assert not list(claims.standing())
    assert set(claims.broken()) == {(3, "a1"), (4, "a1")}
    assert not claims.allowances()


def test_a_claim_that_is_not_repeated_is_void() -> None:
    claims = Claims(TIME_S)
    claims.note(0.0, "a1", [3])
    claims.look(CLAIM_S)
    assert list(claims.standing()) == [(3, "a1")]
    claims.look(CLAIM_S + 0.1)
    assert not list(claims.standing())


@given(st.floats(0.5, 4.0), st.floats(0.1, CLAIM_S))
def test_pauses_and_new_links_bring_no_more_time(pause_s: float, claim_s: float) -> None:
    """Until the cache has said nothing for as long as it had time; others have fetched the chunk by then."""
    claims, counted, now = Claims(TIME_S), 0.0, 0.0
    while now < 3 * TIME_S:
        claims.note(now, "a1", [0])
        counted += claim_s if list(claims.standing()) else 0.0
        now += claim_s
        claims.look(now)
        claims.lose("a1")
        assert not list(claims.standing())
        now += pause_s
        claims.look(now)
    assert counted <= TIME_S + claim_s


def test_the_next_claimant_of_a_chunk_has_twice_the_time() -> None:
    claims = Claims(TIME_S)
    repeat(claims, "a1", [0], 0.0, TIME_S)
    repeat(claims, "a2", [0], TIME_S, 3 * TIME_S - 1.0)
    assert list(claims.standing()) == [(0, "a2")]
    repeat(claims, "a2", [0], 3 * TIME_S, 4 * TIME_S)
    assert not list(claims.standing())


def test_what_has_arrived_is_claimed_by_nobody_and_memory_ends() -> None:
    claims = Claims(TIME_S)
    claims.note(0.0, "a1", range(8))
    claims.settle([1])
    here = Bitmap(8)
    here.add_all([2, 3])
    claims.settle_all(here)
    assert {chunk for chunk, _ in claims.standing()} == {0, 4, 5, 6, 7}
    claims.look(3 * TIME_S)
    assert not list(claims.broken())
    assert not claims._made


def claimed_in_vain(*happened: events.Event) -> str:
    """Return what a cache says of another one that has claimed a chunk for long, and nothing came of it."""
    manifest = Manifest("t", 65536, layout([("a", 65536 * 4)]), bytes(64), bytes(128))
    me, other = (NodeInfo(NodeId(name), "isp", "r") for name in ("a1", "a2"))
    fill = Fill(manifest, me, FillPolicy(), random.Random(1), 0.0, Bitmap(4))
    fill.handle(0.0, events.RosterChanged((me, other)))
    fill.handle(0.0, events.CacheConnected(other))
    for now in range(40):
        fill.handle(float(now), events.ChunksClaimed("a2", (1,)))
        for event in happened:
            fill.handle(float(now), event)
        fill.poll_actions(float(now))
    return fill.sources["a2"].fault_reason


def test_who_claims_in_vain_is_named_unless_the_origin_fails_here_or_there() -> None:
    assert claimed_in_vain() == "says that it fetches chunks that do not come"
    assert not claimed_in_vain(events.WaysReported("a2", (Scope.ORIGIN,)))
    origin = events.OriginConfigured("http://o/")
    assert claimed_in_vain(origin)
    assert not claimed_in_vain(origin, events.OriginFailing("http://o/", "connection refused"))


def test_in_a_large_fleet_a_master_says_too_what_a_stand_in_of_its_isp_gives_it() -> None:
    """Others are linked with the master, and not with who stands in for it."""
    me, mate, far = (NodeInfo(NodeId(name), isp, "eu") for name, isp in (("a1", "a"), ("a2", "a"), ("(eu/b)", "b")))
    manifest = Manifest("t", 65536, layout([("f", 8 * 65536)]), bytes(16 * 8), bytes(32 * 8), "blake3")
    for unlinked in ((), (far.id,)):
        fill = Fill(manifest, me, FillPolicy(), random.Random(1), 0.0, Bitmap(8))
        fill.handle(0.0, events.RosterChanged((me, mate, far), unlinked))
        fill.handle(0.0, events.CacheConnected(mate))
        fill.handle(0.0, events.HoldingsArrived(mate.id, Bitmap.full(8)))
        asked = {one.chunk for one in fill.poll_actions(0.0) if isinstance(one, actions.RequestChunk)}
        fill.handle(1.0, events.SourceProgressed(mate.id))
        claims = [one for one in fill.poll_actions(1.0) if isinstance(one, actions.ClaimChunks)]
        mine = set(Assignment(manifest.title_id, 8, (me, mate, far)).within(me)[Scope.REGION].indexes())
        assert 0 < len(asked & mine) < len(asked)
        assert [set(claim.chunks) for claim in claims] == [asked & mine][: len(unlinked)]
        assert set(fill.border_chunks()) == (asked & mine if unlinked else set())


def passed_on(fill: Fill, now: float) -> list[actions.PassOnClaims]:
    return [one for one in fill.poll_actions(now) if isinstance(one, actions.PassOnClaims)]


def test_a_master_passes_on_inwards_what_it_hears_from_farther_out() -> None:
    places = {"a1": ("a", "eu"), "a2": ("a", "eu"), "b1": ("b", "eu"), "c1": ("c", "us")}
    me, mate, near, far = (NodeInfo(NodeId(name), *place) for name, place in places.items())
    groups = [NodeInfo(NodeId(name), isp, region) for name, isp, region in (("(b)", "b", "eu"), ("(us)", "", "us"))]
    members = (me, mate, *(msgspec.structs.replace(node, weight=0.0) for node in (near, far)), *groups)
    manifest = Manifest("t", 65536, layout([("f", 32 * 65536)]), bytes(16 * 32), bytes(32 * 32), "blake3")
    mine = Assignment(manifest.title_id, 32, members).within(me)[Scope.REGION]
    for claimant, scope in ((mate, None), (near, Scope.REGION), (far, Scope.WORLD)):
        fill = Fill(manifest, me, FillPolicy(), random.Random(1), 0.0, Bitmap(32))
        fill.handle(0.0, events.RosterChanged(members, tuple(group.id for group in groups)))
        for node in (mate, near, far):
            fill.handle(0.0, events.CacheConnected(node))
        fill.poll_actions(0.0)
        told = []
        for now in (0.1, 0.35, 0.6, 1.1, 1.35, 1.6):
            if now in (0.1, 1.1):
                fill.handle(now, events.ChunksClaimed(claimant.id, tuple(range(32))))
            told += [(now, one.scope, set(one.chunks)) for one in passed_on(fill, now)]
        expected = set(mine.indexes())
        assert told == ([] if scope is None else [(0.35, scope, expected), (1.35, scope, expected)])
        # Nobody says any more that it fetches them.
        assert not any(passed_on(fill, 1.1 + CLAIM_S + late) for late in (0.5, 1.0, 2.0, 4.0))


def test_what_is_on_its_way_is_no_reason_to_starve() -> None:
    """Found at a slow origin: of the chunks that its masters had yet to ask for, each ISP took a copy."""
    me, near, group = (NodeInfo(NodeId(name), isp, "eu") for name, isp in (("a1", "a"), ("b1", "b"), ("(b)", "b")))
    members = (me, msgspec.structs.replace(near, weight=0.0), group)
    manifest = Manifest("t", 65536, layout([("f", 4 * 65536)]), bytes(16 * 4), bytes(32 * 4), "blake3")
    mine = Assignment(manifest.title_id, 4, members).within(me)[Scope.ORIGIN]
    theirs = [chunk for chunk in range(4) if not mine[chunk]]
    # A claim made at 1 s is believed for the usual wait and the second that the chunk may take; then the wait begins.
    for claimed, begins_at in ((theirs[:1], 8.0), ([], 3.25)):
        fill = Fill(manifest, me, FillPolicy(stall_wait_s=3.0), random.Random(1), 0.0, mine.copy())
        fill.handle(0.0, events.RosterChanged(members, (group.id,)))
        fill.handle(0.0, events.OriginConfigured("http://origin/"))
        fill.handle(0.0, events.CacheConnected(near))
        asked_at = []
        for tick in range(1, 10 * 4):
            if tick % 4 == 0:
                fill.handle(tick / 4, events.ChunksClaimed(near.id, tuple(claimed)))
            asked_at += [tick / 4 for one in fill.poll_actions(tick / 4) if isinstance(one, actions.RequestChunk)]
        assert asked_at[0] == begins_at
