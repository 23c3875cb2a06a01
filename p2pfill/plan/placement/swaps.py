"""The search in one cluster: files that are not served come in, densest first, and what is worth least goes out.

Density is what a copy would serve a day for each byte of space. One pass goes once over the files with demand left:

- A file goes where there is room for it, to the cache with the most bandwidth left for each byte left. So space and
  bandwidth of a cache run out together: hot files gather where bandwidth is, cold ones where space is.
- A copy takes no bandwidth that the rest of its cache's space will need (`reserve`). A file with demand left then gets
  another copy at once: copies follow demand.
- Where there is no room, the copies that serve least for their size make room, in the cache where the exchange gains
  most: what is gained, less the price of writing, must exceed what is lost by the hysteresis.

From empty caches this is density matching; from what caches hold it changes what is worth it and nothing else. A pass
that changes nothing is the end: the same search from there, with no more leave to write, changes nothing either.

Consistent hashing decides between caches that are equal otherwise, and nothing else: where it places by itself, hot
files meet in caches without the bandwidth for them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from p2pfill.plan.placement.compiled import compiled
from p2pfill.plan.placement.matching import State, add_copy, drop_copy, mixed
from p2pfill.plan.placement.ordering import ascending
from p2pfill.plan.tables import Floats, Ints, Longs

EVICTIONS_MAX: Final = 64
"""Copies that make room for one: a film in the place of a season's episodes."""

GAIN_MIN: Final = 1e-9
"""Of what a file asks for: exchanges that gain less are noise of floating point."""


class Stock(NamedTuple):
    """The copies that may make room for others in a pass, and room for what a pass notes."""

    copies: Ints
    """Those of cache c are `copies[start[c] : stop[c]]`, that which serves least for its size first."""
    start: Longs
    """Of each cache; moves up to the first copy that still lies there."""
    stop: Longs
    """Of each cache."""
    low: Floats
    """Of each cache: the least that a byte of its copies serves a day."""
    holds: Ints
    """Of each cache: the last candidate that it was seen to hold, as its place among the candidates."""
    victims: Ints
    """A row for each cache: the copies that are to make room."""


class Terms(NamedTuple):
    """On what terms a copy comes in."""

    write_price: float
    """Bytes served a day that writing a byte costs."""
    hysteresis: float
    """By what part more must be gained than is lost."""
    margin: float
    """The density of the coldest file that an ideal placement would hold."""
    reserve: Floats
    """Of each cache: bandwidth, in bytes a day, that is kept back for each byte left of its space."""


@compiled
def holders_marked(state: State, file: int, holds: Ints, mark: int) -> None:
    """Set `holds` of each cache that has the file to `mark`."""
    copy = state.first[file]
    while copy >= 0:
        holds[state.cache[copy]] = mark
        copy = state.next[copy]


@compiled
def roomy_cache(state: State, terms: Terms, file: int, holds: Ints, mark: int) -> tuple[int, float, bool]:
    """Return the cache with room to which a file goes, what it serves there, and whether leave to write was missing.

    The cache is -1 where there is none. Caches whose `holds` is `mark` have the file.
    """
    size, want = state.size[file], state.unserved[file]
    floor = terms.write_price * size + GAIN_MIN * state.demand[file]
    refused = False
    best, best_ratio = -1, -1.0
    most, most_spare = -1, 0.0
    last, last_headroom = -1, 0.0
    for cache in range(len(state.space)):
        if holds[cache] == mark or state.free[cache] < size or state.headroom[cache] <= 0:
            continue
        if state.writable[cache] < size:
            refused = refused or min(want, state.headroom[cache]) > floor
            continue
        spare = state.headroom[cache] - terms.reserve[cache] * (state.free[cache] - size)
        ratio = state.headroom[cache] / state.free[cache]
        if spare >= want / 2 and (
            ratio > best_ratio
            or (ratio == best_ratio and mixed(state.keys[cache], file) > mixed(state.keys[best], file))
        ):
            best, best_ratio = cache, ratio
        if spare > most_spare:
            most, most_spare = cache, spare
        if state.headroom[cache] > last_headroom:
            last, last_headroom = cache, state.headroom[cache]
    if best >= 0:
        spare = state.headroom[best] - terms.reserve[best] * (state.free[best] - size)
        amount = min(want, spare)
    elif most >= 0 and most_spare >= terms.margin * size:
        best, amount = most, min(want, most_spare)
    elif last >= 0:
        best, amount = last, min(want, last_headroom)
    else:
        return -1, 0.0, refused
    if amount <= floor:
        return -1, 0.0, refused
    return best, amount, refused


@compiled
def room_made(state: State, terms: Terms, file: int, cache: int, stock: Stock) -> tuple[float, int, bool]:
    """Return what is gained by making room in a cache, how many copies go, and whether there is leave to write.

    Those that go are put into the cache's row of `stock.victims`. Nothing gained: it does not pay.
    """
    size, want = state.size[file], state.unserved[file]
    worth = min(want, state.bandwidth[cache]) - terms.write_price * size
    room, writable = state.free[cache], state.writable[cache]
    loss, freed, count = 0.0, state.headroom[cache], 0
    place = stock.start[cache]
    while room < size:
        if place >= stock.stop[cache] or count >= stock.victims.shape[1]:
            return 0.0, 0, True
        copy = stock.copies[place]
        place += 1
        if state.cache[copy] != cache:
            continue
        other = state.file[copy]
        if other == file or (state.pinned[other] and state.copies[other] == 1):
            continue
        lost = state.served[copy]
        at = state.first[other]
        while at >= 0 and lost > 0:
            if at != copy:
                lost -= state.headroom[state.cache[at]]
            at = state.next[at]
        loss += max(0.0, lost)
        if (1.0 + terms.hysteresis) * loss >= worth:
            return 0.0, 0, True
        freed += state.served[copy]
        room += state.size[other]
        if state.written[copy]:
            writable += state.size[other]
        stock.victims[cache, count] = copy
        count += 1
    net = min(want, freed) - terms.write_price * size - (1.0 + terms.hysteresis) * loss
    if net <= GAIN_MIN * state.demand[file]:
        return 0.0, 0, True
    return net, count, writable >= size


@compiled
def exchange(state: State, terms: Terms, file: int, mark: int, stock: Stock) -> tuple[bool, bool]:
    """Put a file in the place of what is worth less, where that gains most.

    Return whether it was done, and whether it would have been done somewhere with more leave to write.
    """
    size, want = state.size[file], state.unserved[file]
    best, best_net, best_count, refused = -1, 0.0, 0, False
    for cache in range(len(state.space)):
        if stock.holds[cache] == mark or state.space[cache] < size:
            continue
        least = (1.0 + terms.hysteresis) * stock.low[cache] * (size - state.free[cache]) + terms.write_price * size
        if want <= least:
            continue
        net, count, allowed = room_made(state, terms, file, cache, stock)
        if not allowed:
            refused = True
        elif net > best_net or (
            net > 0 and net == best_net and mixed(state.keys[cache], file) > mixed(state.keys[best], file)
        ):
            best, best_net, best_count = cache, net, count
    if best < 0:
        return False, refused
    for place in range(best_count):
        drop_copy(state, stock.victims[best, place])
    add_copy(state, file, best, min(state.unserved[file], state.headroom[best]), True)
    return True, refused


@compiled
def search_pass(state: State, terms: Terms, candidates: Ints, stock: Stock) -> tuple[int, bool]:
    """Go once over `candidates`, files with demand left, densest first.

    Return the changes, and whether leave to write was missing for another.
    """
    caches = len(state.space)
    changes, refused = 0, False
    roomiest, lowest, changed = 0, 0.0, True
    smallest = 1 << 62
    for file in candidates:
        smallest = min(smallest, state.size[file])
    for mark in range(len(candidates)):
        file = candidates[mark]
        size = state.size[file]
        floor = terms.write_price * size + GAIN_MIN * state.demand[file]
        while state.unserved[file] > floor and state.used[0] < len(state.file):
            if changed:
                roomiest, lowest = prospects(state, stock, smallest if refused else -(1 << 62))
                changed = False
            least = (1.0 + terms.hysteresis) * lowest * (size - roomiest) + terms.write_price * size
            if size > roomiest and state.unserved[file] <= least:
                break
            holders_marked(state, file, stock.holds, mark)
            cache, amount, missing = roomy_cache(state, terms, file, stock.holds, mark)
            if missing and not refused:
                refused = changed = True
            if cache >= 0:
                add_copy(state, file, cache, amount, True)
            else:
                done, missing = exchange(state, terms, file, mark, stock)
                if missing and not refused:
                    refused = changed = True
                if not done:
                    break
            changes += 1
            changed = True
            for other in range(caches):
                while stock.start[other] < stock.stop[other] and state.cache[stock.copies[stock.start[other]]] < 0:
                    stock.start[other] += 1
            if state.unserved[file] < terms.margin * size:
                break
    return changes, refused


@compiled
def prospects(state: State, stock: Stock, smallest: int) -> tuple[int, float]:
    """Return the most room that a cache has, in bytes, and the least that a byte of a copy serves a day.

    Of the caches in which as much as the smallest candidate may still be written, in bytes.
    """
    roomiest, lowest = 0, np.inf
    for cache in range(len(state.space)):
        if state.writable[cache] < smallest:
            continue
        roomiest = max(roomiest, state.free[cache])
        lowest = min(lowest, stock.low[cache])
    return roomiest, lowest


def stock_of(state: State) -> Stock:
    """Return the copies that lie in the caches, as a pass needs them. They are numbered by caches."""
    caches, copies = len(state.space), int(state.used[0])
    edges = np.searchsorted(state.cache[:copies], np.arange(caches + 1))
    worth = state.served[:copies] / state.size[state.file[:copies]]
    order, low = np.empty(copies, np.int32), np.zeros(caches)
    for cache, (start, stop) in enumerate(pairwise(edges.tolist())):
        order[start:stop] = start + ascending(worth[start:stop])
        low[cache] = worth[order[start]] if start < stop else 0.0
    return Stock(
        order, edges[:-1].copy(), edges[1:].copy(), low,
        np.full(caches, -1, np.int32), np.empty((caches, EVICTIONS_MAX), np.int32),
    )  # fmt: skip


def candidates_of(state: State, terms: Terms, order: Longs, stock: Stock) -> Ints:
    """Return the files that may come in, densest first. `order` has all, by their whole demand.

    Left out are those whose demand is not worth writing, and those that neither fit into what is free nor are worth
    more than the least that lies there.

    Those without a copy are in that order already; only the rest is sorted.
    """
    size, unserved = state.size[order], state.unserved[order]
    density, roomiest = unserved / size, state.free.max()
    floor = terms.write_price * size
    least = (1.0 + terms.hysteresis) * stock.low.min() * (size - roomiest) + floor
    worth = (unserved > floor + GAIN_MIN * state.demand[order]) & ((size <= roomiest) | (unserved > least))
    whole = worth & (state.copies[order] == 0) & (state.demand[order] <= state.bandwidth.max())
    rest = np.flatnonzero(worth & ~whole)
    rest = rest[ascending(-density[rest])]
    places = np.searchsorted(-density[whole], -density[rest])
    return np.insert(order[whole], places, order[rest]).astype(np.int32)
