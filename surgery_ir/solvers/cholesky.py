"""Cholesky factors of a layer's Hessian on the columns that a row keeps, damped until they are trustworthy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import lapack

from surgery_ir.solvers.arrays import Array, Indices, Mask

_FIRST_RAISE: Final = 1e-12
_RAISE_FACTOR: Final = 10.0
_LARGEST_RIDGE: Final = 1e6
_PIVOT_SLACK: Final = 16.0


@dataclass(frozen=True, eq=False)
class Factor:
    """L with L Lᵀ = H_SS + ridge · unit · I.

    Parameters
    ----------
    lower : (k, k) float64
        L, column-major; the part above its diagonal is not defined.
    ridge : float
        The ridge that was needed, at least the one asked for.
    """

    lower: Array
    ridge: float

    def solve(self, b: Array) -> Array:
        """Return (L Lᵀ)⁻¹ b for ``b`` of shape (k, m)."""
        x, _ = lapack.dpotrs(self.lower, b, lower=1)
        return np.asarray(x)

    def inverse(self) -> Array:
        """Return (L Lᵀ)⁻¹ (k, k), only its lower triangle filled in, and use up the factor (its storage is taken)."""
        inverse, _ = lapack.dpotri(self.lower, lower=1, overwrite_c=1)
        return np.asarray(inverse)


def scale(h: Array) -> float:
    """Return the unit of the ridge, mean diag H; 1 for a layer whose inputs are all dead."""
    mean = float(np.mean(np.diagonal(h))) if len(h) else 0.0
    return mean if mean > 0.0 else 1.0


def factor(h: Array, columns: Indices, ridge: float, unit: float) -> Factor:
    """Factorise H on the given columns, raising the ridge tenfold until no pivot is mere rounding noise.

    A pivot is a column's variance that the columns before it do not explain. Where it falls to the rounding error of
    the column's own variance, H is singular as far as float64 can tell (dead inputs, fewer rows than columns), and a
    solution would be noise even though LAPACK may report success.

    Parameters
    ----------
    h : (d, d)
    columns : (k,)
        The columns to keep, ascending.
    ridge : float
        Smallest ridge to use, in units of ``unit``.
    unit : float
        The layer's :func:`scale`.

    Raises
    ------
    ValueError
        If H is not positive semidefinite (or not finite), so that no ridge helps.
    """
    floor = _PIVOT_SLACK * len(columns) * np.finfo(np.float64).eps
    while ridge <= _LARGEST_RIDGE:
        # H is symmetric, so the transpose is the same matrix, column-major as LAPACK overwrites it.
        damped = _principal(h, columns).T
        diagonal = np.einsum("ii->i", damped)
        diagonal += ridge * unit
        before = diagonal.copy()
        lower, info = lapack.dpotrf(damped, lower=1, clean=0, overwrite_a=1)
        if info == 0 and bool(np.all(np.diagonal(lower) ** 2 > floor * before)):
            return Factor(lower, ridge)
        ridge = max(ridge * _RAISE_FACTOR, _FIRST_RAISE)
    raise ValueError("the matrix of input moments is not positive semidefinite, or not finite")


def _principal(h: Array, columns: Indices) -> Array:
    """Return a copy of the principal submatrix; whole rows first is faster unless most of them would be thrown away."""
    if 4 * columns.size < len(h):
        return np.asarray(h[np.ix_(columns, columns)])
    return h.take(columns, axis=0).take(columns, axis=1)


def supports(mask: Mask) -> Iterator[tuple[Indices, Indices]]:
    """Yield (rows, columns) for every distinct non-empty row of ``mask`` (o, d): the rows that keep those columns."""
    if not mask.size:
        return
    distinct, group = np.unique(np.packbits(mask, axis=1), axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(group, minlength=len(distinct)))[:-1]):
        columns = np.flatnonzero(mask[rows[0]])
        if len(columns):
            yield rows, columns
