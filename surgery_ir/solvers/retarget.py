"""The layer problem for the same inputs and other targets: only E[x yᵀ] is accumulated anew."""

from __future__ import annotations

import numpy as np

from surgery_ir.solvers.arrays import Array, Real
from surgery_ir.solvers.quadratic import Moments, Quadratic

__all__ = ["Retargeted"]


class Retargeted:
    """Moments of the rows that ``moments`` has seen, with targets that are given anew.

    The mean of the inputs is known already, so products are taken about it from the start and nothing cancels.

    Parameters
    ----------
    moments : Moments
        The accumulator whose input moments are kept; every row of its must be added once.
    """

    def __init__(self, moments: Moments) -> None:
        self._moments = moments
        self._x_mean = moments.x_mean
        self._xy = np.zeros((moments.inputs, moments.outputs))
        self._y = np.zeros(moments.outputs)
        self._yy = np.zeros(moments.outputs)
        self.n = 0

    def add(self, x: Real, y: Real) -> None:
        """Add rows ``x`` (n, d) with their new targets ``y`` (n, o)."""
        targets = y.astype(np.float64)
        self._xy += (x.astype(np.float64) - self._x_mean).T @ targets
        self._y += targets.sum(axis=0)
        self._yy += np.einsum("no,no->o", targets, targets)
        self.n += len(x)

    def quadratic(self, centred: bool) -> Quadratic:
        """Return the layer problem, see :meth:`Moments.quadratic`.

        Raises
        ------
        ValueError
            The number of rows is not that of the moments.
        """
        if self.n != self._moments.n:
            raise ValueError(f"{self.n} rows were given new targets, the moments have {self._moments.n}")
        r, y_mean, yy = self._xy / self.n, self._y / self.n, self._yy / self.n
        if centred:
            yy = np.maximum(yy - y_mean**2, 0.0)
        else:
            r = r + np.outer(self._x_mean, y_mean)
        return Quadratic(self._moments.second_moment(centred), r, yy)

    def intercept(self, weights: Real) -> Array:
        """Return the best bias for ``weights`` (o, d): ȳ − W x̄, shape (o,)."""
        return np.asarray(self._y / self.n - weights.astype(np.float64, copy=False) @ self._x_mean)
