"""Counts of holders and what follows from them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.bitmap import Bitmap
from p2pfill.swarm.availability import Availability
from p2pfill.swarm.election import Scope

CHUNKS = 12
Holder = tuple[Scope, set[int]]
scopes = st.sampled_from([Scope.ISP, Scope.REGION, Scope.WORLD])
holders = st.lists(st.tuples(scopes, st.sets(st.integers(0, CHUNKS - 1))))


@given(holders, st.data())
def test_what_is_held_and_shared_follows_from_who_holds_it(added: list[Holder], data: st.DataObject) -> None:
    available = Availability(CHUNKS)
    for scope, chunks in added:
        if data.draw(st.booleans()):
            holdings = Bitmap(CHUNKS)
            holdings.add_all(chunks)
            available.add_holdings(scope, holdings)
        else:
            available.add(scope, chunks)
    gone = data.draw(st.sets(st.integers(0, len(added) - 1)) if added else st.just(set()))
    for number in gone:
        available.remove(*added[number])
    left = [holder for number, holder in enumerate(added) if number not in gone]
    for chunk in range(CHUNKS):
        for scope in (Scope.ISP, Scope.REGION, Scope.WORLD):
            count = sum(chunk in chunks and inner <= scope for inner, chunks in left)
            assert available.count[scope][chunk] == count
            assert available.held[scope][chunk] == (count > 0)
        assert available.shared[chunk] == (available.count[Scope.ISP][chunk] > 1)
