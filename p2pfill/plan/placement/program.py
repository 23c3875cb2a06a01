"""Integer programs in the form that placements need, handed to HiGHS. Deterministic: one thread, a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Final

import highspy
import numpy as np
from highspy._core import _Highs

from p2pfill.plan.tables import Floats, Ints

GAP: Final = 1e-4
"""Relative: what is nearer to its bound counts as the best."""


@dataclass(frozen=True, slots=True)
class Solved:
    """What was found."""

    values: Floats
    """Of each variable; those that are to be whole are rounded."""
    value: float
    bound: float
    """What no solution is above."""
    is_optimal: bool
    """Within `GAP`. If not, a limit was met first."""


@dataclass(slots=True)
class IntegerProgram:
    """A sum to be made as great as can be, under rows that bound other sums. Variables go from 0 or more upwards."""

    gains: list[Floats] = field(default_factory=list)
    lowers: list[Floats] = field(default_factory=list)
    uppers: list[Floats] = field(default_factory=list)
    wholes: list[bool] = field(default_factory=list)
    variables: int = 0
    starts: list[int] = field(default_factory=lambda: [0])
    columns: list[Ints] = field(default_factory=list)
    factors: list[Floats] = field(default_factory=list)
    row_lowers: list[float] = field(default_factory=list)
    row_uppers: list[float] = field(default_factory=list)

    def add(self, gain: Floats, lower: Floats, upper: Floats, whole: bool) -> Ints:
        """Add a variable for each entry and return their numbers. `whole`: they are to be integers."""
        numbers = np.arange(self.variables, self.variables + len(gain), dtype=np.int32)
        self.variables += len(gain)
        self.gains.append(gain)
        self.lowers.append(lower)
        self.uppers.append(upper)
        self.wholes += [whole] * len(gain)
        return numbers

    def at_most(self, columns: Ints, factors: Floats, upper: float) -> None:
        """Bound the sum of variables times factors from above."""
        self._row(columns, factors, -inf, upper)

    def at_least(self, columns: Ints, factors: Floats, lower: float) -> None:
        """Bound the sum of variables times factors from below."""
        self._row(columns, factors, lower, inf)

    def _row(self, columns: Ints, factors: Floats, lower: float, upper: float) -> None:
        self.columns.append(columns)
        self.factors.append(factors)
        self.starts.append(self.starts[-1] + len(columns))
        self.row_lowers.append(lower)
        self.row_uppers.append(upper)

    def solve(self, start: Floats | None = None, *, nodes: int | None = None, seconds: float = inf) -> Solved | None:
        """Solve it from the solution `start`, up to a number of nodes of the search tree or a time. None: no solution.

        Only a limit in nodes gives the same result each time.
        """
        program = highspy.HighsLp()
        program.num_col_ = self.variables
        program.num_row_ = len(self.row_lowers)
        program.sense_ = highspy.ObjSense.kMaximize
        program.col_cost_ = np.concatenate(self.gains)
        program.col_lower_ = np.concatenate(self.lowers)
        program.col_upper_ = np.concatenate(self.uppers)
        program.row_lower_ = np.array(self.row_lowers)
        program.row_upper_ = np.array(self.row_uppers)
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.array(self.starts, np.int32)
        program.a_matrix_.index_ = np.concatenate(self.columns)
        program.a_matrix_.value_ = np.concatenate(self.factors)
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        program.integrality_ = [kinds[whole] for whole in self.wholes]
        # `highspy.Highs` prints a line when it is made, before anything can be set; its base does not.
        solver = _Highs()
        options = {"output_flag": False, "threads": 1, "random_seed": 1, "mip_rel_gap": GAP, "time_limit": seconds}
        for name, value in (options | ({} if nodes is None else {"mip_max_nodes": nodes})).items():
            solver.setOptionValue(name, value)
        solver.passModel(program)
        if start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = start.tolist()
            solver.setSolution(solution)
        solver.run()
        info = solver.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return None
        values = np.array(solver.getSolution().col_value)
        whole = np.array(self.wholes)
        values[whole] = np.round(values[whole])
        best = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
        bound = info.mip_dual_bound if whole.any() else info.objective_function_value
        return Solved(values, info.objective_function_value, max(bound, info.objective_function_value), best)
