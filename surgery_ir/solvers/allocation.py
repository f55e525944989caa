"""How many units every group keeps: least total error within a budget whose cost couples pairs of groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices
from surgery_ir.solvers.exchange import cheapen, refine
from surgery_ir.solvers.levels import ROUNDING, Choice, Problem

_BISECTIONS: Final = 16
_MULTIPLIERS: Final = 1e6  # multipliers of the cost that are tried, to either side of error range / cost range
_REFINED: Final = 4  # starts that are refined, the best first
_KICKS: Final = 64  # random starts
_KICKED_GROUPS: Final = 3200  # the same, times the groups: bounds the time where there are many


@dataclass(frozen=True, eq=False)
class Curve:
    """What one group loses at each size it may have.

    Parameters
    ----------
    kept : (levels,) int
        Units kept, descending from all of them.
    errors : (levels,) float64
        Error at each level, from 0, non-decreasing.
    """

    kept: Indices
    errors: Array

    def __post_init__(self) -> None:
        if self.kept.ndim != 1 or self.kept.size == 0 or self.errors.shape != self.kept.shape:
            raise ValueError(f"kept {self.kept.shape} and errors {self.errors.shape} are not one value per level")
        if (np.diff(self.kept) >= 0).any() or not np.isfinite(self.errors).all():
            raise ValueError("the sizes do not descend, or an error is not finite")


@dataclass(frozen=True, eq=False)
class Term:
    """One additive part of the cost.

    Parameters
    ----------
    groups : tuple of int
        The groups whose levels it depends on: none, one, or two distinct ones.
    table : float64
        The cost at every level, one axis per group. It need not be monotone: latencies are measured.
    """

    groups: tuple[int, ...]
    table: Array

    def __post_init__(self) -> None:
        if len(self.groups) > 2 or len(set(self.groups)) != len(self.groups) or self.table.ndim != len(self.groups):
            raise ValueError(f"a table of {self.table.ndim} axes does not fit the groups {self.groups}")
        if not np.isfinite(self.table).all():
            raise ValueError("a cost is not finite")


class BudgetError(ValueError):
    """No levels that meet the budget were found.

    Parameters
    ----------
    budget : float
    least : float
        The least cost that was found; exact where every term falls with the size of its groups.
    """

    def __init__(self, budget: float, least: float) -> None:
        super().__init__(f"the cost cannot be brought down to {budget:.6g}: the least within reach is {least:.6g}")
        self.budget = budget
        self.least = least


def allocate(curves: Sequence[Curve], terms: Sequence[Term], budget: float) -> tuple[int, ...]:
    """Choose a level for every group: least Σ errors with Σ terms ≤ budget.

    A knapsack of multiple choice with quadratic costs, NP-hard, solved well rather than provably. The starts are greedy
    descent from the full sizes by error per cost saved, over jumps of any depth, and minima of error + μ · cost
    (Everett, 1963) on both sides of the μ that meets the budget. The best are refined by changes of one and two groups
    (:func:`surgery_ir.solvers.exchange.refine`) until none helps; the winner is kicked and refined again a number of
    times (iterated local search; Lourenço, Martin & Stützle, 2003). Deterministic.

    Parameters
    ----------
    curves : sequence of Curve
        One per group.
    terms : sequence of Term
    budget : float
        Met to within rounding: a relative excess of 1e-12 is let pass.

    Returns
    -------
    tuple of int
        The level of every group, an index into its curve.

    Raises
    ------
    BudgetError
        If the budget is out of reach; a ValueError that holds the least cost.
    ValueError
        If a term names a group that is not there, or its table does not have the levels of its groups.
    """
    problem = _problem(curves, terms)
    dense = Choice(problem, np.zeros(len(curves), dtype=np.intp))
    limit = budget + ROUNDING * max(abs(budget), abs(dense.cost))
    if dense.cost <= limit:
        refine(dense, limit)
        return _levels(dense)
    cheapest = _cheapest(dense, limit)
    if cheapest.cost > limit:
        raise BudgetError(budget, cheapest.cost)
    descended = [_descend(start, limit) for start in _starts(dense, cheapest, limit)]
    distinct = {_levels(choice): choice for choice in [cheapest, *descended] if choice is not None}
    refined = sorted(distinct.values(), key=_merit)[:_REFINED]
    for choice in refined:
        refine(choice, limit)
    return _levels(_kicked(min(refined, key=_merit), limit))


def _levels(choice: Choice) -> tuple[int, ...]:
    return tuple(choice.levels.tolist())


def _merit(choice: Choice) -> tuple[float, float]:
    return choice.error, choice.cost


def _problem(curves: Sequence[Curve], terms: Sequence[Term]) -> Problem:
    levels = [curve.errors.size for curve in curves]
    errors = np.zeros((len(levels), max(levels, default=0)))
    single = np.full(errors.shape, np.inf)
    for group, curve in enumerate(curves):
        errors[group, : levels[group]] = curve.errors
        single[group, : levels[group]] = 0.0
    constant = 0.0
    joint: dict[tuple[int, int], Array] = {}
    for term in terms:
        if any(not 0 <= group < len(levels) for group in term.groups):
            raise ValueError(f"a term names the groups {term.groups}, but there are {len(levels)}")
        if term.table.shape != tuple(levels[group] for group in term.groups):
            raise ValueError(f"a table {term.table.shape} does not have the levels of its groups {term.groups}")
        match term.groups:
            case ():
                constant += float(term.table)
            case (group,):
                single[group, : levels[group]] += term.table
            case first, second:
                pair, table = ((first, second), term.table) if first < second else ((second, first), term.table.T)
                joint[pair] = joint[pair] + table if pair in joint else table
    return Problem.of(errors, single, constant, joint)


def _cheapest(dense: Choice, limit: float) -> Choice:
    """Return a choice within the limit, or the cheapest that descent finds from the least, full and random sizes."""
    sizes, rng = _sizes(dense.problem), np.random.default_rng(0)
    best = dense
    for attempt in range(2 + _kicks(sizes.size)):
        levels = (sizes - 1, dense.levels)[attempt] if attempt < 2 else rng.integers(sizes)
        choice = Choice(dense.problem, levels)
        cheapen(choice)
        best = min(best, choice.copy(), key=lambda found: found.cost)
        if best.cost <= limit:
            break
    return best


def _sizes(problem: Problem) -> Indices:
    """Return how many levels every group has, shape (g,)."""
    return np.asarray(np.isfinite(problem.single).sum(axis=1))


def _kicks(groups: int) -> int:
    return min(_KICKS, _KICKED_GROUPS // groups) if groups else 0


def _starts(dense: Choice, cheapest: Choice, limit: float) -> Iterator[Choice]:
    """Yield the full sizes, and the minima of error + μ · cost just below and above the limit."""
    yield dense
    span = abs(cheapest.error - dense.error) / (dense.cost - cheapest.cost)
    if span == 0.0:
        return
    low, high = -np.log(_MULTIPLIERS), np.log(_MULTIPLIERS)
    sides: dict[bool, Choice] = {}
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        choice = dense.copy()
        choice.relax(1.0, span * float(np.exp(middle)))
        fits = choice.cost <= limit
        sides[fits] = choice
        low, high = (low, middle) if fits else (middle, high)
    yield from sides.values()


def _descend(start: Choice, limit: float) -> Choice | None:
    """Lower the cost by the change of least error per cost saved, until the limit is met; None if it cannot be.

    What is saved beyond the limit does not count.
    """
    choice = start.copy()
    while choice.cost > limit:
        errors, costs = choice.changes()
        saving = costs < -ROUNDING * abs(choice.cost)
        if not saving.any():
            return None
        ratios = np.full(errors.shape, np.inf)
        np.divide(errors, np.minimum(-costs, choice.cost - limit), out=ratios, where=saving)
        group, level = np.unravel_index(int(np.argmin(ratios)), ratios.shape)
        choice.move(int(group), int(level))
    return choice


def _kicked(choice: Choice, limit: float) -> Choice:
    """Return the best that is found by changing a few groups at random, and descending and refining from there."""
    sizes, rng = _sizes(choice.problem), np.random.default_rng(0)
    for _ in range(_kicks(sizes.size)):
        changed = rng.permutation(sizes.size)[: rng.integers(2, 8)]
        levels = choice.levels.copy()
        levels[changed] = rng.integers(sizes[changed])
        other = _descend(Choice(choice.problem, levels), limit)
        if other is not None:
            refine(other, limit)
            choice = min(choice, other, key=_merit)
    return choice
