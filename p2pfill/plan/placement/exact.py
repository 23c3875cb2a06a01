"""The best placement in one cluster, by an integer program: for small instances, as what the planner is measured by.

With h = 1 where a file lies in a cache and x what it serves there:

    maximise  sum x - write_price * bytes of the h that were not held
    x[f, c] <= min(demand[f], bandwidth[c]) * h[f, c]
    sum over c of x[f, c] <= demand[f];   sum over f of x[f, c] <= bandwidth[c]
    sum over f of size[f] * h[f, c] <= space[c];   the same over files that were not held <= writable[c]
    sum over c of h[f, c] >= 1 for pinned files

HiGHS often stops at its limit of time with a gap: compare with `bound` too, above which no placement is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from p2pfill.plan.placement.matching import Bools
from p2pfill.plan.placement.program import IntegerProgram
from p2pfill.plan.tables import Floats, Longs


@dataclass(frozen=True, slots=True)
class Instance:
    """A cluster as the exact solver sees it. Sizes and spaces in bytes; demand and bandwidth in bytes a day."""

    demand: Floats
    size: Longs
    space: Longs
    bandwidth: Floats
    held: Bools
    """A row for each cache and a column for each file: what lies there already."""
    writable: Longs
    """Of each cache: how many bytes may be written that are not there."""
    pinned: Bools
    """Of each file: at least one copy of it stays."""
    allowed: Bools
    """Of each file."""
    write_price: float
    """Bytes served a day that writing a byte costs."""


@dataclass(frozen=True, slots=True)
class Exact:
    """What the solver found for one cluster."""

    held: Bools
    """A row for each cache and a column for each file."""
    value: float
    """Bytes served a day, less the price of what is written."""
    bound: float
    """What no placement is above."""
    is_optimal: bool


def exact(instance: Instance, seconds: float) -> Exact | None:
    """Return the best placement that HiGHS finds in `seconds`; None: there is none, or none was found in time."""
    caches, files = instance.held.shape
    unit = float(instance.demand.max(initial=0.0)) or 1.0
    block = float(instance.space.max(initial=1)) / 1e3
    demand, bandwidth = instance.demand / unit, instance.bandwidth / unit
    size = instance.size / block
    program = IntegerProgram()
    lies, serves = [], []
    fits = instance.size[None, :] <= instance.space[:, None]
    for cache in range(caches):
        price = np.where(instance.held[cache], 0.0, instance.write_price * instance.size / unit)
        possible = (instance.allowed & fits[cache]).astype(np.float64)
        lies.append(program.add(-price, np.zeros(files), possible, whole=True))
        serves.append(program.add(np.ones(files), np.zeros(files), np.minimum(demand, bandwidth[cache]), whole=False))
    for cache in range(caches):
        program.at_most(lies[cache], size, instance.space[cache] / block)
        program.at_most(lies[cache], np.where(instance.held[cache], 0.0, size), instance.writable[cache] / block)
        program.at_most(serves[cache], np.ones(files), bandwidth[cache])
        for file in range(files):
            pair = np.array([serves[cache][file], lies[cache][file]], np.int32)
            program.at_most(pair, np.array([1.0, -min(demand[file], bandwidth[cache])]), 0.0)
    for file in range(files):
        program.at_most(np.array([row[file] for row in serves], np.int32), np.ones(caches), demand[file])
        if instance.pinned[file]:
            program.at_least(np.array([row[file] for row in lies], np.int32), np.ones(caches), 1.0)
    solved = program.solve(seconds=seconds)
    if solved is None:
        return None
    held = np.array([solved.values[row] > 0.5 for row in lies])
    return Exact(held, solved.value * unit, solved.bound * unit, solved.is_optimal)
