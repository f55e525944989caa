"""The linear map that stands in for a part of a network: affine regression pulled towards the identity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery_ir.solvers.arrays import Array, Real
from surgery_ir.solvers.quadratic import Moments
from surgery_ir.solvers.retarget import Retargeted
from surgery_ir.solvers.ridge import solve

__all__ = ["LinearMap", "fit_map", "identity"]


@dataclass(frozen=True, eq=False)
class LinearMap:
    """x ↦ T x + b.

    Parameters
    ----------
    weights : (d, d) float64
        T.
    bias : (d,) float64
        b; zeros where none was fitted.
    """

    weights: Array
    bias: Array

    def __call__(self, x: Real) -> Array:
        """Map rows ``x`` (n, d)."""
        mapped: Array = x @ self.weights.T + self.bias
        return mapped


def identity(features: int) -> LinearMap:
    """Give the map that changes nothing."""
    return LinearMap(np.eye(features), np.zeros(features))


def fit_map(
    x: Real, y: Real, ridge: float, *, offset: Real | None = None, bias: bool = True, rectified: int = 0
) -> LinearMap:
    """Minimise E‖offset + T x + b − y‖² + λ‖T − I‖², λ = ridge · mean diag E[x xᵀ] (ReplaceMe, Shopkhoev et al., 2025).

    The pull towards the identity decides what the rows leave open: without evidence the map changes nothing.

    Parameters
    ----------
    x : (n, d)
        What the map reads.
    y : (n, d)
        What is to come out.
    ridge : float
        At least 0.
    offset : (n, d), optional
        What is added to the map's output.
    bias : bool
        Whether there is a b.
    rectified : int
        Rounds in which targets below zero follow the fit, because only their positive part is looked at.

    Raises
    ------
    ValueError
        Shapes do not fit, or a value is NaN or infinite.
    """
    if len(x) == 0 or x.shape != y.shape or (offset is not None and offset.shape != y.shape):
        raise ValueError(f"rows {x.shape} and {y.shape} do not fit")
    rest = np.zeros((), y.dtype) if offset is None else offset
    moments = Moments(x.shape[1], y.shape[1])
    moments.add(x, y - rest)
    found = _solve(moments, ridge, bias)
    for _ in range(rectified):
        freed = Retargeted(moments)
        freed.add(x, np.where(y > 0, y, np.minimum(found(x) + rest, 0)) - rest)
        found = _solve(freed, ridge, bias)
    return found


def _solve(moments: Moments | Retargeted, ridge: float, bias: bool) -> LinearMap:
    problem = moments.quadratic(bias)
    weights = solve(problem, np.eye(problem.inputs), ridge).weights
    return LinearMap(weights, moments.intercept(weights) if bias else np.zeros(problem.outputs))
