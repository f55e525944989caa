"""Masked ridge regression of all rows of a wide layer at once, by preconditioned conjugate gradients."""

from __future__ import annotations

from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Mask, Real
from surgery_ir.solvers.quadratic import Quadratic

_SAFETY: Final = 0.1  # the delayed estimate may miss some of what is left
_DELAY: Final = 16
_MAX_ITERATIONS: Final = 400
_BLOCK_BYTES: Final = 64 << 20


def conjugate_gradients(
    q: Quadratic, prior: Array, damping: float, mask: Mask, start: Real, tolerance: float
) -> Array | None:
    """Minimise E‖W x − y‖² + damping · ‖W − prior‖² over the weights that ``mask`` (o, d) keeps.

    An iteration is one (rows, d) × (d, d) product over all rows that have not converged. A row has converged when the
    last few iterations together (the delayed estimate of the energy error, Strakoš & Tichý 2002) lowered its objective
    by less than a tenth of ``tolerance``, relative.

    Returns
    -------
    (o, d) float64, or None
        None if some row did not converge, which calls for the exact solution.
    """
    o, d = mask.shape
    step = max(1, _BLOCK_BYTES // (8 * d))
    weights = np.zeros((o, d))
    for first in range(0, o, step):
        rows = slice(first, first + step)
        part = Quadratic(q.h, q.r[:, rows], q.yy[rows])
        solved = _solve_rows(part, prior[rows], damping, mask[rows], start[rows], tolerance)
        if solved is None:
            return None
        weights[rows] = solved
    return weights


def _solve_rows(q: Quadratic, prior: Array, damping: float, mask: Mask, start: Real, tolerance: float) -> Array | None:
    diagonal = np.diagonal(q.h) + damping
    precondition = mask / np.where(diagonal > 0.0, diagonal, 1.0)
    weights = np.where(mask, start.astype(np.float64, copy=False), 0.0)
    gap = weights - prior
    objective = q.error(weights) + damping * np.einsum("od,od->o", gap, gap)
    floor = np.finfo(np.float64).eps * (q.yy + damping * np.einsum("od,od->o", prior, prior))

    active = np.arange(len(mask))
    w = weights
    residual = np.where(mask, q.r.T + damping * prior - (w @ q.h + damping * w), 0.0)
    direction = precondition * residual
    slope = np.einsum("od,od->o", residual, direction)
    gains = np.full((_DELAY, len(mask)), np.inf)
    for iteration in range(_MAX_ITERATIONS):
        image = np.where(mask, direction @ q.h + damping * direction, 0.0)
        curvature = np.einsum("od,od->o", direction, image)
        length = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0.0)
        w = w + length[:, None] * direction
        residual -= length[:, None] * image
        gains[iteration % _DELAY] = length * slope
        objective = objective - gains[iteration % _DELAY]
        z = precondition * residual
        new_slope = np.einsum("od,od->o", residual, z)
        turn = np.divide(new_slope, slope, out=np.zeros_like(slope), where=slope > 0.0)
        direction = z + turn[:, None] * direction
        slope = new_slope

        going = gains.sum(axis=0) > _SAFETY * tolerance * np.maximum(objective, 0.0) + floor
        if going.all():
            continue
        weights[active[~going]] = w[~going]
        if not going.any():
            return weights
        active, w, residual, direction = active[going], w[going], residual[going], direction[going]
        slope, objective, gains, floor = slope[going], objective[going], gains[:, going], floor[going]
        mask, precondition = mask[going], precondition[going]
    return None
