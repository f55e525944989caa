"""Levels of groups whose costs are coupled in pairs: what a choice costs, and what every single change would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices

ROUNDING: Final = 1e-12
_SWEEPS: Final = 100


@dataclass(frozen=True, eq=False)
class Problem:
    """Errors and costs of ``g`` groups, padded to ``n`` levels; levels that a group does not have cost infinity.

    Parameters
    ----------
    errors : (g, n) float64
        Error of every group at every level.
    single : (g, n) float64
        The part of the cost that depends on one group alone.
    constant : float
        The part that depends on none.
    pairs : (p, 2) int
        The groups that share a table, no pair twice.
    tables : (p, n, n) float64
        The part of the cost that depends on both; finite everywhere.
    neighbours : tuple of (indices, (·, n, n) float64)
        For every group the groups it shares a table with, and those tables with its own axis first.
    """

    errors: Array
    single: Array
    constant: float
    pairs: Indices
    tables: Array
    neighbours: tuple[tuple[Indices, Array], ...]

    @classmethod
    def of(cls, errors: Array, single: Array, constant: float, joint: Mapping[tuple[int, int], Array]) -> Problem:
        """Return the problem with these tables, one at most for every pair of groups, padded here."""
        n = errors.shape[1]
        tables = np.zeros((len(joint), n, n))
        around: list[list[tuple[int, Array]]] = [[] for _ in errors]
        for (first, second), table, padded in zip(joint, joint.values(), tables, strict=True):
            padded[: table.shape[0], : table.shape[1]] = table
            around[first].append((second, padded))
            around[second].append((first, padded.T))
        neighbours = tuple(
            (np.array([other for other, _ in near], dtype=np.intp), np.array([table for _, table in near]))
            for near in around
        )
        return cls(errors, single, constant, np.array(list(joint), dtype=np.intp).reshape(-1, 2), tables, neighbours)


class Choice:
    """A level for every group, kept together with the effect of every single change.

    Parameters
    ----------
    problem : Problem
    levels : (g,) int
        Copied.

    Attributes
    ----------
    error, cost : float
        Totals of the choice.
    marginal : (g, n) float64
        Cost of all terms that contain group g, at every level of g and the present levels of the others.
    """

    def __init__(self, problem: Problem, levels: Indices) -> None:
        self.problem = problem
        self.levels = levels.copy()
        self._groups = np.arange(levels.size)
        first, second = problem.pairs.T
        which = np.arange(len(problem.pairs))
        self.marginal = problem.single.copy()
        np.add.at(self.marginal, first, problem.tables[which, :, levels[second]])
        np.add.at(self.marginal, second, problem.tables[which, levels[first], :])
        paired = float(problem.tables[which, levels[first], levels[second]].sum())
        self.cost = problem.constant + float(problem.single[self._groups, levels].sum()) + paired
        self.error = float(problem.errors[self._groups, levels].sum())

    def copy(self) -> Choice:
        """Return an independent copy, its totals summed afresh."""
        return Choice(self.problem, self.levels)

    def move(self, group: int, level: int) -> None:
        """Change the level of one group."""
        before = self.levels[group]
        self.error += float(self.problem.errors[group, level] - self.problem.errors[group, before])
        self.cost += float(self.marginal[group, level] - self.marginal[group, before])
        others, tables = self.problem.neighbours[group]
        if others.size:
            self.marginal[others] += tables[:, level] - tables[:, before]
        self.levels[group] = level

    def changes(self) -> tuple[Array, Array]:
        """Return what every single change would add to the error and to the cost, both (g, n)."""
        here = (self._groups, self.levels)
        errors = self.problem.errors - self.problem.errors[here][:, None]
        return errors, self.marginal - self.marginal[here][:, None]

    def joint_changes(self) -> tuple[Array, Array]:
        """Return what every change of two groups that share a table would add to error and cost, both (p, n, n)."""
        errors, costs = self.changes()
        first, second = self.problem.pairs.T
        tables, which = self.problem.tables, np.arange(len(self.problem.pairs))
        row, column = self.levels[first], self.levels[second]
        # The single changes each assume that the other group stays.
        correction = tables - tables[which, :, column][:, :, None] - tables[which, row, :][:, None, :]
        correction += tables[which, row, column][:, None, None]
        return (
            errors[first][:, :, None] + errors[second][:, None, :],
            costs[first][:, :, None] + costs[second][:, None, :] + correction,
        )

    def relax(self, error_weight: float, cost_weight: float) -> None:
        """Descend to a minimum of error_weight · error + cost_weight · cost that no single change can lower."""
        for _ in range(_SWEEPS):
            value = error_weight * self.problem.errors + cost_weight * self.marginal
            here = value[self._groups, self.levels]
            unhappy = np.flatnonzero((value < (here - ROUNDING * np.abs(here))[:, None]).any(axis=1))
            if not unhappy.size:
                return
            for group in unhappy.tolist():
                value_now = error_weight * self.problem.errors[group] + cost_weight * self.marginal[group]
                self.move(group, int(np.argmin(value_now)))
