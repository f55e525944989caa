"""Layer least-squares problems: the quadratic of a layer, and the moments it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import blas

from surgery_ir.solvers.arrays import Array, Real

_CHUNK_BYTES: Final = 32 << 20  # float64 working copy of the rows in flight
_CHUNK_ROWS: Final = 16_384


@dataclass(frozen=True, eq=False)
class Quadratic:
    """E‖W x − y‖² as a quadratic in W, for a layer with ``d`` inputs and ``o`` outputs.

    Parameters
    ----------
    h : (d, d) float64
        E[x xᵀ], exactly symmetric.
    r : (d, o) float64
        E[x yᵀ].
    yy : (o,) float64
        E[y²] per output.
    """

    h: Array
    r: Array
    yy: Array

    def __post_init__(self) -> None:
        d, o = self.r.shape
        if self.h.shape != (d, d) or self.yy.shape != (o,):
            raise ValueError(f"h {self.h.shape}, r {self.r.shape}, yy {self.yy.shape}: not (d, d), (d, o), (o,)")

    @classmethod
    def from_inputs(cls, h: Array, weights: Real) -> Quadratic:
        """Return the problem whose targets are those of the dense layer itself, y = weights · x.

        Parameters
        ----------
        h : (d, d)
            E[x xᵀ] of the layer's inputs.
        weights : (o, d)
            The dense weights.
        """
        r = h @ weights.T.astype(np.float64)
        return cls(h, r, np.maximum(np.einsum("od,do->o", weights, r), 0.0))

    @property
    def inputs(self) -> int:
        """Number of input columns d."""
        return len(self.r)

    @property
    def outputs(self) -> int:
        """Number of output rows o."""
        return len(self.yy)

    def error(self, weights: Real) -> Array:
        """Return E(w·x − y)² of every output row, shape (o,), clipped at 0 where rounding went below it."""
        w: Array = weights.astype(np.float64, copy=False)
        error: Array = self.yy + np.einsum("od,od->o", w @ self.h - 2.0 * self.r.T, w)
        return np.maximum(error, 0.0)


class Moments:
    """Streaming first and second moments of a layer's inputs x and, optionally, its targets y.

    The sums are kept about the running mean and combined by the pairwise update of Chan, Golub & LeVeque (1979), so
    neither a large mean nor an untypical first batch cancels digits. Memory is one (d, d) and one (d, o) matrix plus a
    bounded working copy of the rows in flight, whatever the number of rows.

    Parameters
    ----------
    inputs : int
        Number of input columns d.
    outputs : int, default 0
        Number of target columns o; 0 accumulates x alone, for criteria that need only :meth:`second_moment` and for
        targets that the dense weights supply (:meth:`Quadratic.from_inputs`).
    """

    def __init__(self, inputs: int, outputs: int = 0) -> None:
        self.n = 0
        self._x_mean = np.zeros(inputs)
        self._y_mean = np.zeros(outputs)
        # Column-major with only the lower triangle of _xx maintained: the layout BLAS updates in place.
        self._xx = np.zeros((inputs, inputs), order="F")
        self._xy = np.zeros((inputs, outputs), order="F")
        self._yy = np.zeros(outputs)

    @property
    def inputs(self) -> int:
        """Number of input columns d."""
        return self._x_mean.size

    @property
    def outputs(self) -> int:
        """Number of target columns o."""
        return self._y_mean.size

    @property
    def x_mean(self) -> Array:
        """Mean of every input column, shape (d,)."""
        return self._x_mean.copy()

    @property
    def y_mean(self) -> Array:
        """Mean of every target column, shape (o,)."""
        return self._y_mean.copy()

    def add(self, x: Real, y: Real | None = None) -> None:
        """Add rows.

        Parameters
        ----------
        x : (n, d)
            Inputs, any float type.
        y : (n, o), optional
            Targets of the same rows; left out exactly when the accumulator has no outputs.

        Raises
        ------
        ValueError
            If the shapes do not fit or a value is NaN or infinite.
        """
        if y is None:
            y = np.empty((len(x), 0))
        if x.shape != (len(x), self.inputs) or y.shape != (len(x), self.outputs):
            raise ValueError(f"rows {x.shape}, {y.shape} do not fit {self.inputs} inputs, {self.outputs} outputs")
        step = min(_CHUNK_ROWS, max(1, _CHUNK_BYTES // (8 * max(1, self.inputs + self.outputs))))
        for start in range(0, len(x), step):
            self._add_chunk(x[start : start + step], y[start : start + step])

    def merge(self, other: Moments) -> None:
        """Add the rows that ``other`` has seen; ``other`` is left unchanged."""
        if (other.inputs, other.outputs) != (self.inputs, self.outputs):
            raise ValueError(
                f"moments of {other.inputs} inputs, {other.outputs} outputs do not fit {self.inputs}, {self.outputs}"
            )
        if other.n == 0:
            return
        self._xx += other._xx
        self._xy += other._xy
        self._yy += other._yy
        x_step, y_step = self._shift_means(other.n, other._x_mean, other._y_mean)
        self._update(x_step[None], y_step[None])

    def second_moment(self, centred: bool) -> Array:
        """Return E[x xᵀ], or the covariance of x if ``centred``; shape (d, d), exactly symmetric."""
        self._require_rows()
        h = np.tril(self._xx)
        h += np.tril(h, -1).T
        h /= self.n
        return h if centred else h + np.outer(self._x_mean, self._x_mean)

    def quadratic(self, centred: bool) -> Quadratic:
        """Return the layer problem.

        Parameters
        ----------
        centred : bool
            Whether the means are taken out first, E[(x − x̄)(y − ȳ)ᵀ]: right for a layer with a bias, which
            :meth:`intercept` then supplies.
        """
        if self.outputs == 0:
            raise ValueError("these moments hold no targets: use Quadratic.from_inputs with second_moment")
        h = self.second_moment(centred)
        r, yy = np.array(self._xy, order="C") / self.n, self._yy / self.n
        if not centred:
            r += np.outer(self._x_mean, self._y_mean)
            yy += self._y_mean**2
        return Quadratic(h, r, yy)

    def intercept(self, weights: Real) -> Array:
        """Return the best bias for ``weights`` (o, d): ȳ − W x̄, shape (o,)."""
        self._require_rows()
        return self._y_mean - weights.astype(np.float64, copy=False) @ self._x_mean

    def _require_rows(self) -> None:
        if self.n == 0:
            raise ValueError("no rows have been added")

    def _add_chunk(self, x: Real, y: Real) -> None:
        rows = len(x)
        # One row more than the data: it carries the step between the means into the same rank-k update.
        x_wide, y_wide = np.empty((rows + 1, self.inputs)), np.empty((rows + 1, self.outputs))
        x_wide[:rows], y_wide[:rows] = x, y
        x_mean, y_mean = x_wide[:rows].mean(axis=0), y_wide[:rows].mean(axis=0)
        if not (np.isfinite(x_mean).all() and np.isfinite(y_mean).all()):
            raise ValueError("the rows hold NaN or infinity")
        x_wide[:rows] -= x_mean
        y_wide[:rows] -= y_mean
        x_wide[rows], y_wide[rows] = self._shift_means(rows, x_mean, y_mean)
        self._update(x_wide, y_wide)

    def _shift_means(self, rows: int, x_mean: Array, y_mean: Array) -> tuple[Array, Array]:
        """Move the means by ``rows`` new rows; return the weighted steps whose outer products the sums still lack."""
        total = self.n + rows
        weight, share = np.sqrt(self.n * rows / total), rows / total
        x_step, y_step = x_mean - self._x_mean, y_mean - self._y_mean
        self._x_mean = self._x_mean + share * x_step
        self._y_mean = self._y_mean + share * y_step
        self.n = total
        return weight * x_step, weight * y_step

    def _update(self, x: Array, y: Array) -> None:
        """Add xᵀx, xᵀy and Σy² to the sums, in place; the transposes are the column-major views that BLAS takes."""
        if self.inputs:
            self._xx = blas.dsyrk(1.0, x.T, beta=1.0, c=self._xx, lower=1, overwrite_c=1)
        if self.inputs and self.outputs:
            self._xy = blas.dgemm(1.0, x.T, y.T, beta=1.0, c=self._xy, trans_b=1, overwrite_c=1)
        self._yy += np.einsum("no,no->o", y, y)
