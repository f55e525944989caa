"""Select the weights that stay by their scores, in one layer or over several that compete."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surgery_ir.solvers.patterns import Block, Pattern, Unstructured

__all__ = ["select_jointly"]

LARGEST = 0.99
"""Share of a layer that competition can remove, so that no layer is cut off."""


def select_jointly(
    pattern: Unstructured | Block, layers: Sequence[NDArray[np.float32]], ratio: float
) -> list[NDArray[np.bool_]]:
    """Drop ``ratio`` of the units of all ``layers`` together, those of the lowest scores.

    Parameters
    ----------
    pattern
        What a unit is. Blocks divide the outputs and inputs of every layer.
    layers : arrays (groups, outputs, inputs)
        Higher is kept longer. Where there are several layers, each keeps at least one unit, and the best hundredth.
    ratio
        Fraction of units to drop; their number is exact.

    Returns
    -------
    list of (groups, outputs, inputs) bool
        True where the weight is kept.
    """
    rows = pattern.rows if isinstance(pattern, Block) else 1
    units = rows * (pattern.cols if isinstance(pattern, Block) else 1)
    strips = [_strip(layer, rows) for layer in layers]
    if len(strips) > 1:
        strips = [_spare_best(pattern, strip, strip.size // units) for strip in strips]
    keep = pattern.select(np.concatenate(strips, axis=1), ratio)
    ends = np.cumsum([strip.shape[1] for strip in strips])
    parts = np.split(keep, ends[:-1], axis=1)
    return [_unstrip(part, layer.shape) for part, layer in zip(parts, layers, strict=True)]


def _strip(layer: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Lay the blocks of all groups and outputs side by side: (rows, size / rows)."""
    groups, outputs, inputs = layer.shape
    return layer.reshape(groups, outputs // rows, rows, inputs).transpose(2, 0, 1, 3).reshape(rows, -1)


def _unstrip(strip: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Inverse of :func:`_strip`."""
    groups, outputs, inputs = shape
    rows = len(strip)
    return strip.reshape(rows, groups, outputs // rows, inputs).transpose(1, 2, 0, 3).reshape(shape)


def _spare_best(pattern: Pattern, strip: NDArray[np.float32], units: int) -> NDArray[np.float32]:
    spared = pattern.select(strip, min(LARGEST, 1 - 1 / units))
    return np.where(spared, np.float32(np.inf), strip)
