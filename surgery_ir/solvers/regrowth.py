"""Search for the support of a layer by swaps: weights come back where they are missed most, others make room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices, Mask, Real
from surgery_ir.solvers.cholesky import scale
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import check, solve
from surgery_ir.solvers.saliency import Exact, Prices, Sampled, smallest

_SURPLUS_SHARE: Final = 0.25  # of what is too much or too little, moved between two solutions
_LEAST_SURPLUS: Final = 0.02  # the same, relative to what is to be left
_STALLED: Final = 1e-2  # relative fall of the error below which a smaller step is taken
_SWEEPS: Final = 1 / 3  # sweeps of single swaps per round allowed
_EXACT_WORK: Final = 8.0  # flops of an exact round per cube of a row's weights, at the speed of matrix products
_SWEEP_WORK: Final = 4.0  # the same for a sweep of single swaps
_SAMPLE_SHARE: Final = 0.05  # of the flops, spent on the sample where prices are estimates
_ROUND_PRODUCTS: Final = 18.0  # (o, d) × (d, d) products of a round where prices are estimates
_SOLVE_PRODUCTS: Final = 40.0  # the same for the solutions before and after
_START_TOLERANCE: Final = 1e-4  # of the solution at the start, where it is iterative


@dataclass(frozen=True, eq=False)
class Regrown:
    """A layer whose support was searched.

    Parameters
    ----------
    weights : (o, d) float64
        Solved on ``mask``, exactly 0 off it.
    mask : (o, d) bool
    errors : tuple of float
        E‖W x − y‖² + λ‖W − prior‖² over all rows: at the start (or, where the start mask holds too many weights, once
        they are gone), then after every accepted step. Never rises.
    exchanged : int
        Weights of ``mask`` that the start mask does not hold.
    """

    weights: Array
    mask: Mask
    errors: tuple[float, ...]
    exchanged: int


def regrow(
    q: Quadratic,
    prior: Real,
    mask: Mask,
    ridge: float,
    *,
    growable: Mask | None = None,
    count: int | None = None,
    gains: Real | None = None,
    rounds: int = 12,
    share: float = 0.5,
    tolerance: float = 1e-5,
    flops: float = 2e11,
    limit: int | None = None,
) -> Regrown:
    """Minimise E‖W x − y‖² + λ‖W − prior‖² over weights and supports, λ = ridge · mean diag H, at a fixed count.

    A step lets the weights of largest gain come, by the gradient as in RigL (Evci et al., ICML 2020), re-solves, lets
    as many go by their saliency (optimal brain surgeon, Hassibi & Stork 1992), re-solves, and stands if the error
    fell: prune and grow without training as in DSnoT (Zhang et al., ICLR 2024), but the other weights compensate. The
    rows compete with one another. Steps get smaller as they stop paying; at last every row makes its best single swaps.

    Parameters
    ----------
    q : Quadratic
        The layer, ``o`` outputs and ``d`` inputs.
    prior : (o, d)
        Counts on the start mask; elsewhere the prior is 0.
    mask : (o, d) bool
        The start mask.
    ridge : float
    growable : (o, d) bool, optional
        What may come, all if left out. Columns without variance never come.
    count : int, optional
        Weights of the result, those of the start mask if left out. Missing ones come by the largest gains, surplus ones
        go by the least saliency, before any swap.
    gains : (o, d), optional
        Ranks what comes in place of the error's own gain, larger first; what is not finite comes only where ``count``
        needs it. Single swaps are left out then.
    rounds : int, default 12
        At most as many steps.
    share : float, default 0.5
        Size of the first step, relative to ``count`` times the share of zeros.
    tolerance : float, default 1e-5
        Relative fall of the error that a step needs to stand.
    flops : float, default 2e11
        Where exact prices exceed it, they are estimated from a sample of rows, and rounds end when it is spent.
    limit : int, optional
        At most as many weights come by swaps; single swaps are left out then.

    Raises
    ------
    ValueError
        If arguments do not fit, or ``growable`` does not hold enough weights for ``count``.
    """
    check(q, prior, ridge, mask)
    if any(other is not None and other.shape != mask.shape for other in (growable, gains)):
        raise ValueError(f"growable and gains must be of the shape of the mask, {mask.shape}")
    if not (rounds >= 0 and share > 0.0 and tolerance >= 0.0):
        raise ValueError(f"rounds {rounds}, share {share} and tolerance {tolerance} must not be negative, share not 0")
    live = np.broadcast_to(np.diagonal(q.h) > 0.0, mask.shape)
    room = live if growable is None else growable & live
    present = int(np.count_nonzero(mask))
    target = present if count is None else count
    if not 0 <= target <= np.count_nonzero(mask | room):
        raise ValueError(f"{target} weights are asked for, but only {np.count_nonzero(mask | room)} can be had")

    layer = _with_ridge(q, np.where(mask, prior, 0.0).astype(np.float64), ridge)
    cubes = float(np.sum(np.count_nonzero(mask, axis=1) ** 3.0))
    size = round(share * target * (1.0 - target / max(1, mask.size)))
    sweeps = int(_SWEEPS * rounds) if gains is None and limit is None else 0
    if _EXACT_WORK * cubes * rounds <= flops:
        search = _Search(Exact(layer), mask, room, gains)
        search.bring_to(target)
        search.swap(rounds, size, tolerance, _STALLED, limit)
    else:
        search = _Search(Sampled(layer, mask, _sample(mask, _SAMPLE_SHARE * flops)), mask, room, gains)
        search.bring_to(target)
        product = 2.0 * mask.size * q.inputs
        affordable = max(1, int((flops / product - _SOLVE_PRODUCTS) / _ROUND_PRODUCTS))
        # With few rounds at hand each has to be of another size.
        search.swap(min(rounds, affordable), size, tolerance, _STALLED if rounds <= affordable else 1.0, limit)
        search.finish()
        sweeps = min(sweeps, int(flops / 2.0 / (_SWEEP_WORK * cubes)))
    search.polish(Exact(layer), sweeps, tolerance)
    return Regrown(search.weights, search.mask, tuple(search.errors), int(np.count_nonzero(search.mask & ~mask)))


def _with_ridge(q: Quadratic, prior: Array, ridge: float) -> Quadratic:
    """Return the quadratic that holds the ridge: its error is the ridge objective."""
    damping = ridge * scale(q.h)
    return Quadratic(
        q.h + damping * np.eye(q.inputs),
        q.r + damping * prior.T,
        q.yy + damping * np.einsum("od,od->o", prior, prior),
    )


def _sample(mask: Mask, flops: float) -> Indices:
    """Return as many rows as have factors for the flops, at least one, evenly spread."""
    rows = np.flatnonzero(mask.any(axis=1))
    each = float(np.mean(np.count_nonzero(mask[rows], axis=1) ** 3.0)) if rows.size else 1.0
    number = min(rows.size, max(1, int(flops / each)))
    return np.asarray(rows[np.linspace(0, rows.size - 1, number).astype(np.intp)] if number else rows)


class _Search:
    """The state of the search: a support, the weights solved on it, the errors on the way."""

    def __init__(self, prices: Prices, mask: Mask, room: Mask, gains: Real | None) -> None:
        self.prices = prices
        self.mask = mask.copy()
        self.room = room
        self.gains = gains
        self.weights = solve(prices.q, np.zeros(mask.shape), 0.0, mask, tolerance=_START_TOLERANCE).weights
        self._row_errors = prices.q.error(self.weights)
        self.errors = [self._error]

    @property
    def _error(self) -> float:
        return float(self._row_errors.sum())

    def bring_to(self, count: int) -> None:
        """Let weights come or go until ``count`` are left."""
        while (surplus := int(np.count_nonzero(self.mask)) - count) != 0:
            number = min(abs(surplus), max(1, round(_SURPLUS_SHARE * abs(surplus)), round(_LEAST_SURPLUS * count)))
            mask = self.mask.copy()
            if surplus > 0:
                mask.flat[self.prices.going(mask, number, self.weights)] = False
            else:
                coming = self._coming(number)
                mask.flat[coming if coming.size else np.flatnonzero(self.room & ~mask)[:number]] = True
            self._take(mask, *self._solved(mask))
            if surplus > 0:
                self.errors = [self._error]

    def swap(self, rounds: int, size: int, tolerance: float, stalled: float, limit: int | None) -> None:
        """Let weights come and as many go, ``size`` at first; half as many after a fall of at most ``stalled``."""
        start = self.mask
        size = min(max(1, size), int(np.count_nonzero(self.mask)))
        for _ in range(rounds):
            if limit is not None:
                size = min(size, limit - int(np.count_nonzero(self.mask & ~start)))
            if size == 0 or not (coming := self._coming(size)).size:
                return
            mask = self.mask.copy()
            mask.flat[coming] = True
            count = int(np.count_nonzero(self.mask))
            while (surplus := int(np.count_nonzero(mask)) - count) > 0:
                mask.flat[self.prices.going(mask, surplus, self.weights)] = False
            weights, row_errors = self._solved(mask)
            fall = 1.0 - float(row_errors.sum()) / self._error if self._error > 0.0 else 0.0
            if fall > tolerance:
                self._take(mask, weights, row_errors)
            if fall <= stalled:
                size = min(size, coming.size) // 2

    def polish(self, prices: Exact, sweeps: int, tolerance: float) -> None:
        """Swap single weights within the rows, the best pair of every row at once, while that pays."""
        rows = np.arange(len(self.mask))
        for _ in range(sweeps):
            mask = prices.swapped(rows, self._gradient(), self.mask, self._candidates())
            weights, row_errors = self._solved(mask)
            rows = np.flatnonzero(row_errors < self._row_errors)
            better = (row_errors < self._row_errors)[:, None]
            row_errors = np.minimum(row_errors, self._row_errors)
            if not self._error - float(row_errors.sum()) > tolerance * self._error:
                return
            self._take(np.where(better, mask, self.mask), np.where(better, weights, self.weights), row_errors)

    def finish(self) -> None:
        """Solve to convergence on the support that was found."""
        weights = solve(self.prices.q, np.zeros(self.mask.shape), 0.0, self.mask, start=self.weights).weights
        row_errors = self.prices.q.error(weights)
        better = row_errors < self._row_errors
        if better.any():
            weights = np.where(better[:, None], weights, self.weights)
            self._take(self.mask, weights, np.minimum(row_errors, self._row_errors))

    def _gradient(self) -> Array:
        return np.asarray(self.prices.q.r.T - self.weights @ self.prices.q.h)

    def _candidates(self) -> Mask:
        return self.room & ~self.mask

    def _coming(self, number: int) -> Indices:
        if self.gains is not None:
            return smallest(np.where(self._candidates(), -self.gains, np.inf), number)
        return self.prices.coming(self._gradient(), self.mask, self._candidates(), number)

    def _solved(self, mask: Mask) -> tuple[Array, Array]:
        """Return weights and row errors on a support, where only the rows whose support changed are solved again."""
        weights, row_errors = self.weights.copy(), self._row_errors.copy()
        rows = np.flatnonzero((mask != self.mask).any(axis=1))
        if rows.size:
            fitted = self.prices.fit(rows, mask, self.weights)
            q = self.prices.q
            errors = Quadratic(q.h, q.r[:, rows], q.yy[rows]).error(fitted)
            # A row that only gained weights may keep the old ones, should rounding or a raised ridge do worse.
            new = (errors < row_errors[rows]) | (self.mask[rows] & ~mask[rows]).any(axis=1)
            weights[rows[new]], row_errors[rows[new]] = fitted[new], errors[new]
        return weights, row_errors

    def _take(self, mask: Mask, weights: Array, row_errors: Array) -> None:
        self.mask, self.weights, self._row_errors = mask, weights, row_errors
        self.errors.append(self._error)
