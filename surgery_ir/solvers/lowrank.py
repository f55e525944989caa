"""Linear maps of low rank between the inputs and targets of a layer problem."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh, lapack

from surgery_ir.solvers.arrays import Array
from surgery_ir.solvers.cholesky import factor, scale
from surgery_ir.solvers.quadratic import Quadratic


def reduced_rank(q: Quadratic, rank: int, ridge: float) -> tuple[Array, Array]:
    """Minimise E‖U D x − y‖² + λ‖U D‖² over maps of a given rank, λ = ridge · mean diag H.

    Reduced-rank regression (Izenman, 1975). The ridge is on the product, so that with H + λI = L Lᵀ the objective is
    ‖U D L − A‖² plus a constant, A = Rᵀ L⁻ᵀ, and the truncated singular value decomposition of A solves it (Eckart &
    Young, 1936): no other map of that rank has a lower objective.

    Parameters
    ----------
    q : Quadratic
        ``o`` outputs and ``d`` inputs.
    rank : int
        From 0 to min(o, d).
    ridge : float
        At least 0; raised tenfold where H is singular.

    Returns
    -------
    down : (rank, d) float64
    up : (o, rank) float64
        The directions in order of their gain. Where o ≤ d the columns of ``up`` are orthonormal, else ``down`` whitens:
        ``down`` (H + λI) ``down``ᵀ = I.

    Raises
    ------
    ValueError
        If the rank is out of range, the ridge negative, or a moment not finite.
    """
    if not 0 <= rank <= min(q.outputs, q.inputs):
        raise ValueError(f"rank {rank} is not between 0 and the least of {q.outputs} outputs and {q.inputs} inputs")
    lower, white = _whitened(q, ridge)
    if q.outputs <= q.inputs:
        up = _leading(white.T @ white, rank)
        down, _ = lapack.dtrtrs(lower, white @ up, lower=1, trans=1)
        return np.ascontiguousarray(down.T), up
    right = _leading(white @ white.T, rank)
    down, _ = lapack.dtrtrs(lower, right, lower=1, trans=1)
    return np.ascontiguousarray(down.T), white.T @ right


def gain_by_rank(q: Quadratic, ridge: float) -> Array:
    """Return by how much the best map of rank 1, 2, … lowers the objective of :func:`reduced_rank` from that of none.

    Returns
    -------
    (min(o, d),) float64
        Non-decreasing and concave: the running sums of the eigenvalues of Rᵀ (H + λI)⁻¹ R.
    """
    _, white = _whitened(q, ridge)
    gram = white.T @ white if q.outputs <= q.inputs else white @ white.T
    values = eigh(gram, eigvals_only=True, check_finite=False)
    return np.cumsum(np.maximum(values[::-1], 0.0))


def _whitened(q: Quadratic, ridge: float) -> tuple[Array, Array]:
    """Return L and L⁻¹ R (d, o) with L Lᵀ = H + λI."""
    if not ridge >= 0.0:
        raise ValueError(f"the ridge must be at least 0, not {ridge}")
    if not (np.isfinite(q.h).all() and np.isfinite(q.r).all()):
        raise ValueError("the layer's moments hold NaN or infinity")
    lower = factor(q.h, np.arange(q.inputs), ridge, scale(q.h)).lower
    white, _ = lapack.dtrtrs(lower, q.r, lower=1)
    return lower, np.asarray(white)


def _leading(gram: Array, rank: int) -> Array:
    """Return the eigenvectors of the largest eigenvalues, as columns, largest first."""
    size = len(gram)
    if rank == 0:
        return np.zeros((size, 0))
    _, vectors = eigh(gram, subset_by_index=(size - rank, size - 1), check_finite=False)
    return np.ascontiguousarray(vectors[:, ::-1])
