"""What single weights are worth on the supports of a layer: the error that one lowers by coming, or raises by going."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
from scipy.linalg import lapack

from surgery_ir.solvers.arrays import Array, Indices, Mask
from surgery_ir.solvers.cholesky import factor, scale
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import solve

_CANDIDATES: Final = 3  # weights priced in earnest for each that is to come
_SPARE: Final = 3.0  # how many times its fair part of what goes a row may lose in one step
_LEAST_SPARE: Final = 16
_INDEPENDENT: Final = 1e-10  # least share of a column's variance that a support leaves, for its gain to count
_PAIRED: Final = 64  # columns of a row that are tried in place of each of its weights
_DRAFT_STEPS: Final = 4
_FIT_STEPS: Final = 10


def smallest(values: Array, count: int) -> Indices:
    """Return the flat indices of the ``count`` least finite values (fewer if there are not as many), ascending."""
    finite = np.flatnonzero(np.isfinite(values))
    if count < finite.size:
        kept = np.argpartition(values.flat[finite], count - 1)[:count] if count else np.zeros(0, dtype=np.intp)
        finite = np.sort(finite[kept])
    return np.asarray(finite[np.argsort(values.flat[finite], kind="stable")])


class Prices(Protocol):
    """Prices the weights of a layer whose Hessian includes the ridge, and solves it on supports (o, d)."""

    q: Quadratic

    def fit(self, rows: Indices, mask: Mask, start: Array) -> Array:
        """Return the best weights of the given rows, (rows, d), on their supports; ``start`` (o, d) is a guess."""
        ...

    def coming(self, gradient: Array, mask: Mask, candidates: Mask, count: int) -> Indices:
        """Return the flat indices of at most ``count`` candidates that lower the error, the most valuable first."""
        ...

    def going(self, mask: Mask, count: int, start: Array) -> Indices:
        """Return the flat indices of at most ``count`` weights of ``mask``, at least 1, the least valuable first."""
        ...


class Exact:
    """Prices after compensation by all other weights of the row, from Cholesky factors of every row's support.

    A weight that comes gains Γ_j² / (H_jj − H_jS H_SS⁻¹ H_Sj). Weights that go are costed one after another within
    their row, as w_Mᵀ (G_MM)⁻¹ w_M with G = H_SS⁻¹ accrues (Hassibi & Stork 1992), so that of two weights that stand
    in for each other only one is cheap. Their order within a row is that of w_p² / G_pp before any has gone.

    Parameters
    ----------
    q : Quadratic
        The layer, with the ridge in it.
    """

    def __init__(self, q: Quadratic) -> None:
        self.q = q
        self._unit = scale(q.h)

    def fit(self, rows: Indices, mask: Mask, start: Array) -> Array:
        """See :meth:`Prices.fit`."""
        part = Quadratic(self.q.h, self.q.r[:, rows], self.q.yy[rows])
        return solve(part, np.zeros((rows.size, self.q.inputs)), 0.0, mask[rows], start=start[rows]).weights

    def coming(self, gradient: Array, mask: Mask, candidates: Mask, count: int) -> Indices:
        """See :meth:`Prices.coming`."""
        chosen = smallest(-_gains(gradient, np.diagonal(self.q.h), candidates), _CANDIDATES * count)
        losses = np.full(mask.shape, np.inf)
        for row, own in _by_row(chosen, self.q.inputs):
            support = np.flatnonzero(mask[row])
            free = np.diagonal(self.q.h)[own]
            if support.size:
                lower = factor(self.q.h, support, 0.0, self._unit).lower
                explained, _ = lapack.dtrtrs(lower, self.q.h[np.ix_(support, own)], lower=1)
                free = np.maximum(free - np.einsum("kc,kc->c", explained, explained), _INDEPENDENT * free)
            losses[row, own] = -(gradient[row, own] ** 2) / free
        return smallest(losses, count)

    def going(self, mask: Mask, count: int, start: Array) -> Indices:
        """See :meth:`Prices.going`."""
        spare = _SPARE * count / max(1, int(np.count_nonzero(mask)))
        units, keys = [np.zeros(0, dtype=np.intp)], [np.zeros(0)]
        for row in np.flatnonzero(mask.any(axis=1)).tolist():
            support = np.flatnonzero(mask[row])
            weights, inverse = self._solve(row, support)
            size = min(support.size, max(_LEAST_SPARE, round(spare * support.size)))
            order = smallest(weights**2 / np.diagonal(inverse), size)
            units.append(row * self.q.inputs + support[order])
            keys.append(np.maximum.accumulate(_accrued(inverse, weights, order)))
        return np.asarray(np.concatenate(units)[np.argsort(np.concatenate(keys), kind="stable")[:count]])

    def swapped(self, rows: Indices, gradient: Array, mask: Mask, candidates: Mask) -> Mask:
        """Return ``mask`` after the one swap within each of the rows that lowers its error most, if there is one.

        Without weight p, column j has the slope Γ_j + w_p T_jp / G_pp and the free variance f_j + T_jp² / G_pp, where
        T = H_:S G and f is what S leaves of the column's variance.
        """
        swapped = mask.copy()
        gains = _gains(gradient[rows], np.diagonal(self.q.h), candidates[rows])
        for row, own_gains in zip(rows.tolist(), gains, strict=True):
            support, own = np.flatnonzero(mask[row]), smallest(-own_gains, _PAIRED)
            if not (support.size and own.size):
                continue
            weights, inverse = self._solve(row, support)
            inverse = np.tril(inverse) + np.tril(inverse, -1).T
            cross = self.q.h[np.ix_(own, support)]
            carried = cross @ inverse
            free = np.diagonal(self.q.h)[own]
            free = np.maximum(free - np.einsum("cs,cs->c", carried, cross), _INDEPENDENT * free)
            pivots = np.diagonal(inverse)
            slopes = gradient[row, own][:, None] + carried * (weights / pivots)
            falls = slopes**2 / (free[:, None] + carried**2 / pivots) - weights**2 / pivots
            new, old = np.unravel_index(int(np.argmax(falls)), falls.shape)
            if falls[new, old] > 0.0:
                swapped[row, support[old]], swapped[row, own[new]] = False, True
        return swapped

    def _solve(self, row: int, support: Indices) -> tuple[Array, Array]:
        chol = factor(self.q.h, support, 0.0, self._unit)
        weights = chol.solve(self.q.r[support, row][:, None]).ravel()
        return weights, chol.inverse()


class Sampled:
    """Prices whose compensation is estimated column by column, for layers too large for a factor per row.

    What other weights leave of a column's variance, 1 / [H_SS⁻¹]_pp, is averaged over those of some rows that keep it;
    a column that none of them keeps is given the average share of its own variance.

    Parameters
    ----------
    q : Quadratic
        The layer, with the ridge in it.
    mask : (o, d) bool
        Where the averages are taken.
    rows : (n,)
        The rows of the sample.
    """

    def __init__(self, q: Quadratic, mask: Mask, rows: Indices) -> None:
        self.q = q
        diagonal = np.diagonal(q.h)
        total, kept = np.zeros(q.inputs), np.zeros(q.inputs)
        for row in rows.tolist():
            support = np.flatnonzero(mask[row])
            if support.size:
                inverse = factor(q.h, support, 0.0, scale(q.h)).inverse()
                total[support] += 1.0 / np.diagonal(inverse)
                kept[support] += 1.0
        share = total.sum() / (kept @ diagonal) if kept.any() else 1.0
        self._free = np.where(kept > 0.0, total / np.maximum(kept, 1.0), share * diagonal)

    def fit(self, rows: Indices, mask: Mask, start: Array) -> Array:
        """See :meth:`Prices.fit`."""
        part = Quadratic(self.q.h, self.q.r[:, rows], self.q.yy[rows])
        return _relaxed(part, mask[rows], start[rows], _FIT_STEPS)

    def coming(self, gradient: Array, mask: Mask, candidates: Mask, count: int) -> Indices:
        """See :meth:`Prices.coming`."""
        return smallest(-_gains(gradient, self._free, candidates), count)

    def going(self, mask: Mask, count: int, start: Array) -> Indices:
        """See :meth:`Prices.going`."""
        weights = _relaxed(self.q, mask, start, _DRAFT_STEPS)
        return smallest(np.where(mask, weights**2 * self._free, np.inf), count)


def _accrued(inverse: Array, weights: Array, order: Indices) -> Array:
    """Return what each weight costs when it goes after those before it in ``order``; ``inverse`` is a lower half."""
    first, second = order[:, None], order[None, :]
    lower, info = lapack.dpotrf(inverse[np.maximum(first, second), np.minimum(first, second)], lower=1)
    if info != 0:
        raise np.linalg.LinAlgError("the inverse Hessian is not positive definite")
    scaled, _ = lapack.dtrtrs(lower, weights[order], lower=1)
    return np.asarray(scaled.ravel() ** 2)


def _gains(gradient: Array, free: Array, candidates: Mask) -> Array:
    """Return Γ_j² / f_j of the candidates with a slope, −inf elsewhere; (o, d)."""
    gains = np.full(gradient.shape, -np.inf)
    np.divide(gradient**2, free, out=gains, where=candidates & (free > 0.0) & (gradient != 0.0))
    return gains


def _by_row(flat: Indices, width: int) -> Iterator[tuple[int, Indices]]:
    """Yield every row that occurs in flat indices, with its columns."""
    rows, columns = np.divmod(np.sort(flat), width)
    distinct, first = np.unique(rows, return_index=True)
    yield from zip(distinct.tolist(), np.split(columns, first[1:]), strict=bool(flat.size))


def _relaxed(q: Quadratic, mask: Mask, start: Array, steps: int) -> Array:
    """Return ``start`` after some steps of conjugate gradients on its support, which never raise a row's error."""
    scaling = np.divide(mask, np.diagonal(q.h), out=np.zeros(mask.shape), where=mask & (np.diagonal(q.h) > 0.0))
    weights = np.where(mask, start, 0.0)
    residual = np.where(mask, q.r.T - weights @ q.h, 0.0)
    direction = scaling * residual
    slope = np.einsum("od,od->o", residual, direction)
    for _ in range(steps):
        image = np.where(mask, direction @ q.h, 0.0)
        curvature = np.einsum("od,od->o", direction, image)
        length = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0.0)[:, None]
        weights += length * direction
        residual -= length * image
        scaled = scaling * residual
        before, slope = slope, np.einsum("od,od->o", residual, scaled)
        direction = scaled + np.divide(slope, before, out=np.zeros_like(slope), where=before > 0.0)[:, None] * direction
    return weights
