"""The order in which whole units (channels, heads, neurons) leave all the layers that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices, Mask, Real
from surgery_ir.solvers.cholesky import factor, scale
from surgery_ir.solvers.downdate import Support

_LEAST_RIDGE: Final = 1e-6  # bounds the condition number of what is inverted, and with it the drift of the updates
_DEAD: Final = 1e-12  # variance, in units of the mean one, below which an input is rounding noise about a constant
_UNITS_PER_REMOVAL: Final = 128  # one unit a round while fewer than twice as many are left, which is exact
_POOL: Final = 4  # candidates of a round per unit that it removes


@dataclass(frozen=True, eq=False)
class Consumer:
    """A layer that reads the units, or one group of a grouped convolution.

    Parameters
    ----------
    h : (d, d)
        Second moment E[x xᵀ] of the layer's inputs, centred where the layer has a bias.
    weights : (o, d)
        The dense weights.
    columns : (units, width) int
        The input columns that each unit owns, no column twice; a row of -1 for a unit that this layer does not read.
        Columns that no unit owns stay, and compensate.
    importance : float, default 1
        Factor of this layer's error, at least 0.
    """

    h: Array
    weights: Real
    columns: Indices
    importance: float = 1.0

    def __post_init__(self) -> None:
        d = len(self.h)
        if self.h.shape != (d, d) or self.weights.ndim != 2 or self.weights.shape[1] != d:
            raise ValueError(f"h {self.h.shape} and weights {self.weights.shape} are not (d, d) and (o, d)")
        if self.columns.ndim != 2 or self.columns.shape[1] == 0:
            raise ValueError(f"columns {self.columns.shape} are not (units, width)")
        owned = self.columns[self.reads()]
        if (owned < 0).any() or (owned >= d).any() or np.unique(owned).size != owned.size:
            raise ValueError(f"the units do not own distinct columns out of {d}")
        if not 0.0 <= self.importance < np.inf:
            raise ValueError(f"the importance must be at least 0 and finite, not {self.importance}")
        if not (np.isfinite(self.h).all() and np.isfinite(self.weights).all()):
            raise ValueError("the layer's moments or weights hold NaN or infinity")

    def reads(self) -> Mask:
        """Return True for every unit that this layer reads, shape (units,)."""
        return np.asarray((self.columns != -1).any(axis=1))


@dataclass(frozen=True, eq=False)
class Elimination:
    """The order in which units go, and what is lost on the way.

    Parameters
    ----------
    order : (removable,) int
        Units, first removed first; all but the fixed ones.
    errors : (removable + 1,) float64
        Σ importance · error over the consumers once the first k units of the order are gone and the rest compensates;
        starts at 0, never decreases. The energy is as given, not normalised.
    """

    order: Indices
    errors: Array


def eliminate(consumers: Sequence[Consumer], ridge: float, fixed: Mask | None = None) -> Elimination:
    """Remove unit after unit, always the one whose loss costs its consumers least after compensation.

    Optimal brain surgery on sets of columns, summed over the layers that read them (Kurtić et al., ZipLM, 2023; Wang
    et al., OBSPA, 2024): a unit that owns the columns S costs Σ_rows w_Sᵀ ([H⁻¹]_SS)⁻¹ w_S in each consumer, and every
    removal downdates the inverses and the weights of all.

    With up to 255 units left this is exact greedy elimination. With more, a round removes one unit in 128 and the
    consumers are brought up to date once for all of them. Within the round the cheapest units, four for each that
    goes, are kept up to date among themselves, so a unit is repriced as soon as its twin has gone; only the prices of
    the units outside that pool are stale, and the round ends early where one of those would have been cheaper. Only
    the order is affected: the errors are exact for it at every unit.

    Parameters
    ----------
    consumers : sequence of Consumer
        At least one; all have the same number of units.
    ridge : float
        λ = ridge · mean diag H of each consumer, at least 1e-6 and raised where H is singular. The error is that of
        the ridge problem, E‖(W′ − W) x‖² + λ‖W′ − W‖², whose solution :func:`surgery_ir.solvers.ridge.solve` gives for
        ``Quadratic.from_inputs(h, weights)`` and the dense weights as prior. Weights of dead inputs count as 0 from
        the start, so units that never fire cost nothing and go first.
    fixed : (units,) bool, optional
        Units that never go; they are left out of the order.

    Raises
    ------
    ValueError
        If there is no consumer, the numbers of units differ, the ridge is negative or H is not positive semidefinite.
    """
    if not consumers:
        raise ValueError("units that no layer reads have no error")
    sizes = {len(consumer.columns) for consumer in consumers} | ({fixed.size} if fixed is not None else set())
    if len(sizes) != 1:
        raise ValueError(f"the consumers and the fixed units disagree about the number of units: {sorted(sizes)}")
    if not ridge >= 0.0:
        raise ValueError(f"the ridge must be at least 0, not {ridge}")
    readers = [_Reader.of(consumer, max(ridge, _LEAST_RIDGE)) for consumer in consumers if consumer.importance > 0.0]
    left = np.flatnonzero(~fixed) if fixed is not None else np.arange(sizes.pop())
    order = [left[:0]]
    costs = [np.zeros(1)]
    while left.size:
        chosen = _choose(readers, left, max(1, left.size // _UNITS_PER_REMOVAL))
        order.append(chosen)
        costs.append(_drop(readers, chosen))
        left = np.setdiff1d(left, chosen, assume_unique=True)
    return Elimination(np.concatenate(order), np.cumsum(np.concatenate(costs)))


@dataclass(frozen=True, eq=False)
class _Reader:
    """What is left of a consumer."""

    support: Support
    columns: Indices
    importance: float

    @classmethod
    def of(cls, consumer: Consumer, ridge: float) -> _Reader:
        unit, d = scale(consumer.h), len(consumer.h)
        weights = np.where(np.diagonal(consumer.h) > _DEAD * unit, consumer.weights, 0.0).astype(np.float64)
        inverse = factor(consumer.h, np.arange(d), ridge, unit).inverse()
        return cls(Support(inverse, weights, np.arange(d)), consumer.columns, consumer.importance)

    def _read(self, units: Indices) -> tuple[Mask, Indices]:
        """Return which of the units this consumer reads, and the stored positions (read, width) of their columns."""
        columns = self.columns[units]
        read = columns[:, 0] >= 0
        return read, np.searchsorted(self.support.columns, columns[read])

    def scores(self, units: Indices) -> Array:
        """Return what the loss of each unit alone would cost, shape (units,)."""
        scores = np.zeros(units.size)
        read, positions = self._read(units)
        if positions.shape[1] == 1:
            scores[read] = self.support.saliency()[positions[:, 0]]
        elif positions.size:
            weights = self.support.weights.T[positions]
            gram = weights @ weights.transpose(0, 2, 1)
            scores[read] = np.einsum("uii->u", np.linalg.solve(self.support.submatrices(positions), gram))
        return self.importance * scores

    def drop(self, units: Indices) -> Array:
        """Remove the units; return the cost of each, given those before it."""
        costs = np.zeros(units.size)
        read, positions = self._read(units)
        if positions.size:
            costs[read] = self.support.drop(positions.ravel()).reshape(positions.shape).sum(axis=1)
        return self.importance * costs

    def limited_to(self, units: Indices) -> _Reader:
        """Return a copy that knows these units only: enough to price them as they leave one after the other."""
        held = np.sort(self._read(units)[1], axis=None)
        inverse = self.support.inverse[np.ix_(held, held)]
        support = Support(inverse, self.support.weights[:, held], self.support.columns[held])
        return _Reader(support, self.columns, self.importance)


def _scores(readers: Sequence[_Reader], units: Indices) -> Array:
    return np.sum([reader.scores(units) for reader in readers], axis=0) if readers else np.zeros(units.size)


def _drop(readers: Sequence[_Reader], units: Indices) -> Array:
    return np.sum([reader.drop(units) for reader in readers], axis=0) if readers else np.zeros(units.size)


def _choose(readers: Sequence[_Reader], left: Indices, count: int) -> Indices:
    """Return up to ``count`` units in the order in which greedy elimination would take them."""
    scores = _scores(readers, left)
    if count == 1:
        return left[[int(np.argmin(scores))]]
    cheapest = np.argsort(scores, kind="stable")
    pool, bound = np.sort(left[cheapest[: _POOL * count]]), scores[cheapest[_POOL * count]]
    readers = [reader.limited_to(pool) for reader in readers]
    chosen: list[int] = []
    while len(chosen) < count:
        scores = _scores(readers, pool)
        best = int(np.argmin(scores))
        if chosen and scores[best] > bound:
            break
        chosen.append(int(pool[best]))
        _drop(readers, pool[[best]])
        pool = np.delete(pool, best)
    return np.array(chosen, dtype=np.intp)
