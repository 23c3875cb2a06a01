"""The placement in one cluster: what may stay, the pins, and then the search until nothing changes.

Between two passes of the search the copies are numbered and routed anew from what lies where alone, so that a result
does not depend on how it was reached: started from its own result, the search finds the same state and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from p2pfill.plan.placement.compiled import compiled
from p2pfill.plan.placement.matching import LEVELLING_SWEEPS, Bools, Keys, State, add_copy, drop_copy, route, state_of
from p2pfill.plan.placement.swaps import Terms, candidates_of, search_pass, stock_of
from p2pfill.plan.placement.valuation import Bound
from p2pfill.plan.tables import Floats, Ints, Longs

COPIES_SPARE: Final = 1 << 16
"""Room for copies that come and go within one pass, beside one for each file and those that lie there."""


@dataclass(frozen=True, slots=True)
class ClusterTask:
    """What one cluster has to place. Files are those of the catalogue, caches are counted from 0 in the cluster."""

    demand: Floats
    """Of each file, in bytes a day; 0 where the file is excluded."""
    size: Longs
    """Of each file, in bytes."""
    pinned: Bools
    """Of each file: at least one copy is to lie here."""
    allowed: Bools
    """Of each file."""
    space: Longs
    """Of each cache, in bytes: for what is planned."""
    bandwidth: Floats
    """Of each cache, in bytes a day."""
    keys: Keys
    """Of each cache, for rendezvous hashing."""
    held: Longs
    """What lies there, as `cache * files + file`, ascending."""
    writable: Longs
    """Of each cache, in bytes: what may be written that does not lie there."""
    write_price: float
    hysteresis: float

    @property
    def files(self) -> int:
        """How many there are."""
        return len(self.size)


@dataclass(frozen=True, slots=True)
class Found:
    """A placement in a cluster."""

    held: Longs
    """What is to lie there, as `cache * files + file`, ascending."""
    state: State
    is_refused: bool
    """Whether leave to write was missing for something that was worth it."""
    is_settled: bool
    """Whether nothing was left to change, also with leave to write anew."""


@compiled
def load_copies(state: State, caches: Ints, files: Ints, written: Bools) -> None:
    """Put copies into empty caches."""
    for copy in range(len(files)):
        add_copy(state, files[copy], caches[copy], 0.0, written[copy])


def kept(task: ClusterTask) -> Longs:
    """Return what may stay of what lies there: allowed, and where a cache has less space than before, the densest."""
    held = task.held[task.allowed[task.held % task.files]]
    cache, file = np.divmod(held, task.files)
    used = np.bincount(cache, task.size[file], minlength=len(task.space))
    if (used <= task.space).all():
        return held
    order = np.lexsort((-task.demand[file] / task.size[file], ~task.pinned[file], cache))
    room = task.space.copy()
    stay = np.zeros(len(held), np.bool_)
    for at, cache_at, size in zip(order.tolist(), cache[order].tolist(), task.size[file[order]].tolist(), strict=True):
        if size <= room[cache_at]:
            room[cache_at] -= size
            stay[at] = True
    return held[stay]


def state_with(task: ClusterTask, held: Longs, bound: Bound) -> State:
    """Return the caches with `held` in them, routed."""
    copies_max = 2 * task.files + 2 * len(held) + COPIES_SPARE
    state = state_of(task.demand, task.size, task.pinned, task.space, task.bandwidth, task.keys, copies_max)
    state.writable[:] = task.writable
    cache, file = np.divmod(held, task.files)
    load_copies(state, cache.astype(np.int32), file.astype(np.int32), ~np.isin(held, task.held, assume_unique=True))
    route(state, bound.order, LEVELLING_SWEEPS, np.empty(len(task.space), np.int32))
    return state


def held_in(task: ClusterTask, state: State) -> Longs:
    """Return what lies in the caches, as `cache * files + file`, ascending."""
    alive = np.flatnonzero(state.cache[: state.used[0]] >= 0)
    return np.sort(state.cache[alive].astype(np.int64) * task.files + state.file[alive])


def by_worth(state: State) -> Longs:
    """Return the copies, those that serve least for their size first."""
    alive = np.flatnonzero(state.cache[: state.used[0]] >= 0)
    return alive[np.argsort(state.served[alive] / state.size[state.file[alive]], kind="stable")]


def settle_pins(state: State) -> Ints:
    """Place pinned files of which no copy lies here. Return those that found no place.

    A pin is the operator's word: it takes the leave to write first, and where that is too little exceeds it.
    """
    missing = np.flatnonzero(state.pinned & (state.copies == 0))
    failed = []
    for file in missing.tolist():
        size = int(state.size[file])
        worth = by_worth(state)
        order = np.lexsort((-state.writable, -state.free, state.writable < size, state.free < size))
        for cache in order.tolist():
            own = worth[state.cache[worth] == cache]
            loose = own[~state.pinned[state.file[own]] | (state.copies[state.file[own]] > 1)]
            if state.free[cache] + state.size[state.file[loose]].sum() < size:
                continue
            for copy in loose.tolist():
                if state.free[cache] >= size:
                    break
                drop_copy(state, copy)
            add_copy(state, file, cache, min(float(state.unserved[file]), float(state.headroom[cache])), True)
            break
        else:
            failed.append(file)
    return np.array(failed, np.int32)


def terms_of(task: ClusterTask, bound: Bound) -> Terms:
    """Return on what terms copies come in."""
    reserve = np.zeros(len(task.space))
    reserve[list(bound.tight)] = bound.margin
    return Terms(task.write_price, task.hysteresis, bound.margin, reserve)


def search(task: ClusterTask, held: Longs, bound: Bound, passes: int) -> Found:
    """Return the placement that exchanges lead to from `held`, in a number of passes at most."""
    terms = terms_of(task, bound)
    refused, settled = False, False
    state = state_with(task, held, bound)
    for _ in range(passes):
        stock = stock_of(state)
        changes, refused = search_pass(state, terms, candidates_of(state, terms, bound.order, stock), stock)
        if not changes:
            settled = not refused
            break
        held = held_in(task, state)
        state = state_with(task, held, bound)
    return Found(held, state, refused, settled)


def with_pins(task: ClusterTask, bound: Bound) -> tuple[Longs, Ints]:
    """Return what may stay with the pins placed beside it, and the pinned files that found no place."""
    held = kept(task)
    if not task.pinned.any():
        return held, np.zeros(0, np.int32)
    state = state_with(task, held, bound)
    unpinned = settle_pins(state)
    return held_in(task, state), unpinned
