"""Magnitude pruning in the patterns that the kernels know."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Name: (outputs, inputs) of a block that lives or dies as a whole.
BLOCKS = {"unstructured": (1, 1), "4x1": (4, 1), "1x4": (1, 4)}
# Name: how many of four neighbouring inputs stay.
KEPT_OF_FOUR = {"1:4": 1, "2:4": 2}
PATTERNS = (*BLOCKS, *KEPT_OF_FOUR)


def prune(weights: NDArray[np.float32], sparsity: float, pattern: str = "unstructured") -> NDArray[np.float32]:
    """Weights with the smallest ones set to zero.

    Parameters
    ----------
    weights
        ``[outputs, inputs, ...]``; whatever follows are the taps of a window.
    sparsity
        Share of the blocks that become zero. The patterns n:4 fix it themselves.
    pattern
        One of `PATTERNS`: single weights, blocks along the outputs (4x1) or the inputs (1x4), or n of four inputs.
    """
    outputs, inputs = weights.shape[:2]
    cube = np.abs(weights).reshape(outputs, inputs, -1)
    if pattern in KEPT_OF_FOUR:
        kept = _strongest_of_four(cube, KEPT_OF_FOUR[pattern])
    else:
        rows, columns = BLOCKS[pattern]
        kept = _strongest_blocks(cube, sparsity, rows, columns)
    return np.where(kept.reshape(weights.shape), weights, np.float32(0))


def _strongest_blocks(cube: NDArray[np.float32], sparsity: float, rows: int, columns: int) -> NDArray[np.bool_]:
    outputs, inputs, taps = cube.shape
    padded = np.pad(cube, ((0, -outputs % rows), (0, -inputs % columns), (0, 0)))
    strength = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns, taps).sum(axis=(1, 3))
    order = np.argsort(strength, axis=None, kind="stable")
    kept = np.ones(strength.size, dtype=bool)
    kept[order[: round(sparsity * strength.size)]] = False
    spread = kept.reshape(strength.shape).repeat(rows, axis=0).repeat(columns, axis=1)
    return spread[:outputs, :inputs]


def _strongest_of_four(cube: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    outputs, inputs, taps = cube.shape
    padded = np.pad(cube, ((0, 0), (0, -inputs % 4), (0, 0)))
    quads = padded.reshape(outputs, -1, 4, taps)
    rank = np.argsort(np.argsort(-quads, axis=2, kind="stable"), axis=2)
    return (rank < count).reshape(padded.shape)[:, :inputs]
