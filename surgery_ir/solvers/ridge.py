"""Ridge regression of a layer towards its prior weights, every output row limited to its own support."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Mask, Real
from surgery_ir.solvers.cholesky import factor, scale, supports
from surgery_ir.solvers.conjugate import conjugate_gradients
from surgery_ir.solvers.quadratic import Quadratic

_ITERATIONS_PER_DIGIT: Final = 14.0
_GATHER_FLOPS: Final = 40.0  # the cost of copying one entry of H, in flops of a factorisation


@dataclass(frozen=True, eq=False)
class Solution:
    """Weights that solve a layer.

    Parameters
    ----------
    weights : (o, d) float64
        Exactly 0 wherever the mask is.
    ridge : float
        The largest ridge that any row needed; more than was asked for where the inputs do not determine the weights.
    """

    weights: Array
    ridge: float


def solve(
    q: Quadratic,
    prior: Real,
    ridge: float,
    mask: Mask | None = None,
    *,
    start: Real | None = None,
    tolerance: float = 1e-6,
) -> Solution:
    """Minimise E‖W x − y‖² + λ‖W − prior‖² over the weights that ``mask`` keeps, λ = ridge · mean diag H.

    Rows that keep the same columns share one Cholesky factor, so a full mask costs a single factorisation. Wide layers
    whose rows all differ go through :func:`~surgery_ir.solvers.conjugate.conjugate_gradients` where fewer flops are
    expected.

    Parameters
    ----------
    q : Quadratic
        The layer, ``o`` outputs and ``d`` inputs.
    prior : (o, d)
        Weights to stay close to; dead inputs keep theirs.
    ridge : float
        At least 0. Raised tenfold, support by support, where H is singular on the support.
    mask : (o, d) bool, optional
        The support; all of it if left out.
    start : (o, d), optional
        Where iteration begins, ``prior`` if left out: a guess that saves time and does not change the problem.
    tolerance : float, default 1e-6
        Relative accuracy of the objective of the rows that are solved by iteration.

    Raises
    ------
    ValueError
        If shapes do not fit, the ridge is negative, or the moments are not finite.
    """
    check(q, prior, ridge, mask)
    mask = np.ones(prior.shape, dtype=np.bool_) if mask is None else mask
    prior = prior.astype(np.float64, copy=False)
    if _iterate_is_cheaper(mask, tolerance):
        weights = conjugate_gradients(q, prior, ridge * scale(q.h), mask, prior if start is None else start, tolerance)
        if weights is not None:
            return Solution(weights, ridge)
    return _solve_exactly(q, prior, ridge, mask)


def check(q: Quadratic, prior: Real, ridge: float, mask: Mask | None) -> None:
    """Raise ValueError if the arguments of :func:`solve` do not fit together or are not finite."""
    shape = (q.outputs, q.inputs)
    if prior.shape != shape or (mask is not None and mask.shape != shape):
        raise ValueError(f"prior {prior.shape} and mask {None if mask is None else mask.shape} do not fit {shape}")
    if not ridge >= 0.0:
        raise ValueError(f"the ridge must be at least 0, not {ridge}")
    if not (np.isfinite(q.h).all() and np.isfinite(q.r).all() and np.isfinite(prior).all()):
        raise ValueError("the layer's moments or prior weights hold NaN or infinity")


def _solve_exactly(q: Quadratic, prior: Array, ridge: float, mask: Mask) -> Solution:
    weights, needed, unit = np.zeros(prior.shape), ridge, scale(q.h)
    for rows, columns in supports(mask):
        chol = factor(q.h, columns, ridge, unit)
        kept = np.ix_(rows, columns)
        weights[kept] = chol.solve(q.r.T[kept].T + chol.ridge * unit * prior[kept].T).T
        needed = max(needed, chol.ridge)
    return Solution(weights, needed)


def _iterate_is_cheaper(mask: Mask, tolerance: float) -> bool:
    o, d = mask.shape
    exact = sum(len(columns) ** 2 * (len(columns) / 3.0 + _GATHER_FLOPS) for _, columns in supports(mask))
    return bool(exact > -_ITERATIONS_PER_DIGIT * math.log10(tolerance) * 2.0 * o * d * d)
