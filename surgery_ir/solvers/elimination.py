"""The order in which rows that share a support lose its columns, under a pattern, and what each loss costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from surgery_ir.solvers.arrays import Array, Indices
from surgery_ir.solvers.downdate import Support
from surgery_ir.solvers.patterns import NM, Block, Pattern

_LARGEST_BATCH: Final = 32
_TAIL_BATCHES: Final = 256


@dataclass(frozen=True, eq=False)
class Trace:
    """Units (single columns, or the column ranges of blocks) in the order they were dropped, and each one's cost."""

    units: Indices
    costs: Array


def eliminate(support: Support, pattern: Pattern, fraction: float, depth: float = 1.0) -> Trace:
    """Drop the units of a support from the least to the most salient; uses the support up.

    A batch of units is chosen by the saliencies of the moment and dropped in their order; the costs are exact for that
    order, only the order itself may be stale within a batch. N:M groups that are down to N wait until every group is.

    Parameters
    ----------
    support : Support
    pattern : Pattern
        An NM or Block pattern counts groups and units from the layer's column 0.
    fraction : float
        Size of a batch relative to the units left, up to 32 columns; 0 drops one at a time, which is exact greedy OBS,
        and 1 drops all that ``depth`` asks for at once.
    depth : float, default 1
        Stop when this share of the units is dropped.
    """
    width = pattern.cols if isinstance(pattern, Block) else 1
    total = np.unique(support.columns // width).size
    target = total if depth >= 1.0 else max(1, round(depth * total))
    smallest = -(-total // _TAIL_BATCHES) if fraction > 0.0 else 1
    largest = max(1, _LARGEST_BATCH // width) if fraction < 1.0 else target
    order: list[Indices] = []
    costs: list[Array] = []
    dropped = 0
    while dropped < target:
        count = min(target - dropped, max(smallest, min(largest, round(fraction * (total - dropped)))))
        if width == 1:
            positions = _cheapest_columns(support, pattern, count)
            count = positions.size
        else:
            positions = _cheapest_blocks(support, width, count)
        order.append(support.columns[positions])
        dropped += count
        costs.append(support.drop(positions, compensate=dropped < target))
    units = np.concatenate(order) // width
    starts = np.flatnonzero(np.diff(units, prepend=-1))
    return Trace(units[starts], np.add.reduceat(np.concatenate(costs), starts))


def _cheapest_columns(support: Support, pattern: Pattern, count: int) -> Indices:
    saliency = support.saliency()
    if isinstance(pattern, NM):
        surplus = _surplus(support, saliency, pattern)
        if surplus.any():
            saliency[~surplus] = np.inf
            count = min(count, int(np.count_nonzero(surplus)))
    cheapest = np.argpartition(saliency, count - 1)[:count]
    return np.asarray(cheapest[np.lexsort((cheapest, saliency[cheapest]))])


def _surplus(support: Support, saliency: Array, pattern: NM) -> Indices:
    """Return True at the stored columns that their group can lose and still have ``n``."""
    first = int(support.columns[0]) // pattern.m * pattern.m
    places = support.columns - first
    everywhere = np.full((1, -(-(int(places[-1]) + 1) // pattern.m) * pattern.m), np.inf)
    everywhere[0, places] = saliency
    alive = np.isfinite(everywhere).reshape(-1, pattern.m).sum(axis=1)
    surplus = pattern.ranks(everywhere, descending=False)[0] < (alive - pattern.n).repeat(pattern.m)
    return np.asarray(surplus[places])


def _cheapest_blocks(support: Support, width: int, count: int) -> Indices:
    alive = np.flatnonzero(support.alive)
    starts = np.flatnonzero(np.diff(support.columns[alive] // width, prepend=-1))
    sizes = np.diff(starts, append=alive.size)
    inside = np.arange(width) < sizes[:, None]
    groups = alive[np.minimum(starts[:, None] + np.arange(width), alive.size - 1)]
    # A ragged last block is padded with weights of zero, uncorrelated with the rest, which cost nothing.
    square = np.where(inside[:, :, None] & inside[:, None, :], support.submatrices(groups), np.eye(width))
    weights = np.where(inside[:, :, None], support.weights.T[groups], 0.0)
    saliency = np.einsum("ucr,ucr->u", weights, np.linalg.solve(square, weights))
    cheapest = np.argsort(saliency / sizes, kind="stable")[:count]
    return np.asarray(groups[cheapest][inside[cheapest]])
