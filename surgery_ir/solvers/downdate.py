"""Rows that lose columns: their least-squares weights and inverse Hessian, kept exact drop by drop."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.linalg import blas, lapack

from surgery_ir.solvers.arrays import Array, Indices

_COMPACT_BELOW: Final = 0.8


class Support:
    """The columns that some rows still keep, with the rows' best weights on them.

    Dropping a set M of columns costs Σ w_Mᵀ (G_MM)⁻¹ w_M, G = H_SS⁻¹, and leaves w − w_M (G_MM)⁻¹ G_M and
    G − G_MᵀG_MM⁻¹G_M: the OBS update of Hassibi & Stork (1992) for many columns at once, whose time is spent in BLAS
    level 3. Dropped columns stay in the arrays, as zeros, until a fifth of them is dead weight.

    Parameters
    ----------
    inverse : (k, k)
        H_SS⁻¹, column-major; only the lower triangle is read. Copied.
    weights : (r, k)
        Least-squares weights on the support of the ``r`` rows that share it.
    columns : (k,)
        Which columns of the layer these are, ascending.
    """

    def __init__(self, inverse: Array, weights: Array, columns: Indices) -> None:
        self.inverse = np.array(inverse, order="F")
        self.weights = np.array(weights)
        self.columns = columns
        self.alive = np.ones(columns.size, dtype=np.bool_)

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive))

    def saliency(self) -> Array:
        """Return what dropping each stored column alone would cost, Σ_r w_rp² / G_pp; infinite where dropped; (k,)."""
        cost = np.full(self.columns.size, np.inf)
        squares = np.einsum("rk,rk->k", self.weights, self.weights)
        np.divide(squares, np.diagonal(self.inverse), out=cost, where=self.alive)
        return cost

    def submatrices(self, groups: Indices) -> Array:
        """Return G_UU for every row U of ``groups`` (u, c), stored positions; shape (u, c, c)."""
        first, second = groups[:, :, None], groups[:, None, :]
        return self.inverse[np.maximum(first, second), np.minimum(first, second)]

    def drop(self, positions: Indices, compensate: bool = True) -> Array:
        """Drop the columns at these stored positions and compensate with the rest.

        Parameters
        ----------
        positions : (m,)
        compensate : bool, default True
            False saves the update of weights and inverse where nothing more is asked of them.

        Returns
        -------
        (m,) float64
            The cost of each drop, given those before it in the order of ``positions``.
        """
        stored = np.arange(self.columns.size)
        cross = np.where(
            stored >= positions[:, None], self.inverse[:, positions].T, self.inverse[positions, :]
        )  # G_M, both halves read from the lower triangle
        lower, info = lapack.dpotrf(cross[:, positions], lower=1, clean=0)
        if info != 0:
            raise np.linalg.LinAlgError("the inverse Hessian is no longer positive definite")
        right = np.concatenate((cross, self.weights[:, positions].T), axis=1)
        solved, _ = lapack.dtrtrs(lower, right, lower=1)
        cross, scaled = solved[:, : stored.size], solved[:, stored.size :]
        self.alive[positions] = False
        if compensate and self.alive.any():
            self.weights -= scaled.T @ cross
            self.weights[:, positions] = 0.0
            self.inverse = blas.dsyrk(-1.0, cross, beta=1.0, c=self.inverse, trans=1, lower=1, overwrite_c=1)
            self._compact()
        return np.asarray(np.einsum("mr,mr->m", scaled, scaled))

    def _compact(self) -> None:
        if len(self) >= _COMPACT_BELOW * self.columns.size:
            return
        kept = np.flatnonzero(self.alive)
        self.inverse = self.inverse.T.take(kept, axis=0).take(kept, axis=1).T
        self.weights = self.weights[:, kept]
        self.columns = self.columns[kept]
        self.alive = np.ones(kept.size, dtype=np.bool_)
