"""Rows of a layer's least-squares problem, taken from activations: im2col at sampled positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.layers import Geometry, Layer

__all__ = ["Sampler"]


@dataclass(frozen=True, slots=True)
class Sampler:
    """Picks positions of one batch, the same ones for inputs and targets.

    Parameters
    ----------
    layer
        The layer.
    positions
        How many positions of each sample to take; all where a sample has no more.
    """

    layer: Layer
    positions: int

    def stack(self, values: NDArray[Any]) -> NDArray[Any]:
        """Put an axis of samples ahead where a matrix product has none: the values are those of one sample then."""
        bare = 2 if self.layer.left else 1
        return values[np.newaxis] if self.layer.geometry is None and values.ndim <= bare else values

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the layer's output for an input of ``shape``."""
        if self.layer.geometry is not None:
            return (shape[0], self.layer.groups * self.layer.outputs, *_output_size(self.layer.geometry, shape[2:]))
        if self.layer.left:
            return (*shape[:-2], self.layer.outputs, shape[-1])
        return (*shape[:-1], self.layer.outputs)

    def pick(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.intp]:
        """Choose flat output positions within one sample, given the input's ``shape``: sorted, none twice."""
        total = int(np.prod(self._sites(shape)))
        if total <= self.positions:
            return np.arange(total)
        return np.sort(rng.choice(total, self.positions, replace=False))

    def inputs(self, x: NDArray[Any], picked: NDArray[np.intp]) -> NDArray[Any]:
        """Rows of inputs, shape (groups, samples · positions, inputs)."""
        if self.layer.geometry is None:
            rows = self._rows(x)[:, picked]
            return rows.reshape(1, -1, rows.shape[-1])
        patches = _patches(x, self.layer.geometry, picked)  # (samples, positions, kernel, channels)
        samples, positions, kernel, _ = patches.shape
        grouped = patches.reshape(samples, positions, kernel, self.layer.groups, self.layer.channels)
        return grouped.transpose(3, 0, 1, 2, 4).reshape(self.layer.groups, samples * positions, self.layer.inputs)

    def targets(self, y: NDArray[Any], picked: NDArray[np.intp]) -> NDArray[Any]:
        """Rows of outputs, shape (groups, samples · positions, outputs)."""
        if self.layer.geometry is None:
            rows = self._rows(y)[:, picked]
            return rows.reshape(1, -1, rows.shape[-1])
        flat = y.reshape(*y.shape[:2], -1)[:, :, picked].transpose(0, 2, 1)
        grouped = flat.reshape(-1, self.layer.groups, self.layer.outputs)
        return grouped.transpose(1, 0, 2)

    def _rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """Bring activations of a matrix product into the form (samples, positions, features)."""
        if self.layer.left:
            values = np.swapaxes(values, -1, -2)
        if values.ndim == 1:
            return values[None, None]
        return values.reshape(values.shape[0], -1, values.shape[-1])

    def _sites(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.layer.geometry is not None:
            return _output_size(self.layer.geometry, shape[2:])
        if self.layer.left:
            shape = (*shape[:-2], shape[-1], shape[-2])
        return shape[1:-1]


def _output_size(geometry: Geometry, size: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial size of a Conv's output."""
    rank = len(geometry.kernel)
    if geometry.auto_pad.startswith("SAME"):
        return tuple(-(-size[axis] // geometry.strides[axis]) for axis in range(rank))
    pads = geometry.pads if geometry.auto_pad == "NOTSET" else (0,) * (2 * rank)
    sizes = []
    for axis in range(rank):
        span = (geometry.kernel[axis] - 1) * geometry.dilations[axis] + 1
        sizes.append((size[axis] + pads[axis] + pads[axis + rank] - span) // geometry.strides[axis] + 1)
    return tuple(sizes)


def _patches(x: NDArray[Any], geometry: Geometry, picked: NDArray[np.intp]) -> NDArray[Any]:
    """Gather the patches under the picked output positions, shape (samples, positions, kernel, channels)."""
    rank = len(geometry.kernel)
    output = _output_size(geometry, x.shape[2:])
    begins = _begin_pads(geometry, x.shape[2:], output)
    where = np.unravel_index(picked, output)
    offsets = np.indices(geometry.kernel).reshape(rank, -1)
    samples, channels = x.shape[:2]
    gathered = np.zeros((len(picked), offsets.shape[1], samples, channels), x.dtype)
    inside = np.ones((len(picked), offsets.shape[1]), bool)
    index = []
    for axis in range(rank):
        site = where[axis][:, None] * geometry.strides[axis] + offsets[axis][None] * geometry.dilations[axis]
        site = site - begins[axis]
        inside &= (site >= 0) & (site < x.shape[2 + axis])
        index.append(site)
    last = np.moveaxis(x, (0, 1), (-2, -1))
    gathered[inside] = last[tuple(axis[inside] for axis in index)]
    return gathered.transpose(2, 0, 1, 3)


def _begin_pads(geometry: Geometry, size: tuple[int, ...], output: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(geometry.kernel)
    if geometry.auto_pad == "NOTSET":
        return geometry.pads[:rank]
    if geometry.auto_pad == "VALID":
        return (0,) * rank
    begins = []
    for axis in range(rank):
        span = (geometry.kernel[axis] - 1) * geometry.dilations[axis] + 1
        total = max(0, (output[axis] - 1) * geometry.strides[axis] + span - size[axis])
        begins.append(total // 2 if geometry.auto_pad == "SAME_UPPER" else total - total // 2)
    return tuple(begins)
