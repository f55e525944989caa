"""Optimal brain surgery on a layer: one elimination order that serves every sparsity."""

from __future__ import annotations

from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Mask, Real
from surgery_ir.solvers.patterns import Block, Pattern
from surgery_ir.solvers.quadratic import Quadratic
from surgery_ir.solvers.ridge import check
from surgery_ir.solvers.tracing import Competition

_LEAST_RIDGE: Final = 1e-6  # bounds the condition number of what is inverted, and with it the drift of the updates
_TINY: Final = float(np.finfo(np.float64).tiny)


def elimination_scores(
    q: Quadratic,
    weights: Real,
    pattern: Pattern,
    ridge: float,
    *,
    allowed: Mask | None = None,
    fraction: float = 0.05,
    exact_flops: float = 4e11,
    columns: int = 256,
) -> Array:
    """Score every weight by the layer's error at the moment it has to go.

    Greedy OBS (Hassibi & Stork 1992; ExactOBS, Frantar & Alistarh 2022) starting from the ridge solution: the unit of
    least w_p² / [H_SS⁻¹]_pp is dropped, the rest compensates, and so on down to nothing. The rows of a layer do not
    interact, so each is followed on its own (the rows of a block together), in batches whose updates are matrix
    products; the traces are then merged by cost, as if all rows had competed at every step.

    A layer for which that exceeds ``exact_flops`` is thinned in rounds first, by column blocks as SparseGPT (Frantar &
    Alistarh 2023) has them: units are priced within blocks of ``columns``, the cheapest quarter of the layer's go, and
    all columns are re-solved, which carries the compensation across blocks; until the exact way is affordable. Memory
    stays at a few (d, d) and (o, d) matrices.

    Parameters
    ----------
    q : Quadratic
        The layer, ``o`` outputs and ``d`` inputs. ``Quadratic.from_inputs(h, weights)`` makes it the classic OBS that
        starts from the dense weights.
    weights : (o, d)
        Prior of the ridge.
    pattern : Pattern
        What is dropped together: whole blocks; for N:M, groups that are down to N are spared until all are.
    ridge : float
        As in :func:`surgery_ir.solvers.ridge.solve`, but at least 1e-6.
    allowed : (o, d) bool, optional
        Weights that exist; the others count as dropped before all else. Blocks must be allowed whole.
    fraction : float, default 0.05
        Share of what is left that is dropped between two looks at the saliencies; 0 is exact greedy.
    exact_flops : float, default 4e11
        Above it, rounds of column blocks.
    columns : int, default 256
        Width of the column blocks.

    Returns
    -------
    (o, d) float64
        Cumulative rise of the layer's (ridge) error, relative to Σ E[y²], once the weight and all of lower score are
        gone. Strictly increasing along the elimination order (equal only within a block), so
        ``pattern.select(scores, ratio)`` serves every ratio and thresholds are comparable between layers.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or ``allowed`` cuts through a block.
    """
    if not fraction >= 0.0 or columns < 1:
        raise ValueError(f"fraction {fraction} and columns {columns} must be at least 0 and 1")
    check(q, weights, ridge, allowed)
    allowed = np.ones(weights.shape, dtype=np.bool_) if allowed is None else allowed
    layer = Competition(q, weights.astype(np.float64), max(ridge, _LEAST_RIDGE), pattern, fraction)
    alive = _alive(allowed, layer.block)

    order = [np.flatnonzero(~alive[:, :: layer.block.cols])]
    rises = [np.zeros(order[0].size)]
    reached = 0.0
    if layer.flops(alive) > exact_flops:
        fitted, origin = layer.fit(alive, layer.prior)
        while layer.flops(alive) > exact_flops:
            trace = layer.thin(alive, fitted, columns)
            alive = layer.without(alive, trace.units)
            fitted, objective = layer.fit(alive, fitted)
            # The blocks' own costs ignore one another: they only spread the rise that the solution shows.
            step = max(objective - origin - reached, 0.0) / max(float(trace.costs.sum()), _TINY)
            order.append(trace.units)
            rises.append(reached + step * np.cumsum(trace.costs))
            reached = max(objective - origin, reached)
    rest = layer.finish(alive)
    order.append(rest.units)
    rises.append(reached + np.cumsum(rest.costs))

    rise = np.concatenate(rises) / max(float(q.yy.sum()), _TINY)
    grid = np.empty(rise.size)
    grid[np.concatenate(order)] = _strictly_increasing(rise)
    return np.asarray(layer.block.spread(grid.reshape(len(alive), -1), weights.shape))


def _alive(allowed: Mask, block: Block) -> Mask:
    """Return the mask of row groups (ceil(o / rows), d), all of whose blocks are allowed whole or not at all."""
    whole = block.sums(allowed.astype(np.float64)) == block.sums(np.ones(allowed.shape))
    if not np.array_equal(block.spread(whole, allowed.shape), allowed):
        raise ValueError(f"the allowed weights are no whole {block} blocks")
    return np.asarray(allowed[:: block.rows])


def _strictly_increasing(rise: Array) -> Array:
    """Lift ties (inputs that never fire cost nothing) just enough for a sort to find the order again."""
    slope = 16.0 * np.finfo(np.float64).eps * max(1.0, float(rise.max(initial=0.0))) * np.arange(rise.size)
    return np.asarray(np.maximum.accumulate(rise - slope) + slope)
