"""How many units every group keeps: a share of each, or what a budget over all of them leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.coupling.groups import Group
from surgery_ir.analysis.coupling.products import Monomial
from surgery_ir.analysis.coupling.relations import Indices
from surgery_ir.errors import PassError
from surgery_ir.passes.prune.ranking import Ranking
from surgery_ir.solvers.allocation import BudgetError, Curve, Term, allocate

__all__ = ["Budget", "allocated_sizes", "levels", "nearest_size", "tables"]

BISECTIONS = 8


def levels(units: int, multiple: int) -> Indices:
    """Sizes that a group may have, all of it first: multiples, and none below the smallest."""
    smaller = np.arange((units - 1) // multiple * multiple, 0, -multiple, dtype=np.intp)
    return np.concatenate([[units], smaller]).astype(np.intp)


def nearest_size(units: int, share: float, multiple: int) -> int:
    """Size that is nearest to ``share`` of the units, the larger of two that are equally near."""
    sizes = levels(units, multiple)
    return int(sizes[np.argmin(np.abs(sizes - share * units))])


@dataclass(frozen=True, slots=True)
class Budget:
    """What the sizes may cost.

    Parameters
    ----------
    what
        Quantity, for messages.
    terms
        Its cost at every size, see :func:`tables`.
    limit
        Most that it may be.
    dense
        What it is in the dense model.
    """

    what: str
    terms: Sequence[Term]
    limit: float
    dense: float

    def cost(self, levels: Sequence[int]) -> float:
        """Cost when every group has the size at its level."""
        return sum(float(term.table[tuple(levels[group] for group in term.groups)]) for term in self.terms)

    def holds(self, levels: Sequence[int]) -> bool:
        """Whether the cost is within the limit, but for rounding."""
        return self.cost(levels) <= self.limit * (1 + 1e-9)


def allocated_sizes(
    groups: Sequence[Group], sizes: Sequence[Indices], rankings: Mapping[str, Ranking], budgets: Sequence[Budget]
) -> dict[str, int]:
    """Sizes whose total error is least among those that keep within all budgets.

    Each budget in turn is tightened until the others hold as well, and the best outcome counts.

    Parameters
    ----------
    groups
        All groups that the budgets are about.
    sizes
        Sizes that each may have, falling; a single one where it is given.
    rankings
        Error of every number of units removed, of the groups that may have several sizes.
    budgets
        At least one.

    Raises
    ------
    PassError
        The smallest sizes cost more.
    """
    curves = []
    for group, kept in zip(groups, sizes, strict=True):
        errors = rankings[group.name].errors[group.units - kept] if len(kept) > 1 else np.zeros(1)
        curves.append(Curve(kept, errors))
    found = [levels for budget in budgets if (levels := _tightened(curves, budget, budgets)) is not None]
    if not found:
        raise PassError(f"sizes that keep within all of {', '.join(item.what for item in budgets)} were not found")

    def error(levels: Sequence[int]) -> float:
        return sum(float(curve.errors[level]) for curve, level in zip(curves, levels, strict=True))

    best = min(found, key=error)
    return {group.name: int(curve.kept[level]) for group, curve, level in zip(groups, curves, best, strict=True)}


def _tightened(curves: Sequence[Curve], budget: Budget, budgets: Sequence[Budget]) -> tuple[int, ...] | None:
    """Levels within ``budget`` so far tightened that all others hold; ``None`` where that leaves nothing."""

    def levels(limit: float) -> tuple[int, ...] | None:
        try:
            return allocate(curves, budget.terms, limit)
        except BudgetError as error:
            if len(budgets) == 1:
                share, least = budget.limit / budget.dense, error.least / budget.dense
                raise PassError(
                    f"{share:.3g} of the {budget.what} cannot be reached, {least:.3g} is the least"
                ) from error
            return None

    found = levels(budget.limit)
    if found is None or all(item.holds(found) for item in budgets):
        return found
    low, high, best = 0.0, budget.limit, None
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        found = levels(middle)
        if found is not None and all(item.holds(found) for item in budgets):
            low, best = middle, found
        elif found is None:
            low = middle
        else:
            high = middle
    return best


def tables(polynomial: Sequence[Monomial], sizes: Sequence[Indices]) -> list[Term]:
    """Tabulate a polynomial at the sizes that every group may have.

    A monomial of more than two groups is tabulated for the first two, the others whole.
    """
    found = []
    for item in polynomial:
        distinct = tuple(dict.fromkeys(item.groups))
        table: NDArray[np.float64] = np.full((), item.factor)
        for number in distinct[2:]:
            table = table * float(sizes[number][0]) ** item.groups.count(number)
        for number in distinct[:2]:
            table = np.multiply.outer(table, sizes[number].astype(np.float64) ** item.groups.count(number))
        found.append(Term(distinct[:2], table))
    return found
