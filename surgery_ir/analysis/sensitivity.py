"""What an error of one value costs at the network's outputs, found by adding noise to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgery_ir.analysis.judge import Judge

__all__ = ["sensitivity"]

Array = NDArray[Any]


def sensitivity(judge: Judge, name: str, axis: int, relative_error: float, values: Iterable[Array], seed: int) -> float:
    """Give the divergence at the outputs per unit of relative squared error of a value.

    Independent Gaussian noise is added to the dense value, in every channel with the same share of its mean square,
    and what follows is run once. For small errors the divergence is proportional to the squared error, so the result
    hardly depends on ``relative_error``. ZeroQ (Cai et al., CVPR 2020) measures layers in the same way by the noise
    of quantisation. The error that a pass makes is not independent noise and may cost more or less: this ranks
    values, it does not predict.

    Parameters
    ----------
    judge
        Knows the dense model and the samples.
    name
        The value.
    axis
        Its axis of channels.
    relative_error
        Noise variance over mean square, the same for every channel. 0.01 to 0.1 lies well above the rounding of
        float32; larger errors see how the network saturates.
    values
        The value itself in the dense model, batch by batch as :meth:`~surgery_ir.analysis.judge.Judge.patched` takes
        it. All batches are held at once.
    seed
        Seed of the noise.

    Returns
    -------
    float
        Infinite where an output is not finite any more.

    Raises
    ------
    ValueError
        ``relative_error`` is not positive and finite, or there are more or fewer batches than the samples have.
    ModelError, BackendError
        See :meth:`~surgery_ir.analysis.judge.Judge.patched`.
    """
    if not 0.0 < relative_error < math.inf:
        raise ValueError(f"the relative error must be positive and finite, not {relative_error}")
    arrays = list(values)
    noise = np.sqrt(relative_error * _mean_squares(arrays, axis))
    return judge.patched(name, _disturbed(arrays, axis, noise, seed)) / relative_error


def _mean_squares(arrays: Sequence[Array], axis: int) -> NDArray[np.float64]:
    """Mean square of every channel, (channels,)."""
    total: Any = 0.0
    count = 0
    for array in arrays:
        rows = np.moveaxis(array, axis, 0)
        total = total + np.square(rows.reshape(len(rows), -1), dtype=np.float64).sum(axis=1)
        count += array.size // max(len(rows), 1)
    return np.asarray(total / max(count, 1), np.float64)


def _disturbed(arrays: Sequence[Array], axis: int, deviation: NDArray[np.float64], seed: int) -> Iterator[Array]:
    """Yield the arrays with noise of a standard deviation per channel."""
    rng = np.random.default_rng(seed)
    for array in arrays:
        shape = [1] * array.ndim
        shape[axis] = -1
        noise = rng.standard_normal(array.shape, np.float32) * deviation.astype(np.float32).reshape(shape)
        yield (array + noise).astype(array.dtype)
