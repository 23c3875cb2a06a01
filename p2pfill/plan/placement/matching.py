"""What lies in the caches of one cluster while it is worked on, and who serves what of it. Compiled loops.

A copy is a file in a cache. It serves demand for its file, no more than there is, and all copies of a cache together no
more than the cache's bandwidth. Copies are numbered in the order in which they came; those of one file form a chain
(`first`, `next`). A dead copy has cache -1 and is in no chain.

Invariants, of each cache: `free` is its space less the sizes of its copies, and never below 0; `headroom` is its
bandwidth less what its copies serve. Of each file: `unserved` is its demand less what its copies serve.

Routing is a flow, of which the greatest is found here by levelling: files with one copy have no choice and go first,
the rest are poured over their holders so that these have equal headroom left, in sweeps of which none serves less than
the one before. `p2pfill.plan.placement.valuation` has the exact flow; it is too slow for the inside of a search.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from p2pfill.plan.placement.compiled import compiled
from p2pfill.plan.tables import Floats, Ints, Longs

Bools = NDArray[np.bool_]
Keys = NDArray[np.uint64]

LEVELLING_SWEEPS: Final = 3
"""Of files with several copies, which are few. A test holds what they reach against the exact flow."""


class State(NamedTuple):
    """The caches of a cluster, and the copies in them."""

    demand: Floats
    """Of each file, in bytes a day."""
    size: Longs
    """Of each file, in bytes."""
    pinned: Bools
    """Of each file: the last copy of it stays."""
    space: Longs
    """Of each cache, in bytes: for what is planned."""
    bandwidth: Floats
    """Of each cache, in bytes a day."""
    keys: Keys
    """Of each cache: decides between caches that are equal otherwise, with the file's number (rendezvous hashing)."""
    unserved: Floats
    """Of each file, in bytes a day."""
    first: Ints
    """Of each file: its first copy, or -1."""
    copies: Ints
    """Of each file."""
    free: Longs
    """Of each cache, in bytes."""
    headroom: Floats
    """Of each cache, in bytes a day."""
    writable: Longs
    """Of each cache, in bytes: what may still be written."""
    file: Ints
    """Of each copy."""
    cache: Ints
    """Of each copy."""
    next: Ints
    """Of each copy: the next one of its file, or -1."""
    served: Floats
    """Of each copy, in bytes a day."""
    written: Bools
    """Of each copy: whether it is new, and so has been taken off `writable`."""
    used: Longs
    """One number: how many copies have been numbered."""


@compiled
def mixed(key: np.uint64, file: int) -> np.uint64:
    """Return a hash of a cache's key and a file: the last steps of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = key ^ (np.uint64(file) * np.uint64(0x9E3779B97F4A7C15))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def add_copy(state: State, file: int, cache: int, amount: float, written: bool) -> None:
    """Put a file into a cache that has room for it, and let it serve `amount` there."""
    copy = state.used[0]
    state.used[0] += 1
    state.file[copy] = file
    state.cache[copy] = cache
    state.next[copy] = state.first[file]
    state.first[file] = copy
    state.copies[file] += 1
    state.served[copy] = amount
    state.written[copy] = written
    state.unserved[file] -= amount
    state.headroom[cache] -= amount
    state.free[cache] -= state.size[file]
    if written:
        state.writable[cache] -= state.size[file]


@compiled
def drop_copy(state: State, copy: int) -> None:
    """Take a copy out of its cache. What it served goes to the other copies of its file, as far as they can."""
    file, cache = state.file[copy], state.cache[copy]
    before, at = -1, state.first[file]
    while at != copy:
        before, at = at, state.next[at]
    if before < 0:
        state.first[file] = state.next[copy]
    else:
        state.next[before] = state.next[copy]
    state.copies[file] -= 1
    state.cache[copy] = -1
    state.free[cache] += state.size[file]
    state.headroom[cache] += state.served[copy]
    state.unserved[file] += state.served[copy]
    state.served[copy] = 0.0
    if state.written[copy]:
        state.writable[cache] += state.size[file]
    at = state.first[file]
    while at >= 0:
        amount = min(state.unserved[file], state.headroom[state.cache[at]])
        if amount > 0:
            state.served[at] += amount
            state.unserved[file] -= amount
            state.headroom[state.cache[at]] -= amount
        at = state.next[at]


@compiled
def pour(state: State, file: int, holders: Ints) -> None:
    """Let the copies of a file serve what is unserved, so that those that serve have equal headroom left.

    `holders` is room for the copies of the file.
    """
    count, at = 0, state.first[file]
    while at >= 0:
        place = count
        while place > 0 and state.headroom[state.cache[holders[place - 1]]] < state.headroom[state.cache[at]]:
            holders[place] = holders[place - 1]
            place -= 1
        holders[place] = at
        count, at = count + 1, state.next[at]
    whole, sharing, level = 0.0, 0, 0.0
    while sharing < count:
        whole += state.headroom[state.cache[holders[sharing]]]
        sharing += 1
        level = max(0.0, (whole - state.unserved[file]) / sharing)
        if sharing < count and state.headroom[state.cache[holders[sharing]]] <= level:
            break
    for place in range(sharing):
        copy = holders[place]
        amount = min(state.headroom[state.cache[copy]] - level, state.unserved[file])
        if amount > 0:
            state.served[copy] += amount
            state.unserved[file] -= amount
            state.headroom[state.cache[copy]] -= amount


@compiled
def route(state: State, order: Longs, sweeps: int, holders: Ints) -> None:
    """Decide anew what each copy serves. `order` has the files, densest first.

    Where a cache has too little bandwidth its coldest files are served first: what is left unserved is then of hot
    files, of which a copy elsewhere costs least. `holders` is room for the copies of a file.
    """
    for cache in range(len(state.space)):
        state.headroom[cache] = state.bandwidth[cache]
    for file in range(len(state.demand)):
        state.unserved[file] = state.demand[file]
    for copy in range(state.used[0]):
        state.served[copy] = 0.0
    several = 0
    for place in range(len(order) - 1, -1, -1):
        file = order[place]
        copy = state.first[file]
        if copy < 0:
            continue
        if state.next[copy] >= 0:
            several += 1
            continue
        amount = min(state.demand[file], state.headroom[state.cache[copy]])
        state.served[copy] = amount
        state.unserved[file] -= amount
        state.headroom[state.cache[copy]] -= amount
    if not several:
        return
    for _ in range(sweeps):
        for place in range(len(order) - 1, -1, -1):
            file = order[place]
            copy = state.first[file]
            if copy < 0 or state.next[copy] < 0:
                continue
            while copy >= 0:
                state.headroom[state.cache[copy]] += state.served[copy]
                state.unserved[file] += state.served[copy]
                state.served[copy] = 0.0
                copy = state.next[copy]
            pour(state, file, holders)


def state_of(
    demand: Floats, size: Longs, pinned: Bools, space: Longs, bandwidth: Floats, keys: Keys, copies_max: int
) -> State:
    """Return a cluster of empty caches with room for `copies_max` copies, over all of the time that it is used."""
    return State(
        demand, size, pinned, space, bandwidth, keys,
        unserved=demand.copy(), first=np.full(len(size), -1, np.int32), copies=np.zeros(len(size), np.int32),
        free=space.copy(), headroom=bandwidth.copy(), writable=space.copy(),
        file=np.empty(copies_max, np.int32), cache=np.empty(copies_max, np.int32),
        next=np.empty(copies_max, np.int32), served=np.empty(copies_max), written=np.empty(copies_max, np.bool_),
        used=np.zeros(1, np.int64),
    )  # fmt: skip
