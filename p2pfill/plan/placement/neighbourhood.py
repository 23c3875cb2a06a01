"""Large neighbourhoods: two caches of a cluster at a time, of which the uncertain part is placed anew by HiGHS.

What a search of single exchanges leaves is of whole files: a disk whose last gap fits nothing, two that had better
trade. In each neighbourhood the copies that serve least for their size, and the files that are served least of what
they ask for, are free; the rest stays where it is, and caches outside of the pair serve what they serve now. What stays
takes part as three flows: of files in the one cache, in the other, in both (Pisinger and Ropke 2010 on the method).

A limit counts neighbourhoods and nodes of the search tree, never seconds: so a plan is the same each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from p2pfill.plan.placement.cluster import ClusterTask, held_in, state_with
from p2pfill.plan.placement.matching import Bools, State
from p2pfill.plan.placement.program import IntegerProgram
from p2pfill.plan.placement.valuation import Bound
from p2pfill.plan.tables import Floats, Ints, Longs

FREE_MAX: Final = 24
"""Files that are free of each kind: in the one cache, in the other, in neither. More take seconds to solve."""

NODES_MAX: Final = 300
"""Of the search tree of one neighbourhood."""

GAIN_MIN: Final = 1e-6
"""Of what the cluster serves: less is within the solver's tolerances."""


@dataclass(frozen=True, slots=True)
class Refined:
    """What the neighbourhoods of a cluster made of a placement."""

    held: Longs
    state: State
    solved: int
    """How many neighbourhoods were solved."""
    is_settled: bool
    """Whether the last round over all pairs of caches was solved to the end and changed nothing."""


def refine(task: ClusterTask, held: Longs, bound: Bound, solved_max: int) -> Refined:
    """Improve a placement until no pair of caches can be, or `solved_max` neighbourhoods have been solved."""
    state = state_with(task, held, bound)
    solved = 0
    while True:
        improved, complete = False, True
        for pair in combinations(range(len(task.space)), 2):
            if solved >= solved_max:
                return Refined(held, state, solved, False)
            solved += 1
            better, is_best = solve_pair(task, state, pair)
            complete = complete and is_best
            if better is not None:
                held, state, improved = better, state_with(task, better, bound), True
        if not improved:
            return Refined(held, state, solved, complete)


def served_by(state: State, cache: int) -> Floats:
    """Return what a cache serves of each file, in bytes a day; -1 where it does not hold it."""
    served = np.full(len(state.size), -1.0)
    copies = np.flatnonzero(state.cache[: state.used[0]] == cache)
    served[state.file[copies]] = state.served[copies]
    return served


def free_files(task: ClusterTask, state: State, served: tuple[Floats, Floats], pair: tuple[int, int]) -> Longs:
    """Return the files that are placed anew, ascending."""
    chosen = []
    for own in served:
        files = np.flatnonzero(own >= 0)
        chosen.append(files[np.argsort(own[files] / task.size[files], kind="stable")[:FREE_MAX]])
    fits = task.size <= task.space[list(pair)].max()
    files = np.flatnonzero((state.unserved > task.write_price * task.size) & fits & ((served[0] < 0) | (served[1] < 0)))
    chosen.append(files[np.argsort(-state.unserved[files] / task.size[files], kind="stable")[:FREE_MAX]])
    return np.unique(np.concatenate(chosen))


def solve_pair(task: ClusterTask, state: State, pair: tuple[int, int]) -> tuple[Longs | None, bool]:
    """Return what is to lie in the cluster when two caches are placed anew, or None, and whether that is the best."""
    served = (served_by(state, pair[0]), served_by(state, pair[1]))
    held = np.array([own >= 0 for own in served])
    free = free_files(task, state, served, pair)
    if not len(free):
        return None, True
    stays = np.ones(task.files, np.bool_)
    stays[free] = False
    asked = state.unserved + np.maximum(served[0], 0) + np.maximum(served[1], 0)
    unit = float(task.bandwidth.max()) or 1.0
    block = float(task.space.max()) / 1e3
    size = task.size[free]
    program, start = IntegerProgram(), []
    lies, flows = [], []
    for at, cache in enumerate(pair):
        was_held = np.isin(cache * task.files + free, task.held, assume_unique=True)
        new = np.where(held[at, free], 0.0, task.write_price * size)
        lost = np.where(held[at, free], task.hysteresis * np.maximum(served[at][free], 0), 0.0)
        possible = (task.allowed[free] & (size <= task.space[cache])).astype(np.float64)
        lie = program.add((lost - new) / unit, np.zeros(len(free)), possible, whole=True)
        most = np.minimum(asked[free], task.bandwidth[cache])
        flow = program.add(np.ones(len(free)), np.zeros(len(free)), most / unit, whole=False)
        start += [held[at, free].astype(np.float64), np.maximum(served[at][free], 0) / unit]
        room = int(task.space[cache]) - int(task.size[held[at] & stays].sum())
        program.at_most(lie, size / block, room / block)
        leave = int(state.writable[cache]) + int(size[held[at, free] & ~was_held].sum())
        program.at_most(lie, np.where(was_held, 0.0, size / block), max(leave, 0) / block)
        for file in range(len(free)):
            columns = np.array([flow[file], lie[file]], np.int32)
            program.at_most(columns, np.array([1.0, -most[file] / unit]), 0.0)
        lies.append(lie)
        flows.append([flow])
    add_flows(program, task, state, pair, held & stays, asked, served, flows, start, unit)
    for file in range(len(free)):
        columns = np.array([flows[0][0][file], flows[1][0][file]], np.int32)
        program.at_most(columns, np.ones(2), asked[free[file]] / unit)
        elsewhere = state.copies[free[file]] - held[0, free[file]] - held[1, free[file]]
        if task.pinned[free[file]] and elsewhere == 0 and state.copies[free[file]] > 0:
            program.at_least(np.array([lies[0][file], lies[1][file]], np.int32), np.ones(2), 1.0)
    begun = np.concatenate(start)
    solved = program.solve(begun, nodes=NODES_MAX)
    if solved is None:
        return None, False
    now = float(np.concatenate(program.gains) @ begun)
    if solved.value - now <= GAIN_MIN * float((task.demand - state.unserved).sum()) / unit:
        return None, solved.is_optimal
    return placed(task, state, pair, free, [solved.values[lie] > 0.5 for lie in lies]), solved.is_optimal


def add_flows(
    program: IntegerProgram, task: ClusterTask, state: State, pair: tuple[int, int], fixed: Bools, asked: Floats,
    served: tuple[Floats, Floats], flows: list[list[Ints]], start: list[Floats], unit: float,
) -> None:  # fmt: skip
    """Add what the copies that stay serve, and the bandwidth of the two caches."""
    both = fixed[0] & fixed[1]
    most = float(asked[both].sum()) / unit
    shared = []
    for at in range(2):
        alone = fixed[at] & ~both
        amount = np.array([float(asked[alone].sum()), most * unit]) / unit
        flow = program.add(np.ones(2), np.zeros(2), amount, whole=False)
        start.append(np.array([served[at][alone].sum(), served[at][both].sum()]) / unit)
        flows[at].append(flow)
        shared.append(flow[1])
    program.at_most(np.array(shared, np.int32), np.ones(2), most)
    for at, cache in enumerate(pair):
        columns = np.concatenate(flows[at])
        program.at_most(columns, np.ones(len(columns)), float(task.bandwidth[cache]) / unit)


def placed(task: ClusterTask, state: State, pair: tuple[int, int], free: Longs, lies: list[Bools]) -> Longs | None:
    """Return what is to lie in the cluster, or None where the solver's tolerances let it exceed a bound."""
    held = held_in(task, state)
    for cache, lie in zip(pair, lies, strict=True):
        numbers = cache * task.files + free
        held = np.union1d(np.setdiff1d(held, numbers, assume_unique=True), numbers[lie])
        own = held[(held >= cache * task.files) & (held < (cache + 1) * task.files)]
        new = np.setdiff1d(own, task.held, assume_unique=True) - cache * task.files
        if int(task.size[own - cache * task.files].sum()) > int(task.space[cache]):
            return None
        leave = max(int(task.writable[cache]), int(task.writable[cache]) - int(state.writable[cache]))
        if int(task.size[new].sum()) > leave:
            return None
    return held
